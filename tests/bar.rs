//! Base Address Registers of a moved function: sizing, placing, mapping.

mod support;

use pci_remap::sim::machine::{Blueprint, ROM, signature};
use pci_remap::sim::platform::Platform;
use pci_remap::{Backing, Guest, Host, MapOp, Plan, Space, Translation, Width};
use support::*;

const NIC: &str = "01:01.0";
const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
const BAR2: u16 = 0x18;
const BAR3: u16 = 0x1c;
const ROM_BAR: u16 = 0x30;

fn map(at: u64, to: u64, len: u64) -> MapOp {
    MapOp::Map {
        guest: Guest(span(at, len)),
        host: Host(span(to, len)),
        space: Space::Memory,
        backing: Backing::Direct,
        prefetchable: to > 0xffff_ffff,
    }
}

fn unmap(at: u64, len: u64) -> MapOp {
    MapOp::Unmap { guest: Guest(span(at, len)), space: Space::Memory }
}

#[test]
fn a_bar_the_guest_shall_place_reads_zero_and_decoding_is_off() {
    let mut vm = talk();
    let read: Vec<_> = [BAR0, 0x14, BAR2, BAR3, 0x20, 0x24, ROM_BAR].map(|offset| vm.read(NIC, offset)).into();
    assert_eq!(read, [0, 0, 0xc, 0, 0, 0, 0]);
    assert_eq!(vm.read(NIC, COMMAND) & 0x3, 0);
}

#[test]
fn sizing_falls_out_of_the_mask_whatever_is_written() {
    let mut vm = talk();
    for (offset, written, read) in [
        (BAR0, !0, 0xfffe_0000),
        (BAR0, 0x1234_5678, 0x1234_0000),
        (BAR2, !0, 0xffff_800c),
        (BAR3, !0, 0xffff_ffff),
        (0x14, !0, 0),
        (ROM_BAR, 0xffff_f800, 0xffff_0000),
        (ROM_BAR, !0, 0xffff_0001),
    ] {
        assert_eq!(vm.write(NIC, offset, written), [], "{offset:#x}");
        assert_eq!(vm.read(NIC, offset), read, "{offset:#x}");
    }
}

#[test]
fn windows_appear_with_memory_space_enable_and_go_with_it() {
    let mut vm = talk();
    vm.write(NIC, BAR0, 0xe010_0000);
    vm.write(NIC, BAR2, 0x0010_0000);
    vm.write(NIC, BAR3, 0x10);
    let [first, second] = [map(0xe010_0000, 0xe100_0000, 0x2_0000), map(0x10_0010_0000, 0x10_0100_0000, 0x8000)];
    assert_eq!(vm.write_word(NIC, COMMAND, 2), [first, second]);
    assert_eq!(vm.memory_read(0xe011_fffc, Width::Dword), signature(0, bdf("02:00.0"), 0, 0x1_fffc));
    assert_eq!(vm.memory_read(0x10_0010_0000, Width::Dword), signature(0, bdf("02:00.0"), 2, 0));

    assert_eq!(vm.write_word(NIC, COMMAND, 0), [unmap(0xe010_0000, 0x2_0000), unmap(0x10_0010_0000, 0x8000)]);
    assert_eq!(vm.memory_read(0xe010_0000, Width::Dword), !0);
}

#[test]
fn moving_a_live_bar_unmaps_the_old_place_before_mapping_the_new() {
    let mut vm = talk();
    vm.write(NIC, BAR0, 0xe010_0000);
    vm.write_word(NIC, COMMAND, 2);
    assert_eq!(
        vm.write(NIC, BAR0, 0xe020_0000),
        [unmap(0xe010_0000, 0x2_0000), map(0xe020_0000, 0xe100_0000, 0x2_0000)]
    );
    assert_eq!(vm.write(NIC, BAR0, 0xe020_0000), []);
}

#[test]
fn the_upper_half_of_a_live_bar_moves_it_too() {
    let mut vm = talk();
    vm.write(NIC, BAR2, 0x0010_0000);
    vm.write(NIC, BAR3, 0x10);
    vm.write_word(NIC, COMMAND, 0x0002);
    let changes = [unmap(0x10_0010_0000, 0x8000), map(0x11_0010_0000, 0x10_0100_0000, 0x8000)];
    assert_eq!(vm.write(NIC, BAR3, 0x11), changes);
}

