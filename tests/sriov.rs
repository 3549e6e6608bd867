//! Virtual Functions: as hardware has them, and where a guest finds those of a function that moved.
//!
//! | rule (in `src/remapper/virtual_functions.rs`) | test |
//! |---|---|
//! | `show_sriov`: SR-IOV Capabilities, TotalVFs, First VF Offset, page sizes, migration | [`what_tells_of_them_is_the_plans_and_not_the_hardwares`] |
//! | `show_sriov`: VF Enable and NumVFs pass, VF Memory Space Enable is held, what a change of either sets off | [`their_memory_is_mapped_while_they_are_enabled_and_decode`], [`how_many_there_are_follows_a_number_that_is_changed_late`] |
//! | `show_sriov`: what a replay restores of VF Enable and NumVFs | [`those_the_guest_enabled_too_early_are_there_once_their_physical_function_answers`] |
//! | `show_sriov`: what a replay restores | [`pages_and_hierarchy_stay_as_firmware_left_them`] |
//! | `show_sriov`: VF BARs, those there are none of | [`linux_enables_those_of_a_moved_function_and_their_drivers_bind`] |
//! | `Touched::virtual_functions` | [`one_shows_no_id_no_bars_and_no_extended_capabilities_whatever_hardware_has_there`] |
//! | `place_vf_bar` | [`what_firmware_left_without_an_address_the_planner_places`], [`a_reset_of_their_physical_function_takes_them_away_and_a_replay_brings_back_their_bars`] |
//! | `build.rs` `empty_virtual_functions` | [`nothing_is_where_hardware_has_them_also_on_the_same_bus`] |
//! | `hold_hierarchy` | [`those_that_are_elsewhere_without_ari_follow_once_the_host_set_ari_capable_hierarchy`], [`a_first_physical_function_that_stays_keeps_ari_capable_hierarchy_as_the_second_needs_it`], [`pages_and_hierarchy_stay_as_firmware_left_them`] |
//! | `conceal_virtual_functions` | [`those_firmware_enabled_are_neither_found_nor_reached_where_their_function_is_hidden`] |
//! | `dependency` | [`linux_enables_those_of_a_moved_function_and_their_drivers_bind`] |
//! | `forward_ari` | [`linux_enables_those_of_a_moved_function_and_their_drivers_bind`], [`the_port_forwards_by_ari_whatever_the_guest_writes_there`] |

mod support;

use pci_remap::plan::{Cause, Policy, Vfs};
use pci_remap::sim::guest::Kind;
use pci_remap::sim::guest::life::{Life, Step};
use pci_remap::sim::machine::{Blueprint, Capability, ExtendedCapability, Machine, VfBar, signature};
use pci_remap::sim::platform::Platform;
use pci_remap::sim::vm::Vm;
use pci_remap::spec::express::PortType;
use pci_remap::topology::{BarSizes, Function};
use pci_remap::{
    Access, Bdf, Dword, Finding, Grade, Guest, Host, MapOp, Placement, Plan, Relocation, Space, Topology, Translation,
};
use support::*;

const KERNELS: [Kind; 2] = [Kind::Linux61, Kind::Linux615];

/// Addresses of the first `count` Virtual Functions of that NIC.
fn virtual_functions(physical: &str, count: u16) -> Vec<Bdf> {
    (0..count).map(|number| Bdf::from_routing_id(bdf(physical).routing_id() + 0x80 + 2 * number)).collect()
}

fn run_to_drivers(life: &mut Life<'_>) {
    for step in [Step::BindPorts, Step::SuspendIdlePorts, Step::BindDrivers] {
        life.run(step);
    }
}

mod hardware {
    use super::*;

    fn machine() -> Machine {
        let mut machine = support::machine([adapter("02:00.0")]);
        // ARI Forwarding of the port; its PCI Express Capability is the only one.
        write(&mut machine, "00:01.1", 0x40 + 0x28, 1 << 5);
        machine
    }

    /// Where SR-IOV is: after Advanced Error Reporting and ARI.
    const SRIOV: u16 = 0x100 + 0x48 + 0x08;

