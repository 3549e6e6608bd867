//! What becomes of the ports on a moved function's way, and of the place it left.
//!
//! Each rule is tested by what is gone when it is removed.
//!
//! | rule (in `src/remapper`) | test |
//! |---|---|
//! | `port.rs` `keep_forwarding`, `silence`: a port left empty | [`a_port_left_empty_is_woken_and_silenced_before_the_guest_starts`] |
//! | `port.rs` `silence`: a port with siblings left | [`a_guarded_port_is_woken_and_only_what_is_hidden_is_silenced`] |
//! | `port.rs` `silence`: a port that shows as another, or with nothing wired behind it | [`a_destination_port_signals_nothing_the_guest_does_not_see`], [`a_port_that_shows_as_another_contains_no_errors`] |
//! | `replay.rs` `can_forget`: what is silent stays so | [`what_a_destination_port_does_not_show_is_silent_after_a_sleep`] |
//! | `port.rs` `is_hidden`, `is_hidden_extended`: power states, DPC, agreements | [`a_guarded_port_has_no_power_states_and_contains_no_errors`], [`a_guarded_port_shows_nothing_that_has_to_agree_with_the_function_that_left`] |
//! | `port.rs` `name_requesters`: error sources | [`an_error_is_not_blamed_on_who_has_the_address_of_the_function_that_left`] |
//! | `guarded_port.rs` `guard_port`: open windows are kept, closed ones are not | [`a_guarded_port_opens_windows_firmware_left_closed`] |
//! | `guarded_port.rs` `guard_express`: slot, payload size, agreements | [`a_guarded_port_has_no_slot_and_keeps_its_payload_size`], [`a_guarded_port_offers_only_what_is_on`] |
//! | `guarded_port.rs` `freeze_link` of the port | [`a_guarded_port_keeps_its_link`] |
//! | `guarded_port.rs` `leave_link_alone` of siblings | [`functions_left_behind_leave_the_link_alone`] |
//! | `destination_port.rs` `show_ari`, `touched.rs` `chain_to`, `unchain` | [`a_chain_leads_to_the_function_and_hardware_does_not_forward_by_it`], [`without_a_chain_the_first_function_names_none`] |
//! | `destination_port.rs` `show_upstream_port` | [`an_upstream_port_has_no_slot_no_root_registers_and_contains_no_errors`] |
//! | `destination_port.rs` `show_pci_x_bridge` | [`a_pci_x_bridge_stands_where_the_port_was`] |
//! | `plan/ports.rs` `payload`, `build.rs` `agree_on_payloads`: who stays behind the port, or moves on its bus | [`a_port_sends_what_is_wired_behind_it_no_more_than_that_takes_whatever_the_port_shows_as`], [`what_stays_behind_a_conventional_bridge_has_the_payload_size_of_the_port`], [`all_on_the_way_down_agree_on_a_payload_size_whatever_is_kept_of_it`], [`a_guarded_port_sends_what_stays_behind_it_no_more_than_that_takes`] |
//! | `destination_port.rs` `show_pci_x_bridge`: what the guest does not restore | [`a_port_that_shows_as_a_conventional_bridge_has_its_payload_size_after_a_sleep`] |
//! | `destination_port.rs` `show_ari` where there is no chain | [`every_way_leads_to_the_function_and_to_nothing_else`] |
//! | `destination_port.rs` `pretend_link` | [`a_port_with_nothing_wired_behind_it_shows_a_link_that_is_up`], [`a_reset_of_an_empty_link_does_not_happen`] |
//! | `bus_reset.rs` `reset_by` | [`a_reset_of_the_bus_a_device_moved_to_is_one_of_the_bus_it_is_wired_to`] |
//! | `inert.rs` | [`an_inert_function_is_nobodys`], [`siblings_stay_reachable_behind_an_inert_function_0`], [`a_placeholder_keeps_the_address_and_the_port_awake`] |
//! | `port.rs` `show_conventional_bridge` | `registers.rs`: `whatever_is_written_to_a_port_left_empty_hardware_stays_as_it_is`, `what_is_written_to_the_header_of_a_port_left_empty_reads_back`, `the_subsystem_of_a_port_left_empty_is_shown_and_nothing_else` |
//! | `port.rs` `is_hidden`, `build.rs` `empty_vacated`: a port functions left and others came to | [`a_port_functions_left_and_others_came_to_is_guarded_and_leads_to_nothing_else`] |
//! | `build.rs` `empty_vacated`: phantom clones | [`every_way_leads_to_the_function_and_to_nothing_else`] |

mod support;

use std::collections::BTreeSet;

use pci_remap::plan::{Vacated, Way};
use pci_remap::sim::guest::life::{Life, Step};
use pci_remap::sim::guest::{Kind, boot};
use pci_remap::sim::machine::{
    Blueprint, Builder, Capability, ExtendedCapability, Machine, Quirks, Undelivered, Wake, Windows, signature,
};
use pci_remap::sim::platform::Platform;
use pci_remap::sim::vm::Vm;
use pci_remap::spec::express::PortType;
use pci_remap::spec::header::Command;
use pci_remap::{Access, Bdf, Dword, Guest, Plan, PlanError, ReadDecision};
use support::*;

const NIC: &str = "01:01.0";
const DESTINATION: &str = "00:01.0";
const SOURCE: &str = "00:01.1";
/// Where the registers of a port built by `Blueprint::port` are: Express at 40h, Power Management at 7Ch.
const LINK_CAPABILITIES: u16 = 0x4c;
const LINK_CONTROL: u16 = 0x50;
const PMCSR: u16 = 0x80;

fn dword(offset: u16) -> Dword {
    Dword::at(offset).unwrap()
}

