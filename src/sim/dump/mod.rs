//! Configuration space of real machines as `lspci -x`, `-xxx` and `-xxxx` print it.
//!
//! A [`Dump`] is parsed from such text, written back in the form `lspci -F` reads, and turned into simulated machines.
//! Sizes of BARs are not in configuration space; a [`Resources`] list can tell them.
//!
//! ```
//! use pci_remap::sim::dump::Dump;
//!
//! let dump: Dump = "\
//! 00:1f.3 SMBus: Intel Corporation
//! 00: 86 80 22 1c 03 00 80 02 04 00 05 0c 00 00 00 00
//! 10: 04 c0 00 f7 00 00 00 00 00 00 00 00 00 00 00 00
//! 20: 41 f0 00 00 00 00 00 00 00 00 00 00 86 80 22 1c
//! 30: 00 00 00 00 00 00 00 00 00 00 00 00 12 03 00 00
//! "
//! .parse()?;
//! let [loaded] = &dump.machines(None)[..] else { unreachable!() };
//! assert!(loaded.machine.find("00:1f.3".parse()?).is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod assumption;
mod firmware;
mod load;
mod resources;
mod segment;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::string::{String, ToString};
use std::vec::Vec;

use crate::access::Dword;
use crate::sim::machine::{Machine, capabilities};

pub use assumption::Assumption;
pub use load::LoadedMachine;
pub use resources::{Register, Resource, Resources, ResourcesError};
pub use segment::SegmentBdf;

/// Configuration space of some functions, checked to be loadable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    functions: Vec<DumpedFunction>,
}

/// One function of a [`Dump`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpedFunction {
    address: SegmentBdf,
    name: String,
    bytes: Vec<u8>,
}

/// The text is no dump that can be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The text says nothing about any function.
    #[error("there is no function in the dump")]
    Empty,
    /// The line is neither a function's headline nor a row of its bytes.
    #[error("line {line}: expected a function such as 0000:02:00.0 or a row of bytes such as 10: 04 00 ...")]
    Line {
        /// Number of the line, from 1 on.
        line: usize,
    },
    /// A row before any function.
    #[error("line {line}: a row of bytes belongs to no function")]
    StrayRow {
        /// Number of the line.
        line: usize,
    },
    /// A row that has fewer or more than 16 bytes, or something that is no byte.
    #[error("line {line}, {function}: a row needs 16 bytes of two hexadecimal digits, this one has {found}")]
    Row {
        /// Number of the line.
        line: usize,
        /// The function the row belongs to.
        function: SegmentBdf,
        /// Number of well-formed bytes in front.
        found: usize,
    },
    /// A row is missing before this one, or this one comes too late.
    #[error("line {line}, {function}: expected the row {expected:02x}, found {found:02x}")]
    Order {
        /// Number of the line.
        line: usize,
        /// The function the row belongs to.
        function: SegmentBdf,
        /// Offset of the row that should follow.
        expected: usize,
        /// Offset of the row that does.
        found: usize,
    },
    /// The rows of a function end where no configuration space ends.
    #[error("{function} has {found} bytes: expected 64, 128, 256 or 4096")]
    Length {
        /// The function.
        function: SegmentBdf,
        /// Number of its bytes.
        found: usize,
    },
    /// A function is there twice.
    #[error("line {line}: {function} is in the dump twice")]
    Duplicate {
        /// Number of the line.
        line: usize,
        /// The function.
        function: SegmentBdf,
    },
    /// A capability list has no end.
    #[error("{function}: the capability list loops, it comes back to {at}")]
    Loop {
        /// The function.
        function: SegmentBdf,
        /// The entry it comes back to.
        at: Dword,
    },
}

impl Dump {
    /// Parses the text of `lspci -x`, `-xxx` or `-xxxx`. Indented lines, as `-v` adds them, are skipped.
    ///
    /// # Errors
    ///
    /// [`DumpError`], with the line and the function it is about. A function may end after 64, 128, 256 or 4096 bytes
    /// but not have a gap.
    pub fn parse(text: &str) -> Result<Self, DumpError> {
        let mut functions: Vec<DumpedFunction> = Vec::new();
        let mut seen = BTreeSet::new();
        for (number, text) in (1..).zip(text.lines()) {
            if text.trim().is_empty() || text.starts_with([' ', '\t', '#']) {
                continue;
            }
            if let Some((offset, bytes)) = row(text) {
                let function = functions.last_mut().ok_or(DumpError::StrayRow { line: number })?;
                function.append(number, offset, bytes)?;
            } else {
                let (address, name) = text.split_once(' ').unwrap_or((text, ""));
                let address = address.parse().map_err(|_| DumpError::Line { line: number })?;
                if !seen.insert(address) {
                    return Err(DumpError::Duplicate { line: number, function: address });
                }
                functions.push(DumpedFunction { address, name: name.trim_end().to_string(), bytes: Vec::new() });
            }
        }
        Self::new(functions)
    }

