//! What the guest shall see, proven against the machine before it is built.
//!
//! A [`Plan`] collects moves and hidden functions. Its [findings](Plan::findings) say what speaks against it, each with
//! the register that proves it; [`build`](Plan::build) refuses a plan with an [`Error`](Grade::Error) among them.

mod check;
mod finding;
mod placement;
mod ports;
mod relocation;
mod room;
mod vacated;
mod virtual_functions;
mod way;

pub use finding::{Cause, Evidence, Finding, Grade};
pub(crate) use placement::{Place, Places, guest_address, has_page_to_itself, is_reached, shown_size};
pub(crate) use ports::{Port, Role, left_payload};
pub use relocation::{ErrorReporting, InterruptPin, IoBars, MsixTable, Placement, Policy, Relocation, Vfs};
pub use vacated::Vacated;
pub use virtual_functions::MAX_FOLLOWED;
pub(crate) use virtual_functions::{Addresses, Followed, VirtualFunctions};
pub use way::Way;

use heapless::Vec;
use thiserror::Error;

use crate::address::{Bdf, Guest, Host, Span};
use crate::remapper::Remapper;
use crate::spec::header::HeaderType;
use crate::topology::{Function, Topology, TopologyView};

/// Most functions one plan moves, and most it hides.
pub const MAX_MOVES: usize = 64;
/// Most guest address ranges a plan keeps windows away from.
pub const MAX_RESERVED: usize = 16;

/// What becomes of bus numbers the guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum BusNumbers {
    /// Bridges something left keep theirs, all others are the guest's to number: right for systems that keep what
    /// firmware chose, as Linux and FreeBSD do.
    #[default]
    Hardware,
    /// All bridges keep theirs; the guest numbers buses as it likes, and every access is led to the bus it means. For
    /// firmware that numbers buses anew while something is moved. Every configuration access has to be trapped.
    Virtual,
}

/// What becomes of addresses the guest gives to functions and bridges that stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum BaseAddresses {
    /// They are hardware's, and what is not touched needs no exit: right for systems that keep what firmware chose, as
    /// Linux and FreeBSD do until somebody removes bridges and scans again. What the guest then gives to a function that
    /// stays may be where hardware decodes one that left.
    #[default]
    Hardware,
    /// BARs and windows stay as they are in hardware, those of functions that stay, too; the guest places all as it
    /// likes, and it is mapped. For firmware that places everything anew, and for systems that may. Every function with
    /// a BAR and every bridge is touched, and those that stay show SR-IOV where Virtual Functions can follow.
    Virtual,
}

/// Moves and hidden functions, to be checked against a topology and built into a [`Remapper`].
#[derive(Debug, Clone)]
pub struct Plan<'t> {
    host: TopologyView<'t>,
    relocations: Vec<Relocation, MAX_MOVES>,
    hidden: Vec<Host<Bdf>, MAX_MOVES>,
    reserved: Vec<Guest<Span>, MAX_RESERVED>,
    bus_numbers: BusNumbers,
    base_addresses: BaseAddresses,
    policy: Policy,
    ways: Vec<way::Choice, MAX_MOVES>,
    vacated: Vacated,
}

