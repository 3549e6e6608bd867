//! Advanced Features Capability of conventional PCI (7.9.21). DWORD indices are relative to the capability.

/// Function Level Reset in AF Capabilities, in the first DWORD.
pub const FUNCTION_LEVEL_RESET: u32 = 1 << 25;
/// AF Control (7:0) and AF Status (15:8).
pub const CONTROL: u16 = 1;
/// Initiate Function Level Reset in AF Control; reads zero.
pub const INITIATE_FUNCTION_LEVEL_RESET: u32 = 1;
