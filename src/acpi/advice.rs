//! What tables and objects of ACPI say of moved functions, and what to write there.
//!
//! Whether a table has an entry for a function, only the table tells; here is which to look at. HMAT is not among them:
//! it names proximity domains, as does MCFG whole buses. Neither is TPM2, which names addresses.

use core::fmt;

use bitflags::bitflags;

use super::path::Path;
use crate::address::{Bdf, Guest, Host};
use crate::plan::{InterruptPin, MAX_FOLLOWED, Places, Plan, Relocation};
use crate::topology::{Function, TopologyView};

/// What to do about one move in one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The moved function.
    pub host: Host<Bdf>,
    /// Where the guest finds it.
    pub guest: Guest<Bdf>,
    /// What to write.
    pub change: Change,
}

/// What to write, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// DMAR: [device scopes](super::rewrite_scopes), for a guest whose remapping units the hypervisor emulates or shadows.
    /// It cannot help a guest that owns them: [hide](super::hide) the table from it.
    DeviceScope {
        /// What a device scope says.
        from: Path,
        /// What it shall say.
        to: Path,
    },
    /// IVRS: an [alias entry](super::add_aliases) for the guest's Routing ID.
    Alias {
        /// The Requester ID on the wire.
        source: Host<Bdf>,
    },
    /// The object that describes the function: its `_ADR`, and with it `_DSM`, `_PRW`, `_PRx`, `_PSx`, `_RST`.
    Companion {
        /// Where it is.
        from: Object,
        /// Where the guest looks for it (`acpi_pci_find_companion`).
        to: Object,
    },
    /// `_PRT`: a mapping for the pin the guest is shown.
    Routing {
        /// The bridge whose `_PRT` the guest asks first; `None` for the host bridge.
        bridge: Option<Host<Bdf>>,
        /// The mapping's Address: the device in 31:16, all functions.
        address: u32,
        /// The mapping's Pin, from 0.
        pin: u8,
    },
    /// SRAT: the PCI device handle of Generic Initiator Affinity structures (5.2.16.6).
    Affinity,
    /// HEST: bus, device and function of PCI Express AER structures (18.3.2.4 to 18.3.2.6).
    ErrorSource,
    /// BERT, and what the error sources of GHES write at run time: records of errors name the host's address (Linux:
    /// `aer_recover_work_func`).
    ErrorRecords,
    /// SPCR and DBG2: address and registers of a console.
    Console,
    /// iBFT: the PCI address of NIC structures.
    BootNic,
}

/// An object of the namespace, by its parent and its `_ADR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// The bridge it is below; `None` for a host bridge.
    pub parent: Option<Host<Bdf>>,
    /// Device in 31:16, function in 15:0 (6.1.1).
    pub address: u32,
}

impl Object {
    /// Of the function at an address.
    fn at(topology: TopologyView<'_>, bdf: Bdf) -> Self {
        let parent = topology.bridge_to(bdf.bus()).map(Function::bdf);
        Self { parent, address: u32::from(bdf.device()) << 16 | u32::from(bdf.function()) }
    }
}

/// Number of things to look at for each move.
const CHANGES: usize = 9;

impl Plan<'_> {
    /// Which tables and objects of ACPI may name the moved functions, and what to write there. Virtual Functions that follow
    /// are in none but IVRS and records of errors: DMAR has them by their Physical Function (Linux: `device_lookup_iommu`).
    pub fn advice(&self) -> impl Iterator<Item = Advice> {
        let moved = self.relocations().iter().filter(|relocation| relocation.guest.0 != relocation.host.0);
        let functions = moved.flat_map(move |relocation| {
            let Relocation { host, guest, .. } = *relocation;
            let function = self.host().function(host);
            let changes = (0..CHANGES).filter_map(move |nth| change(self, relocation, function?, nth));
            changes.map(move |change| Advice { host, guest, change })
        });
        let followed = self.virtual_functions(&Places::find(self));
        let followed = (0..MAX_FOLLOWED).filter_map(move |nth| followed.get(nth).copied()?.ok());
        let virtual_functions = followed.flat_map(|found| found.moves()).flat_map(move |(host, guest)| {
            let changes = [Change::Alias { source: self.host().wire_id(host) }, Change::ErrorRecords];
            changes.map(move |change| Advice { host, guest, change })
        });
        functions.chain(virtual_functions)
    }

    /// Slots whose power an operating system may switch, as the caller knows them, and that matter to a move: with
    /// `_PR3` or `_PS3` there, a guest that finds a bridge or a slot empty switches off the moved function.
    pub fn powered_slots(&self, known: impl Iterator<Item = Slot>) -> impl Iterator<Item = PoweredSlot> {
        known.flat_map(move |slot| {
            let moved = self.relocations().iter().filter(|relocation| relocation.guest.0 != relocation.host.0);
            moved.filter_map(move |relocation| {
                let matters = self.matter(slot.at, relocation)?;
                Some(PoweredSlot { slot, host: relocation.host, matters })
            })
        })
    }

    /// How what is at an address matters to a move.
    fn matter(&self, at: Bdf, relocation: &Relocation) -> Option<Matters> {
        let bridge = self.host().function(Host(at)).and_then(Function::bridge);
        if at == relocation.host.0 {
            Some(Matters::OldPlace)
        } else if at == relocation.guest.0 {
            Some(Matters::NewPlace)
        } else if bridge
            .is_some_and(|bridge| (bridge.secondary..=bridge.subordinate).contains(&relocation.host.0.bus()))
        {
            Some(Matters::Above)
        } else {
            None
        }
    }
}

