//! One function of the host: its header, what it decodes, its capabilities.

use heapless::Vec;
use zerocopy::{FromBytes, IntoBytes};

use super::bridge::Bridge;
use super::list::{self, Capability, ExtendedCapability, ListFault};
use crate::access::Dword;
use crate::address::{Bdf, Host, Span};
use crate::delta::Space;
use crate::spec::bar::{BarKind, ROM_ENABLE};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::express::{self, PortType};
use crate::spec::header::{self, ClassCode, Command, HeaderType};
use crate::spec::type0::Type0;
use crate::spec::{enhanced_allocation, msix, resizable_bar, sriov};

/// Number the Expansion ROM has among the Base Address Registers.
pub const ROM: usize = 6;

/// Number VF BAR0 has among the BARs findings speak of; five more follow.
pub const VF_BAR: usize = 7;

/// A function as the hardware has it when the topology is made.
#[derive(Debug, Clone)]
pub struct Function {
    bdf: Bdf,
    /// The first 64 bytes.
    header: [u32; 16],
    header_type: HeaderType,
    /// Base Address Registers 0 to 5, then the Expansion ROM.
    bars: [Option<Bar>; 7],
    capabilities: Vec<Capability, { list::CAPABILITIES }>,
    extended: Vec<ExtendedCapability, { list::EXTENDED }>,
    fault: Option<ListFault>,
    has_extended_space: bool,
    express: Option<Express>,
    msix: Option<MsiX>,
    sriov: Option<SrIov>,
    resizable_bars: Option<ResizableBars>,
    enhanced_allocation: Option<EnhancedAllocation>,
}

/// Sizes in bytes of what a function decodes, powers of two; 0 where there is nothing, or where it is not known.
/// The register that holds the upper half of a 64-bit BAR has size 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BarSizes {
    /// Base Address Registers 0 to 5.
    pub bars: [u64; 6],
    /// The Expansion ROM.
    pub rom: u64,
    /// VF BARs 0 to 5, for one Virtual Function.
    pub vf_bars: [u64; 6],
}

/// What a Base Address Register decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    number: u8,
    kind: BarKind,
    size: u64,
    address: u64,
    rom_enabled: bool,
}

/// The PCI Express Capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Express {
    /// Where it starts.
    pub dword: Dword,
    /// Device/Port Type.
    pub port_type: PortType,
    /// Its registers when the topology was made; zero past the end of a version 1 structure.
    pub registers: [u32; express::DWORDS as usize],
}

/// Where the MSI-X Table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsiX {
    /// Number of the BAR.
    pub bar: usize,
    /// First byte in the BAR.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// The SR-IOV capability of a Physical Function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SrIov {
    /// Where it starts.
    pub dword: Dword,
    /// TotalVFs.
    pub total_vfs: u16,
    /// First VF Offset, from the Physical Function on; 0 when it depends on how many Virtual Functions there are.
    pub first_vf_offset: u16,
    /// VF Stride.
    pub vf_stride: u16,
    /// First VF Offset and VF Stride once ARI Capable Hierarchy is set, where it was not, can be, and that may change them.
    pub with_ari: Option<[u16; 2]>,
    /// Its registers when the topology was made.
    pub registers: [u32; sriov::DWORDS as usize],
    /// VF BARs, with the size one Virtual Function has.
    pub vf_bars: [Option<Bar>; 6],
}

/// The Resizable BAR capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResizableBars {
    /// Where it starts.
    pub dword: Dword,
    /// The Control register of each Resizable BAR, when the topology was made.
    pub controls: [Option<u32>; 6],
}

/// The Enhanced Allocation capability: BAR equivalents at addresses software cannot change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnhancedAllocation {
    /// Where it starts.
    pub dword: Dword,
    /// Whether an entry is enabled, so that the function decodes a fixed address.
    pub enabled: bool,
}

