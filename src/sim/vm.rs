//! A guest's machine behind a remapper: the whole embedder, with a second stage that is a list.
//!
//! [`Vm`] does what a hypervisor does: it decodes ports and the ECAM window, asks the remapper, carries out the decision
//! on the [`Machine`], applies the delta, and routes the guest's memory accesses through what was applied. It also
//! keeps watch: a host write that no plan allows stops the run.

use core::time::Duration;
use std::boxed::Box;
use std::vec;
use std::vec::Vec;

use crate::access::{Access, Width};
use crate::address::{Bdf, Guest, Host, Span};
use crate::decision::{HostWrite, ReadDecision, WriteDecision};
use crate::delta::{Backing, MapOp, Space};
use crate::mechanism::{ConfigAddress, PortAccess};
use crate::plan::{Plan, PlanError};
use crate::remapper::{Event, MapDelta, Remapper, Replay, Translation};
use crate::topology::{ConfigSpace, RootWindow, Topology, TopologyError};

use super::machine::Machine;
use super::platform::{Firmware, Message, Platform};

/// Functions a simulated machine may have.
pub const FUNCTIONS: usize = 256;
/// Functions a simulated plan may touch.
pub const TOUCHED: usize = 64;

impl ConfigSpace for Machine {
    fn read(&mut self, access: Host<Access>) -> u32 {
        self.config_read(access.0)
    }

    fn write(&mut self, access: Host<Access>, value: u32) {
        self.config_write(access.0, value);
    }
}

/// Scans a machine, and takes the windows of its host bridges from its firmware.
///
/// # Errors
/// As [`Topology::scan`] and [`Topology::add_root_window`].
pub fn topology(machine: &mut Machine) -> Result<Box<Topology<FUNCTIONS>>, TopologyError> {
    let mut topology = Box::new(Topology::new());
    topology.scan_into(machine)?;
    for root in machine.firmware().roots.clone() {
        for window in root.windows {
            topology.add_root_window(RootWindow {
                bus: *root.buses.start(),
                span: Host(window.span),
                space: window.space,
            })?;
        }
    }
    Ok(topology)
}

/// A window as the second stage has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Where the guest has it.
    pub guest: Guest<Span>,
    /// Where hardware has it.
    pub host: Host<Span>,
    /// The space both are in.
    pub space: Space,
    /// By a mapping or by exits.
    pub backing: Backing,
}

/// What the guest's memory and I/O addresses mean: identity, under concealed ranges, under windows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecondStage {
    mappings: Vec<Mapping>,
    concealed: Vec<(Guest<Span>, Space)>,
}

impl SecondStage {
    /// The windows, in the order they were mapped.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// What lies beneath them and is nothing.
    pub fn concealed(&self) -> &[(Guest<Span>, Space)] {
        &self.concealed
    }

    /// Applies one change.
    ///
    /// # Panics
    /// When the change makes no sense: a window over another, or the end of a window that is not there.
    pub fn apply(&mut self, change: MapOp) {
        match change {
            MapOp::Unmap { guest, space } => {
                let before = self.mappings.len();
                self.mappings.retain(|mapping| (mapping.guest, mapping.space) != (guest, space));
                assert_eq!(self.mappings.len() + 1, before, "{change}: no such window");
            }
            MapOp::Conceal { guest, space } => {
                assert!(!self.concealed.contains(&(guest, space)), "{change}: concealed already");
                self.concealed.push((guest, space));
            }
            MapOp::Map { guest, host, space, backing, .. } => {
                let over = |mapping: &&Mapping| mapping.space == space && mapping.guest.0.overlaps(guest.0);
                assert_eq!(self.mappings.iter().find(over), None, "{change}: something is there");
                self.mappings.push(Mapping { guest, host, space, backing });
            }
        }
    }

    fn mapping(&self, space: Space, address: u64) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| mapping.space == space && mapping.guest.0.contains(address))
    }

    fn is_concealed(&self, space: Space, address: u64) -> bool {
        self.concealed.iter().any(|(guest, other)| *other == space && guest.0.contains(address))
    }
}

/// How often the guest came to the hypervisor, and for what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exits {
    /// Configuration accesses answered by the hardware as they were.
    pub passthrough: u64,
    /// Configuration accesses to nothing.
    pub hide: u64,
    /// Configuration accesses answered without hardware.
    pub emulate: u64,
    /// Configuration accesses to hardware at another address, or mixed with the shadow.
    pub redirect: u64,
    /// Accesses to trapped windows.
    pub trapped: u64,
}

/// A write the host made to configuration space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeWrite {
    /// The access.
    pub to: Host<Access>,
    /// The value, in DWORD position.
    pub value: u32,
}

