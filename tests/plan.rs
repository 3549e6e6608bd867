//! What the planner says before anything runs.

mod support;

use pci_remap::plan::{Cause, Vacated, Way};
use pci_remap::sim::guest::{Kind, boot};
use pci_remap::sim::machine::{Blueprint, Builder, Capability, ExtendedCapability, FixedRange, Machine, Windows};
use pci_remap::sim::vm::Vm;
use pci_remap::spec::bar::BarKind;
use pci_remap::spec::express::PortType;
use pci_remap::{Grade, Plan, PlanError, Relocation, Remapper};
use support::*;

/// All findings of a plan, as people read them.
fn findings(mut machine: Machine, moves: &[(&str, &str)]) -> Vec<String> {
    let plan = Plan::new(scan(&mut machine));
    let plan = moves.iter().try_fold(plan, |plan, (from, to)| plan.relocate(host(from), guest(to))).unwrap();
    plan.findings().map(|finding| format!("{}: {finding}", finding.grade())).collect()
}

/// What is said of a move from behind 00:01.1, beside another port.
const PLACED_ANEW: &str = "risk: 02:00.0: where bridges are removed and found again, the guest may move what 00:01.1 forwards away, or give it to others, unless addresses are virtual (00:01.1 20h reads e1f0e100)";

/// What is said of every move of 00:05.0.
const ADDRESSES: &str = "risk: 00:05.0: the guest may give the addresses it leaves to another function of bus 00, unless a placeholder keeps them, or addresses are virtual (00:05.0 10h reads f0000000)";

fn errors(machine: Machine, moves: &[(&str, &str)]) -> Vec<String> {
    findings(machine, moves).into_iter().filter(|finding| finding.starts_with("error")).collect()
}

fn card(at: &str, address: u64) -> Blueprint {
    Blueprint::endpoint(bdf(at)).bar(0, MEMORY, 0x1000, address)
}

#[test]
fn the_talks_move_is_explained_and_possible() {
    assert_eq!(
        findings(machine([card("02:00.0", 0xe100_0000)]), &[("02:00.0", "01:01.0")]),
        [
            "info: 02:00.0: 00:01.0 is shown as an Upstream Port, so that 01:01.0 is looked for behind it; it has no slot, and no PME and error services (00:01.0 40h reads 00427c10)",
            PLACED_ANEW,
        ]
    );
}

/// What is warned of is that something else may be placed where hardware still forwards, or that it does not any more.
#[test]
fn windows_that_may_be_placed_anew_are_named() {
    let warnings = |ports: &[&str], moves: &[(&str, &str)]| {
        let endpoints = [card("02:00.0", 0xe100_0000), card("02:00.1", 0xe110_0000), card("03:00.0", 0xe200_0000)];
        let builder = Builder::new().root(0..=0xff, &[Builder::LOW_MEMORY]);
        let builder = (2_u8..).zip(ports).fold(builder, |builder, (bus, port)| {
            builder.root_port(bdf(port), bus..=bus, windows(0xdf00_0000 + u64::from(bus) * 0x100_0000))
        });
        let mut machine = endpoints.into_iter().take(ports.len() + 1).fold(builder, Builder::endpoint).build().unwrap();
        let plan = Plan::new(scan(&mut machine)).vacated(Vacated::Placeholder);
        let plan = moves.iter().try_fold(plan, |plan, (from, to)| plan.relocate(host(from), guest(to))).unwrap();
        let causes = plan.findings().map(|finding| finding.cause);
        causes.filter(|cause| matches!(cause, Cause::PlacedAnew(_))).collect::<Vec<_>>()
    };
    let placed_anew = Cause::PlacedAnew(host("00:01.0"));
    assert_eq!(warnings(&["00:01.0"], &[("02:00.1", "00:05.0")]), [], "nothing else is placed beside the port");
    assert_eq!(warnings(&["00:01.0", "00:02.0"], &[("02:00.1", "00:05.0")]), [placed_anew], "another port is");
    assert_eq!(warnings(&["00:01.0"], &[("02:00.1", "02:00.2")]), [placed_anew], "the port's windows are the guest's");
}