impl Function {
    /// The function whose configuration space starts with these bytes: 64, 256 or 4096 of them. Registers beyond are
    /// taken for zero.
    pub fn from_bytes(bdf: Host<Bdf>, bytes: &[u8], sizes: &BarSizes) -> Self {
        let read = |dword: Dword| {
            let offset = usize::from(dword.offset());
            bytes.get(offset..).and_then(|tail| tail.first_chunk()).map_or(0, |raw| u32::from_le_bytes(*raw))
        };
        Self::from_registers(bdf, bytes.len() > 256, read, sizes)
    }

    /// The function whose registers `read` answers, with extended configuration space or without.
    pub fn from_registers(
        bdf: Host<Bdf>,
        has_extended_space: bool,
        mut read: impl FnMut(Dword) -> u32,
        sizes: &BarSizes,
    ) -> Self {
        let header = core::array::from_fn(|index| read(nth(Dword::holding(0), index)));
        // A layout nobody defined has nothing we could read beyond the first 16 bytes; Type 0 without BARs says that.
        let header_type = HeaderType::of(read(header::HEADER_TYPE)).unwrap_or(HeaderType::Type0);
        let (capabilities, fault) = list::capabilities(header_type, &mut read);
        let (extended, extended_fault) =
            if has_extended_space { list::extended_capabilities(&mut read) } else { (Vec::new(), None) };
        let at = |id: CapabilityId| capabilities.iter().find(|entry| entry.id == id).map(|entry| entry.dword);
        let extended_at =
            |id: ExtendedCapabilityId| extended.iter().find(|entry| entry.id == id).map(|entry| entry.dword);
        Self {
            bdf: bdf.0,
            header,
            header_type,
            bars: bars(header_type, &header, sizes),
            express: at(CapabilityId::PCI_EXPRESS).map(|dword| Express::read(dword, &mut read)),
            msix: at(CapabilityId::MSI_X).map(|dword| MsiX::read(dword, &mut read)),
            enhanced_allocation: at(CapabilityId::ENHANCED_ALLOCATION)
                .map(|dword| EnhancedAllocation::read(dword, &mut read)),
            sriov: extended_at(ExtendedCapabilityId::SR_IOV).map(|dword| SrIov::read(dword, &mut read, sizes)),
            resizable_bars: extended_at(ExtendedCapabilityId::RESIZABLE_BAR)
                .map(|dword| ResizableBars::read(dword, &mut read)),
            capabilities,
            extended,
            fault: fault.or(extended_fault),
            has_extended_space,
        }
    }

    /// Its address.
    pub const fn bdf(&self) -> Host<Bdf> {
        Host(self.bdf)
    }

    /// A register of the header as it was when the topology was made; zero outside the header.
    pub fn header(&self, dword: Dword) -> u32 {
        self.header.get(usize::from(dword.index())).copied().unwrap_or(0)
    }

    /// Layout of the header.
    pub const fn header_type(&self) -> HeaderType {
        self.header_type
    }

    /// Device ID (31:16) and Vendor ID (15:0).
    pub fn id(&self) -> u32 {
        self.header(header::ID)
    }

    /// Class code.
    pub fn class(&self) -> ClassCode {
        ClassCode::of(self.header(header::CLASS))
    }

    /// Command as it was when the topology was made.
    pub fn command(&self) -> Command {
        let [low, high, ..] = self.header(header::COMMAND).to_le_bytes();
        Command::from_bits_retain(u16::from_le_bytes([low, high]))
    }

    /// Whether Header Type says that the device has other functions.
    pub fn is_multi_function(&self) -> bool {
        self.header(header::HEADER_TYPE) & header::MULTI_FUNCTION != 0
    }

    /// Interrupt Pin: 1 to 4 for INTA to INTD, 0 for none.
    pub fn interrupt_pin(&self) -> u8 {
        self.header(header::INTERRUPT).to_le_bytes()[1]
    }

    /// The Type 0 header, if it has one.
    pub fn type0(&self) -> Option<&Type0> {
        if self.header_type == HeaderType::Type0 { Type0::ref_from_bytes(self.header.as_bytes()).ok() } else { None }
    }

    /// The routing registers of a bridge with a bus behind it.
    pub fn bridge(&self) -> Option<Bridge> {
        Bridge::of(self.header_type, self.header.as_bytes())
    }

