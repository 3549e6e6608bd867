//! MCFG: where configuration space is in memory (PCI Firmware Specification 3.3, 4.1.2).

use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::table::{Fault, Signature, Table, TableError};
use crate::mechanism::Ecam;

/// One configuration space base address allocation.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Allocation {
    base_address: U64,
    segment_group: U16,
    start_bus: u8,
    end_bus: u8,
    reserved: [u8; 4],
}

/// Where the allocations start: eight reserved bytes follow the header.
const ALLOCATIONS: usize = 44;

/// The MCFG table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mcfg<'a> {
    allocations: &'a [u8],
}

/// The ECAM window of some buses of a PCI segment group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EcamWindow {
    /// The segment group.
    pub segment: u16,
    /// The window.
    pub ecam: Ecam,
}

impl<'a> Mcfg<'a> {
    /// The MCFG these bytes start with.
    ///
    /// # Errors
    /// As [`Table::parse`]; [`Fault::WrongTable`], and [`Fault::BadLength`] where it ends before its allocations start.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TableError> {
        let table = Table::of(Signature::MCFG, bytes)?;
        let bad_length = Fault::BadLength(table.header().length.get()).of(Signature::MCFG, 4);
        Ok(Self { allocations: table.bytes().get(ALLOCATIONS..).ok_or(bad_length)? })
    }

    /// The windows. Allocations that cannot be one, as their buses end before they start, or as they are not aligned to
    /// a bus, are left out, as Linux does (`acpi_mcfg_valid_entry`, `pci_mmconfig_alloc`).
    pub fn windows(self) -> impl Iterator<Item = EcamWindow> + use<'a> {
        self.allocations.chunks_exact(size_of::<Allocation>()).filter_map(|bytes| {
            let allocation = Allocation::ref_from_bytes(bytes).ok()?;
            let ecam = Ecam::new(allocation.base_address.get(), allocation.start_bus..=allocation.end_bus)?;
            Some(EcamWindow { segment: allocation.segment_group.get(), ecam })
        })
    }
}
