//! The rules of a port something left and something is still found behind: it stays a port, but what hardware needs to
//! reach the function that left is not the guest's to change. And those of the functions left behind, on the same link.

use super::port::FORWARDING;
use super::reason::Reason;
use super::rule::TooManyRules;
use super::touched::{Touched, low};
use crate::plan::Port;
use crate::spec::{express, header};
use crate::topology::{Express, Function};

impl Touched {
    pub(super) fn guard_port(&mut self, port: &Port<'_>, express: Option<&Express>) -> Result<(), TooManyRules> {
        let Port { function, bridge, .. } = *port;
        let mut rules = self.rules.because(Reason::Forwarding);
        rules.keep(header::COMMAND, low(FORWARDING), low(FORWARDING), function.header(header::COMMAND))?;
        rules.hold(header::COMMAND, low(FORWARDING))?;
        self.keep_routing(function)?;
        // Windows firmware left closed lead to nothing that left: the guest may open them for what stays.
        if bridge.io.is_some() {
            self.keep_io_window(function)?;
        }
        if bridge.memory.is_some() {
            self.keep_memory_window(function)?;
        }
        if bridge.prefetchable.is_some() {
            self.keep_prefetchable_window(function)?;
        }
        self.keep_forwarding(function, express);
        express.map_or(Ok(()), |express| self.guard_express(express))
    }

    /// Without a slot there is no power to switch off and no hot-plug (`pciehp`); payload size and what both ends of the
    /// link agreed on stay as they are. What is not on is not offered, so that no function behind it is told to use it.
    fn guard_express(&mut self, express: &Express) -> Result<(), TooManyRules> {
        let at = |register| express.dword.plus(register);
        let mut rules = self.rules.because(Reason::NoSlot);
        rules.fix(express.dword, express::SLOT_IMPLEMENTED, 0)?;
        rules.zero(express.dword.plus(express::SLOT_CAPABILITIES).unwrap_or(express.dword), 2)?;
        if let Some(dword) = at(express::DEVICE_CONTROL) {
            let control = express.register(express::DEVICE_CONTROL);
            let (payload, mut rules) = (express::MAX_PAYLOAD_SIZE, self.rules.because(Reason::PayloadSize));
            rules.keep_in_hardware(dword, payload, payload, control)?;
        }
        if let (Some(offer), Some(dword), true) =
            (at(express::DEVICE_CAPABILITIES_2), at(express::DEVICE_CONTROL_2), express.has_second_set())
        {
            let control = express.register(express::DEVICE_CONTROL_2);
            let on = |enable: u32, supported: u32| if control & enable == 0 { 0 } else { supported };
            let offered = on(express::LTR_ENABLE, express::LTR_SUPPORTED)
                | on(express::ARI_FORWARDING_ENABLE, express::ARI_FORWARDING_SUPPORTED);
            let all = express::LTR_SUPPORTED | express::ARI_FORWARDING_SUPPORTED | express::OBFF_SUPPORTED;
            let mut rules = self.rules.because(Reason::WayUp);
            rules.fix(offer, all, offered)?;
            rules.keep(dword, 0xffff, 0xffff, control)?;
        }
        self.freeze_link(express)
    }

    /// A function that stays on a link a moved function needs.
    pub(super) fn leave_link_alone(&mut self, function: &Function) -> Result<(), TooManyRules> {
        function.express().map_or(Ok(()), |express| self.freeze_link(express))
    }

    /// The link keeps its state: no ASPM, so that Linux does not touch it (`pcie_aspm_cap_init`), no reports of its
    /// activity and bandwidth, on which Linux retrains it (`pcie_failed_link_retrain`, `pcie_bwctrl`), and no control.
    fn freeze_link(&mut self, express: &Express) -> Result<(), TooManyRules> {
        let at = |register| express.dword.plus(register);
        let mut rules = self.rules.because(Reason::Link);
        if let Some(dword) = at(express::LINK_CAPABILITIES) {
            let mask = express::ASPM_SUPPORT
                | express::CLOCK_POWER_MANAGEMENT
                | express::LINK_ACTIVE_REPORTING
                | express::LINK_BANDWIDTH_NOTIFICATION;
            rules.fix(dword, mask, 0)?;
        }
        if let Some(dword) = at(express::LINK_CONTROL) {
            let control = express.register(express::LINK_CONTROL);
            rules.keep(dword, 0xffff, 0xffff & !express::RETRAIN_LINK, control)?;
            rules.fix(dword, express::LINK_EVENTS | express::LINK_ACTIVE, 0)?;
        }
        match at(express::LINK_CONTROL_2).filter(|_| express.has_second_set()) {
            Some(dword) => rules.keep(dword, 0xffff, 0xffff, express.register(express::LINK_CONTROL_2)),
            None => Ok(()),
        }
    }
}
