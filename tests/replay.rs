//! Resets: what the guest finds, and what brings hardware back.
//!
//! Each rule is tested by what is gone when it is removed.
//!
//! | rule (in `src/remapper`) | test |
//! |---|---|
//! | `replay.rs` `watch_power`: Function Level Reset | [`the_function_survives_a_function_level_reset`] |
//! | `replay.rs` `watch_power`: Advanced Features | [`the_function_survives_a_reset_by_advanced_features`] |
//! | `replay.rs` `watch_power`: power states | [`the_function_survives_the_way_back_from_d3hot`], [`windows_are_there_in_d0_only`] |
//! | `replay.rs` `writes`: a function that is not ready | [`a_guest_that_writes_too_early_loses_nothing_but_its_write`], [`nothing_is_brought_back_while_the_bus_is_held_in_reset`] |
//! | `replay.rs` `writes`: a function that was not reset | [`what_slept_through_the_end_of_no_containment_is_reset_when_it_wakes`], [`what_slept_through_the_end_of_no_containment_and_keeps_its_registers_has_its_window_in_d0`], [`a_way_back_from_d3hot_that_is_lost_may_be_tried_again`] |
//! | `replay.rs` `forgetful`: a write of PowerState | [`a_state_that_is_left_with_the_first_write_is_left`] |
//! | `replay.rs` `replay`: what the guest switched on | [`a_rom_the_guest_enabled_too_early_decodes_once_the_function_answers`] |
//! | `replay.rs` `write_after_reset` | [`a_second_reset_in_a_row_is_not_preceded_by_what_it_takes_away`] |
//! | `replay.rs` `note_reset`, `note_resume` | [`the_function_survives_a_reset_by_the_host`], [`after_a_sleep_without_power_the_way_comes_back_before_the_function`] |
//! | `bus_reset.rs` `watch_bus`: Secondary Bus Reset | [`a_function_that_moved_on_its_bus_survives_a_reset_of_the_bus`] |
//! | `bus_reset.rs` `watch_bus`: Link Disable, Power Controller Control | [`a_function_that_moved_on_its_bus_survives_that_its_link_is_disabled`], [`a_function_that_moved_on_its_bus_survives_that_its_slot_is_switched_off`] |
//! | `bus_reset.rs` `watch_bus`: DPC Software Trigger | [`a_function_that_moved_on_its_bus_survives_that_software_triggers_containment`] |
//! | `bus_reset.rs` `is_bus_reset`: containment that is off | [`containment_that_is_off_is_not_triggered`] |
//! | `bus_reset.rs` `watch_bus`: without a Power Controller, without Software Triggering | [`a_port_switches_off_and_contains_only_what_it_can`] |
//! | `bus_reset.rs` `watch_bus`: DPC Trigger Status | [`a_function_that_moved_on_its_bus_survives_an_error_that_is_contained`] |
//! | `bus_reset.rs` `watch_bus`: a bridge to a bus without links wakes | [`a_function_that_moved_on_its_bus_survives_that_the_bridge_to_it_wakes`] |
//! | `bus_reset.rs` `watch_bus`: a bridge with virtual bus numbers wakes | [`a_port_that_wakes_has_its_bus_numbers_again_where_the_guests_are_its_own`] |
//! | `bus_reset.rs` `BusReset::of`, `ports.rs` `has_moved_behind`: all buses behind the bridge | [`a_function_that_moved_on_its_bus_survives_a_reset_further_up`] |
//! | `bus_reset.rs` `is_waited_for`: what shows as an Upstream Port | [`the_end_of_a_reset_the_guest_does_not_wait_for_is_waited_for`]; `linux_life.rs`: `a_function_survives_a_reset_of_its_bus_whatever_the_port_shows_as` |
//! | `build.rs` `add_ports`: ports that show as they are | [`a_function_that_moved_on_its_bus_survives_a_reset_also_where_another_came`] |

mod support;

use core::time::Duration;

use pci_remap::plan::{BusNumbers, Way};
use pci_remap::sim::machine::{Blueprint, Builder, Capability, ExtendedCapability, ROM, Undelivered, Wake, signature};
use pci_remap::sim::platform::Platform;
use pci_remap::sim::vm::{MadeWrite, Vm};
use pci_remap::spec::express::PortType;
use pci_remap::{Access, Bdf, Dword, Guest, Host, MapOp, Plan, Remapper, Space, Width, WriteDecision};
use support::*;

