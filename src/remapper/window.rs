//! A BAR of a moved or hidden function: what its registers ask for, and what the second stage has.

use super::Translation;
use super::pending::Stage;
use super::rule::Rules;
use super::state::Fingerprint;
use crate::access::Dword;
use crate::address::{Guest, Host, Span};
use crate::delta::{Backing, MapOp, Space};
use crate::spec::bar::{BarKind, ROM_ENABLE};
use crate::topology::MsiX;

/// Guest-physical addresses have at most 52 bits on every processor with a second stage.
const ADDRESS_LIMIT: u64 = 1 << 52;

/// A BAR of a touched function, or a part of one: what is mapped in one way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) kind: BarKind,
    /// Where the BAR register is, and the one with the upper half of a 64-bit address.
    pub(super) dword: Dword,
    pub(super) upper: Option<Dword>,
    /// What hardware decodes for all of the BAR.
    pub(super) bar: Host<Span>,
    /// The size of the BAR the guest finds, in bytes.
    pub(super) size: u64,
    /// Where this part starts in the BAR, and its length.
    pub(super) offset: u64,
    pub(super) len: u64,
    /// What the part is mapped to.
    pub(super) host: Host<Span>,
    pub(super) backing: Backing,
    /// The bit of Command that lets it decode; none where the guest does not have the BAR.
    pub(super) enable: u32,
    /// The highest address the BAR can have. None reaches the last byte of the space: that is a BAR being sized.
    pub(super) highest: u64,
    /// Where the registers put the BAR; 0 when they do not.
    pub(super) claim: u64,
    /// Where the part shall be: where the BAR claims to be, or nowhere (0) when an earlier window or a reserved range is
    /// there.
    pub(super) wanted: u64,
    /// Where it is; 0 for nowhere.
    pub(super) applied: u64,
}

/// Which bytes of a BAR cost an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trapped {
    None,
    All,
    /// Whole pages, as offsets into the BAR.
    Pages(u64, u64),
}

/// Most windows of one function: seven BARs, and two more where one has trapped pages inside.
pub(super) const MAX_WINDOWS: usize = 9;

impl Window {
    pub(super) const fn space(&self) -> Space {
        if self.kind.is_memory() { Space::Memory } else { Space::Io }
    }

    /// What the registers ask for: the address of the BAR. Zero is none, and neither is one above the highest.
    #[inline]
    pub(super) fn claim_of(&self, rules: &Rules, command: u32) -> u64 {
        if command & self.enable == 0 {
            return 0;
        }
        let low = rules.shadow(self.dword);
        if self.kind == BarKind::Rom && low & ROM_ENABLE == 0 {
            return 0;
        }
        let high = self.upper.map_or(0, |upper| rules.shadow(upper));
        let base = u64::from(high) << 32 | u64::from(low & !self.kind.type_mask());
        if base <= self.highest { base } else { 0 }
    }

    /// Wants the part to be where the BAR claims to be, or nowhere.
    #[inline]
    pub(super) const fn want(&mut self, is_free: bool) {
        self.wanted = if is_free && self.claim != 0 { self.claim.wrapping_add(self.offset) } else { 0 };
    }

    /// The highest address a BAR of this kind and size can have.
    pub(super) fn highest(kind: BarKind, size: u64) -> u64 {
        let limit = if kind.is_64_bit() { ADDRESS_LIMIT } else { 1 << 32 };
        u64::saturating_sub(limit, size).saturating_sub(1)
    }

    /// All of the BAR, where the registers put it.
    #[inline]
    pub(super) const fn claimed(&self) -> Option<Span> {
        if self.claim == 0 { None } else { Some(Span::of(self.claim, self.size)) }
    }

    /// Whether the BAR claims an address of the span.
    #[inline]
    pub(super) fn claims(&self, space: Space, span: Span) -> bool {
        self.space() == space && self.claimed().is_some_and(|claim| claim.overlaps(span))
    }

