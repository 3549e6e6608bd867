//! A function the plan touches, and what all of them have in common: moved and hidden functions, ports, first functions
//! of devices whose number of functions changes.

use heapless::Vec;

use super::area::Reach;
use super::bus_reset::BusReset;
use super::lists::hide_extended_capabilities;
use super::pending::Due;
use super::reason::Reason;
use super::replay::Power;
use super::rule::{Effect, Rules, TooManyRules};
use super::state::Fingerprint;
use super::window::{MAX_WINDOWS, Registers, Trapped, Window};
use crate::access::{Access, Dword, Lanes};
use crate::address::{Bdf, Guest, Host, Span, halves};
use crate::decision::HostWrite;
use crate::delta::{Backing, Space};
use crate::plan::{Plan, is_reached, shown_size};
use crate::spec::bar::{BarKind, ROM_ENABLE};
use crate::spec::capability::ExtendedCapabilityId;
use crate::spec::header::{self, Command, HeaderType};
use crate::topology::{Bar, Function};

/// A function the plan touches.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "none of them excludes another")]
pub(super) struct Touched {
    pub(super) host: Bdf,
    /// Where the guest finds it; `None` when it does not.
    pub(super) guest: Option<Bdf>,
    pub(super) rules: Rules,
    pub(super) windows: Vec<Window, MAX_WINDOWS>,
    /// Which of them have changes that are due.
    pub(super) due: Due,
    /// Whether the guest lets it decode.
    pub(super) is_decoding: bool,
    /// Where its windows are, to skip it fast.
    pub(super) reach: Reach,
    /// Whether it has windows of ports.
    pub(super) has_ports: bool,
    /// Whether it is a bridge, which a replay prepares anew.
    pub(super) is_bridge: bool,
    /// For a bridge by which the guest can reset moved functions.
    pub(super) bus_reset: Option<BusReset>,
    /// Whether nothing of it is the hardware's: it stands where a function was that the guest finds elsewhere, or not.
    pub(super) is_inert: bool,
    /// For a bridge with virtual bus numbers: the places of the bus it is on, unless that is a root bus, and of the bus
    /// it leads to.
    pub(super) leads: Option<(Option<usize>, usize)>,
    /// What the host writes before the guest starts.
    pub(super) preparation: Vec<Setting, MAX_PREPARATIONS>,
    /// What a replay writes after a reset, before what is prepared.
    pub(super) restores: Vec<Setting, MAX_RESTORES>,
    /// Whether it was reset, and that was not written yet.
    pub(super) has_forgotten: bool,
    pub(super) power: Power,
}

/// A register the host sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) dword: Dword,
    pub(super) lanes: Lanes,
    pub(super) value: u32,
}

/// Command, payload size, and six VF BARs, or a control each of power, link, slot, root, errors, containment and ARI.
const MAX_PREPARATIONS: usize = 9;
/// Of a Type 0 function: seven BARs, Command, four controls; six VF BARs, System Page Size, NumVFs and SR-IOV Control. Of
/// a bridge: three BARs, Command, eight of routing.
const MAX_RESTORES: usize = 21;

impl Setting {
    pub(super) fn of(self, function: Bdf) -> HostWrite {
        HostWrite { to: Host(Access::new(function, self.dword, self.lanes)), value: self.value }
    }

    fn identify(self, fingerprint: &mut Fingerprint) {
        let Self { dword, lanes, value } = self;
        fingerprint.add(dword.index());
        fingerprint.add(lanes.bits());
        fingerprint.add(value);
    }
}

impl Touched {
    pub(super) fn new(function: &Function, guest: Option<Bdf>) -> Self {
        let host = function.bdf().0;
        Self {
            host,
            guest,
            rules: Rules::new(),
            windows: Vec::new(),
            due: Due::NOTHING,
            is_decoding: false,
            reach: Reach::NONE,
            has_ports: false,
            is_bridge: function.bridge().is_some(),
            bus_reset: None,
            is_inert: false,
            leads: None,
            preparation: Vec::new(),
            restores: Vec::new(),
            has_forgotten: false,
            power: Power::default(),
        }
    }

    /// A function the guest does not find.
    pub(super) fn hidden(plan: &Plan<'_>, function: &Function) -> Self {
        let mut hidden = Self::new(function, None);
        for bar in function.bars().filter(|bar| is_reached(plan, function.bdf(), bar)) {
            let _ = bar.span().map(|host| hidden.add_window(function, bar, host, Trapped::None, false));
        }
        hidden
    }

