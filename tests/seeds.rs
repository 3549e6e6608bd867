//! The named seeds of the fuzz targets in `fuzz/corpus`, replayed.
//!
//! A seed of `laws` is bytes, so a change of [`Scenario`] changes what it says. Each is named by what it shows, and has to
//! show that. `cargo test --test seeds -- --ignored` finds seeds anew for those that no longer do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use arbitrary::{Arbitrary, Unstructured};
use pci_remap::plan::{Cause, Plan, Vacated};
use pci_remap::sim::dump::Dump;
use pci_remap::sim::scenario::{Move, Scenario, Step};
use pci_remap::sim::{acpi, laws, vm};

/// Whether a scenario, and the plan that comes of it, shows something.
type Shows = fn(&Scenario, &Plan<'_>) -> bool;

/// What the seeds of `laws` show.
const SHOWS: [(&str, Shows); 11] = [
    ("a-swap", |scenario, plan| {
        let is_swap = |pair: &[_; 2]| matches!(scenario.moves[..], [Move::Swap(..), ..]) && pair.len() == 2;
        plan.relocations().first_chunk().is_some_and(is_swap)
    }),
    ("a-whole-device", |_, plan| {
        let moves = plan.relocations();
        moves.len() > 2 && moves.iter().all(|one| one.host.0.same_device(moves[0].host.0))
    }),
    ("hidden-functions", |_, plan| plan.hidden().len() == 2 && !plan.relocations().is_empty()),
    ("inert-first-function", |scenario, plan| {
        scenario.vacated == Vacated::InertFirst
            && plan.relocations().iter().any(|one| one.host.0.function() == 0 && one.guest.0.bus() != one.host.0.bus())
    }),
    ("placeholders", |scenario, plan| scenario.vacated == Vacated::Placeholder && plan.relocations().len() > 1),
    ("refused-changes", |scenario, plan| {
        let refuses = |step: &Step| matches!(step, Step::Refuse(every) if every % 8 >= 2);
        moves_and(scenario, plan, refuses)
    }),
    ("resets", |scenario, plan| {
        moves_and(scenario, plan, |step| matches!(step, Step::Reset(..)))
            && moves_and(scenario, plan, |step| matches!(step, Step::Sleep(_)))
    }),
    ("resets-of-a-bus", |scenario, plan| {
        moves_and(scenario, plan, |step| matches!(step, Step::ResetBehind(.., true)))
            && plan.relocations().iter().any(|one| one.host.0.bus() != 0 && one.guest.0.bus() == one.host.0.bus())
    }),
    ("virtual-bus-numbers", |scenario, plan| scenario.virtual_bus_numbers && plan.relocations().len() > 1),
    ("virtual-functions", |scenario, plan| {
        let enables = |step: &Step| matches!(step, Step::VirtualFunctions(_, count, true, true) if count % 10 != 0);
        plan.findings().any(|finding| matches!(finding.cause, Cause::VfsFollow(..)))
            && moves_and(scenario, plan, enables)
    }),
    ("windows-on-windows", |scenario, plan| {
        plan.relocations().len() > 1 && moves_and(scenario, plan, |step| matches!(step, Step::Place(..)))
    }),
];

fn moves_and(scenario: &Scenario, plan: &Plan<'_>, does: impl Fn(&Step) -> bool) -> bool {
    !plan.relocations().is_empty() && scenario.steps.iter().filter(|step| does(step)).count() >= 2
}

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
    let topology = vm::topology(&mut scenario.machine()).unwrap();
    what(scenario, &scenario.plan(&topology))
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
