//! PCI-X Capability of a bridge (PCI-X Addendum 2.0, 7.3). DWORD indices are relative to the capability.

/// PCI-X Bridge Status.
pub const BRIDGE_STATUS: u16 = 1;

/// PCI-X 266 and PCI-X 533 Capable in PCI-X Bridge Status: Mode 2, with 4096 bytes of configuration space.
pub const MODE_2: u32 = 0xc000_0000;
