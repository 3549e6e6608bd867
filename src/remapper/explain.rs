//! What becomes of an access, and why: to be shown to people.

use core::fmt;

use super::Remapper;
use super::index::Entry;
use super::reason::Reason;
use super::touched::Touched;
use crate::access::{Access, Lanes};
use crate::address::{Bdf, Guest, Host};

/// What becomes of an access, and why. It prints as one line; in the alternate form (`{:#}`) as a line for each part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// What the guest accesses.
    pub access: Guest<Access>,
    /// What is there.
    pub found: Found,
}

/// What is at a guest address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// What the hardware has there: the access is passed through.
    Untouched,
    /// What the hardware has on a bus of another number, as the guest numbers buses itself.
    Elsewhere(Host<Bdf>),
    /// Nothing.
    Nothing(Absence),
    /// A function the plan touches, or a Virtual Function of one that moved.
    Function {
        /// The function.
        host: Host<Bdf>,
        /// How the DWORD answers.
        register: Register,
        /// Whether a reset made the function forget its BARs, so that a replay comes with the next write.
        is_replay_due: bool,
    },
}

/// Why nothing is at a guest address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// The function that is there in hardware is found here.
    Moved(Guest<Bdf>),
    /// The function that is there in hardware is hidden.
    Hidden,
    /// Nothing is wired there, and a function that ignores its number would answer.
    NotWired,
    /// No bridge leads to the bus now.
    NoBus,
}

/// The rule of a DWORD, in the lanes of the access. Bits are those of the DWORD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register {
    /// Bits the guest reads from hardware.
    pub from_hardware: u32,
    /// Those of them that hold Routing IDs, which the guest reads as its own.
    pub requesters: u32,
    /// What the guest reads in the others: the shadow.
    pub shadow: u32,
    /// Bits of a write that reach hardware.
    pub to_hardware: u32,
    /// Bits that are ones in hardware, whatever the guest writes beside them.
    pub held: u32,
    /// Bits of a write that change the shadow.
    pub to_shadow: u32,
    /// Why; `None` for a register that is the hardware's.
    pub reason: Option<Reason>,
}

impl<const F: usize> Remapper<F> {
    /// What becomes of an access now, and why.
    pub fn explain(&self, access: Guest<Access>) -> Explanation {
        let function = access.map(Access::function);
        let found = match self.index.entry(function) {
            Entry::Plain => Found::Untouched,
            Entry::Elsewhere => Found::Elsewhere(self.elsewhere(function)),
            Entry::Absent => Found::Nothing(self.absence(function)),
            Entry::Touched(index) => {
                let touched = self.functions.get(index);
                touched.map_or(Found::Untouched, |touched| touched.explain(Host(touched.host), access.0))
            }
            Entry::Virtual(number) => match self.virtual_function(number, function) {
                Some((all, host)) => all.explain(host, access.0),
                None => Found::Untouched,
            },
        };
        Explanation { access, found }
    }

    fn absence(&self, function: Guest<Bdf>) -> Absence {
        let Some(place) = self.index.on_hardware(function) else { return Absence::NoBus };
        let is_there = |touched: &&Touched| touched.host == place.0 && !touched.is_inert;
        match self.functions.iter().find(is_there).map(|touched| touched.guest) {
            Some(Some(guest)) => Absence::Moved(Guest(guest)),
            Some(None) => Absence::Hidden,
            None => Absence::NotWired,
        }
    }
}

impl Touched {
    fn explain(&self, host: Host<Bdf>, access: Access) -> Found {
        let rule = self.rules.of(access.dword());
        let lanes = access.lanes();
        let register = Register {
            from_hardware: rule.from_hardware & lanes.mask(),
            requesters: rule.requesters() & lanes.mask(),
            shadow: rule.shadow & lanes.mask(),
            to_hardware: rule.to_hardware & lanes.mask(),
            held: rule.hold & rule.written_lanes(lanes).map_or(0, Lanes::mask),
            to_shadow: rule.writable & lanes.mask(),
            reason: rule.reason,
        };
        Found::Function { host, register, is_replay_due: self.has_forgotten }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Guest(access) = self.access;
        let next = if f.alternate() { "\n  " } else { "; " };
        write!(f, "{access}: ")?;
        match self.found {
            Found::Untouched => f.write_str("passed through, as the plan does not touch the function"),
            Found::Elsewhere(host) => write!(f, "passed on to {host}: the guest numbers buses itself"),
            Found::Nothing(absence) => write!(f, "nothing: {absence}"),
            Found::Function { host, register, is_replay_due } => {
                write!(f, "of {host}")?;
                if is_replay_due {
                    write!(f, "{next}it was reset, and gets back what it forgot with the next write")?;
                }
                let of = access.lanes().mask();
                let Register { from_hardware, requesters, shadow, to_hardware, held, to_shadow, reason } = register;
                if from_hardware != of {
                    write!(f, "{next}read from the shadow, {shadow:08x}: {}", Bits { bits: of & !from_hardware, of })?;
                }
                let others = [
                    ("read from hardware", from_hardware & !requesters),
                    ("read as Routing IDs of the guest", requesters),
                    ("written to the shadow", to_shadow),
                    ("written to hardware", to_hardware),
                    ("held at one in hardware", held),
                    ("not writable", of & !to_hardware & !to_shadow),
                ];
                for (what, bits) in others.into_iter().filter(|(_, bits)| *bits != 0) {
                    write!(f, "{next}{what}: {}", Bits { bits, of })?;
                }
                match reason {
                    Some(reason) => write!(f, "{next}why: {reason}"),
                    None => write!(f, "{next}why: no rule is about the register"),
                }
            }
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved(guest) => write!(f, "the function is found at {guest}"),
            Self::Hidden => f.write_str("the function is hidden"),
            Self::NotWired => f.write_str(
                "nothing is wired there, and a function that ignores its number would answer (7.3.1; Linux's \
                 only_one_child)",
            ),
            Self::NoBus => f.write_str("no bridge leads to the bus"),
        }
    }
}

/// Bits of a DWORD as the specification writes them: `31:16, 8, 2:0`.
struct Bits {
    bits: u32,
    /// Those there are.
    of: u32,
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == self.of {
            return f.write_str("all bits");
        }
        let mut left = self.bits;
        let mut separator = if left.is_power_of_two() { "bit " } else { "bits " };
        while left != 0 {
            // The highest run of ones: from the highest bit down to the highest zero below it.
            let high = 31_u32.saturating_sub(left.leading_zeros());
            let run = left.wrapping_shl(left.leading_zeros()).leading_ones();
            let low = high.saturating_sub(run.saturating_sub(1));
            f.write_str(separator)?;
            write!(f, "{high}")?;
            if low != high {
                write!(f, ":{low}")?;
            }
            left &= 1_u32.wrapping_shl(low).wrapping_sub(1);
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn bits_are_written_as_the_specification_does() {
        let written = |bits| Bits { bits, of: !0 }.to_string();
        assert_eq!(written(0xffff_0107), "bits 31:16, 8, 2:0");
        assert_eq!(written(1), "bit 0");
        assert_eq!(written(0x8000_0001), "bits 31, 0");
        assert_eq!(written(!0), "all bits");
        assert_eq!(Bits { bits: 0xff, of: 0xffff }.to_string(), "bits 7:0");
    }
}
