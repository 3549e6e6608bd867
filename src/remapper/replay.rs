//! What a reset makes a function forget, and the replay that brings it back.
//!
//! A reset clears the registers the guest writes and those the host keeps for it alike. The guest's own, shadows among
//! them, it restores as it always does. The host's are restored by a replay: with the guest's next write to the
//! function, as a guest writes once it has seen the function ready.

use super::Remapper;
use super::event::Event;
use super::index::Entry;
use super::pending::{AfterReset, MapDelta, WriteOutcome};
use super::reason::Reason;
use super::rule::{Effect, Rules, TooManyRules};
use super::state::Fingerprint;
use super::touched::{Setting, Touched};
use crate::access::{Access, Dword, Lanes};
use crate::address::{Bdf, Guest, Host};
use crate::decision::{HostWrite, WriteDecision};
use crate::spec::bar::{BarKind, ROM_ENABLE};
use crate::spec::capability::CapabilityId;
use crate::spec::header::{self, Command, HeaderType};
use crate::spec::{advanced_features, express, power_management, type1};
use crate::topology::{Capability, Express, Function};

/// The writes that bring back what a function forgot.
///
/// ```text
/// let state = replay.reads().map(|access| hardware.read(access));
/// for write in replay.writes(state) { hardware.write(write.to, write.value) }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Replay<'r, const F: usize> {
    remapper: &'r mut Remapper<F>,
    function: usize,
}

/// All replays that are due, bridges before what is behind them.
#[derive(Debug)]
#[must_use]
pub struct Replays<'r, const F: usize> {
    remapper: &'r mut Remapper<F>,
    /// The one handed out last.
    last: Option<Bdf>,
}

/// How a function loses its registers by what is written to it, and its power state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Power {
    /// PMCSR, if it has one.
    control: Option<Dword>,
    /// PowerState there: 0 for D0. Between a reset and its replay it is not known; then it is the one before.
    state: u32,
    /// PowerStates it has, a bit for each.
    states: u32,
    /// Whether going from D3hot to D0 resets it.
    forgets: bool,
}

impl<'r, const F: usize> Replay<'r, F> {
    /// The function that is brought back.
    pub fn function(&self) -> Host<Bdf> {
        Host(self.remapper.functions.get(self.function).map_or(Bdf::default(), |touched| touched.host))
    }

    /// What to read first, in this order: Vendor ID and Device ID, and Power Management Control/Status (the ID again where
    /// there is none). They tell whether the function is ready, and whether it was reset at all: what the guest ordered
    /// may never have happened.
    pub fn reads(&self) -> [Host<Access>; 2] {
        let control = self.remapper.functions.get(self.function).and_then(|touched| touched.power.control);
        [header::ID, control.unwrap_or(header::ID)].map(|dword| self.function().map(|host| Access::whole(host, dword)))
    }

    /// The writes to make now, in this order, when hardware answers so. There are none, and the replay stays due, where
    /// that says the function is not ready (all ones, or Vendor ID 0001h of Request Retry Status, 2.3.2) or is in D3hot
    /// and forgets all once more on the way to D0.
    pub fn writes(self, [id, control]: [u32; 2]) -> impl Iterator<Item = HostWrite> + use<'r, F> {
        let answers = id != header::ABSENT && id & 0xffff != 0x0001;
        let is_ready = answers && self.remapper.remember(self.function, control);
        let remapper: &'r Remapper<F> = self.remapper;
        let touched = remapper.functions.get(self.function).filter(|_| is_ready);
        touched.into_iter().flat_map(Touched::replay)
    }
}

impl<const F: usize> Replays<'_, F> {
    /// Whether none is due.
    pub const fn is_empty(&self) -> bool {
        self.remapper.forgetful == 0
    }

    /// The next one; `None` after the last. One whose function is not ready is not handed out again.
    #[expect(clippy::should_implement_trait, reason = "each borrows the remapper")]
    pub fn next(&mut self) -> Option<Replay<'_, F>> {
        // A bridge has a lower address than what is behind it.
        let functions = self.remapper.functions.iter().enumerate();
        let due =
            functions.filter(|(_, touched)| touched.has_forgotten && self.last.is_none_or(|last| touched.host > last));
        let (function, touched) = due.min_by_key(|(_, touched)| touched.host)?;
        self.last = Some(touched.host);
        Some(Replay { remapper: self.remapper, function })
    }
}

