//! The eleven laws that hold whatever a guest does, written once. Property tests and fuzzing run them by [`obey`].
//!
//! Each law is a function of its name. It looks at the [`Vm`](super::vm::Vm) from outside, through the guest's accesses and the
//! hardware's registers, and never asks the remapper what it thinks.

mod virtual_functions;

use core::fmt::Debug;
use core::time::Duration;
use std::collections::BTreeSet;
use std::format;
use std::string::String;
use std::vec::Vec;
use std::{panic, thread};

use super::explanation::what_is_said_is_done;
use super::machine::FunctionId;
use super::platform::Platform;
use super::scenario::{Address, ResetBehind, Scenario, Step, Target, address_of_page};
use super::vm::{self, FUNCTIONS, Mapping, topology};
use crate::access::{Access, Dword, Lanes, Width};
use crate::address::{Bdf, Guest, Host, Span};
use crate::decision::{ReadDecision, WriteDecision};
use crate::delta::{Backing, Space};
use crate::plan::{BaseAddresses, BusNumbers, IoBars, MsixTable, Places, Plan, Relocation, VirtualFunctions, Way};
use crate::spec::bar::{BarKind, ROM_ENABLE};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId, extended_next_of, next_of};
use crate::spec::header::{self, Command, HeaderType};
use crate::spec::{advanced_features, containment, express, power_management, sriov, type1};
use crate::topology::{Bar, Bridge, Function, ROM, Topology};

/// Functions the plan of a scenario may touch: where addresses are virtual, all there are.
const TOUCHED: usize = 128;
/// A copy of a remapper with so much room passes over the stack, several times in builds without optimization.
const STACK: usize = 16 << 20;

type Vm = vm::Vm<TOUCHED>;

/// Runs a scenario and holds every law after every step.
///
/// # Panics
/// When a law is broken; the message names it.
pub fn obey(scenario: &Scenario) {
    let outcome = thread::scope(|scope| {
        let runner = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || run(scenario));
        runner.expect("there is memory for a stack").join()
    });
    outcome.unwrap_or_else(|broken| panic::resume_unwind(broken));
}

fn run(scenario: &Scenario) {
    let mut machine = scenario.machine();
    let topology = topology(&mut machine).expect("a scenario has few functions");
    let plan = scenario.plan(&topology);
    let vm = Vm::start_with_room(machine, &plan).expect("a scenario leaves out what is refused");
    let mut session = Session::new(vm, &topology, &plan, scenario);
    session.hold();
    let mut hurries = false;
    for (index, step) in scenario.steps.iter().enumerate() {
        if index >= scenario.steps.len() / 2 && session.original.is_none() && !session.refuses {
            session.restore(&plan);
        }
        session.take(step);
        session.hold();
        if let Step::Hurry(on) = step {
            hurries = *on;
        }
        if !hurries {
            session.each(|vm| vm.elapse(RESET));
            session.hold();
        }
    }
    session.settle();
    session.hold();
    restored_is_the_same(&mut session);
}

/// A register, bits of it, and their values.
type Fixed = (FunctionId, Dword, u32, u32);

/// Buses one behind the other.
const MAX_DEPTH: usize = 4;

/// Long enough for every reset.
const RESET: Duration = Duration::from_millis(100);

/// A guest at work, and what the laws compare it with.
struct Session<'t> {
    vm: Vm,
    /// Once the state was saved and restored, and `vm` goes on with it: the one that just goes on.
    original: Option<Vm>,
    topology: &'t Topology<FUNCTIONS>,
    relocations: Vec<Relocation>,
    hidden: Vec<Host<Bdf>>,
    /// Functions whose BARs are the guest's alone, in the order in which windows are served.
    placed: Vec<Placed<'t>>,
    /// Virtual Functions that follow.
    followed: Vec<VirtualFunctions>,
    /// Guest addresses where nothing is to be found.
    vacated: Vec<Bdf>,
    /// Guest addresses the plan may touch.
    touchable: BTreeSet<Bdf>,
    /// Host registers no guest may change, with their values.
    fixed: Vec<Fixed>,
    /// Guest addresses where an inert function is found.
    inert: Vec<Bdf>,
    /// Bridges that reset their bus when the guest resets that of a port nothing is wired behind.
    resetting: Vec<Host<Bdf>>,
    /// Ports shown as PCI-X bridges.
    pci_x: Vec<Host<Bdf>>,
    /// Guest addresses windows are kept away from.
    reserved: Vec<Span>,
    refuses: bool,
    bus_numbers: BusNumbers,
    base_addresses: BaseAddresses,
    /// Whether the guest has given buses other numbers, so that guest addresses mean something else than at the start.
    renumbered: bool,
}

/// A function whose BARs are the guest's alone.
#[derive(Debug, Clone, Copy)]
struct Placed<'t> {
    guest: Bdf,
    function: &'t Function,
    /// Its move; none where it stays, and addresses are virtual.
    relocation: Option<Relocation>,
}

impl Placed<'_> {
    fn host(&self) -> Host<Bdf> {
        self.function.bdf()
    }

    /// The size of a BAR the guest finds. Where a function that moved has its BARs nobody knows yet: none shares a page.
    fn size(&self, bar: &Bar) -> u64 {
        let least = if bar.space() == Space::Memory && self.relocation.is_some() { 0x1000 } else { 0 };
        bar.size().max(least)
    }
}

impl<'t> Session<'t> {
    fn new(vm: Vm, topology: &'t Topology<FUNCTIONS>, plan: &Plan<'_>, scenario: &Scenario) -> Self {
        let relocations = plan.relocations().to_vec();
        let hidden = plan.hidden().to_vec();
        let resetting = topology.functions().iter().filter_map(|port| plan.reset_of(port)).map(Function::bdf).collect();
        let shows_pci_x = |function: &&Function| plan.way(function) == Some(Way::ConventionalBridge);
        let pci_x = topology.functions().iter().filter(shows_pci_x).map(Function::bdf).collect();
        let mut session = Self {
            vm,
            original: None,
            topology,
            relocations,
            hidden,
            placed: Vec::new(),
            followed: plan.virtual_functions(&Places::find(plan)).into_iter().flatten().collect(),
            vacated: Vec::new(),
            touchable: BTreeSet::new(),
            fixed: Vec::new(),
            inert: plan.inert().map(|Host(bdf)| bdf).collect(),
            resetting,
            pci_x,
            reserved: scenario.reserved(),
            refuses: false,
            bus_numbers: scenario.bus_numbers,
            base_addresses: scenario.base_addresses,
            renumbered: false,
        };
        let taken = |bdf: &Bdf| {
            session.relocations.iter().any(|relocation| relocation.guest.0 == *bdf) || session.inert.contains(bdf)
        };
        session.vacated = session.leaving().map(|Host(bdf)| bdf).filter(|bdf| !taken(bdf)).collect();
        for found in &session.followed {
            let is_taken =
                |bdf: &Bdf| session.followed.iter().any(|other| other.guest.0.number(*bdf, other.count).is_some());
            session.vacated.extend(Some(found.host.0.nth(0)).filter(|bdf| !taken(bdf) && !is_taken(bdf)));
        }
        session.placed = session.find_placed();
        session.touchable = session.find_touchable();
        for found in &session.followed {
            session.touchable.extend(found.host.0.all(found.count).chain(found.guest.0.all(found.count)));
            session.touchable.extend(plan.ari_port(found).map(|port| port.bdf().0));
            let first = topology.view().first_physical_function(found.physical);
            session.touchable.extend(first.map(|first| first.bdf().0));
        }
        session.fixed = session.find_fixed();
        lists_end(&mut session);
        hidden_is_absent(&mut session);
        session
    }

