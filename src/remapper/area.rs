//! Which functions have windows near a range, found without a look at each window.

use crate::address::Span;

/// Bits of an address below a block of 2 MiB. The blocks of the 52-bit space have numbers of 31 bits.
const BLOCK: u32 = 21;

/// The first and the last block each of `F` functions claims; the last is less than the first where there is none.
///
/// They are columns of signed numbers, as every processor compares many of those at once.
#[derive(Debug, Clone)]
pub(super) struct Areas<const F: usize> {
    first: [i32; F],
    last: [i32; F],
}

impl<const F: usize> Areas<F> {
    pub(super) const fn new() -> Self {
        Self { first: [i32::MAX; F], last: [-1; F] }
    }

    /// The function claims nothing outside of `reach`.
    pub(super) fn set(&mut self, function: usize, reach: Option<Span>) {
        let (first, last) = reach.map_or((i32::MAX, -1), blocks);
        if let (Some(slot), Some(end)) = (self.first.get_mut(function), self.last.get_mut(function)) {
            (*slot, *end) = (first, last);
        }
    }

    /// Whether a function may claim an address of the span; no means no.
    #[inline]
    pub(super) fn are_near(&self, span: Span) -> bool {
        let (first, last) = blocks(span);
        // Without a branch for each, so that it is done for many at once.
        let near = self
            .first
            .iter()
            .zip(&self.last)
            .fold(0, |near, (start, end)| near | (i32::from(*start <= last) & i32::from(first <= *end)));
        near != 0
    }
}

fn blocks(span: Span) -> (i32, i32) {
    let block = |address: u64| i32::try_from(address >> BLOCK).unwrap_or(i32::MAX);
    (block(span.start()), block(span.last()))
}
