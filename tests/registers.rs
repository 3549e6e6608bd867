//! The other registers of a moved function, and those of the ports on its way.

mod support;

use pci_remap::sim::machine::{Blueprint, Builder};
use pci_remap::sim::platform::Platform;
use pci_remap::sim::vm::{MadeWrite, Vm};
use pci_remap::spec::capability::{extended_next_of, next_of};
use pci_remap::spec::express::PortType;
use pci_remap::{Dword, Host, Plan};
use support::*;

const NIC: &str = "01:01.0";
const DESTINATION: &str = "00:01.0";
const SOURCE: &str = "00:01.1";

fn capabilities(vm: &mut Vm, function: &str) -> Vec<u32> {
    let mut pointer = next_of(vm.read(function, 0x34) << 8);
    let mut ids = Vec::new();
    while pointer != 0 {
        let entry = vm.read(function, pointer.into());
        ids.push(entry & 0xff);
        pointer = next_of(entry);
    }
    ids
}

fn extended_capabilities(vm: &mut Vm, function: &str) -> Vec<u32> {
    let mut offset = 0x100;
    let mut ids = Vec::new();
    while offset != 0 {
        let entry = vm.read(function, offset);
        ids.push(entry & 0xffff);
        offset = extended_next_of(entry);
    }
    ids
}

fn made_writes(vm: &Vm) -> Vec<String> {
    vm.made_writes().iter().map(|MadeWrite { to, value }| format!("{to} <- {value:x}")).collect()
}

#[test]
fn the_guest_masters_the_bus_and_hardware_keeps_decoding() {
    let mut vm = talk();
    vm.write_word(NIC, 0x04, 0x0406);
    vm.write_word(NIC, 0x04, 0x0000);
    assert_eq!(made_writes(&vm), ["02:00.0 04h lanes 0011 <- 406", "02:00.0 04h lanes 0011 <- 2"]);
    assert_eq!(vm.read(NIC, 0x04) & 0xffff, 0);
}

#[test]
fn error_bits_are_cleared_only_by_writing_them() {
    let mut vm = talk();
    let nic = vm.machine().original(bdf("02:00.0")).unwrap();
    let command = Dword::at(4).unwrap();
    let before = vm.machine().peek(nic, command) | 0xf900_0000;
    vm.machine_mut().poke(nic, command, before);
    vm.write_word(NIC, 0x04, 2);
    assert_eq!(vm.machine().peek(nic, command) >> 16 & 0xf900, 0xf900);
    vm.write_word(NIC, 0x06, 0x2000);
    assert_eq!(vm.machine().peek(nic, command) >> 16 & 0xf900, 0xd900);
}

#[test]
fn the_interrupt_pin_is_not_shown_and_the_line_is_the_guests_own() {
    let mut vm = talk();
    vm.write(NIC, 0x3c, 0x0000_ff0b);
    assert_eq!(vm.read(NIC, 0x3c) & 0xffff, 0x000b);
    assert_eq!(made_writes(&vm), ["02:00.0 3Ch lanes 1100 <- 0"]);
}

#[test]
fn a_self_test_cannot_be_started() {
    let mut vm = talk();
    vm.write(NIC, 0x0c, 0x4000_1010);
    assert_eq!(made_writes(&vm), ["02:00.0 0Ch lanes 0111 <- 1010"]);
    assert_eq!(vm.read(NIC, 0x0c) >> 24, 0);
}

#[test]
fn capabilities_that_cannot_move_are_unlinked_and_their_registers_read_zero() {
    let mut vm = talk();
    assert_eq!(capabilities(&mut vm, NIC), [0x01, 0x05, 0x11, 0x10]);
    // SR-IOV was the first: a null capability stands for it.
    assert_eq!(extended_capabilities(&mut vm, NIC), [0, 0x01, 0x03]);
    for offset in (0x104..0x140).step_by(4) {
        vm.write(NIC, offset, !0);
        assert_eq!(vm.read(NIC, offset), 0, "{offset:#x}");
    }
    assert_eq!(vm.made_writes(), []);
}

#[test]
fn a_function_whose_capabilities_are_all_hidden_has_no_list() {
    let card = Blueprint::endpoint(bdf("02:00.0"))
        .capability(&pci_remap::sim::machine::Capability::EnhancedAllocation(Vec::new()));
    let mut vm = moved(machine([card]), &[("02:00.0", NIC)]);
    assert_eq!(vm.read(NIC, 0x34) & 0xff, 0);
    assert_eq!(vm.read(NIC, 0x04) >> 20 & 1, 0);
}

