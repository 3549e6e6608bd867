//! `sriov_init`: VF BARs are resources of the physical function. `sriov_enable`: what user space asks for by
//! `sriov_numvfs`.

use std::vec::Vec;

use super::express::INTEGRATED_ENDPOINT;
use super::resource::{Flags, IOV, Resource, STD};
use super::{Linux, Release};
use crate::address::Bdf;
use crate::spec::capability::ExtendedCapabilityId;

const CONTROL: u16 = 0x08;
const INITIAL_VFS: u16 = 0x0c;
const TOTAL_VFS: u16 = 0x0e;
const NUM_VFS: u16 = 0x10;
const FUNCTION_LINK: u16 = 0x12;
const VF_OFFSET: u16 = 0x14;
const VF_STRIDE: u16 = 0x16;
const SUPPORTED_PAGE_SIZES: u16 = 0x1c;
const SYSTEM_PAGE_SIZE: u16 = 0x20;
const VF_DEVICE_ID: u16 = 0x1a;
const VF_BAR0: u16 = 0x24;
const VF_ENABLE: u16 = 1 << 0;
const VF_MEMORY_ENABLE: u16 = 1 << 3;
const ARI_CAPABLE_HIERARCHY: u16 = 1 << 4;

impl Linux<'_> {
    pub(super) fn sriov_init(&mut self, dev: usize) {
        if self.devices[dev].express.is_none() {
            return;
        }
        let Some(at) = self.find_extended(dev, ExtendedCapabilityId::SR_IOV) else { return };
        if self.read16(dev, at + CONTROL) & VF_ENABLE != 0 {
            self.write16(dev, at + CONTROL, 0);
        }
        let bus = self.devices[dev].bus;
        let first = !self.buses[bus].devices.iter().any(|other| self.devices[*other].sriov.is_some());
        let ari = self.buses[bus].bridge.is_some_and(|bridge| self.devices[bridge].ari_enabled);
        let control = if first && ari { ARI_CAPABLE_HIERARCHY } else { 0 };
        self.write16(dev, at + CONTROL, control);
        self.devices[dev].virtual_functions = (control, 0);
        let total = self.read16(dev, at + TOTAL_VFS);
        if total == 0 {
            return;
        }
        let sizes = self.read32(dev, at + SUPPORTED_PAGE_SIZES);
        let page = sizes & sizes.wrapping_neg();
        if page == 0 {
            return;
        }
        self.write32(dev, at + SYSTEM_PAGE_SIZE, page);
        if self.size_vf_bars(dev, at, total) && self.compute_max_vf_buses(dev, at, total) {
            self.devices[dev].sriov = Some(at);
        } else {
            self.devices[dev].resources[IOV].fill(Resource::default());
        }
    }

    /// Sizes one VF's BARs and makes room for all VFs. False when a BAR is smaller than a page.
    fn size_vf_bars(&mut self, dev: usize, at: u16, total: u16) -> bool {
        let first = at + VF_BAR0;
        let masks = if self.release == Release::V6_15 { self.size_batch(dev, first, IOV.len()) } else { [].into() };
        let mut index = IOV.start;
        let mut offset = first;
        while index < IOV.end {
            let wide = match self.release {
                Release::V6_1 => self.read_base(dev, index, offset),
                Release::V6_15 => self.read_sized_base(dev, index, offset, &masks[index - IOV.start..]),
            };
            if self.devices[dev].resources[index].exists() && !self.multiply(dev, index, total) {
                return false;
            }
            index += 1 + usize::from(wide);
            offset += if wide { 8 } else { 4 };
        }
        true
    }

    fn multiply(&mut self, dev: usize, index: usize, total: u16) -> bool {
        let one = self.devices[dev].resources[index];
        let Some(all) = one.size.checked_mul(total.into()).filter(|_| one.size & 0xfff == 0) else { return false };
        let flags = one.flags & !Flags::ROM_ENABLE;
        let resource = Resource { flags, size: all, align: Some(one.size), ..one };
        self.devices[dev].resources[index] = resource;
        let bar = index - IOV.start;
        match self.release {
            Release::V6_1 => {
                self.info(dev, format_args!("VF(n) BAR{bar} space: {resource} (contains BAR{bar} for {total} VFs)"));
            }
            Release::V6_15 => {
                self.info(dev, format_args!("VF BAR {bar} {resource}: contains BAR {bar} for {total} VFs"));
            }
        }
        true
    }

    /// Asks for offset and stride at each number of VFs.
    fn compute_max_vf_buses(&mut self, dev: usize, at: u16, total: u16) -> bool {
        let mut sound = true;
        for count in (1..=total).rev() {
            self.write16(dev, at + NUM_VFS, count);
            let offset = self.read16(dev, at + VF_OFFSET);
            let stride = self.read16(dev, at + VF_STRIDE);
            if offset == 0 || (count > 1 && stride == 0) {
                sound = false;
                break;
            }
        }
        self.write16(dev, at + NUM_VFS, 0);
        sound
    }

    /// `sriov_enable` and `sriov_add_vfs`: the new functions; none when it is refused.
    pub(super) fn enable_virtual_functions(&mut self, dev: usize, count: u16) -> Vec<usize> {
        let Some(at) = self.devices[dev].sriov else { return Vec::new() };
        let (initial, total) = (self.read16(dev, at + INITIAL_VFS), self.read16(dev, at + TOTAL_VFS));
        if initial != total || count > total {
            return Vec::new();
        }
        if IOV.map(|index| self.devices[dev].resources[index]).any(|one| one.exists() && one.parent.is_none()) {
            self.info(dev, "not enough MMIO resources for SR-IOV");
            return Vec::new();
        }
        let mut link = self.read8(dev, at + FUNCTION_LINK);
        if self.devices[dev].port() == Some(INTEGRATED_ENDPOINT) {
            link = self.devices[dev].bdf.devfn() & !7 | link & 7;
        }
        if link != self.devices[dev].bdf.devfn() {
            self.info(dev, "depends on another function");
            return Vec::new();
        }
        self.write16(dev, at + NUM_VFS, count);
        let (offset, stride) = (self.read16(dev, at + VF_OFFSET), self.read16(dev, at + VF_STRIDE));
        let control = self.devices[dev].virtual_functions.0 | VF_ENABLE | VF_MEMORY_ENABLE;
        self.devices[dev].virtual_functions = (control, count);
        self.write16(dev, at + CONTROL, control);
        self.sleep(100);
        (0..count).filter_map(|number| self.add_virtual_function(dev, at, number, offset + stride * number)).collect()
    }

    /// `pci_iov_add_virtfn`. A bus of its own is not made: this is for machines whose VFs are on the bus.
    fn add_virtual_function(&mut self, physical: usize, at: u16, number: u16, offset: u16) -> Option<usize> {
        let id = self.devices[physical].bdf.routing_id().checked_add(offset)?;
        let (bdf, bus) = (Bdf::from_routing_id(id), self.devices[physical].bus);
        if bdf.bus() != self.buses[bus].number {
            self.info(physical, format_args!("VF {number} is on bus {:02x}", bdf.bus()));
            return None;
        }
        let device = self.read16(physical, at + VF_DEVICE_ID);
        let id = u32::from(device) << 16 | self.devices[physical].id & 0xffff;
        let dev = self.setup_device(bus, bdf, id, Some(physical))?;
        let total = u64::from(self.read16(physical, at + TOTAL_VFS));
        for (own, all) in STD.zip(IOV) {
            let all = self.devices[physical].resources[all];
            if all.exists() {
                let size = all.size / total;
                let start = all.start + size * u64::from(number);
                self.devices[dev].resources[own] =
                    Resource { start, size, align: None, optional: 0, optional_align: 0, ..all };
            }
        }
        self.configure_device(dev);
        self.init_capabilities(dev);
        self.buses[bus].devices.push(dev);
        Some(dev)
    }

    /// `sriov_disable`.
    pub(super) fn disable_virtual_functions(&mut self, dev: usize) {
        let Some(at) = self.devices[dev].sriov else { return };
        for own in self.all().into_iter().filter(|own| self.devices[*own].physical == Some(dev)).collect::<Vec<_>>() {
            self.stop_and_remove(own);
        }
        let control = self.devices[dev].virtual_functions.0 & !(VF_ENABLE | VF_MEMORY_ENABLE);
        self.devices[dev].virtual_functions = (control, 0);
        self.write16(dev, at + CONTROL, control);
        self.sleep(1000);
        self.write16(dev, at + NUM_VFS, 0);
        let _offset = self.read16(dev, at + VF_OFFSET);
        let _stride = self.read16(dev, at + VF_STRIDE);
    }
}
