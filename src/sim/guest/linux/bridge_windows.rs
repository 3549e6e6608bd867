//! The windows of a bridge: which it has (`pci_read_bridge_windows`) and where they are (`pci_read_bridge_bases`).

use std::format;

use super::resource::{Flags, IO_WINDOW, MEM_WINDOW, PREF_WINDOW, Resource};
use super::{Linux, Release};
use crate::address::Span;

const IO_BASE: u16 = 0x1c;
const MEMORY_BASE: u16 = 0x20;
const PREFETCHABLE_BASE: u16 = 0x24;
const PREFETCHABLE_BASE_UPPER: u16 = 0x28;
const PREFETCHABLE_LIMIT_UPPER: u16 = 0x2c;
const IO_BASE_UPPER: u16 = 0x30;

impl Linux<'_> {
    /// Finds out which windows the bridge has: a register that cannot be written is none.
    pub(super) fn read_bridge_windows(&mut self, dev: usize) {
        let talkative = self.release == Release::V6_15;
        if talkative {
            let [_, secondary, subordinate, _] = self.read32(dev, 0x18).to_le_bytes();
            let suffix = self.subtractive(dev);
            let range = if secondary == subordinate {
                format!("[bus {secondary:02x}]")
            } else {
                format!("[bus {secondary:02x}-{subordinate:02x}]")
            };
            self.info(dev, format_args!("PCI bridge to {range}{suffix}"));
        }
        if self.has_io_window(dev) {
            self.devices[dev].implemented.insert(Flags::IO);
            if talkative {
                let window = self.read_bridge_io(dev);
                self.log_window(dev, window);
            }
        }
        if talkative {
            let window = self.read_bridge_mmio(dev);
            self.log_window(dev, window);
        }
        self.find_prefetchable_window(dev);
        if talkative && self.devices[dev].implemented.contains(Flags::PREFETCH) {
            let window = self.read_bridge_mmio_pref(dev);
            self.log_window(dev, window);
        }
    }

    fn has_io_window(&mut self, dev: usize) -> bool {
        let mut io = self.read16(dev, IO_BASE);
        if io == 0 {
            self.write16(dev, IO_BASE, 0xe0f0);
            io = self.read16(dev, IO_BASE);
            self.write16(dev, IO_BASE, 0);
        }
        io != 0
    }

    fn find_prefetchable_window(&mut self, dev: usize) {
        let mut window = self.read32(dev, PREFETCHABLE_BASE);
        if window == 0 {
            self.write32(dev, PREFETCHABLE_BASE, 0xffe0_fff0);
            window = self.read32(dev, PREFETCHABLE_BASE);
            self.write32(dev, PREFETCHABLE_BASE, 0);
        }
        if window == 0 {
            return;
        }
        self.devices[dev].implemented.insert(Flags::PREFETCH);
        if window & 0xf == 1 {
            let upper = self.read32(dev, PREFETCHABLE_BASE_UPPER);
            self.write32(dev, PREFETCHABLE_BASE_UPPER, !0);
            let writable = self.read32(dev, PREFETCHABLE_BASE_UPPER);
            self.write32(dev, PREFETCHABLE_BASE_UPPER, upper);
            self.devices[dev].implemented.set(Flags::MEM_64, writable != 0);
        }
    }

    /// `pci_read_bridge_bases`, called by `pcibios_fixup_bus` after the slots of the bus were scanned.
    pub(super) fn read_bridge_bases(&mut self, bus: usize) {
        let Some(dev) = self.buses[bus].bridge else { return };
        let talkative = self.release == Release::V6_1;
        if talkative {
            let (range, suffix) = (self.bus_range(bus), self.subtractive(dev));
            self.info(dev, format_args!("PCI bridge to {range}{suffix}"));
        }
        for (index, read) in [
            (IO_WINDOW, Self::read_bridge_io as fn(&mut Self, usize) -> Option<Resource>),
            (MEM_WINDOW, Self::read_bridge_mmio),
            (PREF_WINDOW, Self::read_bridge_mmio_pref),
        ] {
            let window = read(self, dev);
            self.devices[dev].resources[index] = window.unwrap_or_default();
            if talkative {
                self.log_window(dev, window);
            }
        }
        if self.devices[dev].transparent {
            let above = self.buses[bus].parent.map(|parent| self.bus_resources(parent)).unwrap_or_default();
            for (_, window) in above {
                self.info(dev, format_args!("  bridge window {window} (subtractive decode)"));
            }
        }
    }

    fn read_bridge_io(&mut self, dev: usize) -> Option<Resource> {
        let bdf = self.devices[dev].bdf;
        let (low_base, low_limit) = (self.config.read8(bdf, IO_BASE), self.config.read8(bdf, IO_BASE + 1));
        let mut base = u64::from(low_base & 0xf0) << 8;
        let mut limit = u64::from(low_limit & 0xf0) << 8;
        if low_base & 0xf == 1 {
            base |= u64::from(self.read16(dev, IO_BASE_UPPER)) << 16;
            limit |= u64::from(self.read16(dev, IO_BASE_UPPER + 2)) << 16;
        }
        window(Flags::IO, base, limit | 0xfff)
    }

    fn read_bridge_mmio(&mut self, dev: usize) -> Option<Resource> {
        let base = u64::from(self.read16(dev, MEMORY_BASE) & 0xfff0) << 16;
        let limit = u64::from(self.read16(dev, MEMORY_BASE + 2) & 0xfff0) << 16;
        window(Flags::MEM, base, limit | 0xf_ffff)
    }

    fn read_bridge_mmio_pref(&mut self, dev: usize) -> Option<Resource> {
        let low_base = self.read16(dev, PREFETCHABLE_BASE);
        let low_limit = self.read16(dev, PREFETCHABLE_BASE + 2);
        let mut base = u64::from(low_base & 0xfff0) << 16;
        let mut limit = u64::from(low_limit & 0xfff0) << 16;
        let mut flags = Flags::MEM | Flags::PREFETCH;
        if low_base & 0xf == 1 {
            let upper_base = self.read32(dev, PREFETCHABLE_BASE_UPPER);
            let upper_limit = self.read32(dev, PREFETCHABLE_LIMIT_UPPER);
            // Some firmware leaves the upper halves of a closed window uninitialized.
            if upper_base <= upper_limit {
                base |= u64::from(upper_base) << 32;
                limit |= u64::from(upper_limit) << 32;
            }
            flags.insert(Flags::MEM_64);
        }
        window(flags, base, limit | 0xf_ffff)
    }

    fn log_window(&mut self, dev: usize, window: Option<Resource>) {
        if let Some(window) = window {
            self.info(dev, format_args!("  bridge window {window}"));
        }
    }

    fn subtractive(&self, dev: usize) -> &'static str {
        if self.devices[dev].transparent { " (subtractive decode)" } else { "" }
    }

    /// `pci_bridge_check_ranges`: windows that are there but closed may be opened.
    pub(super) fn check_ranges(&mut self, dev: usize) {
        let device = &mut self.devices[dev];
        let implemented = device.implemented;
        let mut offer = |index: usize, flags: Flags| {
            let window = &mut device.resources[index];
            if !window.exists() {
                *window = Resource { flags: flags | Flags::UNSET, ..Resource::default() };
            }
        };
        offer(MEM_WINDOW, Flags::MEM);
        if implemented.contains(Flags::IO) {
            offer(IO_WINDOW, Flags::IO);
        }
        if implemented.contains(Flags::PREFETCH) {
            offer(PREF_WINDOW, Flags::MEM | implemented & (Flags::PREFETCH | Flags::MEM_64));
        }
    }
}

/// From base to limit; none when closed.
fn window(flags: Flags, base: u64, last: u64) -> Option<Resource> {
    Span::from_bounds(base, last).map(|span| Resource::of_span(flags, span))
}
