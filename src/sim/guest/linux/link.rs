//! Waiting for links and for what is behind them, and training them again (drivers/pci/pci.c, quirks.c).

use super::express::Register;
use super::{Linux, Release};
use crate::spec::header::HeaderType;

const COMMAND: u16 = 0x04;
/// Retrain Link in Link Control.
const RETRAIN: u16 = 1 << 5;
/// Link Training in Link Status.
const TRAINING: u16 = 1 << 11;
/// Data Link Layer Link Active in Link Status.
pub(super) const ACTIVE: u16 = 1 << 13;
/// Link Bandwidth Management Status in Link Status.
const BANDWIDTH_MANAGEMENT: u16 = 1 << 14;
/// Data Link Layer Link Active Reporting Capable in Link Capabilities.
const ACTIVE_REPORTING: u32 = 1 << 20;
/// Target Link Speed in Link Control 2, and Supported Link Speeds in Link Capabilities.
const SPEED: u16 = 0xf;
/// 5 GT/s in those fields.
const SPEED_5: u32 = 2;
/// `PCIE_LINK_RETRAIN_TIMEOUT_MS`.
const TIMEOUT: u64 = 1000;
/// `PCIE_RESET_READY_POLL_MS`.
pub(super) const READY_TIMEOUT: u64 = 60_000;
/// `PCI_RESET_WAIT`.
const RESET_WAIT: u64 = 1000;

