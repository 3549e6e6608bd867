//! `pci_device_add`: `pci_configure_device` and `pci_init_capabilities`, as far as they matter to addresses.
//!
//! What Linux programs into both ends of a link (MPS, extended tags, LTR, RCB, ACS, PTM) is left out.

use std::string::String;

use super::Linux;
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::header::HeaderType;

const BRIDGE_CONTROL: u16 = 0x3e;
const STATUS: u16 = 0x06;

impl Linux<'_> {
    pub(super) fn init_device(&mut self, dev: usize) {
        self.configure_serr(dev);
        self.msi_init(dev);
        self.msix_init(dev);
        self.pm_init(dev);
        let _ = self.find(dev, CapabilityId::VPD);
        self.configure_ari(dev);
        self.sriov_init(dev);
    }

    /// `pci_configure_serr`: bridges forward errors from below.
    fn configure_serr(&mut self, dev: usize) {
        const SERR_ENABLE: u16 = 1 << 1;
        if self.devices[dev].header == HeaderType::Type1 {
            let control = self.read16(dev, BRIDGE_CONTROL);
            if control & SERR_ENABLE == 0 {
                self.write16(dev, BRIDGE_CONTROL, control | SERR_ENABLE);
            }
        }
    }

    /// `pci_msi_init`: off, whatever firmware or a crashed kernel left.
    fn msi_init(&mut self, dev: usize) {
        const ENABLE: u16 = 1 << 0;
        if let Some(at) = self.find(dev, CapabilityId::MSI) {
            let control = self.read16(dev, at + 2);
            if control & ENABLE != 0 {
                self.write16(dev, at + 2, control & !ENABLE);
            }
        }
    }

    /// `pci_msix_init`.
    fn msix_init(&mut self, dev: usize) {
        const ENABLE: u16 = 1 << 15;
        if let Some(at) = self.find(dev, CapabilityId::MSI_X) {
            let control = self.read16(dev, at + 2);
            if control & ENABLE != 0 {
                self.write16(dev, at + 2, control & !ENABLE);
            }
        }
    }

    /// `pci_pm_init`: no PME from now on, and none pending.
    fn pm_init(&mut self, dev: usize) {
        const PME_ENABLE: u16 = 1 << 8;
        const PME_STATUS: u16 = 1 << 15;
        let Some(at) = self.find(dev, CapabilityId::POWER_MANAGEMENT) else { return };
        let capabilities = self.read16(dev, at + 2);
        if capabilities & 7 > 3 {
            self.info(dev, format_args!("unsupported PM cap regs version ({})", capabilities & 7));
            return;
        }
        let states = names(capabilities, &[(9, " D1"), (10, " D2")]);
        if !states.is_empty() {
            self.info(dev, format_args!("supports{states}"));
        }
        let pme = names(capabilities, &[(11, " D0"), (12, " D1"), (13, " D2"), (14, " D3hot"), (15, " D3cold")]);
        if !pme.is_empty() {
            self.info(dev, format_args!("PME# supported from{pme}"));
            let control = self.read16(dev, at + 4);
            self.write16(dev, at + 4, control & !PME_ENABLE | PME_STATUS);
        }
        let _immediate_readiness = self.read16(dev, STATUS);
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

/// The names of the bits that are set.
fn names(bits: u16, table: &[(u16, &str)]) -> String {
    table.iter().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| *name).collect()
}
