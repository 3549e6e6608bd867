//! Numbers and layouts the specifications fix, one file per structure; no choices of ours.
//!
//! Section numbers are of the PCI Express Base Specification, revision 6.0, where nothing else is said. Registers are
//! spelt as it spells them. Bit numbers are those of the register, or of the DWORD where the text says DWORD.

pub mod advanced_features;
pub mod bar;
pub mod capability;
pub mod cardbus;
pub mod containment;
pub mod enhanced_allocation;
pub mod error_reporting;
pub mod express;
pub mod header;
pub mod msix;
pub mod pci_x;
pub mod power_management;
pub mod resizable_bar;
pub mod sriov;
pub mod type0;
pub mod type1;
