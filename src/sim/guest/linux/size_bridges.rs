//! `pci_bus_size_bridges`: how large the windows must be that firmware did not open (drivers/pci/setup-bus.c).

use std::vec::Vec;

use super::Linux;
use super::resource::{Flags, IO_WINDOW, IOV, MEM_WINDOW, PREF_WINDOW, ROM, Resource};
use crate::sim::guest::space::align_up;

/// `pci_hotplug_mmio_size`, `pci_hotplug_mmio_pref_size`: room for what may be plugged in.
const HOTPLUG_MEMORY: u64 = 2 << 20;
/// `pci_hotplug_io_size`.
const HOTPLUG_IO: u64 = 0x100;
/// Granularity of memory windows.
const MEMORY_STEP: u64 = 1 << 20;
/// Granularity of I/O windows.
const IO_STEP: u64 = 0x1000;

/// Bits of the flags that decide which window a resource goes to.
const KIND: Flags = Flags::MEM.union(Flags::PREFETCH).union(Flags::MEM_64);

impl Linux<'_> {
    /// `__pci_bus_size_bridges`, depth first. Windows of the root bus are what they are.
    pub(super) fn size_bridges(&mut self, bus: usize) {
        for child in self.child_buses(bus) {
            self.size_bridges(child);
        }
        let Some(bridge) = self.buses[bus].bridge else { return };
        if !self.is_bridge(bridge) {
            return;
        }
        self.check_ranges(bridge);
        self.size_io(bus, bridge);
        let pref = Flags::MEM | Flags::PREFETCH;
        let window = self.devices[bridge].resources[PREF_WINDOW];
        // 64-bit prefetchable memory has the window to itself if it has 64 bits.
        let in_pref: &dyn Fn(Flags) -> bool = if window.flags.contains(Flags::MEM_64) {
            &|flags| flags == pref | Flags::MEM_64
        } else if window.exists() {
            &|flags| flags.contains(pref)
        } else {
            &|_| false
        };
        self.size_mem(bus, bridge, PREF_WINDOW, in_pref);
        self.size_mem(bus, bridge, MEM_WINDOW, &|flags| flags.contains(Flags::MEM) && !in_pref(flags));
    }

    /// `pbus_size_io`.
    fn size_io(&mut self, bus: usize, bridge: usize) {
        let window = self.devices[bridge].resources[IO_WINDOW];
        if !window.exists() || window.parent.is_some() {
            return;
        }
        let (mut small, mut large, mut optional, mut align) = (0_u64, 0_u64, 0_u64, IO_STEP);
        for (_, resource) in self.unclaimed(bus, &|flags| flags.contains(Flags::IO)) {
            // Small ones may be moved out of the way of ISA aliases.
            let sum = if resource.size < 0x400 { &mut small } else { &mut large };
            *sum = sum.saturating_add(resource.size);
            optional = optional.saturating_add(resource.optional);
            align = align.max(resource.alignment());
        }
        // calculate_iosize: of each KiB only the first 256 bytes are free of ISA aliases.
        let spread = (small & 0xff).saturating_add((small & !0xff).saturating_mul(4));
        let size = spread.saturating_add(large);
        let extra = if self.devices[bridge].hotplug && !self.optional_is_needed { HOTPLUG_IO } else { 0 };
        let most = align_up(size.max(extra).saturating_add(optional), align);
        self.keep_size(bus, bridge, IO_WINDOW, align_up(size, align), most, [align; 2]);
    }

    /// `pbus_size_mem`.
    fn size_mem(&mut self, bus: usize, bridge: usize, index: usize, fits: &dyn Fn(Flags) -> bool) {
        let window = self.devices[bridge].resources[index];
        if !window.exists() || window.parent.is_some() {
            return;
        }
        let (mut size, mut optional) = (0_u64, 0_u64);
        let (mut aligns, mut max_order) = ([0_u64; 44], 0);
        let mut add_align = MEMORY_STEP;
        for (number, resource) in self.unclaimed(bus, &|flags| fits(flags & KIND)) {
            let align = resource.alignment();
            let taken = resource.size.max(align);
            if (number == ROM || IOV.contains(&number)) && !self.optional_is_needed {
                optional = optional.saturating_add(taken);
                add_align = add_align.max(align);
                continue;
            }
            let order = align.max(MEMORY_STEP).trailing_zeros() - 20;
            max_order = max_order.max(order);
            size = size.saturating_add(taken);
            optional = optional.saturating_add(resource.optional);
            add_align = add_align.max(resource.optional_align);
            if resource.size <= align
                && let Some(sum) = aligns.get_mut(order as usize)
            {
                *sum = sum.saturating_add(align);
            }
        }
        let align = mem_align(&aligns, max_order);
        let extra = if self.devices[bridge].hotplug && !self.optional_is_needed { HOTPLUG_MEMORY } else { 0 };
        let needed = align_up(size, align);
        let most = align_up(size.max(extra).saturating_add(optional), align.max(add_align));
        self.keep_size(bus, bridge, index, needed, most, [align, align.max(add_align)]);
    }

    /// What of a bus's devices has no place yet.
    fn unclaimed(&self, bus: usize, fits: &dyn Fn(Flags) -> bool) -> Vec<(usize, Resource)> {
        let devices = self.buses[bus].devices.iter().map(|dev| &self.devices[*dev]);
        let resources = devices.flat_map(|device| device.resources.iter().copied().enumerate());
        resources
            .filter(|(_, one)| one.exists() && one.parent.is_none() && one.most() > 0 && fits(one.flags))
            .filter(|(_, one)| one.alignment().is_power_of_two())
            .collect()
    }

    fn keep_size(
        &mut self,
        bus: usize,
        bridge: usize,
        index: usize,
        needed: Option<u64>,
        most: Option<u64>,
        [align, optional_align]: [u64; 2],
    ) {
        let window = &mut self.devices[bridge].resources[index];
        let (Some(needed), Some(most)) = (needed, most) else {
            *window = Resource::default();
            return;
        };
        if most == 0 {
            // Nothing to forward: closed.
            *window = Resource::default();
            return;
        }
        window.flags.insert(Flags::UNSET);
        window.size = needed;
        window.align = Some(align);
        window.optional = most - needed.min(most);
        window.optional_align = optional_align;
        self.buses[bus].sized = true;
    }
}

/// `calculate_mem_align`: the smallest alignment at which what is in the window can be packed. Windows longer than their
/// alignment count for the highest order only.
fn mem_align(aligns: &[u64], max_order: u32) -> u64 {
    let (mut align, mut min_align) = (0_u64, MEMORY_STEP);
    for (order, sum) in (0..=max_order).zip(aligns) {
        let step = MEMORY_STEP << order;
        if align == 0 {
            min_align = step;
        } else if align_up(align.saturating_add(min_align), min_align).is_none_or(|end| end < step) {
            min_align = step >> 1;
        }
        align = align.saturating_add(*sum);
    }
    min_align
}