const NIC: &str = "01:01.0";
const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
const ROM_BAR: u16 = 0x30;
/// Where this NIC has its capabilities.
const POWER: u16 = 0x40;
const EXPRESS: u16 = 0x48;
const FEATURES: u16 = 0x84;

/// A NIC with all ways to be reset, at work.
fn nic_at_work() -> Vm {
    let nic = Blueprint::endpoint(bdf("02:00.0"))
        .bar(0, MEMORY, 0x2_0000, 0xe100_0000)
        .bar(2, MEMORY_64, 0x8000, 0x10_0100_0000)
        .rom(0x1_0000, 0xe104_0000)
        .capability(&Capability::PowerManagement)
        .capability(&Capability::Express(PortType::Endpoint))
        .capability(&Capability::AdvancedFeatures);
    let mut vm = moved(machine([nic]), &[("02:00.0", NIC)]);
    assert_eq!([POWER, EXPRESS, FEATURES].map(|at| vm.read(NIC, at) & 0xff), [0x01, 0x10, 0x13]);
    bring_up(&mut vm);
    vm
}

/// What a guest does when it sets up the function, or restores it.
fn bring_up(vm: &mut Vm) -> Vec<MapOp> {
    vm.write(NIC, BAR0, 0xe010_0000);
    vm.write(NIC, 0x18, 0x0010_0000);
    vm.write(NIC, 0x1c, 0x10);
    vm.write_word(NIC, COMMAND, 0x0006)
}

fn is_mapped(vm: &mut Vm) -> bool {
    vm.memory_read(0xe010_0000, Width::Dword) == signature(0, bdf("02:00.0"), 0, 0)
}

/// Longer than any reset takes.
fn wait(vm: &mut Vm) {
    vm.elapse(Duration::from_millis(100));
}

fn replayed(vm: &Vm) -> Vec<String> {
    vm.replayed_writes().iter().map(|MadeWrite { to, value }| format!("{to} <- {value:x}")).collect()
}

const REPLAY: [&str; 9] = [
    "02:00.0 10h <- e1000000",
    "02:00.0 18h <- 100000c",
    "02:00.0 1Ch <- 10",
    "02:00.0 30h <- e1040000",
    "02:00.0 50h lanes 0011 <- 2810",
    "02:00.0 58h lanes 0011 <- 40",
    "02:00.0 78h lanes 0011 <- 3",
    "02:00.0 70h lanes 0011 <- 0",
    "02:00.0 04h lanes 0011 <- 2",
];

fn unmaps() -> [MapOp; 2] {
    [(0xe010_0000, 0x2_0000), (0x10_0010_0000, 0x8000)]
        .map(|(at, len)| MapOp::Unmap { guest: Guest(span(at, len)), space: Space::Memory })
}

/// The guest resets the function by `reset`, waits, and restores it.
fn survives(reset: impl Fn(&mut Vm) -> Vec<MapOp>) {
    let mut vm = nic_at_work();
    assert_eq!(reset(&mut vm), unmaps(), "the windows go away");
    wait(&mut vm);
    assert_eq!(vm.read(NIC, BAR0), 0, "the guest finds what a reset leaves");
    assert_eq!(vm.read(NIC, COMMAND) & 0x7, 0);
    assert_eq!(replayed(&vm), [""; 0], "nothing is written before the guest writes");

    assert_eq!(bring_up(&mut vm).len(), 2, "the windows come back");
    assert_eq!(replayed(&vm), REPLAY, "once, and in this order");
    assert!(is_mapped(&mut vm));
    let nic = vm.machine().original(bdf("02:00.0")).unwrap();
    assert_eq!(vm.machine().peek(nic, Dword::at(COMMAND).unwrap()) & 0xffff, 0x0006);
}

#[test]
fn the_function_survives_a_function_level_reset() {
    survives(|vm| vm.write_word(NIC, EXPRESS + 8, 0x8000));
}

#[test]
fn the_function_survives_a_reset_by_advanced_features() {
    survives(|vm| vm.write(NIC, FEATURES + 4, 0x0000_0001));
}

#[test]
fn the_function_survives_the_way_back_from_d3hot() {
    survives(|vm| {
        let asleep = vm.write_word(NIC, POWER + 4, 3);
        assert_eq!(vm.write_word(NIC, POWER + 4, 0), []);
        asleep
    });
}

