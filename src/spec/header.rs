//! What all header types share (7.5.1.1).

use bitflags::bitflags;

use crate::access::Dword;

/// Vendor ID (15:0) and Device ID (31:16).
pub const ID: Dword = Dword::at(0x00).unwrap();
/// Command (15:0) and Status (31:16).
pub const COMMAND: Dword = Dword::at(0x04).unwrap();
/// Revision ID (7:0) and Class Code (31:8).
pub const CLASS: Dword = Dword::at(0x08).unwrap();
/// Cache Line Size (7:0), Latency Timer (15:8), Header Type (23:16) and BIST (31:24).
pub const HEADER_TYPE: Dword = Dword::at(0x0c).unwrap();
/// The first Base Address Register of every header type.
pub const BAR0: Dword = Dword::at(0x10).unwrap();
/// Capabilities Pointer (7:0) of Type 0 and Type 1 headers.
pub const CAPABILITIES_POINTER: Dword = Dword::at(0x34).unwrap();
/// Capabilities Pointer (7:0) of CardBus headers.
pub const CARDBUS_CAPABILITIES_POINTER: Dword = Dword::at(0x14).unwrap();
/// Interrupt Line (7:0) and Interrupt Pin (15:8).
pub const INTERRUPT: Dword = Dword::at(0x3c).unwrap();
/// The first DWORD after the header.
pub const END: Dword = Dword::at(0x40).unwrap();
/// The first extended capability.
pub const EXTENDED: Dword = Dword::at(0x100).unwrap();

/// Multi-Function Device, in the DWORD at [`HEADER_TYPE`].
pub const MULTI_FUNCTION: u32 = 1 << 23;

/// What Vendor ID and Device ID read where no function is.
pub const ABSENT: u32 = !0;

bitflags! {
    /// Command register (7.5.1.1.3).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Command: u16 {
        /// Responds to I/O Space accesses.
        const IO_SPACE_ENABLE = 1 << 0;
        /// Responds to Memory Space accesses.
        const MEMORY_SPACE_ENABLE = 1 << 1;
        /// May issue memory and I/O requests.
        const BUS_MASTER_ENABLE = 1 << 2;
        /// Reports poisoned TLPs.
        const PARITY_ERROR_RESPONSE = 1 << 6;
        /// Reports non-fatal and fatal errors to the Root Complex.
        const SERR_ENABLE = 1 << 8;
        /// May not signal INTx.
        const INTERRUPT_DISABLE = 1 << 10;
        /// What makes a bridge forward.
        const FORWARDING = 0b111;
    }

    /// Status register (7.5.1.1.4).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Status: u16 {
        /// Ready for configuration without waiting.
        const IMMEDIATE_READINESS = 1 << 0;
        /// INTx is pending.
        const INTERRUPT_STATUS = 1 << 3;
        /// There is a Capabilities Pointer.
        const CAPABILITIES_LIST = 1 << 4;
        /// RW1C error bits.
        const MASTER_DATA_PARITY_ERROR = 1 << 8;
        /// RW1C.
        const SIGNALED_TARGET_ABORT = 1 << 11;
        /// RW1C.
        const RECEIVED_TARGET_ABORT = 1 << 12;
        /// RW1C.
        const RECEIVED_MASTER_ABORT = 1 << 13;
        /// RW1C.
        const SIGNALED_SYSTEM_ERROR = 1 << 14;
        /// RW1C.
        const DETECTED_PARITY_ERROR = 1 << 15;
        /// All bits a write of one clears.
        const RW1C = 0xf900;
    }
}

/// Layout of the configuration space header, Header Type bits 6:0 (7.5.1.1.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HeaderType {
    /// Type 0: every function but bridges.
    Type0,
    /// Type 1: PCI-to-PCI bridges, ports among them.
    Type1,
    /// Type 2: PCI-to-CardBus bridges (PC Card Standard 8).
    CardBus,
}

impl HeaderType {
    /// The header type of a function whose DWORD 0Ch reads this; `None` for layouts nobody defined.
    pub const fn of(dword: u32) -> Option<Self> {
        match dword >> 16 & 0x7f {
            0 => Some(Self::Type0),
            1 => Some(Self::Type1),
            2 => Some(Self::CardBus),
            _ => None,
        }
    }

    /// Number of Base Address Registers: 6, 2 or 1.
    pub const fn bars(self) -> usize {
        match self {
            Self::Type0 => 6,
            Self::Type1 => 2,
            Self::CardBus => 1,
        }
    }

    /// Where the Expansion ROM Base Address register is, if there is one.
    pub const fn rom(self) -> Option<Dword> {
        match self {
            Self::Type0 => Dword::at(0x30),
            Self::Type1 => Dword::at(0x38),
            Self::CardBus => None,
        }
    }

    /// Where the Capabilities Pointer is: 34h, or 14h for CardBus.
    pub const fn capabilities_pointer(self) -> Dword {
        match self {
            Self::Type0 | Self::Type1 => CAPABILITIES_POINTER,
            Self::CardBus => CARDBUS_CAPABILITIES_POINTER,
        }
    }
}

/// Class Code, bits 31:8 of the DWORD at [`CLASS`], as one number `base << 16 | sub << 8 | interface`
/// (PCI Code and ID Assignment 1.16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassCode(pub u32);

impl ClassCode {
    /// The class code in a DWORD read from [`CLASS`].
    pub const fn of(dword: u32) -> Self {
        Self(dword >> 8)
    }

    /// Base class and sub-class, the upper 16 bits.
    pub const fn class(self) -> u32 {
        self.0 >> 8
    }

    /// A host bridge (0600h).
    pub const fn is_host_bridge(self) -> bool {
        self.class() == 0x0600
    }

    /// A PCI-to-PCI bridge (0604h).
    pub const fn is_pci_bridge(self) -> bool {
        self.class() == 0x0604
    }

    /// An Ethernet controller (0200h).
    pub const fn is_ethernet(self) -> bool {
        self.class() == 0x0200
    }

    /// A VGA compatible controller (0300h).
    pub const fn is_vga(self) -> bool {
        self.class() == 0x0300
    }
}
