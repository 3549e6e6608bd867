//! The bandwidth controller (drivers/pci/pcie/bwctrl.c, since 6.13): hears of changed link speeds, and changes them when
//! the machine gets too hot. In 6.1 the service exists without a driver.

use super::Linux;
use super::express::Register;

/// Link Bandwidth Management and Link Autonomous Bandwidth Interrupt Enable in Link Control.
const INTERRUPTS: u16 = 0xc00;
/// Both statuses in Link Status.
const STATUSES: u16 = 0xc000;

impl Linux<'_> {
    /// `pcie_bwnotif_enable`, also on resume.
    pub(super) fn bwnotif_enable(&mut self, dev: usize) {
        let _seen = self.express_read16(dev, Register::LinkStatus);
        self.express_update(dev, Register::LinkControl, 0, INTERRUPTS);
        self.express_write16(dev, Register::LinkStatus, STATUSES);
        self.update_link_speed(dev);
    }

    /// `pcie_bwnotif_disable`, on suspend and removal.
    pub(super) fn bwnotif_disable(&mut self, dev: usize) {
        self.express_update(dev, Register::LinkControl, INTERRUPTS, 0);
    }
}
