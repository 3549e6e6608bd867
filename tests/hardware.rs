//! The simulated hardware fails as real hardware does: power states, links, resets, payload sizes, interrupts.

mod support;

use pci_remap::Dword;
use pci_remap::sim::machine::{
    Blueprint, Builder, Capability, Disagreement, ExtendedCapability, Fault, LinkState, Machine, Undelivered, Wake,
};
use pci_remap::spec::express::PortType;
use support::{MEMORY, bdf, read, wait, write};

const PORT: &str = "00:01.1";
const NIC: &str = "02:00.0";
const BAR: u64 = 0xe100_0000;
/// Where ports and the NIC have PCI Express, and Power Management and MSI.
const EXPRESS: u16 = 0x40;
const POWER: u16 = 0x7c;
const MSI: u16 = 0x84;

fn machine() -> Machine {
    let nic = Blueprint::endpoint(bdf(NIC))
        .bar(0, MEMORY, 0x2_0000, BAR)
        .capability(&Capability::Express(PortType::Endpoint))
        .capability(&Capability::PowerManagement)
        .capability(&Capability::Msi)
        .extended(&ExtendedCapability::AdvancedErrorReporting);
    let mut machine = support::machine([nic]);
    for function in [PORT, NIC] {
        assert_eq!([EXPRESS, POWER, MSI].map(|at| read(&mut machine, function, at) & 0xff), [0x10, 0x01, 0x05]);
    }
    machine
}

fn answers(machine: &mut Machine) -> bool {
    machine.memory_read(BAR, 4) != 0xffff_ffff
}

fn link(machine: &Machine) -> LinkState {
    machine.link(machine.original(bdf(PORT)).unwrap()).unwrap()
}

#[test]
fn a_port_in_d3hot_forwards_nothing() {
    let mut machine = machine();
    write(&mut machine, PORT, POWER + 4, 3);
    assert_eq!((read(&mut machine, NIC, 0), answers(&mut machine)), (0xffff_ffff, false));
    assert_eq!(machine.dma_write(bdf(NIC), 0x1000, 64), Err(Undelivered::Asleep(bdf(PORT))));
    assert_eq!(read(&mut machine, PORT, 0), 0x1901_8086, "it answers for itself");
}

#[test]
fn a_function_forgets_on_its_way_from_d3hot_and_takes_ten_milliseconds() {
    let mut machine = machine();
    write(&mut machine, NIC, POWER + 4, 3);
    assert_eq!((read(&mut machine, NIC, 0x10), answers(&mut machine)), (0xe100_0000, false));
    write(&mut machine, NIC, POWER + 4, 0);
    assert_eq!(read(&mut machine, NIC, 0x10), 0xffff_ffff);
    wait(&mut machine, 10);
    let left = [0x04, 0x10, EXPRESS + 8].map(|offset| read(&mut machine, NIC, offset) & 0xffff);
    assert_eq!(left, [0, 0, 0x2810]);
}

/// A register of a function nobody may reach now.
fn kept(machine: &Machine, function: &str, offset: u16) -> u32 {
    machine.peek(machine.original(bdf(function)).unwrap(), Dword::at(offset).unwrap())
}

#[test]
fn a_port_forgets_on_its_way_from_d3hot_and_what_is_behind_its_link_does_not() {
    let mut machine = machine();
    write(&mut machine, PORT, POWER + 4, 3);
    write(&mut machine, PORT, POWER + 4, 0);
    wait(&mut machine, 10);
    assert_eq!([0x04, 0x18, 0x20].map(|offset| read(&mut machine, PORT, offset) & 0xffff), [0; 3]);
    assert_eq!((link(&machine), kept(&machine, NIC, 0x10)), (LinkState::Active, 0xe100_0000));
}

