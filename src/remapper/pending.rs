//! Handing out the changes that are due: concealments and unmaps before any map.

use heapless::Vec;

use super::Remapper;
use super::touched::Touched;
use super::window::Window;
use crate::address::Span;
use crate::decision::WriteDecision;
use crate::delta::{MapOp, Space};

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
    /// The windows of it that are left, a bit for each.
    windows: u16,
    /// The window whose change was handed out last, if it was not confirmed.
    window: u8,
}

/// No window has this number.
const NONE: u8 = u8::MAX;

/// What is handed out, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Conceal,
    Unmap,
    Map,
}

/// Windows of one function with changes that are due, by stage; a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due([u16; 3]);

/// Functions with changes that are due.
#[derive(Debug, Clone)]
pub(super) struct Pending<const F: usize> {
    /// Each is in it once.
    functions: Vec<u8, F>,
    /// What may be due for one of them.
    any: Due,
}

impl Due {
    pub(super) const NOTHING: Self = Self([0; 3]);

    #[inline]
    pub(super) fn is_nothing(self) -> bool {
        self == Self::NOTHING
    }

    #[inline]
    const fn windows(self, stage: Stage) -> u16 {
        let Self([conceal, unmap, map]) = self;
        match stage {
            Stage::Conceal => conceal,
            Stage::Unmap => unmap,
            Stage::Map => map,
        }
    }

    #[inline]
    const fn windows_mut(&mut self, stage: Stage) -> &mut u16 {
        let Self([conceal, unmap, map]) = self;
        match stage {
            Stage::Conceal => conceal,
            Stage::Unmap => unmap,
            Stage::Map => map,
        }
    }

    pub(super) const fn add(&mut self, stage: Stage, window: u8) {
        *self.windows_mut(stage) |= bit(window);
    }

    #[inline]
    const fn remove(&mut self, stage: Stage, window: u8) {
        *self.windows_mut(stage) &= !bit(window);
    }

    /// What is to be concealed, without windows that come or go.
    #[inline]
    pub(super) const fn but_windows(self) -> Self {
        Self([self.windows(Stage::Conceal), 0, 0])
    }

    /// Notes whether a window is to come or to go.
    #[inline]
    pub(super) const fn add_window(&mut self, number: u8, window: &Window) {
        let Self([_, unmap, map]) = self;
        if window.applied == window.wanted {
            return;
        }
        if window.applied != 0 {
            *unmap |= bit(number);
        }
        if window.wanted != 0 {
            *map |= bit(number);
        }
    }
}

impl<const F: usize> Pending<F> {
    pub(super) const fn new() -> Self {
        Self { functions: Vec::new(), any: Due::NOTHING }
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.functions.clear();
        self.any = Due::NOTHING;
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    #[inline]
    pub(super) fn add(&mut self, function: usize, due: Due) {
        if due.is_nothing() {
            return;
        }
        for (any, due) in self.any.0.iter_mut().zip(due.0) {
            *any |= due;
        }
        let [function, ..] = function.to_le_bytes();
        if !self.functions.contains(&function) {
            // As long as the list of functions.
            let _ = self.functions.push(function);
        }
    }
}

impl<'r, const F: usize> MapDelta<'r, F> {
    #[inline]
    pub(super) fn new(remapper: &'r mut Remapper<F>) -> Self {
        Self { remapper, stage: Stage::Conceal, place: 0, function: 0, windows: 0, window: NONE }
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
        if self.windows == 0 && (self.remapper.pending.is_empty() || !self.enter_next_function()) {
            return None;
        }
        let [number, ..] = self.windows.trailing_zeros().to_le_bytes();
        self.windows &= self.windows.wrapping_sub(1);
        self.window = number;
        let window = self.remapper.functions.get(self.function)?.windows.get(usize::from(number))?;
        Some(window.change(self.stage))
    }

    /// The change handed out last is in force.
    #[inline]
    pub fn confirm(&mut self) {
        let number = core::mem::replace(&mut self.window, NONE);
        let Some(touched) = self.remapper.functions.get_mut(self.function) else { return };
        let Some(window) = touched.windows.get_mut(usize::from(number)) else { return };
        window.confirm(self.stage);
        touched.due.remove(self.stage, number);
        if touched.due.is_nothing() && self.remapper.pending.functions.len() == 1 {
            self.remapper.pending.clear();
        }
    }

    /// Goes on to the next function with changes of this stage, or of a later one.
    #[inline(never)]
    fn enter_next_function(&mut self) -> bool {
        loop {
            let pending = &self.remapper.pending;
            let next = if pending.any.windows(self.stage) == 0 { None } else { pending.functions.get(self.place) };
            if let Some(index) = next {
                self.place = self.place.wrapping_add(1);
                self.function = usize::from(*index);
                self.windows = self.remapper.ready(self.function, self.stage);
                if self.windows != 0 {
                    return true;
                }
                continue;
            }
            self.place = 0;
            self.stage = match self.stage {
                Stage::Conceal => Stage::Unmap,
                Stage::Unmap => Stage::Map,
                Stage::Map => break,
            };
        }
        self.remapper.forget_settled();
        false
    }
}

impl<const F: usize> Remapper<F> {
    /// The windows of a function of which changes of a stage can be handed out, a bit for each.
    #[inline]
    fn ready(&self, function: usize, stage: Stage) -> u16 {
        let Some(touched) = self.functions.get(function) else { return 0 };
        let due = touched.due.windows(stage);
        let may_wait = stage == Stage::Map && self.pending.any.windows(Stage::Unmap) != 0;
        if may_wait { due & !self.waiting(touched) } else { due }
    }

    /// The windows of a function whose place is still taken by one that could not be unmapped.
    #[cold]
    fn waiting(&self, touched: &Touched) -> u16 {
        let is_waiting = |window: &Window| {
            window.is_stale() || window.span_at(window.wanted).is_some_and(|span| self.is_stale(window.space(), span))
        };
        touched.windows.iter().rev().fold(0, |waiting, window| waiting << 1 | u16::from(is_waiting(window)))
    }

    /// Whether a window that shall go away, but is still there, has an address of the span.
    fn is_stale(&self, space: Space, span: Span) -> bool {
        let pending = self.pending.functions.iter().filter_map(|function| self.functions.get(usize::from(*function)));
        pending.flat_map(|touched| &touched.windows).any(|window| {
            window.is_stale()
                && window.space() == space
                && window.span_at(window.applied).is_some_and(|stale| stale.overlaps(span))
        })
    }

    /// Takes functions whose windows are what they shall be off the list.
    #[cold]
    fn forget_settled(&mut self) {
        let functions = &self.functions;
        let is_due = |index: &u8| functions.get(usize::from(*index)).is_some_and(|touched| !touched.due.is_nothing());
        self.pending.functions.retain(is_due);
        if self.pending.functions.is_empty() {
            self.pending.any = Due::NOTHING;
        }
    }
}

const fn bit(number: u8) -> u16 {
    1_u16.wrapping_shl(number as u32)
}
