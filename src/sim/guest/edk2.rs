//! edk2's PciBusDxe: bus numbers are reset and given anew depth first, then every BAR is sized, windows are computed
//! from the bottom up, and everything is programmed. Nothing of what firmware before it did is kept.

use std::collections::BTreeSet;
use std::format;
use std::string::String;
use std::vec::Vec;

use super::Boot;
use super::capability::{find, list, list_extended};
use super::config::Config;
use super::space::{LAST_32, align_up, halves, hardest_first, lowest_fit};
use super::tree::{Device, DeviceTree, Resource, Window};
use crate::address::{Bdf, Span};
use crate::delta::Space;
use crate::sim::platform::{Platform, RootBridge};
use crate::spec::bar::BarKind;
use crate::spec::capability::CapabilityId;
use crate::spec::express::PortType;
use crate::spec::header::{ClassCode, Command, HeaderType};

const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
const BUS_NUMBERS: u16 = 0x18;
const SUBORDINATE: u16 = 0x1a;
const IO_STEP: u64 = 0x1000;
const MEMORY_STEP: u64 = 1 << 20;

pub(super) fn boot(platform: &mut dyn Platform) -> Boot {
    let mut edk2 =
        Edk2 { config: Config::new(platform), log: Vec::new(), devices: Vec::new(), wide_windows: BTreeSet::new() };
    let roots = edk2.config.firmware.roots.clone();
    for root in &roots {
        let (bus, last) = (*root.buses.start(), *root.buses.end());
        edk2.reset_bus_numbers(bus, &mut BTreeSet::new());
        edk2.scan_bus(bus, &mut bus.clone(), last);
        edk2.collect(bus, None);
        edk2.assign(bus, root);
    }
    for dev in 0..edk2.devices.len() {
        edk2.enable(dev);
    }
    edk2.report(roots.iter().map(|root| *root.buses.start()).collect())
}

struct Edk2<'p> {
    config: Config<'p>,
    log: Vec<String>,
    devices: Vec<Device>,
    /// Bridges with a 64-bit prefetchable window.
    wide_windows: BTreeSet<Bdf>,
}

/// A BAR of a function, or a window with all that is in it.
#[derive(Clone)]
struct Need {
    owner: Owner,
    size: u64,
    align: u64,
    /// Whether it may lie above 4 GiB.
    wide: bool,
    /// What lies in a window, with its offset.
    inside: Vec<(u64, Self)>,
}

#[derive(Clone, Copy)]
enum Owner {
    /// Number of the function, index into its `bars`.
    Bar(usize, usize),
    /// Number of the bridge.
    Window(usize, Aperture),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Aperture {
    Io,
    Memory,
    Prefetchable,
}

impl Edk2<'_> {
    /// `PciDevicePresent`: the first DWORD, then all 16 of the header.
    fn header(&mut self, bdf: Bdf) -> Option<[u32; 16]> {
        if self.config.read32(bdf, 0) & 0xffff == 0xffff {
            return None;
        }
        let mut header = [0; 16];
        for (offset, dword) in (0..).step_by(4).zip(&mut header) {
            *dword = self.config.read32(bdf, offset);
        }
        Some(header)
    }

    /// All functions of a bus; a device without function 0 has none.
    fn present(&mut self, bus: u8, mut found: impl FnMut(&mut Self, Bdf, [u32; 16])) {
        for device in 0..32 {
            for function in 0..8 {
                let Some(bdf) = Bdf::new(bus, device, function) else { continue };
                match self.header(bdf) {
                    Some(header) => {
                        found(self, bdf, header);
                        if function == 0 && header[3] & 0x0080_0000 == 0 {
                            break;
                        }
                    }
                    None if function == 0 => break,
                    None => {}
                }
            }
        }
    }

    /// `ResetAllPpbBusNumber`.
    fn reset_bus_numbers(&mut self, bus: u8, seen: &mut BTreeSet<u8>) {
        if !seen.insert(bus) {
            return;
        }
        self.present(bus, |edk2, bdf, header| {
            if is_bridge(&header) {
                let numbers = edk2.config.read32(bdf, BUS_NUMBERS);
                let [_, secondary, ..] = numbers.to_le_bytes();
                if secondary != 0 {
                    edk2.reset_bus_numbers(secondary, seen);
                }
                edk2.config.write32(bdf, BUS_NUMBERS, numbers & 0xff00_0000);
            }
        });
    }

