//! Places: a function's address, a range of addresses, and whose view they belong to.
//!
//! PCI has one kind of function address, the Routing ID of bus, device and function number (BDF). In a machine whose
//! functions are moved the same number means different things to the guest and to the hardware, so the view is part of
//! the type: [`Guest`] and [`Host`] wrap an address and nothing converts one into the other but the remapper.

use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// A value as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guest<T>(pub T);

/// A value as the hardware has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host<T>(pub T);

macro_rules! view {
    ($View:ident) => {
        impl<T> $View<T> {
            /// Keeps the view and changes the value inside it.
            pub fn map<U>(self, change: impl FnOnce(T) -> U) -> $View<U> {
                $View(change(self.0))
            }
        }

        impl<T: fmt::Display> fmt::Display for $View<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl<T: FromStr> FromStr for $View<T> {
            type Err = T::Err;

            fn from_str(text: &str) -> Result<Self, T::Err> {
                text.parse().map($View)
            }
        }
    };
}

view!(Guest);
view!(Host);

/// Bus, device and function number of a PCI function: its Routing ID (PCIe Base 6.0, 2.2.4.2).
///
/// Bits 15:8 are the bus, 7:3 the device, 2:0 the function. Every `u16` is one.
///
/// ```
/// use pci_remap::Bdf;
///
/// let nic: Bdf = "02:00.0".parse()?;
/// assert_eq!(nic.routing_id(), 0x0200);
/// assert_eq!(nic.to_string(), "02:00.0");
/// # Ok::<(), pci_remap::ParseBdfError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct Bdf(u16);

impl Bdf {
    /// The address of `function` (0 to 7) of `device` (0 to 31) on `bus`; `None` when a number is out of range.
    ///
    /// ```
    /// use pci_remap::Bdf;
    ///
    /// assert_eq!(Bdf::new(0, 0x1f, 3).unwrap().to_string(), "00:1f.3");
    /// assert_eq!(Bdf::new(0, 0x20, 0), None);
    /// ```
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self(u16::from_be_bytes([bus, device << 3 | function])))
    }

    /// The function with this Routing ID.
    pub const fn from_routing_id(id: u16) -> Self {
        Self(id)
    }

    /// The Routing ID, as a Requester ID carries it.
    pub const fn routing_id(self) -> u16 {
        self.0
    }

    /// The bus number, bits 15:8.
    #[inline]
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The device number, bits 7:3.
    pub const fn device(self) -> u8 {
        self.devfn() >> 3
    }

    /// The function number, bits 2:0.
    pub const fn function(self) -> u8 {
        self.devfn() & 7
    }

    /// Device and function number together, bits 7:0.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the lower eight bits are meant")]
    pub const fn devfn(self) -> u8 {
        self.0 as u8
    }

    /// The same device and function on another bus.
    #[must_use]
    pub const fn on_bus(self, bus: u8) -> Self {
        Self(u16::from_be_bytes([bus, self.devfn()]))
    }

    /// Another function of the same device; the number is taken modulo 8.
    #[must_use]
    pub const fn with_function(self, function: u8) -> Self {
        Self(self.0 & !7 | (function & 7) as u16)
    }

    /// Whether both are functions of one device.
    pub const fn same_device(self, other: Self) -> bool {
        self.0 >> 3 == other.0 >> 3
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{:x}", self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a function's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "not a PCI function address: expected bus:device.function in hexadecimal, as in 02:00.0, device up to 1f, function up to 7"
)]
pub struct ParseBdfError;

impl FromStr for Bdf {
    type Err = ParseBdfError;

    fn from_str(text: &str) -> Result<Self, ParseBdfError> {
        let number = |digits: &str, most: usize| {
            let plain = (1..=most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            if plain { u8::from_str_radix(digits, 16).ok() } else { None }
        };
        let (bus, rest) = text.split_once(':').ok_or(ParseBdfError)?;
        let (device, function) = rest.split_once('.').ok_or(ParseBdfError)?;
        match (number(bus, 2), number(device, 2), number(function, 1)) {
            (Some(bus), Some(device), Some(function)) => Self::new(bus, device, function).ok_or(ParseBdfError),
            _ => Err(ParseBdfError),
        }
    }
}

/// A range of byte addresses, never empty, both ends included.
///
/// ```
/// use pci_remap::Span;
///
/// let bar = Span::new(0xf780_0000, 0x2_0000).unwrap();
/// assert_eq!(bar.last(), 0xf781_ffff);
/// assert_eq!(Span::new(u64::MAX, 2), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    start: u64,
    last: u64,
}