/// A machine with one guest on it, and a remapper with room for `F` touched functions.
#[derive(Debug, Clone)]
pub struct Vm<const F: usize = TOUCHED> {
    machine: Machine,
    remapper: Box<Remapper<F>>,
    ports: ConfigAddress,
    second_stage: SecondStage,
    exits: Exits,
    made: Vec<MadeWrite>,
    replayed: Vec<MadeWrite>,
    /// Every so many changes one is refused; 0 for none.
    refuse_every: u32,
    changes: u32,
    /// Functions whose registers are not looked after.
    unguarded: Vec<Bdf>,
}

impl Vm {
    /// Starts a guest: hardware is prepared, the host's own addresses are concealed, pre-assigned windows are mapped.
    ///
    /// # Errors
    /// As [`Plan::build`].
    pub fn start(machine: Machine, plan: &Plan<'_>) -> Result<Self, PlanError> {
        Self::start_with_room(machine, plan)
    }
}

impl<const F: usize> Vm<F> {
    /// Starts a guest whose plan may touch more, or fewer, functions.
    ///
    /// # Errors
    /// As [`Plan::build`].
    pub fn start_with_room(machine: Machine, plan: &Plan<'_>) -> Result<Self, PlanError> {
        let mut vm = Self {
            machine,
            remapper: Box::new(Remapper::new()),
            ports: ConfigAddress::default(),
            second_stage: SecondStage::default(),
            exits: Exits::default(),
            made: Vec::new(),
            replayed: Vec::new(),
            refuse_every: 0,
            changes: 0,
            unguarded: Vec::new(),
        };
        plan.build_into(&mut vm.remapper)?;
        let preparation: Vec<_> = vm.remapper.preparation().collect();
        for write in preparation {
            vm.machine.config_write(write.to.0, write.value);
        }
        vm.apply_pending();
        Ok(vm)
    }

    /// The hardware.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The hardware, to be changed behind everybody's back.
    pub fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The remapper.
    pub fn remapper(&self) -> &Remapper<F> {
        &self.remapper
    }

    /// What was applied.
    pub fn second_stage(&self) -> &SecondStage {
        &self.second_stage
    }

    /// How often the guest came here.
    pub fn exits(&self) -> Exits {
        self.exits
    }

    /// The configuration writes that reached hardware for the guest.
    pub fn made_writes(&self) -> &[MadeWrite] {
        &self.made
    }

    /// The configuration writes that brought back what a reset made hardware forget.
    pub fn replayed_writes(&self) -> &[MadeWrite] {
        &self.replayed
    }

    /// The remapper's events that were not taken yet, oldest first.
    pub fn take_events(&mut self) -> Vec<Event> {
        core::iter::from_fn(|| self.remapper.next_event()).collect()
    }

    /// A function was reset by something else than the guest.
    pub fn note_reset(&mut self, function: Host<Bdf>) {
        self.remapper.note_reset(function);
        self.apply_pending();
    }

    /// The machine woke from a sleep without power: what bridges and functions forgot is brought back at once.
    pub fn note_resume(&mut self) {
        self.remapper.note_resume();
        self.apply_pending();
        self.make_replays();
    }

    /// Makes all replays that are due, of functions that are ready.
    pub fn make_replays(&mut self) {
        let mut replays = self.remapper.replays();
        while let Some(replay) = replays.next() {
            make(replay, &mut self.machine, &mut self.replayed);
        }
        self.apply_pending();
    }

    /// Another hypervisor takes over, with an empty second stage: the state is saved, and restored in a remapper that is
    /// built anew.
    ///
    /// # Errors
    /// As [`Plan::build`].
    ///
    /// # Panics
    /// When the state cannot be saved or restored.
    pub fn take_over(&mut self, plan: &Plan<'_>) -> Result<(), PlanError> {
        let mut block = vec![0; self.remapper.saved_len()];
        self.remapper.save(&mut block).expect("the block is as long as the state");
        plan.build_into(&mut self.remapper)?;
        self.remapper.restore(&block).expect("the plan is the same");
        self.second_stage = SecondStage::default();
        apply(self.remapper.pending(), &mut self.second_stage, 0, &mut 0);
        Ok(())
    }

    /// Lets the second stage refuse every `count`th change; 0 for none.
    pub fn refuse_every(&mut self, count: u32) {
        self.refuse_every = count;
    }

    /// Lets the guest's accesses to a function that stays reach hardware as they are, whatever the plan makes of it: to
    /// see what its rules are for.
    pub fn unguard(&mut self, function: Bdf) {
        self.unguarded.push(function);
    }

