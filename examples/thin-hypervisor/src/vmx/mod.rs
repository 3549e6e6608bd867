//! Intel's Virtual Machine Extensions, with EPT and unrestricted guest (Intel SDM, volume 3, chapters 24 to 29).

mod fields;

use core::arch::x86_64::__cpuid;
use core::arch::{asm, global_asm};

use pci_remap::Width;
use x86_64::instructions::tables::{sgdt, sidt};
use x86_64::registers::control::{Cr0, Cr3, Cr4};
use x86_64::registers::model_specific::Msr;

use self::fields::segment;
use crate::floating_point::FloatingPoint;
use crate::processor::{Exception, Exit, Paging, Processor, RSI, RSP, Registers, Start};
use crate::second_stage::Format;

global_asm!(include_str!("run.s"));

unsafe extern "sysv64" {
    fn vmx_run(is_launched: bool, registers: *mut Registers, floating: *mut FloatingPoint) -> bool;
    fn vmx_exit();
}

const EFER: u32 = 0xc000_0080;
const EFER_LONG_MODE: u64 = 0x500;
const CR4_VMXE: u64 = 1 << 13;
const CR4_OSXSAVE: u64 = 1 << 18;

const FEATURE_CONTROL: u32 = 0x3a;
const FEATURE_CONTROL_LOCKED: u64 = 1;
const FEATURE_CONTROL_VMX: u64 = 1 << 2;

/// Capability registers (appendix A).
const VMX_BASIC: u32 = 0x480;
const VMX_SECONDARY: u32 = 0x48b;
const VMX_EPT: u32 = 0x48c;
const VMX_LAST: u32 = 0x491;

const MEMORY_MAP_WRITE_BACK: u64 = 6 << 3;

/// Bits of the controls (24.6 to 24.8).
mod control {
    pub const IO_BITMAPS: u32 = 1 << 25;
    pub const MSR_BITMAPS: u32 = 1 << 28;
    pub const SECONDARY: u32 = 1 << 31;
    pub const EPT: u32 = 1 << 1;
    pub const RDTSCP: u32 = 1 << 3;
    pub const UNRESTRICTED: u32 = 1 << 7;
    pub const INVPCID: u32 = 1 << 12;
    pub const XSAVES: u32 = 1 << 20;
    pub const DEBUG: u32 = 1 << 2;
    pub const EXIT_TO_64_BIT: u32 = 1 << 9;
    pub const EXIT_EFER: u32 = 1 << 20 | 1 << 21;
    pub const ENTER_64_BIT: u32 = 1 << 9;
    pub const ENTRY_EFER: u32 = 1 << 15;
}

/// EPT entries (28.3.2): the memory type of RAM is ours to say; everything else is uncacheable, which the guest's PAT can
/// make write-combining.
pub fn format() -> Format {
    let has_huge_pages = msr(VMX_EPT) & 1 << 17 != 0;
    let largest = if has_huge_pages { 3 } else { 2 };
    Format { table: 0x7, ram: 0x7 | MEMORY_MAP_WRITE_BACK, machine: 0x7, device: 0x7, largest }
}

/// What VMX needs in memory, page by page.
#[repr(C, align(4096))]
pub struct Memory {
    vmxon: [u32; 1024],
    vmcs: [u32; 1024],
    msr_bitmap: [u8; 0x1000],
    floating: FloatingPoint,
}

impl Memory {
    pub const EMPTY: Self =
        Self { vmxon: [0; 1024], vmcs: [0; 1024], msr_bitmap: [0; 0x1000], floating: FloatingPoint::INITIAL };
}

pub struct Vmx {
    memory: &'static mut Memory,
    registers: Registers,
    ept_pointer: u64,
    is_launched: bool,
}

/// Whether this processor has VMX with EPT and unrestricted guest, and firmware left it usable.
pub fn is_there() -> bool {
    if __cpuid(1).ecx & 1 << 5 == 0 {
        return false;
    }
    let feature_control = msr(FEATURE_CONTROL);
    let is_off = feature_control & FEATURE_CONTROL_LOCKED != 0 && feature_control & FEATURE_CONTROL_VMX == 0;
    let secondary = (msr(VMX_SECONDARY) >> 32) as u32;
    let needed = control::EPT | control::UNRESTRICTED;
    !is_off && msr(VMX_BASIC + 2) >> 32 & u64::from(control::SECONDARY) != 0 && secondary & needed == needed
}

impl Vmx {
    pub fn new(memory: &'static mut Memory, second_stage: u64, port_bitmap: u64, start: Start) -> Self {
        // Two halves of a bit for each register: reads at 000h, writes at 800h (24.6.9).
        for register in [FEATURE_CONTROL].into_iter().chain(VMX_BASIC..=VMX_LAST) {
            for half in [0, 0x800] {
                memory.msr_bitmap[half + register as usize / 8] |= 1 << (register % 8);
            }
        }
        enter_root_operation(memory);
        // A four-level walk through write-back memory (24.6.11).
        let ept_pointer = second_stage | 3 << 3 | 6;
        fields::ZERO.into_iter().for_each(|field| write(field, 0));
        set_controls(memory, ept_pointer, port_bitmap);
        set_host();
        set_guest(start);
        let mut registers = Registers::default();
        registers.0[RSI] = start.argument;
        Self { memory, registers, ept_pointer, is_launched: false }
    }

