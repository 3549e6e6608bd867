//! Resets of a function (drivers/pci/pci.c), in the order they are tried: FLR, the one of Advanced Features, through
//! D3hot, and of the whole bus.

use core::fmt;
use std::vec::Vec;

use super::Linux;
use super::express::Register;
use super::link::READY_TIMEOUT;
use super::power::State;
use crate::spec::capability::CapabilityId;
use crate::spec::header::Command;

const COMMAND: u16 = 0x04;
const BRIDGE_CONTROL: u16 = 0x3e;
const SECONDARY_BUS_RESET: u16 = 1 << 6;
/// Initiate Function Level Reset in Device Control.
const FUNCTION_RESET: u16 = 1 << 15;
/// Function Level Reset Capability in Device Capabilities.
const FUNCTION_RESET_CAPABLE: u32 = 1 << 28;
/// Transactions Pending in Device Status.
const PENDING: u16 = 1 << 5;
/// Advanced Features: capabilities, control and status by byte offset.
const AF_CAPABILITIES: u16 = 0x03;
const AF_CONTROL: u16 = 0x04;
/// PMCSR by byte offset in the Power Management Capability.
const PM_CONTROL: u16 = 0x04;
const NO_SOFT_RESET: u16 = 1 << 3;
/// `PCI_PM_D3HOT_WAIT`.
const D3HOT_DELAY: u64 = 10;

/// A way to reset a function, as `reset_method` in sysfs names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Flr,
    AfFlr,
    Pm,
    Bus,
}

impl Method {
    pub(super) const ALL: [Self; 4] = [Self::Flr, Self::AfFlr, Self::Pm, Self::Bus];
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flr => "flr",
            Self::AfFlr => "af_flr",
            Self::Pm => "pm",
            Self::Bus => "bus",
        })
    }
}

impl Linux<'_> {
    /// `pci_init_reset_methods`.
    pub(super) fn init_reset_methods(&mut self, dev: usize) {
        let methods: Vec<_> = Method::ALL.into_iter().filter(|method| self.has_reset(dev, *method)).collect();
        self.devices[dev].reset_methods = methods;
    }

    /// `PCI_RESET_PROBE` of a method.
    pub(super) fn has_reset(&mut self, dev: usize, method: Method) -> bool {
        match method {
            Method::Flr => {
                let device = &self.devices[dev];
                device.express.is_some() && device.device_capabilities & FUNCTION_RESET_CAPABLE != 0
            }
            Method::AfFlr => {
                let at = self.find(dev, CapabilityId::ADVANCED_FEATURES);
                at.is_some_and(|at| self.read8(dev, at + AF_CAPABILITIES) & 3 == 3)
            }
            Method::Pm => {
                let at = self.devices[dev].power.at;
                at.is_some_and(|at| self.read16(dev, at + PM_CONTROL) & NO_SOFT_RESET == 0)
            }
            // pci_parent_bus_reset: alone on the bus.
            Method::Bus => {
                let bus = &self.buses[self.devices[dev].bus];
                let is_alone = bus.devices.iter().all(|other| *other == dev);
                bus.bridge.is_some() && self.devices[dev].subordinate.is_none() && is_alone
            }
        }
    }

    /// `pci_reset_function` by one method. False when it did not work.
    pub(super) fn reset_function(&mut self, dev: usize, method: Method) -> bool {
        self.runtime_resume(dev);
        // pci_dev_save_and_disable
        let _ = self.set_power_state(dev, State::D0);
        self.save_state(dev);
        self.write16(dev, COMMAND, Command::INTERRUPT_DISABLE.bits());
        let is_reset = match method {
            Method::Flr => self.flr(dev),
            Method::AfFlr => self.af_flr(dev),
            Method::Pm => self.pm_reset(dev),
            Method::Bus => self.bus_reset(dev),
        };
        // pci_dev_restore
        self.restore_state(dev);
        is_reset
    }

    /// `pcie_flr`.
    fn flr(&mut self, dev: usize) -> bool {
        self.wait_while_pending(dev, "performing function level reset anyway", |linux| {
            linux.express_read16(dev, Register::DeviceStatus) & PENDING != 0
        });
        self.express_update(dev, Register::DeviceControl, 0, FUNCTION_RESET);
        self.after_flr(dev, "FLR")
    }

    /// `pci_af_flr`.
    fn af_flr(&mut self, dev: usize) -> bool {
        let Some(at) = self.find(dev, CapabilityId::ADVANCED_FEATURES) else { return false };
        self.wait_while_pending(dev, "performing AF function level reset anyway", |linux| {
            linux.read16(dev, at + AF_CONTROL) & 1 << 8 != 0
        });
        self.write8(dev, at + AF_CONTROL, 1);
        self.after_flr(dev, "AF_FLR")
    }

    /// `pci_wait_for_pending`.
    fn wait_while_pending(&mut self, dev: usize, anyway: &str, is_pending: impl Fn(&mut Self) -> bool) {
        for delay in [0, 100, 200, 400] {
            if delay != 0 {
                self.sleep(delay);
            }
            if !is_pending(self) {
                return;
            }
        }
        self.info(dev, format_args!("timed out waiting for pending transaction; {anyway}"));
    }

    fn after_flr(&mut self, dev: usize, why: &str) -> bool {
        if self.devices[dev].power.is_immediately_ready {
            return true;
        }
        self.sleep(100);
        self.dev_wait(dev, why, READY_TIMEOUT)
    }

    /// `pci_pm_reset`.
    fn pm_reset(&mut self, dev: usize) -> bool {
        let Some(at) = self.devices[dev].power.at else { return false };
        let control = self.read16(dev, at + PM_CONTROL) & !3;
        self.write16(dev, at + PM_CONTROL, control | 3);
        self.sleep(D3HOT_DELAY);
        self.write16(dev, at + PM_CONTROL, control);
        self.sleep(D3HOT_DELAY);
        self.dev_wait(dev, "PM D3hot->D0", READY_TIMEOUT)
    }

    /// `pci_reset_bus_function`: by the slot where there is one.
    fn bus_reset(&mut self, dev: usize) -> bool {
        let Some(bridge) = self.upstream_bridge(dev) else { return false };
        if self.devices[bridge].slot.is_some() {
            self.pciehp_reset_slot(bridge)
        } else {
            self.secondary_bus_reset(bridge)
        }
    }

    /// `pci_bridge_secondary_bus_reset`.
    pub(super) fn secondary_bus_reset(&mut self, bridge: usize) -> bool {
        let control = self.read16(bridge, BRIDGE_CONTROL) | SECONDARY_BUS_RESET;
        self.write16(bridge, BRIDGE_CONTROL, control);
        self.sleep(2);
        self.write16(bridge, BRIDGE_CONTROL, control & !SECONDARY_BUS_RESET);
        self.wait_for_secondary_bus(bridge, "bus reset")
    }
}
