//! What all tables share (5.2.6): a header with length and checksum.

use core::fmt;

use thiserror::Error;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::record::{Length, Record, Row};
use crate::address::{Bdf, Guest, Host};

/// The four letters that say what a table is.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct Signature(pub [u8; 4]);

#[expect(missing_docs, reason = "the names are the specification's")]
impl Signature {
    pub const DMAR: Self = Self(*b"DMAR");
    pub const IVRS: Self = Self(*b"IVRS");
    pub const MCFG: Self = Self(*b"MCFG");
    pub const RSDT: Self = Self(*b"RSDT");
    pub const XSDT: Self = Self(*b"XSDT");
    /// The RSDP's eight letters start with a pad to tell it from the tables.
    pub const RSDP: Self = Self(*b"RSD ");
}

impl Signature {
    /// Of a table that [was hidden](hide). Names that start with OEM are the manufacturer's own (5.2.6), which an
    /// operating system passes over.
    pub const HIDDEN: Self = Self(*b"OEMH");

    /// The signature of the table these bytes start with; `None` when there are fewer than four.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().copied().map(Self)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The 36 bytes a table starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are the specification's, in its words")]
pub struct Header {
    pub signature: Signature,
    /// Bytes of the whole table.
    pub length: U32,
    pub revision: u8,
    /// Makes all bytes of the table sum to zero.
    pub checksum: u8,
    pub oem_id: [u8; 6],
    pub oem_table_id: [u8; 8],
    pub oem_revision: U32,
    pub creator_id: [u8; 4],
    pub creator_revision: U32,
}

const _: () = assert!(size_of::<Header>() == 36);

impl Header {
    /// The header these bytes start with: what to read of a table to learn how long it is.
    ///
    /// # Errors
    /// [`Fault::Truncated`].
    pub fn parse(bytes: &[u8]) -> Result<&Self, TableError> {
        let truncated = || {
            let table = Signature::of(bytes).unwrap_or(Signature([b'?'; 4]));
            Fault::Truncated { needed: size_of::<Self>(), given: bytes.len() }.of(table, 0)
        };
        Self::ref_from_prefix(bytes).map(|(header, _)| header).map_err(|_| truncated())
    }
}

/// Something is wrong with a table; it was left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{table} at offset {offset:#x}: {fault}")]
pub struct TableError {
    /// Which table.
    pub table: Signature,
    /// The byte of the table where it shows.
    pub offset: usize,
    /// What is wrong, and what to do.
    pub fault: Fault,
}

/// What is wrong with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// The slice ends before the table does.
    #[error("{needed} bytes are needed and {given} are there; pass the whole table")]
    Truncated {
        /// Bytes the table has, as far as is known.
        needed: usize,
        /// Bytes that were passed.
        given: usize,
    },
    /// A length field is too small for what it counts, or too large for the table around it.
    #[error("a length of {0} cannot be right; do not use the table")]
    BadLength(u32),
    /// The bytes of the table do not sum to zero.
    #[error("the checksum is wrong; do not use the table, or read it again if it was being changed")]
    BadChecksum,
    /// It is another table.
    #[error("its signature is {0}; pass the table of this name")]
    WrongTable(Signature),
    /// The root table has no such entry.
    #[error("there is no entry for {0:#x}; pass an address of its entries")]
    NoEntry(u64),
    /// The entries of an RSDT have 32 bits.
    #[error("an entry of an RSDT cannot say {0:#x}; put the table below 4 GiB")]
    AddressTooHigh(u64),
    /// A moved function is not behind the IOMMU that looks after its guest address.
    #[error("{0} and {1} are not behind one IOMMU, so no alias can join them; hide the table")]
    OtherIommu(Guest<Bdf>, Host<Bdf>),
    /// A moved function and another one that the guest sees have the same Requester ID, so that they would share what
    /// an alias copies.
    #[error(
        "requests of {0} and {1} carry the same Requester ID, or the guest sees {1} at that of {0}; hide the table"
    )]
    SharedRequesterId(Host<Bdf>, Host<Bdf>),
    /// The buffer for the new table is too small.
    #[error("the new table needs {needed} bytes and the buffer has {given}; pass a larger one")]
    NoRoom {
        /// Bytes the new table has.
        needed: usize,
        /// Bytes the buffer has.
        given: usize,
    },
}

