//! A function that is all ours: it keeps an address occupied, and siblings reachable that are looked for only behind a
//! function 0.

use super::reason::Reason;
use super::rule::{Effect, TooManyRules};
use super::touched::{Touched, low};
use crate::access::Dword;
use crate::address::{Guest, Host};
use crate::plan::{Plan, is_reached};
use crate::spec::bar::BarKind;
use crate::spec::capability::CapabilityId;
use crate::spec::express::{self, PortType};
use crate::spec::header::{self, Command, Status};
use crate::topology::{Express, Function};

/// The class code of a device that fits no defined class (PCI Code and ID Assignment 1.16, 1.20), of revision 0.
const NO_CLASS: u32 = 0xff00_0000;
/// No vendor gives a device the highest Device ID.
const NO_DEVICE: u32 = 0xffff_0000;
/// Where its only capability is.
const EXPRESS: Dword = header::END;

impl Touched {
    /// An inert function where this one was. Its BARs are where hardware decodes, and nothing answers there: so the guest
    /// gives the addresses to nobody else. Without Power Management no port above it is switched off
    /// (`pci_dev_check_d3cold`).
    pub(super) fn inert(plan: &Plan<'_>, function: &Function) -> Result<Self, TooManyRules> {
        let has_siblings = plan.has_siblings(Guest(function.bdf().0));
        let mut inert = Self::staying(function);
        inert.is_inert = true;
        let mut rules = inert.rules.because(Reason::Inert);
        rules.zero(header::ID, Dword::COUNT)?;
        rules.fix(header::ID, !0, NO_DEVICE | function.id() & 0xffff)?;
        rules.fix(header::CLASS, !0, NO_CLASS)?;
        rules.fix(header::HEADER_TYPE, !0, if has_siblings { header::MULTI_FUNCTION } else { 0 })?;
        let decoding = Command::IO_SPACE_ENABLE | Command::MEMORY_SPACE_ENABLE;
        let command = decoding | Command::BUS_MASTER_ENABLE | Command::SERR_ENABLE | Command::INTERRUPT_DISABLE;
        rules.keep(header::COMMAND, !0, low(command), low(function.command() & decoding))?;
        rules.keep(header::INTERRUPT, !0, 0xff, 0)?;
        let bars = function.bars().filter(|bar| bar.kind() != BarKind::Rom && is_reached(plan, function.bdf(), bar));
        for bar in bars {
            let address = bar.span().map_or(0, |Host(span)| span.start());
            let dword = bar.dword(function.header_type());
            inert.keep_address(Reason::Inert, Effect::None, dword, bar.kind(), bar.size(), address)?;
        }
        if let Some(express) = function.express() {
            inert.imitate_express(express)?;
        }
        Ok(inert)
    }

    /// A slot with a function that is not PCI Express, or has no Role-Based Error Reporting, has no ASPM at all
    /// (`pcie_aspm_sanity_check`). On its link this one has no say.
    fn imitate_express(&mut self, express: &Express) -> Result<(), TooManyRules> {
        let on_root_bus =
            matches!(express.port_type, PortType::RootComplexIntegratedEndpoint | PortType::RootComplexEventCollector);
        let port_type = if on_root_bus { express::ROOT_COMPLEX_INTEGRATED_ENDPOINT } else { 0 };
        let no_say = express::ACCEPTABLE_LATENCIES | express::ROLE_BASED_ERROR_REPORTING;
        let link = !(express::ASPM_SUPPORT | express::CLOCK_POWER_MANAGEMENT);
        let own = |register| express.register(register);
        let registers = [
            (0, 0, VERSION_2 | port_type | u32::from(CapabilityId::PCI_EXPRESS.0)),
            (
                express::DEVICE_CAPABILITIES,
                0,
                own(express::DEVICE_CAPABILITIES) & express::MAX_PAYLOAD_SIZE_SUPPORTED | no_say,
            ),
            (express::DEVICE_CONTROL, 0x7fff, own(express::DEVICE_CONTROL) & express::MAX_PAYLOAD_SIZE),
            (express::LINK_CAPABILITIES, 0, own(express::LINK_CAPABILITIES) & link),
            (express::LINK_CONTROL, express::LINK_CHOICES, own(express::LINK_CONTROL) & !express::LINK_EVENTS),
            (express::DEVICE_CONTROL_2, 0xffff, 0),
            (express::LINK_CAPABILITIES_2, 0, own(express::LINK_CAPABILITIES_2)),
            (express::LINK_CONTROL_2, 0xffff, own(express::LINK_CONTROL_2)),
        ];
        let mut rules = self.rules.because(Reason::Inert);
        for (register, writable, value) in registers {
            if let Some(dword) = EXPRESS.plus(register) {
                rules.keep(dword, !0, writable, value)?;
            }
        }
        rules.fix(header::CAPABILITIES_POINTER, 0xff, EXPRESS.offset().into())?;
        let has_list = u32::from(Status::CAPABILITIES_LIST.bits()) << 16;
        rules.fix(header::COMMAND, has_list, has_list)
    }
}

/// Capability Version in the first DWORD of the capability.
const VERSION_2: u32 = 0x0002_0000;
