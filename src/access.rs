//! The canonical request: one DWORD of one function's configuration space, and the byte lanes of it that take part.
//!
//! Bus accesses come in many widths and alignments. [`mechanism`](crate::mechanism) cuts them into this form once, and
//! nothing behind it knows about widths. Values travel in DWORD position: lane `n` is bits `8n+7:8n`.

use core::fmt;

use crate::address::Bdf;

/// Width of one bus access of a processor, up to a DWORD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Four bytes.
    Dword,
}

impl Width {
    /// Number of bytes: 1, 2 or 4.
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
        }
    }
}

/// Index of a DWORD in configuration space, 0 to 1023: the byte offset divided by four.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dword(u16);

impl Dword {
    /// Number of DWORDs in the 4 KiB of a PCI Express function.
    pub const COUNT: u16 = 1024;

    /// The DWORD at a byte `offset`, which must be a multiple of four below 4096.
    ///
    /// ```
    /// use pci_remap::Dword;
    ///
    /// const BAR0: Dword = Dword::at(0x10).unwrap();
    /// assert_eq!(BAR0.index(), 4);
    /// assert_eq!(Dword::at(0x12), None);
    /// ```
    pub const fn at(offset: u16) -> Option<Self> {
        if offset & 0b11 == 0 { Self::new(offset >> 2) } else { None }
    }

    /// The DWORD that holds the byte at `offset`; offsets are taken modulo 4096.
    pub const fn holding(offset: u16) -> Self {
        Self((offset & 0xfff) >> 2)
    }

    /// The DWORD with this index; `None` from 1024 on.
    pub const fn new(index: u16) -> Option<Self> {
        if index < Self::COUNT { Some(Self(index)) } else { None }
    }

    /// The index, 0 to 1023.
    pub const fn index(self) -> u16 {
        self.0
    }

    /// The byte offset, a multiple of four.
    pub const fn offset(self) -> u16 {
        self.0 << 2
    }

    /// The DWORD `count` places further; `None` past the end of configuration space.
    pub const fn plus(self, count: u16) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(index) => Self::new(index),
            None => None,
        }
    }

    /// Whether it lies in the first 256 bytes, which every function has and CF8/CFC reaches.
    pub const fn is_conventional(self) -> bool {
        self.0 < 64
    }
}

impl fmt::Display for Dword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02X}h", self.offset())
    }
}

impl fmt::Debug for Dword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Byte enables of a DWORD, at least one: bit `n` stands for bits `8n+7:8n` of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lanes(u8);

impl Lanes {
    /// All four lanes.
    pub const ALL: Self = Self(0b1111);

    /// These byte enables; `None` when no lane or more than four are named.
    pub const fn new(bits: u8) -> Option<Self> {
        if bits == 0 || bits > 0b1111 { None } else { Some(Self(bits)) }
    }

    /// `count` lanes from lane `first` on; those past lane 3 are cut off. `None` when nothing is left.
    pub const fn run(first: u8, count: u8) -> Option<Self> {
        if first > 3 || count == 0 {
            return None;
        }
        let count = if count > 4 { 4 } else { count };
        // The bits past lane 3 fall out.
        let lanes = (0b1111_u8 >> 4_u8.wrapping_sub(count)) << (first & 3);
        Self::new(lanes & 0b1111)
    }

    /// Those lanes in which a bit of `mask` is set; `None` when there is none.
    #[inline]
    pub const fn touching(self, mask: u32) -> Option<Self> {
        let [a, b, c, d] = mask.to_le_bytes();
        self.among((a != 0) as u8 | ((b != 0) as u8) << 1 | ((c != 0) as u8) << 2 | ((d != 0) as u8) << 3)
    }

    /// Those lanes whose bits are set in `lanes`; `None` when there is none.
    #[inline]
    pub(crate) const fn among(self, lanes: u8) -> Option<Self> {
        if self.0 & lanes == 0 { None } else { Some(Self(self.0 & lanes)) }
    }

    /// These lanes and those whose bits, 3:0, are set in `lanes`.
    #[inline]
    pub(crate) const fn and(self, lanes: u8) -> Self {
        Self(self.0 | lanes)
    }

    /// The byte enables, bits 3:0.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The lowest lane, 0 to 3.
    pub const fn first(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// The bits of the DWORD that take part.
    #[inline]
    pub const fn mask(self) -> u32 {
        // Multiplying spreads lane n to bit 8n; the second factor fills the byte.
        let spread = (self.0 as u32).wrapping_mul(0x0020_4081) & 0x0101_0101;
        spread.wrapping_mul(0xff)
    }

    /// `old` with the lanes that take part replaced by `new`'s.
    #[inline]
    pub const fn merge(self, old: u32, new: u32) -> u32 {
        old & !self.mask() | new & self.mask()
    }
}

/// One access to configuration space: a function, a DWORD of it, and the lanes that take part.
///
/// Whose function it is shows in the wrapper: the guest asks with a `Guest<Access>`, and only a
/// [`Redirect`](crate::ReadDecision::Redirect) holds a `Host<Access>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access {
    function: Bdf,
    dword: Dword,
    lanes: Lanes,
}

