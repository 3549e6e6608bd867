//! Links: up, training or down, and what both ends have to agree on.

use core::time::Duration;

use bitflags::bitflags;

use super::error::Fault;
use super::reset::{AFTER_RESET, Reset};
use super::writes::RegisterWrite;
use super::{Function, FunctionId, Machine};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::type1;
use crate::spec::{containment, express};

/// From the start of training to an active link.
pub(super) const TRAINING: Duration = Duration::from_millis(20);
/// A retrain of an active link.
const RETRAINING: Duration = Duration::from_millis(1);
/// Link Bandwidth Management Status, in the DWORD of Link Control.
const BANDWIDTH_STATUS: u32 = 1 << 30;
/// Data Link Layer State Changed, in the DWORD of Slot Control.
const STATE_CHANGED: u32 = 1 << 24;

/// The state of the link below a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Requests pass.
    Active,
    /// Requests pass later: the link trains anew, and stays up meanwhile.
    Retraining,
    /// It comes up.
    Training,
    /// Nothing is there, or something keeps it down.
    Down,
}

bitflags! {
    /// Settings the two ends of a link have to agree on and do not.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Disagreement: u8 {
        /// Common Clock Configuration (7.5.3.7).
        const COMMON_CLOCK = 1 << 0;
        /// L1 is enabled at one end, or at an end that has no L1 (5.4.1.3).
        const L1 = 1 << 1;
        /// L0s is enabled at an end while one has no L0s (5.4.1.1).
        const L0S = 1 << 2;
    }
}

/// The link below a port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) state: LinkState,
    /// When training ends.
    until: Duration,
    /// Whether something is in the slot.
    pub(super) is_occupied: bool,
    /// Whether the machine gives the slot power; the slot's own controller has a say too.
    pub(super) has_power: bool,
    /// What firmware left, or was told already.
    disagreement: Disagreement,
}

impl Link {
    pub(super) fn new(is_occupied: bool) -> Self {
        let state = if is_occupied { LinkState::Active } else { LinkState::Down };
        Self { state, until: Duration::ZERO, is_occupied, has_power: true, disagreement: Disagreement::empty() }
    }
}

impl Machine {
    /// The link below a port; `None` for what is no Root Port or Downstream Port.
    pub fn link(&self, port: FunctionId) -> Option<LinkState> {
        self.function(port).link.map(|link| link.state)
    }

    /// What the ends of the link below a port do not agree on now.
    pub fn disagreement(&self, port: FunctionId) -> Disagreement {
        let port = self.function(port);
        let own = Settings::of(port);
        let children = port.children.iter().map(|child| self.function(*child));
        let partners = children.filter(|child| child.is_express() && !child.is_virtual());
        let mut found = Disagreement::empty();
        for partner in partners.map(Settings::of) {
            found.set(
                Disagreement::COMMON_CLOCK,
                found.contains(Disagreement::COMMON_CLOCK) || own.common_clock != partner.common_clock,
            );
            let l1 = own.control & 2 != partner.control & 2
                || (own.control & !own.support | partner.control & !partner.support) & 2 != 0;
            let l0s = (own.control | partner.control) & 1 != 0 && own.support & partner.support & 1 == 0;
            found |= if l1 { Disagreement::L1 } else { Disagreement::empty() };
            found |= if l0s { Disagreement::L0S } else { Disagreement::empty() };
        }
        found
    }

    /// Ends training that is over, and looks whether both ends agree.
    pub(super) fn settle_links(&mut self) {
        for id in (0..self.functions.len()).map(FunctionId) {
            let Some(link) = self.functions[id.0].link else { continue };
            match link.state {
                LinkState::Training | LinkState::Retraining if link.until <= self.now => self.trained(id),
                _ => (),
            }
            if self.link(id) == Some(LinkState::Active) {
                let disagreement = self.disagreement(id);
                let news = disagreement - link.disagreement;
                if !news.is_empty() {
                    let port = self.function(id).bdf();
                    self.fault(Fault::Disagreement { port, what: news });
                }
                self.link_mut(id, |link| link.disagreement = disagreement);
            }
        }
    }

    pub(super) fn link_written(&mut self, id: FunctionId, write: &RegisterWrite) {
        let function = self.function(id);
        if !function.leads_down_a_link() {
            return;
        }
        let capability = function.standard(CapabilityId::PCI_EXPRESS);
        let status = function.extended(ExtendedCapabilityId::DPC).and_then(|at| at.plus(containment::STATUS));
        if capability.and_then(|at| at.plus(express::LINK_CONTROL)) == Some(write.dword) {
            self.link_controls_changed(id);
            if write.ones & express::RETRAIN_LINK != 0 {
                self.retrain(id);
            }
        } else if status == Some(write.dword) && (write.old & !write.new) & containment::TRIGGER_STATUS != 0 {
            self.link_controls_changed(id);
        }
    }

    /// Something that keeps the link down, or no longer does, has changed.
    pub(super) fn link_controls_changed(&mut self, id: FunctionId) {
        let Some(link) = self.function(id).link else { return };
        match (link.state, self.may_train(id)) {
            (LinkState::Down, true) => self.train(id),
            (LinkState::Active | LinkState::Retraining | LinkState::Training, false) => self.take_down(id),
            _ => (),
        }
    }

    /// Brings the link up without delay, as firmware has waited for it.
    pub(super) fn restart_link(&mut self, id: FunctionId) {
        if self.function(id).link.is_none() {
            return;
        }
        self.link_mut(id, |link| link.has_power = true);
        if self.may_train(id) {
            self.trained(id);
            let disagreement = self.disagreement(id);
            self.link_mut(id, |link| link.disagreement = disagreement);
        }
    }