    /// What the Base Address Registers and, last, the Expansion ROM decode.
    pub fn bars(&self) -> impl Iterator<Item = &Bar> {
        self.bars.iter().flatten()
    }

    /// Base Address Register 0 to 5, or the Expansion ROM ([`ROM`]).
    pub fn bar(&self, number: usize) -> Option<&Bar> {
        self.bars.get(number)?.as_ref()
    }

    /// The capabilities, in the order of the list.
    pub fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    /// The extended capabilities, in the order of the list.
    pub fn extended_capabilities(&self) -> &[ExtendedCapability] {
        &self.extended
    }

    /// Where a capability starts.
    pub fn capability(&self, id: CapabilityId) -> Option<Dword> {
        self.capabilities.iter().find(|entry| entry.id == id).map(|entry| entry.dword)
    }

    /// Where an extended capability starts.
    pub fn extended_capability(&self, id: ExtendedCapabilityId) -> Option<Dword> {
        self.extended.iter().find(|entry| entry.id == id).map(|entry| entry.dword)
    }

    /// Why a capability list was cut, if one was.
    pub const fn list_fault(&self) -> Option<ListFault> {
        self.fault
    }

    /// Whether it answers beyond the first 256 bytes.
    pub const fn has_extended_space(&self) -> bool {
        self.has_extended_space
    }

    /// The PCI Express Capability.
    pub const fn express(&self) -> Option<&Express> {
        self.express.as_ref()
    }

    /// The MSI-X Table.
    pub const fn msix(&self) -> Option<MsiX> {
        self.msix
    }

    /// The SR-IOV capability.
    pub const fn sriov(&self) -> Option<&SrIov> {
        self.sriov.as_ref()
    }

    /// What they are once ARI Capable Hierarchy is set.
    pub(super) fn set_vf_addresses_with_ari(&mut self, addresses: [u16; 2]) {
        if let Some(sriov) = &mut self.sriov {
            sriov.with_ari = Some(addresses);
        }
    }

    /// Whether it is a port that can forward to all device numbers (6.13).
    pub(crate) fn can_forward_by_ari(&self) -> bool {
        self.express().is_some_and(|express| {
            express.has_second_set()
                && express.register(express::DEVICE_CAPABILITIES_2) & express::ARI_FORWARDING_SUPPORTED != 0
        })
    }

    /// What First VF Offset and VF Stride turned out to be, whatever they read when NumVFs is zero.
    pub(super) fn set_vf_addresses(&mut self, [first_vf_offset, vf_stride]: [u16; 2]) {
        if let Some(sriov) = &mut self.sriov {
            (sriov.first_vf_offset, sriov.vf_stride) = (first_vf_offset, vf_stride);
        }
    }

    /// The Resizable BAR capability.
    pub const fn resizable_bars(&self) -> Option<&ResizableBars> {
        self.resizable_bars.as_ref()
    }

    /// The Enhanced Allocation capability.
    pub const fn enhanced_allocation(&self) -> Option<EnhancedAllocation> {
        self.enhanced_allocation
    }

    /// Whether it decodes addresses nobody can move.
    pub(crate) fn has_fixed_addresses(&self) -> bool {
        self.enhanced_allocation().is_some_and(|allocation| allocation.enabled)
    }

    /// Whether what no other function claims goes to the bus behind it: a bridge of interface 01h (PCI-to-PCI Bridge
    /// Architecture 1.2, 4.9), or a CardBus bridge, whose windows belong to its socket.
    pub fn decodes_subtractively(&self) -> bool {
        self.header_type == HeaderType::CardBus || self.class().is_pci_bridge() && self.class().0 & 0xff == 1
    }

    /// Whether a link leads down from it, so that stock Linux looks for device 0 only behind it (`only_one_child`).
    pub fn leads_down_a_link(&self) -> bool {
        self.express.is_some_and(|express| express.port_type.leads_down_a_link())
    }
}