    /// The guest addresses of the window when it is at `base`, if that is somewhere.
    pub(super) const fn span_at(&self, base: u64) -> Option<Span> {
        if base == 0 { None } else { Some(Span::of(base, self.len)) }
    }

    /// Whether it is still where it shall not be.
    #[inline]
    pub(super) const fn is_stale(&self) -> bool {
        self.applied != 0 && self.applied != self.wanted
    }

    /// The change that is due in a stage.
    #[inline]
    pub(super) fn change(&self, stage: Stage) -> MapOp {
        let space = self.space();
        match stage {
            Stage::Conceal => MapOp::Conceal { guest: Guest(self.bar.0), space },
            Stage::Unmap => MapOp::Unmap { guest: Guest(Span::of(self.applied, self.len)), space },
            Stage::Map => MapOp::Map {
                guest: Guest(Span::of(self.wanted, self.len)),
                host: self.host,
                space,
                backing: self.backing,
                prefetchable: self.kind.is_prefetchable(),
            },
        }
    }

    /// Takes note of a change that is in force.
    #[inline]
    pub(super) const fn confirm(&mut self, stage: Stage) {
        match stage {
            Stage::Conceal => {}
            Stage::Unmap => self.applied = 0,
            Stage::Map => self.applied = self.wanted,
        }
    }

    /// Where hardware has the byte the guest finds at this address, if it is in the window.
    pub(super) fn translate(&self, guest: u64) -> Option<Translation> {
        let span = self.span_at(self.applied)?;
        if !span.contains(guest) {
            return None;
        }
        let offset = self.offset.wrapping_add(guest.wrapping_sub(span.start()));
        let Host(bar) = self.bar;
        // The guest's BAR may be longer than what hardware decodes.
        Some(if offset < bar.len() {
            Translation::Host(Host(bar.start().wrapping_add(offset)))
        } else {
            Translation::Absent
        })
    }

    pub(super) fn identify(&self, fingerprint: &mut Fingerprint) {
        let Self {
            kind,
            dword,
            upper,
            bar,
            size,
            offset,
            len,
            host,
            backing,
            enable,
            highest,
            // They follow from the registers.
            claim: _,
            wanted: _,
            // It is the second stage's.
            applied: _,
        } = *self;
        fingerprint.add(kind.type_bits());
        fingerprint.add(kind.type_mask());
        fingerprint.add(dword.index());
        fingerprint.add(upper.map_or(u16::MAX, Dword::index));
        fingerprint.add_span(bar.0);
        fingerprint.add(size);
        fingerprint.add(offset);
        fingerprint.add(len);
        fingerprint.add_span(host.0);
        fingerprint.add(backing == Backing::Trapped);
        fingerprint.add(enable);
        fingerprint.add(highest);
    }
}

impl Trapped {
    /// The parts of a BAR of this size that are mapped in one way each: offset, length, and how.
    pub(super) fn parts(self, size: u64) -> impl Iterator<Item = (u64, u64, Backing)> {
        let (start, end, inside) = match self {
            Self::None => (size, size, Backing::Direct),
            Self::All => (0, size, Backing::Trapped),
            Self::Pages(start, len) => (start, start.saturating_add(len).min(size), Backing::Trapped),
        };
        let parts = [(0, start, Backing::Direct), (start, end, inside), (end, size, Backing::Direct)];
        parts
            .into_iter()
            .map(|(start, end, backing)| (start, end.saturating_sub(start), backing))
            .filter(|(_, len, _)| *len != 0)
    }
}

/// The pages of a BAR its MSI-X Table touches.
pub(super) fn table_pages(table: MsiX, size: u64) -> Trapped {
    let start = table.offset & !0xfff;
    let end = table.offset.saturating_add(table.len).saturating_add(0xfff) & !0xfff;
    Trapped::Pages(start.min(size), end.min(size).saturating_sub(start))
}
