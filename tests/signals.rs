//! What the simulated hardware signals: slots, errors, containment, messages nobody expects, wake-ups; whom a guest
//! reads that they came from; and the log of configuration writes.
//!
//! | rule (in `src/remapper`) | test |
//! |---|---|
//! | `port.rs` `name_requesters`: error sources | [`a_guest_reads_its_own_routing_ids_of_who_signalled`] |
//! | `port.rs` `name_requesters`: PME Requester ID | [`a_guest_reads_its_own_routing_ids_of_who_signalled`], [`a_port_that_is_left_names_the_function_where_it_went`] |
//! | `port.rs` `name_requesters`: DPC Error Source ID | [`a_guest_reads_its_own_routing_ids_of_what_was_contained`] |
//! | `build.rs` `add_event_collectors` | [`an_event_collector_names_integrated_functions_as_the_guest_finds_them`] |
//! | `routing.rs` `requesters`: who is not found | [`who_the_guest_does_not_find_is_not_named`] |
//! | `routing.rs` `requesters`: no answer | [`who_signalled_is_named_by_the_bus_numbers_the_guest_gave`] |

mod support;

use pci_remap::plan::BusNumbers;
use pci_remap::sim::machine::{
    Blueprint, Builder, Capability, ConfigWrite, ExtendedCapability, Fault, LinkState, Machine, Signaled, Undelivered,
};
use pci_remap::sim::platform::Message;
use pci_remap::sim::vm::Vm;
use pci_remap::spec::express::PortType;
use pci_remap::{Access, Dword, Guest, Host, Lanes, Plan, Width};
use support::{MEMORY, Registers, bdf, guest, host, moved, read, scan, wait, windows, write};

const PORT: &str = "00:01.1";
const NIC: &str = "02:00.0";
/// The registers of both: PCI Express at 40h, Power Management at 7Ch, MSI at 84h.
const DEVICE_CONTROL: u16 = 0x48;
const LINK_CONTROL: u16 = 0x50;
const SLOT_CONTROL: u16 = 0x58;
const ROOT_CONTROL: u16 = 0x5c;
const ROOT_STATUS: u16 = 0x60;
const DEVICE_CONTROL_2: u16 = 0x68;
const PMCSR: u16 = 0x80;
const MSI: u16 = 0x84;
/// Advanced Error Reporting at 100h, PTM at 148h, and the port's DPC at 154h.
const UNCORRECTABLE_STATUS: u16 = 0x104;
const UNCORRECTABLE_MASK: u16 = 0x108;
const AER_CONTROL: u16 = 0x118;
const ROOT_ERROR_COMMAND: u16 = 0x12c;
const ROOT_ERROR_STATUS: u16 = 0x130;
const ERROR_SOURCE: u16 = 0x134;
const PTM_CONTROL: u16 = 0x150;
const DPC_CONTROL: u16 = 0x158;
const DPC_STATUS: u16 = 0x15c;

fn at(offset: u16) -> Dword {
    Dword::at(offset).unwrap()
}

/// A Root Port with all services, and a slot with these Slot Capabilities.
fn port(slot_capabilities: u32) -> Blueprint {
    let port = Blueprint::port(bdf(PORT), PortType::RootPort, 2..=2, windows(0xe100_0000));
    port.with_services().register(at(0x54), slot_capabilities)
}

/// The port, with a NIC in its slot. MSI is on at the port.
fn machine_with(slot_capabilities: u32) -> Machine {
    let nic = Blueprint::endpoint(bdf(NIC))
        .bar(0, MEMORY, 0x2_0000, 0xe100_0000)
        .capability(&Capability::Express(PortType::Endpoint))
        .capability(&Capability::PowerManagement)
        .extended(&ExtendedCapability::AdvancedErrorReporting)
        .extended(&ExtendedCapability::PrecisionTimeMeasurement);
    let builder = Builder::new().root(0..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY, Builder::PORTS]);
    let mut machine = builder.function(port(slot_capabilities)).function(nic).build().unwrap();
    write(&mut machine, PORT, MSI + 4, 0xfee0_0000);
    write(&mut machine, PORT, MSI + 12, 0x41);
    write(&mut machine, PORT, MSI, 0x0001_0000);
    machine
}

