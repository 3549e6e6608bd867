//! Firmware numbers the buses anew while a function is moved.

use pci_remap::plan::BusNumbers;
use pci_remap::sim::dump::Dump;
use pci_remap::sim::guest::{Kind, boot};
use pci_remap::sim::machine::{Blueprint, Builder, Machine, Windows, signature};
use pci_remap::sim::vm::{Vm, topology};
use pci_remap::spec::bar::BarKind;
use pci_remap::{Bdf, Guest, Host, Plan, Span, Topology};

fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

/// Firmware left gaps between the buses, as it does for slots that may be filled later.
fn with_gaps() -> Machine {
    let window = |start| Windows::memory(Span::new(start, 0x100_0000).unwrap());
    let memory = BarKind::Memory32 { prefetchable: false };
    let endpoint = |text: &str, address| Blueprint::endpoint(bdf(text)).bar(0, memory, 0x2_0000, address);
    Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY, Builder::PORTS])
        .root_port(bdf("00:01.0"), 0x10..=0x1f, window(0xe000_0000))
        .root_port(bdf("00:02.0"), 0x20..=0x2f, window(0xe100_0000))
        .root_port(bdf("00:03.0"), 0x30..=0x3f, window(0xe200_0000))
        .endpoint(endpoint("10:00.0", 0xe000_0000))
        .endpoint(endpoint("20:00.0", 0xe100_0000).id(0x10d3_8086))
        .endpoint(endpoint("30:00.0", 0xe200_0000))
        .build()
        .unwrap()
}

/// 20:00.0 at 10:01.0, whatever numbers the buses get.
fn nic_moved<const N: usize>(topology: &Topology<N>) -> Plan<'_> {
    let plan = Plan::new(topology).bus_numbers(BusNumbers::Virtual);
    plan.relocate("20:00.0".parse().unwrap(), "10:01.0".parse().unwrap()).unwrap()
}

#[test]
fn edk2_numbers_buses_anew_and_finds_the_moved_function_where_its_new_port_leads() {
    let mut machine = with_gaps();
    let topology = topology(&mut machine).unwrap();
    let plan = nic_moved(&topology);
    let mut vm = Vm::start(machine, &plan).unwrap();

    let tree = boot(Kind::Edk2, &mut vm).tree;

    let found: Vec<_> = tree.devices.iter().map(|device| (device.bdf.to_string(), device.id)).collect();
    let [port, other, nic] = [0x1901_8086, 0x1572_8086, 0x10d3_8086];
    let expected = [
        ("00:01.0", port),
        ("00:02.0", port),
        ("00:03.0", port),
        ("01:00.0", other),
        ("01:01.0", nic),
        ("03:00.0", other),
    ];
    assert_eq!(found, expected.map(|(bdf, id)| (bdf.to_string(), id)));
    for (guest, host) in [("01:01.0", "20:00.0"), ("01:00.0", "10:00.0"), ("03:00.0", "30:00.0")] {
        let read = tree.device(bdf(guest)).unwrap().read(&mut vm, 0, 0x40);
        assert_eq!(read, Some(signature(0, bdf(host), 0, 0x40)), "{guest}");
        assert_eq!(vm.remapper().to_guest(Host(bdf(host))), Some(Guest(bdf(guest))));
    }
    assert_eq!(vm.remapper().to_guest(Host(bdf("01:00.0"))), None, "the host has no such bus");
    assert_eq!(vm.machine().conflicts(), []);
}

#[test]
fn a_bridge_that_was_reset_gets_the_hardwares_bus_numbers_back() {
    let mut machine = with_gaps();
    let topology = topology(&mut machine).unwrap();
    let plan = nic_moved(&topology);
    let mut remapper = plan.build::<8>().unwrap();
    remapper.note_reset(Host(bdf("00:03.0")));
    let mut replays = remapper.replays();
    let writes = replays.next().unwrap().writes([0x1901_8086, 0]);
    let writes: Vec<_> = writes.map(|write| (write.to.to_string(), write.value)).collect();
    assert_eq!(writes, [("00:03.0 18h".to_owned(), 0x003f_3000)]);
}

#[test]
fn with_virtual_bus_numbers_every_configuration_access_is_trapped_once_buses_move() {
    let mut machine = with_gaps();
    let topology = topology(&mut machine).unwrap();
    let plan = nic_moved(&topology);
    let vm = Vm::start(machine, &plan).unwrap();
    let all: Vec<_> = vm.remapper().traps().map(|range| (range.first.to_string(), range.last.to_string())).collect();
    assert_eq!(all, [("00:00.0".into(), "ff:1f.7".into())]);
}

#[test]
fn a_guest_that_keeps_the_numbers_finds_the_same_with_virtual_ones() {
    let text = include_str!("dumps/hp-8460p/dump.txt");
    let resources = include_str!("dumps/hp-8460p/resources.txt").parse().unwrap();
    let machine = Dump::parse(text).unwrap().machines(Some(&resources)).remove(0).machine;
    let trees = [BusNumbers::Hardware, BusNumbers::Virtual].map(|numbers| {
        let mut machine = machine.clone();
        let topology = topology(&mut machine).unwrap();
        let plan = Plan::new(&topology).bus_numbers(numbers);
        let plan = plan.relocate("25:00.0".parse().unwrap(), "24:01.0".parse().unwrap()).unwrap();
        boot(Kind::Linux61, &mut Vm::start(machine, &plan).unwrap()).tree
    });
    assert_eq!(format!("{:?}", trees[0]), format!("{:?}", trees[1]));
    assert!(trees[0].device(bdf("24:01.0")).is_some());
}