#[test]
fn the_function_survives_a_reset_by_the_host() {
    survives(|vm| {
        let nic = vm.machine().original(bdf("02:00.0")).unwrap();
        vm.machine_mut().reset_function(nic);
        vm.note_reset(host("02:00.0"));
        assert_eq!(vm.second_stage().mappings(), []);
        unmaps().into()
    });
}

#[test]
fn windows_are_there_in_d0_only() {
    let mut vm = nic_at_work();
    assert_eq!(vm.write_word(NIC, POWER + 4, 3), unmaps());
    assert_eq!(vm.write(NIC, BAR0, 0xe020_0000), []);
    assert_eq!(vm.write_word(NIC, COMMAND, 0x0006), []);
    assert!(!is_mapped(&mut vm));
}

#[test]
fn a_function_that_keeps_its_registers_in_d3hot_is_where_it_was_afterwards() {
    let mut machine = machine([nic("02:00.0")]);
    let nic = machine.original(bdf("02:00.0")).unwrap();
    machine.poke(nic, Dword::at(POWER + 4).unwrap(), 1 << 3);
    let mut vm = moved(machine, &[("02:00.0", NIC)]);
    bring_up(&mut vm);
    vm.write_word(NIC, POWER + 4, 3);
    assert_eq!(vm.write_word(NIC, POWER + 4, 0).len(), 2);
    assert!(is_mapped(&mut vm));
    vm.write_word(NIC, COMMAND, 0x0006);
    assert_eq!(replayed(&vm), [""; 0]);
}

#[test]
fn a_state_the_function_does_not_have_changes_nothing() {
    let mut vm = nic_at_work();
    assert_eq!(vm.write_word(NIC, POWER + 4, 1), []);
    assert!(is_mapped(&mut vm));
}

#[test]
fn a_reset_the_function_does_not_offer_is_none() {
    let mut machine = machine([nic("02:00.0")]);
    let nic = machine.original(bdf("02:00.0")).unwrap();
    let config = machine.function(nic).config();
    let express = (0x40..0x100).step_by(4).find(|at| config[usize::from(*at) / 4] & 0xff == 0x10).unwrap();
    machine.poke(nic, Dword::at(express + 4).unwrap(), 0x0000_8021);
    let mut vm = moved(machine, &[("02:00.0", NIC)]);
    bring_up(&mut vm);
    assert_eq!(vm.write_word(NIC, express + 8, 0x8000), []);
    assert!(is_mapped(&mut vm));
}

/// The Root Port above answers for functions that are not ready (Root Control, RRS Software Visibility Enable).
fn show_retries(vm: &mut Vm) {
    let port = vm.machine().original(bdf("00:01.1")).unwrap();
    vm.machine_mut().poke(port, Dword::at(0x5c).unwrap(), 0x0001_0010);
}

#[test]
fn a_function_that_is_not_ready_reads_as_hardware_does() {
    let mut vm = nic_at_work();
    vm.write_word(NIC, EXPRESS + 8, 0x8000);
    assert_eq!([0x00, COMMAND, 0x0c, POWER, POWER + 4].map(|offset| vm.read(NIC, offset)), [!0; 5]);
    let word = Access::at(bdf(NIC), COMMAND, Width::Word).unwrap();
    assert_eq!(vm.config_read(Guest(word)) & 0xffff, 0xffff);
    show_retries(&mut vm);
    assert_eq!([vm.read(NIC, 0), vm.read(NIC, COMMAND)], [0xffff_0001, !0]);
}

#[test]
fn of_a_function_that_is_not_ready_a_byte_from_the_shadow_reads_as_its_dword_does() {
    let mut vm = nic_at_work();
    let parts = [(0x3c, Width::Dword), (0x3c, Width::Word), (0x3d, Width::Byte), (0x3e, Width::Word)];
    let read = |vm: &mut Vm| {
        parts.map(|(offset, width)| {
            let access = Access::at(bdf(NIC), offset, width).unwrap();
            vm.config_read(Guest(access)) & access.lanes().mask()
        })
    };
    assert_eq!(read(&mut vm), [0; 4], "no interrupt pin");
    vm.write_word(NIC, EXPRESS + 8, 0x8000);
    assert_eq!(read(&mut vm), [!0, 0xffff, 0xff00, 0xffff_0000]);
    wait(&mut vm);
    assert_eq!(read(&mut vm), [0; 4]);
}

