//! MSI-X Capability (7.7.2). DWORD indices are relative to the capability.

/// Message Control, bits 31:16 of DWORD 0: Table Size in bits 26:16, one less than the number of vectors.
pub const fn table_entries(dword: u32) -> u32 {
    (dword >> 16 & 0x7ff).saturating_add(1)
}

/// Table Offset (31:3) and Table BIR (2:0).
pub const TABLE: u16 = 1;
/// PBA Offset (31:3) and PBA BIR (2:0).
pub const PBA: u16 = 2;

/// Number of the BAR in a Table or PBA DWORD.
pub const fn bir(dword: u32) -> usize {
    (dword & 0b111) as usize
}

/// Byte offset into the BAR in a Table or PBA DWORD.
pub const fn offset(dword: u32) -> u64 {
    (dword & !0b111) as u64
}

/// Bytes of one table entry.
pub const ENTRY: u64 = 16;
