//! Handing out the changes that are due: concealments and unmaps before any map.

use super::Remapper;
use super::window::{Concealed, PARTS, Window};
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
    /// Place in the list of functions with changes.
    place: usize,
    window: usize,
    part: u8,
    /// Whether a window that shall go away is still there when windows appear.
    is_stale: bool,
    /// Where the change handed out last belongs.
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Conceal,
    Unmap,
    Map,
    Done,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    stage: Stage,
    function: usize,
    window: usize,
    part: u8,
}

impl<'r, const F: usize> MapDelta<'r, F> {
    #[inline]
    pub(super) fn new(remapper: &'r mut Remapper<F>) -> Self {
        Self { remapper, stage: Stage::Conceal, place: 0, window: 0, part: 0, is_stale: false, last: None }
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
        let Some(Last { stage, function, window, part }) = self.last.take() else { return };
        let window = self.remapper.functions.get_mut(function).and_then(|function| function.windows.get_mut(window));
        let Some(window) = window else { return };
        match stage {
            Stage::Conceal => window.concealed = Concealed::Applied,
            Stage::Unmap => window.confirm_unmap(part),
            Stage::Map => window.confirm_map(part),
            Stage::Done => {}
        }
    }

    fn advance(&mut self) -> Option<MapOp> {
        while self.stage != Stage::Done {
            while let Some(function) = self.remapper.pending.get(self.place).map(|index| usize::from(*index)) {
                let windows = self.remapper.functions.get(function).map_or(&[][..], |function| &function.windows);
                while let Some(window) = windows.get(self.window) {
                    if let Some(part) = self.due(window) {
                        self.last = Some(Last { stage: self.stage, function, window: self.window, part });
                        self.part = part.saturating_add(1);
                        return self.change(window, part);
                    }
                    self.window = self.window.saturating_add(1);
                    self.part = 0;
                }
                self.place = self.place.saturating_add(1);
                self.window = 0;
            }
            self.place = 0;
            self.stage = match self.stage {
                Stage::Conceal => Stage::Unmap,
                Stage::Unmap => {
                    self.is_stale = self.remapper.pending_windows().any(Window::is_stale);
                    Stage::Map
                }
                Stage::Map | Stage::Done => Stage::Done,
            };
        }
        self.remapper.forget_settled();
        None
    }

    /// The part of the window that is next in this stage.
    #[inline]
    fn due(&self, window: &Window) -> Option<u8> {
        match self.stage {
            // One change each: once handed out, the next look is at the next window.
            Stage::Conceal if self.part == 0 && window.concealed == Concealed::Wanted => Some(PARTS),
            Stage::Conceal | Stage::Done => None,
            Stage::Unmap => window.next_unmap(self.part),
            // A window whose place is still taken by one that could not be unmapped waits.
            Stage::Map => window.next_map(self.part).filter(|part| {
                !self.is_stale
                    || window.map(*part).is_none_or(|change| !self.remapper.is_stale(window, change.guest().0))
            }),
        }
    }

    #[inline]
    fn change(&self, window: &Window, part: u8) -> Option<MapOp> {
        match self.stage {
            Stage::Conceal => Some(window.conceal()),
            Stage::Unmap => window.unmap(part),
            Stage::Map => window.map(part),
            Stage::Done => None,
        }
    }
}
