//! Drivers: `pci_enable_device` and `pci_set_master` for each function that has one, and all it needs.

use super::Linux;
use super::interrupts::Interrupts;
use super::power::State;
use super::resource::{self, Flags, ROM};
use crate::spec::header::{Command, HeaderType};

const COMMAND: u16 = 0x04;
const LATENCY_TIMER: u16 = 0x0d;
const INTERRUPT_PIN: u16 = 0x3d;

impl Linux<'_> {
    pub(super) fn load_drivers(&mut self) {
        for dev in 0..self.devices.len() {
            if self.has_driver(dev) && self.enable_device(dev) {
                self.set_master(dev);
            }
        }
    }

    /// Each endpoint has one, and ports have `pcieport` (`pcie_portdrv_probe`). A conventional bridge has none.
    fn has_driver(&self, dev: usize) -> bool {
        let device = &self.devices[dev];
        match device.header {
            HeaderType::Type0 => device.class.0 != 0,
            HeaderType::Type1 => device.class.is_pci_bridge() && matches!(device.express, Some((_, 4..=6))),
            HeaderType::CardBus => false,
        }
    }

    /// `pci_enable_device`: the bridges above first.
    pub(super) fn enable_device(&mut self, dev: usize) -> bool {
        let state = self.devices[dev].power.state;
        self.update_current_state(dev, state);
        if self.devices[dev].enabled {
            return true;
        }
        if let Some(bridge) = self.upstream_bridge(dev) {
            self.enable_bridge(bridge);
        }
        self.devices[dev].enabled = self.do_enable_device(dev);
        self.devices[dev].enabled
    }

    /// `pci_enable_bridge`.
    fn enable_bridge(&mut self, bridge: usize) {
        if let Some(above) = self.upstream_bridge(bridge) {
            self.enable_bridge(above);
        }
        if !self.devices[bridge].enabled {
            self.enable_device(bridge);
            self.set_master(bridge);
        } else if !self.devices[bridge].is_master {
            self.set_master(bridge);
        }
    }

    /// `do_pci_enable_device`. A power state that cannot be changed is no obstacle.
    fn do_enable_device(&mut self, dev: usize) -> bool {
        let _ = self.set_power_state(dev, State::D0);
        let is_enabled = self.enable_resources(dev);
        if is_enabled && matches!(self.devices[dev].interrupts, Interrupts::None | Interrupts::IntX(_)) {
            self.enable_intx(dev);
        }
        is_enabled
    }

    /// `pci_disable_device`.
    pub(super) fn disable_device(&mut self, dev: usize) {
        if core::mem::take(&mut self.devices[dev].enabled) {
            self.stop_master(dev);
            self.devices[dev].is_master = false;
        }
    }

    /// `do_pci_disable_device`, `pci_clear_master`: no more requests.
    pub(super) fn stop_master(&mut self, dev: usize) {
        let command = Command::from_bits_retain(self.read16(dev, COMMAND));
        if command.contains(Command::BUS_MASTER_ENABLE) {
            self.write16(dev, COMMAND, (command - Command::BUS_MASTER_ENABLE).bits());
        }
    }

    /// `pci_pm_reenable_device`: as it was before a sleep.
    pub(super) fn reenable_device(&mut self, dev: usize) {
        if self.devices[dev].enabled {
            self.do_enable_device(dev);
        }
        if self.devices[dev].is_master {
            self.set_master(dev);
        }
    }

    /// `pci_enable_resources`.
    fn enable_resources(&mut self, dev: usize) -> bool {
        let before = Command::from_bits_retain(self.read16(dev, COMMAND));
        let mut command = before;
        for index in (0..resource::COUNT).filter(|index| !resource::IOV.contains(index)) {
            let resource = self.devices[dev].resources[index];
            if !resource.exists() || (index == ROM && !resource.flags.contains(Flags::ROM_ENABLE)) {
                continue;
            }
            let missing = if resource.flags.contains(Flags::UNSET) {
                "not assigned"
            } else if resource.parent.is_none() {
                "not claimed"
            } else {
                command |= if resource.is_io() { Command::IO_SPACE_ENABLE } else { Command::MEMORY_SPACE_ENABLE };
                continue;
            };
            let (name, colon) = match self.release {
                super::Release::V6_1 => (self.resource_name(index), "can't enable device: "),
                super::Release::V6_15 => (self.resource_name(index), ""),
            };
            if colon.is_empty() {
                self.info(dev, format_args!("{name} {resource}: {missing}; can't enable device"));
            } else {
                self.info(dev, format_args!("{colon}{name} {resource} {missing}"));
            }
            return false;
        }
        if command != before {
            self.info(dev, format_args!("enabling device ({:04x} -> {:04x})", before.bits(), command.bits()));
            self.write16(dev, COMMAND, command.bits());
        }
        true
    }

    /// The end of `do_pci_enable_device`.
    fn enable_intx(&mut self, dev: usize) {
        if self.read8(dev, INTERRUPT_PIN) != 0 {
            let command = Command::from_bits_retain(self.read16(dev, COMMAND));
            if command.contains(Command::INTERRUPT_DISABLE) {
                self.write16(dev, COMMAND, (command - Command::INTERRUPT_DISABLE).bits());
            }
        }
    }

    /// `pci_set_master`, `pcibios_set_master`.
    pub(super) fn set_master(&mut self, dev: usize) {
        let command = Command::from_bits_retain(self.read16(dev, COMMAND));
        if !command.contains(Command::BUS_MASTER_ENABLE) {
            self.write16(dev, COMMAND, (command | Command::BUS_MASTER_ENABLE).bits());
        }
        self.devices[dev].is_master = true;
        if self.devices[dev].express.is_some() {
            return;
        }
        if self.read8(dev, LATENCY_TIMER) < 16 {
            self.write8(dev, LATENCY_TIMER, 64);
        }
    }
}
