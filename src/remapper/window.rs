//! One BAR of a moved or hidden function: what its registers ask for, and what the second stage has.

use super::Translation;
use super::pending::{Stage, bit};
use super::rule::Rules;
use crate::access::Dword;
use crate::address::{Guest, Host, Span};
use crate::delta::{Backing, MapOp, Space};
use crate::spec::bar::{BarKind, ROM_ENABLE};
use crate::spec::header::Command;
use crate::topology::MsiX;

/// Guest-physical addresses have at most 52 bits on every processor with a second stage.
const ADDRESS_LIMIT: u64 = 1 << 52;

/// A BAR of a touched function.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) kind: BarKind,
    /// Where the BAR register is.
    pub(super) dword: Dword,
    /// The size the guest finds, in bytes.
    pub(super) size: u64,
    /// What hardware decodes.
    pub(super) host: Host<Span>,
    /// Which bytes are trapped.
    pub(super) trapped: Trapped,
    /// Whether the guest has the BAR at all.
    pub(super) is_shown: bool,
    /// Whether the guest is to find nothing at the host's addresses, and whether that is so.
    pub(super) concealed: Concealed,
    /// Where the registers put it; 0 when they do not.
    pub(super) claim: u64,
    /// Where it shall be: at its claim, or nowhere (0) when an earlier window or a reserved range is there.
    pub(super) wanted: u64,
    /// Where it is; 0 for nowhere.
    pub(super) applied: u64,
    /// Which of its parts are there.
    pub(super) applied_parts: u8,
    /// Which parts it has.
    pub(super) parts: u8,
}

