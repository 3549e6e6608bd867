//! Machines, plans and guests' doings made of arbitrary bytes, for property tests and fuzzing alike.
//!
//! A [`Scenario`] is data: it prints, shrinks and replays. [`laws::obey`](super::laws::obey) runs it.

use core::ops::{Range, RangeInclusive};
use std::vec::Vec;

use super::machine::{Blueprint, Builder, Capability, ExtendedCapability, FixedRange, Machine, VfBar, Wake, Windows};
use super::platform::RootWindow;
use crate::access::Width;
use crate::address::{Bdf, Guest, Host, Span};
use crate::delta::Space;
use crate::plan::{
    BaseAddresses, BusNumbers, ErrorReporting, Grade, InterruptPin, IoBars, MsixTable, Placement, Plan, Policy,
    Relocation, Vacated, Vfs, Way,
};
use crate::spec::bar::BarKind;
use crate::spec::express::PortType;
use crate::spec::header::Command;
use crate::topology::{Function, Topology};

/// A machine, a plan, and what a guest does.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct Scenario {
    /// What is on the root bus; devices 1, 2, 3 and so on.
    #[cfg_attr(feature = "arbitrary", arbitrary(with = list::<_, 6>))]
    pub slots: Vec<Slot>,
    /// What is moved.
    #[cfg_attr(feature = "arbitrary", arbitrary(with = list::<_, 4>))]
    pub moves: Vec<Move>,
    /// Which functions are hidden, by their place among all that are no bridges.
    #[cfg_attr(feature = "arbitrary", arbitrary(with = list::<_, 2>))]
    pub hidden: Vec<u8>,
    /// How functions behind ports are found, by the place of the port among all bridges.
    #[cfg_attr(feature = "arbitrary", arbitrary(with = list::<_, 2>))]
    pub ways: Vec<(u8, Way)>,
    /// What is found where functions left.
    pub vacated: Vacated,
    /// Guest pages windows are kept away from, from 2 GiB on, and how many.
    #[cfg_attr(feature = "arbitrary", arbitrary(with = list::<_, 2>))]
    pub reserved: Vec<(u16, u8)>,
    /// What becomes of bus numbers the guest writes.
    pub bus_numbers: BusNumbers,
    /// What becomes of addresses the guest gives to what stays.
    pub base_addresses: BaseAddresses,
    /// What the guest does.
    #[cfg_attr(feature = "arbitrary", arbitrary(with = list::<_, 40>))]
    pub steps: Vec<Step>,
}

/// A device of the root bus.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Slot {
    /// Functions of one device.
    Device(Device),
    /// A Root Port, with a device behind it or without.
    RootPort(PortSketch, Option<Device>),
    /// A Root Port with a switch behind it (its Upstream Port comes second), and Downstream Ports with devices behind them.
    Switch(
        PortSketch,
        PortSketch,
        #[cfg_attr(feature = "arbitrary", arbitrary(with = list::<_, 3>))] Vec<(PortSketch, Option<Device>)>,
    ),
    /// A conventional bridge with devices behind it.
    Bridge(PortSketch, #[cfg_attr(feature = "arbitrary", arbitrary(with = list::<_, 3>))] Vec<Device>),
    /// A Root Port with a PCI Express to PCI Bridge behind it, and devices behind that.
    ExpressBridge(
        PortSketch,
        PortSketch,
        #[cfg_attr(feature = "arbitrary", arbitrary(with = list::<_, 3>))] Vec<Device>,
    ),
    /// A Root Complex Event Collector.
    Collector,
}

/// What one bridge has.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct PortSketch {
    /// A port that leads down a link: a slot, error reporting, time, containment. A conventional bridge: power management.
    pub has_services: bool,
    /// No_Soft_Reset.
    pub keeps_registers: bool,
    /// The window firmware left closed, though there are BARs behind it: I/O, memory, prefetchable; with 3 to 7 none.
    pub closed: u8,
    /// A BAR of its own.
    pub bar: Option<BarSketch>,
}

/// The functions of one device, at most eight.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct Device {
    /// Function 0, which every device has.
    pub first: FunctionSketch,
    /// Functions 1 to 7.
    #[cfg_attr(feature = "arbitrary", arbitrary(with = list::<_, 3>))]
    pub others: Vec<FunctionSketch>,
}