#[test]
fn a_port_that_kept_its_link_down_trains_it_on_its_way_from_d3hot() {
    for (offset, bits) in [(EXPRESS + 16, 0x0010), (0x3c, 0x0040_0000)] {
        let mut machine = machine();
        write(&mut machine, PORT, offset, bits);
        assert_eq!(link(&machine), LinkState::Down);
        write(&mut machine, PORT, POWER + 4, 3);
        write(&mut machine, PORT, POWER + 4, 0);
        assert_eq!(link(&machine), LinkState::Training, "{offset:#x}");
    }
}

#[test]
fn a_bridge_resets_the_bus_behind_it_on_its_way_from_d3hot() {
    let card = Blueprint::endpoint(bdf("03:04.0")).bar(0, MEMORY, 0x1000, BAR);
    let bridge = Blueprint::port(bdf(NIC), PortType::PciExpressToPciBridge, 3..=3, support::windows(0xe100_0000));
    let port = Blueprint::port(bdf(PORT), PortType::RootPort, 2..=3, support::windows(0xe100_0000));
    let builder = Builder::new().root(0..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY]);
    let mut machine = builder.function(port).function(bridge).function(card).build().unwrap();
    write(&mut machine, NIC, POWER + 4, 3);
    assert_eq!(kept(&machine, "03:04.0", 0x10), 0xe100_0000);
    write(&mut machine, NIC, POWER + 4, 0);
    assert_eq!(kept(&machine, "03:04.0", 0x10), 0);
}

#[test]
fn a_function_level_reset_takes_a_hundred_milliseconds_in_which_writes_are_lost() {
    let mut machine = machine();
    write(&mut machine, NIC, EXPRESS + 8, 0x8000);
    write(&mut machine, NIC, 0x10, 0xe100_0000);
    assert_eq!(read(&mut machine, NIC, 0x10), 0xffff_ffff);
    wait(&mut machine, 99);
    assert_eq!(read(&mut machine, NIC, 0), 0xffff_ffff);
    wait(&mut machine, 1);
    assert_eq!([0, 0x10].map(|offset| read(&mut machine, NIC, offset)), [0x1572_8086, 0]);
}

#[test]
fn a_disabled_link_resets_what_is_behind_and_trains_again() {
    let mut machine = machine();
    write(&mut machine, PORT, EXPRESS + 16, 0x50);
    assert_eq!((link(&machine), read(&mut machine, NIC, 0)), (LinkState::Down, 0xffff_ffff));
    assert_eq!(read(&mut machine, PORT, EXPRESS + 16) >> 29 & 1, 0, "Data Link Layer Link Active");
    assert_eq!(machine.faults(), [Fault::LinkDown { port: bdf(PORT) }]);
    write(&mut machine, PORT, EXPRESS + 16, 0x40);
    assert_eq!(read(&mut machine, PORT, EXPRESS + 16) >> 27 & 1, 1, "Link Training");
    wait(&mut machine, 20);
    assert_eq!((link(&machine), read(&mut machine, NIC, 0)), (LinkState::Active, 0xffff_ffff));
    wait(&mut machine, 80);
    assert_eq!([0, 0x10].map(|offset| read(&mut machine, NIC, offset)), [0x1572_8086, 0]);
}

#[test]
fn a_retrained_link_has_the_target_speed_at_both_ends() {
    let mut machine = machine();
    write(&mut machine, PORT, EXPRESS + 48, 1);
    write(&mut machine, PORT, EXPRESS + 16, 0x60);
    assert!(answers(&mut machine), "it stays up");
    wait(&mut machine, 1);
    let speeds = [PORT, NIC].map(|function| read(&mut machine, function, EXPRESS + 16) >> 16 & 0xf);
    assert_eq!(speeds, [1, 1]);
    assert_eq!(read(&mut machine, PORT, EXPRESS + 16) >> 30 & 1, 1, "Link Bandwidth Management Status");
}

#[test]
fn ends_of_a_link_that_disagree_are_a_fault_once() {
    let mut machine = machine();
    write(&mut machine, PORT, EXPRESS + 16, 0);
    wait(&mut machine, 1);
    wait(&mut machine, 1);
    assert_eq!(machine.faults(), [Fault::Disagreement { port: bdf(PORT), what: Disagreement::COMMON_CLOCK }]);
}