impl<const F: usize> WriteOutcome<'_, F> {
    /// What a reset made the function forget, if that is to be brought back now. Make it first.
    #[inline]
    pub fn replay(&mut self) -> Option<Replay<'_, F>> {
        let AfterReset::Forgetful(function) = self.after_reset else { return None };
        Some(Replay { remapper: self.delta.remapper, function: function.into() })
    }

    /// Whether the write ends a reset of the bus behind a port that shows as an Upstream Port, for which Linux does not
    /// wait (`pci_bridge_wait_for_secondary_bus`). Then make the write, and let the guest run again only when all
    /// [replays](Remapper::replays) are made, or after a second (6.6.1).
    #[inline]
    pub const fn ends_reset(&self) -> bool {
        matches!(self.after_reset, AfterReset::Ends)
    }
}

impl<const F: usize> Remapper<F> {
    /// A function was reset by something else than a guest's write to configuration space: by the host, by power that was
    /// switched off behind PCI's back, by a link that went down by itself. What the guest writes, to the function or to
    /// a bridge above it, is noticed anyway.
    pub fn note_reset(&mut self, function: Host<Bdf>) {
        if let Some(index) = self.functions.iter().position(|touched| touched.host == function.0) {
            self.forget(index);
        }
    }

    /// The machine woke from a sleep state in which functions have no power (S3): all forgot.
    pub fn note_resume(&mut self) {
        for index in 0..self.functions.len() {
            self.forget(index);
        }
    }

    /// Whether the function was reset and its replay was not made yet. It has no windows then.
    pub fn has_forgotten(&self, function: Host<Bdf>) -> bool {
        self.functions.iter().any(|touched| touched.host == function.0 && touched.has_forgotten)
    }

    /// All replays that are due, for when the guest shall not have to write first: after a resume, so that bridges lead
    /// to what is behind them. Apply what is [pending](Self::pending) then.
    pub fn replays(&mut self) -> Replays<'_, F> {
        Replays { remapper: self, last: None }
    }

    /// A write while a function has forgotten something: if it is to that one, it is the time to bring it back.
    #[cold]
    pub(super) fn write_after_reset(&mut self, access: Guest<Access>, value: u32) -> WriteOutcome<'_, F> {
        let forgetful = self.forgetful(access);
        let resets = self.resets;
        let mut decision = WriteDecision::Emulate;
        self.decide_write(access.0, value, &mut decision);
        // What a reset takes away is not brought back before it.
        let forgetful = forgetful.filter(|_| self.resets == resets);
        let after_reset = match forgetful {
            _ if core::mem::take(&mut self.ends_reset) => AfterReset::Ends,
            Some(function) => AfterReset::Forgetful(function),
            None => AfterReset::Nothing,
        };
        WriteOutcome { decision, delta: MapDelta::new(self), after_reset }
    }

    /// The function an access is to, if it has forgotten something. A change of the power state is not the time to bring
    /// that back: the state that is read before is not the one after.
    fn forgetful(&self, access: Guest<Access>) -> Option<u8> {
        let Entry::Touched(index) = self.index.entry(access.map(Access::function)) else { return None };
        let touched = self.functions.get(index)?;
        let is_power = touched.power.control == Some(access.0.dword());
        if touched.has_forgotten && !is_power { u8::try_from(index).ok() } else { None }
    }

    /// A write the guest makes to a register that can reset the function, or put it to sleep.
    pub(super) fn note_power(&mut self, index: usize, effect: Effect, written: u32) {
        let Some(touched) = self.functions.get_mut(index) else { return };
        let is_reset = match effect {
            Effect::FunctionLevelReset => written & express::INITIATE_FUNCTION_LEVEL_RESET != 0,
            Effect::AdvancedFeaturesReset => written & advanced_features::INITIATE_FUNCTION_LEVEL_RESET != 0,
            Effect::PowerState => match touched.power.enter(written & power_management::POWER_STATE) {
                Some(is_reset) => is_reset,
                None => return,
            },
            _ => return,
        };
        match (is_reset, effect) {
            (true, _) => {
                self.forget(index);
                self.forget_by_waking(index);
            }
            (false, Effect::PowerState) => self.settle_all(index),
            (false, _) => {}
        }
    }

    /// Hardware has forgotten the registers of a function, and the guest finds that it has.
    pub(super) fn forget(&mut self, index: usize) {
        let Some(touched) = self.functions.get_mut(index).filter(|touched| touched.can_forget()) else { return };
        self.resets = self.resets.wrapping_add(1);
        if !touched.has_forgotten {
            touched.has_forgotten = true;
            self.forgetful = self.forgetful.saturating_add(1);
            self.events.note(Event::Forgot(Host(touched.host)));
        }
        touched.rules.forget_placement();
        self.settle_all(index);
    }

    /// Hardware is to be given back what the function forgot. Whether it would keep that, by its PMCSR.
    fn remember(&mut self, index: usize, control: u32) -> bool {
        let Some(touched) = self.functions.get_mut(index) else { return false };
        if !touched.power.is_found(control) {
            return false;
        }
        if touched.has_forgotten {
            touched.has_forgotten = false;
            self.forgetful = self.forgetful.saturating_sub(1);
            self.settle_all(index);
        }
        true
    }
}