    /// `PciScanBus`: numbers depth first; while a bridge is searched its subordinate number is the highest there is.
    fn scan_bus(&mut self, bus: u8, highest: &mut u8, last: u8) {
        self.present(bus, |edk2, bdf, header| {
            if !is_bridge(&header) || *highest >= last {
                return;
            }
            *highest += 1;
            let secondary = *highest;
            edk2.config.write16(bdf, BUS_NUMBERS, u16::from_le_bytes([bus, secondary]));
            edk2.config.write8(bdf, SUBORDINATE, 0xff);
            edk2.scan_bus(secondary, highest, last);
            edk2.config.write8(bdf, SUBORDINATE, *highest);
        });
    }

    /// `PciPciDeviceInfoCollector`: the functions, now at their final addresses.
    fn collect(&mut self, bus: u8, parent: Option<Bdf>) {
        self.present(bus, |edk2, bdf, header| {
            edk2.gather(bdf, &header, parent);
            if !is_bridge(&header) {
                return;
            }
            let [_, secondary, subordinate, _] = edk2.config.read32(bdf, BUS_NUMBERS).to_le_bytes();
            // Hardware that did not take its number is left alone; each bus is collected once.
            if secondary > bus && secondary <= subordinate && !edk2.devices.iter().any(|one| one.bdf.bus() == secondary)
            {
                if let Some(device) = edk2.devices.last_mut() {
                    device.bus_range = Some(secondary..=subordinate);
                }
                edk2.collect(secondary, Some(bdf));
            }
        });
    }

    /// `GatherDeviceInfo`, `GatherPpbInfo`.
    fn gather(&mut self, bdf: Bdf, header: &[u32; 16], parent: Option<Bdf>) {
        let header_type = HeaderType::of(header[3]);
        let kind = if header_type == Some(HeaderType::Type1) { "PPB" } else { "PCI" };
        let place = format!("[{:02X}|{:02X}|{:02X}]", bdf.bus(), bdf.device(), bdf.function());
        let id = header[0];
        let (vendor, device) = (id & 0xffff, id >> 16);
        self.log.push(format!("PciBus: Discovered {kind} @ {place}  [VID = {vendor:#x}, DID = {device:#x}]"));
        let Some(header_type) = header_type else { return };
        let owned = Command::IO_SPACE_ENABLE | Command::MEMORY_SPACE_ENABLE | Command::BUS_MASTER_ENABLE;
        let command = self.config.read16(bdf, COMMAND);
        self.config.write16(bdf, COMMAND, command & !owned.bits());
        let mut bars = self.parse_bars(bdf, header_type);
        if header_type == HeaderType::Type1 {
            self.init_bridge(bdf);
        }
        bars.extend(self.parse_rom(bdf, header_type));
        let config = &mut self.config;
        let express = find(config, bdf, header_type, CapabilityId::PCI_EXPRESS);
        let port_type = express.map(|at| PortType::of(u32::from(config.read16(bdf, at + 2)) << 16));
        let extended = express.is_some() && config.read32(bdf, 0x100) != !0;
        let class = ClassCode::of(header[2]);
        self.devices.push(Device {
            bdf,
            parent,
            id,
            revision: header[2].to_le_bytes()[0],
            class,
            header_type,
            multi_function: header[3] & 0x0080_0000 != 0,
            port_type,
            config_size: if extended { 4096 } else { 256 },
            capabilities: Vec::new(),
            extended_capabilities: Vec::new(),
            bars,
            vf_bars: Vec::new(),
            bus_range: None,
            windows: Vec::new(),
            enabled: false,
        });
    }

