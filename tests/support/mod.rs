//! The talk's machine and a guest's accesses to it, for tests that speak of registers.
#![allow(dead_code, reason = "no test file uses everything")]

use core::time::Duration;

use pci_remap::sim::machine::{Blueprint, Builder, Capability, ExtendedCapability, Machine, VfBar, Windows};
use pci_remap::sim::vm::{FUNCTIONS, Vm, topology};
use pci_remap::spec::bar::BarKind;
use pci_remap::spec::express::PortType;
use pci_remap::{Access, Bdf, Dword, Guest, Host, MapOp, Plan, Span, Topology, Width};

pub(crate) const MEMORY: BarKind = BarKind::Memory32 { prefetchable: false };
pub(crate) const MEMORY_64: BarKind = BarKind::Memory64 { prefetchable: true };

pub(crate) fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

pub(crate) fn host(text: &str) -> Host<Bdf> {
    text.parse().unwrap()
}

pub(crate) fn guest(text: &str) -> Guest<Bdf> {
    text.parse().unwrap()
}

pub(crate) fn span(start: u64, len: u64) -> Span {
    Span::new(start, len).unwrap()
}

pub(crate) fn windows(start: u64) -> Windows {
    let prefetchable = Span::new(0x10_0000_0000 + (start & 0xfff_ffff), 0x100_0000);
    Windows { prefetchable, ..Windows::memory(span(start, 0x100_0000)) }
}

/// The NIC of the talk: one 32-bit BAR, one 64-bit BAR with an MSI-X Table, a ROM, and most capabilities there are.
pub(crate) fn nic(at: &str) -> Blueprint {
    Blueprint::endpoint(bdf(at))
        .bar(0, MEMORY, 0x2_0000, 0xe100_0000)
        .bar(2, MEMORY_64, 0x8000, 0x10_0100_0000)
        .rom(0x1_0000, 0xe104_0000)
        .capability(&Capability::PowerManagement)
        .capability(&Capability::Msi)
        .capability(&Capability::EnhancedAllocation(Vec::new()))
        .capability(&Capability::MsiX { vectors: 64, table: (2, 0x2000), pba: (2, 0x6000) })
        .capability(&Capability::Express(PortType::Endpoint))
        .extended(&ExtendedCapability::SrIov { total: 8, offset: 16, stride: 1, bars: Vec::new() })
        .extended(&ExtendedCapability::AdvancedErrorReporting)
        .extended(&ExtendedCapability::LatencyToleranceReporting)
        .extended(&ExtendedCapability::SerialNumber(0))
        .extended(&ExtendedCapability::PrecisionTimeMeasurement)
}

/// Bytes of one Virtual Function in each of its two BARs.
pub(crate) const VF_SIZE: u64 = 0x4000;

/// A NIC with eight Virtual Functions from device 16 on, on every other function number (QEMU's igb).
pub(crate) fn adapter(at: &str) -> Blueprint {
    let bar = |address| VfBar { kind: MEMORY_64, size: VF_SIZE, address };
    let bars = vec![(0, bar(0x10_0110_0000)), (3, bar(0x10_0112_0000))];
    Blueprint::endpoint(bdf(at))
        .bar(0, MEMORY, 0x2_0000, 0xe100_0000)
        .bar(3, MEMORY, 0x4000, 0xe102_0000)
        .capability(&Capability::PowerManagement)
        .capability(&Capability::MsiX { vectors: 4, table: (3, 0), pba: (3, 0x2000) })
        .capability(&Capability::Express(PortType::Endpoint))
        .extended(&ExtendedCapability::AdvancedErrorReporting)
        .extended(&ExtendedCapability::Ari { next: 0 })
        .extended(&ExtendedCapability::SrIov { total: 8, offset: 0x80, stride: 2, bars })
}

/// A display behind one root port, and whatever is given behind and beside the next.
pub(crate) fn machine(others: impl IntoIterator<Item = Blueprint>) -> Machine {
    let builder = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY, Builder::PORTS])
        .root_port(bdf("00:01.0"), 1..=1, windows(0xe000_0000))
        .root_port(bdf("00:01.1"), 2..=2, windows(0xe100_0000))
        .endpoint(Blueprint::endpoint(bdf("01:00.0")).bar(0, MEMORY, 0x10_0000, 0xe000_0000));
    others.into_iter().fold(builder, Builder::function).build().unwrap()
}

/// Scans the machine; the topology lives as long as the test.
pub(crate) fn scan(machine: &mut Machine) -> &'static Topology<FUNCTIONS> {
    Box::leak(topology(machine).unwrap())
}

/// The NIC at 02:00.0, seen at 01:01.0.
pub(crate) fn talk() -> Vm {
    moved(machine([nic("02:00.0")]), &[("02:00.0", "01:01.0")])
}

pub(crate) fn moved(mut machine: Machine, moves: &[(&str, &str)]) -> Vm {
    let plan = Plan::new(scan(&mut machine));
    let plan = moves.iter().try_fold(plan, |plan, (from, to)| plan.relocate(host(from), guest(to))).unwrap();
    Vm::start(machine, &plan).unwrap()
}

/// The hardware's register of a function, by offset.
pub(crate) fn read(machine: &mut Machine, function: &str, offset: u16) -> u32 {
    machine.config_read(Access::whole(bdf(function), Dword::at(offset).unwrap()))
}

pub(crate) fn write(machine: &mut Machine, function: &str, offset: u16, value: u32) {
    machine.config_write(Access::whole(bdf(function), Dword::at(offset).unwrap()), value);
}

pub(crate) fn wait(machine: &mut Machine, milliseconds: u64) {
    machine.elapse(Duration::from_millis(milliseconds));
}

/// A guest's accesses to one function, by offset.
pub(crate) trait Registers {
    fn read(&mut self, function: &str, offset: u16) -> u32;
    fn write(&mut self, function: &str, offset: u16, value: u32) -> Vec<MapOp>;
    fn write_word(&mut self, function: &str, offset: u16, value: u32) -> Vec<MapOp>;
}

impl Registers for Vm {
    fn read(&mut self, function: &str, offset: u16) -> u32 {
        self.config_read(Guest(Access::whole(bdf(function), Dword::at(offset).unwrap())))
    }

    fn write(&mut self, function: &str, offset: u16, value: u32) -> Vec<MapOp> {
        self.config_write(Guest(Access::whole(bdf(function), Dword::at(offset).unwrap())), value)
    }

    fn write_word(&mut self, function: &str, offset: u16, value: u32) -> Vec<MapOp> {
        let access = Access::at(bdf(function), offset, Width::Word).unwrap();
        self.config_write(Guest(access), value << (access.lanes().first() * 8))
    }
}
