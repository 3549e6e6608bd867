//! Dumps of real machines: what parses, what is refused, and what the machines made of them do.

use std::path::{Path, PathBuf};
use std::{env, fs};

use pci_remap::mechanism::Ecam;
use pci_remap::sim::dump::{Assumption, Dump, DumpError, LoadedMachine, Register, Resources, SegmentBdf};
use pci_remap::sim::machine::{Machine, signature};
use pci_remap::{Access, Bdf, Dword, Space};
use proptest::prelude::*;

/// A dump and, where the folder has it, its list of resources.
fn load(folder: &Path) -> (Dump, Option<Resources>) {
    let read = |name| fs::read_to_string(folder.join(name));
    let dump = read("dump.txt").unwrap().parse().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    (dump, read("resources.txt").ok().map(|text| text.parse().unwrap()))
}

fn bundled(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dumps").join(name)
}

const BUNDLED: [&str; 4] = ["arm-n1sdp", "gigabyte-z370", "hp-8460p", "lenovo-kbl-switchtec"];

/// Enabled BARs that do not answer with their own signature, each with the reason.
fn silent_bars(machine: &mut Machine) -> (usize, Vec<String>) {
    let segment = machine.firmware().segment;
    let functions: Vec<_> = machine.functions().map(|(id, function)| (id, function.clone())).collect();
    let (mut answering, mut silent) = (0, Vec::new());
    for (id, function) in functions {
        for (index, bar) in function.bars().filter(|(index, _)| function.decodes(*index)) {
            let span = function.bar_span(index).unwrap();
            let expected = u64::from(signature(segment, function.bdf(), index, 0));
            let space = if bar.kind.is_memory() { Space::Memory } else { Space::Io };
            let read = match space {
                Space::Memory => machine.memory_read(span.start(), 4),
                Space::Io => machine.io_read(span.start(), 4),
            };
            if read == expected {
                answering += 1;
                continue;
            }
            let hits = machine.decoders(space, span.start());
            let why = match &hits[..] {
                [] => "no window leads there".to_owned(),
                [hit] if hit.function == id => format!("a bridge claims it too: {:?}", machine.conflicts().last()),
                hits => format!(
                    "shared with {:?}",
                    hits.iter().map(|hit| machine.function(hit.function).bdf()).collect::<Vec<_>>()
                ),
            };
            silent.push(format!("{} BAR{index} at {span}: {why}", function.bdf()));
        }
    }
    (answering, silent)
}

fn unreachable_functions(machine: &Machine) -> Vec<Bdf> {
    let all = machine.functions();
    all.filter(|(id, function)| machine.find(function.bdf()) != Some(*id)).map(|(_, function)| function.bdf()).collect()
}

#[test]
fn every_dump_of_a_folder_loads() {
    let Some(folder) = env::var_os("PCI_REMAP_DUMPS") else {
        println!("skipped: PCI_REMAP_DUMPS names no folder");
        return;
    };
    let mut folders: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    for folder in folders {
        let (dump, resources) = load(&folder);
        assert_eq!(Dump::parse(&dump.to_string()).as_ref(), Ok(&dump), "{}", folder.display());
        for LoadedMachine { segment, mut machine, assumptions } in dump.machines(resources.as_ref()) {
            let (answering, silent) = silent_bars(&mut machine);
            println!(
                "{} segment {segment}: {} functions, {answering} enabled BARs answer, {} do not",
                folder.display(),
                machine.functions().count(),
                silent.len()
            );
            println!("  not found: {:?}", unreachable_functions(&machine));
            let firmware = machine.firmware();
            println!("  ports {}, ECAM {:?}", firmware.ports, firmware.ecam.map(Ecam::span));
            for root in &firmware.roots {
                println!("  {:02x?} {:?}", root.buses, root.windows);
            }
            for line in silent {
                println!("  {line}");
            }
            for line in assumptions {
                println!("  - {line}");
            }
        }
    }
}

#[test]
fn every_enabled_bar_of_the_bundled_machines_answers_but_one_outside_its_window() {
    let outcome = BUNDLED.map(|name| {
        let (dump, resources) = load(&bundled(name));
        let machines = dump.machines(resources.as_ref()).into_iter();
        machines
            .map(|mut loaded| {
                loaded.machine.wake_all();
                assert_eq!(unreachable_functions(&loaded.machine), []);
                let (answering, silent) = silent_bars(&mut loaded.machine);
                (loaded.segment, answering, silent)
            })
            .collect::<Vec<_>>()
    });
    let outside = "01:03.0 BAR0 at 0x20008000000-0x20008003fff: no window leads there".to_owned();
    assert_eq!(
        outcome,
        [
            vec![(0, 12, vec![]), (1, 1, vec![])],
            vec![(0, 16, vec![])],
            vec![(0, 24, vec![])],
            vec![(0, 23, vec![outside])]
        ]
    );
}

