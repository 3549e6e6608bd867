//! AMD's Secure Virtual Machine (AMD64 Architecture Programmer's Manual, volume 2, chapter 15).

mod vmcb;

use core::arch::x86_64::__cpuid;
use core::arch::{asm, global_asm};

use pci_remap::Width;
use x86_64::registers::model_specific::Msr;

use self::vmcb::{Segment, Vmcb};
use crate::floating_point::FloatingPoint;
use crate::processor::{Exception, Exit, Paging, Processor, RAX, RSI, RSP, Registers, Start};
use crate::second_stage::Format;

global_asm!(include_str!("run.s"));

unsafe extern "sysv64" {
    fn svm_run(vmcb: u64, registers: *mut Registers, floating: *mut FloatingPoint);
}

const EFER: u32 = 0xc000_0080;
const EFER_LONG_MODE: u64 = 0x500;
const EFER_SVME: u64 = 1 << 12;
const VM_CR: u32 = 0xc001_0114;
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// Nested page tables have the form of the processor's own (15.25.5). Ranges keep the memory type of the MTRRs; on
/// BARs PCD and PWT make it uncacheable.
pub fn format() -> Format {
    let has_huge_pages = __cpuid(0x8000_0001).edx & 1 << 26 != 0;
    Format { table: 0x7, ram: 0x7, machine: 0x7, device: 0x1f, largest: if has_huge_pages { 3 } else { 2 } }
}

/// What SVM needs in memory, page by page.
#[repr(C, align(4096))]
pub struct Memory {
    vmcb: Vmcb,
    msr_bitmap: [u8; 0x2000],
    host_save: [u8; 0x1000],
    floating: FloatingPoint,
}

impl Memory {
    pub const EMPTY: Self =
        Self { vmcb: Vmcb::EMPTY, msr_bitmap: [0; 0x2000], host_save: [0; 0x1000], floating: FloatingPoint::INITIAL };
}

pub struct Svm {
    memory: &'static mut Memory,
    registers: Registers,
}

/// Whether this processor has SVM with nested paging, and firmware left it usable.
pub fn is_there() -> bool {
    let has_svm = __cpuid(0x8000_0000).eax >= 0x8000_000a && __cpuid(0x8000_0001).ecx & 1 << 2 != 0;
    // SAFETY: a processor with SVM has VM_CR; bit 4 is SVMDIS.
    has_svm && __cpuid(0x8000_000a).edx & 1 != 0 && unsafe { Msr::new(VM_CR).read() } & 1 << 4 == 0
}

impl Svm {
    pub fn new(memory: &'static mut Memory, second_stage: u64, port_bitmap: u64, start: Start) -> Self {
        // Two bits for each register, read and write (15.11); the third 2 KiB are for C0010000h and up.
        memory.msr_bitmap[0x800 + 0x80 / 4] |= 0b11;
        for register in [VM_CR, VM_HSAVE_PA] {
            let bit = 2 * (register & 0xffff) as usize;
            memory.msr_bitmap[0x1000 + bit / 8] |= 0b11 << (bit % 8);
        }
        let control = &mut memory.vmcb.control;
        // Ports, MSRs, CPUID, shutdown; VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT.
        control.intercept = [1 << 31 | 1 << 28 | 1 << 27 | 1 << 18, 0x7f];
        control.port_bitmap = port_bitmap;
        control.msr_bitmap = memory.msr_bitmap.as_ptr().addr() as u64;
        control.address_space = 1;
        control.nested_paging = 1;
        control.nested_cr3 = second_stage;

        let save = &mut memory.vmcb.save;
        let segment = |selector, attributes| Segment { selector, attributes, limit: !0, base: 0 };
        save.cs = segment(0x10, 0xa9b);
        for data in [&mut save.ds, &mut save.es, &mut save.fs, &mut save.gs, &mut save.ss] {
            *data = segment(0x18, 0xc93);
        }
        save.tr = Segment { limit: 0x67, ..segment(0, 0x8b) };
        save.ldtr = segment(0, 0x82);
        save.gdtr = Segment { limit: 0x1f, base: start.descriptors, ..segment(0, 0) };
        save.idtr = Segment { limit: 0, ..segment(0, 0) };
        save.efer = EFER_LONG_MODE | EFER_SVME;
        save.cr0 = 0x8001_0033;
        save.cr3 = start.cr3;
        save.cr4 = 0x20;
        (save.dr6, save.dr7) = (0xffff_0ff0, 0x400);
        save.rflags = 2;
        save.rip = start.instruction;
        save.pat = 0x0007_0406_0007_0406;

        // SAFETY: the processor has SVM; the save area is a page that is used for nothing else. With the global
        // interrupt flag clear no interrupt, NMI or SMI comes while the guest is stopped.
        unsafe {
            let efer = Msr::new(EFER).read();
            Msr::new(EFER).write(efer | EFER_SVME);
            Msr::new(VM_HSAVE_PA).write(memory.host_save.as_ptr().addr() as u64);
            asm!("clgi");
        }
        let mut registers = Registers::default();
        registers.0[RSI] = start.argument;
        Self { memory, registers }
    }

