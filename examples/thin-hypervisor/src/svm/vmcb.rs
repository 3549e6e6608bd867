//! The virtual machine control block (AMD64 Architecture Programmer's Manual, volume 2, appendix B).

use core::mem::offset_of;

#[repr(C, align(4096))]
pub struct Vmcb {
    pub control: Control,
    pub save: Save,
    _rest: [u8; 0x968],
}

#[repr(C)]
pub struct Control {
    _intercept_registers: [u32; 2],
    _intercept_exceptions: u32,
    /// Intercepts of instructions and events, and of SVM's own instructions.
    pub intercept: [u32; 2],
    _reserved: [u8; 0x2c],
    pub port_bitmap: u64,
    pub msr_bitmap: u64,
    _tsc_offset: u64,
    pub address_space: u32,
    /// 1: forget the guest's translations on the next entry.
    pub tlb_control: u32,
    _virtual_interrupts: u64,
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info: [u64; 2],
    /// An event whose delivery was interrupted by the exit.
    pub exit_interrupt_info: u64,
    pub nested_paging: u64,
    _reserved_2: [u8; 0x10],
    /// An event to be delivered on entry.
    pub event: u64,
    pub nested_cr3: u64,
    _lbr_virtualization: u64,
    _clean: u64,
    /// The next instruction, where the processor says it.
    pub next_instruction: u64,
    _fetched: [u8; 16],
    _reserved_3: [u8; 0x320],
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Segment {
    pub selector: u16,
    /// Descriptor bits 55:52 and 47:40.
    pub attributes: u16,
    pub limit: u32,
    pub base: u64,
}

#[repr(C)]
pub struct Save {
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub gdtr: Segment,
    pub ldtr: Segment,
    pub idtr: Segment,
    pub tr: Segment,
    _reserved: [u8; 0x2b],
    pub cpl: u8,
    _reserved_2: u32,
    pub efer: u64,
    _reserved_3: [u8; 0x70],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    _reserved_4: [u8; 0x58],
    pub rsp: u64,
    _reserved_5: [u8; 0x18],
    pub rax: u64,
    _system_call: [u64; 8],
    _cr2: u64,
    _reserved_6: [u8; 0x20],
    pub pat: u64,
}

const _: () = {
    assert!(offset_of!(Vmcb, control.port_bitmap) == 0x40);
    assert!(offset_of!(Vmcb, control.address_space) == 0x58);
    assert!(offset_of!(Vmcb, control.interrupt_shadow) == 0x68);
    assert!(offset_of!(Vmcb, control.nested_paging) == 0x90);
    assert!(offset_of!(Vmcb, control.event) == 0xa8);
    assert!(offset_of!(Vmcb, control.next_instruction) == 0xc8);
    assert!(offset_of!(Vmcb, save) == 0x400);
    assert!(offset_of!(Vmcb, save.cpl) == 0x4cb);
    assert!(offset_of!(Vmcb, save.efer) == 0x4d0);
    assert!(offset_of!(Vmcb, save.cr4) == 0x548);
    assert!(offset_of!(Vmcb, save.rip) == 0x578);
    assert!(offset_of!(Vmcb, save.rsp) == 0x5d8);
    assert!(offset_of!(Vmcb, save.rax) == 0x5f8);
    assert!(offset_of!(Vmcb, save.pat) == 0x668);
    assert!(size_of::<Vmcb>() == 0x1000);
};

impl Vmcb {
    pub const EMPTY: Self = {
        // SAFETY: it is all numbers, and zero is one.
        unsafe { core::mem::zeroed() }
    };
}