/// What one function has.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct FunctionSketch {
    /// BARs, as many as fit six registers.
    #[cfg_attr(feature = "arbitrary", arbitrary(with = list::<_, 6>))]
    pub bars: Vec<BarSketch>,
    /// The Expansion ROM.
    pub rom: Option<RomSketch>,
    /// Capabilities, in this order; each at most once.
    #[cfg_attr(feature = "arbitrary", arbitrary(with = list::<_, 10>))]
    pub capabilities: Vec<CapabilitySketch>,
    /// No_Soft_Reset.
    pub keeps_registers: bool,
    /// Whether firmware left decoding off.
    pub is_disabled: bool,
    /// Whether firmware gave it no addresses.
    pub is_unplaced: bool,
    /// How a list of capabilities ends: the first loops or leads into the header, the extended one loops or leads below
    /// 100h; with 4 to 15 they end as they should.
    pub broken: u8,
}

/// An Expansion ROM: its size as a power of two from 2 KiB on, and whether firmware left it enabled.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct RomSketch(pub u8, pub bool);

/// A BAR; sizes are exponents, cut to what makes sense.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum BarSketch {
    /// I/O, 4 to 256 bytes.
    Io(u8),
    /// Memory below 4 GiB, 16 bytes to 1 MiB; prefetchable or not.
    Memory32(u8, bool),
    /// Memory with a 64-bit register, 16 bytes to 1 MiB; prefetchable or not.
    Memory64(u8, bool),
}

/// A capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum CapabilitySketch {
    Acs,
    AdvancedFeatures,
    Aer,
    Ari,
    Ats,
    /// With memory at a fixed address, or with nothing.
    EnhancedAllocation(bool),
    L1PmSubstates,
    Ltr,
    Msi,
    MsiX,
    PowerManagement,
    Ptm,
    ResizableBar,
    SrIov(SrIovSketch),
    /// Of an ID nobody has defined.
    Unknown,
    VendorSpecific,
    VitalProductData,
}

/// Virtual Functions: where they are, and what they decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct SrIovSketch {
    /// TotalVFs, 1 to 8.
    pub total: u8,
    /// First VF Offset, 4 to 131.
    pub offset: u8,
    /// VF Stride, 1 to 4.
    pub stride: u8,
    /// VF BAR 0: an exponent of 4 to 64 KiB, and whether it is prefetchable and has 64 bits, or neither.
    pub bar: (u8, bool),
    /// VF BAR 2.
    pub other_bar: Option<(u8, bool)>,
    /// Whether firmware placed the VF BARs.
    pub is_placed: bool,
}

/// One or two functions that are moved. Functions are named by their place among all that are no bridges.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Move {
    /// A function to any address.
    To(u8, Bdf, Policies),
    /// A function to another function number of an occupied device.
    Beside(u8, u8, u8, Policies),
    /// A function to a device number of the bus another function is on.
    OnBusOf(u8, u8, u8, Policies),
    /// Two functions change places.
    Swap(u8, u8, Policies),
    /// A whole device to a device number of the bus another function is on.
    Device(u8, u8, u8),
}

/// The choices of one move.
#[derive(Debug, Clone, Copy, Default)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct Policies {
    /// Who places the BARs.
    pub placement: Placement,
    /// What I/O BARs become.
    pub io_bars: IoBars,
    /// What happens to the MSI-X Table.
    pub msix_table: MsixTable,
    /// What becomes of error messages.
    pub errors: ErrorReporting,
    /// The pin to show.
    pub interrupt_pin: Option<InterruptPin>,
    /// What becomes of Virtual Functions.
    pub vfs: Vfs,
    /// How much is shown.
    pub policy: Policy,
}