#[test]
fn an_occupied_address_is_refused_unless_its_function_leaves() {
    let two = || machine([card("02:00.0", 0xe100_0000), card("00:05.0", 0xf000_0000)]);
    assert_eq!(
        errors(two(), &[("02:00.0", "00:05.0")]),
        ["error: 02:00.0: 00:05.0 is occupied; move or hide the function that is there (00:05.0 00h reads 15728086)"]
    );
    assert_eq!(errors(two(), &[("02:00.0", "00:05.0"), ("00:05.0", "00:06.0")]), [""; 0]);
    assert_eq!(errors(two(), &[("02:00.0", "00:05.0"), ("00:05.0", "02:00.0")]), [""; 0]);
}

#[test]
fn vital_product_data_that_a_guest_may_mix_up_are_named() {
    let with_data = |at, address| card(at, address).capability(&Capability::VitalProductData);
    let of_data = |moves: &[_], first: fn(Blueprint) -> Blueprint| {
        let functions = [with_data("02:00.0", 0xe100_0000).multi_function(), with_data("02:00.1", 0xe110_0000)];
        let there = first(card("00:05.0", 0xf000_0000).multi_function());
        let all = findings(machine(functions.into_iter().chain([there])), moves);
        all.into_iter().filter(|finding| finding.contains("Vital")).collect::<Vec<_>>()
    };
    let apart = "info: 02:00.1: its Vital Product Data may be in one place with that of 02:00.0; do not read both at once (02:00.1 40h reads 00000003)";
    let of_first = "risk: 02:00.1: it looks like 00:05.0, and Linux reads the Vital Product Data of that instead; choose another device (00:05.0 40h reads 00000003)";
    let alike = |first: Blueprint| first.capability(&Capability::VitalProductData);
    assert_eq!(of_data(&[("02:00.1", "00:05.1")], alike), [apart, of_first]);
    assert_eq!(of_data(&[("02:00.1", "00:05.1")], |first| first), [apart], "the first has none");
    assert_eq!(of_data(&[("02:00.0", "01:00.0"), ("02:00.1", "01:00.1")], alike), [""; 0], "they stay together");
}

/// Linux gives the ROM of the function beside its new place room first, as that is larger.
#[test]
fn a_rom_without_an_address_takes_room_from_what_is_smaller() {
    let errors_beside = |rom: u64| {
        let port =
            Blueprint::port(bdf("00:02.0"), PortType::RootPort, 3..=3, Windows::memory(span(0xe200_0000, 0x10_0000)));
        let first = Blueprint::endpoint(bdf("03:00.0")).multi_function().bar(0, MEMORY, 0x8_0000, 0xe200_0000);
        let first = first.rom(rom, 0xfff8_0000).capability(&Capability::Express(PortType::Endpoint));
        errors(machine([card("02:00.0", 0xe100_0000), port, first]), &[("02:00.0", "03:00.1")])
    };
    assert_eq!(errors_beside(0x4_0000), [""; 0]);
    let no_room = "error: 02:00.0: BAR 0 needs 0x1000 bytes, and no window that leads to 03:00.1 has room; `Plan::make_room` may widen one (02:00.0 10h reads e1000000)";
    assert_eq!(errors_beside(0x8_0000), [no_room]);
}

#[test]
fn a_bus_nothing_leads_to_is_refused() {
    let machine = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY])
        .root_port(bdf("00:01.0"), 1..=4, windows(0xe000_0000))
        .endpoint(card("01:00.0", 0xe000_0000))
        .build()
        .unwrap();
    assert_eq!(
        errors(machine.clone(), &[("01:00.0", "03:00.0")]),
        [
            "error: 01:00.0: bus 03 of 03:00.0 is forwarded by a bridge, but is no bridge's secondary bus (00:01.0 18h reads 00040100)"
        ]
    );
    assert_eq!(
        errors(machine, &[("01:00.0", "09:00.0")]),
        ["error: 01:00.0: no bridge has bus 09 of 09:00.0; choose a bus the machine has"]
    );
}

#[test]
fn a_function_needs_a_function_0_beside_it() {
    assert_eq!(
        errors(machine([card("02:00.0", 0xe100_0000)]), &[("02:00.0", "00:05.1")]),
        ["error: 02:00.0: 00:05.1 is never looked for: its device has no function 0; move a function there as well"]
    );
}

