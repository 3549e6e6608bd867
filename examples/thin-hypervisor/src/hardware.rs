//! The machine's own configuration space and I/O ports.

use pci_remap::mechanism::Ecam;
use pci_remap::topology::ConfigSpace;
use pci_remap::{Access, Guest, Host, Width};
use x86_64::instructions::port::Port;

use crate::cut::Cut;
use crate::physical;

pub struct Hardware {
    /// Where configuration space is mapped to; without, only its first 256 bytes are reached.
    pub ecam: Option<Ecam>,
    /// A port that was made for a test.
    pub cut: Option<Cut>,
}

/// One naturally aligned piece of an access, and how to get there.
enum Way {
    Memory(u64),
    Port(u16),
    None,
}

impl Hardware {
    fn way(&self, function: pci_remap::Bdf, offset: u16) -> Way {
        // The hypervisor has the machine as it is: what the guest finds at an address is not the question.
        let page = self.ecam.and_then(|ecam| ecam.page(Guest(function)));
        match page {
            Some(Guest(page)) => Way::Memory(page.start() + u64::from(offset)),
            None if offset < 0x100 => {
                let address = 0x8000_0000 | u32::from(function.routing_id()) << 8 | u32::from(offset & !3);
                write_port(0xcf8, Width::Dword, address);
                Way::Port(0xcfc | offset & 3)
            }
            None => Way::None,
        }
    }
}

/// Ports CF8h to CFFh as far as they are no configuration accesses. The guest's CONFIG_ADDRESS is not in the hardware,
/// which has the last one of the hypervisor; it is put there first.
impl Hardware {
    pub fn read_port(&mut self, port: u16, width: Width, config_address: u32) -> u32 {
        write_port(0xcf8, Width::Dword, config_address);
        read_port(port, width)
    }

    pub fn write_port(&mut self, port: u16, width: Width, value: u32, config_address: u32) {
        write_port(0xcf8, Width::Dword, config_address);
        write_port(port, width, value);
    }
}

impl ConfigSpace for Hardware {
    fn read(&mut self, Host(access): Host<Access>) -> u32 {
        if let Some(answer) = self.cut.as_ref().and_then(|cut| cut.read(access)) {
            return answer;
        }
        access.parts().fold(0, |value, (offset, width)| {
            let part = match self.way(access.function(), offset) {
                Way::Memory(address) => physical::read(address, width.bytes()) as u32,
                Way::Port(port) => read_port(port, width),
                Way::None => !0,
            };
            value | part << (8 * (offset & 3))
        })
    }

    fn write(&mut self, Host(access): Host<Access>, value: u32) {
        if self.cut.as_mut().is_some_and(|cut| cut.write(access, value)) {
            return;
        }
        for (offset, width) in access.parts() {
            let part = value >> (8 * (offset & 3));
            match self.way(access.function(), offset) {
                // SAFETY: it is in the ECAM window.
                Way::Memory(address) => unsafe { physical::write(address, width.bytes(), part.into()) },
                Way::Port(port) => write_port(port, width, part),
                Way::None => {}
            }
        }
    }
}

/// An access to the port of the diagnostic display takes a microsecond or more, and does nothing.
pub fn wait_a_millisecond() {
    for _ in 0..1000 {
        read_port(0x80, Width::Byte);
    }
}

pub fn read_port(port: u16, width: Width) -> u32 {
    // SAFETY: the guest, or the scan, means to read it; no port gives access to the hypervisor's memory.
    unsafe {
        match width {
            Width::Byte => Port::<u8>::new(port).read().into(),
            Width::Word => Port::<u16>::new(port).read().into(),
            Width::Dword => Port::new(port).read(),
        }
    }
}

pub fn write_port(port: u16, width: Width, value: u32) {
    // SAFETY: as for reading.
    unsafe {
        match width {
            Width::Byte => Port::new(port).write(value as u8),
            Width::Word => Port::new(port).write(value as u16),
            Width::Dword => Port::new(port).write(value),
        }
    }
}
