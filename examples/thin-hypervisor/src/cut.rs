//! A test mode: a port whose D3hot really cuts off what is behind it, as ports of real machines do. Emulated ports have no
//! power management at all, so the capability is put in front of the real one's list; the crate and the guest find it as
//! part of the hardware. Only configuration accesses are cut off: a driver gives up before it comes to the memory.

use pci_remap::{Access, Bdf, Dword, Host};

/// Where the capability is, next to the end of conventional configuration space.
const CAPABILITY: u16 = 0xf0;
const POWER_MANAGEMENT: u32 = 0x01;
/// PME from D0, D3hot and D3cold; version 3 (7.5.2.1).
const CAPABILITIES: u32 = 0xc803;
const D3HOT: u32 = 3;

pub struct Cut {
    port: Bdf,
    /// The bus behind the port.
    bus: u8,
    /// Where the port's own list starts.
    next: u8,
    /// PMCSR.
    control: u32,
}

impl Cut {
    /// `read` reads the port's configuration space.
    pub fn new(port: Host<Bdf>, mut read: impl FnMut(Host<Access>) -> u32) -> Self {
        let mut byte = |offset| {
            let dword = Access::whole(port.0, Dword::holding(offset));
            read(Host(dword)).to_le_bytes()[usize::from(offset & 3)]
        };
        Self { port: port.0, bus: byte(0x19), next: byte(0x34), control: 0 }
    }

    /// What is not the hardware's to answer.
    pub fn read(&self, access: Access) -> Option<u32> {
        if access.function().bus() == self.bus && self.control & D3HOT == D3HOT {
            return Some(!0);
        }
        if access.function() != self.port {
            return None;
        }
        match access.dword().offset() {
            0x34 => Some(CAPABILITY.into()),
            CAPABILITY => Some(CAPABILITIES << 16 | u32::from(self.next) << 8 | POWER_MANAGEMENT),
            0xf4 => Some(self.control),
            _ => None,
        }
    }

    /// Whether the write is not the hardware's.
    pub fn write(&mut self, access: Access, value: u32) -> bool {
        if access.function() != self.port {
            return access.function().bus() == self.bus && self.control & D3HOT == D3HOT;
        }
        if access.dword().offset() == 0xf4 {
            self.control = access.lanes().merge(self.control, value) & 0x103;
        }
        matches!(access.dword().offset(), CAPABILITY | 0xf4)
    }
}