impl Bar {
    /// Its number: 0 to 5, or [`ROM`].
    pub fn number(&self) -> usize {
        self.number.into()
    }

    /// The register, relative to the first Base Address Register of a Type 0 header for VF BARs.
    pub fn dword(&self, header_type: HeaderType) -> Dword {
        if self.number() == ROM { header_type.rom().unwrap_or(header::BAR0) } else { nth(header::BAR0, self.number()) }
    }

    /// What kind of register it is.
    pub const fn kind(&self) -> BarKind {
        self.kind
    }

    /// Number of bytes, a power of two.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The space it decodes.
    pub const fn space(&self) -> Space {
        if self.kind.is_memory() { Space::Memory } else { Space::Io }
    }

    /// What it decodes; `None` when it was never given an address.
    pub const fn span(&self) -> Option<Host<Span>> {
        if self.address == 0 {
            return None;
        }
        match Span::new(self.address, self.size) {
            Some(span) => Some(Host(span)),
            None => None,
        }
    }

    /// What a VF BAR decodes for so many Virtual Functions together; `None` for none, and where it has no address.
    pub(crate) fn span_of_all(&self, count: u16) -> Option<Host<Span>> {
        let Host(first) = self.span()?;
        Span::new(first.start(), self.size.saturating_mul(count.into())).map(Host)
    }

    /// Whether the Expansion ROM's own enable was set.
    pub const fn is_rom_enabled(&self) -> bool {
        self.rom_enabled
    }

    /// The BAR of this number and size whose register, and the one after it, read so. `None` when the size is no
    /// power of two its register could have.
    fn new(number: usize, kind: BarKind, size: u64, low: u32, high: u32) -> Option<Self> {
        let smallest = u64::from(kind.type_mask()).saturating_add(1);
        let largest = if kind.is_64_bit() { 1 << 63 } else { 1 << 31 };
        if !size.is_power_of_two() || size < smallest || size > largest {
            return None;
        }
        let high = if kind.is_64_bit() { u64::from(high) << 32 } else { 0 };
        let address = (high | u64::from(low & !kind.type_mask())) & !size.wrapping_sub(1);
        let rom_enabled = kind == BarKind::Rom && low & ROM_ENABLE != 0;
        Some(Self { number: u8::try_from(number).ok()?, kind, size, address, rom_enabled })
    }
}

/// The `index`th DWORD from `first` on; tables of registers stay inside configuration space.
fn nth(first: Dword, index: usize) -> Dword {
    u16::try_from(index).ok().and_then(|index| first.plus(index)).unwrap_or(first)
}

/// Pairs the registers of a table of BARs with their sizes.
fn table<const COUNT: usize>(raw: &[u32; COUNT], sizes: &[u64; COUNT], limit: usize) -> [Option<Bar>; COUNT] {
    let mut is_upper_half = false;
    core::array::from_fn(|number| {
        if is_upper_half || number >= limit {
            is_upper_half = false;
            return None;
        }
        let low = raw.get(number).copied()?;
        let high = raw.get(number.wrapping_add(1)).copied().unwrap_or(0);
        let bar = Bar::new(number, BarKind::of(low), sizes.get(number).copied()?, low, high)?;
        is_upper_half = bar.kind.is_64_bit();
        Some(bar)
    })
}

fn bars(header_type: HeaderType, header: &[u32; 16], sizes: &BarSizes) -> [Option<Bar>; 7] {
    let raw: [u32; 6] = core::array::from_fn(|index| header.get(index.wrapping_add(4)).copied().unwrap_or(0));
    let table = table(&raw, &sizes.bars, header_type.bars());
    let rom = header_type.rom().and_then(|dword| {
        let raw = header.get(usize::from(dword.index())).copied()?;
        Bar::new(ROM, BarKind::Rom, sizes.rom, raw, 0)
    });
    core::array::from_fn(|number| if number == ROM { rom } else { table.get(number).copied().flatten() })
}