/// A plan cannot be made, or not be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// No function answers at this host address.
    #[error("there is no function at {0}")]
    NoSuchFunction(Host<Bdf>),
    /// The function is moved already.
    #[error("{0} is moved to {1} already; a function has one guest address")]
    MovedTwice(Host<Bdf>, Guest<Bdf>),
    /// Another function is moved to this guest address already.
    #[error("{0} is taken: {1} is moved there already")]
    AddressTaken(Guest<Bdf>, Host<Bdf>),
    /// The function is both moved and hidden.
    #[error("{0} cannot be hidden and moved at once")]
    HiddenAndMoved(Host<Bdf>),
    /// More than [`MAX_MOVES`] moves or hidden functions.
    #[error("{0} is one too many: a plan moves and hides at most {MAX_MOVES} functions each")]
    TooMany(Host<Bdf>),
    /// More than [`MAX_RESERVED`] reserved ranges.
    #[error("more than {MAX_RESERVED} reserved ranges; merge adjacent ones")]
    TooManyReserved,
    /// A finding of grade [`Error`](Grade::Error).
    #[error("{0}")]
    Refused(Finding),
    /// The remapper has no room for all functions the plan touches.
    #[error(
        "{0} needs one function more than the {1} of this Remapper<F>: the plan touches moved and hidden functions, the ports on their ways, and first functions of the devices involved"
    )]
    TooFewFunctions(Host<Bdf>, usize),
    /// The functions the plan touches lie on more buses than the remapper has room for.
    #[error("bus {0:02x} is one more than the {1} buses this Remapper<F> has room for")]
    TooFewBuses(u8, usize),
    /// A function has more registers to look after than there is room for.
    #[error("{0} has more registers to look after than there is room for")]
    TooManyRegisters(Host<Bdf>),
}

impl<'t> Plan<'t> {
    /// A plan that changes nothing.
    ///
    /// ```
    /// # use pci_remap::topology::{BarSizes, Function, Topology};
    /// # let mut nic = [0; 64]; nic[..4].copy_from_slice(&[0x86, 0x80, 0xd3, 0x10]);
    /// # let function = |bdf: &str| Function::from_bytes(bdf.parse().unwrap(), &nic, &BarSizes::default());
    /// # let topology = Topology::<4>::from_functions([function("00:03.0"), function("00:04.0")])?;
    /// use pci_remap::{Plan, PlanError};
    ///
    /// let plan = Plan::new(&topology).relocate("00:03.0".parse()?, "00:05.0".parse()?)?;
    /// assert_eq!(
    ///     plan.relocate("00:04.0".parse()?, "00:05.0".parse()?).unwrap_err(),
    ///     PlanError::AddressTaken("00:05.0".parse()?, "00:03.0".parse()?),
    /// );
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn new<const N: usize>(topology: &'t Topology<N>) -> Self {
        Self {
            host: topology.view(),
            relocations: Vec::new(),
            hidden: Vec::new(),
            reserved: Vec::new(),
            bus_numbers: BusNumbers::Hardware,
            base_addresses: BaseAddresses::Hardware,
            policy: Policy::Transparent,
            ways: Vec::new(),
            vacated: Vacated::Empty,
        }
    }

    /// Moves one function with the defaults of [`Relocation::new`], but for the [policy](Self::policy).
    ///
    /// # Errors
    /// As [`Self::with`].
    pub fn relocate(self, host: Host<Bdf>, guest: Guest<Bdf>) -> Result<Self, PlanError> {
        let policy = self.policy;
        self.with(Relocation { policy, ..Relocation::new(host, guest) })
    }

    /// Moves all functions of a device with the defaults, each keeping its function number.
    ///
    /// # Errors
    /// As [`Self::with`].
    pub fn relocate_device(mut self, host: Host<Bdf>, guest: Guest<Bdf>) -> Result<Self, PlanError> {
        if self.host.device(host).next().is_none() {
            return Err(PlanError::NoSuchFunction(host));
        }
        for function in self.host.device(host) {
            let bdf = function.bdf();
            self = self.relocate(bdf, guest.map(|guest| guest.with_function(bdf.0.function())))?;
        }
        Ok(self)
    }

    /// Moves one function.
    ///
    /// # Errors
    /// [`PlanError::NoSuchFunction`], [`PlanError::MovedTwice`], [`PlanError::AddressTaken`],
    /// [`PlanError::HiddenAndMoved`] and [`PlanError::TooMany`].
    pub fn with(mut self, relocation: Relocation) -> Result<Self, PlanError> {
        let Relocation { host, guest, .. } = relocation;
        if self.host.function(host).is_none() {
            return Err(PlanError::NoSuchFunction(host));
        }
        if let Some(earlier) = self.relocation_of(host) {
            return Err(PlanError::MovedTwice(host, earlier.guest));
        }
        if let Some(earlier) = self.relocations.iter().find(|earlier| earlier.guest == guest) {
            return Err(PlanError::AddressTaken(guest, earlier.host));
        }
        if self.hidden.contains(&host) {
            return Err(PlanError::HiddenAndMoved(host));
        }
        self.relocations.push(relocation).map_err(|_| PlanError::TooMany(host))?;
        Ok(self)
    }

