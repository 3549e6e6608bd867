//! The common clock of a link (drivers/pci/pcie/aspm.c).

use std::vec::Vec;

use super::Linux;
use super::express::Register;

/// Common Clock Configuration in Link Control.
const COMMON_CLOCK: u16 = 1 << 6;
/// Slot Clock Configuration in Link Status.
const SLOT_CLOCK: u16 = 1 << 12;

impl Linux<'_> {
    /// `pcie_aspm_configure_common_clock`: where both ends have the same clock they shall know, which takes training the
    /// link again.
    pub(super) fn configure_common_clock(&mut self, port: usize) {
        let children = self.below(port);
        let Some(first) = children.first().copied() else { return };
        let child_status = self.express_read16(first, Register::LinkStatus);
        let parent_status = self.express_read16(port, Register::LinkStatus);
        let same = child_status & parent_status & SLOT_CLOCK != 0;
        let parent_old = self.express_read16(port, Register::LinkControl) & COMMON_CLOCK;
        if same && parent_old != 0 {
            let all =
                children.iter().all(|child| self.express_read16(*child, Register::LinkControl) & COMMON_CLOCK != 0);
            if all {
                return;
            }
            self.info(port, "ASPM: current common clock configuration is inconsistent, reconfiguring");
        }
        let wanted = if same { COMMON_CLOCK } else { 0 };
        let mut old = Vec::new();
        for child in children {
            old.push((child, self.express_read16(child, Register::LinkControl) & COMMON_CLOCK));
            self.express_update(child, Register::LinkControl, COMMON_CLOCK, wanted);
        }
        self.express_update(port, Register::LinkControl, COMMON_CLOCK, wanted);
        if self.retrain_link(port, true) {
            return;
        }
        self.info(port, "ASPM: Could not configure common clock");
        for (child, was) in old {
            self.express_update(child, Register::LinkControl, COMMON_CLOCK, was);
        }
        self.express_update(port, Register::LinkControl, COMMON_CLOCK, parent_old);
    }
}
