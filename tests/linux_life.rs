//! The whole life of a Linux guest behind a move: ports and their services, power management, resets, removal, sleep,
//! kexec.

mod collection;
mod support;

use core::fmt::{self, Write as _};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Mutex;
use std::{env, thread};

use collection::moves::{self, Kind as MoveKind, Move};
use collection::{Folder, bundled, collected};
use pci_remap::plan::{BaseAddresses, Cause, Way};
use pci_remap::sim::guest::life::{Failure, Fault, Life, Report, Step};
use pci_remap::sim::guest::{Kind, Resource};
use pci_remap::sim::machine::{
    self, Blueprint, Capability, Disagreement, ExtendedCapability, Machine, VfBar, signature,
};
use pci_remap::sim::vm::{FUNCTIONS, Vm, topology};
use pci_remap::spec::express::PortType;
use pci_remap::spec::type1;
use pci_remap::topology::Function;
use pci_remap::{Bdf, Dword, Guest, Host, Plan, Topology};
use support::{MEMORY, MEMORY_64, bdf, guest, host, moved, nic, talk, windows};

/// Moves of each kind that are tried on a machine, by both kernels, and half as many once there is room for them. With
/// `PCI_REMAP_LIVES` it is so many.
const TRIED: usize = 4;
const KERNELS: [Kind; 2] = [Kind::Linux61, Kind::Linux615];

/// Whether a guest that finds these functions where they are fails at the same step, with them or with what is beside
/// their new places.
fn fails_without_a_move(bare: &Ground, kernel: Kind, one: &Move, step: Step) -> bool {
    let (machine, topology) = &**bare;
    let mut machine = machine.clone();
    let beside = one.iter().flat_map(|(_, Guest(guest))| topology.view().bus(guest.bus())).map(Function::bdf);
    let watched: Vec<_> = one.iter().map(|(host, _)| *host).chain(beside).map(|Host(bdf)| bdf).collect();
    let mut life = Life::start(kernel, &mut machine, &watched).unwrap();
    life.run_all();
    life.finish().failures.iter().any(|bare| bare.step == step)
}

fn live(kind: Kind, vm: &mut Vm, watched: &[Bdf]) -> Report {
    let mut life = Life::start(kind, vm, watched).unwrap();
    life.run_all();
    life.finish()
}

#[test]
fn the_talk_needs_no_kernel_option() {
    for kind in KERNELS {
        let mut vm = talk();
        let report = live(kind, &mut vm, &[bdf("01:01.0")]);
        assert_eq!(report.failures, []);
        let nic = &report.watched[0];
        assert_eq!((nic.function, nic.has_driver, nic.answers), (bdf("01:01.0"), true, true));
        assert_eq!(nic.interrupts, Some(true));
        assert_eq!(silent_bars(&mut vm, &report, host("02:00.0"), guest("01:01.0")), []);
        // The port it left is the host's alone, and both ends of the real link agree.
        assert_eq!(writes_to(&vm, bdf("00:01.1")), 0);
        assert_eq!(damage(&vm), []);
        let port = vm.machine().original(bdf("00:01.1")).unwrap();
        assert_eq!(vm.machine().disagreement(port), Disagreement::empty());
    }
}

/// What the talk met, and cured with `pcie_port_pm=off`: nothing is found behind the port, so that Linux switches it off,
/// and the function that is wired behind it is gone when its driver comes.
#[test]
fn an_unguarded_source_port_is_suspended_and_takes_the_function_with_it() {
    for kind in KERNELS {
        let mut vm = talk();
        let port = vm.machine().original(bdf("00:01.1")).unwrap();
        vm.unguard(bdf("00:01.1"));
        let mut life = Life::start(kind, &mut vm, &[bdf("01:01.0")]).unwrap();
        for step in [Step::BindPorts, Step::SuspendIdlePorts, Step::BindDrivers] {
            life.run(step);
        }
        let report = life.finish();
        let failed = |fault| Failure { step: Step::BindDrivers, function: bdf("01:01.0"), fault };
        let said = "driver 0000:01:01.0: Unable to change power state from D3cold to D0, device inaccessible";
        assert_eq!(report.failures[0], failed(Fault::Complaint(said.into())));
        assert_eq!(report.failures.last(), Some(&failed(Fault::NoDriver)));
        assert_eq!(vm.machine().power_state(port), 3, "D3hot");
    }
}

