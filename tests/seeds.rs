//! The named seeds of the fuzz targets in `fuzz/corpus`, replayed.
//!
//! A seed of `laws` is bytes, so a change of [`Scenario`] changes what it says. Each is named by what it shows, and has to
//! show that. `cargo test --test seeds -- --ignored` finds seeds anew for those that no longer do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use arbitrary::{Arbitrary, Unstructured};
use pci_remap::plan::{BaseAddresses, BusNumbers, Cause, Plan, Vacated, Way};
use pci_remap::sim::dump::Dump;
use pci_remap::sim::scenario::{Move, Scenario, Step, Target};
use pci_remap::sim::vm::FUNCTIONS;
use pci_remap::sim::{acpi, laws, vm};
use pci_remap::spec::capability::CapabilityId;
use pci_remap::spec::express::PortType;
use pci_remap::spec::power_management::NO_SOFT_RESET;
use pci_remap::topology::{Function, Topology};
use pci_remap::{Finding, Host};

/// Whether a scenario, with the machine and the plan that come of it, shows something.
type Shows = fn(&Case<'_>) -> bool;

struct Case<'c> {
    scenario: &'c Scenario,
    machine: &'c Topology<FUNCTIONS>,
    plan: Plan<'c>,
}

impl Case<'_> {
    /// Whether at least two steps do something, and something is moved.
    fn does(&self, does: impl Fn(&Step) -> bool) -> bool {
        self.moves() > 0 && self.scenario.steps.iter().filter(|step| does(step)).count() >= 2
    }

    fn moves(&self) -> usize {
        self.plan.relocations().len()
    }

    /// The functions that are moved.
    fn moved(&self) -> impl Iterator<Item = &Function> {
        self.plan.relocations().iter().filter_map(|relocation| self.machine.view().function(relocation.host))
    }

    /// Whether a function is found on the bus it is wired to, at another address.
    fn moves_on_its_bus(&self, function: &Function) -> bool {
        let Host(host) = function.bdf();
        self.plan.relocations().iter().any(|one| one.host.0 == host && one.guest.0.bus() == host.bus())
    }

    /// Whether a function that is neither moved nor hidden is such a one.
    fn stays(&self, is_such: impl Fn(&Function) -> bool) -> bool {
        let leaves = |host| {
            self.plan.hidden().contains(&host)
                || self.plan.relocations().iter().any(|relocation| relocation.host == host)
        };
        self.machine.functions().iter().any(|function| !leaves(function.bdf()) && is_such(function))
    }
}

/// Power Management Control/Status, as it was when the scan found it.
fn power(function: &Function) -> Option<u32> {
    let power = function.capabilities().iter().find(|entry| entry.id == CapabilityId::POWER_MANAGEMENT);
    power.map(|power| power.control)
}

fn is_behind(function: &Function, bridge: &Function) -> bool {
    bridge.bridge().is_some_and(|to| (to.secondary..=to.subordinate).contains(&function.bdf().0.bus()))
}

fn has_type(function: &Function, port_type: PortType) -> bool {
    function.express().is_some_and(|express| express.port_type == port_type)
}

