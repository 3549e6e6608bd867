//! The virtual machine: runs the guest, and does what it stopped for.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

use pci_remap::{Span, Width};

use crate::guest_memory;
use crate::instruction::{Move, Operation};
use crate::pci::{Pci, Stages};
use crate::processor::{CR4_OSXSAVE, CR4_PKE, Exception, Exit, Processor, RAX, RBX, RCX, RDX};
use crate::say;
use crate::statistics::{Cause, Statistics};

/// The CPUID leaf with which the guest asks for the statistics. It needs no privilege, so that anything can.
const STATISTICS_LEAF: u32 = 0x4fff_fff0;

pub struct Vm<P> {
    pub processor: P,
    pub pci: Pci,
    pub stages: Stages,
    /// The hypervisor's memory, which the guest does not have.
    pub hypervisor: Span,
    pub statistics: Statistics,
}

impl<P: Processor> Vm<P> {
    pub fn run(&mut self) -> ! {
        loop {
            let exit = self.processor.run();
            self.handle(exit);
            if core::mem::take(&mut self.stages.are_new) {
                self.processor.forget_translations();
            }
        }
    }

    fn handle(&mut self, exit: Exit) {
        let done = match exit {
            Exit::Port { port, width, is_write } => {
                self.port(port, width, is_write);
                Ok(())
            }
            Exit::PortString { port, width, is_write, is_repeated } => {
                self.count_port(port);
                if !self.string(port, width, is_write, is_repeated) {
                    return;
                }
                Ok(())
            }
            Exit::Memory { address } => return self.memory(address),
            Exit::Identify => {
                self.identify();
                Ok(())
            }
            Exit::ReadRegister => self.read_register(),
            Exit::WriteRegister => self.write_register(),
            Exit::SetExtendedState => self.set_extended_state(),
            Exit::Undefined => Err(Exception::InvalidOpcode),
            Exit::Unexpected { reason, detail } => self.stop(format_args!("exit {reason:#x}, {detail:#x}")),
        };
        if !matches!(exit, Exit::Port { .. } | Exit::PortString { .. }) {
            self.statistics.count(Cause::Forced);
        }
        match done {
            Ok(()) => self.processor.skip(self.processor.instruction_len()),
            Err(exception) => self.processor.inject(exception),
        }
    }

    fn port(&mut self, port: u16, width: Width, is_write: bool) {
        self.count_port(port);
        let accumulator = self.processor.registers().0[RAX];
        if is_write {
            return self.pci.port_write(port, width, accumulator as u32, &mut self.stages);
        }
        let value = self.pci.port_read(port, width);
        self.processor.registers().0[RAX] = match width {
            Width::Byte => accumulator & !0xff | u64::from(value & 0xff),
            Width::Word => accumulator & !0xffff | u64::from(value & 0xffff),
            Width::Dword => value.into(),
        };
    }

    fn count_port(&mut self, port: u16) {
        let is_configuration = (0xcf8..=0xcff).contains(&port);
        self.statistics.count(if is_configuration { Cause::ConfigurationPorts } else { Cause::OtherPorts });
    }

    fn memory(&mut self, address: u64) {
        if self.stages.memory.fill(address) {
            self.stages.are_new = true;
            return self.statistics.count(Cause::FirstAccess);
        }
        self.statistics.count(if self.pci.is_ecam(address) { Cause::Ecam } else { Cause::TrappedMemory });
        let bytes = guest_memory::fetch(self.processor.paging(), self.processor.instruction());
        let Some(instruction) = Move::decode(&bytes, self.processor.registers()) else {
            self.stop(format_args!("an access to {address:#x} by an instruction that is not known: {bytes:02x?}"));
        };
        let Move { width, len, operation } = instruction;
        let is_ours = self.hypervisor.contains(address);
        match operation {
            Operation::Load { to, is_signed } => {
                let value = if is_ours { !0 } else { self.pci.memory_read(address, width) };
                to.load(self.processor.registers(), value, width, is_signed);
            }
            Operation::Store(_) if is_ours => {}
            Operation::Store(value) => self.pci.memory_write(address, width, value, &mut self.stages),
        }
        self.processor.skip(len);
    }

    /// The processor as it is, without virtualization.
    fn identify(&mut self) {
        let cr4 = self.processor.paging().cr4;
        let registers = &mut self.processor.registers().0;
        let (leaf, subleaf) = (registers[RAX] as u32, registers[RCX] as u32);
        let mut answer = __cpuid_count(leaf, subleaf);
        let set = |word: &mut u32, bit: u32, is_set: bool| *word = *word & !(1 << bit) | u32::from(is_set) << bit;
        match leaf {
            1 => {
                set(&mut answer.ecx, 5, false);
                set(&mut answer.ecx, 27, cr4 & CR4_OSXSAVE != 0);
            }
            7 if subleaf == 0 => set(&mut answer.ecx, 4, cr4 & CR4_PKE != 0),
            0x8000_0001 => set(&mut answer.ecx, 2, false),
            0x8000_000a => (answer.eax, answer.ebx, answer.ecx, answer.edx) = (0, 0, 0, 0),
            STATISTICS_LEAF => say!("{}", self.statistics),
            _ => {}
        }
        registers[RAX] = answer.eax.into();
        registers[RBX] = answer.ebx.into();
        registers[RCX] = answer.ecx.into();
        registers[RDX] = answer.edx.into();
    }

    fn read_register(&mut self) -> Result<(), Exception> {
        let number = self.processor.registers().0[RCX] as u32;
        let value = self.processor.read_register(number).ok_or(Exception::GeneralProtection)?;
        self.processor.registers().set_pair(value);
        Ok(())
    }

    fn write_register(&mut self) -> Result<(), Exception> {
        let number = self.processor.registers().0[RCX] as u32;
        let value = self.processor.registers().pair();
        self.processor.write_register(number, value).ok_or(Exception::GeneralProtection)
    }

    /// XSETBV, which the hypervisor does for the guest once it is known not to fault.
    fn set_extended_state(&mut self) -> Result<(), Exception> {
        let leaf = __cpuid_count(0xd, 0);
        let supported = u64::from(leaf.edx) << 32 | u64::from(leaf.eax);
        let number = self.processor.registers().0[RCX] as u32;
        let value = self.processor.registers().pair();
        let has_sse_with_avx = value & 0b110 != 0b100;
        // AVX-512's three parts come together, and with AVX.
        let avx512 = value & 0xe0;
        let has_whole_avx512 = avx512 == 0 || avx512 == 0xe0 && value & 0b110 == 0b110;
        if number != 0 || value & !supported != 0 || value & 1 == 0 || !has_sse_with_avx || !has_whole_avx512 {
            return Err(Exception::GeneralProtection);
        }
        // SAFETY: the processor takes this value; the hypervisor itself uses no more than SSE.
        unsafe { asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32) }
        Ok(())
    }

    fn stop(&mut self, why: core::fmt::Arguments<'_>) -> ! {
        let instruction = self.processor.instruction();
        panic!("{why}, at {instruction:#x} with registers {:x?}", self.processor.registers().0);
    }
}
