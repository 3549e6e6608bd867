//! Power states of functions (5.3), what they keep from passing, and the sleep of the whole machine.

use core::time::Duration;

use super::reset::{AFTER_RESET, Reset};
use super::writes::RegisterWrite;
use super::{FunctionId, Machine};
use crate::access::Dword;
use crate::spec::capability::CapabilityId;
use crate::spec::express;
use crate::spec::header::{self, HeaderType};
use crate::spec::{power_management, type1};

/// What Power Management has to support for a PowerState.
const SUPPORT: [u32; 4] = [0, power_management::D1_SUPPORT, power_management::D2_SUPPORT, 0];
/// Time from D3hot to D0 (5.9: 10 ms).
const FROM_D3_HOT: Duration = Duration::from_millis(10);
/// From pressing the button to the operating system's wake-up vector.
const WAKE: Duration = Duration::from_secs(1);

/// What firmware brings back after suspend to RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Wake {
    /// Bus numbers, windows and BARs, Command, Device Control and Link Control, as it set them when the machine started.
    #[default]
    Everything,
    /// The same, but only of bridges.
    Bridges,
    /// Nothing: it leaves all to the operating system.
    Nothing,
}

impl Machine {
    /// The power state in PMCSR: 0 for D0, 3 for D3hot. Functions without Power Management are in D0.
    pub fn power_state(&self, function: FunctionId) -> u8 {
        self.function(function).power_state()
    }

    /// Puts every function into D0 as it is, as firmware hands a machine over. A dump shows what was asleep when it was
    /// taken.
    pub fn wake_all(&mut self) {
        for function in &mut self.functions {
            let control = function.standard(CapabilityId::POWER_MANAGEMENT);
            if let Some(control) = control.and_then(|at| at.plus(power_management::CONTROL)) {
                function.set(control, function.read(control) & !power_management::POWER_STATE);
            }
        }
    }

    /// Makes firmware bring back more or less after [`suspend_to_ram`](Self::suspend_to_ram).
    pub fn set_wake(&mut self, wake: Wake) {
        self.wake = wake;
    }

    /// S3: every function loses its power and all it held. When power is back, firmware trains the links and sets up
    /// again what [`Wake`] says. Takes a second.
    pub fn suspend_to_ram(&mut self) {
        for index in 0..self.functions.len() {
            self.reset(FunctionId(index), Reset::Cold);
        }
        self.elapse(WAKE);
        for index in 0..self.functions.len() {
            let function = &mut self.functions[index];
            function.ready_at = Duration::ZERO;
            let is_bridge = function.header_type() != Some(HeaderType::Type0);
            match self.wake {
                Wake::Everything => function.set_up_again(),
                Wake::Bridges if is_bridge => function.set_up_again(),
                Wake::Bridges | Wake::Nothing => (),
            }
            self.restart_link(FunctionId(index));
        }
    }

    /// PowerState was written: states a function does not have are not entered (7.5.2.2), D3hot is left for D0 only.
    pub(super) fn power_written(&mut self, id: FunctionId, write: &RegisterWrite) {
        let function = &mut self.functions[id.0];
        let Some(capability) = function.standard(CapabilityId::POWER_MANAGEMENT) else { return };
        if capability.plus(power_management::CONTROL) != Some(write.dword) {
            return;
        }
        let [old, new] = [write.old, write.new].map(|value| value & power_management::POWER_STATE);
        let supported = SUPPORT[new as usize] & !function.read(capability) == 0;
        if !supported || old == 3 && new != 3 && new != 0 {
            function.set(write.dword, write.new & !power_management::POWER_STATE | old);
        } else if old == 3 && new == 0 && write.new & power_management::NO_SOFT_RESET == 0 {
            self.reset(id, Reset::Soft);
            self.functions[id.0].ready_at = self.now + FROM_D3_HOT;
            // On a bus without links it ends as a reset of that (5.3.1.4.1), on a link it does not (6.6.1).
            if self.function(id).leads_to_a_bus() {
                self.reset_behind(id, Reset::Hot, self.now + AFTER_RESET);
            }
        }
    }

    /// A function signals an event that shall wake it: PME_Status, and a PME message that ends at the Root Port above
    /// or the Root Complex Event Collector beside it (6.1.6), whatever the ports on the way sleep. Whether the message was sent.
    pub fn raise_pme(&mut self, id: FunctionId) -> bool {
        const PME_ENABLE: u32 = 1 << 8;
        const PME_STATUS: u32 = 1 << 15;
        let requester = self.requester(id);
        let function = &mut self.functions[id.0];
        let control =
            function.standard(CapabilityId::POWER_MANAGEMENT).and_then(|at| at.plus(power_management::CONTROL));
        let Some(control) = control else { return false };
        function.set(control, function.read(control) | PME_STATUS);
        if function.read(control) & PME_ENABLE == 0 {
            return false;
        }
        let Some(root) = self.message_root(id) else { return false };
        // PME Status (16), PME Requester ID (15:0), PME Pending (17) while the first is not cleared.
        let status = self.function(root).express(express::ROOT_STATUS);
        let now = if status & 1 << 16 == 0 { 1 << 16 | u32::from(requester.routing_id()) } else { status | 1 << 17 };
        self.functions[root.0].set_express(express::ROOT_STATUS, now);
        if self.function(root).express(express::ROOT_CONTROL) & express::ROOT_PME_INTERRUPT != 0 {
            self.port_interrupt(root);
        }
        true
    }
}

impl super::Function {
    pub(super) fn power_state(&self) -> u8 {
        let control = self.standard(CapabilityId::POWER_MANAGEMENT).and_then(|at| at.plus(power_management::CONTROL));
        control.map_or(0, |control| self.read(control).to_le_bytes()[0] & 3)
    }

    /// Firmware's values for what routes and for the link.
    fn set_up_again(&mut self) {
        let header = (4..15).filter_map(Dword::new).chain([header::COMMAND, type1::BRIDGE_CONTROL]);
        let capability = self.standard(CapabilityId::PCI_EXPRESS).into_iter();
        let controls = [express::DEVICE_CONTROL, express::LINK_CONTROL];
        let controls = capability.flat_map(|at| controls.into_iter().filter_map(move |index| at.plus(index)));
        for dword in header.chain(controls).collect::<std::vec::Vec<_>>() {
            self.restore_writable(dword);
        }
    }
}