    /// A function that stays where it is.
    pub(super) fn staying(function: &Function) -> Self {
        Self::new(function, Some(function.bdf().0))
    }

    /// The host sets the bits of `mask` to `value` before the guest starts, unless they are so in `current`.
    pub(super) fn prepare(&mut self, dword: Dword, mask: u32, value: u32, current: u32) {
        let Some(lanes) = Lanes::ALL.touching(mask).filter(|_| current & mask != value) else { return };
        let setting = Setting { dword, lanes, value: (current & !mask | value) & lanes.mask() };
        if !self.preparation.contains(&setting) {
            let _ = self.preparation.push(setting);
        }
    }

    /// A first function that stays, of a device whose functions change. With ARI its Next Function Number leads past new
    /// functions, or ends the search where one left (Linux's `next_ari_fn`); without, all eight are looked for.
    pub(super) fn unchain(&mut self, function: &Function) -> Result<(), TooManyRules> {
        if !function.chains_functions() {
            return Ok(());
        }
        hide_extended_capabilities(&mut self.rules, Reason::FunctionChain, function, |id| {
            id == ExtendedCapabilityId::ARI
        })
    }

    /// Names the function that comes next in the guest's view; none ends the chain (7.8.8.2). Function groups are those
    /// of the hardware's chain, and not shown.
    pub(super) fn chain_to(&mut self, function: &Function, next: Option<Guest<Bdf>>) -> Result<(), TooManyRules> {
        let ari = function.extended_capability(ExtendedCapabilityId::ARI).and_then(|ari| ari.plus(1));
        let next = next.map_or(0, |Guest(next)| u32::from(next.devfn()));
        ari.map_or(Ok(()), |ari| self.rules.because(Reason::FunctionChain).fix(ari, !0, next << 8))
    }

    /// Sets Multi-Function Device to whether the guest finds other functions in the device.
    pub(super) fn set_multi_function(&mut self, has_siblings: bool) -> Result<(), TooManyRules> {
        let value = if has_siblings { header::MULTI_FUNCTION } else { 0 };
        self.rules.because(Reason::MultiFunction).fix(header::HEADER_TYPE, header::MULTI_FUNCTION, value)
    }

    pub(super) fn add_window(
        &mut self,
        function: &Function,
        bar: &Bar,
        host: Host<Span>,
        trapped: Trapped,
        is_shown: bool,
    ) {
        let dword = bar.dword(function.header_type());
        let enable = match bar.space() {
            _ if !is_shown => Command::empty(),
            Space::Memory => Command::MEMORY_SPACE_ENABLE,
            Space::Io => Command::IO_SPACE_ENABLE,
        };
        self.add_parts(bar.kind(), dword, shown_size(bar), host, trapped, enable);
    }

    /// Adds the windows of one BAR register, each for what is mapped in one way.
    pub(super) fn add_parts(
        &mut self,
        kind: BarKind,
        dword: Dword,
        size: u64,
        host: Host<Span>,
        trapped: Trapped,
        enable: Command,
    ) {
        self.has_ports |= !kind.is_memory();
        for (offset, len, backing) in trapped.parts(size) {
            // A BAR below a page has the rest of its page mapped too, where that holds nothing else.
            let host_len = match backing {
                Backing::Direct => len,
                Backing::Trapped => len.min(host.0.len().saturating_sub(offset)),
            };
            let window = Window {
                mapping: Due::mapping(self.windows.len()),
                registers: Registers::of(dword, kind),
                bar: host,
                size,
                claims_memory: offset == 0 && kind.is_memory(),
                part: Span::of(offset, len),
                host: Host(Span::of(host.0.start().wrapping_add(offset), host_len)),
                space: if kind.is_memory() { Space::Memory } else { Space::Io },
                backing,
                prefetchable: kind.is_prefetchable(),
                enable: enable.bits().into(),
                highest: Window::highest(kind, size),
                claim: 0,
                wanted: 0,
                applied: 0,
                applied_last: Span::of(offset, len).last(),
            };
            // The BAR is concealed with its first part.
            if offset == 0 {
                self.due.add_concealment(&window);
            }
            // There is room for all.
            let _ = self.windows.push(window);
        }
    }

    /// Keeps a BAR in the shadow.
    pub(super) fn keep_bar(&mut self, header_type: HeaderType, bar: &Bar, address: u64) -> Result<(), TooManyRules> {
        self.keep_bar_of(shown_size(bar), header_type, bar, address)
    }

