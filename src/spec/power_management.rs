//! PCI Power Management Capability (7.5.2). DWORD indices are relative to the capability.

/// D1_Support in Power Management Capabilities, in the first DWORD.
pub const D1_SUPPORT: u32 = 1 << 25;
/// D2_Support in Power Management Capabilities, in the first DWORD.
pub const D2_SUPPORT: u32 = 1 << 26;

/// Power Management Control/Status, PMCSR.
pub const CONTROL: u16 = 1;

/// PowerState in PMCSR; 0 is D0, 3 is D3hot.
pub const POWER_STATE: u32 = 0b11;
/// [`POWER_STATE`] of D3hot.
pub const D3_HOT: u32 = 3;
/// No_Soft_Reset in PMCSR: the way from D3hot to D0 keeps the registers.
pub const NO_SOFT_RESET: u32 = 1 << 3;