fn change(plan: &Plan<'_>, relocation: &Relocation, function: &Function, nth: usize) -> Option<Change> {
    let (host, guest) = (relocation.host, relocation.guest.0);
    let topology = plan.host();
    // Base class and sub-class: PCI Code and ID Assignment 1.16.
    let is_class = |base: u32, sub: u32| function.class().0 >> 8 == base << 8 | sub;
    let when = |condition, change| if condition { Some(change) } else { None };
    match nth {
        0 => Some(Change::DeviceScope { from: Path::to(topology, host.0)?, to: Path::to(topology, guest)? }),
        1 => Some(Change::Alias { source: topology.wire_id(host) }),
        2 => Some(Change::Companion { from: Object::at(topology, host.0), to: Object::at(topology, guest) }),
        3 => relocation.interrupt_pin.map(|pin| routing(topology, guest, pin)),
        4 => Some(Change::Affinity),
        5 => when(function.express().is_some(), Change::ErrorSource),
        6 => when(function.express().is_some(), Change::ErrorRecords),
        7 => when(is_class(0x07, 0x00), Change::Console),
        8 => when(is_class(0x02, 0x00), Change::BootNic),
        _ => None,
    }
}

fn routing(topology: TopologyView<'_>, guest: Bdf, pin: InterruptPin) -> Change {
    Change::Routing {
        bridge: topology.bridge_to(guest.bus()).map(Function::bdf),
        address: u32::from(guest.device()) << 16 | 0xffff,
        pin: (pin as u8).saturating_sub(1),
    }
}

bitflags! {
    /// Methods by which an operating system switches the power of what an object describes (7.3).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct PowerMethods: u8 {
        /// `_PR0`: power resources that are on in D0.
        const PR0 = 1 << 0;
        /// `_PR3`: power resources that are on in D3hot; without them it is D3cold.
        const PR3 = 1 << 1;
        /// `_PS0` and `_PS3`.
        const PSX = 1 << 2;
        /// `_EJ0`: ejection.
        const EJ0 = 1 << 3;
        /// `_RST`: reset.
        const RST = 1 << 4;
    }
}

/// An object for a PCI function with power methods, as the caller knows it from the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The address of the function it describes, or would describe: the same to guest and host.
    pub at: Bdf,
    /// What it has.
    pub methods: PowerMethods,
}

/// A slot that matters to a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoweredSlot {
    /// The slot.
    pub slot: Slot,
    /// The moved function.
    pub host: Host<Bdf>,
    /// Why.
    pub matters: Matters,
}

/// Why a slot matters to a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matters {
    /// It describes a bridge above the function.
    Above,
    /// It describes the function at the place it left; a guest that finds nothing there may switch it off or eject it.
    OldPlace,
    /// The guest takes it for the moved function's, and switches the power of something else.
    NewPlace,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, guest, change } = self;
        write!(f, "{host} at {guest}: ")?;
        match change {
            Change::DeviceScope { from, to } => {
                write!(f, "DMAR: hide it from a guest that owns the units, else write device scope {from} as {to}")
            }
            Change::Alias { source } => write!(f, "IVRS: hide it, or add an alias entry for {guest}, source {source}"),
            Change::Companion { from, to } => {
                write!(f, "_ADR: what describes it is {from}, the guest looks for {to}")
            }
            Change::Routing { bridge, address, pin } => {
                write!(f, "_PRT of {}: map address {address:08x}, pin {pin}, as its own pin is routed", Parent(*bridge))
            }
            Change::Affinity => write!(f, "SRAT: write PCI device handle {host} as {guest}"),
            Change::ErrorSource => write!(f, "HEST: write {host} as {guest} in PCI Express AER structures"),
            Change::ErrorRecords => write!(f, "GHES, BERT: records of errors name {host}, the guest knows {guest}"),
            Change::Console => {
                write!(f, "SPCR, DBG2: write {host} as {guest}, with the base address the guest has, or hide them")
            }
            Change::BootNic => write!(f, "iBFT: write {host} as {guest} in NIC structures"),
        }
    }
}

impl fmt::Display for PoweredSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot: Slot { at, .. }, host, matters } = self;
        match matters {
            Matters::Above => write!(f, "{host}: the guest may switch off {at} above it by ACPI"),
            Matters::OldPlace => write!(f, "{host}: the guest may switch it off by ACPI where it was"),
            Matters::NewPlace => write!(f, "{host}: the guest takes the ACPI power methods of {at} for its own"),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x} below {}", self.address, Parent(self.parent))
    }
}

/// The bridge an object is below, as one speaks of it.
struct Parent(Option<Host<Bdf>>);

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bridge) => bridge.fmt(f),
            None => f.write_str("the host bridge"),
        }
    }
}
