//! Drivers of endpoints: a driver enables its device, looks whether it answers, and takes interrupts.

use std::format;
use std::vec::Vec;

use super::Linux;
use super::portdrv::Port;
use super::resource::STD;
use crate::access::Width;
use crate::spec::header::HeaderType;

/// As many queues as a small machine has processors.
const VECTORS: u16 = 4;

/// What is bound to a function.
#[derive(Debug, Clone)]
pub(super) enum Driver {
    /// `pcieport`.
    Port(Port),
    /// The driver of a device.
    Endpoint(Endpoint),
}

/// A bound device.
#[derive(Debug, Clone, Default)]
pub(super) struct Endpoint {
    /// A DWORD of each memory BAR, by byte offset, as it read when the driver came.
    registers: Vec<(usize, u64, u32)>,
}

impl Driver {
    /// How messages about the function start.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Port(_) => "pcieport",
            Self::Endpoint(_) => "driver",
        }
    }
}

impl Linux<'_> {
    /// Loads the drivers of all endpoints that have none.
    pub(super) fn bind_drivers(&mut self) {
        for dev in self.all() {
            let device = &self.devices[dev];
            if device.driver.is_none() && device.header == HeaderType::Type0 && device.class.0 != 0 {
                self.probe(dev);
            }
        }
    }

    /// `local_pci_probe` and what most drivers' probe functions do. Whether the driver is bound then.
    pub(super) fn probe(&mut self, dev: usize) -> bool {
        self.runtime_resume(dev);
        self.devices[dev].driver = Some(Driver::Endpoint(Endpoint::default()));
        let error = match self.try_probe(dev) {
            Ok(registers) => {
                self.devices[dev].driver = Some(Driver::Endpoint(Endpoint { registers }));
                return true;
            }
            Err(error) => error,
        };
        self.devices[dev].driver = None;
        let name = self.name(dev);
        self.log.push(format!("driver: probe of {name} failed with error {error}"));
        false
    }

    fn try_probe(&mut self, dev: usize) -> Result<Vec<(usize, u64, u32)>, i32> {
        const EINVAL: i32 = -22;
        const EIO: i32 = -5;
        if !self.enable_device(dev) {
            return Err(EINVAL);
        }
        self.set_master(dev);
        let registers = self.read_registers(dev);
        if registers.iter().any(|(_, _, value)| *value == !0) {
            self.info(dev, "device does not answer");
            self.disable_device(dev);
            return Err(EIO);
        }
        self.alloc_vectors(dev, VECTORS);
        Ok(registers)
    }

    /// A DWORD of each memory BAR, not of the MSI-X Table.
    fn read_registers(&mut self, dev: usize) -> Vec<(usize, u64, u32)> {
        let table = self.devices[dev].found.msix.map(|at| {
            let entries = u64::from(self.read16(dev, at + 2) & 0x7ff) + 1;
            let place = self.read32(dev, at + 4);
            ((place & 7) as usize, u64::from(place & !7), 16 * entries)
        });
        let mut registers = Vec::new();
        for bar in STD {
            let resource = self.devices[dev].resources[bar];
            let Some(span) = resource.span().filter(|_| !resource.is_io() && resource.parent.is_some()) else {
                continue;
            };
            let offset = match table {
                Some((of, 0, size)) if of == bar => size,
                _ => 0,
            };
            if offset + 4 <= span.len() {
                let value = self.config.platform.memory_read(span.start() + offset, Width::Dword);
                registers.push((bar, offset, value));
            }
        }
        registers
    }

    /// Whether the device answers as it did when its driver came.
    pub(super) fn answers(&mut self, dev: usize) -> bool {
        let registers = match self.devices[dev].driver.clone() {
            None => return false,
            // An event collector has no memory.
            Some(Driver::Port(_)) => Vec::new(),
            Some(Driver::Endpoint(Endpoint { registers })) => registers,
        };
        registers.into_iter().all(|(bar, offset, before)| {
            let span = self.devices[dev].resources[bar].span();
            let address = span.and_then(|span| span.start().checked_add(offset));
            address.is_some_and(|address| self.config.platform.memory_read(address, Width::Dword) == before)
        })
    }

    /// `pci_device_remove`: what most drivers' remove functions do.
    pub(super) fn unbind(&mut self, dev: usize) {
        match self.devices[dev].driver {
            None => {}
            Some(Driver::Port(_)) => {
                self.runtime_resume(dev);
                self.portdrv_remove(dev);
            }
            Some(Driver::Endpoint(_)) => {
                self.runtime_resume(dev);
                self.free_vectors(dev);
                self.disable_device(dev);
                self.devices[dev].driver = None;
            }
        }
    }
}
