//! The guest's life after it booted: ports suspended, functions reset and removed, sleep, kexec.

use core::cell::RefCell;
use core::fmt::Write as _;
use core::time::Duration;

use pci_remap::remapper::EventCounts;
use pci_remap::sim::guest::Kind;
pub(crate) use pci_remap::sim::guest::life::Failure;
use pci_remap::sim::guest::life::{Life, Step, Watched};
use pci_remap::sim::machine::{LinkState, Machine};
use pci_remap::sim::platform::{Firmware, Message, Platform};
use pci_remap::sim::vm::{FUNCTIONS, Vm};
use pci_remap::topology::Function;
use pci_remap::{Bdf, Host, Relocation, Topology, Width};

/// What became of the moved functions.
pub(crate) struct Lived {
    pub(crate) lines: Vec<String>,
    /// What went wrong, but for what goes wrong without a move as well.
    pub(crate) failures: Vec<Failure>,
}

/// Lives on the bare machine, to know what goes wrong there, and behind the plan. `None` for guests that only boot.
pub(crate) fn live(
    kind: Kind,
    bare: Machine,
    vm: Vm,
    topology: &Topology<FUNCTIONS>,
    moves: &[Relocation],
) -> Option<Lived> {
    let guests: Vec<_> = moves.iter().map(|moved| moved.guest.0).collect();
    let fails_anyway = fails_anyway(kind, bare, moves)?;
    let vm = RefCell::new(vm);
    let mut platform = Lent { firmware: vm.borrow().firmware().clone(), vm: &vm };
    let mut life = Life::start(kind, &mut platform, &guests)?;
    let ports = ports(topology, moves);
    let mut lines = Vec::new();
    for step in Step::ALL {
        life.run(step);
        let functions = guests.iter().map(|guest| state(*guest, step, life.failures()));
        let ports = ports.iter().map(|port| port_state(vm.borrow().machine(), *port));
        let all = functions.chain(ports).collect::<Vec<_>>().join("; ");
        lines.push(format!("{:<24}  {all}", name(step)));
    }
    let report = life.finish();
    lines.extend(report.watched.iter().map(at_the_end));
    let vm = vm.borrow();
    lines.push(counts(&vm, &ports));
    let is_new = |failure: &Failure| {
        !fails_anyway.iter().any(|(function, step)| *function == failure.function && *step <= failure.step)
    };
    let failures = report.failures.into_iter().filter(is_new).collect();
    Some(Lived { lines, failures })
}

/// The functions that fail without a move as well, by the addresses they get, and after which step.
fn fails_anyway(kind: Kind, mut bare: Machine, moves: &[Relocation]) -> Option<Vec<(Bdf, Step)>> {
    let hosts: Vec<_> = moves.iter().map(|moved| moved.host.0).collect();
    let mut life = Life::start(kind, &mut bare, &hosts)?;
    life.run_all();
    let failures = life.finish().failures.into_iter().filter_map(|failure| {
        let relocation = moves.iter().find(|moved| moved.host.0 == failure.function)?;
        Some((relocation.guest.0, failure.step))
    });
    Some(failures.collect())
}

/// The bridges right above the places the functions have and get.
fn ports(topology: &Topology<FUNCTIONS>, moves: &[Relocation]) -> Vec<Bdf> {
    let buses = moves.iter().flat_map(|moved| [moved.host.0.bus(), moved.guest.0.bus()]);
    let mut ports: Vec<_> = buses.filter_map(|bus| topology.view().bridge_to(bus)).map(Function::bdf).collect();
    ports.sort();
    ports.dedup();
    ports.into_iter().map(|Host(port)| port).collect()
}

/// How a function is after a step.
fn state(function: Bdf, step: Step, failures: &[Failure]) -> String {
    let faults = failures.iter().filter(|failure| failure.function == function && failure.step == step);
    let faults: Vec<_> = faults.map(|failure| format!("{:?}", failure.fault)).collect();
    match (faults.is_empty(), step < Step::BindDrivers) {
        (false, _) => format!("{function}: {}", faults.join(", ")),
        (true, true) => format!("{function} is found"),
        (true, false) => format!("{function} works"),
    }
}

/// What hardware made of a port.
fn port_state(machine: &Machine, port: Bdf) -> String {
    let Some(id) = machine.original(port) else { return String::new() };
    let power = match machine.power_state(id) {
        3 => "D3hot".to_owned(),
        state => format!("D{state}"),
    };
    let link = match machine.link(id) {
        None => "",
        Some(LinkState::Active) => ", link up",
        Some(LinkState::Retraining | LinkState::Training) => ", link training",
        Some(LinkState::Down) => ", link down",
    };
    format!("{port} in {power}{link}")
}

/// The name of a step as words: `SuspendIdlePorts` is `suspend idle ports`.
fn name(step: Step) -> String {
    let name = format!("{step:?}").chars().fold(String::new(), |mut name, letter| {
        if letter.is_ascii_uppercase() {
            name.push(' ');
        }
        name.push(letter.to_ascii_lowercase());
        name
    });
    name.trim_start().to_owned()
}

fn at_the_end(watched: &Watched) -> String {
    let Watched { function, has_driver, answers, interrupts, .. } = watched;
    let driver = if *has_driver { "has a driver" } else { "has no driver" };
    let memory = if *answers { "its memory answers" } else { "its memory does not answer" };
    let messages = match interrupts {
        Some(true) => "its interrupts arrive",
        Some(false) => "its interrupts do not arrive",
        None => "it signals no messages",
    };
    format!("at the end {function} {driver}, {memory}, {messages}")
}

fn counts(vm: &Vm, ports: &[Bdf]) -> String {
    let writes = |port: &Bdf| vm.made_writes().iter().filter(|write| write.to.0.function() == *port).count();
    let EventCounts { wrote_to_nothing, kept_from_hardware, without_place, forgot, .. } = vm.remapper().event_counts();
    let mut line = format!(
        "{forgot} resets, {} writes to bring back what they cleared; {kept_from_hardware} writes kept from hardware, \
         {wrote_to_nothing} to nothing, {without_place} windows without a place",
        vm.replayed_writes().len()
    );
    for port in ports {
        // Writing to a string cannot fail.
        let _ = write!(line, "; {} writes reached {port}", writes(port));
    }
    line
}

/// The guest's machine, which is looked at between two steps.
struct Lent<'a> {
    vm: &'a RefCell<Vm>,
    firmware: Firmware,
}

impl Platform for Lent<'_> {
    fn firmware(&self) -> &Firmware {
        &self.firmware
    }

    fn port_read(&mut self, port: u16, width: Width) -> u32 {
        self.vm.borrow_mut().port_read(port, width)
    }

    fn port_write(&mut self, port: u16, width: Width, value: u32) {
        self.vm.borrow_mut().port_write(port, width, value);
    }

    fn memory_read(&mut self, address: u64, width: Width) -> u32 {
        self.vm.borrow_mut().memory_read(address, width)
    }

    fn memory_write(&mut self, address: u64, width: Width, value: u32) {
        self.vm.borrow_mut().memory_write(address, width, value);
    }

    fn elapse(&mut self, time: Duration) {
        self.vm.borrow_mut().elapse(time);
    }

    fn suspend_to_ram(&mut self) {
        self.vm.borrow_mut().suspend_to_ram();
    }

    fn signal(&mut self, function: Bdf, vector: u16) -> Option<Message> {
        self.vm.borrow_mut().signal(function, vector)
    }

    fn transfer(&mut self, function: Bdf, len: u32) -> bool {
        self.vm.borrow_mut().transfer(function, len)
    }
}