/// With a Power Controller.
fn machine() -> Machine {
    machine_with(0x0002)
}

fn link(machine: &Machine) -> LinkState {
    machine.link(machine.original(bdf(PORT)).unwrap()).unwrap()
}

/// Number of interrupts the port has raised.
fn interrupts(machine: &Machine) -> usize {
    let own = Signaled { requester: bdf(PORT), message: Message { address: 0xfee0_0000, data: 0x41 } };
    assert!(machine.msi_log().iter().all(|signaled| *signaled == own));
    machine.msi_log().len()
}

/// The NIC sends more than the port takes, which is fatal.
fn send_too_much(machine: &mut Machine) {
    write(machine, NIC, DEVICE_CONTROL, 0x2830);
    assert_eq!(machine.dma_write(bdf(NIC), 0x1000, 0x1000), Err(Undelivered::Malformed(bdf(PORT))));
}

#[test]
fn a_power_controller_switches_the_device_off_and_on() {
    let mut machine = machine();
    write(&mut machine, PORT, SLOT_CONTROL, 0x0400);
    assert_eq!((link(&machine), read(&mut machine, NIC, 0)), (LinkState::Down, !0));
    write(&mut machine, PORT, SLOT_CONTROL, 0);
    assert_eq!(link(&machine), LinkState::Training);
    wait(&mut machine, 100);
    assert_eq!([0, 0x10].map(|offset| read(&mut machine, NIC, offset)), [0x1572_8086, 0]);
}

#[test]
fn without_a_power_controller_its_control_switches_nothing() {
    let mut machine = machine_with(0);
    write(&mut machine, PORT, SLOT_CONTROL, 0x0400);
    assert_eq!((link(&machine), read(&mut machine, NIC, 0x10)), (LinkState::Active, 0xe100_0000));
}

#[test]
fn presence_changes_with_what_is_in_the_slot() {
    let mut machine = machine();
    let id = machine.original(bdf(PORT)).unwrap();
    machine.unplug(id);
    // Presence Detect Changed and Data Link Layer State Changed; Presence Detect State is off.
    assert_eq!(read(&mut machine, PORT, SLOT_CONTROL) >> 16, 0x0108);
    assert_eq!((link(&machine), read(&mut machine, NIC, 0)), (LinkState::Down, !0));
    assert_eq!(machine.faults(), [Fault::SurpriseDown { port: bdf(PORT) }, Fault::LinkDown { port: bdf(PORT) }]);
    assert_eq!(read(&mut machine, PORT, UNCORRECTABLE_STATUS), 1 << 5);
    machine.unplug(id);
    assert_eq!(machine.faults().len(), 2, "it is out already");

    write(&mut machine, PORT, SLOT_CONTROL, 0x0108_0000);
    assert_eq!(read(&mut machine, PORT, SLOT_CONTROL) >> 16, 0, "written ones clear");
    machine.plug(id);
    assert_eq!(read(&mut machine, PORT, SLOT_CONTROL) >> 16, 0x0048);
    wait(&mut machine, 100);
    assert_eq!((link(&machine), read(&mut machine, NIC, 0)), (LinkState::Active, 0x1572_8086));
}

#[test]
fn a_slot_interrupts_for_the_events_it_is_asked_to() {
    // Presence Detect Changed Enable, Hot-Plug Interrupt Enable, Data Link Layer State Changed Enable.
    for (enables, presence, state) in [(0x1028, 1, 1), (0x0028, 1, 0), (0x1020, 0, 1), (0x1008, 0, 0), (0x0020, 0, 0)] {
        let mut machine = machine();
        write(&mut machine, PORT, SLOT_CONTROL, enables);
        write(&mut machine, PORT, LINK_CONTROL, 0x0050);
        assert_eq!(interrupts(&machine), state, "{enables:04x}: the link goes down");
        let id = machine.original(bdf(PORT)).unwrap();
        machine.unplug(id);
        assert_eq!(interrupts(&machine), state + presence, "{enables:04x}: the device is gone");
    }
}