impl Access {
    /// An access to some lanes of a DWORD.
    #[inline]
    pub const fn new(function: Bdf, dword: Dword, lanes: Lanes) -> Self {
        Self { function, dword, lanes }
    }

    /// An access to a whole DWORD.
    pub const fn whole(function: Bdf, dword: Dword) -> Self {
        Self::new(function, dword, Lanes::ALL)
    }

    /// An access as a processor makes it; `None` when it leaves its DWORD or configuration space.
    ///
    /// ```
    /// use pci_remap::{Access, Bdf, Width};
    ///
    /// let command = Access::at("02:00.0".parse::<Bdf>()?, 0x04, Width::Word).unwrap();
    /// assert_eq!(command.lanes().bits(), 0b0011);
    /// assert_eq!(Access::at(Bdf::default(), 0x03, Width::Word), None);
    /// # Ok::<(), pci_remap::ParseBdfError>(())
    /// ```
    pub const fn at(function: Bdf, offset: u16, width: Width) -> Option<Self> {
        let first = (offset & 3) as u8;
        if offset > 0xfff || first.saturating_add(width.bytes()) > 4 {
            return None;
        }
        match Lanes::run(first, width.bytes()) {
            Some(lanes) => Some(Self::new(function, Dword::holding(offset), lanes)),
            None => None,
        }
    }

    /// The function that is accessed.
    #[inline]
    pub const fn function(self) -> Bdf {
        self.function
    }

    /// The DWORD that is accessed.
    #[inline]
    pub const fn dword(self) -> Dword {
        self.dword
    }

    /// The lanes that take part.
    #[inline]
    pub const fn lanes(self) -> Lanes {
        self.lanes
    }

    /// The same DWORD and lanes of another function.
    #[must_use]
    #[inline]
    pub const fn of(self, function: Bdf) -> Self {
        Self { function, ..self }
    }

    /// The same access with these lanes.
    #[must_use]
    #[inline]
    pub const fn with_lanes(self, lanes: Lanes) -> Self {
        Self { lanes, ..self }
    }

    /// The naturally aligned accesses (byte offset, width) that together make up this one, for hardware without byte
    /// enables.
    ///
    /// ```
    /// use pci_remap::{Access, Bdf, Dword, Lanes, Width};
    ///
    /// let straddle = Access::new(Bdf::default(), Dword::at(0x40).unwrap(), Lanes::new(0b1110).unwrap());
    /// assert!(straddle.parts().eq([(0x41, Width::Byte), (0x42, Width::Word)]));
    /// ```
    pub fn parts(self) -> impl Iterator<Item = (u16, Width)> {
        let mut left = self.lanes.bits();
        let base = self.dword.offset();
        core::iter::from_fn(move || {
            let (lane, width, taken) = match left {
                0b1111 => (0, Width::Dword, 0b1111),
                bits if bits & 0b0011 == 0b0011 => (0, Width::Word, 0b0011),
                bits if bits & 0b0001 != 0 => (0, Width::Byte, 0b0001),
                bits if bits & 0b0010 != 0 => (1, Width::Byte, 0b0010),
                bits if bits & 0b1100 == 0b1100 => (2, Width::Word, 0b1100),
                bits if bits & 0b0100 != 0 => (2, Width::Byte, 0b0100),
                bits if bits & 0b1000 != 0 => (3, Width::Byte, 0b1000),
                _ => return None,
            };
            left &= !taken;
            Some((base | lane, width))
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.function, self.dword)?;
        if self.lanes == Lanes::ALL { Ok(()) } else { write!(f, " lanes {:04b}", self.lanes.bits()) }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn the_mask_of_all_fifteen_lane_sets_is_their_bytes() {
        for bits in 1..16_u8 {
            let expected = (0..4).filter(|lane| bits >> lane & 1 == 1).fold(0, |mask, lane| mask | 0xff << (8 * lane));
            assert_eq!(Lanes::new(bits).unwrap().mask(), expected, "{bits:04b}");
        }
    }

    #[test]
    fn the_parts_of_any_access_are_aligned_and_cover_its_lanes_once() {
        for bits in 1..16_u8 {
            let access = Access::new(Bdf::default(), Dword::at(0x40).unwrap(), Lanes::new(bits).unwrap());
            let mut covered = 0;
            for (offset, width) in access.parts().collect::<Vec<_>>() {
                assert_eq!(offset % u16::from(width.bytes()), 0);
                let part = Access::at(Bdf::default(), offset, width).unwrap().lanes().bits();
                assert_eq!(covered & part, 0);
                covered |= part;
            }
            assert_eq!(covered, bits);
        }
    }

    #[test]
    fn every_offset_and_width_that_fits_a_dword_is_an_access() {
        for offset in 0..=0x1000_u16 {
            for width in [Width::Byte, Width::Word, Width::Dword] {
                let fits = offset < 0x1000 && offset % 4 + u16::from(width.bytes()) <= 4;
                assert_eq!(Access::at(Bdf::default(), offset, width).is_some(), fits, "{offset:#x} {width:?}");
            }
        }
    }
}
