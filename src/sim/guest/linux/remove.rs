//! `remove` and `rescan` in sysfs (drivers/pci/remove.c, probe.c, setup-bus.c).

use std::vec::Vec;

use super::Linux;
use super::resource::{BRIDGE, Resource};
use crate::sim::guest::space::hardest_first;

impl Linux<'_> {
    /// `pci_stop_and_remove_bus_device`: drivers go first, then the structures.
    pub(super) fn stop_and_remove(&mut self, dev: usize) {
        self.stop(dev);
        self.remove(dev);
    }

    /// `pci_stop_bus_device`.
    fn stop(&mut self, dev: usize) {
        for child in self.below(dev).into_iter().rev() {
            self.stop(child);
        }
        self.pme_active(dev, false);
        self.unbind(dev);
    }

    /// `pci_remove_bus_device`, `pci_destroy_dev`.
    fn remove(&mut self, dev: usize) {
        for child in self.below(dev) {
            self.remove(child);
        }
        if let Some(bus) = self.devices[dev].subordinate.take() {
            self.buses[bus].is_removed = true;
        }
        let bus = self.devices[dev].bus;
        self.buses[bus].devices.retain(|other| *other != dev);
        self.devices[dev].is_removed = true;
        self.aspm_exit_link_state(dev);
        self.bridge_d3_update(dev);
        for resource in &mut self.devices[dev].resources {
            resource.parent = None;
        }
    }

    /// `pci_rescan_bus` for every root bus.
    pub(super) fn rescan(&mut self) {
        self.for_each_root_bus(|linux, bus| {
            linux.scan_child_bus(bus);
            // pci_assign_unassigned_bus_resources
            for dev in linux.buses[bus].devices.clone() {
                if let Some(child) = linux.devices[dev].subordinate {
                    linux.size_bridges(child);
                }
            }
            let _ = linux.bus_assign_resources(bus);
            linux.add_devices(bus);
        });
    }

    /// `pci_assign_unassigned_bridge_resources`: what appeared behind a bridge, and its windows.
    pub(super) fn assign_unassigned_bridge_resources(&mut self, bridge: usize) {
        let Some(bus) = self.devices[bridge].subordinate else { return };
        self.size_bridges(bus);
        let windows = BRIDGE.map(|index| (bridge, index, self.devices[bridge].resources[index]));
        let is_wanted = |window: Resource| window.exists() && window.parent.is_none() && window.most() != 0;
        let wanted: Vec<_> = windows.filter(|(_, _, window)| is_wanted(*window)).collect();
        let _ = self.assign_list(hardest_first(wanted, |(_, _, window)| window.alignment()), true);
        let _ = self.bus_assign_resources(bus);
        self.setup_bridge(bus);
        self.reenable_device(bridge);
        self.set_master(bridge);
    }
}
