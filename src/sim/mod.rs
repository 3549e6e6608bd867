//! A simulated PCI machine, and guests that walk it the way real ones do.

pub mod guest;
pub mod platform;
