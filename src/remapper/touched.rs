//! The functions a plan touches, and the rules each gets: moved and hidden functions, ports, first functions of devices
//! whose number of functions changes.

use heapless::Vec;

use super::lists::{hide_capabilities, hide_extended_capabilities};
use super::rule::{Effect, Rules, TooManyRules};
use super::window::{Concealed, Trapped, Window, table_pages};
use crate::access::Dword;
use crate::address::{Bdf, Guest, Host, Span};
use crate::delta::Space;
use crate::plan::{
    MsixTable, Placement, Places, Plan, Port, Relocation, Role, guest_address, has_page_to_itself, is_reached,
    shown_size,
};
use crate::spec::bar::{BarKind, ROM_ENABLE};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::header::{self, Command, HeaderType};
use crate::spec::{express, type1};
use crate::topology::{Bar, Function};

/// A function the plan touches.
#[derive(Debug, Clone)]
pub(super) struct Touched {
    pub(super) host: Bdf,
    /// Where the guest finds it; `None` when it does not.
    pub(super) guest: Option<Bdf>,
    pub(super) rules: Rules,
    pub(super) windows: Vec<Window, 7>,
    /// Whether the guest lets it decode.
    pub(super) is_decoding: bool,
    /// The lowest and the highest address its windows claim, to skip it fast.
    pub(super) reach: Option<Span>,
    /// For a bridge with virtual bus numbers: the places of the bus it is on, unless that is a root bus, and of the bus
    /// it leads to.
    pub(super) leads: Option<(Option<usize>, usize)>,
    /// What the host writes before the guest starts.
    pub(super) preparation: Option<(Dword, u32)>,
}

/// The Command bits that make a bridge forward.
const FORWARDING: Command =
    Command::IO_SPACE_ENABLE.union(Command::MEMORY_SPACE_ENABLE).union(Command::BUS_MASTER_ENABLE);

/// The Command bits a PCI Express function has (7.5.1.1.3).
const COMMAND_BITS: Command =
    FORWARDING.union(Command::PARITY_ERROR_RESPONSE).union(Command::SERR_ENABLE).union(Command::INTERRUPT_DISABLE);

const fn low(command: Command) -> u32 {
    command.bits() as u32
}

impl Touched {
    fn new(function: &Function, guest: Option<Bdf>) -> Self {
        let host = function.bdf().0;
        Self {
            host,
            guest,
            rules: Rules::new(),
            windows: Vec::new(),
            is_decoding: false,
            reach: None,
            leads: None,
            preparation: None,
        }
    }

