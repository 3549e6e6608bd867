//! Functions and bridges that stay while addresses are virtual: hardware decodes what it did when the topology was made,
//! and the guest places them as it likes. At first they are where firmware put them.

use super::lists::hide_extended_capabilities;
use super::reason::Reason;
use super::rule::{Effect, TooManyRules};
use super::touched::{Touched, low};
use super::window::Trapped;
use crate::address::Host;
use crate::delta::Space;
use crate::plan::{Plan, Port, Role, is_reached};
use crate::spec::capability::ExtendedCapabilityId;
use crate::spec::header::{self, Command, HeaderType};
use crate::topology::Function;

impl Touched {
    /// A function at its own address.
    pub(super) fn in_place(plan: &Plan<'_>, function: &Function, shows_sriov: bool) -> Result<Self, TooManyRules> {
        let mut touched = Self::staying(function);
        touched.virtualize_addresses(plan, function)?;
        touched.pass_decoding(function)?;
        touched.watch_power(function)?;
        touched.offer_only_this_size(function)?;
        let hidden = |id| match id {
            ExtendedCapabilityId::SR_IOV => !shows_sriov,
            id => id == ExtendedCapabilityId::VF_RESIZABLE_BAR,
        };
        hide_extended_capabilities(&mut touched.rules, Reason::HiddenCapability, function, hidden)?;
        Ok(touched)
    }

    /// A bridge, with what it decodes itself. One something left forwards all the time, by rules of its own.
    pub(super) fn port_in_place(plan: &Plan<'_>, port: &Port<'_>) -> Result<Self, TooManyRules> {
        let mut touched = Self::port(port)?;
        match port.role {
            Role::Vacant => return Ok(touched),
            Role::Guarded => touched.virtualize_addresses(plan, port.function)?,
            Role::Destination | Role::Bystander => {
                touched.virtualize_addresses(plan, port.function)?;
                touched.pass_decoding(port.function)?;
            }
        }
        touched.rules.because(Reason::DecodeEnables).set_off(header::COMMAND, Effect::Decoding)?;
        Ok(touched)
    }

    /// BARs and windows are the guest's alone, and a replay brings back those of hardware.
    fn virtualize_addresses(&mut self, plan: &Plan<'_>, function: &Function) -> Result<(), TooManyRules> {
        self.place(plan, function)?;
        let is_restored = self.restores_routing();
        if !is_restored {
            self.restore_bars(function);
        }
        if function.header_type() == HeaderType::Type1 {
            self.keep_io_window(function)?;
            self.keep_memory_window(function)?;
            self.keep_prefetchable_window(function)?;
            if !is_restored {
                self.restore_windows(function);
            }
        }
        Ok(())
    }

    /// BARs keep their sizes, so that each is where it was: what is smaller than a page is trapped.
    fn place(&mut self, plan: &Plan<'_>, function: &Function) -> Result<(), TooManyRules> {
        for bar in function.bars().filter(|bar| is_reached(plan, function.bdf(), bar)) {
            let Some(Host(span)) = bar.span() else { continue };
            let (trapped, enable) = match bar.space() {
                Space::Memory if span.len() >= 0x1000 => (Trapped::None, Command::MEMORY_SPACE_ENABLE),
                Space::Memory => (Trapped::All, Command::MEMORY_SPACE_ENABLE),
                Space::Io => (Trapped::All, Command::IO_SPACE_ENABLE),
            };
            let (header_type, size) = (function.header_type(), bar.size());
            self.add_parts(bar.kind(), bar.dword(header_type), size, Host(span), trapped, enable);
            self.keep_bar_of(size, header_type, bar, span.start())?;
        }
        self.fill_empty_bars(function)
    }

    /// The decode enables are the guest's in hardware, too, which decodes nothing the guest chose.
    fn pass_decoding(&mut self, function: &Function) -> Result<(), TooManyRules> {
        let enables = self.windows.iter().fold(0, |enables, window| enables | window.enable);
        let mut rules = self.rules.because(Reason::DecodeEnables);
        rules.keep(header::COMMAND, enables, enables, low(function.command()))?;
        rules.pass(header::COMMAND, enables)?;
        rules.set_off(header::COMMAND, Effect::Decoding)
    }
}
