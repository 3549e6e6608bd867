//! A BAR of a moved or hidden function: what its registers ask for, and what the second stage has.

use super::Translation;
use super::pending::{Due, Slot};
use super::rule::{Place, Rules};
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
    pub(super) registers: Registers,
    /// The change that maps it.
    pub(super) mapping: Due,
    /// What hardware decodes for all of the BAR.
    pub(super) bar: Host<Span>,
    /// The size of the BAR the guest finds, in bytes.
    pub(super) size: u64,
    /// Whether it is the first part of a BAR in memory, and claims for all.
    pub(super) claims_memory: bool,
    /// This part, as offsets into the BAR.
    pub(super) part: Span,
    /// What the part is mapped to, and how.
    pub(super) host: Host<Span>,
    pub(super) space: Space,
    pub(super) backing: Backing,
    pub(super) prefetchable: bool,
    /// The bit of Command that lets it decode; none where the guest does not have the BAR.
    pub(super) enable: u32,
    /// The highest address the BAR can have. None reaches the last byte of the space: that is a BAR being sized.
    pub(super) highest: u64,
    /// Where the registers put the BAR; 0 when they do not.
    pub(super) claim: u64,
    /// Where it shall be: there, or nowhere (0) when an earlier window or a reserved range is there.
    pub(super) wanted: u64,
    /// Where it is, as far as this part goes; 0 for nowhere. With [`OUTGROWN`] the part had another end then.
    pub(super) applied: u64,
    /// That end, as an offset into the BAR, once something made the part go.
    pub(super) applied_last: u64,
}

/// In [`Window::applied`], where an address has a zero.
const OUTGROWN: u64 = 1;

/// Where the guest puts a BAR.
#[derive(Debug, Clone, Copy)]
pub(super) struct Registers {
    /// The BAR register, and the one with the upper half of a 64-bit address.
    pub(super) dword: Dword,
    pub(super) upper: Option<Dword>,
    /// Their rules, once all are declared.
    low: Place,
    high: Place,
    /// The bits of the address in the BAR register, and those without which there is none.
    address: u32,
    enable: u32,
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

impl Registers {
    pub(super) fn of(dword: Dword, kind: BarKind) -> Self {
        Self {
            dword,
            upper: dword.plus(1).filter(|_| kind.is_64_bit()),
            low: Place::PLAIN,
            high: Place::PLAIN,
            address: !kind.type_mask(),
            enable: if kind == BarKind::Rom { ROM_ENABLE } else { 0 },
        }
    }

    /// Finds the rules, so that they need not be looked for each time.
    pub(super) fn find(&mut self, rules: &Rules) {
        self.low = rules.place(self.dword);
        self.high = self.upper.map_or(Place::PLAIN, |upper| rules.place(upper));
    }

    /// The address they hold; zero is none.
    #[inline]
    fn read(&self, rules: &Rules) -> u64 {
        let low = rules.at(self.low).shadow;
        if low & self.enable != self.enable {
            return 0;
        }
        u64::from(rules.at(self.high).shadow) << 32 | u64::from(low & self.address)
    }

    fn identify(self, fingerprint: &mut Fingerprint) {
        // Where the rules are follows from where the registers are.
        let Self { dword, upper, low: _, high: _, address, enable } = self;
        fingerprint.add(dword.index());
        fingerprint.add(upper.map_or(u16::MAX, Dword::index));
        fingerprint.add(address);
        fingerprint.add(enable);
    }
}

impl Window {
    /// Takes over from the registers where the BAR is to be, and wants it there. No address is there without the
    /// decode enable of `command`, nor is one that is above the highest.
    #[inline]
    pub(super) fn claim(&mut self, rules: &Rules, command: u32) -> Option<Span> {
        let address = if command & self.enable == 0 { 0 } else { self.registers.read(rules) };
        if address == 0 || address > self.highest {
            self.claim = 0;
            self.wanted = 0;
            return None;
        }
        self.claim = address;
        self.wanted = address;
        Some(Span::of(address, self.size))
    }

