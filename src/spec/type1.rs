//! Type 1 header: PCI-to-PCI bridges (7.5.1.3; PCI-to-PCI Bridge Architecture 1.2).

use bitflags::bitflags;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::access::Dword;

/// Primary (7:0), Secondary (15:8) and Subordinate Bus Number (23:16), Secondary Latency Timer (31:24).
pub const BUS_NUMBERS: Dword = Dword::at(0x18).unwrap();
/// I/O Base (7:0), I/O Limit (15:8) and Secondary Status (31:16).
pub const IO_WINDOW: Dword = Dword::at(0x1c).unwrap();
/// Memory Base (15:0) and Memory Limit (31:16).
pub const MEMORY_WINDOW: Dword = Dword::at(0x20).unwrap();
/// Prefetchable Memory Base (15:0) and Limit (31:16).
pub const PREFETCHABLE_WINDOW: Dword = Dword::at(0x24).unwrap();
/// Prefetchable Base Upper 32 Bits.
pub const PREFETCHABLE_BASE_UPPER: Dword = Dword::at(0x28).unwrap();
/// Prefetchable Limit Upper 32 Bits.
pub const PREFETCHABLE_LIMIT_UPPER: Dword = Dword::at(0x2c).unwrap();
/// I/O Base (15:0) and Limit (31:16) Upper 16 Bits.
pub const IO_UPPER: Dword = Dword::at(0x30).unwrap();
/// Expansion ROM Base Address of the bridge itself.
pub const ROM: Dword = Dword::at(0x38).unwrap();
/// Interrupt Line (7:0), Interrupt Pin (15:8) and Bridge Control (31:16).
pub const BRIDGE_CONTROL: Dword = Dword::at(0x3c).unwrap();

/// Secondary Bus Reset in the DWORD at [`BRIDGE_CONTROL`].
pub const SECONDARY_BUS_RESET: u32 = (BridgeControl::SECONDARY_BUS_RESET.bits() as u32) << 16;

bitflags! {
    /// Bridge Control register (7.5.1.3.13).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct BridgeControl: u16 {
        /// Reports parity errors of the secondary side.
        const PARITY_ERROR_RESPONSE = 1 << 0;
        /// Forwards errors of the secondary side.
        const SERR_ENABLE = 1 << 1;
        /// Skips I/O of ISA devices in the window.
        const ISA_ENABLE = 1 << 2;
        /// Forwards the VGA addresses.
        const VGA_ENABLE = 1 << 3;
        /// Decodes 16 bits of VGA I/O addresses.
        const VGA_16_BIT = 1 << 4;
        /// Signals master aborts.
        const MASTER_ABORT_MODE = 1 << 5;
        /// Resets everything behind the bridge.
        const SECONDARY_BUS_RESET = 1 << 6;
    }
}

/// The 64 bytes of a Type 1 header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are the specification's registers, in its words")]
pub struct Type1 {
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
    pub base_address: [U32; 2],
    pub primary_bus_number: u8,
    pub secondary_bus_number: u8,
    pub subordinate_bus_number: u8,
    pub secondary_latency_timer: u8,
    pub io_base: u8,
    pub io_limit: u8,
    pub secondary_status: U16,
    pub memory_base: U16,
    pub memory_limit: U16,
    pub prefetchable_base: U16,
    pub prefetchable_limit: U16,
    pub prefetchable_base_upper: U32,
    pub prefetchable_limit_upper: U32,
    pub io_base_upper: U16,
    pub io_limit_upper: U16,
    pub capabilities_pointer: u8,
    pub reserved: [u8; 3],
    pub expansion_rom_base_address: U32,
    pub interrupt_line: u8,
    pub interrupt_pin: u8,
    pub bridge_control: U16,
}

const _: () = assert!(size_of::<Type1>() == 64);