    /// The functions that are not where they were.
    fn leaving(&self) -> impl Iterator<Item = Host<Bdf>> {
        let moved = self.relocations.iter().filter(|relocation| relocation.guest.0 != relocation.host.0);
        moved.map(|relocation| relocation.host).chain(self.hidden.iter().copied())
    }

    /// Moved functions; where addresses are virtual, bridges something is found behind or nothing left, and all others.
    /// Nobody places host bridges and what is at fixed addresses.
    fn find_placed(&self) -> Vec<Placed<'t>> {
        let move_of =
            |function: &Function| self.relocations.iter().copied().find(|relocation| relocation.host == function.bdf());
        let moved = self.relocations.iter().map(|relocation| Placed {
            guest: relocation.guest.0,
            function: self.topology.view().function(relocation.host).expect("it is the topology's"),
            relocation: Some(*relocation),
        });
        let staying = self.topology.functions().iter().filter(|function| {
            let is_placed = function.bridge().is_some_and(|bridge| !self.is_vacant(function, bridge))
                || function.bridge().is_none() && !function.class().is_host_bridge() && !function.has_fixed_addresses();
            let stays = move_of(function).is_none() && !self.hidden.contains(&function.bdf());
            self.base_addresses == BaseAddresses::Virtual && is_placed && stays
        });
        let (bridges, others): (Vec<_>, Vec<_>) = staying.partition(|function| function.bridge().is_some());
        let staying = bridges.into_iter().chain(others);
        let staying = staying.map(|function| Placed { guest: function.bdf().0, function, relocation: None });
        moved
            .chain(staying)
            .filter(|placed| placed.relocation.is_some() || placed.function.bars().next().is_some())
            .collect()
    }

    /// Whether something left a bridge and nothing is found behind it any more.
    fn is_vacant(&self, function: &Function, bridge: Bridge) -> bool {
        let wired = |host: &Host<Bdf>| (bridge.secondary..=bridge.subordinate).contains(&host.0.bus());
        let lost = self.leaving().filter(wired).any(|host| self.has_left(host, function));
        lost && !self.is_found_behind(bridge)
    }

    /// The bridges above a bus, the nearest first.
    fn way_to(&self, bus: u8) -> Vec<&'t Function> {
        let mut way = Vec::new();
        let mut bus = bus;
        while let Some(bridge) = self.topology.view().bridge_to(bus) {
            way.push(bridge);
            bus = bridge.bdf().0.bus();
        }
        way
    }

    /// Moved and vacated addresses, their devices' first functions, the bridges above both, and the buses right behind
    /// those bridges, as numbers that are no device's have to be empty there. Functions that share the link of one that
    /// left, as the link stays as it is; and those that are chained with one that came.
    fn find_touchable(&self) -> BTreeSet<Bdf> {
        let mut touchable = BTreeSet::new();
        let guests = self.relocations.iter().map(|relocation| relocation.guest.0);
        for place in guests.chain(self.leaving().map(|Host(bdf)| bdf)) {
            touchable.extend([place, place.with_function(0)]);
            touchable.extend(self.way_to(place.bus()).iter().map(|bridge| bridge.bdf().0));
            if self.topology.view().bridge_to(place.bus()).is_some() {
                let behind = (0..=255).map(|devfn| Bdf::from_routing_id(u16::from_be_bytes([place.bus(), devfn])));
                touchable.extend(behind.filter(|bdf| self.topology.view().function(Host(*bdf)).is_none()));
                let port = self.topology.view().bridge_to(place.bus()).filter(|port| port.leads_down_a_link());
                let beside = self.topology.view().bus(place.bus()).filter(|_| port.is_some());
                touchable.extend(beside.map(|function| function.bdf().0));
            }
        }
        if self.base_addresses == BaseAddresses::Virtual {
            let bridges = self.topology.functions().iter().filter(|function| function.bridge().is_some());
            touchable.extend(bridges.map(|bridge| bridge.bdf().0).chain(self.placed.iter().map(|placed| placed.guest)));
        }
        touchable
    }

    /// BARs of moved and hidden functions, and what makes the bridges above them forward.
    fn find_fixed(&self) -> Vec<Fixed> {
        let mut fixed = Vec::new();
        let machine = self.vm.machine();
        let mut fix = |bdf: Bdf, dword: Dword, mask: u32| {
            let function = machine.original(bdf).expect("the topology is the machine's");
            let value = machine.peek(function, dword) & mask;
            fixed.push((function, dword, mask, value));
        };
        // The enable of a ROM, bit 0, is the guest's: its decoder may be a BAR's as well.
        for placed in &self.placed {
            let header_type = placed.function.header_type();
            bar_registers(header_type).for_each(|dword| fix(placed.host().0, dword, !1));
        }
        for Host(host) in &self.hidden {
            bar_registers(HeaderType::Type0).for_each(|dword| fix(*host, dword, !0));
        }
        let bridges = self.topology.functions().iter().filter(|function| function.bridge().is_some());
        for bridge in bridges.filter(|_| self.base_addresses == BaseAddresses::Virtual) {
            for (dword, mask) in WINDOWS {
                fix(bridge.bdf().0, dword, mask);
            }
        }
        for (sriov, found) in self.followed.iter().filter_map(|found| Some((self.sriov(found)?, found))) {
            let registers = (sriov::VF_BAR0..sriov::VF_BAR0 + 6).filter_map(|index| sriov.dword.plus(index));
            registers.for_each(|dword| fix(found.physical.0, dword, !0));
        }
        if self.bus_numbers == BusNumbers::Virtual {
            let bridges = self.topology.functions().iter().filter(|function| function.bridge().is_some());
            bridges.for_each(|bridge| fix(bridge.bdf().0, type1::BUS_NUMBERS, !0));
        }
        for host in self.leaving() {
            for bridge in self.way_to(host.0.bus()) {
                if self.has_left(host, bridge) {
                    fix(bridge.bdf().0, header::COMMAND, 0x7);
                    fix(bridge.bdf().0, type1::BUS_NUMBERS, !0);
                    for (dword, mask) in self.fixed_windows(bridge) {
                        fix(bridge.bdf().0, dword, mask);
                    }
                    let is_vacant = bridge.bridge().is_some_and(|buses| !self.is_found_behind(buses));
                    for dword in bar_registers(bridge.header_type()).filter(|_| is_vacant) {
                        fix(bridge.bdf().0, dword, !0);
                    }
                    fix_link(bridge, &mut fix);
                    let reset = if self.resetting.contains(&bridge.bdf()) { type1::SECONDARY_BUS_RESET } else { 0 };
                    fix(bridge.bdf().0, type1::BRIDGE_CONTROL, 0xffff_0000 & !reset);
                }
            }
        }
        fixed
    }

    /// The windows a function that left needs, and all of a bridge nothing is found behind. What is found behind may need
    /// a window firmware left closed.
    fn fixed_windows(&self, bridge: &Function) -> Vec<(Dword, u32)> {
        let windows = bridge.bridge().expect("it is a bridge");
        let is_vacant = !self.is_found_behind(windows);
        let [io, io_upper, memory, prefetchable @ ..] = WINDOWS;
        let mut fixed = Vec::new();
        if is_vacant || windows.io.is_some() {
            fixed.extend([io, io_upper]);
        }
        if is_vacant || windows.memory.is_some() {
            fixed.push(memory);
        }
        if is_vacant || windows.prefetchable.is_some() {
            fixed.extend(prefetchable);
        }
        fixed
    }

    /// Whether the guest finds something on the bus right behind a bridge.
    fn is_found_behind(&self, bridge: Bridge) -> bool {
        let moved_in = self.relocations.iter().any(|relocation| relocation.guest.0.bus() == bridge.secondary);
        let left: Vec<_> = self.leaving().collect();
        let inert = self.inert.iter().any(|bdf| bdf.bus() == bridge.secondary);
        inert || moved_in || self.topology.view().bus(bridge.secondary).any(|function| !left.contains(&function.bdf()))
    }

    /// Whether the guest does not find a function, wired behind a bridge, on the buses of that bridge.
    fn has_left(&self, host: Host<Bdf>, bridge: &Function) -> bool {
        let buses = bridge.bridge().map(|bridge| bridge.secondary..=bridge.subordinate);
        let guest = self.relocations.iter().find(|relocation| relocation.host == host).map(|moved| moved.guest.0.bus());
        !buses.zip(guest).is_some_and(|(buses, guest)| buses.contains(&guest))
    }

    /// The BARs of a function that have addresses the bridges above it forward.
    fn reached_bars<'f>(&self, function: &'f Function) -> impl Iterator<Item = &'f Bar> {
        let way = self.way_to(function.bdf().0.bus());
        function.bars().filter(move |bar| {
            let forwards = |bridge: &&Function| {
                let bridge = bridge.bridge().expect("it is one");
                let windows = match bar.space() {
                    Space::Io => [bridge.io, None],
                    Space::Memory => [bridge.memory, bridge.prefetchable.map(|window| window.span)],
                };
                bar.span().is_some_and(|bar| windows.iter().flatten().any(|window| window.0.covers(bar.0)))
            };
            bar.span().is_some() && way.iter().all(forwards)
        })
    }

    fn target(&self, target: Target) -> Bdf {
        let pick = |list: &[Bdf], index: u8| list.get(usize::from(index) % list.len().max(1)).copied();
        let moved: Vec<_> = self.relocations.iter().map(|relocation| relocation.guest.0).collect();
        let bridges = self.topology.functions().iter().filter(|function| function.bridge().is_some());
        let bridges: Vec<_> = bridges.map(|function| function.bdf().0).collect();
        match target {
            Target::Moved(index) => pick(&moved, index),
            Target::Vacated(index) => pick(&self.vacated, index),
            Target::Bridge(index) => pick(&bridges, index),
            Target::Any(bdf) => Some(bdf),
        }
        .unwrap_or_default()
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Read(target, offset, width) => {
                let bdf = self.target(target);
                if let Some(access) = Access::at(bdf, offset.0, width) {
                    untouched_is_untouched(self, bdf);
                    mechanisms_agree(self, access);
                }
            }
            Step::Write(target, offset, width, value) => {
                let bdf = self.target(target);
                if let Some(access) = Access::at(bdf, offset.0, width) {
                    untouched_is_untouched(self, bdf);
                    let value = value << (access.lanes().first() * 8);
                    self.write(access, value);
                }
            }
            Step::Place(index, bar, address) => self.place(index, bar, address),
            Step::Enable(index, memory, io, rom) => self.enable(index, memory, io, rom),
            Step::VirtualFunctions(index, count, are_there, decode) => {
                self.enable_virtual_functions(index, count, are_there, decode);
            }
            Step::Power(index, state) => self.write_capability(
                index,
                CapabilityId::POWER_MANAGEMENT,
                power_management::CONTROL,
                u32::from(state) & power_management::POWER_STATE,
            ),
            Step::PowerOfBridge(index, sleeps) => {
                let bridge = self.target(Target::Bridge(index));
                let Some(function) = self.topology.view().function(Host(bridge)) else { return };
                let state = if sleeps { power_management::D3_HOT } else { 0 };
                self.write_half(bridge, function, CapabilityId::POWER_MANAGEMENT, power_management::CONTROL, state);
            }
            Step::Reset(index, true) => self.write_capability(
                index,
                CapabilityId::PCI_EXPRESS,
                express::DEVICE_CONTROL,
                express::INITIATE_FUNCTION_LEVEL_RESET,
            ),
            Step::Reset(index, false) => self.write_capability(
                index,
                CapabilityId::ADVANCED_FEATURES,
                advanced_features::CONTROL,
                advanced_features::INITIATE_FUNCTION_LEVEL_RESET,
            ),
            Step::HostReset(index) => {
                let endpoint = self.placed(index).filter(|placed| placed.function.bridge().is_none());
                if let Some(host) = endpoint.map(|placed| placed.host()) {
                    self.each(|vm| {
                        let machine = vm.machine_mut();
                        machine.original(host.0).into_iter().for_each(|id| machine.reset_function(id));
                        vm.note_reset(host);
                    });
                }
            }
            Step::ResetBehind(index, by, on) => self.reset_behind(index, by, on),
            Step::Sleep(wake) => {
                self.each(|vm| {
                    vm.machine_mut().set_wake(wake);
                    vm.suspend_to_ram();
                });
                self.leave_hidden();
            }
            Step::Replay => self.each(Vm::make_replays),
            Step::Hurry(_) => {}
            Step::Refuse(every) => {
                self.refuses = every % 8 >= 2;
                let every = if self.refuses { u32::from(every % 8) } else { 0 };
                self.each(|vm| vm.refuse_every(every));
                if !self.refuses {
                    self.each(Vm::apply_pending);
                }
            }
        }
    }

    fn write(&mut self, access: Access, value: u32) {
        if self.is_lost(access) {
            return;
        }
        if !self.refuses {
            lanes(self, access, value);
            read_back(self, access, value);
            idempotence(self, access, value);
        }
        what_is_said_is_done(&mut self.vm.remapper().clone(), Guest(access), value);
        self.each(|vm| vm.config_write(Guest(access), value));
        let bridge = self.topology.view().function(Host(access.function())).and_then(Function::bridge);
        self.renumbered |=
            self.bus_numbers == BusNumbers::Virtual && bridge.is_some() && access.dword() == type1::BUS_NUMBERS;
    }

    /// Whether a power state is written to a function behind a bridge the guest closed: hardware does not take it, and
    /// nobody can tell.
    fn is_lost(&self, access: Access) -> bool {
        let guest = Guest(access.function());
        let Some(host) = self.vm.remapper().to_host(guest).unwrap_or(Some(Host(guest.0))) else { return false };
        let function = self.topology.view().function(host);
        let power = function.and_then(|function| function.capability(CapabilityId::POWER_MANAGEMENT));
        let is_power = power.and_then(|at| at.plus(power_management::CONTROL)) == Some(access.dword());
        is_power && self.vm.machine().find(host.0).is_none()
    }

    /// Changes one bit of a bridge.
    fn reset_behind(&mut self, index: u8, by: ResetBehind, on: bool) {
        let bridge = self.target(Target::Bridge(index));
        let Some(function) = self.topology.view().function(Host(bridge)) else { return };
        let express = function.express().map(|express| express.dword);
        let containment = function.extended_capability(ExtendedCapabilityId::DPC);
        let (dword, bit) = match by {
            ResetBehind::SecondaryBusReset => (Some(type1::BRIDGE_CONTROL), type1::SECONDARY_BUS_RESET),
            ResetBehind::LinkDisable => (express.and_then(|at| at.plus(express::LINK_CONTROL)), express::LINK_DISABLE),
            ResetBehind::SlotPower => (express.and_then(|at| at.plus(express::SLOT_CONTROL)), express::SLOT_POWER_OFF),
            ResetBehind::Containment if on => (
                containment.and_then(|at| at.plus(containment::CONTROL)),
                containment::SOFTWARE_TRIGGER | containment::TRIGGER_ENABLE,
            ),
            // A one ends it.
            ResetBehind::Containment => {
                (containment.and_then(|at| at.plus(containment::STATUS)), containment::TRIGGER_STATUS)
            }
        };
        let Some(access) = dword.zip(Lanes::ALL.touching(bit)).map(|(dword, lanes)| Access::new(bridge, dword, lanes))
        else {
            return;
        };
        let value = self.vm.config_read(Guest(access));
        let sets = on || matches!(by, ResetBehind::Containment);
        self.write(access, if sets { value | bit } else { value & !bit });
    }

    /// Nothing is brought back of hidden functions: they stay as a sleep and firmware leave them.
    fn leave_hidden(&mut self) {
        for (function, dword, mask, value) in &mut self.fixed {
            let machine = self.vm.machine();
            if self.hidden.contains(&Host(machine.function(*function).bdf())) {
                *value = machine.peek(*function, *dword) & *mask;
            }
        }
    }

    fn write_capability(&mut self, index: u8, id: CapabilityId, register: u16, value: u32) {
        let Some(Placed { guest, function, .. }) = self.placed(index) else { return };
        self.write_half(guest, function, id, register, value);
    }

    /// Writes the lower half of a register of a capability.
    fn write_half(&mut self, at: Bdf, function: &Function, id: CapabilityId, register: u16, value: u32) {
        if let Some(dword) = function.capability(id).and_then(|capability| capability.plus(register)) {
            self.write(Access::new(at, dword, Lanes::run(0, 2).unwrap()), value);
        }
    }

    fn placed(&self, index: u8) -> Option<Placed<'t>> {
        self.placed.get(usize::from(index) % self.placed.len().max(1)).copied()
    }

    fn place(&mut self, index: u8, bar: u8, address: Address) {
        let Some(Placed { guest, function, .. }) = self.placed(index) else { return };
        let bars: Vec<_> = function.bars().collect();
        let Some(bar) = bars.get(usize::from(bar) % bars.len().max(1)) else { return };
        let address = match address {
            Address::Page(page) => address_of_page(page),
            Address::Any(address) => address,
            Address::HostBar(index, bar) => {
                let other = self.placed(index).and_then(|other| other.function.bar(usize::from(bar % 7)));
                other.and_then(Bar::span).map_or(0, |Host(span)| span.start())
            }
        };
        let dword = bar.dword(function.header_type());
        let low = u32::try_from(address & 0xffff_ffff).unwrap();
        let keep = u32::from(bar.kind() == BarKind::Rom);
        self.write(Access::whole(guest, dword), low | keep);
        if let Some(upper) = dword.plus(1).filter(|_| bar.kind().is_64_bit()) {
            self.write(Access::whole(guest, upper), u32::try_from(address >> 32).unwrap());
        }
    }

    fn enable(&mut self, index: u8, memory: bool, io: bool, rom: bool) {
        let Some(Placed { guest, function, .. }) = self.placed(index) else { return };
        if let Some(bar) = function.bar(ROM) {
            let dword = bar.dword(function.header_type());
            let value = self.vm.config_read(Guest(Access::whole(guest, dword)));
            self.write(Access::whole(guest, dword), value & !ROM_ENABLE | u32::from(rom));
        }
        let command = u32::from(memory) << 1 | u32::from(io) | u32::from(Command::BUS_MASTER_ENABLE.bits());
        self.write(Access::at(guest, 4, Width::Word).unwrap(), command);
    }

    /// Whether a function is in D0.
    fn is_awake(&mut self, guest: Bdf, function: &Function) -> bool {
        let power = function.capability(CapabilityId::POWER_MANAGEMENT);
        power.and_then(|at| at.plus(power_management::CONTROL)).is_none_or(|control| {
            let value = self.vm.config_read(Guest(Access::whole(guest, control)));
            value & power_management::POWER_STATE == 0
        })
    }

    /// The guest wakes what is in D3hot.
    fn wake(&self, vm: &mut Vm) {
        for function in self.topology.functions() {
            let host = function.bdf();
            let relocation = self.relocations.iter().find(|relocation| relocation.host == host);
            let guest = relocation.map_or(host.0, |relocation| relocation.guest.0);
            let power = function.capability(CapabilityId::POWER_MANAGEMENT);
            let Some(control) = power.and_then(|at| at.plus(power_management::CONTROL)) else { continue };
            let access = Guest(Access::new(guest, control, Lanes::run(0, 2).unwrap()));
            let is_asleep = |control: u32| control != !0 && control & power_management::POWER_STATE != 0;
            if is_asleep(vm.config_read(access)) {
                vm.config_write(access, 0);
            }
        }
        vm.elapse(RESET);
    }

    fn settle(&mut self) {
        self.each(|vm| vm.refuse_every(0));
        self.refuses = false;
        self.each(Vm::apply_pending);
    }

    /// Saves the state, and goes on with what is restored of it.
    fn restore(&mut self, plan: &Plan<'_>) {
        self.original = Some(self.vm.clone());
        self.vm.take_over(plan).expect("it was built before");
        restored_is_the_same(self);
    }

    /// Does the same to what was restored and to the original.
    fn each<T: PartialEq + Debug>(&mut self, act: impl Fn(&mut Vm) -> T) {
        let outcome = act(&mut self.vm);
        if let Some(original) = &mut self.original {
            assert_eq!(outcome, act(original), "law 11, restored is the same: what comes of an act");
        }
    }

    fn hold(&mut self) {
        confinement(self);
        fixed_hardware(self);
        windows_reach_their_function(self);
        virtual_functions::are_where_they_are_said_to_be(self);
        if !self.renumbered {
            fold(self);
        }
    }
}

