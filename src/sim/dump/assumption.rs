//! What a dump does not tell and a loaded machine had to make up.

use std::fmt;

use super::{Register, SegmentBdf};

/// Something the loader took for granted. It prints as one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Assumption {
    /// BARs that read zero, and about whose size nothing is known.
    AbsentBars {
        /// Number of the segment group.
        segment: u16,
        /// Number of registers.
        count: usize,
    },
    /// The size comes from the address and its neighbours.
    DerivedSize {
        /// The function.
        function: SegmentBdf,
        /// The register.
        register: Register,
        /// Bytes.
        size: u64,
    },
    /// The listed size cannot be the decoder's.
    AdjustedSize {
        /// The function.
        function: SegmentBdf,
        /// The register.
        register: Register,
        /// Bytes in the list.
        listed: u64,
        /// Bytes the decoder got.
        size: u64,
    },
    /// The register and the list have different addresses.
    AddressDiffers {
        /// The function.
        function: SegmentBdf,
        /// The register.
        register: Register,
        /// In the register, which counts.
        own: u64,
        /// In the list.
        listed: u64,
    },
    /// The listed addresses are not behind the register.
    NotDecoded {
        /// The function.
        function: SegmentBdf,
        /// The register.
        register: Register,
        /// First address in the list.
        listed: u64,
    },
    /// The dump has the header only.
    HeaderOnly {
        /// The function.
        function: SegmentBdf,
    },
    /// A function answers at a device number its port should not forward.
    UngatedPort {
        /// The port.
        port: SegmentBdf,
        /// The function.
        function: SegmentBdf,
    },
    /// No bridge in the dump leads to the function.
    Unreachable {
        /// The function.
        function: SegmentBdf,
    },
    /// Root buses and their windows.
    Roots {
        /// Number of the segment group.
        segment: u16,
        /// Number of host bridges.
        count: usize,
    },
    /// Where the ECAM window is.
    Ecam {
        /// Number of the segment group.
        segment: u16,
        /// Address of bus 0.
        base: u64,
    },
    /// There is no ECAM window, only the ports.
    PortsOnly {
        /// Number of the segment group.
        segment: u16,
    },
}

impl fmt::Display for Assumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AbsentBars { segment, count } => write!(
                f,
                "segment {segment:04x}: {count} BARs read zero and have no known size, so they count as not implemented"
            ),
            Self::DerivedSize { function, register, size } => write!(
                f,
                "{function} {register}: the size is not known; {size:#x} bytes fit its address, its window and its neighbours"
            ),
            Self::AdjustedSize { function, register, listed, size } => write!(
                f,
                "{function} {register}: no decoder of {listed:#x} bytes can be at this address, so it has {size:#x}"
            ),
            Self::AddressDiffers { function, register, own, listed } => {
                write!(
                    f,
                    "{function} {register}: the register says {own:#x} and the list {listed:#x}; the register counts"
                )
            }
            Self::NotDecoded { function, register, listed } => write!(
                f,
                "{function} {register}: the addresses from {listed:#x} on do not come from the register, which counts as not implemented"
            ),
            Self::HeaderOnly { function } => {
                write!(f, "{function}: only the header is known, so the function has no capabilities")
            }
            Self::UngatedPort { port, function } => {
                write!(f, "{function} answers behind {port}, so that port forwards every device number")
            }
            Self::Unreachable { function } => write!(f, "{function} is left out: no bridge leads to its bus"),
            Self::Roots { segment, count } => write!(
                f,
                "segment {segment:04x}: the windows of {count} host bridge(s) are drawn around their resources"
            ),
            Self::Ecam { segment, base } => {
                write!(f, "segment {segment:04x}: the ECAM window is at {base:#x}, where no resource is")
            }
            Self::PortsOnly { segment } => write!(
                f,
                "segment {segment:04x}: no function shows extended space, so there are the ports CF8h and CFCh and no ECAM window"
            ),
        }
    }
}