#[test]
fn bundled_dumps_survive_parsing_and_writing() {
    for name in BUNDLED {
        let (dump, _) = load(&bundled(name));
        assert_eq!(Dump::parse(&dump.to_string()), Ok(dump), "{name}");
    }
}

#[test]
fn a_loaded_machine_writes_the_dump_it_came_from() {
    // Sizing leftovers below a decoder's size are the only bytes that may differ; this machine has none.
    let (dump, resources) = load(&bundled("lenovo-kbl-switchtec"));
    let [loaded] = &dump.machines(resources.as_ref())[..] else { panic!("one segment group") };
    assert_eq!(Dump::of(&loaded.machine), dump);
}

#[test]
fn what_a_dump_does_not_tell_is_said_in_sentences() {
    let (dump, resources) = load(&bundled("lenovo-kbl-switchtec"));
    let [loaded] = &dump.machines(resources.as_ref())[..] else { panic!("one segment group") };
    let assumptions: Vec<_> = loaded.assumptions.iter().map(Assumption::to_string).collect();
    assert_eq!(
        assumptions,
        [
            "0000:00:02.0 ROM: the addresses from 0xc0000 on do not come from the register, which counts as not implemented",
            "0000:01:03.0 BAR0: the register says 0x20008000000 and the list 0xd0000000; the register counts",
            "0000:01:03.0 answers behind 0000:00:01.0, so that port forwards every device number",
            "segment 0000: the windows of 1 host bridge(s) are drawn around their resources",
            "segment 0000: the ECAM window is at 0xb0000000, where no resource is",
        ]
    );
}

/// The 64 bytes of a function with this Capabilities Pointer row and BAR0, behind a headline.
fn function(address: &str, bar0: &str) -> String {
    format!(
        "{address} Ethernet controller: Intel Corporation\n\
         00: 86 80 72 15 06 00 00 00 02 00 00 02 00 00 00 00\n\
         10: {bar0} 00 00 00 00 00 00 00 00 00 00 00 00\n\
         20: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00\n\
         30: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00\n"
    )
}

#[test]
fn addresses_have_a_segment_or_are_in_the_first() {
    let parse = |text: &str| text.parse::<SegmentBdf>().map(|address| address.to_string()).ok();
    assert_eq!(
        ["0000:02:00.0", "02:00.0", "1:00:1f.3", "ffff:00:00.0", "10000:e0:00.0", "0:0:0:0.0", "02:00", ":02:00.0"]
            .map(parse),
        [
            Some("0000:02:00.0".to_owned()),
            Some("0000:02:00.0".to_owned()),
            Some("0001:00:1f.3".to_owned()),
            Some("ffff:00:00.0".to_owned()),
            None,
            None,
            None,
            None
        ]
    );
}

#[test]
fn text_that_is_no_dump_is_refused_with_its_line_and_function() {
    let at: SegmentBdf = "0000:02:00.0".parse().unwrap();
    let whole = function("02:00.0", "00 00 80 f7");
    let without = |row| {
        let rows = whole.lines().enumerate().filter(|(line, _)| *line != row);
        rows.map(|(_, text)| text).collect::<Vec<_>>().join("\n")
    };
    let refused = |text: &str| Dump::parse(text).unwrap_err();

    assert_eq!(refused(""), DumpError::Empty);
    assert_eq!(refused("PCI devices"), DumpError::Line { line: 1 });
    assert_eq!(refused("00: 86 80"), DumpError::StrayRow { line: 1 });
    assert_eq!(refused("02:00.0 NIC"), DumpError::Length { function: at, found: 0 });
    assert_eq!(refused(&without(4)), DumpError::Length { function: at, found: 48 });
    assert_eq!(refused(&without(2)), DumpError::Order { line: 3, function: at, expected: 0x10, found: 0x20 });
    assert_eq!(refused(&whole.replace(" 72 15", " 72")), DumpError::Row { line: 2, function: at, found: 15 });
    assert_eq!(refused(&whole.replace(" 72 15", " 72 1g")), DumpError::Row { line: 2, function: at, found: 3 });
    assert_eq!(refused(&format!("{whole}\n{whole}")), DumpError::Duplicate { line: 7, function: at });
}

#[test]
fn a_capability_list_that_loops_is_refused() {
    let at: SegmentBdf = "0000:02:00.0".parse().unwrap();
    let mut bytes = vec![0; 4096];
    bytes[0x06] = 0x10;
    bytes[0x34] = 0x40;
    bytes[0x40..0x42].copy_from_slice(&[0x01, 0x50]);
    bytes[0x50..0x52].copy_from_slice(&[0x05, 0x40]);
    let text = |bytes: &[u8]| pci_remap::sim::dump::write([(at, "NIC", bytes)]);
    let looping = DumpError::Loop { function: at, at: Dword::at(0x40).unwrap() };
    assert_eq!(Dump::parse(&text(&bytes)), Err(looping));

    bytes[0x51] = 0;
    bytes[0x100..0x104].copy_from_slice(&[0x01, 0x00, 0x01, 0x10]);
    let looping = DumpError::Loop { function: at, at: Dword::at(0x100).unwrap() };
    assert_eq!(Dump::parse(&text(&bytes)), Err(looping));
}

