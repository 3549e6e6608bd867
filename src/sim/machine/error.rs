//! Errors: what went wrong on the way, and who is told.
//!
//! A port that detects an error notes it in Device Status and Advanced Error Reporting, and sends a message that ends at
//! the Root Port above: Root Error Status, Error Source Identification, an interrupt or a system error (6.2).

use super::link::Disagreement;
use super::writes::RegisterWrite;
use super::{FunctionId, Machine};
use crate::address::Bdf;
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::header::{self, Command};
use crate::spec::{containment, express};

/// Something that real hardware would suffer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A TLP has more payload than its receiver takes: fatal on that link (2.2.2).
    MalformedTlp {
        /// Who received it.
        receiver: Bdf,
        /// Who sent it.
        requester: Bdf,
        /// Its payload, in bytes.
        payload: u32,
        /// Max_Payload_Size of the receiver, in bytes.
        limit: u32,
    },
    /// A message its receiver is not enabled for: LTR (6.18) or PTM (6.22).
    UnsupportedMessage {
        /// Who received it.
        receiver: Bdf,
        /// Who sent it.
        requester: Bdf,
    },
    /// The two ends of a link differ in what they have to agree on.
    Disagreement {
        /// The upper end.
        port: Bdf,
        /// What they differ in.
        what: Disagreement,
    },
    /// A link in use went down.
    LinkDown {
        /// The upper end.
        port: Bdf,
    },
    /// Nobody asked for it to go down.
    SurpriseDown {
        /// The upper end.
        port: Bdf,
    },
    /// A port cut its link off because of an error (6.2.11).
    Contained {
        /// The port.
        port: Bdf,
    },
    /// A Root Port raised a system error: an NMI or SMI on real machines.
    SystemError {
        /// The Root Port.
        root: Bdf,
    },
}

/// Uncorrectable errors by their bit in AER's status register (7.8.4.2).
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Uncorrectable {
    SurpriseDown = 1 << 5,
    MalformedTlp = 1 << 18,
    UnsupportedRequest = 1 << 20,
}

/// The DWORDs of Advanced Error Reporting.
const STATUS: u16 = 1;
const MASK: u16 = 2;
const SEVERITY: u16 = 3;
const CONTROL: u16 = 6;
const ROOT_COMMAND: u16 = 11;
const ROOT_STATUS: u16 = 12;
const ERROR_SOURCE: u16 = 13;

