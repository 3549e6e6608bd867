//! Linux's PCI core on x86, from `pci_direct_probe` to `pci_enable_device`, in the order of 6.1.
//!
//! One file for each step, named in the order they run: [`scan`] (and in it, for each function, [`setup_device`] with
//! [`sizing`] and [`bridge_windows`], then [`init_capabilities`] and [`sriov`]), [`claim`], [`size_bridges`],
//! [`assign`] (with [`setup_bridge`]), [`drivers`]. Kernel functions are named where their order or their rule is followed.

use core::fmt;
use std::format;
use std::string::String;
use std::vec::Vec;

use super::config::Config;
use super::{Boot, early_quirks};
use crate::access::Width;
use crate::address::Bdf;
use crate::delta::Space;
use crate::sim::platform::Platform;
use crate::spec::header::{ClassCode, HeaderType};
use resource::{Flags, Parent, Resource};

mod assign;
mod bridge_windows;
mod claim;
mod drivers;
mod init_capabilities;
mod report;
mod resource;
mod scan;
mod setup_bridge;
mod setup_device;
mod size_bridges;
mod sizing;
mod sriov;

/// Which kernel it is, where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Release {
    V6_1,
    V6_15,
}

pub(super) fn boot(release: Release, platform: &mut dyn Platform) -> Boot {
    let mut linux = Linux::new(release, Config::new(platform));
    early_quirks::scan(&mut linux.config);
    linux.direct_probe();
    for root in 0..linux.roots.len() {
        linux.scan_root_bus(root);
    }
    linux.resource_survey();
    linux.assign_resources();
    linux.load_drivers();
    linux.report()
}

struct Linux<'p> {
    release: Release,
    config: Config<'p>,
    log: Vec<String>,
    /// Windows of the host bridges.
    roots: Vec<Vec<Resource>>,
    buses: Vec<Bus>,
    devices: Vec<Dev>,
}

/// `struct pci_bus`.
struct Bus {
    number: u8,
    /// `busn_res.end`.
    last: u8,
    /// Number of the host bridge.
    root: usize,
    parent: Option<usize>,
    /// `self`: the bridge it is behind.
    bridge: Option<usize>,
    devices: Vec<usize>,
    /// `PCI_BUS_FLAGS_NO_EXTCFG`.
    no_extended_config: bool,
    bridge_control: u16,
    /// Whether a window of its bridge was sized by its devices.
    sized: bool,
}

/// `struct pci_dev`.
#[expect(clippy::struct_excessive_bools, reason = "the kernel's own flags")]
struct Dev {
    bdf: Bdf,
    bus: usize,
    id: u32,
    revision: u8,
    class: ClassCode,
    header: HeaderType,
    multi_function: bool,
    config_size: u16,
    /// Where the PCI Express Capability is, and Device/Port Type as the kernel sees it.
    express: Option<(u16, u8)>,
    /// Device/Port Type as read.
    port_type: Option<u8>,
    pin: u8,
    transparent: bool,
    /// The windows the bridge turned out to have.
    implemented: Flags,
    hotplug: bool,
    ari_enabled: bool,
    sriov: Option<u16>,
    resources: [Resource; resource::COUNT],
    subordinate: Option<usize>,
    enabled: bool,
}

/// `pcie_downstream_port`: root port, downstream port, PCI to PCI Express bridge.
const DOWNSTREAM_PORTS: [u8; 3] = [4, 6, 8];

impl Dev {
    fn is_downstream_port(&self) -> bool {
        self.express.is_some_and(|(_, port)| DOWNSTREAM_PORTS.contains(&port))
    }
}

impl<'p> Linux<'p> {
    fn new(release: Release, config: Config<'p>) -> Self {
        let windows = |root: &crate::sim::platform::RootBridge| {
            let resource = |window: &crate::sim::platform::RootWindow| {
                let space = if window.space == Space::Io { Flags::IO } else { Flags::MEM };
                Resource::of_span(space | Flags::WINDOW, window.span)
            };
            root.windows.iter().map(resource).collect()
        };
        let roots = config.firmware.roots.iter().map(windows).collect();
        Self { release, config, log: Vec::new(), roots, buses: Vec::new(), devices: Vec::new() }
    }

