//! (docs to come)
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

#[cfg(feature = "sim")]
extern crate std;

pub mod access;
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
pub use remapper::{MapDelta, Remapper, Translation, WriteOutcome};
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
