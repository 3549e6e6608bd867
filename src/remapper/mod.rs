//! The state machine: guest accesses in, decisions and map changes out.

mod area;
mod build;
mod bus_reset;
mod destination_port;
mod event;
mod explain;
mod express;
mod guarded_port;
mod in_place;
mod index;
mod inert;
mod lists;
mod moved;
mod pending;
mod port;
mod reason;
mod replay;
mod routing;
mod rule;
mod state;
mod touched;
mod virtual_functions;
mod window;

pub use event::{Event, EventCounts};
pub use explain::{Absence, Explanation, Found, Register};
pub use pending::{Change, MapDelta, WriteOutcome};
pub use reason::Reason;
pub use replay::{Replay, Replays};
pub use state::{RestoreError, SaveError};

use heapless::Vec;

use self::area::{Areas, Ports, Range, Reach};
use self::event::Events;
use self::index::{Entry, Index};
use self::pending::{AfterReset, Due, Pending};
use self::rule::{Effect, Rules};
use self::touched::Touched;
use self::virtual_functions::Followed;
use self::window::Window;
use crate::access::{Access, Dword};
use crate::address::{Bdf, Guest, Host, Span};
use crate::decision::{HostWrite, ReadDecision, Splice, WriteDecision};
use crate::delta::Space;
use crate::plan::{MAX_FOLLOWED, MAX_RESERVED};
use crate::spec::header::{self, Command};
use crate::spec::{power_management, type1};
use crate::topology::MAX_ROOT_WINDOWS;

/// One PCI segment group as one guest sees it, with room for `F` touched functions.
///
/// Reads decide and change nothing; writes may change what the guest's windows mean. The caller makes a replay where a
/// reset made a function forget, carries out the decision, applies the whole delta, then resumes the guest. A guest cannot
/// cause an error.
///
/// `F` counts moved and hidden functions, the ports they left or went behind, Root Complex Event Collectors on their bus,
/// and first functions of devices whose number of functions changes; 5 is enough for one move, 245 is the most. Virtual
/// Functions that follow count as one for each Physical Function.
#[derive(Debug, Clone)]
pub struct Remapper<const F: usize> {
    index: Index<F>,
    /// Moved functions first, in the order of the plan.
    functions: Vec<Touched, F>,
    /// Where each has windows.
    areas: Areas,
    /// Functions with windows that are not what they shall be.
    pending: Pending<F>,
    reserved: Vec<Guest<Span>, MAX_RESERVED>,
    /// Where bus numbers are virtual: the root buses.
    roots: Vec<u8, MAX_ROOT_WINDOWS>,
    followed: Vec<Followed, MAX_FOLLOWED>,
    /// Number of functions that have forgotten something.
    forgetful: usize,
    /// Number of resets there were; it wraps.
    resets: u32,
    /// Whether the write that is decided on ends one the guest does not wait for.
    ends_reset: bool,
    events: Events,
}

/// Where the bytes at a guest address are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translation {
    /// Not ours: whatever the guest has there without this crate.
    Untouched,
    /// Nothing is there: reads are all ones, writes are dropped.
    Absent,
    /// Hardware has it here.
    Host(Host<u64>),
}

/// Guest addresses, in Routing ID order, whose configuration accesses must reach the remapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrapRange {
    /// The first function.
    pub first: Guest<Bdf>,
    /// The last function.
    pub last: Guest<Bdf>,
}

impl<const F: usize> Default for Remapper<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const F: usize> Remapper<F> {
    /// A remapper that touches nothing: every access is pass-through.
    pub const fn new() -> Self {
        Self {
            index: Index::new(),
            functions: Vec::new(),
            areas: Areas::new(),
            pending: Pending::new(),
            reserved: Vec::new(),
            roots: Vec::new(),
            followed: Vec::new(),
            forgetful: 0,
            resets: 0,
            ends_reset: false,
            events: Events::new(),
        }
    }