/// One thing the guest, or its second stage, does.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Step {
    /// Reads configuration space.
    Read(Target, Offset, Width),
    /// Writes configuration space.
    Write(Target, Offset, Width, u32),
    /// Writes a whole BAR of a moved function: to some page of low memory, to another BAR's place, or anywhere.
    Place(u8, u8, Address),
    /// Writes the decode enables of a moved function: memory, I/O, and whether the ROM's follows.
    Enable(u8, bool, bool, bool),
    /// Writes NumVFs of a moved function, and whether there are Virtual Functions and they decode.
    VirtualFunctions(u8, u8, bool, bool),
    /// Writes PowerState of a moved function.
    Power(u8, u8),
    /// Puts a bridge to sleep, or wakes it.
    PowerOfBridge(u8, bool),
    /// Orders a Function Level Reset of a moved function, by Device Control or by Advanced Features.
    Reset(u8, bool),
    /// The host resets a function whose BARs are the guest's alone, if it is no bridge.
    HostReset(u8),
    /// Begins or ends a reset of everything behind a bridge.
    ResetBehind(u8, ResetBehind, bool),
    /// The machine sleeps without power; firmware brings back everything, bridges or nothing.
    Sleep(Wake),
    /// The host makes all replays that are due.
    Replay,
    /// From now on the guest goes on at once after a step, or waits until all is ready.
    Hurry(bool),
    /// Lets the second stage refuse every so manieth change from now on, or none.
    Refuse(u8),
}

/// What a guest resets everything behind a bridge by.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum ResetBehind {
    SecondaryBusReset,
    LinkDisable,
    SlotPower,
    Containment,
}

/// A byte offset into configuration space.
#[derive(Debug, Clone, Copy)]
pub struct Offset(pub u16);

#[cfg(feature = "arbitrary")]
impl<'a> arbitrary::Arbitrary<'a> for Offset {
    /// Half of all are in the header, a quarter among the capabilities, as a guest's accesses are.
    fn arbitrary(bytes: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Self> {
        let offset: u16 = bytes.arbitrary()?;
        Ok(Self(match offset >> 14 {
            0 | 1 => offset & 0x3f,
            2 => offset & 0xff,
            _ => offset & 0xfff,
        }))
    }
}

/// A function the guest means.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Target {
    /// A moved function, at its guest address.
    Moved(u8),
    /// Where a moved or hidden function was.
    Vacated(u8),
    /// A bridge.
    Bridge(u8),
    /// Any address.
    Any(Bdf),
}

/// Where a guest puts a BAR.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Address {
    /// A page number, from 2 GiB on.
    Page(u16),
    /// Where another moved function's BAR is on the host.
    HostBar(u8, u8),
    /// Any.
    Any(u64),
}

/// The address of a page, from 2 GiB on.
pub(super) fn address_of_page(page: u16) -> u64 {
    0x8000_0000 + (u64::from(page) << 12)
}

/// Up to `MOST` elements, any number as likely as any other; a plain `Vec` would mostly be empty.
#[cfg(feature = "arbitrary")]
fn list<'a, T: arbitrary::Arbitrary<'a>, const MOST: usize>(
    bytes: &mut arbitrary::Unstructured<'a>,
) -> arbitrary::Result<Vec<T>> {
    let count = bytes.int_in_range(0..=MOST)?;
    (0..count).map(|_| bytes.arbitrary()).collect()
}

impl Scenario {
    /// The machine.
    ///
    /// # Panics
    /// Never: whatever the bytes are, they describe a machine.
    pub fn machine(&self) -> Machine {
        let mut construction = Construction::new();
        for (slot, device) in self.slots.iter().zip(1..) {
            construction.add_slot(slot, device);
        }
        construction.builder.build().expect("every function has an address of its own behind a bridge that is there")
    }

    /// Guest addresses windows are kept away from.
    pub fn reserved(&self) -> Vec<Span> {
        let span = |(page, count): &(u16, u8)| Span::new(address_of_page(*page), 0x1000 * (u64::from(*count) + 1));
        self.reserved.iter().filter_map(span).collect()
    }