#[test]
fn siblings_of_a_leaving_function_0_are_not_forgotten() {
    let mut two = machine([card("02:00.0", 0xe100_0000), card("02:00.1", 0xe110_0000)]);
    assert_eq!(
        errors(two.clone(), &[("02:00.0", "01:01.0")]),
        [
            "error: 02:00.0: 02:00.1 would not be found without function 0; move the whole device, hide it too, or leave an inert function 0 there"
        ]
    );
    let topology = scan(&mut two);
    let is_possible = |plan: Plan<'_>| plan.findings().all(|finding| finding.grade() < Grade::Error);
    assert!(is_possible(Plan::new(topology).relocate_device(host("02:00.0"), guest("01:01.0")).unwrap()));
    let alone = Plan::new(topology).relocate(host("02:00.0"), guest("01:01.0")).unwrap();
    assert!(is_possible(alone.hide(host("02:00.1")).unwrap()));
    let alone = Plan::new(topology).hide(host("02:00.0")).unwrap();
    assert!(alone.findings().any(|finding| finding.grade() == Grade::Error));
}

#[test]
fn below_a_downstream_port_only_device_0_is_looked_for() {
    let inner = windows(0xe200_0000);
    let mut machine = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY])
        .root_port(bdf("00:01.0"), 1..=3, inner)
        .switch(bdf("01:00.0"), 2..=3, inner, &[(bdf("02:00.0"), 3..=3, inner)])
        .endpoint(card("03:00.0", 0xe200_0000))
        .endpoint(card("00:05.0", 0xf000_0000))
        .build()
        .unwrap();
    assert_eq!(
        findings(machine.clone(), &[("00:05.0", "03:01.0")]),
        [
            "risk: 00:05.0: 02:00.0 is shown as a PCI-X bridge, so that 03:01.0 is looked for behind it; it has no port services, and Windows may refuse what is there (02:00.0 40h reads 00627c10)",
            ADDRESSES,
        ]
    );
    assert_eq!(findings(machine.clone(), &[("00:05.0", "03:00.1")]), [ADDRESSES]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("00:05.0"), guest("03:01.0")).unwrap();
    let by = |way| {
        let plan = plan.clone().find_behind(host("02:00.0"), way).unwrap();
        plan.findings().map(|finding| format!("{}: {finding}", finding.grade())).collect::<Vec<_>>()
    };
    assert_eq!(
        by(Way::UpstreamPort),
        [
            "error: 00:05.0: 02:00.0 cannot be shown as an Upstream Port: it is below another port, where Linux corrects its type and does not find 03:01.0 (02:00.0 40h reads 00627c10)",
            ADDRESSES,
        ]
    );
    assert_eq!(
        by(Way::AriChain),
        [
            "error: 00:05.0: no chain (ARI) leads to 03:01.0: 02:00.0 has no second set of registers, or a function there has no ARI Capability or has Virtual Functions (02:00.0 40h reads 00627c10)",
            ADDRESSES,
        ]
    );
    assert_eq!(
        by(Way::AsIs),
        [
            "risk: 00:05.0: 02:00.0 shows as it is; only a guest that looks for all device numbers behind it finds 03:01.0 (02:00.0 40h reads 00627c10)",
            ADDRESSES,
        ]
    );
}

#[test]
fn a_full_window_and_one_of_the_wrong_kind_are_told_apart() {
    let big = |kind| Blueprint::endpoint(bdf("02:00.0")).bar(0, kind, 0x100_0000, 0xe100_0000);
    assert_eq!(
        errors(machine([big(MEMORY)]), &[("02:00.0", "01:01.0")]),
        [
            "error: 02:00.0: BAR 0 needs 0x1000000 bytes, and no window that leads to 01:01.0 has room; `Plan::make_room` may widen one (02:00.0 10h reads e1000000)"
        ]
    );
    assert_eq!(errors(machine([big(BarKind::Memory64 { prefetchable: true })]), &[("02:00.0", "01:01.0")]), [""; 0]);
    let only_prefetchable = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY])
        .root_port(
            bdf("00:01.0"),
            1..=1,
            Windows { prefetchable: Some(span(0xe000_0000, 0x10_0000)), ..Windows::default() },
        )
        .endpoint(card("00:05.0", 0xf000_0000))
        .build()
        .unwrap();
    assert_eq!(
        errors(only_prefetchable, &[("00:05.0", "01:00.0")]),
        [
            "error: 00:05.0: BAR 0 cannot be placed: no mem window of its kind leads to 01:00.0; `Plan::make_room` may open one (00:05.0 10h reads f0000000)"
        ]
    );
}

