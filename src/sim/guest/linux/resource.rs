//! `struct resource` as the PCI core uses it, and how `%pR` prints it.

use core::fmt;
use core::ops::Range;

use bitflags::bitflags;

use crate::address::Span;
use crate::spec::bar::BarKind;

/// BARs, ROM, VF BARs and bridge windows of a function.
pub(super) const COUNT: usize = 16;
/// `PCI_STD_RESOURCES`.
pub(super) const STD: Range<usize> = 0..6;
/// `PCI_ROM_RESOURCE`.
pub(super) const ROM: usize = 6;
/// `PCI_IOV_RESOURCES`.
pub(super) const IOV: Range<usize> = 7..13;
/// `PCI_BRIDGE_RESOURCES`.
pub(super) const BRIDGE: Range<usize> = 13..16;
/// `PCI_BRIDGE_IO_WINDOW`.
pub(super) const IO_WINDOW: usize = 13;
/// `PCI_BRIDGE_MEM_WINDOW`.
pub(super) const MEM_WINDOW: usize = 14;
/// `PCI_BRIDGE_PREF_MEM_WINDOW`.
pub(super) const PREF_WINDOW: usize = 15;

bitflags! {
    /// The `IORESOURCE_*` flags that matter here. None set: there is no such resource.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Flags: u8 {
        const IO = 1 << 0;
        const MEM = 1 << 1;
        const PREFETCH = 1 << 2;
        const MEM_64 = 1 << 3;
        /// No address assigned.
        const UNSET = 1 << 4;
        const ROM_ENABLE = 1 << 5;
        /// Of a host bridge.
        const WINDOW = 1 << 6;
    }
}

impl Flags {
    /// `IORESOURCE_TYPE_BITS`.
    pub(super) const TYPE: Self = Self::IO.union(Self::MEM);
}

/// Who contains a claimed resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parent {
    /// A window of a host bridge: its number, and that of the window.
    Root(usize, usize),
    /// A window of a bridge: the bridge's number, and the resource's.
    Window(usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Resource {
    pub(super) flags: Flags,
    pub(super) start: u64,
    pub(super) size: u64,
    /// Alignment, where it is not the size (windows, VF BARs).
    pub(super) align: Option<u64>,
    /// What is good to have besides (`realloc_head`), and the alignment with it.
    pub(super) optional: u64,
    pub(super) optional_align: u64,
    pub(super) parent: Option<Parent>,
}

impl Resource {
    pub(super) fn of_span(flags: Flags, span: Span) -> Self {
        Self { flags, start: span.start(), size: span.len(), ..Self::default() }
    }

    pub(super) fn exists(self) -> bool {
        !self.flags.is_empty()
    }

    pub(super) fn is_io(self) -> bool {
        self.flags.contains(Flags::IO)
    }

    /// The addresses; `None` when unset or past the end of the space.
    pub(super) fn span(self) -> Option<Span> {
        if self.exists() && !self.flags.contains(Flags::UNSET) { Span::new(self.start, self.size) } else { None }
    }

    /// Forgets the address and keeps the size.
    pub(super) fn unset(&mut self) {
        self.flags.insert(Flags::UNSET);
        self.start = 0;
    }

    /// `pci_resource_alignment`.
    pub(super) fn alignment(self) -> u64 {
        self.align.unwrap_or(self.size)
    }

    /// Its size with what is good to have.
    pub(super) fn most(self) -> u64 {
        self.size.saturating_add(self.optional)
    }

    /// As large as is good to have.
    pub(super) fn with_optional(self) -> Self {
        let align = self.align.map(|align| align.max(self.optional_align));
        Self { size: self.most(), align, optional: 0, optional_align: 0, ..self }
    }

    /// `resource_contains`.
    pub(super) fn contains(self, inner: Self) -> bool {
        let same_type = (self.flags ^ inner.flags) & Flags::TYPE == Flags::empty();
        same_type && matches!((self.span(), inner.span()), (Some(outer), Some(span)) if outer.covers(span))
    }

    /// The register's kind.
    pub(super) fn kind(self) -> BarKind {
        let prefetchable = self.flags.contains(Flags::PREFETCH);
        if self.is_io() {
            BarKind::Io
        } else if self.flags.contains(Flags::MEM_64) {
            BarKind::Memory64 { prefetchable }
        } else {
            BarKind::Memory32 { prefetchable }
        }
    }
}

impl From<BarKind> for Flags {
    fn from(kind: BarKind) -> Self {
        let mut flags = if kind.is_memory() { Self::MEM } else { Self::IO };
        flags.set(Self::PREFETCH, kind.is_prefetchable());
        flags.set(Self::MEM_64, kind.is_64_bit());
        flags
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = if self.is_io() { 6 } else { 10 };
        f.write_str(if self.is_io() { "[io  " } else { "[mem " })?;
        if self.flags.contains(Flags::UNSET) {
            write!(f, "size {:#0width$x}", self.size)?;
        } else {
            write!(f, "{:#0width$x}", self.start)?;
            if self.size != 1 {
                let last = self.start.wrapping_add(self.size).wrapping_sub(1);
                write!(f, "-{last:#0width$x}")?;
            }
        }
        for (flag, text) in [(Flags::MEM_64, " 64bit"), (Flags::PREFETCH, " pref"), (Flags::WINDOW, " window")] {
            if self.flags.contains(flag) {
                f.write_str(text)?;
            }
        }
        f.write_str("]")
    }
}