    #[test]
    fn they_are_there_while_vf_enable_is_set_and_decode_by_the_registers_of_the_physical_function() {
        let mut machine = machine();
        assert_eq!(read(&mut machine, "02:00.0", SRIOV) & 0xffff, 0x10);
        assert_eq!(read(&mut machine, "02:10.0", 0x08), !0);
        write(&mut machine, "02:00.0", SRIOV + 0x10, 2);
        write(&mut machine, "02:00.0", SRIOV + 0x08, 0x9);
        assert_eq!(read(&mut machine, "02:10.0", 0x00), !0, "its ID is the Physical Function's");
        assert_eq!(read(&mut machine, "02:10.0", 0x08), read(&mut machine, "02:00.0", 0x08));
        assert_ne!(read(&mut machine, "02:10.2", 0x08), !0);
        assert_eq!(read(&mut machine, "02:10.4", 0x08), !0, "there are two");
        write(&mut machine, "02:10.2", 0x04, 0x7);
        assert_eq!(read(&mut machine, "02:10.2", 0x04) & 0xffff, 0x4, "Bus Master Enable is all it has");
        write(&mut machine, "02:10.2", 0x10, !0);
        assert_eq!(read(&mut machine, "02:10.2", 0x10), 0, "BARs read zero");
        let word = |at: u64, function: &str, bar| (0x10_0110_0000 + at, u64::from(signature(0, bdf(function), bar, 8)));
        for (address, value) in
            [word(8, "02:10.0", 0), word(VF_SIZE + 8, "02:10.2", 0), word(0x2_0000 + 8, "02:10.0", 3)]
        {
            assert_eq!(machine.memory_read(address, 4), value);
        }
        assert_eq!(machine.memory_read(0x10_0110_0000 + 2 * VF_SIZE, 4), 0xffff_ffff, "nothing beyond the last");
        write(&mut machine, "02:00.0", SRIOV + 0x08, 0x1);
        assert_eq!(machine.memory_read(0x10_0110_0008, 4), 0xffff_ffff, "VF Memory Space Enable is off");
        write(&mut machine, "02:00.0", SRIOV + 0x08, 0x0);
        assert_eq!(read(&mut machine, "02:10.0", 0x08), !0);
    }

    #[test]
    fn their_requests_carry_their_own_id_and_a_reset_of_the_physical_function_takes_them_away() {
        let mut machine = machine();
        write(&mut machine, "02:00.0", SRIOV + 0x10, 8);
        write(&mut machine, "02:00.0", SRIOV + 0x08, 0x9);
        assert!(machine.dma_write(bdf("02:10.6"), 0x1000, 64).is_err(), "not a bus master yet");
        write(&mut machine, "02:10.6", 0x04, 0x4);
        assert_eq!(machine.dma_write(bdf("02:10.6"), 0x1000, 64).unwrap().requester, bdf("02:10.6"));
        machine.reset_function(machine.original(bdf("02:00.0")).unwrap());
        assert_eq!(machine.find(bdf("02:10.6")), None);
        assert!(machine.conflicts().is_empty());
    }
}

#[test]
fn linux_enables_them_and_their_drivers_bind() {
    for kind in KERNELS {
        let mut machine = machine([adapter("02:00.0")]);
        let mut life = Life::start(kind, &mut machine, &[bdf("02:00.0")]).unwrap();
        run_to_drivers(&mut life);
        assert_eq!(life.set_virtual_functions(bdf("02:00.0"), 8), virtual_functions("02:00.0", 8), "{kind}");
        life.run(Step::SuspendDevices);
        assert_eq!(life.set_virtual_functions(bdf("02:00.0"), 2), virtual_functions("02:00.0", 2), "{kind}");
        life.run(Step::Rebind);
        let report = life.finish();
        assert_eq!(report.failures, [], "{kind}");
        for function in virtual_functions("02:00.0", 2) {
            let device = report.boot.tree.device(function).unwrap();
            for bar in [0, 3] {
                assert_eq!(device.read(&mut machine, bar, 0x20), Some(signature(0, function, bar, 0x20)), "{kind}");
            }
        }
    }
}

/// Where the NIC at 02:00.0 is moved to.
const NIC: &str = "01:01.0";
/// Where its SR-IOV Capability is.
const SRIOV: u16 = 0x150;
const CONTROL: u16 = SRIOV + 0x08;
const NUM_VFS: u16 = SRIOV + 0x10;

fn follow(from: &str, to: &str) -> Relocation {
    Relocation { vfs: Vfs::Follow, ..Relocation::new(host(from), guest(to)) }
}

fn followed(mut machine: Machine) -> Vm {
    let plan = Plan::new(scan(&mut machine)).with(follow("02:00.0", NIC)).unwrap();
    Vm::start(machine, &plan).unwrap()
}

/// The errors of a plan, and what is said of Virtual Functions.
fn findings(mut machine: Machine, moves: &[Relocation]) -> Vec<String> {
    let plan = moves.iter().try_fold(Plan::new(scan(&mut machine)), |plan, one| plan.with(*one)).unwrap();
    let about = |finding: &Finding| finding.grade() == Grade::Error || matches!(finding.cause, Cause::VfsFollow(..));
    plan.findings().filter(about).map(|finding| finding.to_string()).collect()
}

fn enable(vm: &mut Vm, count: u32) -> Vec<String> {
    vm.write_word(NIC, NUM_VFS, count);
    vm.write_word(NIC, CONTROL, 0x9).iter().map(ToString::to_string).collect()
}

#[test]
fn without_a_word_they_are_hidden() {
    let mut vm = moved(machine([adapter("02:00.0")]), &[("02:00.0", NIC)]);
    assert_eq!(vm.read(NIC, SRIOV), 0);
    for function in virtual_functions("02:00.0", 8).into_iter().chain(virtual_functions(NIC, 8)) {
        assert_eq!(vm.read(&function.to_string(), 0x08), !0);
    }
}

