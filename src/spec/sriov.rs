//! Single Root I/O Virtualization Extended Capability (9.3.3). DWORD indices are relative to the capability.

/// SR-IOV Capabilities.
pub const CAPABILITIES: u16 = 1;
/// SR-IOV Control (15:0) and Status (31:16).
pub const CONTROL: u16 = 2;
/// InitialVFs (15:0) and TotalVFs (31:16).
pub const TOTAL_VFS: u16 = 3;
/// NumVFs (15:0) and Function Dependency Link (23:16).
pub const NUM_VFS: u16 = 4;
/// First VF Offset (15:0) and VF Stride (31:16).
pub const VF_OFFSET: u16 = 5;
/// Supported Page Sizes.
pub const SUPPORTED_PAGE_SIZES: u16 = 7;
/// System Page Size.
pub const SYSTEM_PAGE_SIZE: u16 = 8;
/// VF BAR0; five more follow.
pub const VF_BAR0: u16 = 9;
/// VF Migration State Array Offset.
pub const MIGRATION_STATE: u16 = 15;
/// Number of DWORDs of the structure.
pub const DWORDS: u16 = 16;

/// The lower and the upper half of a register that holds two numbers.
pub const fn halves(register: u32) -> [u16; 2] {
    let [a, b, c, d] = register.to_le_bytes();
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
}

/// VF Enable in SR-IOV Control.
pub const VF_ENABLE: u32 = 1 << 0;
/// VF Memory Space Enable in SR-IOV Control.
pub const VF_MEMORY_SPACE_ENABLE: u32 = 1 << 3;
/// ARI Capable Hierarchy in SR-IOV Control.
pub const ARI_CAPABLE_HIERARCHY: u32 = 1 << 4;
