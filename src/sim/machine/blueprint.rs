//! What a function is made of: registers as firmware left them, and the sizes of its decoders.

use std::ops::RangeInclusive;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use super::{Quirks, ROM};
use crate::access::Dword;
use crate::address::{Bdf, Span};
use crate::spec::bar::{BarKind, ROM_ENABLE};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::express::PortType;
use crate::spec::header::{self, Command, HeaderType, Status};
use crate::spec::{enhanced_allocation, type1};

/// A function before it is put into a machine.
///
/// Descriptions may be malformed where real ones are: capability lists that loop or leave the space are for the
/// software under test to survive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blueprint {
    pub(super) bdf: Bdf,
    pub(super) name: String,
    /// 64 or 1024 DWORDs.
    pub(super) config: Vec<u32>,
    /// Bytes each BAR and the ROM decode; 0 for those not implemented.
    pub(super) sizes: [u64; 7],
    pub(super) vf_sizes: [u64; 6],
    pub(super) quirks: Quirks,
    /// Index of the first DWORD no capability occupies, in the first 256 bytes and in the extended space.
    pub(super) free: [usize; 2],
}

/// The windows of a bridge; one that is absent is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Windows {
    /// I/O Space, in units of 4 KiB.
    pub io: Option<Span>,
    /// Memory Space below 4 GiB, in units of 1 MiB.
    pub memory: Option<Span>,
    /// Prefetchable Memory Space, in units of 1 MiB.
    pub prefetchable: Option<Span>,
}

impl Windows {
    /// Only a memory window.
    pub fn memory(span: Span) -> Self {
        Self { memory: Some(span), ..Self::default() }
    }
}

/// A capability of the first 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Capability {
    /// Advanced Features with Function Level Reset.
    AdvancedFeatures,
    /// BAR equivalents at fixed addresses.
    EnhancedAllocation(Vec<FixedRange>),
    /// PCI Express, version 2.
    Express(#[cfg_attr(feature = "arbitrary", arbitrary(with = any_port_type))] PortType),
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
    /// The body after the length byte.
    VendorSpecific(Vec<u32>),
    /// Vital Product Data.
    VitalProductData,
}

/// An entry of Enhanced Allocation (7.8.5.3), enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
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

impl Blueprint {
    /// A PCI Express endpoint without BARs and capabilities, with Memory Space, I/O Space and Bus Master enabled.
    pub fn endpoint(bdf: Bdf) -> Self {
        Self::header(bdf, HeaderType::Type0, 0x1572_8086, 0x0002_0000)
    }

    /// A bridge without PCI Express Capability: conventional, unless [`capability`](Self::capability) adds one.
    pub fn bridge(bdf: Bdf, buses: RangeInclusive<u8>, windows: Windows) -> Self {
        let mut bridge = Self::header(bdf, HeaderType::Type1, 0x1901_8086, 0x0006_0400);
        let numbers = [bdf.bus(), *buses.start(), *buses.end(), 0];
        bridge.set(type1::BUS_NUMBERS, u32::from_le_bytes(numbers));
        bridge.open(windows);
        bridge
    }

    /// A bridge that is a port of PCI Express: its capabilities are PCI Express, Power Management and MSI.
    pub fn port(bdf: Bdf, kind: PortType, buses: RangeInclusive<u8>, windows: Windows) -> Self {
        Self::bridge(bdf, buses, windows)
            .capability(&Capability::Express(kind))
            .capability(&Capability::PowerManagement)
            .capability(&Capability::Msi)
    }

    /// A function with these registers. Space after the last of them reads zero up to 256 bytes; there is extended
    /// space only when the registers reach into it.
    pub fn raw(bdf: Bdf, mut config: Vec<u32>) -> Self {
        config.resize(if config.len() > 64 { 1024 } else { 64 }, 0);
        let after = |from: usize, end: usize| {
            let used = config.get(from..end).and_then(|dwords| dwords.iter().rposition(|dword| *dword != 0));
            used.map_or(from, |used| from + used + 1)
        };
        let free = [after(16, 64), after(64, 1024)];
        Self { bdf, name: String::new(), config, sizes: [0; 7], vf_sizes: [0; 6], quirks: Quirks::empty(), free }
    }

