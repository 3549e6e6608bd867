//! Physical memory: identity mapped below 4 GiB, and through a window above.

use core::arch::asm;
use core::ptr;
use core::slice;

use x86_64::VirtAddr;
use x86_64::instructions::tlb;

const WINDOW: u64 = 4 << 30;
const LARGE_PAGE: u64 = 2 << 20;

unsafe extern "C" {
    /// The page directory behind the identity mapping (`boot.s`).
    static mut window_directory: [u64; 512];
}

/// A pointer to physical memory. The next call may move what it points to, if the address is above 4 GiB.
fn pointer(address: u64) -> *mut u8 {
    if address < WINDOW {
        return ptr::without_provenance_mut(address as usize);
    }
    let page = address & !(LARGE_PAGE - 1);
    for (index, page) in [(0, page), (1, page + LARGE_PAGE)] {
        // SAFETY: the window is used here alone, and nothing else is mapped by these two entries.
        unsafe { window_directory[index] = page | 0x83 };
        tlb::flush(VirtAddr::new(WINDOW + index as u64 * LARGE_PAGE));
    }
    ptr::without_provenance_mut((WINDOW + (address - page)) as usize)
}

/// Reads 1, 2, 4 or 8 bytes in one access, aligned or not.
pub fn read(address: u64, width: u8) -> u64 {
    let pointer = pointer(address);
    let value: u64;
    // SAFETY: all of it is mapped; memory that is not RAM is a device the caller means to read.
    unsafe {
        match width {
            1 => asm!("movzx {:e}, byte ptr [{}]", out(reg) value, in(reg) pointer, options(nostack)),
            2 => asm!("movzx {:e}, word ptr [{}]", out(reg) value, in(reg) pointer, options(nostack)),
            4 => asm!("mov {:e}, [{}]", out(reg) value, in(reg) pointer, options(nostack)),
            _ => asm!("mov {}, [{}]", out(reg) value, in(reg) pointer, options(nostack)),
        }
    }
    value
}

/// Writes 1, 2, 4 or 8 bytes in one access, aligned or not.
///
/// # Safety
/// The address is a device's, or RAM that is not the hypervisor's own.
pub unsafe fn write(address: u64, width: u8, value: u64) {
    let pointer = pointer(address);
    // SAFETY: all of it is mapped, and what the write does is the caller's.
    unsafe {
        match width {
            1 => asm!("mov [{}], {}", in(reg) pointer, in(reg_byte) value as u8, options(nostack)),
            2 => asm!("mov [{}], {:x}", in(reg) pointer, in(reg) value, options(nostack)),
            4 => asm!("mov [{}], {:e}", in(reg) pointer, in(reg) value, options(nostack)),
            _ => asm!("mov [{}], {}", in(reg) pointer, in(reg) value, options(nostack)),
        }
    }
}

/// Bytes below 4 GiB that nobody changes: what firmware and the boot loader left.
pub fn bytes(address: u64, len: u64) -> &'static [u8] {
    assert!(address != 0 && address.saturating_add(len) <= WINDOW, "{address:#x} is out of reach");
    // SAFETY: identity mapped, and left alone by all while it is looked at.
    unsafe { slice::from_raw_parts(ptr::without_provenance(address as usize), len as usize) }
}

/// Bytes below 4 GiB that are about to become the guest's.
///
/// # Safety
/// They are RAM, and nobody else has a reference to them.
pub unsafe fn bytes_mut(address: u64, len: u64) -> &'static mut [u8] {
    assert!(address != 0 && address.saturating_add(len) <= WINDOW, "{address:#x} is out of reach");
    // SAFETY: identity mapped; the rest is the caller's.
    unsafe { slice::from_raw_parts_mut(ptr::without_provenance_mut(address as usize), len as usize) }
}

/// Moves memory below 4 GiB; the two may overlap.
///
/// # Safety
/// The destination is RAM that nobody has a reference to.
pub unsafe fn copy(from: u64, to: u64, len: u64) {
    let (from, to) = (pointer(from).cast_const(), pointer(to));
    // SAFETY: both are identity mapped.
    unsafe { ptr::copy(from, to, len as usize) }
}