    /// `pci_direct_probe`, `pci_check_type1`.
    fn direct_probe(&mut self) {
        const ADDRESS: u16 = 0xcf8;
        if !self.config.ports {
            return;
        }
        let platform = &mut *self.config.platform;
        platform.port_write(0xcfb, Width::Byte, 0x01);
        let before = platform.port_read(ADDRESS, Width::Dword);
        platform.port_write(ADDRESS, Width::Dword, 0x8000_0000);
        let works = platform.port_read(ADDRESS, Width::Dword) == 0x8000_0000;
        platform.port_write(ADDRESS, Width::Dword, before);
        self.config.ports = works;
        if works {
            self.log.push("PCI: Using configuration type 1 for base access".into());
        }
    }

    /// `pci_info`.
    fn info(&mut self, dev: usize, text: impl fmt::Display) {
        let line = format!("pci {}: {text}", self.name(dev));
        self.log.push(line);
    }

    /// `dev_info(&bus->dev)`.
    fn bus_info(&mut self, bus: usize, text: impl fmt::Display) {
        let line = format!("pci_bus {:04x}:{:02x}: {text}", self.config.firmware.segment, self.buses[bus].number);
        self.log.push(line);
    }

    /// `pci_name`.
    fn name(&self, dev: usize) -> String {
        format!("{:04x}:{}", self.config.firmware.segment, self.devices[dev].bdf)
    }

    /// What messages call a resource: `BAR 14` until `pci_resource_name` came.
    fn resource_name(&self, index: usize) -> String {
        match (self.release, index) {
            (Release::V6_15, 6) => "ROM".into(),
            (Release::V6_15, 7..13) => format!("VF BAR {}", index - 7),
            (Release::V6_15, 13..) => "bridge window".into(),
            _ => format!("BAR {index}"),
        }
    }

    /// `%pR` of a `busn_res`.
    fn bus_range(&self, bus: usize) -> String {
        let Bus { number, last, .. } = self.buses[bus];
        if number == last { format!("[bus {number:02x}]") } else { format!("[bus {number:02x}-{last:02x}]") }
    }

    /// `pci_bus_for_each_resource`: the windows that lead to a bus, those of a transparent bridge's own bus included.
    fn bus_resources(&self, bus: usize) -> Vec<(Parent, Resource)> {
        let mut list = Vec::new();
        let mut next = Some(bus);
        while let Some(bus) = next.take() {
            let Bus { root, parent, bridge, .. } = self.buses[bus];
            let Some(bridge) = bridge else {
                let windows = self.roots[root].iter().enumerate();
                list.extend(windows.map(|(index, window)| (Parent::Root(root, index), *window)));
                break;
            };
            let dev = &self.devices[bridge];
            let windows = resource::BRIDGE.map(|index| (Parent::Window(bridge, index), dev.resources[index]));
            list.extend(windows.filter(|(_, window)| window.exists()));
            next = if dev.transparent { parent } else { None };
        }
        list
    }

    /// The children of `parent` in the resource tree.
    fn children(&self, parent: Parent) -> impl Iterator<Item = (usize, usize, Resource)> {
        self.devices.iter().enumerate().flat_map(move |(dev, device)| {
            let claimed = device.resources.iter().enumerate().filter(move |(_, child)| child.parent == Some(parent));
            claimed.map(move |(index, child)| (dev, index, *child))
        })
    }

    fn read16(&mut self, dev: usize, offset: u16) -> u16 {
        self.config.read16(self.devices[dev].bdf, offset)
    }

    fn read32(&mut self, dev: usize, offset: u16) -> u32 {
        self.config.read32(self.devices[dev].bdf, offset)
    }

    fn write16(&mut self, dev: usize, offset: u16, value: u16) {
        self.config.write16(self.devices[dev].bdf, offset, value);
    }

    fn write32(&mut self, dev: usize, offset: u16, value: u32) {
        self.config.write32(self.devices[dev].bdf, offset, value);
    }
}
