//! Decoding the instruction of a trapped memory access: the MOV family, which is what drivers and Linux's ECAM
//! functions use on devices.

use yaxpeax_arch::LengthedInstruction;
use yaxpeax_x86::long_mode::register_class::{B, D, Q, RB, W};
use yaxpeax_x86::long_mode::{InstDecoder, Opcode, Operand, RegSpec};

use crate::processor::Registers;

/// One read or write of memory.
#[derive(Debug, Clone, Copy)]
pub struct Move {
    /// Bytes of memory: 1, 2, 4 or 8.
    pub width: u8,
    /// Bytes of the instruction.
    pub len: u64,
    pub operation: Operation,
}

#[derive(Debug, Clone, Copy)]
pub enum Operation {
    Load { to: Place, is_signed: bool },
    Store(u64),
}

/// A register, or a part of one.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    register: usize,
    /// 8 for AH, CH, DH and BH.
    shift: u32,
    bits: u32,
}

impl Move {
    /// `None` for any other instruction.
    pub fn decode(bytes: &[u8], registers: &Registers) -> Option<Self> {
        let instruction = InstDecoder::default().decode_slice(bytes).ok()?;
        let (to, from) = (instruction.operand(0), instruction.operand(1));
        let is_signed = match instruction.opcode() {
            Opcode::MOV | Opcode::MOVZX | Opcode::MOVNTI => false,
            Opcode::MOVSX | Opcode::MOVSXD => true,
            _ => return None,
        };
        let operation = match (to, from) {
            (Operand::Register { reg }, memory) if memory.is_memory() => {
                Operation::Load { to: Place::of(reg)?, is_signed }
            }
            (memory, from) if memory.is_memory() => Operation::Store(match from {
                Operand::Register { reg } => Place::of(reg)?.get(registers),
                Operand::ImmediateI8 { imm } => imm as u64,
                Operand::ImmediateI16 { imm } => imm as u64,
                Operand::ImmediateI32 { imm } => imm as u64,
                _ => return None,
            }),
            _ => return None,
        };
        let width = instruction.mem_size()?.bytes_size().filter(|width| matches!(width, 1 | 2 | 4 | 8))?;
        Some(Self { width, len: instruction.len().to_const(), operation })
    }
}

impl Place {
    fn of(register: RegSpec) -> Option<Self> {
        let number = usize::from(register.num());
        let bits = match register.class() {
            Q => 64,
            D => 32,
            W => 16,
            RB => 8,
            // Without a REX prefix numbers 4 to 7 are the second bytes of the first four.
            B if number >= 4 => return Some(Self { register: number - 4, shift: 8, bits: 8 }),
            B => 8,
            _ => return None,
        };
        Some(Self { register: number, shift: 0, bits })
    }

    const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits) << self.shift
    }

    fn get(self, registers: &Registers) -> u64 {
        (registers.0[self.register] & self.mask()) >> self.shift
    }

    /// Puts what was read from memory into the register.
    pub fn load(self, registers: &mut Registers, value: u64, width: u8, is_signed: bool) {
        let unused = 64 - 8 * u32::from(width);
        let value = if is_signed { ((value << unused) as i64 >> unused) as u64 } else { value << unused >> unused };
        let register = &mut registers.0[self.register];
        // A 32-bit result clears the upper half; narrower ones leave the rest.
        let kept = if self.bits >= 32 { 0 } else { *register & !self.mask() };
        *register = kept | value << self.shift & self.mask();
    }
}
