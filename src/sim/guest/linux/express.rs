//! The registers of the PCI Express Capability: `pcie_capability_read_word` and its like (drivers/pci/access.c).
//!
//! A register the port type or the version does not have reads zero and is not written.

use super::{Dev, Linux};

/// A register by its byte offset in the capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    Flags = 0x02,
    DeviceCapabilities = 0x04,
    DeviceControl = 0x08,
    DeviceStatus = 0x0a,
    LinkCapabilities = 0x0c,
    LinkControl = 0x10,
    LinkStatus = 0x12,
    SlotCapabilities = 0x14,
    SlotControl = 0x18,
    SlotStatus = 0x1a,
    RootControl = 0x1c,
    RootStatus = 0x20,
    DeviceCapabilities2 = 0x24,
    DeviceControl2 = 0x28,
    LinkCapabilities2 = 0x2c,
    LinkControl2 = 0x30,
    SlotControl2 = 0x38,
}

/// Presence Detect State in Slot Status.
pub(super) const PRESENCE_DETECT: u16 = 1 << 6;

/// Device/Port Types.
pub(super) const ENDPOINT: u8 = 0;
pub(super) const LEGACY_ENDPOINT: u8 = 1;
pub(super) const ROOT_PORT: u8 = 4;
pub(super) const UPSTREAM_PORT: u8 = 5;
pub(super) const DOWNSTREAM_PORT: u8 = 6;
pub(super) const INTEGRATED_ENDPOINT: u8 = 9;
pub(super) const EVENT_COLLECTOR: u8 = 10;

impl Dev {
    /// `pci_pcie_type`.
    pub(super) fn port(&self) -> Option<u8> {
        self.express.map(|(_, port)| port)
    }

    /// Whether the port is one of these.
    pub(super) fn is_port(&self, types: &[u8]) -> bool {
        self.port().is_some_and(|port| types.contains(&port))
    }

    /// `pcie_capability_reg_implemented`.
    fn implements(&self, register: Register) -> bool {
        use Register as R;
        let has_slot = self.express_flags & 1 << 8 != 0;
        match register {
            R::Flags | R::DeviceCapabilities | R::DeviceControl | R::DeviceStatus => true,
            R::LinkCapabilities | R::LinkControl | R::LinkStatus => matches!(self.port(), Some(0 | 1 | 4..=8)),
            R::SlotCapabilities | R::SlotControl | R::SlotStatus => self.is_downstream_port() && has_slot,
            R::RootControl | R::RootStatus => self.is_port(&[ROOT_PORT, EVENT_COLLECTOR]),
            R::DeviceCapabilities2 | R::DeviceControl2 | R::LinkCapabilities2 | R::LinkControl2 => {
                self.express_flags & 0xf > 1
            }
            // Not on the kernel's list, so that it is neither saved nor restored.
            R::SlotControl2 => false,
        }
    }
}

impl Linux<'_> {
    fn locate(&self, dev: usize, register: Register) -> Option<u16> {
        let device = &self.devices[dev];
        let (at, _) = device.express?;
        (device.implements(register) && !device.power.is_disconnected).then_some(at + register as u16)
    }

    pub(super) fn express_read16(&mut self, dev: usize, register: Register) -> u16 {
        match self.locate(dev, register) {
            Some(offset) => self.read16(dev, offset),
            None if register == Register::SlotStatus && self.devices[dev].is_downstream_port() => PRESENCE_DETECT,
            None => 0,
        }
    }

    pub(super) fn express_read32(&mut self, dev: usize, register: Register) -> u32 {
        self.locate(dev, register).map_or(0, |offset| self.read32(dev, offset))
    }

    pub(super) fn express_write16(&mut self, dev: usize, register: Register, value: u16) {
        if let Some(offset) = self.locate(dev, register) {
            self.write16(dev, offset, value);
        }
    }

    /// `pcie_capability_clear_and_set_word`.
    pub(super) fn express_update(&mut self, dev: usize, register: Register, clear: u16, set: u16) {
        let value = self.express_read16(dev, register);
        self.express_write16(dev, register, value & !clear | set);
    }

    /// `pcie_find_root_port`.
    pub(super) fn root_port(&self, dev: usize) -> Option<usize> {
        core::iter::successors(Some(dev), |dev| self.upstream_bridge(*dev))
            .find(|dev| self.devices[*dev].is_port(&[ROOT_PORT]))
    }
}
