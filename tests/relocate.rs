//! A NIC moves the way the talk moved it, and what a guest finds then.

use pci_remap::plan::Cause;
use pci_remap::sim::guest::{Device, Kind, boot};
use pci_remap::sim::machine::{Blueprint, Builder, Capability, ExtendedCapability, Machine, Windows, signature};
use pci_remap::sim::platform::{Platform, RootWindow};
use pci_remap::sim::vm::{Vm, topology};
use pci_remap::spec::bar::BarKind;
use pci_remap::spec::express::PortType;
use pci_remap::{Access, Bdf, Dword, Guest, Placement, Plan, Relocation, Space, Span, Width};

fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

/// The talk's machine: a display behind one root port, a NIC behind the next.
fn talk() -> Machine {
    let window = |start| Windows::memory(Span::new(start, 0x100_0000).unwrap());
    let memory = BarKind::Memory32 { prefetchable: false };
    Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY, Builder::PORTS])
        .root_port(bdf("00:01.0"), 1..=1, window(0xe000_0000))
        .root_port(bdf("00:01.1"), 2..=2, window(0xe100_0000))
        .endpoint(Blueprint::endpoint(bdf("01:00.0")).bar(0, memory, 0x10_0000, 0xe000_0000))
        .endpoint(Blueprint::endpoint(bdf("02:00.0")).bar(0, memory, 0x2_0000, 0xe100_0000).bar(
            1,
            BarKind::Io,
            0x20,
            0x3000,
        ))
        .build()
        .unwrap()
}

#[test]
fn the_talk() {
    let mut machine = talk();
    let topology = topology(&mut machine).unwrap();
    assert_eq!(topology.functions().len(), 4);
    let plan = Plan::new(&topology).relocate("02:00.0".parse().unwrap(), "01:01.0".parse().unwrap()).unwrap();
    for finding in plan.findings() {
        println!("{}: {finding}", finding.grade());
    }
    let mut vm = Vm::start(machine, &plan).unwrap();
    println!("{:?}", vm.second_stage());
    println!("{:?}", vm.guest_functions());
    let nic = bdf("01:01.0");
    let at = |offset| Guest(Access::whole(nic, Dword::at(offset).unwrap()));
    vm.config_write(at(0x10), !0);
    assert_eq!(vm.config_read(at(0x10)), 0xfffe_0000);
    vm.config_write(at(0x10), 0xe010_0000);
    let changes = vm.config_write(at(0x04), 0x6);
    println!("{changes:?}");
    assert_eq!(vm.memory_read(0xe010_0010, Width::Dword), signature(0, bdf("02:00.0"), 0, 0x10));
    assert_eq!(vm.memory_read(0xe100_0010, Width::Dword), !0);
    println!("{:?}", vm.remapper().traps().collect::<Vec<_>>());
}

#[test]
fn a_bar_outside_its_bridges_windows_is_never_mapped() {
    let memory = BarKind::Memory32 { prefetchable: false };
    let window = |start| Windows::memory(Span::new(start, 0x100_0000).unwrap());
    // BAR 1 kept an address of another configuration, where RAM is.
    let mut machine = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY])
        .root_port(bdf("00:01.0"), 1..=1, window(0xe000_0000))
        .root_port(bdf("00:01.1"), 2..=2, window(0xe100_0000))
        .endpoint(Blueprint::endpoint(bdf("01:00.0")))
        .endpoint(
            Blueprint::endpoint(bdf("02:00.0"))
                .bar(0, memory, 0x2_0000, 0xe100_0000)
                .bar(1, memory, 0x2_0000, 0x90_0000),
        )
        .build()
        .unwrap();
    let topology = topology(&mut machine).unwrap();
    let plan = Plan::new(&topology).relocate("02:00.0".parse().unwrap(), "01:01.0".parse().unwrap()).unwrap();
    let causes: Vec<_> = plan.findings().map(|finding| finding.cause).collect();
    assert!(causes.contains(&Cause::BarUnreached(1)), "{causes:?}");
    let mut vm = Vm::start(machine, &plan).unwrap();
    let tree = boot(Kind::Linux61, &mut vm).tree;
    let bars = |device: &Device| device.bars.iter().map(|bar| bar.bar).collect::<Vec<_>>();
    assert_eq!(tree.device(bdf("01:01.0")).map(bars), Some(vec![0]));
    let hosts: Vec<_> = vm.second_stage().mappings().iter().map(|mapping| mapping.host.0.start()).collect();
    assert_eq!(hosts, [0xe100_0000]);
    let concealed: Vec<_> = vm.second_stage().concealed().iter().map(|(guest, _)| guest.0.start()).collect();
    assert_eq!(concealed, [0xe100_0000]);
}

