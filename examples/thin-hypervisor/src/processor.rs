//! What the hypervisor asks of a processor with virtualization, and the two kinds there are: `svm` and `vmx`.

use pci_remap::Width;

/// Why the guest stopped.
#[derive(Debug, Clone, Copy)]
pub enum Exit {
    /// An instruction that reads or writes an I/O port.
    Port { port: u16, width: Width, is_write: bool },
    /// INS or OUTS.
    PortString { port: u16, width: Width, is_write: bool, is_repeated: bool },
    /// An access to a physical address with nothing in the second stage.
    Memory { address: u64 },
    /// CPUID.
    Identify,
    /// RDMSR.
    ReadRegister,
    /// WRMSR.
    WriteRegister,
    /// XSETBV.
    SetExtendedState,
    /// An instruction the guest does not have.
    Undefined,
    /// Something that should not happen, and the processor's number for it.
    Unexpected { reason: u64, detail: u64 },
}

/// An exception the guest gets.
#[derive(Debug, Clone, Copy)]
pub enum Exception {
    InvalidOpcode,
    GeneralProtection,
}

impl Exception {
    /// Vector (bits 7:0), exception (type 3, bits 10:8), error code (bit 11) and valid (bit 31), as both kinds want it.
    pub const fn event(self) -> u32 {
        match self {
            Self::InvalidOpcode => 0x8000_0306,
            Self::GeneralProtection => 0x8000_0b0d,
        }
    }
}

/// The guest's registers, as instructions number them: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Registers(pub [u64; 16]);

pub const RAX: usize = 0;
pub const RCX: usize = 1;
pub const RDX: usize = 2;
pub const RBX: usize = 3;
pub const RSP: usize = 4;
pub const RSI: usize = 6;
pub const RDI: usize = 7;

/// RFLAGS, Direction.
pub const FLAGS_DIRECTION: u64 = 1 << 10;

impl Registers {
    /// EDX:EAX.
    pub fn pair(&self) -> u64 {
        self.0[RDX] << 32 | self.0[RAX] & 0xffff_ffff
    }

    pub fn set_pair(&mut self, value: u64) {
        (self.0[RAX], self.0[RDX]) = (value & 0xffff_ffff, value >> 32);
    }
}

/// What is needed to find what a linear address of the guest means.
#[derive(Debug, Clone, Copy)]
pub struct Paging {
    pub cr3: u64,
    pub cr4: u64,
}

/// Control Register 4, Linear Address 57 bits.
pub const CR4_LA57: u64 = 1 << 12;
/// Control Register 4, Protection Key Enable.
pub const CR4_PKE: u64 = 1 << 22;
/// Control Register 4, OSXSAVE.
pub const CR4_OSXSAVE: u64 = 1 << 18;

/// Where a guest starts: 64-bit mode, flat segments, no interrupts.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub instruction: u64,
    /// RSI.
    pub argument: u64,
    /// Its page tables.
    pub cr3: u64,
    /// Its descriptor table: code segment 10h, data segment 18h.
    pub descriptors: u64,
}

pub trait Processor {
    /// Runs the guest until it stops.
    fn run(&mut self) -> Exit;

    fn registers(&mut self) -> &mut Registers;

    /// The linear address of the instruction that exited, if it is in 64-bit mode.
    fn instruction(&self) -> u64;

    /// How long that instruction is, when the exit was not for memory.
    fn instruction_len(&self) -> u64;

    /// RFLAGS.
    fn flags(&self) -> u64;

    fn paging(&self) -> Paging;

    /// Goes on behind the instruction.
    fn skip(&mut self, len: u64);

    fn inject(&mut self, exception: Exception);

    /// Does RDMSR; `None` for a register the guest does not have.
    fn read_register(&mut self, register: u32) -> Option<u64>;

    /// Does WRMSR; `None` for a register or a value the guest does not have.
    fn write_register(&mut self, register: u32, value: u64) -> Option<()>;

    /// The second stage has changed.
    fn forget_translations(&mut self);
}
