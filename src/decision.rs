//! Answers: what to do with one access.
//!
//! Decisions are exhaustive on purpose: a new one must break every embedder.

use crate::access::Access;
use crate::address::Host;

/// What to do with a read.
///
/// ```text
/// Passthrough           => hardware.read(the same access)
/// Hide                  => !0
/// Emulate(value)        => value
/// Redirect{to, splice}  => splice.apply(hardware.read(to))
/// Requesters{to}        => remapper.requesters(to, hardware.read(to))
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum ReadDecision {
    /// Not ours: read the hardware at the address the guest used.
    Passthrough,
    /// Nothing is there: all ones, and no access to hardware.
    Hide,
    /// This value, and no access to hardware.
    Emulate(u32),
    /// Read the hardware there, and mix the answer with ours.
    Redirect {
        /// The access to make; its lanes may be more than the guest's.
        to: Host<Access>,
        /// Which bits of its answer count.
        splice: Splice,
    },
    /// Read the hardware there: it names who requested something by the host's Routing IDs, and
    /// [`Remapper::requesters`](crate::Remapper::requesters) puts the guest's in their place.
    Requesters {
        /// The access to make.
        to: Host<Access>,
    },
}

/// What to do with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum WriteDecision {
    /// Not ours: write to the hardware at the address the guest used.
    Passthrough,
    /// Nothing is there: no access to hardware.
    Hide,
    /// Taken note of, or dropped: no access to hardware.
    Emulate,
    /// Write this to the hardware there.
    Redirect {
        /// The access to make.
        to: Host<Access>,
        /// The value, in DWORD position; only the lanes of the access count.
        value: u32,
    },
}

/// Bits from hardware, the rest from the shadow. Where hardware does not answer nothing does: a guest that waits for a
/// function after a reset looks for an end of all ones, in Command too (Linux's `pci_dev_wait`). So that one byte tells
/// as much as four, what is shared is read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Splice {
    /// The bits that come from hardware.
    pub hardware: u32,
    /// The other bits; zero where `hardware` is set.
    pub shadow: u32,
}

impl Splice {
    /// Everything from hardware.
    pub const HARDWARE: Self = Self { hardware: !0, shadow: 0 };

    /// What the guest reads when hardware answers `raw`. All ones is no answer, and is passed on: no register that is
    /// shared reads so.
    #[inline]
    pub const fn apply(self, raw: u32) -> u32 {
        if raw == !0 { !0 } else { raw & self.hardware | self.shadow }
    }
}

/// A write the host makes on its own account, not because the guest wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct HostWrite {
    /// The access to make.
    pub to: Host<Access>,
    /// The value, in DWORD position; only the lanes of the access count.
    pub value: u32,
}
