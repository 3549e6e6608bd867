//! The rules of a bridge something left or moved behind.

use super::lists::{hide_capabilities, hide_extended_capabilities};
use super::reason::Reason;
use super::rule::{Effect, TooManyRules};
use super::touched::{Touched, low};
use crate::access::Dword;
use crate::address::Host;
use crate::plan::{Port, Role, Way};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId, extended_control_dword};
use crate::spec::express::{self, PortType};
use crate::spec::header::{self, Command};
use crate::spec::{containment, error_reporting, power_management, type1};
use crate::topology::{Express, Function};

/// The Command bits that make a bridge forward.
pub(super) const FORWARDING: Command = Command::FORWARDING;

/// The Command bits a PCI Express function has (7.5.1.1.3).
const COMMAND_BITS: Command =
    FORWARDING.union(Command::PARITY_ERROR_RESPONSE).union(Command::SERR_ENABLE).union(Command::INTERRUPT_DISABLE);

impl Touched {
    /// A bridge something left or moved behind.
    pub(super) fn port(port: &Port<'_>) -> Result<Self, TooManyRules> {
        let mut touched = Self::staying(port.function);
        touched.name_requesters(port.function)?;
        let express = touched.prepare_payload(port.function, port.payload);
        let express = express.as_ref();
        match port.role {
            Role::Vacant => touched.show_conventional_bridge(port, express)?,
            Role::Guarded => touched.guard_port(port, express)?,
            Role::Destination if port.has_empty_link => touched.pretend_link(port)?,
            Role::Destination | Role::Bystander => touched.watch_bus(port)?,
        }
        if let (Some(way), Some(express), true) = (port.way, express, port.role != Role::Vacant) {
            touched.show_way(way, port.function, express)?;
        }
        if port.role != Role::Vacant {
            let (rules, hidden) = (&mut touched.rules, Reason::HiddenService);
            hide_capabilities(rules, hidden, port.function, |id| is_hidden(port, id))?;
            hide_extended_capabilities(rules, hidden, port.function, |id| is_hidden_extended(port, id))?;
        }
        touched.silence(port);
        Ok(touched)
    }

    /// Registers that name who behind it had an error or wants to be woken: of a Root Port or a Root Complex Event
    /// Collector, and of a port that contains errors.
    pub(super) fn name_requesters(&mut self, function: &Function) -> Result<(), TooManyRules> {
        let root = function
            .express()
            .filter(|express| matches!(express.port_type, PortType::RootPort | PortType::RootComplexEventCollector));
        let find = |id| function.extended_capability(id);
        let registers = [
            (root.map(|root| root.dword), express::ROOT_STATUS, express::PME_REQUESTER),
            (root.and(find(ExtendedCapabilityId::AER)), error_reporting::ERROR_SOURCES, !0),
            (find(ExtendedCapabilityId::DPC), containment::STATUS, containment::ERROR_SOURCE),
        ];
        let mut rules = self.rules.because(Reason::Requesters);
        for (start, register, named) in registers {
            if let Some(dword) = start.and_then(|start| start.plus(register)) {
                rules.name_requesters(dword, named)?;
            }
        }
        Ok(())
    }

    /// Lets the guest give the bridge bus numbers hardware never sees.
    pub(super) fn virtualize_bus_numbers(
        &mut self,
        function: &Function,
        from: Option<usize>,
        to: usize,
    ) -> Result<(), TooManyRules> {
        self.leads = Some((from, to));
        let numbers = function.header(type1::BUS_NUMBERS);
        let mut rules = self.rules.because(Reason::BusNumbers);
        rules.keep(type1::BUS_NUMBERS, !0, !0, numbers)?;
        rules.set_off(type1::BUS_NUMBERS, Effect::BusNumbers)?;
        if !self.restores_routing() {
            // The guest brings back all else.
            self.restore(type1::BUS_NUMBERS, !0, numbers);
        }
        Ok(())
    }

    /// Nothing is found behind it any more: a plain PCI-to-PCI bridge, which Linux binds no port services to, starts no
    /// ASPM on and never suspends (`pci_is_pcie` is the first condition of `pci_bridge_d3_possible`). Bus numbers and
    /// windows show as they are, so that nobody is given them, and every write stays here.
    fn show_conventional_bridge(&mut self, port: &Port<'_>, express: Option<&Express>) -> Result<(), TooManyRules> {
        let function = port.function;
        let mut rules = self.rules.because(Reason::VacantPort);
        rules.zero(header::END, Dword::COUNT.saturating_sub(header::END.index()))?;
        for dword in [header::ID, header::CLASS] {
            rules.drop_writes(dword, !0)?;
        }
        let writable = low(COMMAND_BITS);
        rules.keep(header::COMMAND, 0xffff, writable, function.header(header::COMMAND))?;
        rules.drop_writes(header::COMMAND, !0)?;
        rules.keep(header::HEADER_TYPE, 0xff00_ffff, 0xffff, function.header(header::HEADER_TYPE))?;
        rules.drop_writes(header::HEADER_TYPE, !0)?;
        self.keep_routing(function)?;
        self.keep_io_window(function)?;
        self.keep_memory_window(function)?;
        self.keep_prefetchable_window(function)?;
        let mut rules = self.rules.because(Reason::VacantPort);
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
        let is_service = |id| id != CapabilityId::SUBSYSTEM_ID;
        hide_capabilities(&mut self.rules, Reason::VacantPort, function, is_service)?;
        for bar in function.bars() {
            self.keep_bar(function.header_type(), bar, bar.span().map_or(0, |Host(span)| span.start()))?;
            self.rules.because(Reason::VacantPort).drop_writes(bar.dword(function.header_type()), !0)?;
        }
        self.fill_empty_bars(function)?;
        self.keep_forwarding(function, express);
        Ok(())
    }

