//! The hypervisor's command line.

use core::str::FromStr;

use heapless::Vec;
use pci_remap::plan::{InterruptPin, Policy, Vfs};
use pci_remap::{Bdf, Guest, Host, Placement};

const MAX_FUNCTIONS: usize = 16;

/// What the user wants. Functions are named by their host address.
///
/// ```text
/// relocate=02:00.0=01:01.0,03:00.0=01:02.0  hide=00:1f.2  pin=03:03.0=C  placement=guest|pre-assigned
/// policy=transparent|strict  vfs=hide|follow  iommu=hide|alias|keep  cut=00:01.1  guard=on|off
/// ```
#[derive(Default)]
pub struct Options {
    pub relocate: Vec<(Host<Bdf>, Guest<Bdf>), MAX_FUNCTIONS>,
    pub hide: Vec<Host<Bdf>, MAX_FUNCTIONS>,
    /// The interrupt pins to show.
    pub pins: Vec<(Host<Bdf>, Pin), MAX_FUNCTIONS>,
    pub placement: Placement,
    pub policy: Policy,
    /// What becomes of Virtual Functions.
    pub vfs: Vfs,
    pub iommu: Iommu,
    /// For tests: the port to become one that cuts off what is behind it.
    pub cut: Option<Host<Bdf>>,
    /// For tests: the guest gets that port as it is, to show what comes of it.
    pub is_unguarded: bool,
}

/// What the guest gets of IOMMUs.
#[derive(Clone, Copy, Default)]
pub enum Iommu {
    /// Nothing.
    #[default]
    Hide,
    /// AMD's, with an alias for each moved function; others nothing.
    Alias,
    /// For tests: all, as they are.
    Keep,
}

/// INTA to INTD, by their letters.
#[derive(Clone, Copy)]
pub struct Pin(pub InterruptPin);

impl Options {
    /// The options, or the word that is none.
    pub fn parse(command_line: &str) -> Result<Self, &str> {
        let mut options = Self::default();
        for word in command_line.split_ascii_whitespace() {
            options.take(word).ok_or(word)?;
        }
        Ok(options)
    }

    fn take(&mut self, word: &str) -> Option<()> {
        match word.split_once('=')? {
            ("relocate", value) => self.relocate = pairs(value)?,
            ("hide", value) => self.hide = value.split(',').map(|host| host.parse().ok()).collect::<Option<_>>()?,
            ("pin", value) => self.pins = pairs(value)?,
            ("placement", "guest") => self.placement = Placement::GuestAssigns,
            ("placement", "pre-assigned") => self.placement = Placement::PreAssigned,
            ("policy", "transparent") => self.policy = Policy::Transparent,
            ("policy", "strict") => self.policy = Policy::Strict,
            ("vfs", "hide") => self.vfs = Vfs::Hide,
            ("vfs", "follow") => self.vfs = Vfs::Follow,
            ("iommu", "hide") => self.iommu = Iommu::Hide,
            ("iommu", "alias") => self.iommu = Iommu::Alias,
            ("iommu", "keep") => self.iommu = Iommu::Keep,
            ("cut", port) => self.cut = Some(port.parse().ok()?),
            ("guard", "on") => self.is_unguarded = false,
            ("guard", "off") => self.is_unguarded = true,
            _ => return None,
        }
        Some(())
    }
}

/// `a=b,c=d`
fn pairs<A: FromStr, B: FromStr>(value: &str) -> Option<Vec<(A, B), MAX_FUNCTIONS>> {
    let pair = |text: &str| {
        let (first, second) = text.split_once('=')?;
        Some((first.parse().ok()?, second.parse().ok()?))
    };
    value.split(',').map(pair).collect()
}

impl FromStr for Pin {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "A" => Ok(Self(InterruptPin::IntA)),
            "B" => Ok(Self(InterruptPin::IntB)),
            "C" => Ok(Self(InterruptPin::IntC)),
            "D" => Ok(Self(InterruptPin::IntD)),
            _ => Err(()),
        }
    }
}