/// Link Control, payload size and power state of a port a function left.
fn fix_link(bridge: &Function, fix: &mut impl FnMut(Bdf, Dword, u32)) {
    let bdf = bridge.bdf().0;
    if let Some(express) = bridge.express() {
        let mut at = |register, mask| fix(bdf, express.dword.plus(register).unwrap(), mask);
        at(express::DEVICE_CONTROL, express::MAX_PAYLOAD_SIZE);
        // What raises interrupts is switched off by the preparation.
        at(express::LINK_CONTROL, 0xffff & !express::LINK_INTERRUPTS);
        at(express::SLOT_CONTROL, 0xffff & !express::SLOT_INTERRUPTS);
        if express.has_second_set() {
            at(express::DEVICE_CONTROL_2, 0xffff);
            at(express::LINK_CONTROL_2, 0xffff);
        }
    }
    if let Some(power) = bridge.capability(CapabilityId::POWER_MANAGEMENT) {
        fix(bdf, power.plus(power_management::CONTROL).unwrap(), power_management::POWER_STATE);
    }
}

/// The registers of a bridge's windows: of ports, of memory, of prefetchable memory.
const WINDOWS: [(Dword, u32); 6] = [
    (type1::IO_WINDOW, 0xffff),
    (type1::IO_UPPER, !0),
    (type1::MEMORY_WINDOW, !0),
    (type1::PREFETCHABLE_WINDOW, !0),
    (type1::PREFETCHABLE_BASE_UPPER, !0),
    (type1::PREFETCHABLE_LIMIT_UPPER, !0),
];

