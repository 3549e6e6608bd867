//! The driver of ports, `pcieport` (drivers/pci/pcie/portdrv.c), and which services it starts.

use bitflags::bitflags;

use super::express::{DOWNSTREAM_PORT, EVENT_COLLECTOR, ROOT_PORT, Register, UPSTREAM_PORT};
use super::probe::Driver;
use super::{Linux, Release, aer, dpc};

/// `PCIE_PORT_MAX_MSI_ENTRIES`.
const MOST_VECTORS: u16 = 32;

bitflags! {
    /// `PCIE_PORT_SERVICE_*`, in the order they are started.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Services: u8 {
        const PME = 1 << 0;
        const AER = 1 << 1;
        const HOT_PLUG = 1 << 2;
        const DPC = 1 << 3;
        const BANDWIDTH = 1 << 4;
    }
}

/// A bound port.
#[derive(Debug, Clone, Default)]
pub(super) struct Port {
    services: Services,
    /// `pm_runtime_allow`: it is suspended when nothing below needs it.
    pub(super) may_suspend: bool,
}

impl Linux<'_> {
    /// `pcie_portdrv_init`: all ports there are.
    pub(super) fn bind_ports(&mut self) {
        for dev in self.all() {
            if self.devices[dev].driver.is_none() && self.is_port_device(dev) {
                self.portdrv_probe(dev);
            }
        }
    }

    /// The device table of the driver, and the first lines of `pcie_portdrv_probe`.
    pub(super) fn is_port_device(&self, dev: usize) -> bool {
        let device = &self.devices[dev];
        let is_bridge = device.class.is_pci_bridge() && device.is_port(&[ROOT_PORT, UPSTREAM_PORT, DOWNSTREAM_PORT]);
        is_bridge || device.class.class() == 0x0807 && device.is_port(&[EVENT_COLLECTOR])
    }

    /// `pcie_portdrv_probe`.
    fn portdrv_probe(&mut self, dev: usize) {
        self.devices[dev].driver = Some(Driver::Port(Port::default()));
        if !self.port_register(dev) {
            self.devices[dev].driver = None;
            return;
        }
        self.save_state(dev);
        let may_suspend = self.bridge_d3_possible(dev);
        if let Some(port) = self.port_mut(dev) {
            port.may_suspend = may_suspend;
        }
    }

    /// `pcie_port_device_register`.
    fn port_register(&mut self, dev: usize) -> bool {
        if !self.enable_device(dev) {
            return false;
        }
        let mut services = self.port_capability(dev);
        if services.is_empty() {
            return true;
        }
        self.set_master(dev);
        if !self.init_service_irqs(dev, services) {
            services &= Services::HOT_PLUG;
            if services.is_empty() {
                self.disable_device(dev);
                return false;
            }
        }
        let irq = self.devices[dev].interrupts.first().unwrap_or_default();
        for service in services.iter() {
            let starts = match service {
                Services::PME => self.pme_probe(dev, irq),
                Services::AER => self.aer_probe(dev, irq),
                Services::HOT_PLUG => self.pciehp_probe(dev),
                Services::DPC => self.dpc_probe(dev, irq),
                _ => self.bandwidth_probe(dev),
            };
            if let Some(port) = self.port_mut(dev).filter(|_| starts) {
                port.services |= service;
            }
        }
        true
    }

    fn bandwidth_probe(&mut self, dev: usize) -> bool {
        let has_driver = self.release == Release::V6_15;
        if has_driver {
            self.bwnotif_enable(dev);
        }
        has_driver
    }

    /// `get_port_device_capability`.
    fn port_capability(&mut self, dev: usize) -> Services {
        const BANDWIDTH_NOTIFICATION: u32 = 1 << 21;
        let device = &self.devices[dev];
        let is_root = device.is_port(&[ROOT_PORT, EVENT_COLLECTOR]);
        let mut services = Services::empty();
        services.set(Services::HOT_PLUG, device.hotplug);
        services.set(Services::AER, device.found.aer.is_some() && (is_root || self.release == Release::V6_1));
        if is_root {
            services |= Services::PME;
            self.pme_interrupt_enable(dev, false);
        }
        let has_dpc = self.devices[dev].found.dpc.is_some();
        services.set(Services::DPC, has_dpc && services.contains(Services::AER));
        if self.devices[dev].is_port(&[ROOT_PORT, DOWNSTREAM_PORT]) {
            let notifies = self.express_read32(dev, Register::LinkCapabilities) & BANDWIDTH_NOTIFICATION != 0;
            let many = self.release == Release::V6_1 || self.has_many_speeds(dev);
            services.set(Services::BANDWIDTH, notifies && many);
        }
        services
    }

    /// More than one bit in `supported_speeds`.
    fn has_many_speeds(&mut self, dev: usize) -> bool {
        let vector = self.express_read32(dev, Register::LinkCapabilities2) & 0xfe;
        if vector != 0 {
            return vector.count_ones() > 1;
        }
        self.express_read32(dev, Register::LinkCapabilities) & 0xf > 1
    }

    /// `pcie_init_service_irqs`: as many vectors as the highest message number needs, or the pin.
    fn init_service_irqs(&mut self, dev: usize, services: Services) -> bool {
        if self.devices[dev].found.msix.is_some() || self.devices[dev].found.msi.is_some() {
            let count = self.alloc_vectors(dev, MOST_VECTORS);
            let needed = self.message_numbers(dev, services);
            if needed <= count && needed != 0 {
                if needed != count {
                    self.free_vectors(dev);
                    return self.alloc_vectors(dev, u16::try_from(needed).unwrap_or(1)) >= needed;
                }
                return true;
            }
            self.free_vectors(dev);
        }
        self.devices[dev].pin != 0
    }

    /// `pcie_message_numbers`.
    fn message_numbers(&mut self, dev: usize, services: Services) -> usize {
        let mut needed = 0;
        if services.intersects(Services::PME | Services::HOT_PLUG | Services::BANDWIDTH) {
            needed = (self.express_read16(dev, Register::Flags) >> 9 & 0x1f) + 1;
        }
        let found = self.devices[dev].found;
        if let Some(at) = found.aer.filter(|_| services.contains(Services::AER)) {
            let number = u16::try_from(self.read32(dev, at + aer::ROOT_STATUS) >> 27).unwrap_or_default();
            needed = needed.max(number + 1);
        }
        if let Some(at) = found.dpc.filter(|_| services.contains(Services::DPC)) {
            needed = needed.max((self.read16(dev, at + dpc::CAPABILITY) & 0x1f) + 1);
        }
        needed.into()
    }

    /// The driver's data, if the port is bound.
    pub(super) fn port_mut(&mut self, dev: usize) -> Option<&mut Port> {
        match &mut self.devices[dev].driver {
            Some(Driver::Port(port)) => Some(port),
            _ => None,
        }
    }

    pub(super) fn services(&self, dev: usize) -> Services {
        match &self.devices[dev].driver {
            Some(Driver::Port(port)) => port.services,
            _ => Services::empty(),
        }
    }

    pub(super) fn has_service(&self, dev: usize, service: Services) -> bool {
        self.services(dev).contains(service)
    }

    /// `pcie_port_device_suspend`, for a system sleep.
    pub(super) fn services_suspend(&mut self, dev: usize) {
        for service in self.services(dev).iter() {
            match service {
                Services::PME => self.pme_suspend(dev),
                Services::HOT_PLUG => self.pciehp_disable_interrupt(dev),
                // Since 6.13.
                Services::AER if self.release == Release::V6_15 => self.aer_disable(dev),
                Services::DPC if self.release == Release::V6_15 => self.dpc_disable(dev),
                Services::BANDWIDTH => self.bwnotif_disable(dev),
                _ => {}
            }
        }
    }

    /// `pcie_port_device_resume_noirq` and `pcie_port_device_resume`.
    pub(super) fn services_resume(&mut self, dev: usize) {
        for service in self.services(dev).iter() {
            match service {
                Services::PME => self.pme_resume(dev),
                Services::HOT_PLUG => self.pciehp_resume(dev),
                Services::AER if self.release == Release::V6_15 => self.aer_enable(dev),
                Services::DPC if self.release == Release::V6_15 => self.dpc_enable(dev),
                Services::BANDWIDTH => self.bwnotif_enable(dev),
                _ => {}
            }
        }
    }

    /// `pcie_portdrv_remove`; newer kernels disable the port as well.
    pub(super) fn portdrv_remove(&mut self, dev: usize) {
        self.services_remove(dev);
        if self.release == Release::V6_15 {
            self.disable_device(dev);
        }
    }

    /// `pcie_port_device_remove`, and what shutdown does.
    pub(super) fn services_remove(&mut self, dev: usize) {
        for service in self.services(dev).iter() {
            match service {
                Services::PME => self.pme_suspend(dev),
                Services::AER => self.aer_disable(dev),
                Services::HOT_PLUG => self.pciehp_disable_notification(dev),
                Services::DPC => self.dpc_disable(dev),
                _ => self.bwnotif_disable(dev),
            }
        }
        self.free_vectors(dev);
        self.devices[dev].driver = None;
    }
}
