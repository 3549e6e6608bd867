//! `sriov_init`: VF BARs are resources of the physical function.

use super::resource::{Flags, IOV, Resource};
use super::{Linux, Release};
use crate::spec::capability::ExtendedCapabilityId;

const CONTROL: u16 = 0x08;
const TOTAL_VFS: u16 = 0x0e;
const NUM_VFS: u16 = 0x10;
const VF_OFFSET: u16 = 0x14;
const VF_STRIDE: u16 = 0x16;
const SUPPORTED_PAGE_SIZES: u16 = 0x1c;
const SYSTEM_PAGE_SIZE: u16 = 0x20;
const VF_BAR0: u16 = 0x24;

impl Linux<'_> {
    pub(super) fn sriov_init(&mut self, dev: usize) {
        const VF_ENABLE: u16 = 1 << 0;
        const ARI_CAPABLE_HIERARCHY: u16 = 1 << 4;
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
        self.write16(dev, at + CONTROL, if first && ari { ARI_CAPABLE_HIERARCHY } else { 0 });
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
}