/// The BARs and the Expansion ROM.
fn bar_registers(header_type: HeaderType) -> impl Iterator<Item = Dword> {
    let count = u16::try_from(header_type.bars()).unwrap();
    (0..count).filter_map(|number| header::BAR0.plus(number)).chain(header_type.rom())
}

/// 1. What was applied is what the registers ask for, worked out anew.
fn fold(session: &mut Session<'_>) {
    // Registers of a function that does not answer, as the guest closed the bridge above it, cannot be seen.
    let guests: Vec<_> = session.placed.iter().map(|placed| placed.guest).collect();
    let mut answers = |guest| session.vm.config_read(Guest(Access::whole(guest, header::COMMAND))) != !0;
    if !guests.into_iter().all(&mut answers) {
        return;
    }
    let mut expected = expected_mappings(session);
    let mut applied = session.vm.second_stage().mappings().to_vec();
    let order = |mapping: &Mapping| (mapping.space, mapping.guest);
    expected.sort_by_key(order);
    applied.sort_by_key(order);
    if session.refuses {
        // What was refused is missing, or still there; nothing else may differ, and `settle` puts it right.
        return;
    }
    assert_eq!(applied, expected, "law 1, fold: the second stage is not what the registers say");
    let mut concealed = session.vm.second_stage().concealed().to_vec();
    let hidden = session.hidden.iter().filter_map(|host| session.topology.view().function(*host));
    let concealing = session.placed.iter().map(|placed| placed.function).chain(hidden);
    let bars = concealing.flat_map(|function| session.reached_bars(function));
    let mut real: Vec<_> = bars.filter_map(|bar| Some((Guest(bar.span()?.0), bar.space()))).collect();
    let vf_bars = session.followed.iter().flat_map(|found| found.bars.iter().flatten());
    real.extend(vf_bars.map(|bar| (Guest(bar.host.0), Space::Memory)));
    concealed.sort_by_key(|(span, space)| (*space, *span));
    real.sort_by_key(|(span, space)| (*space, *span));
    assert_eq!(concealed, real, "law 1, fold: the host's own addresses are not all concealed");
}

