//! Room the host makes before the guest starts: wider windows of the bridges that lead to what moves (`Plan::make_room`).

mod support;

use pci_remap::plan::Cause;
use pci_remap::sim::guest::Kind;
use pci_remap::sim::guest::life::{Life, Step};
use pci_remap::sim::machine::{Blueprint, Builder, Capability, ExtendedCapability, Machine, VfBar, Windows};
use pci_remap::sim::vm::Vm;
use pci_remap::spec::bar::BarKind;
use pci_remap::spec::express::PortType;
use pci_remap::{Grade, Guest, Plan, Space, Span};
use support::*;

/// The card that moves, with 4 MiB of memory, behind a Root Port with just that.
const CARD: &str = "03:00.0";

fn megabytes(start: u64, count: u64) -> Windows {
    Windows::memory(span(start << 20, count << 20))
}

/// Firmware gave Root Ports these windows.
fn ports(windows: &[(&str, u8, Windows)]) -> Builder {
    let builder = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY, Builder::PORTS])
        .root_port(bdf("00:03.0"), 3..=3, megabytes(0xe80, 4))
        .endpoint(Blueprint::endpoint(bdf(CARD)).bar(0, MEMORY, 0x40_0000, 0xe800_0000));
    windows.iter().fold(builder, |builder, (port, bus, windows)| builder.root_port(bdf(port), *bus..=*bus, *windows))
}

/// A function with a MiB of memory, which stays.
fn staying(at: &str, address: u64) -> Blueprint {
    Blueprint::endpoint(bdf(at)).bar(0, MEMORY, 0x10_0000, address)
}

fn plan(machine: &mut Machine, moves: &[(&str, &str)]) -> Plan<'static> {
    let plan = Plan::new(scan(machine));
    moves.iter().try_fold(plan, |plan, (from, to)| plan.relocate(host(from), guest(to))).unwrap()
}

fn errors(plan: &Plan<'_>) -> Vec<Cause> {
    plan.findings().filter(|finding| finding.grade() == Grade::Error).map(|finding| finding.cause).collect()
}

/// Makes room for moves. The writes for it, as people read them.
fn make_room(machine: &mut Machine, moves: &[(&str, &str)]) -> Vec<String> {
    let writes: Vec<_> = plan(machine, moves).make_room().collect();
    for write in &writes {
        machine.config_write(write.to.0, write.value);
    }
    writes.iter().map(|write| format!("{} <- {:x}", write.to.0, write.value)).collect()
}

/// With the room that was made, the guest lives as without a move, until somebody removes bridges.
fn lives(mut machine: Machine, moves: &[(&str, &str)], watched: &[&str]) {
    let plan = plan(&mut machine, moves);
    assert_eq!(errors(&plan), []);
    let watched: Vec<_> = watched.iter().map(|at| bdf(at)).collect();
    for kind in [Kind::Linux61, Kind::Linux615] {
        let mut vm = Vm::start(machine.clone(), &plan).unwrap();
        let mut life = Life::start(kind, &mut vm, &watched).unwrap();
        let removes = |step: &Step| matches!(step, Step::RemoveBridges | Step::RemoveEverything);
        Step::ALL.into_iter().filter(|step| !removes(step)).for_each(|step| life.run(step));
        let report = life.finish();
        assert_eq!(report.failures, []);
        assert!(report.watched.iter().all(|watched| watched.answers));
    }
}

/// To a function number beside one that stays.
const BESIDE: &[(&str, &str)] = &[(CARD, "01:00.1")];

fn beside(windows: Windows, next: Windows) -> Machine {
    let stays = windows.memory.map_or(0, Span::start);
    let first = Blueprint::endpoint(bdf("01:00.0")).multi_function();
    let first = if stays == 0 { first } else { first.bar(0, MEMORY, 0x10_0000, stays) };
    let machine = ports(&[("00:01.0", 1, windows), ("00:02.0", 2, next)]).endpoint(first);
    machine.endpoint(Blueprint::endpoint(bdf("02:00.0"))).build().unwrap()
}

#[test]
fn a_window_grows_upwards_where_that_is_free() {
    let mut machine = beside(megabytes(0xe00, 1), megabytes(0xe80 - 0x10, 0x10));
    assert_eq!(errors(&plan(&mut machine, BESIDE)), [Cause::NoRoom(0, 0x40_0000, guest("01:00.1"))]);
    // The first 4 MiB that are aligned.
    assert_eq!(make_room(&mut machine, BESIDE), ["00:01.0 20h <- e070e000"]);
    lives(machine, BESIDE, &["01:00.0", "01:00.1"]);
}