#[test]
fn a_list_of_resources_names_the_line_it_cannot_read() {
    let line = |text: &str| text.parse::<Resources>().map(|list| list.iter().count()).map_err(|error| error.line);
    assert_eq!(line("# comment\n0000:02:00.0 BAR0 0xf7800000 0xf781ffff mem32\n"), Ok(1));
    assert_eq!(line("0000:02:00.0 VFBAR5 - - mem64,pref\n02:00.0 WIN_IO 0x0 0xfff"), Ok(2));
    assert_eq!(line("\n02:00.0 BAR6 0x0 0x0"), Err(2));
    assert_eq!(line("02:00.0 BAR0 f7800000 f781ffff"), Err(1));
    assert_eq!(line("02:00.0 BAR0 0xf7800000"), Err(1));
}

#[test]
fn strange_sizes_are_made_to_fit_and_said() {
    let dump: Dump = function("02:00.0", "00 00 80 f7").parse().unwrap();
    let size = |list: &str| {
        let list = list.parse().unwrap();
        let [loaded] = &dump.machines(Some(&list))[..] else { panic!("one segment group") };
        let (_, function) = loaded.machine.functions().next().unwrap();
        let about = |assumption: &&Assumption| {
            !matches!(assumption, Assumption::Roots { .. } | Assumption::PortsOnly { .. } | Assumption::Ecam { .. })
        };
        let notes: Vec<_> = loaded.assumptions.iter().filter(about).cloned().collect();
        (function.bar(0).map(|bar| bar.size), notes)
    };
    let (function, register) = ("02:00.0".parse().unwrap(), Register::Bar(0));
    assert_eq!(size("02:00.0 BAR0 0xf7800000 0xf781ffff mem32"), (Some(0x2_0000), vec![]));
    assert_eq!(
        size("02:00.0 BAR0 0xf7800000 0xf7817fff mem32"),
        (Some(0x2_0000), vec![Assumption::AdjustedSize { function, register, listed: 0x1_8000, size: 0x2_0000 }])
    );
    assert_eq!(
        size("02:00.0 BAR0 0x0 0xffffffff mem32"),
        (
            Some(0x80_0000),
            vec![
                Assumption::AdjustedSize { function, register, listed: 0x1_0000_0000, size: 0x80_0000 },
                Assumption::AddressDiffers { function, register, own: 0xf780_0000, listed: 0 },
            ]
        )
    );
    assert_eq!(
        size("02:00.0 BAR0 0xf7800000 - mem32"),
        (Some(0x80_0000), vec![Assumption::DerivedSize { function, register, size: 0x80_0000 }])
    );
    assert_eq!(
        size("02:00.0 BAR0 0x0 - mem32,ignored"),
        (None, vec![Assumption::NotDecoded { function, register, listed: 0 }])
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_make_the_loader_or_the_machine_panic(
        which in 0..BUNDLED.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..0x140_usize, any::<u8>()), 0..40),
        writes in prop::collection::vec((any::<prop::sample::Index>(), 0..0x50_u16, any::<u32>()), 0..20),
        listed in any::<bool>(),
    ) {
        let (dump, resources) = load(&bundled(BUNDLED[which]));
        let mut functions: Vec<_> =
            dump.functions().iter().map(|own| (own.address(), own.name(), own.bytes().to_vec())).collect();
        for (index, offset, value) in changes {
            let (.., bytes) = index.get_mut(&mut functions);
            let len = bytes.len();
            bytes[offset % len] = value;
        }
        let text = pci_remap::sim::dump::write(functions.iter().map(|(at, name, bytes)| (*at, *name, &bytes[..])));
        let Ok(dump) = Dump::parse(&text) else { return Ok(()) };
        for LoadedMachine { mut machine, .. } in dump.machines(resources.as_ref().filter(|_| listed)) {
            for (index, dword, value) in &writes {
                let bdf = index.get(dump.functions()).address().bdf;
                machine.config_write(Access::whole(bdf, Dword::new(*dword).unwrap()), *value);
                machine.memory_write(u64::from(*value), 8, u64::MAX);
                machine.io_read(u64::from(*value) & 0xffff, 3);
            }
            silent_bars(&mut machine);
        }
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "([0-9a-f:. ]{0,40}\n|[ -~]{0,20}\n|BAR[0-9] 0x0 -\n){0,10}") {
        let _ = Dump::parse(&text);
        let _ = Resources::parse(&text);
    }
}

#[test]
fn lspci_reads_functions_without_a_name() {
    let text =
        pci_remap::sim::dump::write([(SegmentBdf { segment: 0, bdf: "00:1f.3".parse().unwrap() }, "", &[0; 64][..])]);
    assert_eq!(text.lines().next(), Some("0000:00:1f.3 "));
    assert_eq!(Dump::parse(&text).unwrap().to_string(), text);
}
