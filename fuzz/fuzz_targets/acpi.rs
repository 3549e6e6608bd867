//! Any bytes as ACPI tables: a good table comes out, or an error that changed nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pci_remap::sim::acpi;

fuzz_target!(|bytes: &[u8]| acpi::obey(bytes));
