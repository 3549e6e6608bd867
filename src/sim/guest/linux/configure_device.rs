//! `pci_configure_device`: what both ends of a link, or all ports on the way, have to agree on.

use super::Linux;
use super::express::{DOWNSTREAM_PORT, EVENT_COLLECTOR, INTEGRATED_ENDPOINT, ROOT_PORT, Register, UPSTREAM_PORT};
use crate::spec::capability::ExtendedCapabilityId;
use crate::spec::header::HeaderType;

const BRIDGE_CONTROL: u16 = 0x3e;
/// LTR Mechanism Enable in Device Control 2.
const LTR_ENABLE: u16 = 1 << 10;

impl Linux<'_> {
    pub(super) fn configure_device(&mut self, dev: usize) {
        // What a virtual function has of this is its physical function's.
        if self.devices[dev].physical.is_none() {
            self.configure_mps(dev);
            self.configure_extended_tags(dev);
            self.configure_relaxed_ordering(dev);
        }
        self.configure_ltr(dev);
        self.configure_eetlp_prefix(dev);
        self.configure_serr(dev);
        self.configure_rcb(dev);
    }

    /// `pci_configure_mps`: Max_Payload_Size is that of the port above, which a Root Port lowers to what is possible.
    fn configure_mps(&mut self, dev: usize) {
        let Some(port) = self.devices[dev].port() else { return };
        let supported = self.mpss(dev);
        if port == INTEGRATED_ENDPOINT {
            self.set_mps(dev, supported);
            return;
        }
        let Some(bridge) = self.upstream_bridge(dev).filter(|bridge| self.devices[*bridge].express.is_some()) else {
            return;
        };
        let own = self.mps(dev);
        let mut above = self.mps(bridge);
        if own == above {
            return;
        }
        if supported < above && self.devices[bridge].is_port(&[ROOT_PORT]) {
            let most = bytes(self.mpss(bridge));
            self.set_mps(bridge, supported);
            let (set, was) = (bytes(supported), bytes(above));
            self.info(dev, format_args!("Upstream bridge's Max Payload Size set to {set} (was {was}, max {most})"));
            above = self.mps(bridge);
        }
        let (set, was, most) = (bytes(above), bytes(own), bytes(supported));
        if !self.set_mps(dev, above) {
            self.info(
                dev,
                format_args!(
                    "can't set Max Payload Size to {set}; if necessary, use \"pci=pcie_bus_safe\" and report a bug"
                ),
            );
            return;
        }
        self.info(dev, format_args!("Max Payload Size set to {set} (was {was}, max {most})"));
    }

    /// Max_Payload_Size Supported: 128 bytes shifted left by it.
    fn mpss(&self, dev: usize) -> u16 {
        u16::from(self.devices[dev].device_capabilities.to_le_bytes()[0] & 7)
    }

    fn mps(&mut self, dev: usize) -> u16 {
        self.express_read16(dev, Register::DeviceControl) >> 5 & 7
    }

    /// `pcie_set_mps`: false for what the function does not support.
    fn set_mps(&mut self, dev: usize, size: u16) -> bool {
        if size > 5 || size > self.mpss(dev) {
            return false;
        }
        self.express_update(dev, Register::DeviceControl, 0x00e0, size << 5);
        true
    }

    /// `pci_configure_extended_tags`.
    fn configure_extended_tags(&mut self, dev: usize) {
        const ENABLE: u16 = 1 << 8;
        if self.express_read32(dev, Register::DeviceCapabilities) & 1 << 5 == 0 {
            return;
        }
        if self.express_read16(dev, Register::DeviceControl) & ENABLE == 0 {
            self.info(dev, "enabling Extended Tags");
            self.express_update(dev, Register::DeviceControl, 0, ENABLE);
        }
    }

    /// `pci_configure_relaxed_ordering`: no port here is known for errors with it.
    fn configure_relaxed_ordering(&mut self, dev: usize) {
        let _control = self.express_read16(dev, Register::DeviceControl);
    }

    /// `pci_configure_ltr`.
    fn configure_ltr(&mut self, dev: usize) {
        const SUPPORTED: u32 = 1 << 11;
        if self.devices[dev].express.is_none() {
            return;
        }
        self.devices[dev].found.l1ss = self.find_extended(dev, ExtendedCapabilityId::L1_PM_SUBSTATES);
        if self.express_read32(dev, Register::DeviceCapabilities2) & SUPPORTED == 0 {
            return;
        }
        let is_enabled = self.express_read32(dev, Register::DeviceControl2) & u32::from(LTR_ENABLE) != 0;
        let is_root = self.devices[dev].is_port(&[ROOT_PORT]);
        let is_path = is_root || self.upstream_bridge(dev).is_some_and(|bridge| self.devices[bridge].ltr_path);
        if !is_enabled && is_path {
            if !is_root {
                self.bridge_reconfigure_ltr(dev);
            }
            self.express_update(dev, Register::DeviceControl2, 0, LTR_ENABLE);
        }
        self.devices[dev].ltr_path = is_path;
    }

    /// `pci_bridge_reconfigure_ltr`: a port forgets it when its link goes down.
    pub(super) fn bridge_reconfigure_ltr(&mut self, dev: usize) {
        let Some(bridge) = self.upstream_bridge(dev).filter(|bridge| self.devices[*bridge].ltr_path) else { return };
        if self.express_read32(bridge, Register::DeviceControl2) & u32::from(LTR_ENABLE) == 0 {
            self.express_update(bridge, Register::DeviceControl2, 0, LTR_ENABLE);
        }
    }

    /// `pci_configure_eetlp_prefix`.
    fn configure_eetlp_prefix(&mut self, dev: usize) {
        let _capabilities = self.express_read32(dev, Register::DeviceCapabilities2);
    }

    /// `pci_configure_serr`: bridges forward errors from below.
    fn configure_serr(&mut self, dev: usize) {
        const SERR_ENABLE: u16 = 1 << 1;
        if self.devices[dev].header == HeaderType::Type1 {
            let control = self.read16(dev, BRIDGE_CONTROL);
            if control & SERR_ENABLE == 0 {
                self.write16(dev, BRIDGE_CONTROL, control | SERR_ENABLE);
            }
        }
    }

    /// `pci_configure_rcb`: the Read Completion Boundary is that of the Root Port.
    fn configure_rcb(&mut self, dev: usize) {
        const RCB: u16 = 1 << 3;
        let device = &self.devices[dev];
        let decides = [ROOT_PORT, UPSTREAM_PORT, DOWNSTREAM_PORT, EVENT_COLLECTOR];
        if device.express.is_none() || device.is_port(&decides) {
            return;
        }
        let Some(root) = self.root_port(dev) else { return };
        let boundary = self.express_read16(root, Register::LinkControl) & RCB;
        self.express_update(dev, Register::LinkControl, RCB, boundary);
    }
}

fn bytes(size: u16) -> u16 {
    128 << size
}
