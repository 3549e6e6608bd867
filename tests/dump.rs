//! Dumps of real machines: what parses, what is refused, and what the machines made of them do.

use std::path::{Path, PathBuf};
use std::{env, fs};

use pci_remap::sim::dump::{Assumption, Dump, DumpError, LoadedMachine, Register, Resources, SegmentBdf};
use pci_remap::sim::machine::{Machine, signature};
use pci_remap::{Access, Bdf, Dword, Space};

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
            println!("  ports {}, ECAM {:?}", firmware.ports, firmware.ecam.map(|ecam| ecam.span()));
            for root in &firmware.roots {
                println!("  {:02x?} {:?}", root.buses, root.windows);
            }
            silent.iter().for_each(|line| println!("  {line}"));
            assumptions.iter().for_each(|line| println!("  - {line}"));
        }
    }
}
