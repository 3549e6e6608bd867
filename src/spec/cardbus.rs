//! Type 2 header: PCI-to-CardBus bridges (PC Card Standard 8.0, volume 7; the numbers are Linux's `PCI_CB_*`).

use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first 64 bytes of a Type 2 header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are the specification's registers, in its words")]
pub struct CardBus {
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
    pub socket_base_address: U32,
    pub capabilities_pointer: u8,
    pub reserved: u8,
    pub secondary_status: U16,
    pub pci_bus_number: u8,
    pub cardbus_bus_number: u8,
    pub subordinate_bus_number: u8,
    pub cardbus_latency_timer: u8,
    pub memory_windows: [[U32; 2]; 2],
    pub io_windows: [[U32; 2]; 2],
    pub interrupt_line: u8,
    pub interrupt_pin: u8,
    pub bridge_control: U16,
}

const _: () = assert!(size_of::<CardBus>() == 64);