#[test]
fn linux_enables_those_of_a_moved_function_and_their_drivers_bind() {
    for kind in KERNELS {
        let mut vm = followed(machine([adapter("02:00.0")]));
        let mut life = Life::start(kind, &mut vm, &[bdf(NIC)]).unwrap();
        run_to_drivers(&mut life);
        assert_eq!(life.set_virtual_functions(bdf(NIC), 8), virtual_functions(NIC, 8), "{kind}");
        life.run(Step::SuspendDevices);
        assert_eq!(life.set_virtual_functions(bdf(NIC), 3), virtual_functions(NIC, 3), "{kind}");
        life.run(Step::Rebind);
        let report = life.finish();
        assert_eq!(report.failures, [], "{kind}");
        let (seen, wired) = (virtual_functions(NIC, 8), virtual_functions("02:00.0", 8));
        for (number, (seen, wired)) in seen.into_iter().zip(wired).enumerate() {
            let is_there = number < 3;
            assert_eq!(vm.remapper().to_host(Guest(seen)), Some(Some(Host(wired)).filter(|_| is_there)), "{kind}");
            assert_eq!(vm.remapper().to_guest(Host(wired)), Some(Guest(seen)).filter(|_| is_there), "{kind}");
            assert_eq!(vm.read(&wired.to_string(), 0x08), !0, "nothing is where hardware has them");
            assert_eq!(vm.read(&seen.to_string(), 0x08) != !0, is_there, "{kind}");
            let Some(device) = report.boot.tree.device(seen).filter(|_| is_there) else { continue };
            for bar in [0, 3] {
                for offset in [0, VF_SIZE - 4] {
                    let expected = Some(signature(0, wired, bar, offset));
                    assert_eq!(device.read(&mut vm, bar, offset), expected, "{kind}: its memory and only it");
                }
            }
        }
        let bars: Vec<_> = (0x10..0x28).chain(SRIOV + 0x24..SRIOV + 0x3c).collect();
        let mut writes = vm.made_writes().iter().map(|write| write.to.0).filter(|to| to.function() == bdf("02:00.0"));
        assert_eq!(writes.find(|to| bars.contains(&to.dword().offset())), None, "{kind}: no real BAR, nor VF BAR");
    }
}

/// What goes wrong natively, as with Virtual Functions that lose everything while their Physical Function sleeps, goes
/// wrong in the guest, and nothing else does.
#[test]
fn their_life_is_as_it_would_be_without_the_move() {
    let live = |kind, machine: &mut dyn Platform, physical: &str| {
        let mut life = Life::start(kind, machine, &[bdf(physical)]).unwrap();
        run_to_drivers(&mut life);
        assert_eq!(life.set_virtual_functions(bdf(physical), 4).len(), 4);
        Step::ALL.into_iter().filter(|step| *step > Step::BindDrivers).for_each(|step| life.run(step));
        let distance = |function: Bdf| function.routing_id() - bdf(physical).routing_id();
        let failures = life.finish().failures.into_iter();
        failures.map(|failure| (failure.step, distance(failure.function), failure.fault)).collect::<Vec<_>>()
    };
    for kind in KERNELS {
        let native = live(kind, &mut machine([adapter("02:00.0")]), "02:00.0");
        let guest = live(kind, &mut followed(machine([adapter("02:00.0")])), NIC);
        assert_eq!(guest, native, "{kind}");
    }
}

#[test]
fn their_memory_is_mapped_while_they_are_enabled_and_decode() {
    let mut vm = followed(machine([adapter("02:00.0")]));
    // Pre-assigned in the window of the port it is found behind.
    assert_eq!([0x24, 0x28, 0x30, 0x34].map(|at| vm.read(NIC, SRIOV + at)), [0xc, 0x10, 0x0002_000c, 0x10]);
    let maps = [
        "map mem 0x1000000000-0x1000007fff to 0x1001100000-0x1001107fff",
        "map mem 0x1000020000-0x1000027fff to 0x1001120000-0x1001127fff",
    ];
    assert_eq!(enable(&mut vm, 2), maps);
    assert_eq!(vm.write_word(NIC, CONTROL, 0x1).len(), 2, "VF Memory Space Enable is off");
    assert_eq!(vm.read("01:11.2", 0x04) & 0xffff, 0, "and they are still there");
    assert_eq!(vm.read("01:11.4", 0x04), !0, "those there are");
    vm.write_word("01:11.2", 0x04, 0x4);
    let vf = vm.machine().find(bdf("02:10.2")).unwrap();
    assert_eq!(vm.machine().function(vf).config()[1] & 0xffff, 0x4);
    assert_eq!(vm.write_word(NIC, CONTROL, 0x0), []);
    assert_eq!(vm.read("01:11.2", 0x04), !0);
    // A VF BAR is sized as any other, and moves.
    for (offset, value) in [(0x24, !0), (0x28, !0)] {
        vm.write(NIC, SRIOV + offset, value);
    }
    assert_eq!([0x24, 0x28].map(|at| vm.read(NIC, SRIOV + at)), [0xffff_c00c, !0]);
    vm.write(NIC, SRIOV + 0x24, 0x0080_0000);
    vm.write(NIC, SRIOV + 0x28, 0x10);
    let moved = enable(&mut vm, 8);
    assert_eq!(moved[0], "map mem 0x1000800000-0x100081ffff to 0x1001100000-0x100111ffff");
    assert_eq!(
        vm.read(NIC, NUM_VFS),
        0x0008_0008,
        "it depends on no other function: 01:01.0 is device and function 08h"
    );
    assert_eq!(vm.read(NIC, SRIOV + 0x14), 0x0002_0080);
}