#[test]
fn an_uncorrectable_error_is_noted_and_told_to_the_root_port() {
    let mut machine = machine();
    // Fatal Error Reporting Enable, and the same in Root Error Command.
    write(&mut machine, PORT, DEVICE_CONTROL, 0x2814);
    write(&mut machine, PORT, ROOT_ERROR_COMMAND, 0x4);
    send_too_much(&mut machine);
    assert_eq!(read(&mut machine, PORT, UNCORRECTABLE_STATUS), 1 << 18, "Malformed TLP");
    assert_eq!(read(&mut machine, PORT, AER_CONTROL) & 0x1f, 18, "First Error Pointer");
    // Fatal Messages, First Uncorrectable Fatal, Fatal or Non-Fatal Received.
    assert_eq!(read(&mut machine, PORT, ROOT_ERROR_STATUS), 0b101_0100);
    assert_eq!(read(&mut machine, PORT, ERROR_SOURCE), 0x0009_0000);
    assert_eq!(read(&mut machine, PORT, 0x04) >> 30 & 1, 1, "Signaled System Error");
    assert_eq!(interrupts(&machine), 1);
    send_too_much(&mut machine);
    assert_eq!(read(&mut machine, PORT, ROOT_ERROR_STATUS), 0b101_1100, "Multiple Received");
    write(&mut machine, PORT, ROOT_ERROR_STATUS, 0b101_1100);
    assert_eq!(read(&mut machine, PORT, ROOT_ERROR_STATUS), 0, "written ones clear");
}

#[test]
fn an_error_is_told_only_where_it_is_enabled_and_not_masked() {
    let mut silent = machine();
    send_too_much(&mut silent);
    assert_eq!([UNCORRECTABLE_STATUS, ROOT_ERROR_STATUS].map(|at| read(&mut silent, PORT, at)), [1 << 18, 0]);

    let mut masked = machine();
    write(&mut masked, PORT, DEVICE_CONTROL, 0x2814);
    write(&mut masked, PORT, UNCORRECTABLE_MASK, 1 << 18);
    send_too_much(&mut masked);
    assert_eq!([UNCORRECTABLE_STATUS, ROOT_ERROR_STATUS].map(|at| read(&mut masked, PORT, at)), [1 << 18, 0]);

    let mut by_command = machine();
    // SERR# Enable, Bus Master, Memory Space.
    write(&mut by_command, PORT, 0x04, 0x0106);
    send_too_much(&mut by_command);
    assert_eq!(read(&mut by_command, PORT, ROOT_ERROR_STATUS), 0b101_0100);
    assert_eq!(interrupts(&by_command), 0, "Root Error Command is zero");
}

#[test]
fn a_fatal_error_is_a_system_error_where_root_control_says_so() {
    let mut machine = machine();
    write(&mut machine, PORT, DEVICE_CONTROL, 0x2814);
    write(&mut machine, PORT, ROOT_CONTROL, 0x4);
    send_too_much(&mut machine);
    assert_eq!(machine.faults().last(), Some(&Fault::SystemError { root: bdf(PORT) }));
}

#[test]
fn containment_keeps_the_link_down_until_its_status_is_cleared() {
    let mut machine = machine();
    write(&mut machine, PORT, DEVICE_CONTROL, 0x2814);
    // Trigger for fatal errors, with an interrupt.
    write(&mut machine, PORT, DPC_CONTROL, 0x0009_0000);
    send_too_much(&mut machine);
    assert!(machine.faults().contains(&Fault::Contained { port: bdf(PORT) }));
    // The port itself is the source; DPC Interrupt Status, Trigger Reason 0, Trigger Status.
    assert_eq!(read(&mut machine, PORT, DPC_STATUS), 0x0009_0009);
    assert_eq!((link(&machine), read(&mut machine, NIC, 0)), (LinkState::Down, !0));
    assert_eq!(interrupts(&machine), 1);
    assert_eq!(read(&mut machine, PORT, ROOT_ERROR_STATUS), 0, "the message went no further");
    wait(&mut machine, 1000);
    assert_eq!(link(&machine), LinkState::Down);
    write(&mut machine, PORT, DPC_STATUS, 0x0009);
    wait(&mut machine, 100);
    assert_eq!((link(&machine), read(&mut machine, NIC, 0)), (LinkState::Active, 0x1572_8086));
}