fn display() -> Blueprint {
    Blueprint::endpoint(bdf("01:00.0"))
        .bar(0, MEMORY, 0x10_0000, 0xe000_0000)
        .capability(&Capability::Express(PortType::Endpoint))
        .extended(&ExtendedCapability::SerialNumber(1))
}

/// A display that can name another function.
fn chaining_display() -> Blueprint {
    display().extended(&ExtendedCapability::Ari { next: 0 })
}

fn destination_port() -> Blueprint {
    Blueprint::port(bdf(DESTINATION), PortType::RootPort, 1..=1, windows(0xe000_0000))
}

fn source_port() -> Blueprint {
    Blueprint::port(bdf(SOURCE), PortType::RootPort, 2..=2, windows(0xe100_0000))
}

/// Two ports, and the functions behind them.
fn pc(ports: [Blueprint; 2], functions: impl IntoIterator<Item = Blueprint>) -> Machine {
    let builder = Builder::new().root(0..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY, Builder::PORTS]);
    ports.into_iter().chain(functions).fold(builder, Builder::function).build().unwrap()
}

/// A function that stays where the NIC leaves.
fn sibling() -> Blueprint {
    Blueprint::endpoint(bdf("02:00.0"))
        .bar(0, MEMORY, 0x1000, 0xe110_0000)
        .capability(&Capability::Express(PortType::Endpoint))
}

/// The NIC moves away from a port behind which its sibling stays.
fn guarded_by(port: Blueprint) -> Vm {
    moved(pc([destination_port(), port], [display(), sibling(), nic("02:00.1")]), &[("02:00.1", NIC)])
}

fn guarded() -> Vm {
    guarded_by(source_port())
}

/// The NIC moves to a port nothing is wired behind.
fn alone() -> Vm {
    moved(pc([destination_port(), source_port()], [nic("02:00.0")]), &[("02:00.0", "01:00.0")])
}

/// The talk's move, with the display chaining, and the destination port showing in this way.
fn by(way: Way) -> Vm {
    by_port(destination_port(), way)
}

fn by_port(port: Blueprint, way: Way) -> Vm {
    // Hardware that would show the display 32 times.
    let port = port.quirk(Quirks::FORWARDS_EVERY_DEVICE);
    let display = chaining_display().quirk(Quirks::ANSWERS_EVERY_DEVICE);
    let mut machine = pc([port, source_port()], [display, nic("02:00.0")]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest(NIC)).unwrap();
    Vm::start(machine, &plan.find_behind(host(DESTINATION), way).unwrap()).unwrap()
}

fn real(vm: &Vm, function: &str, offset: u16) -> u32 {
    vm.machine().peek(vm.machine().original(bdf(function)).unwrap(), dword(offset))
}

/// Writes ones and zeros to all of a register, and tells which bits of the hardware's that changed.
fn reached(vm: &mut Vm, function: &str, offset: u16) -> u32 {
    let before = real(vm, function, offset);
    [!0, 0].iter().fold(0, |changed, value| {
        vm.write(function, offset, *value);
        changed | real(vm, function, offset) ^ before
    })
}

/// What the host writes before the guest starts.
fn preparation(vm: &Vm) -> Vec<String> {
    vm.remapper().preparation().map(|write| format!("{} <- {:x}", write.to.0, write.value)).collect()
}

fn capability_ids(vm: &mut Vm, function: &str) -> Vec<u32> {
    let mut pointer = vm.read(function, 0x34) & 0xfc;
    let mut ids = Vec::new();
    while pointer != 0 {
        let entry = vm.read(function, u16::try_from(pointer).unwrap());
        ids.push(entry & 0xff);
        pointer = entry >> 8 & 0xfc;
    }
    ids
}

#[test]
fn a_port_left_empty_is_woken_and_silenced_before_the_guest_starts() {
    assert_eq!(preparation(&talk()), [""; 0], "a port that is silent is left alone");
    let vm = moved(pc([destination_port(), noisy_port()], [display(), nic("02:00.0")]), &[("02:00.0", NIC)]);
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
            // Root Error Command, DPC Control.
            "00:01.1 12Ch lanes 0001 <- 0",
            "00:01.1 14Ch lanes 1100 <- 0",
        ]
    );
}

/// A port firmware left asleep, with all interrupts on.
fn noisy_port() -> Blueprint {
    signalling(source_port())
        .command(Command::MEMORY_SPACE_ENABLE)
        .register(dword(PMCSR), 0x0000_000b)
        .quirk(Quirks::FORWARDS_ASLEEP)
}

fn signalling(port: Blueprint) -> Blueprint {
    port.extended(&ExtendedCapability::AdvancedErrorReporting)
        .register(dword(LINK_CONTROL), 0x1043_0c40)
        .register(dword(0x58), 0x0000_1038)
        .register(dword(0x5c), 0x0001_001f)
        .register(dword(0x12c), 0x0000_0007)
        // Downstream Port Containment, enabled for fatal errors.
        .register(dword(0x100), 0x1482_0001)
        .register(dword(0x148), 0x0001_001d)
        .register(dword(0x14c), 0x0009_0000)
}

#[test]
fn a_guarded_port_is_woken_and_only_what_is_hidden_is_silenced() {
    assert_eq!(
        preparation(&guarded_by(noisy_port())),
        [
            "00:01.1 04h lanes 0001 <- 7",
            "00:01.1 80h lanes 0001 <- 8",
            "00:01.1 50h lanes 0010 <- 0",
            "00:01.1 58h lanes 0011 <- 0",
            "00:01.1 14Ch lanes 1100 <- 0",
        ]
    );
}