#[test]
fn nothing_is_placed_on_a_root_bus_without_windows() {
    let memory = BarKind::Memory32 { prefetchable: false };
    // The processor's own bus, as Xeons have it: functions without memory.
    let mut machine = Builder::new()
        .root(0..=0xfe, &[Builder::LOW_MEMORY])
        .root(0xff..=0xff, &[])
        .endpoint(Blueprint::endpoint(bdf("00:03.0")).bar(0, memory, 0x2_0000, 0xe100_0000))
        .endpoint(Blueprint::endpoint(bdf("ff:08.0")))
        .build()
        .unwrap();
    let topology = topology(&mut machine).unwrap();
    let plan = Plan::new(&topology).relocate("00:03.0".parse().unwrap(), "ff:09.0".parse().unwrap()).unwrap();
    let causes: Vec<_> = plan.findings().map(|finding| finding.cause).collect();
    assert_eq!(causes, [Cause::LeavesAddresses(0), Cause::NoWindow(0, Space::Memory, "ff:09.0".parse().unwrap())]);
}

/// Whether Linux finds these after a move on a machine where two functions with ARI are behind a root port.
fn found_with_ari(host: &str, guest: &str, wanted: &[&str]) -> Vec<bool> {
    let window = |start| Windows::memory(Span::new(start, 0x100_0000).unwrap());
    let express = |at: &str| Blueprint::endpoint(bdf(at)).capability(&Capability::Express(PortType::Endpoint));
    let ari = |at: &str, next| express(at).multi_function().extended(&ExtendedCapability::Ari { next });
    let mut machine = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY])
        .root_port(bdf("00:01.0"), 1..=1, window(0xe000_0000))
        .root_port(bdf("00:01.1"), 2..=2, window(0xe100_0000))
        .endpoint(ari("01:00.0", 1))
        .endpoint(ari("01:00.1", 2))
        .endpoint(ari("01:00.2", 0))
        .endpoint(express("02:00.0"))
        .build()
        .unwrap();
    let topology = topology(&mut machine).unwrap();
    let plan = Plan::new(&topology).relocate(host.parse().unwrap(), guest.parse().unwrap()).unwrap();
    let tree = boot(Kind::Linux61, &mut Vm::start(machine, &plan).unwrap()).tree;
    wanted.iter().map(|wanted| tree.device(bdf(wanted)).is_some()).collect()
}

#[test]
fn a_function_moved_into_a_device_with_ari_is_found() {
    let wanted = ["01:00.0", "01:00.1", "01:00.2", "01:00.3"];
    assert_eq!(found_with_ari("02:00.0", "01:00.3", &wanted), [true; 4]);
}

#[test]
fn siblings_with_ari_are_found_past_one_that_left() {
    let wanted = ["01:00.0", "01:00.1", "01:00.2", "02:00.1"];
    assert_eq!(found_with_ari("01:00.1", "02:00.1", &wanted), [true, false, true, true]);
}

#[test]
fn pre_assigned_io_bars_stay_off_the_ports_of_the_mainboard() {
    let mut machine = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY, RootWindow { span: Span::new(0, 0x1_0000).unwrap(), space: Space::Io }])
        .endpoint(Blueprint::endpoint(bdf("00:03.0")).bar(0, BarKind::Io, 0x20, 0x3000))
        .build()
        .unwrap();
    let topology = topology(&mut machine).unwrap();
    let relocation = Relocation::new("00:03.0".parse().unwrap(), "00:04.0".parse().unwrap());
    let plan = Plan::new(&topology).with(Relocation { placement: Placement::PreAssigned, ..relocation }).unwrap();
    let vm = Vm::start(machine, &plan).unwrap();
    let guests: Vec<_> = vm.second_stage().mappings().iter().map(|mapping| mapping.guest.0).collect();
    assert_eq!(guests, [Span::new(0x1000, 0x20).unwrap()]);
}