#[test]
fn a_window_grows_downwards_where_it_cannot_grow_upwards() {
    let mut machine = beside(megabytes(0xe0f, 1), megabytes(0xe10, 0x10));
    assert_eq!(make_room(&mut machine, BESIDE), ["00:01.0 20h <- e0f0e080"]);
    lives(machine, BESIDE, &["01:00.0", "01:00.1"]);
}

#[test]
fn a_window_between_others_stays_and_the_move_is_refused() {
    let mut machine = ports(&[
        ("00:01.0", 1, megabytes(0xe10, 1)),
        ("00:02.0", 2, megabytes(0xe00, 0x10)),
        ("00:04.0", 4, megabytes(0xe11, 0x10)),
    ])
    .endpoint(Blueprint::endpoint(bdf("01:00.0")).multi_function())
    .build()
    .unwrap();
    assert_eq!(make_room(&mut machine, BESIDE), [""; 0]);
    assert_eq!(errors(&plan(&mut machine, BESIDE)), [Cause::NoRoom(0, 0x40_0000, guest("01:00.1"))]);
}

#[test]
fn a_closed_window_opens_where_the_host_bridge_forwards_and_nothing_is() {
    let mut machine = beside(Windows::default(), megabytes(0x800, 0x10));
    assert_eq!(errors(&plan(&mut machine, BESIDE)), [Cause::NoWindow(0, Space::Memory, guest("01:00.1"))]);
    assert_eq!(make_room(&mut machine, BESIDE), ["00:01.0 20h <- 81308100"]);
    lives(machine, BESIDE, &["01:00.0", "01:00.1"]);
}

#[test]
fn small_bars_share_what_was_added() {
    let disk =
        Blueprint::endpoint(bdf("00:05.0")).bar(0, MEMORY, 0x2000, 0xe900_0000).bar(1, MEMORY, 0x100, 0xe900_2000);
    let machine = ports(&[("00:01.0", 1, Windows::default())]).function(disk);
    let mut machine = machine.endpoint(Blueprint::endpoint(bdf("01:00.0")).multi_function()).build().unwrap();
    let moves = &[("00:05.0", "01:00.1")];
    assert_eq!(make_room(&mut machine, moves), ["00:01.0 20h <- 80008000"]);
    lives(machine, moves, &["01:00.1"]);
}

#[test]
fn two_moves_do_not_get_the_same_room() {
    let moves = &[(CARD, "01:00.1"), ("00:05.0", "02:00.1")];
    let second = Blueprint::endpoint(bdf("00:05.0")).bar(0, MEMORY, 0x20_0000, 0xe900_0000);
    let firsts = ["01:00.0", "02:00.0"].map(|at| Blueprint::endpoint(bdf(at)).multi_function());
    let machine = ports(&[("00:01.0", 1, Windows::default()), ("00:02.0", 2, Windows::default())]);
    let machine = firsts.into_iter().fold(machine, Builder::endpoint).function(second);
    let mut machine = machine.build().unwrap();
    assert_eq!(make_room(&mut machine, moves), ["00:01.0 20h <- 80308000", "00:02.0 20h <- 80508040"]);
    lives(machine, moves, &["01:00.1", "02:00.1"]);
}

#[test]
fn the_bridges_above_grow_as_well() {
    let mut machine = ports(&[])
        .root_port(bdf("00:01.0"), 8..=10, megabytes(0xe00, 1))
        .switch(bdf("08:00.0"), 9..=10, megabytes(0xe00, 1), &[(bdf("09:00.0"), 10..=10, megabytes(0xe00, 1))])
        .endpoint(staying("0a:00.0", 0xe000_0000).multi_function())
        .build()
        .unwrap();
    let moves = &[(CARD, "0a:00.1")];
    let writes = ["09:00.0 20h <- e070e000", "08:00.0 20h <- e070e000", "00:01.0 20h <- e070e000"];
    assert_eq!(make_room(&mut machine, moves), writes);
    lives(machine, moves, &["0a:00.0", "0a:00.1"]);
}

