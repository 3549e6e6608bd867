//! Resets of everything wired behind a bridge, which the guest makes by the bridge's registers: what they take from moved
//! functions is noticed.
//!
//! Ports something left never make one, as those registers stay in the shadow. A port nothing is wired behind has it made
//! by another. Containment of an error makes one that no guest asked for (6.2.11): nothing behind the port answers until
//! the guest ends it, and then it is noticed. Where the port shows so that no guest would wait for what it reset, the
//! host waits.

use super::Remapper;
use super::reason::Reason;
use super::rule::{Effect, TooManyRules};
use super::state::Fingerprint;
use super::touched::Touched;
use crate::access::{Access, Lanes};
use crate::address::{Bdf, Host};
use crate::decision::WriteDecision;
use crate::plan::{Port, Way};
use crate::spec::capability::ExtendedCapabilityId;
use crate::spec::express::{self, PortType};
use crate::spec::{containment, type1};
use crate::topology::{Bridge, Function};

/// What a reset of the bus behind a bridge means.
#[derive(Debug, Clone, Copy)]
pub(super) struct BusReset {
    /// The buses of what is reset, as hardware numbers them.
    first: u8,
    last: u8,
    /// The bridge that makes it, if it is another, and the upper half of its DWORD with Bridge Control without the reset.
    made_by: Option<(Bdf, u32)>,
    /// Whether the way back from D3hot makes one, too.
    by_waking: bool,
    /// Whether the guest waits after it until what is behind the bridge is ready.
    is_waited_for: bool,
}

impl BusReset {
    /// Linux does not wait behind what shows as an Upstream Port (`pci_bridge_wait_for_secondary_bus`).
    fn of(bridge: Bridge, way: Option<Way>) -> Self {
        let is_waited_for = way != Some(Way::UpstreamPort);
        Self { first: bridge.secondary, last: bridge.subordinate, made_by: None, by_waking: false, is_waited_for }
    }

    fn reaches(self, touched: &Touched) -> bool {
        (self.first..=self.last).contains(&touched.host.bus())
    }

    pub(super) fn identify(self, fingerprint: &mut Fingerprint) {
        let Self { first, last, made_by, by_waking, is_waited_for } = self;
        fingerprint.add(first);
        fingerprint.add(last);
        fingerprint.add(by_waking);
        fingerprint.add(is_waited_for);
        if let Some((bridge, control)) = made_by {
            fingerprint.add(bridge.routing_id());
            fingerprint.add(control);
        }
    }
}

impl Effect {
    /// The bits that reset everything behind a bridge as long as they are ones.
    const fn of_bus_reset(self) -> u32 {
        match self {
            Self::SecondaryBusReset => type1::SECONDARY_BUS_RESET,
            Self::LinkDisable => express::LINK_DISABLE,
            Self::SlotPower => express::SLOT_POWER_OFF,
            Self::Containment => containment::SOFTWARE_TRIGGER,
            Self::ContainmentEnd => containment::TRIGGER_STATUS,
            _ => 0,
        }
    }

    /// Whether what is written resets everything behind a bridge. Containment that is off is not triggered (7.9.14.3).
    const fn is_bus_reset(self, written: u32) -> bool {
        let is_on = !matches!(self, Self::Containment) || written & containment::TRIGGER_ENABLE != 0;
        written & self.of_bus_reset() != 0 && is_on
    }
}

impl<const F: usize> Remapper<F> {
    /// A write to a register that can reset everything behind a bridge; `written` are the ones that count. Functions that
    /// are reset forget, and have nothing brought back while the reset lasts, as they do not answer.
    #[cold]
    pub(super) fn note_bus_reset(
        &mut self,
        bridge: usize,
        effect: Effect,
        access: Access,
        written: u32,
        decision: &mut WriteDecision,
    ) {
        let bits = effect.of_bus_reset();
        let reset = self.functions.get(bridge).and_then(|touched| touched.bus_reset);
        let Some(reset) = reset.filter(|_| access.lanes().mask() & bits != 0) else { return };
        if effect.is_bus_reset(written) {
            self.forget_behind(reset);
        }
        if let (Some((bridge, control)), Some(lanes)) = (reset.made_by, Lanes::run(2, 2)) {
            *decision = WriteDecision::Redirect {
                to: Host(Access::new(bridge, type1::BRIDGE_CONTROL, lanes)),
                value: control | written & bits,
            };
        }
        self.ends_reset = written & bits == 0 && !reset.is_waited_for && self.has_forgotten_behind(reset);
    }
}

