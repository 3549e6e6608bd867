//! One function: its registers, what they decode and what they forward.

use core::time::Duration;
use std::ops::RangeInclusive;
use std::string::String;
use std::vec::Vec;

use bitflags::bitflags;

use super::attributes::{self, AtReset, Attributes, Reset};
use super::capabilities::List;
use super::link::{Link, LinkState};
use super::virtual_function::Virtual;
use super::{Blueprint, FunctionId, ROM, capabilities};
use crate::access::{Dword, Lanes};
use crate::address::{Bdf, Span};
use crate::delta::Space;
use crate::spec::bar::{BarKind, ROM_ENABLE};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::express::{self, PortType};
use crate::spec::header::{self, ClassCode, Command, HeaderType};
use crate::spec::type1::{self, BridgeControl};
use crate::spec::{enhanced_allocation, resizable_bar, sriov};

bitflags! {
    /// Ways in which hardware deviates from the specification.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Quirks: u8 {
        /// An endpoint that ignores the device number: clones of it appear on its whole bus.
        const ANSWERS_EVERY_DEVICE = 1 << 0;
        /// A port that sends requests for every device number down its link, not only for device 0.
        const FORWARDS_EVERY_DEVICE = 1 << 1;
        /// A port that forwards whatever its PowerState.
        const FORWARDS_ASLEEP = 1 << 2;
    }
}

/// The decoder behind a Base Address Register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// Number of bytes: a power of two.
    pub size: u64,
}

impl Bar {
    /// A decoder of at least `size` bytes, rounded up to what the kind can express: 4 bytes of I/O, 16 of memory,
    /// 2 KiB of ROM, and a power of two. `None` for no bytes, or more than the kind can hold.
    pub(super) fn new(kind: BarKind, size: u64) -> Option<Self> {
        let least = u64::from(kind.type_mask()) + 1;
        let most = if kind.is_64_bit() { 1 << 63 } else { 1 << 31 };
        let size = size.checked_next_power_of_two().filter(|_| size != 0)?.max(least);
        (size <= most).then_some(Self { kind, size })
    }

    /// Address bits of the register and the one after it that are not hardwired to zero.
    pub(super) fn writable(self) -> [u32; 2] {
        let [a, b, c, d, low @ ..] = (!(self.size - 1)).to_be_bytes();
        let high = if self.kind.is_64_bit() { u32::from_be_bytes([a, b, c, d]) } else { 0 };
        [u32::from_be_bytes(low) & !self.kind.type_mask(), high]
    }
}

/// A function of a machine.
#[derive(Debug, Clone)]
pub struct Function {
    bdf: Bdf,
    name: String,
    config: Vec<u32>,
    attributes: Vec<Attributes>,
    bars: [Option<Bar>; 7],
    vf_bars: [Option<Bar>; 6],
    /// First VF Offset and VF Stride without ARI Capable Hierarchy and with it, where it changes them.
    pub(super) vf_offsets: Option<[u32; 2]>,
    express: Option<Dword>,
    fixed: Vec<Dword>,
    resizable: Option<Dword>,
    quirks: Quirks,
    standard: List<CapabilityId>,
    extended: List<ExtendedCapabilityId>,
    /// Its registers when the machine was built.
    initial: Vec<u32>,
    at_reset: Vec<AtReset>,
    /// The functions on its secondary bus.
    pub(super) children: Vec<FunctionId>,
    /// The bridge above; `None` on a root bus.
    pub(super) parent: Option<FunctionId>,
    /// The link below, if it is a port with one.
    pub(super) link: Option<Link>,
    /// Since when it answers; before, it is in reset or starts after one.
    pub(super) ready_at: Duration,
    /// Bus number of the last configuration write it took (2.2.6.2).
    pub(super) captured_bus: u8,
    /// For a Virtual Function: of which.
    pub(super) virtual_of: Option<Virtual>,
}