/// A window as the guest's registers describe it.
struct Claim {
    span: Span,
    host: Span,
    space: Space,
    /// Pages that are trapped, as offsets; everything, or nothing.
    trapped: core::ops::Range<u64>,
}

fn expected_mappings(session: &mut Session<'_>) -> Vec<Mapping> {
    let mut claims: Vec<Claim> = Vec::new();
    for placed in session.placed.clone() {
        for bar in session.reached_bars(placed.function).collect::<Vec<_>>() {
            claims.extend(claim(session, placed, bar));
        }
    }
    for found in session.followed.clone() {
        claims.extend(virtual_functions::claims(session, &found));
    }
    let mut mappings = Vec::new();
    for (index, claim) in claims.iter().enumerate() {
        let clashes = |earlier: &Claim| earlier.space == claim.space && earlier.span.overlaps(claim.span);
        let is_reserved =
            claim.space == Space::Memory && session.reserved.iter().any(|reserved| reserved.overlaps(claim.span));
        if !is_reserved && !claims[..index].iter().any(clashes) {
            claim.parts(&mut mappings);
        }
    }
    mappings
}

fn claim(session: &mut Session<'_>, placed: Placed<'_>, bar: &Bar) -> Option<Claim> {
    let Placed { guest, function, relocation } = placed;
    let Host(host) = bar.span()?;
    if session.vm.remapper().has_forgotten(placed.host()) {
        return None;
    }
    let mut read = |dword| session.vm.config_read(Guest(Access::whole(guest, dword)));
    let command = read(header::COMMAND);
    let dword = bar.dword(function.header_type());
    let low = read(dword);
    let is_memory = bar.space() == Space::Memory;
    if !session.is_awake(guest, function) {
        return None;
    }
    let mut read = |dword| session.vm.config_read(Guest(Access::whole(guest, dword)));
    let is_enabled = command >> u32::from(is_memory) & 1 == 1 && (bar.kind() != BarKind::Rom || low & 1 == 1);
    if !is_enabled || bar.space() == Space::Io && relocation.is_some_and(|moved| moved.io_bars == IoBars::Hide) {
        return None;
    }
    let high = if bar.kind().is_64_bit() { u64::from(read(dword.plus(1)?)) } else { 0 };
    let base = high << 32 | u64::from(low & !bar.kind().type_mask());
    let size = placed.size(bar);
    let span = Span::new(base, size)?;
    let limit = if bar.kind().is_64_bit() { (1 << 52) - 1 } else { u64::from(u32::MAX) };
    if base == 0 || span.last() >= limit {
        return None;
    }
    let shares_page =
        session.topology.functions().iter().flat_map(|other| other.bars().map(move |bar| (other, bar))).any(
            |(other, found)| {
                let same = other.bdf() == function.bdf() && found.number() == bar.number();
                !same
                    && found.space() == Space::Memory
                    && found.span().is_some_and(|Host(span)| span.overlaps(host.pages()))
            },
        );
    let all = !is_memory || bar.size() < 0x1000 && (relocation.is_none() || shares_page || host.start() & 0xfff != 0);
    let traps_table = relocation.is_some_and(|moved| moved.msix_table == MsixTable::Trapped);
    let table = function.msix().filter(|table| table.bar == bar.number() && traps_table);
    let trapped = match table {
        _ if all => 0..size,
        Some(table) => (table.offset & !0xfff).min(size)..((table.offset + table.len + 0xfff) & !0xfff).min(size),
        None => 0..0,
    };
    Some(Claim { span, host, space: bar.space(), trapped })
}

