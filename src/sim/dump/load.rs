//! From a dump to machines: finds the tree, sizes the decoders, makes up what firmware would say.

use std::collections::BTreeSet;
use std::vec::Vec;

use super::{Assumption, Dump, DumpedFunction, Register, Resource, Resources, SegmentBdf, firmware};
use crate::address::Bdf;
use crate::delta::Space;
use crate::sim::machine::{Blueprint, Function, Machine, Quirks, ROM, capabilities};
use crate::spec::bar::BarKind;
use crate::spec::capability::ExtendedCapabilityId;
use crate::spec::header::{self, Status};
use crate::spec::{sriov, type0};

/// A segment group of a dump as a machine.
#[derive(Debug, Clone)]
pub struct LoadedMachine {
    /// Number of the segment group.
    pub segment: u16,
    /// The machine.
    pub machine: Machine,
    /// What the dump does not tell.
    pub assumptions: Vec<Assumption>,
}

impl Dump {
    /// One machine for each segment group, lowest number first.
    ///
    /// Addresses come from the registers, sizes of decoders from `resources` where they are listed and otherwise from
    /// the address and its neighbours. Host bridges, their windows and the ECAM window are made up to fit. Every such
    /// choice is an [`Assumption`].
    pub fn machines(&self, resources: Option<&Resources>) -> Vec<LoadedMachine> {
        let segments: BTreeSet<_> = self.functions.iter().map(|function| function.address.segment).collect();
        let mut firmware = firmware::Maker::new(segments.len());
        segments
            .into_iter()
            .map(|segment| {
                let functions = self.functions.iter().filter(|function| function.address.segment == segment);
                let mut loader = Loader::new(segment, functions, resources);
                let mut machine = loader.machine();
                firmware.complete(&mut machine, loader.has_extended_space, &mut loader.assumptions);
                LoadedMachine { segment, machine, assumptions: loader.assumptions }
            })
            .collect()
    }
}

struct Loader<'a> {
    segment: u16,
    resources: Option<&'a Resources>,
    root_buses: Vec<u8>,
    blueprints: Vec<Blueprint>,
    /// The same functions with no decoder sized yet.
    functions: Vec<Function>,
    has_extended_space: bool,
    /// First addresses of all BARs and windows.
    starts: BTreeSet<(Space, u64)>,
    absent: usize,
    assumptions: Vec<Assumption>,
}

impl<'a> Loader<'a> {
    fn new(
        segment: u16,
        dumped: impl Iterator<Item = &'a DumpedFunction> + Clone,
        resources: Option<&'a Resources>,
    ) -> Self {
        let has_extended_space = dumped.clone().any(|function| function.bytes().len() > 256);
        let mut assumptions = Vec::new();
        let mut blueprints: Vec<_> = dumped.map(|function| blueprint(function, &mut assumptions)).collect();
        let mut functions: Vec<_> = blueprints.iter().cloned().map(Function::new).collect();

        let root_buses = root_buses(&functions);
        let kept = reachable(&functions, &root_buses);
        for (function, _) in functions.iter().zip(&kept).filter(|(_, kept)| !**kept) {
            assumptions.push(Assumption::Unreachable { function: SegmentBdf { segment, bdf: function.bdf() } });
        }
        let mut keep = kept.iter();
        blueprints.retain(|_| keep.next() == Some(&true));
        let mut keep = kept.iter();
        functions.retain(|_| keep.next() == Some(&true));

        let bars = functions.iter().flat_map(base_addresses).map(|bar| (space(bar.kind), bar.address));
        let windows = functions.iter().flat_map(Function::programmed_windows);
        let starts = bars.chain(windows.map(|(space, span)| (space, span.start()))).collect();
        Self {
            segment,
            resources,
            root_buses,
            blueprints,
            functions,
            has_extended_space,
            starts,
            absent: 0,
            assumptions,
        }
    }

    fn machine(&mut self) -> Machine {
        let blueprints = std::mem::take(&mut self.blueprints);
        let mut blueprints: Vec<_> = (0..).zip(blueprints).map(|(index, own)| self.sized(index, own)).collect();
        if self.absent != 0 {
            self.assumptions.push(Assumption::AbsentBars { segment: self.segment, count: self.absent });
        }
        self.ungate(&mut blueprints);
        let firmware = firmware::without_windows(self.segment, &self.root_buses);
        Machine::new(firmware, blueprints).expect("functions are reachable and there once")
    }