    /// `PciParseBar` for each register: `BarExisted` writes all ones, reads, restores.
    fn parse_bars(&mut self, bdf: Bdf, header_type: HeaderType) -> Vec<Resource> {
        let mut bars = Vec::new();
        let mut index = 0;
        while index < header_type.bars() {
            let offset = BAR0 + 4 * u16::try_from(index).unwrap_or_default();
            let low = self.size_register(bdf, offset, !0);
            let kind = BarKind::of(low);
            let mut sized = u64::from(low & !kind.type_mask());
            if kind.is_64_bit() {
                sized |= u64::from(self.size_register(bdf, offset + 4, !0)) << 32;
            } else if sized != 0 {
                // The upper bits of an I/O BAR may be hardwired to zero.
                sized |= u64::from(u32::MAX) << 32;
            }
            let size = sized & sized.wrapping_neg();
            if low != 0 && low != !0 && size != 0 {
                bars.push(Resource { bar: index, kind, size, span: None });
                let name = bar_type(kind);
                let (slot, align) = (bars.len() - 1, size - 1);
                self.log.push(format!(
                    "   BAR[{slot}]: Type = {name}; Alignment = {align:#X};\tLength = {size:#X};\tOffset = 0x{offset:02X}"
                ));
            }
            index += if kind.is_64_bit() { 2 } else { 1 };
        }
        bars
    }

    /// `PciParseBar`'s sibling for Option ROMs, which get their address only while they are read.
    fn parse_rom(&mut self, bdf: Bdf, header_type: HeaderType) -> Option<Resource> {
        let sized = self.size_register(bdf, header_type.rom()?.offset(), 0xffff_fffe) & 0xffff_f800;
        let size = u64::from(sized & sized.wrapping_neg());
        (size > 0).then_some(Resource { bar: Resource::ROM, kind: BarKind::Rom, size, span: None })
    }

    fn size_register(&mut self, bdf: Bdf, offset: u16, mask: u32) -> u32 {
        let before = self.config.read32(bdf, offset);
        self.config.write32(bdf, offset, mask);
        let sized = self.config.read32(bdf, offset);
        self.config.write32(bdf, offset, before);
        sized
    }

    /// `GatherPpbInfo` and `InitializePpb`: which windows there are, and all of them closed.
    fn init_bridge(&mut self, bdf: Bdf) {
        let config = &mut self.config;
        let before = config.read16(bdf, 0x24);
        config.write16(bdf, 0x24, 0xffff);
        let pref = config.read16(bdf, 0x24);
        config.write16(bdf, 0x24, before);
        if pref & 0xf == 1 {
            self.wide_windows.insert(bdf);
        }
        config.write8(bdf, 0x1c, 0xff);
        config.write8(bdf, 0x1d, 0x00);
        for (base, limit) in [(0x20, 0x22), (0x24, 0x26)] {
            config.write16(bdf, base, 0xffff);
            config.write16(bdf, limit, 0x0000);
        }
        config.write32(bdf, 0x28, !0);
        config.write32(bdf, 0x2c, 0);
    }

    /// `PciHostBridgeResourceAllocator`: apertures from the bottom up, then places in the root's windows.
    fn assign(&mut self, bus: u8, root: &RootBridge) {
        for aperture in [Aperture::Io, Aperture::Memory, Aperture::Prefetchable] {
            let memory = aperture != Aperture::Io;
            let ecam = self.config.firmware.ecam.filter(|_| memory).map(|ecam| ecam.span().0);
            let mut taken = ecam.into_iter().collect::<Vec<_>>();
            // Prefetchable memory shares the root's windows with other memory.
            if aperture == Aperture::Prefetchable {
                taken.extend(self.assigned_memory());
            }
            for need in self.needs(bus, aperture, true) {
                match place(root, aperture, &need, &taken) {
                    Some(span) => {
                        taken.push(span);
                        self.program(&need, span.start());
                    }
                    None => self.log.push(format!("PciBus: no room for {:#X} bytes", need.size)),
                }
            }
        }
    }

    fn assigned_memory(&self) -> Vec<Span> {
        let windows = self.devices.iter().flat_map(|one| &one.windows).map(|one| (one.kind, one.span));
        let bars = self.devices.iter().flat_map(|one| &one.bars).filter_map(|one| Some((one.kind, one.span?)));
        windows.chain(bars).filter(|(kind, _)| kind.is_memory()).map(|(_, span)| span).collect()
    }

