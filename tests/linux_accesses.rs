//! What Linux does to registers after enumeration, access by access.

mod support;

use core::cell::RefCell;
use core::time::Duration;
use std::rc::Rc;

use pci_remap::sim::guest::Kind;
use pci_remap::sim::guest::life::{Life, Step};
use pci_remap::sim::machine::{Blueprint, Builder, Capability, Machine, Windows};
use pci_remap::sim::platform::{Firmware, Platform};
use pci_remap::spec::express::PortType;
use pci_remap::{Dword, Width};
use support::{MEMORY, bdf, span};

/// Writes down every configuration access, and every one to memory.
struct Recorder {
    machine: Machine,
    address: u32,
    lines: Rc<RefCell<Vec<String>>>,
}

impl Recorder {
    fn note(&self, verb: char, width: Width, place: &str, value: u32) {
        let bits = 8 * u32::from(width.bytes());
        let digits = usize::from(2 * width.bytes());
        self.lines.borrow_mut().push(format!("{verb}{bits} {place} {value:0digits$x}"));
    }

    /// The register CONFIG_ADDRESS and the data port select.
    fn register(&self, port: u16) -> String {
        let [offset, devfn, bus, _] = self.address.to_le_bytes();
        let offset = u16::from(offset) + (port & 3);
        format!("{bus:02x}:{:02x}.{}+{offset:03x}", devfn >> 3, devfn & 7)
    }

    fn place(&self, address: u64) -> String {
        match self.machine.firmware().ecam.and_then(|ecam| ecam.pieces(address, 1).next()) {
            Some(piece) => format!("{}+{:03x}", piece.access().0.function(), address & 0xfff),
            None => format!("{address:#x}"),
        }
    }
}

impl Platform for Recorder {
    fn firmware(&self) -> &Firmware {
        self.machine.firmware()
    }

    fn port_read(&mut self, port: u16, width: Width) -> u32 {
        let value = self.machine.port_read(port, width);
        if port & !3 == 0xcfc {
            self.note('R', width, &self.register(port), value);
        }
        value
    }

    fn port_write(&mut self, port: u16, width: Width, value: u32) {
        if port & !3 == 0xcfc {
            self.note('W', width, &self.register(port), value);
        } else if port == 0xcf8 {
            self.address = value;
        }
        self.machine.port_write(port, width, value);
    }

    fn elapse(&mut self, time: Duration) {
        self.machine.elapse(time);
    }

    fn memory_read(&mut self, address: u64, width: Width) -> u32 {
        let value = Platform::memory_read(&mut self.machine, address, width);
        self.note('R', width, &self.place(address), value);
        value
    }

    fn memory_write(&mut self, address: u64, width: Width, value: u32) {
        self.note('W', width, &self.place(address), value);
        Platform::memory_write(&mut self.machine, address, width, value);
    }
}

fn machine(devices: impl IntoIterator<Item = Blueprint>) -> Machine {
    let builder = Builder::new().root(0..=0xff, &[Builder::LOW_MEMORY]).root_port(
        bdf("00:01.0"),
        1..=1,
        Windows::memory(span(0xe000_0000, 0x10_0000)),
    );
    devices.into_iter().fold(builder, Builder::function).build().unwrap()
}

/// The accesses of the last of some steps.
fn accesses(kind: Kind, machine: Machine, steps: &[Step]) -> Vec<String> {
    let lines = Rc::new(RefCell::new(Vec::new()));
    let mut recorder = Recorder { machine, address: 0, lines: Rc::clone(&lines) };
    let mut life = Life::start(kind, &mut recorder, &[bdf("01:00.0")]).unwrap();
    for step in steps {
        lines.borrow_mut().clear();
        life.run(*step);
    }
    lines.take()
}

fn nic() -> Blueprint {
    Blueprint::endpoint(bdf("01:00.0"))
        .bar(0, MEMORY, 0x1000, 0xe000_0000)
        .capability(&Capability::PowerManagement)
        .capability(&Capability::MsiX { vectors: 2, table: (0, 0x800), pba: (0, 0xc00) })
        .capability(&Capability::Express(PortType::Endpoint))
}

/// The accesses from the first to the last of two lines.
fn between(lines: &[String], first: &str, last: &str) -> Vec<String> {
    let from = lines.iter().position(|line| line == first).unwrap();
    let to = lines.iter().rposition(|line| line == last).unwrap();
    lines[from..=to].to_vec()
}

/// `pcie_port_device_register`: MSI, written while it is off, then the service for Power Management Events.
#[test]
fn a_root_port_gets_one_message_and_listens_for_power_management_events() {
    let lines = accesses(Kind::Linux61, machine([]), &[Step::BindPorts]);
    let expected = [
        // pcie_pme_interrupt_enable(false), Link Capabilities, pci_set_master
        "R16 00:01.0+05c 0000",
        "W16 00:01.0+05c 0000",
        "R32 00:01.0+04c 0053f443",
        "R16 00:01.0+004 0007",
        // msi_capability_init: off, masked, __pci_write_msi_msg, INTx off, on, unmasked
        "R16 00:01.0+086 0184",
        "W16 00:01.0+086 0184",
        "R16 00:01.0+086 0184",
        "W32 00:01.0+094 ffffffff",
        "R16 00:01.0+086 0184",
        "W16 00:01.0+086 0184",
        "W32 00:01.0+088 fee00000",
        "W32 00:01.0+08c 00000000",
        "W16 00:01.0+090 0018",
        "R16 00:01.0+086 0184",
        "R16 00:01.0+004 0007",
        "W16 00:01.0+004 0407",
        "R16 00:01.0+086 0184",
        "W16 00:01.0+086 0185",
        "R16 00:01.0+086 0185",
        "W32 00:01.0+094 00000000",
        // pcie_message_numbers, pcie_pme_probe
        "R16 00:01.0+042 0042",
        "R16 00:01.0+05c 0000",
        "W16 00:01.0+05c 0000",
        "R32 00:01.0+060 00000000",
        "W32 00:01.0+060 00010000",
        "R16 00:01.0+05c 0000",
        "W16 00:01.0+05c 0008",
    ];
    assert_eq!(between(&lines, "R16 00:01.0+05c 0000", "W16 00:01.0+05c 0008"), expected);
}