    /// What to do with a read.
    #[inline]
    pub fn read(&self, access: Guest<Access>) -> ReadDecision {
        let Guest(access) = access;
        match self.index.entry(Guest(access.function())) {
            Entry::Plain => return ReadDecision::Passthrough,
            Entry::Absent => return ReadDecision::Hide,
            Entry::Elsewhere | Entry::Virtual(_) => {}
            Entry::Touched(index) => {
                let Some(touched) = self.functions.get(index) else { return ReadDecision::Passthrough };
                let rule = touched.rules.of(access.dword());
                if rule.is_read() {
                    return rule.read(access.of(touched.host));
                }
                if !rule.names_requesters() {
                    return ReadDecision::Emulate(rule.shadow);
                }
            }
        }
        self.read_rarely(access)
    }

    /// What to do with a write of these lanes of `value`, and what it changes.
    #[inline]
    pub fn write(&mut self, access: Guest<Access>, value: u32) -> WriteOutcome<'_, F> {
        if self.forgetful != 0 {
            return self.write_after_reset(access, value);
        }
        let mut decision = WriteDecision::Emulate;
        self.decide_write(access.0, value, &mut decision);
        WriteOutcome { decision, delta: MapDelta::new(self), after_reset: AfterReset::Nothing }
    }

    /// All changes that are due: at the start what conceals the host's own addresses and maps pre-assigned windows;
    /// later, what was not confirmed.
    pub fn pending(&mut self) -> MapDelta<'_, F> {
        MapDelta::new(self)
    }

    /// What the host writes before the guest starts: bridges on the way to moved functions forward, are awake, and
    /// signal nothing the guest cannot see.
    pub fn preparation(&self) -> impl Iterator<Item = HostWrite> {
        self.functions.iter().flat_map(|touched| touched.preparation.iter().map(|setting| setting.of(touched.host)))
    }

    /// The guest addresses whose configuration accesses must be trapped; all others never need an exit.
    /// [`Ecam::page`](crate::mechanism::Ecam::page) turns an address into a page.
    pub fn traps(&self) -> impl Iterator<Item = TrapRange> {
        // With virtual bus numbers, what an address means changes.
        let are_fixed = self.roots.is_empty();
        let is_plain = move |id| are_fixed && self.index.entry(Guest(Bdf::from_routing_id(id))) == Entry::Plain;
        let mut next = Some(0_u16);
        core::iter::from_fn(move || {
            let first = (next?..=u16::MAX).find(|id| !is_plain(*id))?;
            let end = (first..=u16::MAX).find(|id| is_plain(*id));
            next = end;
            let last = end.map_or(u16::MAX, |end| end.wrapping_sub(1));
            Some(TrapRange { first: Guest(Bdf::from_routing_id(first)), last: Guest(Bdf::from_routing_id(last)) })
        })
    }

    /// Where the byte at a guest address is, for accesses that were trapped. Follows what was confirmed.
    pub fn translate(&self, space: Space, guest: Guest<u64>) -> Translation {
        let Guest(address) = guest;
        let windows =
            || self.functions.iter().flat_map(|touched| &touched.windows).filter(|window| window.space == space);
        match windows().find_map(|window| window.translate(address)) {
            Some(translation) => translation,
            None if windows().any(|window| window.bar.0.contains(address)) => Translation::Absent,
            None => Translation::Untouched,
        }
    }

    /// A read of what the hardware has at another address, of a Virtual Function, or of a register that names requesters.
    #[cold]
    #[inline(never)]
    fn read_rarely(&self, access: Access) -> ReadDecision {
        let function = Guest(access.function());
        if let Some(number) = self.index.followed(function) {
            return self.read_virtual_function(number, access);
        }
        match self.index.entry(function) {
            Entry::Touched(index) => self.functions.get(index).map_or(ReadDecision::Passthrough, |touched| {
                touched.rules.of(access.dword()).read_requesters(access.of(touched.host))
            }),
            Entry::Plain | Entry::Absent | Entry::Elsewhere | Entry::Virtual(_) => {
                let to = self.elsewhere(function).map(|function| access.of(function));
                ReadDecision::Redirect { to, splice: Splice::HARDWARE }
            }
        }
    }

    /// Where the hardware has what the guest finds on a bus it knows by another number.
    fn elsewhere(&self, guest: Guest<Bdf>) -> Host<Bdf> {
        self.index.on_hardware(guest).unwrap_or(Host(guest.0))
    }

    #[inline(never)]
    fn decide_write(&mut self, access: Access, value: u32, decision: &mut WriteDecision) {
        // The code of what is not touched is no index.
        let index = usize::from(self.index.code(Guest(access.function())));
        match self.functions.get_mut(index).map(|touched| touched.note(access, value)) {
            None => self.decide_write_elsewhere(access, value, decision),
            Some(Noted::All) => {}
            Some(Noted::Changed(changed)) => self.write_on(index, access, value, changed, decision),
        }
    }

    #[inline(never)]
    fn decide_write_elsewhere(&mut self, access: Access, value: u32, decision: &mut WriteDecision) {
        *decision = match self.index.entry(Guest(access.function())) {
            Entry::Plain | Entry::Touched(_) => WriteDecision::Passthrough,
            Entry::Absent => self.write_to_nothing(access),
            Entry::Elsewhere => {
                let to = self.elsewhere(Guest(access.function())).map(|function| access.of(function));
                WriteDecision::Redirect { to, value }
            }
            Entry::Virtual(number) => self.write_virtual_function(number, access, value),
        };
    }

    #[cold]
    #[inline(never)]
    fn write_to_nothing(&mut self, access: Access) -> WriteDecision {
        self.events.note(Event::WroteToNothing(Guest(access)));
        WriteDecision::Hide
    }

    /// A write that reaches hardware or sets something off, after it changed these bits of the shadow.
    #[inline(never)]
    fn write_on(&mut self, index: usize, access: Access, value: u32, changed: u32, decision: &mut WriteDecision) {
        let Some(touched) = self.functions.get(index) else { return };
        let rule = touched.rules.of(access.dword());
        if let Some(redirected) = rule.write(access.of(touched.host), value) {
            *decision = redirected;
        }
        match rule.effect {
            Effect::None => {}
            Effect::Placing if !touched.is_decoding => {}
            Effect::Placing | Effect::Decoding => {
                if changed != 0 {
                    self.settle(index);
                }
            }
            effect => self.set_off(effect, index, access, value, changed, decision),
        }
    }

    /// What a write sets off besides a change of windows, after it changed these bits of the shadow.
    #[inline(never)]
    fn set_off(
        &mut self,
        effect: Effect,
        index: usize,
        access: Access,
        value: u32,
        changed: u32,
        decision: &mut WriteDecision,
    ) {
        let lanes = access.lanes().mask();
        match effect {
            Effect::VirtualFunctions if changed != 0 => self.settle_virtual_functions(index),
            Effect::BusNumbers if changed != 0 => self.renumber(),
            Effect::Guard if changed != 0 => self.note_guard(access, changed),
            Effect::None
            | Effect::Placing
            | Effect::Decoding
            | Effect::VirtualFunctions
            | Effect::BusNumbers
            | Effect::Guard => {}
            Effect::FunctionLevelReset | Effect::AdvancedFeaturesReset => {
                if changed != 0 {
                    self.note_guard(access, changed);
                }
                self.note_power(index, effect, value & lanes);
            }
            Effect::PowerState => {
                if lanes & power_management::POWER_STATE != 0 {
                    self.note_power(index, effect, value);
                }
            }
            Effect::SecondaryBusReset
            | Effect::LinkDisable
            | Effect::SlotPower
            | Effect::Containment
            | Effect::ContainmentEnd => {
                let mask = self.functions.get(index).map(|touched| touched.rules.of(access.dword()));
                let written = value & lanes & mask.map_or(0, |rule| rule.to_hardware | rule.writable);
                self.note_bus_reset(index, effect, access, written, decision);
            }
        }
    }

    /// The guest changed bits it shall not change in hardware.
    #[cold]
    fn note_guard(&mut self, access: Access, changed: u32) {
        let Entry::Touched(index) = self.index.entry(Guest(access.function())) else { return };
        let value = self.functions.get(index).map_or(0, |touched| touched.rules.shadow(access.dword())) & changed;
        self.events.note(Event::KeptFromHardware { access: Guest(access), changed, value });
    }

    /// Works out anew which bus each number means to the guest. Bridges come in the order of the host's addresses, so
    /// the one above is led to before those behind it.
    fn renumber(&mut self) {
        let roots = &self.roots;
        self.index.close_bridges(|bus| roots.contains(&bus));
        for touched in &self.functions {
            let Some((from, to)) = touched.leads else { continue };
            let [_, secondary, subordinate, _] = touched.rules.shadow(type1::BUS_NUMBERS).to_le_bytes();
            self.index.lead(from, to, secondary, subordinate);
        }
    }

    /// Works out anew where the windows of a function shall be, after one of its registers changed, and those of later
    /// functions where the two meet: of windows that overlap, the first in the order of the plan is served.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "switching decoding on and off goes through here, and is counted")]
    fn settle(&mut self, index: usize) {
        let Some(touched) = self.functions.get_mut(index) else { return };
        let before = touched.reach;
        let mut may_meet = touched.claim() | self.areas.memory.move_to(touched.reach.memory, before.memory);
        if touched.has_ports {
            may_meet |= touched.claim_ports(&mut self.areas.io);
        }
        if may_meet || !self.reserved.is_empty() && touched.reach.meets(&self.reserved) {
            let reach = touched.reach.with(before);
            self.settle_meeting(index, reach);
        } else {
            self.pending.add(index, touched.due);
        }
    }

    /// Gives the windows of a function their places, and those of later ones, where windows may meet in this reach.
    #[cold]
    fn settle_meeting(&mut self, index: usize, reach: Reach) {
        self.serve(index);
        for later in index.saturating_add(1)..self.functions.len() {
            if self.functions.get(later).is_some_and(|touched| touched.reach.overlaps(reach)) {
                self.serve(later);
            }
        }
    }

    /// Gives each window of a function the place it claims, unless a reserved range or an earlier window is there.
    fn serve(&mut self, index: usize) {
        let Some((earlier, [own, ..])) = self.functions.split_at_mut_checked(index) else { return };
        let reserved = &self.reserved;
        let is_taken = |space, span: Span| {
            space == Space::Memory && reserved.iter().any(|reserved| reserved.0.overlaps(span))
                || earlier.iter().any(|other| {
                    other.reach.may_have(space, span) && other.windows.iter().any(|window| window.claims(space, span))
                })
        };
        for number in 0..own.windows.len() {
            let Some((before, [window, ..])) = own.windows.split_at_mut_checked(number) else { break };
            let space = window.space;
            let comes_late = window.claimed().filter(|span| {
                before.iter().any(|other| other.registers.dword != window.registers.dword && other.claims(space, *span))
                    || is_taken(space, *span)
            });
            window.want(comes_late.is_none());
            if let Some(span) = comes_late.filter(|_| window.part.start() == 0) {
                let (function, guest) = (Host(own.host), Guest(span));
                self.events.note(Event::WithoutPlace { function, guest, space });
            }
        }
        own.due = own.due.but_windows();
        own.windows.iter().for_each(|window| own.due.add_window(window));
        self.pending.add(index, own.due);
    }
}

