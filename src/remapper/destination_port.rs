//! The rules of a port a function appears behind, so that the guest finds it there, and finds a link that is up.

use super::lists::room_of;
use super::reason::Reason;
use super::rule::TooManyRules;
use super::touched::Touched;
use crate::access::Dword;
use crate::plan::{Port, Way};
use crate::spec::capability::CapabilityId;
use crate::spec::{express, header, pci_x, type1};
use crate::topology::{Express, Function};

impl Touched {
    /// Makes the guest look for all device numbers behind the port.
    pub(super) fn show_way(&mut self, way: Way, function: &Function, express: &Express) -> Result<(), TooManyRules> {
        match way {
            Way::AriChain => self.show_ari(express, true),
            Way::UpstreamPort => self.show_upstream_port(express),
            Way::ConventionalBridge => self.show_pci_x_bridge(function, express),
            Way::AsIs => self.show_ari(express, false),
        }
    }

    /// The guest switches ARI Forwarding on for itself; hardware keeps what it has, as it may not be able to. Where
    /// functions are found by device number there is none: with ARI there is only device 0.
    fn show_ari(&mut self, express: &Express, is_supported: bool) -> Result<(), TooManyRules> {
        if !express.has_second_set() {
            return Ok(());
        }
        let mut rules = self.rules.because(Reason::Way);
        if let Some(dword) = express.dword.plus(express::DEVICE_CAPABILITIES_2) {
            let supported = if is_supported { express::ARI_FORWARDING_SUPPORTED } else { 0 };
            rules.fix(dword, express::ARI_FORWARDING_SUPPORTED, supported)?;
        }
        if let Some(dword) = express.dword.plus(express::DEVICE_CONTROL_2) {
            let control = express.register(express::DEVICE_CONTROL_2);
            let enable = express::ARI_FORWARDING_ENABLE;
            rules.keep_in_hardware(dword, enable, enable, control)?;
        }
        Ok(())
    }

    /// An Upstream Port has no slot and no Root registers.
    fn show_upstream_port(&mut self, express: &Express) -> Result<(), TooManyRules> {
        let type_and_slot = express::PORT_TYPE | express::SLOT_IMPLEMENTED;
        let mut rules = self.rules.because(Reason::Way);
        rules.fix(express.dword, type_and_slot, express::UPSTREAM_PORT)?;
        if let Some(slot) = express.dword.plus(express::SLOT_CAPABILITIES) {
            // Slot Capabilities to Root Status.
            rules.zero(slot, 4)?;
        }
        self.show_ari(express, false)
    }

    /// The PCI-X Capability stands where PCI Express was; the rest of it reads zero. Extended configuration space is
    /// that of a port, and has nothing a PCI-X bridge would have. What both ends of the link agree on a guest that does not
    /// see it does not restore.
    fn show_pci_x_bridge(&mut self, function: &Function, express: &Express) -> Result<(), TooManyRules> {
        if self.restores.is_empty() {
            self.restore_agreements(express);
        }
        let mut rules = self.rules.because(Reason::Way);
        rules.fix(express.dword, 0xffff_00ff, CapabilityId::PCI_X.0.into())?;
        if let Some(status) = express.dword.plus(pci_x::BRIDGE_STATUS) {
            rules.zero(status, room_of(function, express.dword).saturating_sub(1))?;
            rules.fix(status, !0, pci_x::MODE_2)?;
        }
        rules.zero(header::EXTENDED, Dword::COUNT.saturating_sub(header::EXTENDED.index()))
    }

    /// Nothing is wired behind the port: the link shows as trained, or Linux gives up what it finds behind it
    /// (`pci_bridge_wait_for_secondary_bus`), no slot is empty (`pciehp`), and no power state has to be left.
    pub(super) fn pretend_link(&mut self, port: &Port<'_>) -> Result<(), TooManyRules> {
        // What the port does to the empty bus matters to nobody; a reset would reset nothing.
        let control = port.function.header(type1::BRIDGE_CONTROL);
        self.rules.because(Reason::EmptyLink).keep(type1::BRIDGE_CONTROL, 0xffff_00ff, 0x0fff_00ff, control)?;
        if let Some(real) = port.reset_by {
            self.reset_by(real, port.way)?;
        }
        let Some(express) = port.function.express() else { return Ok(()) };
        let mut rules = self.rules.because(Reason::EmptyLink);
        rules.fix(express.dword, express::SLOT_IMPLEMENTED, 0)?;
        let capabilities = express.register(express::LINK_CAPABILITIES);
        if let Some(dword) = express.dword.plus(express::LINK_CAPABILITIES) {
            rules.fix(dword, express::LINK_BANDWIDTH_NOTIFICATION, 0)?;
        }
        if let Some(dword) = express.dword.plus(express::LINK_CONTROL) {
            let active = if capabilities & express::LINK_ACTIVE_REPORTING == 0 { 0 } else { express::LINK_ACTIVE };
            let best = (capabilities & express::SPEED_AND_WIDTH) << 16;
            let state = express::LINK_EVENTS
                | express::LINK_ACTIVE
                | express::LINK_TRAINING
                | express::SPEED_AND_WIDTH << 16
                | express::RETRAIN_LINK;
            rules.fix(dword, state, active | best)?;
        }
        Ok(())
    }
}
