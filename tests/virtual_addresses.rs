//! Addresses that are the guest's alone, also those of functions and bridges that stay (`BaseAddresses::Virtual`).

mod support;

use core::time::Duration;

use pci_remap::plan::{BaseAddresses, Cause};
use pci_remap::sim::guest::Kind;
use pci_remap::sim::guest::life::{Life, Step};
use pci_remap::sim::machine::{Blueprint, Capability, ExtendedCapability, Machine, VfBar, signature};
use pci_remap::sim::platform::Platform;
use pci_remap::sim::vm::Vm;
use pci_remap::spec::bar::BarKind;
use pci_remap::spec::express::PortType;
use pci_remap::{Backing, Guest, Host, MapOp, Plan, Space, Width};
use support::*;

const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
const MEMORY_WINDOW: u16 = 0x20;
/// What stays beside the NIC's old port, and a bridge.
const CARD: &str = "03:00.0";
const PORT: &str = "00:02.0";
/// Where this card has its PCI Express Capability.
const DEVICE_CONTROL: u16 = 0x48;

fn card() -> Blueprint {
    Blueprint::endpoint(bdf(CARD))
        .bar(0, MEMORY, 0x1_0000, 0xe200_0000)
        .bar(1, MEMORY, 0x100, 0xe201_0100)
        .capability(&Capability::Express(PortType::Endpoint))
}

fn with(card: Blueprint) -> Machine {
    let port =
        Blueprint::port(bdf(PORT), PortType::RootPort, 3..=3, windows(0xe200_0000)).bar(0, MEMORY, 0x1000, 0xe400_0000);
    machine([nic("02:00.0"), port, card])
}

/// The talk, with virtual addresses.
fn start(mut machine: Machine) -> Vm {
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest("01:01.0")).unwrap();
    Vm::start(machine, &plan.base_addresses(BaseAddresses::Virtual)).unwrap()
}

fn map(at: u64, to: u64, len: u64, backing: Backing) -> MapOp {
    MapOp::Map {
        guest: Guest(span(at, len)),
        host: Host(span(to, len)),
        space: Space::Memory,
        backing,
        prefetchable: false,
    }
}

fn unmap(at: u64, len: u64) -> MapOp {
    MapOp::Unmap { guest: Guest(span(at, len)), space: Space::Memory }
}

#[test]
fn what_stays_is_at_first_where_firmware_put_it() {
    let mut vm = start(with(card()));
    assert_eq!([BAR0, 0x14, 0x18].map(|at| vm.read(CARD, at)), [0xe200_0000, 0xe201_0100, 0]);
    assert_eq!(vm.read(CARD, COMMAND), read(&mut vm.machine().clone(), CARD, COMMAND));
    assert_eq!(vm.memory_read(0xe200_0000, Width::Dword), signature(0, bdf(CARD), 0, 0));
    assert_eq!(vm.memory_read(0xe201_0100, Width::Dword), signature(0, bdf(CARD), 1, 0));
}

#[test]
fn a_function_that_stays_is_placed_elsewhere_and_hardware_is_not() {
    let mut vm = start(with(card()));
    let moved = [unmap(0xe200_0000, 0x1_0000), map(0xe210_0000, 0xe200_0000, 0x1_0000, Backing::Direct)];
    assert_eq!(vm.write(CARD, BAR0, 0xe210_0000), moved);
    assert_eq!(vm.read(CARD, BAR0), 0xe210_0000);
    assert_eq!(read(&mut vm.machine().clone(), CARD, BAR0), 0xe200_0000);
    assert_eq!(vm.memory_read(0xe210_0000, Width::Dword), signature(0, bdf(CARD), 0, 0));
    assert_eq!(vm.memory_read(0xe200_0000, Width::Dword), !0);
}

#[test]
fn a_bar_below_a_page_keeps_its_size_and_is_trapped() {
    let mut vm = start(with(card()));
    assert_eq!(vm.write(CARD, 0x14, !0), [unmap(0xe201_0100, 0x100)]);
    assert_eq!(vm.read(CARD, 0x14), 0xffff_ff00);
    assert_eq!(vm.write(CARD, 0x14, 0xe210_0300), [map(0xe210_0300, 0xe201_0100, 0x100, Backing::Trapped)]);
    assert_eq!(vm.memory_read(0xe210_0304, Width::Dword), signature(0, bdf(CARD), 1, 4));
}

#[test]
fn the_decode_enables_of_what_stays_are_the_guests_in_hardware_too() {
    let mut vm = start(with(card()));
    vm.write_word(CARD, COMMAND, 0);
    assert_eq!(read(&mut vm.machine().clone(), CARD, COMMAND) & 0xffff, 0);
    assert_eq!(vm.memory_read(0xe200_0000, Width::Dword), !0);
    vm.write_word(CARD, COMMAND, 0x6);
    assert_eq!(read(&mut vm.machine().clone(), CARD, COMMAND) & 0xffff, 0x6);
    assert_eq!(vm.memory_read(0xe200_0000, Width::Dword), signature(0, bdf(CARD), 0, 0));
}

