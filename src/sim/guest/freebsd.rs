//! FreeBSD 14 on x86: sys/dev/pci/pci.c and pci_pci.c. Every bus has 32 slots, whatever leads to it; firmware's
//! addresses are kept where they fit; windows of bridges grow on demand.

use std::format;
use std::string::String;
use std::vec::Vec;

use super::Boot;
use super::capability::{find, find_extended, list, list_extended};
use super::config::Config;
use super::space::{LAST_32, align_up, halves, lowest_fit};
use super::tree::{Device, DeviceTree, Resource, Window};
use crate::address::{Bdf, Span};
use crate::delta::Space;
use crate::sim::platform::Platform;
use crate::spec::bar::{BarKind, ROM_ENABLE};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::express::PortType;
use crate::spec::header::{ClassCode, Command, HeaderType};

const VENDOR: u16 = 0x00;
const COMMAND: u16 = 0x04;
const HEADER_TYPE: u16 = 0x0e;
const BAR0: u16 = 0x10;
const IO_STEP: u64 = 0x1000;
const MEMORY_STEP: u64 = 1 << 20;

pub(super) fn boot(platform: &mut dyn Platform) -> Boot {
    let mut freebsd =
        FreeBsd { config: Config::new(platform), log: Vec::new(), buses: Vec::new(), devices: Vec::new() };
    let roots = freebsd.config.firmware.roots.clone();
    for root in &roots {
        let windows = root.windows.iter().map(|window| Pool {
            kind: if window.space == Space::Io { BarKind::Io } else { BarKind::Memory64 { prefetchable: true } },
            span: Some(window.span),
            taken: Vec::new(),
        });
        let (number, last) = (*root.buses.start(), *root.buses.end());
        let pools = windows.collect();
        freebsd.buses.push(Bus { number, last, bridge: None, parent: None, pools, functions: 8, next: number });
        freebsd.attach_bus(freebsd.buses.len() - 1);
    }
    freebsd.enable_devices();
    freebsd.report(roots.iter().map(|root| *root.buses.start()).collect())
}

struct FreeBsd<'p> {
    config: Config<'p>,
    log: Vec<String>,
    buses: Vec<Bus>,
    devices: Vec<Device>,
}

struct Bus {
    number: u8,
    last: u8,
    /// The bridge it is behind, and that one's bus.
    bridge: Option<usize>,
    parent: Option<usize>,
    /// What its functions get addresses from.
    pools: Vec<Pool>,
    /// Number of functions of a slot: 256 in slot 0, the only one then, with ARI.
    functions: u16,
    /// The highest bus number given away.
    next: u8,
}

/// Addresses a bridge forwards, and who has them (`struct pcib_window`, `struct rman`).
struct Pool {
    kind: BarKind,
    /// None: closed.
    span: Option<Span>,
    taken: Vec<Span>,
}

impl Pool {
    fn is_for(&self, kind: BarKind, root: bool) -> bool {
        let pref_misplaced = self.kind.is_prefetchable() && !kind.is_prefetchable();
        self.kind.is_memory() == kind.is_memory() && (root || !pref_misplaced)
    }
}

