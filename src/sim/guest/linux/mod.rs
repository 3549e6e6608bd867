//! Linux's PCI core on x86 and what it does to a machine from `pci_direct_probe` to kexec, in the order of 6.1.
//!
//! One file for each matter. Enumeration, in the order it runs: [`scan`] (and in it, for each function, [`setup_device`]
//! with [`sizing`] and [`bridge_windows`], then [`configure_device`], [`init_capabilities`] with [`ptm`], [`aer`] and
//! [`sriov`], and for each link [`aspm`] with [`common_clock`] and [`l1ss`]), [`claim`], [`size_bridges`], [`realloc`] ([`assign`], [`setup_bridge`]).
//! Then what [`life`] runs: [`portdrv`] with its services ([`pme`], [`aer`], [`pciehp`], [`dpc`], [`bwctrl`]),
//! [`drivers`] and [`probe`] with [`interrupts`], [`power`], [`runtime`] and [`sleep`] with [`save`], [`restore`] and
//! [`vc`], [`reset`], [`remove`], [`shutdown`]. [`express`] is how they all reach the PCI Express Capability, [`link`]
//! how they wait for a link and retrain it.
//!
//! Assumed of the machine: firmware from 2015 or later that leaves native control of all services to the system
//! (`_OSC`), no ACPI power resources, no kernel option. Kernel functions are named where their order or their rule is
//! followed.

use core::fmt;
use core::time::Duration;
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

mod aer;
mod aspm;
mod assign;
mod bridge_windows;
mod bwctrl;
mod claim;
mod common_clock;
mod configure_device;
mod dpc;
mod drivers;
mod express;
mod init_capabilities;
mod interrupts;
mod l1ss;
pub mod life;
mod link;
mod pciehp;
mod pme;
mod portdrv;
mod power;
mod probe;
mod ptm;
mod realloc;
mod remove;
mod report;
mod reset;
mod resource;
mod restore;
mod runtime;
mod save;
mod scan;
mod setup_bridge;
mod setup_device;
mod shutdown;
mod size_bridges;
mod sizing;
mod sleep;
mod sriov;
mod vc;

/// Which kernel it is, where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Release {
    V6_1,
    V6_15,
}

pub(super) fn boot(release: Release, platform: &mut dyn Platform) -> Boot {
    let mut linux = Linux::enumerate(release, platform);
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
    /// The interrupt number given out last.
    last_irq: u32,
    /// Whether optional resources (ROMs, VF BARs, room for what is plugged in) count as needed.
    optional_is_needed: bool,
}

/// `struct pci_bus`.
#[expect(clippy::struct_excessive_bools, reason = "the kernel's own flags")]
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
    /// Whether it was scanned before.
    is_added: bool,
    is_removed: bool,
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
    /// `iov->ctrl` and `iov->num_VFs`.
    virtual_functions: (u16, u16),
    /// `physfn`, of a virtual function.
    physical: Option<usize>,
    resources: [Resource; resource::COUNT],
    subordinate: Option<usize>,
    enabled: bool,
    /// `is_busmaster`.
    is_master: bool,
    /// Whether it was removed; then it is on no list any more.
    is_removed: bool,
    /// The PCI Express Capabilities register and Device Capabilities, read once.
    express_flags: u16,
    device_capabilities: u32,
    /// Whether all ports above it, and it, send Latency Tolerance Reports.
    ltr_path: bool,
    /// Whether configuration reads of the Vendor ID may show Request Retry Status (`config_rrs_sv`).
    rrs_visible: bool,
    found: Found,
    power: power::Power,
    ptm: ptm::Ptm,
    /// Of the link below, for a port.
    link: Option<aspm::LinkState>,
    /// Of the slot below, for a port.
    slot: Option<pciehp::Controller>,
    driver: Option<probe::Driver>,
    interrupts: interrupts::Interrupts,
    reset_methods: Vec<reset::Method>,
    saved: Option<save::Saved>,
}