impl Machine {
    /// What went wrong, oldest first. Only the first thousand are kept.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        /// Enough to find out what went wrong.
        const KEPT: usize = 1000;
        if self.faults.len() < KEPT {
            self.faults.push(fault);
        }
    }

    /// A function detects an uncorrectable error. Fatal or not is what AER's severity says, and its default without AER.
    pub(super) fn uncorrectable(&mut self, id: FunctionId, error: Uncorrectable) {
        let function = &mut self.functions[id.0];
        let bit = error as u32;
        let aer = function.extended(ExtendedCapabilityId::AER);
        let register = |index| aer.and_then(|at| at.plus(index));
        let value = |index| register(index).map_or(0, |dword| function.read(dword));
        let severity = if aer.is_some() { value(SEVERITY) } else { 0x0046_2030 };
        let (is_fatal, is_masked) = (severity & bit != 0, value(MASK) & bit != 0);
        let (before, control) = (value(STATUS), value(CONTROL));
        if let (Some(status), Some(at)) = (register(STATUS), register(CONTROL)) {
            function.set(status, before | bit);
            if before == 0 {
                function.set(at, control & !0x1f | bit.trailing_zeros());
            }
        }
        // Non-Fatal, Fatal and Unsupported Request Detected in Device Status.
        let request = matches!(error, Uncorrectable::UnsupportedRequest);
        let detected = if is_fatal { 1 << 18 } else { 1 << 17 } | if request { 1 << 19 } else { 0 };
        let device = function.express(express::DEVICE_CONTROL);
        function.set_express(express::DEVICE_CONTROL, device | detected);
        let enable = if is_fatal { 1 << 2 } else { 1 << 1 };
        let is_reported = device & enable != 0 || function.command().contains(Command::SERR_ENABLE);
        if is_reported && !is_masked {
            let status = function.read(header::COMMAND) | u32::from(header::Status::SIGNALED_SYSTEM_ERROR.bits()) << 16;
            function.set(header::COMMAND, status);
            self.error_message(id, is_fatal);
        }
    }

    /// ERR_FATAL or ERR_NONFATAL on its way up: ports with containment stop there, the Root Port notes it.
    fn error_message(&mut self, source: FunctionId, is_fatal: bool) {
        let requester = self.requester(source);
        let way = std::iter::successors(Some(source), |id| self.function(*id).parent);
        let ports = way.filter(|id| self.function(*id).leads_down_a_link()).collect::<std::vec::Vec<_>>();
        for port in ports {
            if self.contains(port, is_fatal) {
                // Trigger Reason: 0 for what the port detected, 2 for a message it received, with its source.
                let reason = if port == source { 0 } else { 2 << 1 };
                self.contain(port, u32::from(requester.routing_id()) << 16 | reason);
                return;
            }
        }
        let Some(root) = self.message_root(source) else { return };
        let function = &mut self.functions[root.0];
        let aer = function.extended(ExtendedCapabilityId::AER);
        let register = |index| aer.and_then(|at| at.plus(index));
        let value = |index| register(index).map_or(0, |dword| function.read(dword));
        let (status, command, sources) = (value(ROOT_STATUS), value(ROOT_COMMAND), value(ERROR_SOURCE));
        // ERR_FATAL/NONFATAL Received, Multiple, First Uncorrectable Fatal, Non-Fatal Messages, Fatal Messages.
        let is_first = status & 1 << 2 == 0;
        let mut news = 1 << 2 | if is_fatal { 1 << 6 } else { 1 << 5 };
        news |= match (is_first, is_fatal) {
            (false, _) => 1 << 3,
            (true, true) => 1 << 4,
            (true, false) => 0,
        };
        if let (Some(at), Some(source)) = (register(ROOT_STATUS), register(ERROR_SOURCE)) {
            function.set(at, status | news);
            if is_first {
                function.set(source, sources & 0xffff | u32::from(requester.routing_id()) << 16);
            }
        }
        let root_control = function.express(express::ROOT_CONTROL);
        if root_control & if is_fatal { 1 << 2 } else { 1 << 1 } != 0 {
            self.fault(Fault::SystemError { root: self.function(root).bdf() });
        }
        if command & if is_fatal { 1 << 2 } else { 1 << 1 } != 0 {
            self.port_interrupt(root);
        }
    }

    /// Whether DPC Trigger Enable covers it: 1 for fatal errors, 2 for both.
    fn contains(&self, port: FunctionId, is_fatal: bool) -> bool {
        let function = self.function(port);
        let control = function.extended(ExtendedCapabilityId::DPC).and_then(|at| at.plus(containment::CONTROL));
        match control.map_or(0, |control| function.read(control) >> 16 & 3) {
            1 => is_fatal,
            2 => true,
            _ => false,
        }
    }

    /// The link goes down, and stays so until DPC Trigger Status is cleared. `why` is the source and the reason, as DPC
    /// Status says them.
    fn contain(&mut self, port: FunctionId, why: u32) {
        const INTERRUPT_ENABLE: u32 = 1 << 19;
        const INTERRUPT_STATUS: u32 = 1 << 3;
        let function = &mut self.functions[port.0];
        let Some(at) = function.extended(ExtendedCapabilityId::DPC) else { return };
        let (Some(control), Some(status)) = (at.plus(containment::CONTROL), at.plus(containment::STATUS)) else {
            return;
        };
        if function.read(status) & containment::TRIGGER_STATUS != 0 {
            return;
        }
        function.set(status, why | INTERRUPT_STATUS | containment::TRIGGER_STATUS);
        let interrupts = function.read(control) & INTERRUPT_ENABLE != 0;
        self.fault(Fault::Contained { port: self.function(port).bdf() });
        self.link_controls_changed(port);
        if interrupts {
            self.port_interrupt(port);
        }
    }

    /// Software triggers containment (7.9.14.3), where that is supported and on.
    pub(super) fn containment_written(&mut self, id: FunctionId, write: &RegisterWrite) {
        /// Trigger Reason 3, Trigger Reason Extension 1.
        const BY_SOFTWARE: u32 = 1 << 5 | 3 << 1;
        let function = self.function(id);
        let control = function.extended(ExtendedCapabilityId::DPC).and_then(|at| at.plus(containment::CONTROL));
        let is_possible =
            write.new & containment::TRIGGER_ENABLE != 0 && write.new & containment::SOFTWARE_TRIGGERING_SUPPORTED != 0;
        if control == Some(write.dword) && write.ones & containment::SOFTWARE_TRIGGER != 0 && is_possible {
            self.contain(id, BY_SOFTWARE);
        }
    }

    /// A function that was just enabled for LTR or PTM sends a message; the port above may not be.
    pub(super) fn error_written(&mut self, id: FunctionId, write: &RegisterWrite) {
        let function = self.function(id);
        if function.leads_down_a_link() {
            return;
        }
        let raised = write.new & !write.old;
        let control = function.standard(CapabilityId::PCI_EXPRESS).and_then(|at| at.plus(express::DEVICE_CONTROL_2));
        let ptm = |function: &super::Function| {
            let at = function.extended(ExtendedCapabilityId::PTM).and_then(|at| at.plus(2));
            at.map(|control| (control, function.read(control) & 1))
        };
        let Some(port) = function.parent else { return };
        let above = self.function(port);
        let ltr = control == Some(write.dword)
            && raised & express::LTR_ENABLE != 0
            && above.express(express::DEVICE_CONTROL_2) & express::LTR_ENABLE == 0;
        let time = ptm(function).is_some_and(|(at, _)| at == write.dword)
            && raised & 1 != 0
            && ptm(above).is_none_or(|(_, enabled)| enabled == 0);
        if (ltr || time) && above.leads_down_a_link() {
            let (receiver, requester) = (above.bdf(), self.requester(id));
            self.fault(Fault::UnsupportedMessage { receiver, requester });
            self.uncorrectable(port, Uncorrectable::UnsupportedRequest);
        }
    }
}