#[test]
fn a_guest_that_writes_too_early_loses_nothing_but_its_write() {
    for retries in [false, true] {
        let mut vm = nic_at_work();
        if retries {
            show_retries(&mut vm);
        }
        vm.write_word(NIC, EXPRESS + 8, 0x8000);
        bring_up(&mut vm);
        assert_eq!(replayed(&vm), [""; 0]);
        assert_eq!(vm.second_stage().mappings(), [], "nothing is mapped that does not answer");

        wait(&mut vm);
        assert_eq!(bring_up(&mut vm), []);
        assert_eq!(replayed(&vm), REPLAY);
        assert!(is_mapped(&mut vm));
    }
}

#[test]
fn a_rom_the_guest_enabled_too_early_decodes_once_the_function_answers() {
    let mut vm = nic_at_work();
    vm.write_word(NIC, EXPRESS + 8, 0x8000);
    vm.write(NIC, ROM_BAR, 0xe020_0001);
    wait(&mut vm);
    vm.write_word(NIC, COMMAND, 0x0006);
    assert_eq!(vm.memory_read(0xe020_0000, Width::Dword), signature(0, bdf("02:00.0"), ROM, 0));
}

#[test]
fn a_second_reset_in_a_row_is_not_preceded_by_what_it_takes_away() {
    let mut vm = nic_at_work();
    vm.write_word(NIC, EXPRESS + 8, 0x8000);
    wait(&mut vm);
    vm.write_word(NIC, EXPRESS + 8, 0x8000);
    assert_eq!(replayed(&vm), [""; 0]);
    wait(&mut vm);
    bring_up(&mut vm);
    assert_eq!(replayed(&vm), REPLAY);
}

const MOVED_ON_BUS: &str = "04:00.3";

/// A Root Port with a slot, a switch, and a device of two functions, of which the second has another number.
fn moved_on_its_bus(others: &[(&str, &str)]) -> Vm {
    moved_behind(others, |slot| slot)
}

/// The same, with another port in place of the Root Port.
fn moved_behind(others: &[(&str, &str)], change: impl Fn(Blueprint) -> Blueprint) -> Vm {
    let slot = Blueprint::port(bdf("00:02.0"), PortType::RootPort, 2..=4, windows(0xe100_0000))
        .register(Dword::at(0x40).unwrap(), 0x0142_7c10)
        .register(Dword::at(0x54).unwrap(), 0x0000_007b)
        .register(Dword::at(0x58).unwrap(), 0x0040_0000)
        .extended(&ExtendedCapability::DownstreamPortContainment);
    let sibling = Blueprint::endpoint(bdf("04:00.0")).capability(&Capability::Express(PortType::Endpoint));
    let other = Blueprint::endpoint(bdf("00:03.0")).capability(&Capability::Express(PortType::Endpoint));
    let mut machine = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY, Builder::PORTS])
        .function(change(slot))
        .switch(bdf("02:00.0"), 3..=4, windows(0xe100_0000), &[(bdf("03:00.0"), 4..=4, windows(0xe100_0000))])
        .function(sibling)
        .function(nic("04:00.1"))
        .function(other)
        .build()
        .unwrap();
    let plan = Plan::new(scan(&mut machine)).relocate(host("04:00.1"), guest(MOVED_ON_BUS)).unwrap();
    let plan = others.iter().try_fold(plan, |plan, (from, to)| plan.relocate(host(from), guest(to))).unwrap();
    let mut vm = Vm::start(machine, &plan).unwrap();
    place(&mut vm);
    assert!(reads_its_memory(&mut vm));
    vm
}

fn place(vm: &mut Vm) {
    vm.write(MOVED_ON_BUS, BAR0, 0xe110_0000);
    vm.write_word(MOVED_ON_BUS, COMMAND, 0x0006);
}

fn reads_its_memory(vm: &mut Vm) -> bool {
    vm.memory_read(0xe110_0000, Width::Dword) == signature(0, bdf("04:00.1"), 0, 0)
}

/// The guest resets by these bits of a bridge, waits, restores the bridges, then the function.
fn survives_on_its_bus(vm: &mut Vm, bridge: &str, offset: u16, bits: u32) {
    let before = vm.read(bridge, offset & !3) >> (8 * (offset & 3)) & 0xffff;
    survives_from_to(vm, (bridge, offset, before | bits), (bridge, offset, before));
}

