//! `pci_restore_state`: the registers that differ from what was saved are written, from the last to the first.

use super::resource::{Flags, IOV, ROM, STD};
use super::save::{EXPRESS, LTR_LATENCIES, PCI_X_COMMAND, Saved};
use super::{Linux, Release};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::header::HeaderType;

impl Linux<'_> {
    pub(super) fn restore_state(&mut self, dev: usize) {
        let Some(saved) = self.devices[dev].saved.take() else { return };
        if let Some((at, latencies)) = self.find_ltr(dev).zip(saved.ltr) {
            self.write32(dev, at + LTR_LATENCIES, latencies);
        }
        self.restore_express(dev, &saved);
        self.restore_channels(dev, &saved.channels);
        self.restore_resizable_bars(dev);
        if let Some(control) = saved.dpc {
            self.restore_dpc(dev, control);
        }
        if let Some(control) = saved.ptm {
            self.restore_ptm(dev, control);
        }
        self.clear_error_status(dev);
        self.restore_aer(dev, &saved.aer);
        self.restore_header(dev, &saved.header);
        if let Some((at, command)) = self.find(dev, CapabilityId::PCI_X).zip(saved.pci_x) {
            self.write16(dev, at + PCI_X_COMMAND, command);
        }
        self.restore_interrupts(dev);
        self.enable_acs(dev);
        self.restore_virtual_functions(dev);
    }

    /// `pci_restore_pcie_state`.
    fn restore_express(&mut self, dev: usize, saved: &Saved) {
        if self.devices[dev].express.is_none() {
            return;
        }
        if let (Some(l1ss), Release::V6_15) = (saved.l1ss, self.release) {
            self.restore_l1ss(dev, l1ss);
        }
        self.bridge_reconfigure_ltr(dev);
        for (register, value) in EXPRESS.into_iter().zip(saved.express) {
            self.express_write16(dev, register, value);
        }
    }

    /// `pci_restore_config_space`: Command after the BARs, the prefetchable window of a bridge always.
    fn restore_header(&mut self, dev: usize, saved: &[u32; 16]) {
        match self.devices[dev].header {
            HeaderType::Type0 => {
                self.restore_range(dev, saved, 10..16, 0, false);
                self.restore_range(dev, saved, 4..10, 10, false);
                self.restore_range(dev, saved, 0..4, 0, false);
            }
            HeaderType::Type1 => {
                self.restore_range(dev, saved, 12..16, 0, false);
                self.restore_range(dev, saved, 9..12, 0, true);
                self.restore_range(dev, saved, 0..9, 0, false);
            }
            HeaderType::CardBus => self.restore_range(dev, saved, 0..16, 0, false),
        }
    }

    fn restore_range(
        &mut self,
        dev: usize,
        saved: &[u32; 16],
        range: core::ops::Range<u16>,
        retries: u32,
        force: bool,
    ) {
        for index in range.rev() {
            self.restore_dword(dev, 4 * index, saved[usize::from(index)], retries, force);
        }
    }

    /// `pci_restore_config_dword`: written again until it reads back.
    fn restore_dword(&mut self, dev: usize, offset: u16, saved: u32, retries: u32, force: bool) {
        if self.read32(dev, offset) == saved && !force {
            return;
        }
        for retry in 0..=retries {
            self.write32(dev, offset, saved);
            if retry == retries || self.read32(dev, offset) == saved {
                return;
            }
            self.sleep(1);
        }
    }

    /// `pci_restore_bars`, after a function forgot them.
    pub(super) fn restore_bars(&mut self, dev: usize) {
        for index in STD.chain([ROM]).chain(IOV) {
            let resource = self.devices[dev].resources[index];
            if resource.exists() && !resource.flags.contains(Flags::UNSET) {
                self.update_resource(dev, index, resource);
            }
        }
    }

    /// `pci_restore_rebar_state`.
    fn restore_resizable_bars(&mut self, dev: usize) {
        const SIZE: u32 = 0x3f00;
        let Some(at) = self.find_extended(dev, ExtendedCapabilityId::RESIZABLE_BAR) else { return };
        let count = self.read32(dev, at + 8) >> 5 & 7;
        for entry in 0..u16::try_from(count).unwrap_or_default() {
            let control = self.read32(dev, at + 8 + 8 * entry);
            let resource = self.devices[dev].resources[(control & 7) as usize];
            let size = resource.size.max(1).ilog2().saturating_sub(20);
            self.write32(dev, at + 8 + 8 * entry, control & !SIZE | size << 8);
        }
    }

    /// `sriov_restore_state`.
    fn restore_virtual_functions(&mut self, dev: usize) {
        const CONTROL: u16 = 0x08;
        const NUM_VFS: u16 = 0x10;
        const SYSTEM_PAGE_SIZE: u16 = 0x20;
        const ARI_CAPABLE_HIERARCHY: u16 = 1 << 4;
        let Some(at) = self.devices[dev].sriov else { return };
        let control = self.read16(dev, at + CONTROL);
        if control & 1 != 0 {
            return;
        }
        let (own, count) = self.devices[dev].virtual_functions;
        self.write16(dev, at + CONTROL, control & !ARI_CAPABLE_HIERARCHY | own & ARI_CAPABLE_HIERARCHY);
        for index in IOV {
            let resource = self.devices[dev].resources[index];
            if resource.span().is_some() {
                self.update_resource(dev, index, resource);
            }
        }
        self.write32(dev, at + SYSTEM_PAGE_SIZE, 1);
        self.write16(dev, at + NUM_VFS, count);
        let _offset = self.read16(dev, at + 0x14);
        let _stride = self.read16(dev, at + 0x16);
        self.write16(dev, at + CONTROL, own);
        if own & 1 != 0 {
            self.sleep(100);
        }
    }
}
