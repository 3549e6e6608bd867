//! What each bridge becomes in the guest's view.

use super::way::has_hot_plug;
use super::{Plan, Way};
use crate::address::{Bdf, Host};
use crate::spec::express::{self, PortType};
use crate::topology::{Bridge, Function};

/// What a plan makes of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Something behind it moved away or is hidden, and the guest finds nothing on its secondary bus.
    Vacant,
    /// Something behind it moved away or is hidden, and the guest still finds something on its secondary bus.
    Guarded,
    /// Nothing left it, but something moved in.
    Destination,
    /// Neither, but something wired behind it moved among the buses there, or bus numbers or addresses are virtual.
    Bystander,
}

/// A bridge the plan touches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Port<'t> {
    pub(crate) function: &'t Function,
    pub(crate) bridge: Bridge,
    pub(crate) role: Role,
    /// How functions at other device numbers behind it are found.
    pub(crate) way: Option<Way>,
    /// Whether nothing is wired behind it.
    pub(crate) has_empty_link: bool,
    /// Its Max_Payload_Size ([`Plan::payload`]).
    pub(crate) payload: Option<u32>,
    /// The bridge whose Secondary Bus Reset does what a guest wants of this one's, if its own would do nothing.
    pub(crate) reset_by: Option<&'t Function>,
}