#[test]
fn containment_triggers_for_the_errors_it_is_asked_to() {
    // Trigger Enable; whether it triggers for a fatal error, and for an Unsupported Request, which is not.
    for (trigger, fatal, non_fatal) in [(0, false, false), (1, true, false), (2, true, true)] {
        let contains = |act: fn(&mut Machine)| {
            let mut machine = machine();
            write(&mut machine, PORT, DEVICE_CONTROL, 0x281e);
            write(&mut machine, PORT, DPC_CONTROL, trigger << 16);
            act(&mut machine);
            machine.faults().contains(&Fault::Contained { port: bdf(PORT) })
        };
        assert_eq!(contains(send_too_much), fatal, "{trigger}: fatal");
        assert_eq!(
            contains(|machine| write(machine, NIC, DEVICE_CONTROL_2, 0x0400)),
            non_fatal,
            "{trigger}: not fatal"
        );
    }
}

#[test]
fn software_triggers_containment_where_it_is_on_and_once() {
    for (control, is_triggered) in [(0x0040, false), (0x0001, false), (0x0041, true), (0x0042, true)] {
        let mut machine = machine();
        write(&mut machine, PORT, DPC_CONTROL, control << 16);
        assert_eq!(link(&machine) == LinkState::Down, is_triggered, "{control:#x}");
        // Trigger Reason 3 with its extension 1, DPC Interrupt Status, Trigger Status; no source.
        assert_eq!(read(&mut machine, PORT, DPC_STATUS), if is_triggered { 0x002f } else { 0 }, "{control:#x}");
        assert_eq!(read(&mut machine, PORT, DPC_CONTROL) >> 16, control & 0x0003, "the trigger reads zero");
    }
    let mut machine = machine();
    for _ in 0..2 {
        write(&mut machine, PORT, DPC_CONTROL, 0x0041_0000);
    }
    assert_eq!(machine.faults().iter().filter(|fault| **fault == Fault::Contained { port: bdf(PORT) }).count(), 1);
}

#[test]
fn a_message_the_port_is_not_enabled_for_is_an_unsupported_request() {
    let refused = [Fault::UnsupportedMessage { receiver: bdf(PORT), requester: bdf(NIC) }];
    // LTR Mechanism Enable; PTM Enable.
    for (register, enable) in [(DEVICE_CONTROL_2, 0x0400), (PTM_CONTROL, 0x1)] {
        let mut machine = machine();
        write(&mut machine, NIC, register, enable);
        assert_eq!(machine.faults(), refused, "{register:x}");
        assert_eq!(read(&mut machine, PORT, UNCORRECTABLE_STATUS), 1 << 20, "Unsupported Request Error");
        assert_eq!(read(&mut machine, PORT, DEVICE_CONTROL) >> 16, 0b1010, "Unsupported Request, Non-Fatal Error");
        write(&mut machine, NIC, register, enable);
        assert_eq!(machine.faults(), refused, "it was on already");
    }
    for (register, enable) in [(DEVICE_CONTROL_2, 0x0400), (PTM_CONTROL, 0x1)] {
        let mut machine = machine();
        write(&mut machine, PORT, register, enable);
        write(&mut machine, NIC, register, enable);
        assert_eq!(machine.faults(), [], "{register:x}");
    }
}