    fn exit(&self) -> Exit {
        let qualification = read(fields::EXIT_QUALIFICATION);
        match read(fields::EXIT_REASON) {
            10 => Exit::Identify,
            18..=27 | 50 | 53 => Exit::Undefined,
            30 => {
                // Table 27-5
                let (port, is_write) = ((qualification >> 16) as u16, qualification & 1 << 3 == 0);
                let width = match qualification & 0b111 {
                    0 => Width::Byte,
                    1 => Width::Word,
                    _ => Width::Dword,
                };
                if qualification & 1 << 4 == 0 {
                    Exit::Port { port, width, is_write }
                } else {
                    Exit::PortString { port, width, is_write, is_repeated: qualification & 1 << 5 != 0 }
                }
            }
            31 => Exit::ReadRegister,
            32 => Exit::WriteRegister,
            48 => Exit::Memory { address: read(fields::GUEST_PHYSICAL_ADDRESS) },
            55 => Exit::SetExtendedState,
            reason => Exit::Unexpected { reason, detail: qualification },
        }
    }
}

impl Processor for Vmx {
    fn run(&mut self) -> Exit {
        write(fields::GUEST_RSP, self.registers.0[RSP]);
        // SAFETY: the control structure is complete, and the second stage keeps the guest away from the hypervisor.
        let ran = unsafe { vmx_run(self.is_launched, &mut self.registers, &mut self.memory.floating) };
        assert!(ran, "the guest was not entered: VM-instruction error {}", read(fields::INSTRUCTION_ERROR));
        self.is_launched = true;
        self.registers.0[RSP] = read(fields::GUEST_RSP);
        // An event that was being delivered is lost unless it is given again. Bit 12 says something else here.
        let interrupted = read(fields::INTERRUPTED_EVENT);
        if interrupted & 1 << 31 != 0 {
            write(fields::ENTRY_EVENT, interrupted & !(1 << 12));
            write(fields::ENTRY_EVENT_ERROR, read(fields::INTERRUPTED_EVENT_ERROR));
            write(fields::ENTRY_INSTRUCTION_LEN, read(fields::INSTRUCTION_LEN));
        }
        self.exit()
    }

    fn registers(&mut self) -> &mut Registers {
        &mut self.registers
    }

    fn instruction(&self) -> u64 {
        read(fields::GUEST_RIP)
    }

    fn instruction_len(&self) -> u64 {
        read(fields::INSTRUCTION_LEN)
    }

    fn flags(&self) -> u64 {
        read(fields::GUEST_RFLAGS)
    }

    fn paging(&self) -> Paging {
        Paging { cr3: read(fields::GUEST_CR3), cr4: read(fields::GUEST_CR4) }
    }

    fn skip(&mut self, len: u64) {
        write(fields::GUEST_RIP, self.instruction().wrapping_add(len));
        // Bits 0 and 1: blocking by STI and by MOV SS end with the instruction.
        write(fields::GUEST_INTERRUPTIBILITY, read(fields::GUEST_INTERRUPTIBILITY) & !0b11);
    }

    fn inject(&mut self, exception: Exception) {
        write(fields::ENTRY_EVENT, exception.event().into());
        write(fields::ENTRY_EVENT_ERROR, 0);
    }

    /// Those that exit are VMX's own, or there are none of that number.
    fn read_register(&mut self, _: u32) -> Option<u64> {
        None
    }

    fn write_register(&mut self, _: u32, _: u64) -> Option<()> {
        None
    }

    fn forget_translations(&mut self) {
        let descriptor = [self.ept_pointer, 0];
        // SAFETY: single-context invalidation; too little cached is never wrong.
        unsafe { asm!("invept {}, [{}]", in(reg) 1_u64, in(reg) &descriptor) }
    }
}

fn enter_root_operation(memory: &mut Memory) {
    let revision = msr(VMX_BASIC) as u32 & 0x7fff_ffff;
    memory.vmxon[0] = revision;
    memory.vmcs[0] = revision;
    let vmxon = (&raw const memory.vmxon).addr() as u64;
    let vmcs = (&raw const memory.vmcs).addr() as u64;
    let failed: u8;
    // SAFETY: the processor has VMX; the two pages are used for nothing else.
    unsafe {
        if msr(FEATURE_CONTROL) & FEATURE_CONTROL_LOCKED == 0 {
            Msr::new(FEATURE_CONTROL).write(FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMX);
        }
        let has_xsave = __cpuid(1).ecx & 1 << 26 != 0;
        Cr4::write_raw(Cr4::read_raw() | CR4_VMXE | if has_xsave { CR4_OSXSAVE } else { 0 });
        asm!("vmxon [{}]", "vmclear [{}]", "vmptrld [{}]", "setbe {}",
            in(reg) &vmxon, in(reg) &vmcs, in(reg) &vmcs, out(reg_byte) failed);
    }
    assert!(failed == 0, "VMX cannot be switched on");
}