impl Claim {
    fn parts(&self, mappings: &mut Vec<Mapping>) {
        let size = self.span.len();
        let parts = [(0..self.trapped.start, false), (self.trapped.clone(), true), (self.trapped.end..size, false)];
        for (part, trapped) in parts {
            let len = part.end - part.start;
            let host_len = if trapped { len.min(self.host.len().saturating_sub(part.start)) } else { len };
            let guest = Span::new(self.span.start() + part.start, len);
            let host = Span::new(self.host.start() + part.start, host_len);
            if let (Some(guest), Some(host)) = (guest, host) {
                let backing = if trapped { Backing::Trapped } else { Backing::Direct };
                mappings.push(Mapping { guest: Guest(guest), host: Host(host), space: self.space, backing });
            }
        }
    }
}

/// 2. A window reaches only BARs of functions whose BARs are the guest's alone; windows overlap neither each other nor a reserved range.
fn confinement(session: &mut Session<'_>) {
    let mappings = session.vm.second_stage().mappings();
    for (index, mapping) in mappings.iter().enumerate() {
        let overlap = mappings[..index]
            .iter()
            .find(|other| other.space == mapping.space && other.guest.0.overlaps(mapping.guest.0));
        assert_eq!(overlap, None, "law 2, confinement: {mapping:?} overlaps");
        let is_kept_away = |reserved: &&Span| mapping.space == Space::Memory && reserved.overlaps(mapping.guest.0);
        let reserved = session.reserved.iter().find(is_kept_away);
        assert_eq!(reserved, None, "law 2, confinement: {mapping:?} is where no window may be");
        let bars = session.placed.iter().flat_map(|placed| session.reached_bars(placed.function));
        let exposed = bars.filter(|bar| bar.space() == mapping.space).any(|bar| {
            bar.span().is_some_and(|Host(span)| {
                // A page is the least a second stage maps; it is mapped where it holds nothing else.
                let alone = span.start() & 0xfff == 0 && span.len() < 0x1000 && mapping.backing == Backing::Direct;
                span.covers(mapping.host.0) || alone && span.pages() == mapping.host.0 && is_alone(session, span)
            })
        });
        let vf_bars = session.followed.iter().flat_map(|found| found.bars.iter().flatten());
        let exposed = exposed || vf_bars.into_iter().any(|bar| bar.host.0.covers(mapping.host.0));
        assert!(exposed, "law 2, confinement: {mapping:?} reaches what the plan does not expose");
    }
}

fn is_alone(session: &Session<'_>, span: Span) -> bool {
    let bars = session.topology.functions().iter().flat_map(Function::bars).filter(|bar| bar.space() == Space::Memory);
    bars.filter(|bar| bar.span().is_some_and(|Host(other)| other.overlaps(span.pages()))).count() == 1
}

/// 3. No guest changes a real BAR or what makes the ports on its way forward. Only a reset does: then nothing is mapped
///    there until a replay has written what was there, which it does as soon as the function answers, and is awake if it
///    would forget by waking. An error that is contained is a reset once the guest ends that; before, nothing answers.
///    What a sleep takes from a hidden function is not brought back.
fn fixed_hardware(session: &mut Session<'_>) {
    let is_waiting = |vm: &Vm, function: &FunctionId| {
        let bdf = vm.machine().function(*function).bdf();
        vm.remapper().has_forgotten(Host(bdf))
    };
    let is_as_it_was = |vm: &Vm, (function, dword, mask, value): &Fixed| {
        let now = vm.machine().peek(*function, *dword) & mask;
        // Switched on by the preparation at the latest, and never off.
        if *dword == header::COMMAND { now & value == *value } else { now == *value }
    };
    let is_cut_off = |bridge: &&Function| {
        let containment = bridge.extended_capability(ExtendedCapabilityId::DPC);
        let machine = session.vm.machine();
        let status = containment.and_then(|at| at.plus(containment::STATUS)).zip(machine.original(bridge.bdf().0));
        status.is_some_and(|(status, bridge)| machine.peek(bridge, status) & containment::TRIGGER_STATUS != 0)
    };
    let mut anything_waits = false;
    for fixed @ (function, dword, ..) in &session.fixed {
        let waits = is_waiting(&session.vm, function);
        let bdf = session.vm.machine().function(*function).bdf();
        let is_contained = session.way_to(bdf.bus()).iter().any(is_cut_off);
        let may_differ = waits || is_contained;
        assert!(may_differ || is_as_it_was(&session.vm, fixed), "law 3, fixed hardware: {bdf} {dword} was written");
        anything_waits |= waits;
        if waits && !session.refuses {
            let function = session.topology.view().function(Host(bdf)).unwrap();
            let bars = || function.bars().filter_map(|bar| Some((bar.space(), bar.span()?.0)));
            let reaches = |mapping: &&Mapping| {
                bars().any(|(space, span)| space == mapping.space && span.overlaps(mapping.host.0))
            };
            let mapped = session.vm.second_stage().mappings().iter().find(reaches);
            assert_eq!(mapped, None, "law 3, fixed hardware: {bdf} was reset");
        }
    }
    if anything_waits {
        let mut vm = session.vm.clone();
        vm.elapse(RESET);
        // Bridges first, so that what is behind them is reached.
        for _ in 0..MAX_DEPTH {
            vm.make_replays();
            session.wake(&mut vm);
        }
        vm.make_replays();
        for fixed @ (function, dword, ..) in &session.fixed {
            let bdf = vm.machine().function(*function).bdf();
            let answers = vm.machine().find(bdf) == Some(*function) && vm.machine().is_ready(*function);
            let is_back = !is_waiting(&vm, function) && is_as_it_was(&vm, fixed);
            assert!(is_back || !answers, "law 3, fixed hardware: {bdf} {dword} is not brought back");
        }
    }
    for write in session.vm.made_writes() {
        let is_target = |bdf: Host<Bdf>| bdf.0 == write.to.0.function();
        let placed = session.placed.iter().find(|placed| is_target(placed.host())).map(|placed| placed.function);
        let is_bar = placed.map(Function::header_type).is_some_and(|header_type| {
            bar_registers(header_type).any(|dword| dword == write.to.0.dword() && Some(dword) != header_type.rom())
        });
        let is_hidden = session.hidden.iter().copied().any(is_target);
        assert!(!(is_hidden || is_bar), "law 3, fixed hardware: {} was written", write.to);
    }
}