    fn sized(&mut self, index: usize, blueprint: Blueprint) -> Blueprint {
        let function = self.functions[index].clone();
        let mut sizes = [0; 7];
        for bar in base_addresses(&function) {
            sizes[bar.index] = self.size(&function, &bar, 1);
        }
        let mut vf_sizes = [0; 6];
        let (vf_bars, total) = vf_base_addresses(&function);
        for bar in vf_bars {
            vf_sizes[bar.index] = self.size(&function, &bar, total);
        }
        blueprint.sizes(sizes).vf_sizes(vf_sizes)
    }

    /// Bytes a register decodes; 0 where it counts as not implemented. `share` functions share the listed range.
    fn size(&mut self, function: &Function, bar: &BaseAddress, share: u64) -> u64 {
        let at = SegmentBdf { segment: self.segment, bdf: function.bdf() };
        let register = bar.register;
        let mut listed = self.resources.and_then(|list| list.find(at, register));
        if let Some(resource) = listed.filter(|resource| is_elsewhere(resource, bar)) {
            if bar.address == 0 || resource.is("ignored") {
                let start = resource.start.unwrap_or(0);
                self.assumptions.push(Assumption::NotDecoded { function: at, register, listed: start });
                return 0;
            }
            listed = None;
        }
        let Some((resource, len)) = listed.and_then(|resource| Some((resource, resource.len()? / share.max(1)))) else {
            if bar.address == 0 {
                self.absent += usize::from(self.resources.is_none() || bar.raw != 0);
                return 0;
            }
            let size = self.derive(function, bar);
            self.assumptions.push(Assumption::DerivedSize { function: at, register, size });
            return size;
        };
        let most = if bar.kind.is_64_bit() { 1 << 62 } else { 1 << 31 };
        let size = len.max(1).checked_next_power_of_two().unwrap_or(most).min(most).min(alignment(bar.address));
        if size != len {
            self.assumptions.push(Assumption::AdjustedSize { function: at, register, listed: len, size });
        }
        let listed = resource.start.unwrap_or(bar.address);
        if bar.address != 0 && listed != bar.address {
            self.assumptions.push(Assumption::AddressDiffers { function: at, register, own: bar.address, listed });
        }
        size
    }

    /// The largest power of two that fits the alignment of the address, the window it is in, and the next resource.
    /// The limits are what common devices stay below.
    fn derive(&self, function: &Function, bar: &BaseAddress) -> u64 {
        let common = match bar.kind {
            BarKind::Io => 0x100,
            BarKind::Rom => 0x1_0000,
            kind if kind.is_prefetchable() => 0x1000_0000,
            _ => 0x100_0000,
        };
        let space = space(bar.kind);
        let parent = self.functions.iter().find(|bridge| leads_to(bridge, function.bdf().bus()));
        let windows = parent.map(Function::programmed_windows).unwrap_or_default();
        let window = windows.into_iter().find(|(of, span)| *of == space && span.contains(bar.address));
        let to_window_end = window.map_or(u64::MAX, |(_, window)| window.last() - bar.address + 1);
        let next = self.starts.range((space, bar.address + 1)..).next().filter(|(of, _)| *of == space);
        let to_next = next.map_or(u64::MAX, |(_, next)| next - bar.address);
        let room = alignment(bar.address).min(to_window_end).min(to_next).min(common);
        1 << room.max(u64::from(bar.kind.type_mask()) + 1).ilog2()
    }

    /// Ports forward the device numbers at which functions answered behind them.
    fn ungate(&mut self, blueprints: &mut [Blueprint]) {
        for index in 0..self.functions.len() {
            let own = self.functions[index].bdf();
            if self.root_buses.contains(&own.bus()) {
                continue;
            }
            let Some(bridge) = self.functions.iter().position(|bridge| leads_to(bridge, own.bus())) else { continue };
            if !self.functions[bridge].passes(own) {
                let at = |bdf: Bdf| SegmentBdf { segment: self.segment, bdf };
                let port = at(self.functions[bridge].bdf());
                self.assumptions.push(Assumption::UngatedPort { port, function: at(own) });
                blueprints[bridge] = blueprints[bridge].clone().quirk(Quirks::FORWARDS_EVERY_DEVICE);
            }
        }
    }
}

/// A register that holds an address.
struct BaseAddress {
    index: usize,
    register: Register,
    raw: u32,
    kind: BarKind,
    address: u64,
}

/// The registers of the header.
fn base_addresses(function: &Function) -> Vec<BaseAddress> {
    let Some(kind) = function.header_type() else { return Vec::new() };
    let first = usize::from(header::BAR0.index());
    let mut found = run(&function.config()[first..first + kind.bars()], Register::Bar);
    if let Some(rom) = kind.rom() {
        let raw = function.config()[usize::from(rom.index())];
        let address = u64::from(raw & !BarKind::Rom.type_mask());
        found.push(BaseAddress { index: ROM, register: Register::Rom, raw, kind: BarKind::Rom, address });
    }
    found
}