/// The guest resets by one write and ends that by another.
fn survives_from_to(vm: &mut Vm, from: (&str, u16, u32), to: (&str, u16, u32)) {
    let bridges = ["02:00.0", "03:00.0"];
    let saved = bridges.map(|bridge| (0x04..0x40).step_by(4).map(|at| (at, vm.read(bridge, at))).collect::<Vec<_>>());
    let unmaps = vm.write_word(from.0, from.1, from.2);
    assert_eq!(unmaps.len(), 1, "the window goes away");
    wait(vm);
    assert_eq!(vm.read(MOVED_ON_BUS, 0x00), !0);
    vm.write_word(to.0, to.1, to.2);
    wait(vm);
    for (bridge, saved) in bridges.into_iter().zip(saved) {
        for (at, value) in saved {
            vm.write(bridge, at, value);
        }
    }
    assert_eq!(vm.read(MOVED_ON_BUS, BAR0), 0, "the guest finds what a reset leaves");
    assert_eq!(replayed(vm), [""; 0], "nothing is written before the guest writes");
    place(vm);
    assert_eq!(replayed(vm)[0], "04:00.1 10h <- e1000000");
    assert!(reads_its_memory(vm));
}

const BRIDGE_CONTROL: u16 = 0x3e;
const SECONDARY_BUS_RESET: u32 = 0x40;

#[test]
fn a_function_that_moved_on_its_bus_survives_a_reset_of_the_bus() {
    survives_on_its_bus(&mut moved_on_its_bus(&[]), "03:00.0", BRIDGE_CONTROL, SECONDARY_BUS_RESET);
}

#[test]
fn a_function_that_moved_on_its_bus_survives_a_reset_further_up() {
    survives_on_its_bus(&mut moved_on_its_bus(&[]), "00:02.0", BRIDGE_CONTROL, SECONDARY_BUS_RESET);
}

#[test]
fn a_function_that_moved_on_its_bus_survives_a_reset_also_where_another_came() {
    let mut vm = moved_on_its_bus(&[("00:03.0", "04:00.2")]);
    survives_on_its_bus(&mut vm, "03:00.0", BRIDGE_CONTROL, SECONDARY_BUS_RESET);
    assert!(!vm.remapper().has_forgotten(host("00:03.0")), "that one is wired elsewhere");
}

#[test]
fn a_function_that_moved_on_its_bus_survives_that_its_link_is_disabled() {
    survives_on_its_bus(&mut moved_on_its_bus(&[]), "03:00.0", 0x50, 0x10);
}

#[test]
fn a_function_that_moved_on_its_bus_survives_that_its_slot_is_switched_off() {
    survives_on_its_bus(&mut moved_on_its_bus(&[]), "00:02.0", 0x58, 0x400);
}

/// DPC Control, and DPC Status, of the Root Port.
const CONTAINMENT: u16 = 0x106;
const CONTAINED: u16 = 0x108;

#[test]
fn a_function_that_moved_on_its_bus_survives_that_software_triggers_containment() {
    let mut vm = moved_on_its_bus(&[]);
    survives_from_to(&mut vm, ("00:02.0", CONTAINMENT, 0x0041), ("00:02.0", CONTAINED, 0x0001));
}

#[test]
fn a_port_switches_off_and_contains_only_what_it_can() {
    // No Power Controller; no DPC Software Triggering Supported.
    let mut vm = moved_behind(&[], |slot| {
        slot.register(Dword::at(0x54).unwrap(), 0x0000_0079).register(Dword::at(0x104).unwrap(), 0)
    });
    assert_eq!(vm.write_word("00:02.0", 0x58, 0x0400), []);
    assert_eq!(vm.write_word("00:02.0", CONTAINMENT, 0x0041), []);
    assert!(reads_its_memory(&mut vm));
}

#[test]
fn containment_that_is_off_is_not_triggered() {
    let mut vm = moved_on_its_bus(&[]);
    assert_eq!(vm.write_word("00:02.0", CONTAINMENT, 0x0040), []);
    assert!(reads_its_memory(&mut vm));
    vm.write_word("00:02.0", CONTAINMENT, 0x0001);
    assert!(reads_its_memory(&mut vm), "nor by being switched on");
}