    /// The plan, as far as it can be built: a move or hidden function that is refused is left out.
    pub fn plan<'t, const N: usize>(&self, topology: &'t Topology<N>) -> Plan<'t> {
        let hosts: Vec<_> =
            topology.functions().iter().filter(|function| function.bridge().is_none()).map(Function::bdf).collect();
        let pick = |index: u8| hosts.get(usize::from(index) % hosts.len().max(1)).copied();
        let plan =
            Plan::new(topology).bus_numbers(self.bus_numbers).base_addresses(self.base_addresses).vacated(self.vacated);
        let reserve = |plan: Plan<'t>, span| plan.clone().reserve(Guest(span)).unwrap_or(plan);
        let mut plan = self.reserved().into_iter().fold(plan, reserve);
        for step in &self.moves {
            let next = step.relocations(pick, topology);
            let next = next.into_iter().try_fold(plan.clone(), Plan::with);
            plan = next.ok().filter(is_possible).unwrap_or(plan);
        }
        let ports: Vec<_> = topology.functions().iter().filter(|function| function.bridge().is_some()).collect();
        for (index, way) in &self.ways {
            let Some(port) = ports.get(usize::from(*index) % ports.len().max(1)) else { continue };
            plan = plan.clone().find_behind(port.bdf(), *way).ok().filter(is_possible).unwrap_or(plan);
        }
        for host in self.hidden.iter().filter_map(|index| pick(*index)) {
            plan = plan.clone().hide(host).ok().filter(is_possible).unwrap_or(plan);
        }
        plan
    }
}

fn is_possible(plan: &Plan<'_>) -> bool {
    plan.findings().all(|finding| finding.grade() != Grade::Error)
}

impl Move {
    fn relocations<const N: usize>(
        self,
        pick: impl Fn(u8) -> Option<Host<Bdf>>,
        topology: &Topology<N>,
    ) -> Vec<Relocation> {
        let on_bus_of = |other: Host<Bdf>, device: u8, function: u8| {
            Guest(Bdf::new(other.0.bus(), device % 32, function % 8).unwrap_or_default())
        };
        let list = match self {
            Self::To(host, guest, policies) => pick(host).map(|host| [policies.of(host, Guest(guest))].to_vec()),
            Self::Beside(host, other, function, policies) => pick(host)
                .zip(pick(other))
                .map(|(host, other)| [policies.of(host, Guest(other.0.with_function(function)))].to_vec()),
            Self::OnBusOf(host, other, device, policies) => pick(host)
                .zip(pick(other))
                .map(|(host, other)| [policies.of(host, on_bus_of(other, device, 0))].to_vec()),
            Self::Swap(one, other, policies) => pick(one)
                .zip(pick(other))
                .map(|(one, other)| [policies.of(one, Guest(other.0)), policies.of(other, Guest(one.0))].to_vec()),
            Self::Device(host, other, device) => pick(host).zip(pick(other)).map(|(host, other)| {
                let functions = topology.view().device(host).map(Function::bdf);
                let moved = |host: Host<Bdf>| Relocation::new(host, on_bus_of(other, device, host.0.function()));
                functions.map(moved).collect()
            }),
        };
        list.unwrap_or_default()
    }
}

impl Policies {
    fn of(self, host: Host<Bdf>, guest: Guest<Bdf>) -> Relocation {
        let Self { placement, io_bars, msix_table, errors, interrupt_pin, vfs, policy } = self;
        Relocation { host, guest, placement, io_bars, msix_table, errors, interrupt_pin, vfs, policy }
    }
}

/// A machine under construction: every bus has 16 MiB of memory and 16 MiB of prefetchable memory; the first ones behind
/// bridges have 4 KiB of I/O, as on machines that run out of it.
struct Construction {
    builder: Builder,
    /// The next free bus.
    bus: u8,
    /// What is free on the root bus.
    root: Room,
}

/// What is free of the addresses of one bus.
#[derive(Clone)]
struct Room {
    memory: Range<u64>,
    prefetchable: Range<u64>,
    io: Range<u64>,
}

const BUS_MEMORY: u64 = 0x100_0000;
const BUS_IO: u64 = 0x1000;

impl Room {
    fn of_bus(bus: u8) -> Self {
        Self::of_buses(bus, 1)
    }

