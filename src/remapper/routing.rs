//! Routing IDs, from one view to the other.
//!
//! Requests keep the host's Requester ID on the wire; [`requester_ids`](crate::topology::TopologyView::requester_ids)
//! lists all a function may use. Registers in which hardware names a requester say the host's ID too, and the guest reads
//! its own there.

use super::Remapper;
use super::index::Entry;
use crate::access::Access;
use crate::address::{Bdf, Guest, Host};

impl<const F: usize> Remapper<F> {
    /// The function the guest finds at an address, if it finds another there than the hardware has, or none.
    /// `None` stands for an address the plan does not touch.
    pub fn to_host(&self, guest: Guest<Bdf>) -> Option<Option<Host<Bdf>>> {
        match self.index.entry(guest) {
            Entry::Plain => None,
            Entry::Absent => Some(None),
            Entry::Elsewhere => Some(Some(self.elsewhere(guest))),
            Entry::Virtual(number) => Some(self.virtual_to_host(number, guest)),
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

    /// A register [`ReadDecision::Requesters`](crate::ReadDecision::Requesters) led to as the guest must read it: error
    /// sources (7.8.4.11), the requester of a wake-up (7.5.3.14), what was contained (7.9.14.5), by its own Routing IDs.
    /// One the guest does not find is zero, at which Linux asks every function for errors (`is_error_source`).
    #[cold]
    #[inline(never)]
    pub fn requesters(&self, register: Host<Access>, value: u32) -> u32 {
        let Host(access) = register;
        let touched = self.functions.iter().find(|touched| touched.host == access.function());
        let named = touched.map_or(0, |touched| touched.rules.of(access.dword()).requesters());
        if value == !0 {
            return !0;
        }
        let half = |shift: u32| {
            let [low, high, ..] = value.wrapping_shr(shift).to_le_bytes();
            let host = Host(Bdf::from_routing_id(u16::from_le_bytes([low, high])));
            let guest = self.to_guest(host).map_or(0, |guest| guest.0.routing_id());
            u32::from(guest).wrapping_shl(shift)
        };
        value & !named | (half(0) | half(16)) & named
    }
}
