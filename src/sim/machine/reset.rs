//! Resets: who is reset by what, and how long a function is not ready after.

use core::time::Duration;

use super::attributes;
use super::writes::RegisterWrite;
use super::{FunctionId, Machine};
use crate::address::Bdf;
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::{advanced_features, express, type1};

pub use attributes::Reset;

/// A Function Level Reset takes at most this long (6.6.2).
pub(super) const FUNCTION_LEVEL_RESET: Duration = Duration::from_millis(100);
/// After a conventional reset a function is ready by then (6.6.1).
pub(super) const AFTER_RESET: Duration = Duration::from_millis(100);

impl Machine {
    /// Whether a function is ready to answer configuration requests, if they reach it.
    pub fn is_ready(&self, function: FunctionId) -> bool {
        self.function(function).ready_at <= self.now
    }

    /// Resets a function by itself, as a fault of the device would.
    pub fn reset_function(&mut self, function: FunctionId) {
        self.reset(function, Reset::Function);
        self.functions[function.0].ready_at = self.now + FUNCTION_LEVEL_RESET;
    }

    /// What a function holds is lost, its memory too; and what it kept its other side down or in reset by.
    pub(super) fn reset(&mut self, id: FunctionId, kind: Reset) {
        let held = self.holds_in_reset(id);
        self.functions[id.0].reset(kind);
        self.link_controls_changed(id);
        if held && !self.holds_in_reset(id) {
            self.reset_behind(id, Reset::Hot, self.now + AFTER_RESET);
        }
        self.memory.retain(|(owner, ..), _| *owner != id);
        if self.function(id).extended(ExtendedCapabilityId::SR_IOV).is_some() {
            self.follow_physical(id);
        }
    }

    /// Resets everything behind a bridge; it is ready at this time.
    pub(super) fn reset_behind(&mut self, bridge: FunctionId, kind: Reset, ready_at: Duration) {
        for child in self.function(bridge).children.clone() {
            self.reset(child, kind);
            self.functions[child.0].ready_at = ready_at;
            self.reset_behind(child, kind, ready_at);
        }
    }

    pub(super) fn reset_written(&mut self, id: FunctionId, write: &RegisterWrite) {
        let function = self.function(id);
        let at = |capability, index| function.standard(capability).and_then(|at| at.plus(index)) == Some(write.dword);
        let by_device_control = at(CapabilityId::PCI_EXPRESS, express::DEVICE_CONTROL)
            && function.express(express::DEVICE_CAPABILITIES) & express::FUNCTION_LEVEL_RESET != 0
            && write.ones & express::INITIATE_FUNCTION_LEVEL_RESET != 0;
        let advanced = function.standard(CapabilityId::ADVANCED_FEATURES).map_or(0, |at| function.read(at));
        let by_advanced_features = at(CapabilityId::ADVANCED_FEATURES, advanced_features::CONTROL)
            && advanced & advanced_features::FUNCTION_LEVEL_RESET != 0
            && write.ones & advanced_features::INITIATE_FUNCTION_LEVEL_RESET != 0;
        if by_device_control || by_advanced_features {
            self.reset_function(id);
        }
        if write.dword == type1::BRIDGE_CONTROL && self.function(id).is_bridge() {
            self.secondary_bus_reset_written(id, write);
        }
    }

    /// Whether Secondary Bus Reset holds the bus behind a bridge without a link.
    fn holds_in_reset(&self, id: FunctionId) -> bool {
        let function = self.function(id);
        let is_bus = function.is_bridge() && !function.leads_down_a_link();
        is_bus && function.read(type1::BRIDGE_CONTROL) & type1::SECONDARY_BUS_RESET != 0
    }

    /// Secondary Bus Reset holds what is behind in reset, until it is cleared.
    fn secondary_bus_reset_written(&mut self, id: FunctionId, write: &RegisterWrite) {
        let [old, new] = [write.old, write.new].map(|value| value & type1::SECONDARY_BUS_RESET != 0);
        if old == new {
            return;
        }
        if self.function(id).leads_down_a_link() {
            self.link_controls_changed(id);
        } else {
            let ready_at = if new { Duration::MAX } else { self.now + AFTER_RESET };
            self.reset_behind(id, Reset::Hot, ready_at);
        }
    }

    /// What a Vendor ID reads while the function is not ready: all ones, or 0001h where the Root Port above makes Request
    /// Retry Status visible (2.3.2).
    pub(super) fn retry_status(&self, id: FunctionId) -> u32 {
        const VISIBLE: u32 = 1 << 4;
        let root = self.root_port(id).map_or(0, |root| self.function(root).express(express::ROOT_CONTROL));
        if root & VISIBLE != 0 { 0xffff_0001 } else { !0 }
    }

    /// The Root Port above a function, or itself.
    pub fn root_port(&self, id: FunctionId) -> Option<FunctionId> {
        let is_root = |id: &FunctionId| self.function(*id).port_type() == Some(express::PortType::RootPort);
        std::iter::successors(Some(id), |id| self.function(*id).parent).find(is_root)
    }

    /// Where the messages of a function end: the Root Port above, itself, or for an integrated function the Root Complex
    /// Event Collector on its bus (1.3.4).
    pub(super) fn message_root(&self, id: FunctionId) -> Option<FunctionId> {
        let is_collector =
            |id: &FunctionId| self.function(*id).port_type() == Some(express::PortType::RootComplexEventCollector);
        let beside = self.roots.iter().find(|root| root.contains(&id));
        self.root_port(id).or_else(|| beside?.iter().copied().find(is_collector))
    }

    /// The Requester ID of a function: the bus number of the last configuration write it took, and its devfn.
    pub fn requester(&self, id: FunctionId) -> Bdf {
        let bus = self.function(self.governor(id)).captured_bus;
        Bdf::from_routing_id(u16::from_be_bytes([bus, self.function(id).bdf().devfn()]))
    }
}
