//! Sizes of decoders, which configuration space does not tell.
//!
//! One line for each: function, register, first and last address, flags. `-` stands for an address that is not known,
//! `#` starts a comment.
//!
//! ```text
//! 0000:01:00.0 BAR1 0x3800000000 0x3bffffffff mem64,pref
//! 0000:01:00.0 ROM 0xc0000 0xdffff mem32,disabled,virtual
//! ```

use std::fmt;
use std::str::FromStr;
use std::string::{String, ToString};
use std::vec::Vec;

use super::SegmentBdf;

/// A register with an address in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Register {
    /// A Base Address Register, 0 to 5.
    Bar(u8),
    /// The Expansion ROM Base Address.
    Rom,
    /// A VF BAR, 0 to 5: the range of all Virtual Functions.
    VfBar(u8),
    /// The I/O window of a bridge.
    IoWindow,
    /// The memory window of a bridge.
    MemoryWindow,
    /// The prefetchable memory window of a bridge.
    PrefetchableWindow,
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bar(index) => write!(f, "BAR{index}"),
            Self::Rom => f.write_str("ROM"),
            Self::VfBar(index) => write!(f, "VFBAR{index}"),
            Self::IoWindow => f.write_str("WIN_IO"),
            Self::MemoryWindow => f.write_str("WIN_MEM"),
            Self::PrefetchableWindow => f.write_str("WIN_PREF"),
        }
    }
}

/// One line: the addresses an operating system found behind a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Whose register.
    pub function: SegmentBdf,
    /// The register.
    pub register: Register,
    /// The first address.
    pub start: Option<u64>,
    /// The last address, itself inside.
    pub last: Option<u64>,
    /// Words that describe it, such as `mem64`, `pref`, `disabled`, `virtual`.
    pub flags: Vec<String>,
}

impl Resource {
    /// Number of bytes, where both ends are known and enclose any.
    pub fn len(&self) -> Option<u64> {
        let (start, last) = (self.start?, self.last?);
        // An empty resource is listed as 0 to 0.
        last.checked_sub(start)?.checked_add(1).filter(|_| last != 0)
    }

    /// Whether it says nothing about a size.
    pub fn is_empty(&self) -> bool {
        self.len().is_none()
    }

    /// Whether a flag is there.
    pub fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }
}

/// What is known about the decoders of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    list: Vec<Resource>,
}

/// A line that names no resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line}: expected a function, a register, its first and last address, as in 0000:02:00.0 BAR0 0xf7800000 0xf781ffff"
)]
pub struct ResourcesError {
    /// Number of the line, from 1 on.
    pub line: usize,
}

impl Resources {
    /// Parses a list.
    ///
    /// # Errors
    ///
    /// [`ResourcesError`] with the line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, ResourcesError> {
        let lines = (1..).zip(text.lines());
        let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let list = lines
            .map(|(number, line)| resource(line).ok_or(ResourcesError { line: number }))
            .collect::<Result<_, _>>()?;
        Ok(Self { list })
    }

    /// The resources in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.list.iter()
    }

    /// The resource of a register.
    pub fn find(&self, function: SegmentBdf, register: Register) -> Option<&Resource> {
        self.list.iter().find(|resource| resource.function == function && resource.register == register)
    }
}

impl FromStr for Resources {
    type Err = ResourcesError;

    fn from_str(text: &str) -> Result<Self, ResourcesError> {
        Self::parse(text)
    }
}

fn resource(line: &str) -> Option<Resource> {
    let mut words = line.split_ascii_whitespace();
    let function = words.next()?.parse().ok()?;
    let register = register(words.next()?)?;
    let (start, last) = (address(words.next()?)?, address(words.next()?)?);
    let flags = words.next().unwrap_or_default().split(',').map(ToString::to_string).collect();
    Some(Resource { function, register, start, last, flags })
}

fn register(name: &str) -> Option<Register> {
    let index = |digit: &str| digit.parse().ok().filter(|index| *index < 6);
    match name {
        "ROM" => Some(Register::Rom),
        "WIN_IO" => Some(Register::IoWindow),
        "WIN_MEM" => Some(Register::MemoryWindow),
        "WIN_PREF" => Some(Register::PrefetchableWindow),
        _ => match name.strip_prefix("VFBAR") {
            Some(digit) => index(digit).map(Register::VfBar),
            None => index(name.strip_prefix("BAR")?).map(Register::Bar),
        },
    }
}

/// `None` when it is no address, `Some(None)` when it is not known.
#[expect(clippy::option_option, reason = "unreadable and unknown are different things")]
fn address(word: &str) -> Option<Option<u64>> {
    if word == "-" {
        return Some(None);
    }
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok().map(Some)
}
