//! What becomes of the ports on a moved function's way, and of the place it left.
//!
//! Each rule is tested by what is gone when it is removed.
//!
//! | rule | test |
//! |---|---|
//! | signals of a port left empty are switched off | [`a_port_left_empty_is_woken_and_silenced_before_the_guest_starts`] |

mod support;

use pci_remap::Dword;
use pci_remap::sim::machine::{Blueprint, Builder, ExtendedCapability, Machine};
use pci_remap::sim::vm::Vm;
use pci_remap::spec::express::PortType;
use support::*;

const SOURCE: &str = "00:01.1";

fn dword(offset: u16) -> Dword {
    Dword::at(offset).unwrap()
}

/// A display behind one Root Port, a NIC behind `source`, and `others`.
fn behind(source: Blueprint, others: impl IntoIterator<Item = Blueprint>) -> Machine {
    let builder = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY, Builder::PORTS])
        .root_port(bdf("00:01.0"), 1..=1, windows(0xe000_0000))
        .endpoint(Blueprint::endpoint(bdf("01:00.0")).bar(0, MEMORY, 0x10_0000, 0xe000_0000))
        .function(source)
        .function(nic("02:00.0"));
    others.into_iter().fold(builder, Builder::function).build().unwrap()
}

fn source_port() -> Blueprint {
    Blueprint::port(bdf(SOURCE), PortType::RootPort, 2..=2, windows(0xe100_0000))
}

/// What the host writes before the guest starts.
fn preparation(vm: &Vm) -> Vec<String> {
    vm.remapper().preparation().map(|write| format!("{} <- {:x}", write.to.0, write.value)).collect()
}

#[test]
fn a_port_left_empty_is_woken_and_silenced_before_the_guest_starts() {
    assert_eq!(preparation(&talk()), [""; 0], "a port that is silent is left alone");
    let noisy = source_port()
        .command(pci_remap::spec::header::Command::MEMORY_SPACE_ENABLE)
        .extended(&ExtendedCapability::AdvancedErrorReporting)
        .register(dword(0x50), 0x1043_0c40)
        .register(dword(0x58), 0x0000_1038)
        .register(dword(0x5c), 0x0001_001f)
        .register(dword(0x80), 0x0000_000b)
        .register(dword(0x12c), 0x0000_0007);
    let vm = moved(behind(noisy, []), &[("02:00.0", "01:01.0")]);
    assert_eq!(
        preparation(&vm),
        [
            // Command: I/O Space and Bus Master; PMCSR: D0, No_Soft_Reset stays.
            "00:01.1 04h lanes 0001 <- 7",
            "00:01.1 80h lanes 0001 <- 8",
            // Link, Slot and Root Control: no interrupts, no system errors; RRS Software Visibility stays.
            "00:01.1 50h lanes 0010 <- 0",
            "00:01.1 58h lanes 0011 <- 0",
            "00:01.1 5Ch lanes 0001 <- 10",
            // Root Error Command.
            "00:01.1 12Ch lanes 0001 <- 0",
        ]
    );
}
