//! Type 0 header (7.5.1.2).

use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::access::Dword;

/// Number of Base Address Registers.
pub const BARS: usize = 6;
/// Expansion ROM Base Address.
pub const ROM: Dword = Dword::at(0x30).unwrap();

/// The 64 bytes of a Type 0 header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are the specification's registers, in its words")]
pub struct Type0 {
    pub vendor_id: U16,
    pub device_id: U16,
    pub command: U16,
    pub status: U16,
    pub revision_id: u8,
    pub class_code: [u8; 3],
    pub cache_line_size: u8,
    pub latency_timer: u8,
    pub header_type: u8,
    pub bist: u8,
    pub base_address: [U32; BARS],
    pub cardbus_cis_pointer: U32,
    pub subsystem_vendor_id: U16,
    pub subsystem_id: U16,
    pub expansion_rom_base_address: U32,
    pub capabilities_pointer: u8,
    pub reserved: [u8; 7],
    pub interrupt_line: u8,
    pub interrupt_pin: u8,
    pub min_gnt: u8,
    pub max_lat: u8,
}

const _: () = assert!(size_of::<Type0>() == 64);
