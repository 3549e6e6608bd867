//! Addresses with the number of their segment group.

use std::fmt;
use std::str::FromStr;

use crate::address::{Bdf, ParseBdfError};

/// A function's address with the number of its PCI segment group, printed as `0000:02:00.0`.
///
/// ```
/// use pci_remap::sim::dump::SegmentBdf;
///
/// let nic: SegmentBdf = "02:00.0".parse()?;
/// assert_eq!(nic.to_string(), "0000:02:00.0");
/// # Ok::<(), pci_remap::ParseBdfError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentBdf {
    /// Number of the segment group.
    pub segment: u16,
    /// The address in it.
    pub bdf: Bdf,
}

impl fmt::Display for SegmentBdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{}", self.segment, self.bdf)
    }
}

impl fmt::Debug for SegmentBdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SegmentBdf {
    type Err = ParseBdfError;

    /// Reads `0000:02:00.0`, or `02:00.0` for segment 0; the segment has up to four hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, ParseBdfError> {
        let Some((segment, bdf)) = text.split_once(':').filter(|(_, rest)| rest.contains(':')) else {
            return Ok(Self { segment: 0, bdf: text.parse()? });
        };
        let plain = (1..=4).contains(&segment.len()) && segment.bytes().all(|byte| byte.is_ascii_hexdigit());
        let segment = u16::from_str_radix(segment, 16).ok().filter(|_| plain).ok_or(ParseBdfError)?;
        Ok(Self { segment, bdf: bdf.parse()? })
    }
}
