//! Capabilities as short descriptions, and the registers they stand for.

use std::vec;
use std::vec::Vec;

use crate::spec::bar::BarKind;
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::express::PortType;
use crate::spec::{containment, enhanced_allocation};

/// A capability of the first 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// Advanced Features with Function Level Reset.
    AdvancedFeatures,
    /// BAR equivalents at fixed addresses.
    EnhancedAllocation(Vec<FixedRange>),
    /// PCI Express, version 2.
    Express(PortType),
    /// MSI with 64-bit addresses and per-vector masking.
    Msi,
    /// MSI-X.
    MsiX {
        /// Number of vectors, 1 to 2048.
        vectors: u16,
        /// BAR and byte offset of the table.
        table: (u8, u32),
        /// BAR and byte offset of the Pending Bit Array.
        pba: (u8, u32),
    },
    /// Power Management, without No_Soft_Reset.
    PowerManagement,
    /// An ID nobody has defined, and registers nobody knows.
    Unknown,
    /// The body after the length byte.
    VendorSpecific(Vec<u32>),
    /// Vital Product Data.
    VitalProductData,
}

/// An entry of Enhanced Allocation (7.8.5.3), enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedRange {
    /// The BAR it stands for, 0 to 5; 8 for the ROM.
    pub bar: u8,
    /// Memory Space that can be prefetched, Memory Space, or I/O Space: 0, 1, 2.
    pub properties: u8,
    /// First address, a multiple of four.
    pub base: u64,
    /// Offset of the last DWORD, a multiple of four.
    pub max_offset: u64,
}

/// A VF BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VfBar {
    /// What it decodes.
    pub kind: BarKind,
    /// Bytes of one Virtual Function.
    pub size: u64,
    /// Address of the first Virtual Function's.
    pub address: u64,
}

/// A capability of the extended space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtendedCapability {
    /// Access Control Services with all seven controls.
    AccessControl,
    /// Advanced Error Reporting.
    AdvancedErrorReporting,
    /// Alternative Routing-ID Interpretation with its Next Function Number.
    Ari {
        /// Function number of the next function; 0 ends the chain.
        next: u8,
    },
    /// Address Translation Services.
    Ats,
    /// Downstream Port Containment, which software can trigger; off.
    DownstreamPortContainment,
    /// L1 PM Substates.
    L1PmSubstates,
    /// Latency Tolerance Reporting.
    LatencyToleranceReporting,
    /// A header without content, as firmware leaves it where it hides a capability.
    Null,
    /// Precision Time Measurement.
    PrecisionTimeMeasurement,
    /// BARs (index, bit mask of sizes where bit 0 is 1 MiB) that can be resized. Each starts with the size it has.
    ResizableBar(Vec<(u8, u32)>),
    /// Device Serial Number.
    SerialNumber(u64),
    /// Single Root I/O Virtualization.
    SrIov {
        /// InitialVFs and TotalVFs.
        total: u16,
        /// First VF Offset.
        offset: u16,
        /// VF Stride.
        stride: u16,
        /// VF BARs by register index.
        bars: Vec<(u8, VfBar)>,
    },
    /// The content after the Vendor-Specific Header, with the ID in that header.
    VendorSpecific {
        /// VSEC ID.
        id: u16,
        /// The DWORDs after both headers.
        body: Vec<u32>,
    },
}