impl Express {
    /// The `index`th register, as it was when the topology was made.
    pub fn register(&self, index: u16) -> u32 {
        self.registers.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Whether the structure has the second set of registers, from Device Capabilities 2 on: version 2 (7.5.3.2).
    pub fn has_second_set(&self) -> bool {
        self.register(0) >> 16 & 0xf >= 2
    }

    fn read(dword: Dword, read: &mut impl FnMut(Dword) -> u32) -> Self {
        let first = read(dword);
        let count = usize::from(express::dwords(first));
        let registers = core::array::from_fn(|index| if index < count { read(nth(dword, index)) } else { 0 });
        Self { dword, port_type: PortType::of(first), registers }
    }
}

impl MsiX {
    fn read(dword: Dword, read: &mut impl FnMut(Dword) -> u32) -> Self {
        let table = read(nth(dword, msix::TABLE.into()));
        let entries = u64::from(msix::table_entries(read(dword)));
        Self { bar: msix::bir(table), offset: msix::offset(table), len: entries.saturating_mul(msix::ENTRY) }
    }
}

impl SrIov {
    /// The `index`th register, as it was when the topology was made.
    pub fn register(&self, index: u16) -> u32 {
        self.registers.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Whether there were Virtual Functions when the topology was made.
    pub fn is_enabled(&self) -> bool {
        self.register(sriov::CONTROL) & sriov::VF_ENABLE != 0
    }

    /// How many there were then.
    pub fn enabled_vfs(&self) -> u16 {
        let [count, _] = sriov::halves(self.register(sriov::NUM_VFS));
        if self.is_enabled() { count.min(self.total_vfs) } else { 0 }
    }

    /// Whether they decoded memory then.
    pub(crate) fn is_decoding(&self) -> bool {
        self.is_enabled() && self.register(sriov::CONTROL) & sriov::VF_MEMORY_SPACE_ENABLE != 0
    }

    /// What all VF BARs that have an address decode for all the Virtual Functions there can be.
    pub(crate) fn spans(&self) -> impl Iterator<Item = Host<Span>> {
        self.vf_bars.iter().flatten().filter_map(|bar| bar.span_of_all(self.total_vfs))
    }

    fn read(dword: Dword, read: &mut impl FnMut(Dword) -> u32, sizes: &BarSizes) -> Self {
        let registers: [u32; sriov::DWORDS as usize] = core::array::from_fn(|index| read(nth(dword, index)));
        let register = |index: u16| registers.get(usize::from(index)).copied().unwrap_or(0);
        let [_, total_vfs] = sriov::halves(register(sriov::TOTAL_VFS));
        let [first_vf_offset, vf_stride] = sriov::halves(register(sriov::VF_OFFSET));
        let raw: [u32; 6] =
            core::array::from_fn(|index| register(sriov::VF_BAR0.saturating_add(u16::try_from(index).unwrap_or(0))));
        let vf_bars = table(&raw, &sizes.vf_bars, 6);
        Self { dword, total_vfs, first_vf_offset, vf_stride, with_ari: None, registers, vf_bars }
    }
}

impl ResizableBars {
    fn read(dword: Dword, read: &mut impl FnMut(Dword) -> u32) -> Self {
        let mut control = |bar: u16| read(nth(dword, resizable_bar::control(bar).into()));
        let count = resizable_bar::count(control(0));
        let bars = 0..count.min(6);
        Self {
            dword,
            controls: core::array::from_fn(|bar| {
                u16::try_from(bar).ok().filter(|bar| bars.contains(bar)).map(&mut control)
            }),
        }
    }
}

impl EnhancedAllocation {
    fn read(dword: Dword, read: &mut impl FnMut(Dword) -> u32) -> Self {
        // 7.8.5.1: a Type 1 function has one more DWORD before the entries; reading it as an entry finds no Enable.
        let mut entry = nth(dword, 1);
        let mut enabled = false;
        for _ in 0..enhanced_allocation::entries(read(dword)) {
            let first = read(entry);
            enabled |= first & enhanced_allocation::ENABLE != 0;
            entry = nth(entry, usize::from(enhanced_allocation::entry_size(first)).saturating_add(1));
        }
        Self { dword, enabled }
    }
}