/// Bandwidth notification, the slot's, PME and system errors, Root Error Command, DPC Control of the destination port.
const SILENCE: [&str; 5] = [
    "00:01.0 50h lanes 0010 <- 0",
    "00:01.0 58h lanes 0011 <- 0",
    "00:01.0 5Ch lanes 0001 <- 10",
    "00:01.0 12Ch lanes 0001 <- 0",
    "00:01.0 14Ch lanes 1100 <- 0",
];

#[test]
fn a_destination_port_signals_nothing_the_guest_does_not_see() {
    for way in [Way::UpstreamPort, Way::ConventionalBridge] {
        assert_eq!(preparation(&by_port(signalling(destination_port()), way)), SILENCE, "{way:?}");
    }
    for way in [Way::AriChain, Way::AsIs] {
        assert_eq!(preparation(&by_port(signalling(destination_port()), way)), [""; 0], "{way:?} shows all of it");
    }
    let ports = [signalling(destination_port()), source_port()];
    let empty = moved(pc(ports, [nic("02:00.0")]), &[("02:00.0", "01:00.0")]);
    assert_eq!(preparation(&empty), SILENCE[..2], "no slot and no bandwidth notification");
}

#[test]
fn what_a_destination_port_does_not_show_is_silent_after_a_sleep() {
    for way in [Way::UpstreamPort, Way::ConventionalBridge] {
        let mut vm = by_port(signalling(destination_port()), way);
        vm.suspend_to_ram();
        let replayed: Vec<_> =
            vm.replayed_writes().iter().map(|write| format!("{} <- {:x}", write.to, write.value)).collect();
        assert!(SILENCE.iter().all(|write| replayed.contains(&(*write).to_owned())), "{way:?}: {replayed:?}");
    }
}

/// Firmware left containment of fatal errors on. The guest would never end it.
#[test]
fn a_port_that_shows_as_another_contains_no_errors() {
    for way in [Way::UpstreamPort, Way::ConventionalBridge] {
        let mut vm = by_port(signalling(destination_port()), way);
        // Fatal errors are reported; the port sends more than the display takes.
        let machine = vm.machine_mut();
        write(machine, "01:00.0", 0x48, 0x2814);
        write(machine, DESTINATION, 0x48, 0x2830);
        write(machine, "01:00.0", 0x04, 0x0006);
        assert_eq!(machine.dma_read(bdf("01:00.0"), 0x1000, 0x1000), Err(Undelivered::Malformed(bdf("01:00.0"))));
        assert_eq!(real(&vm, DESTINATION, 0x150) & 1, 0, "{way:?}: the link is not taken down");
        assert_ne!(vm.read("01:00.0", 0), !0, "{way:?}");
    }
}

#[test]
fn a_guarded_port_has_no_power_states_and_contains_no_errors() {
    let port = noisy_port().register(dword(0x148), 0x1581_001d).register(dword(0x158), 0x0001_001f);
    let mut vm = guarded_by(port);
    assert_eq!(capability_ids(&mut vm, SOURCE), [0x10, 0x05]);
    // AER stays; DPC and PTM are unlinked.
    assert_eq!(vm.read(SOURCE, 0x100), 0x0002_0001);
    for offset in [PMCSR, 0x14c, 0x15c] {
        assert_eq!((vm.read(SOURCE, offset), reached(&mut vm, SOURCE, offset)), (0, 0), "{offset:#x}");
    }
}

#[test]
fn a_guarded_port_has_no_slot_and_keeps_its_payload_size() {
    let slot = source_port()
        .register(dword(0x40), 0x0142_7c10)
        .register(dword(0x54), 0x0000_007b)
        .register(dword(0x58), 0x0040_0000)
        .register(dword(0x48), 0x0000_2830);
    let mut vm = guarded_by(slot);
    assert_eq!(vm.read(SOURCE, 0x40) >> 24 & 1, 0);
    assert_eq!([vm.read(SOURCE, 0x54), vm.read(SOURCE, 0x58)], [0, 0]);
    assert_eq!(reached(&mut vm, SOURCE, 0x58), 0);
    vm.write_word(SOURCE, 0x48, 0x0000_000f);
    assert_eq!(vm.read(SOURCE, 0x48) & 0xffff, 0x000f, "it reads what the guest wrote");
    assert_eq!(real(&vm, SOURCE, 0x48) & 0xffff, 0x002f, "error reports are the guest's, the payload size is not");
}

#[test]
fn a_guarded_port_offers_only_what_is_on() {
    // LTR, ARI and OBFF.
    let all = 0x000c_0820;
    let port = || source_port().register(dword(0x64), all);
    let mut vm = guarded_by(port());
    assert_eq!((vm.read(SOURCE, 0x64) & all, real(&vm, SOURCE, 0x64) & all), (0, all));
    assert_eq!(reached(&mut vm, SOURCE, 0x68), 0);
    let on = port().register(dword(0x68), 0x0000_0400);
    assert_eq!(guarded_by(on).read(SOURCE, 0x64) & all, 0x0800);
}

#[test]
fn a_guarded_port_keeps_its_link() {
    let port = source_port().register(dword(LINK_CAPABILITIES), 0x0077_fc43).register(dword(LINK_CONTROL), 0xf043_0042);
    let mut vm = guarded_by(port);
    // No ASPM, no Clock Power Management, no reports of activity and bandwidth.
    assert_eq!(vm.read(SOURCE, LINK_CAPABILITIES), 0x0043_f043);
    assert_eq!(vm.read(SOURCE, LINK_CONTROL), 0x1043_0042);
    // Link Disable, Retrain, common clock; Target Link Speed.
    vm.write_word(SOURCE, LINK_CONTROL, 0x0070);
    assert_eq!(vm.read(SOURCE, LINK_CONTROL), 0x1043_0050, "all but Retrain Link reads back");
    assert_eq!(reached(&mut vm, SOURCE, LINK_CONTROL), 0);
    vm.write_word(SOURCE, 0x70, 1);
    assert_eq!((vm.read(SOURCE, 0x70) & 0xf, real(&vm, SOURCE, 0x70) & 0xf), (1, 3));
}

