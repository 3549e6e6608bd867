//! A simulated PCI machine, and guests that walk it the way real ones do.

pub mod acpi;
pub mod dump;
pub mod explanation;
pub mod guest;
pub mod laws;
pub mod machine;
pub mod platform;
pub mod scenario;
pub mod vm;