impl Fault {
    pub(super) const fn of(self, table: Signature, offset: usize) -> TableError {
        TableError { table, offset, fault: self }
    }
}

/// Offset of the length in a header.
const LENGTH: usize = 4;
/// Offset of the checksum in a header.
const CHECKSUM: usize = 9;

/// A table whose length and checksum are good.
///
/// ```
/// use pci_remap::acpi::{Fault, Signature, Table, TableError};
///
/// let mut bytes = *b"SSDT\x24\0\0\0\x02\0OEM   TABLE   \0\0\0\0ABCD\0\0\0\0";
/// let damaged = TableError { table: Signature(*b"SSDT"), offset: 9, fault: Fault::BadChecksum };
/// assert_eq!(Table::parse(&bytes).unwrap_err(), damaged);
/// bytes[9] = bytes.iter().fold(0, |sum, byte| sum - i32::from(*byte)) as u8;
/// assert_eq!(Table::parse(&bytes)?.bytes().len(), 36);
/// # Ok::<(), TableError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table<'a> {
    header: &'a Header,
    bytes: &'a [u8],
}

impl<'a> Table<'a> {
    /// The table these bytes start with.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::BadLength`] and [`Fault::BadChecksum`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TableError> {
        let header = Header::parse(bytes)?;
        let (table, length) = (header.signature, header.length.get());
        let needed = usize::try_from(length).unwrap_or(usize::MAX);
        if needed < size_of::<Header>() {
            return Err(Fault::BadLength(length).of(table, LENGTH));
        }
        let given = bytes.len();
        let bytes = bytes.get(..needed).ok_or(Fault::Truncated { needed, given }.of(table, given))?;
        if sum(bytes) != 0 {
            return Err(Fault::BadChecksum.of(table, CHECKSUM));
        }
        Ok(Self { header, bytes })
    }

    /// As [`Self::parse`], of a table that must have this name.
    pub(super) fn of(signature: Signature, bytes: &'a [u8]) -> Result<Self, TableError> {
        match Header::parse(bytes)?.signature {
            found if found == signature => Self::parse(bytes),
            found => Err(Fault::WrongTable(found).of(signature, 0)),
        }
    }

    /// What it starts with, and the row of records after that.
    pub(super) fn split(self, at: usize, length: Length) -> Result<(&'a [u8], Row<'a>), TableError> {
        let whole = Record { offset: 0, bytes: self.bytes };
        whole.split(at, length).ok_or(Fault::BadLength(self.header.length.get()).of(self.signature(), LENGTH))
    }

    /// What it is.
    pub const fn signature(self) -> Signature {
        self.header.signature
    }

    /// Its header.
    pub const fn header(self) -> &'a Header {
        self.header
    }

    /// All of it, header included.
    pub const fn bytes(self) -> &'a [u8] {
        self.bytes
    }
}

/// Hides a table from the guest: its name becomes one that operating systems pass over. The table stays where the root
/// tables say, its content as it is.
///
/// # Errors
/// As [`Table::parse`].
pub fn hide(bytes: &mut [u8]) -> Result<(), TableError> {
    Table::parse(bytes)?;
    if let Some(signature) = bytes.first_chunk_mut() {
        *signature = Signature::HIDDEN.0;
    }
    seal(bytes);
    Ok(())
}

/// Sum of all bytes.
pub(super) fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Makes the checksum of the table at the start of these bytes good again, if its length is.
pub(super) fn seal(bytes: &mut [u8]) {
    let Ok((header, _)) = Header::read_from_prefix(bytes) else { return };
    let length = usize::try_from(header.length.get()).unwrap_or(usize::MAX);
    let Some(table) = bytes.get_mut(..length) else { return };
    let others = sum(table).wrapping_sub(header.checksum);
    if let Some(checksum) = table.get_mut(CHECKSUM) {
        *checksum = others.wrapping_neg();
    }
}

/// Says how many bytes the table has, which must all be there, and makes its checksum good.
pub(super) fn resize(bytes: &mut [u8], length: u32) {
    if let Some(field) = bytes.get_mut(LENGTH..).and_then(|rest| rest.first_chunk_mut()) {
        *field = length.to_le_bytes();
    }
    seal(bytes);
}
