//! Slots: power, presence, and their events.

use super::error::{Fault, Uncorrectable};
use super::writes::RegisterWrite;
use super::{FunctionId, Machine};
use crate::spec::capability::CapabilityId;
use crate::spec::express;

/// Presence Detect Changed and Presence Detect State, in the DWORD of Slot Control.
const PRESENCE_CHANGED: u32 = 1 << 19;
const PRESENT: u32 = 1 << 22;

impl Machine {
    /// Switches the power of what is behind a port, as the machine does behind the back of configuration space: the
    /// power resources of ACPI. Without power it is in D3cold.
    pub fn set_slot_power(&mut self, port: FunctionId, on: bool) {
        self.link_mut(port, |link| link.has_power = on);
        self.link_controls_changed(port);
    }

    /// Takes the device out of its slot while all runs.
    pub fn unplug(&mut self, port: FunctionId) {
        if self.function(port).link.is_some_and(|link| link.is_occupied) {
            self.fault(Fault::SurpriseDown { port: self.function(port).bdf() });
            self.presence(port, false);
            self.uncorrectable(port, Uncorrectable::SurpriseDown);
        }
    }

    /// Puts it back.
    pub fn plug(&mut self, port: FunctionId) {
        self.presence(port, true);
    }

    fn presence(&mut self, port: FunctionId, is_occupied: bool) {
        self.link_mut(port, |link| link.is_occupied = is_occupied);
        let slot = self.function(port).express(express::SLOT_CONTROL);
        let present = if is_occupied { slot | PRESENT } else { slot & !PRESENT };
        self.functions[port.0].set_express(express::SLOT_CONTROL, present);
        self.slot_event(port, PRESENCE_CHANGED);
        self.link_controls_changed(port);
    }

    pub(super) fn slot_has_power(&self, port: FunctionId) -> bool {
        let function = self.function(port);
        let has_controller =
            function.has_slot() && function.express(express::SLOT_CAPABILITIES) & express::POWER_CONTROLLER != 0;
        function.link.is_some_and(|link| link.has_power)
            && !(has_controller && function.express(express::SLOT_CONTROL) & express::SLOT_POWER_OFF != 0)
    }

    pub(super) fn slot_written(&mut self, id: FunctionId, write: &RegisterWrite) {
        let function = self.function(id);
        let control = function.standard(CapabilityId::PCI_EXPRESS).and_then(|at| at.plus(express::SLOT_CONTROL));
        if function.has_slot() && control == Some(write.dword) && (write.old ^ write.new) & express::SLOT_POWER_OFF != 0
        {
            self.link_controls_changed(id);
        }
    }

    /// Sets an event of Slot Status, and signals it where Slot Control asks for that.
    pub(super) fn slot_event(&mut self, port: FunctionId, event: u32) {
        const HOT_PLUG_INTERRUPT: u32 = 1 << 5;
        const PRESENCE_ENABLE: u32 = 1 << 3;
        const STATE_ENABLE: u32 = 1 << 12;
        if !self.function(port).has_slot() {
            return;
        }
        let slot = self.function(port).express(express::SLOT_CONTROL);
        self.functions[port.0].set_express(express::SLOT_CONTROL, slot | event);
        let enable = if event == PRESENCE_CHANGED { PRESENCE_ENABLE } else { STATE_ENABLE };
        if slot & HOT_PLUG_INTERRUPT != 0 && slot & enable != 0 {
            self.port_interrupt(port);
        }
    }
}