#[test]
fn prefetchable_windows_grow_above_4_gib() {
    let prefetchable = BarKind::Memory64 { prefetchable: true };
    let own = Windows { prefetchable: Span::new(0x10_0000_0000, 0x10_0000), ..megabytes(0xe00, 1) };
    let machine = ports(&[("00:01.0", 1, own)]);
    let card = Blueprint::endpoint(bdf("00:05.0")).bar(0, prefetchable, 0x2_0000_0000, 0x18_0000_0000);
    let first = Blueprint::endpoint(bdf("01:00.0")).multi_function();
    let mut machine = machine.function(card).endpoint(first).build().unwrap();
    let moves = &[("00:05.0", "01:00.1")];
    let writes = ["00:01.0 24h <- fff00000", "00:01.0 28h <- 10", "00:01.0 2Ch <- 13"];
    assert_eq!(make_room(&mut machine, moves), writes);
    lives(machine, moves, &["01:00.1"]);
}

#[test]
fn windows_of_ports_grow_by_4_kib() {
    let own = Windows { io: Span::new(0x2000, 0x1000), ..Windows::default() };
    let machine = ports(&[("00:01.0", 1, own)]);
    let first = Blueprint::endpoint(bdf("01:00.0")).multi_function().bar(0, BarKind::Io, 0x1000, 0x2000);
    let card = Blueprint::endpoint(bdf("00:05.0")).bar(0, BarKind::Io, 0x20, 0xc000);
    let mut machine = machine.function(card).endpoint(first).build().unwrap();
    let moves = &[("00:05.0", "01:00.1")];
    assert_eq!(make_room(&mut machine, moves), ["00:01.0 1Ch lanes 0011 <- 3020", "00:01.0 30h <- 0"]);
    lives(machine, moves, &["01:00.0", "01:00.1"]);
}

/// Linux would give what is added to the bridge beside the moved function, which has a slot and no window.
#[test]
fn no_room_is_made_that_a_slot_beside_would_get() {
    let slots = |has_slots: bool| {
        let port = Blueprint::port(bdf("09:00.0"), PortType::DownstreamPort, 10..=10, Windows::default());
        let mut machine = ports(&[])
            .root_port(bdf("00:01.0"), 8..=10, megabytes(0xe00, 1))
            .function(
                Blueprint::port(bdf("08:00.0"), PortType::UpstreamPort, 9..=10, Windows::default()).multi_function(),
            )
            .function(if has_slots { port.with_services() } else { port })
            .endpoint(staying("08:00.1", 0xe000_0000))
            .build()
            .unwrap();
        plan(&mut machine, &[(CARD, "08:00.2")]).make_room().count()
    };
    assert_eq!([false, true].map(slots), [1, 0]);
}

#[test]
fn virtual_functions_beside_are_in_the_way() {
    let with_address = |address| {
        let bars = vec![(0, VfBar { kind: MEMORY, size: 0x1000, address })];
        let sriov = ExtendedCapability::SrIov { total: 8, offset: 16, stride: 1, bars };
        let adapter = Blueprint::endpoint(bdf("00:05.0"))
            .capability(&Capability::Express(PortType::RootComplexIntegratedEndpoint));
        let first = Blueprint::endpoint(bdf("01:00.0")).multi_function();
        let machine = ports(&[("00:01.0", 1, megabytes(0xe00, 1))]).function(adapter.extended(&sriov)).endpoint(first);
        make_room(&mut machine.build().unwrap(), BESIDE)
    };
    assert_eq!(with_address(0xe070_0000), ["00:01.0 20h <- e000dfc0"], "the last page is theirs");
    assert_eq!(with_address(0xe080_0000), ["00:01.0 20h <- e070e000"]);
}

#[test]
fn reserved_addresses_are_no_room_and_what_has_room_needs_none() {
    let mut machine = beside(megabytes(0xe00, 1), megabytes(0xe80 - 0x10, 0x10));
    let reserved = Guest(span(0xe050_0000, 0x1000));
    assert_eq!(plan(&mut machine, BESIDE).reserve(reserved).unwrap().make_room().count(), 1, "downwards");
    let below = Guest(span(0xdf00_0000, 0x100_0000));
    let plan = plan(&mut machine, BESIDE).reserve(reserved).unwrap().reserve(below).unwrap();
    assert_eq!(plan.make_room().count(), 0);
    let mut machine = beside(megabytes(0xe00, 0x10), megabytes(0xe10, 0x10));
    assert_eq!(make_room(&mut machine, BESIDE), [""; 0]);
}