    /// Wants the BAR to be where it claims to be, or nowhere.
    pub(super) const fn want(&mut self, is_free: bool) {
        self.note_applied_end();
        self.wanted = if is_free { self.claim } else { 0 };
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
        self.space == space && self.claimed().is_some_and(|claim| claim.overlaps(span))
    }

    /// The BAR is that of this many Virtual Functions from now on, of those there can be. What is applied stays as it is,
    /// and has to go first.
    pub(super) fn cover(&mut self, count: u16, total: u16) {
        self.note_applied_end();
        let each = self.bar.0.len().checked_div(total.into()).unwrap_or(0);
        let size = each.saturating_mul(count.into());
        if size == 0 || size == self.size {
            return;
        }
        if self.applied != 0 {
            self.applied |= OUTGROWN;
        }
        self.highest = self.highest.saturating_add(self.size).saturating_sub(size);
        self.size = size;
        self.part = Span::of(0, size);
        self.host = self.bar.map(|bar| Span::of(bar.start(), size));
    }

    /// The guest addresses of the part when the BAR is at `base`, if that is somewhere.
    pub(super) const fn span_at(&self, base: u64) -> Option<Span> {
        if base == 0 { None } else { Some(self.part_at(base)) }
    }

    #[inline]
    const fn part_at(&self, base: u64) -> Span {
        self.part.of_base(base)
    }

    /// What is applied ends where the part does now, unless it had another end then.
    const fn note_applied_end(&mut self) {
        if self.applied & OUTGROWN == 0 {
            self.applied_last = self.part.last();
        }
    }

    /// The guest addresses where it is.
    pub(super) const fn applied_span(&self) -> Option<Span> {
        match self.applied {
            0 => None,
            outgrown if outgrown & OUTGROWN != 0 => Some(self.leaving()),
            applied => Some(self.part_at(applied)),
        }
    }

    /// The same, where something made it go.
    #[inline]
    const fn leaving(&self) -> Span {
        self.part.until(self.applied_last).of_base(self.applied & !OUTGROWN)
    }

    /// Whether it is still where it shall not be.
    #[inline]
    pub(super) const fn is_stale(&self) -> bool {
        self.applied != 0 && self.applied != self.wanted
    }

    /// What a change comes to.
    #[inline]
    pub(super) const fn operation(&self, slot: Slot) -> MapOp {
        let Self { space, host, backing, prefetchable, .. } = *self;
        if slot.is_map() {
            MapOp::Map { guest: Guest(self.part_at(self.wanted)), host, space, backing, prefetchable }
        } else if slot.is_unmap() {
            MapOp::Unmap { guest: Guest(self.leaving()), space }
        } else {
            self.concealment()
        }
    }

    /// Only at the start.
    #[cold]
    #[inline(never)]
    const fn concealment(&self) -> MapOp {
        MapOp::Conceal { guest: Guest(self.bar.0), space: self.space }
    }

    /// Takes note of a change that is in force.
    #[inline]
    pub(super) const fn confirm(&mut self, slot: Slot) {
        if slot.is_map() {
            self.applied = self.wanted;
        } else if slot.is_unmap() {
            self.applied = 0;
        }
    }

    /// Where hardware has the byte the guest finds at this address, if it is in the window.
    pub(super) fn translate(&self, guest: u64) -> Option<Translation> {
        let span = self.applied_span()?;
        if !span.contains(guest) {
            return None;
        }
        let offset = self.part.start().wrapping_add(guest.wrapping_sub(span.start()));
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
            // It follows from the order.
            mapping: _,
            registers,
            bar,
            // They follow from the BAR, the registers and where parts start; of a VF BAR, also from how many there are.
            size: _,
            host: _,
            highest: _,
            claims_memory: _,
            part,
            space,
            backing,
            prefetchable,
            enable,
            // They follow from the registers.
            claim: _,
            wanted: _,
            // They are the second stage's.
            applied: _,
            applied_last: _,
        } = *self;
        registers.identify(fingerprint);
        fingerprint.add_span(bar.0);
        fingerprint.add(part.start());
        fingerprint.add(space == Space::Memory);
        fingerprint.add(backing == Backing::Trapped);
        fingerprint.add(prefetchable);
        fingerprint.add(enable);
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