impl Function {
    pub(in crate::sim) fn new(blueprint: Blueprint) -> Self {
        let Blueprint { bdf, name, mut config, sizes, vf_sizes, vf_offset_with_ari, quirks, .. } = blueprint;
        let kind = capabilities::header_type(&config);
        let (standard, extended) = (capabilities::standard(&config), capabilities::extended(&config));

        let mut bars = [None; 7];
        if let Some(kind) = kind {
            decoders(&config, header::BAR0, &sizes[..kind.bars()], &mut bars[..kind.bars()]);
            bars[ROM] = kind.rom().and_then(|_| Bar::new(BarKind::Rom, sizes[ROM]));
        }
        let mut vf_bars = [None; 6];
        let first_vf_bar = extended.find(ExtendedCapabilityId::SR_IOV).and_then(|at| at.plus(sriov::VF_BAR0));
        if let Some(first) = first_vf_bar {
            decoders(&config, first, &vf_sizes, &mut vf_bars);
        }
        let attributes = attributes::of(&config, &bars, &vf_bars);
        let vf_offset = extended.find(ExtendedCapabilityId::SR_IOV).and_then(|at| at.plus(sriov::VF_OFFSET));
        let without_ari = vf_offset.map(|at| config[usize::from(at.index())]);
        let vf_offsets = without_ari.zip(vf_offset_with_ari).map(|(without, with)| [without, with]);

        // The address bits below a decoder's size are hardwired to zero.
        hardwire(&mut config, header::BAR0, &bars[..ROM]);
        if let Some(rom) = kind.and_then(HeaderType::rom) {
            hardwire(&mut config, rom, &bars[ROM..]);
        }
        if let Some(first) = first_vf_bar {
            hardwire(&mut config, first, &vf_bars);
        }

        let fixed = match (standard.find(CapabilityId::ENHANCED_ALLOCATION), kind) {
            (Some(at), Some(kind)) => attributes::enhanced_allocation_entries(&config, at, kind),
            _ => Vec::new(),
        };
        let (express, resizable) =
            (standard.find(CapabilityId::PCI_EXPRESS), extended.find(ExtendedCapabilityId::RESIZABLE_BAR));
        Self {
            bdf,
            name,
            initial: config.clone(),
            at_reset: attributes::at_reset(&config),
            config,
            attributes,
            bars,
            vf_bars,
            vf_offsets,
            express,
            fixed,
            resizable,
            quirks,
            standard,
            extended,
            children: Vec::new(),
            parent: None,
            link: None,
            ready_at: Duration::ZERO,
            captured_bus: bdf.bus(),
            virtual_of: None,
        }
    }

    /// Makes it a Virtual Function: its BARs are no registers, and of those only Bus Master Enable and resets are its own
    /// (9.3.4, 9.3.5).
    pub(super) fn make_virtual(&mut self, physical: &Self) {
        self.bars[..ROM].copy_from_slice(&physical.vf_bars);
        self.attributes[usize::from(header::COMMAND.index())].rw = Command::BUS_MASTER_ENABLE.bits().into();
        for index in
            [express::DEVICE_CONTROL, express::LINK_CONTROL, express::DEVICE_CONTROL_2, express::LINK_CONTROL_2]
        {
            if let Some(at) = self.express.and_then(|at| at.plus(index)) {
                self.attributes[usize::from(at.index())].rw = 0;
                self.set(at, self.read(at) & 0xffff_0000);
            }
        }
    }

    /// Puts a Virtual Function where its Physical Function says.
    pub(super) fn place_virtual(&mut self, own: Virtual, at: Bdf, parent: Option<FunctionId>) {
        (self.virtual_of, self.bdf, self.parent) = (Some(own), at, parent);
    }