#[test]
fn a_reset_of_their_physical_function_takes_them_away_and_a_replay_brings_back_their_bars() {
    let mut vm = followed(machine([adapter("02:00.0")]));
    let mapped = enable(&mut vm, 8);
    let control = (0x40..0x100).step_by(4).find(|at| vm.read(NIC, *at) & 0xff == 0x10).unwrap() + 0x08;
    assert_eq!(vm.write_word(NIC, control, 0xa810).len(), 2, "the windows go away");
    vm.machine_mut().elapse(core::time::Duration::from_millis(100));
    assert_eq!(vm.read("01:11.0", 0x04), !0);
    assert_eq!(vm.read(NIC, CONTROL), 0);
    for (offset, value) in [(0x24, 0xc), (0x28, 0x10), (0x30, 0x0002_000c), (0x34, 0x10)] {
        vm.write(NIC, SRIOV + offset, value);
    }
    assert_eq!(enable(&mut vm, 8), mapped);
    let mut machine = vm.machine().clone();
    assert_eq!(machine.memory_read(0x10_0110_0000, 4), u64::from(signature(0, bdf("02:10.0"), 0, 0)));
    // In D3hot nothing decodes.
    let power = (0x40..0x100).step_by(4).find(|at| vm.read(NIC, *at) & 0xff == 0x01).unwrap() + 0x04;
    assert_eq!(vm.write_word(NIC, power, 3).len(), 2);
}

#[test]
fn those_the_guest_enabled_too_early_are_there_once_their_physical_function_answers() {
    let mut vm = followed(machine([adapter("02:00.0")]));
    let control = (0x40..0x100).step_by(4).find(|at| vm.read(NIC, *at) & 0xff == 0x10).unwrap() + 0x08;
    vm.write_word(NIC, control, 0xa810);
    enable(&mut vm, 8);
    vm.elapse(core::time::Duration::from_millis(100));
    vm.write(NIC, 0x10, 0);
    let registers = [0x08, 0x10].map(|at| real(&vm, "02:00.0", SRIOV + at) & 0xffff);
    assert_eq!(registers, [0x0009, 0x0008], "VF Enable and VF Memory Space Enable, NumVFs");
}

/// The hardware's register of a function.
fn real(vm: &Vm, function: &str, offset: u16) -> u32 {
    vm.machine().peek(vm.machine().original(bdf(function)).unwrap(), Dword::at(offset).unwrap())
}

#[test]
fn what_tells_of_them_is_the_plans_and_not_the_hardwares() {
    let mut vm = followed(machine([adapter("02:00.0")]));
    // SR-IOV Capabilities, InitialVFs and TotalVFs, First VF Offset and VF Stride, page sizes, migration.
    let registers = [0x04, 0x0c, 0x14, 0x1c, 0x20, 0x3c].map(|at| SRIOV + at);
    let shown = [0, 0x0008_0008, 0x0002_0080, 1, 1, 0];
    assert_eq!(registers.map(|at| vm.read(NIC, at)), shown);
    let physical = vm.machine().original(bdf("02:00.0")).unwrap();
    for at in registers {
        vm.machine_mut().poke(physical, Dword::at(at).unwrap(), 0x0003_0003);
        vm.write(NIC, at, 0x0005_0005);
    }
    assert_eq!(registers.map(|at| vm.read(NIC, at)), shown);
    assert_eq!(registers.map(|at| real(&vm, "02:00.0", at)), [0x0003_0003; 6]);
}

/// ATS is hidden as that of their Physical Function is. Of a Virtual Function that is not as the specification has it, BARs
/// are no more written than any others.
#[test]
fn one_shows_no_id_no_bars_and_no_extended_capabilities_whatever_hardware_has_there() {
    let mut vm = followed(machine([adapter("02:00.0")]));
    enable(&mut vm, 2);
    let vf = vm.machine().find(bdf("02:10.2")).unwrap();
    let at = |offset| Dword::at(offset).unwrap();
    assert_eq!(vm.machine().peek(vf, at(0x100)) & 0xffff, 0xf, "it has ATS");
    let registers = [0x00, 0x10, 0x24, 0x30, 0x100, 0xffc];
    for offset in registers {
        vm.machine_mut().poke(vf, at(offset), 0x1234_000f);
    }
    let before = vm.made_writes().len();
    for offset in registers {
        assert_eq!(vm.write("01:11.2", offset, 0), []);
    }
    assert_eq!(vm.made_writes().len(), before, "none of them is written");
    assert_eq!(registers.map(|offset| vm.read("01:11.2", offset)), [!0, 0, 0, 0, 0, 0]);
    let why = vm.remapper().explain(Guest(Access::whole(bdf("01:11.2"), at(0x10)))).to_string();
    assert!(
        why.starts_with("01:11.2 10h: of 02:10.2; read from the shadow, 00000000: all bits; not writable"),
        "{why}"
    );
    assert_eq!(vm.read("01:11.2", 0x08), vm.read(NIC, 0x08), "all else is the hardware's");
}