fn set_controls(memory: &Memory, ept_pointer: u64, port_bitmap: u64) {
    // Without the TRUE registers some controls are on that need not be, as CR3 exits.
    assert!(msr(VMX_BASIC) & 1 << 55 != 0, "this processor's VMX is too old");
    let pin = msr(VMX_BASIC + 13);
    write(fields::PIN_CONTROLS, allowed(0, pin));
    let processor = control::IO_BITMAPS | control::MSR_BITMAPS | control::SECONDARY;
    write(fields::PROCESSOR_CONTROLS, allowed(processor, msr(VMX_BASIC + 14)));
    let secondary = control::EPT | control::UNRESTRICTED | control::RDTSCP | control::INVPCID | control::XSAVES;
    write(fields::SECONDARY_CONTROLS, allowed(secondary, msr(VMX_SECONDARY)));
    let exit = control::DEBUG | control::EXIT_TO_64_BIT | control::EXIT_EFER;
    write(fields::EXIT_CONTROLS, allowed(exit, msr(VMX_BASIC + 15)));
    let entry = control::DEBUG | control::ENTER_64_BIT | control::ENTRY_EFER;
    write(fields::ENTRY_CONTROLS, allowed(entry, msr(VMX_BASIC + 16)));
    write(fields::IO_BITMAP_A, port_bitmap);
    write(fields::IO_BITMAP_B, port_bitmap + 0x1000);
    write(fields::MSR_BITMAP, memory.msr_bitmap.as_ptr().addr() as u64);
    write(fields::EPT_POINTER, ept_pointer);
    write(fields::LINK_POINTER, !0);
    // The guest reads zero (its shadow) where VMX is on.
    write(fields::CR4_MASK, CR4_VMXE);
}

fn set_host() {
    for register in [segment::ES, segment::SS, segment::DS] {
        write(segment::HOST_SELECTOR + register, 16);
    }
    write(segment::HOST_SELECTOR + segment::CS, 8);
    write(segment::HOST_SELECTOR + segment::FS, 0);
    write(segment::HOST_SELECTOR + segment::GS, 0);
    write(segment::HOST_TR_SELECTOR, 24);
    write(fields::HOST_CR0, Cr0::read_raw());
    write(fields::HOST_CR3, Cr3::read_raw().0.start_address().as_u64());
    write(fields::HOST_CR4, Cr4::read_raw());
    write(fields::HOST_EFER, msr(EFER));
    write(fields::HOST_GDTR_BASE, sgdt().base.as_u64());
    write(fields::HOST_IDTR_BASE, sidt().base.as_u64());
    write(fields::HOST_RIP, vmx_exit as *const () as u64);
}

fn set_guest(start: Start) {
    let set = |register, selector, limit, access_rights| {
        write(segment::GUEST_SELECTOR + register, selector);
        write(segment::GUEST_LIMIT + register, limit);
        write(segment::GUEST_ACCESS_RIGHTS + register, access_rights);
    };
    set(segment::CS, 0x10, 0xffff_ffff, 0xa09b);
    for data in [segment::ES, segment::SS, segment::DS, segment::FS, segment::GS] {
        set(data, 0x18, 0xffff_ffff, 0xc093);
    }
    // Bit 16: unusable.
    set(segment::LDTR, 0, 0, 1 << 16);
    set(segment::TR, 0, 0x67, 0x8b);
    write(fields::GUEST_GDTR_BASE, start.descriptors);
    write(fields::GUEST_GDTR_LIMIT, 0x1f);
    write(fields::GUEST_CR0, 0x8001_0033);
    write(fields::GUEST_CR3, start.cr3);
    write(fields::GUEST_CR4, 0x20 | CR4_VMXE);
    write(fields::GUEST_EFER, EFER_LONG_MODE);
    write(fields::GUEST_DR7, 0x400);
    write(fields::GUEST_RFLAGS, 2);
    write(fields::GUEST_RIP, start.instruction);
}

/// What of these controls the processor has, and those it insists on (appendix A.3).
fn allowed(wanted: u32, capability: u64) -> u64 {
    (u64::from(wanted) | capability & 0xffff_ffff) & capability >> 32
}

fn msr(register: u32) -> u64 {
    // SAFETY: callers know it is there.
    unsafe { Msr::new(register).read() }
}

fn read(field: u64) -> u64 {
    let value;
    // SAFETY: a control structure is loaded; a field that is not there leaves the value undefined, not the machine.
    unsafe { asm!("vmread {}, {}", out(reg) value, in(reg) field, options(nostack)) }
    value
}

fn write(field: u64, value: u64) {
    let failed: u8;
    // SAFETY: a control structure is loaded, and is checked as a whole on entry.
    unsafe { asm!("vmwrite {}, {}", "setbe {}", in(reg) field, in(reg) value, out(reg_byte) failed, options(nostack)) }
    assert!(failed == 0, "no field {field:#x} for {value:#x}");
}