#[test]
fn a_bar_that_is_sized_while_decoding_is_nowhere_meanwhile() {
    let mut vm = talk();
    vm.write(NIC, BAR0, 0xe010_0000);
    vm.write_word(NIC, COMMAND, 2);
    assert_eq!(vm.write(NIC, BAR0, !0), [unmap(0xe010_0000, 0x2_0000)]);
    assert_eq!(vm.write(NIC, BAR0, 0xe010_0000), [map(0xe010_0000, 0xe100_0000, 0x2_0000)]);
}

#[test]
fn a_bar_at_zero_and_one_beyond_the_processors_addresses_are_nowhere() {
    let mut vm = talk();
    assert_eq!(vm.write_word(NIC, COMMAND, 2), []);
    vm.write(NIC, BAR3, 0x0010_0000);
    assert_eq!(vm.second_stage().mappings(), []);
}

#[test]
fn a_bar_back_at_the_functions_own_address_is_a_window_like_any_other() {
    let mut vm = talk();
    vm.write(NIC, BAR0, 0xe100_0000);
    assert_eq!(vm.write_word(NIC, COMMAND, 2), [map(0xe100_0000, 0xe100_0000, 0x2_0000)]);
    assert_eq!(vm.memory_read(0xe100_0000, Width::Dword), signature(0, bdf("02:00.0"), 0, 0));
    vm.write_word(NIC, COMMAND, 0);
    assert_eq!(vm.memory_read(0xe100_0000, Width::Dword), !0);
}

#[test]
fn a_rom_is_there_while_its_own_enable_and_memory_space_enable_are_both_set() {
    let mut vm = talk();
    vm.write_word(NIC, COMMAND, 2);
    assert_eq!(vm.write(NIC, ROM_BAR, 0xe030_0000), []);
    assert_eq!(vm.write(NIC, ROM_BAR, 0xe030_0001), [map(0xe030_0000, 0xe104_0000, 0x1_0000)]);
    assert_eq!(vm.memory_read(0xe030_0000, Width::Dword), signature(0, bdf("02:00.0"), ROM, 0));
    assert_eq!(vm.write(NIC, ROM_BAR, 0xe030_0000), [unmap(0xe030_0000, 0x1_0000)]);
}

#[test]
fn the_hosts_own_addresses_are_nothing_from_the_start() {
    let mut vm = talk();
    let concealed: Vec<_> = vm.second_stage().concealed().iter().map(|(span, _)| span.0).collect();
    assert_eq!(concealed, [span(0xe100_0000, 0x2_0000), span(0x10_0100_0000, 0x8000), span(0xe104_0000, 0x1_0000)]);
    assert_eq!(vm.memory_read(0xe100_0000, Width::Dword), !0);
}

#[test]
fn pre_assigned_bars_are_placed_in_the_destination_window_and_mapped_at_the_start() {
    let mut machine = machine([nic("02:00.0")]);
    let move_ = pci_remap::Relocation {
        placement: pci_remap::Placement::PreAssigned,
        ..pci_remap::Relocation::new(host("02:00.0"), guest(NIC))
    };
    let plan = Plan::new(scan(&mut machine)).with(move_).unwrap();
    let mut vm = pci_remap::sim::vm::Vm::start(machine, &plan).unwrap();
    let read: Vec<_> = [BAR0, BAR2, BAR3, ROM_BAR].map(|offset| vm.read(NIC, offset)).into();
    // Behind the display's megabyte; the 64-bit BAR at the start of the prefetchable window, which is empty.
    assert_eq!(read, [0xe010_0000, 0x0000_000c, 0x10, 0xe012_0000]);
    assert_eq!(vm.read(NIC, COMMAND) & 3, 2);
    assert_eq!(vm.memory_read(0xe010_0000, Width::Dword), signature(0, bdf("02:00.0"), 0, 0));
}