#[test]
fn how_many_there_are_follows_a_number_that_is_changed_late() {
    let mut vm = followed(machine([adapter("02:00.0")]));
    enable(&mut vm, 2);
    let changes = |changes: Vec<MapOp>| changes.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        changes(vm.write_word(NIC, NUM_VFS, 3)),
        [
            "unmap mem 0x1000000000-0x1000007fff",
            "unmap mem 0x1000020000-0x1000027fff",
            "map mem 0x1000000000-0x100000bfff to 0x1001100000-0x100110bfff",
            "map mem 0x1000020000-0x100002bfff to 0x1001120000-0x100112bfff",
        ]
    );
    assert_eq!(vm.remapper().to_host(guest("01:11.4")), Some(Some(host("02:10.4"))));
    vm.write_word(NIC, NUM_VFS, 1);
    assert_eq!(vm.remapper().to_host(guest("01:11.2")), Some(None));
    assert_eq!(vm.write_word(NIC, NUM_VFS, 0).len(), 2);
    assert_eq!(vm.second_stage().mappings(), []);
    assert_eq!(vm.write_word(NIC, CONTROL, 0x0), []);
    assert_eq!(enable(&mut vm, 1)[0], "map mem 0x1000000000-0x1000003fff to 0x1001100000-0x1001103fff");
}

#[test]
fn what_could_not_be_unmapped_goes_as_it_was_before_there_are_more() {
    let mut vm = followed(machine([adapter("02:00.0")]));
    let starts = |vm: &Vm| vm.second_stage().mappings().iter().map(|one| one.guest.0).collect::<Vec<_>>();
    enable(&mut vm, 2);
    vm.refuse_every(1);
    vm.write_word(NIC, CONTROL, 0);
    enable(&mut vm, 4);
    assert_eq!(starts(&vm), [span(0x10_0000_0000, 2 * VF_SIZE), span(0x10_0002_0000, 2 * VF_SIZE)]);
    vm.refuse_every(0);
    vm.apply_pending();
    assert_eq!(starts(&vm), [span(0x10_0000_0000, 4 * VF_SIZE), span(0x10_0002_0000, 4 * VF_SIZE)]);
}

/// FreeBSD has addresses for those it enables only, and may have something else behind them.
#[test]
fn what_is_behind_the_memory_of_those_there_are_is_not_theirs() {
    let mut vm = followed(machine([adapter("02:00.0")]));
    enable(&mut vm, 2);
    let of = |vm: &Vm, address| vm.remapper().translate(Space::Memory, Guest(address));
    let last = 0x10_0000_0000 + 2 * VF_SIZE - 1;
    assert_eq!(of(&vm, last), Translation::Host(Host(0x10_0110_0000 + 2 * VF_SIZE - 1)));
    assert_eq!(of(&vm, last + 1), Translation::Untouched);
    let moved: Vec<_> = vm.write(NIC, SRIOV + 0x24, 0x0001_0000).iter().map(ToString::to_string).collect();
    let [old, new] =
        ["unmap mem 0x1000000000-0x1000007fff", "map mem 0x1000010000-0x1000017fff to 0x1001100000-0x1001107fff"];
    assert_eq!(moved, [old, new]);
}

#[test]
fn pages_and_hierarchy_stay_as_firmware_left_them() {
    let mut machine = machine([adapter("02:00.0")]);
    let physical = machine.original(bdf("02:00.0")).unwrap();
    machine.poke(physical, Dword::at(SRIOV + 0x20).unwrap(), 0x2);
    machine.poke(physical, Dword::at(CONTROL).unwrap(), 0x10);
    let mut vm = followed(machine);
    enable(&mut vm, 2);
    assert_eq!(real(&vm, "02:00.0", CONTROL), 0x19, "ARI Capable Hierarchy is not the guest's");
    vm.machine_mut().reset_function(physical);
    vm.note_reset(host("02:00.0"));
    wait(vm.machine_mut(), 100);
    assert_eq!([SRIOV + 0x20, CONTROL].map(|at| real(&vm, "02:00.0", at)), [1, 0]);
    vm.make_replays();
    assert_eq!([SRIOV + 0x20, CONTROL].map(|at| real(&vm, "02:00.0", at)), [0x2, 0x18]);
}

/// The same NIC, as it is without ARI: its Virtual Functions are on the next bus, which no bridge leads to.
fn adapter_without_ari(at: &str) -> Blueprint {
    let offset = Dword::at(SRIOV + 0x14).unwrap();
    adapter(at).register(offset, 0x0002_0180).vf_addresses_with_ari(0x80, 2)
}

