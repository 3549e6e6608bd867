//! How stock Linux comes to look for device numbers other than 0 behind a port.
//!
//! Behind a port from which a link leads down it looks for device 0 only (`only_one_child`). Functions of device 0, on
//! root buses and behind conventional bridges are found by themselves, and need no way.

use super::Plan;
use crate::address::{Bdf, Guest, Host};
use crate::spec::capability::ExtendedCapabilityId;
use crate::spec::express;
use crate::topology::Function;

/// How a port shows so that functions at device numbers other than 0 are looked for behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Way {
    /// The port forwards by Alternative Routing-ID Interpretation, and the functions behind it name each other:
    /// 01:01.0 is function 8 of device 0 (`next_ari_fn`). The port keeps all its services. Every function but the last
    /// needs an ARI Capability, and no Virtual Function may have the number.
    AriChain,
    /// The port shows as an Upstream Port, behind which Linux looks for all device numbers. It has no slot, and no
    /// services of a Root Port (hot-plug, PME, errors), and Linux does not wait for what its bus reset reaches
    /// ([`WriteOutcome::ends_reset`](crate::WriteOutcome::ends_reset)). Only for ports on a root bus: below another port Linux
    /// corrects the type (`set_pcie_port_type`).
    UpstreamPort,
    /// The port shows as a conventional bridge of PCI-X Mode 2, the only conventional one behind which Linux reaches
    /// extended configuration space (`pci_bridge_child_ext_cfg_accessible`). It has no services, and Linux does not tune
    /// its link. Windows may refuse PCI Express functions there.
    ConventionalBridge,
    /// The port shows as it is, but for ARI, which does away with device numbers: for guests that look for all device
    /// numbers by themselves, as FreeBSD does on x86.
    AsIs,
}

impl Plan<'_> {
    /// The way functions at other device numbers behind this port are found; `None` when none are moved there, or the
    /// bus is looked through anyway.
    pub(crate) fn way(&self, port: &Function) -> Option<Way> {
        let bus = port.bridge()?.secondary;
        let needs_one = |guest: Guest<Bdf>| guest.0.bus() == bus && guest.0.device() != 0;
        if !port.leads_down_a_link() || !self.relocations().iter().any(|relocation| needs_one(relocation.guest)) {
            return None;
        }
        let chosen = self.ways.iter().find(|(of, _)| *of == port.bdf()).map(|(_, way)| *way);
        chosen.or_else(|| {
            let first_is_permanent = !has_hot_plug(port);
            let can = |way: &Way| self.can_show(port, *way) && (*way != Way::AriChain || first_is_permanent);
            [Way::AriChain, Way::UpstreamPort, Way::ConventionalBridge].into_iter().find(can)
        })
    }

    /// Whether the port can show so, and Linux believes it.
    pub(crate) fn can_show(&self, port: &Function, way: Way) -> bool {
        match way {
            Way::AriChain => self.can_chain(port),
            Way::UpstreamPort => self.host().bridge_to(port.bdf().0.bus()).is_none(),
            Way::ConventionalBridge | Way::AsIs => true,
        }
    }

    fn can_chain(&self, port: &Function) -> bool {
        let (Some(bridge), Some(express)) = (port.bridge(), port.express()) else { return false };
        let mut last = None;
        let has_inert = self.inert().any(|Host(host)| host.bus() == bridge.secondary);
        let mut chains = express.has_second_set() && !has_inert;
        let Some(first) = Bdf::new(bridge.secondary, 0, 0) else { return false };
        let mut next = Some(Guest(first));
        while let Some(guest) = next.filter(|_| chains) {
            let function = self.occupant(guest).and_then(|host| self.host().function(host));
            // Linux decides by function 0 (`pci_configure_ari`), and tells Physical Functions that there is ARI, which
            // moves their Virtual Functions (`sriov_init`).
            chains = function.is_some_and(|function| !self.stays(function.bdf()) || function.sriov().is_none());
            chains &= last.is_none_or(Function::chains_functions);
            last = function;
            next = self.next_on_bus(guest);
        }
        chains
    }

    /// The next function the guest finds on the bus.
    pub(crate) fn next_on_bus(&self, after: Guest<Bdf>) -> Option<Guest<Bdf>> {
        let bus = self.guest_bus(after.0.bus()).map(|(guest, _)| guest);
        bus.filter(|guest| guest.0.devfn() > after.0.devfn()).min_by_key(|guest| guest.0.devfn())
    }

    /// The function the guest is led to from this one, where functions are chained; `None` also for the last.
    pub(crate) fn next_in_chain(&self, guest: Guest<Bdf>) -> Option<Guest<Bdf>> {
        if self.is_chained(guest) { self.next_on_bus(guest) } else { None }
    }

    /// Whether the functions on the bus of this address are chained.
    pub(crate) fn is_chained(&self, guest: Guest<Bdf>) -> bool {
        let port = self.host().bridge_to(guest.0.bus());
        port.is_some_and(|port| self.way(port) == Some(Way::AriChain))
    }

    /// Whether nothing is wired behind a port the guest finds something behind.
    pub(crate) fn has_empty_link(&self, port: &Function) -> bool {
        let bus = port.bridge().map(|bridge| bridge.secondary);
        port.leads_down_a_link() && bus.is_some_and(|bus| self.host().bus(bus).next().is_none())
    }
}

pub(super) fn has_hot_plug(port: &Function) -> bool {
    port.express().is_some_and(|express| {
        express.register(0) & express::SLOT_IMPLEMENTED != 0
            && express.register(express::SLOT_CAPABILITIES) & express::HOT_PLUG_CAPABLE != 0
    })
}

impl Function {
    /// Whether it can say which function of its device comes next (7.8.7.2).
    pub(crate) fn chains_functions(&self) -> bool {
        self.extended_capability(ExtendedCapabilityId::ARI).is_some()
    }
}

/// A choice of the caller.
pub(super) type Choice = (Host<Bdf>, Way);