/// The function has a fatal error: its link goes down, and the guest, told by an interrupt, ends that.
#[test]
fn a_function_that_moved_on_its_bus_survives_an_error_that_is_contained() {
    let mut vm = moved_on_its_bus(&[]);
    // Device Control: fatal errors are reported, payloads have 128 bytes; the Root Port sends more.
    let machine = vm.machine_mut();
    write(machine, "00:02.0", 0x48, 0x2830);
    write(machine, "02:00.0", 0x48, 0x2830);
    write(machine, "03:00.0", 0x48, 0x2830);
    let control = (0x40..0x100).step_by(4).find(|at| read(machine, "04:00.1", *at) & 0xff == 0x10).unwrap() + 8;
    write(machine, "04:00.1", control, 0x2814);
    vm.write_word("00:02.0", CONTAINMENT, 0x0001);
    let failed = vm.machine_mut().dma_read(bdf("04:00.1"), 0x1000, 0x1000);
    assert_eq!(failed, Err(Undelivered::Malformed(bdf("04:00.1"))));
    assert_eq!(vm.read("00:02.0", CONTAINED) & 1, 1);
    assert_eq!((vm.read(MOVED_ON_BUS, 0x00), reads_its_memory(&mut vm)), (!0, false), "nothing answers meanwhile");

    let bridges = ["02:00.0", "03:00.0"];
    assert_eq!(vm.write_word("00:02.0", CONTAINED, 0x0001).len(), 1, "the window goes away");
    wait(&mut vm);
    for (bridge, numbers) in bridges.into_iter().zip([0x0004_0302, 0x0004_0403]) {
        vm.write(bridge, 0x18, numbers);
        vm.write(bridge, 0x20, 0xe1f0_e100);
        vm.write_word(bridge, COMMAND, 0x0006);
    }
    assert_eq!(vm.read(MOVED_ON_BUS, BAR0), 0, "the guest finds what a reset leaves");
    place(&mut vm);
    assert!(reads_its_memory(&mut vm));
}

/// Ends containment of nothing, while the function is in D3hot.
fn end_no_containment_asleep(vm: &mut Vm) {
    assert_eq!(vm.write_word(MOVED_ON_BUS, POWER + 4, 3).len(), 1, "the window goes away");
    assert_eq!(vm.write_word("00:02.0", CONTAINED, 0x0001), []);
    assert_eq!(vm.write(MOVED_ON_BUS, BAR0, 0xe120_0000), []);
}

/// The guest wakes the function, which forgets, and places it anew.
fn wakes_and_works(vm: &mut Vm) {
    vm.write_word(MOVED_ON_BUS, POWER + 4, 0);
    wait(vm);
    place(vm);
    assert_eq!(replayed(vm)[0], "04:00.1 10h <- e1000000");
    assert!(reads_its_memory(vm));
}

#[test]
fn what_slept_through_the_end_of_no_containment_is_reset_when_it_wakes() {
    let mut vm = moved_on_its_bus(&[]);
    end_no_containment_asleep(&mut vm);
    assert_eq!(replayed(&vm), [""; 0], "it would forget that on the way to D0");
    wakes_and_works(&mut vm);
}

#[test]
fn what_slept_through_the_end_of_no_containment_and_keeps_its_registers_has_its_window_in_d0() {
    let vm = moved_on_its_bus(&[]);
    let nic = vm.machine().original(bdf("04:00.1")).unwrap();
    let mut machine = vm.machine().clone();
    machine.poke(nic, Dword::at(POWER + 4).unwrap(), 1 << 3);
    let plan = Plan::new(scan(&mut machine)).relocate(host("04:00.1"), guest(MOVED_ON_BUS)).unwrap();
    let mut vm = Vm::start(machine, &plan).unwrap();
    place(&mut vm);
    end_no_containment_asleep(&mut vm);
    place(&mut vm);
    assert_eq!(vm.second_stage().mappings(), []);
    assert_eq!(vm.write_word(MOVED_ON_BUS, POWER + 4, 0).len(), 1, "the window comes back");
    assert!(reads_its_memory(&mut vm));
}