    /// What the functions of a bus need of one kind, the hardest to place first.
    fn needs(&self, bus: u8, aperture: Aperture, wide: bool) -> Vec<Need> {
        let mut needs = Vec::new();
        for (dev, device) in self.devices.iter().enumerate().filter(|(_, device)| device.bdf.bus() == bus) {
            for (index, bar) in device.bars.iter().enumerate() {
                if bar.bar != Resource::ROM && aperture_of(bar.kind, wide) == aperture {
                    let (size, align) = (bar.size, bar.size);
                    let wide = bar.kind.is_64_bit() && device.parent.is_none() || aperture == Aperture::Prefetchable;
                    needs.push(Need { owner: Owner::Bar(dev, index), size, align, wide, inside: Vec::new() });
                }
            }
            if let Some(buses) = &device.bus_range {
                let wide = wide && self.wide_windows.contains(&device.bdf);
                let inside = self.needs(*buses.start(), aperture, wide);
                needs.extend(window(dev, aperture, inside));
            }
        }
        hardest_first(needs, |need| need.align)
    }

    /// `ProgramResource`: BARs, and windows after what is in them.
    fn program(&mut self, need: &Need, base: u64) {
        for (offset, inner) in &need.inside {
            self.program(inner, base + offset);
        }
        let Some(span) = Span::new(base, need.size) else { return };
        match need.owner {
            Owner::Bar(dev, index) => self.program_bar(dev, index, span),
            Owner::Window(dev, aperture) => self.program_window(dev, aperture, span),
        }
    }

    /// `ProgramBar`.
    fn program_bar(&mut self, dev: usize, index: usize, span: Span) {
        let bdf = self.devices[dev].bdf;
        let bar = &mut self.devices[dev].bars[index];
        bar.span = Some(span);
        let (kind, offset) = (bar.kind, BAR0 + 4 * u16::try_from(bar.bar).unwrap_or_default());
        let [low, high] = halves(span.start());
        self.log_place(bdf, bar_type(kind), span);
        self.config.write32(bdf, offset, low);
        if kind.is_64_bit() {
            self.config.write32(bdf, offset + 4, high);
        }
    }

    /// `ProgramPpbApperture`.
    fn program_window(&mut self, dev: usize, aperture: Aperture, span: Span) {
        let bdf = self.devices[dev].bdf;
        let ([base, base_upper], [limit, limit_upper]) = (halves(span.start()), halves(span.last()));
        let high16 = |value: u32| u16::try_from(value >> 16).unwrap_or_default();
        let config = &mut self.config;
        let kind = match aperture {
            Aperture::Io => {
                config.write8(bdf, 0x1c, base.to_le_bytes()[1]);
                config.write16(bdf, 0x30, high16(base));
                config.write8(bdf, 0x1d, limit.to_le_bytes()[1]);
                config.write16(bdf, 0x32, high16(limit));
                BarKind::Io
            }
            Aperture::Memory => {
                config.write16(bdf, 0x20, high16(base));
                config.write16(bdf, 0x22, high16(limit));
                BarKind::Memory32 { prefetchable: false }
            }
            Aperture::Prefetchable => {
                config.write16(bdf, 0x24, high16(base));
                config.write16(bdf, 0x26, high16(limit));
                config.write32(bdf, 0x28, base_upper);
                config.write32(bdf, 0x2c, limit_upper);
                BarKind::Memory64 { prefetchable: true }
            }
        };
        self.devices[dev].windows.push(Window { kind, span });
        self.log_place(bdf, bar_type(kind), span);
    }

    fn log_place(&mut self, bdf: Bdf, kind: &str, span: Span) {
        self.log.push(format!(
            "   Type = {kind}; Base = {:#X};\tLength = {:#X};\tOwner = PCI [{:02X}|{:02X}|{:02X}]",
            span.start(),
            span.len(),
            bdf.bus(),
            bdf.device(),
            bdf.function()
        ));
    }