/// The VF BARs, and TotalVFs.
fn vf_base_addresses(function: &Function) -> (Vec<BaseAddress>, u64) {
    let Some(at) = capabilities::extended(function.config()).find(ExtendedCapabilityId::SR_IOV) else {
        return (Vec::new(), 1);
    };
    let start = usize::from(at.index());
    let first = start + usize::from(sriov::VF_BAR0);
    match (
        function.config().get(first..first + type0::BARS),
        function.config().get(start + usize::from(sriov::TOTAL_VFS)),
    ) {
        (Some(registers), Some(total)) => (run(registers, Register::VfBar), u64::from(total >> 16)),
        _ => (Vec::new(), 1),
    }
}

fn run(registers: &[u32], name: impl Fn(u8) -> Register) -> Vec<BaseAddress> {
    let mut found = Vec::new();
    let mut index = 0;
    while let Some(raw) = registers.get(index).copied() {
        let kind = BarKind::of(raw);
        let mut address = u64::from(raw & !kind.type_mask());
        let register = name(u8::try_from(index).unwrap_or(0));
        let mut next = index + 1;
        if kind.is_64_bit() {
            address |= u64::from(registers.get(next).copied().unwrap_or(0)) << 32;
            next += 1;
        }
        found.push(BaseAddress { index, register, raw, kind, address });
        index = next;
    }
    found
}

/// Whether a listed range is not what the register decodes: the copy of a video ROM below 1 MiB, the fixed ports of
/// an IDE controller in compatibility mode, a list that calls it virtual or ignores it.
fn is_elsewhere(resource: &Resource, bar: &BaseAddress) -> bool {
    const VIDEO_ROM: u64 = 0xc_0000;
    const IDE: [u64; 6] = [0x1f0, 0x3f4, 0x3f6, 0x170, 0x374, 0x376];
    let listed = resource.start.unwrap_or(bar.address);
    listed != bar.address
        && (resource.is("virtual")
            || resource.is("ignored")
            || resource.register == Register::Rom && listed == VIDEO_ROM
            || IDE.contains(&listed) && resource.is("io"))
}

fn blueprint(function: &DumpedFunction, assumptions: &mut Vec<Assumption>) -> Blueprint {
    let mut dwords = function.dwords();
    let (command, kind) = (usize::from(header::COMMAND.index()), capabilities::header_type(&dwords));
    let listed = u32::from(Status::CAPABILITIES_LIST.bits()) << 16;
    if let Some(kind) = kind.filter(|_| dwords.len() == 16 && dwords[command] & listed != 0) {
        assumptions.push(Assumption::HeaderOnly { function: function.address });
        dwords[command] &= !listed;
        dwords[usize::from(kind.capabilities_pointer().index())] &= !0xff;
    }
    Blueprint::raw(function.address.bdf, dwords).named(function.name())
}

/// Buses with functions that no bridge of another bus has behind it.
fn root_buses(functions: &[Function]) -> Vec<u8> {
    let buses: BTreeSet<_> = functions.iter().map(|function| function.bdf().bus()).collect();
    let is_behind = |bus: u8, bridge: &Function| {
        // A bridge that is not configured has zeros there.
        bridge.buses().is_some_and(|behind| behind.contains(&bus) && *behind.start() > bridge.bdf().bus())
    };
    buses.into_iter().filter(|bus| !functions.iter().any(|bridge| is_behind(*bus, bridge))).collect()
}

/// Which functions a chain of bridges connects with a root bus.
fn reachable(functions: &[Function], root_buses: &[u8]) -> Vec<bool> {
    let mut buses: BTreeSet<_> = root_buses.iter().copied().collect();
    loop {
        let found = functions.iter().filter(|bridge| buses.contains(&bridge.bdf().bus()));
        let behind = found.filter_map(Function::buses).map(|behind| *behind.start());
        let grown: BTreeSet<_> = buses.iter().copied().chain(behind).collect();
        if grown == buses {
            return functions.iter().map(|function| buses.contains(&function.bdf().bus())).collect();
        }
        buses = grown;
    }
}

fn leads_to(bridge: &Function, bus: u8) -> bool {
    bridge.buses().is_some_and(|behind| *behind.start() == bus) && bridge.bdf().bus() != bus
}

/// The largest power of two that divides the address.
fn alignment(address: u64) -> u64 {
    1_u64.checked_shl(address.trailing_zeros()).unwrap_or(1 << 63)
}

fn space(kind: BarKind) -> Space {
    if kind.is_memory() { Space::Memory } else { Space::Io }
}