    /// Tries again what was refused.
    pub fn apply_pending(&mut self) {
        let Self { remapper, second_stage, refuse_every, changes, .. } = self;
        apply(remapper.pending(), second_stage, *refuse_every, changes);
    }

    /// A configuration read of the guest; the lanes of the access count.
    pub fn config_read(&mut self, access: Guest<Access>) -> u32 {
        let is_unguarded = self.unguarded.contains(&access.0.function());
        let decision = if is_unguarded { ReadDecision::Passthrough } else { self.remapper.read(access) };
        match decision {
            ReadDecision::Passthrough => {
                self.exits.passthrough += 1;
                self.hardware_read(access.0)
            }
            ReadDecision::Hide => {
                self.exits.hide += 1;
                !0
            }
            ReadDecision::Emulate(value) => {
                self.exits.emulate += 1;
                value
            }
            ReadDecision::Redirect { to, splice } => {
                self.exits.redirect += 1;
                splice.apply(self.hardware_read(to.0))
            }
            ReadDecision::Requesters { to } => {
                self.exits.redirect += 1;
                let value = self.hardware_read(to.0);
                self.remapper.requesters(to, value)
            }
        }
    }

    /// A read of configuration space, of which only the lanes of the access come back.
    fn hardware_read(&mut self, access: Access) -> u32 {
        self.machine.config_read(access) & access.lanes().mask()
    }

    /// A configuration write of the guest. Returns the changes that came of it.
    pub fn config_write(&mut self, access: Guest<Access>, value: u32) -> Vec<MapOp> {
        if self.unguarded.contains(&access.0.function()) {
            self.made.push(MadeWrite { to: Host(access.0), value });
            self.machine.config_write(access.0, value);
            return Vec::new();
        }
        let Self { machine, remapper, second_stage, exits, made, replayed, refuse_every, changes, .. } = self;
        let mut outcome = remapper.write(access, value);
        if let Some(replay) = outcome.replay() {
            make(replay, machine, replayed);
        }
        let mut make = |to: Host<Access>, value| {
            made.push(MadeWrite { to, value });
            machine.config_write(to.0, value);
        };
        match outcome.decision {
            WriteDecision::Passthrough => {
                exits.passthrough += 1;
                make(Host(access.0), value);
            }
            WriteDecision::Hide => exits.hide += 1,
            WriteDecision::Emulate => exits.emulate += 1,
            WriteDecision::Redirect { to, value } => {
                exits.redirect += 1;
                make(to, value);
            }
        }
        let ends_reset = outcome.ends_reset();
        let applied = apply(outcome.delta, second_stage, *refuse_every, changes);
        if ends_reset {
            self.wait_for_replays();
        }
        applied
    }

    /// Lets time pass until all replays are made, but no more than a second (6.6.1).
    fn wait_for_replays(&mut self) {
        for _ in 0..100 {
            self.machine.elapse(Duration::from_millis(10));
            self.make_replays();
            if self.remapper.replays().is_empty() {
                return;
            }
        }
    }

    /// The functions the guest finds, by asking for every ID.
    pub fn guest_functions(&mut self) -> Vec<Bdf> {
        let all = (0..=u16::MAX).map(Bdf::from_routing_id);
        all.filter(|bdf| self.config_read(Guest(Access::whole(*bdf, crate::spec::header::ID))) != !0).collect()
    }

    /// Where the function the guest finds at an address is wired.
    fn wired(&self, guest: Bdf) -> Option<Bdf> {
        match self.remapper.to_host(Guest(guest)) {
            Some(moved) => moved.map(|Host(host)| host),
            None => Some(guest),
        }
    }

    fn load(&mut self, space: Space, address: u64, len: u8) -> u64 {
        match self.route(space, address, len) {
            Route::Nothing => !0,
            Route::Host(host) => match space {
                Space::Memory => self.machine.memory_read(host, len),
                Space::Io => self.machine.io_read(host, len),
            },
            Route::Split => (0..len)
                .rev()
                .fold(0, |value, byte| value << 8 | self.load(space, address.wrapping_add(byte.into()), 1) & 0xff),
        }
    }

    fn store(&mut self, space: Space, address: u64, len: u8, value: u64) {
        match self.route(space, address, len) {
            Route::Nothing => {}
            Route::Host(host) => match space {
                Space::Memory => self.machine.memory_write(host, len, value),
                Space::Io => self.machine.io_write(host, len, value),
            },
            Route::Split => {
                for byte in 0..len {
                    self.store(space, address.wrapping_add(byte.into()), 1, value >> (8 * byte) & 0xff);
                }
            }
        }
    }