/// Where the structures are that are used again and again.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    acs: Option<u16>,
    aer: Option<u16>,
    dpc: Option<u16>,
    l1ss: Option<u16>,
    msi: Option<u16>,
    msix: Option<u16>,
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
        Self {
            release,
            config,
            log: Vec::new(),
            roots,
            buses: Vec::new(),
            devices: Vec::new(),
            last_irq: 23,
            optional_is_needed: false,
        }
    }

    /// Everything up to the time drivers are loaded.
    fn enumerate(release: Release, platform: &'p mut dyn Platform) -> Self {
        let mut linux = Self::new(release, Config::new(platform));
        linux.boot_until_drivers();
        linux
    }

    fn boot_until_drivers(&mut self) {
        early_quirks::scan(&mut self.config);
        self.direct_probe();
        for root in 0..self.roots.len() {
            self.scan_root_bus(root);
        }
        self.resource_survey();
        self.assign_resources();
        self.for_each_root_bus(Self::add_devices);
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

    /// `pci_info`: after the name of the driver, if one is bound.
    fn info(&mut self, dev: usize, text: impl fmt::Display) {
        let driver = self.devices[dev].driver.as_ref().map_or("pci", probe::Driver::name);
        let line = format!("{driver} {}: {text}", self.name(dev));
        self.log.push(line);
    }

    /// `msleep`.
    fn sleep(&mut self, milliseconds: u64) {
        self.config.platform.elapse(Duration::from_millis(milliseconds));
    }

    /// `pci_upstream_bridge`.
    fn upstream_bridge(&self, dev: usize) -> Option<usize> {
        self.buses[self.devices[dev].bus].bridge
    }

    /// The functions on the bus below.
    fn below(&self, dev: usize) -> Vec<usize> {
        self.devices[dev].subordinate.map(|bus| self.buses[bus].devices.clone()).unwrap_or_default()
    }

    /// `pci_walk_bus`: all functions below, bridges before what is behind them.
    fn all_below(&self, dev: usize) -> Vec<usize> {
        let below = self.below(dev).into_iter();
        below.flat_map(|child| core::iter::once(child).chain(self.all_below(child))).collect()
    }

    /// The functions there are, bridges before what is behind them.
    fn all(&self) -> Vec<usize> {
        let roots = self.buses.iter().filter(|bus| bus.bridge.is_none()).flat_map(|bus| bus.devices.clone());
        roots.flat_map(|dev| core::iter::once(dev).chain(self.all_below(dev))).collect()
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

    /// `pci_read_config_byte`: nothing is asked of a function that is disconnected.
    fn read8(&mut self, dev: usize, offset: u16) -> u8 {
        let Dev { bdf, power, .. } = &self.devices[dev];
        if power.is_disconnected { !0 } else { self.config.read8(*bdf, offset) }
    }

    fn read16(&mut self, dev: usize, offset: u16) -> u16 {
        let Dev { bdf, power, .. } = &self.devices[dev];
        if power.is_disconnected { !0 } else { self.config.read16(*bdf, offset) }
    }

    fn read32(&mut self, dev: usize, offset: u16) -> u32 {
        let Dev { bdf, power, .. } = &self.devices[dev];
        if power.is_disconnected { !0 } else { self.config.read32(*bdf, offset) }
    }

    fn write8(&mut self, dev: usize, offset: u16, value: u8) {
        let Dev { bdf, power, .. } = &self.devices[dev];
        if !power.is_disconnected {
            self.config.write8(*bdf, offset, value);
        }
    }

    fn write16(&mut self, dev: usize, offset: u16, value: u16) {
        let Dev { bdf, power, .. } = &self.devices[dev];
        if !power.is_disconnected {
            self.config.write16(*bdf, offset, value);
        }
    }

    fn write32(&mut self, dev: usize, offset: u16, value: u32) {
        let Dev { bdf, power, .. } = &self.devices[dev];
        if !power.is_disconnected {
            self.config.write32(*bdf, offset, value);
        }
    }

    /// Clears and sets bits of a DWORD (`pci_clear_and_set_dword`).
    fn update32(&mut self, dev: usize, offset: u16, clear: u32, set: u32) {
        let value = self.read32(dev, offset);
        self.write32(dev, offset, value & !clear | set);
    }
}
