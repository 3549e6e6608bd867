//! What the guest finds where a function left.

use super::Plan;
use crate::address::{Bdf, Guest, Host};

/// What the guest finds at addresses functions left. An inert function has an ID no driver has and no power states. Its
/// BARs keep the real addresses of the one that left, at which nothing answers; where that is a PCI Express function, it
/// looks like one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Vacated {
    /// Nothing. Siblings of a leaving function 0 have to leave too, as they are not looked for without one.
    #[default]
    Empty,
    /// Nothing, but for an inert function 0 where siblings stay.
    InertFirst,
    /// An inert function where a function moved away, and an inert function 0 where siblings stay.
    Placeholder,
}

impl Plan<'_> {
    /// The addresses at which the guest finds an inert function instead of the one of the host.
    pub(crate) fn inert(&self) -> impl Iterator<Item = Host<Bdf>> {
        let moved = self.relocations().iter().map(|relocation| (relocation.host, true));
        let leaving = moved.chain(self.hidden().iter().map(|hidden| (*hidden, false)));
        let inert = leaving.filter(|(host, is_moved)| {
            let place = Guest(host.0);
            let is_needed = match self.vacated {
                Vacated::Empty => false,
                Vacated::Placeholder if *is_moved => true,
                Vacated::InertFirst | Vacated::Placeholder => place.0.function() == 0 && self.has_siblings(place),
            };
            is_needed && self.occupant(place).is_none()
        });
        inert.map(|(host, _)| host)
    }

    /// Whether the guest finds an inert function here.
    pub(crate) fn is_inert(&self, guest: Guest<Bdf>) -> bool {
        self.inert().any(|Host(host)| host == guest.0)
    }

    /// Whether the guest finds anything on a bus.
    pub(crate) fn is_inhabited(&self, bus: u8) -> bool {
        self.guest_bus(bus).next().is_some() || self.inert().any(|Host(host)| host.bus() == bus)
    }
}
