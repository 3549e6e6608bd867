//! Handing out the changes that are due: concealments and unmaps before any map.

use super::Remapper;
use crate::decision::WriteDecision;
use crate::delta::MapOp;

/// What a write comes to: [what a reset made the function forget](Self::replay), then the decision, then the delta.
#[derive(Debug)]
#[must_use]
pub struct WriteOutcome<'r, const F: usize> {
    /// What to do with the write.
    pub decision: WriteDecision,
    /// What to change in the second stage, before the guest runs again.
    pub delta: MapDelta<'r, F>,
    /// The function, if it has forgotten something.
    pub(super) forgetful: Option<u8>,
}

/// The changes of the second stage that are due, one after the other.
///
/// It is derived, not queued: the difference of what the registers say and what was [confirmed](Self::confirm). A change
/// that is not confirmed, because applying it failed or because the delta was dropped, is due again next time.
///
/// ```text
/// while let Some(change) = delta.next() {
///     if second_stage.apply(change) { delta.confirm() }
/// }
/// ```
#[derive(Debug)]
#[must_use]
pub struct MapDelta<'r, const F: usize> {
    pub(super) remapper: &'r mut Remapper<F>,
    stage: Stage,
    /// Place in the list of functions with changes, of the one that is next.
    place: usize,
    /// Where changes are handed out of now.
    function: usize,
    window: u8,
    /// What is left of it: parts of the window, windows of the function, a bit for each.
    parts: u8,
    windows: u8,
    /// Whether a window that shall go away is still there when windows appear.
    is_stale: bool,
    /// Where the change handed out last belongs.
    last: Option<Last>,
}

/// What is handed out, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Conceal,
    Unmap,
    Map,
}

/// Windows of one function with changes that are due, by stage; a bit for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) conceal: u8,
    pub(super) unmap: u8,
    pub(super) map: u8,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    stage: Stage,
    function: usize,
    window: u8,
    part: u8,
}

impl Due {
    pub(super) const fn is_empty(self) -> bool {
        self.conceal | self.unmap | self.map == 0
    }

    #[inline]
    const fn windows(&mut self, stage: Stage) -> &mut u8 {
        match stage {
            Stage::Conceal => &mut self.conceal,
            Stage::Unmap => &mut self.unmap,
            Stage::Map => &mut self.map,
        }
    }
}

impl<'r, const F: usize> MapDelta<'r, F> {
    #[inline]
    pub(super) fn new(remapper: &'r mut Remapper<F>) -> Self {
        Self {
            remapper,
            stage: Stage::Conceal,
            place: 0,
            function: 0,
            window: 0,
            parts: 0,
            windows: 0,
            is_stale: false,
            last: None,
        }
    }

    /// Whether nothing is due.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.remapper.pending.is_empty()
    }

    /// The next change; `None` after the last. Each is handed out once.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot be told that its item was applied")]
    #[inline]
    pub fn next(&mut self) -> Option<MapOp> {
        if self.remapper.pending.is_empty() { None } else { self.advance() }
    }

    /// The change handed out last is in force.
    pub fn confirm(&mut self) {
        let Some(Last { stage, function, window: number, part }) = self.last.take() else { return };
        let Some(touched) = self.remapper.functions.get_mut(function) else { return };
        let Some(window) = touched.windows.get_mut(usize::from(number)) else { return };
        if window.confirm(stage, part) {
            *touched.due.windows(stage) &= !bit(number);
        }
    }

    fn advance(&mut self) -> Option<MapOp> {
        while self.parts != 0 || self.enter_next_window() {
            let part = take_lowest(&mut self.parts);
            let window = self.remapper.functions.get(self.function)?.windows.get(usize::from(self.window))?;
            let Some(change) = window.change(self.stage, part) else { continue };
            // A window whose place is still taken by one that could not be unmapped waits.
            if self.is_stale && self.remapper.is_stale(window, change.guest().0) {
                continue;
            }
            self.last = Some(Last { stage: self.stage, function: self.function, window: self.window, part });
            return Some(change);
        }
        self.remapper.forget_settled();
        None
    }

    /// Goes on to the next window with changes of this stage, or of a later one.
    fn enter_next_window(&mut self) -> bool {
        while self.windows == 0 {
            if let Some(index) = self.remapper.pending.get(self.place) {
                self.place = self.place.saturating_add(1);
                self.function = usize::from(*index);
                let touched = self.remapper.functions.get_mut(self.function);
                self.windows = touched.map_or(0, |touched| *touched.due.windows(self.stage));
                continue;
            }
            self.stage = match self.stage {
                Stage::Conceal => Stage::Unmap,
                Stage::Unmap => Stage::Map,
                Stage::Map => return false,
            };
            self.place = 0;
            self.is_stale = self.stage == Stage::Map && self.remapper.is_any_stale();
        }
        self.window = take_lowest(&mut self.windows);
        let touched = self.remapper.functions.get(self.function);
        let window = touched.and_then(|touched| touched.windows.get(usize::from(self.window)));
        self.parts = window.map_or(0, |window| window.parts_due(self.stage));
        true
    }
}

/// Takes the lowest bit out of a set that has one.
#[inline]
const fn take_lowest(set: &mut u8) -> u8 {
    let [lowest, ..] = set.trailing_zeros().to_le_bytes();
    *set &= set.wrapping_sub(1);
    lowest
}

pub(super) const fn bit(number: u8) -> u8 {
    1_u8.wrapping_shl(number as u32)
}
