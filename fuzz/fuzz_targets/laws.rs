//! Any machine, any plan, any guest: the laws hold.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pci_remap::sim::laws;
use pci_remap::sim::scenario::Scenario;

fuzz_target!(|scenario: Scenario| laws::obey(&scenario));
