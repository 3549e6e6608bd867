//! Drivers: `pci_enable_device` and `pci_set_master` for each function that has one, and all it needs.

use super::Linux;
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
    fn enable_device(&mut self, dev: usize) -> bool {
        if self.devices[dev].enabled {
            return true;
        }
        if let Some(bridge) = self.buses[self.devices[dev].bus].bridge
            && !self.devices[bridge].enabled
            && self.enable_device(bridge)
        {
            self.set_master(bridge);
        }
        self.devices[dev].enabled = self.enable_resources(dev);
        self.devices[dev].enabled
    }

    /// `pci_enable_resources`, then INTx.
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
        self.enable_intx(dev);
        true
    }

    /// The end of `do_pci_enable_device`.
    fn enable_intx(&mut self, dev: usize) {
        let bdf = self.devices[dev].bdf;
        if self.config.read8(bdf, INTERRUPT_PIN) != 0 {
            let command = Command::from_bits_retain(self.read16(dev, COMMAND));
            if command.contains(Command::INTERRUPT_DISABLE) {
                self.write16(dev, COMMAND, (command - Command::INTERRUPT_DISABLE).bits());
            }
        }
    }

    /// `pci_set_master`, `pcibios_set_master`.
    fn set_master(&mut self, dev: usize) {
        let command = Command::from_bits_retain(self.read16(dev, COMMAND));
        if !command.contains(Command::BUS_MASTER_ENABLE) {
            self.write16(dev, COMMAND, (command | Command::BUS_MASTER_ENABLE).bits());
        }
        if self.devices[dev].express.is_some() {
            return;
        }
        let bdf = self.devices[dev].bdf;
        if self.config.read8(bdf, LATENCY_TIMER) < 16 {
            self.config.write8(bdf, LATENCY_TIMER, 64);
        }
    }
}
