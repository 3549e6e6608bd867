//! The bare processor: entry, ports, and one interrupt.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The vector of the MSI.
pub const VECTOR: u32 = 0x40;
/// Sends to the only processor.
pub const MESSAGE_ADDRESS: u32 = 0xfee0_0000;
/// The local APIC.
const APIC: usize = 0xfee0_0000;
const END_OF_INTERRUPT: usize = 0xb0;
const SPURIOUS: usize = 0xf0;

static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// Gates of the interrupt descriptor table, two quadwords each.
static GATES: [AtomicU64; 2 * 256] = [const { AtomicU64::new(0) }; 2 * 256];

// The VMM starts in 64-bit mode, with a stack, and with the parameters' address in RSI.
global_asm!(
    ".section .text.start, \"ax\"",
    ".global start",
    "start: mov rdi, rsi",
    "call run",
    ".text",
    "interrupt: push rax",
    "lock inc dword ptr [{interrupts}]",
    "mov eax, {end}",
    "mov dword ptr [rax], 0",
    "pop rax",
    "iretq",
    interrupts = sym INTERRUPTS,
    end = const APIC + END_OF_INTERRUPT,
);

// What compiled Rust takes for granted.
global_asm!(
    ".global memcpy, memset, memmove, memcmp, bcmp, rust_eh_personality, _Unwind_Resume",
    "memcpy: mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    "memset: mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    // Nothing here calls these.
    "memmove: memcmp: bcmp: rust_eh_personality: _Unwind_Resume: ud2",
);

unsafe extern "C" {
    #[link_name = "interrupt"]
    fn handler();
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Exit status 3.
    port_write_8(0xf4, 3);
    halt()
}

pub fn halt() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Points the vector of the MSI to a handler that counts.
pub fn take_interrupts() {
    let handler = handler as *const () as u64;
    // Selector 10h is the VMM's code segment; 8Eh is a present interrupt gate.
    let low = handler & 0xffff | 0x10 << 16 | 0x8e00 << 32 | (handler & 0xffff_0000) << 32;
    GATES[2 * VECTOR as usize].store(low, Ordering::Relaxed);
    GATES[2 * VECTOR as usize + 1].store(handler >> 32, Ordering::Relaxed);
    let base = GATES.as_ptr() as u64;
    let descriptor: [u16; 5] =
        [size_of_val(&GATES) as u16 - 1, base as u16, (base >> 16) as u16, (base >> 32) as u16, (base >> 48) as u16];
    // SAFETY: the table is static and its only gate leads to a handler; the local APIC is the processor's own.
    unsafe {
        ((APIC + SPURIOUS) as *mut u32).write_volatile(0x1ff);
        asm!("lidt [{}]", "sti", in(reg) &descriptor);
    }
}

/// How many there were.
pub fn interrupts() -> u32 {
    INTERRUPTS.load(Ordering::Relaxed)
}

pub fn port_write_8(port: u16, value: u8) {
    // SAFETY: the ports are the VMM's.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value) }
}

pub fn port_write_32(port: u16, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value) }
}

pub fn port_read_32(port: u16) -> u32 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value) }
    value
}
