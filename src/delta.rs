//! Changes of the second stage (EPT, NPT, Arm stage 2, KVM memory slots) and of the I/O port map.

use core::fmt;

use crate::address::{Guest, Host, Span};

/// PCI's two address spaces besides configuration space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Memory Space.
    Memory,
    /// I/O Space. It has no second stage: accesses are trapped and forwarded.
    Io,
}

/// How guest accesses to a window reach the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backing {
    /// By a second-stage mapping with device (uncacheable) memory type; no exits.
    Direct,
    /// By an exit for each access: forward it to the address [`Remapper::translate`](crate::Remapper::translate)
    /// gives. For BARs smaller than a page, MSI-X tables on request, and I/O ports.
    Trapped,
}

/// One change of what guest addresses mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum MapOp {
    /// The window goes away; restore what lies beneath: nothing where the range is concealed, else whatever the guest
    /// has there without this crate.
    Unmap {
        /// The window as the guest has it.
        guest: Guest<Span>,
        /// The space it is in.
        space: Space,
    },
    /// The guest shall find nothing here, at the host's own address of a moved or hidden function's BAR: reads are
    /// all ones, writes are dropped. It lies beneath every window. A page that is concealed only in part is trapped,
    /// and the rest of it forwarded unchanged.
    Conceal {
        /// Where an identity-mapped guest would find the BAR. Without identity mapping there is nothing to do.
        guest: Guest<Span>,
        /// The space it is in.
        space: Space,
    },
    /// The guest shall find this part of a moved function's BAR here.
    Map {
        /// The window as the guest has it. For a trapped window it may be longer than `host`; nothing is behind
        /// the rest.
        guest: Guest<Span>,
        /// What hardware decodes.
        host: Host<Span>,
        /// The space both are in.
        space: Space,
        /// By a mapping or by exits.
        backing: Backing,
        /// Whether the BAR is prefetchable; a hint for the memory type.
        prefetchable: bool,
    },
}

impl MapOp {
    /// The guest addresses the change is about.
    pub const fn guest(self) -> Guest<Span> {
        match self {
            Self::Unmap { guest, .. } | Self::Conceal { guest, .. } | Self::Map { guest, .. } => guest,
        }
    }

    /// The space the change is about.
    pub const fn space(self) -> Space {
        match self {
            Self::Unmap { space, .. } | Self::Conceal { space, .. } | Self::Map { space, .. } => space,
        }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "mem",
            Self::Io => "io",
        })
    }
}

impl fmt::Display for MapOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmap { guest, space } => write!(f, "unmap {space} {guest}"),
            Self::Conceal { guest, space } => write!(f, "conceal {space} {guest}"),
            Self::Map { guest, host, space, backing, .. } => {
                let how = if *backing == Backing::Trapped { " (trapped)" } else { "" };
                write!(f, "map {space} {guest} to {host}{how}")
            }
        }
    }
}
