//! What software on a machine can touch: I/O ports, memory addresses, and the facts firmware tables tell.
//!
//! A guest of [`sim::guest`](super::guest) runs on anything that is a [`Platform`]: on the bare
//! [`Machine`](super::machine::Machine), or on a [`Vm`](super::vm::Vm), the same machine behind a remapper.

use std::ops::RangeInclusive;
use std::vec::Vec;

use crate::access::Width;
use crate::address::Span;
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
