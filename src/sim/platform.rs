//! What software on a machine can touch: I/O ports, memory addresses, and the facts firmware tables tell.
//!
//! A guest of [`sim::guest`](super::guest) runs on anything that is a [`Platform`]: on the bare
//! [`Machine`](super::machine::Machine), or on a [`Vm`](super::vm::Vm), the same machine behind a remapper.

use core::time::Duration;
use std::ops::RangeInclusive;
use std::vec::Vec;

use crate::access::Width;
use crate::address::{Bdf, Span};
use crate::delta::Space;
use crate::mechanism::Ecam;

/// A machine as its processor sees it. Addresses are those of the software that runs.
pub trait Platform {
    /// What firmware tables say.
    fn firmware(&self) -> &Firmware;

    /// An `in` instruction. The value starts at bit 0; bytes nobody drives are all ones.
    fn port_read(&mut self, port: u16, width: Width) -> u32;

    /// An `out` instruction.
    fn port_write(&mut self, port: u16, width: Width, value: u32);

    /// A load. Bytes nobody drives are all ones.
    fn memory_read(&mut self, address: u64, width: Width) -> u32;

    /// A store.
    fn memory_write(&mut self, address: u64, width: Width, value: u32);

    /// Lets time pass: links train, functions get ready after a reset. Does nothing where no time is simulated.
    fn elapse(&mut self, _time: Duration) {}

    /// Suspend to RAM and the wake-up after it: everything but memory loses power, and firmware brings the machine up
    /// again before the software goes on. Does nothing where no power is simulated.
    fn suspend_to_ram(&mut self) {}

    /// Lets the function at an address signal its interrupt `vector`. The message that reaches the processors; `None`
    /// when none does, as the function may not signal or something on the way does not forward it.
    fn signal(&mut self, _function: Bdf, _vector: u16) -> Option<Message> {
        None
    }

    /// Lets the function at an address read and write `len` bytes of memory. Whether it could; it can where no DMA is
    /// simulated.
    fn transfer(&mut self, _function: Bdf, _len: u32) -> bool {
        true
    }
}

/// A Message Signaled Interrupt: a write that reaches the processors' interrupt controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub address: u64,
    /// What it says.
    pub data: u32,
}

/// What the ACPI tables (or a device tree) of one PCI segment group say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// Number of the segment group.
    pub segment: u16,
    /// Whether ports CF8h and CFCh reach this segment group: the first one of x86 machines.
    pub ports: bool,
    /// The ECAM window, from MCFG.
    pub ecam: Option<Ecam>,
    /// The host bridges, lowest bus first.
    pub roots: Vec<RootBridge>,
}

/// A host bridge: its buses, and the windows of its `_CRS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootBridge {
    /// The root bus and the buses below it.
    pub buses: RangeInclusive<u8>,
    /// The addresses it forwards.
    pub windows: Vec<RootWindow>,
}

/// One range of addresses a host bridge forwards. A root window takes prefetchable and other memory alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootWindow {
    /// The addresses.
    pub span: Span,
    /// The space they are in.
    pub space: Space,
}
