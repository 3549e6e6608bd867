//! `pci_setup_bridge`: programs the windows of a bridge, closing them on the way.

use super::Linux;
use super::resource::{Flags, IO_WINDOW, MEM_WINDOW, PREF_WINDOW};
use crate::address::Span;
use crate::sim::guest::space::halves;

const IO_BASE: u16 = 0x1c;
const MEMORY_BASE: u16 = 0x20;
const PREFETCHABLE_BASE: u16 = 0x24;
const PREFETCHABLE_BASE_UPPER: u16 = 0x28;
const PREFETCHABLE_LIMIT_UPPER: u16 = 0x2c;
const IO_UPPER: u16 = 0x30;
const BRIDGE_CONTROL: u16 = 0x3e;
/// A memory window with its limit below its base.
const CLOSED: u32 = 0x0000_fff0;

impl Linux<'_> {
    pub(super) fn setup_bridge(&mut self, bus: usize) {
        let Some(bridge) = self.buses[bus].bridge else { return };
        let range = self.bus_range(bus);
        self.info(bridge, format_args!("PCI bridge to {range}"));
        self.setup_bridge_io(bridge);
        self.setup_bridge_mmio(bridge);
        self.setup_bridge_mmio_pref(bridge);
        let control = self.buses[bus].bridge_control;
        self.write16(bridge, BRIDGE_CONTROL, control);
    }

    pub(super) fn setup_bridge_io(&mut self, bridge: usize) {
        let (low, upper) = match self.open_window(bridge, IO_WINDOW) {
            Some((span, _)) => {
                let _kept = self.read16(bridge, IO_BASE);
                let ([base, _], [limit, _]) = (halves(span.start()), halves(span.last()));
                let low = u16::from_le_bytes([base.to_le_bytes()[1] & 0xf0, limit.to_le_bytes()[1] & 0xf0]);
                (low, limit & 0xffff_0000 | base >> 16)
            }
            None => (0x00f0, 0),
        };
        // Disabled while the halves disagree.
        self.write32(bridge, IO_UPPER, 0x0000_ffff);
        self.write16(bridge, IO_BASE, low);
        self.write32(bridge, IO_UPPER, upper);
    }

    pub(super) fn setup_bridge_mmio(&mut self, bridge: usize) {
        let window = self.open_window(bridge, MEM_WINDOW).map_or(CLOSED, |(span, _)| base_and_limit(span));
        self.write32(bridge, MEMORY_BASE, window);
    }

    pub(super) fn setup_bridge_mmio_pref(&mut self, bridge: usize) {
        // Disabled while the halves disagree.
        self.write32(bridge, PREFETCHABLE_LIMIT_UPPER, 0);
        let (window, base, limit) = match self.open_window(bridge, PREF_WINDOW) {
            Some((span, true)) => (base_and_limit(span), halves(span.start())[1], halves(span.last())[1]),
            Some((span, false)) => (base_and_limit(span), 0, 0),
            None => (CLOSED, 0, 0),
        };
        self.write32(bridge, PREFETCHABLE_BASE, window);
        self.write32(bridge, PREFETCHABLE_BASE_UPPER, base);
        self.write32(bridge, PREFETCHABLE_LIMIT_UPPER, limit);
    }

    /// The window and whether it has 64 address bits; none when closed.
    fn open_window(&mut self, bridge: usize, index: usize) -> Option<(Span, bool)> {
        let window = self.devices[bridge].resources[index];
        let span = window.span()?;
        self.info(bridge, format_args!("  bridge window {window}"));
        Some((span, window.flags.contains(Flags::MEM_64)))
    }
}

/// Memory Base (15:0) and Memory Limit (31:16).
fn base_and_limit(span: Span) -> u32 {
    let ([base, _], [limit, _]) = (halves(span.start()), halves(span.last()));
    base >> 16 & 0xfff0 | limit & 0xfff0_0000
}