    fn of_buses(first: u8, count: u8) -> Self {
        let memory = |from: u64| {
            let start = from + u64::from(first) * BUS_MEMORY;
            start..start + u64::from(count) * BUS_MEMORY
        };
        let ports = |bus: u64| (0xa000 + bus * BUS_IO).min(0x1_0000);
        let io = match u64::from(first).checked_sub(1) {
            Some(first) => ports(first)..ports(first + u64::from(count)),
            None => 0x1000..0xa000,
        };
        Self { memory: memory(0x8000_0000), prefetchable: memory(0x10_0000_0000), io }
    }

    /// An aligned place; 0 where none is left.
    fn take(free: &mut Range<u64>, size: u64) -> u64 {
        Self::take_for(free, size, 1)
    }

    /// The same for `count` in a row.
    fn take_for(free: &mut Range<u64>, size: u64, count: u64) -> u64 {
        let at = free.start.next_multiple_of(size);
        if at + size * count > free.end {
            return 0;
        }
        free.start = at + size * count;
        at
    }
}

/// The windows of a bridge to these buses.
fn windows(buses: &RangeInclusive<u8>, closed: u8) -> Windows {
    let room = Room::of_buses(*buses.start(), buses.end() - buses.start() + 1);
    let open =
        |number, range: Range<u64>| Span::new(range.start, range.end - range.start).filter(|_| closed % 8 != number);
    Windows { io: open(0, room.io), memory: open(1, room.memory), prefetchable: open(2, room.prefetchable) }
}

impl Construction {
    fn new() -> Self {
        let roots = [
            RootWindow { span: Span::from_bounds(0x8000_0000, 0xfebf_ffff).unwrap(), space: Space::Memory },
            RootWindow { span: Span::new(0x10_0000_0000, 0x10_0000_0000).unwrap(), space: Space::Memory },
            Builder::PORTS,
        ];
        Self { builder: Builder::new().root(0..=0xff, &roots), bus: 1, root: Room::of_bus(0) }
    }

    fn add_slot(&mut self, slot: &Slot, device: u8) {
        let at = |bus, device| Bdf::new(bus, device, 0).unwrap_or_default();
        let place = at(0, device);
        match slot {
            Slot::Device(sketch) => {
                let mut room = self.root.clone();
                self.add_device(sketch, place, &mut room, true);
                self.root = room;
            }
            Slot::RootPort(port, sketch) => {
                let bus = self.take_buses(1);
                self.add_root_port(*port, place, bus..=bus);
                if let Some(sketch) = sketch {
                    self.add_device(sketch, at(bus, 0), &mut Room::of_bus(bus), true);
                }
            }
            Slot::Switch(root, upstream, downstream) => {
                let count = u8::try_from(downstream.len()).unwrap_or(0);
                let first = self.take_buses(2 + count);
                let inner = first + 1;
                let last = inner + count;
                self.add_root_port(*root, place, first..=last);
                let upstream = PortSketch { has_services: false, ..*upstream };
                self.add_port(PortType::UpstreamPort, upstream, at(first, 0), inner..=last, &mut Room::of_bus(first));
                let mut inside = Room::of_bus(inner);
                for ((port, sketch), number) in downstream.iter().zip(0..) {
                    let bus = inner + 1 + number;
                    self.add_port(PortType::DownstreamPort, *port, at(inner, number), bus..=bus, &mut inside);
                    if let Some(sketch) = sketch {
                        self.add_device(sketch, at(bus, 0), &mut Room::of_bus(bus), true);
                    }
                }
            }
            Slot::Bridge(port, sketches) => {
                let bus = self.take_buses(1);
                let bridge = Blueprint::bridge(place, bus..=bus, windows(&(bus..=bus), port.closed));
                let powered = if port.has_services { bridge.capability(&Capability::PowerManagement) } else { bridge };
                let placed = port.place(powered, &mut self.root);
                self.add(if port.keeps_registers { placed.no_soft_reset() } else { placed });
                self.add_conventional(sketches, bus);
            }
            Slot::ExpressBridge(root, bridge, sketches) => {
                let first = self.take_buses(2);
                let behind = first + 1;
                self.add_root_port(*root, place, first..=behind);
                let bridge = PortSketch { has_services: false, ..*bridge };
                let mut between = Room::of_bus(first);
                self.add_port(PortType::PciExpressToPciBridge, bridge, at(first, 0), behind..=behind, &mut between);
                self.add_conventional(sketches, behind);
            }
            Slot::Collector => {
                let collector = Capability::Express(PortType::RootComplexEventCollector);
                let errors = ExtendedCapability::AdvancedErrorReporting;
                self.add(Blueprint::endpoint(place).class(0x08_0700).capability(&collector).extended(&errors));
            }
        }
    }