/// Memory BARs of a moved function that do not read the function's own memory.
fn silent_bars(vm: &mut Vm, report: &Report, host: Host<Bdf>, guest: Guest<Bdf>) -> Vec<usize> {
    let Some(device) = report.boot.tree.device(guest.0) else { return vec![usize::MAX] };
    let segment = report.boot.tree.segment;
    let bars = device.bars.iter().filter(|bar| bar.bar != Resource::ROM && bar.kind.is_memory() && bar.span.is_some());
    // The last DWORD, as the first may belong to the MSI-X Table; BARs below a page are shown as one.
    let real = vm.machine().function(vm.machine().original(host.0).unwrap()).clone();
    let ends: Vec<_> = bars.filter_map(|bar| Some((bar.bar, real.bar(bar.bar)?.size - 4))).collect();
    let is_silent =
        |(bar, at): &(usize, u64)| device.read(vm, *bar, *at) != Some(signature(segment, host.0, *bar, *at));
    ends.into_iter().filter(is_silent).map(|(bar, _)| bar).collect()
}

/// What hardware suffered from: not that a link was reset, and not what two ends differ in until a function that was
/// reset is told again.
fn damage(vm: &Vm) -> Vec<machine::Fault> {
    let faults = vm.machine().faults().iter().copied();
    faults
        .filter(|fault| !matches!(fault, machine::Fault::LinkDown { .. } | machine::Fault::Disagreement { .. }))
        .collect()
}

/// How many of the guest's writes reached registers of a port, but for the resets of a bus that are meant for what moved.
fn writes_to(vm: &Vm, port: Bdf) -> usize {
    let writes = vm.made_writes().iter().map(|write| write.to.0);
    writes.filter(|to| to.function() == port && to.dword() != type1::BRIDGE_CONTROL).count()
}

/// The bridges above moved functions behind which the guest finds nothing, whether it is there or not.
fn left_ports(topology: &Topology<FUNCTIONS>, report: &Report, one: &Move) -> Vec<Bdf> {
    let bridges = one.iter().filter_map(|(host, _)| topology.view().bridge_to(host.0.bus()));
    let ports = bridges.map(|bridge| bridge.bdf().0);
    ports.filter(|port| report.boot.tree.devices.iter().all(|device| device.parent != Some(*port))).collect()
}

#[test]
fn whole_lives_on_the_bundled_machines() {
    live_on_all(bundled());
}

#[test]
fn whole_lives_on_collected_machines() {
    live_on_all(collected());
}

/// Lives on all machines, two at a time, and fails with everything that went wrong.
fn live_on_all(folders: Vec<Folder>) {
    let (failures, total) = (Mutex::new(Vec::new()), Mutex::new(Tally::default()));
    let queue = Mutex::new(folders.into_iter());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(folder) = queue.lock().unwrap().next() else { break };
                    let (text, failed, tally) = live_on(&folder);
                    print!("{text}");
                    failures.lock().unwrap().extend(failed);
                    total.lock().unwrap().add(&tally);
                }
            });
        }
    });
    println!("all: {}", total.into_inner().unwrap());
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} lives failed:\n{}", failures.len(), failures.join("\n"));
}

/// What became of some lives.
#[derive(Debug, Default)]
struct Tally {
    lives: usize,
    whole: usize,
    /// Lives that fail as they do without a move, by the step.
    bare: BTreeMap<Step, usize>,
    /// Lives that fail as the planner warned, and are whole with virtual addresses.
    warned: BTreeMap<Step, usize>,
    /// Lives the planner warned of, and that are whole all the same.
    warned_in_vain: usize,
    left_ports: usize,
    writes_to_left_ports: usize,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.lives += other.lives;
        self.whole += other.whole;
        self.warned_in_vain += other.warned_in_vain;
        for (own, others) in [(&mut self.bare, &other.bare), (&mut self.warned, &other.warned)] {
            for (step, count) in others {
                *own.entry(*step).or_default() += count;
            }
        }
        self.left_ports += other.left_ports;
        self.writes_to_left_ports += other.writes_to_left_ports;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lives, whole, bare, warned, warned_in_vain, left_ports, writes_to_left_ports } = self;
        write!(f, "{whole} of {lives} lives as they should be, {warned_in_vain} of them with a warning; ")?;
        write!(f, "failures without a move {bare:?}, with a warning {warned:?}; ")?;
        write!(f, "{writes_to_left_ports} writes reached {left_ports} ports left empty")
    }
}

