//! Which functions have windows near each other, found without a look at the others.

use crate::address::{Guest, Span};
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
    pub(super) memory: Crowd<MEMORY_BLOCK>,
    pub(super) io: Ports,
}

/// The blocks of I/O Space.
pub(super) type Ports = Crowd<IO_BLOCK>;

/// By the number of the block, modulo their number. There are less than 256 functions.
#[derive(Debug, Clone)]
pub(super) struct Crowd<const BLOCK: u32>([u8; BLOCKS]);

impl Range {
    pub(super) const NONE: Self = Self { first: u64::MAX, last: 0 };

    /// Grows to all of the span. Whether it had some of it before, maybe; no means no.
    #[inline]
    pub(super) fn add(&mut self, span: Span) -> bool {
        if self.last < span.start() {
            // Most BARs lie in the order of their numbers.
            *self = Self { first: self.first.min(span.start()), last: span.last() };
            return false;
        }
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

    /// Whether both have some address; no means that no windows meet.
    pub(super) const fn overlaps(self, other: Self) -> bool {
        self.memory.meets(other.memory) || self.io.meets(other.io)
    }

    /// Whether some of these spans of memory may be in it; no means no.
    #[inline]
    pub(super) fn meets(self, spans: &[Guest<Span>]) -> bool {
        spans.iter().any(|Guest(span)| self.memory.meets((*span).into()))
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
}

impl<const BLOCK: u32> Crowd<BLOCK> {
    /// A function reaches there, and no longer where it did before. Whether others may be there, or were before; no means
    /// no.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "switching decoding on and off goes through here, and is counted")]
    pub(super) fn move_to(&mut self, range: Range, before: Range) -> bool {
        self.leave(before) | self.enter(range) != 0
    }

    /// One more is in the range. Zero when there were none.
    #[inline]
    fn enter(&mut self, range: Range) -> u8 {
        self.change(range, |count| {
            let others = *count;
            *count = count.wrapping_add(1);
            others
        })
    }

    /// One less is in the range. Zero when there are none left.
    #[inline]
    fn leave(&mut self, range: Range) -> u8 {
        self.change(range, |count| {
            *count = count.wrapping_sub(1);
            *count
        })
    }

    /// Changes the count of each block of the range; what that says of others there, put together.
    #[inline]
    fn change(&mut self, range: Range, change: impl Fn(&mut u8) -> u8) -> u8 {
        if range.last < range.first {
            return 0;
        }
        let [first, last] = [range.first, range.last].map(|address| usize::try_from(address >> BLOCK).unwrap_or(0));
        let mut change = |block: usize| self.0.get_mut(block % BLOCKS).map_or(0, &change);
        // Most functions fit into two.
        match last.wrapping_sub(first) {
            0 => change(first),
            1 => change(first) | change(last),
            _ => (first..=last).take(BLOCKS).fold(0, |others, block| others | change(block)),
        }
    }
}