/// Of Intel's, some are so.
#[test]
fn those_that_are_elsewhere_without_ari_follow_once_the_host_set_ari_capable_hierarchy() {
    assert_eq!(
        findings(machine([adapter_without_ari("02:00.0")]), &[follow("02:00.0", NIC)]),
        ["02:00.0: its 8 Virtual Functions follow, the first at 01:11.0"]
    );
    for kind in KERNELS {
        let mut vm = followed(machine([adapter_without_ari("02:00.0")]));
        assert_eq!(real(&vm, "02:00.0", CONTROL), 0x10);
        let mut life = Life::start(kind, &mut vm, &[bdf(NIC)]).unwrap();
        run_to_drivers(&mut life);
        assert_eq!(life.set_virtual_functions(bdf(NIC), 8), virtual_functions(NIC, 8), "{kind}");
        assert_eq!(life.finish().failures, [], "{kind}");
        assert_eq!(real(&vm, "02:00.0", CONTROL), 0x19, "whatever the guest has there: {kind}");
        vm.write_word(NIC, CONTROL, 0);
        assert_eq!(vm.read(NIC, CONTROL) & 0xffff, 0);
        let physical = vm.machine().original(bdf("02:00.0")).unwrap();
        vm.machine_mut().poke(physical, Dword::at(CONTROL).unwrap(), 0);
        vm.note_reset(host("02:00.0"));
        vm.make_replays();
        assert_eq!(real(&vm, "02:00.0", CONTROL), 0x18);
    }
}

/// It is in the first Physical Function, and about all.
#[test]
fn a_first_physical_function_that_stays_keeps_ari_capable_hierarchy_as_the_second_needs_it() {
    let mut machine = machine([adapter_without_ari("02:00.0").multi_function(), adapter_without_ari("02:00.1")]);
    let plan = Plan::new(scan(&mut machine)).with(follow("02:00.1", "02:00.2")).unwrap();
    let mut vm = Vm::start(machine, &plan).unwrap();
    assert_eq!(real(&vm, "02:00.0", CONTROL), 0x10);
    for value in [0x10, 0x00] {
        vm.write_word("02:00.0", CONTROL, value);
        assert_eq!((vm.read("02:00.0", CONTROL) & 0xffff, real(&vm, "02:00.0", CONTROL)), (value, 0x10));
    }
}

#[test]
fn a_scan_asks_for_addresses_with_ari_and_leaves_the_hierarchy_as_it_was() {
    let mut machine = machine([adapter_without_ari("02:00.0")]);
    let sriov = *scan(&mut machine).view().function(host("02:00.0")).unwrap().sriov().unwrap();
    assert_eq!((sriov.first_vf_offset, sriov.vf_stride, sriov.with_ari), (0x180, 2, Some([0x80, 2])));
    assert_eq!([CONTROL, NUM_VFS, SRIOV + 0x14].map(|at| read(&mut machine, "02:00.0", at) & 0xffff), [0, 0, 0x180]);
}

/// The NIC, two Virtual Functions of which firmware enabled, and a function that stays on its bus.
fn enabled_by_firmware() -> Machine {
    let first = Blueprint::endpoint(bdf("02:00.0")).capability(&Capability::Express(PortType::Endpoint));
    let mut machine = machine([first.extended(&ExtendedCapability::Ari { next: 1 }), adapter("02:00.1")]);
    write(&mut machine, "00:01.1", 0x40 + 0x28, 1 << 5);
    write(&mut machine, "02:00.1", NUM_VFS, 2);
    write(&mut machine, "02:00.1", CONTROL, 0x9);
    assert_ne!(read(&mut machine, "02:10.1", 0x08), !0);
    machine
}

/// With the sizes of what it decodes, as the caller knows them from elsewhere.
fn with_sizes(machine: &mut Machine) -> &'static Topology<8> {
    let config = machine.function(machine.original(bdf("02:00.1")).unwrap()).config();
    let bytes: Vec<_> = config.iter().flat_map(|dword| dword.to_le_bytes()).collect();
    let sizes = BarSizes { vf_bars: [VF_SIZE, 0, 0, VF_SIZE, 0, 0], ..BarSizes::default() };
    let known = Function::from_bytes(host("02:00.1"), &bytes, &sizes);
    let others = scan(machine).functions().iter().filter(|function| function.bdf() != known.bdf()).cloned();
    Box::leak(Box::new(Topology::from_functions(others.chain([known.clone()])).unwrap()))
}

