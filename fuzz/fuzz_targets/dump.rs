//! Any text: it is a dump or an error, and a dump makes a machine and can be written out again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pci_remap::sim::dump::{self, Dump};

fuzz_target!(|text: &str| {
    let Ok(dump) = Dump::parse(text) else { return };
    let functions = dump.functions().iter().map(|function| (function.address(), function.name(), function.bytes()));
    let again = Dump::parse(&dump::write(functions)).expect("what was written is a dump");
    assert_eq!(again.functions().len(), dump.functions().len());
    let _ = dump.machines(None);
});
