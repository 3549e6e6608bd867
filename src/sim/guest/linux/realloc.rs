//! `pci_assign_unassigned_root_bus_resources`: once, or again and again with windows released in between, where VF BARs have
//! no address (`CONFIG_PCI_REALLOC_ENABLE_AUTO`).

use std::vec::Vec;

use super::Linux;
use super::resource::{BRIDGE, Flags, IO_WINDOW, IOV, MEM_WINDOW, PREF_WINDOW, Parent, Resource};

const BRIDGE_CONTROL: u16 = 0x3e;

/// A resource there was no room for, as it was.
pub(super) type Failed = (usize, usize, Resource);

impl Linux<'_> {
    pub(super) fn assign_unassigned_root_bus_resources(&mut self, bus: usize) {
        let is_on = self.has_unassigned_virtual_functions(bus);
        let depth = self.depth(bus);
        let tries = if is_on { depth + 1 } else { 1 };
        if is_on {
            self.bus_info(bus, format_args!("max bus depth: {depth} pci_try_num: {tries}"));
        }
        for tried in 1..=tries {
            // But for the last time, what is good to have is a must.
            self.optional_is_needed = tried < tries;
            self.size_bridges(bus);
            let failed = self.bus_assign_resources(bus);
            if failed.is_empty() {
                break;
            }
            if tried == tries {
                let advice = if is_on {
                    "Automatically enabled pci realloc, if you have problem, try booting with pci=realloc=off"
                } else {
                    "Some PCI device resources are unassigned, try booting with pci=realloc"
                };
                self.bus_info(bus, advice);
                break;
            }
            self.bus_info(bus, format_args!("No. {} try to assign unassigned res", tried + 1));
            for (dev, _, resource) in &failed {
                self.release_bridge_resources(self.devices[*dev].bus, resource.flags, tried > 1);
            }
            for (dev, index, resource) in failed {
                let window = BRIDGE.contains(&index);
                self.devices[dev].resources[index] = if window { Resource::default() } else { resource };
            }
        }
        self.optional_is_needed = false;
    }

    /// `pci_realloc_detect`, `iov_resources_unassigned`.
    fn has_unassigned_virtual_functions(&self, bus: usize) -> bool {
        let below = self.buses[bus].devices.iter().flat_map(|dev| core::iter::once(*dev).chain(self.all_below(*dev)));
        let mut resources = below.flat_map(|dev| IOV.map(move |index| self.devices[dev].resources[index]));
        resources.any(|resource| resource.exists() && resource.start == 0)
    }

    /// `pci_bus_get_depth`.
    fn depth(&self, bus: usize) -> usize {
        self.child_buses(bus).into_iter().map(|child| self.depth(child) + 1).max().unwrap_or(0)
    }

    /// `pci_bus_release_bridge_resources`: of the bridge to a bus without bridges, or of all from there on down.
    fn release_bridge_resources(&mut self, bus: usize, flags: Flags, whole_subtree: bool) {
        let mut is_leaf = true;
        for dev in self.buses[bus].devices.clone() {
            let Some(child) = self.devices[dev].subordinate else { continue };
            is_leaf = false;
            if whole_subtree && self.devices[dev].class.is_pci_bridge() {
                self.release_bridge_resources(child, flags, true);
            }
        }
        let Some(bridge) = self.buses[bus].bridge.filter(|bridge| self.devices[*bridge].class.is_pci_bridge()) else {
            return;
        };
        if whole_subtree || is_leaf {
            self.release_window(bus, bridge, flags);
        }
    }

    /// `pci_bridge_release_resources`: the window is closed, and everything in it is unassigned.
    fn release_window(&mut self, bus: usize, bridge: usize, flags: Flags) {
        let prefetchable = self.devices[bridge].resources[PREF_WINDOW].flags;
        let wide = prefetchable.contains(Flags::MEM_64);
        let index = if flags.contains(Flags::IO) {
            IO_WINDOW
        } else if flags.contains(Flags::PREFETCH)
            && (wide && flags.contains(Flags::MEM_64) || !wide && prefetchable.contains(Flags::PREFETCH))
        {
            PREF_WINDOW
        } else {
            MEM_WINDOW
        };
        let window = self.devices[bridge].resources[index];
        if window.parent.is_none() {
            return;
        }
        self.release_children(Parent::Window(bridge, index));
        self.info(bridge, format_args!("resource {index} {window} released"));
        self.devices[bridge].resources[index] = Resource::default();
        let range = self.bus_range(bus);
        self.info(bridge, format_args!("PCI bridge to {range}"));
        match index {
            IO_WINDOW => self.setup_bridge_io(bridge),
            MEM_WINDOW => self.setup_bridge_mmio(bridge),
            _ => self.setup_bridge_mmio_pref(bridge),
        }
        let control = self.buses[bus].bridge_control;
        self.write16(bridge, BRIDGE_CONTROL, control);
        let mut released = Resource { parent: None, ..window };
        released.unset();
        self.devices[bridge].resources[index] = released;
    }

    /// `release_child_resources`.
    fn release_children(&mut self, parent: Parent) {
        let children: Vec<_> = self.children(parent).map(|(dev, index, _)| (dev, index)).collect();
        for (dev, index) in children {
            self.release_children(Parent::Window(dev, index));
            let resource = &mut self.devices[dev].resources[index];
            resource.parent = None;
            resource.unset();
        }
    }
}
