//! What is worth a line in the embedder's log: values, counted, in a queue no guest can flood.

use core::fmt;

use heapless::Deque;

use super::Remapper;
use crate::access::Access;
use crate::address::{Bdf, Guest, Host, Span};
use crate::delta::Space;

/// Events that are kept until they are taken.
const MOST_EVENTS: usize = 16;

/// Something a guest did that nothing comes of, or that changes what is due. Reads change nothing and make none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The guest wrote to where nothing is. [`Remapper::explain`] knows why.
    WroteToNothing(Guest<Access>),
    /// The guest changed bits of a register that stays as it is in hardware; it reads back what it wrote.
    KeptFromHardware {
        /// The write.
        access: Guest<Access>,
        /// The bits of the DWORD that changed.
        changed: u32,
        /// Their value now.
        value: u32,
    },
    /// The guest placed a BAR where another window or a reserved range is: it is not mapped as long as that is so.
    WithoutPlace {
        /// Whose BAR it is.
        function: Host<Bdf>,
        /// Where the guest put it.
        guest: Guest<Span>,
        /// The space it is in.
        space: Space,
    },
    /// A reset made a function forget its BARs: its windows are gone until a replay.
    Forgot(Host<Bdf>),
}

/// How often there was an event of each kind, whether it was kept or not. Numbers stay at the highest there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// [`Event::WroteToNothing`].
    pub wrote_to_nothing: u32,
    /// [`Event::KeptFromHardware`].
    pub kept_from_hardware: u32,
    /// [`Event::WithoutPlace`]; each time it is found so.
    pub without_place: u32,
    /// [`Event::Forgot`].
    pub forgot: u32,
    /// Events of any kind that were not kept, as 16 were waiting to be taken.
    pub lost: u32,
}

/// Events that were not taken yet, and all there were.
#[derive(Debug, Clone)]
pub(super) struct Events {
    waiting: Deque<Event, MOST_EVENTS>,
    counts: EventCounts,
}

impl<const F: usize> Remapper<F> {
    /// Takes the oldest event that was not taken yet. When 16 wait, further ones are only counted.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.waiting.pop_front()
    }

    /// How often there was an event of each kind since the remapper was built.
    pub fn event_counts(&self) -> EventCounts {
        self.events.counts
    }
}

impl Events {
    pub(super) const fn new() -> Self {
        let counts = EventCounts { wrote_to_nothing: 0, kept_from_hardware: 0, without_place: 0, forgot: 0, lost: 0 };
        Self { waiting: Deque::new(), counts }
    }

    #[cold]
    pub(super) fn note(&mut self, event: Event) {
        let counts = &mut self.counts;
        let count = match event {
            Event::WroteToNothing(_) => &mut counts.wrote_to_nothing,
            Event::KeptFromHardware { .. } => &mut counts.kept_from_hardware,
            Event::WithoutPlace { .. } => &mut counts.without_place,
            Event::Forgot(_) => &mut counts.forgot,
        };
        *count = count.saturating_add(1);
        if self.waiting.push_back(event).is_err() {
            counts.lost = counts.lost.saturating_add(1);
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WroteToNothing(Guest(access)) => write!(f, "{access} was written, and nothing is there"),
            Self::KeptFromHardware { access: Guest(access), changed, value } => {
                write!(f, "{access} was written: of {changed:08x} now {value:08x}, and not so in hardware")
            }
            Self::WithoutPlace { function, guest, space } => {
                write!(f, "a BAR of {function} is at {space} {guest}, where something else is: it is not mapped")
            }
            Self::Forgot(function) => write!(f, "{function} was reset: a replay is due"),
        }
    }
}
