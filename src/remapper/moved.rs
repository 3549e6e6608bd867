//! The rules of a function the guest finds at another address.

use super::lists::{hide_capabilities, hide_extended_capabilities, hide_what_is_unknown};
use super::reason::Reason;
use super::rule::{Effect, TooManyRules};
use super::touched::{Touched, low};
use super::window::{Trapped, table_pages};
use crate::address::Guest;
use crate::delta::Space;
use crate::plan::{
    ErrorReporting, MsixTable, Place, Placement, Places, Plan, Policy, Relocation, guest_address, has_page_to_itself,
    is_reached, shown_size,
};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::header::{self, Command};
use crate::spec::resizable_bar;
use crate::topology::{Bar, Function};

impl Touched {
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
        moved.restore_bars(function);
        moved.take_express(plan, relocation, function)?;
        moved.take_command(function, relocation)?;
        moved.watch_power(function)?;
        moved.offer_only_this_size(function)?;
        let rules = &mut moved.rules;
        // 7.5.1.1.10: starting a self-test may reset the function.
        rules.because(Reason::SelfTest).fix(header::HEADER_TYPE, 0xff00_0000, 0)?;
        let pin = relocation.interrupt_pin.map_or(0, |pin| pin as u32) << 8;
        let line = function.header(header::INTERRUPT) & 0xff;
        rules.because(Reason::InterruptPin).keep(header::INTERRUPT, 0xffff, 0xff, pin | line)?;
        let hidden = Reason::HiddenCapability;
        hide_capabilities(rules, hidden, function, |id| is_hidden(relocation, id))?;
        let names_next = plan.next_in_chain(relocation.guest).is_some();
        let follow = relocation.followed(function).is_some();
        let is_hidden_extended = |id| match id {
            ExtendedCapabilityId::ARI if names_next => false,
            ExtendedCapabilityId::SR_IOV if follow => false,
            id => is_hidden_extended(relocation, id),
        };
        hide_extended_capabilities(rules, hidden, function, is_hidden_extended)?;
        if relocation.policy == Policy::Strict {
            let is_shown = |id| !is_hidden(relocation, id);
            hide_what_is_unknown(rules, function, is_shown, |id| !is_hidden_extended(id))?;
        }
        Ok(moved)
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
        let is_shown = place != Place::None;
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

    /// A BAR keeps the size firmware gave it: what is mapped, and what other functions have beside it, depends on it.
    pub(super) fn offer_only_this_size(&mut self, function: &Function) -> Result<(), TooManyRules> {
        let Some(resizable) = function.resizable_bars() else { return Ok(()) };
        for (bar, control) in (0..).zip(resizable.controls.into_iter().flatten()) {
            let shown = resizable_bar::offer_only(resizable_bar::size(control), control);
            for (register, value) in
                [resizable_bar::capability(bar), resizable_bar::control(bar)].into_iter().zip(shown)
            {
                if let Some(dword) = resizable.dword.plus(register) {
                    self.rules.because(Reason::ResizableBar).fix(dword, !0, value)?;
                }
            }
        }
        Ok(())
    }

    /// The guest's decode enables drive the windows; hardware keeps decoding.
    fn take_command(&mut self, function: &Function, relocation: Relocation) -> Result<(), TooManyRules> {
        let decoding = self.windows.iter().fold(0, |decoding, window| decoding | window.enable);
        let start = match relocation.placement {
            Placement::GuestAssigns => 0,
            Placement::PreAssigned => decoding,
        };
        self.prepare(header::COMMAND, start, start, low(function.command()));
        let both = low(Command::MEMORY_SPACE_ENABLE | Command::IO_SPACE_ENABLE);
        let mut rules = self.rules.because(Reason::DecodeEnables);
        rules.keep(header::COMMAND, both, decoding, start)?;
        rules.hold(header::COMMAND, decoding)?;
        // 7.5.1.1.3: SERR# Enable reports errors too, whatever Device Control says.
        let kept = if relocation.errors == ErrorReporting::Pass { Command::empty() } else { Command::SERR_ENABLE };
        let own = low(function.command() & kept);
        rules.keep(header::COMMAND, low(kept), low(kept), own)?;
        rules.hold(header::COMMAND, own)?;
        rules.set_off(header::COMMAND, Effect::Decoding)?;
        self.restore(header::COMMAND, 0xffff, decoding | own);
        Ok(())
    }
}

fn is_hidden(relocation: Relocation, id: CapabilityId) -> bool {
    HIDDEN.contains(&id) || relocation.policy == Policy::Strict && !HARMLESS.contains(&id)
}

fn is_hidden_extended(relocation: Relocation, id: ExtendedCapabilityId) -> bool {
    HIDDEN_EXTENDED.contains(&id)
        || relocation.policy == Policy::Strict && !HARMLESS_EXTENDED.contains(&id)
        || relocation.errors == ErrorReporting::Hide && id == ExtendedCapabilityId::AER
}

/// What [`Policy::Strict`] shows.
const HARMLESS: [CapabilityId; 6] = [
    CapabilityId::POWER_MANAGEMENT,
    CapabilityId::VPD,
    CapabilityId::MSI,
    CapabilityId::PCI_EXPRESS,
    CapabilityId::MSI_X,
    CapabilityId::ADVANCED_FEATURES,
];

/// What [`Policy::Strict`] shows.
const HARMLESS_EXTENDED: [ExtendedCapabilityId; 3] =
    [ExtendedCapabilityId::AER, ExtendedCapabilityId::DEVICE_SERIAL_NUMBER, ExtendedCapabilityId::RESIZABLE_BAR];

/// Capabilities a moved function does not show: BARs at fixed addresses, and a bridge that renumbers.
const HIDDEN: [CapabilityId; 2] = [CapabilityId::ENHANCED_ALLOCATION, CapabilityId::FLATTENING_PORTAL_BRIDGE];

/// Extended capabilities a moved function does not show: those that are half of an agreement with the real port, that
/// name functions by their address, that identify the function to others by it, or that change what a BAR decodes.
const HIDDEN_EXTENDED: [ExtendedCapabilityId; 25] = [
    ExtendedCapabilityId::VIRTUAL_CHANNEL,
    ExtendedCapabilityId::ROOT_COMPLEX_LINK_DECLARATION,
    ExtendedCapabilityId::MFVC,
    ExtendedCapabilityId::VIRTUAL_CHANNEL_MFVC,
    ExtendedCapabilityId::ACS,
    ExtendedCapabilityId::ARI,
    ExtendedCapabilityId::ATS,
    ExtendedCapabilityId::SR_IOV,
    ExtendedCapabilityId::PAGE_REQUEST,
    ExtendedCapabilityId::TPH_REQUESTER,
    ExtendedCapabilityId::LTR,
    ExtendedCapabilityId::SECONDARY_PCI_EXPRESS,
    ExtendedCapabilityId::PASID,
    ExtendedCapabilityId::DPC,
    ExtendedCapabilityId::L1_PM_SUBSTATES,
    ExtendedCapabilityId::PTM,
    ExtendedCapabilityId::VF_RESIZABLE_BAR,
    ExtendedCapabilityId::FRS_QUEUEING,
    ExtendedCapabilityId::DATA_LINK_FEATURE,
    ExtendedCapabilityId::PHYSICAL_LAYER_16,
    ExtendedCapabilityId::LANE_MARGINING,
    ExtendedCapabilityId::PHYSICAL_LAYER_32,
    ExtendedCapabilityId::DOE,
    ExtendedCapabilityId::IDE,
    ExtendedCapabilityId::PHYSICAL_LAYER_64,
];
