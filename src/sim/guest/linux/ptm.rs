//! Precision Time Measurement (drivers/pci/pcie/ptm.c): ports have it from the start, devices when a driver wants it.

use std::format;
use std::string::String;

use super::Linux;
use super::express::{DOWNSTREAM_PORT, INTEGRATED_ENDPOINT, ROOT_PORT, UPSTREAM_PORT};
use crate::spec::capability::ExtendedCapabilityId;

const CAPABILITIES: u16 = 0x04;
const CONTROL: u16 = 0x08;
const ROOT_CAPABLE: u32 = 1 << 2;
const ENABLE: u32 = 1 << 0;
const ROOT_SELECT: u32 = 1 << 1;
const GRANULARITY: u32 = 0xff00;

/// What is known of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ptm {
    pub(super) at: Option<u16>,
    granularity: u8,
    is_root: bool,
    is_enabled: bool,
}

impl Linux<'_> {
    /// `pci_ptm_init`.
    pub(super) fn ptm_init(&mut self, dev: usize) {
        let Some(port) = self.devices[dev].port() else { return };
        let Some(at) = self.find_extended(dev, ExtendedCapabilityId::PTM) else { return };
        let capabilities = self.read32(dev, at + CAPABILITIES);
        let [_, own, ..] = capabilities.to_le_bytes();
        let mut ptm = Ptm { at: Some(at), granularity: own, ..Ptm::default() };
        if let Some(source) = self.upstream_ptm(dev) {
            let above = self.devices[source].ptm.granularity;
            ptm.granularity = if above == 0 { 0 } else { above.max(own) };
        } else if capabilities & ROOT_CAPABLE != 0 {
            ptm.is_root = true;
        } else if port == INTEGRATED_ENDPOINT {
            ptm.granularity = 0;
        }
        self.devices[dev].ptm = ptm;
        if matches!(port, ROOT_PORT | UPSTREAM_PORT) {
            self.enable_ptm(dev);
        }
    }

    /// `pci_upstream_ptm`: Downstream Ports of switches leave it to the Upstream Port.
    fn upstream_ptm(&self, dev: usize) -> Option<usize> {
        let mut above = self.upstream_bridge(dev)?;
        if self.devices[above].is_port(&[DOWNSTREAM_PORT]) {
            above = self.upstream_bridge(above)?;
        }
        Some(above).filter(|above| self.devices[*above].ptm.at.is_some())
    }

    /// `pci_enable_ptm`.
    pub(super) fn enable_ptm(&mut self, dev: usize) {
        if !self.set_ptm(dev) {
            return;
        }
        self.devices[dev].ptm.is_enabled = true;
        let Ptm { granularity, is_root, .. } = self.devices[dev].ptm;
        let granularity = match granularity {
            0 => String::from("unknown"),
            255 => String::from(">254ns"),
            other => format!("{other}ns"),
        };
        let root = if is_root { " (root)" } else { "" };
        self.info(dev, format_args!("PTM enabled{root}, {granularity} granularity"));
    }

    /// `__pci_enable_ptm`.
    fn set_ptm(&mut self, dev: usize) -> bool {
        let ptm = self.devices[dev].ptm;
        let Some(at) = ptm.at else { return false };
        let has_source = self.upstream_ptm(dev).is_some_and(|above| self.devices[above].ptm.is_enabled);
        if !ptm.is_root && !has_source {
            return false;
        }
        let control = self.read32(dev, at + CONTROL);
        let root = if ptm.is_root { ROOT_SELECT } else { 0 };
        let value = control & !GRANULARITY | ENABLE | u32::from(ptm.granularity) << 8 | root;
        self.write32(dev, at + CONTROL, value);
        true
    }

    /// `pci_suspend_ptm`.
    pub(super) fn suspend_ptm(&mut self, dev: usize) {
        if let Ptm { at: Some(at), is_enabled: true, .. } = self.devices[dev].ptm {
            self.update32(dev, at + CONTROL, ENABLE | ROOT_SELECT, 0);
        }
    }

    /// `pci_resume_ptm`.
    pub(super) fn resume_ptm(&mut self, dev: usize) {
        if self.devices[dev].ptm.is_enabled {
            self.set_ptm(dev);
        }
    }

    /// `pci_save_ptm_state`.
    pub(super) fn save_ptm(&mut self, dev: usize) -> Option<u32> {
        self.devices[dev].ptm.at.map(|at| self.read32(dev, at + CONTROL))
    }

    /// `pci_restore_ptm_state`.
    pub(super) fn restore_ptm(&mut self, dev: usize, control: u32) {
        if let Some(at) = self.devices[dev].ptm.at {
            self.write32(dev, at + CONTROL, control);
        }
    }
}
