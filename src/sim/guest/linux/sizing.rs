//! `pci_read_bases`: how large the BARs are and where they point.

use std::format;
use std::vec::Vec;

use super::resource::{self, Flags, Resource};
use super::{Linux, Release};
use crate::spec::bar::{BarKind, ROM_ENABLE};
use crate::spec::header::Command;

const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
/// `PCI_ROM_ADDRESS_MASK`.
const ROM_MASK: u32 = 0xffff_f800;
const DECODE: u16 = Command::IO_SPACE_ENABLE.bits() | Command::MEMORY_SPACE_ENABLE.bits();

/// A register and what it read back when all its bits were written.
#[derive(Clone, Copy)]
struct Sized {
    value: u32,
    mask: u32,
}

impl Linux<'_> {
    pub(super) fn read_bases(&mut self, dev: usize) {
        let header = self.devices[dev].header;
        let rom = header.rom().map(crate::access::Dword::offset);
        match self.release {
            Release::V6_1 => self.read_bases_one_by_one(dev, header.bars(), rom),
            Release::V6_15 => self.read_bases_in_a_batch(dev, header.bars(), rom),
        }
    }

    /// Until 6.14: `__pci_read_base` disables decoding for each.
    fn read_bases_one_by_one(&mut self, dev: usize, count: usize, rom: Option<u16>) {
        let mut index = 0;
        while index < count {
            index += 1 + usize::from(self.read_base(dev, index, bar_offset(index)));
        }
        if let Some(offset) = rom {
            let command = self.disable_decode(dev);
            let sized = self.size_register(dev, offset, ROM_MASK);
            self.restore_decode(dev, command);
            self.decode_rom(dev, offset, sized);
        }
    }

    /// `__pci_read_base` of 6.1. Returns whether the next register is the upper half.
    pub(super) fn read_base(&mut self, dev: usize, index: usize, offset: u16) -> bool {
        let command = self.disable_decode(dev);
        let low = self.size_register(dev, offset, !0);
        let wide = bar_flags(low.value).contains(Flags::MEM_64);
        let high = if wide { Some(self.size_register(dev, offset + 4, !0)) } else { None };
        self.restore_decode(dev, command);
        self.decode_bar(dev, index, offset, low, high)
    }

    /// From 6.15 on: `__pci_size_stdbars` and `__pci_size_rom` with decoding disabled once, then `__pci_read_base`.
    fn read_bases_in_a_batch(&mut self, dev: usize, count: usize, rom: Option<u16>) {
        let command = self.disable_decode(dev);
        let masks = self.size_batch(dev, BAR0, count);
        let rom = rom.map(|offset| (offset, self.size_exactly(dev, offset, ROM_MASK)));
        self.restore_decode(dev, command);
        let mut index = 0;
        while index < count {
            index += 1 + usize::from(self.read_sized_base(dev, index, bar_offset(index), &masks[index..]));
        }
        if let Some((offset, mask)) = rom {
            let sized = Sized { value: self.read32(dev, offset), mask };
            self.decode_rom(dev, offset, sized);
        }
    }

    /// `__pci_size_bars`: what `count` registers read back, each by itself, whatever they are halves of.
    pub(super) fn size_batch(&mut self, dev: usize, first: u16, count: usize) -> Vec<u32> {
        (first..).step_by(4).take(count).map(|offset| self.size_exactly(dev, offset, !0)).collect()
    }

    /// `__pci_read_base` of 6.15, which only reads. Returns whether the next register is the upper half.
    pub(super) fn read_sized_base(&mut self, dev: usize, index: usize, offset: u16, masks: &[u32]) -> bool {
        let [mask, rest @ ..] = masks else { return false };
        let low = Sized { value: self.read32(dev, offset), mask: *mask };
        let wide = bar_flags(low.value).contains(Flags::MEM_64);
        // The upper half of the last register would be beyond the BARs; nothing was sized there.
        let high =
            wide.then(|| Sized { value: self.read32(dev, offset + 4), mask: rest.first().copied().unwrap_or(0) });
        self.decode_bar(dev, index, offset, low, high)
    }

    fn disable_decode(&mut self, dev: usize) -> u16 {
        let command = self.read16(dev, COMMAND);
        if command & DECODE != 0 {
            self.write16(dev, COMMAND, command & !DECODE);
        }
        command
    }

    fn restore_decode(&mut self, dev: usize, command: u16) {
        if command & DECODE != 0 {
            self.write16(dev, COMMAND, command);
        }
    }

    /// Writes what was there and all bits of the mask.
    fn size_register(&mut self, dev: usize, offset: u16, mask: u32) -> Sized {
        let value = self.read32(dev, offset);
        self.write32(dev, offset, value | mask);
        let sized = Sized { value, mask: self.read32(dev, offset) };
        self.write32(dev, offset, value);
        sized
    }

    /// Writes the mask and nothing else.
    fn size_exactly(&mut self, dev: usize, offset: u16, mask: u32) -> u32 {
        let value = self.read32(dev, offset);
        self.write32(dev, offset, mask);
        let sized = self.read32(dev, offset);
        self.write32(dev, offset, value);
        sized
    }

    fn decode_bar(&mut self, dev: usize, index: usize, offset: u16, low: Sized, high: Option<Sized>) -> bool {
        let Sized { value, mask } = low.without_garbage();
        let flags = bar_flags(value);
        let usable = if flags.contains(Flags::IO) { 0xfffc } else { !0xf_u32 };
        let type_mask = if flags.contains(Flags::IO) { !3 } else { !0xf };
        let (mut base, mut sized, mut usable) =
            (u64::from(value & type_mask), u64::from(mask & type_mask), u64::from(usable));
        // A BAR that reads as all ones is taken for 32 bits wide.
        if let Some(high) = high.filter(|_| flags.contains(Flags::MEM_64)) {
            base |= u64::from(high.value) << 32;
            sized |= u64::from(high.mask) << 32;
            usable |= u64::from(u32::MAX) << 32;
        }
        self.keep_base(dev, index, offset, flags, (base, sized, usable))
    }

    fn decode_rom(&mut self, dev: usize, offset: u16, sized: Sized) {
        let Sized { value, mask } = sized.without_garbage();
        let mut flags = Flags::MEM | Flags::PREFETCH;
        flags.set(Flags::ROM_ENABLE, value & ROM_ENABLE != 0);
        let usable = u64::from(ROM_MASK);
        self.keep_base(dev, resource::ROM, offset, flags, (value.into(), u64::from(mask) & usable, usable));
    }

    /// The end of `__pci_read_base`.
    fn keep_base(
        &mut self,
        dev: usize,
        index: usize,
        offset: u16,
        flags: Flags,
        (base, sized, usable): (u64, u64, u64),
    ) -> bool {
        if sized == 0 {
            return false;
        }
        let base = base & usable;
        let name = match self.release {
            Release::V6_1 => format!("reg {offset:#x}:"),
            Release::V6_15 => self.resource_name(index),
        };
        let Some(size) = size_of(base, sized, usable) else {
            let colon = if self.release == Release::V6_1 { "" } else { ":" };
            self.info(dev, format_args!("[Firmware Bug]: {name}{colon} invalid BAR (can't size)"));
            return false;
        };
        let resource = Resource { flags, start: base, size, ..Resource::default() };
        self.devices[dev].resources[index] = resource;
        self.info(dev, format_args!("{name} {resource}"));
        flags.contains(Flags::MEM_64)
    }
}

impl Sized {
    /// All ones are no size and no address.
    fn without_garbage(self) -> Self {
        let unless_ones = |bits: u32| if bits == !0 { 0 } else { bits };
        Self { value: unless_ones(self.value), mask: unless_ones(self.mask) }
    }
}

/// `decode_bar`; all ones count as zero.
fn bar_flags(value: u32) -> Flags {
    Flags::from(BarKind::of(if value == !0 { 0 } else { value }))
}

/// `pci_size`: the lowest bit that can be set.
fn size_of(base: u64, sized: u64, usable: u64) -> Option<u64> {
    let significant = usable & sized;
    let size = significant & significant.wrapping_neg();
    if size == 0 || (base == sized && (base | (size - 1)) & usable != usable) { None } else { Some(size) }
}

fn bar_offset(index: usize) -> u16 {
    BAR0 + 4 * u16::try_from(index).unwrap_or_default()
}