#[test]
fn an_io_bar_without_a_window_is_hidden_where_there_is_memory_too() {
    let both = card("00:05.0", 0xf000_0000).bar(1, BarKind::Io, 0x20, 0x3000);
    assert_eq!(
        findings(machine([both]), &[("00:05.0", "01:00.1")]),
        [
            ADDRESSES,
            "risk: 00:05.0: BAR 1 decodes I/O, no window has room for it, and it is not shown (00:05.0 14h reads 00003001)"
        ]
    );
    let only_io = Blueprint::endpoint(bdf("00:05.0")).bar(1, BarKind::Io, 0x20, 0x3000);
    assert_eq!(
        errors(machine([only_io]), &[("00:05.0", "01:00.1")]),
        [
            "error: 00:05.0: BAR 1 cannot be placed: no io window of its kind leads to 01:00.1; `Plan::make_room` may open one (00:05.0 14h reads 00003001)"
        ]
    );
}

#[test]
fn a_function_with_fixed_addresses_is_not_hidden_as_it_would_answer_at_them() {
    let range = FixedRange { bar: 0, properties: 1, base: 0xf800_0000, max_offset: 0xffc };
    let fixed = Capability::EnhancedAllocation([range].into());
    let mut machine = machine([Blueprint::endpoint(bdf("00:05.0")).capability(&fixed)]);
    assert_ne!(machine.memory_read(0xf800_0000, 4), 0xffff_ffff, "it does");
    let plan = Plan::new(scan(&mut machine)).hide(host("00:05.0")).unwrap();
    let found: Vec<_> = plan.findings().map(|finding| format!("{}: {finding}", finding.grade())).collect();
    assert_eq!(
        found,
        ["error: 00:05.0: it decodes fixed addresses (Enhanced Allocation), which can be neither moved nor hidden"]
    );
}

#[test]
fn small_bars_fixed_addresses_virtual_functions_and_the_boot_display_are_named() {
    let small = card("00:05.0", 0xf000_0000).bar(1, MEMORY, 0x100, 0xf000_1000);
    assert_eq!(
        findings(machine([small]), &[("00:05.0", "00:06.0")]),
        [ADDRESSES, "info: 00:05.0: BAR 1 has 0x100 bytes and is shown as a whole page (00:05.0 14h reads f0001000)"]
    );
    let range = FixedRange { bar: 0, properties: 1, base: 0xf800_0000, max_offset: 0xffc };
    let fixed = card("00:05.0", 0xf000_0000).capability(&Capability::EnhancedAllocation([range].into()));
    assert_eq!(
        errors(machine([fixed]), &[("00:05.0", "00:06.0")]),
        ["error: 00:05.0: it decodes fixed addresses (Enhanced Allocation), which can be neither moved nor hidden"]
    );
    assert!(
        findings(machine([nic("02:00.0")]), &[("02:00.0", "01:01.0")])
            .contains(&"info: 02:00.0: its 8 Virtual Functions do not follow; SR-IOV is hidden".into())
    );
    let display = card("00:05.0", 0xf000_0000).class(0x0003_0000);
    assert_eq!(
        findings(machine([display]), &[("00:05.0", "00:06.0")]),
        [
            "risk: 00:05.0: it is the display the machine booted with; legacy VGA addresses do not follow it (00:05.0 08h reads 03000000)",
            ADDRESSES,
        ]
    );
}