/// 4. Nothing tells a hidden or vacated function from an empty slot, and no access to it reaches hardware.
fn hidden_is_absent(session: &mut Session<'_>) {
    for hidden in &session.hidden {
        let fixed = session.topology.view().function(*hidden).and_then(Function::enhanced_allocation);
        let is_reached = fixed.is_some_and(|fixed| fixed.enabled);
        assert!(!is_reached, "law 4, hidden is absent: {hidden} decodes fixed addresses, which nothing conceals");
    }
    for bdf in session.vacated.clone() {
        for offset in 0..0x1000 {
            for width in [Width::Byte, Width::Word, Width::Dword] {
                let Some(access) = Access::at(bdf, offset, width) else { continue };
                let read = session.vm.remapper().read(Guest(access));
                assert_eq!(read, ReadDecision::Hide, "law 4, hidden is absent: {access} was read");
            }
        }
        let before = session.vm.made_writes().len();
        for dword in (0..Dword::COUNT).filter_map(Dword::new) {
            let changes = session.vm.config_write(Guest(Access::whole(bdf, dword)), !0);
            assert_eq!(changes, [], "law 4, hidden is absent: {bdf} {dword} was written");
        }
        assert_eq!(session.vm.made_writes().len(), before, "law 4, hidden is absent: {bdf} was written");
    }
}

/// 5. Every other function is the hardware's, bit by bit.
fn untouched_is_untouched(session: &mut Session<'_>, bdf: Bdf) {
    if session.bus_numbers == BusNumbers::Virtual || session.touchable.contains(&bdf) {
        return;
    }
    for dword in [0x00, 0x04, 0x10, 0x18, 0x34, 0x3c, 0x100].into_iter().filter_map(Dword::at) {
        let access = Access::whole(bdf, dword);
        let read = session.vm.remapper().read(Guest(access));
        assert_eq!(read, ReadDecision::Passthrough, "law 5, untouched is untouched: {access} was read");
        let mut remapper = session.vm.remapper().clone();
        let write = remapper.write(Guest(access), !0);
        assert_eq!(write.decision, WriteDecision::Passthrough, "law 5, untouched is untouched: {access} was written");
        assert!(write.delta.is_empty() || session.refuses, "law 5, untouched is untouched: {access} changed the map");
    }
}

/// 6. Any split of a write into smaller ones comes to the same.
fn lanes(session: &mut Session<'_>, access: Access, value: u32) {
    // The ID takes no writes; one to it, when the function answers, carries a replay, which a split write may have carried
    // in its midst.
    let nudge = |vm: &mut Vm| {
        vm.elapse(RESET);
        vm.config_write(Guest(Access::whole(access.function(), header::ID)), 0)
    };
    let mut whole = session.vm.clone();
    whole.config_write(Guest(access), value);
    nudge(&mut whole);
    for parts in [&[Width::Byte][..], &[Width::Word, Width::Byte]] {
        let mut split = session.vm.clone();
        for (offset, width) in access.parts() {
            let step = *parts.iter().find(|step| step.bytes() <= width.bytes()).unwrap();
            for at in (offset..offset + u16::from(width.bytes())).step_by(step.bytes().into()) {
                let part = Access::at(access.function(), at, step).unwrap();
                split.config_write(Guest(part), value & part.lanes().mask());
            }
        }
        nudge(&mut split);
        assert_eq!(view(&mut whole, access), view(&mut split, access), "law 6, lanes: {access} <- {value:08x}");
    }
}

/// What there is to see of an access: the guest's registers, the second stage, the hardware's registers.
fn view(vm: &mut Vm, access: Access) -> (Vec<u32>, String, Vec<u32>) {
    let guest = (0..64).chain([access.dword().index()]).filter_map(Dword::new);
    let guest = guest.map(|dword| vm.config_read(Guest(Access::whole(access.function(), dword)))).collect();
    let mut mappings = vm.second_stage().mappings().to_vec();
    mappings.sort_by_key(|mapping| (mapping.space, mapping.guest));
    // Virtual Functions that come and go between the parts of a write forget.
    let hardware = vm
        .machine()
        .functions()
        .filter(|(_, function)| !function.is_virtual())
        .flat_map(|(_, function)| function.config().to_vec())
        .collect();
    (guest, format!("{mappings:?}"), hardware)
}

/// 6, continued. Ports and the ECAM window give one view, and so do bytes and words, whether a function answers or not.
fn mechanisms_agree(session: &mut Session<'_>, access: Access) {
    let bdf = access.function();
    let ecam = session.vm.firmware().ecam.unwrap();
    let page = ecam.page(Guest(bdf)).unwrap().0.start();
    let start = access.dword().offset();
    let whole = session.vm.memory_read(page + u64::from(start), Width::Dword);
    for width in [Width::Byte, Width::Word, Width::Dword] {
        for lane in (0..4).step_by(width.bytes().into()) {
            let mask = u32::MAX >> (32 - 8 * u32::from(width.bytes()));
            let expected = whole >> (8 * lane) & mask;
            let by_memory = session.vm.memory_read(page + u64::from(start + lane), width);
            assert_eq!(by_memory & mask, expected, "law 6, lanes: {access} by parts");
            if access.dword().is_conventional() {
                let address = 0x8000_0000 | u32::from(bdf.routing_id()) << 8 | u32::from(start);
                session.vm.port_write(0xcf8, Width::Dword, address);
                let by_ports = session.vm.port_read(0xcfc + lane, width);
                assert_eq!(by_ports & mask, expected, "law 6, lanes: {access} by ports");
            }
        }
    }
}

