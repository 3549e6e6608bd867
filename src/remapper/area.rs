//! Which functions have windows near each other, found without a look at the others.

use crate::address::Span;
use crate::delta::Space;

/// Number of blocks of each space that are told apart; what lies further away counts as near.
const BLOCKS: usize = 1024;

/// Bits of an address below a block of memory: 2 MiB.
const MEMORY_BLOCK: u32 = 21;

/// Bits of a port number below a block of ports: 64.
const IO_BLOCK: u32 = 6;

/// From the first to the last address a function's windows claim; nothing when the last is less than the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    first: u64,
    last: u64,
}

/// The same of both spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) memory: Range,
    pub(super) io: Range,
}

/// How many functions reach into each block.
#[derive(Debug, Clone)]
pub(super) struct Areas {
    memory: Crowd<MEMORY_BLOCK>,
    io: Crowd<IO_BLOCK>,
}

/// By the number of the block, modulo their number. There are less than 256 functions.
#[derive(Debug, Clone)]
struct Crowd<const BLOCK: u32>([u8; BLOCKS]);

impl Range {
    pub(super) const NONE: Self = Self { first: u64::MAX, last: 0 };

    /// Grows to all of the span. Whether it had some of it before, maybe; no means no.
    #[inline]
    pub(super) fn add(&mut self, span: Span) -> bool {
        let had_some = self.meets(span.into());
        *self = self.with(span.into());
        had_some
    }

    #[inline]
    fn with(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    #[inline]
    pub(super) const fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl From<Span> for Range {
    #[inline]
    fn from(span: Span) -> Self {
        Self { first: span.start(), last: span.last() }
    }
}

impl Reach {
    pub(super) const NONE: Self = Self { memory: Range::NONE, io: Range::NONE };

    /// The smallest reach that has both.
    pub(super) fn with(self, other: Self) -> Self {
        Self { memory: self.memory.with(other.memory), io: self.io.with(other.io) }
    }

    pub(super) const fn meets(self, other: Self) -> bool {
        self.memory.meets(other.memory) || self.io.meets(other.io)
    }

    /// Whether some of the span may be in it; no means no.
    pub(super) fn may_have(self, space: Space, span: Span) -> bool {
        let range = if space == Space::Memory { self.memory } else { self.io };
        range.meets(span.into())
    }
}

impl Areas {
    pub(super) const fn new() -> Self {
        Self { memory: Crowd([0; BLOCKS]), io: Crowd([0; BLOCKS]) }
    }

    /// Another function reaches there. Whether one may that is already there; no means no.
    #[inline]
    pub(super) fn enter(&mut self, reach: Reach) -> bool {
        let enter = |count: &mut u8| {
            let others = *count;
            *count = count.wrapping_add(1);
            others
        };
        self.memory.change(reach.memory, enter) | self.io.change(reach.io, enter)
    }

    /// A function that reached there does no longer. Whether one may that stays; no means no.
    #[inline]
    pub(super) fn leave(&mut self, reach: Reach) -> bool {
        let leave = |count: &mut u8| {
            *count = count.wrapping_sub(1);
            *count
        };
        self.memory.change(reach.memory, leave) | self.io.change(reach.io, leave)
    }
}

impl<const BLOCK: u32> Crowd<BLOCK> {
    /// Changes the count of each block of the range; whether others were counted there.
    #[inline]
    fn change(&mut self, range: Range, change: impl Fn(&mut u8) -> u8) -> bool {
        if range.last < range.first {
            return false;
        }
        let [first, last] = [range.first, range.last].map(|address| usize::try_from(address >> BLOCK).unwrap_or(0));
        let start = first % BLOCKS;
        match last.wrapping_sub(first) {
            0 => self.0.get_mut(start).map_or(0, change) != 0,
            more => self.change_many(start, more.saturating_add(1).min(BLOCKS), change),
        }
    }

    #[inline(never)]
    fn change_many(&mut self, start: usize, count: usize, change: impl Fn(&mut u8) -> u8) -> bool {
        let beyond = start.saturating_add(count).saturating_sub(BLOCKS);
        let (before, from) = self.0.split_at_mut(start % BLOCKS);
        let counts = from.iter_mut().take(count).chain(before.iter_mut().take(beyond));
        counts.fold(0, |others, count| others | change(count)) != 0
    }
}