/// What the seeds of `laws` show.
const SHOWS: [(&str, Shows); 20] = [
    ("a-swap", |case| matches!(case.scenario.moves[..], [Move::Swap(..), ..]) && case.moves() >= 2),
    ("a-whole-device", |case| {
        let moves = case.plan.relocations();
        moves.len() > 2 && moves.iter().all(|one| one.host.0.same_device(moves[0].host.0))
    }),
    ("ari-chain", |case| {
        let chains = |finding: Finding| matches!(finding.cause, Cause::FoundBy(Way::AriChain, ..));
        case.plan.findings().any(chains) && case.does(|step| matches!(step, Step::Read(Target::Moved(_), ..)))
    }),
    ("bridges-that-sleep", |case| {
        let bridges: Vec<_> = case.machine.functions().iter().filter(|function| function.bridge().is_some()).collect();
        let powers = case.scenario.steps.iter().filter_map(|step| match step {
            Step::PowerOfBridge(index, sleeps) => {
                Some((bridges.get(usize::from(*index) % bridges.len().max(1))?, *sleeps))
            }
            _ => None,
        });
        let powers: Vec<_> = powers.collect();
        powers.windows(2).any(|pair| {
            let [(bridge, true), (other, false)] = pair else { return false };
            let mut moved = case.moved().filter(|function| case.moves_on_its_bus(function));
            bridge.bdf() == other.bdf() && power(bridge).is_some() && moved.any(|function| is_behind(function, bridge))
        })
    }),
    ("broken-lists", |case| {
        case.scenario.base_addresses == BaseAddresses::Virtual
            && case.moves() > 0
            && case.stays(|function| function.list_fault().is_some() && function.bars().next().is_some())
    }),
    ("enhanced-allocation", |case| {
        let is_fixed = |function: &Function| function.enhanced_allocation().is_some_and(|fixed| fixed.enabled);
        case.moves() > 1 && case.stays(is_fixed)
    }),
    ("event-collectors", |case| {
        case.moved().any(|function| function.bdf().0.bus() == 0)
            && case.stays(|function| has_type(function, PortType::RootComplexEventCollector))
    }),
    ("hidden-functions", |case| case.plan.hidden().len() == 2 && case.moves() > 0),
    ("inert-first-function", |case| {
        let mut moves = case.plan.relocations().iter();
        case.scenario.vacated == Vacated::InertFirst
            && moves.any(|one| one.host.0.function() == 0 && one.guest.0.bus() != one.host.0.bus())
    }),
    ("no-soft-reset", |case| {
        let keeps = |function: &Function| power(function).is_some_and(|control| control & NO_SOFT_RESET != 0);
        let states = case.scenario.steps.iter().filter_map(|step| match step {
            Step::Power(_, state) => Some(state % 4),
            _ => None,
        });
        let is_alone = case.moves() == 1 && case.scenario.base_addresses == BaseAddresses::Hardware;
        is_alone && case.moved().all(keeps) && states.collect::<Vec<_>>().windows(2).any(|pair| pair == [3, 0])
    }),
    ("pci-express-to-pci-bridge", |case| {
        let bridges = || case.machine.functions().iter().filter(|one| has_type(one, PortType::PciExpressToPciBridge));
        case.moved()
            .any(|function| case.moves_on_its_bus(function) && bridges().any(|bridge| is_behind(function, bridge)))
    }),
    ("placeholders", |case| case.scenario.vacated == Vacated::Placeholder && case.moves() > 1),
    ("refused-changes", |case| case.does(|step| matches!(step, Step::Refuse(every) if every % 8 >= 2))),
    ("resets", |case| {
        case.does(|step| matches!(step, Step::Reset(..))) && case.does(|step| matches!(step, Step::Sleep(_)))
    }),
    ("resets-of-a-bus", |case| {
        let mut moves = case.plan.relocations().iter();
        case.does(|step| matches!(step, Step::ResetBehind(.., true)))
            && moves.any(|one| one.host.0.bus() != 0 && one.guest.0.bus() == one.host.0.bus())
    }),
    ("bars-of-bridges", |case| {
        case.scenario.base_addresses == BaseAddresses::Virtual
            && case.stays(|function| function.bridge().is_some() && function.bars().next().is_some())
            && case.does(|step| matches!(step, Step::Place(..)))
    }),
    ("virtual-addresses", |case| {
        case.scenario.base_addresses == BaseAddresses::Virtual
            && case.stays(|function| function.bridge().is_none() && function.bars().count() > 1)
            && case.does(|step| matches!(step, Step::Place(..)))
            && case.does(|step| matches!(step, Step::Enable(_, true, ..)))
    }),
    ("virtual-bus-numbers", |case| case.scenario.bus_numbers == BusNumbers::Virtual && case.moves() > 1),
    ("virtual-functions", |case| {
        let enables = |step: &Step| matches!(step, Step::VirtualFunctions(_, count, true, true) if count % 10 != 0);
        case.plan.findings().any(|finding| matches!(finding.cause, Cause::VfsFollow(..))) && case.does(enables)
    }),
    ("windows-on-windows", |case| case.moves() > 1 && case.does(|step| matches!(step, Step::Place(..)))),
];

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The seeds somebody named; what a fuzzer found has a SHA-1 for a name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path());
    let named = files.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path));
    let named = named.filter(|(name, _)| name.len() != 40);
    named.map(|(name, path)| (name, fs::read(path).unwrap())).collect()
}

/// As the fuzzer makes one of its bytes.
fn scenario(bytes: &[u8]) -> Scenario {
    Scenario::arbitrary_take_rest(Unstructured::new(bytes)).unwrap()
}

fn shows(scenario: &Scenario, what: Shows) -> bool {
    let machine = vm::topology(&mut scenario.machine()).unwrap();
    what(&Case { scenario, machine: &machine, plan: scenario.plan(&machine) })
}

#[test]
fn each_seed_of_the_laws_shows_what_it_is_named_for_and_obeys() {
    let seeds = seeds("laws");
    let names: BTreeSet<_> = seeds.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, SHOWS.iter().map(|(name, _)| *name).collect());
    for (name, what) in SHOWS {
        let (_, bytes) = seeds.iter().find(|(seed, _)| seed == name).unwrap();
        let scenario = scenario(bytes);
        assert!(shows(&scenario, what), "{name} no longer does: find it anew");
        laws::obey(&scenario);
    }
}

#[test]
fn the_seeds_of_dumps_and_tables_replay() {
    for (name, bytes) in seeds("dump") {
        let dump = Dump::parse(core::str::from_utf8(&bytes).unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!dump.functions().is_empty(), "{name}");
    }
    for (_, bytes) in seeds("acpi") {
        acpi::obey(&bytes);
    }
}

/// Not a test: writes seeds for names that have none which show what they should.
#[test]
#[ignore = "writes to fuzz/corpus"]
fn find_seeds_anew() {
    fs::create_dir_all(corpus("laws")).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    // xorshift64*, so that a run finds the same seeds again.
    let mut random = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes()[0]
    };
    for (name, what) in SHOWS {
        let path = corpus("laws").join(name);
        let mut bytes = fs::read(&path).unwrap_or_default();
        while !shows(&scenario(&bytes), what) {
            bytes = (0..1500).map(|_| random()).collect();
        }
        fs::write(&path, bytes).unwrap();
    }
}
