//! `pci_init_capabilities`: what is found out about capabilities once, and what is set from the start.

use super::express::{ENDPOINT, LEGACY_ENDPOINT, Register, UPSTREAM_PORT};
use super::{Linux, Release};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};

impl Linux<'_> {
    pub(super) fn init_capabilities(&mut self, dev: usize) {
        let _ = self.find(dev, CapabilityId::ENHANCED_ALLOCATION);
        self.msi_init(dev);
        self.msix_init(dev);
        self.pm_init(dev);
        let _ = self.find(dev, CapabilityId::VPD);
        self.configure_ari(dev);
        self.sriov_init(dev);
        for id in [ExtendedCapabilityId::ATS, ExtendedCapabilityId::PAGE_REQUEST, ExtendedCapabilityId::PASID] {
            let _ = self.find_extended(dev, id);
        }
        self.devices[dev].found.acs = self.find_extended(dev, ExtendedCapabilityId::ACS);
        self.enable_acs(dev);
        self.ptm_init(dev);
        self.aer_init(dev);
        self.dpc_init(dev);
        if self.release == Release::V6_15 {
            for id in [ExtendedCapabilityId::TPH_REQUESTER, ExtendedCapabilityId::RESIZABLE_BAR] {
                let _ = self.find_extended(dev, id);
            }
        }
        self.report_downtraining(dev);
        self.init_reset_methods(dev);
    }

    /// `pci_enable_acs`: Source Validation, both redirects, Upstream Forwarding, as far as they are there.
    pub(super) fn enable_acs(&mut self, dev: usize) {
        const WANTED: u16 = 0x1d;
        let Some(at) = self.devices[dev].found.acs else { return };
        let offered = self.read16(dev, at + 4);
        let control = self.read16(dev, at + 6);
        self.write16(dev, at + 6, control | offered & WANTED);
    }

    /// `pcie_report_downtraining`: reads what the links on the way can do.
    fn report_downtraining(&mut self, dev: usize) {
        let device = &self.devices[dev];
        if !device.is_port(&[ENDPOINT, LEGACY_ENDPOINT, UPSTREAM_PORT]) || device.bdf.function() != 0 {
            return;
        }
        let _speeds = self.express_read32(dev, Register::LinkCapabilities2);
        let _width = self.express_read32(dev, Register::LinkCapabilities);
        let mut next = Some(dev);
        while let Some(dev) = next {
            let _status = self.express_read16(dev, Register::LinkStatus);
            next = self.upstream_bridge(dev);
        }
    }

    /// `pci_configure_ari`: device 0 decides for the bus.
    fn configure_ari(&mut self, dev: usize) {
        const FORWARDING_SUPPORTED: u32 = 1 << 5;
        const FORWARDING_ENABLE: u16 = 1 << 5;
        if self.devices[dev].express.is_none() || self.devices[dev].bdf.devfn() != 0 {
            return;
        }
        let Some(bridge) = self.buses[self.devices[dev].bus].bridge else { return };
        let Some((at, _)) = self.devices[bridge].express else { return };
        if self.read32(bridge, at + 0x24) & FORWARDING_SUPPORTED == 0 {
            return;
        }
        let enable = self.find_extended(dev, ExtendedCapabilityId::ARI).is_some();
        let control = self.read16(bridge, at + 0x28);
        let wanted = if enable { control | FORWARDING_ENABLE } else { control & !FORWARDING_ENABLE };
        self.write16(bridge, at + 0x28, wanted);
        self.devices[bridge].ari_enabled = enable;
    }
}
