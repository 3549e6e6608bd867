//! Exceptions of the hypervisor itself: said, with registers, instead of a silent reset.

use core::arch::global_asm;
use core::ptr;

use x86_64::VirtAddr;
use x86_64::instructions::tables;
use x86_64::registers::control::Cr2;
use x86_64::structures::DescriptorTablePointer;

global_asm!(include_str!("exceptions.s"));

unsafe extern "C" {
    static exception_entries: [u128; 32];
}

static mut TABLE: [u128; 32] = [0; 32];

/// What the entries push.
#[repr(C)]
struct Frame {
    /// RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8 to R15.
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
}

pub fn start() {
    let entries = (&raw const exception_entries).addr() as u64;
    // SAFETY: nothing else uses the table before the processor does.
    let table = unsafe { &mut *ptr::addr_of_mut!(TABLE) };
    for (gate, vector) in table.iter_mut().zip(0..) {
        let entry = u128::from(entries + 16 * vector);
        // Code segment 8, present, interrupt gate.
        *gate = entry & 0xffff | 8 << 16 | 0x8e00 << 32 | (entry >> 16 & 0xffff) << 48 | entry >> 32 << 64;
    }
    let base = VirtAddr::from_ptr(&raw const TABLE);
    // SAFETY: the table is complete, and there for ever.
    unsafe { tables::lidt(&DescriptorTablePointer { limit: 32 * 16 - 1, base }) }
}

#[unsafe(no_mangle)]
extern "sysv64" fn exception_report(frame: &Frame) -> ! {
    let Frame { registers, vector, error, rip, cs, rflags, rsp } = frame;
    panic!(
        "exception {vector}, error {error:#x}, at {cs:#x}:{rip:#x}, RFLAGS {rflags:#x}, RSP {rsp:#x}, CR2 {:#x}, registers {registers:x?}",
        Cr2::read_raw()
    );
}
