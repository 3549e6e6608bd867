//! Runtime power management (drivers/pci/pci-driver.c, pcie/portdrv.c): a port nothing needs goes to D3hot after 100 ms,
//! a device when user space allows it (`power/control`).

use super::Linux;
use super::portdrv::Services;
use super::power::State;
use super::probe::Driver;

/// `pm_runtime_set_autosuspend_delay` of ports.
const AUTOSUSPEND: u64 = 100;

impl Linux<'_> {
    /// `pci_bus_add_devices`: decides about the ports above.
    pub(super) fn add_devices(&mut self, bus: usize) {
        for dev in self.buses[bus].devices.clone() {
            self.bridge_d3_update(dev);
            if let Some(child) = self.devices[dev].subordinate {
                self.add_devices(child);
            }
        }
    }

    /// What happens when nobody uses anything: ports without active children are suspended, from the bottom up.
    pub(super) fn suspend_idle_ports(&mut self) {
        self.sleep(AUTOSUSPEND);
        for dev in self.all().into_iter().rev() {
            let may_suspend = self.port_mut(dev).is_some_and(|port| port.may_suspend);
            let is_idle = self.below(dev).into_iter().all(|child| self.devices[child].power.is_suspended);
            if may_suspend && is_idle && self.devices[dev].power.bridge_d3 {
                self.runtime_suspend(dev);
            }
        }
    }

    /// User space lets every device be suspended (`powertop --auto-tune`), and nobody uses one.
    pub(super) fn suspend_devices(&mut self) {
        for dev in self.all().into_iter().rev() {
            if !matches!(self.devices[dev].driver, Some(Driver::Port(_))) {
                self.runtime_suspend(dev);
            }
        }
        self.suspend_idle_ports();
    }

    /// Everything is used again.
    pub(super) fn resume_devices(&mut self) {
        for dev in self.all() {
            self.runtime_resume(dev);
        }
    }

    /// `pci_pm_runtime_suspend`.
    fn runtime_suspend(&mut self, dev: usize) {
        if self.devices[dev].power.is_suspended {
            return;
        }
        self.suspend_ptm(dev);
        if self.devices[dev].driver.is_some() {
            if self.has_service(dev, Services::HOT_PLUG) {
                self.pciehp_disable_interrupt(dev);
            }
            self.save_state(dev);
            self.finish_runtime_suspend(dev);
        } else {
            // Stays in D0, but the bridge above may not.
            self.save_state(dev);
        }
        self.devices[dev].power.is_suspended = true;
    }

    /// `pci_finish_runtime_suspend`.
    fn finish_runtime_suspend(&mut self, dev: usize) {
        let pme = self.devices[dev].power.pme;
        let target = self.target_state(dev, pme != 0);
        if pme != 0 {
            self.enable_wake(dev, target, true);
        }
        if self.set_power_state(dev, target).is_err() {
            self.enable_wake(dev, target, false);
        }
    }

    /// `pm_runtime_get_sync`, `pci_pm_runtime_resume`: the bridges above first.
    pub(super) fn runtime_resume(&mut self, dev: usize) {
        if let Some(bridge) = self.upstream_bridge(dev) {
            self.runtime_resume(bridge);
        }
        if !core::mem::take(&mut self.devices[dev].power.is_suspended) {
            return;
        }
        let before = self.devices[dev].power.state;
        self.default_resume_early(dev);
        self.resume_ptm(dev);
        if self.devices[dev].driver.is_none() {
            return;
        }
        self.enable_wake(dev, State::D0, false);
        if before == State::D3Cold {
            self.bridge_power_up_actions(dev);
        }
        if self.has_service(dev, Services::HOT_PLUG) {
            self.pciehp_resume(dev);
        }
    }

    /// `pci_pm_default_resume_early`.
    pub(super) fn default_resume_early(&mut self, dev: usize) {
        // Without a way to change it the state is D0.
        let _ = self.power_up(dev);
        self.update_current_state(dev, State::D0);
        self.restore_state(dev);
        self.pme_restore(dev);
    }

    /// `pci_pm_bridge_power_up_actions`: functions behind a link that stays down are given up.
    pub(super) fn bridge_power_up_actions(&mut self, dev: usize) {
        if !self.wait_for_secondary_bus(dev, "resume") {
            for child in self.all_below(dev) {
                self.devices[child].power.is_disconnected = true;
            }
        }
    }
}