    /// A dump of functions that are already there.
    fn new(functions: Vec<DumpedFunction>) -> Result<Self, DumpError> {
        if functions.is_empty() {
            return Err(DumpError::Empty);
        }
        for function in &functions {
            function.check()?;
        }
        Ok(Self { functions })
    }

    /// What the registers of a machine say now.
    pub fn of(machine: &Machine) -> Self {
        let functions = machine.functions().map(|(_, function)| DumpedFunction {
            address: SegmentBdf { segment: machine.firmware().segment, bdf: function.bdf() },
            name: function.name().to_string(),
            bytes: function.config().iter().flat_map(|dword| dword.to_le_bytes()).collect(),
        });
        Self { functions: functions.collect() }
    }

    /// The functions in the order of the text.
    pub fn functions(&self) -> &[DumpedFunction] {
        &self.functions
    }
}

impl DumpedFunction {
    /// Where the function was.
    pub fn address(&self) -> SegmentBdf {
        self.address
    }

    /// What the headline says after the address.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its configuration space: 64, 128, 256 or 4096 bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, as DWORDs.
    pub fn dwords(&self) -> Vec<u32> {
        let (dwords, _) = self.bytes.as_chunks();
        dwords.iter().copied().map(u32::from_le_bytes).collect()
    }

    fn append(&mut self, line: usize, offset: usize, bytes: &str) -> Result<(), DumpError> {
        let function = self.address;
        if offset != self.bytes.len() {
            return Err(DumpError::Order { line, function, expected: self.bytes.len(), found: offset });
        }
        let words = bytes.split_ascii_whitespace();
        let parsed: Vec<u8> = words.clone().map_while(byte).collect();
        if parsed.len() != 16 || words.count() != 16 {
            return Err(DumpError::Row { line, function, found: parsed.len() });
        }
        self.bytes.extend(parsed);
        Ok(())
    }

    fn check(&self) -> Result<(), DumpError> {
        let function = self.address;
        if !matches!(self.bytes.len(), 64 | 128 | 256 | 4096) {
            return Err(DumpError::Length { function, found: self.bytes.len() });
        }
        let dwords = self.dwords();
        let back = capabilities::standard(&dwords).returns_to.or(capabilities::extended(&dwords).returns_to);
        back.map_or(Ok(()), |at| Err(DumpError::Loop { function, at }))
    }
}

impl FromStr for Dump {
    type Err = DumpError;

    fn from_str(text: &str) -> Result<Self, DumpError> {
        Self::parse(text)
    }
}

/// As `lspci -D -xxxx` prints it, and `lspci -F` reads it.
impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let functions = self.functions.iter();
        f.write_str(&write(functions.map(|function| (function.address, function.name(), function.bytes()))))
    }
}

/// Writes functions (address, name, configuration space) in the form `lspci -F` reads.
pub fn write<'a>(functions: impl IntoIterator<Item = (SegmentBdf, &'a str, &'a [u8])>) -> String {
    functions.into_iter().map(|(address, name, bytes)| Block { address, name, bytes }.to_string()).collect()
}

/// A function's headline and rows, and the empty line that ends them.
struct Block<'a> {
    address: SegmentBdf,
    name: &'a str,
    bytes: &'a [u8],
}

impl fmt::Display for Block<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        // A line break in a name would start a row.
        for word in self.name.lines() {
            write!(f, " {word}")?;
        }
        writeln!(f)?;
        for (offset, row) in (0..).step_by(16).zip(self.bytes.chunks(16)) {
            write!(f, "{offset:02x}:")?;
            row.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
            writeln!(f)?;
        }
        writeln!(f)
    }
}

/// Offset and bytes of a row such as `10: 04 00 ...`.
fn row(line: &str) -> Option<(usize, &str)> {
    let (offset, bytes) = line.split_once(':')?;
    let plain = (2..=3).contains(&offset.len()) && offset.bytes().all(|byte| byte.is_ascii_hexdigit());
    let offset = usize::from_str_radix(offset, 16).ok().filter(|_| plain)?;
    (bytes.is_empty() || bytes.starts_with([' ', '\t'])).then_some((offset, bytes))
}

fn byte(word: &str) -> Option<u8> {
    let plain = word.len() == 2 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    u8::from_str_radix(word, 16).ok().filter(|_| plain)
}