impl Span {
    /// `len` bytes from `start` on; `None` when there are none, or when the end lies beyond the 64-bit space.
    pub const fn new(start: u64, len: u64) -> Option<Self> {
        let Some(beyond_start) = len.checked_sub(1) else { return None };
        let Some(last) = start.checked_add(beyond_start) else { return None };
        Some(Self { start, last })
    }

    /// `len` bytes from `start` on, of which the caller knows that they are some and lie in the 64-bit space.
    #[inline]
    pub(crate) const fn of(start: u64, len: u64) -> Self {
        Self { start, last: start.wrapping_add(len.wrapping_sub(1)) }
    }

    /// The same start, and another end the caller knows to be none before it.
    #[inline]
    pub(crate) const fn until(self, last: u64) -> Self {
        Self { last, ..self }
    }

    /// The same bytes, of what starts at `base`, of which the caller knows that it lies in the 64-bit space.
    #[inline]
    pub(crate) const fn of_base(self, base: u64) -> Self {
        Self { start: base.wrapping_add(self.start), last: base.wrapping_add(self.last) }
    }

    /// From `start` to `last`, both included; `None` when `last` is before `start`.
    pub const fn from_bounds(start: u64, last: u64) -> Option<Self> {
        if last < start { None } else { Some(Self { start, last }) }
    }

    /// The first address.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The last address, itself inside.
    pub const fn last(self) -> u64 {
        self.last
    }

    /// Number of bytes; the whole 64-bit space counts as `u64::MAX`.
    #[expect(clippy::len_without_is_empty, reason = "a span is never empty")]
    pub const fn len(self) -> u64 {
        self.last.wrapping_sub(self.start).saturating_add(1)
    }

    /// Whether `address` lies inside.
    pub const fn contains(self, address: u64) -> bool {
        self.start <= address && address <= self.last
    }

    /// Whether all of `inner` lies inside.
    pub const fn covers(self, inner: Self) -> bool {
        self.start <= inner.start && inner.last <= self.last
    }

    /// Whether the two share an address.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start <= other.last && other.start <= self.last
    }

    /// The addresses both have.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::from_bounds(self.start.max(other.start), self.last.min(other.last))
    }

    /// The smallest range of whole 4 KiB pages around this one.
    #[must_use]
    pub const fn pages(self) -> Self {
        Self { start: self.start & !0xfff, last: self.last | 0xfff }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.last)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The lower and the upper 32 bits.
pub(crate) fn halves(value: u64) -> [u32; 2] {
    let half = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
    [half(value), half(value >> 32)]
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn every_routing_id_survives_text_and_numbers() {
        for id in 0..=u16::MAX {
            let bdf = Bdf::from_routing_id(id);
            assert_eq!(bdf.to_string().parse(), Ok(bdf));
            assert_eq!(Bdf::new(bdf.bus(), bdf.device(), bdf.function()), Some(bdf));
        }
    }

    #[test]
    fn text_that_is_no_address_is_refused() {
        for text in
            ["", "02", "02:00", "02:20.0", "02:00.8", "100:00.0", "02:00.0 ", "+2:00.0", "0000:02:00.0", "g0:00.0"]
        {
            assert_eq!(text.parse::<Bdf>(), Err(ParseBdfError), "{text:?}");
        }
    }

    #[test]
    fn spans_know_their_ends() {
        let span = Span::new(0x1000, 0x100).unwrap();
        assert_eq!((span.start(), span.last(), span.len()), (0x1000, 0x10ff, 0x100));
        assert_eq!(span.pages(), Span::new(0x1000, 0x1000).unwrap());
        assert!(span.overlaps(Span::new(0x10ff, 1).unwrap()) && !span.overlaps(Span::new(0x1100, 1).unwrap()));
        assert_eq!(Span::new(0, 0), None);
        assert_eq!(Span::new(u64::MAX, 1).map(Span::len), Some(1));
    }
}