    /// Names it.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.to_string();
        self
    }

    /// Device ID (31:16) and Vendor ID (15:0).
    #[must_use]
    pub fn id(self, id: u32) -> Self {
        self.register(header::ID, id)
    }

    /// Class code, as in [`ClassCode`](crate::spec::header::ClassCode).
    #[must_use]
    pub fn class(self, class: u32) -> Self {
        self.register(header::CLASS, class << 8)
    }

    /// Makes Command what firmware left there.
    #[must_use]
    pub fn command(mut self, command: Command) -> Self {
        let status = self.value(header::COMMAND) & 0xffff_0000;
        self.set(header::COMMAND, status | u32::from(command.bits()));
        self
    }

    /// Sets Multi-Function Device. [`Builder`](super::Builder) does it by itself where functions share a device.
    #[must_use]
    pub fn multi_function(mut self) -> Self {
        self.set(header::HEADER_TYPE, self.value(header::HEADER_TYPE) | header::MULTI_FUNCTION);
        self
    }

    /// A BAR that decodes `size` bytes, at `address`. Sizes are rounded up to what a BAR can express.
    #[must_use]
    pub fn bar(mut self, index: usize, kind: BarKind, size: u64, address: u64) -> Self {
        let register = header::BAR0.index() + u16::try_from(index).unwrap_or(0);
        let low = u32::try_from(address & 0xffff_ffff).unwrap_or(0) & !kind.type_mask() | kind.type_bits();
        if let (Some(bar), Some(slot)) = (Dword::new(register), self.sizes[..ROM].get_mut(index)) {
            *slot = size;
            self.set(bar, low);
            if kind.is_64_bit() && index + 1 < ROM {
                self.set(Dword::holding(bar.offset() + 4), u32::try_from(address >> 32).unwrap_or(0));
            }
        }
        self
    }

    /// An Expansion ROM of `size` bytes at `address`, disabled.
    #[must_use]
    pub fn rom(mut self, size: u64, address: u32) -> Self {
        let register = HeaderType::of(self.value(header::HEADER_TYPE)).and_then(HeaderType::rom);
        if let Some(register) = register {
            self.sizes[ROM] = size;
            self.set(register, address & !BarKind::Rom.type_mask());
        }
        self
    }

    /// Enables the Expansion ROM.
    #[must_use]
    pub fn rom_enabled(mut self) -> Self {
        if let Some(register) = HeaderType::of(self.value(header::HEADER_TYPE)).and_then(HeaderType::rom) {
            self.set(register, self.value(register) | ROM_ENABLE);
        }
        self
    }

    /// Sizes of the decoders: BARs 0 to 5 and the ROM. For registers given as [`raw`](Self::raw).
    #[must_use]
    pub fn sizes(mut self, sizes: [u64; 7]) -> Self {
        self.sizes = sizes;
        self
    }

    /// Sizes of the VF BARs. For registers given as [`raw`](Self::raw).
    #[must_use]
    pub fn vf_sizes(mut self, sizes: [u64; 6]) -> Self {
        self.vf_sizes = sizes;
        self
    }

    /// Any register.
    #[must_use]
    pub fn register(mut self, dword: Dword, value: u32) -> Self {
        self.set(dword, value);
        self
    }

    /// Adds a way in which it deviates from the specification.
    #[must_use]
    pub fn quirk(mut self, quirk: Quirks) -> Self {
        self.quirks |= quirk;
        self
    }

    /// Appends a capability to the list, at the first free place. What does not fit is left out. PCI Express brings the
    /// extended space along.
    #[must_use]
    pub fn capability(mut self, capability: &Capability) -> Self {
        if matches!(capability, Capability::Express(_)) {
            self.config.resize(1024, 0);
        }
        let dwords = capability_dwords(capability);
        let last = self.last_capability();
        let Some(start) = self.place(0, 64, &dwords) else { return self };
        let pointer = u32::from(start.offset());
        match last {
            Some(last) => self.set(last, self.value(last) & 0xffff_00ff | pointer << 8),
            None => self.set(header::CAPABILITIES_POINTER, pointer),
        }
        let listed = u32::from(Status::CAPABILITIES_LIST.bits()) << 16;
        self.set(header::COMMAND, self.value(header::COMMAND) | listed);
        self
    }

    /// Appends an extended capability to the list, at the first free place. What does not fit is left out.
    #[must_use]
    pub fn extended(mut self, capability: &ExtendedCapability) -> Self {
        if let ExtendedCapability::SrIov { bars, .. } = capability {
            for (index, bar) in bars {
                if let Some(size) = self.vf_sizes.get_mut(usize::from(*index)) {
                    *size = bar.size;
                }
            }
        }
        self.config.resize(1024, 0);
        let dwords = extended_dwords(capability, &self.sizes);
        let last = super::capabilities::extended(&self.config).ok().and_then(|list| list.last().map(|entry| entry.1));
        let Some(start) = self.place(1, 1024, &dwords) else { return self };
        if let Some(last) = last {
            self.set(last, self.value(last) & 0xf_ffff | u32::from(start.offset()) << 20);
        }
        self
    }

    fn header(bdf: Bdf, kind: HeaderType, id: u32, class: u32) -> Self {
        let layout = match kind {
            HeaderType::Type0 => 0,
            HeaderType::Type1 => 1,
            HeaderType::CardBus => 2,
        };
        let enabled = Command::IO_SPACE_ENABLE | Command::MEMORY_SPACE_ENABLE | Command::BUS_MASTER_ENABLE;
        Self::raw(bdf, vec![0; 64]).id(id).class(class).register(header::HEADER_TYPE, layout << 16).command(enabled)
    }

    fn open(&mut self, windows: Windows) {
        // A closed window has its base above its limit. All of them can hold the wide form of addresses.
        let bounds = |window: Option<Span>, shift: u32| match window {
            Some(window) => (window.start() >> shift << shift, window.last()),
            None => (0xfff0_0000 >> 20 << shift, 0),
        };
        let low = |address: u64| u32::from_le_bytes(four(address.to_le_bytes()));
        let high = |address: u64| low(address >> 32);

        let (base, limit) = bounds(windows.memory, 20);
        self.set(type1::MEMORY_WINDOW, low(base) >> 16 & 0xfff0 | low(limit) & 0xfff0_0000);
        let (base, limit) = bounds(windows.prefetchable, 20);
        self.set(type1::PREFETCHABLE_WINDOW, low(base) >> 16 & 0xfff0 | low(limit) & 0xfff0_0000 | 0x0001_0001);
        self.set(type1::PREFETCHABLE_BASE_UPPER, high(base));
        self.set(type1::PREFETCHABLE_LIMIT_UPPER, high(limit));
        let (base, limit) = match windows.io {
            Some(window) => (low(window.start()), low(window.last())),
            None => (0xf000, 0),
        };
        self.set(type1::IO_WINDOW, base >> 8 & 0xf0 | limit & 0xf000 | 0x0101);
        self.set(type1::IO_UPPER, base >> 16 | limit & 0xffff_0000);
    }

    /// The last entry of the capability list.
    fn last_capability(&self) -> Option<Dword> {
        super::capabilities::standard(&self.config).ok()?.last().map(|entry| entry.1)
    }

    /// Writes a structure to the first free place of a list and tells where that is; `None` when it does not fit.
    fn place(&mut self, list: usize, end: usize, dwords: &[u32]) -> Option<Dword> {
        let start = self.free[list];
        let after = start + dwords.len();
        let first = u16::try_from(start).ok().and_then(Dword::new).filter(|_| after <= end)?;
        self.config[start..after].copy_from_slice(dwords);
        self.free[list] = after;
        Some(first)
    }

    pub(super) fn value(&self, dword: Dword) -> u32 {
        self.config.get(usize::from(dword.index())).copied().unwrap_or(0)
    }

    fn set(&mut self, dword: Dword, value: u32) {
        let index = usize::from(dword.index());
        if index >= self.config.len() {
            self.config.resize(1024, 0);
        }
        self.config[index] = value;
    }
}