#[test]
fn those_firmware_enabled_are_neither_found_nor_reached_where_their_function_is_hidden() {
    let mut machine = enabled_by_firmware();
    let topology = with_sizes(&mut machine);
    for plan in [
        Plan::new(topology).hide(host("02:00.1")).unwrap(),
        Plan::new(topology).relocate(host("02:00.1"), guest("02:00.2")).unwrap(),
    ] {
        assert!(!plan.findings().any(|finding| matches!(finding.cause, Cause::VfsReached(_))));
        let mut vm = Vm::start(machine.clone(), &plan).unwrap();
        assert_eq!(["02:10.1", "02:10.3"].map(|function| vm.read(function, 0x08)), [!0; 2]);
        let concealed: Vec<_> = vm.second_stage().concealed().iter().map(|(Guest(span), _)| *span).collect();
        for address in [0x10_0110_0000, 0x10_0112_0000] {
            assert!(concealed.contains(&span(address, 2 * VF_SIZE)), "{address:#x} of {concealed:x?}");
        }
        let touched = vm.remapper().touched_functions().filter(|(function, _)| *function == host("02:00.1"));
        assert_eq!(touched.count(), 1);
    }
}

#[test]
fn that_those_firmware_enabled_are_reached_is_said_where_the_scan_cannot_size_what_they_decode() {
    let mut machine = enabled_by_firmware();
    let plan = Plan::new(scan(&mut machine)).hide(host("02:00.1")).unwrap();
    let risks = plan.findings().filter(|finding| finding.grade() == Grade::Risk);
    assert_eq!(
        risks.map(|finding| finding.to_string()).collect::<Vec<_>>(),
        [
            "02:00.1: its 2 Virtual Functions are enabled, and the guest reaches what they decode, as its size is not known; disable them before the scan (02:00.1 158h reads 00000009)"
        ]
    );
    let mut vm = Vm::start(machine, &plan).unwrap();
    assert_eq!(["02:10.1", "02:10.3"].map(|function| vm.read(function, 0x08)), [!0; 2], "but not found");
}

/// The NIC is the second function of its device, and the third for the guest.
fn followed_on_its_bus() -> Vm {
    let mut machine = machine([Blueprint::endpoint(bdf("02:00.0")).multi_function(), adapter("02:00.1")]);
    let plan = Plan::new(scan(&mut machine)).with(follow("02:00.1", "02:00.2")).unwrap();
    Vm::start(machine, &plan).unwrap()
}

#[test]
fn nothing_is_where_hardware_has_them_also_on_the_same_bus() {
    let mut vm = followed_on_its_bus();
    vm.write_word("02:00.2", NUM_VFS, 2);
    vm.write_word("02:00.2", CONTROL, 0x9);
    let there = ["02:10.1", "02:10.2", "02:10.3", "02:10.4"].map(|function| vm.read(function, 0x08) != !0);
    assert_eq!(there, [false, true, false, true]);
}

#[test]
fn the_port_forwards_by_ari_whatever_the_guest_writes_there() {
    const PORT_CONTROL_2: u16 = 0x68;
    let mut vm = followed_on_its_bus();
    assert_eq!(real(&vm, "00:01.1", PORT_CONTROL_2), 0x20);
    for value in [0x0020, 0x0001] {
        vm.write_word("00:01.1", PORT_CONTROL_2, value);
        assert_eq!((vm.read("00:01.1", PORT_CONTROL_2), real(&vm, "00:01.1", PORT_CONTROL_2)), (value, value | 0x20));
    }
}

#[test]
fn what_firmware_left_without_an_address_the_planner_places() {
    let bars = vec![(0, VfBar { kind: MEMORY_64, size: VF_SIZE, address: 0 })];
    let unassigned = Blueprint::endpoint(bdf("02:00.0"))
        .bar(0, MEMORY, 0x2_0000, 0xe100_0000)
        .capability(&Capability::Express(PortType::Endpoint))
        .extended(&ExtendedCapability::Ari { next: 0 })
        .extended(&ExtendedCapability::SrIov { total: 8, offset: 0x80, stride: 2, bars });
    let vm = followed(machine([unassigned]));
    let function = vm.machine().original(bdf("02:00.0")).unwrap();
    let config = vm.machine().function(function).config();
    assert_eq!([config[(0x108 + 0x24) / 4], config[(0x108 + 0x28) / 4]], [0x0100_000c, 0x10]);
}

/// A function whose one VF BAR, for eight, is at this address.
fn with_vf_bar(at: &str, address: u64) -> Blueprint {
    let bars = vec![(0, VfBar { kind: MEMORY_64, size: VF_SIZE, address })];
    Blueprint::endpoint(bdf(at))
        .capability(&Capability::Express(PortType::Endpoint))
        .extended(&ExtendedCapability::AdvancedErrorReporting)
        .extended(&ExtendedCapability::Ari { next: 0 })
        .extended(&ExtendedCapability::SrIov { total: 8, offset: 0x80, stride: 2, bars })
}

#[test]
fn the_planner_places_them_clear_of_virtual_functions_firmware_placed() {
    let mut machine = machine([with_vf_bar("02:00.0", 0x10_0100_0000), with_vf_bar("02:00.1", 0)]);
    let plan = Plan::new(scan(&mut machine)).with(follow("02:00.1", NIC)).unwrap();
    let mut vm = Vm::start(machine, &plan).unwrap();
    let maps = enable(&mut vm, 8);
    assert_eq!(maps, ["map mem 0x1000000000-0x100001ffff to 0x1001020000-0x100103ffff"]);
}

