//! Advanced Error Reporting (drivers/pci/pcie/aer.c): every function's at its start, and the service of Root Ports.

use std::vec::Vec;

use super::Linux;
use super::express::{DOWNSTREAM_PORT, EVENT_COLLECTOR, ROOT_PORT, Register, UPSTREAM_PORT};
use crate::spec::capability::ExtendedCapabilityId;

const UNCORRECTABLE_STATUS: u16 = 0x04;
const UNCORRECTABLE_MASK: u16 = 0x08;
const UNCORRECTABLE_SEVERITY: u16 = 0x0c;
const CORRECTABLE_STATUS: u16 = 0x10;
const CORRECTABLE_MASK: u16 = 0x14;
const CAPABILITIES: u16 = 0x18;
const ROOT_COMMAND: u16 = 0x2c;
/// Root Error Status; the Interrupt Message Number is in bits 31:27.
pub(super) const ROOT_STATUS: u16 = 0x30;
/// Correctable, non-fatal, fatal and unsupported request reporting in Device Control.
const REPORTING: u16 = 0xf;
/// System error on each of the three messages, in Root Control.
const SYSTEM_ERRORS: u16 = 7;
/// Interrupt on each of the three messages, in Root Error Command.
const INTERRUPTS: u32 = 7;
/// Some error was received.
const RECEIVED: u32 = 1 | 1 << 2;

impl Linux<'_> {
    /// `pci_aer_init`.
    pub(super) fn aer_init(&mut self, dev: usize) {
        self.devices[dev].found.aer = self.find_extended(dev, ExtendedCapabilityId::AER);
        if self.devices[dev].found.aer.is_some() {
            self.clear_error_status(dev);
            self.enable_error_reporting(dev);
        }
    }

    /// `pci_aer_clear_status`.
    pub(super) fn clear_error_status(&mut self, dev: usize) {
        let Some(at) = self.devices[dev].found.aer else { return };
        let root = [ROOT_STATUS, CORRECTABLE_STATUS, UNCORRECTABLE_STATUS];
        let skipped = usize::from(!self.has_root_registers(dev));
        for register in &root[skipped..] {
            let status = self.read32(dev, at + register);
            self.write32(dev, at + register, status);
        }
    }

    /// `pcie_cap_has_rtctl`.
    fn has_root_registers(&self, dev: usize) -> bool {
        self.devices[dev].is_port(&[ROOT_PORT, EVENT_COLLECTOR])
    }

    /// `pci_enable_pcie_error_reporting`.
    fn enable_error_reporting(&mut self, dev: usize) {
        if self.devices[dev].found.aer.is_some() {
            self.express_update(dev, Register::DeviceControl, 0, REPORTING);
        }
    }

    /// `aer_probe`.
    pub(super) fn aer_probe(&mut self, dev: usize, irq: u32) -> bool {
        if self.devices[dev].found.aer.is_none() || !self.has_root_registers(dev) {
            return false;
        }
        self.aer_enable(dev);
        self.info(dev, format_args!("AER: enabled with IRQ {irq}"));
        true
    }

    /// `aer_enable_rootport`.
    pub(super) fn aer_enable(&mut self, dev: usize) {
        let Some(at) = self.devices[dev].found.aer else { return };
        let status = self.express_read16(dev, Register::DeviceStatus);
        self.express_write16(dev, Register::DeviceStatus, status);
        self.express_update(dev, Register::RootControl, SYSTEM_ERRORS, 0);
        let received = self.read32(dev, at + ROOT_STATUS);
        self.write32(dev, at + ROOT_STATUS, received);
        if received & RECEIVED != 0 {
            for below in self.all_below(dev) {
                self.clear_error_status(below);
            }
        }
        for register in [CORRECTABLE_STATUS, UNCORRECTABLE_STATUS] {
            let status = self.read32(dev, at + register);
            self.write32(dev, at + register, status);
        }
        // Until 6.2, the ports below as well (set_downstream_devices_error_reporting).
        if self.release == super::Release::V6_1 {
            self.enable_error_reporting(dev);
            for below in self.all_below(dev) {
                if self.devices[below].is_port(&[ROOT_PORT, EVENT_COLLECTOR, UPSTREAM_PORT, DOWNSTREAM_PORT]) {
                    self.enable_error_reporting(below);
                }
            }
        }
        self.update32(dev, at + ROOT_COMMAND, 0, INTERRUPTS);
    }

    /// `aer_disable_rootport`.
    pub(super) fn aer_disable(&mut self, dev: usize) {
        let Some(at) = self.devices[dev].found.aer else { return };
        self.update32(dev, at + ROOT_COMMAND, INTERRUPTS, 0);
        let status = self.read32(dev, at + ROOT_STATUS);
        self.write32(dev, at + ROOT_STATUS, status);
    }

    /// `pci_save_aer_state`.
    pub(super) fn save_aer(&mut self, dev: usize) -> Vec<u32> {
        let registers = self.kept_error_registers(dev);
        registers.into_iter().map(|register| self.read32(dev, register)).collect()
    }

    /// `pci_restore_aer_state`.
    pub(super) fn restore_aer(&mut self, dev: usize, saved: &[u32]) {
        for (register, value) in self.kept_error_registers(dev).into_iter().zip(saved) {
            self.write32(dev, register, *value);
        }
    }

    fn kept_error_registers(&self, dev: usize) -> Vec<u16> {
        let Some(at) = self.devices[dev].found.aer else { return Vec::new() };
        let mut registers =
            Vec::from([UNCORRECTABLE_MASK, UNCORRECTABLE_SEVERITY, CORRECTABLE_MASK, CAPABILITIES].map(|own| at + own));
        registers.extend(self.has_root_registers(dev).then_some(at + ROOT_COMMAND));
        registers
    }
}
