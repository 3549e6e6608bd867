//! `pci_add_map`: how large the BARs are, and an address for each.

use std::format;

use super::{COMMAND, FreeBsd};
use crate::address::{Bdf, Span};
use crate::sim::guest::space::halves;
use crate::sim::guest::tree::{Device, Resource};
use crate::spec::bar::{BarKind, ROM_ENABLE};
use crate::spec::header::Command;

const BAR0: u16 = 0x10;

impl FreeBsd<'_> {
    /// `pci_add_map` for each register: `pci_read_bar`.
    pub(super) fn add_maps(&mut self, dev: usize) {
        let (bdf, header) = (self.devices[dev].bdf, self.devices[dev].header_type);
        let mut index = 0;
        while index < header.bars() {
            let offset = bar_offset(index);
            let bar = self.read_bar(bdf, offset, index);
            index += if bar.is_some_and(|bar| bar.kind.is_64_bit()) { 2 } else { 1 };
            self.devices[dev].bars.extend(bar);
        }
        if let Some(rom) = header.rom() {
            let bar = self.read_bar(bdf, rom.offset(), Resource::ROM);
            self.devices[dev].bars.extend(bar);
        }
        for bar in self.devices[dev].bars.clone() {
            let offset = if bar.bar == Resource::ROM { 0x30 } else { bar_offset(bar.bar) };
            let kind = match bar.kind {
                BarKind::Io => "I/O Port",
                kind if kind.is_prefetchable() => "Prefetchable Memory",
                _ => "Memory",
            };
            let range = if bar.kind.is_64_bit() { 64 } else { 32 };
            let base = bar.span.map_or(0, Span::start);
            self.log.push(format!(
                "\tmap[{offset:02x}]: type {kind}, range {range}, base {base:#x}, size {:2}",
                bar.size.trailing_zeros()
            ));
        }
    }

    fn read_bar(&mut self, bdf: Bdf, offset: u16, index: usize) -> Option<Resource> {
        let rom = index == Resource::ROM;
        let low = self.config.read32(bdf, offset);
        let kind = if rom { BarKind::Rom } else { BarKind::of(low) };
        let high = if kind.is_64_bit() { self.config.read32(bdf, offset + 4) } else { 0 };
        let command = self.config.read16(bdf, COMMAND);
        let enable = if kind.is_memory() { Command::MEMORY_SPACE_ENABLE } else { Command::IO_SPACE_ENABLE };
        self.config.write16(bdf, COMMAND, command & !enable.bits());
        self.config.write32(bdf, offset, if rom { !ROM_ENABLE } else { !0 });
        let mut sized = u64::from(self.config.read32(bdf, offset) & !kind.type_mask());
        if kind.is_64_bit() {
            self.config.write32(bdf, offset + 4, !0);
            sized |= u64::from(self.config.read32(bdf, offset + 4)) << 32;
        }
        self.write_bar(bdf, offset, kind, u64::from(high) << 32 | u64::from(low));
        self.config.write16(bdf, COMMAND, command);
        let size = sized & sized.wrapping_neg();
        let base = (u64::from(high) << 32 | u64::from(low)) & !u64::from(kind.type_mask());
        // A register that is still all ones was never given an address.
        let unassigned = base == 0 || base == sized;
        let span = if unassigned { None } else { Span::new(base, size) };
        (size > 0).then_some(Resource { bar: index, kind, size, span })
    }

    fn write_bar(&mut self, bdf: Bdf, offset: u16, kind: BarKind, value: u64) {
        let [low, high] = halves(value);
        self.config.write32(bdf, offset, low);
        if kind.is_64_bit() {
            self.config.write32(bdf, offset + 4, high);
        }
    }

    /// `resource_list_reserve` in `pci_add_map`: firmware's address, or any (`pci_do_realloc_bars`).
    pub(super) fn reserve_bars(&mut self, bus: usize, dev: usize, fixed: bool) {
        let Device { bdf, header_type, .. } = self.devices[dev];
        let class = self.devices[dev].class;
        for index in 0..self.devices[dev].bars.len() {
            let bar = self.devices[dev].bars[index];
            if bar.span.is_some() != fixed {
                continue;
            }
            let found = match bar.span {
                Some(span) => self.take(bus, bar.kind, span).then_some(span),
                // A ROM gets its address when a driver asks for it.
                None if bar.bar == Resource::ROM || class.is_host_bridge() => None,
                None => self.allocate(bus, bar.kind, bar.size, bar.size),
            };
            self.devices[dev].bars[index].span = found;
            let offset = match (bar.bar, header_type.rom()) {
                (Resource::ROM, Some(rom)) => rom.offset(),
                _ => bar_offset(bar.bar),
            };
            match found {
                Some(span) if bar.bar != Resource::ROM => {
                    let value = span.start() | u64::from(bar.kind.type_bits());
                    self.write_bar(bdf, offset, bar.kind, value);
                }
                None if !fixed && bar.bar != Resource::ROM => {
                    let command = self.config.read16(bdf, COMMAND);
                    let enable =
                        if bar.kind.is_memory() { Command::MEMORY_SPACE_ENABLE } else { Command::IO_SPACE_ENABLE };
                    self.config.write16(bdf, COMMAND, command & !enable.bits());
                }
                _ => {}
            }
        }
    }
}

fn bar_offset(index: usize) -> u16 {
    BAR0 + 4 * u16::try_from(index).unwrap_or_default()
}