/// `pcie_bwnotif_enable`.
#[test]
fn a_newer_kernel_listens_for_changes_of_the_links_speed() {
    let mut machine = machine([]);
    let port = machine.original(bdf("00:01.0")).unwrap();
    let capabilities = Dword::at(0x4c).unwrap();
    let notifies = machine.peek(port, capabilities) | 1 << 21;
    machine.poke(port, capabilities, notifies);
    let lines = accesses(Kind::Linux615, machine, &[Step::BindPorts]);
    let expected = [
        "R16 00:01.0+052 3043",
        "R16 00:01.0+050 0040",
        "W16 00:01.0+050 0c40",
        "W16 00:01.0+052 c000",
        "R16 00:01.0+052 3043",
    ];
    assert_eq!(between(&lines, expected[0], expected[4]), expected);
}

/// `pci_pm_runtime_suspend`: `pci_save_state`, then PME on, then D3hot, which is looked at.
#[test]
fn an_empty_root_port_is_saved_and_put_to_d3hot() {
    let lines = accesses(Kind::Linux61, machine([]), &[Step::BindPorts, Step::SuspendIdlePorts]);
    let header: Vec<_> = lines.iter().filter(|line| line.starts_with("R32 00:01.0+0")).collect();
    assert_eq!(header.len(), 16);
    let expected = [
        "R16 00:01.0+080 0000",
        "W16 00:01.0+080 8100",
        "R16 00:01.0+080 0100",
        "W16 00:01.0+080 0103",
        "R16 00:01.0+080 0103",
    ];
    assert_eq!(between(&lines, expected[0], expected[4]), expected);
}

/// `msix_capability_init`: on with everything masked, the table, INTx off, all entries masked, then what is used unmasked.
#[test]
fn a_driver_programs_the_msix_table_while_it_is_masked() {
    let lines = accesses(Kind::Linux61, machine([nic()]), &[Step::BindPorts, Step::BindDrivers]);
    let expected = [
        "W16 01:00.0+04a c001",
        "R16 01:00.0+04a c001",
        "R32 01:00.0+04c 00000800",
        "R32 0xe000080c 3fda3ab1",
        "R32 0xe000081c c7f3ecd2",
        "W32 0xe0000800 fee00000",
        "W32 0xe0000804 00000000",
        "W32 0xe0000808 00000019",
        "R32 0xe0000808 00000019",
        "W32 0xe0000810 fee00000",
        "W32 0xe0000814 00000000",
        "W32 0xe0000818 0000001a",
        "R32 0xe0000818 0000001a",
        "R16 01:00.0+004 0007",
        "W16 01:00.0+004 0407",
        "W32 0xe000080c 00000001",
        "W32 0xe000081c 00000001",
        "R16 01:00.0+04a c001",
        "W16 01:00.0+04a 8001",
        "W32 0xe000080c 00000000",
        "W32 0xe000081c 00000000",
    ];
    assert_eq!(between(&lines, expected[0], expected[20]), expected);
}

/// `pci_reset_function`: nothing but INTx Disable in Command, the reset, the wait; then PCI Express controls, and the header
/// from the end, of which only what differs is written.
#[test]
fn a_function_level_reset_is_followed_by_the_registers_that_differ() {
    let steps = [Step::BindPorts, Step::BindDrivers, Step::ResetFunction];
    let lines = accesses(Kind::Linux61, machine([nic()]), &steps);
    let lines = between(&lines, "W16 01:00.0+004 0400", "R32 01:00.0+000 15728086");
    let writes: Vec<_> = lines.iter().filter(|line| line.starts_with('W')).collect();
    let expected = [
        "W16 01:00.0+004 0400",
        "W16 01:00.0+05c a910",
        "W16 01:00.0+05c 2910",
        "W16 01:00.0+064 0040",
        "W16 01:00.0+07c 0400",
        "W16 01:00.0+084 0003",
    ];
    assert_eq!(writes[..6], expected);
    assert_eq!(writes.last().unwrap().as_str(), "W32 01:00.0+004 00100407");
    let compared = lines.iter().filter(|line| line.starts_with("R32 01:00.0+0")).rev().take(17);
    let mut offsets: Vec<_> = compared.map(|line| u16::from_str_radix(&line[12..15], 16).unwrap()).collect();
    // The BAR the reset cleared is written and read again.
    assert_eq!(offsets.remove(5), 0x10);
    assert_eq!(offsets, (0..16).map(|index| 4 * index).collect::<Vec<_>>());
}