    /// Hides a function: the guest finds nothing at its address. Hiding one twice is hiding it.
    ///
    /// # Errors
    /// [`PlanError::NoSuchFunction`], [`PlanError::HiddenAndMoved`] and [`PlanError::TooMany`].
    pub fn hide(mut self, host: Host<Bdf>) -> Result<Self, PlanError> {
        if self.host.function(host).is_none() {
            return Err(PlanError::NoSuchFunction(host));
        }
        if self.relocation_of(host).is_some() {
            return Err(PlanError::HiddenAndMoved(host));
        }
        if !self.hidden.contains(&host) {
            self.hidden.push(host).map_err(|_| PlanError::TooMany(host))?;
        }
        Ok(self)
    }

    /// Keeps windows away from guest addresses that are something else: RAM, local APICs, the ECAM window. A BAR the
    /// guest puts there is not mapped until it leaves.
    ///
    /// # Errors
    /// [`PlanError::TooManyReserved`].
    pub fn reserve(mut self, span: Guest<Span>) -> Result<Self, PlanError> {
        self.reserved.push(span).map_err(|_| PlanError::TooManyReserved)?;
        Ok(self)
    }

    /// Says what becomes of bus numbers the guest writes.
    #[must_use]
    pub fn bus_numbers(mut self, bus_numbers: BusNumbers) -> Self {
        self.bus_numbers = bus_numbers;
        self
    }

    /// Says what becomes of addresses the guest gives to functions and bridges that stay.
    #[must_use]
    pub fn base_addresses(mut self, base_addresses: BaseAddresses) -> Self {
        self.base_addresses = base_addresses;
        self
    }

    /// Says how much the guest is given of functions that are moved from here on; [`Self::with`] says it for one.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Says what the guest finds at addresses functions left.
    #[must_use]
    pub fn vacated(mut self, vacated: Vacated) -> Self {
        self.vacated = vacated;
        self
    }

    /// Chooses how functions moved to device numbers other than 0 behind a port are found. Otherwise the planner takes
    /// the first of these the machine allows: [`Way::AriChain`] when the first function cannot be pulled out,
    /// [`Way::UpstreamPort`], [`Way::ConventionalBridge`].
    ///
    /// # Errors
    /// [`PlanError::NoSuchFunction`] and [`PlanError::TooMany`].
    pub fn find_behind(mut self, port: Host<Bdf>, way: Way) -> Result<Self, PlanError> {
        if self.host.function(port).is_none() {
            return Err(PlanError::NoSuchFunction(port));
        }
        self.ways.retain(|(earlier, _)| *earlier != port);
        self.ways.push((port, way)).map_err(|_| PlanError::TooMany(port))?;
        Ok(self)
    }

    /// The moves, in the order they were added. It is also the order in which overlapping windows are served.
    pub fn relocations(&self) -> &[Relocation] {
        &self.relocations
    }

    /// The hidden functions.
    pub fn hidden(&self) -> &[Host<Bdf>] {
        &self.hidden
    }

    /// What speaks against the plan, and what is worth knowing.
    pub fn findings(&self) -> impl Iterator<Item = Finding> {
        check::findings(self, Places::find(self))
    }

    /// The state machine of this plan, with room for `F` touched functions.
    ///
    /// # Errors
    /// [`PlanError::Refused`] with the first finding of grade [`Error`](Grade::Error);
    /// [`PlanError::TooFewFunctions`], [`PlanError::TooFewBuses`] and [`PlanError::TooManyRegisters`] when `F` is too
    /// small.
    pub fn build<const F: usize>(&self) -> Result<Remapper<F>, PlanError> {
        let mut remapper = Remapper::new();
        self.build_into(&mut remapper)?;
        Ok(remapper)
    }