#[test]
fn a_wake_up_ends_at_the_root_port_with_its_requester() {
    let mut machine = machine();
    let nic = machine.original(bdf(NIC)).unwrap();
    assert!(!machine.raise_pme(nic), "PME_En is off");
    assert_eq!([read(&mut machine, NIC, PMCSR), read(&mut machine, PORT, ROOT_STATUS)], [0x8000, 0]);

    write(&mut machine, NIC, PMCSR, 0x8100);
    assert!(machine.raise_pme(nic));
    assert_eq!(read(&mut machine, NIC, PMCSR), 0x8100, "PME_Status");
    assert_eq!(read(&mut machine, PORT, ROOT_STATUS), 0x0001_0200);
    assert_eq!(interrupts(&machine), 0);
    // PME Interrupt Enable.
    write(&mut machine, PORT, ROOT_CONTROL, 0x8);
    assert!(machine.raise_pme(nic));
    assert_eq!(read(&mut machine, PORT, ROOT_STATUS), 0x0003_0200, "PME Pending");
    assert_eq!(interrupts(&machine), 1);
}

#[test]
fn the_log_of_configuration_writes_says_what_each_function_took_and_what_it_changed() {
    let mut machine = machine();
    let before = machine.config_writes().len();
    machine.config_write(Access::at(bdf(NIC), 0x05, Width::Byte).unwrap(), 0x0400);
    write(&mut machine, NIC, 0x00, !0);
    write(&mut machine, "02:01.0", 0x04, 0x0006);
    write(&mut machine, PORT, SLOT_CONTROL, 0x0400);
    write(&mut machine, NIC, 0x10, 0);
    let [nic, port] = [NIC, PORT].map(|function| machine.original(bdf(function)).unwrap());
    let taken = |function, offset, lanes, value, changed| ConfigWrite {
        function,
        dword: at(offset),
        lanes: Lanes::new(lanes).unwrap(),
        value,
        changed,
    };
    let taken = [
        // Interrupt Disable.
        taken(nic, 0x04, 0b0010, 0x0400, 0x0400),
        taken(nic, 0x00, 0b1111, !0, 0),
        taken(port, SLOT_CONTROL, 0b1111, 0x0400, 0x0400),
    ];
    assert_eq!(machine.config_writes()[before..], taken, "neither what is absent nor what has no power takes one");
}

/// The second function of the device in the slot.
const SECOND: &str = "02:00.1";

/// The device in the slot has two functions. The port sends payloads of 256 bytes.
fn machine_of_two() -> Machine {
    let function = |at| {
        Blueprint::endpoint(bdf(at))
            .capability(&Capability::Express(PortType::Endpoint))
            .capability(&Capability::PowerManagement)
            .extended(&ExtendedCapability::AdvancedErrorReporting)
    };
    let builder = Builder::new().root(0..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY, Builder::PORTS]);
    let other = Blueprint::port(bdf("00:01.0"), PortType::RootPort, 1..=1, windows(0xe000_0000));
    let functions = [port(0x0002).register(at(DEVICE_CONTROL), 0x2830), other, function(NIC), function(SECOND)];
    functions.into_iter().fold(builder, Builder::function).build().unwrap()
}

fn moved_to(at: &str) -> Vm {
    moved(machine_of_two(), &[(SECOND, at)])
}

/// A function of the hardware is sent more than it takes, which is fatal.
fn send_too_much_to(machine: &mut Machine, function: &str) {
    // Payloads of 128 bytes, Fatal Error Reporting Enable.
    write(machine, function, DEVICE_CONTROL, 0x2814);
    assert_eq!(machine.dma_read(bdf(function), 0x1000, 0x1000), Err(Undelivered::Malformed(bdf(function))));
}

/// It has an error like that, and wants to be woken.
fn signal(vm: &mut Vm, function: &str) {
    let machine = vm.machine_mut();
    send_too_much_to(machine, function);
    write(machine, function, PMCSR, 0x8100);
    let id = machine.original(bdf(function)).unwrap();
    assert!(machine.raise_pme(id));
}