    fn add_conventional(&mut self, devices: &[Device], bus: u8) {
        let mut room = Room::of_bus(bus);
        for (sketch, device) in devices.iter().zip(0..) {
            let place = Bdf::new(bus, device, 0).unwrap_or_default();
            self.add_device(sketch, place, &mut room, false);
        }
    }

    fn add_root_port(&mut self, sketch: PortSketch, at: Bdf, buses: RangeInclusive<u8>) {
        let mut room = self.root.clone();
        self.add_port(PortType::RootPort, sketch, at, buses, &mut room);
        self.root = room;
    }

    fn add_port(&mut self, kind: PortType, sketch: PortSketch, at: Bdf, buses: RangeInclusive<u8>, room: &mut Room) {
        let windows = windows(&buses, sketch.closed);
        let port = sketch.place(Blueprint::port(at, kind, buses, windows), room);
        let port = if sketch.has_services { port.with_services() } else { port };
        self.add(if sketch.keeps_registers { port.no_soft_reset() } else { port });
    }

    fn take_buses(&mut self, count: u8) -> u8 {
        let first = self.bus;
        self.bus += count;
        first
    }

    fn add(&mut self, function: Blueprint) {
        self.builder = core::mem::take(&mut self.builder).function(function);
    }

    fn add_device(&mut self, device: &Device, at: Bdf, room: &mut Room, is_express: bool) {
        for (sketch, number) in core::iter::once(&device.first).chain(&device.others).zip(0..) {
            let next = if usize::from(number) < device.others.len() { number + 1 } else { 0 };
            self.add(sketch.blueprint(at.with_function(number), next, room, is_express));
        }
    }
}

impl PortSketch {
    fn place(self, bridge: Blueprint, room: &mut Room) -> Blueprint {
        let Some(bar) = self.bar else { return bridge };
        let (kind, size, free) = bar.of(room);
        bridge.bar(0, kind, size, Room::take(free, size))
    }
}

impl BarSketch {
    /// What it decodes, its size, and where there may be a place for it.
    fn of(self, room: &mut Room) -> (BarKind, u64, &mut Range<u64>) {
        match self {
            Self::Io(exponent) => (BarKind::Io, 4_u64 << (exponent % 7), &mut room.io),
            Self::Memory32(exponent, prefetchable) => {
                (BarKind::Memory32 { prefetchable }, 16 << (exponent % 17), &mut room.memory)
            }
            Self::Memory64(exponent, prefetchable) => {
                let free = if prefetchable { &mut room.prefetchable } else { &mut room.memory };
                (BarKind::Memory64 { prefetchable }, 16 << (exponent % 17), free)
            }
        }
    }
}