/// The DWORDs of a capability, without its next pointer.
pub(super) fn capability_dwords(capability: &Capability) -> Vec<u32> {
    let id = |id: CapabilityId| u32::from(id.0);
    match capability {
        // Length 6; Transactions Pending and Function Level Reset.
        Capability::AdvancedFeatures => vec![id(CapabilityId::ADVANCED_FEATURES) | 0x0306_0000, 0],
        Capability::EnhancedAllocation(ranges) => {
            let ranges = &ranges[..ranges.len().min(8)];
            let count = u32::try_from(ranges.len()).unwrap_or(0);
            let mut dwords = vec![id(CapabilityId::ENHANCED_ALLOCATION) | count << 16];
            dwords.extend(ranges.iter().flat_map(fixed_range));
            dwords
        }
        Capability::Express(kind) => express(*kind),
        // 64-bit Address Capable, Per-Vector Masking Capable, four vectors.
        Capability::Msi => vec![id(CapabilityId::MSI) | 0x0184_0000, 0, 0, 0, 0, 0],
        Capability::MsiX { vectors, table, pba } => {
            let size = u32::from(vectors.clamp(&1, &2048) - 1);
            let place = |(bar, offset): (u8, u32)| offset & !7 | u32::from(bar & 7);
            vec![id(CapabilityId::MSI_X) | size << 16, place(*table), place(*pba)]
        }
        // Version 3, PME from D0, D3hot and D3cold.
        Capability::PowerManagement => vec![id(CapabilityId::POWER_MANAGEMENT) | 0xc803_0000, 0],
        Capability::Unknown => vec![0x7e, 0x1234_5678, 0x9abc_def0],
        Capability::VendorSpecific(body) => {
            let body = &body[..body.len().min(16)];
            let length = u32::try_from(4 * body.len() + 4).unwrap_or(4);
            let mut dwords = vec![id(CapabilityId::VENDOR_SPECIFIC) | length << 16];
            dwords.extend(body);
            dwords
        }
        Capability::VitalProductData => vec![id(CapabilityId::VPD), 0],
    }
}

fn fixed_range(range: &FixedRange) -> [u32; 5] {
    let half = low_half;
    let first = 4 | u32::from(range.bar & 0xf) << 4 | u32::from(range.properties) << 8 | 0x00ff_0000;
    [
        first | enhanced_allocation::ENABLE,
        half(range.base) & !3 | 2,
        half(range.max_offset) & !3 | 2,
        half(range.base >> 32),
        half(range.max_offset >> 32),
    ]
}

/// Version 2 of the structure, for a x4 link at 8 GT/s.
fn express(kind: PortType) -> Vec<u32> {
    let code = match kind {
        PortType::Endpoint => 0,
        PortType::LegacyEndpoint => 1,
        PortType::RootPort => 4,
        PortType::UpstreamPort => 5,
        PortType::DownstreamPort => 6,
        PortType::PciExpressToPciBridge => 7,
        PortType::PciToPciExpressBridge => 8,
        PortType::RootComplexIntegratedEndpoint => 9,
        PortType::RootComplexEventCollector => 10,
        PortType::Reserved => 15,
    };
    let (endpoint, downstream) = (code < 2, kind.leads_down_a_link());
    let link = !matches!(code, 9 | 10);
    let root = matches!(code, 4 | 10);
    let when = |condition: bool, value: u32| if condition { value } else { 0 };
    vec![
        u32::from(CapabilityId::PCI_EXPRESS.0) | 0x0002_0000 | code << 20,
        // Max_Payload_Size 256 bytes, extended tags, role-based error reporting; Function Level Reset.
        0x0000_8021 | when(endpoint, 1 << 28),
        // Relaxed ordering, no snoop, Max_Read_Request_Size 512 bytes.
        0x0000_2810,
        // Data Link Layer Link Active Reporting downstream.
        when(link, 0x0043_f443 | when(downstream, 1 << 20)),
        when(link, 0x1043_0040 | when(downstream, 1 << 29)),
        0,
        0,
        0,
        0,
        // Completion timeout ranges, ARI Forwarding, LTR Mechanism.
        0x0000_0800 | when(downstream, 1 << 5) | when(root || endpoint, 0x1f),
        0,
        when(link, 0x0000_000e),
        when(link, 0x0001_0003),
        0,
        // The structure ends with Slot Control 2 and Status 2.
        0,
    ]
}