#[test]
fn a_secondary_bus_reset_lasts_until_it_is_cleared() {
    let mut machine = machine();
    write(&mut machine, PORT, 0x3c, 0x0040_0000);
    wait(&mut machine, 1000);
    assert_eq!(read(&mut machine, NIC, 0), 0xffff_ffff);
    write(&mut machine, PORT, 0x3c, 0);
    wait(&mut machine, 100);
    assert_eq!([0, 0x10].map(|offset| read(&mut machine, NIC, offset)), [0x1572_8086, 0]);
}

#[test]
fn more_payload_than_the_port_takes_is_a_fatal_error_with_its_source() {
    let mut machine = machine();
    assert!(machine.dma_write(bdf(NIC), 0x1000, 0x1000).is_ok());
    // Max_Payload_Size of 256 bytes at one end.
    write(&mut machine, NIC, EXPRESS + 8, 0x2830);
    assert_eq!(machine.dma_write(bdf(NIC), 0x1000, 0x1000), Err(Undelivered::Malformed(bdf(PORT))));
    let fault = Fault::MalformedTlp { receiver: bdf(PORT), requester: bdf(NIC), payload: 256, limit: 128 };
    assert_eq!(machine.faults(), [fault]);
    assert_eq!(read(&mut machine, PORT, EXPRESS + 8) >> 18 & 1, 1, "Fatal Error Detected");
}

#[test]
fn messages_carry_the_requester_id_and_need_every_bus_master_enable() {
    let mut machine = machine();
    assert_eq!(machine.raise_msi(bdf(NIC), 0), Err(Undelivered::Masked));
    write(&mut machine, NIC, MSI + 4, 0xfee0_0000);
    write(&mut machine, NIC, MSI + 12, 0x41);
    write(&mut machine, NIC, MSI, 0x0001_0000);
    let signaled = machine.raise_msi(bdf(NIC), 0).unwrap();
    assert_eq!((signaled.requester, signaled.message.address, signaled.message.data), (bdf(NIC), 0xfee0_0000, 0x41));
    assert_eq!(machine.msi_log(), [signaled]);
    write(&mut machine, PORT, 0x04, 0x0003);
    assert_eq!(machine.raise_msi(bdf(NIC), 0), Err(Undelivered::NotMaster(bdf(PORT))));
}

#[test]
fn a_sleep_without_power_leaves_what_firmware_sets_up() {
    for (wake, bus_numbers, bar) in
        [(Wake::Everything, 0x0002_0200, 0xe100_0000), (Wake::Bridges, 0x0002_0200, 0), (Wake::Nothing, 0, 0xffff_ffff)]
    {
        let mut machine = machine();
        write(&mut machine, NIC, MSI, 0x0001_0000);
        machine.set_wake(wake);
        machine.suspend_to_ram();
        assert_eq!(read(&mut machine, PORT, 0x18) & 0xff_ff00, bus_numbers, "{wake:?}");
        assert_eq!(read(&mut machine, NIC, 0x10), bar, "{wake:?}");
        let nic = machine.original(bdf(NIC)).unwrap();
        assert_eq!(machine.peek(nic, Dword::at(MSI).unwrap()) >> 16 & 1, 0, "{wake:?}");
    }
}

#[test]
fn without_slot_power_nothing_answers_and_nothing_is_kept() {
    let mut machine = machine();
    let port = machine.original(bdf(PORT)).unwrap();
    machine.set_slot_power(port, false);
    assert_eq!((link(&machine), read(&mut machine, NIC, POWER + 4)), (LinkState::Down, 0xffff_ffff));
    machine.set_slot_power(port, true);
    wait(&mut machine, 100);
    assert_eq!([0, 0x10].map(|offset| read(&mut machine, NIC, offset)), [0x1572_8086, 0]);
}