    /// The exits of one entry (appendix C).
    fn exit(&self) -> Exit {
        let control = &self.memory.vmcb.control;
        let [info, address] = control.exit_info;
        match control.exit_code {
            0x72 => Exit::Identify,
            0x7b => {
                // 15.10.2
                let (port, is_write) = ((info >> 16) as u16, info & 1 == 0);
                let width = match info >> 4 & 0b111 {
                    0b001 => Width::Byte,
                    0b010 => Width::Word,
                    _ => Width::Dword,
                };
                if info & 1 << 2 == 0 {
                    Exit::Port { port, width, is_write }
                } else {
                    Exit::PortString { port, width, is_write, is_repeated: info & 1 << 3 != 0 }
                }
            }
            0x7c if info & 1 == 0 => Exit::ReadRegister,
            0x7c => Exit::WriteRegister,
            0x80..=0x86 => Exit::Undefined,
            0x400 => Exit::Memory { address },
            reason => Exit::Unexpected { reason, detail: info },
        }
    }
}

impl Processor for Svm {
    fn run(&mut self) -> Exit {
        let vmcb = &mut self.memory.vmcb;
        vmcb.save.rax = self.registers.0[RAX];
        vmcb.save.rsp = self.registers.0[RSP];
        // SAFETY: the control block is complete, and the second stage keeps the guest away from the hypervisor.
        unsafe { svm_run((&raw const *vmcb).addr() as u64, &mut self.registers, &mut self.memory.floating) }
        self.registers.0[RAX] = vmcb.save.rax;
        self.registers.0[RSP] = vmcb.save.rsp;
        // An event that was being delivered is lost unless it is given again.
        let interrupted = vmcb.control.exit_interrupt_info;
        vmcb.control.event = if interrupted & 1 << 31 != 0 { interrupted } else { 0 };
        vmcb.control.tlb_control = 0;
        self.exit()
    }

    fn registers(&mut self) -> &mut Registers {
        &mut self.registers
    }

    fn instruction(&self) -> u64 {
        self.memory.vmcb.save.rip
    }

    fn instruction_len(&self) -> u64 {
        let control = &self.memory.vmcb.control;
        match control.exit_code {
            0x7b => control.exit_info[1].wrapping_sub(self.memory.vmcb.save.rip),
            _ if control.next_instruction != 0 => control.next_instruction.wrapping_sub(self.memory.vmcb.save.rip),
            // Without next-RIP save: CPUID, RDMSR and WRMSR as compilers write them.
            _ => 2,
        }
    }

    fn flags(&self) -> u64 {
        self.memory.vmcb.save.rflags
    }

    fn paging(&self) -> Paging {
        Paging { cr3: self.memory.vmcb.save.cr3, cr4: self.memory.vmcb.save.cr4 }
    }

    fn skip(&mut self, len: u64) {
        self.memory.vmcb.save.rip = self.memory.vmcb.save.rip.wrapping_add(len);
        self.memory.vmcb.control.interrupt_shadow = 0;
    }

    fn inject(&mut self, exception: Exception) {
        self.memory.vmcb.control.event = exception.event().into();
    }

    fn read_register(&mut self, register: u32) -> Option<u64> {
        (register == EFER).then_some(self.memory.vmcb.save.efer & !EFER_SVME)
    }

    fn write_register(&mut self, register: u32, value: u64) -> Option<()> {
        // Long Mode Active is the processor's own.
        const LMA: u64 = 1 << 10;
        if register != EFER || value & EFER_SVME != 0 {
            return None;
        }
        let save = &mut self.memory.vmcb.save;
        save.efer = value & !LMA | save.efer & LMA | EFER_SVME;
        Some(())
    }

    fn forget_translations(&mut self) {
        self.memory.vmcb.control.tlb_control = 1;
    }
}