impl Power {
    fn of(capability: &Capability) -> Self {
        let (first, control) = (capability.first, capability.control);
        let optional = [(power_management::D1_SUPPORT, 1), (power_management::D2_SUPPORT, 2)];
        let supported = optional.into_iter().filter(|(support, _)| first & support != 0);
        Self {
            control: capability.dword.plus(power_management::CONTROL),
            state: control & power_management::POWER_STATE,
            states: supported.fold(1 | 1 << power_management::D3_HOT, |states, (_, state)| states | 1 << state),
            forgets: control & power_management::NO_SOFT_RESET == 0,
        }
    }

    /// Whether it is in D0, the only state in which it decodes memory and I/O (5.3.1).
    pub(super) const fn is_awake(self) -> bool {
        self.state == 0
    }

    /// PowerState is written. Whether that resets the function; `None` when it changes nothing. A state it does not have
    /// is not entered (7.5.2.2).
    fn enter(&mut self, state: u32) -> Option<bool> {
        if self.states >> state & 1 == 0 || self.state == state {
            return None;
        }
        let is_reset = self.state == power_management::D3_HOT && state == 0 && self.forgets;
        self.state = state;
        Some(is_reset)
    }

    /// The state it is found in, after a reset or none. Whether it keeps what is written there.
    fn is_found(&mut self, control: u32) -> bool {
        let state = control & power_management::POWER_STATE;
        if self.states >> state & 1 == 1 {
            self.state = state;
        }
        self.state != power_management::D3_HOT || !self.forgets
    }

    pub(super) fn identify(self, fingerprint: &mut Fingerprint) {
        let Self { control, state: _, states, forgets } = self;
        fingerprint.add(control.map_or(0, Dword::index));
        fingerprint.add(states);
        fingerprint.add(forgets);
    }

    /// What changes from then on.
    pub(super) const fn word(self) -> u32 {
        self.state
    }

    /// Whether this is the word of such a function.
    pub(super) const fn accepts(self, word: u32) -> bool {
        word == 0 || word <= power_management::D3_HOT && self.states >> word & 1 == 1
    }

    pub(super) const fn take_word(&mut self, word: u32) {
        self.state = word;
    }
}

impl Rules {
    /// BARs and decode enables are zero after a reset.
    fn forget_placement(&mut self) {
        self.change_all(|rule| {
            if matches!(rule.effect, Effect::Decoding | Effect::Placing | Effect::VirtualFunctions) {
                rule.shadow &= !rule.writable;
            }
        });
    }
}

impl Touched {
    /// Notices what resets the function or puts it to sleep.
    pub(super) fn watch_power(&mut self, function: &Function) -> Result<(), TooManyRules> {
        let mut rules = self.rules.because(Reason::PowerAndReset);
        let express = function
            .express()
            .filter(|express| express.register(express::DEVICE_CAPABILITIES) & express::FUNCTION_LEVEL_RESET != 0);
        if let Some(control) = express.and_then(|express| express.dword.plus(express::DEVICE_CONTROL)) {
            rules.set_off(control, Effect::FunctionLevelReset)?;
        }
        let find = |id| function.capabilities().iter().find(|entry| entry.id == id);
        let features = find(CapabilityId::ADVANCED_FEATURES)
            .filter(|features| features.first & advanced_features::FUNCTION_LEVEL_RESET != 0);
        if let Some(control) = features.and_then(|features| features.dword.plus(advanced_features::CONTROL)) {
            rules.set_off(control, Effect::AdvancedFeaturesReset)?;
        }
        let Some(power) = find(CapabilityId::POWER_MANAGEMENT) else { return Ok(()) };
        self.power = Power::of(power);
        match self.power.control {
            Some(control) => rules.set_off(control, Effect::PowerState),
            None => Ok(()),
        }
    }