/// The DWORDs of a capability, without its next pointer.
fn capability_dwords(capability: &Capability) -> Vec<u32> {
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
    let half = |value: u64| u32::from_le_bytes(four(value.to_le_bytes()));
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
fn extended_dwords(capability: &ExtendedCapability, sizes: &[u64; 7]) -> Vec<u32> {
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
            let [low, high] = [*number, number >> 32].map(|half| u32::from_le_bytes(four(half.to_le_bytes())));
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
        let [low, high] = [bar.address, bar.address >> 32].map(|half| u32::from_le_bytes(four(half.to_le_bytes())));
        if let Some(register) = registers.get_mut(index) {
            *register = low & !bar.kind.type_mask() | bar.kind.type_bits();
        }
        if let Some(upper) = registers.get_mut(index + 1).filter(|_| bar.kind.is_64_bit()) {
            *upper = high;
        }
    }
    registers
}

fn four(bytes: [u8; 8]) -> [u8; 4] {
    let [a, b, c, d, ..] = bytes;
    [a, b, c, d]
}

#[cfg(feature = "arbitrary")]
fn any_port_type(source: &mut arbitrary::Unstructured<'_>) -> arbitrary::Result<PortType> {
    source.choose(&[PortType::Endpoint, PortType::LegacyEndpoint, PortType::RootComplexIntegratedEndpoint]).copied()
}
