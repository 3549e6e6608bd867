//! Enhanced Allocation: BAR equivalents at fixed addresses (7.8.5).

/// Num Entries, bits 5:0 of the DWORD at +0, upper half.
pub const fn entries(dword: u32) -> u16 {
    let [.., low, _] = dword.to_le_bytes();
    (low & 0x3f) as u16
}

/// Entry Size: number of DWORDs that follow the first of an entry, bits 2:0.
pub const fn entry_size(dword: u32) -> u16 {
    (dword.to_le_bytes()[0] & 0b111) as u16
}

/// Enable, bit 31 of the first DWORD of an entry.
pub const ENABLE: u32 = 1 << 31;
