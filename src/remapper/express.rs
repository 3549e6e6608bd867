//! The PCI Express Capability of a moved function. Much of it is half of an agreement with the port above: the guest
//! makes it with the port it sees, but the wire leads to another. So the guest finds what agrees with its port, its
//! choices stay here, and hardware keeps what firmware agreed with the real port.

use super::reason::Reason;
use super::rule::TooManyRules;
use super::touched::Touched;
use crate::access::Dword;
use crate::plan::{ErrorReporting, Plan, Relocation};
use crate::spec::express;
use crate::topology::{Express, Function};

impl Touched {
    pub(super) fn take_express(
        &mut self,
        plan: &Plan<'_>,
        relocation: Relocation,
        function: &Function,
    ) -> Result<(), TooManyRules> {
        let Some(express) = &self.prepare_payload(function, plan.payload(function)) else { return Ok(()) };
        let (bus, own_bus) = (relocation.guest.0.bus(), relocation.host.0.bus());
        self.keep_error_enables(relocation.errors, express)?;
        self.restore_link(express);
        // On the bus it is on the guest sees the port it has, and enables neither end before the other.
        if bus == own_bus {
            return Ok(());
        }
        self.restore_agreements_2(express);
        let bridge = plan.host().bridge_to(bus);
        self.agree_on_payload(express, bridge.and_then(|port| plan.settled_payload(port)))?;
        if express.has_second_set() {
            self.keep_agreements_2(express)?;
        }
        match express.port_type {
            // Wherever it is shown.
            without_link if !without_link.has_link() => Ok(()),
            _ if bridge.is_none() => self.show_without_link(express),
            _ => self.keep_link(express, bridge.and_then(Function::express)),
        }
    }

    /// The host sets Max_Payload_Size before the guest starts. The registers of the capability are as they are then.
    pub(super) fn prepare_payload(&mut self, function: &Function, payload: Option<u32>) -> Option<Express> {
        let (express, payload) = function.express().zip(payload)?;
        let own = express.register(express::DEVICE_CONTROL);
        self.prepare(at(express, express::DEVICE_CONTROL), express::MAX_PAYLOAD_SIZE, payload, own);
        let mut settled = *express;
        if let Some(control) = settled.registers.get_mut(usize::from(express::DEVICE_CONTROL)) {
            *control = own & !express::MAX_PAYLOAD_SIZE | payload;
        }
        Some(settled)
    }

    fn keep_error_enables(&mut self, errors: ErrorReporting, express: &Express) -> Result<(), TooManyRules> {
        if errors == ErrorReporting::Pass {
            return Ok(());
        }
        let control = at(express, express::DEVICE_CONTROL);
        let own = express.register(express::DEVICE_CONTROL);
        let (errors, mut rules) = (express::ERROR_REPORTING, self.rules.because(Reason::ErrorReporting));
        rules.keep_in_hardware(control, errors, errors, own)
    }

    /// A payload above what the real port takes is a malformed TLP, a fatal error. With the Max_Payload_Size of the port
    /// it sees Linux changes neither (`pci_configure_mps`).
    fn agree_on_payload(&mut self, express: &Express, port: Option<u32>) -> Result<(), TooManyRules> {
        let control = at(express, express::DEVICE_CONTROL);
        let own = express.register(express::DEVICE_CONTROL);
        let shown = port.unwrap_or(own & express::MAX_PAYLOAD_SIZE);
        let mut rules = self.rules.because(Reason::PayloadSize);
        rules.keep(control, express::MAX_PAYLOAD_SIZE, express::MAX_PAYLOAD_SIZE, shown)?;
        rules.hold(control, own & express::MAX_PAYLOAD_SIZE)?;
        // Phantom Functions would be requesters nobody knows.
        rules.fix(control, express::PHANTOM_FUNCTIONS_ENABLE, 0)?;

        let capabilities = at(express, express::DEVICE_CAPABILITIES);
        let own = express.register(express::DEVICE_CAPABILITIES) & express::MAX_PAYLOAD_SIZE_SUPPORTED;
        let supported = own.max(shown >> 5);
        rules.fix(capabilities, express::MAX_PAYLOAD_SIZE_SUPPORTED | express::PHANTOM_FUNCTIONS, supported)?;
        // Without a limit of its own, and with Role-Based Error Reporting, it has no say in the ASPM of the link the guest
        // sees above it (`pcie_aspm_check_latency`, `pcie_aspm_sanity_check`).
        let no_say = express::ACCEPTABLE_LATENCIES | express::ROLE_BASED_ERROR_REPORTING;
        rules.fix(capabilities, no_say, no_say)
    }

    /// LTR, OBFF, ten-bit tags, ARI, IDO, AtomicOps: whether the other end, or all of the way up, takes them.
    fn keep_agreements_2(&mut self, express: &Express) -> Result<(), TooManyRules> {
        let offers = express::ARI_FORWARDING_SUPPORTED
            | express::LTR_SUPPORTED
            | express::TEN_BIT_TAGS_SUPPORTED
            | express::OBFF_SUPPORTED
            | express::FRS_SUPPORTED;
        let mut rules = self.rules.because(Reason::WayUp);
        rules.fix(at(express, express::DEVICE_CAPABILITIES_2), offers, 0)?;
        let control = at(express, express::DEVICE_CONTROL_2);
        let writable = express::ATOMIC_OP_REQUESTER_ENABLE | express::ID_BASED_ORDERING;
        let own = express.register(express::DEVICE_CONTROL_2);
        rules.keep_in_hardware(control, express::AGREEMENTS_2, writable, own)
    }

    /// On a root bus there is no port above: a Root Complex Integrated Endpoint, which has no Link registers (7.5.3.2).
    fn show_without_link(&mut self, express: &Express) -> Result<(), TooManyRules> {
        let mut rules = self.rules.because(Reason::NoLink);
        rules.fix(express.dword, express::PORT_TYPE, express::ROOT_COMPLEX_INTEGRATED_ENDPOINT)?;
        rules.zero(at(express, express::LINK_CAPABILITIES), 2)?;
        if express.has_second_set() {
            rules.zero(at(express, express::LINK_CAPABILITIES_2), 2)?;
        }
        Ok(())
    }

    /// Speed and width are the real link's. ASPM is not offered, so Linux leaves both ends alone (`pcie_aspm_cap_init`);
    /// the clock configuration is the port's, so that it retrains nothing (`pcie_aspm_configure_common_clock`).
    fn keep_link(&mut self, express: &Express, port: Option<&Express>) -> Result<(), TooManyRules> {
        let offers = express::ASPM_SUPPORT | express::CLOCK_POWER_MANAGEMENT;
        let mut rules = self.rules.because(Reason::Link);
        rules.fix(at(express, express::LINK_CAPABILITIES), offers, 0)?;
        let own = express.register(express::LINK_CONTROL);
        let clocks = port.map_or(own, |port| port.register(express::LINK_CONTROL));
        let control = at(express, express::LINK_CONTROL);
        let shown = own & express::READ_COMPLETION_BOUNDARY | clocks & express::COMMON_CLOCK_CONFIGURATION;
        rules.keep(control, 0xffff, express::LINK_CHOICES, shown)?;
        rules.fix(control, express::SLOT_CLOCK_CONFIGURATION, clocks)?;
        if !express.has_second_set() {
            return Ok(());
        }
        let own = express.register(express::LINK_CONTROL_2);
        rules.keep(at(express, express::LINK_CONTROL_2), 0xffff, 0xffff, own)
    }
}

fn at(express: &Express, index: u16) -> Dword {
    express.dword.plus(index).unwrap_or(express.dword)
}