    /// Its address when the machine was built.
    pub fn bdf(&self) -> Bdf {
        self.bdf
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its registers: 64 or 1024 DWORDs.
    pub fn config(&self) -> &[u32] {
        &self.config
    }

    /// How it deviates from the specification.
    pub fn quirks(&self) -> Quirks {
        self.quirks
    }

    /// The decoder of a BAR (0 to 5, [`ROM`] for the Expansion ROM); `None` when the register is not implemented, or
    /// is the upper half of a 64-bit BAR.
    pub fn bar(&self, index: usize) -> Option<Bar> {
        self.bars.get(index).copied().flatten()
    }

    /// All decoders of the header with their index.
    pub fn bars(&self) -> impl Iterator<Item = (usize, Bar)> {
        self.bars.iter().enumerate().filter_map(|(index, bar)| Some((index, (*bar)?)))
    }

    /// The decoder of a VF BAR (0 to 5), of one Virtual Function.
    pub fn vf_bar(&self, index: usize) -> Option<Bar> {
        self.vf_bars.get(index).copied().flatten()
    }

    /// The addresses a BAR holds now, decoded or not.
    pub fn bar_span(&self, index: usize) -> Option<Span> {
        if let Some(own) = self.virtual_of {
            return own.spans.get(index).copied().flatten();
        }
        let bar = self.bar(index)?;
        let register =
            if index == ROM { self.header_type()?.rom()? } else { header::BAR0.plus(index.try_into().ok()?)? };
        let low = u64::from(self.read(register) & !bar.kind.type_mask());
        let high = if bar.kind.is_64_bit() { u64::from(self.read(register.plus(1)?)) } else { 0 };
        Span::new(high << 32 | low, bar.size)
    }

    /// Whether a BAR decodes its addresses now: the Command register's enable, and the ROM's own.
    pub fn decodes(&self, index: usize) -> bool {
        if self.is_virtual() {
            return self.bar_span(index).is_some();
        }
        let Some(bar) = self.bar(index) else { return false };
        let rom = if index == ROM { self.header_type().and_then(HeaderType::rom) } else { None };
        self.enabled(if bar.kind.is_memory() { Space::Memory } else { Space::Io })
            && rom.is_none_or(|rom| self.read(rom) & ROM_ENABLE != 0)
    }

    /// The Command register.
    pub fn command(&self) -> Command {
        let [low, high, ..] = self.read(header::COMMAND).to_le_bytes();
        Command::from_bits_retain(u16::from_le_bytes([low, high]))
    }

    /// Layout of its header; `None` for layouts nobody defined.
    pub fn header_type(&self) -> Option<HeaderType> {
        capabilities::header_type(&self.config)
    }

    /// Its Device/Port Type; `None` without a PCI Express Capability.
    pub fn port_type(&self) -> Option<PortType> {
        self.express.map(|at| PortType::of(self.read(at)))
    }

    /// Whether it has a PCI Express Capability.
    pub(super) fn is_express(&self) -> bool {
        self.express.is_some()
    }

    /// Whether it is a port with a link below.
    pub(super) fn leads_down_a_link(&self) -> bool {
        self.port_type().is_some_and(PortType::leads_down_a_link) && self.is_bridge()
    }

    /// Whether it is a bridge to a bus without links.
    pub(super) fn leads_to_a_bus(&self) -> bool {
        let bridges = [HeaderType::Type1, HeaderType::CardBus];
        self.header_type().is_some_and(|kind| bridges.contains(&kind))
            && matches!(self.port_type(), None | Some(PortType::PciExpressToPciBridge))
    }

    /// Whether a slot belongs to it.
    pub(super) fn has_slot(&self) -> bool {
        self.leads_down_a_link() && self.express(0) & express::SLOT_IMPLEMENTED != 0
    }

    /// Whether its header is a PCI-to-PCI bridge's.
    pub(super) fn is_bridge(&self) -> bool {
        self.header_type() == Some(HeaderType::Type1)
    }

    /// A DWORD of the PCI Express Capability; zero without it.
    pub(super) fn express(&self, index: u16) -> u32 {
        self.express.and_then(|at| at.plus(index)).map_or(0, |at| self.read(at))
    }

    /// Sets a DWORD of the PCI Express Capability, if there is one.
    pub(super) fn set_express(&mut self, index: u16, value: u32) {
        if let Some(at) = self.express.and_then(|at| at.plus(index)) {
            self.set(at, value);
        }
    }

    /// Max_Payload_Size in bytes; conventional functions have no limit.
    pub(super) fn max_payload(&self) -> u32 {
        let size = self.express(express::DEVICE_CONTROL) & express::MAX_PAYLOAD_SIZE;
        if self.is_express() { 128 << (size >> 5) } else { u32::MAX }
    }

    /// Where a capability starts.
    pub(super) fn standard(&self, id: CapabilityId) -> Option<Dword> {
        self.standard.find(id)
    }

    /// Where an extended capability starts.
    pub(super) fn extended(&self, id: ExtendedCapabilityId) -> Option<Dword> {
        self.extended.find(id)
    }

    pub(super) fn forwards_in_this_state(&self) -> bool {
        self.power_state() == 0 || self.quirks.contains(Quirks::FORWARDS_ASLEEP)
    }

    /// Whether requests pass between its two sides: in D0, with its link up, and not while it resets the other side.
    pub(super) fn is_open(&self) -> bool {
        self.forwards_in_this_state()
            && match self.link {
                Some(link) => matches!(link.state, LinkState::Active | LinkState::Retraining),
                None => !self.is_bridge() || self.read(type1::BRIDGE_CONTROL) & type1::SECONDARY_BUS_RESET == 0,
            }
    }

    /// The buses behind it, if it is a bridge and they are any: Secondary to Subordinate Bus Number.
    pub fn buses(&self) -> Option<RangeInclusive<u8>> {
        match self.header_type()? {
            HeaderType::Type0 => None,
            HeaderType::Type1 | HeaderType::CardBus => {
                let [_, secondary, subordinate, _] = self.read(type1::BUS_NUMBERS).to_le_bytes();
                (secondary <= subordinate).then_some(secondary..=subordinate)
            }
        }
    }

    /// The windows a bridge forwards now, if it is one and Command enables them.
    pub fn windows(&self) -> Vec<(Space, Span)> {
        let windows = self.programmed_windows().into_iter();
        windows.filter(|(space, _)| self.enabled(*space)).collect()
    }

    /// The windows in a bridge's registers, enabled or not.
    pub fn programmed_windows(&self) -> Vec<(Space, Span)> {
        match self.header_type() {
            Some(HeaderType::Type1) => self.type_1_windows(),
            Some(HeaderType::CardBus) => self.card_bus_windows(),
            _ => Vec::new(),
        }
    }

    /// The ranges of enabled entries of Enhanced Allocation, with the BAR each stands for.
    pub fn fixed_ranges(&self) -> Vec<(usize, Space, Span)> {
        self.fixed.iter().filter_map(|entry| self.fixed_range(*entry)).collect()
    }

    /// Whether it forwards an address to its secondary side.
    pub(super) fn forwards(&self, space: Space, address: u64) -> bool {
        self.forwards_in_this_state()
            && self.windows().iter().any(|(of, window)| *of == space && window.contains(address))
            && !(space == Space::Io && self.is_isa_only(address))
    }

    /// Whether it forwards what nobody else on its bus claims (PCI-to-PCI Bridge Architecture 1.2, 3.3: subtractive
    /// decode, programming interface 01h).
    pub(super) fn forwards_the_rest(&self, space: Space) -> bool {
        ClassCode::of(self.read(header::CLASS)).0 == 0x0006_0401 && self.enabled(space) && self.is_open()
    }

    /// Whether requests for this device and function number pass to its secondary bus: down a link only device 0
    /// does, or every function number once ARI Forwarding is enabled (7.5.3.16).
    pub(in crate::sim) fn passes(&self, target: Bdf) -> bool {
        let link = self.port_type().is_some_and(PortType::leads_down_a_link);
        !link || target.device() == 0 || self.quirks.contains(Quirks::FORWARDS_EVERY_DEVICE) || self.forwards_ari()
    }

    /// The BARs and fixed ranges that decode an address, with the offset into them: none outside D0.
    pub(super) fn hits(&self, space: Space, address: u64) -> Vec<(usize, u64)> {
        if self.power_state() != 0 {
            return Vec::new();
        }
        let bars = self.bars().filter(|(_, bar)| bar.kind.is_memory() == (space == Space::Memory));
        let bars = bars.filter(|(index, _)| self.decodes(*index));
        let bars = bars.filter_map(|(index, _)| Some((index, self.bar_span(index)?)));
        let fixed = self.fixed_ranges().into_iter().filter(|(_, of, _)| *of == space && self.enabled(space));
        let fixed = fixed.map(|(index, _, span)| (index, span));
        bars.chain(fixed)
            .filter(|(_, span)| span.contains(address))
            .map(|(index, span)| (index, address - span.start()))
            .collect()
    }

    pub(super) fn read(&self, dword: Dword) -> u32 {
        match self.config.get(usize::from(dword.index())) {
            Some(value) => *value,
            // A PCI Express function has extended space, if an empty one; a conventional one does not answer there.
            None if self.express.is_some() => 0,
            None => !0,
        }
    }

    pub(super) fn write(&mut self, dword: Dword, lanes: Lanes, value: u32) {
        let index = usize::from(dword.index());
        let Some(attributes) = self.attributes.get(index) else { return };
        let new = attributes.write(self.config[index], lanes, value);
        self.set(dword, new);
        self.resize(dword);
    }

    pub(super) fn set(&mut self, dword: Dword, value: u32) {
        if let Some(register) = self.config.get_mut(usize::from(dword.index())) {
            *register = value;
        }
    }

    /// Forgets what a reset of this kind makes it forget.
    pub(super) fn reset(&mut self, kind: Reset) {
        let mut resized = Vec::new();
        let first = self.resizable.and_then(|at| at.plus(resizable_bar::control(0)));
        for index in 0..self.config.len() {
            let (attributes, old) = (self.attributes[index], self.config[index]);
            self.config[index] = self.at_reset[index].apply(kind, old, attributes.rw | attributes.rw1c);
            let dword = u16::try_from(index).ok().and_then(Dword::new);
            resized
                .extend(dword.filter(|dword| self.config[index] != old && first.is_some_and(|first| *dword >= first)));
        }
        for dword in resized {
            self.resize(dword);
        }
        if kind != Reset::Function {
            self.captured_bus = 0;
        }
    }

    /// Gives the writable bits of a register the values they had when the machine was built.
    pub(super) fn restore_writable(&mut self, dword: Dword) {
        let index = usize::from(dword.index());
        let (Some(attributes), Some(initial)) = (self.attributes.get(index), self.initial.get(index)) else { return };
        let restored = self.read(dword) & !attributes.rw | initial & attributes.rw;
        self.set(dword, restored);
    }

    /// A write to Resizable BAR Control changes the size of its BAR (7.8.6.3).
    fn resize(&mut self, written: Dword) {
        let Some(first) = self.resizable.and_then(|at| at.plus(2)) else { return };
        let count = self.read(first) >> 5 & 0b111;
        let inside = written.index().checked_sub(first.index()).filter(|index| index % 2 == 0);
        if inside.is_none_or(|index| u32::from(index / 2) >= count) {
            return;
        }
        let control = self.read(written);
        let index = (control & 0b111) as usize;
        let Some(bar) = self.bar(index).filter(|_| index < ROM) else { return };
        // BAR Size: 0 is 1 MiB, 1 is 2 MiB, ...
        let size = 1_u64.checked_shl((control >> 8 & 0x3f) + 20).unwrap_or(0);
        let Some(resized) = Bar::new(bar.kind, size) else { return };
        self.bars[index] = Some(resized);
        self.attributes = attributes::of(&self.config, &self.bars, &self.vf_bars);
        hardwire(&mut self.config, header::BAR0, &self.bars[..ROM]);
    }

    fn enabled(&self, space: Space) -> bool {
        self.command().contains(match space {
            Space::Memory => Command::MEMORY_SPACE_ENABLE,
            Space::Io => Command::IO_SPACE_ENABLE,
        })
    }

    fn forwards_ari(&self) -> bool {
        let control = self.express.and_then(|at| at.plus(express::DEVICE_CONTROL_2));
        control.is_some_and(|at| self.read(at) & express::ARI_FORWARDING_ENABLE != 0)
    }

    /// ISA Enable: the last 768 bytes of each KiB of the first 64 KiB stay on the primary side (7.5.1.3.13).
    fn is_isa_only(&self, port: u64) -> bool {
        let control = self.read(type1::BRIDGE_CONTROL) >> 16;
        control & u32::from(BridgeControl::ISA_ENABLE.bits()) != 0 && port < 0x1_0000 && port & 0x300 != 0
    }

    fn type_1_windows(&self) -> Vec<(Space, Span)> {
        let io = self.read(type1::IO_WINDOW);
        let upper = if io & 0xf == 1 { self.read(type1::IO_UPPER) } else { 0 };
        let io = Span::from_bounds(
            u64::from((upper & 0xffff) << 16 | (io & 0xf0) << 8),
            u64::from(upper & 0xffff_0000 | io & 0xf000 | 0xfff),
        );
        let memory = self.read(type1::MEMORY_WINDOW);
        let memory = Span::from_bounds(base(memory), limit(memory));
        let prefetchable = self.read(type1::PREFETCHABLE_WINDOW);
        let upper = |register| if prefetchable & 0xf == 1 { u64::from(self.read(register)) << 32 } else { 0 };
        let prefetchable = Span::from_bounds(
            upper(type1::PREFETCHABLE_BASE_UPPER) | base(prefetchable),
            upper(type1::PREFETCHABLE_LIMIT_UPPER) | limit(prefetchable),
        );
        let exists = |register: Dword, bits| self.attributes[usize::from(register.index())].rw & bits != 0;
        [
            (Space::Io, io.filter(|_| exists(type1::IO_WINDOW, 0xffff))),
            (Space::Memory, memory),
            (Space::Memory, prefetchable.filter(|_| exists(type1::PREFETCHABLE_WINDOW, !0))),
        ]
        .into_iter()
        .filter_map(|(space, window)| Some((space, window?)))
        .collect()
    }

    fn card_bus_windows(&self) -> Vec<(Space, Span)> {
        let window = |offset: u16, low: u32| {
            let (base, limit) = (self.read(Dword::holding(offset)), self.read(Dword::holding(offset + 4)));
            // A limit of zero is an unused window: nobody puts a card at address zero.
            Span::from_bounds(u64::from(base & !low), u64::from(limit | low)).filter(|_| limit & !low != 0)
        };
        [(Space::Memory, 0x1c, 0xfff), (Space::Memory, 0x24, 0xfff), (Space::Io, 0x2c, 3), (Space::Io, 0x34, 3)]
            .into_iter()
            .filter_map(|(space, offset, low)| Some((space, window(offset, low)?)))
            .collect()
    }

    /// An enabled entry of Enhanced Allocation (7.8.5.3) that stands for a BAR or the ROM of this function.
    fn fixed_range(&self, entry: Dword) -> Option<(usize, Space, Span)> {
        let first = self.read(entry);
        let equivalent = match first >> 4 & 0xf {
            bar @ 0..=5 => bar as usize,
            8 => ROM,
            _ => return None,
        };
        let space = match first >> 8 & 0xff {
            0 | 1 => Space::Memory,
            2 => Space::Io,
            _ => return None,
        };
        if first & enhanced_allocation::ENABLE == 0 {
            return None;
        }
        let (base, offset) = (self.read(entry.plus(1)?), self.read(entry.plus(2)?));
        let mut upper = 3;
        let mut field = |low: u32| {
            // Bit 1: the upper half follows behind the lower halves.
            let mut value = u64::from(low & !3);
            if low & 2 != 0 {
                value |= u64::from(self.read(entry.plus(upper)?)) << 32;
                upper += 1;
            }
            Some(value)
        };
        let (base, offset) = (field(base)?, field(offset)? | 3);
        Some((equivalent, space, Span::from_bounds(base, base.checked_add(offset)?)?))
    }
}

/// The decoders of a run of Base Address Registers.
fn decoders(config: &[u32], first: Dword, sizes: &[u64], bars: &mut [Option<Bar>]) {
    let mut index = 0;
    while index < sizes.len().min(bars.len()) {
        let raw = config.get(usize::from(first.index()) + index).copied().unwrap_or(0);
        let kind = BarKind::of(raw);
        let fits = !kind.is_64_bit() || index + 1 < bars.len();
        bars[index] = Bar::new(kind, sizes[index]).filter(|_| fits);
        index += if kind.is_64_bit() { 2 } else { 1 };
    }
}

fn hardwire(config: &mut [u32], first: Dword, bars: &[Option<Bar>]) {
    for (index, bar) in (usize::from(first.index())..).zip(bars) {
        let Some(bar) = bar else { continue };
        let [low, high] = bar.writable();
        let own = if bar.kind == BarKind::Rom { ROM_ENABLE } else { bar.kind.type_mask() };
        config[index] &= low | own;
        if bar.kind.is_64_bit() {
            config[index + 1] &= high;
        }
    }
}

/// Base of a memory window whose DWORD holds base (15:4) and limit (31:20), address bits 31:20 each.
fn base(window: u32) -> u64 {
    u64::from((window & 0xfff0) << 16)
}

fn limit(window: u32) -> u64 {
    u64::from(window & 0xfff0_0000 | 0xf_ffff)
}