#[test]
fn what_is_mapped_at_the_start_decodes_though_firmware_left_it_off() {
    let mut machine = machine([nic("02:00.0").command(pci_remap::spec::header::Command::empty())]);
    let move_ = pci_remap::Relocation {
        placement: pci_remap::Placement::PreAssigned,
        ..pci_remap::Relocation::new(host("02:00.0"), guest(NIC))
    };
    let plan = Plan::new(scan(&mut machine)).with(move_).unwrap();
    let mut vm = pci_remap::sim::vm::Vm::start(machine, &plan).unwrap();
    assert_eq!(vm.memory_read(0xe010_0000, Width::Dword), signature(0, bdf("02:00.0"), 0, 0));
}

/// Two BARs of 256 bytes in one page, a third alone at the start of its own, a fourth alone inside its own.
fn small_bars() -> Blueprint {
    Blueprint::endpoint(bdf("02:00.0"))
        .bar(0, MEMORY, 0x100, 0xe100_0000)
        .bar(1, MEMORY, 0x100, 0xe100_0100)
        .bar(2, MEMORY, 0x100, 0xe100_1000)
        .bar(3, MEMORY, 0x100, 0xe100_2400)
}

#[test]
fn a_bar_below_a_page_is_shown_as_one_and_mapped_only_where_its_page_holds_nothing_else() {
    let mut vm = moved(machine([small_bars()]), &[("02:00.0", "01:00.1")]);
    let function = "01:00.1";
    for (offset, address) in [(0x10, 0xe020_0000), (0x14, 0xe021_0000), (0x18, 0xe022_0000), (0x1c, 0xe023_0000)] {
        vm.write(function, offset, !0);
        assert_eq!(vm.read(function, offset), 0xffff_f000);
        vm.write(function, offset, address);
    }
    let trapped = |at, to| MapOp::Map {
        guest: Guest(span(at, 0x1000)),
        host: Host(span(to, 0x100)),
        space: Space::Memory,
        backing: Backing::Trapped,
        prefetchable: false,
    };
    assert_eq!(
        vm.write_word(function, COMMAND, 2),
        [
            trapped(0xe020_0000, 0xe100_0000),
            trapped(0xe021_0000, 0xe100_0100),
            map(0xe022_0000, 0xe100_1000, 0x1000),
            trapped(0xe023_0000, 0xe100_2400),
        ]
    );
    let translate = |vm: &pci_remap::sim::vm::Vm, at| vm.remapper().translate(Space::Memory, Guest(at));
    assert_eq!(translate(&vm, 0xe021_00fc), Translation::Host(Host(0xe100_01fc)));
    assert_eq!(translate(&vm, 0xe021_0100), Translation::Absent);
    assert_eq!(translate(&vm, 0xe100_0000), Translation::Absent);
    assert_eq!(translate(&vm, 0xe0ff_0000), Translation::Untouched);
    assert_eq!(vm.memory_read(0xe021_0004, Width::Dword), signature(0, bdf("02:00.0"), 1, 4));
}

#[test]
fn an_msix_table_is_trapped_on_request_and_the_rest_of_its_bar_mapped() {
    let mut machine = machine([nic("02:00.0")]);
    let move_ = pci_remap::Relocation {
        msix_table: pci_remap::plan::MsixTable::Trapped,
        ..pci_remap::Relocation::new(host("02:00.0"), guest(NIC))
    };
    let plan = Plan::new(scan(&mut machine)).with(move_).unwrap();
    let mut vm = pci_remap::sim::vm::Vm::start(machine, &plan).unwrap();
    vm.write(NIC, BAR3, 0x10);
    vm.write_word(NIC, COMMAND, 2);
    let parts: Vec<_> =
        vm.second_stage().mappings().iter().map(|part| (part.guest.0, part.host.0, part.backing)).collect();
    assert_eq!(
        parts,
        [
            (span(0x10_0000_0000, 0x2000), span(0x10_0100_0000, 0x2000), Backing::Direct),
            (span(0x10_0000_2000, 0x1000), span(0x10_0100_2000, 0x1000), Backing::Trapped),
            (span(0x10_0000_3000, 0x5000), span(0x10_0100_3000, 0x5000), Backing::Direct),
        ]
    );
}

