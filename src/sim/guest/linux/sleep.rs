//! System sleep (drivers/pci/pci-driver.c): suspend to idle, and suspend to RAM.

use super::Linux;
use super::power::State;
use super::probe::Driver;

/// What the system sleeps in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sleep {
    /// s2idle: nothing but the kernel's own doing; what stays in D0 keeps everything.
    Idle,
    /// S3: only memory keeps power.
    Ram,
}

impl Linux<'_> {
    /// Sleeps and wakes.
    pub(super) fn sleep_and_wake(&mut self, sleep: Sleep) {
        for dev in self.all().into_iter().rev() {
            self.pm_suspend(dev);
        }
        for dev in self.all().into_iter().rev() {
            self.pm_suspend_noirq(dev, sleep);
        }
        match sleep {
            Sleep::Idle => self.sleep(1000),
            Sleep::Ram => self.config.platform.suspend_to_ram(),
        }
        for dev in self.all() {
            self.pm_resume_noirq(dev, sleep);
        }
        for dev in self.all() {
            self.pm_resume(dev);
        }
    }

    /// `pci_pm_suspend`.
    fn pm_suspend(&mut self, dev: usize) {
        self.devices[dev].power.stays_in_d0 = false;
        self.suspend_ptm(dev);
        match self.devices[dev].driver {
            // pci_pm_default_suspend
            None if self.devices[dev].subordinate.is_none() && self.devices[dev].enabled => self.stop_master(dev),
            None => {}
            Some(Driver::Endpoint(_)) => {
                self.runtime_resume(dev);
                self.devices[dev].saved = None;
            }
            // DPM_FLAG_SMART_SUSPEND: one that is suspended may stay so.
            Some(Driver::Port(_)) if self.devices[dev].power.is_suspended => {}
            Some(Driver::Port(_)) => {
                self.devices[dev].saved = None;
                self.services_suspend(dev);
            }
        }
    }

    /// `pci_pm_suspend_noirq`.
    fn pm_suspend_noirq(&mut self, dev: usize, sleep: Sleep) {
        let is_bound = self.devices[dev].driver.is_some();
        if is_bound && self.devices[dev].power.is_suspended {
            return;
        }
        if !is_bound {
            self.save_state(dev);
        } else if self.devices[dev].saved.is_none() {
            self.save_state(dev);
            if !self.devices[dev].power.stays_in_d0 && self.power_manageable(dev) {
                self.prepare_to_sleep(dev);
            }
        }
        if is_bound {
            if self.devices[dev].power.state == State::D0 {
                self.devices[dev].power.stays_in_d0 = true;
                if let Some(bridge) = self.upstream_bridge(dev) {
                    self.devices[bridge].power.stays_in_d0 = true;
                }
            }
            if self.devices[dev].power.stays_in_d0 && sleep == Sleep::Idle {
                return;
            }
        }
        // pci_pm_set_unknown_state: firmware may change it.
        if self.devices[dev].power.state == State::D0 {
            self.devices[dev].power.state = State::Unknown;
        }
    }

    /// `pci_prepare_to_sleep`; nothing here is to wake the system.
    fn prepare_to_sleep(&mut self, dev: usize) {
        let target = self.target_state(dev, false);
        self.enable_wake(dev, target, false);
        let _ = self.set_power_state(dev, target);
    }

    /// `pci_pm_resume_noirq`.
    fn pm_resume_noirq(&mut self, dev: usize, sleep: Sleep) {
        let before = self.devices[dev].power.state;
        let stays = self.devices[dev].power.stays_in_d0;
        self.devices[dev].power.is_suspended = false;
        if !(stays && sleep == Sleep::Idle) {
            self.default_resume_early(dev);
        }
        self.clear_root_pme_status(dev);
        if !stays && before == State::D3Cold {
            self.bridge_power_up_actions(dev);
        }
    }

    /// `pci_pm_resume`.
    fn pm_resume(&mut self, dev: usize) {
        self.devices[dev].saved = None;
        self.resume_ptm(dev);
        self.enable_wake(dev, State::D0, false);
        match self.devices[dev].driver {
            None => self.reenable_device(dev),
            Some(Driver::Port(_)) => self.services_resume(dev),
            Some(Driver::Endpoint(_)) => {}
        }
    }
}