/// What is left of a write after the shadow took note of it.
enum Noted {
    /// Nothing.
    All,
    /// It may reach hardware, or set something off; these bits of the shadow changed.
    Changed(u32),
}

impl Touched {
    /// Takes a write into the shadow.
    #[inline]
    fn note(&mut self, access: Access, value: u32) -> Noted {
        let Some(rule) = self.rules.of_mut(access.dword()) else { return Noted::All };
        let changed = (value ^ rule.shadow) & rule.writable & access.lanes().mask();
        rule.shadow ^= changed;
        let is_quiet = rule.effect == Effect::None || rule.effect == Effect::Placing && !self.is_decoding;
        let stays_here = rule.written_lanes(access.lanes()).is_none();
        if is_quiet && stays_here { Noted::All } else { Noted::Changed(changed) }
    }

    /// Takes over from the registers where the windows shall be. Whether two of them may meet; no means no.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "switching decoding on and off goes through here, and is counted")]
    fn claim(&mut self) -> bool {
        let is_there = self.power.is_awake() && !self.has_forgotten;
        let command = if is_there { self.rules.shadow(header::COMMAND) } else { 0 };
        self.is_decoding = command & u32::from((Command::IO_SPACE_ENABLE | Command::MEMORY_SPACE_ENABLE).bits()) != 0;
        let mut claims = Claims::new(self.due);
        claims.add_all(&mut self.windows, &self.rules, command);
        self.due = claims.due;
        self.reach.memory = claims.memory;
        claims.meet
    }