#[test]
fn ports_of_what_stays_follow_io_space_enable() {
    let card = Blueprint::endpoint(bdf("00:05.0")).bar(0, BarKind::Io, 0x20, 0x4000);
    let mut vm = start(machine([nic("02:00.0"), card]));
    let is_there = |vm: &mut Vm| vm.port_read(0x4000, Width::Dword) == signature(0, bdf("00:05.0"), 0, 0);
    assert!(is_there(&mut vm));
    vm.write_word("00:05.0", COMMAND, 0);
    assert_eq!((is_there(&mut vm), read(&mut vm.machine().clone(), "00:05.0", COMMAND) & 1), (false, 0));
    vm.write_word("00:05.0", COMMAND, 1);
    assert_eq!((is_there(&mut vm), read(&mut vm.machine().clone(), "00:05.0", COMMAND) & 1), (true, 1));
}

#[test]
fn windows_of_bridges_stay_in_hardware_and_so_do_their_own_bars() {
    let mut vm = start(with(card()));
    vm.write(PORT, MEMORY_WINDOW, 0xe330_e330);
    vm.write(PORT, BAR0, 0xe340_0000);
    assert_eq!([MEMORY_WINDOW, BAR0].map(|at| vm.read(PORT, at)), [0xe330_e330, 0xe340_0000]);
    let mut hardware = vm.machine().clone();
    assert_eq!([MEMORY_WINDOW, BAR0].map(|at| read(&mut hardware, PORT, at)), [0xe2f0_e200, 0xe400_0000]);
    assert_eq!(vm.memory_read(0xe340_0000, Width::Dword), signature(0, bdf(PORT), 0, 0));
}

#[test]
fn the_own_bar_of_a_port_with_siblings_left_decodes_while_the_guest_lets_it() {
    let port =
        Blueprint::port(bdf(PORT), PortType::RootPort, 3..=3, windows(0xe200_0000)).bar(0, MEMORY, 0x1000, 0xe400_0000);
    let second = Blueprint::endpoint(bdf("03:00.1")).bar(0, MEMORY, 0x1000, 0xe202_0000);
    let mut machine = machine([nic("02:00.0"), port, card().multi_function(), second]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("03:00.1"), guest("01:01.0")).unwrap();
    let mut vm = Vm::start(machine, &plan.base_addresses(BaseAddresses::Virtual)).unwrap();
    assert_eq!(vm.write_word(PORT, COMMAND, 0), [unmap(0xe400_0000, 0x1000)]);
    assert_eq!(vm.write(PORT, BAR0, 0xe340_0000), []);
    assert_eq!(vm.write_word(PORT, COMMAND, 0x6), [map(0xe340_0000, 0xe400_0000, 0x1000, Backing::Direct)]);
    assert_eq!(read(&mut vm.machine().clone(), PORT, COMMAND) & 0x7, 0x7, "it forwards all the time");
    assert_eq!(vm.memory_read(0xe340_0000, Width::Dword), signature(0, bdf(PORT), 0, 0));
}

#[test]
fn what_stays_survives_its_reset() {
    let mut vm = start(with(card()));
    vm.write(CARD, BAR0, 0xe210_0000);
    let control = vm.read(CARD, DEVICE_CONTROL) & 0xffff;
    vm.write_word(CARD, DEVICE_CONTROL, control | 0x8000);
    vm.elapse(Duration::from_millis(100));
    assert_eq!([BAR0, COMMAND].map(|at| vm.read(CARD, at) & 0xffff), [0, 0]);
    assert_eq!(read(&mut vm.machine().clone(), CARD, BAR0), 0);
    vm.write(CARD, BAR0, 0xe220_0000);
    assert_eq!(read(&mut vm.machine().clone(), CARD, BAR0), 0xe200_0000);
    vm.write_word(CARD, COMMAND, 0x6);
    assert_eq!(vm.memory_read(0xe220_0000, Width::Dword), signature(0, bdf(CARD), 0, 0));
}

#[test]
fn what_a_sleep_without_power_takes_comes_back() {
    let mut vm = start(with(card()));
    vm.write(CARD, BAR0, 0xe210_0000);
    vm.suspend_to_ram();
    let mut hardware = vm.machine().clone();
    assert_eq!([MEMORY_WINDOW, BAR0].map(|at| read(&mut hardware, PORT, at)), [0xe2f0_e200, 0xe400_0000]);
}

#[test]
fn what_has_no_address_is_not_shown_and_virtual_functions_nobody_knows_neither() {
    let sriov = ExtendedCapability::SrIov { total: 8, offset: 16, stride: 1, bars: Vec::new() };
    let card = card().bar(2, BarKind::Memory32 { prefetchable: false }, 0x1000, 0).extended(&sriov);
    let mut machine = with(card);
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest("01:01.0")).unwrap();
    let plan = plan.base_addresses(BaseAddresses::Virtual);
    let of_card = plan.findings().filter(|finding| finding.function == host(CARD)).map(|finding| finding.cause);
    assert_eq!(of_card.collect::<Vec<_>>(), [Cause::BarUnassigned(2), Cause::SrIovHidden(8)]);
    let mut vm = Vm::start(machine, &plan).unwrap();
    vm.write(CARD, 0x18, !0);
    assert_eq!([0x18, 0x100].map(|at| vm.read(CARD, at)), [0, 0]);
}

