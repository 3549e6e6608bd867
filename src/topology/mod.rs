//! The host: which functions the machine has, what they decode, and which bridge leads where.
//!
//! One [`Topology`] stands for one PCI segment group. It is made by [scanning](Topology::scan) the hardware, or from
//! functions the caller [knows already](Topology::from_functions): from VFIO, or from a dump.

mod bridge;
mod function;
mod list;
mod requester;
mod scan;

pub use bridge::{Bridge, PrefetchableWindow};
pub use function::{Bar, BarSizes, EnhancedAllocation, Express, Function, MsiX, ROM, ResizableBars, SrIov, VF_BAR};
pub use list::{Capability, ExtendedCapability, ListFault};
pub use scan::ConfigSpace;

use heapless::Vec;
use thiserror::Error;

use crate::address::{Bdf, Host, Span};
use crate::delta::Space;

/// Most windows of host bridges a topology keeps.
pub const MAX_ROOT_WINDOWS: usize = 16;

/// A range of addresses a host bridge forwards, from its ACPI `_CRS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootWindow {
    /// The root bus.
    pub bus: u8,
    /// The addresses.
    pub span: Host<Span>,
    /// The space they are in.
    pub space: Space,
}

/// The functions of one PCI segment group, at most `N`.
#[derive(Debug, Clone)]
pub struct Topology<const N: usize> {
    /// In the order of their Routing IDs.
    functions: Vec<Function, N>,
    root_windows: Vec<RootWindow, MAX_ROOT_WINDOWS>,
}

/// The functions do not make a topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The machine has more functions than the topology has room for.
    #[error("{0} is one function too many: there is room for {1}; choose a larger Topology<N>")]
    TooManyFunctions(Host<Bdf>, usize),
    /// A function is named twice.
    #[error("{0} is there twice; pass each function once")]
    Duplicate(Host<Bdf>),
    /// More windows than [`MAX_ROOT_WINDOWS`].
    #[error("more than {MAX_ROOT_WINDOWS} host bridge windows; merge adjacent ones")]
    TooManyRootWindows,
}

impl<const N: usize> Default for Topology<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Topology<N> {
    /// A machine without functions.
    pub const fn new() -> Self {
        Self { functions: Vec::new(), root_windows: Vec::new() }
    }

    /// The topology of functions the caller knows.
    ///
    /// ```
    /// use pci_remap::topology::{BarSizes, Function, Topology};
    ///
    /// let mut nic = [0; 256];
    /// nic[..4].copy_from_slice(&[0x86, 0x80, 0xd3, 0x10]);
    /// nic[0x10..0x14].copy_from_slice(&0xf780_0000_u32.to_le_bytes());
    /// let sizes = BarSizes { bars: [0x2_0000, 0, 0, 0, 0, 0], ..BarSizes::default() };
    /// let topology = Topology::<4>::from_functions([Function::from_bytes("02:00.0".parse()?, &nic, &sizes)])?;
    /// assert_eq!(topology.functions()[0].bars().next().unwrap().size(), 0x2_0000);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TopologyError::TooManyFunctions`] and [`TopologyError::Duplicate`].
    pub fn from_functions(functions: impl IntoIterator<Item = Function>) -> Result<Self, TopologyError> {
        let mut topology = Self::new();
        for function in functions {
            topology.insert(function)?;
        }
        Ok(topology)
    }

    /// Adds what firmware says a host bridge forwards. It lets the planner place BARs on a root bus. Add all windows of
    /// all host bridges, or none.
    ///
    /// # Errors
    /// [`TopologyError::TooManyRootWindows`].
    pub fn add_root_window(&mut self, window: RootWindow) -> Result<(), TopologyError> {
        self.root_windows.push(window).map_err(|_| TopologyError::TooManyRootWindows)
    }

    /// All functions, in the order of their Routing IDs.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The same without the capacity in its type.
    pub fn view(&self) -> TopologyView<'_> {
        TopologyView { functions: &self.functions, root_windows: &self.root_windows }
    }

    fn insert(&mut self, function: Function) -> Result<(), TopologyError> {
        let bdf = function.bdf();
        match self.functions.binary_search_by_key(&bdf, Function::bdf) {
            Ok(_) => Err(TopologyError::Duplicate(bdf)),
            Err(place) => self
                .functions
                .insert(place, function)
                .map_err(|function| TopologyError::TooManyFunctions(function.bdf(), N)),
        }
    }
}

/// A borrowed [`Topology`] of any capacity.
#[derive(Debug, Clone, Copy)]
pub struct TopologyView<'t> {
    functions: &'t [Function],
    root_windows: &'t [RootWindow],
}

impl<'t> TopologyView<'t> {
    /// All functions, in the order of their Routing IDs.
    pub fn functions(self) -> &'t [Function] {
        self.functions
    }

    /// The function at this address.
    pub fn function(self, bdf: Host<Bdf>) -> Option<&'t Function> {
        let index = self.functions.binary_search_by_key(&bdf, Function::bdf).ok()?;
        self.functions.get(index)
    }

    /// All functions of the device this address belongs to.
    pub fn device(self, bdf: Host<Bdf>) -> impl Iterator<Item = &'t Function> + use<'t> {
        self.functions.iter().filter(move |function| function.bdf().0.same_device(bdf.0))
    }

    /// All functions on a bus.
    pub fn bus(self, bus: u8) -> impl Iterator<Item = &'t Function> + Clone + use<'t> {
        self.functions.iter().filter(move |function| function.bdf().0.bus() == bus)
    }

    /// The Physical Function that has ARI Capable Hierarchy for this one: the first on its link (9.3.3.3.5).
    pub(crate) fn first_physical_function(self, of: Host<Bdf>) -> Option<&'t Function> {
        let is_on_link = self.bridge_to(of.0.bus()).is_some_and(Function::leads_down_a_link);
        let mut physical = self.bus(of.0.bus()).filter(|function| function.sriov().is_some());
        physical.find(|function| is_on_link || function.bdf() == of)
    }

    /// The bridge whose secondary side is this bus; `None` for root buses and buses nothing leads to.
    pub fn bridge_to(self, bus: u8) -> Option<&'t Function> {
        self.functions.iter().find(|function| function.bridge().is_some_and(|bridge| bridge.secondary == bus))
    }

    /// The bridges on the way up from a bus, the nearest first.
    pub(crate) fn way_up(self, bus: u8) -> impl Iterator<Item = &'t Function> + use<'t> {
        // A bridge is on a lower bus than what is behind it, so the way up ends.
        let above = move |bus: u8| self.bridge_to(bus).filter(|bridge| bridge.bdf().0.bus() < bus);
        core::iter::successors(above(bus), move |bridge| above(bridge.bdf().0.bus()))
    }

    /// Whether some host bridge leads to this bus: something is on it, or a window names it, and no bridge leads there.
    pub fn is_root_bus(self, bus: u8) -> bool {
        let known = self.bus(bus).next().is_some() || self.root_windows(bus).next().is_some();
        known && self.bridge_to(bus).is_none()
    }

    /// Whether the windows of host bridges are known; then a root bus without any has none.
    pub fn knows_root_windows(self) -> bool {
        !self.root_windows.is_empty()
    }

    /// The windows of the host bridge of a root bus.
    pub fn root_windows(self, bus: u8) -> impl Iterator<Item = RootWindow> + use<'t> {
        self.root_windows.iter().copied().filter(move |window| window.bus == bus)
    }
}