    /// The same for windows of memory whose registers are another function's, which may always meet.
    fn claim_by(&mut self, rules: &Rules, command: u32) {
        let mut claims = Claims::new(self.due);
        claims.add_all(&mut self.windows, rules, command);
        self.reach.memory = claims.memory;
    }

    /// Where its ports are, once it is known where their windows shall be. Whether two of them may meet, or others; no
    /// means no.
    #[inline(never)]
    fn claim_ports(&mut self, others: &mut Ports) -> bool {
        let mut ports = Range::NONE;
        let spans = self.windows.iter().filter(|window| window.space == Space::Io).filter_map(Window::claimed);
        let meet = spans.fold(false, |meet, span| meet | ports.add(span));
        meet | others.move_to(ports, core::mem::replace(&mut self.reach.io, ports))
    }
}

/// Where the windows of a function claim to be.
struct Claims {
    /// What is due for that.
    due: Due,
    /// From the first to the last address in memory.
    memory: Range,
    /// Whether two of them may meet there; no means no.
    meet: bool,
}

impl Claims {
    #[inline]
    const fn new(due: Due) -> Self {
        Self { due: due.but_windows(), memory: Range::NONE, meet: false }
    }

    /// Adds all windows of a function, and has them where these registers say.
    #[inline]
    fn add_all(&mut self, windows: &mut [Window], rules: &Rules, command: u32) {
        for window in windows {
            let claim = window.claim(rules, command);
            self.due.add_window(window);
            // All parts of a BAR claim it together.
            if let Some(span) = claim
                && window.claims_memory
                && self.memory.add(span)
            {
                self.meet = true;
            }
        }
    }
}

/// What the remapper makes of functions, to be shown to people.
impl<const F: usize> Remapper<F> {
    /// Functions the guest finds elsewhere or not at all, or that answer differently than the hardware, and where.
    pub fn touched_functions(&self) -> impl Iterator<Item = (Host<Bdf>, Option<Guest<Bdf>>)> {
        let touched = self.functions.iter().enumerate();
        let touched =
            touched.filter(|(index, touched)| !touched.is_inert && !self.stands_for_virtual_functions(*index));
        touched.map(|(_, touched)| (Host(touched.host), touched.guest.map(Guest)))
    }

    /// The registers of a touched function that are not the hardware's alone, and the bits of each that still are.
    pub fn emulated_registers(&self, host: Host<Bdf>) -> impl Iterator<Item = (Dword, u32)> {
        let touched = self.functions.iter().find(move |touched| touched.host == host.0);
        touched.into_iter().flat_map(|touched| touched.rules.ruled()).map(|(dword, rule)| (dword, rule.from_hardware))
    }
}