    /// `PciEnableCommandRegister` of a function whose BARs all have an address.
    fn enable(&mut self, dev: usize) {
        let device = &self.devices[dev];
        let mut bars = device.bars.iter().filter(|bar| bar.bar != Resource::ROM);
        if bars.clone().any(|bar| bar.span.is_none()) {
            return;
        }
        let forwards = device.header_type == HeaderType::Type1;
        let io = bars.clone().any(|bar| !bar.kind.is_memory());
        let memory = bars.any(|bar| bar.kind.is_memory());
        let mut command = Command::BUS_MASTER_ENABLE;
        command.set(Command::IO_SPACE_ENABLE, io || forwards);
        command.set(Command::MEMORY_SPACE_ENABLE, memory || forwards);
        let bdf = device.bdf;
        let before = self.config.read16(bdf, COMMAND);
        self.config.write16(bdf, COMMAND, before | command.bits());
        self.devices[dev].enabled = true;
    }

    fn report(mut self, roots: Vec<u8>) -> Boot {
        for dev in 0..self.devices.len() {
            let Device { bdf, header_type, config_size, .. } = self.devices[dev];
            self.devices[dev].capabilities = list(&mut self.config, bdf, header_type);
            if config_size > 256 {
                self.devices[dev].extended_capabilities = list_extended(&mut self.config, bdf);
            }
        }
        self.devices.sort_by_key(|device| device.bdf);
        let tree = DeviceTree { segment: self.config.firmware.segment, roots, devices: self.devices };
        Boot { tree, log: self.log }
    }
}

/// Which window a BAR goes through: what has 64 bits and is prefetchable keeps to itself as long as every bridge above
/// can forward it, everything else is degraded to memory below 4 GiB.
fn aperture_of(kind: BarKind, wide: bool) -> Aperture {
    match kind {
        BarKind::Io => Aperture::Io,
        BarKind::Memory64 { prefetchable: true } if wide => Aperture::Prefetchable,
        _ => Aperture::Memory,
    }
}

/// `CalculateResourceAperture`: a window around its needs, placed one after the other.
fn window(dev: usize, aperture: Aperture, needs: Vec<Need>) -> Option<Need> {
    let step = if aperture == Aperture::Io { IO_STEP } else { MEMORY_STEP };
    let align = needs.iter().map(|need| need.align).max()?.max(step);
    let mut inside = Vec::new();
    let mut end = 0_u64;
    for need in needs {
        let Some(offset) = align_up(end, need.align) else { continue };
        let Some(next) = offset.checked_add(need.size) else { continue };
        end = next;
        inside.push((offset, need));
    }
    let wide = aperture == Aperture::Prefetchable;
    Some(Need { owner: Owner::Window(dev, aperture), size: align_up(end, step)?, align, wide, inside })
}

/// The lowest place in the root's windows; above 4 GiB first for what may go there.
fn place(root: &RootBridge, aperture: Aperture, need: &Need, taken: &[Span]) -> Option<Span> {
    let space = if aperture == Aperture::Io { Space::Io } else { Space::Memory };
    let min = if aperture == Aperture::Io { IO_STEP } else { MEMORY_STEP };
    let low = Span::from_bounds(min, LAST_32)?;
    let high = Span::from_bounds(LAST_32 + 1, u64::MAX)?;
    let regions: &[Span] = if need.wide { &[high, low] } else { &[low] };
    regions.iter().find_map(|region| {
        let windows = root.windows.iter().filter(|window| window.space == space);
        windows
            .filter_map(|window| window.span.intersection(*region))
            .find_map(|within| lowest_fit(within, need.size, taken, |start| align_up(start, need.align)))
    })
}

fn is_bridge(header: &[u32; 16]) -> bool {
    HeaderType::of(header[3]) == Some(HeaderType::Type1)
}

fn bar_type(kind: BarKind) -> &'static str {
    match kind {
        BarKind::Io => "  Io16",
        BarKind::Memory32 { prefetchable: false } | BarKind::Rom => " Mem32",
        BarKind::Memory32 { prefetchable: true } => "PMem32",
        BarKind::Memory64 { prefetchable: false } => " Mem64",
        BarKind::Memory64 { prefetchable: true } => "PMem64",
    }
}
