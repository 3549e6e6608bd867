//! Saving what a guest changed, and restoring it in a remapper that was built anew.
//!
//! Each structure has two sides. What was built never changes and goes into a fingerprint (`identify`, which names every
//! field); what a guest changes is saved as words. All else follows from the two.

use thiserror::Error;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Remapper;
use super::touched::Touched;
use crate::address::{Guest, Span};

/// Spells the beginning of a block.
const MAGIC: [u8; 8] = *b"pciremap";
/// Changes with the layout of blocks.
const VERSION: u32 = 1;

/// What a block starts with. After it come the words of each function.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    /// Of the whole block, in bytes.
    length: U32,
    /// Of what was built.
    fingerprint: U64,
    /// Of all the rest.
    checksum: U64,
}

/// The state was not saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the block has {room} bytes, and {needed} are needed")]
pub struct SaveError {
    /// Length of the block, in bytes.
    pub room: usize,
    /// [`Remapper::saved_len`], in bytes.
    pub needed: usize,
}

/// The state was not restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The block ends before what it says is its length, or before it says one.
    #[error("the block is cut off")]
    TooShort,
    /// It does not start as a block does.
    #[error("this is no saved state")]
    NotABlock,
    /// Another version of this crate saved it, in another layout.
    #[error("the state is of version {found}, and this is version {VERSION}")]
    Version {
        /// The version of the block.
        found: u32,
    },
    /// It was saved by a remapper of another plan or machine, or one with other rules for them.
    #[error("the state is of another plan or machine")]
    OtherPlan,
    /// It is not as it was saved.
    #[error("the state is damaged")]
    Damaged,
}

impl<const F: usize> Remapper<F> {
    /// Length of a saved state, in bytes. It is the same for all remappers of one plan.
    pub fn saved_len(&self) -> usize {
        size_of::<Header>().saturating_add(self.words().count().saturating_mul(size_of::<U32>()))
    }

