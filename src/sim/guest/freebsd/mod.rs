//! FreeBSD 14 on x86: sys/dev/pci/pci.c and pci_pci.c. Every bus has 32 slots, whatever leads to it; firmware's
//! addresses are kept where they fit; windows of bridges grow on demand.

use std::string::String;
use std::vec::Vec;

use super::Boot;
use super::capability::{list, list_extended};
use super::config::Config;
use super::tree::{Device, DeviceTree, Resource, Window};
use crate::address::Span;
use crate::delta::Space;
use crate::sim::platform::Platform;
use crate::spec::bar::BarKind;
use crate::spec::header::{Command, HeaderType};

mod bars;
mod bridge;
mod identify;
mod windows;

const COMMAND: u16 = 0x04;
const IO_STEP: u64 = 0x1000;
const MEMORY_STEP: u64 = 1 << 20;

pub(super) fn boot(platform: &mut dyn Platform) -> Boot {
    let mut freebsd =
        FreeBsd { config: Config::new(platform), log: Vec::new(), buses: Vec::new(), devices: Vec::new() };
    let roots = freebsd.config.firmware.roots.clone();
    for root in &roots {
        let windows = root.windows.iter().map(|window| Pool {
            kind: if window.space == Space::Io { BarKind::Io } else { BarKind::Memory64 { prefetchable: true } },
            span: Some(window.span),
            taken: Vec::new(),
        });
        let (number, last) = (*root.buses.start(), *root.buses.end());
        let pools = windows.collect();
        freebsd.buses.push(Bus { number, last, bridge: None, parent: None, pools, functions: 8, next: number });
        freebsd.attach_bus(freebsd.buses.len() - 1);
    }
    freebsd.enable_devices();
    freebsd.report(roots.iter().map(|root| *root.buses.start()).collect())
}

struct FreeBsd<'p> {
    config: Config<'p>,
    log: Vec<String>,
    buses: Vec<Bus>,
    devices: Vec<Device>,
}

struct Bus {
    number: u8,
    last: u8,
    /// The bridge it is behind, and that one's bus.
    bridge: Option<usize>,
    parent: Option<usize>,
    /// What its functions get addresses from.
    pools: Vec<Pool>,
    /// Number of functions of a slot: 256 in slot 0, the only one then, with ARI.
    functions: u16,
    /// The highest bus number given away.
    next: u8,
}

/// Addresses a bridge forwards, and who has them (`struct pcib_window`, `struct rman`).
struct Pool {
    kind: BarKind,
    /// None: closed.
    span: Option<Span>,
    taken: Vec<Span>,
}

impl FreeBsd<'_> {
    /// `pci_attach`: finds the functions of a bus, gives them addresses, then goes behind the bridges.
    fn attach_bus(&mut self, bus: usize) {
        let first = self.devices.len();
        self.add_children(bus);
        let found = first..self.devices.len();
        // Windows first: what has no address yet shall not end up in one.
        let mut children = Vec::new();
        for dev in found.clone() {
            if self.devices[dev].header_type == HeaderType::Type1 {
                children.extend(self.attach_bridge(bus, dev));
            }
        }
        for fixed in [true, false] {
            for dev in found.clone() {
                self.reserve_bars(bus, dev, fixed);
            }
        }
        for child in children {
            self.attach_bus(child);
        }
    }

    /// Drivers: decoding as resources are activated, then `pci_enable_busmaster`; bridges on the way.
    fn enable_devices(&mut self) {
        for dev in 0..self.devices.len() {
            let device = &self.devices[dev];
            let mut command = Command::BUS_MASTER_ENABLE;
            let mut bars = device.bars.iter().filter(|bar| bar.bar != Resource::ROM);
            let assigned = bars.clone().all(|bar| bar.span.is_some());
            if device.header_type == HeaderType::Type1 {
                command |= Command::IO_SPACE_ENABLE | Command::MEMORY_SPACE_ENABLE;
            }
            command.set(
                Command::IO_SPACE_ENABLE,
                command.contains(Command::IO_SPACE_ENABLE) || bars.clone().any(|bar| !bar.kind.is_memory()),
            );
            command.set(
                Command::MEMORY_SPACE_ENABLE,
                command.contains(Command::MEMORY_SPACE_ENABLE) || bars.any(|bar| bar.kind.is_memory()),
            );
            if !assigned || device.class.is_host_bridge() {
                continue;
            }
            let bdf = device.bdf;
            let before = self.config.read16(bdf, COMMAND);
            self.config.write16(bdf, COMMAND, before | command.bits());
            self.devices[dev].enabled = true;
        }
    }

    fn report(mut self, roots: Vec<u8>) -> Boot {
        for dev in 0..self.devices.len() {
            let Device { bdf, header_type, config_size, .. } = self.devices[dev];
            self.devices[dev].capabilities = list(&mut self.config, bdf, header_type);
            if config_size > 256 {
                self.devices[dev].extended_capabilities = list_extended(&mut self.config, bdf);
            }
        }
        for bus in &self.buses {
            let Some(bridge) = bus.bridge else { continue };
            let windows = bus.pools.iter().filter_map(|pool| Some(Window { kind: pool.kind, span: pool.span? }));
            self.devices[bridge].windows = windows.collect();
        }
        self.devices.sort_by_key(|device| device.bdf);
        let tree = DeviceTree { segment: self.config.firmware.segment, roots, devices: self.devices };
        Boot { tree, log: self.log }
    }
}
