//! ACPI tables, as pure functions over bytes: for hypervisors that edit what firmware left before the guest reads it.
//!
//! The caller reads the memory and passes it: [`Rsdp`] says where the root tables are, [`RootTable`] where all others,
//! [`Table`] checks one. What comes after the table in a slice is not looked at, so a whole page may be passed.
//!
//! ```
//! use pci_remap::acpi::{self, Mcfg, RootTable, Rsdp, Signature, TableError};
//!
//! /// What a hypervisor does before the guest starts; `memory` is all of it.
//! fn prepare(memory: &mut [u8], rsdp: usize) -> Result<(), TableError> {
//!     for root in Rsdp::parse(&memory[rsdp..])?.roots() {
//!         let tables: Vec<u64> = RootTable::parse(&memory[root as usize..])?.entries().collect();
//!         for address in tables {
//!             let table = &mut memory[address as usize..];
//!             match Signature::of(table) {
//!                 Some(Signature::MCFG) => Mcfg::parse(table)?.windows().for_each(|window| println!("{window:?}")),
//!                 Some(Signature::DMAR | Signature::IVRS) => acpi::hide(table)?,
//!                 _ => {}
//!             }
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Functions that change a table check it first, and leave it as it is when there is something wrong with it; what they
//! write has a good checksum. Section numbers are of the ACPI Specification 6.5, where nothing else is said.

mod advice;
mod dmar;
mod ivrs;
mod mcfg;
mod path;
mod record;
mod root;
mod table;

pub use advice::{Advice, Change, Matters, Object, PowerMethods, PoweredSlot, Slot};
pub use dmar::rewrite_scopes;
pub use ivrs::add_aliases;
pub use mcfg::{EcamWindow, Mcfg};
pub use path::{MAX_HOPS, Path};
pub use root::{RootTable, Rsdp, point_entry, remove_entry};
pub use table::{Fault, Header, Signature, Table, TableError, hide};