    /// As [`Self::build`], into a remapper that is in its place already: a static, where the stack is small. What it
    /// was before is lost, also when there is an error: it is empty then.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn build_into<const F: usize>(&self, remapper: &mut Remapper<F>) -> Result<(), PlanError> {
        remapper.clear();
        let built = match self.findings().find(|finding| finding.grade() == Grade::Error) {
            Some(finding) => Err(PlanError::Refused(finding)),
            None => remapper.build(self),
        };
        if built.is_err() {
            remapper.clear();
        }
        built
    }

    pub(crate) fn host(&self) -> TopologyView<'t> {
        self.host
    }

    pub(crate) fn has_virtual_bus_numbers(&self) -> bool {
        self.bus_numbers == BusNumbers::Virtual
    }

    pub(crate) fn has_virtual_addresses(&self) -> bool {
        self.base_addresses == BaseAddresses::Virtual
    }

    /// Whether something of every bridge is the guest's alone.
    pub(crate) fn touches_all_bridges(&self) -> bool {
        self.has_virtual_bus_numbers() || self.has_virtual_addresses()
    }

    /// The functions that keep their place but, as addresses are virtual, not what they decode there. Nobody places host
    /// bridges, and what has fixed addresses.
    pub(crate) fn in_place(&self) -> impl Iterator<Item = &'t Function> {
        self.host.functions().iter().filter(|function| {
            let has_addresses = function.bars().next().is_some() || function.header_type() == HeaderType::Type1;
            let is_placed = function.bridge().is_none() && !function.class().is_host_bridge();
            self.has_virtual_addresses()
                && is_placed
                && !function.has_fixed_addresses()
                && has_addresses
                && self.relocation_of(function.bdf()).is_none()
                && self.stays(function.bdf())
        })
    }

    pub(crate) fn reserved(&self) -> &[Guest<Span>] {
        &self.reserved
    }

    pub(crate) fn relocation_of(&self, host: Host<Bdf>) -> Option<&Relocation> {
        self.relocations.iter().find(|relocation| relocation.host == host)
    }

    /// Whether the guest finds the function at its own address.
    pub(crate) fn stays(&self, host: Host<Bdf>) -> bool {
        self.relocation_of(host).is_none_or(|relocation| relocation.guest.0 == host.0) && !self.hidden.contains(&host)
    }

    /// Where the guest finds a function of the host; `None` when it does not.
    pub(crate) fn guest_address(&self, host: Host<Bdf>) -> Option<Guest<Bdf>> {
        match self.relocation_of(host) {
            Some(relocation) => Some(relocation.guest),
            None if self.hidden.contains(&host) => None,
            None => Some(Guest(host.0)),
        }
    }

    /// The function the guest finds at this address.
    pub(crate) fn occupant(&self, guest: Guest<Bdf>) -> Option<Host<Bdf>> {
        let moved = self.relocations.iter().find(|relocation| relocation.guest == guest).map(|moved| moved.host);
        moved.or_else(|| {
            let own = Host(guest.0);
            if self.host.function(own).is_some() && self.stays(own) { Some(own) } else { None }
        })
    }

    /// The functions the guest finds on a bus, with their guest addresses.
    pub(crate) fn guest_bus(&self, bus: u8) -> impl Iterator<Item = (Guest<Bdf>, Host<Bdf>)> {
        let moved = self.relocations.iter().map(|relocation| (relocation.guest, relocation.host));
        let staying = self.host.bus(bus).map(|function| (Guest(function.bdf().0), function.bdf()));
        let staying = staying.filter(|(_, host)| self.relocation_of(*host).is_none() && self.stays(*host));
        moved.chain(staying).filter(move |(guest, _)| guest.0.bus() == bus)
    }

    /// Whether the guest finds another function in the same device as this address.
    pub(crate) fn has_siblings(&self, guest: Guest<Bdf>) -> bool {
        self.guest_bus(guest.0.bus()).any(|(other, _)| other != guest && other.0.same_device(guest.0))
    }
}