#[test]
fn of_windows_that_overlap_the_first_of_the_plan_is_served() {
    let other = Blueprint::endpoint(bdf("02:00.1")).bar(0, MEMORY, 0x1000, 0xe110_0000);
    let mut vm = moved(machine([nic("02:00.0"), other]), &[("02:00.0", "01:00.1"), ("02:00.1", "01:00.2")]);
    let [first, second] = ["01:00.1", "01:00.2"];
    vm.write(second, BAR0, 0xe010_1000);
    assert_eq!(vm.write_word(second, COMMAND, 2), [map(0xe010_1000, 0xe110_0000, 0x1000)]);
    vm.write(first, BAR0, 0xe010_0000);
    assert_eq!(vm.write_word(first, COMMAND, 2), [unmap(0xe010_1000, 0x1000), map(0xe010_0000, 0xe100_0000, 0x2_0000)]);
    assert_eq!(
        vm.write(first, BAR0, 0xe020_0000),
        [unmap(0xe010_0000, 0x2_0000), map(0xe020_0000, 0xe100_0000, 0x2_0000), map(0xe010_1000, 0xe110_0000, 0x1000),]
    );
}

#[test]
fn a_bar_over_reserved_addresses_is_not_mapped_until_it_leaves() {
    let mut machine = machine([nic("02:00.0")]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest(NIC)).unwrap();
    let plan = plan.reserve(Guest(span(0, 0x8000_0000))).unwrap();
    let mut vm = pci_remap::sim::vm::Vm::start(machine, &plan).unwrap();
    vm.write(NIC, BAR0, 0x10_0000);
    assert_eq!(vm.write_word(NIC, COMMAND, 2), []);
    assert_eq!(vm.write(NIC, BAR0, 0xe010_0000), [map(0xe010_0000, 0xe100_0000, 0x2_0000)]);
}

#[test]
fn a_refused_change_is_due_again_and_nothing_is_lost() {
    let mut vm = talk();
    vm.write(NIC, BAR0, 0xe010_0000);
    vm.refuse_every(1);
    let due = [map(0xe010_0000, 0xe100_0000, 0x2_0000)];
    assert_eq!(vm.write_word(NIC, COMMAND, 2), due);
    assert_eq!(vm.second_stage().mappings(), []);
    // Any write hands it out again, even one that is none of its business.
    assert_eq!(vm.write("00:01.0", 0x40, 0), due);
    vm.refuse_every(0);
    assert_eq!(vm.write_word(NIC, COMMAND, 2), due);
    assert_eq!(vm.write_word(NIC, COMMAND, 2), []);
}

#[test]
fn a_window_that_cannot_be_unmapped_keeps_others_from_its_place() {
    let mut vm = talk();
    vm.write(NIC, BAR0, 0xe010_0000);
    vm.write_word(NIC, COMMAND, 2);
    vm.refuse_every(1);
    // The new place overlaps the old one, which stays: nothing is mapped over it.
    assert_eq!(vm.write(NIC, BAR0, 0xe012_0000), [unmap(0xe010_0000, 0x2_0000)]);
    vm.refuse_every(0);
    vm.apply_pending();
    assert_eq!(vm.second_stage().mappings().len(), 1);
    assert_eq!(vm.memory_read(0xe012_0000, Width::Dword), signature(0, bdf("02:00.0"), 0, 0));
}

#[test]
fn an_io_bar_is_a_window_of_ports_that_are_forwarded() {
    let card = Blueprint::endpoint(bdf("00:05.0")).bar(0, pci_remap::spec::bar::BarKind::Io, 0x20, 0x3000);
    let mut vm = moved(machine([card]), &[("00:05.0", "00:06.0")]);
    vm.write("00:06.0", BAR0, !0);
    assert_eq!(vm.read("00:06.0", BAR0), 0xffff_ffe1);
    vm.write("00:06.0", BAR0, 0x4001);
    assert_eq!(
        vm.write_word("00:06.0", COMMAND, 1),
        [MapOp::Map {
            guest: Guest(span(0x4000, 0x20)),
            host: Host(span(0x3000, 0x20)),
            space: Space::Io,
            backing: Backing::Trapped,
            prefetchable: false,
        }]
    );
    assert_eq!(vm.port_read(0x401c, Width::Dword), signature(0, bdf("00:05.0"), 0, 0x1c));
    assert_eq!(vm.port_read(0x3000, Width::Dword), !0);
}