    /// Saves what the guest changed, for a remapper built from the same plan and topology: on the host a guest migrates
    /// to, or by the hypervisor that comes after this one. Returns [`saved_len`](Self::saved_len), which is how much of
    /// the block is used.
    ///
    /// It holds the registers that are kept for the guest, power states, and which [replays](super::Replay) are due.
    /// Hardware's own registers it does not hold, nor what was applied to the second stage, nor CONFIG_ADDRESS of
    /// [`ConfigAddress`](crate::mechanism::ConfigAddress), which a read of CF8h tells.
    ///
    /// # Errors
    /// [`SaveError`] when the block is too small.
    pub fn save(&self, block: &mut [u8]) -> Result<usize, SaveError> {
        let needed = self.saved_len();
        let error = SaveError { room: block.len(), needed };
        let block = block.get_mut(..needed).ok_or(error)?;
        let (header, words) = Header::mut_from_prefix(block).map_err(|_| error)?;
        let slots = <[U32]>::mut_from_bytes(words).map_err(|_| error)?;
        for (slot, word) in slots.iter_mut().zip(self.words()) {
            slot.set(word);
        }
        *header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            length: u32::try_from(needed).map_err(|_| error)?.into(),
            fingerprint: self.fingerprint().into(),
            checksum: U64::ZERO,
        };
        header.checksum = header.checksum_with(words).into();
        Ok(needed)
    }

    /// Takes over what [`save`](Self::save) saved. Bytes after the state are ignored. After an error nothing has changed.
    ///
    /// **Apply what is [pending](Self::pending) before the guest runs.** The second stage stays what this remapper was
    /// told it is. So after a build everything is due; in a remapper at work, which goes back to an earlier state, the
    /// difference.
    ///
    /// The topology has to be that of the first start: a scan of a machine at work finds what the guest wrote, and that is
    /// [another machine](RestoreError::OtherPlan). [`Function::from_bytes`](crate::topology::Function::from_bytes) makes
    /// it anew from bytes that were kept. [Preparations](Self::preparation) are for hardware that has not had them yet.
    ///
    /// # Errors
    /// Each of [`RestoreError`]. Whatever the block says, no register becomes what a guest could not have made it.
    pub fn restore(&mut self, block: &[u8]) -> Result<(), RestoreError> {
        let (header, _) = Header::ref_from_prefix(block).map_err(|_| RestoreError::TooShort)?;
        if header.magic != MAGIC {
            return Err(RestoreError::NotABlock);
        }
        if header.version != VERSION {
            return Err(RestoreError::Version { found: header.version.get() });
        }
        let length = usize::try_from(header.length.get()).map_err(|_| RestoreError::TooShort)?;
        let block = block.get(..length).ok_or(RestoreError::TooShort)?;
        let words = block.get(size_of::<Header>()..).ok_or(RestoreError::Damaged)?;
        if header.checksum != header.checksum_with(words) {
            return Err(RestoreError::Damaged);
        }
        if header.fingerprint != self.fingerprint() {
            return Err(RestoreError::OtherPlan);
        }
        let words = <[U32]>::ref_from_bytes(words).map_err(|_| RestoreError::Damaged)?;
        let mut unread = words.iter().map(|word| word.get());
        let is_sound = self.functions.iter().all(|touched| touched.accepts(&mut unread));
        if !is_sound || unread.next().is_some() {
            return Err(RestoreError::Damaged);
        }
        let mut words = words.iter().map(|word| word.get());
        for touched in &mut self.functions {
            touched.take_words(&mut words);
        }
        self.forgetful = self.functions.iter().filter(|touched| touched.has_forgotten).count();
        if !self.roots.is_empty() {
            self.renumber();
        }
        for index in 0..self.functions.len() {
            self.settle(index);
        }
        for index in 0..self.functions.len() {
            self.settle_virtual_functions(index);
        }
        Ok(())
    }

    fn words(&self) -> impl Iterator<Item = u32> {
        self.functions.iter().flat_map(Touched::words)
    }

    /// What was built: the same for every remapper of one plan and topology.
    fn fingerprint(&self) -> u64 {
        let Self {
            index,
            functions,
            reserved,
            roots,
            followed,
            // They follow from the functions' state.
            areas: _,
            pending: _,
            forgetful: _,
            // They only matter while a write is decided.
            resets: _,
            ends_reset: _,
            // They tell what came to this remapper.
            events: _,
        } = self;
        let mut fingerprint = Fingerprint::new();
        index.identify(&mut fingerprint);
        fingerprint.add_count(functions.len());
        for touched in functions {
            touched.identify(&mut fingerprint);
        }
        fingerprint.add_count(reserved.len());
        for Guest(span) in reserved {
            fingerprint.add_span(*span);
        }
        fingerprint.add_bytes(roots);
        fingerprint.add_count(followed.len());
        for followed in followed {
            followed.identify(&mut fingerprint);
        }
        fingerprint.0
    }
}

impl Header {
    /// The checksum of a block with this header, whatever it has for one.
    fn checksum_with(&self, words: &[u8]) -> u64 {
        let mut checksum = Fingerprint::new();
        checksum.add_bytes(Self { checksum: U64::ZERO, ..*self }.as_bytes());
        checksum.add_bytes(words);
        checksum.0
    }
}

/// FNV-1a of 64 bits. A changed byte always shows; it is no protection from somebody who means to deceive.
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(super) fn add_bytes(&mut self, bytes: &[u8]) {
        self.add_count(bytes.len());
        for byte in bytes {
            self.add_byte(*byte);
        }
    }

    pub(super) fn add(&mut self, value: impl Into<u64>) {
        for byte in value.into().to_le_bytes() {
            self.add_byte(byte);
        }
    }

    pub(super) fn add_byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }

    pub(super) fn add_count(&mut self, count: usize) {
        self.add(u64::try_from(count).unwrap_or(u64::MAX));
    }

    pub(super) fn add_span(&mut self, span: Span) {
        self.add(span.start());
        self.add(span.len());
    }
}