#[test]
fn functions_left_behind_leave_the_link_alone() {
    let mut vm = guarded();
    assert_eq!(vm.read("02:00.0", LINK_CAPABILITIES) & 0x0004_0c00, 0, "no ASPM and no Clock Power Management");
    assert_eq!(reached(&mut vm, "02:00.0", LINK_CONTROL), 0);
    let stays = moved(pc([destination_port(), source_port()], [display(), nic("02:00.0")]), &[("02:00.0", NIC)]);
    assert!(stays.remapper().to_host(guest("01:00.0")).is_none(), "another link is nobody's business");
}

#[test]
fn a_guarded_port_opens_windows_firmware_left_closed() {
    let io =
        Windows { io: Some(span(0x3000, 0x1000)), memory: Some(span(0xe100_0000, 0x100_0000)), prefetchable: None };
    let port = Blueprint::port(bdf(SOURCE), PortType::RootPort, 2..=2, io);
    let nic = Blueprint::endpoint(bdf("02:00.1")).bar(0, MEMORY, 0x1000, 0xe100_0000);
    let machine = pc([destination_port(), port], [display(), sibling(), nic]);
    let mut vm = moved(machine, &[("02:00.1", NIC)]);
    assert_eq!(reached(&mut vm, SOURCE, 0x20), 0, "the NIC's window stays");
    assert_eq!(reached(&mut vm, SOURCE, 0x1c) & 0xffff, 0, "and so does an open I/O window");
    assert_ne!(reached(&mut vm, SOURCE, 0x24), 0, "no prefetchable window was open");
}

#[test]
fn every_way_leads_to_the_function_and_to_nothing_else() {
    for way in [Way::AriChain, Way::UpstreamPort, Way::ConventionalBridge, Way::AsIs] {
        let mut vm = by(way);
        for phantom in (0x10..=0xff).map(|devfn| Bdf::from_routing_id(0x0100 | devfn)).filter(|bdf| bdf.device() > 1) {
            assert_eq!(vm.read(&phantom.to_string(), 0), !0, "{way:?}: {phantom}");
        }
        for kind in Kind::ALL {
            let mut vm = by(way);
            let tree = boot(kind, &mut vm).tree;
            let found: BTreeSet<_> = tree.devices.iter().map(|device| device.bdf.to_string()).collect();
            let looks = way != Way::AsIs || !matches!(kind, Kind::Linux61 | Kind::Linux615);
            let mut expected = BTreeSet::from([DESTINATION, SOURCE, "01:00.0"].map(String::from));
            expected.extend(looks.then(|| NIC.to_owned()));
            assert_eq!(found, expected, "{way:?}, {kind:?}");
            let Some(nic) = tree.device(bdf(NIC)) else { continue };
            assert_eq!(nic.read(&mut vm, 0, 8), Some(signature(0, bdf("02:00.0"), 0, 8)), "{way:?}, {kind:?}");
            if kind == Kind::Linux61 || kind == Kind::Linux615 {
                assert_eq!([nic.config_size, tree.device(bdf("01:00.0")).unwrap().config_size], [4096; 2], "{way:?}");
            }
        }
    }
}

#[test]
fn a_chain_is_chosen_where_it_can_be_and_the_first_function_is_no_card_to_be_pulled_out() {
    let way = |port: Blueprint, display: Blueprint| {
        let mut machine = pc([port, source_port()], [display, nic("02:00.0")]);
        let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest(NIC)).unwrap();
        let text = plan.findings().map(|finding| finding.to_string()).find(|text| text.contains("show"));
        text.unwrap().split(';').next().unwrap().to_owned()
    };
    let chain = "02:00.0: the functions behind 00:01.0 show as a chain (ARI) that leads to 01:01.0";
    let upstream = "02:00.0: 00:01.0 is shown as an Upstream Port, so that 01:01.0 is looked for behind it";
    assert_eq!(way(destination_port(), chaining_display()), chain);
    assert_eq!(way(destination_port(), display()), upstream);
    let hot_plug = destination_port().register(dword(0x40), 0x0142_7c10).register(dword(0x54), 0x0000_0060);
    assert_eq!(way(hot_plug, chaining_display()), upstream);
    let virtual_functions = ExtendedCapability::SrIov { total: 8, offset: 8, stride: 1, bars: Vec::new() };
    assert_eq!(way(destination_port(), chaining_display().extended(&virtual_functions)), upstream);
}

#[test]
fn a_chain_leads_to_the_function_and_hardware_does_not_forward_by_it() {
    let mut vm = by(Way::AriChain);
    // Serial Number at 100h, ARI at 10Ch.
    assert_eq!([vm.read("01:00.0", 0x10c) & 0xffff, vm.read("01:00.0", 0x110)], [0x000e, 0x0800]);
    assert_eq!(vm.read("01:00.0", 0x0c) >> 23 & 1, 1, "FreeBSD follows the chain only behind this bit");
    assert_eq!(vm.read(DESTINATION, 0x64) & 0x20, 0x20);
    vm.write_word(DESTINATION, 0x68, 0x0025);
    assert_eq!((vm.read(DESTINATION, 0x68) & 0xffff, real(&vm, DESTINATION, 0x68) & 0xffff), (0x25, 0x05));
    assert!(vm.read(DESTINATION, 0x40) >> 20 & 0xf == 4, "it is a Root Port as before");
}

