//! Where the hypervisor meets `pci-remap`.
//!
//! ```text
//! trapped access -> Access -> replay, decision: carried out on the hardware -> delta, applied to the second stage
//!                                                                 -> translations forgotten, guest resumed (vm.rs)
//! ```

use pci_remap::mechanism::{ConfigAddress, Ecam, PortAccess};
use pci_remap::remapper::TrapRange;
use pci_remap::topology::ConfigSpace;
use pci_remap::{
    Access, Bdf, Guest, Host, MapOp, Plan, ReadDecision, Relocation, Remapper, Replay, Space, Span, Topology,
    Translation, Width, WriteDecision,
};

use crate::acpi::Tables;
use crate::cut::Cut;
use crate::hardware::{self, Hardware};
use crate::multiboot::Range;
use crate::options::Options;
use crate::physical;
use crate::ports::Ports;
use crate::say;
use crate::second_stage::SecondStage;

/// Functions a machine may have, and how many of them the plan may touch.
const FUNCTIONS: usize = 128;
const TOUCHED: usize = 64;

/// Local and I/O APICs, firmware: nothing a BAR may cover.
const MAINBOARD: Span = Span::from_bounds(0xfec0_0000, 0xffff_ffff).unwrap();

pub struct Pci {
    remapper: &'static mut Remapper<TOUCHED>,
    ports: ConfigAddress,
    ecam: Option<Ecam>,
    hardware: Hardware,
    /// For tests: a port the crate is not asked about.
    unguarded: Option<Guest<Bdf>>,
}

/// What is too large for the stack.
pub struct Memory {
    topology: Topology<FUNCTIONS>,
    remapper: Remapper<TOUCHED>,
}

impl Memory {
    pub const EMPTY: Self = Self { topology: Topology::new(), remapper: Remapper::new() };
}

/// What the crate's deltas change.
pub struct Stages {
    pub memory: SecondStage,
    pub ports: Ports,
    /// Something changed since the guest ran.
    pub are_new: bool,
}

impl Stages {
    fn apply(&mut self, change: MapOp) -> bool {
        self.are_new = true;
        match change.space() {
            Space::Memory => self.memory.apply(change),
            Space::Io => self.ports.apply(change),
        }
    }
}

/// Before the guest runs.
impl Pci {
    /// Looks at the machine, and makes of it what the options say; firmware's tables as well.
    pub fn new(place: &'static mut Memory, tables: &Tables, options: &Options, memory: &[Range]) -> Self {
        let mut hardware = Hardware { ecam: tables.ecam(), cut: None };
        let Memory { topology, remapper } = place;
        hardware.cut = options.cut.map(|port| Cut::new(port, |access| hardware.read(access)));
        topology.scan_into(&mut hardware).unwrap_or_else(|error| panic!("{error}"));
        let mut plan = Plan::new(topology);
        for &(host, guest) in &options.relocate {
            let pin = options.pins.iter().find(|(function, _)| *function == host);
            let relocation = Relocation {
                placement: options.placement,
                policy: options.policy,
                vfs: options.vfs,
                interrupt_pin: pin.map(|(_, pin)| pin.0),
                ..Relocation::new(host, guest)
            };
            plan = plan.with(relocation).unwrap_or_else(|error| panic!("{error}"));
        }
        for host in &options.hide {
            plan = plan.hide(*host).unwrap_or_else(|error| panic!("{error}"));
        }
        let ram = memory.iter().filter(|range| range.kind == Range::USABLE).map(|range| range.span);
        let ecam = hardware.ecam;
        for span in ram.chain(ecam.map(|ecam| ecam.span().0)).chain([MAINBOARD]) {
            plan = plan.reserve(Guest(span)).unwrap_or_else(|error| panic!("{error}"));
        }
        for finding in plan.findings() {
            say!("{}: {finding}", finding.grade());
        }
        plan.build_into(remapper).unwrap_or_else(|error| panic!("{error}"));
        tables.edit_iommus(options.iommu, &plan);
        for write in remapper.preparation() {
            hardware.write(write.to, write.value);
        }
        let unguarded = options.cut.filter(|_| options.is_unguarded).map(|port| Guest(port.0));
        Self { remapper, ports: ConfigAddress::default(), ecam, hardware, unguarded }
    }

    /// Makes the ECAM pages exit that have to, and applies the first delta.
    pub fn start(&mut self, stages: &mut Stages) {
        for TrapRange { first, last } in self.remapper.traps() {
            let pages = self.ecam.and_then(|ecam| Some((ecam.page(first)?, ecam.page(last)?)));
            let Some((Guest(first), Guest(last))) = pages else { continue };
            let hole = Span::from_bounds(first.start(), last.last()).expect("pages in order");
            assert!(stages.memory.punch(hole), "too many ECAM pages to trap");
        }
        let mut delta = self.remapper.pending();
        while let Some(change) = delta.next() {
            if stages.apply(change.operation()) {
                change.confirm();
            }
        }
    }
}