#[test]
fn bridges_stay_where_they_are() {
    assert_eq!(
        errors(machine([]), &[("00:01.1", "00:05.0")]),
        ["error: 00:01.1: a bridge cannot be moved; move the functions behind it (00:01.1 08h reads 06040000)"]
    );
    let host_bridge = Blueprint::endpoint(bdf("00:00.0")).class(0x0006_0000);
    assert_eq!(
        errors(machine([host_bridge]), &[("00:00.0", "00:05.0")]),
        ["error: 00:00.0: a host bridge cannot be moved (00:00.0 08h reads 06000000)"]
    );
    let mut machine = machine([card("00:05.0", 0xf000_0000)]);
    let hidden = Plan::new(scan(&mut machine)).hide(host("00:01.0")).unwrap();
    let plan = hidden.relocate(host("00:05.0"), guest("01:00.1")).unwrap();
    let texts: Vec<_> = plan.findings().map(|finding| finding.to_string()).collect();
    assert!(
        texts.contains(&"00:05.0: 01:00.1 lies behind 00:01.0, which the guest does not see there".into()),
        "{texts:?}"
    );
}

#[test]
fn a_function_with_a_broken_list_is_not_moved() {
    let dword = pci_remap::Dword::at(0x40).unwrap();
    let looping = card("00:05.0", 0xf000_0000).capability(&Capability::PowerManagement).register(dword, 0xc803_4001);
    assert_eq!(
        errors(machine([looping]), &[("00:05.0", "00:06.0")]),
        ["error: 00:05.0: the capability list loops back to 40h"]
    );
}

#[test]
fn what_makes_no_plan_is_refused_at_once() {
    let mut machine = machine([card("02:00.0", 0xe100_0000), card("00:05.0", 0xf000_0000)]);
    let topology = scan(&mut machine);
    let plan = Plan::new(topology).relocate(host("02:00.0"), guest("01:01.0")).unwrap();
    let refused = |error: Result<Plan<'_>, PlanError>| error.unwrap_err().to_string();
    assert_eq!(refused(plan.clone().relocate(host("09:00.0"), guest("01:02.0"))), "there is no function at 09:00.0");
    assert_eq!(
        refused(plan.clone().relocate(host("02:00.0"), guest("01:02.0"))),
        "02:00.0 is moved to 01:01.0 already; a function has one guest address"
    );
    assert_eq!(
        refused(plan.clone().relocate(host("00:05.0"), guest("01:01.0"))),
        "01:01.0 is taken: 02:00.0 is moved there already"
    );
    assert_eq!(refused(plan.clone().hide(host("02:00.0"))), "02:00.0 cannot be hidden and moved at once");
    assert_eq!(refused(plan.clone().hide(host("09:00.0"))), "there is no function at 09:00.0");
    let few = |plan: &Plan<'_>| plan.build::<2>().map(|_: Remapper<2>| ()).unwrap_err().to_string();
    assert_eq!(few(&plan), "bus 00 is one more than the 2 buses this Remapper<F> has room for");
    let hidden = Plan::new(topology).hide(host("00:05.0")).unwrap().hide(host("02:00.0")).unwrap();
    assert!(few(&hidden).starts_with("00:01.1 needs one function more than the 2 of this Remapper<F>"));
}

#[test]
fn a_swap_and_a_chain_lead_to_the_right_memory() {
    let cards = || machine([card("02:00.0", 0xe100_0000), card("00:05.0", 0xf000_0000), card("00:06.0", 0xf000_1000)]);
    for moves in [
        &[("02:00.0", "00:05.0"), ("00:05.0", "02:00.0")][..],
        &[("02:00.0", "00:05.0"), ("00:05.0", "00:06.0"), ("00:06.0", "02:00.0")],
    ] {
        let mut vm = moved(cards(), moves);
        let tree = boot(Kind::Linux61, &mut vm).tree;
        for (from, to) in moves {
            let read = tree.device(bdf(to)).unwrap().read(&mut vm, 0, 0x10);
            assert_eq!(read, Some(pci_remap::sim::machine::signature(0, bdf(from), 0, 0x10)), "{from} to {to}");
        }
    }
}

#[test]
fn a_function_that_stays_where_it_is_may_be_in_the_plan() {
    let mut machine = machine([card("02:00.0", 0xe100_0000)]);
    let plan = Plan::new(scan(&mut machine)).with(Relocation::new(host("02:00.0"), guest("02:00.0"))).unwrap();
    let mut vm = Vm::start(machine, &plan).unwrap();
    vm.write("02:00.0", 0x10, 0xe108_0000);
    vm.write_word("02:00.0", 0x04, 2);
    assert_eq!(vm.second_stage().mappings().len(), 1);
    assert_eq!(vm.read("00:01.1", 0x40) & 0x00f0_00ff, (PortType::RootPort as u32) << 21 | 0x10);
}