    /// Whether the function at the other end is wired and powered, and nothing keeps the link down.
    fn may_train(&self, id: FunctionId) -> bool {
        let port = self.function(id);
        let dpc = port.extended(ExtendedCapabilityId::DPC).and_then(|at| at.plus(containment::STATUS));
        port.link.is_some_and(|link| link.is_occupied)
            && self.slot_has_power(id)
            && port.express(express::LINK_CONTROL) & express::LINK_DISABLE == 0
            && port.read(type1::BRIDGE_CONTROL) & type1::SECONDARY_BUS_RESET == 0
            && dpc.is_none_or(|status| port.read(status) & containment::TRIGGER_STATUS == 0)
    }

    fn train(&mut self, id: FunctionId) {
        let until = self.now + TRAINING;
        self.link_mut(id, |link| (link.state, link.until) = (LinkState::Training, until));
        self.functions[id.0].set_link_status(express::LINK_TRAINING, true);
        self.reset_behind(id, Reset::Hot, self.now + AFTER_RESET);
    }

    /// Retrain Link: the link stays up. One that is down has nobody to train with, and Link Training stays set.
    fn retrain(&mut self, id: FunctionId) {
        let Some(link) = self.function(id).link else { return };
        if link.state == LinkState::Active {
            let until = self.now + RETRAINING;
            self.link_mut(id, |link| (link.state, link.until) = (LinkState::Retraining, until));
        }
        self.functions[id.0].set_link_status(express::LINK_TRAINING, true);
    }

    /// The link is down: what is behind was reset by that (6.6.1), and does not answer.
    pub(super) fn take_down(&mut self, id: FunctionId) {
        let Some(link) = self.function(id).link else { return };
        let was_up = matches!(link.state, LinkState::Active | LinkState::Retraining);
        self.link_mut(id, |link| link.state = LinkState::Down);
        self.functions[id.0].set_link_status(express::LINK_TRAINING, false);
        self.functions[id.0].set_link_status(express::LINK_ACTIVE, false);
        let kind = if self.slot_has_power(id) { Reset::Hot } else { Reset::Cold };
        self.reset_behind(id, kind, Duration::MAX);
        if was_up {
            self.fault(Fault::LinkDown { port: self.function(id).bdf() });
            self.slot_event(id, STATE_CHANGED);
        }
    }

    fn trained(&mut self, id: FunctionId) {
        let Some(link) = self.function(id).link else { return };
        self.link_mut(id, |link| link.state = LinkState::Active);
        let speed_and_width = self.negotiated(id);
        let reports = self.function(id).express(express::LINK_CAPABILITIES) & express::LINK_ACTIVE_REPORTING != 0;
        let port = &mut self.functions[id.0];
        port.set_link_status(express::LINK_TRAINING, false);
        port.set_link_status(express::LINK_ACTIVE, reports);
        port.set_speed_and_width(speed_and_width);
        for child in self.function(id).children.clone() {
            self.functions[child.0].set_speed_and_width(speed_and_width);
        }
        if link.state == LinkState::Retraining {
            self.functions[id.0].set_link_status(BANDWIDTH_STATUS, true);
            if self.function(id).express(express::LINK_CONTROL) & 1 << 10 != 0 {
                self.port_interrupt(id);
            }
        } else {
            self.slot_event(id, STATE_CHANGED);
        }
    }

    /// Current Link Speed and Negotiated Link Width: what both ends have, up to Target Link Speed of the port.
    fn negotiated(&self, id: FunctionId) -> u32 {
        let port = self.function(id);
        let partner = port.children.iter().map(|child| self.function(*child)).find(|child| child.is_express());
        let own = port.express(express::LINK_CAPABILITIES);
        let other = partner.map_or(own, |partner| partner.express(express::LINK_CAPABILITIES));
        let target = match port.express(express::LINK_CONTROL_2) & 0xf {
            0 => 0xf,
            target => target,
        };
        let speed = (own & 0xf).min(other & 0xf).min(target);
        let width = (own & 0x3f0).min(other & 0x3f0);
        speed | width
    }

    pub(super) fn link_mut(&mut self, id: FunctionId, change: impl FnOnce(&mut Link)) {
        if let Some(link) = &mut self.functions[id.0].link {
            change(link);
        }
    }

    /// What firmware left counts as agreed.
    pub(super) fn accept_links(&mut self) {
        for id in (0..self.functions.len()).map(FunctionId) {
            let disagreement = self.disagreement(id);
            self.link_mut(id, |link| link.disagreement = disagreement);
        }
    }
}

impl Function {
    fn set_link_status(&mut self, bits: u32, on: bool) {
        let control = self.express(express::LINK_CONTROL);
        self.set_express(express::LINK_CONTROL, if on { control | bits } else { control & !bits });
    }

    fn set_speed_and_width(&mut self, value: u32) {
        let control = self.express(express::LINK_CONTROL);
        let status = express::SPEED_AND_WIDTH << 16;
        self.set_express(express::LINK_CONTROL, control & !status | value << 16);
    }
}

/// What one end of a link says about it.
struct Settings {
    common_clock: bool,
    /// ASPM Control and ASPM Support: bit 0 is L0s, bit 1 is L1.
    control: u32,
    support: u32,
}

impl Settings {
    fn of(function: &Function) -> Self {
        let control = function.express(express::LINK_CONTROL);
        Self {
            common_clock: control & express::COMMON_CLOCK_CONFIGURATION != 0,
            control: control & express::ASPM_CONTROL,
            support: function.express(express::LINK_CAPABILITIES) >> 10 & 3,
        }
    }
}