/// Configuration space.
impl Pci {
    fn config_read(&mut self, access: Guest<Access>) -> u32 {
        if self.is_unguarded(access) {
            return self.hardware.read(Host(access.0));
        }
        match self.remapper.read(access) {
            ReadDecision::Passthrough => self.hardware.read(Host(access.0)),
            ReadDecision::Hide => !0,
            ReadDecision::Emulate(value) => value,
            ReadDecision::Redirect { to, splice } => splice.apply(self.hardware.read(to)),
            ReadDecision::Requesters { to } => self.remapper.requesters(to, self.hardware.read(to)),
        }
    }

    fn config_write(&mut self, access: Guest<Access>, value: u32, stages: &mut Stages) {
        if self.is_unguarded(access) {
            return self.hardware.write(Host(access.0), value);
        }
        let mut outcome = self.remapper.write(access, value);
        if let Some(replay) = outcome.replay() {
            say!("replays what {} forgot", replay.function().0);
            make(replay, &mut self.hardware);
        }
        match outcome.decision {
            WriteDecision::Passthrough => self.hardware.write(Host(access.0), value),
            WriteDecision::Hide | WriteDecision::Emulate => {}
            WriteDecision::Redirect { to, value } => self.hardware.write(to, value),
        }
        while let Some(change) = outcome.delta.next() {
            let operation = change.operation();
            say!("{operation}");
            if stages.apply(operation) {
                change.confirm();
            }
        }
        if outcome.ends_reset() {
            self.wait_for_replays();
        }
    }

    /// What was reset has a second to become ready. It has no windows until the guest writes.
    fn wait_for_replays(&mut self) {
        for _ in 0..1000 {
            hardware::wait_a_millisecond();
            let mut replays = self.remapper.replays();
            if replays.is_empty() {
                break;
            }
            while let Some(replay) = replays.next() {
                make(replay, &mut self.hardware);
            }
        }
    }
}

/// Brings back what a reset made a function forget.
fn make(replay: Replay<'_, TOUCHED>, hardware: &mut Hardware) {
    let state = replay.reads().map(|access| hardware.read(access));
    for write in replay.writes(state) {
        hardware.write(write.to, write.value);
    }
}

/// For tests.
impl Pci {
    fn is_unguarded(&self, access: Guest<Access>) -> bool {
        self.unguarded.is_some_and(|port| port.0 == access.0.function())
    }
}

/// I/O ports that exit: CF8h to CFFh, and those of moved and hidden functions.
impl Pci {
    pub fn port_read(&mut self, port: u16, width: Width) -> u32 {
        match self.ports.read(port, width) {
            PortAccess::Latch(value) => value,
            PortAccess::Config(piece) => piece.answer(!0, self.config_read(piece.access())) as u32,
            PortAccess::Forward => match self.remapper.translate(Space::Io, Guest(port.into())) {
                Translation::Untouched => self.hardware.read_port(port, width, self.ports.value()),
                Translation::Absent => !0,
                Translation::Host(Host(port)) => hardware::read_port(port as u16, width),
            },
        }
    }

    pub fn port_write(&mut self, port: u16, width: Width, value: u32, stages: &mut Stages) {
        match self.ports.write(port, width, value) {
            PortAccess::Latch(_) => {}
            PortAccess::Config(piece) => self.config_write(piece.access(), piece.lanes_of(value.into()), stages),
            PortAccess::Forward => match self.remapper.translate(Space::Io, Guest(port.into())) {
                Translation::Untouched => self.hardware.write_port(port, width, value, self.ports.value()),
                Translation::Absent => {}
                Translation::Host(Host(port)) => hardware::write_port(port as u16, width, value),
            },
        }
    }
}

/// Memory that exits: ECAM pages, windows smaller than a page, and concealed BARs.
impl Pci {
    pub fn is_ecam(&self, address: u64) -> bool {
        self.ecam.is_some_and(|ecam| ecam.span().0.contains(address))
    }

    pub fn memory_read(&mut self, address: u64, width: u8) -> u64 {
        if let Some(ecam) = self.ecam.filter(|_| self.is_ecam(address)) {
            return ecam
                .pieces(address, width)
                .fold(!0, |value, piece| piece.answer(value, self.config_read(piece.access())));
        }
        match self.remapper.translate(Space::Memory, Guest(address)) {
            Translation::Untouched => physical::read(address, width),
            Translation::Absent => !0,
            Translation::Host(Host(address)) => physical::read(address, width),
        }
    }

    pub fn memory_write(&mut self, address: u64, width: u8, value: u64, stages: &mut Stages) {
        if let Some(ecam) = self.ecam.filter(|_| self.is_ecam(address)) {
            for piece in ecam.pieces(address, width) {
                self.config_write(piece.access(), piece.lanes_of(value), stages);
            }
            return;
        }
        let address = match self.remapper.translate(Space::Memory, Guest(address)) {
            Translation::Untouched => address,
            Translation::Absent => return,
            Translation::Host(Host(address)) => address,
        };
        // SAFETY: the second stage lets only a device's memory exit.
        unsafe { physical::write(address, width, value) }
    }
}
