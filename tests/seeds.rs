//! The named seeds of the fuzz targets in `fuzz/corpus`, replayed.
//!
//! A seed of `laws` is bytes, so a change of [`Scenario`] changes what it says. Each is named by what it shows, and has to
//! show that. `cargo test --test seeds -- --ignored` finds seeds anew for those that no longer do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use arbitrary::{Arbitrary, Unstructured};
use pci_remap::plan::{BaseAddresses, BusNumbers, Cause, Plan, Vacated};
use pci_remap::sim::dump::Dump;
use pci_remap::sim::scenario::{Move, Scenario, Step};
use pci_remap::sim::vm::FUNCTIONS;
use pci_remap::sim::{acpi, laws, vm};
use pci_remap::topology::{Function, Topology};

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

    /// Whether a function that is neither moved nor hidden is such a one.
    fn stays(&self, is_such: impl Fn(&Function) -> bool) -> bool {
        let leaves = |host| {
            self.plan.hidden().contains(&host)
                || self.plan.relocations().iter().any(|relocation| relocation.host == host)
        };
        self.machine.functions().iter().any(|function| !leaves(function.bdf()) && is_such(function))
    }
}

/// What the seeds of `laws` show.
const SHOWS: [(&str, Shows); 12] = [
    ("a-swap", |case| matches!(case.scenario.moves[..], [Move::Swap(..), ..]) && case.moves() >= 2),
    ("a-whole-device", |case| {
        let moves = case.plan.relocations();
        moves.len() > 2 && moves.iter().all(|one| one.host.0.same_device(moves[0].host.0))
    }),
    ("hidden-functions", |case| case.plan.hidden().len() == 2 && case.moves() > 0),
    ("inert-first-function", |case| {
        let mut moves = case.plan.relocations().iter();
        case.scenario.vacated == Vacated::InertFirst
            && moves.any(|one| one.host.0.function() == 0 && one.guest.0.bus() != one.host.0.bus())
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