/// 7. A bit of the shadow the guest can change reads what was written; the others do not change. BARs and decode enables
///    are zero after a write that resets the function.
fn read_back(session: &mut Session<'_>, access: Access, value: u32) {
    let Some(Some(host)) = session.vm.remapper().to_host(Guest(access.function())) else { return };
    let shadow = session.vm.remapper().emulated_registers(host).find(|(dword, _)| *dword == access.dword());
    let Some((_, from_hardware)) = shadow else { return };
    let header_type = session.topology.view().function(host).unwrap().header_type();
    let bars = u16::try_from(header_type.bars()).unwrap();
    let registers = (0..bars).filter_map(|number| header::BAR0.plus(number)).chain(header_type.rom());
    let after = |value: u32| {
        let mut vm = session.vm.clone();
        vm.config_write(Guest(access), value);
        vm.elapse(RESET);
        let mut read = |dword| vm.config_read(Guest(Access::whole(access.function(), dword)));
        let register = read(access.dword()) & !from_hardware;
        let placed = registers.clone().map(&mut read).find(|value| *value != !0 && value & !0xf != 0);
        let decodes = Some(read(header::COMMAND)).filter(|command| *command != !0 && command & 3 != 0);
        if vm.remapper().has_forgotten(host) && !session.vm.remapper().has_forgotten(host) {
            assert_eq!((placed, decodes), (None, None), "law 7, read-back: {access} <- {value:08x} resets");
        }
        register
    };
    let (ones, zeros) = (after(!0), after(0));
    let writable = (ones & !zeros) & access.lanes().mask();
    assert_eq!(ones & zeros | ones & !zeros, ones | zeros, "law 7, read-back: {access} inverts bits");
    assert_eq!(after(value) & writable, value & writable, "law 7, read-back: {access} <- {value:08x}");
    assert_eq!(after(value) & !writable, zeros & !writable, "law 7, read-back: {access} <- {value:08x}");
}

/// 8. Capability lists end, and every entry is one the hardware has.
fn lists_end(session: &mut Session<'_>) {
    // Of what stays, they are hardware's.
    let is_sound = |placed: &&Placed<'_>| placed.relocation.is_some() || placed.function.list_fault().is_none();
    let placed = session.placed.iter().filter(is_sound).map(|placed| (placed.guest, placed.host()));
    let bridges = session.topology.functions().iter().filter(|function| function.bridge().is_some());
    let all: BTreeSet<_> = placed.chain(bridges.map(|bridge| (bridge.bdf().0, bridge.bdf()))).collect();
    for (guest, host) in all {
        let function = session.topology.view().function(host).unwrap();
        let pci_x = session.pci_x.clone();
        let mut read = |dword| session.vm.config_read(Guest(Access::whole(guest, dword)));
        let mut seen = Vec::new();
        let has_list = read(header::COMMAND) >> 20 & 1 == 1;
        let mut pointer = if has_list { next_of(read(header::CAPABILITIES_POINTER) << 8) } else { 0 };
        assert!(has_list || read(header::CAPABILITIES_POINTER) & 0xff == 0, "law 8, lists end: {guest}");
        while pointer != 0 {
            let dword = Dword::holding(pointer.into());
            assert!(dword >= header::END && !seen.contains(&dword), "law 8, lists end: {guest} {dword}");
            let entry = read(dword);
            let known = function.capabilities().iter().find(|known| known.dword == dword).map(|known| known.id);
            let shown = known.map(|id| match id {
                CapabilityId::PCI_EXPRESS if pci_x.contains(&host) => CapabilityId::PCI_X,
                id => id,
            });
            assert_eq!(Some(entry & 0xff), shown.map(|id| u32::from(id.0)), "law 8, lists end: {guest} {dword}");
            seen.push(dword);
            pointer = next_of(entry);
        }
        let mut dword = header::EXTENDED;
        let mut entry = read(dword);
        seen.clear();
        while entry != 0 && entry != !0 {
            assert!(!seen.contains(&dword), "law 8, lists end: {guest} {dword}");
            seen.push(dword);
            let id = entry & 0xffff;
            let is_real =
                function.extended_capabilities().iter().any(|real| real.dword == dword && u32::from(real.id.0) == id);
            assert!(is_real || id == 0, "law 8, lists end: {guest} {dword} reads {entry:08x}");
            let next = extended_next_of(entry);
            if next == 0 {
                break;
            }
            dword = Dword::holding(next);
            entry = read(dword);
            assert!(entry != 0, "law 8, lists end: {guest} {dword} is no entry");
        }
    }
}

/// 10. What is written again changes nothing.
fn idempotence(session: &mut Session<'_>, access: Access, value: u32) {
    let mut vm = session.vm.clone();
    vm.config_write(Guest(access), value);
    assert_eq!(vm.config_write(Guest(access), value), [], "law 10, idempotence: {access} <- {value:08x}");
}

/// 11. Nothing tells a restored remapper from the one that was saved.
fn restored_is_the_same(session: &mut Session<'_>) {
    let Some(original) = &session.original else { return };
    let moved = session.relocations.iter().flat_map(|relocation| [relocation.guest.0, relocation.host.0]);
    let places: BTreeSet<_> =
        moved.chain(session.topology.functions().iter().map(|function| function.bdf().0)).collect();
    for access in places
        .into_iter()
        .flat_map(|bdf| (0..Dword::COUNT).filter_map(Dword::new).map(move |dword| Guest(Access::whole(bdf, dword))))
    {
        let reads = [&session.vm, original].map(|vm| vm.remapper().read(access));
        assert_eq!(reads[0], reads[1], "law 11, restored is the same: {access} reads");
    }
    let seen = [&session.vm, original].map(|vm| {
        let mut mappings = vm.second_stage().mappings().to_vec();
        mappings.sort_by_key(|mapping| (mapping.space, mapping.guest));
        let hardware: Vec<_> = vm.machine().functions().map(|(_, function)| function.config().to_vec()).collect();
        let replays = session.topology.functions().iter().map(|function| vm.remapper().has_forgotten(function.bdf()));
        (mappings, hardware, replays.collect::<Vec<_>>())
    });
    assert!(seen[0] == seen[1], "law 11, restored is the same: the second stage, hardware, or what is due");
}

/// The point of it all: what the guest reads in a window is the moved function's memory, as hardware decodes it. A
/// function that moved within the buses of a bridge is behind it for the guest too, who may close it.
fn windows_reach_their_function(session: &mut Session<'_>) {
    if session.refuses {
        return; // A window that could not be removed may outlive what it shows.
    }
    for mapping in session.vm.second_stage().mappings() {
        let placed = session.placed.iter().find(|placed| {
            let mut bars = placed.function.bars().filter(|bar| bar.space() == mapping.space);
            bars.any(|bar| bar.span().is_some_and(|Host(span)| span.contains(mapping.host.0.start())))
        });
        let Some(placed) = placed else { continue };
        let (Host(host), way) = (placed.host(), session.way_to(placed.host().0.bus()));
        let is_open = placed.relocation.is_some() && way.iter().all(|bridge| session.has_left(placed.host(), bridge));
        let decoders = session.vm.machine().decoders(mapping.space, mapping.host.0.start());
        let reached: Vec<_> = decoders.iter().map(|hit| session.vm.machine().function(hit.function).bdf()).collect();
        let is_reached = if is_open { reached.contains(&host) } else { reached.iter().all(|bdf| *bdf == host) };
        assert!(is_reached, "law 2, confinement: {mapping:?} reaches {decoders:?}");
    }
}
