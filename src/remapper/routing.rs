//! Routing IDs, from one view to the other.
//!
//! Requests keep the host's Requester ID on the wire; [`requester_ids`](crate::topology::TopologyView::requester_ids)
//! lists all a function may use. Registers in which hardware names a requester say the host's ID too: who lets a guest
//! see one puts the value through the function for it here.

use super::Remapper;
use super::index::Entry;
use crate::address::{Bdf, Guest, Host};

impl<const F: usize> Remapper<F> {
    /// The function the guest finds at an address, if it finds another there than the hardware has, or none.
    /// `None` stands for an address the plan does not touch.
    pub fn to_host(&self, guest: Guest<Bdf>) -> Option<Option<Host<Bdf>>> {
        match self.index.entry(guest) {
            Entry::Plain => None,
            Entry::Absent => Some(None),
            Entry::Elsewhere => Some(Some(self.elsewhere(guest))),
            Entry::Touched(index) => {
                let touched = self.functions.get(index).filter(|touched| !touched.is_inert);
                Some(touched.map(|touched| Host(touched.host)))
            }
        }
    }

    /// Where the guest finds a function of the host, by the bus numbers it uses now; `None` when it does not.
    pub fn to_guest(&self, host: Host<Bdf>) -> Option<Guest<Bdf>> {
        let touched = self.functions.iter().find(|touched| touched.host == host.0 && !touched.is_inert);
        let place = match (touched, self.virtual_to_guest(host)) {
            (Some(touched), _) => touched.guest?,
            (None, Some(Guest(virtual_function))) => virtual_function,
            (None, None) => host.0,
        };
        let guest = Guest(place.on_bus(self.index.number_of(place.bus())?));
        let found = self.to_host(guest).unwrap_or(Some(Host(guest.0)));
        if found == Some(host) { Some(guest) } else { None }
    }

    /// Error Source Identification of Advanced Error Reporting (offset 34h, 7.8.4.11) as the guest must read it: the
    /// requester of a correctable error in 15:0, of another in 31:16. Those the guest does not find are zero, at which
    /// Linux asks every function (`is_error_source`). In ports functions left the guest reads zero anyway.
    pub fn error_sources(&self, register: Host<u32>) -> Guest<u32> {
        Guest(self.requester_in(register.0, 0) | self.requester_in(register.0, 16))
    }

    /// Root Status (offset 20h of the PCI Express Capability, 7.5.3.14) as the guest must read it: PME Requester ID in
    /// 15:0, zero when the guest does not find it.
    pub fn root_status(&self, register: Host<u32>) -> Guest<u32> {
        Guest(register.0 & 0xffff_0000 | self.requester_in(register.0, 0))
    }

    /// DPC Status and DPC Error Source ID (offset 08h of Downstream Port Containment, 7.9.14.4 and 7.9.14.5) as the
    /// guest must read them: the requester in 31:16, zero when the guest does not find it.
    pub fn containment_source(&self, register: Host<u32>) -> Guest<u32> {
        Guest(register.0 & 0xffff | self.requester_in(register.0, 16))
    }

    /// The guest's ID for the one 16 bits of a register hold, in its place.
    fn requester_in(&self, register: u32, shift: u32) -> u32 {
        let [low, high, ..] = register.wrapping_shr(shift).to_le_bytes();
        let host = Host(Bdf::from_routing_id(u16::from_le_bytes([low, high])));
        let guest = self.to_guest(host).map_or(0, |guest| guest.0.routing_id());
        u32::from(guest).wrapping_shl(shift)
    }
}