/// The DWORDs of an extended capability, without its next pointer.
pub(super) fn extended_dwords(capability: &ExtendedCapability, sizes: &[u64; 7]) -> Vec<u32> {
    let header = |id: ExtendedCapabilityId, version: u32| u32::from(id.0) | version << 16;
    let zeros = |count| vec![0; count];
    match capability {
        ExtendedCapability::AccessControl => vec![header(ExtendedCapabilityId::ACS, 1), 0x007f],
        ExtendedCapability::AdvancedErrorReporting => {
            let mut dwords = vec![header(ExtendedCapabilityId::AER, 2), 0, 0, 0x0046_2030, 0, 0x2000, 0x00a0];
            dwords.extend(zeros(11));
            dwords
        }
        ExtendedCapability::Ari { next } => vec![header(ExtendedCapabilityId::ARI, 1), u32::from(*next) << 8],
        ExtendedCapability::Ats => vec![header(ExtendedCapabilityId::ATS, 1), 0x0020],
        ExtendedCapability::DownstreamPortContainment => {
            vec![header(ExtendedCapabilityId::DPC, 1), containment::SOFTWARE_TRIGGERING_SUPPORTED, 0, 0]
        }
        ExtendedCapability::L1PmSubstates => vec![header(ExtendedCapabilityId::L1_PM_SUBSTATES, 1), 0x0028_281f, 0, 0],
        ExtendedCapability::LatencyToleranceReporting => vec![header(ExtendedCapabilityId::LTR, 1), 0],
        ExtendedCapability::Null => vec![header(ExtendedCapabilityId::NULL, 1)],
        ExtendedCapability::PrecisionTimeMeasurement => vec![header(ExtendedCapabilityId::PTM, 1), 0x0001, 0],
        ExtendedCapability::ResizableBar(bars) => {
            let bars = &bars[..bars.len().min(6)];
            let count = u32::try_from(bars.len()).unwrap_or(0);
            let mut dwords = vec![header(ExtendedCapabilityId::RESIZABLE_BAR, 1)];
            for (index, offered) in bars {
                let size = sizes.get(usize::from(*index)).map_or(0, |size| size.max(&1).ilog2().saturating_sub(20));
                dwords.extend([offered << 4, u32::from(index & 7) | count << 5 | size << 8]);
            }
            dwords
        }
        ExtendedCapability::SerialNumber(number) => {
            let [low, high] = [*number, number >> 32].map(low_half);
            vec![header(ExtendedCapabilityId::DEVICE_SERIAL_NUMBER, 1), low, high]
        }
        ExtendedCapability::SrIov { total, offset, stride, bars } => {
            let mut dwords = vec![header(ExtendedCapabilityId::SR_IOV, 1)];
            let vfs = u32::from(*total);
            dwords.extend([0, 0, vfs << 16 | vfs, 0, u32::from(*stride) << 16 | u32::from(*offset)]);
            // VF Device ID; pages of 4 KiB and more.
            dwords.extend([0x154c_0000, 0x0553, 0x0001]);
            dwords.extend(vf_bars(bars));
            dwords.push(0);
            dwords
        }
        ExtendedCapability::VendorSpecific { id, body } => {
            let body = &body[..body.len().min(64)];
            let length = u32::try_from(4 * body.len() + 8).unwrap_or(8);
            let mut dwords = vec![header(ExtendedCapabilityId::VENDOR_SPECIFIC, 1), u32::from(*id) | length << 20];
            dwords.extend(body);
            dwords
        }
    }
}

fn vf_bars(bars: &[(u8, VfBar)]) -> [u32; 6] {
    let mut registers = [0; 6];
    for (index, bar) in bars {
        let index = usize::from(*index);
        let [low, high] = [bar.address, bar.address >> 32].map(low_half);
        if let Some(register) = registers.get_mut(index) {
            *register = low & !bar.kind.type_mask() | bar.kind.type_bits();
        }
        if let Some(upper) = registers.get_mut(index + 1).filter(|_| bar.kind.is_64_bit()) {
            *upper = high;
        }
    }
    registers
}

/// Bits 31:0.
pub(super) fn low_half(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
