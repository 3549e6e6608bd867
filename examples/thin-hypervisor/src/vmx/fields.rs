//! Encodings of the fields of the virtual machine control structure (Intel SDM, volume 3, appendix B).

pub const IO_BITMAP_A: u64 = 0x2000;
pub const IO_BITMAP_B: u64 = 0x2002;
pub const MSR_BITMAP: u64 = 0x2004;
pub const EPT_POINTER: u64 = 0x201a;
pub const GUEST_PHYSICAL_ADDRESS: u64 = 0x2400;
pub const LINK_POINTER: u64 = 0x2800;
pub const GUEST_EFER: u64 = 0x2806;
pub const HOST_EFER: u64 = 0x2c02;

pub const PIN_CONTROLS: u64 = 0x4000;
pub const PROCESSOR_CONTROLS: u64 = 0x4002;
pub const EXIT_CONTROLS: u64 = 0x400c;
pub const ENTRY_CONTROLS: u64 = 0x4012;
pub const ENTRY_EVENT: u64 = 0x4016;
pub const ENTRY_EVENT_ERROR: u64 = 0x4018;
pub const ENTRY_INSTRUCTION_LEN: u64 = 0x401a;
pub const SECONDARY_CONTROLS: u64 = 0x401e;
pub const INSTRUCTION_ERROR: u64 = 0x4400;
pub const EXIT_REASON: u64 = 0x4402;
pub const INTERRUPTED_EVENT: u64 = 0x4408;
pub const INTERRUPTED_EVENT_ERROR: u64 = 0x440a;
pub const INSTRUCTION_LEN: u64 = 0x440c;
pub const GUEST_GDTR_LIMIT: u64 = 0x4810;
pub const GUEST_INTERRUPTIBILITY: u64 = 0x4824;

pub const CR4_MASK: u64 = 0x6002;
pub const EXIT_QUALIFICATION: u64 = 0x6400;
pub const GUEST_CR0: u64 = 0x6800;
pub const GUEST_CR3: u64 = 0x6802;
pub const GUEST_CR4: u64 = 0x6804;
pub const GUEST_GDTR_BASE: u64 = 0x6816;
pub const GUEST_DR7: u64 = 0x681a;
pub const GUEST_RSP: u64 = 0x681c;
pub const GUEST_RIP: u64 = 0x681e;
pub const GUEST_RFLAGS: u64 = 0x6820;
pub const HOST_CR0: u64 = 0x6c00;
pub const HOST_CR3: u64 = 0x6c02;
pub const HOST_CR4: u64 = 0x6c04;
pub const HOST_GDTR_BASE: u64 = 0x6c0c;
pub const HOST_IDTR_BASE: u64 = 0x6c0e;
pub const HOST_RIP: u64 = 0x6c16;

/// Fields that stay zero: what they count or mask is not used, or starts at zero. After VMCLEAR they are undefined.
pub const ZERO: [u64; 29] = [
    0x4004, // exception bitmap
    0x400a, // CR3 targets
    0x400e, 0x4010, 0x4014, // MSRs to store and load
    0x4016, 0x6000, 0x6006, // entry event, CR0 mask, CR4 shadow
    0x4812, 0x4824, 0x4826, 0x482a, // guest: IDT limit, interruptibility, activity, SYSENTER
    0x6806, 0x6808, 0x680a, 0x680c, 0x680e, 0x6810, 0x6812, 0x6814, 0x6818, // guest: bases of segments and IDT
    0x6822, 0x6824, 0x6826, // guest: pending debug exceptions, SYSENTER
    0x4c00, 0x6c06, 0x6c08, 0x6c0a, 0x6c10, // host: SYSENTER, bases of FS, GS and TR
];

/// The fields of segment registers go by twos in this order.
pub mod segment {
    pub const ES: u64 = 0;
    pub const CS: u64 = 2;
    pub const SS: u64 = 4;
    pub const DS: u64 = 6;
    pub const FS: u64 = 8;
    pub const GS: u64 = 10;
    pub const LDTR: u64 = 12;
    pub const TR: u64 = 14;

    pub const GUEST_SELECTOR: u64 = 0x800;
    pub const GUEST_LIMIT: u64 = 0x4800;
    pub const GUEST_ACCESS_RIGHTS: u64 = 0x4814;
    pub const HOST_SELECTOR: u64 = 0xc00;
    /// TR comes where the guest has LDTR.
    pub const HOST_TR_SELECTOR: u64 = 0xc0c;
}
