//! Guests that walk a [`Platform`] the way real operating systems and firmware do: the same registers in the same
//! order and with the same widths, so that whatever stands between guest and hardware meets what it will meet in life.
//!
//! A guest is a walk, not a program: [`boot`] enumerates, assigns resources, enables the devices and returns what the
//! guest knows then. Whatever the platform answers, it ends and never panics.

use core::fmt;
use core::str::FromStr;
use std::string::String;
use std::vec::Vec;

use thiserror::Error;

use super::platform::Platform;

mod capability;
mod config;
mod early_quirks;
mod edk2;
mod freebsd;
mod linux;
mod linux_6_1;
mod linux_6_15;
mod lspci;
mod space;
mod tree;

pub use linux::life;
pub use lspci::lspci_tv;
pub use tree::{Device, DeviceTree, Resource, Window};

/// The guests there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Linux 6.1 on x86: sizes each BAR by itself.
    Linux61,
    /// Linux 6.15 on x86: sizes all BARs of a function in one batch.
    Linux615,
    /// FreeBSD 14 on x86: looks at all 32 devices of every bus, grows bridge windows.
    FreeBsd,
    /// edk2's PciBusDxe: numbers all buses anew, assigns everything anew.
    Edk2,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Linux61, Self::Linux615, Self::FreeBsd, Self::Edk2];

    /// The name: `linux-6.1`, `linux-6.15`, `freebsd` or `edk2`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux61 => "linux-6.1",
            Self::Linux615 => "linux-6.15",
            Self::FreeBsd => "freebsd",
            Self::Edk2 => "edk2",
        }
    }
}

/// What a guest knows once it is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The functions it found.
    pub tree: DeviceTree,
    /// What it logged on the way, in the words of that system.
    pub log: Vec<String>,
}

/// Lets a guest enumerate the platform, assign what is unassigned, and enable every function it can.
pub fn boot(kind: Kind, platform: &mut dyn Platform) -> Boot {
    match kind {
        Kind::Linux61 => linux_6_1::boot(platform),
        Kind::Linux615 => linux_6_15::boot(platform),
        Kind::FreeBsd => freebsd::boot(platform),
        Kind::Edk2 => edk2::boot(platform),
    }
}

/// The text names no guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a guest: expected linux-6.1, linux-6.15, freebsd or edk2")]
pub struct ParseKindError;

impl FromStr for Kind {
    type Err = ParseKindError;

    fn from_str(text: &str) -> Result<Self, ParseKindError> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or(ParseKindError)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
