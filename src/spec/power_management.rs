//! PCI Power Management Capability (7.5.2). DWORD indices are relative to the capability.

/// Power Management Control/Status, PMCSR.
pub const CONTROL: u16 = 1;

/// PowerState in PMCSR; 0 is D0, 3 is D3hot.
pub const POWER_STATE: u32 = 0b11;
