//! The way to the tables: the Root System Description Pointer (5.2.5), and the RSDT (5.2.7) and XSDT (5.2.8) it names.

use core::ops::Range;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::table::{Fault, Header, Signature, Table, TableError, resize, seal, sum};

/// What the RSDP starts with.
const SIGNATURE: &[u8; 8] = b"RSD PTR ";
/// Offset of the checksum of the first part.
const CHECKSUM: usize = 8;
/// Offset of the length, which counts both parts.
const LENGTH: usize = 20;
/// Where the entries of a root table start.
const ENTRIES: usize = size_of::<Header>();

/// The part all revisions have.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Revision1 {
    signature: [u8; 8],
    checksum: u8,
    oem_id: [u8; 6],
    revision: u8,
    rsdt: U32,
}

/// What follows it from revision 2 on.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Revision2 {
    length: U32,
    xsdt: U64,
    extended_checksum: u8,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<Revision1>() == 20 && size_of::<Revision2>() == 16);

/// The Root System Description Pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rsdp {
    rsdt: u32,
    xsdt: u64,
}

impl Rsdp {
    /// Most bytes one has.
    pub const LEN: usize = 36;

    /// The RSDP these bytes start with.
    ///
    /// # Errors
    /// [`Fault::WrongTable`], [`Fault::Truncated`], [`Fault::BadLength`] and [`Fault::BadChecksum`].
    pub fn parse(bytes: &[u8]) -> Result<Self, TableError> {
        let fault = |fault: Fault, offset| fault.of(Signature::RSDP, offset);
        let truncated = |needed| fault(Fault::Truncated { needed, given: bytes.len() }, bytes.len());
        let (first, rest) = Revision1::ref_from_prefix(bytes).map_err(|_| truncated(size_of::<Revision1>()))?;
        if first.signature != *SIGNATURE {
            let found = Signature::of(&first.signature).unwrap_or(Signature::RSDP);
            return Err(fault(Fault::WrongTable(found), 0));
        }
        if sum(first.as_bytes()) != 0 {
            return Err(fault(Fault::BadChecksum, CHECKSUM));
        }
        let rsdt = first.rsdt.get();
        // 5.2.5.3: revision 0 is ACPI 1.0; there is no 1.
        if first.revision < 2 {
            return Ok(Self { rsdt, xsdt: 0 });
        }
        let (second, _) = Revision2::ref_from_prefix(rest).map_err(|_| truncated(Self::LEN))?;
        let length = usize::try_from(second.length.get()).unwrap_or(usize::MAX);
        if length < Self::LEN {
            return Err(fault(Fault::BadLength(second.length.get()), LENGTH));
        }
        if sum(bytes.get(..length).ok_or(truncated(length))?) != 0 {
            return Err(fault(Fault::BadChecksum, 32));
        }
        Ok(Self { rsdt, xsdt: second.xsdt.get() })
    }

    /// Where in these bytes, which start at a multiple of 16, the RSDP is. Without UEFI it is in the first KiB of the
    /// Extended BIOS Data Area, or in E0000h to FFFFFh (5.2.5.1); UEFI has it among its configuration tables.
    pub fn find(area: &[u8]) -> Option<usize> {
        (0..area.len()).step_by(16).find(|at| area.get(*at..).is_some_and(|rest| Self::parse(rest).is_ok()))
    }

    /// Physical address of the RSDT.
    pub fn rsdt(self) -> Option<u64> {
        if self.rsdt == 0 { None } else { Some(self.rsdt.into()) }
    }

    /// Physical address of the XSDT.
    pub fn xsdt(self) -> Option<u64> {
        if self.xsdt == 0 { None } else { Some(self.xsdt) }
    }

    /// Physical addresses of the root tables, first the one an operating system takes. Edit both where there are two:
    /// it may take the other.
    pub fn roots(self) -> impl Iterator<Item = u64> {
        self.xsdt().into_iter().chain(self.rsdt())
    }
}

/// An RSDT or XSDT: where all other tables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootTable<'a> {
    table: Table<'a>,
    /// Bytes of an entry.
    entry: usize,
}

impl<'a> RootTable<'a> {
    /// The root table these bytes start with.
    ///
    /// # Errors
    /// As [`Table::parse`]; [`Fault::WrongTable`] where it is neither RSDT nor XSDT.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TableError> {
        match Header::parse(bytes)?.signature {
            Signature::RSDT => Ok(Self { table: Table::parse(bytes)?, entry: 4 }),
            _ => Ok(Self { table: Table::of(Signature::XSDT, bytes)?, entry: 8 }),
        }
    }

    /// Physical addresses of the tables.
    pub fn entries(self) -> impl Iterator<Item = u64> + use<'a> {
        self.places().filter_map(move |place| {
            let mut address = [0; 8];
            address.iter_mut().zip(self.table.bytes().get(place)?).for_each(|(to, from)| *to = *from);
            Some(u64::from_le_bytes(address))
        })
    }

    /// Where the entries are.
    fn places(self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let place = move |start: usize| {
            let end = start.checked_add(self.entry)?;
            if end > self.table.bytes().len() { None } else { Some(start..end) }
        };
        core::iter::successors(place(ENTRIES), move |last| place(last.end))
    }

    /// Where the entry with this address is.
    fn place_of(self, address: u64) -> Result<Range<usize>, TableError> {
        let found = self.places().zip(self.entries()).find(|(_, entry)| *entry == address);
        found.map(|(place, _)| place).ok_or(Fault::NoEntry(address).of(self.table.signature(), ENTRIES))
    }
}

/// Points an entry of a root table to another address: that of a table that grew, in memory the guest leaves alone.
///
/// # Errors
/// As [`RootTable::parse`]; [`Fault::NoEntry`], and [`Fault::AddressTooHigh`] where an RSDT cannot say the new address.
pub fn point_entry(root: &mut [u8], from: u64, to: u64) -> Result<(), TableError> {
    let parsed = RootTable::parse(root)?;
    let entry = parsed.place_of(from)?;
    if parsed.entry == 4 && u32::try_from(to).is_err() {
        return Err(Fault::AddressTooHigh(to).of(Signature::RSDT, entry.start));
    }
    let bytes = root.get_mut(entry).unwrap_or_default();
    bytes.iter_mut().zip(to.to_le_bytes()).for_each(|(to, from)| *to = from);
    seal(root);
    Ok(())
}

/// Takes an entry out of a root table, which becomes shorter.
///
/// # Errors
/// As [`RootTable::parse`]; [`Fault::NoEntry`].
pub fn remove_entry(root: &mut [u8], address: u64) -> Result<(), TableError> {
    let parsed = RootTable::parse(root)?;
    let entry = parsed.place_of(address)?;
    let (size, length) = (parsed.entry, parsed.table.header().length.get());
    let rest = root.get_mut(entry.start..parsed.table.bytes().len()).unwrap_or_default();
    for at in 0..rest.len() {
        let next = at.checked_add(size).and_then(|next| rest.get(next)).copied();
        if let (Some(byte), Some(next)) = (rest.get_mut(at), next) {
            *byte = next;
        }
    }
    resize(root, length.saturating_sub(u32::try_from(size).unwrap_or(0)));
    Ok(())
}
