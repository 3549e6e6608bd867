//! Power Management Events at Root Ports (drivers/pci/pcie/pme.c).

use super::Linux;
use super::express::{EVENT_COLLECTOR, ROOT_PORT, Register};

/// PME Interrupt Enable in Root Control.
const INTERRUPT_ENABLE: u16 = 1 << 3;
/// PME Status in Root Status.
const STATUS: u32 = 1 << 16;

impl Linux<'_> {
    /// `pcie_pme_interrupt_enable`.
    pub(super) fn pme_interrupt_enable(&mut self, dev: usize, enable: bool) {
        let (clear, set) = if enable { (0, INTERRUPT_ENABLE) } else { (INTERRUPT_ENABLE, 0) };
        self.express_update(dev, Register::RootControl, clear, set);
    }

    /// `pcie_pme_probe`.
    pub(super) fn pme_probe(&mut self, dev: usize, irq: u32) -> bool {
        if !self.devices[dev].is_port(&[ROOT_PORT, EVENT_COLLECTOR]) {
            return false;
        }
        self.pme_interrupt_enable(dev, false);
        self.clear_root_pme_status(dev);
        self.info(dev, format_args!("PME: Signaling with IRQ {irq}"));
        self.pme_interrupt_enable(dev, true);
        true
    }

    /// `pcie_pme_suspend`, and most of `pcie_pme_remove`.
    pub(super) fn pme_suspend(&mut self, dev: usize) {
        self.pme_interrupt_enable(dev, false);
        self.clear_root_pme_status(dev);
    }

    /// `pcie_pme_resume`.
    pub(super) fn pme_resume(&mut self, dev: usize) {
        self.clear_root_pme_status(dev);
        self.pme_interrupt_enable(dev, true);
    }

    /// `pcie_clear_root_pme_status`.
    pub(super) fn clear_root_pme_status(&mut self, dev: usize) {
        if let Some((at, ROOT_PORT | EVENT_COLLECTOR)) = self.devices[dev].express {
            self.update32(dev, at + Register::RootStatus as u16, 0, STATUS);
        }
    }
}