    /// Bus numbers and Bridge Control read back what the guest writes, and stay as they are in hardware.
    pub(super) fn keep_routing(&mut self, function: &Function) -> Result<(), TooManyRules> {
        let mut rules = self.rules.because(Reason::Routing);
        rules.keep(type1::BUS_NUMBERS, !0, !0, function.header(type1::BUS_NUMBERS))?;
        // 7.5.1.3.13, and the discard timers of conventional bridges in bits 11:8.
        rules.keep(type1::BRIDGE_CONTROL, 0xffff_0000, 0x0fff_0000, function.header(type1::BRIDGE_CONTROL))
    }

    /// 7.5.1.3.6: a window that is not implemented is zero and read-only.
    pub(super) fn keep_io_window(&mut self, function: &Function) -> Result<(), TooManyRules> {
        let io = function.header(type1::IO_WINDOW) & 0xffff;
        let mut rules = self.rules.because(Reason::Routing);
        rules.keep(type1::IO_WINDOW, 0xffff, if io == 0 { 0 } else { 0xf0f0 }, io)?;
        let upper = if io & 0xf == 1 { !0 } else { 0 };
        rules.keep(type1::IO_UPPER, !0, upper, function.header(type1::IO_UPPER))
    }

    pub(super) fn keep_memory_window(&mut self, function: &Function) -> Result<(), TooManyRules> {
        let window = function.header(type1::MEMORY_WINDOW) & 0xfff0_fff0;
        self.rules.because(Reason::Routing).keep(type1::MEMORY_WINDOW, !0, 0xfff0_fff0, window)
    }

    pub(super) fn keep_prefetchable_window(&mut self, function: &Function) -> Result<(), TooManyRules> {
        let window = function.header(type1::PREFETCHABLE_WINDOW);
        let writable = if window == 0 { 0 } else { 0xfff0_fff0 };
        let mut rules = self.rules.because(Reason::Routing);
        rules.keep(type1::PREFETCHABLE_WINDOW, !0, writable, window)?;
        let upper = if window & 0xf == 1 { !0 } else { 0 };
        for dword in [type1::PREFETCHABLE_BASE_UPPER, type1::PREFETCHABLE_LIMIT_UPPER] {
            rules.keep(dword, !0, upper, function.header(dword))?;
        }
        Ok(())
    }

    /// The function behind the bridge is reached as long as the bridge forwards and is awake.
    pub(super) fn keep_forwarding(&mut self, function: &Function, express: Option<&Express>) {
        self.restore_bridge(function, express);
        self.prepare(header::COMMAND, low(FORWARDING), low(FORWARDING), low(function.command()));
        if let Some(power) = function.capabilities().iter().find(|entry| entry.id == CapabilityId::POWER_MANAGEMENT)
            && let Some(control) = power.dword.plus(power_management::CONTROL)
        {
            self.prepare(control, power_management::POWER_STATE, 0, power.control);
        }
    }

    /// What the guest does not see of a port raises no interrupts and reports no errors, and does not take the link down
    /// because of one.
    fn silence(&mut self, port: &Port<'_>) {
        let is_disguised = matches!(port.way, Some(Way::UpstreamPort | Way::ConventionalBridge));
        let has_no_root = port.role == Role::Vacant || is_disguised;
        let has_no_slot = has_no_root || port.role == Role::Guarded || port.has_empty_link;
        if let Some(express) = port.function.express() {
            let root = express::ROOT_SYSTEM_ERRORS | express::ROOT_PME_INTERRUPT;
            let controls = [
                (express::LINK_CONTROL, express::LINK_INTERRUPTS, has_no_slot),
                (express::SLOT_CONTROL, express::SLOT_INTERRUPTS, has_no_slot),
                (express::ROOT_CONTROL, root, has_no_root),
            ];
            for (register, enables, _) in controls.into_iter().filter(|(.., is_unseen)| *is_unseen) {
                if let Some(dword) = express.dword.plus(register) {
                    self.prepare(dword, enables, 0, express.register(register));
                }
            }
        }
        for entry in port.function.extended_capabilities() {
            let enables = match entry.id {
                // 7.8.4.9: three interrupt enables.
                ExtendedCapabilityId::AER if has_no_root => 0b111,
                // 7.9.14.3: the upper half of the DWORD.
                ExtendedCapabilityId::DPC if has_no_root || port.role == Role::Guarded => 0xffff_0000,
                _ => continue,
            };
            if let Some(dword) = entry.dword.plus(extended_control_dword(entry.id)) {
                self.prepare(dword, enables, 0, entry.control);
            }
        }
    }
}

/// Power states take a link down (`pci_set_low_power_state`), and a bridge that renumbers moves what is behind it.
fn is_hidden(port: &Port<'_>, id: CapabilityId) -> bool {
    match id {
        CapabilityId::POWER_MANAGEMENT => {
            port.role == Role::Guarded || port.role == Role::Destination && port.has_empty_link
        }
        CapabilityId::FLATTENING_PORTAL_BRIDGE => port.role == Role::Guarded,
        _ => false,
    }
}

/// What takes a link down because of an error (7.9.14), or has to agree with the function that left. An Upstream Port
/// contains no errors.
fn is_hidden_extended(port: &Port<'_>, id: ExtendedCapabilityId) -> bool {
    match id {
        ExtendedCapabilityId::DPC => port.role == Role::Guarded || port.way == Some(Way::UpstreamPort),
        ExtendedCapabilityId::VIRTUAL_CHANNEL | ExtendedCapabilityId::L1_PM_SUBSTATES | ExtendedCapabilityId::PTM => {
            port.role == Role::Guarded
        }
        _ => false,
    }
}
