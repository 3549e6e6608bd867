//! `pcibios_assign_resources`: addresses for what has none (drivers/pci/setup-bus.c, setup-res.c, bus.c).

use std::vec::Vec;

use super::realloc::Failed;
use super::resource::{self, BRIDGE, Flags, IOV, Parent, ROM, Resource};
use super::{Linux, Release};
use crate::address::Span;
use crate::sim::guest::space::{LAST_32, align_up, halves, hardest_first, lowest_fit};
use crate::spec::header::Command;

const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
const VF_BAR0: u16 = 0x24;
/// `PCIBIOS_MIN_IO`.
const MIN_IO: u64 = 0x1000;
/// `BIOS_END`: the first MiB belongs to ISA.
const MIN_MEMORY: u64 = 0x10_0000;

impl Linux<'_> {
    pub(super) fn assign_resources(&mut self) {
        self.for_each_root_bus(Self::allocate_rom_resources);
        self.for_each_root_bus(|linux, bus| {
            linux.assign_unassigned_root_bus_resources(bus);
            linux.dump_resources(bus);
        });
    }

    /// `__pci_bus_assign_resources`: depth last, then the bridge is programmed. Returns what there was no room for.
    pub(super) fn bus_assign_resources(&mut self, bus: usize) -> Vec<Failed> {
        let mut failed = self.assign_sorted(bus);
        for dev in self.buses[bus].devices.clone() {
            if let Some(child) = self.devices[dev].subordinate {
                failed.extend(self.bus_assign_resources(child));
                if self.is_bridge(dev) && !self.devices[dev].enabled {
                    self.setup_bridge(child);
                }
            }
        }
        failed
    }

    /// `pbus_assign_resources_sorted`.
    fn assign_sorted(&mut self, bus: usize) -> Vec<Failed> {
        let mut wanted = Vec::new();
        for dev in self.buses[bus].devices.clone() {
            if self.is_left_alone(dev) {
                continue;
            }
            for index in 0..resource::COUNT {
                let resource = self.devices[dev].resources[index];
                if !resource.exists() || resource.parent.is_some() || resource.size == 0 {
                    continue;
                }
                if resource.alignment().is_power_of_two() {
                    wanted.push((dev, index, resource.alignment()));
                } else {
                    let name = self.resource_name(index);
                    let text = if self.release == Release::V6_1 {
                        " has bogus alignment"
                    } else {
                        ": alignment must not be zero"
                    };
                    self.info(dev, format_args!("{name}: {resource}{text}"));
                }
            }
        }
        // Where windows were sized by what is behind them, the optional comes last.
        let sized = self.buses[bus].sized && !self.optional_is_needed;
        let mut wanted = hardest_first(wanted, |(_, _, align)| *align);
        wanted.sort_by_key(|(_, index, _)| sized && is_optional(*index));
        let mut failed = Vec::new();
        for (dev, index, _) in wanted {
            let wanted = self.devices[dev].resources[index];
            if !self.assign_resource(dev, index) {
                let is_needed = if self.optional_is_needed { index != ROM } else { !is_optional(index) };
                if is_needed && (self.optional_is_needed || wanted.size > wanted.optional) {
                    failed.push((dev, index, wanted));
                }
                // reset_resource
                if BRIDGE.contains(&index) {
                    self.devices[dev].resources[index] = Resource::default();
                }
            }
        }
        failed
    }

    /// `__dev_sort_resources`: host bridges, classless functions and working interrupt controllers.
    fn is_left_alone(&mut self, dev: usize) -> bool {
        const DECODE: Command = Command::IO_SPACE_ENABLE.union(Command::MEMORY_SPACE_ENABLE);
        match self.devices[dev].class.class() {
            0x0000 | 0x0600 => true,
            0x0800 => Command::from_bits_retain(self.read16(dev, COMMAND)).intersects(DECODE),
            _ => false,
        }
    }

    /// `pci_assign_resource`.
    pub(super) fn assign_resource(&mut self, dev: usize, index: usize) -> bool {
        self.devices[dev].resources[index].unset();
        let name = self.resource_name(index);
        let wanted = self.devices[dev].resources[index];
        let least = wanted.size - wanted.optional.min(wanted.size);
        let mut place = self.find_place(dev, wanted);
        if place.is_none() && least > 0 && least < wanted.size {
            self.devices[dev].resources[index].size = least;
            place = self.find_place(dev, self.devices[dev].resources[index]);
        }
        let resource = self.devices[dev].resources[index];
        let Some((parent, span)) = place else {
            let (space, failed) = match self.release {
                Release::V6_1 => (": no space for ", ": failed to assign "),
                Release::V6_15 => (": can't assign; no space", ": failed to assign"),
            };
            for text in [space, failed] {
                match self.release {
                    Release::V6_1 => self.info(dev, format_args!("{name}{text}{resource}")),
                    Release::V6_15 => self.info(dev, format_args!("{name} {resource}{text}")),
                }
            }
            return false;
        };
        let slot = &mut self.devices[dev].resources[index];
        slot.flags.remove(Flags::UNSET);
        slot.start = span.start();
        slot.parent = Some(parent);
        let resource = *slot;
        match self.release {
            Release::V6_1 => self.info(dev, format_args!("{name}: assigned {resource}")),
            Release::V6_15 => self.info(dev, format_args!("{name} {resource}: assigned")),
        }
        if !BRIDGE.contains(&index) {
            self.update_resource(dev, index, resource);
        }
        true
    }

    /// `__pci_assign_resource`: the window of the very kind, then less exact ones. Only what is prefetchable goes to a
    /// prefetchable window.
    fn find_place(&self, dev: usize, resource: Resource) -> Option<(Parent, Span)> {
        let wide_pref = Flags::PREFETCH | Flags::MEM_64;
        let mut masks = Vec::from([wide_pref]);
        if resource.flags.contains(wide_pref) {
            masks.push(Flags::PREFETCH);
        }
        if resource.flags.intersects(wide_pref) {
            masks.push(Flags::empty());
        }
        let windows = self.bus_resources(self.devices[dev].bus);
        masks.into_iter().find_map(|mask| self.alloc_resource(&windows, resource, mask | Flags::TYPE))
    }

    /// `pci_bus_alloc_resource`: what has 64 bits goes above 4 GiB if it can.
    fn alloc_resource(
        &self,
        windows: &[(Parent, Resource)],
        resource: Resource,
        mask: Flags,
    ) -> Option<(Parent, Span)> {
        let low = Span::from_bounds(0, LAST_32)?;
        let high = Span::from_bounds(LAST_32 + 1, u64::MAX)?;
        let anywhere = Span::from_bounds(0, u64::MAX)?;
        let regions: &[Span] = if resource.flags.contains(Flags::MEM_64) { &[high, anywhere] } else { &[low] };
        regions.iter().find_map(|region| {
            windows.iter().find_map(|(parent, window)| {
                let differs = (window.flags ^ resource.flags).intersects(mask);
                let misplaced = window.flags.contains(Flags::PREFETCH) && !resource.flags.contains(Flags::PREFETCH);
                let within = window.span().filter(|_| !differs && !misplaced)?.intersection(*region)?;
                self.allocate(*parent, within, resource).map(|span| (*parent, span))
            })
        })
    }

    /// `allocate_resource`: the lowest place free, `pcibios_align_resource` permitting.
    fn allocate(&self, parent: Parent, within: Span, resource: Resource) -> Option<Span> {
        let io = resource.is_io();
        let min = if within.start() != 0 {
            0
        } else if io {
            MIN_IO
        } else {
            MIN_MEMORY
        };
        let within = Span::from_bounds(within.start().max(min), within.last())?;
        let mut taken = self.children(parent).filter_map(|(_, _, child)| child.span()).collect::<Vec<_>>();
        if !io {
            taken.extend(self.config.firmware.ecam.map(|ecam| ecam.span().0));
        }
        let align = resource.alignment();
        lowest_fit(within, resource.size, &taken, |start| {
            let start = align_up(start, align)?;
            if io {
                // 10-bit ISA decoders answer wherever bits 9:8 are not zero.
                if start & 0x300 == 0 { Some(start) } else { align_up(start, 0x400.max(align)) }
            } else {
                align_up(start.max(MIN_MEMORY), align)
            }
        })
    }

    /// `pci_update_resource`.
    pub(super) fn update_resource(&mut self, dev: usize, index: usize, resource: Resource) {
        // A ROM's address is written when it is enabled.
        if index == ROM {
            return;
        }
        if IOV.contains(&index) {
            let Some(at) = self.devices[dev].sriov else { return };
            let _control = self.read16(dev, at + 0x08);
            let offset = at + VF_BAR0 + 4 * u16::try_from(index - IOV.start).unwrap_or_default();
            let [low, high] = register_values(resource);
            self.write32(dev, offset, low);
            if resource.flags.contains(Flags::MEM_64) {
                self.write32(dev, offset + 4, high);
            }
            return;
        }
        let offset = BAR0 + 4 * u16::try_from(index).unwrap_or_default();
        self.std_update_resource(dev, index, offset, resource);
    }

    /// `pci_std_update_resource`: 64 bits cannot be written at once, so decoding is off meanwhile.
    fn std_update_resource(&mut self, dev: usize, index: usize, offset: u16, resource: Resource) {
        let wide = resource.flags.contains(Flags::MEM_64);
        let name = self.resource_name(index);
        let command = if wide { self.read16(dev, COMMAND) } else { 0 };
        if wide {
            self.write16(dev, COMMAND, command & !Command::MEMORY_SPACE_ENABLE.bits());
        }
        let [low, high] = register_values(resource);
        let address = !resource.kind().type_mask();
        self.write32(dev, offset, low);
        let check = self.read32(dev, offset);
        if (low ^ check) & address != 0 {
            self.info(dev, format_args!("{name}: error updating ({low:#010x} != {check:#010x})"));
        }
        if wide {
            self.write32(dev, offset + 4, high);
            let check = self.read32(dev, offset + 4);
            if check != high {
                self.info(dev, format_args!("{name}: error updating (high {high:#010x} != {check:#010x})"));
            }
            self.write16(dev, COMMAND, command);
        }
    }

    /// `pci_bus_dump_resources`.
    fn dump_resources(&mut self, bus: usize) {
        let first = if self.buses[bus].bridge.is_none() { 4 } else { 0 };
        for (number, (parent, window)) in self.bus_resources(bus).into_iter().enumerate() {
            let number = match parent {
                Parent::Window(_, index) if self.buses[bus].bridge.is_some() => index - BRIDGE.start,
                _ => first + number,
            };
            self.bus_info(bus, format_args!("resource {number} {window}"));
        }
        for child in self.child_buses(bus) {
            self.dump_resources(child);
        }
    }
}

/// What can be done without when a window is too small.
fn is_optional(index: usize) -> bool {
    index == ROM || IOV.contains(&index)
}

/// What the BAR and the register after it get.
fn register_values(resource: Resource) -> [u32; 2] {
    let [low, high] = halves(resource.start);
    [low | resource.kind().type_bits(), high]
}