/// The card with eight Virtual Functions.
fn card_with_virtual_functions() -> Blueprint {
    let bars = vec![(0, VfBar { kind: MEMORY_64, size: VF_SIZE, address: 0x10_0210_0000 })];
    let sriov = ExtendedCapability::SrIov { total: 8, offset: 0x80, stride: 2, bars };
    card().extended(&ExtendedCapability::Ari { next: 0 }).extended(&sriov)
}

#[test]
fn virtual_functions_of_what_stays_are_where_they_were_and_their_memory_where_the_guest_puts_it() {
    const SRIOV: u16 = 0x108;
    let mut vm = start(with(card_with_virtual_functions()));
    assert_eq!([0x14, 0x24, 0x28].map(|at| vm.read(CARD, SRIOV + at)), [0x0002_0080, 0x0210_000c, 0x10]);
    vm.write_word(CARD, SRIOV + 0x10, 2);
    let [placed, anew] = [0x10_0210_0000, 0x10_0240_0000].map(|at| MapOp::Map {
        guest: Guest(span(at, 2 * VF_SIZE)),
        host: Host(span(0x10_0210_0000, 2 * VF_SIZE)),
        space: Space::Memory,
        backing: Backing::Direct,
        prefetchable: true,
    });
    assert_eq!(vm.write_word(CARD, SRIOV + 0x08, 0x9), [placed]);
    assert_eq!(vm.remapper().to_host(guest("03:10.2")), Some(Some(host("03:10.2"))));
    assert_eq!(["03:10.2", "03:10.4"].map(|function| vm.read(function, 0x08) != !0), [true, false]);
    assert_eq!(vm.write(CARD, SRIOV + 0x24, 0x0240_0000), [unmap(0x10_0210_0000, 2 * VF_SIZE), anew]);
    assert_eq!(read(&mut vm.machine().clone(), CARD, SRIOV + 0x24), 0x0210_000c);
}

#[test]
fn linux_places_everything_anew_and_enables_virtual_functions_of_what_stays() {
    for kind in [Kind::Linux61, Kind::Linux615] {
        let mut vm = start(with(card_with_virtual_functions()));
        let mut life = Life::start(kind, &mut vm, &[bdf("01:01.0"), bdf(CARD)]).unwrap();
        for step in [Step::BindPorts, Step::BindDrivers, Step::RemoveEverything] {
            life.run(step);
        }
        assert_eq!(life.set_virtual_functions(bdf(CARD), 8).len(), 8, "{kind}");
        life.run(Step::Rebind);
        assert_eq!(life.finish().failures, [], "{kind}");
    }
}

#[test]
fn a_first_function_whose_sibling_left_shows_neither_its_chain_nor_virtual_functions() {
    let sriov = ExtendedCapability::SrIov { total: 8, offset: 16, stride: 1, bars: Vec::new() };
    let first = card().extended(&ExtendedCapability::AdvancedErrorReporting);
    let first =
        first.extended(&ExtendedCapability::Ari { next: 1 }).extended(&sriov).extended(&ExtendedCapability::Ats);
    let second = Blueprint::endpoint(bdf("03:00.1")).bar(0, MEMORY, 0x1000, 0xe202_0000);
    let port = Blueprint::port(bdf(PORT), PortType::RootPort, 3..=3, windows(0xe200_0000));
    let mut machine = machine([nic("02:00.0"), port, first, second]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("03:00.1"), guest("01:01.0")).unwrap();
    let mut vm = Vm::start(machine, &plan.base_addresses(BaseAddresses::Virtual)).unwrap();
    let entries = core::iter::successors(Some(vm.read(CARD, 0x100)), |entry| {
        let next = u16::try_from(entry >> 20).unwrap();
        (next != 0).then(|| vm.read(CARD, next))
    });
    assert_eq!(entries.map(|entry| entry & 0xffff).collect::<Vec<_>>(), [0x0001, 0x000f]);
}

/// Where the port the NIC left forwards something else in the guest's view, which is what goes wrong otherwise.
#[test]
fn linux_that_places_everything_anew_finds_all_at_work() {
    for kind in [Kind::Linux61, Kind::Linux615] {
        let mut vm = start(with(card()));
        let mut life = Life::start(kind, &mut vm, &["01:00.0", "01:01.0", CARD].map(bdf)).unwrap();
        life.run_all();
        assert_eq!(life.finish().failures, []);
        let mut hardware = vm.machine().clone();
        assert_eq!(
            [(CARD, BAR0), ("02:00.0", BAR0)].map(|(of, at)| read(&mut hardware, of, at)),
            [0xe200_0000, 0xe100_0000]
        );
    }
}
