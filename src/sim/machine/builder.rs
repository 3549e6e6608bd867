//! Puts functions into a machine.

use std::ops::RangeInclusive;
use std::vec::Vec;

use super::link::Link;
use super::{Blueprint, Capability, Function, FunctionId, Machine, Windows};
use crate::address::{Bdf, Span};
use crate::delta::Space;
use crate::mechanism::{ConfigAddress, Ecam};
use crate::sim::platform::{Firmware, RootBridge, RootWindow};
use crate::spec::express::PortType;

/// Describes a machine, function by function. Bridges and what is behind them may come in any order.
#[derive(Debug, Clone)]
pub struct Builder {
    firmware: Firmware,
    blueprints: Vec<Blueprint>,
}

/// The functions do not make a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Two functions are at one address.
    #[error("{0} is described twice")]
    Duplicate(Bdf),
    /// No root bus and no Secondary Bus Number is this function's bus.
    #[error("no bridge leads to {0}")]
    Unreachable(Bdf),
}

impl Builder {
    /// Memory from 2 GiB to the ECAM window of a default machine.
    pub const LOW_MEMORY: RootWindow =
        RootWindow { span: Span::from_bounds(0x8000_0000, 0xfebf_ffff).unwrap(), space: Space::Memory };
    /// 64 GiB of memory from 64 GiB on.
    pub const HIGH_MEMORY: RootWindow =
        RootWindow { span: Span::new(0x10_0000_0000, 0x10_0000_0000).unwrap(), space: Space::Memory };
    /// All ports of a PC.
    pub const PORTS: RootWindow = RootWindow { span: Span::new(0, 0x1_0000).unwrap(), space: Space::Io };

    /// The first segment group of a PC: ports CF8h and CFCh, ECAM at 4000_0000h, no functions.
    pub fn new() -> Self {
        let ecam = Ecam::new(0x4000_0000, 0..=255);
        Self { firmware: Firmware { segment: 0, ports: true, ecam, roots: Vec::new() }, blueprints: Vec::new() }
    }

    /// A machine with these firmware tables.
    pub fn with_firmware(firmware: Firmware) -> Self {
        Self { firmware, blueprints: Vec::new() }
    }

    /// Makes it another segment group. Only the first has the ports.
    #[must_use]
    pub fn segment(mut self, segment: u16) -> Self {
        self.firmware.segment = segment;
        self.firmware.ports &= segment == 0;
        self
    }

    /// Changes or removes the ECAM window.
    #[must_use]
    pub fn ecam(mut self, ecam: Option<Ecam>) -> Self {
        self.firmware.ecam = ecam;
        self
    }

    /// A host bridge: its root bus and the buses below it, and the addresses it forwards.
    #[must_use]
    pub fn root(mut self, buses: RangeInclusive<u8>, windows: &[RootWindow]) -> Self {
        self.firmware.roots.push(RootBridge { buses, windows: windows.to_vec() });
        self.firmware.roots.sort_by_key(|root| *root.buses.start());
        self
    }

    /// A Root Port.
    #[must_use]
    pub fn root_port(self, bdf: Bdf, buses: RangeInclusive<u8>, windows: Windows) -> Self {
        self.function(Blueprint::port(bdf, PortType::RootPort, buses, windows))
    }

    /// A conventional PCI-to-PCI bridge.
    #[must_use]
    pub fn bridge(self, bdf: Bdf, buses: RangeInclusive<u8>, windows: Windows) -> Self {
        self.function(Blueprint::bridge(bdf, buses, windows))
    }

    /// A switch: its Upstream Port, and a Downstream Port for each of `downstream` on the bus inside it.
    #[must_use]
    pub fn switch(
        self,
        upstream: Bdf,
        buses: RangeInclusive<u8>,
        windows: Windows,
        downstream: &[(Bdf, RangeInclusive<u8>, Windows)],
    ) -> Self {
        let port = Blueprint::port(upstream, PortType::UpstreamPort, buses, windows);
        downstream.iter().fold(self.function(port), |builder, (bdf, buses, windows)| {
            builder.function(Blueprint::port(*bdf, PortType::DownstreamPort, buses.clone(), *windows))
        })
    }

    /// A PCI Express Endpoint: this function, with a PCI Express Capability appended.
    #[must_use]
    pub fn endpoint(self, endpoint: Blueprint) -> Self {
        self.function(endpoint.capability(&Capability::Express(PortType::Endpoint)))
    }

    /// Any function.
    #[must_use]
    pub fn function(mut self, blueprint: Blueprint) -> Self {
        self.blueprints.push(blueprint);
        self
    }

    /// The machine. Functions that share a device get their Multi-Function Device bit.
    ///
    /// # Errors
    ///
    /// [`BuildError::Duplicate`] and [`BuildError::Unreachable`].
    pub fn build(self) -> Result<Machine, BuildError> {
        let addresses: Vec<_> = self.blueprints.iter().map(|blueprint| blueprint.bdf).collect();
        let shared = |bdf: Bdf| addresses.iter().any(|other| other.same_device(bdf) && *other != bdf);
        let blueprints = self.blueprints.into_iter();
        let blueprints = blueprints.map(|own| if shared(own.bdf) { own.multi_function() } else { own });
        Machine::new(self.firmware, blueprints)
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// A machine of exactly these functions.
    ///
    /// # Errors
    ///
    /// [`BuildError::Duplicate`] and [`BuildError::Unreachable`].
    pub fn new(firmware: Firmware, blueprints: impl IntoIterator<Item = Blueprint>) -> Result<Self, BuildError> {
        let functions: Vec<_> = blueprints.into_iter().map(Function::new).collect();
        let roots = firmware.roots.iter().map(|_| Vec::new()).collect();
        let mut machine = Self {
            firmware,
            functions,
            roots,
            ports: ConfigAddress::default(),
            memory: std::collections::BTreeMap::new(),
            conflicts: Vec::new(),
            unsupported: 0,
            now: core::time::Duration::ZERO,
            wake: super::Wake::default(),
            faults: Vec::new(),
            msi_log: Vec::new(),
            config_writes: Vec::new(),
        };
        for index in 0..machine.functions.len() {
            machine.attach(FunctionId(index))?;
        }
        machine.wire();
        Ok(machine)
    }

    /// Links are up where something is behind a port, whatever its registers say.
    fn wire(&mut self) {
        for function in &mut self.functions {
            function.link = function.leads_down_a_link().then(|| Link::new(!function.children.is_empty()));
        }
        self.accept_links();
    }

    /// Puts a function on the bus its original address names.
    fn attach(&mut self, id: FunctionId) -> Result<(), BuildError> {
        let bdf = self.function(id).bdf();
        if self.functions[..id.0].iter().any(|other| other.bdf() == bdf) {
            return Err(BuildError::Duplicate(bdf));
        }
        let root = self.firmware.roots.iter().position(|root| *root.buses.start() == bdf.bus());
        if let Some(root) = root {
            self.roots[root].push(id);
            return Ok(());
        }
        let leads_here =
            |other: &&Function| other.bdf() != bdf && other.buses().is_some_and(|buses| *buses.start() == bdf.bus());
        let bridge = self.functions.iter().position(|other| leads_here(&other)).ok_or(BuildError::Unreachable(bdf))?;
        self.functions[bridge].children.push(id);
        self.functions[id.0].parent = Some(FunctionId(bridge));
        Ok(())
    }
}