    /// Lanes of a register a replay writes.
    pub(super) fn restore(&mut self, dword: Dword, mask: u32, value: u32) {
        if let Some(lanes) = Lanes::ALL.touching(mask) {
            // There is room for all registers that are kept.
            let _ = self.restores.push(Setting { dword, lanes, value: value & lanes.mask() });
        }
    }

    /// A replay writes the BARs with the addresses they have.
    pub(super) fn restore_bars(&mut self, function: &Function) {
        for bar in function.bars().filter(|bar| bar.span().is_some()) {
            let dword = bar.dword(function.header_type());
            let enable = if bar.kind() == BarKind::Rom { ROM_ENABLE } else { 0 };
            self.restore(dword, !0, function.header(dword) & !enable);
            if let Some(upper) = dword.plus(1).filter(|_| bar.kind().is_64_bit()) {
                self.restore(upper, !0, function.header(upper));
            }
        }
    }

    /// A replay writes what leads a bridge to the function behind it.
    pub(super) fn restore_bridge(&mut self, function: &Function, express: Option<&Express>) {
        self.restore_bars(function);
        if function.header_type() == HeaderType::Type1 {
            self.restore(type1::BUS_NUMBERS, !0, function.header(type1::BUS_NUMBERS));
            self.restore_windows(function);
            self.restore(type1::BRIDGE_CONTROL, 0xffff_0000, function.header(type1::BRIDGE_CONTROL));
        }
        if let Some(express) = express {
            self.restore_agreements(express);
        }
        self.restore(header::COMMAND, 0xffff, u32::from((function.command() | Command::FORWARDING).bits()));
    }

    pub(super) fn restore_windows(&mut self, function: &Function) {
        let windows = [
            (type1::IO_WINDOW, 0xffff),
            (type1::MEMORY_WINDOW, !0),
            (type1::PREFETCHABLE_WINDOW, !0),
            (type1::PREFETCHABLE_BASE_UPPER, !0),
            (type1::PREFETCHABLE_LIMIT_UPPER, !0),
            (type1::IO_UPPER, !0),
        ];
        for (dword, mask) in windows {
            self.restore(dword, mask, function.header(dword));
        }
    }

    /// A replay writes what both ends of a link agreed on.
    pub(super) fn restore_agreements(&mut self, express: &Express) {
        self.restore_link(express);
        self.restore_agreements_2(express);
    }

    /// What the other end takes, LTR messages among it.
    pub(super) fn restore_agreements_2(&mut self, express: &Express) {
        if let Some(dword) = express.dword.plus(express::DEVICE_CONTROL_2).filter(|_| express.has_second_set()) {
            self.restore(dword, 0xffff, express.register(express::DEVICE_CONTROL_2));
        }
    }

    /// The payload size, and the link.
    pub(super) fn restore_link(&mut self, express: &Express) {
        let has_link = express.port_type.has_link();
        let controls = [
            (express::DEVICE_CONTROL, !express::INITIATE_FUNCTION_LEVEL_RESET, true),
            (express::LINK_CONTROL, !express::RETRAIN_LINK, has_link),
            (express::LINK_CONTROL_2, !0, has_link && express.has_second_set()),
        ];
        for (register, mask, exists) in controls {
            if let Some(dword) = express.dword.plus(register).filter(|_| exists) {
                self.restore(dword, 0xffff, express.register(register) & mask);
            }
        }
    }

    /// Whether a reset takes anything from it that the host keeps.
    pub(super) fn can_forget(&self) -> bool {
        !self.restores.is_empty() || self.is_bridge && !self.preparation.is_empty()
    }

    /// Whether it is a bridge whose replay leads to what is behind it.
    pub(super) fn restores_routing(&self) -> bool {
        self.restores.iter().any(|setting| setting.dword == type1::BUS_NUMBERS)
    }

    fn replay(&self) -> impl Iterator<Item = HostWrite> {
        // A bridge is also prepared anew; a moved function is awake, or the guest would not have seen it ready.
        let preparation = self.preparation.iter().filter(|_| self.is_bridge);
        self.restores.iter().chain(preparation).map(|setting| {
            // What the guest switched on while the function did not take writes, and what every write of it would hold.
            let ones = self.rules.of(setting.dword).ones() & setting.lanes.mask();
            Setting { value: setting.value | ones, ..*setting }.of(self.host)
        })
    }
}