impl FreeBsd<'_> {
    /// `pci_attach`: finds the functions of a bus, gives them addresses, then goes behind the bridges.
    fn attach_bus(&mut self, bus: usize) {
        let first = self.devices.len();
        self.add_children(bus);
        let found = first..self.devices.len();
        // Windows first: what has no address yet shall not end up in one.
        let mut children = Vec::new();
        for dev in found.clone() {
            if self.devices[dev].header_type == HeaderType::Type1 {
                children.extend(self.attach_bridge(bus, dev));
            }
        }
        for fixed in [true, false] {
            for dev in found.clone() {
                self.reserve_bars(bus, dev, fixed);
            }
        }
        for child in children {
            self.attach_bus(child);
        }
    }

    /// `pci_add_children`.
    fn add_children(&mut self, bus: usize) {
        let number = self.buses[bus].number;
        let first = self.identify_function(bus, Bdf::from_routing_id(u16::from_be_bytes([number, 0])));
        if let Some(first) = first {
            self.try_enable_ari(bus, first);
        }
        let functions = self.buses[bus].functions;
        let slots = if functions > 8 { 1 } else { 32 };
        for slot in 0..slots {
            let zero = Bdf::from_routing_id(u16::from_be_bytes([number, slot << 3]));
            let header_type = self.config.read8(zero, HEADER_TYPE);
            if header_type & 0x7f > 2 {
                continue;
            }
            let count = if header_type & 0x80 == 0 { 1 } else { functions };
            for function in u16::from(slot == 0)..count {
                self.identify_function(bus, Bdf::from_routing_id(zero.routing_id() + function));
            }
        }
    }

    /// `pci_read_device`, `pci_fill_devinfo`.
    fn identify_function(&mut self, bus: usize, bdf: Bdf) -> Option<usize> {
        if self.config.read16(bdf, VENDOR) == 0xffff {
            return None;
        }
        let vendor = self.config.read16(bdf, VENDOR);
        let device = self.config.read16(bdf, 0x02);
        let command = self.config.read16(bdf, COMMAND);
        let status = self.config.read16(bdf, 0x06);
        let [base, sub, interface, revision] = [0x0b, 0x0a, 0x09, 0x08].map(|offset| self.config.read8(bdf, offset));
        let raw = self.config.read8(bdf, HEADER_TYPE);
        let [cache_line, latency, pin, _line] = [0x0c, 0x0d, 0x3d, 0x3c].map(|offset| self.config.read8(bdf, offset));
        let header_type = HeaderType::of(u32::from(raw) << 16)?;
        let config = &mut self.config;
        let express = find(config, bdf, header_type, CapabilityId::PCI_EXPRESS);
        let port_type = express.map(|at| PortType::of(u32::from(config.read16(bdf, at + 2)) << 16));
        let extended = express.is_some() && config.read32(bdf, 0x100) != !0;
        let parent = self.buses[bus].bridge.map(|bridge| self.devices[bridge].bdf);
        self.log.push(format!("found->\tvendor={vendor:#06x}, dev={device:#06x}, revid={revision:#04x}"));
        let segment = self.config.firmware.segment;
        let (slot, function) =
            if self.buses[bus].functions > 8 { (0, bdf.devfn()) } else { (bdf.device(), bdf.function()) };
        self.log.push(format!("\tdomain={segment}, bus={}, slot={slot}, func={function}", bdf.bus()));
        let multi = u8::from(raw & 0x80 != 0);
        self.log
            .push(format!("\tclass={base:02x}-{sub:02x}-{interface:02x}, hdrtype={:#04x}, mfdev={multi}", raw & 0x7f));
        self.log.push(format!("\tcmdreg={command:#06x}, statreg={status:#06x}, cachelnsz={cache_line} (dwords)"));
        self.log.push(format!(
            "\tlattimer={latency:#04x} ({} ns), mingnt=0x00 (0 ns), maxlat=0x00 (0 ns)",
            u32::from(latency) * 30
        ));
        if pin > 0 {
            self.log.push(format!("\tintpin={}, irq=0", char::from(b'a'.wrapping_add(pin.wrapping_sub(1) & 3))));
        }
        self.devices.push(Device {
            bdf,
            parent,
            id: u32::from(device) << 16 | u32::from(vendor),
            revision,
            class: ClassCode(u32::from_be_bytes([0, base, sub, interface])),
            header_type,
            multi_function: multi == 1,
            port_type,
            config_size: if extended { 4096 } else { 256 },
            capabilities: Vec::new(),
            extended_capabilities: Vec::new(),
            bars: Vec::new(),
            vf_bars: Vec::new(),
            bus_range: None,
            windows: Vec::new(),
            enabled: false,
        });
        let dev = self.devices.len() - 1;
        self.add_maps(dev);
        Some(dev)
    }

    /// `pcib_try_enable_ari`: the port must forward, function 0 must have version 1 of the capability.
    fn try_enable_ari(&mut self, bus: usize, dev: usize) {
        const ARI_FORWARDING: u32 = 1 << 5;
        let Some(bridge) = self.buses[bus].bridge else { return };
        let (bridge_bdf, bdf) = (self.devices[bridge].bdf, self.devices[dev].bdf);
        let config = &mut self.config;
        let Some(at) = find(config, bridge_bdf, HeaderType::Type1, CapabilityId::PCI_EXPRESS) else { return };
        if config.read32(bridge_bdf, at + 0x24) & ARI_FORWARDING == 0 || self.devices[dev].config_size <= 256 {
            return;
        }
        let Some(ari) = find_extended(config, bdf, ExtendedCapabilityId::ARI) else { return };
        if config.read32(bdf, ari) >> 16 & 0xf != 1 {
            return;
        }
        let control = config.read32(bridge_bdf, at + 0x28);
        config.write32(bridge_bdf, at + 0x28, control | ARI_FORWARDING);
        self.buses[bus].functions = 256;
    }

    /// `pci_add_map` for each register: `pci_read_bar`.
    fn add_maps(&mut self, dev: usize) {
        let (bdf, header) = (self.devices[dev].bdf, self.devices[dev].header_type);
        let mut index = 0;
        while index < header.bars() {
            let offset = bar_offset(index);
            let bar = self.read_bar(bdf, offset, index);
            index += if bar.is_some_and(|bar| bar.kind.is_64_bit()) { 2 } else { 1 };
            self.devices[dev].bars.extend(bar);
        }
        if let Some(rom) = header.rom() {
            let bar = self.read_bar(bdf, rom.offset(), Resource::ROM);
            self.devices[dev].bars.extend(bar);
        }
        for bar in self.devices[dev].bars.clone() {
            let offset = if bar.bar == Resource::ROM { 0x30 } else { bar_offset(bar.bar) };
            let kind = match bar.kind {
                BarKind::Io => "I/O Port",
                kind if kind.is_prefetchable() => "Prefetchable Memory",
                _ => "Memory",
            };
            let range = if bar.kind.is_64_bit() { 64 } else { 32 };
            let base = bar.span.map_or(0, Span::start);
            self.log.push(format!(
                "\tmap[{offset:02x}]: type {kind}, range {range}, base {base:#x}, size {:2}",
                bar.size.trailing_zeros()
            ));
        }
    }

    fn read_bar(&mut self, bdf: Bdf, offset: u16, index: usize) -> Option<Resource> {
        let rom = index == Resource::ROM;
        let low = self.config.read32(bdf, offset);
        let kind = if rom { BarKind::Rom } else { BarKind::of(low) };
        let high = if kind.is_64_bit() { self.config.read32(bdf, offset + 4) } else { 0 };
        let command = self.config.read16(bdf, COMMAND);
        let enable = if kind.is_memory() { Command::MEMORY_SPACE_ENABLE } else { Command::IO_SPACE_ENABLE };
        self.config.write16(bdf, COMMAND, command & !enable.bits());
        self.config.write32(bdf, offset, if rom { !ROM_ENABLE } else { !0 });
        let mut sized = u64::from(self.config.read32(bdf, offset) & !kind.type_mask());
        if kind.is_64_bit() {
            self.config.write32(bdf, offset + 4, !0);
            sized |= u64::from(self.config.read32(bdf, offset + 4)) << 32;
        }
        self.write_bar(bdf, offset, kind, u64::from(high) << 32 | u64::from(low));
        self.config.write16(bdf, COMMAND, command);
        let size = sized & sized.wrapping_neg();
        let base = (u64::from(high) << 32 | u64::from(low)) & !u64::from(kind.type_mask());
        // A register that is still all ones was never given an address.
        let unassigned = base == 0 || base == sized;
        let span = if unassigned { None } else { Span::new(base, size) };
        (size > 0).then_some(Resource { bar: index, kind, size, span })
    }

    fn write_bar(&mut self, bdf: Bdf, offset: u16, kind: BarKind, value: u64) {
        let [low, high] = halves(value);
        self.config.write32(bdf, offset, low);
        if kind.is_64_bit() {
            self.config.write32(bdf, offset + 4, high);
        }
    }

    /// `resource_list_reserve` in `pci_add_map`: firmware's address, or any (`pci_do_realloc_bars`).
    fn reserve_bars(&mut self, bus: usize, dev: usize, fixed: bool) {
        let Device { bdf, header_type, .. } = self.devices[dev];
        let class = self.devices[dev].class;
        for index in 0..self.devices[dev].bars.len() {
            let bar = self.devices[dev].bars[index];
            if bar.span.is_some() != fixed {
                continue;
            }
            let found = match bar.span {
                Some(span) => self.take(bus, bar.kind, span).then_some(span),
                // A ROM gets its address when a driver asks for it.
                None if bar.bar == Resource::ROM || class.is_host_bridge() => None,
                None => self.allocate(bus, bar.kind, bar.size, bar.size),
            };
            self.devices[dev].bars[index].span = found;
            let offset = match (bar.bar, header_type.rom()) {
                (Resource::ROM, Some(rom)) => rom.offset(),
                _ => bar_offset(bar.bar),
            };
            match found {
                Some(span) if bar.bar != Resource::ROM => {
                    let value = span.start() | u64::from(bar.kind.type_bits());
                    self.write_bar(bdf, offset, bar.kind, value);
                }
                None if !fixed && bar.bar != Resource::ROM => {
                    let command = self.config.read16(bdf, COMMAND);
                    let enable =
                        if bar.kind.is_memory() { Command::MEMORY_SPACE_ENABLE } else { Command::IO_SPACE_ENABLE };
                    self.config.write16(bdf, COMMAND, command & !enable.bits());
                }
                _ => {}
            }
        }
    }

    /// Takes these very addresses, if they are free and lead to the bus.
    fn take(&mut self, bus: usize, kind: BarKind, span: Span) -> bool {
        let root = self.buses[bus].bridge.is_none();
        let ecam = self.ecam(kind);
        let free = |pool: &&mut Pool| {
            let inside = pool.span.is_some_and(|all| all.covers(span));
            inside && !pool.taken.iter().chain(&ecam).any(|other| other.overlaps(span))
        };
        let pools = self.buses[bus].pools.iter_mut().filter(|pool| pool.is_for(kind, root));
        pools.into_iter().find(free).map(|pool| pool.taken.push(span)).is_some()
    }

    /// `pcib_alloc_resource`: room in a window, or a window made larger.
    fn allocate(&mut self, bus: usize, kind: BarKind, size: u64, align: u64) -> Option<Span> {
        let root = self.buses[bus].bridge.is_none();
        let pools = &self.buses[bus].pools;
        let mut fitting = (0..pools.len()).filter(|pool| pools[*pool].is_for(kind, root)).collect::<Vec<_>>();
        // The prefetchable window, if there is one, before the other.
        fitting.sort_by_key(|pool| !pools[*pool].kind.is_prefetchable());
        if let Some(span) = fitting.iter().find_map(|pool| self.suballocate(bus, *pool, kind, size, align)) {
            return Some(span);
        }
        fitting.into_iter().find_map(|pool| {
            self.grow_window(bus, pool, size, align)?;
            self.suballocate(bus, pool, kind, size, align)
        })
    }

    fn suballocate(&mut self, bus: usize, pool: usize, kind: BarKind, size: u64, align: u64) -> Option<Span> {
        let ecam = self.ecam(kind);
        let pool = &mut self.buses[bus].pools[pool];
        let min = if kind.is_memory() { MEMORY_STEP } else { IO_STEP };
        let max = if kind.is_64_bit() { u64::MAX } else { LAST_32 };
        let within = pool.span?.intersection(Span::from_bounds(min, max)?)?;
        let taken = pool.taken.iter().copied().chain(ecam).collect::<Vec<_>>();
        let span = lowest_fit(within, size, &taken, |start| align_up(start, align))?;
        pool.taken.push(span);
        Some(span)
    }

    /// `pcib_grow_window`: opens a closed window, or extends one upwards or downwards.
    fn grow_window(&mut self, bus: usize, pool: usize, size: u64, align: u64) -> Option<()> {
        let (bridge, parent) = (self.buses[bus].bridge?, self.buses[bus].parent?);
        let Pool { kind, span, ref taken } = self.buses[bus].pools[pool];
        let step = if kind.is_memory() { MEMORY_STEP } else { IO_STEP };
        let Some(span) = span else {
            let span = self.allocate(parent, kind, align_up(size, step)?, align.max(step))?;
            self.open_window(bus, pool, bridge, span);
            return Some(());
        };
        let end = taken.iter().map(|other| other.last() + 1).max().unwrap_or(span.start());
        let begin = taken.iter().map(|other| other.start()).min().unwrap_or(span.last());
        let up = align_up(end, align).and_then(|start| align_up(start.checked_add(size)?, step));
        let up = up.and_then(|end| Span::from_bounds(span.last().checked_add(1)?, end.checked_sub(1)?));
        let down = begin.checked_sub(size).map(|start| start & !(align - 1) & !(step - 1));
        let down = down.and_then(|start| Span::from_bounds(start, span.start().checked_sub(1)?));
        let what = if kind.is_prefetchable() {
            "prefetch"
        } else if kind.is_memory() {
            "memory"
        } else {
            "I/O port"
        };
        let name = self.devices[bridge].bdf;
        self.log.push(format!("pcib {name}: attempting to grow {what} window for (0-0xffffffffffffffff,{size:#x})"));
        let extension = [up, down].into_iter().flatten().find(|extension| self.take(parent, kind, *extension))?;
        let grown = Span::from_bounds(span.start().min(extension.start()), span.last().max(extension.last()))?;
        self.open_window(bus, pool, bridge, grown);
        Some(())
    }

    fn open_window(&mut self, bus: usize, pool: usize, bridge: usize, span: Span) {
        let bdf = self.devices[bridge].bdf;
        self.buses[bus].pools[pool].span = Some(span);
        self.log.push(format!("pcib {bdf}: grew window to ({:#x}-{:#x})", span.start(), span.last()));
        self.write_window(bdf, self.buses[bus].pools[pool].kind, span);
    }

    /// `pcib_write_windows`.
    fn write_window(&mut self, bdf: Bdf, kind: BarKind, span: Span) {
        let ([base, base_upper], [limit, limit_upper]) = (halves(span.start()), halves(span.last()));
        let config = &mut self.config;
        let high16 = |value: u32| u16::try_from(value >> 16).unwrap_or_default();
        match kind {
            BarKind::Io => {
                if config.read8(bdf, 0x1c) & 0xf == 1 {
                    config.write16(bdf, 0x30, high16(base));
                    config.write16(bdf, 0x32, high16(limit));
                }
                config.write8(bdf, 0x1c, base.to_le_bytes()[1]);
                config.write8(bdf, 0x1d, limit.to_le_bytes()[1]);
            }
            BarKind::Memory32 { prefetchable: false } | BarKind::Memory64 { prefetchable: false } | BarKind::Rom => {
                config.write16(bdf, 0x20, high16(base));
                config.write16(bdf, 0x22, high16(limit));
            }
            BarKind::Memory32 { .. } | BarKind::Memory64 { .. } => {
                if kind.is_64_bit() {
                    config.write32(bdf, 0x28, base_upper);
                    config.write32(bdf, 0x2c, limit_upper);
                }
                config.write16(bdf, 0x24, high16(base));
                config.write16(bdf, 0x26, high16(limit));
            }
        }
    }

    /// `pcib_attach`: bus numbers and windows. Returns the bus below.
    fn attach_bridge(&mut self, bus: usize, dev: usize) -> Option<usize> {
        let bdf = self.devices[dev].bdf;
        let (mut secondary, mut subordinate) = (self.config.read8(bdf, 0x19), self.config.read8(bdf, 0x1a));
        let Bus { number, last, next, .. } = self.buses[bus];
        let free = |buses: &[Bus], number: u8| !buses.iter().any(|bus| bus.number == number);
        let valid = secondary > number && secondary <= subordinate && subordinate <= last;
        if !(valid && free(&self.buses, secondary)) {
            // pcib_alloc_subbus
            let fresh = (next.max(number)..=last).skip(1).find(|number| free(&self.buses, *number))?;
            self.log.push(format!("pcib {bdf}: allocated initial secbus range {fresh}-{fresh}"));
            (secondary, subordinate) = (fresh, fresh);
            self.config.write8(bdf, 0x18, number);
            self.config.write8(bdf, 0x19, secondary);
            self.config.write8(bdf, 0x1a, subordinate);
        }
        self.buses[bus].next = next.max(subordinate);
        self.devices[dev].bus_range = Some(secondary..=subordinate);
        let pools = self.probe_windows(bus, bdf);
        let child = Bus {
            number: secondary,
            last: subordinate,
            bridge: Some(dev),
            parent: Some(bus),
            pools,
            functions: 8,
            next: secondary,
        };
        self.buses.push(child);
        Some(self.buses.len() - 1)
    }

    /// `pcib_probe_windows`: what firmware opened, if the bus above forwards it.
    fn probe_windows(&mut self, bus: usize, bdf: Bdf) -> Vec<Pool> {
        let mut windows = Vec::new();
        let config = &mut self.config;
        let mut io = config.read8(bdf, 0x1c);
        if io == 0 {
            config.write8(bdf, 0x1c, 0xff);
            io = config.read8(bdf, 0x1c);
            config.write8(bdf, 0x1c, 0);
        }
        if io != 0 {
            let (mut base, mut limit) =
                (u64::from(config.read8(bdf, 0x1c) & 0xf0) << 8, u64::from(config.read8(bdf, 0x1d) & 0xf0) << 8);
            if io & 0xf == 1 {
                base |= u64::from(config.read16(bdf, 0x30)) << 16;
                limit |= u64::from(config.read16(bdf, 0x32)) << 16;
            }
            windows.push((BarKind::Io, base, limit | 0xfff));
        }
        let memory = |value: u16| u64::from(value & 0xfff0) << 16;
        let (base, limit) = (memory(config.read16(bdf, 0x20)), memory(config.read16(bdf, 0x22)));
        windows.push((BarKind::Memory32 { prefetchable: false }, base, limit | 0xf_ffff));
        let mut pref = config.read16(bdf, 0x24);
        if pref == 0 {
            config.write16(bdf, 0x24, 0xffff);
            pref = config.read16(bdf, 0x24);
            config.write16(bdf, 0x24, 0);
        }
        if pref != 0 {
            let (mut base, mut limit) = (memory(config.read16(bdf, 0x24)), memory(config.read16(bdf, 0x26)));
            let wide = pref & 0xf == 1;
            if wide {
                base |= u64::from(config.read32(bdf, 0x28)) << 32;
                limit |= u64::from(config.read32(bdf, 0x2c)) << 32;
            }
            let kind =
                if wide { BarKind::Memory64 { prefetchable: true } } else { BarKind::Memory32 { prefetchable: true } };
            windows.push((kind, base, limit | 0xf_ffff));
        }
        let open = |(kind, base, limit): (BarKind, u64, u64)| {
            let span = if base == 0 { None } else { Span::from_bounds(base, limit) };
            let span = span.filter(|span| self.take(bus, kind, *span));
            Pool { kind, span, taken: Vec::new() }
        };
        windows.into_iter().map(open).collect()
    }

    /// Drivers: decoding as resources are activated, then `pci_enable_busmaster`; bridges on the way.
    fn enable_devices(&mut self) {
        for dev in 0..self.devices.len() {
            let device = &self.devices[dev];
            let mut command = Command::BUS_MASTER_ENABLE;
            let mut bars = device.bars.iter().filter(|bar| bar.bar != Resource::ROM);
            let assigned = bars.clone().all(|bar| bar.span.is_some());
            if device.header_type == HeaderType::Type1 {
                command |= Command::IO_SPACE_ENABLE | Command::MEMORY_SPACE_ENABLE;
            }
            command.set(
                Command::IO_SPACE_ENABLE,
                command.contains(Command::IO_SPACE_ENABLE) || bars.clone().any(|bar| !bar.kind.is_memory()),
            );
            command.set(
                Command::MEMORY_SPACE_ENABLE,
                command.contains(Command::MEMORY_SPACE_ENABLE) || bars.any(|bar| bar.kind.is_memory()),
            );
            if !assigned || device.class.is_host_bridge() {
                continue;
            }
            let bdf = device.bdf;
            let before = self.config.read16(bdf, COMMAND);
            self.config.write16(bdf, COMMAND, before | command.bits());
            self.devices[dev].enabled = true;
        }
    }

    fn ecam(&self, kind: BarKind) -> Option<Span> {
        self.config.firmware.ecam.filter(|_| kind.is_memory()).map(|ecam| ecam.span().0)
    }

    fn report(mut self, roots: Vec<u8>) -> Boot {
        for dev in 0..self.devices.len() {
            let Device { bdf, header_type, config_size, .. } = self.devices[dev];
            self.devices[dev].capabilities = list(&mut self.config, bdf, header_type);
            if config_size > 256 {
                self.devices[dev].extended_capabilities = list_extended(&mut self.config, bdf);
            }
        }
        for bus in &self.buses {
            let Some(bridge) = bus.bridge else { continue };
            let windows = bus.pools.iter().filter_map(|pool| Some(Window { kind: pool.kind, span: pool.span? }));
            self.devices[bridge].windows = windows.collect();
        }
        self.devices.sort_by_key(|device| device.bdf);
        let tree = DeviceTree { segment: self.config.firmware.segment, roots, devices: self.devices };
        Boot { tree, log: self.log }
    }
}

fn bar_offset(index: usize) -> u16 {
    BAR0 + 4 * u16::try_from(index).unwrap_or_default()
}
