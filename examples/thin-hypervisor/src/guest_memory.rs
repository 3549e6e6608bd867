//! Where a linear address of the guest is: a walk through its page tables, in 64-bit mode (AMD64 Architecture
//! Programmer's Manual, volume 2, 5.3).

use crate::physical;
use crate::processor::{CR4_LA57, Paging};

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The guest's physical address; `None` when the page is not there.
pub fn translate(paging: Paging, linear: u64) -> Option<u64> {
    let levels = if paging.cr4 & CR4_LA57 != 0 { 5 } else { 4 };
    let mut table = paging.cr3 & ADDRESS;
    for level in (1..=levels).rev() {
        let shift = 3 + 9 * level;
        // The guest's memory is where it thinks it is.
        let entry = physical::read(table + (linear >> shift & 0x1ff) * 8, 8);
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 1 || entry & LARGE != 0 && level <= 3 {
            let offset = (1 << shift) - 1;
            return Some(entry & ADDRESS & !offset | linear & offset);
        }
        table = entry & ADDRESS;
    }
    None
}

/// As many bytes from a linear address on as there are; at most 15, the longest instruction.
pub fn fetch(paging: Paging, linear: u64) -> heapless::Vec<u8, 15> {
    let byte = |offset| Some(physical::read(translate(paging, linear.wrapping_add(offset))?, 1) as u8);
    (0..15).map_while(byte).collect()
}
