//! PCI Express Capability (7.5.3). DWORD indices are relative to the capability.

/// Number of DWORDs of version 2 of the structure.
pub const DWORDS: u16 = 15;

/// Number of DWORDs of the structure that starts with this DWORD. Version 1 has only what its port type needs
/// (PCI Express Base 1.1, 7.8).
pub const fn dwords(first: u32) -> u16 {
    if first >> 16 & 0xf >= 2 {
        return DWORDS;
    }
    match PortType::of(first) {
        PortType::RootPort | PortType::RootComplexEventCollector => 9,
        PortType::RootComplexIntegratedEndpoint => 3,
        _ if first & SLOT_IMPLEMENTED != 0 => 7,
        _ => 5,
    }
}

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

    /// Whether it has a link, and the registers for it.
    pub const fn has_link(self) -> bool {
        !matches!(self, Self::RootComplexIntegratedEndpoint | Self::RootComplexEventCollector)
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

/// Power Controller Present in Slot Capabilities.
pub const POWER_CONTROLLER: u32 = 1 << 1;
/// Power Controller Control in Slot Control; set for off.
pub const SLOT_POWER_OFF: u32 = 1 << 10;
/// Hot-Plug Capable in Slot Capabilities.
pub const HOT_PLUG_CAPABLE: u32 = 1 << 6;
/// Max_Payload_Size in Device Control, at bit 5.
pub const MAX_PAYLOAD_SIZE: u32 = 0x7 << 5;

/// ASPM Support in Link Capabilities.
pub const ASPM_SUPPORT: u32 = 0xc00;
/// Clock Power Management in Link Capabilities.
pub const CLOCK_POWER_MANAGEMENT: u32 = 1 << 18;
/// Data Link Layer Link Active Reporting Capable in Link Capabilities.
pub const LINK_ACTIVE_REPORTING: u32 = 1 << 20;
/// Link Bandwidth Notification Capability in Link Capabilities.
pub const LINK_BANDWIDTH_NOTIFICATION: u32 = 1 << 21;
/// Speed and width of a link, in Link Capabilities and in Link Status alike.
pub const SPEED_AND_WIDTH: u32 = 0x3ff;
/// Link Disable in Link Control.
pub const LINK_DISABLE: u32 = 1 << 4;
/// Retrain Link in Link Control; reads zero.
pub const RETRAIN_LINK: u32 = 1 << 5;
/// Link Training, in the DWORD of Link Control.
pub const LINK_TRAINING: u32 = 1 << 27;
/// Data Link Layer Link Active, in the DWORD of Link Control.
pub const LINK_ACTIVE: u32 = 1 << 29;
/// Link Bandwidth Management Status and Link Autonomous Bandwidth Status, in the DWORD of Link Control.
pub const LINK_EVENTS: u32 = 0b11 << 30;

/// ARI Forwarding Supported in Device Capabilities 2.
pub const ARI_FORWARDING_SUPPORTED: u32 = 1 << 5;
/// LTR Mechanism Supported in Device Capabilities 2.
pub const LTR_SUPPORTED: u32 = 1 << 11;
/// OBFF Supported in Device Capabilities 2.
pub const OBFF_SUPPORTED: u32 = 0x3 << 18;
/// LTR Mechanism Enable in Device Control 2.
pub const LTR_ENABLE: u32 = 1 << 10;

/// PME Requester ID in Root Status.
pub const PME_REQUESTER: u32 = 0xffff;

/// The interrupt enables of Link Control: Link Bandwidth Management and Link Autonomous Bandwidth.
pub const LINK_INTERRUPTS: u32 = 0b11 << 10;
/// The interrupt enables of Slot Control: five events, Hot-Plug, and Data Link Layer State Changed.
pub const SLOT_INTERRUPTS: u32 = 1 << 12 | 0x3f;
/// System Error on Correctable, Non-Fatal and Fatal Error in Root Control.
pub const ROOT_SYSTEM_ERRORS: u32 = 0b111;
/// PME Interrupt Enable in Root Control.
pub const ROOT_PME_INTERRUPT: u32 = 1 << 3;

/// Max_Payload_Size Supported in Device Capabilities: 128 bytes shifted left by it.
pub const MAX_PAYLOAD_SIZE_SUPPORTED: u32 = 0x7;
/// Phantom Functions Supported in Device Capabilities.
pub const PHANTOM_FUNCTIONS: u32 = 0x18;
/// Endpoint L0s and L1 Acceptable Latency in Device Capabilities; all ones for no limit.
pub const ACCEPTABLE_LATENCIES: u32 = 0xfc0;
/// Role-Based Error Reporting in Device Capabilities.
pub const ROLE_BASED_ERROR_REPORTING: u32 = 1 << 15;
/// Function Level Reset Capability in Device Capabilities.
pub const FUNCTION_LEVEL_RESET: u32 = 1 << 28;

/// The four error reporting enables in Device Control.
pub const ERROR_REPORTING: u32 = 0xf;
/// Phantom Functions Enable in Device Control.
pub const PHANTOM_FUNCTIONS_ENABLE: u32 = 1 << 9;
/// Initiate Function Level Reset in Device Control; reads zero.
pub const INITIATE_FUNCTION_LEVEL_RESET: u32 = 1 << 15;

/// ASPM Control in Link Control.
pub const ASPM_CONTROL: u32 = 0x3;
/// Read Completion Boundary in Link Control.
pub const READ_COMPLETION_BOUNDARY: u32 = 1 << 3;
/// Common Clock Configuration in Link Control.
pub const COMMON_CLOCK_CONFIGURATION: u32 = 1 << 6;
/// Extended Synch in Link Control.
pub const EXTENDED_SYNCH: u32 = 1 << 7;
/// Hardware Autonomous Width Disable in Link Control.
pub const HARDWARE_AUTONOMOUS_WIDTH_DISABLE: u32 = 1 << 9;
/// What software chooses in Link Control of an Endpoint: ASPM, completion boundary, clocks, Extended Synch, width.
pub const LINK_CHOICES: u32 = ASPM_CONTROL
    | READ_COMPLETION_BOUNDARY
    | COMMON_CLOCK_CONFIGURATION
    | EXTENDED_SYNCH
    | HARDWARE_AUTONOMOUS_WIDTH_DISABLE;
/// Slot Clock Configuration in Link Status.
pub const SLOT_CLOCK_CONFIGURATION: u32 = 1 << 28;

/// 10-Bit Tag Completer and Requester Supported in Device Capabilities 2.
pub const TEN_BIT_TAGS_SUPPORTED: u32 = 0x3 << 16;
/// FRS Supported in Device Capabilities 2.
pub const FRS_SUPPORTED: u32 = 1 << 31;

/// AtomicOp Requester Enable in Device Control 2.
pub const ATOMIC_OP_REQUESTER_ENABLE: u32 = 1 << 6;
/// IDO Request Enable and IDO Completion Enable in Device Control 2.
pub const ID_BASED_ORDERING: u32 = 0x3 << 8;
/// All of Device Control 2 but Completion Timeout: what both ends of a link, or all hops of a way, agree on.
pub const AGREEMENTS_2: u32 = 0xffe0;

/// [`PORT_TYPE`] of a Root Complex Integrated Endpoint.
pub const ROOT_COMPLEX_INTEGRATED_ENDPOINT: u32 = 0x0090_0000;