/// What happened on the machines of a dump, and what should not have: a life fails only as it does without a move, or
/// as the planner warned, and then not with virtual addresses.
fn live_on(folder: &Folder) -> (String, Vec<String>, Tally) {
    let (mut text, mut failures, mut total) = (String::new(), Vec::new(), Tally::default());
    for loaded in folder.machines() {
        let name = format!("{} {:04x}", folder.name(), loaded.segment);
        let mut machine = loaded.machine;
        let topology = topology(&mut machine).unwrap();
        let bare = Rc::new((machine, topology));
        for kind in MoveKind::ALL {
            let mut tally = Tally::default();
            for Trial { one, kernel, ground } in trials(&bare, kind) {
                let (machine, topology) = &*ground;
                let plan = moves::plan(topology, &one);
                let is_warned = plan.findings().any(|finding| is_warning(&finding.cause));
                let mut fail = |what: String| failures.push(format!("{name} {kernel} {one:?}: {what}"));
                let mut vm = Vm::start(machine.clone(), &plan).unwrap();
                let report = live(kernel, &mut vm, &watched(&one));
                let left = left_ports(topology, &report, &one);
                tally.lives += 1;
                tally.left_ports += left.len();
                tally.writes_to_left_ports += left.iter().map(|port| writes_to(&vm, *port)).sum::<usize>();
                if report.failures.is_empty() && !damage(&vm).is_empty() {
                    fail(format!("{:?}", damage(&vm)));
                }
                match first_failure(&mut vm, &report, &one) {
                    None => {
                        tally.whole += 1;
                        tally.warned_in_vain += usize::from(is_warned);
                    }
                    Some((step, _)) if fails_without_a_move(&bare, kernel, &one, step) => {
                        *tally.bare.entry(step).or_default() += 1;
                    }
                    Some((step, first)) => {
                        *tally.warned.entry(step).or_default() += 1;
                        if !is_warned {
                            fail(format!("{first}, and nobody warned"));
                        }
                        let plan = plan.base_addresses(BaseAddresses::Virtual);
                        let mut vm = Vm::start(machine.clone(), &plan).unwrap();
                        let report = live(kernel, &mut vm, &watched(&one));
                        let first = first_failure(&mut vm, &report, &one).map(|(_, first)| first);
                        let damage = Some(damage(&vm)).filter(|damage| !damage.is_empty());
                        if let Some(wrong) = first.or_else(|| damage.map(|damage| format!("{damage:?}"))) {
                            fail(format!("{wrong}, with virtual addresses, too"));
                        }
                    }
                }
            }
            let _ = writeln!(text, "{name} {kind:?}: {tally}");
            if tally.writes_to_left_ports != 0 {
                failures.push(format!("{name} {kind:?}: writes reached a port left empty"));
            }
            total.add(&tally);
        }
    }
    (text, failures, total)
}

/// What went wrong first, and after which step: at the end BARs may answer in part.
fn first_failure(vm: &mut Vm, report: &Report, one: &Move) -> Option<(Step, String)> {
    if let Some(first) = report.failures.first() {
        return Some((first.step, first.to_string()));
    }
    let silent: Vec<_> = one.iter().map(|(host, guest)| silent_bars(vm, report, *host, *guest)).collect();
    let last = Step::ALL[Step::ALL.len() - 1];
    (!silent.iter().all(Vec::is_empty)).then(|| (last, format!("BARs {silent:?} do not answer")))
}

/// Whether it is about addresses the guest may give away.
fn is_warning(cause: &Cause) -> bool {
    matches!(cause, Cause::LeavesAddresses(_) | Cause::PlacedAnew(_))
}

/// A machine, and what it has.
type Ground = Rc<(Machine, Box<Topology<FUNCTIONS>>)>;

/// A move to live with.
struct Trial {
    one: Move,
    kernel: Kind,
    /// With room, where there is none as it is.
    ground: Ground,
}

/// Moves of a kind, each with both kernels.
fn trials(bare: &Ground, kind: MoveKind) -> Vec<Trial> {
    let most = env::var("PCI_REMAP_LIVES").map_or(TRIED, |number| number.parse().expect("PCI_REMAP_LIVES is a number"));
    let (machine, topology) = &**bare;
    let candidates = moves::candidates(topology, kind);
    let with_room = |one: &Move| Some((one.clone(), Rc::new(moves::with_room(machine, topology, one)?)));
    let with_room = moves::spread(candidates.iter().filter_map(with_room).collect(), most.div_ceil(2));
    let (accepted, _) = moves::accepted(topology, candidates);
    let as_it_is = moves::spread(accepted, most).into_iter().map(|one| (one, Rc::clone(bare)));
    let by_each = |(one, ground): (Move, Ground)| {
        KERNELS.map(|kernel| Trial { one: one.clone(), kernel, ground: Rc::clone(&ground) })
    };
    as_it_is.chain(with_room).flat_map(by_each).collect()
}

fn watched(one: &Move) -> Vec<Bdf> {
    one.iter().map(|(_, Guest(guest))| *guest).collect()
}

