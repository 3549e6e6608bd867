//! Finding room in an address space.

use std::vec::Vec;

use crate::address::Span;

/// Largest address 32 bits hold.
pub(super) const LAST_32: u64 = 0xffff_ffff;

/// Rounds up to a power of two; `None` past the end of the space or when `align` is none.
pub(super) fn align_up(address: u64, align: u64) -> Option<u64> {
    if !align.is_power_of_two() {
        return None;
    }
    address.checked_add(align - 1).map(|sum| sum & !(align - 1))
}

/// The lowest place in `within` for `size` bytes that overlaps nothing `taken`; `align` moves a start to where it may
/// be (never down).
pub(super) fn lowest_fit(within: Span, size: u64, taken: &[Span], align: impl Fn(u64) -> Option<u64>) -> Option<Span> {
    let mut start = align(within.start())?;
    // Each round steps over one of the spans taken.
    for _ in 0..=taken.len() {
        let span = Span::new(start, size).filter(|span| within.covers(*span))?;
        let Some(beyond) = taken.iter().filter(|other| other.overlaps(span)).map(|other| other.last()).max() else {
            return Some(span);
        };
        start = align(beyond.checked_add(1)?)?;
    }
    None
}

/// Bits 31:0 and 63:32 of an address.
pub(super) fn halves(address: u64) -> [u32; 2] {
    let half = |bits: u64| u32::try_from(bits).unwrap_or(u32::MAX);
    [half(address & LAST_32), half(address >> 32)]
}

/// Items sorted by falling alignment, equals in their order: what all guests place first is what is hardest to place.
pub(super) fn hardest_first<T>(mut items: Vec<T>, align: impl Fn(&T) -> u64) -> Vec<T> {
    items.sort_by_key(|item| core::cmp::Reverse(align(item)));
    items
}
