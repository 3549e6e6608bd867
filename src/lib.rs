//! Decides what a guest sees when it touches PCI configuration space, so that a physical function appears at another
//! address than it has. For hypervisors and VMMs.
//!
//! ```text
//!  trapped access --mechanism--> Access --> Remapper --> ReadDecision / WriteDecision --> answer, or touch hardware
//!                                              |
//!                                              +-------> MapDelta ------------------> second-stage page tables
//! ```
//!
//! 1. Find out what the machine has: [`Topology::scan`], or [`Topology::from_functions`].
//! 2. Say what the guest shall see: a [`Plan`] of moves and hidden functions. Its [findings](Plan::findings) tell whether
//!    it will work, and why not.
//! 3. [Build](Plan::build) the [`Remapper`], make its [preparations](Remapper::preparation), and trap the configuration
//!    accesses it [lists](Remapper::traps). All others never need an exit.
//! 4. Cut every trapped access into [`Access`]es by its [`mechanism`], ask [`Remapper::read`] or [`Remapper::write`], and
//!    carry out what comes of it: a [replay](WriteOutcome::replay) where a reset made the function forget, the decision, the
//!    delta. **Apply every change of the delta before the guest runs again.**
//!
//! The crate does no I/O, allocates nothing, takes no lock and never panics. Whose view an address belongs to is a type:
//! [`Guest`] and [`Host`] do not mix. Reads take `&self`; a guest cannot cause an error.
//!
//! Storage is inline, with capacities as const generics; where the stack is small, [`Topology::scan_into`] and
//! [`Plan::build_into`] work in place.
//!
//! Features only add API: `sim` has simulated machines and guests and the laws the crate keeps (needs `std`);
//! `arbitrary` has `Arbitrary` for fuzzing.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::todo,
        clippy::unreachable,
        clippy::unwrap_used,
    )
)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(feature = "sim")]
extern crate std;

pub mod access;
pub mod acpi;
pub mod address;
pub mod decision;
pub mod delta;
pub mod mechanism;
pub mod plan;
pub mod remapper;
pub mod spec;
pub mod topology;

pub use access::{Access, Dword, Lanes, Width};
pub use address::{Bdf, Guest, Host, ParseBdfError, Span};
pub use decision::{HostWrite, ReadDecision, Splice, WriteDecision};
pub use delta::{Backing, MapOp, Space};
pub use plan::{Finding, Grade, Placement, Plan, PlanError, Relocation};
pub use remapper::{
    Change, Event, Explanation, MapDelta, Remapper, Replay, Replays, RestoreError, SaveError, Translation, WriteOutcome,
};
pub use topology::Topology;
#[cfg(feature = "sim")]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used,
    clippy::std_instead_of_core,
    reason = "a model that is wrong shall stop the test"
)]
pub mod sim;
