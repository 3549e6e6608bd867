//! Downstream Port Containment (drivers/pci/pcie/dpc.c): a fatal error takes the link down.

use super::Linux;
use crate::spec::capability::ExtendedCapabilityId;

/// DPC Capability; the Interrupt Message Number is in bits 4:0.
pub(super) const CAPABILITY: u16 = 0x04;
const CONTROL: u16 = 0x06;
const ENABLE_FATAL: u16 = 1 << 0;
const INTERRUPT_ENABLE: u16 = 1 << 3;

impl Linux<'_> {
    /// `pci_dpc_init`.
    pub(super) fn dpc_init(&mut self, dev: usize) {
        self.devices[dev].found.dpc = self.find_extended(dev, ExtendedCapabilityId::DPC);
        if let Some(at) = self.devices[dev].found.dpc {
            let _capability = self.read16(dev, at + CAPABILITY);
        }
    }

    /// `dpc_probe`.
    pub(super) fn dpc_probe(&mut self, dev: usize, irq: u32) -> bool {
        let Some(at) = self.devices[dev].found.dpc else { return false };
        let capability = self.read16(dev, at + CAPABILITY);
        self.dpc_enable(dev);
        self.info(dev, format_args!("DPC: enabled with IRQ {irq}"));
        let flag = |bit: u16| if capability >> bit & 1 == 1 { '+' } else { '-' };
        let [extensions, poisoned, trigger, active] = [flag(5), flag(6), flag(7), flag(12)];
        let (message, log) = (capability & 0x1f, capability >> 8 & 0xf);
        self.info(
            dev,
            format_args!(
                "DPC: error containment capabilities: Int Msg #{message}, RPExt{extensions} PoisonedTLP{poisoned} SwTrigger{trigger} RP PIO Log {log}, DL_ActiveErr{active}"
            ),
        );
        true
    }

    /// `dpc_enable`.
    pub(super) fn dpc_enable(&mut self, dev: usize) {
        let Some(at) = self.devices[dev].found.dpc else { return };
        let control = self.read16(dev, at + CONTROL);
        self.write16(dev, at + CONTROL, control & 0xfff4 | ENABLE_FATAL | INTERRUPT_ENABLE);
    }

    /// `dpc_disable`.
    pub(super) fn dpc_disable(&mut self, dev: usize) {
        let Some(at) = self.devices[dev].found.dpc else { return };
        let control = self.read16(dev, at + CONTROL);
        self.write16(dev, at + CONTROL, control & !(ENABLE_FATAL | INTERRUPT_ENABLE));
    }

    /// `pci_save_dpc_state`: only while the service has it.
    pub(super) fn save_dpc(&mut self, dev: usize) -> Option<u16> {
        let at = self.devices[dev].found.dpc.filter(|_| self.has_service(dev, super::portdrv::Services::DPC))?;
        Some(self.read16(dev, at + CONTROL))
    }

    /// `pci_restore_dpc_state`.
    pub(super) fn restore_dpc(&mut self, dev: usize, control: u16) {
        if let Some(at) = self.devices[dev].found.dpc {
            self.write16(dev, at + CONTROL, control);
        }
    }
}