#[test]
fn a_guest_reads_its_own_routing_ids_of_who_signalled() {
    for (function, named) in [(SECOND, 0x0203), (NIC, 0x0200)] {
        let mut vm = moved_to("02:00.3");
        signal(&mut vm, function);
        let machine = vm.machine_mut();
        let own = u32::from(bdf(function).routing_id());
        assert_eq!([ERROR_SOURCE, ROOT_STATUS].map(|at| read(machine, PORT, at)), [own << 16, 0x0001_0000 | own]);
        assert_eq!([ERROR_SOURCE, ROOT_STATUS].map(|at| vm.read(PORT, at)), [named << 16, 0x0001_0000 | named]);
        // By words and bytes.
        let mut part = |offset, width| vm.config_read(Guest(Access::at(bdf(PORT), offset, width).unwrap()));
        assert_eq!(part(ERROR_SOURCE + 2, Width::Word) >> 16, named);
        assert_eq!(
            [part(ROOT_STATUS, Width::Byte) & 0xff, part(ROOT_STATUS + 1, Width::Byte) >> 8 & 0xff],
            [named & 0xff, 2]
        );
    }
}

#[test]
fn a_port_that_is_left_names_the_function_where_it_went() {
    for (function, named) in [(SECOND, 0x0108), (NIC, 0x0200)] {
        let mut vm = moved_to("01:01.0");
        signal(&mut vm, function);
        assert_eq!([ERROR_SOURCE, ROOT_STATUS].map(|at| vm.read(PORT, at)), [named << 16, 0x0001_0000 | named]);
    }
}

#[test]
fn a_guest_reads_its_own_routing_ids_of_what_was_contained() {
    let mut vm = moved_to("02:00.3");
    let machine = vm.machine_mut();
    write(machine, PORT, DPC_CONTROL, 0x0001_0000);
    send_too_much_to(machine, SECOND);
    assert_eq!(read(machine, PORT, DPC_STATUS), 0x0201_000d);
    assert_eq!(vm.read(PORT, DPC_STATUS), 0x0203_000d);
    let status = Access::at(bdf(PORT), DPC_STATUS, Width::Word).unwrap();
    assert_eq!(vm.config_read(Guest(status)) & 0xffff, 0x000d);
}

#[test]
fn who_the_guest_does_not_find_is_not_named() {
    let mut machine = machine_of_two();
    let plan = Plan::new(scan(&mut machine)).hide(host(SECOND)).unwrap();
    let mut vm = Vm::start(machine, &plan).unwrap();
    signal(&mut vm, SECOND);
    assert_eq!([ERROR_SOURCE, ROOT_STATUS].map(|at| vm.read(PORT, at)), [0, 0x0001_0000]);
}

#[test]
fn who_signalled_is_named_by_the_bus_numbers_the_guest_gave() {
    let mut machine = machine_of_two();
    let plan = Plan::new(scan(&mut machine)).relocate(host(SECOND), guest("02:00.3")).unwrap();
    let mut vm = Vm::start(machine, &plan.bus_numbers(BusNumbers::Virtual)).unwrap();
    vm.write(PORT, 0x18, 0x0005_0500);
    signal(&mut vm, SECOND);
    assert_eq!([ERROR_SOURCE, ROOT_STATUS].map(|at| vm.read(PORT, at)), [0x0503_0000, 0x0001_0503]);
    let sources = Host(Access::whole(bdf(PORT), at(ERROR_SOURCE)));
    assert_eq!(vm.remapper().requesters(sources, !0), !0, "a port that does not answer names nobody");
}

#[test]
fn an_event_collector_names_integrated_functions_as_the_guest_finds_them() {
    const COLLECTOR: &str = "00:1e.0";
    const INTEGRATED: &str = "00:05.0";
    let function = |at, kind| {
        Blueprint::endpoint(bdf(at))
            .capability(&Capability::Express(kind))
            .capability(&Capability::PowerManagement)
            .extended(&ExtendedCapability::AdvancedErrorReporting)
    };
    let builder = Builder::new().root(0..=0xff, &[Builder::LOW_MEMORY]);
    let collector = function(COLLECTOR, PortType::RootComplexEventCollector);
    let integrated = function(INTEGRATED, PortType::RootComplexIntegratedEndpoint);
    let mut vm = moved(builder.function(collector).function(integrated).build().unwrap(), &[(INTEGRATED, "00:06.0")]);
    signal(&mut vm, INTEGRATED);
    assert_eq!([ERROR_SOURCE, ROOT_STATUS].map(|at| vm.read(COLLECTOR, at)), [0x0030_0000, 0x0001_0030]);
}