/// A function in function 0's place has its addresses, so that no other has room where it left.
#[test]
fn what_stands_where_a_function_left_keeps_its_addresses() {
    let half = |at: &str, address| Blueprint::endpoint(bdf(at)).bar(0, MEMORY, 0x80_0000, address);
    let mut machine = machine([half("02:00.0", 0xe100_0000), half("02:00.1", 0xe180_0000)]);
    let topology = scan(&mut machine);
    let causes = |moved: &str| {
        let plan = Plan::new(topology).relocate(host(moved), guest("02:01.0")).unwrap().vacated(Vacated::InertFirst);
        plan.findings().map(|finding| finding.cause).filter(|cause| matches!(cause, Cause::NoRoom(..))).collect()
    };
    let no_room: Vec<_> = causes("02:00.0");
    assert_eq!(no_room, [Cause::NoRoom(0, 0x80_0000, guest("02:01.0"))]);
    let has_room: Vec<_> = causes("02:00.1");
    assert_eq!(has_room, [], "nothing stands there");
}

/// Linux places I/O only where a device with 10 bits of address decodes nothing (`pcibios_align_resource`).
#[test]
fn io_is_placed_only_where_linux_places_it() {
    let hidden = |ports: &[u64]| {
        let io = Windows { io: Some(span(0x3000, 0x1000)), ..windows(0xe200_0000) };
        let port = Blueprint::port(bdf("00:02.0"), PortType::RootPort, 3..=3, io);
        let there = ports.iter().enumerate().fold(Blueprint::endpoint(bdf("03:00.0")), |there, (number, address)| {
            there.bar(number, BarKind::Io, 0x100, *address)
        });
        let moved = card("02:00.0", 0xe100_0000).bar(1, BarKind::Io, 0x100, 0x5000);
        let source = Windows { io: Some(span(0x5000, 0x1000)), ..windows(0xe100_0000) };
        let source = Blueprint::port(bdf("00:01.0"), PortType::RootPort, 2..=2, source);
        let builder = Builder::new().root(0..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY, Builder::PORTS]);
        let mut machine = [source, port, there, moved].into_iter().fold(builder, Builder::function).build().unwrap();
        let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest("03:01.0")).unwrap();
        let tree = boot(Kind::Linux61, &mut Vm::start(machine, &plan).unwrap()).tree;
        let bars: Vec<_> = tree.device(bdf("03:01.0")).unwrap().bars.iter().map(|bar| bar.span.is_some()).collect();
        (plan.findings().any(|finding| finding.cause == Cause::IoBarHidden(1)), bars)
    };
    assert_eq!(hidden(&[0x3000, 0x3400, 0x3800]), (false, vec![true, true]));
    assert_eq!(hidden(&[0x3000, 0x3400, 0x3800, 0x3c00]), (true, vec![true]));
}

/// Linux and FreeBSD leave functions of a root bus where firmware placed them, and windows of bridges take whole MiB.
#[test]
fn addresses_on_a_root_bus_are_given_away_only_where_something_may_be_placed() {
    let is_warned = |others: &[Blueprint]| {
        let warnings =
            findings(machine([card("00:05.0", 0xf000_0000)].iter().chain(others).cloned()), &[("00:05.0", "01:01.0")]);
        warnings.contains(&ADDRESSES.to_owned())
    };
    let beside = card("00:06.0", 0xf000_1000);
    assert!(!is_warned(core::slice::from_ref(&beside)), "no window fits between them");
    assert!(is_warned(&[card("00:06.0", 0xf010_0000)]), "a window fits");
    assert!(is_warned(&[beside.clone(), card("00:07.0", 0)]), "a BAR has no address");
    assert!(is_warned(&[beside.clone(), card("00:07.0", 0x1000)]), "a BAR is where no host bridge leads");
    let sriov = ExtendedCapability::SrIov { total: 8, offset: 16, stride: 1, bars: Vec::new() };
    let physical =
        card("00:07.0", 0xf100_0000).capability(&Capability::Express(PortType::RootComplexIntegratedEndpoint));
    assert!(is_warned(&[beside, physical.extended(&sriov)]), "Virtual Functions may come");
}