#[test]
fn the_destination_port_shows_as_an_upstream_port_and_is_else_the_hardwares() {
    let mut vm = talk();
    let mut bare = machine([nic("02:00.0")]);
    let differences = (0..0x1000).step_by(4).filter_map(|offset| {
        let real = bare.config_read(pci_remap::Access::whole(bdf(DESTINATION), Dword::at(offset).unwrap()));
        let shown = vm.read(DESTINATION, offset);
        (shown != real).then_some((offset, shown ^ real))
    });
    // The type; and no ARI, which does away with device numbers.
    assert_eq!(differences.collect::<Vec<_>>(), [(0x40, 0x0010_0000), (0x64, 0x20)]);
    vm.write(DESTINATION, 0x20, 0xe0f0_e000);
    assert_eq!(made_writes(&vm), ["00:01.0 20h <- e0f0e000"]);
}

#[test]
fn a_port_left_empty_is_a_plain_bridge_that_keeps_its_numbers_and_windows() {
    let mut vm = talk();
    let shown: Vec<_> = [0x00, 0x08, 0x18, 0x20, 0x34, 0x100].map(|offset| vm.read(SOURCE, offset)).into();
    assert_eq!(shown, [0x1901_8086, 0x0604_0000, 0x0002_0200, 0xe1f0_e100, 0, 0]);
    assert_eq!(vm.read(SOURCE, 0x04) >> 20 & 1, 0, "no capabilities");
    assert_eq!(vm.read(SOURCE, 0x3c) >> 8 & 0xff, 0, "no interrupt pin");
    assert!((0x40..0x1000).step_by(4).all(|offset| vm.read(SOURCE, offset) == 0));
}

#[test]
fn what_is_written_to_the_header_of_a_port_left_empty_reads_back() {
    let mut vm = talk();
    vm.write_word(SOURCE, 0x04, 0x0540);
    vm.write_word(SOURCE, 0x0c, 0x4010);
    assert_eq!([0x04, 0x0c].map(|offset| vm.read(SOURCE, offset) & 0xffff), [0x0540, 0x4010]);
    assert_eq!(vm.made_writes(), []);
}

#[test]
fn the_subsystem_of_a_port_left_empty_is_shown_and_nothing_else() {
    let at = |offset| Dword::at(offset).unwrap();
    // After MSI, which is the last of its capabilities.
    let source = Blueprint::port(bdf(SOURCE), PortType::RootPort, 2..=2, windows(0xe100_0000))
        .register(at(0x84), 0x0184_9c05)
        .register(at(0x9c), 0x0000_000d)
        .register(at(0xa0), 0x2015_8086);
    let destination = Blueprint::port(bdf(DESTINATION), PortType::RootPort, 1..=1, windows(0xe000_0000));
    let builder = Builder::new().root(0..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY, Builder::PORTS]);
    let machine = builder.function(destination).function(source).function(nic("02:00.0")).build().unwrap();
    let mut vm = moved(machine, &[("02:00.0", "01:00.0")]);
    assert_eq!(capabilities(&mut vm, SOURCE), [0x0d]);
    assert_eq!(vm.read(SOURCE, 0xa0), 0x2015_8086);
    vm.write(SOURCE, 0x9c, !0);
    vm.write(SOURCE, 0xa0, !0);
    assert_eq!(vm.made_writes(), []);
}

#[test]
fn whatever_is_written_to_a_port_left_empty_hardware_stays_as_it_is() {
    let mut vm = talk();
    let port = vm.machine().original(bdf(SOURCE)).unwrap();
    let before = vm.machine().function(port).config().to_vec();
    // `pci_setup_bridge`: windows closed, rewritten, and Bridge Control with a secondary bus reset.
    let script = [(0x30, 0x0000_ffff), (0x1c, 0x00f0), (0x20, 0x0000_fff0), (0x28, 0), (0x24, 0x0000_fff0), (0x2c, 0)];
    for (offset, value) in script {
        vm.write(SOURCE, offset, value);
    }
    vm.write_word(SOURCE, 0x3e, 0x0043);
    vm.write_word(SOURCE, 0x04, 0x0000);
    vm.write(SOURCE, 0x18, 0x0009_0909);
    assert_eq!(vm.read(SOURCE, 0x18), 0x0009_0909);
    assert_eq!(vm.read(SOURCE, 0x20), 0x0000_fff0);
    assert_eq!(vm.read(SOURCE, 0x3c) >> 16, 0x0043);
    for offset in (0..0x1000).step_by(4) {
        vm.write(SOURCE, offset, !0);
        vm.write(SOURCE, offset, 0);
    }
    assert_eq!(vm.machine().function(port).config(), before);
    assert_eq!(vm.made_writes(), []);
}