    /// Where an access goes, if all of it goes to one place.
    fn route(&mut self, space: Space, address: u64, len: u8) -> Route {
        let first = self.route_byte(space, address);
        let in_one_place = (1..len).all(|byte| {
            let next = self.route_byte(space, address.wrapping_add(byte.into()));
            match (first, next) {
                (Route::Host(first), Route::Host(next)) => first.wrapping_add(byte.into()) == next,
                (first, next) => first == next,
            }
        });
        if in_one_place { first } else { Route::Split }
    }

    fn route_byte(&mut self, space: Space, address: u64) -> Route {
        match self.second_stage.mapping(space, address) {
            Some(Mapping { guest, host, backing: Backing::Direct, .. }) => {
                Route::Host(address - guest.0.start() + host.0.start())
            }
            Some(_) => {
                self.exits.trapped += 1;
                match self.remapper.translate(space, Guest(address)) {
                    Translation::Host(Host(host)) => Route::Host(host),
                    Translation::Absent => Route::Nothing,
                    Translation::Untouched => panic!("{space} {address:#x} is trapped but not in a window"),
                }
            }
            None if self.second_stage.is_concealed(space, address) => Route::Nothing,
            None => Route::Host(address),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Nothing,
    Host(u64),
    Split,
}

fn make<const F: usize>(replay: Replay<'_, F>, machine: &mut Machine, replayed: &mut Vec<MadeWrite>) {
    let state = replay.reads().map(|Host(access)| machine.config_read(access));
    for HostWrite { to, value } in replay.writes(state) {
        replayed.push(MadeWrite { to, value });
        machine.config_write(to.0, value);
    }
}

fn apply<const F: usize>(
    mut delta: MapDelta<'_, F>,
    second_stage: &mut SecondStage,
    refuse_every: u32,
    count: &mut u32,
) -> Vec<MapOp> {
    let mut changes = Vec::new();
    while let Some(change) = delta.next() {
        let operation = change.operation();
        *count += 1;
        if refuse_every == 0 || !count.is_multiple_of(refuse_every) {
            second_stage.apply(operation);
            change.confirm();
        }
        changes.push(operation);
    }
    changes
}

impl<const F: usize> Platform for Vm<F> {
    fn firmware(&self) -> &Firmware {
        self.machine.firmware()
    }

    fn elapse(&mut self, time: Duration) {
        self.machine.elapse(time);
    }

    fn suspend_to_ram(&mut self) {
        self.machine.suspend_to_ram();
        self.note_resume();
    }

    fn signal(&mut self, function: Bdf, vector: u16) -> Option<Message> {
        let host = self.wired(function)?;
        self.machine.signal(host, vector)
    }

    fn transfer(&mut self, function: Bdf, len: u32) -> bool {
        self.wired(function).is_some_and(|host| self.machine.transfer(host, len))
    }

    fn port_read(&mut self, port: u16, width: Width) -> u32 {
        let access = if self.firmware().ports { self.ports.read(port, width) } else { PortAccess::Forward };
        let value = match access {
            PortAccess::Latch(value) => value.into(),
            PortAccess::Config(piece) => piece.answer(!0, self.config_read(piece.access())),
            PortAccess::Forward => self.load(Space::Io, port.into(), width.bytes()),
        };
        low(value)
    }

    fn port_write(&mut self, port: u16, width: Width, value: u32) {
        let access = if self.firmware().ports { self.ports.write(port, width, value) } else { PortAccess::Forward };
        match access {
            PortAccess::Latch(_) => {}
            PortAccess::Config(piece) => {
                self.config_write(piece.access(), piece.lanes_of(value.into()));
            }
            PortAccess::Forward => self.store(Space::Io, port.into(), width.bytes(), value.into()),
        }
    }

    fn memory_read(&mut self, address: u64, width: Width) -> u32 {
        let len = width.bytes();
        let pieces: Vec<_> = self.firmware().ecam.map(|ecam| ecam.pieces(address, len).collect()).unwrap_or_default();
        if pieces.is_empty() {
            return low(self.load(Space::Memory, address, len));
        }
        low(pieces.iter().fold(!0, |value, piece| piece.answer(value, self.config_read(piece.access()))))
    }

    fn memory_write(&mut self, address: u64, width: Width, value: u32) {
        let len = width.bytes();
        let pieces: Vec<_> = self.firmware().ecam.map(|ecam| ecam.pieces(address, len).collect()).unwrap_or_default();
        if pieces.is_empty() {
            self.store(Space::Memory, address, len, value.into());
        }
        for piece in pieces {
            self.config_write(piece.access(), piece.lanes_of(value.into()));
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a bus access of a Width has at most 32 bits")]
fn low(value: u64) -> u32 {
    value as u32
}
