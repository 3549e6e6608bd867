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
    pub(super) after_reset: AfterReset,
}

/// What a write has to do with a reset before it.
#[derive(Debug, Clone, Copy)]
pub(super) enum AfterReset {
    /// Nothing.
    Nothing,
    /// The function has forgotten something.
    Forgetful(u8),
    /// It ends the reset, and the guest does not wait for what was reset.
    Ends,
}

/// The changes of the second stage that are due, one after the other.
///
/// It is derived, not queued: the difference of what the registers say and what was [confirmed](Change::confirm). A change
/// that is not confirmed, because applying it failed or because the delta was dropped, is due again next time.
///
/// ```text
/// while let Some(change) = delta.next() {
///     if second_stage.apply(change.operation()) { change.confirm() }
/// }
/// ```
#[derive(Debug)]
#[must_use]
pub struct MapDelta<'r, const F: usize> {
    pub(super) remapper: &'r mut Remapper<F>,
    /// What is left of the function whose changes are handed out.
    left: Due,
}

/// One change of the second stage that is due, until it is [confirmed](Self::confirm).
#[derive(Debug)]
#[must_use]
pub struct Change<'d> {
    window: &'d mut Window,
    due: &'d mut Due,
    slot: Slot,
}

/// Which change of a function: the number of its bit in [`Due`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot(u8);

/// What is handed out, in this order. The number is where the bits of a stage start in [`Due`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Conceal = 0,
    Unmap = 16,
    Map = 32,
}

/// From the bit of a change to that of the same window in the stage before.
const STAGE: u32 = 16;

/// Windows of one function with changes that are due; a bit for each, and 16 for each stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due(u64);

/// Functions with changes that are due.
#[derive(Debug, Clone)]
pub(super) struct Pending<const F: usize> {
    /// Each is in it once.
    functions: Vec<u8, F>,
    /// What may be due for one of them.
    any: Due,
    /// What is handed out now, and of which function.
    stage: Stage,
    function: u8,
    /// Place in the list of the function that is next.
    place: u8,
}

impl Change<'_> {
    /// What to do.
    #[inline]
    pub const fn operation(&self) -> MapOp {
        self.window.operation(self.slot)
    }

    /// It is done.
    #[inline]
    pub const fn confirm(self) {
        self.window.confirm(self.slot);
        self.due.remove(self.slot);
    }
}

impl Slot {
    #[inline]
    pub(super) const fn is_map(self) -> bool {
        self.0 >= Stage::Map as u8
    }

    #[inline]
    pub(super) const fn is_unmap(self) -> bool {
        self.0 >= Stage::Unmap as u8 && !self.is_map()
    }

    #[inline]
    const fn window(self) -> usize {
        (self.0 & 0xf) as usize
    }
}

impl Due {
    pub(super) const NOTHING: Self = Self(0);

    #[inline]
    pub(super) const fn is_nothing(self) -> bool {
        self.0 == 0
    }

    /// The mapping of a window of this number.
    pub(super) const fn mapping(window: usize) -> Self {
        Self((1 << Stage::Map as u32) << (window & 0xf))
    }

    /// Notes that the host's BAR is to be concealed where this window is the first part of it.
    pub(super) const fn add_concealment(&mut self, window: &Window) {
        self.0 |= window.mapping.0 >> STAGE >> STAGE;
    }

    #[inline]
    const fn remove(&mut self, Slot(number): Slot) {
        self.0 &= !1_u64.wrapping_shl(number as u32);
    }

    /// Takes the first change out.
    #[inline]
    const fn take_first(&mut self) -> Slot {
        let [number, ..] = self.0.trailing_zeros().to_le_bytes();
        self.0 &= self.0.wrapping_sub(1);
        Slot(number)
    }

    /// What is due in a stage.
    #[inline]
    const fn of(self, stage: Stage) -> Self {
        Self(self.0 & 0xffff << stage as u32)
    }

    /// Whether something may have to be unmapped before something is mapped.
    #[inline]
    const fn may_wait(self) -> bool {
        !self.of(Stage::Unmap).is_nothing() && !self.of(Stage::Map).is_nothing()
    }

    /// What is to be concealed, without windows that come or go.
    #[inline]
    pub(super) const fn but_windows(self) -> Self {
        Self(self.0 & 0xffff)
    }

    /// Notes whether a window is to come or to go.
    #[inline]
    pub(super) const fn add_window(&mut self, window: &Window) {
        if window.applied == window.wanted {
            return;
        }
        if window.wanted != 0 {
            self.0 |= window.mapping.0;
        }
        if window.applied != 0 {
            self.0 |= window.mapping.0 >> STAGE;
        }
    }
}

impl<const F: usize> Pending<F> {
    pub(super) const fn new() -> Self {
        Self { functions: Vec::new(), any: Due::NOTHING, stage: Stage::Conceal, function: 0, place: 0 }
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.functions.clear();
        self.any = Due::NOTHING;
    }