impl<'t> Plan<'t> {
    /// All bridges the plan touches.
    pub(crate) fn ports(&self) -> impl Iterator<Item = Port<'t>> {
        self.host().functions().iter().filter_map(|function| self.port(function))
    }

    fn port(&self, function: &'t Function) -> Option<Port<'t>> {
        let bridge = function.bridge()?;
        let way = self.way(function);
        let role = if self.lost(bridge) {
            if self.is_inhabited(bridge.secondary) { Role::Guarded } else { Role::Vacant }
        } else if way.is_some() || self.gained(bridge) {
            Role::Destination
        } else if self.has_moved_behind(bridge) || self.touches_all_bridges() {
            Role::Bystander
        } else {
            return None;
        };
        Some(Port {
            function,
            bridge,
            role,
            way,
            has_empty_link: self.has_empty_link(function),
            payload: self.payload(function),
            reset_by: self.reset_of(function),
        })
    }

    /// Max_Payload_Size of a function with PCI Express, as it is to be in Device Control before the guest starts: what the
    /// guest would make of it, where that does not see it or the ports above as they are.
    pub(crate) fn payload(&self, function: &Function) -> Option<u32> {
        let is_left = self.makes_payload(function) && !is_root_port(function);
        if is_left { left_payload(function) } else { self.settled_payload(function) }
    }

    /// Max_Payload_Size of a function once the guest has booted. Linux makes it that of the port above where the function
    /// takes that. Firmware may have left a Root Port with more than a function behind it takes; Linux lowers the port then
    /// (`pci_configure_mps`).
    pub(crate) fn settled_payload(&self, function: &Function) -> Option<u32> {
        let (own, supported) = (left_payload(function)?, supported_payload(function)?);
        let above = self.host().way_up(function.bdf().0.bus()).next();
        if let Some(above) = above.and_then(|port| self.settled_payload(port)) {
            return Some(if above <= supported { above } else { own });
        }
        let root = function.bridge().filter(|_| is_root_port(function));
        let behind = root.into_iter().flat_map(|bridge| self.host().bus(bridge.secondary));
        let shown = behind.filter(|behind| self.guest_address(behind.bdf()).is_some());
        Some(shown.filter_map(supported_payload).fold(own, u32::min))
    }

    /// Whether the guest finds the function behind the port it is wired to, and what it writes there reaches hardware.
    fn makes_payload(&self, function: &Function) -> bool {
        let bdf = function.bdf();
        let leaves = self.relocation_of(bdf).is_some_and(|relocation| relocation.guest.0.bus() != bdf.0.bus());
        let mut ports = self.host().way_up(bdf.0.bus());
        let is_kept = function.bridge().is_some_and(|bridge| self.lost(bridge));
        !leaves && !is_kept && ports.all(|port| self.way(port) != Some(Way::ConventionalBridge))
    }

    /// The bridge a reset of the bus behind a port with an empty link is to be made by: what is found there is all that is
    /// wired behind that bridge, and nothing else.
    pub(crate) fn reset_of(&self, port: &Function) -> Option<&'t Function> {
        let bus = port.bridge().filter(|_| self.has_empty_link(port))?.secondary;
        let (_, Host(one)) = self.guest_bus(bus).next()?;
        let real = self.host().bridge_to(one.bus())?;
        let bridge = real.bridge()?;
        let is_found = |host| self.relocation_of(host).is_some_and(|relocation| relocation.guest.0.bus() == bus);
        let mut wired = self.host().functions().iter().filter(|function| behind(bridge, function.bdf().0));
        let is_all = wired.all(|function| is_found(function.bdf()));
        (is_all && self.guest_bus(bus).all(|(_, Host(host))| behind(bridge, host))).then_some(real)
    }

    /// Whether something that is wired behind the bridge does not appear behind it.
    fn lost(&self, bridge: Bridge) -> bool {
        self.host().functions().iter().any(|function| {
            let bdf = function.bdf();
            let leaves = self.relocation_of(bdf).is_some_and(|relocation| !behind(bridge, relocation.guest.0));
            behind(bridge, bdf.0) && (leaves || self.hidden().contains(&bdf))
        })
    }

    /// Whether the guest's windows of the bridge are hardware's.
    pub(super) fn passes_windows(&self, bridge: &Function) -> bool {
        bridge.bridge().is_some_and(|bridge| !self.lost(bridge))
    }

    /// Whether the guest has something to place on the bus of a bridge, besides what is behind that one: the windows of
    /// another, if something is found or may be plugged in there, and below a bridge also BARs.
    pub(super) fn may_place_beside(&self, bridge: &Function) -> bool {
        let bus = bridge.bdf().0.bus();
        let is_root_bus = self.host().bridge_to(bus).is_none();
        self.guest_bus(bus).filter(|(_, host)| *host != bridge.bdf()).any(|(_, host)| {
            let Some(other) = self.host().function(host) else { return false };
            match other.bridge() {
                Some(behind) => {
                    has_hot_plug(other) || (behind.secondary..=behind.subordinate).any(|bus| self.is_inhabited(bus))
                }
                None => !is_root_bus && self.stays(host) && other.bars().next().is_some(),
            }
        })
    }

    /// Whether something wired behind the bridge is found at an address the plan gives it.
    pub(crate) fn has_moved_behind(&self, bridge: Bridge) -> bool {
        self.relocations().iter().any(|relocation| behind(bridge, relocation.host.0))
    }

    /// Whether something that is wired elsewhere appears on the secondary bus.
    fn gained(&self, bridge: Bridge) -> bool {
        self.guest_bus(bridge.secondary).any(|(_, Host(host))| !behind(bridge, host))
    }
}

fn behind(bridge: Bridge, bdf: Bdf) -> bool {
    (bridge.secondary..=bridge.subordinate).contains(&bdf.bus())
}

fn is_root_port(function: &Function) -> bool {
    function.express().is_some_and(|express| express.port_type == PortType::RootPort)
}

/// Max_Payload_Size as firmware left it.
pub(crate) fn left_payload(function: &Function) -> Option<u32> {
    Some(function.express()?.register(express::DEVICE_CONTROL) & express::MAX_PAYLOAD_SIZE)
}

/// Max_Payload_Size Supported, as it would be in Device Control.
fn supported_payload(function: &Function) -> Option<u32> {
    let capabilities = function.express()?.register(express::DEVICE_CAPABILITIES);
    Some((capabilities & express::MAX_PAYLOAD_SIZE_SUPPORTED).wrapping_shl(5))
}