#[test]
fn a_chain_goes_on_through_functions_that_moved_there() {
    let second = nic("02:00.0").extended(&ExtendedCapability::Ari { next: 0 });
    let machine =
        pc([destination_port(), source_port()], [chaining_display(), second, Blueprint::endpoint(bdf("00:05.0"))]);
    let mut vm = moved(machine, &[("02:00.0", NIC), ("00:05.0", "01:03.0")]);
    let tree = boot(Kind::Linux61, &mut vm).tree;
    assert!(tree.device(bdf(NIC)).is_some() && tree.device(bdf("01:03.0")).is_some());
    assert_eq!(vm.read(DESTINATION, 0x40) >> 20 & 0xf, 4);
}

/// Two functions change places, and both have an error: each has the other's address in hardware.
#[test]
fn an_error_is_not_blamed_on_who_has_the_address_of_the_function_that_left() {
    let with_errors = |port: Blueprint| port.extended(&ExtendedCapability::AdvancedErrorReporting);
    let ports = [destination_port(), source_port()].map(with_errors);
    let mut vm = moved(pc(ports, [display(), nic("02:00.0")]), &[("02:00.0", "01:00.0"), ("01:00.0", "02:00.0")]);
    let sources = dword(0x134);
    for (port, requester, named) in [(DESTINATION, 0x0100, 0x0200), (SOURCE, 0x0200, 0x0100)] {
        let id = vm.machine().original(bdf(port)).unwrap();
        vm.machine_mut().poke(id, sources, requester << 16 | requester);
        assert_eq!(vm.read(port, 0x100) & 0xffff, 0x0001, "the capability is shown");
        assert_eq!(vm.read(port, sources.offset()), named << 16 | named, "{port}");
    }
}

#[test]
fn without_a_chain_the_first_function_names_none() {
    let machine = pc([destination_port(), source_port()], [chaining_display(), nic("02:00.0")]);
    let mut vm = moved(machine, &[("02:00.0", "01:00.1")]);
    assert_eq!((vm.read("01:00.0", 0x100) >> 20, vm.read("01:00.0", 0x110)), (0, 0));
}

#[test]
fn an_upstream_port_has_no_slot_no_root_registers_and_contains_no_errors() {
    let noisy = noisy_port().register(dword(0x40), 0x0142_7c10).register(dword(0x54), 0x0000_0060);
    let machine = pc([destination_port(), noisy], [display(), sibling()]);
    let mut vm = moved(machine, &[("01:00.0", "02:01.0")]);
    assert_eq!(vm.read(SOURCE, 0x40) >> 16, 0x0052);
    for offset in [0x54, 0x58, 0x5c, 0x60] {
        assert_eq!((vm.read(SOURCE, offset), reached(&mut vm, SOURCE, offset)), (0, 0), "{offset:#x}");
    }
    assert_eq!((vm.read(SOURCE, 0x100), vm.read(SOURCE, 0x14c)), (0x0002_0001, 0));
}

#[test]
fn a_pci_x_bridge_stands_where_the_port_was() {
    let port = destination_port().extended(&ExtendedCapability::AdvancedErrorReporting);
    let mut vm = by_port(port, Way::ConventionalBridge);
    assert_eq!(capability_ids(&mut vm, DESTINATION), [0x07, 0x01, 0x05]);
    assert_eq!([vm.read(DESTINATION, 0x40), vm.read(DESTINATION, 0x44)], [0x0000_7c07, 0xc000_0000]);
    for offset in (0x44..0x7c).step_by(4).chain((0x100..0x1000).step_by(4)) {
        assert_eq!(reached(&mut vm, DESTINATION, offset), 0, "{offset:#x}");
        assert!(offset == 0x44 || vm.read(DESTINATION, offset) == 0, "{offset:#x}");
    }
    assert_ne!(reached(&mut vm, DESTINATION, 0x20), 0, "windows are the hardware's");
}

#[test]
fn a_port_with_nothing_wired_behind_it_shows_a_link_that_is_up() {
    let mut vm = moved(
        pc(
            [
                destination_port()
                    .register(dword(0x40), 0x0142_7c10)
                    .register(dword(LINK_CAPABILITIES), 0x0077_fc43)
                    .register(dword(LINK_CONTROL), 0xc811_0040),
                source_port(),
            ],
            [nic("02:00.0")],
        ),
        &[("02:00.0", "01:00.0")],
    );
    assert_eq!(capability_ids(&mut vm, DESTINATION), [0x10, 0x05], "no power states");
    assert_eq!(vm.read(DESTINATION, 0x40) >> 16, 0x0042, "no slot");
    assert_eq!(vm.read(DESTINATION, LINK_CAPABILITIES) >> 21 & 1, 0, "no bandwidth notification");
    assert_eq!(vm.read(DESTINATION, LINK_CONTROL), 0x2043_0040, "active, not training, as good as it gets");
    vm.write_word(DESTINATION, LINK_CONTROL, 0x0060);
    assert_eq!(real(&vm, DESTINATION, LINK_CONTROL) & 0x20, 0, "nothing to retrain");
    let trained = by(Way::AriChain).read(DESTINATION, LINK_CONTROL);
    assert_eq!(trained, 0x3043_0040, "a real link is the hardware's");
}