    /// Begins with the first function.
    #[inline]
    const fn start(&mut self, stage: Stage) {
        self.stage = stage;
        self.place = 0;
    }

    /// The next function of the list.
    #[inline]
    fn next(&mut self) -> Option<u8> {
        let function = *self.functions.get(usize::from(self.place))?;
        self.pass(function);
        Some(function)
    }

    #[inline]
    const fn pass(&mut self, function: u8) {
        self.place = self.place.wrapping_add(1);
        self.function = function;
    }

    #[inline]
    fn is_at_start(&self) -> bool {
        self.place | self.stage as u8 == Stage::Conceal as u8
    }

    #[inline]
    pub(super) fn add(&mut self, function: usize, due: Due) {
        if due.is_nothing() {
            return;
        }
        self.any.0 |= due.0;
        let [function, ..] = function.to_le_bytes();
        if self.functions.is_empty() || !self.functions.contains(&function) {
            // As long as the list of functions.
            let _ = self.functions.push(function);
        }
    }
}

impl<'r, const F: usize> MapDelta<'r, F> {
    #[inline]
    pub(super) fn new(remapper: &'r mut Remapper<F>) -> Self {
        remapper.pending.start(Stage::Conceal);
        Self { remapper, left: Due::NOTHING }
    }

    /// Whether nothing is due.
    #[inline]
    pub fn is_empty(&self) -> bool {
        let due = |function: &u8| self.remapper.functions.get(usize::from(*function)).map(|touched| touched.due);
        self.remapper.pending.functions.iter().filter_map(due).all(Due::is_nothing)
    }

    /// The next change; `None` after the last. Each is handed out once.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot be told that its item was applied")]
    #[expect(clippy::inline_always, reason = "switching decoding on and off goes through here, and is counted")]
    #[inline(always)]
    pub fn next(&mut self) -> Option<Change<'_>> {
        if self.left.is_nothing() {
            self.left = self.remapper.next_changes();
            if self.left.is_nothing() {
                return None;
            }
        }
        let slot = self.left.take_first();
        let Touched { windows, due, .. } =
            self.remapper.functions.get_mut(usize::from(self.remapper.pending.function))?;
        Some(Change { window: windows.get_mut(slot.window())?, due, slot })
    }
}

impl<const F: usize> Remapper<F> {
    /// Goes on to the next function with changes: those of one stage, or all where none of them waits for another.
    #[inline]
    fn next_changes(&mut self) -> Due {
        // Most often there is but one.
        let function = match *self.pending.functions {
            [] => return Due::NOTHING,
            [function] => function,
            _ => return self.search_changes(),
        };
        let due = self.functions.get(usize::from(function)).map_or(Due::NOTHING, |touched| touched.due);
        if due.is_nothing() {
            self.pending.clear();
            return due;
        }
        if due.may_wait() || !self.pending.is_at_start() {
            return self.search_changes();
        }
        self.pending.start(Stage::Map);
        self.pending.pass(function);
        due
    }

    /// The same, where there may be several, or the first one's were handed out.
    #[inline(never)]
    fn search_changes(&mut self) -> Due {
        loop {
            let stage = self.pending.stage;
            while let Some(function) = self.pending.next().filter(|_| !self.pending.any.of(stage).is_nothing()) {
                let ready = self.ready(function, stage);
                if !ready.is_nothing() {
                    return ready;
                }
            }
            match stage {
                Stage::Conceal => self.pending.start(Stage::Unmap),
                Stage::Unmap => self.pending.start(Stage::Map),
                Stage::Map => break,
            }
        }
        self.forget_settled();
        Due::NOTHING
    }

    /// The changes of a stage that can be handed out for a function.
    #[inline]
    fn ready(&self, function: u8, stage: Stage) -> Due {
        let Some(touched) = self.functions.get(usize::from(function)) else { return Due::NOTHING };
        let due = touched.due.of(stage);
        let may_wait = stage == Stage::Map && !self.pending.any.of(Stage::Unmap).is_nothing();
        if may_wait { Due(due.0 & !self.waiting(touched).0) } else { due }
    }

    /// What cannot be mapped yet, as its place is still taken by a window that could not be unmapped.
    #[cold]
    fn waiting(&self, touched: &Touched) -> Due {
        let mut waiting = Due::NOTHING;
        for window in &touched.windows {
            let is_taken = |span| self.is_stale(window.space, span);
            if window.is_stale() || window.span_at(window.wanted).is_some_and(is_taken) {
                waiting.0 |= window.mapping.0;
            }
        }
        waiting
    }

    /// Whether a window that shall go away, but is still there, has an address of the span.
    fn is_stale(&self, space: Space, span: Span) -> bool {
        let pending = self.pending.functions.iter().filter_map(|function| self.functions.get(usize::from(*function)));
        pending.flat_map(|touched| &touched.windows).any(|window| {
            window.is_stale()
                && window.space == space
                && window.applied_span().is_some_and(|stale| stale.overlaps(span))
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
