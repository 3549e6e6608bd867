//! Resizable BAR Extended Capability (7.8.6). DWORD indices are relative to the capability.

/// Resizable BAR Capability of the `bar`th resizable BAR: the sizes from 1 MiB to 128 TiB that it can have, from bit 4 on.
pub const fn capability(bar: u16) -> u16 {
    bar.saturating_mul(2).saturating_add(1)
}

/// Resizable BAR Control of the `bar`th resizable BAR.
pub const fn control(bar: u16) -> u16 {
    bar.saturating_mul(2).saturating_add(2)
}

/// Number of Resizable BARs, bits 7:5 of the first Control register.
pub const fn count(control: u32) -> u16 {
    (control >> 5 & 0b111) as u16
}

/// BAR Size in a Control register: 1 MiB shifted left by it.
pub const fn size(control: u32) -> u32 {
    control >> 8 & 0x3f
}

/// The Capability and the Control register that offer one size, and the other fields of this Control register.
pub const fn offer_only(size: u32, control: u32) -> [u32; 2] {
    // 7.8.6.2, 7.8.6.3: sizes from 256 TiB on are in bits 31:16 of the Control register.
    let capability = if size < 28 { 1 << size << 4 } else { 0 };
    let larger = if size >= 28 && size < 44 { 1 << size.saturating_sub(12) } else { 0 };
    [capability, control & 0xffff | larger]
}