impl<const F: usize> Remapper<F> {
    /// A bridge lost its registers on the way back from D3hot.
    pub(super) fn forget_by_waking(&mut self, bridge: usize) {
        let reset = self.functions.get(bridge).and_then(|touched| touched.bus_reset);
        if let Some(reset) = reset.filter(|reset| reset.by_waking) {
            self.forget_behind(reset);
        }
    }

    fn forget_behind(&mut self, reset: BusReset) {
        for index in 0..self.functions.len() {
            if self.functions.get(index).is_some_and(|touched| reset.reaches(touched)) {
                self.forget(index);
            }
        }
    }

    fn has_forgotten_behind(&self, reset: BusReset) -> bool {
        self.functions.iter().any(|touched| touched.has_forgotten && reset.reaches(touched))
    }
}

impl Touched {
    /// What the guest does to the link, the slot, containment and the bus passes, and resets moved functions wired there.
    pub(super) fn watch_bus(&mut self, port: &Port<'_>) -> Result<(), TooManyRules> {
        // A bus without links is reset as its bridge is (5.3.1.4.1); what is behind a link is not (6.6.1).
        let port_type = port.function.express().map(|express| express.port_type);
        let by_waking = matches!(port_type, None | Some(PortType::PciExpressToPciBridge));
        self.bus_reset = Some(BusReset { by_waking, ..BusReset::of(port.bridge, port.way) });
        self.watch_power(port.function)?;
        let mut rules = self.rules.because(Reason::ResetBehind);
        rules.set_off(type1::BRIDGE_CONTROL, Effect::SecondaryBusReset)?;
        let Some(express) = port.function.express().filter(|_| port.function.leads_down_a_link()) else {
            return Ok(());
        };
        if let Some(dword) = express.dword.plus(express::LINK_CONTROL) {
            rules.set_off(dword, Effect::LinkDisable)?;
        }
        let has_controller = express.register(0) & express::SLOT_IMPLEMENTED != 0
            && express.register(express::SLOT_CAPABILITIES) & express::POWER_CONTROLLER != 0;
        if let Some(dword) = express.dword.plus(express::SLOT_CONTROL).filter(|_| has_controller) {
            rules.set_off(dword, Effect::SlotPower)?;
        }
        let list = port.function.extended_capabilities();
        let Some(containment) = list.iter().find(|entry| entry.id == ExtendedCapabilityId::DPC) else { return Ok(()) };
        let by_software = containment.control & containment::SOFTWARE_TRIGGERING_SUPPORTED != 0;
        if let Some(dword) = containment.dword.plus(containment::CONTROL).filter(|_| by_software) {
            rules.set_off(dword, Effect::Containment)?;
        }
        match containment.dword.plus(containment::STATUS) {
            Some(dword) => rules.set_off(dword, Effect::ContainmentEnd),
            None => Ok(()),
        }
    }

    /// A reset of an empty bus is made by the bridge above the functions that are found there.
    pub(super) fn reset_by(&mut self, real: &Function, way: Option<Way>) -> Result<(), TooManyRules> {
        let Some(bridge) = real.bridge() else { return Ok(()) };
        let control = real.header(type1::BRIDGE_CONTROL) & 0xffff_0000 & !type1::SECONDARY_BUS_RESET;
        self.bus_reset = Some(BusReset { made_by: Some((real.bdf().0, control)), ..BusReset::of(bridge, way) });
        self.rules.because(Reason::BusReset).set_off(type1::BRIDGE_CONTROL, Effect::SecondaryBusReset)
    }
}