/// A guest closes the port to the function: what it writes to the function meanwhile is lost.
#[test]
fn a_way_back_from_d3hot_that_is_lost_may_be_tried_again() {
    let mut vm = moved_on_its_bus(&[]);
    vm.write_word(MOVED_ON_BUS, POWER + 4, 3);
    let numbers = vm.read("03:00.0", 0x18);
    vm.write("03:00.0", 0x18, 0);
    vm.write_word(MOVED_ON_BUS, POWER + 4, 0);
    vm.write("03:00.0", 0x18, numbers);
    assert_eq!(vm.read(MOVED_ON_BUS, POWER + 4) & 3, 3);
    place(&mut vm);
    assert_eq!((replayed(&vm).len(), vm.second_stage().mappings().len()), (0, 0));
    wakes_and_works(&mut vm);
}

#[test]
fn a_state_that_is_left_with_the_first_write_is_left() {
    let mut machine = machine([nic("02:00.0")]);
    let nic = machine.original(bdf("02:00.0")).unwrap();
    machine.poke(nic, Dword::at(POWER + 4).unwrap(), 1 << 3);
    let mut vm = moved(machine, &[("02:00.0", NIC)]);
    vm.write_word(NIC, POWER + 4, 3);
    vm.note_reset(host("02:00.0"));
    vm.write_word(NIC, POWER + 4, 0);
    assert_eq!(bring_up(&mut vm).len(), 2, "the windows come back");
    assert!(is_mapped(&mut vm));
}

/// What a bridge has before the guest puts it to sleep, it restores when it woke; the bridge wakes with a reset.
fn sleep_and_wake(vm: &mut Vm, bridge: &str) -> Vec<MapOp> {
    let saved: Vec<_> = (0x04..0x40).step_by(4).map(|at| (at, vm.read(bridge, at))).collect();
    assert_eq!(vm.write_word(bridge, 0x80, 3), []);
    let changes = vm.write_word(bridge, 0x80, 0);
    wait(vm);
    for (at, value) in saved {
        // As Linux's `pci_restore_config_space_range`, only what differs.
        if vm.read(bridge, at) != value {
            vm.write(bridge, at, value);
        }
    }
    wait(vm);
    changes
}

#[test]
fn a_function_that_moved_on_its_bus_survives_that_the_bridge_to_it_wakes() {
    let windows = || windows(0xe100_0000);
    let mut machine = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY, Builder::PORTS])
        .function(Blueprint::port(bdf("00:02.0"), PortType::RootPort, 3..=4, windows()))
        .function(Blueprint::port(bdf("03:00.0"), PortType::PciExpressToPciBridge, 4..=4, windows()))
        .endpoint(Blueprint::endpoint(bdf("04:00.0")).multi_function())
        .endpoint(Blueprint::endpoint(bdf("04:00.1")).bar(0, MEMORY, 0x1000, 0xe100_0000))
        .build()
        .unwrap();
    let plan = Plan::new(scan(&mut machine)).relocate(host("04:00.1"), guest(MOVED_ON_BUS)).unwrap();
    let mut vm = Vm::start(machine, &plan).unwrap();
    place(&mut vm);
    assert!(reads_its_memory(&mut vm));
    assert_eq!(sleep_and_wake(&mut vm, "00:02.0"), [], "what is behind a link keeps its registers");
    assert!(reads_its_memory(&mut vm));
    assert_eq!(sleep_and_wake(&mut vm, "03:00.0").len(), 1, "the window goes away");
    assert_eq!(vm.read(MOVED_ON_BUS, BAR0), 0, "the guest finds what a reset leaves");
    place(&mut vm);
    assert!(reads_its_memory(&mut vm));
}

