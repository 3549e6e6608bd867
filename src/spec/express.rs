//! PCI Express Capability (7.5.3). DWORD indices are relative to the capability.

/// Number of DWORDs of version 2 of the structure.
pub const DWORDS: u16 = 15;

/// Device/Port Type, bits 7:4 of PCI Express Capabilities (7.5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum PortType {
    Endpoint,
    LegacyEndpoint,
    RootPort,
    UpstreamPort,
    DownstreamPort,
    PciExpressToPciBridge,
    PciToPciExpressBridge,
    RootComplexIntegratedEndpoint,
    RootComplexEventCollector,
    Reserved,
}

impl PortType {
    /// The type in the first DWORD of the capability.
    pub const fn of(dword: u32) -> Self {
        match dword >> 20 & 0xf {
            0b0000 => Self::Endpoint,
            0b0001 => Self::LegacyEndpoint,
            0b0100 => Self::RootPort,
            0b0101 => Self::UpstreamPort,
            0b0110 => Self::DownstreamPort,
            0b0111 => Self::PciExpressToPciBridge,
            0b1000 => Self::PciToPciExpressBridge,
            0b1001 => Self::RootComplexIntegratedEndpoint,
            0b1010 => Self::RootComplexEventCollector,
            _ => Self::Reserved,
        }
    }

    /// Whether a link leads down from it, so that software looks for device 0 only: Linux's `pcie_downstream_port`.
    pub const fn leads_down_a_link(self) -> bool {
        matches!(self, Self::RootPort | Self::DownstreamPort | Self::PciToPciExpressBridge)
    }
}

/// Device/Port Type in the first DWORD of the capability.
pub const PORT_TYPE: u32 = 0x00f0_0000;
/// Slot Implemented in the first DWORD of the capability.
pub const SLOT_IMPLEMENTED: u32 = 1 << 24;
/// [`PORT_TYPE`] of an Upstream Port.
pub const UPSTREAM_PORT: u32 = 0x0050_0000;

/// Device Capabilities.
pub const DEVICE_CAPABILITIES: u16 = 1;
/// Device Control (15:0) and Device Status (31:16).
pub const DEVICE_CONTROL: u16 = 2;
/// Link Capabilities.
pub const LINK_CAPABILITIES: u16 = 3;
/// Link Control (15:0) and Link Status (31:16).
pub const LINK_CONTROL: u16 = 4;
/// Slot Capabilities.
pub const SLOT_CAPABILITIES: u16 = 5;
/// Slot Control (15:0) and Slot Status (31:16).
pub const SLOT_CONTROL: u16 = 6;
/// Root Control (15:0) and Root Capabilities (31:16).
pub const ROOT_CONTROL: u16 = 7;
/// Root Status.
pub const ROOT_STATUS: u16 = 8;
/// Device Capabilities 2.
pub const DEVICE_CAPABILITIES_2: u16 = 9;
/// Device Control 2 (15:0) and Device Status 2 (31:16).
pub const DEVICE_CONTROL_2: u16 = 10;
/// Link Capabilities 2.
pub const LINK_CAPABILITIES_2: u16 = 11;
/// Link Control 2 (15:0) and Link Status 2 (31:16).
pub const LINK_CONTROL_2: u16 = 12;
/// Slot Capabilities 2.
pub const SLOT_CAPABILITIES_2: u16 = 13;
/// Slot Control 2 (15:0) and Slot Status 2 (31:16).
pub const SLOT_CONTROL_2: u16 = 14;

/// ARI Forwarding Enable in Device Control 2.
pub const ARI_FORWARDING_ENABLE: u32 = 1 << 5;

/// The interrupt enables of Link Control: Link Bandwidth Management and Link Autonomous Bandwidth.
pub const LINK_INTERRUPTS: u32 = 0b11 << 10;
/// The interrupt enables of Slot Control: five events, Hot-Plug, and Data Link Layer State Changed.
pub const SLOT_INTERRUPTS: u32 = 1 << 12 | 0x3f;
/// System Error on Correctable, Non-Fatal and Fatal Error in Root Control.
pub const ROOT_SYSTEM_ERRORS: u32 = 0b111;
/// PME Interrupt Enable in Root Control.
pub const ROOT_PME_INTERRUPT: u32 = 1 << 3;