#[test]
fn a_reset_of_an_empty_link_does_not_happen() {
    let mut machine = pc([destination_port(), source_port()], [sibling(), nic("02:00.1")]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.1"), guest("01:00.0")).unwrap();
    let texts: Vec<_> = plan.findings().map(|finding| finding.to_string()).collect();
    let lost = "02:00.1: a bus reset by 00:01.0 does not reach 01:00.0: it is wired elsewhere, and not alone";
    assert!(texts.contains(&lost.into()), "{texts:?}");
    let mut vm = Vm::start(machine, &plan).unwrap();
    assert_eq!(reached(&mut vm, DESTINATION, 0x3c), 0);
    vm.write_word(DESTINATION, 0x3e, 0x0042);
    assert_eq!(vm.read(DESTINATION, 0x3c) >> 16, 0x0042);
    assert_eq!(real(&vm, SOURCE, 0x3c) >> 16 & 0x40, 0, "the sibling is not reset");
}

#[test]
fn a_reset_of_the_bus_a_device_moved_to_is_one_of_the_bus_it_is_wired_to() {
    let mut vm = alone();
    vm.write("01:00.0", 0x10, 0xe000_0000);
    vm.write_word("01:00.0", 0x04, 0x0006);
    assert_eq!(vm.second_stage().mappings().len(), 1);
    let before = vm.made_writes().len();
    vm.write_word(DESTINATION, 0x3e, 0x0043);
    assert_eq!(vm.second_stage().mappings(), [], "what is being reset does not decode");
    assert!(vm.remapper().has_forgotten(host("02:00.0")));
    vm.write_word(DESTINATION, 0x3e, 0x0003);
    let made: Vec<_> =
        vm.made_writes()[before..].iter().map(|write| format!("{} <- {:x}", write.to, write.value)).collect();
    assert_eq!(made, ["00:01.1 3Ch lanes 1100 <- 400000", "00:01.1 3Ch lanes 1100 <- 0"]);
    assert_eq!(vm.read(DESTINATION, 0x3c) >> 16, 0x0003, "the other bits are the guest's");
}

/// Of two functions of a device the first moves; the second may be in the plan too, where it is.
fn first_leaves(vacated: Vacated, keeps_second: bool) -> Result<Vm, PlanError> {
    let second = Blueprint::endpoint(bdf("02:00.1"))
        .bar(0, MEMORY, 0x1000, 0xe110_0000)
        .capability(&Capability::Express(PortType::Endpoint));
    let mut machine = pc([destination_port(), source_port()], [display(), nic("02:00.0"), second]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest(NIC)).unwrap();
    let plan = if keeps_second { plan.relocate(host("02:00.1"), guest("02:00.1")).unwrap() } else { plan };
    Vm::start(machine, &plan.vacated(vacated))
}

#[test]
fn siblings_stay_reachable_behind_an_inert_function_0() {
    assert!(matches!(first_leaves(Vacated::Empty, false), Err(PlanError::Refused(_))));
    for kind in Kind::ALL {
        // edk2 places everything anew, while the port's windows stay: what is behind it has to be in the plan.
        let mut vm = first_leaves(Vacated::InertFirst, kind == Kind::Edk2).unwrap();
        let tree = boot(kind, &mut vm).tree;
        let second = tree.device(bdf("02:00.1")).unwrap();
        assert_eq!(second.read(&mut vm, 0, 4), Some(signature(0, bdf("02:00.1"), 0, 4)), "{kind:?}");
        let nic = tree.device(bdf(NIC)).unwrap();
        assert_eq!(nic.read(&mut vm, 0, 4), Some(signature(0, bdf("02:00.0"), 0, 4)), "{kind:?}");
        let inert = tree.device(bdf("02:00.0")).unwrap();
        assert_eq!((inert.multi_function, inert.class.0), (true, 0xff_0000), "{kind:?}");
    }
}

#[test]
fn an_inert_function_is_nobodys() {
    let mut vm = first_leaves(Vacated::InertFirst, false).unwrap();
    assert_eq!(
        [0x00, 0x08, 0x0c, 0x34].map(|offset| vm.read("02:00.0", offset)),
        [0xffff_8086, 0xff00_0000, 0x80_0000, 0x40]
    );
    assert_eq!(capability_ids(&mut vm, "02:00.0"), [0x10], "an Endpoint without power states");
    // No limits to latency, Role-Based Error Reporting, no reset; no ASPM; the link is the real one's.
    assert_eq!([0x40, 0x44, 0x4c].map(|offset| vm.read("02:00.0", offset)), [0x0002_0010, 0x0000_8fc1, 0x0043_f043]);
    assert_eq!(vm.read("02:00.0", 0x50), 0x1043_0040);
    for offset in (0..0x1000).step_by(4) {
        vm.write("02:00.0", offset, !0);
    }
    assert_eq!(vm.read("02:00.0", 0x04), 0x0010_0507);
    // Interrupt Line; Device Control, Device Control 2, the link's speeds, Link Control 2.
    let kept = [0x3c, 0x48, 0x68, 0x6c, 0x70].map(|offset| vm.read("02:00.0", offset));
    assert_eq!(kept, [0xff, 0x7fff, 0xffff, 0xe, 0x0001_ffff]);
    assert_eq!(vm.made_writes(), []);
    assert_eq!(vm.remapper().to_host(guest("02:00.0")), Some(None));
    assert_eq!(vm.remapper().to_guest(host("02:00.0")), Some(guest(NIC)));
    assert_eq!(vm.second_stage().mappings(), []);
}

/// The NIC left its sibling, and the display came from the other port.
#[test]
fn a_port_functions_left_and_others_came_to_is_guarded_and_leads_to_nothing_else() {
    for way in [Way::UpstreamPort, Way::ConventionalBridge] {
        let mut machine = pc([destination_port(), source_port()], [display(), sibling(), nic("02:00.1")]);
        let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.1"), guest(NIC)).unwrap();
        let plan = plan.relocate(host("01:00.0"), guest("02:01.0")).unwrap();
        let mut vm = Vm::start(machine, &plan.find_behind(host(SOURCE), way).unwrap()).unwrap();
        assert!(!capability_ids(&mut vm, SOURCE).contains(&0x01), "{way:?}: no power states");
        assert_eq!(vm.read("02:01.0", 0), 0x1572_8086);
        let elsewhere = (2..32).map(|device| Guest(Access::whole(Bdf::new(2, device, 0).unwrap(), dword(0))));
        for access in elsewhere {
            assert_eq!(vm.remapper().read(access), ReadDecision::Hide, "{way:?}: {access}");
        }
    }
}

#[test]
fn a_placeholder_keeps_the_address_and_the_port_awake() {
    let mut machine = pc([destination_port(), source_port()], [display(), nic("02:00.0")]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest(NIC)).unwrap();
    let mut vm = Vm::start(machine, &plan.vacated(Vacated::Placeholder)).unwrap();
    assert_eq!((vm.read("02:00.0", 0), vm.read("02:00.0", 0x0c)), (0xffff_8086, 0), "without siblings");
    assert_eq!(capability_ids(&mut vm, SOURCE), [0x10, 0x05], "a port with something behind it, always in D0");
    let tree = boot(Kind::Linux61, &mut vm).tree;
    assert!(tree.device(bdf(NIC)).is_some());
    // The guest keeps the addresses for it, and nothing answers there.
    let kept: Vec<_> = tree.device(bdf("02:00.0")).unwrap().bars.iter().filter_map(|bar| bar.span).collect();
    assert_eq!(kept, [span(0xe100_0000, 0x2_0000), span(0x10_0100_0000, 0x8000)]);
    assert_eq!(vm.memory_read(0xe100_0000, pci_remap::Width::Dword), !0);
    let mut empty = talk();
    assert_eq!(empty.read("02:00.0", 0), !0, "nothing is there unless the plan says so");
}

#[test]
fn a_guarded_port_shows_nothing_that_has_to_agree_with_the_function_that_left() {
    // Flattening Portal Bridge where MSI was.
    let renumbering = source_port().register(dword(0x84), 0x0000_0015);
    assert_eq!(capability_ids(&mut guarded_by(renumbering), SOURCE), [0x10]);
    // Virtual Channel, DPC, L1 PM Substates, PTM.
    for id in [0x02, 0x1d, 0x1e, 0x1f] {
        let port = source_port()
            .extended(&ExtendedCapability::AdvancedErrorReporting)
            .register(dword(0x100), 0x1482_0001)
            .register(dword(0x148), 0x0001_0000 | id);
        let mut vm = guarded_by(port);
        assert_eq!((vm.read(SOURCE, 0x100), vm.read(SOURCE, 0x148)), (0x0002_0001, 0), "{id:#x}");
    }
}

#[test]
fn functions_hardware_has_at_other_device_numbers_stay_where_they_are() {
    let port = destination_port().register(dword(0x68), 0x0000_0020);
    let first = display().extended(&ExtendedCapability::Ari { next: 8 });
    let eighth = Blueprint::endpoint(bdf("01:01.0")).capability(&Capability::Express(PortType::Endpoint));
    let eighth = eighth.extended(&ExtendedCapability::Ari { next: 0 });
    let mut machine = pc([port, source_port()], [first, eighth, nic("02:00.0")]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest("01:02.0")).unwrap();
    for way in [Way::AriChain, Way::UpstreamPort] {
        let plan = plan.clone().find_behind(host(DESTINATION), way).unwrap();
        let tree = boot(Kind::Linux61, &mut Vm::start(machine.clone(), &plan).unwrap()).tree;
        assert!(["01:00.0", "01:01.0", "01:02.0"].iter().all(|found| tree.device(bdf(found)).is_some()), "{way:?}");
    }
}

/// Where Device Capabilities and Device Control of functions are that have PCI Express first.
const DEVICE_CAPABILITIES: u16 = 0x44;
const DEVICE_CONTROL: u16 = 0x48;

/// Max_Payload_Size in bytes, and whether a read of memory is answered in payloads the function takes.
fn payloads<const N: usize>(vm: &mut Vm, functions: [&str; N], reader: &str) -> ([u32; N], bool) {
    let payloads = functions.map(|function| 128 << (real(vm, function, DEVICE_CONTROL) >> 5 & 7));
    (payloads, vm.machine_mut().dma_read(bdf(reader), 0x1000, 0x1000).is_ok())
}

/// The display supports payloads of 128 bytes shifted by `supported`, and firmware left it with `left`, its port with
/// 512 bytes.
fn behind_512(supported: u32, left: u32, moves: &[(&str, &str)], way: Way) -> Vm {
    let display = display()
        .command(Command::BUS_MASTER_ENABLE)
        .register(dword(DEVICE_CAPABILITIES), 0x8fc0 | supported)
        .register(dword(DEVICE_CONTROL), 0x5810 | left << 5);
    let port = destination_port().register(dword(DEVICE_CONTROL), 0x2850);
    let mut machine = pc([port, source_port()], [display, nic("02:00.0")]);
    let plan = Plan::new(scan(&mut machine)).find_behind(host(DESTINATION), way).unwrap();
    let plan = moves.iter().try_fold(plan, |plan, (from, to)| plan.relocate(host(from), guest(to))).unwrap();
    Vm::start(machine, &plan).unwrap()
}

/// Linux lowers what shows as a Root Port (`pci_configure_mps`), and nothing else.
#[test]
fn a_port_sends_what_is_wired_behind_it_no_more_than_that_takes_whatever_the_port_shows_as() {
    for way in [Way::UpstreamPort, Way::ConventionalBridge] {
        for moves in [[("02:00.0", NIC)], [("01:00.0", "01:01.0")]] {
            let mut vm = behind_512(1, 0, &moves, way);
            boot(Kind::Linux61, &mut vm);
            let found = payloads(&mut vm, [DESTINATION, "01:00.0"], "01:00.0");
            assert_eq!(found, ([256, 256], true), "{way:?}, {moves:?}");
        }
    }
}

/// Linux makes nothing agree with what shows without PCI Express.
#[test]
fn what_stays_behind_a_conventional_bridge_has_the_payload_size_of_the_port() {
    for left in [0, 5] {
        let mut vm = behind_512(5, left, &[("02:00.0", NIC)], Way::ConventionalBridge);
        assert_eq!(preparation(&vm), ["01:00.0 48h lanes 0001 <- 50"]);
        boot(Kind::Linux61, &mut vm);
        assert_eq!(payloads(&mut vm, [DESTINATION, "01:00.0"], "01:00.0"), ([512, 512], true));
    }
}

/// Linux restores what it sees, and firmware leaves the port as before, or does nothing.
#[test]
fn a_port_that_shows_as_a_conventional_bridge_has_its_payload_size_after_a_sleep() {
    for wake in [Wake::Everything, Wake::Nothing] {
        let mut vm = behind_512(1, 0, &[("02:00.0", NIC)], Way::ConventionalBridge);
        vm.machine_mut().set_wake(wake);
        let mut life = Life::start(Kind::Linux61, &mut vm, &[bdf("01:00.0")]).unwrap();
        for step in [Step::BindPorts, Step::BindDrivers, Step::SuspendToRam] {
            life.run(step);
        }
        assert_eq!(life.finish().failures, [], "{wake:?}");
        assert_eq!(payloads(&mut vm, [DESTINATION, "01:00.0"], "01:00.0"), ([256, 256], true), "{wake:?}");
        assert_eq!(real(&vm, DESTINATION, LINK_CONTROL) & 0xffff, 0x0040, "{wake:?}: and its clock");
    }
}

/// The guest changes nothing but what it sees of the port.
#[test]
fn a_guarded_port_sends_what_stays_behind_it_no_more_than_that_takes() {
    let sibling = sibling()
        .command(Command::BUS_MASTER_ENABLE)
        .register(dword(DEVICE_CAPABILITIES), 0x8fc0)
        .register(dword(DEVICE_CONTROL), 0x5810);
    let port = source_port().register(dword(DEVICE_CONTROL), 0x2850);
    let mut vm = moved(pc([destination_port(), port], [display(), sibling, nic("02:00.1")]), &[("02:00.1", NIC)]);
    boot(Kind::Linux61, &mut vm);
    assert_eq!(payloads(&mut vm, [SOURCE, "02:00.0"], "02:00.0"), ([128, 128], true));
}

/// The way to a switch and what is behind it.
const SWITCH: [&str; 5] = ["00:02.0", "03:00.0", "04:00.0", "05:00.0", "05:00.1"];

/// Firmware left the Root Port above a switch with payloads of 512 bytes, and all behind it, which takes those, with 128.
fn behind_a_switch(moves: &[(&str, &str)], way: Option<(&str, Way)>) -> Vm {
    let left = |one: Blueprint, control| {
        one.command(Command::BUS_MASTER_ENABLE | Command::MEMORY_SPACE_ENABLE)
            .register(dword(DEVICE_CAPABILITIES), 0x8fc2)
            .register(dword(DEVICE_CONTROL), control)
    };
    let [root, up, down, first, second] = SWITCH;
    let below = Windows::memory(span(0xe200_0000, 0x20_0000));
    let way_down = [
        Blueprint::port(bdf(root), PortType::RootPort, 3..=5, windows(0xe200_0000)),
        Blueprint::port(bdf(up), PortType::UpstreamPort, 4..=5, below),
        Blueprint::port(bdf(down), PortType::DownstreamPort, 5..=5, below),
    ];
    let endpoints = [(first, 0xe200_0000), (second, 0xe210_0000)].map(|(at, address)| {
        let endpoint = Blueprint::endpoint(bdf(at)).bar(0, MEMORY, 0x1000, address);
        let endpoint = if at == first { endpoint.multi_function() } else { endpoint };
        endpoint.capability(&Capability::Express(PortType::Endpoint))
    });
    let all = way_down.into_iter().chain(endpoints).zip([0x2850, 0x2810, 0x2810, 0x2810, 0x2810]);
    let all = all.map(|(one, control)| left(one, control));
    let mut machine = pc([destination_port(), source_port()], [display(), nic("02:00.0")].into_iter().chain(all));
    let plan = Plan::new(scan(&mut machine));
    let plan = moves.iter().try_fold(plan, |plan, (from, to)| plan.relocate(host(from), guest(to))).unwrap();
    let plan = way.map_or(Ok(plan.clone()), |(port, way)| plan.find_behind(host(port), way)).unwrap();
    Vm::start(machine, &plan).unwrap()
}

/// Linux makes a switch agree with the port above, from the top on; where it cannot, it is done for all on the way.
#[test]
fn all_on_the_way_down_agree_on_a_payload_size_whatever_is_kept_of_it() {
    let left = (&[("05:00.1", "01:00.1")], None, &[Kind::Linux61, Kind::Linux615][..]);
    let disguised = (&[("02:00.0", "03:01.0")], Some((SWITCH[0], Way::ConventionalBridge)), &Kind::ALL[..]);
    for (moves, way, kinds) in [left, disguised] {
        for kind in kinds.iter().filter(|kind| **kind != Kind::Edk2) {
            let mut vm = behind_a_switch(moves, way);
            boot(*kind, &mut vm);
            assert_eq!(payloads(&mut vm, SWITCH, "05:00.0"), ([512; 5], true), "{kind:?}");
            assert!(vm.machine_mut().dma_read(bdf("05:00.1"), 0x1000, 0x1000).is_ok(), "{kind:?}");
        }
    }
}
