//! `pcibios_assign_resources`: addresses for what has none (drivers/pci/setup-bus.c, setup-res.c, bus.c).

use core::cmp::Reverse;
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
                if !resource.exists() || resource.parent.is_some() || resource.most() == 0 {
                    continue;
                }
                if resource.alignment().is_power_of_two() {
                    wanted.push((dev, index, resource));
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
        let sized = self.buses[bus].sized && !self.optional_is_needed;
        self.assign_list(hardest_first(wanted, |(_, _, resource)| resource.alignment()), sized)
    }

    /// `__assign_resources_sorted`: all that is needed and all that is good to have, or, where that does not fit, first
    /// what is needed. ROMs and VF BARs are good to have where windows were `sized` by what is behind them. Returns what
    /// was needed and has no place.
    pub(super) fn assign_list(&mut self, mut wanted: Vec<Failed>, sized: bool) -> Vec<Failed> {
        let is_optional = |index: usize| sized && (index == ROM || IOV.contains(&index));
        if wanted.iter().any(|(_, index, resource)| resource.optional > 0 || is_optional(*index)) {
            let raised = |resource: &Resource| resource.with_optional().alignment() > resource.alignment();
            let mut all = wanted.clone();
            all.sort_by_key(|(_, _, one)| (Reverse(one.with_optional().alignment()), raised(one)));
            let mut missing = Flags::empty();
            for (dev, index, resource) in all {
                self.devices[dev].resources[index] = resource.with_optional();
                if !self.assign_resource(dev, index) && index != ROM {
                    missing |= resource.flags;
                }
            }
            if missing.is_empty() {
                wanted.retain(|(dev, index, _)| self.devices[*dev].resources[*index].parent.is_none());
                self.reset_windows(&wanted);
                return Vec::new();
            }
            wanted.retain(|(dev, index, _)| {
                let resource = self.devices[*dev].resources[*index];
                resource.parent.is_none_or(|parent| self.is_released(resource, parent, missing))
            });
            for (dev, index, resource) in &wanted {
                self.devices[*dev].resources[*index] = *resource;
            }
        }
        let mut failed = Vec::new();
        for (dev, index, resource) in &wanted {
            let is_needed = resource.size > 0 && !is_optional(*index);
            if is_needed && !self.assign_resource(*dev, *index) {
                failed.push((*dev, *index, *resource));
            }
        }
        self.reset_windows(&failed);
        let is_reset = |(dev, index): (usize, usize)| failed.iter().any(|(of, one, _)| (*of, *one) == (dev, index));
        for (dev, index, resource) in &wanted {
            if resource.size == 0 || is_optional(*index) {
                self.devices[*dev].resources[*index] = resource.with_optional();
                if !self.assign_resource(*dev, *index) {
                    self.reset_windows(&[(*dev, *index, *resource)]);
                }
            } else if resource.optional > 0 && !is_reset((*dev, *index)) {
                self.expand(*dev, *index);
            }
        }
        failed.retain(|(_, index, _)| *index != ROM);
        failed
    }

    /// `pci_need_to_release`: whether what is assigned may be in the way of something of these kinds.
    fn is_released(&self, resource: Resource, parent: Parent, missing: Flags) -> bool {
        let in_prefetchable = matches!(parent, Parent::Window(dev, index)
            if self.devices[dev].resources[index].flags.contains(Flags::PREFETCH));
        if resource.is_io() {
            missing.contains(Flags::IO)
        } else if resource.flags.contains(Flags::PREFETCH) {
            missing.contains(Flags::PREFETCH) || missing.contains(Flags::MEM) && !in_prefetchable
        } else {
            missing.contains(Flags::MEM)
        }
    }

    /// `reset_resource`, as far as windows go.
    fn reset_windows(&mut self, failed: &[Failed]) {
        for (dev, index, _) in failed.iter().filter(|(_, index, _)| BRIDGE.contains(index)) {
            self.devices[*dev].resources[*index] = Resource::default();
        }
    }

    /// `pci_reassign_resource`: a window with all that is good to have, here or elsewhere, if there is room.
    fn expand(&mut self, dev: usize, index: usize) {
        let (name, own) = (self.resource_name(index), self.devices[dev].resources[index]);
        let by = own.optional;
        self.devices[dev].resources[index].parent = None;
        let place = self.find_place(dev, own.with_optional());
        let resource = match place {
            Some((parent, span)) => Resource { start: span.start(), parent: Some(parent), ..own.with_optional() },
            None => Resource { optional: 0, ..own },
        };
        self.devices[dev].resources[index] = resource;
        match (self.release, place.is_some()) {
            (Release::V6_1, true) => {
                self.info(dev, format_args!("{name}: reassigned {resource} (expanded by {by:#x})"));
            }
            (Release::V6_1, false) => self.info(dev, format_args!("{name}: {resource} (failed to expand by {by:#x})")),
            (Release::V6_15, true) => {
                self.info(dev, format_args!("{name} {resource}: reassigned; expanded by {by:#x}"));
            }
            (Release::V6_15, false) => self.info(dev, format_args!("{name} {resource}: failed to expand by {by:#x}")),
        }
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
        let resource = self.devices[dev].resources[index];
        let Some((parent, span)) = self.find_place(dev, resource) else {
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

/// What the BAR and the register after it get.
fn register_values(resource: Resource) -> [u32; 2] {
    let [low, high] = halves(resource.start);
    [low | resource.kind().type_bits(), high]
}