#[test]
fn a_port_that_wakes_has_its_bus_numbers_again_where_the_guests_are_its_own() {
    let mut machine = machine([Blueprint::endpoint(bdf("02:00.0")).multi_function(), nic("02:00.1")]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.1"), guest("02:00.3")).unwrap();
    let mut vm = Vm::start(machine, &plan.bus_numbers(BusNumbers::Virtual)).unwrap();
    sleep_and_wake(&mut vm, "00:01.1");
    assert_eq!(replayed(&vm), ["00:01.1 18h <- 20200"]);
    assert_eq!(vm.read("02:00.3", 0x00), 0x1572_8086);
}

#[test]
fn nothing_is_brought_back_while_the_bus_is_held_in_reset() {
    let mut vm = moved_on_its_bus(&[]);
    vm.write_word("03:00.0", BRIDGE_CONTROL, SECONDARY_BUS_RESET);
    wait(&mut vm);
    place(&mut vm);
    vm.make_replays();
    assert_eq!(replayed(&vm), [""; 0]);
    assert_eq!(vm.second_stage().mappings(), []);
    vm.write_word("03:00.0", BRIDGE_CONTROL, 0);
    wait(&mut vm);
    place(&mut vm);
    assert!(reads_its_memory(&mut vm));
}

#[test]
fn other_functions_are_written_meanwhile_without_a_replay() {
    let mut vm = nic_at_work();
    vm.write_word(NIC, EXPRESS + 8, 0x8000);
    vm.write_word("00:01.1", COMMAND, 0x0007);
    vm.write_word("01:00.0", COMMAND, 0x0007);
    assert_eq!(replayed(&vm), [""; 0]);
}

#[test]
fn after_a_sleep_without_power_the_way_comes_back_before_the_function() {
    let mut vm = nic_at_work();
    let port = vm.machine().original(bdf("00:01.1")).unwrap();
    let before = vm.machine().function(port).config()[..16].to_vec();
    vm.machine_mut().set_wake(Wake::Nothing);
    vm.suspend_to_ram();
    assert_eq!(vm.second_stage().mappings(), []);
    let order: Vec<Bdf> = vm.replayed_writes().iter().map(|write| write.to.0.function()).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(replayed(&vm)[order.len() - REPLAY.len()..], REPLAY);
    let routing = vm.replayed_writes().iter().map(|write| write.to.0);
    let routing = routing.filter(|to| to.function() == bdf("00:01.1")).map(|to| to.dword().offset());
    assert_eq!(routing.collect::<Vec<_>>()[..8], [0x18, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x3c]);
    let port = vm.machine().function(port).config();
    for dword in [0x18, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x3c].map(|offset: usize| offset / 4) {
        let lanes = if dword == 0x1c / 4 { 0xffff } else { !0 };
        assert_eq!(port[dword] & lanes, before[dword] & lanes, "{dword:#x}");
    }
    assert_eq!(port[1] & 7, 7);
    assert_eq!(bring_up(&mut vm).len(), 2);
    assert!(is_mapped(&mut vm));
}

#[test]
fn an_embedder_that_drops_a_replay_is_given_it_again() {
    let mut machine = machine([nic("02:00.0")]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest(NIC)).unwrap();
    let mut remapper = plan.build::<8>().unwrap();
    remapper.note_reset(host("02:00.0"));
    let command = Guest(Access::whole(bdf(NIC), Dword::at(COMMAND).unwrap()));
    for _ in 0..2 {
        let mut outcome = remapper.write(command, 6);
        let read = |offset| Host(Access::whole(bdf("02:00.0"), Dword::at(offset).unwrap()));
        assert_eq!(outcome.replay().unwrap().reads(), [read(0), read(POWER + 4)]);
        assert!(matches!(outcome.decision, WriteDecision::Redirect { .. }));
    }
    let mut outcome = remapper.write(command, 6);
    assert!(outcome.replay().unwrap().writes([0x1572_8086, 0]).count() > 0);
    assert!(remapper.write(command, 6).replay().is_none());
}

#[test]
fn the_end_of_a_reset_the_guest_does_not_wait_for_is_waited_for() {
    let mut machine = machine([nic("02:00.0")]);
    let topology = scan(&mut machine);
    let bridge_control = Guest(Access::at(bdf("00:01.1"), BRIDGE_CONTROL, Width::Word).unwrap());
    for way in [Way::UpstreamPort, Way::ConventionalBridge] {
        let plan = Plan::new(topology).relocate(host("02:00.0"), guest("02:01.0")).unwrap();
        let mut remapper: Remapper<8> = plan.find_behind(host("00:01.1"), way).unwrap().build().unwrap();
        let mut ends_reset = |value: u32| remapper.write(bridge_control, value << 16).ends_reset();
        let (begin, end) = (SECONDARY_BUS_RESET | 3, 3);
        assert_eq!([end, begin, end].map(&mut ends_reset), [false, false, way == Way::UpstreamPort], "{way:?}");
        let mut replays = remapper.replays();
        assert!(!replays.is_empty());
        while let Some(replay) = replays.next() {
            assert!(replay.writes([0x1572_8086, 0]).count() > 0);
        }
        assert!(replays.is_empty());
        assert!(!remapper.write(bridge_control, end << 16).ends_reset(), "{way:?}: it is over");
    }
}
