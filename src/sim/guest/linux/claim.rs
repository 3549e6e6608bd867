//! `pcibios_resource_survey`: what firmware assigned is kept where it fits (arch/x86/pci/i386.c).

use std::format;
use std::string::String;
use std::vec::Vec;

use super::resource::{BRIDGE, Flags, IO_WINDOW, IOV, MEM_WINDOW, Parent, ROM, Resource, STD};
use super::{Linux, Release};
use crate::address::Span;
use crate::spec::bar::ROM_ENABLE;
use crate::spec::header::{Command, HeaderType};

const COMMAND: u16 = 0x04;

impl Linux<'_> {
    pub(super) fn resource_survey(&mut self) {
        self.for_each_root_bus(Self::allocate_bus_resources);
        self.for_each_root_bus(|linux, bus| linux.allocate_resources(bus, Command::all()));
        self.for_each_root_bus(|linux, bus| linux.allocate_resources(bus, Command::empty()));
    }

    pub(super) fn for_each_root_bus(&mut self, mut visit: impl FnMut(&mut Self, usize)) {
        for bus in 0..self.buses.len() {
            if self.buses[bus].bridge.is_none() {
                visit(self, bus);
            }
        }
    }

    /// The buses right below a bus.
    pub(super) fn child_buses(&self, bus: usize) -> Vec<usize> {
        let is_child = |child: &usize| self.buses[*child].parent == Some(bus) && !self.buses[*child].is_removed;
        (0..self.buses.len()).filter(is_child).collect()
    }

    /// `pcibios_allocate_bus_resources`: bridge windows, from the top down.
    fn allocate_bus_resources(&mut self, bus: usize) {
        if let Some(bridge) = self.buses[bus].bridge {
            for index in BRIDGE {
                let window = self.devices[bridge].resources[index];
                // Something is wrong with the window: nothing below shall be claimed in it.
                if window.exists() && (window.start == 0 || !self.claim_bridge_resource(bridge, index)) {
                    self.devices[bridge].resources[index] = Resource::default();
                }
            }
        }
        for child in self.child_buses(bus) {
            self.allocate_bus_resources(child);
        }
    }

    /// `pci_claim_bridge_resource`: as it is, or clipped to what the bridge above forwards.
    fn claim_bridge_resource(&mut self, bridge: usize, index: usize) -> bool {
        if self.claim_resource(bridge, index) {
            return true;
        }
        if !self.devices[bridge].class.is_pci_bridge() || !self.clip_resource(bridge, index) {
            return false;
        }
        match index {
            IO_WINDOW => self.setup_bridge_io(bridge),
            MEM_WINDOW => self.setup_bridge_mmio(bridge),
            _ => self.setup_bridge_mmio_pref(bridge),
        }
        self.claim_resource(bridge, index)
    }

    /// `pci_bus_clip_resource`.
    fn clip_resource(&mut self, bridge: usize, index: usize) -> bool {
        let mut window = self.devices[bridge].resources[index];
        window.flags.remove(Flags::UNSET);
        let Some(span) = Span::new(window.start, window.size) else { return false };
        for (_, outer) in self.bus_resources(self.devices[bridge].bus) {
            let same_type = (outer.flags ^ window.flags) & Flags::TYPE == Flags::empty();
            let Some(both) = outer.span().filter(|_| same_type).and_then(|outer| outer.intersection(span)) else {
                continue;
            };
            if both == span {
                return false;
            }
            let clipped = Resource { start: both.start(), size: both.len(), ..window };
            self.devices[bridge].resources[index] = clipped;
            self.info(bridge, format_args!("{window} clipped to {clipped}"));
            return true;
        }
        false
    }

    /// `pci_claim_resource`: takes the place in the resource tree that the address asks for.
    fn claim_resource(&mut self, dev: usize, index: usize) -> bool {
        let resource = self.devices[dev].resources[index];
        if resource.flags.contains(Flags::UNSET) {
            self.cannot_claim(dev, index, resource, "no address assigned");
            return false;
        }
        let Some(parent) = self.find_parent_resource(dev, resource) else {
            self.cannot_claim(dev, index, resource, "no compatible bridge window");
            self.devices[dev].resources[index].flags.insert(Flags::UNSET);
            return false;
        };
        if let Some(conflict) = self.conflict(parent, resource) {
            self.cannot_claim(dev, index, resource, &format!("address conflict with {conflict}"));
            self.devices[dev].resources[index].flags.insert(Flags::UNSET);
            return false;
        }
        self.devices[dev].resources[index].parent = Some(parent);
        true
    }

    fn cannot_claim(&mut self, dev: usize, index: usize, resource: Resource, why: &str) {
        let name = self.resource_name(index);
        match self.release {
            Release::V6_1 => self.info(dev, format_args!("can't claim {name} {resource}: {why}")),
            Release::V6_15 => self.info(dev, format_args!("{name} {resource}: can't claim; {why}")),
        }
    }

    /// `pci_find_parent_resource`. What is not prefetchable in a prefetchable window is the allocator's mistake.
    pub(super) fn find_parent_resource(&self, dev: usize, resource: Resource) -> Option<Parent> {
        let windows = self.bus_resources(self.devices[dev].bus);
        let (parent, window) = windows.into_iter().find(|(_, window)| window.contains(resource))?;
        let mistake = window.flags.contains(Flags::PREFETCH) && !resource.flags.contains(Flags::PREFETCH);
        (!mistake).then_some(parent)
    }

    /// `request_resource_conflict`: name and addresses of what is there already.
    pub(super) fn conflict(&self, parent: Parent, resource: Resource) -> Option<String> {
        let span = resource.span()?;
        let (dev, index, other) =
            self.children(parent).find(|(_, _, other)| other.span().is_some_and(|other| other.overlaps(span)))?;
        let name = match self.devices[dev].subordinate {
            Some(child) if BRIDGE.contains(&index) => {
                format!("PCI Bus {:04x}:{:02x}", self.config.firmware.segment, self.buses[child].number)
            }
            _ => self.name(dev),
        };
        Some(format!("{name} {other}"))
    }

    /// `pcibios_allocate_resources`: BARs that are decoded in the first pass, the others in the second.
    fn allocate_resources(&mut self, bus: usize, pass: Command) {
        for dev in self.buses[bus].devices.clone() {
            self.allocate_dev_resources(dev, pass);
            if let Some(child) = self.devices[dev].subordinate {
                self.allocate_resources(child, pass);
            }
        }
    }

    /// `pcibios_allocate_dev_resources`.
    fn allocate_dev_resources(&mut self, dev: usize, pass: Command) {
        let command = Command::from_bits_retain(self.read16(dev, COMMAND));
        for index in STD.chain(IOV) {
            let resource = self.devices[dev].resources[index];
            if !resource.exists() || resource.parent.is_some() || resource.start == 0 {
                continue;
            }
            let enable = if resource.is_io() { Command::IO_SPACE_ENABLE } else { Command::MEMORY_SPACE_ENABLE };
            if command.contains(enable) == pass.contains(enable) && !self.claim_resource(dev, index) {
                // A new address will be assigned later.
                self.devices[dev].resources[index].unset();
            }
        }
        if !pass.is_empty() {
            self.disable_rom(dev);
        }
    }

    fn disable_rom(&mut self, dev: usize) {
        let header = self.devices[dev].header;
        if let Some(rom) = header.rom().filter(|_| self.devices[dev].resources[ROM].flags.contains(Flags::ROM_ENABLE)) {
            self.devices[dev].resources[ROM].flags.remove(Flags::ROM_ENABLE);
            let value = self.read32(dev, rom.offset());
            self.write32(dev, rom.offset(), value & !ROM_ENABLE);
        }
    }

    /// `pcibios_allocate_rom_resources`.
    pub(super) fn allocate_rom_resources(&mut self, bus: usize) {
        for dev in self.buses[bus].devices.clone() {
            let rom = self.devices[dev].resources[ROM];
            if rom.exists() && rom.start != 0 && !self.claim_resource(dev, ROM) {
                self.devices[dev].resources[ROM].unset();
            }
        }
        for child in self.child_buses(bus) {
            self.allocate_rom_resources(child);
        }
    }

    /// Whether the header has bridge windows at all.
    pub(super) fn is_bridge(&self, dev: usize) -> bool {
        self.devices[dev].header == HeaderType::Type1
    }
}