impl FunctionSketch {
    /// `next` is the number of the function after it, or 0.
    fn blueprint(&self, at: Bdf, next: u8, room: &mut Room, is_express: bool) -> Blueprint {
        let mut blueprint = Blueprint::endpoint(at);
        let on_root = at.bus() == 0;
        let mut index = 0;
        for bar in &self.bars {
            let (kind, size, free) = bar.of(room);
            let registers = if kind.is_64_bit() { 2 } else { 1 };
            if index + registers > 6 {
                continue;
            }
            let address = if self.is_unplaced { 0 } else { Room::take(free, size) };
            blueprint = blueprint.bar(index, kind, size, address);
            index += registers;
        }
        if let Some(RomSketch(exponent, is_enabled)) = self.rom {
            let size = 0x800 << (exponent % 8);
            let address = if self.is_unplaced { 0 } else { Room::take(&mut room.memory, size) };
            blueprint = blueprint.rom(size, u32::try_from(address).unwrap_or(0));
            if is_enabled {
                blueprint = blueprint.rom_enabled();
            }
        }
        if is_express {
            let port_type = if on_root { PortType::RootComplexIntegratedEndpoint } else { PortType::Endpoint };
            blueprint = blueprint.capability(&Capability::Express(port_type));
        }
        // Virtual Functions of a device behind a link are at numbers only ARI leads to.
        let has_vfs = self.capabilities.iter().any(|capability| matches!(capability, CapabilitySketch::SrIov(_)));
        let chain = Some(CapabilitySketch::Ari).filter(|_| has_vfs && !on_root);
        let mut had = Vec::new();
        for capability in self.capabilities.iter().copied().chain(chain) {
            let kind = core::mem::discriminant(&capability);
            if !had.contains(&kind) {
                had.push(kind);
                blueprint = capability.add(blueprint, next, room, is_express);
            }
        }
        if self.keeps_registers {
            blueprint = blueprint.no_soft_reset();
        }
        blueprint = match self.broken % 16 {
            0 => blueprint.broken_list(0x40),
            1 => blueprint.broken_list(0x10),
            2 => blueprint.broken_extended_list(0x100),
            3 => blueprint.broken_extended_list(0x40),
            _ => blueprint,
        };
        if self.is_disabled || self.is_unplaced { blueprint.command(Command::empty()) } else { blueprint }
    }
}

impl CapabilitySketch {
    fn add(self, blueprint: Blueprint, next: u8, room: &mut Room, is_express: bool) -> Blueprint {
        let standard = match self {
            Self::AdvancedFeatures => Some(Capability::AdvancedFeatures),
            Self::EnhancedAllocation(has_memory) => {
                let fixed = |base| FixedRange { bar: 0, properties: 1, base, max_offset: 0xffc };
                let range = has_memory.then(|| fixed(Room::take(&mut room.memory, 0x1000)));
                Some(Capability::EnhancedAllocation(range.filter(|range| range.base != 0).into_iter().collect()))
            }
            Self::Msi => Some(Capability::Msi),
            Self::MsiX => Some(Capability::MsiX { vectors: 16, table: (0, 0x1800), pba: (0, 0x800) }),
            Self::PowerManagement => Some(Capability::PowerManagement),
            Self::Unknown => Some(Capability::Unknown),
            Self::VendorSpecific => Some(Capability::VendorSpecific([0x1234_5678; 3].to_vec())),
            Self::VitalProductData => Some(Capability::VitalProductData),
            _ => None,
        };
        if let Some(capability) = standard {
            return blueprint.capability(&capability);
        }
        let extended = match self {
            Self::Acs => ExtendedCapability::AccessControl,
            Self::Aer => ExtendedCapability::AdvancedErrorReporting,
            Self::Ari => ExtendedCapability::Ari { next },
            Self::Ats => ExtendedCapability::Ats,
            Self::L1PmSubstates => ExtendedCapability::L1PmSubstates,
            Self::Ltr => ExtendedCapability::LatencyToleranceReporting,
            Self::Ptm => ExtendedCapability::PrecisionTimeMeasurement,
            Self::ResizableBar => ExtendedCapability::ResizableBar([(0, 0x3f)].to_vec()),
            Self::SrIov(sketch) => sketch.capability(room),
            _ => return blueprint,
        };
        if is_express { blueprint.extended(&extended) } else { blueprint }
    }
}

impl SrIovSketch {
    fn capability(self, room: &mut Room) -> ExtendedCapability {
        let total = u16::from(self.total % 8) + 1;
        let mut bars = Vec::new();
        let others = self.other_bar.map(|bar| (2, bar));
        for (index, (exponent, is_wide)) in core::iter::once((0, self.bar)).chain(others) {
            let size = 0x1000 << (exponent % 5);
            let (kind, free) = if is_wide {
                (BarKind::Memory64 { prefetchable: true }, &mut room.prefetchable)
            } else {
                (BarKind::Memory32 { prefetchable: false }, &mut room.memory)
            };
            let address = if self.is_placed { Room::take_for(free, size, total.into()) } else { 0 };
            bars.push((index, VfBar { kind, size, address }));
        }
        let (offset, stride) = (u16::from(self.offset % 128) + 4, u16::from(self.stride % 4) + 1);
        ExtendedCapability::SrIov { total, offset, stride, bars }
    }
}
