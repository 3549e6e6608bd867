//! Reading and editing ACPI tables, as firmware of QEMU and of PCs writes them.

mod advice;
mod damage;
mod dmar;
mod ivrs;
mod root;
#[path = "../support/mod.rs"]
mod support;
mod tables;