#[test]
fn a_port_with_siblings_left_stays_a_port_whose_routing_is_guarded() {
    let sibling = Blueprint::endpoint(bdf("02:00.1")).bar(0, MEMORY, 0x1000, 0xe110_0000);
    let mut machine = machine([nic("02:00.0"), sibling]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.1"), guest("01:00.1")).unwrap();
    let mut vm = Vm::start(machine, &plan).unwrap();
    assert_eq!(capabilities(&mut vm, SOURCE), [0x10, 0x05]);
    vm.write_word(SOURCE, 0x04, 0x0100);
    vm.write(SOURCE, 0x18, 0);
    vm.write(SOURCE, 0x24, 0);
    vm.write_word(SOURCE, 0x3e, 0x40);
    // Only the other bits of Command reach hardware, with what makes it forward held.
    assert_eq!(made_writes(&vm), ["00:01.1 04h lanes 0011 <- 107"]);
    assert_eq!(vm.read(SOURCE, 0x04) & 0xffff, 0x0100);
}

#[test]
fn the_multi_function_bit_says_what_the_guest_finds() {
    let sibling = Blueprint::endpoint(bdf("02:00.1")).bar(0, MEMORY, 0x1000, 0xe110_0000);
    let mut vm = moved(machine([nic("02:00.0"), sibling]), &[("02:00.1", "01:00.1")]);
    let bit = |vm: &mut Vm, function| vm.read(function, 0x0c) >> 23 & 1;
    assert_eq!(bit(&mut vm, "02:00.0"), 0, "its only sibling left");
    assert_eq!(bit(&mut vm, "01:00.0"), 1, "a sibling came");
    assert_eq!(bit(&mut vm, "01:00.1"), 1);
}

#[test]
fn a_hidden_function_a_vacated_address_and_empty_device_numbers_are_absent() {
    let other = Blueprint::endpoint(bdf("00:1e.0")).bar(0, MEMORY, 0x1000, 0xf000_0000);
    let mut machine = machine([nic("02:00.0"), other]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest(NIC)).unwrap();
    let mut vm = Vm::start(machine, &plan.hide(host("00:1e.0")).unwrap()).unwrap();
    for absent in ["00:1e.0", "02:00.0", "02:00.1", "02:1f.7", "01:02.0", "01:1f.0"] {
        assert!((0..0x1000).step_by(4).all(|offset| vm.read(absent, offset) == !0), "{absent}");
        vm.write(absent, 0x04, 0);
    }
    assert_eq!(vm.made_writes(), []);
    let found: Vec<_> = vm.guest_functions().iter().map(ToString::to_string).collect();
    assert_eq!(found, ["00:01.0", "00:01.1", "01:00.0", NIC]);
    assert_eq!(vm.memory_read(0xf000_0000, pci_remap::Width::Dword), !0, "its memory is concealed");
}

#[test]
fn only_what_the_plan_touches_is_trapped() {
    let vm = talk();
    let traps: Vec<_> = vm.remapper().traps().map(|range| format!("{}-{}", range.first, range.last)).collect();
    // Both ports, and all of the two buses but the display.
    assert_eq!(traps, ["00:01.0-00:01.1", "01:01.0-02:1f.7"]);
}

#[test]
fn routing_ids_translate_both_ways() {
    let vm = talk();
    let remapper = vm.remapper();
    assert_eq!(remapper.to_host(guest(NIC)), Some(Some(host("02:00.0"))));
    assert_eq!(remapper.to_host(guest("02:00.0")), Some(None));
    assert_eq!(remapper.to_host(guest("00:1f.0")), None);
    assert_eq!(remapper.to_guest(host("02:00.0")), Some(guest(NIC)));
    assert_eq!(remapper.to_guest(host("00:1f.0")), Some(guest("00:1f.0")));
    assert_eq!(remapper.to_guest(Host(bdf("01:01.0"))), None, "no function of the host is found there");
}
