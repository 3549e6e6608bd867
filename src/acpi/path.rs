//! How tables name a function that has to be found before buses are numbered.

use core::fmt;

use heapless::Vec;

use crate::address::{Bdf, Host};
use crate::topology::TopologyView;

/// Most functions on a path: as many bridges as one meets, and the function.
pub const MAX_HOPS: usize = 16;

/// A root bus, and the device and function numbers from there down, first of each bridge and last of the function
/// (VT-d 4.1, 8.3.1). Prints as `00:01.0/00.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    bus: u8,
    hops: Vec<u8, MAX_HOPS>,
}

impl Path {
    /// The path to an address by the bridges the machine has, which are the guest's too. `None` for an address on a bus
    /// nothing leads to, and when more than [`MAX_HOPS`] are on the way.
    pub fn to(topology: TopologyView<'_>, address: Bdf) -> Option<Self> {
        let mut hops = Vec::new();
        hops.push(address.devfn()).ok()?;
        let mut bus = address.bus();
        while let Some(bridge) = topology.bridge_to(bus) {
            let Host(above) = bridge.bdf();
            // A bridge is on a lower bus than what is behind it; other numbers would lead in circles.
            if above.bus() >= bus {
                return None;
            }
            hops.push(above.devfn()).ok()?;
            bus = above.bus();
        }
        if !topology.is_root_bus(bus) {
            return None;
        }
        hops.reverse();
        Some(Self { bus, hops })
    }

    /// The address at the end of these device and function numbers below a bus.
    pub(super) fn end(topology: TopologyView<'_>, bus: u8, hops: &[[u8; 2]]) -> Option<Bdf> {
        let ([device, function], bridges) = hops.split_last()?;
        let bus = bridges.iter().try_fold(bus, |bus, [device, function]| {
            topology.function(Host(Bdf::new(bus, *device, *function)?))?.bridge().map(|bridge| bridge.secondary)
        })?;
        Bdf::new(bus, *device, *function)
    }

    /// The root bus.
    pub fn bus(&self) -> u8 {
        self.bus
    }

    /// Device and function number of each step.
    pub fn hops(&self) -> impl Iterator<Item = [u8; 2]> {
        self.hops.iter().map(|devfn| [devfn >> 3, devfn & 7])
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.bus)?;
        self.hops().enumerate().try_for_each(|(step, [device, function])| {
            write!(f, "{}{device:02x}.{function:x}", if step == 0 { ':' } else { '/' })
        })
    }
}
