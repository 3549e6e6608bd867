//! Configuration space as software sees it: ports CF8h and CFCh, and the ECAM window.

use crate::processor::{port_read_32, port_write_32};

const ID: u32 = 0x00;
const COMMAND: u32 = 0x04;
const HEADER_TYPE: u32 = 0x0c;
const BAR0: u32 = 0x10;
const CAPABILITIES: u32 = 0x34;
const MEMORY_SPACE_ENABLE: u32 = 2;
const BUS_MASTER_ENABLE: u32 = 1 << 2;
/// Capability ID of MSI.
pub const MSI: u32 = 5;
const MSI_X: u32 = 0x11;
const MSIX_ENABLE: u32 = 1 << 31;

/// A function, by its Routing ID.
#[derive(Clone, Copy, PartialEq)]
pub struct Function(pub u16);

/// A Base Address Register.
#[derive(Clone, Copy)]
pub struct Bar {
    pub number: u32,
    low: u32,
    pub address: u64,
    pub size: u64,
}

impl Bar {
    pub fn is_memory(&self) -> bool {
        self.low & 1 == 0
    }

    fn is_64_bit(&self) -> bool {
        self.low & 7 == 4
    }
}

/// The functions there are.
pub struct Found {
    functions: [Function; 64],
    count: usize,
    /// How many devices the ECAM window has that the ports do not.
    pub strangers: u32,
}

impl Found {
    /// Looks for function 0 of every device of every bus, and for the others where it says that there are some.
    pub fn scan(ecam: usize) -> Self {
        let mut found = Self { functions: [Function(0); 64], count: 0, strangers: 0 };
        let mut others = false;
        for function in (0..=0xffff_u16).map(Function) {
            let first = function.0 & 7 == 0;
            if !first && !others {
                continue;
            }
            let present = function.read(ID) != !0;
            if first {
                others = present && function.read(HEADER_TYPE) & 0x80_0000 != 0;
            }
            if present {
                found.functions[found.count] = function;
                found.count += 1;
            } else if function.read_ecam(ecam, ID) != !0 {
                found.strangers += 1;
            }
        }
        found
    }

    pub fn functions(&self) -> &[Function] {
        &self.functions[..self.count]
    }
}

impl Function {
    pub fn read(self, offset: u32) -> u32 {
        self.select(offset);
        port_read_32(0xcfc)
    }

    pub fn write(self, offset: u32, value: u32) {
        self.select(offset);
        port_write_32(0xcfc, value);
    }

    pub fn read_ecam(self, window: usize, offset: u32) -> u32 {
        let address = window + (usize::from(self.0) << 12) + offset as usize;
        // SAFETY: the VMM says where the window is.
        unsafe { (address as *const u32).read_volatile() }
    }

    fn select(self, offset: u32) {
        port_write_32(0xcf8, 1 << 31 | u32::from(self.0) << 8 | offset & 0xfc);
    }

    pub fn bus(self) -> u32 {
        u32::from(self.0) >> 8
    }

    fn is_bridge(self) -> bool {
        self.read(HEADER_TYPE) >> 16 & 0x7f == 1
    }

    /// The windows of a bridge, memory and prefetchable, both ends included, and the bus behind it.
    pub fn bridge(self) -> Option<(u32, [(u64, u64); 2])> {
        let window = |offset| {
            let value = self.read(offset);
            (u64::from(value & 0xfff0) << 16, u64::from(value & 0xfff0_0000) | 0xf_ffff)
        };
        let upper = |offset| u64::from(self.read(offset)) << 32;
        let (base, limit) = window(0x24);
        self.is_bridge()
            .then(|| (self.read(0x18) >> 8 & 0xff, [window(0x20), (base | upper(0x28), limit | upper(0x2c))]))
    }

    /// Whether firmware has placed none of its memory BARs.
    pub fn wants_places(self) -> bool {
        if self.is_bridge() || self.read(COMMAND) & MEMORY_SPACE_ENABLE != 0 {
            return false;
        }
        let bars = self.bars();
        let mut memory = bars.iter().flatten().filter(|bar| bar.is_memory()).peekable();
        memory.peek().is_some() && memory.all(|bar| bar.address == 0)
    }

    /// Sizes the BARs (7.5.1.2.1), with decoding off.
    pub fn bars(self) -> [Option<Bar>; 6] {
        let command = self.read(COMMAND) & 0xffff;
        self.write(COMMAND, command & !3);
        let mut bars = [None; 6];
        let count = if self.is_bridge() { 2 } else { 6 };
        let mut number = 0;
        while number < count {
            let low = self.read(BAR0 + 4 * number);
            let mut bar = Bar { number, low, address: 0, size: 0 };
            let flags = if bar.is_memory() { 0xf } else { 3 };
            bar.address = u64::from(low & !flags);
            let mut mask = u64::from(self.probe(number) & !flags) | !0 << 32;
            if bar.is_64_bit() {
                bar.address |= u64::from(self.read(BAR0 + 4 * number + 4)) << 32;
                mask = mask & 0xffff_ffff | u64::from(self.probe(number + 1)) << 32;
            }
            bar.size = mask & mask.wrapping_neg();
            // No address bit in the lower half of a 32-bit BAR: there is none.
            if mask << 32 != 0 || bar.is_64_bit() && mask != 0 {
                bars[number as usize] = Some(bar);
            }
            number += if bar.is_64_bit() { 2 } else { 1 };
        }
        self.write(COMMAND, command);
        bars
    }

    fn probe(self, number: u32) -> u32 {
        let offset = BAR0 + 4 * number;
        let before = self.read(offset);
        self.write(offset, !0);
        let mask = self.read(offset);
        self.write(offset, before);
        mask
    }

    pub fn place(self, bar: &mut Bar, address: u64) {
        self.write(BAR0 + 4 * bar.number, address as u32);
        if bar.is_64_bit() {
            self.write(BAR0 + 4 * bar.number + 4, (address >> 32) as u32);
        }
        bar.address = address;
    }

    /// Moves a BAR as Linux does: decoding off, both halves, decoding on.
    pub fn move_bar(self, bar: &mut Bar, address: u64) {
        let command = self.read(COMMAND) & 0xffff;
        self.write(COMMAND, command & !MEMORY_SPACE_ENABLE);
        self.place(bar, address);
        self.write(COMMAND, command);
    }

    /// Lets its memory be used, and lets it send messages.
    pub fn enable(self) {
        self.write(COMMAND, self.read(COMMAND) & 0xffff | MEMORY_SPACE_ENABLE | BUS_MASTER_ENABLE);
    }

    /// Where a capability is.
    pub fn capability(self, id: u32) -> Option<u32> {
        let mut at = self.read(CAPABILITIES) & 0xfc;
        for _ in 0..48 {
            let entry = if at == 0 { return None } else { self.read(at) };
            if entry & 0xff == id {
                return Some(at);
            }
            at = entry >> 8 & 0xfc;
        }
        None
    }

    /// Message Control, Address and Data (7.7.1). MSI-X, which whoever was there before may have left on, goes off.
    pub fn enable_msi(self, at: u32, address: u32, data: u32) {
        if let Some(msix) = self.capability(MSI_X) {
            self.write(msix, self.read(msix) & !MSIX_ENABLE);
        }
        let control = self.read(at);
        let is_64_bit = control & 0x80_0000 != 0;
        self.write(at + 4, address);
        if is_64_bit {
            self.write(at + 8, 0);
        }
        self.write(at + if is_64_bit { 12 } else { 8 }, data);
        self.write(at, control | 1 << 16);
    }
}
