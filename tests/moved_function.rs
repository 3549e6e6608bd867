//! What a moved function shows, register by register. The table at the end names the test that fails without each rule.

mod support;

use pci_remap::plan::{ErrorReporting, InterruptPin, Policy};
use pci_remap::sim::machine::{Blueprint, Capability, ExtendedCapability, Machine};
use pci_remap::sim::vm::{MadeWrite, Vm};
use pci_remap::spec::capability::{ExtendedCapabilityId, extended_next_of, next_of};
use pci_remap::spec::express::{self, PortType};
use pci_remap::{Bdf, Dword, Plan, Relocation};
use support::*;

const NIC: &str = "01:01.0";
const EXPRESS: u32 = 0x10;

/// Where a capability of the moved function is for the guest.
fn find(vm: &mut Vm, id: u32) -> Option<u16> {
    let mut pointer = next_of(vm.read(NIC, 0x34) << 8);
    while pointer != 0 {
        let entry = vm.read(NIC, pointer.into());
        if entry & 0xff == id {
            return Some(pointer.into());
        }
        pointer = next_of(entry);
    }
    None
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

/// Byte offset of a register of the moved function's PCI Express Capability.
fn express(vm: &mut Vm, register: u16) -> u16 {
    find(vm, EXPRESS).unwrap() + 4 * register
}

/// A register of the PCI Express Capability of a function of the machine, in hardware.
fn hardware_express(machine: &Machine, function: &str, register: u16) -> Dword {
    let config = machine.function(machine.original(bdf(function)).unwrap()).config();
    let mut pointer = next_of(config[0x34 / 4] << 8);
    while config[usize::from(pointer) / 4] & 0xff != EXPRESS {
        pointer = next_of(config[usize::from(pointer) / 4]);
    }
    Dword::at(u16::from(pointer) + 4 * register).unwrap()
}

/// Sets bits in the PCI Express Capability of a function of the machine, as firmware would have left them.
fn firmware_sets(machine: &mut Machine, function: &str, register: u16, mask: u32, value: u32) {
    let dword = hardware_express(machine, function, register);
    let function = machine.original(bdf(function)).unwrap();
    let old = machine.peek(function, dword);
    machine.poke(function, dword, old & !mask | value);
}

/// The talk's machine: the display and its port have payloads of 512 bytes and a common clock, the NIC's port 256 bytes and
/// none.
fn wired() -> Machine {
    let mut machine = machine([nic("02:00.0")]);
    firmware_sets(&mut machine, "01:00.0", express::DEVICE_CAPABILITIES, express::MAX_PAYLOAD_SIZE_SUPPORTED, 2);
    firmware_sets(&mut machine, "01:00.0", express::DEVICE_CONTROL, express::MAX_PAYLOAD_SIZE, 2 << 5);
    firmware_sets(&mut machine, "00:01.0", express::DEVICE_CONTROL, express::MAX_PAYLOAD_SIZE, 2 << 5);
    firmware_sets(&mut machine, "00:01.0", express::LINK_CONTROL, 0xffff, express::COMMON_CLOCK_CONFIGURATION);
    firmware_sets(&mut machine, "00:01.1", express::DEVICE_CONTROL, express::MAX_PAYLOAD_SIZE, 1 << 5);
    firmware_sets(&mut machine, "00:01.1", express::LINK_CONTROL, 0xffff, 0);
    firmware_sets(&mut machine, "02:00.0", express::DEVICE_CONTROL, 0xffff, 0x2837);
    // L1, RCB of 128 bytes, clock power management; the link's clock is not common.
    firmware_sets(&mut machine, "02:00.0", express::LINK_CONTROL, 0x1000_ffff, 0x010a);
    firmware_sets(&mut machine, "02:00.0", express::DEVICE_CAPABILITIES_2, !0, 0x800f_0820);
    firmware_sets(&mut machine, "02:00.0", express::DEVICE_CONTROL_2, 0xffff, 0x0405);
    machine
}

fn moved_with(mut machine: Machine, relocation: Relocation) -> Vm {
    let plan = Plan::new(scan(&mut machine)).with(relocation).unwrap();
    Vm::start(machine, &plan).unwrap()
}

fn talk_with(change: impl FnOnce(&mut Relocation)) -> Vm {
    let mut relocation = Relocation::new(host("02:00.0"), guest(NIC));
    change(&mut relocation);
    moved_with(wired(), relocation)
}

/// The hardware's register.
fn real(vm: &Vm, function: Bdf, offset: u16) -> u32 {
    vm.machine().peek(vm.machine().original(function).unwrap(), Dword::at(offset).unwrap())
}

fn made_writes(vm: &Vm) -> Vec<String> {
    vm.made_writes().iter().map(|MadeWrite { to, value }| format!("{to} <- {value:x}")).collect()
}

#[test]
fn its_payload_is_its_ports_and_hardware_keeps_its_own() {
    let mut vm = talk_with(|_| {});
    let (capabilities, control) = (express(&mut vm, 1), express(&mut vm, 2));
    assert_eq!(vm.read(NIC, capabilities) & 7, 2, "at least what its port has");
    assert_eq!(vm.read(NIC, control) >> 5 & 7, 2);
    vm.write_word(NIC, control, 0x5930);
    assert_eq!(vm.read(NIC, control) & 0xffff, 0x5930);
    assert_eq!(made_writes(&vm), [format!("02:00.0 {control:02X}h lanes 0011 <- 5937")]);
}

/// Linux would set it (`pci_configure_mps`), if it saw the port: completions with more payload than the function takes are
/// malformed.
#[test]
fn a_payload_firmware_left_unlike_the_real_ports_is_made_like_it() {
    let mut machine = wired();
    firmware_sets(&mut machine, "02:00.0", express::DEVICE_CONTROL, express::MAX_PAYLOAD_SIZE, 0);
    let mut vm = moved_with(machine, Relocation::new(host("02:00.0"), guest(NIC)));
    let control = express(&mut vm, 2);
    assert_eq!(real(&vm, bdf("02:00.0"), control) >> 5 & 7, 1, "256 bytes");
    assert_eq!(vm.read(NIC, control) >> 5 & 7, 2, "512 bytes, as its port in the guest's view");
    vm.write_word(NIC, control, 0x2810);
    assert_eq!(real(&vm, bdf("02:00.0"), control) >> 5 & 7, 1);
}

/// What the port sent otherwise would be malformed to the function.
#[test]
fn a_root_port_firmware_left_with_more_payload_than_the_function_takes_is_lowered() {
    let mut machine = wired();
    firmware_sets(&mut machine, "02:00.0", express::DEVICE_CAPABILITIES, 7, 1);
    firmware_sets(&mut machine, "00:01.1", express::DEVICE_CONTROL, express::MAX_PAYLOAD_SIZE, 2 << 5);
    let mut vm = moved_with(machine, Relocation::new(host("02:00.0"), guest(NIC)));
    let payload_of = |function| {
        let control = hardware_express(vm.machine(), function, express::DEVICE_CONTROL);
        vm.machine().peek(vm.machine().original(bdf(function)).unwrap(), control) >> 5 & 7
    };
    assert_eq!([payload_of("00:01.1"), payload_of("02:00.0")], [1, 1], "256 bytes");
    let control = express(&mut vm, 2);
    assert_eq!(vm.read(NIC, control) >> 5 & 7, 2, "512 bytes, as its port in the guest's view");
}

#[test]
fn a_larger_payload_than_its_ports_is_still_offered() {
    let mut machine = wired();
    firmware_sets(&mut machine, "02:00.0", express::DEVICE_CAPABILITIES, 7, 5);
    let mut vm = moved_with(machine, Relocation::new(host("02:00.0"), guest(NIC)));
    let capabilities = express(&mut vm, 1);
    assert_eq!(vm.read(NIC, capabilities) & 7, 5);
}

#[test]
fn request_size_ordering_snooping_tags_and_reset_are_the_hardwares() {
    let mut vm = talk_with(|_| {});
    let control = express(&mut vm, 2);
    let nic = bdf("02:00.0");
    vm.write_word(NIC, control, 0x5910);
    assert_eq!(real(&vm, nic, control) & 0x7910, 0x5910);
    vm.write_word(NIC, control, 0x8000);
    assert_eq!(vm.made_writes().last().unwrap().value & 0x8000, 0x8000, "Initiate Function Level Reset");
}

#[test]
fn no_phantom_functions() {
    let mut machine = wired();
    firmware_sets(&mut machine, "02:00.0", express::DEVICE_CAPABILITIES, 0x18, 0x18);
    let mut vm = moved_with(machine, Relocation::new(host("02:00.0"), guest(NIC)));
    let (capabilities, control) = (express(&mut vm, 1), express(&mut vm, 2));
    assert_eq!(vm.read(NIC, capabilities) & 0x18, 0);
    vm.write_word(NIC, control, 0x0200);
    assert_eq!(vm.read(NIC, control) & 0x0200, 0);
    assert_eq!(real(&vm, bdf("02:00.0"), control) & 0x0200, 0);
}

#[test]
fn it_has_no_say_in_the_link_of_the_port_it_is_seen_behind() {
    let mut vm = talk_with(|_| {});
    let (capabilities, link) = (express(&mut vm, 1), express(&mut vm, 3));
    // It offers all there is, and has no Role-Based Error Reporting.
    let mut machine = wired();
    let nic = machine.original(bdf("02:00.0")).unwrap();
    machine.poke(nic, Dword::at(link).unwrap(), real(&vm, bdf("02:00.0"), link) | 0x0004_0c00);
    machine.poke(nic, Dword::at(capabilities).unwrap(), real(&vm, bdf("02:00.0"), capabilities) & !0x0000_8fc0);
    vm = moved_with(machine, Relocation::new(host("02:00.0"), guest(NIC)));
    let acceptable_latencies = vm.read(NIC, capabilities) >> 6 & 0x3f;
    assert_eq!(acceptable_latencies, 0x3f, "no limit");
    assert_eq!(vm.read(NIC, capabilities) >> 15 & 1, 1, "Role-Based Error Reporting");
    assert_eq!(vm.read(NIC, link) & 0x0004_0c00, 0, "neither ASPM nor clock power management");
    assert_eq!(vm.read(NIC, link) & 0x3ff, real(&vm, bdf("02:00.0"), link) & 0x3ff, "the link's own speed and width");
}

#[test]
fn link_control_is_the_guests_own_and_agrees_with_its_port_on_clocks() {
    let mut vm = talk_with(|_| {});
    let (control, control_2) = (express(&mut vm, 4), express(&mut vm, 12));
    let port = vm.read("00:01.0", 0x50);
    // RCB as it is; ASPM and clock power management off; Common Clock and Slot Clock as the port's.
    assert_eq!(vm.read(NIC, control) & 0xffff, 0x0048);
    assert_eq!(vm.read(NIC, control) >> 28 & 1, port >> 28 & 1);
    vm.write_word(NIC, control, 0xffff);
    assert_eq!(vm.read(NIC, control) & 0xffff, 0x02cb);
    vm.write_word(NIC, control_2, 0x0001);
    assert_eq!(vm.read(NIC, control_2) & 0xffff, 0x0001);
    assert_eq!(vm.made_writes(), []);
}

#[test]
fn what_both_ends_of_a_link_agree_on_is_not_offered_and_stays_as_firmware_left_it() {
    let mut vm = talk_with(|_| {});
    let (capabilities, control) = (express(&mut vm, 9), express(&mut vm, 10));
    assert_eq!(vm.read(NIC, capabilities), 0, "LTR, OBFF, ten-bit tags, ARI, FRS");
    assert_eq!(vm.read(NIC, control) & 0xffff, 0x0005, "LTR is on in hardware, and not shown");
    vm.write_word(NIC, control, 0xffff);
    assert_eq!(vm.read(NIC, control) & 0xffff, 0x035f, "AtomicOps, IDO, completion timeout");
    assert_eq!(made_writes(&vm), [format!("02:00.0 {control:02X}h lanes 0001 <- 41f")]);
}

#[test]
fn on_its_own_bus_it_agrees_with_the_port_it_has() {
    let mut machine = machine([nic("02:00.0")]);
    let plan = Plan::new(scan(&mut machine)).hide(host("01:00.0")).unwrap();
    let plan = plan.relocate(host("02:00.0"), guest("02:00.0")).unwrap();
    let mut vm = Vm::start(machine, &plan).unwrap();
    let at = real_express(&vm);
    for offset in (at + 4..at + 60).step_by(4) {
        assert_eq!(vm.read("02:00.0", offset), real(&vm, bdf("02:00.0"), offset), "{offset:#x}");
    }
    vm.write_word("02:00.0", at + 8, 0x2830);
    vm.write_word("02:00.0", at + 16, 0x0041);
    assert_eq!((real(&vm, bdf("02:00.0"), at + 8) & 0xe0, real(&vm, bdf("02:00.0"), at + 16) & 0x43), (0x20, 0x41));
}

#[test]
fn on_a_root_bus_it_is_integrated_and_has_no_link() {
    let mut vm = moved_with(wired(), Relocation::new(host("02:00.0"), guest("00:05.0")));
    let function = "00:05.0";
    let at = real_express(&vm);
    assert_eq!(PortType::of(vm.read(function, at)), PortType::RootComplexIntegratedEndpoint);
    for register in [3, 4, 11, 12] {
        vm.write(function, at + 4 * register, !0);
        assert_eq!(vm.read(function, at + 4 * register), 0, "{register}");
    }
    assert_eq!(vm.made_writes(), []);
}

/// Where the NIC has its PCI Express Capability.
fn real_express(vm: &Vm) -> u16 {
    let config = vm.machine().function(vm.machine().original(bdf("02:00.0")).unwrap()).config();
    (0x40..0x100).step_by(4).find(|at| config[usize::from(*at) / 4] & 0xff == EXPRESS).unwrap()
}

#[test]
fn a_function_that_was_integrated_has_no_link_elsewhere_either() {
    let card = Blueprint::endpoint(bdf("00:05.0"))
        .bar(0, MEMORY, 0x1000, 0xf000_0000)
        .capability(&Capability::Express(PortType::RootComplexIntegratedEndpoint));
    let mut vm = moved(machine([card]), &[("00:05.0", NIC)]);
    let link = express(&mut vm, 3);
    assert_eq!((vm.read(NIC, link), vm.read(NIC, link + 4)), (0, 0));
}

#[test]
fn a_version_1_structure_ends_where_it_ends() {
    let mut machine = machine([nic("02:00.0")]);
    firmware_sets(&mut machine, "02:00.0", 0, 0x000f_0000, 0x0001_0000);
    firmware_sets(&mut machine, "02:00.0", 9, !0, 0x1234_5678);
    let mut vm = moved_with(machine, Relocation::new(host("02:00.0"), guest(NIC)));
    let beyond = express(&mut vm, 9);
    assert_eq!(vm.read(NIC, beyond), 0x1234_5678);
}

#[test]
fn errors_are_reported_as_firmware_chose_and_the_guests_enables_read_back() {
    let mut vm = talk_with(|_| {});
    let control = express(&mut vm, 2);
    assert_eq!(vm.read(NIC, control) & 0xf, 0x7);
    vm.write_word(NIC, control, 0x2858);
    vm.write_word(NIC, 0x04, 0x0100);
    assert_eq!((vm.read(NIC, control) & 0xf, vm.read(NIC, 0x04) & 0x100), (0x8, 0x100));
    let nic = bdf("02:00.0");
    assert_eq!((real(&vm, nic, control) & 0xf, real(&vm, nic, 0x04) & 0x100), (0x7, 0));
}

#[test]
fn system_errors_firmware_switched_on_stay_on_in_hardware() {
    let mut machine = wired();
    let function = machine.original(bdf("02:00.0")).unwrap();
    let command = Dword::at(0x04).unwrap();
    machine.poke(function, command, machine.peek(function, command) | 0x0100);
    let mut vm = moved_with(machine, Relocation::new(host("02:00.0"), guest(NIC)));
    assert_eq!(vm.read(NIC, 0x04) & 0x0100, 0x0100);
    // Interrupt Disable shares the byte.
    vm.write_word(NIC, 0x04, 0x0400);
    assert_eq!((vm.read(NIC, 0x04) & 0x0500, real(&vm, bdf("02:00.0"), 0x04) & 0x0500), (0x0400, 0x0500));
}

#[test]
fn errors_are_reported_as_the_guest_chooses_where_the_plan_says_so() {
    let mut vm = talk_with(|relocation| relocation.errors = ErrorReporting::Pass);
    let control = express(&mut vm, 2);
    vm.write_word(NIC, control, 0x2858);
    vm.write_word(NIC, 0x04, 0x0100);
    let nic = bdf("02:00.0");
    assert_eq!((real(&vm, nic, control) & 0xf, real(&vm, nic, 0x04) & 0x100), (0x8, 0x100));
    assert_eq!(extended_capabilities(&mut vm, NIC), [0, 0x01, 0x03]);
}

#[test]
fn errors_are_not_shown_where_the_plan_says_so() {
    let mut vm = talk_with(|relocation| relocation.errors = ErrorReporting::Hide);
    let control = express(&mut vm, 2);
    vm.write_word(NIC, control, 0x2850);
    assert_eq!(real(&vm, bdf("02:00.0"), control) & 0xf, 0x7);
    assert_eq!(extended_capabilities(&mut vm, NIC), [0, 0x03]);
}

#[test]
fn the_pin_is_the_one_whose_routing_the_caller_knows() {
    let mut vm = talk_with(|relocation| relocation.interrupt_pin = Some(InterruptPin::IntC));
    vm.write(NIC, 0x3c, !0);
    assert_eq!(vm.read(NIC, 0x3c) & 0xffff, 0x03ff);
}

#[test]
fn a_bar_that_is_not_shown_shows_no_host_address() {
    // No bridge above it forwards the address.
    let card = Blueprint::endpoint(bdf("02:00.0")).bar(0, MEMORY, 0x1000, 0xd000_0000);
    let mut vm = moved(machine([card]), &[("02:00.0", NIC)]);
    assert_eq!(vm.read(NIC, 0x10), 0);
    vm.write(NIC, 0x10, !0);
    assert_eq!((vm.read(NIC, 0x10), vm.made_writes()), (0, &[][..]));
}

/// Extended capabilities that are half of an agreement with the port, or name functions.
const HIDDEN: [ExtendedCapabilityId; 25] = [
    ExtendedCapabilityId::ACS,
    ExtendedCapabilityId::ARI,
    ExtendedCapabilityId::ATS,
    ExtendedCapabilityId::DATA_LINK_FEATURE,
    ExtendedCapabilityId::DOE,
    ExtendedCapabilityId::DPC,
    ExtendedCapabilityId::FRS_QUEUEING,
    ExtendedCapabilityId::IDE,
    ExtendedCapabilityId::L1_PM_SUBSTATES,
    ExtendedCapabilityId::LANE_MARGINING,
    ExtendedCapabilityId::LTR,
    ExtendedCapabilityId::MFVC,
    ExtendedCapabilityId::PAGE_REQUEST,
    ExtendedCapabilityId::PASID,
    ExtendedCapabilityId::PHYSICAL_LAYER_16,
    ExtendedCapabilityId::PHYSICAL_LAYER_32,
    ExtendedCapabilityId::PHYSICAL_LAYER_64,
    ExtendedCapabilityId::PTM,
    ExtendedCapabilityId::ROOT_COMPLEX_LINK_DECLARATION,
    ExtendedCapabilityId::SECONDARY_PCI_EXPRESS,
    ExtendedCapabilityId::SR_IOV,
    ExtendedCapabilityId::TPH_REQUESTER,
    ExtendedCapabilityId::VF_RESIZABLE_BAR,
    ExtendedCapabilityId::VIRTUAL_CHANNEL,
    ExtendedCapabilityId::VIRTUAL_CHANNEL_MFVC,
];

#[test]
fn what_names_functions_or_agrees_with_a_port_is_hidden() {
    for id in HIDDEN {
        let card = Blueprint::endpoint(bdf("02:00.0"))
            .capability(&Capability::Express(PortType::Endpoint))
            .register(Dword::at(0x100).unwrap(), 0x10c1_0003)
            .register(Dword::at(0x10c).unwrap(), 0x0001_0000 | u32::from(id.0));
        let mut vm = moved(machine([card]), &[("02:00.0", NIC)]);
        assert_eq!(extended_capabilities(&mut vm, NIC), [0x03], "{id:?}");
        vm.write(NIC, 0x10c, !0);
        assert_eq!((vm.read(NIC, 0x10c), vm.made_writes()), (0, &[][..]), "{id:?}");
    }
}

const SECRET: u32 = 0x005e_c2e7;

/// A function with a capability nobody knows, one that is vendor-specific, and registers outside all of them.
fn device_with_secrets() -> Blueprint {
    let card = Blueprint::endpoint(bdf("02:00.0"))
        .bar(0, MEMORY, 0x1000, 0xe100_0000)
        .capability(&Capability::VendorSpecific(vec![SECRET]))
        .capability(&Capability::PowerManagement)
        .capability(&Capability::Express(PortType::Endpoint))
        .extended(&ExtendedCapability::VendorSpecific { id: 7, body: vec![SECRET] })
        .extended(&ExtendedCapability::AdvancedErrorReporting);
    card.register(Dword::at(0xf0).unwrap(), SECRET).register(Dword::at(0xff0).unwrap(), SECRET)
}

fn secrets_shown(policy: Policy) -> usize {
    let relocation = Relocation { policy, ..Relocation::new(host("02:00.0"), guest(NIC)) };
    let mut vm = moved_with(machine([device_with_secrets()]), relocation);
    (0x40..0x1000).step_by(4).filter(|offset| vm.read(NIC, *offset) == SECRET).count()
}

#[test]
fn a_plan_says_how_much_is_given_of_all_functions_moved_later() {
    let mut machine = machine([device_with_secrets()]);
    let plan = Plan::new(scan(&mut machine)).policy(Policy::Strict).relocate(host("02:00.0"), guest(NIC)).unwrap();
    let mut vm = Vm::start(machine, &plan).unwrap();
    assert_eq!(vm.read(NIC, 0xf0), 0);
}

#[test]
fn a_guest_that_is_trusted_finds_what_the_device_keeps_outside_all_capabilities() {
    assert_eq!(secrets_shown(Policy::Transparent), 4);
}

#[test]
fn a_guest_that_is_not_trusted_finds_known_capabilities_and_nothing_else() {
    assert_eq!(secrets_shown(Policy::Strict), 0);
    let relocation = Relocation { policy: Policy::Strict, ..Relocation::new(host("02:00.0"), guest(NIC)) };
    let mut vm = moved_with(machine([device_with_secrets()]), relocation);
    assert_eq!(find(&mut vm, 0x09), None);
    assert_eq!(extended_capabilities(&mut vm, NIC), [0, 0x01]);
    let control = express(&mut vm, 2);
    assert_eq!(vm.read(NIC, control) & 0xffff, 0x2810);
    vm.write(NIC, 0xf0, 0);
    vm.write(NIC, 0xff0, 0);
    assert_eq!(vm.made_writes(), []);
}

#[test]
fn a_guest_that_is_not_trusted_finds_all_that_does_no_harm() {
    let card = Blueprint::endpoint(bdf("02:00.0"))
        .bar(0, MEMORY, 0x40_0000, 0xe140_0000)
        .capability(&Capability::PowerManagement)
        .capability(&Capability::VitalProductData)
        .capability(&Capability::Msi)
        .capability(&Capability::Express(PortType::Endpoint))
        .capability(&Capability::MsiX { vectors: 4, table: (0, 0x2000), pba: (0, 0x3000) })
        .capability(&Capability::AdvancedFeatures)
        .extended(&ExtendedCapability::AdvancedErrorReporting)
        .extended(&ExtendedCapability::SerialNumber(7))
        .extended(&ExtendedCapability::ResizableBar(vec![(0, 0x3f)]));
    let relocation = Relocation { policy: Policy::Strict, ..Relocation::new(host("02:00.0"), guest("01:00.1")) };
    let mut vm = moved_with(machine([card]), relocation);
    let mut found = Vec::new();
    let mut pointer = next_of(vm.read("01:00.1", 0x34) << 8);
    while pointer != 0 {
        let entry = vm.read("01:00.1", pointer.into());
        found.push(entry & 0xff);
        pointer = next_of(entry);
    }
    assert_eq!(found, [0x01, 0x03, 0x05, 0x10, 0x11, 0x13]);
    assert_eq!(extended_capabilities(&mut vm, "01:00.1"), [0x01, 0x03, 0x15]);
}

#[test]
fn a_resizable_bar_has_the_size_it_has() {
    let card = Blueprint::endpoint(bdf("02:00.0"))
        .bar(0, MEMORY, 0x40_0000, 0xe140_0000)
        .capability(&Capability::Express(PortType::Endpoint))
        .extended(&ExtendedCapability::ResizableBar(vec![(0, 0x3f)]));
    let mut vm = moved(machine([card]), &[("02:00.0", "01:00.1")]);
    let function = "01:00.1";
    let shown: Vec<_> = [0x100, 0x104, 0x108].map(|offset| vm.read(function, offset)).into();
    assert_eq!(shown, [0x0001_0015, 1 << 2 << 4, 0x0000_0220]);
    vm.write(function, 0x108, 0x0000_0520);
    assert_eq!((vm.read(function, 0x108), vm.made_writes()), (0x0000_0220, &[][..]));
}

#[test]
fn a_first_function_that_is_moved_to_where_it_is_hides_what_others_hide() {
    let card = Blueprint::endpoint(bdf("02:00.0"))
        .capability(&Capability::Express(PortType::Endpoint))
        .extended(&ExtendedCapability::Ari { next: 0 })
        .extended(&ExtendedCapability::LatencyToleranceReporting)
        .extended(&ExtendedCapability::SerialNumber(0));
    let mut vm = moved(machine([card]), &[("02:00.0", "02:00.0")]);
    assert_eq!(extended_capabilities(&mut vm, "02:00.0"), [0, 0x03]);
}

/// What fails when a rule is taken away. Tests of other files by `file: name`.
const RULES: &[(&str, &str)] = &[
    ("Command: decode enables drive windows", "bar: windows_appear_with_memory_space_enable_and_go_with_it"),
    ("Command: hardware keeps decoding", "registers: the_guest_masters_the_bus_and_hardware_keeps_decoding"),
    ("Command: SERR# Enable", "errors_are_reported_as_firmware_chose_and_the_guests_enables_read_back"),
    ("Command: SERR# Enable in hardware", "system_errors_firmware_switched_on_stay_on_in_hardware"),
    (
        "Command: what is mapped at the start decodes",
        "bar: what_is_mapped_at_the_start_decodes_though_firmware_left_it_off",
    ),
    ("Status: error bits are cleared by ones only", "registers: error_bits_are_cleared_only_by_writing_them"),
    ("BIST", "registers: a_self_test_cannot_be_started"),
    ("Multi-Function Device", "registers: the_multi_function_bit_says_what_the_guest_finds"),
    ("BARs: size masks", "bar: sizing_falls_out_of_the_mask_whatever_is_written"),
    ("BARs: hardware's stay", "bar: moving_a_live_bar_unmaps_the_old_place_before_mapping_the_new"),
    ("BARs: upper halves", "bar: the_upper_half_of_a_live_bar_moves_it_too"),
    ("BARs: those not shown read zero", "a_bar_that_is_not_shown_shows_no_host_address"),
    ("Expansion ROM Enable", "bar: a_rom_is_there_while_its_own_enable_and_memory_space_enable_are_both_set"),
    ("Interrupt Pin: none", "registers: the_interrupt_pin_is_not_shown_and_the_line_is_the_guests_own"),
    ("Interrupt Pin: chosen", "the_pin_is_the_one_whose_routing_the_caller_knows"),
    ("hidden capabilities", "registers: capabilities_that_cannot_move_are_unlinked_and_their_registers_read_zero"),
    ("Capabilities List", "registers: a_function_whose_capabilities_are_all_hidden_has_no_list"),
    ("hidden extended capabilities", "what_names_functions_or_agrees_with_a_port_is_hidden"),
    ("Device/Port Type on a root bus", "on_a_root_bus_it_is_integrated_and_has_no_link"),
    ("Link registers on a root bus", "on_a_root_bus_it_is_integrated_and_has_no_link"),
    ("Device Capabilities: Max_Payload_Size Supported", "its_payload_is_its_ports_and_hardware_keeps_its_own"),
    ("Device Capabilities: Phantom Functions", "no_phantom_functions"),
    ("Device Capabilities: acceptable latencies", "it_has_no_say_in_the_link_of_the_port_it_is_seen_behind"),
    ("Device Capabilities: Role-Based Error Reporting", "it_has_no_say_in_the_link_of_the_port_it_is_seen_behind"),
    ("Device Control: Max_Payload_Size", "its_payload_is_its_ports_and_hardware_keeps_its_own"),
    (
        "Device Control: Max_Payload_Size of the real port",
        "a_payload_firmware_left_unlike_the_real_ports_is_made_like_it",
    ),
    (
        "Device Control: Max_Payload_Size of the real port, above what the function takes",
        "a_root_port_firmware_left_with_more_payload_than_the_function_takes_is_lowered",
    ),
    ("Device Control: error enables", "errors_are_reported_as_firmware_chose_and_the_guests_enables_read_back"),
    ("Device Control: Phantom Functions Enable", "no_phantom_functions"),
    ("Device Control: the rest passes", "request_size_ordering_snooping_tags_and_reset_are_the_hardwares"),
    ("Link Capabilities: ASPM, clock power management", "it_has_no_say_in_the_link_of_the_port_it_is_seen_behind"),
    ("Link Control", "link_control_is_the_guests_own_and_agrees_with_its_port_on_clocks"),
    ("Link Status: Slot Clock Configuration", "link_control_is_the_guests_own_and_agrees_with_its_port_on_clocks"),
    ("Link Control 2", "link_control_is_the_guests_own_and_agrees_with_its_port_on_clocks"),
    ("Device Capabilities 2", "what_both_ends_of_a_link_agree_on_is_not_offered_and_stays_as_firmware_left_it"),
    ("Device Control 2", "what_both_ends_of_a_link_agree_on_is_not_offered_and_stays_as_firmware_left_it"),
    ("nothing of it on its own bus", "on_its_own_bus_it_agrees_with_the_port_it_has"),
    ("nothing beyond a version 1 structure", "a_version_1_structure_ends_where_it_ends"),
    ("Advanced Error Reporting: hidden", "errors_are_not_shown_where_the_plan_says_so"),
    ("Resizable BAR Capability", "a_resizable_bar_has_the_size_it_has"),
    ("Resizable BAR Control", "a_resizable_bar_has_the_size_it_has"),
    ("strict: capabilities", "a_guest_that_is_not_trusted_finds_known_capabilities_and_nothing_else"),
    ("strict: each capability that is shown", "a_guest_that_is_not_trusted_finds_all_that_does_no_harm"),
    ("strict: registers outside", "a_guest_that_is_not_trusted_finds_known_capabilities_and_nothing_else"),
    ("Initiate Function Level Reset", "replay: the_function_survives_a_function_level_reset"),
    ("AF Control", "replay: the_function_survives_a_reset_by_advanced_features"),
    ("PMCSR: the way back from D3hot", "replay: the_function_survives_the_way_back_from_d3hot"),
    ("PMCSR: windows in D0 only", "replay: windows_are_there_in_d0_only"),
    ("PMCSR: No_Soft_Reset", "replay: a_function_that_keeps_its_registers_in_d3hot_is_where_it_was_afterwards"),
    ("PMCSR: states the function has", "replay: a_state_the_function_does_not_have_changes_nothing"),
    ("all ones from hardware are all ones", "replay: a_function_that_is_not_ready_reads_as_hardware_does"),
    (
        "what is shared is read whole",
        "replay: of_a_function_that_is_not_ready_a_byte_from_the_shadow_reads_as_its_dword_does",
    ),
    ("no replay before the function is ready", "replay: a_guest_that_writes_too_early_loses_nothing_but_its_write"),
    ("no replay before a reset", "replay: a_second_reset_in_a_row_is_not_preceded_by_what_it_takes_away"),
    (
        "bridges before what is behind them",
        "replay: after_a_sleep_without_power_the_way_comes_back_before_the_function",
    ),
];

#[test]
fn every_rule_has_a_test() {
    let files = [
        ("", include_str!("moved_function.rs")),
        ("bar: ", include_str!("bar.rs")),
        ("registers: ", include_str!("registers.rs")),
        ("replay: ", include_str!("replay.rs")),
    ];
    for (rule, test) in RULES {
        let is_there = |(prefix, text): &(&str, &str)| {
            let name = test.strip_prefix(prefix).filter(|name| !name.contains(':'));
            name.is_some_and(|name| text.contains(&format!("#[test]\nfn {name}() {{")))
        };
        assert!(files.iter().any(is_there), "{rule}: there is no test {test}");
    }
}