    /// Keeps a BAR in the shadow, with this size.
    pub(super) fn keep_bar_of(
        &mut self,
        size: u64,
        header_type: HeaderType,
        bar: &Bar,
        address: u64,
    ) -> Result<(), TooManyRules> {
        let kind = bar.kind();
        let dword = bar.dword(header_type);
        let reason = if kind == BarKind::Rom { Reason::Rom } else { Reason::Bar };
        let effect = if kind == BarKind::Rom { Effect::Decoding } else { Effect::Placing };
        self.keep_address(reason, effect, dword, kind, size, address)?;
        // A ROM decodes only while the guest enables it, as it may share its decoder with a BAR (7.5.1.2.4); its
        // address in hardware stays.
        let is_rom = kind == BarKind::Rom && bar.span().is_some();
        if is_rom { self.rules.because(reason).pass(dword, ROM_ENABLE) } else { Ok(()) }
    }

    /// Keeps the register of a BAR of this size in the shadow: address bits are writable, so that sizing falls out
    /// (7.5.1.2.1). A change has this effect.
    pub(super) fn keep_address(
        &mut self,
        reason: Reason,
        effect: Effect,
        dword: Dword,
        kind: BarKind,
        size: u64,
        address: u64,
    ) -> Result<(), TooManyRules> {
        let [mask_low, mask_high] = halves(!size.wrapping_sub(1));
        let [low, high] = halves(address);
        let enable = if kind == BarKind::Rom { ROM_ENABLE } else { 0 };
        let mut rules = self.rules.because(reason);
        rules.keep(dword, !0, mask_low & !kind.type_mask() | enable, low | kind.type_bits())?;
        rules.set_off(dword, effect)?;
        if let Some(upper) = dword.plus(1).filter(|_| kind.is_64_bit()) {
            rules.keep(upper, !0, mask_high, high)?;
            rules.set_off(upper, effect)?;
        }
        Ok(())
    }

    pub(super) fn identify(&self, fingerprint: &mut Fingerprint) {
        let Self {
            host,
            guest,
            rules,
            windows,
            bus_reset,
            is_inert,
            leads,
            preparation,
            restores,
            power,
            // It is saved.
            has_forgotten: _,
            // They follow from the registers, and from what was applied.
            due: _,
            is_decoding: _,
            reach: _,
            // It follows from the windows.
            has_ports: _,
            // It follows from the host's address.
            is_bridge: _,
        } = self;
        fingerprint.add(host.routing_id());
        fingerprint.add(guest.map_or(u32::MAX, |guest| guest.routing_id().into()));
        rules.identify(fingerprint);
        fingerprint.add_count(windows.len());
        for window in windows {
            window.identify(fingerprint);
        }
        fingerprint.add(bus_reset.is_some());
        if let Some(reset) = bus_reset {
            reset.identify(fingerprint);
        }
        fingerprint.add(*is_inert);
        fingerprint.add(leads.is_some());
        if let Some((from, to)) = leads {
            fingerprint.add(from.is_some());
            from.iter().chain([to]).for_each(|place| fingerprint.add_count(*place));
        }
        for settings in [preparation.as_slice(), restores] {
            fingerprint.add_count(settings.len());
            for setting in settings {
                setting.identify(fingerprint);
            }
        }
        power.identify(fingerprint);
    }

    /// What changes from then on.
    pub(super) fn words(&self) -> impl Iterator<Item = u32> {
        [self.has_forgotten.into(), self.power.word()].into_iter().chain(self.rules.words())
    }

    /// Whether these are words of such a function.
    pub(super) fn accepts(&self, words: &mut impl Iterator<Item = u32>) -> bool {
        let has_forgotten = words.next().is_some_and(|word| word <= self.can_forget().into());
        has_forgotten && words.next().is_some_and(|word| self.power.accepts(word)) && self.rules.accepts(words)
    }

    pub(super) fn take_words(&mut self, words: &mut impl Iterator<Item = u32>) {
        self.has_forgotten = words.next().is_some_and(|word| word != 0);
        self.power.take_word(words.next().unwrap_or(0));
        self.rules.take_words(words);
    }

    /// Registers without a BAR read zero, as unimplemented ones do, so that none shows a host address.
    pub(super) fn fill_empty_bars(&mut self, function: &Function) -> Result<(), TooManyRules> {
        let count = u16::try_from(function.header_type().bars()).unwrap_or(0);
        let bars = (0..count).filter_map(|number| header::BAR0.plus(number));
        for dword in bars.chain(function.header_type().rom()) {
            self.rules.because(Reason::EmptyBar).zero_untreated(dword)?;
        }
        Ok(())
    }
}

pub(super) const fn low(command: Command) -> u32 {
    command.bits() as u32
}