/// Linux waits for nothing behind an Upstream Port (`pci_bridge_wait_for_secondary_bus`), so the host waits.
#[test]
fn a_function_survives_a_reset_of_its_bus_whatever_the_port_shows_as() {
    let empty = Blueprint::port(bdf("00:02.0"), PortType::RootPort, 3..=3, windows(0xe200_0000));
    let mut machine = support::machine([nic("02:00.0"), empty]);
    let topology = support::scan(&mut machine);
    // On its own bus, and where nothing is wired.
    for (moved_to, port) in [("02:01.0", "00:01.1"), ("03:01.0", "00:02.0")] {
        for way in [Way::UpstreamPort, Way::ConventionalBridge] {
            let plan = Plan::new(topology).relocate(host("02:00.0"), guest(moved_to)).unwrap();
            let plan = plan.find_behind(host(port), way).unwrap();
            for kind in KERNELS {
                let mut vm = Vm::start(machine.clone(), &plan).unwrap();
                let mut life = Life::start(kind, &mut vm, &[bdf(moved_to)]).unwrap();
                for step in [Step::BindPorts, Step::BindDrivers, Step::ResetBus] {
                    life.run(step);
                }
                assert_eq!(life.finish().failures, [], "{kind}, {moved_to}, {way:?}");
                assert_ne!(vm.replayed_writes(), [], "it was reset");
            }
        }
    }
}

/// The port sends on no LTR messages until the guest has restored it, which it does before the function.
#[test]
fn after_a_sleep_a_function_on_its_own_bus_is_told_again_only_by_the_guest() {
    const SUPPORTED_AND_ON: [(u16, u32); 2] = [(0x64, 0x0000_0800), (0x68, 0x0000_0400)];
    let with_ltr = |one: Blueprint| {
        SUPPORTED_AND_ON.iter().fold(one, |one, (at, value)| one.register(Dword::at(*at).unwrap(), *value))
    };
    let port = Blueprint::port(bdf("00:02.0"), PortType::RootPort, 3..=3, windows(0xe200_0000));
    let adapter = Blueprint::endpoint(bdf("03:00.0"))
        .bar(0, MEMORY, 0x1000, 0xe200_0000)
        .capability(&Capability::Express(PortType::Endpoint));
    let mut machine = support::machine([with_ltr(port), with_ltr(adapter)]);
    let topology = support::scan(&mut machine);
    for way in [Way::UpstreamPort, Way::ConventionalBridge] {
        let plan = Plan::new(topology).relocate(host("03:00.0"), guest("03:01.0")).unwrap();
        let plan = plan.find_behind(host("00:02.0"), way).unwrap();
        for kind in KERNELS {
            let mut vm = Vm::start(machine.clone(), &plan).unwrap();
            let mut life = Life::start(kind, &mut vm, &[bdf("03:01.0")]).unwrap();
            for step in [Step::BindPorts, Step::BindDrivers, Step::SuspendToRam] {
                life.run(step);
            }
            assert_eq!(life.finish().failures, [], "{kind}, {way:?}");
            assert_eq!(damage(&vm), [], "{kind}, {way:?}");
            let adapter = vm.machine().original(bdf("03:00.0")).unwrap();
            assert_eq!(vm.machine().peek(adapter, Dword::at(0x68).unwrap()), 0x0400, "{kind}, {way:?}: it is on again");
        }
    }
}

/// `pci_realloc_detect`: VF BARs without an address make Linux release windows and place what is behind them anew.
#[test]
fn windows_placed_anew_for_virtual_functions_are_no_harm() {
    let vf_bar = VfBar { kind: MEMORY_64, size: 0x40_0000, address: 0 };
    let sriov = ExtendedCapability::SrIov { total: 8, offset: 16, stride: 1, bars: vec![(0, vf_bar)] };
    let adapter = Blueprint::endpoint(bdf("03:00.0"))
        .bar(0, MEMORY_64, 0x1_0000, 0x10_0200_0000)
        .capability(&Capability::Express(PortType::Endpoint))
        .extended(&sriov);
    for kind in KERNELS {
        let port = Blueprint::port(bdf("00:02.0"), PortType::RootPort, 3..=3, windows(0xe200_0000));
        let machine = support::machine([nic("02:00.0"), port, adapter.clone()]);
        let mut vm = moved(machine, &[("02:00.0", "01:01.0")]);
        let mut life = Life::start(kind, &mut vm, &[bdf("01:01.0"), bdf("03:00.0")]).unwrap();
        // Removing everything is another matter (`Cause::PlacedAnew`).
        Step::ALL.into_iter().filter(|step| *step != Step::RemoveEverything).for_each(|step| life.run(step));
        let report = life.finish();
        assert!(report.boot.log.iter().any(|line| line.contains(" released")), "{:#?}", report.boot.log);
        assert_eq!(report.failures, []);
        assert_eq!(silent_bars(&mut vm, &report, host("02:00.0"), guest("01:01.0")), []);
        assert_eq!(writes_to(&vm, bdf("00:01.1")), 0);
    }
}
