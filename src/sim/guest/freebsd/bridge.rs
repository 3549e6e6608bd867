//! `pcib_attach`: the bus numbers and the windows of a bridge.

use std::format;
use std::vec::Vec;

use super::{Bus, FreeBsd, Pool};
use crate::address::{Bdf, Span};
use crate::spec::bar::BarKind;

impl FreeBsd<'_> {
    /// `pcib_attach`: bus numbers and windows. Returns the bus below.
    pub(super) fn attach_bridge(&mut self, bus: usize, dev: usize) -> Option<usize> {
        let bdf = self.devices[dev].bdf;
        let (mut secondary, mut subordinate) = (self.config.read8(bdf, 0x19), self.config.read8(bdf, 0x1a));
        let Bus { number, last, next, .. } = self.buses[bus];
        let free = |buses: &[Bus], number: u8| !buses.iter().any(|bus| bus.number == number);
        let valid = secondary > number && secondary <= subordinate && subordinate <= last;
        if !(valid && free(&self.buses, secondary)) {
            // pcib_alloc_subbus
            let fresh = (next.max(number)..=last).skip(1).find(|number| free(&self.buses, *number))?;
            self.log.push(format!("pcib {bdf}: allocated initial secbus range {fresh}-{fresh}"));
            (secondary, subordinate) = (fresh, fresh);
            self.config.write8(bdf, 0x18, number);
            self.config.write8(bdf, 0x19, secondary);
            self.config.write8(bdf, 0x1a, subordinate);
        }
        self.buses[bus].next = next.max(subordinate);
        self.devices[dev].bus_range = Some(secondary..=subordinate);
        let pools = self.probe_windows(bus, bdf);
        let child = Bus {
            number: secondary,
            last: subordinate,
            bridge: Some(dev),
            parent: Some(bus),
            pools,
            functions: 8,
            next: secondary,
        };
        self.buses.push(child);
        Some(self.buses.len() - 1)
    }

    /// `pcib_probe_windows`: what firmware opened, if the bus above forwards it.
    fn probe_windows(&mut self, bus: usize, bdf: Bdf) -> Vec<Pool> {
        let mut windows = Vec::new();
        let config = &mut self.config;
        let mut io = config.read8(bdf, 0x1c);
        if io == 0 {
            config.write8(bdf, 0x1c, 0xff);
            io = config.read8(bdf, 0x1c);
            config.write8(bdf, 0x1c, 0);
        }
        if io != 0 {
            let (mut base, mut limit) =
                (u64::from(config.read8(bdf, 0x1c) & 0xf0) << 8, u64::from(config.read8(bdf, 0x1d) & 0xf0) << 8);
            if io & 0xf == 1 {
                base |= u64::from(config.read16(bdf, 0x30)) << 16;
                limit |= u64::from(config.read16(bdf, 0x32)) << 16;
            }
            windows.push((BarKind::Io, base, limit | 0xfff));
        }
        let memory = |value: u16| u64::from(value & 0xfff0) << 16;
        let (base, limit) = (memory(config.read16(bdf, 0x20)), memory(config.read16(bdf, 0x22)));
        windows.push((BarKind::Memory32 { prefetchable: false }, base, limit | 0xf_ffff));
        let mut pref = config.read16(bdf, 0x24);
        if pref == 0 {
            config.write16(bdf, 0x24, 0xffff);
            pref = config.read16(bdf, 0x24);
            config.write16(bdf, 0x24, 0);
        }
        if pref != 0 {
            let (mut base, mut limit) = (memory(config.read16(bdf, 0x24)), memory(config.read16(bdf, 0x26)));
            let wide = pref & 0xf == 1;
            if wide {
                base |= u64::from(config.read32(bdf, 0x28)) << 32;
                limit |= u64::from(config.read32(bdf, 0x2c)) << 32;
            }
            let kind =
                if wide { BarKind::Memory64 { prefetchable: true } } else { BarKind::Memory32 { prefetchable: true } };
            windows.push((kind, base, limit | 0xf_ffff));
        }
        let open = |(kind, base, limit): (BarKind, u64, u64)| {
            let span = if base == 0 { None } else { Span::from_bounds(base, limit) };
            let span = span.filter(|span| self.take(bus, kind, *span));
            Pool { kind, span, taken: Vec::new() }
        };
        windows.into_iter().map(open).collect()
    }
}