    /// A function the guest finds elsewhere.
    pub(super) fn moved(
        plan: &Plan<'_>,
        places: &Places,
        index: usize,
        relocation: Relocation,
        function: &Function,
    ) -> Result<Self, TooManyRules> {
        let mut moved = Self::new(function, Some(relocation.guest.0));
        for bar in function.bars() {
            moved.show_bar(plan, places, index, relocation, function, bar)?;
        }
        moved.fill_empty_bars(function)?;
        moved.take_command(function, relocation.placement)?;
        let rules = &mut moved.rules;
        // 7.5.1.1.10: starting a self-test may reset the function.
        rules.fix(header::HEADER_TYPE, 0xff00_0000, 0)?;
        // The pin is routed by the real position of the function, which the guest does not know: it uses MSI.
        let line = function.header(header::INTERRUPT) & 0xff;
        rules.keep(header::INTERRUPT, 0xffff, 0xff, line)?;
        hide_capabilities(rules, function, |id| MOVED_HIDES.contains(&id))?;
        hide_extended_capabilities(rules, function, |id| MOVED_HIDES_EXTENDED.contains(&id))?;
        Ok(moved)
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

    /// A first function that stays, of a device whose functions change. With ARI its Next Function Number leads past new
    /// functions, or ends the search where one left (Linux's `next_ari_fn`); without, all eight are looked for.
    pub(super) fn without_function_chain(function: &Function) -> Result<Self, TooManyRules> {
        let mut staying = Self::staying(function);
        hide_extended_capabilities(&mut staying.rules, function, |id| id == ExtendedCapabilityId::ARI)?;
        Ok(staying)
    }

    /// A bridge something left or moved behind.
    pub(super) fn port(port: &Port<'_>) -> Result<Self, TooManyRules> {
        let mut touched = Self::staying(port.function);
        match port.role {
            Role::Vacant => touched.show_conventional_bridge(port)?,
            Role::Guarded => touched.guard_bridge(port)?,
            Role::Destination | Role::Bystander => {}
        }
        if let Some(express) = port.function.express().filter(|_| port.as_upstream && port.role != Role::Vacant) {
            let type_and_slot = express::PORT_TYPE | express::SLOT_IMPLEMENTED;
            touched.rules.fix(express.dword, type_and_slot, express::UPSTREAM_PORT)?;
        }
        Ok(touched)
    }

    /// Lets the guest give the bridge bus numbers hardware never sees.
    pub(super) fn virtualize_bus_numbers(
        &mut self,
        function: &Function,
        from: Option<usize>,
        to: usize,
    ) -> Result<(), TooManyRules> {
        self.leads = Some((from, to));
        self.rules.keep(type1::BUS_NUMBERS, !0, !0, function.header(type1::BUS_NUMBERS))?;
        self.rules.set_off(type1::BUS_NUMBERS, Effect::BusNumbers)
    }

    /// Sets Multi-Function Device to whether the guest finds other functions in the device.
    pub(super) fn set_multi_function(&mut self, has_siblings: bool) -> Result<(), TooManyRules> {
        let value = if has_siblings { header::MULTI_FUNCTION } else { 0 };
        self.rules.fix(header::HEADER_TYPE, header::MULTI_FUNCTION, value)
    }

    fn show_bar(
        &mut self,
        plan: &Plan<'_>,
        places: &Places,
        index: usize,
        relocation: Relocation,
        function: &Function,
        bar: &Bar,
    ) -> Result<(), TooManyRules> {
        let place = places.of(index, bar.number());
        let is_shown = place != crate::plan::Place::None;
        if let Some(host) = bar.span().filter(|_| is_reached(plan, relocation.host, bar)) {
            let table = function.msix().filter(|table| table.bar == bar.number());
            let trapped = match (bar.space(), table) {
                (Space::Io, _) => Trapped::All,
                (Space::Memory, _) if bar.size() < 0x1000 && !has_page_to_itself(plan, function, bar) => Trapped::All,
                (Space::Memory, Some(table)) if relocation.msix_table == MsixTable::Trapped => {
                    table_pages(table, shown_size(bar))
                }
                (Space::Memory, _) => Trapped::None,
            };
            self.add_window(function, bar, host, trapped, is_shown);
        }
        let address = match relocation.placement {
            Placement::GuestAssigns => 0,
            Placement::PreAssigned => guest_address(place).map_or(0, |Guest(address)| address),
        };
        if is_shown { self.keep_bar(function.header_type(), bar, address) } else { Ok(()) }
    }

    fn add_window(&mut self, function: &Function, bar: &Bar, host: Host<Span>, trapped: Trapped, is_shown: bool) {
        let mut window = Window {
            kind: bar.kind(),
            dword: bar.dword(function.header_type()),
            size: shown_size(bar),
            host,
            trapped,
            is_shown,
            concealed: Concealed::Wanted,
            claim: 0,
            wanted: 0,
            applied: 0,
            applied_parts: 0,
            parts: 0,
        };
        window.parts = window.all_parts();
        // A function has at most seven.
        let _ = self.windows.push(window);
    }

    /// Keeps a BAR in the shadow: address bits are writable, so that sizing falls out (7.5.1.2.1).
    fn keep_bar(&mut self, header_type: HeaderType, bar: &Bar, address: u64) -> Result<(), TooManyRules> {
        let kind = bar.kind();
        let dword = bar.dword(header_type);
        let [mask_low, mask_high] = halves(!shown_size(bar).wrapping_sub(1));
        let [low, high] = halves(address);
        let enable = if kind == BarKind::Rom { ROM_ENABLE } else { 0 };
        self.rules.keep(dword, !0, mask_low & !kind.type_mask() | enable, low | kind.type_bits())?;
        // A ROM decodes only while the guest enables it, as it may share its decoder with a BAR (7.5.1.2.4); its
        // address in hardware stays.
        if let Some(Host(host)) = bar.span().filter(|_| kind == BarKind::Rom) {
            let [address, _] = halves(host.start());
            self.rules.pass(dword, ROM_ENABLE)?;
            self.rules.hold(dword, address)?;
        }
        let effect = if kind == BarKind::Rom { Effect::Decoding } else { Effect::Placing };
        self.rules.set_off(dword, effect)?;
        if let Some(upper) = dword.plus(1).filter(|_| kind.is_64_bit()) {
            self.rules.keep(upper, !0, mask_high, high)?;
            self.rules.set_off(upper, Effect::Placing)?;
        }
        Ok(())
    }

    /// Registers without a BAR read zero, as unimplemented ones do, so that none shows a host address.
    fn fill_empty_bars(&mut self, function: &Function) -> Result<(), TooManyRules> {
        let count = u16::try_from(function.header_type().bars()).unwrap_or(0);
        let bars = (0..count).filter_map(|number| header::BAR0.plus(number));
        for dword in bars.chain(function.header_type().rom()) {
            self.rules.fix_untreated(dword)?;
        }
        Ok(())
    }

    /// The guest's decode enables drive the windows; hardware keeps decoding.
    fn take_command(&mut self, function: &Function, placement: Placement) -> Result<(), TooManyRules> {
        let mut decoding = Command::empty();
        for window in self.windows.iter().filter(|window| window.is_shown) {
            decoding |= match window.space() {
                Space::Memory => Command::MEMORY_SPACE_ENABLE,
                Space::Io => Command::IO_SPACE_ENABLE,
            };
        }
        let start = match placement {
            Placement::GuestAssigns => Command::empty(),
            Placement::PreAssigned => decoding,
        };
        if !function.command().contains(start) {
            self.preparation = Some((header::COMMAND, low(function.command() | start)));
        }
        let both = low(Command::MEMORY_SPACE_ENABLE | Command::IO_SPACE_ENABLE);
        self.rules.keep(header::COMMAND, both, low(decoding), low(start))?;
        self.rules.hold(header::COMMAND, low(decoding))?;
        self.rules.set_off(header::COMMAND, Effect::Decoding)
    }

    /// Nothing is found behind it any more: a plain PCI-to-PCI bridge, which Linux binds no port services to, starts no
    /// ASPM on and never suspends (`pci_is_pcie` is the first condition of `pci_bridge_d3_possible`). Bus numbers and
    /// windows show as they are, so that nobody is given them, and every write stays here.
    fn show_conventional_bridge(&mut self, port: &Port<'_>) -> Result<(), TooManyRules> {
        let function = port.function;
        let rules = &mut self.rules;
        rules.zero(header::END, Dword::COUNT.saturating_sub(header::END.index()));
        for dword in [header::ID, header::CLASS] {
            rules.drop_writes(dword, !0)?;
        }
        let writable = low(COMMAND_BITS);
        rules.keep(header::COMMAND, 0xffff, writable, function.header(header::COMMAND))?;
        rules.drop_writes(header::COMMAND, !0)?;
        rules.keep(header::HEADER_TYPE, 0xff00_ffff, 0xffff, function.header(header::HEADER_TYPE))?;
        rules.drop_writes(header::HEADER_TYPE, !0)?;
        self.keep_bridge_registers(function)?;
        let rules = &mut self.rules;
        // 7.5.1.3.7: Secondary Status of a bridge nothing answers behind.
        rules.fix(type1::IO_WINDOW, 0xffff_0000, 0)?;
        rules.keep(header::INTERRUPT, 0xffff, 0xff, function.header(header::INTERRUPT) & 0xff)?;
        rules.drop_writes(header::CAPABILITIES_POINTER, !0)?;
        // The subsystem of a bridge is no service; everything else would bring one.
        for subsystem in function.capabilities().iter().filter(|entry| entry.id == CapabilityId::SUBSYSTEM_ID) {
            rules.show_read_only(subsystem.dword)?;
            if let Some(ids) = subsystem.dword.plus(1) {
                rules.show_read_only(ids)?;
            }
        }
        hide_capabilities(rules, function, |id| id != CapabilityId::SUBSYSTEM_ID)?;
        for bar in function.bars() {
            self.keep_bar(function.header_type(), bar, bar.span().map_or(0, |Host(span)| span.start()))?;
            self.rules.drop_writes(bar.dword(function.header_type()), !0)?;
        }
        self.fill_empty_bars(function)?;
        self.keep_forwarding(function);
        Ok(())
    }

    /// Something is still found behind it: it stays a port, but the routing hardware needs is not the guest's to change.
    fn guard_bridge(&mut self, port: &Port<'_>) -> Result<(), TooManyRules> {
        self.rules.keep(header::COMMAND, low(FORWARDING), low(FORWARDING), port.function.header(header::COMMAND))?;
        self.rules.hold(header::COMMAND, low(FORWARDING))?;
        self.keep_bridge_registers(port.function)?;
        self.keep_forwarding(port.function);
        Ok(())
    }

    /// Bus numbers, windows and Bridge Control read back what the guest writes, and stay as they are in hardware.
    fn keep_bridge_registers(&mut self, function: &Function) -> Result<(), TooManyRules> {
        let header = |dword| function.header(dword);
        self.rules.keep(type1::BUS_NUMBERS, !0, !0, header(type1::BUS_NUMBERS))?;
        // 7.5.1.3.6: a window that is not implemented is zero and read-only.
        let io = header(type1::IO_WINDOW) & 0xffff;
        let io_writable = if io == 0 { 0 } else { 0xf0f0 };
        self.rules.keep(type1::IO_WINDOW, 0xffff, io_writable, io)?;
        let has_io_upper = io & 0xf == 1;
        self.rules.keep(type1::IO_UPPER, !0, if has_io_upper { !0 } else { 0 }, header(type1::IO_UPPER))?;
        self.rules.keep(type1::MEMORY_WINDOW, !0, 0xfff0_fff0, header(type1::MEMORY_WINDOW) & 0xfff0_fff0)?;
        let prefetchable = header(type1::PREFETCHABLE_WINDOW);
        let writable = if prefetchable == 0 { 0 } else { 0xfff0_fff0 };
        self.rules.keep(type1::PREFETCHABLE_WINDOW, !0, writable, prefetchable)?;
        let upper = if prefetchable & 0xf == 1 { !0 } else { 0 };
        for dword in [type1::PREFETCHABLE_BASE_UPPER, type1::PREFETCHABLE_LIMIT_UPPER] {
            self.rules.keep(dword, !0, upper, header(dword))?;
        }
        // 7.5.1.3.13, and the discard timers of conventional bridges in bits 11:8.
        let control = header(type1::BRIDGE_CONTROL);
        self.rules.keep(type1::BRIDGE_CONTROL, 0xffff_0000, 0x0fff_0000, control)
    }

    /// The function behind the bridge is reached as long as the bridge forwards.
    fn keep_forwarding(&mut self, function: &Function) {
        let command = function.command();
        if !command.contains(FORWARDING) {
            self.preparation = Some((header::COMMAND, low(command | FORWARDING)));
        }
    }
}

/// Whether the function says which functions its device has (7.8.7.2).
pub(super) fn chains_functions(function: &Function) -> bool {
    function.extended_capability(ExtendedCapabilityId::ARI).is_some()
}

/// Capabilities a moved function does not show: BARs at fixed addresses, and a bridge that renumbers.
const MOVED_HIDES: [CapabilityId; 2] = [CapabilityId::ENHANCED_ALLOCATION, CapabilityId::FLATTENING_PORTAL_BRIDGE];

/// Extended capabilities a moved function does not show: those that are half of an agreement with the real port, that
/// name other functions by their address, or that change what a BAR decodes.
const MOVED_HIDES_EXTENDED: [ExtendedCapabilityId; 18] = [
    ExtendedCapabilityId::VIRTUAL_CHANNEL,
    ExtendedCapabilityId::ROOT_COMPLEX_LINK_DECLARATION,
    ExtendedCapabilityId::MFVC,
    ExtendedCapabilityId::VIRTUAL_CHANNEL_MFVC,
    ExtendedCapabilityId::ACS,
    ExtendedCapabilityId::ARI,
    ExtendedCapabilityId::ATS,
    ExtendedCapabilityId::SR_IOV,
    ExtendedCapabilityId::PAGE_REQUEST,
    ExtendedCapabilityId::RESIZABLE_BAR,
    ExtendedCapabilityId::TPH_REQUESTER,
    ExtendedCapabilityId::LTR,
    ExtendedCapabilityId::PASID,
    ExtendedCapabilityId::DPC,
    ExtendedCapabilityId::L1_PM_SUBSTATES,
    ExtendedCapabilityId::PTM,
    ExtendedCapabilityId::VF_RESIZABLE_BAR,
    ExtendedCapabilityId::DOE,
];

/// The lower and the upper 32 bits.
fn halves(value: u64) -> [u32; 2] {
    let half = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
    [half(value), half(value >> 32)]
}
