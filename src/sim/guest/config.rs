//! Configuration accesses as an x86 system makes them: through the ports below 100h, through ECAM above
//! (Linux's `raw_pci_read`), or through ECAM alone where there are no ports.

use crate::access::Width;
use crate::address::{Bdf, Guest};
use crate::sim::platform::{Firmware, Platform};

/// CONFIG_ADDRESS, written as a DWORD only.
const CONFIG_ADDRESS: u16 = 0xcf8;
/// Enables the data port.
const ENABLE: u32 = 1 << 31;
/// CONFIG_DATA, four bytes.
const CONFIG_DATA: u16 = 0xcfc;

pub(super) struct Config<'p> {
    pub(super) platform: &'p mut dyn Platform,
    pub(super) firmware: Firmware,
    /// Whether the ports may be used: there, of segment group 0, and not found wanting by the guest.
    pub(super) ports: bool,
}

impl<'p> Config<'p> {
    pub(super) fn new(platform: &'p mut dyn Platform) -> Self {
        let firmware = platform.firmware().clone();
        let ports = firmware.ports && firmware.segment == 0;
        Self { platform, firmware, ports }
    }

    pub(super) fn read8(&mut self, bdf: Bdf, offset: u16) -> u8 {
        self.read(bdf, offset, Width::Byte).to_le_bytes()[0]
    }

    pub(super) fn read16(&mut self, bdf: Bdf, offset: u16) -> u16 {
        let [low, high, ..] = self.read(bdf, offset, Width::Word).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    pub(super) fn read32(&mut self, bdf: Bdf, offset: u16) -> u32 {
        self.read(bdf, offset, Width::Dword)
    }

    pub(super) fn write8(&mut self, bdf: Bdf, offset: u16, value: u8) {
        self.write(bdf, offset, Width::Byte, value.into());
    }

    pub(super) fn write16(&mut self, bdf: Bdf, offset: u16, value: u16) {
        self.write(bdf, offset, Width::Word, value.into());
    }

    pub(super) fn write32(&mut self, bdf: Bdf, offset: u16, value: u32) {
        self.write(bdf, offset, Width::Dword, value);
    }

    fn read(&mut self, bdf: Bdf, offset: u16, width: Width) -> u32 {
        match self.way(bdf, offset) {
            Way::Ports(address, data) => {
                self.platform.port_write(CONFIG_ADDRESS, Width::Dword, address);
                self.platform.port_read(data, width)
            }
            Way::Ecam(address) => self.platform.memory_read(address, width),
            Way::None => !0,
        }
    }

    fn write(&mut self, bdf: Bdf, offset: u16, width: Width, value: u32) {
        match self.way(bdf, offset) {
            Way::Ports(address, data) => {
                self.platform.port_write(CONFIG_ADDRESS, Width::Dword, address);
                self.platform.port_write(data, width, value);
            }
            Way::Ecam(address) => self.platform.memory_write(address, width, value),
            Way::None => {}
        }
    }

    fn way(&self, bdf: Bdf, offset: u16) -> Way {
        if offset > 0xfff {
            Way::None
        } else if self.ports && offset < 0x100 {
            let address = ENABLE | u32::from(bdf.routing_id()) << 8 | u32::from(offset & 0xfc);
            Way::Ports(address, CONFIG_DATA + (offset & 3))
        } else {
            match self.firmware.ecam.and_then(|ecam| ecam.page(Guest(bdf))) {
                Some(page) => Way::Ecam(page.0.start() + u64::from(offset)),
                None => Way::None,
            }
        }
    }
}

/// How an access travels.
enum Way {
    /// CONFIG_ADDRESS gets the value, then the data port is accessed.
    Ports(u32, u16),
    /// A load or store at the address.
    Ecam(u64),
    /// Nothing leads there: reads are all ones.
    None,
}
