//! Who claims a request: host bridges, bridges and decoders, by the registers as they stand.

use std::vec::Vec;

use super::function::Quirks;
use super::{FunctionId, Machine};
use crate::address::Bdf;
use crate::delta::Space;

/// A request as it starts at the host bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To configuration space of a function.
    Configuration(Bdf),
    /// To an address of Memory Space.
    Memory(u64),
    /// To an address of I/O Space.
    Io(u64),
}

impl Request {
    pub(super) fn of(space: Space, address: u64) -> Self {
        match space {
            Space::Memory => Self::Memory(address),
            Space::Io => Self::Io(address),
        }
    }
}

/// More than one function or bridge of a bus claims a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The request.
    pub request: Request,
    /// The functions that claim it; a bridge stands for what is behind it.
    pub claimants: Vec<FunctionId>,
}

/// A decoder that answers an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// Whose decoder.
    pub function: FunctionId,
    /// Its BAR, 0 to 5; 6 is the Expansion ROM.
    pub bar: usize,
    /// Byte offset into the BAR.
    pub offset: u64,
}

impl Machine {
    /// The function that answers configuration requests for this address now.
    pub fn find(&self, bdf: Bdf) -> Option<FunctionId> {
        match self.config_claimants(bdf)[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The decoders that an address reaches now.
    pub fn decoders(&self, space: Space, address: u64) -> Vec<Hit> {
        self.claimants(space, address).1
    }

    pub(super) fn config_claimants(&self, target: Bdf) -> Vec<FunctionId> {
        let mut claimants = Vec::new();
        for (root, children) in self.firmware.roots.iter().zip(&self.roots) {
            if *root.buses.start() == target.bus() {
                claimants.extend(self.on_bus(children, target, Gate::Open));
            } else if root.buses.contains(&target.bus()) {
                self.behind_bridges(children, target, &mut claimants);
            }
        }
        claimants
    }

    /// Type 1 requests: to the bridges that have the bus behind them.
    fn behind_bridges(&self, children: &[FunctionId], target: Bdf, claimants: &mut Vec<FunctionId>) {
        for child in children {
            let bridge = self.function(*child);
            let Some(buses) = bridge.buses().filter(|buses| buses.contains(&target.bus())) else { continue };
            if !self.is_open(*child) {
                continue;
            }
            if *buses.start() == target.bus() {
                let gate = if bridge.passes(target) { Gate::Open } else { Gate::Closed };
                claimants.extend(self.on_bus(&bridge.children, target, gate));
            } else {
                self.behind_bridges(&bridge.children, target, claimants);
            }
        }
    }

    /// Whether requests pass a bridge: it has to be ready itself.
    fn is_open(&self, bridge: FunctionId) -> bool {
        self.is_ready(bridge) && self.function(bridge).is_open()
    }

    /// Type 0 requests: to the functions on the bus.
    fn on_bus(&self, children: &[FunctionId], target: Bdf, gate: Gate) -> impl Iterator<Item = FunctionId> {
        children.iter().copied().filter(move |child| {
            let function = self.function(*child);
            let itself = function.bdf().devfn() == target.devfn() && gate == Gate::Open;
            let clone = function.quirks().contains(Quirks::ANSWERS_EVERY_DEVICE)
                && function.bdf().function() == target.function();
            itself || clone
        })
    }

    /// The functions that claim an address on the bus where the first claim is contested, or where it ends; and the
    /// decoders it reaches.
    pub(super) fn claimants(&self, space: Space, address: u64) -> (Vec<FunctionId>, Vec<Hit>) {
        let (mut claimants, mut hits) = (Vec::new(), Vec::new());
        for (root, children) in self.firmware.roots.iter().zip(&self.roots) {
            if root.windows.iter().any(|window| window.space == space && window.span.contains(address)) {
                let (below, decoders) = self.on_side(children, space, address);
                claimants.extend(below);
                hits.extend(decoders);
            }
        }
        (claimants, hits)
    }

    fn on_side(&self, children: &[FunctionId], space: Space, address: u64) -> (Vec<FunctionId>, Vec<Hit>) {
        let (mut claimants, mut hits, mut bridges) = (Vec::new(), Vec::new(), Vec::new());
        for child in children {
            let function = self.function(*child);
            for (bar, offset) in function.hits(space, address) {
                if !self.is_ready(*child) {
                    continue;
                }
                claimants.push(*child);
                hits.push(Hit { function: *child, bar, offset });
            }
            if function.forwards(space, address) {
                claimants.push(*child);
                bridges.push(*child);
            }
        }
        if claimants.is_empty() {
            // At most one agent of a bus may decode subtractively.
            bridges.extend(children.iter().find(|child| self.function(**child).forwards_the_rest(space)));
            claimants.extend(&bridges);
        }
        for bridge in bridges {
            if !self.is_open(bridge) {
                continue;
            }
            let (below, decoders) = self.on_side(&self.function(bridge).children, space, address);
            hits.extend(decoders);
            // Uncontested so far: what happens below decides.
            if claimants == [bridge] && !below.is_empty() {
                claimants = below;
            }
        }
        (claimants, hits)
    }
}

/// Whether a downstream port lets a request onto its link.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Closed,
}