#[test]
fn a_bar_is_placed_clear_of_virtual_functions_that_stay() {
    let nic = Blueprint::endpoint(bdf("02:00.0")).bar(0, MEMORY_64, 0x1_0000, 0x10_0100_0000);
    let mut machine = machine([with_vf_bar("01:00.1", 0x10_0000_0000), nic]);
    let relocation = Relocation { placement: Placement::PreAssigned, ..Relocation::new(host("02:00.0"), guest(NIC)) };
    let plan = Plan::new(scan(&mut machine)).with(relocation).unwrap();
    let mut vm = Vm::start(machine, &plan).unwrap();
    assert_eq!([0x10, 0x14].map(|at| vm.read(NIC, at)), [0x0002_000c, 0x10]);
}

/// Firmware may have room for fewer than there can be.
#[test]
fn what_firmware_left_where_something_else_decodes_the_planner_places_anew() {
    let other = Blueprint::endpoint(bdf("02:00.0")).bar(0, MEMORY_64, 0x4000, 0x10_0110_8000);
    let mut machine = machine([other.multi_function(), adapter("02:00.1")]);
    let plan = Plan::new(scan(&mut machine)).with(follow("02:00.1", "02:00.2")).unwrap();
    let vm = Vm::start(machine, &plan).unwrap();
    assert_eq!([0x24, 0x28, 0x30].map(|at| real(&vm, "02:00.1", SRIOV + at)), [0x0100_000c, 0x10, 0x0112_000c]);
}

#[test]
fn the_planner_says_what_speaks_against_it() {
    let one = [follow("02:00.0", NIC)];
    assert_eq!(
        findings(machine([adapter("02:00.0")]), &one),
        ["02:00.0: its 8 Virtual Functions follow, the first at 01:11.0"]
    );
    let vfs = |total, offset, size| {
        let bars = vec![(0, VfBar { kind: MEMORY_64, size, address: 0 })];
        let nic = Blueprint::endpoint(bdf("02:00.0")).capability(&Capability::Express(PortType::Endpoint));
        nic.extended(&ExtendedCapability::Ari { next: 0 }).extended(&ExtendedCapability::SrIov {
            total,
            offset,
            stride: 1,
            bars,
        })
    };
    assert_eq!(
        findings(machine([vfs(8, 0x180, 0x1000)]), &one),
        [
            "02:00.0: its Virtual Function 03:10.0 is not reached: the port above has not its bus, or cannot forward by ARI, or something else is there"
        ]
    );
    assert_eq!(
        findings(machine([vfs(250, 0x1, 0x1000)]), &one),
        ["02:00.0: bus 01 of 01:01.0 has no room for 250 Virtual Functions"]
    );
    assert_eq!(
        findings(machine([vfs(8, 0x80, 0x40_0000)]), &one),
        ["02:00.0: VF BAR 0 has no address on the host, and no window has room for all Virtual Functions"]
    );
    assert_eq!(
        findings(machine([vfs(8, 0, 0x1000)]), &one),
        [
            "02:00.0: where its Virtual Functions are, or what they decode, is not known; disable them before the scan, or hide them"
        ]
    );
    let strict = Relocation { policy: Policy::Strict, ..one[0] };
    assert_eq!(findings(machine([adapter("02:00.0")]), &[strict]), Vec::<String>::new());
}

/// Two adapters on one bus in the guest's view, one of which has the other's numbers in hardware.
#[test]
fn those_of_two_functions_keep_out_of_each_others_way() {
    let second = Blueprint::endpoint(bdf("03:00.0"))
        .bar(0, MEMORY, 0x1000, 0xe200_0000)
        .capability(&Capability::Express(PortType::Endpoint))
        .extended(&ExtendedCapability::Ari { next: 0 })
        .extended(&ExtendedCapability::SrIov {
            total: 8,
            offset: 0x78,
            stride: 2,
            bars: vec![(0, VfBar { kind: MEMORY_64, size: 0x1000, address: 0 })],
        });
    let port = Blueprint::port(bdf("00:02.0"), PortType::RootPort, 3..=3, windows(0xe200_0000));
    let moves = [follow("02:00.0", NIC), follow("03:00.0", "01:02.0")];
    assert_eq!(
        findings(machine([adapter("02:00.0"), port, second]), &moves),
        [
            "02:00.0: its 8 Virtual Functions follow, the first at 01:11.0",
            "03:00.0: its 8 Virtual Functions follow, the first at 01:02.1"
        ]
    );
}

#[test]
fn every_page_of_theirs_is_trapped() {
    let vm = followed(machine([adapter("02:00.0")]));
    let traps: Vec<_> = vm.remapper().traps().collect();
    for function in virtual_functions(NIC, 8).into_iter().chain(virtual_functions("02:00.0", 8)) {
        assert!(traps.iter().any(|range| (range.first.0..=range.last.0).contains(&function)), "{function}");
    }
}
