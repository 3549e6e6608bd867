//! `pci_scan_child_bus_extend`: which addresses are looked at, and bus numbers.

use std::format;
use std::vec::Vec;

use super::{Bus, DOWNSTREAM_PORTS, Linux, Release};
use crate::address::Bdf;
use crate::sim::guest::capability::{find, find_extended};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::header::HeaderType;

const STATUS: u16 = 0x06;
const BUS_NUMBERS: u16 = 0x18;
const SUBORDINATE: u16 = 0x1a;
const SECONDARY_STATUS: u16 = 0x1e;
const BRIDGE_CONTROL: u16 = 0x3e;
/// Master Abort Mode in Bridge Control.
const MASTER_ABORT_MODE: u16 = 1 << 5;
/// Longest wait for a function that answers Request Retry Status, in milliseconds.
const RRS_TIMEOUT: u32 = 60_000;

impl Linux<'_> {
    /// `pci_register_host_bridge`, then the scan.
    pub(super) fn scan_root_bus(&mut self, root: usize) {
        let buses = self.config.firmware.roots[root].buses.clone();
        let bus = self.alloc_bus(None, root, *buses.start(), *buses.end());
        self.log.push(format!("PCI host bridge to bus {:04x}:{:02x}", self.config.firmware.segment, buses.start()));
        for window in self.roots[root].clone() {
            self.bus_info(bus, format_args!("root bus resource {window}"));
        }
        let range = self.bus_range(bus);
        self.bus_info(bus, format_args!("root bus resource {range}"));
        self.scan_child_bus(bus);
    }

    fn alloc_bus(&mut self, bridge: Option<usize>, root: usize, number: u8, last: u8) -> usize {
        let bus = self.buses.len();
        self.buses.push(Bus {
            number,
            last,
            root,
            parent: bridge.map(|bridge| self.devices[bridge].bus),
            bridge,
            devices: Vec::new(),
            no_extended_config: false,
            bridge_control: 0,
            sized: false,
            is_added: false,
            is_removed: false,
        });
        bus
    }

    /// Scans the slots, then behind the bridges: first those with valid numbers, then the others. Returns the highest
    /// bus number in use.
    pub(super) fn scan_child_bus(&mut self, bus: usize) -> u8 {
        for device in 0..32 {
            self.scan_slot(bus, device << 3);
        }
        if !core::mem::replace(&mut self.buses[bus].is_added, true) {
            self.read_bridge_bases(bus);
        }
        let mut max = self.buses[bus].number;
        for pass in 0..2 {
            for dev in self.buses[bus].devices.clone() {
                if self.devices[dev].header == HeaderType::Type1 {
                    max = self.scan_bridge(bus, dev, max, pass);
                }
            }
        }
        max
    }

    /// `pci_scan_slot`. How many functions are new.
    pub(super) fn scan_slot(&mut self, bus: usize, devfn: u8) -> usize {
        if devfn > 0 && self.only_one_child(bus) {
            return 0;
        }
        let before = self.buses[bus].devices.len();
        self.scan_functions(bus, devfn);
        let new = self.buses[bus].devices.len() - before;
        // One slot of the bus has a PCI Express device.
        if let Some(bridge) = self.buses[bus].bridge.filter(|_| new > 0) {
            self.aspm_init_link_state(bridge);
        }
        new
    }

    fn scan_functions(&mut self, bus: usize, devfn: u8) {
        let mut function = 0;
        loop {
            let dev = devfn.checked_add(function).and_then(|devfn| self.scan_single_device(bus, devfn));
            match dev {
                Some(dev) if function > 0 => self.devices[dev].multi_function = true,
                None if function == 0 => return,
                _ => {}
            }
            let Some(next) = self.next_function(bus, dev, function) else { return };
            function = next;
        }
    }

    /// `pci_bus_check_dev` of pciehp: whether device 0 behind a port answers.
    pub(super) fn first_below_answers(&mut self, port: usize) -> bool {
        let Some(bus) = self.devices[port].subordinate else { return false };
        let first = Bdf::from_routing_id(u16::from_be_bytes([self.buses[bus].number, 0]));
        let id = self.config.read32(first, 0);
        !matches!(id, 0xffff_ffff | 0x0000_0000 | 0x0000_ffff | 0xffff_0000) && id & 0xffff != 0x0001
    }

    /// `only_one_child`: a link leads to one device.
    fn only_one_child(&self, bus: usize) -> bool {
        self.buses[bus].bridge.is_some_and(|bridge| self.devices[bridge].is_downstream_port())
    }

    /// `next_fn`.
    fn next_function(&mut self, bus: usize, dev: Option<usize>, function: u8) -> Option<u8> {
        if self.buses[bus].bridge.is_some_and(|bridge| self.devices[bridge].ari_enabled) {
            return self.next_ari_function(dev?, function);
        }
        let more = dev.is_none_or(|dev| self.devices[dev].multi_function);
        (function < 7 && more).then_some(function + 1)
    }

    /// `next_ari_fn`: numbers must rise.
    fn next_ari_function(&mut self, dev: usize, function: u8) -> Option<u8> {
        let ari = self.find_extended(dev, ExtendedCapabilityId::ARI)?;
        let [_, next] = self.read16(dev, ari + 4).to_le_bytes();
        (next > function).then_some(next)
    }

    /// `pci_scan_single_device`: finds what is known already, or looks.
    fn scan_single_device(&mut self, bus: usize, devfn: u8) -> Option<usize> {
        let bdf = Bdf::from_routing_id(u16::from_be_bytes([self.buses[bus].number, devfn]));
        if let Some(dev) = self.devices.iter().position(|dev| dev.bdf == bdf && !dev.is_removed) {
            return Some(dev);
        }
        let id = self.read_vendor_id(bdf)?;
        let dev = self.setup_device(bus, bdf, id, None)?;
        self.configure_device(dev);
        self.init_capabilities(dev);
        self.buses[bus].devices.push(dev);
        // A port without a bus yet: nothing is behind it (pci_device_add).
        self.failed_link_retrain(dev);
        Some(dev)
    }

    /// `pci_bus_generic_read_dev_vendor_id` and `pci_bus_wait_crs`.
    fn read_vendor_id(&mut self, bdf: Bdf) -> Option<u32> {
        let mut id = self.config.read32(bdf, 0);
        if matches!(id, 0xffff_ffff | 0x0000_0000 | 0x0000_ffff | 0xffff_0000) {
            return None;
        }
        let name = format!("pci {:04x}:{bdf}", self.config.firmware.segment);
        let mut delay = 1;
        while id & 0xffff == 0x0001 {
            if delay > RRS_TIMEOUT {
                self.log.push(format!("{name}: not ready after {}ms; giving up", delay - 1));
                return None;
            }
            if delay >= 1000 {
                self.log.push(format!("{name}: not ready after {}ms; waiting", delay - 1));
            }
            self.sleep(delay.into());
            delay *= 2;
            id = self.config.read32(bdf, 0);
        }
        if delay >= 1000 {
            self.log.push(format!("{name}: ready after {}ms", delay - 1));
        }
        Some(id)
    }

    /// `pci_scan_bridge_extend`: keeps valid bus numbers, gives new ones otherwise.
    fn scan_bridge(&mut self, bus: usize, dev: usize, max: u8, pass: u8) -> u8 {
        let numbers = self.read32(dev, BUS_NUMBERS);
        let [mut primary, secondary, subordinate, _] = numbers.to_le_bytes();
        let own = self.buses[bus].number;
        if primary == 0 && own != 0 && secondary != 0 && subordinate != 0 {
            self.info(dev, "Primary bus is hard wired to 0");
            primary = own;
        }
        let mut broken = false;
        if pass == 0 && (primary != own || secondary <= own || secondary > subordinate) {
            self.info(
                dev,
                format_args!("bridge configuration invalid ([bus {secondary:02x}-{subordinate:02x}]), reconfiguring"),
            );
            broken = true;
        }
        let control = self.read16(dev, BRIDGE_CONTROL);
        self.write16(dev, BRIDGE_CONTROL, control & !MASTER_ABORT_MODE);
        self.enable_rrs(dev);
        let configured = (secondary != 0 || subordinate != 0) && !broken;
        let max = match (configured, pass) {
            (true, 0) => self.scan_configured(bus, dev, secondary, subordinate, control).max(max),
            // Temporarily disables forwarding.
            (false, 0) => {
                if broken {
                    self.write32(dev, BUS_NUMBERS, numbers & 0xff00_0000);
                }
                max
            }
            (false, _) => self.number_and_scan(bus, dev, numbers, max, control),
            (true, _) => max,
        };
        if self.release == Release::V6_15 {
            // Errors the probing of empty slots left behind; cleared since 6.9.
            self.write16(dev, SECONDARY_STATUS, 0xffff);
        }
        self.write16(dev, BRIDGE_CONTROL, control);
        max
    }

    fn scan_configured(&mut self, bus: usize, dev: usize, secondary: u8, subordinate: u8, control: u16) -> u8 {
        if let Some(child) = self.devices[dev].subordinate {
            // Scanned before: what is new is found.
            self.scan_child_bus(child);
        } else if !self.has_bus(secondary) {
            // Linux scans a bus again that another bridge has claimed; with every function known, to no avail.
            let child = self.add_bus(bus, dev, secondary, subordinate, control);
            let highest = self.scan_child_bus(child);
            if highest > subordinate {
                self.info(dev, format_args!("bridge has subordinate {subordinate:02x} but max busn {highest:02x}"));
            }
        }
        subordinate
    }

    fn number_and_scan(&mut self, bus: usize, dev: usize, numbers: u32, max: u8, control: u16) -> u8 {
        self.write16(dev, STATUS, 0xffff);
        let Some(next) = max.checked_add(1).filter(|next| *next <= self.buses[bus].last) else { return max };
        if self.has_bus(next) {
            return max;
        }
        let last = self.buses[bus].last;
        let child = self.add_bus(bus, dev, next, last, control);
        let [.., latency] = numbers.to_le_bytes();
        self.write32(dev, BUS_NUMBERS, u32::from_le_bytes([self.buses[bus].number, next, last, latency]));
        let highest = self.scan_child_bus(child);
        self.buses[child].last = highest;
        let bdf = self.devices[dev].bdf;
        self.config.write8(bdf, SUBORDINATE, highest);
        highest
    }

    /// `pci_find_bus`.
    fn has_bus(&self, number: u8) -> bool {
        self.buses.iter().any(|bus| bus.number == number && !bus.is_removed)
    }

    /// `pci_add_new_bus`.
    fn add_bus(&mut self, bus: usize, dev: usize, number: u8, last: u8, control: u16) -> usize {
        let child = self.alloc_bus(Some(dev), self.buses[bus].root, number, last);
        self.buses[child].bridge_control = control;
        self.devices[dev].subordinate = Some(child);
        if !self.is_extended_config_reachable(bus, dev) {
            self.buses[child].no_extended_config = true;
            self.bus_info(child, "extended config space not accessible");
        }
        child
    }

    /// `pci_bridge_child_ext_cfg_accessible`.
    fn is_extended_config_reachable(&mut self, bus: usize, dev: usize) -> bool {
        if self.buses[bus].no_extended_config {
            return false;
        }
        if let Some((_, 4..=6)) = self.devices[dev].express {
            return true;
        }
        self.is_pci_x_mode_2(dev)
    }

    /// Whether PCI-X Status says 266 or 533 MHz: then there are 4096 bytes.
    pub(super) fn is_pci_x_mode_2(&mut self, dev: usize) -> bool {
        self.find(dev, CapabilityId::PCI_X).is_some_and(|at| self.read32(dev, at + 4) & 0xc000_0000 != 0)
    }

    /// `pci_enable_crs`: root ports that can are told to show Request Retry Status.
    fn enable_rrs(&mut self, dev: usize) {
        const SOFTWARE_VISIBLE: u16 = 1 << 0;
        const SOFTWARE_VISIBILITY_ENABLE: u16 = 1 << 4;
        if let Some((at, 4)) = self.devices[dev].express
            && self.read16(dev, at + 0x1e) & SOFTWARE_VISIBLE != 0
        {
            let control = self.read16(dev, at + 0x1c);
            self.write16(dev, at + 0x1c, control | SOFTWARE_VISIBILITY_ENABLE);
            self.devices[dev].rrs_visible = true;
        }
    }

    /// `set_pcie_port_type`'s look at the port above.
    pub(super) fn upstream_port_type(&self, bus: usize) -> Option<u8> {
        let bridge = self.buses[bus].bridge?;
        Some(self.devices[bridge].express.map_or(0xff, |(_, port)| port))
    }

    /// Whether a link leads down from a port of this type.
    pub(super) fn leads_down(port: u8) -> bool {
        DOWNSTREAM_PORTS.contains(&port)
    }

    /// `pci_find_capability`, which walks the list each time.
    pub(super) fn find(&mut self, dev: usize, id: CapabilityId) -> Option<u16> {
        let (bdf, header) = (self.devices[dev].bdf, self.devices[dev].header);
        find(&mut self.config, bdf, header, id)
    }

    /// `pci_find_ext_capability`, which walks the list each time.
    pub(super) fn find_extended(&mut self, dev: usize, id: ExtendedCapabilityId) -> Option<u16> {
        if self.devices[dev].config_size <= 256 {
            return None;
        }
        let bdf = self.devices[dev].bdf;
        find_extended(&mut self.config, bdf, id)
    }
}
