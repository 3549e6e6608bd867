//! Requester IDs: what a function's requests carry when they reach the Root Complex.

use super::{Function, TopologyView};
use crate::address::{Bdf, Host};
use crate::spec::express::{DEVICE_CAPABILITIES, PortType};

impl<'t> TopologyView<'t> {
    /// All Requester IDs the requests of a function may carry: its own, those of its phantom functions, and those that
    /// bridges on the way put in their place. An IOMMU the host uses must let in all of them.
    pub fn requester_ids(self, host: Host<Bdf>) -> impl Iterator<Item = Host<Bdf>> + use<'t> {
        let phantoms = self.function(host).into_iter().flat_map(phantom_functions);
        core::iter::once(host).chain(phantoms).chain(self.bridge_aliases(host))
    }

    /// The Requester IDs that bridges above a function put in place of its own, from the bottom up, as Linux's
    /// `pci_for_each_dma_alias`. The last is what reaches the Root Complex.
    pub fn bridge_aliases(self, host: Host<Bdf>) -> impl Iterator<Item = Host<Bdf>> + use<'t> {
        self.way_up(host.0.bus()).filter_map(alias)
    }

    /// The Requester ID a function's requests carry at the Root Complex, phantom functions aside.
    pub fn wire_id(self, host: Host<Bdf>) -> Host<Bdf> {
        self.bridge_aliases(host).last().unwrap_or(host)
    }
}

/// What a bridge puts in place of the Requester IDs of functions behind it, if it does.
fn alias(bridge: &Function) -> Option<Host<Bdf>> {
    match bridge.express().map(|express| express.port_type) {
        // PCI Express to PCI/PCI-X Bridge 1.0, 2.3: device and function 0 of the secondary bus.
        Some(PortType::PciExpressToPciBridge) => Some(Host(Bdf::new(bridge.bridge()?.secondary, 0, 0)?)),
        // What comes from a conventional bus has the ID of the bridge.
        Some(PortType::PciToPciExpressBridge) | None => Some(bridge.bdf()),
        Some(_) => None,
    }
}

/// Function numbers a function may use besides its own (7.5.3.3): Phantom Functions Supported, bits 4:3 of Device
/// Capabilities, says how many of the highest bits of the function number are its to choose.
fn phantom_functions(function: &Function) -> impl Iterator<Item = Host<Bdf>> + use<> {
    let capabilities = function.express().and_then(|express| express.registers.get(usize::from(DEVICE_CAPABILITIES)));
    let stride = 8_u8 >> (capabilities.map_or(0, |register| register >> 3) & 0b11);
    let host = function.bdf();
    let own = host.0.function();
    (0..8)
        .filter(move |number| *number != own && own < stride && number & stride.wrapping_sub(1) == own)
        .map(move |number| host.map(|host| host.with_function(number)))
}