/// Which bytes of a window cost an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trapped {
    None,
    All,
    /// Whole pages, as offsets into the window.
    Pages(u64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concealed {
    Wanted,
    Applied,
}

/// A part of a window that is mapped in one way.
#[derive(Debug, Clone, Copy)]
struct Part {
    guest: Guest<Span>,
    host: Host<Span>,
    backing: Backing,
}

/// Most parts of one window: before, in and after trapped pages.
const PARTS: u8 = 3;

impl Window {
    pub(super) const fn space(&self) -> Space {
        if self.kind.is_memory() { Space::Memory } else { Space::Io }
    }

    /// What the registers of the function ask for. Zero is no address, and neither is one that leaves the space or
    /// reaches its last byte: a BAR that is being sized.
    pub(super) fn claim_of(&self, rules: &Rules, command: u32) -> u64 {
        let enable = match self.space() {
            Space::Memory => Command::MEMORY_SPACE_ENABLE,
            Space::Io => Command::IO_SPACE_ENABLE,
        };
        if !self.is_shown || command & u32::from(enable.bits()) == 0 {
            return 0;
        }
        let low = rules.shadow(self.dword);
        if self.kind == BarKind::Rom && low & ROM_ENABLE == 0 {
            return 0;
        }
        let high = match self.dword.plus(1) {
            Some(upper) if self.kind.is_64_bit() => u64::from(rules.shadow(upper)) << 32,
            _ => 0,
        };
        let base = high | u64::from(low & !self.kind.type_mask());
        let limit = match self.kind {
            BarKind::Memory64 { .. } => ADDRESS_LIMIT,
            BarKind::Memory32 { .. } | BarKind::Rom | BarKind::Io => 1 << 32,
        };
        match base.checked_add(self.size) {
            Some(end) if end < limit => base,
            _ => 0,
        }
    }

    /// The guest addresses of the window when it is at `base`, if that is somewhere.
    pub(super) fn span_at(&self, base: u64) -> Option<Span> {
        if base == 0 { None } else { Span::new(base, self.size) }
    }

    /// Whether the window claims an address of the span.
    pub(super) fn claims(&self, space: Space, span: Span) -> bool {
        self.space() == space && self.span_at(self.claim).is_some_and(|claim| claim.overlaps(span))
    }

    /// Whether it is still where it shall not be.
    #[inline]
    pub(super) const fn is_stale(&self) -> bool {
        self.applied != 0 && self.applied != self.wanted
    }

    /// Whether it is not all where it shall be.
    #[inline]
    pub(super) const fn is_missing(&self) -> bool {
        self.wanted != 0 && (self.applied != self.wanted || self.applied_parts != self.parts)
    }

    /// The parts with a change in a stage, a bit for each. A window that was not unmapped is not mapped elsewhere.
    pub(super) const fn parts_due(&self, stage: Stage) -> u8 {
        match stage {
            Stage::Conceal => 1,
            Stage::Unmap => self.applied_parts,
            Stage::Map if self.is_stale() => 0,
            Stage::Map => self.parts & !self.applied_parts,
        }
    }

    /// The change of a part in a stage.
    #[inline]
    pub(super) fn change(&self, stage: Stage, part: u8) -> Option<MapOp> {
        let space = self.space();
        match stage {
            Stage::Conceal => Some(MapOp::Conceal { guest: Guest(self.host.0), space }),
            Stage::Unmap => {
                let Part { guest, .. } = self.part(part, self.applied)?;
                Some(MapOp::Unmap { guest, space })
            }
            Stage::Map => {
                let Part { guest, host, backing } = self.part(part, self.wanted)?;
                let prefetchable = self.kind.is_prefetchable();
                Some(MapOp::Map { guest, host, space, backing, prefetchable })
            }
        }
    }

    /// Takes note of a change that is in force. Whether it was the last of the window in this stage.
    #[inline]
    pub(super) const fn confirm(&mut self, stage: Stage, part: u8) -> bool {
        match stage {
            Stage::Conceal => {
                self.concealed = Concealed::Applied;
                true
            }
            Stage::Unmap => {
                self.applied_parts &= !bit(part);
                let is_last = self.applied_parts == 0;
                if is_last {
                    self.applied = 0;
                }
                is_last
            }
            Stage::Map => {
                self.applied = self.wanted;
                self.applied_parts |= bit(part);
                self.applied_parts == self.parts
            }
        }
    }

    /// Where hardware has the byte the guest finds at this address, if it is in the window.
    pub(super) fn translate(&self, guest: u64) -> Option<Translation> {
        let span = self.span_at(self.applied)?;
        if !span.contains(guest) {
            return None;
        }
        let offset = guest.wrapping_sub(span.start());
        let Host(host) = self.host;
        // The guest's window may be longer than what hardware decodes.
        Some(if offset < host.len() {
            Translation::Host(Host(host.start().wrapping_add(offset)))
        } else {
            Translation::Absent
        })
    }

    /// The parts there are, wherever the window is.
    pub(super) fn all_parts(&self) -> u8 {
        (0..PARTS).filter(|part| self.part(*part, 0).is_some()).fold(0, |parts, part| parts | bit(part))
    }

    fn part(&self, part: u8, base: u64) -> Option<Part> {
        let (offset, len, backing) = match (self.trapped, part) {
            (Trapped::None, 0) => (0, self.size, Backing::Direct),
            (Trapped::All, 0) => (0, self.size, Backing::Trapped),
            (Trapped::Pages(start, _), 0) => (0, start, Backing::Direct),
            (Trapped::Pages(start, len), 1) => (start, len, Backing::Trapped),
            (Trapped::Pages(start, len), 2) => {
                let end = start.saturating_add(len);
                (end, self.size.saturating_sub(end), Backing::Direct)
            }
            _ => return None,
        };
        let Host(host) = self.host;
        let host_len = match backing {
            Backing::Direct => len,
            Backing::Trapped => len.min(host.len().saturating_sub(offset)),
        };
        Some(Part {
            guest: Guest(Span::new(base.checked_add(offset)?, len)?),
            host: Host(Span::new(host.start().checked_add(offset)?, host_len)?),
            backing,
        })
    }
}

/// The pages of a BAR its MSI-X Table touches.
pub(super) fn table_pages(table: MsiX, size: u64) -> Trapped {
    let start = table.offset & !0xfff;
    let end = table.offset.saturating_add(table.len).saturating_add(0xfff) & !0xfff;
    Trapped::Pages(start.min(size), end.min(size).saturating_sub(start))
}