impl Linux<'_> {
    /// `pcie_update_link_speed`.
    pub(super) fn update_link_speed(&mut self, port: usize) {
        let _status = self.express_read16(port, Register::LinkStatus);
    }

    /// Current Link Speed, as a number of Supported Link Speeds.
    pub(super) fn link_speed(&mut self, port: usize) -> u16 {
        self.express_read16(port, Register::LinkStatus) & SPEED
    }

    /// `pcie_wait_for_link_status`: until the bit is as wanted. False after a second.
    fn wait_for_link_status(&mut self, port: usize, bit: u16, wanted: bool) -> bool {
        for _ in 0..=TIMEOUT {
            if (self.express_read16(port, Register::LinkStatus) & bit != 0) == wanted {
                return true;
            }
            self.sleep(1);
        }
        false
    }

    /// `pcie_retrain_link`: waits for the end of training, or for the link to be active.
    pub(super) fn retrain_link(&mut self, port: usize, use_training: bool) -> bool {
        if !self.wait_for_link_status(port, TRAINING, false) {
            return false;
        }
        let control = self.express_read16(port, Register::LinkControl);
        self.express_write16(port, Register::LinkControl, control | RETRAIN);
        let trained = if use_training {
            self.wait_for_link_status(port, TRAINING, false)
        } else {
            self.wait_for_link_status(port, ACTIVE, true)
        };
        if self.release == Release::V6_15 {
            // pcie_reset_lbms, and pcie_update_link_speed.
            self.express_write16(port, Register::LinkStatus, BANDWIDTH_MANAGEMENT);
            self.update_link_speed(port);
        }
        trained
    }

    /// `link_active_reporting`.
    fn reports_active(&mut self, port: usize) -> bool {
        self.express_read32(port, Register::LinkCapabilities) & ACTIVE_REPORTING != 0
    }

    /// `pcie_failed_link_retrain`, since 6.5: a link that is down but was up before is tried at 2.5 GT/s, and a link held
    /// at 2.5 GT/s is freed. False when it did not help.
    pub(super) fn failed_link_retrain(&mut self, port: usize) -> bool {
        let device = &self.devices[port];
        let has_control_2 = device.express_flags & 0xf > 1;
        if self.release == Release::V6_1 || !device.is_downstream_port() || !has_control_2 || !self.reports_active(port)
        {
            return false;
        }
        let control = self.express_read16(port, Register::LinkControl2);
        let status = self.express_read16(port, Register::LinkStatus);
        let mut helped = false;
        if status & (ACTIVE | BANDWIDTH_MANAGEMENT) == BANDWIDTH_MANAGEMENT {
            self.info(port, "broken device, retraining non-functional downstream link at 2.5GT/s");
            helped = self.set_target_speed(port, 1, false);
            if !helped {
                return self.retraining_failed(port, control);
            }
        }
        let speed = self.express_read16(port, Register::LinkControl2) & SPEED;
        let most = self.express_read32(port, Register::LinkCapabilities) & u32::from(SPEED);
        if speed == 1 && most != 1 {
            self.info(port, "removing 2.5GT/s downstream link speed restriction");
            helped = self.set_target_speed(port, u16::try_from(most).unwrap_or_default(), false);
            if !helped {
                return self.retraining_failed(port, control);
            }
        }
        helped
    }

    fn retraining_failed(&mut self, port: usize, control: u16) -> bool {
        self.info(port, "retraining failed");
        self.set_target_speed(port, control & SPEED, true);
        false
    }

    /// `pcie_set_target_speed`: 1 is 2.5 GT/s, 2 is 5 GT/s, ...
    pub(super) fn set_target_speed(&mut self, port: usize, speed: u16, use_training: bool) -> bool {
        self.express_update(port, Register::LinkControl2, SPEED, speed);
        self.retrain_link(port, use_training)
    }

    /// `pcie_wait_for_link`: until the link is active, and what is behind it may be asked.
    pub(super) fn wait_for_link(&mut self, port: usize, delay: u64) -> bool {
        if !self.reports_active(port) {
            self.sleep(TIMEOUT + delay);
            return true;
        }
        self.sleep(20);
        let active = self.wait_for_link_status(port, ACTIVE, true) || self.failed_link_retrain(port);
        if active {
            self.sleep(delay);
        }
        active
    }

    /// `pci_bridge_wait_for_secondary_bus`. False when the first function behind the bridge cannot be reached.
    pub(super) fn wait_for_secondary_bus(&mut self, bridge: usize, why: &str) -> bool {
        const DELAY: u64 = 100;
        let device = &self.devices[bridge];
        let Some(child) = self.below(bridge).first().copied() else { return true };
        if device.power.is_disconnected || device.header == HeaderType::Type0 {
            return true;
        }
        if device.express.is_none() {
            self.sleep(1000 + DELAY);
            return true;
        }
        if !device.is_downstream_port() {
            return true;
        }
        if self.speed_capability(bridge) <= SPEED_5 {
            self.sleep(DELAY);
            if self.release == Release::V6_1 {
                return self.dev_wait(child, why, READY_TIMEOUT - DELAY);
            }
            if self.dev_wait(child, why, RESET_WAIT - DELAY) {
                return true;
            }
            // Slow links: there is no use in waiting for one that is down.
            let is_down = |linux: &mut Self| linux.express_read16(bridge, Register::LinkStatus) & ACTIVE == 0;
            if !self.reports_active(bridge) || is_down(self) {
                return false;
            }
            return self.dev_wait(child, why, READY_TIMEOUT - RESET_WAIT);
        }
        if !self.wait_for_link(bridge, DELAY) {
            self.info(bridge, "Data Link Layer Link Active not set in 1000 msec");
            return false;
        }
        self.dev_wait(child, why, READY_TIMEOUT - DELAY)
    }

    /// `pcie_get_speed_cap`, as a number of Supported Link Speeds.
    fn speed_capability(&mut self, port: usize) -> u32 {
        let vector = self.express_read32(port, Register::LinkCapabilities2) & 0xfe;
        if vector != 0 {
            return vector.ilog2();
        }
        self.express_read32(port, Register::LinkCapabilities) & u32::from(SPEED)
    }

    /// `pci_dev_wait`: until the function answers after a reset.
    pub(super) fn dev_wait(&mut self, dev: usize, why: &str, timeout: u64) -> bool {
        let root = self.root_port(dev).filter(|_| self.release == Release::V6_15);
        let shows_retry = root.is_some_and(|root| self.devices[root].rrs_visible);
        let mut delay = 1;
        loop {
            let is_ready =
                if shows_retry { self.read32(dev, 0) & 0xffff != 0x0001 } else { self.read32(dev, COMMAND) != !0 };
            if is_ready {
                break;
            }
            if delay > timeout {
                self.info(dev, format_args!("not ready {}ms after {why}; giving up", delay - 1));
                return false;
            }
            if delay > RESET_WAIT {
                self.info(dev, format_args!("not ready {}ms after {why}; waiting", delay - 1));
            }
            self.sleep(delay);
            delay *= 2;
        }
        if delay > RESET_WAIT {
            self.info(dev, format_args!("ready {}ms after {why}", delay - 1));
        }
        true
    }
}
