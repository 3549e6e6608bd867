//! The command line.

use core::fmt;
use core::str::FromStr;
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};
use pci_remap::sim::dump::SegmentBdf;
use pci_remap::sim::guest::Kind;
use pci_remap::{Dword, Guest, Host, ParseBdfError, Placement};
use thiserror::Error;

pub(crate) const HELP: &str = "\
Shows what moving PCI functions does to a machine, with a simulated guest.

Usage: relocate [OPTIONS] [HOST=GUEST]...

  HOST=GUEST            moves a function, as in 0000:02:00.0=0000:01:01.0 or 02:00.0=01:01.0

Options:
  --dump FILE           the machine, as lspci -D -xxx or -xxxx prints it; a bundled one without
  --resources FILE      sizes of its BARs; derived from the addresses without
  --guest NAME          linux-6.1 (default), linux-6.15, freebsd or edk2
  --device HOST=GUEST   moves all functions of a device, each keeps its function number
  --hide BDF            hides a function
  --explain BDF:OFFSET  says what the guest reads and writes there, as in 01:01.0:0x04, and why; may be repeated
  --pre-assigned        finds addresses for the BARs of moved functions, instead of leaving that to the guest
  --make-room           widens windows of bridges before the guest starts, for what has no room in them
  --virtual             bus numbers and addresses are the guest's alone; always so for edk2, which chooses all anew
  --write-guest FILE    writes the configuration space the guest reads, for lspci -F FILE
  --verbose             shows everything the guest logs
  --help                shows this text

Without HOST=GUEST and --dump it moves the disk of the bundled machine, 09:00.0=01:01.0.
A Linux guest also lives on after it booted: ports are suspended, functions reset, removed and found again, the machine
sleeps, another kernel is started. That is shown step by step.

Exit status: 0 when every BAR of a moved function reaches it and it survives that life, or fails in it as it does without
a move; 1 when not, or when the plan is refused; 2 for a usage error.
";

pub(crate) enum Request {
    Help,
    Run(Job),
}

/// What to do.
pub(crate) struct Job {
    pub(crate) source: Source,
    pub(crate) guest: Kind,
    pub(crate) moves: Vec<Move>,
    pub(crate) hidden: Vec<SegmentBdf>,
    pub(crate) explained: Vec<Register>,
    pub(crate) placement: Placement,
    /// Windows of bridges are widened first, if need be.
    pub(crate) makes_room: bool,
    /// Bus numbers and addresses are the guest's alone.
    pub(crate) is_virtual: bool,
    pub(crate) write_guest: Option<PathBuf>,
    pub(crate) verbose: bool,
}

/// Where the machine comes from.
pub(crate) enum Source {
    Bundled,
    Files { dump: PathBuf, resources: Option<PathBuf> },
}

/// A function's move, or a device's.
#[derive(Clone, Copy)]
pub(crate) struct Move {
    pub(crate) host: Host<SegmentBdf>,
    pub(crate) guest: Guest<SegmentBdf>,
    pub(crate) whole_device: bool,
}

impl Job {
    /// The segment groups it is about.
    pub(crate) fn segments(&self) -> impl Iterator<Item = u16> {
        let moved = self.moves.iter().map(|one| one.host.0.segment);
        let explained = self.explained.iter().map(|register| register.function.segment);
        moved.chain(self.hidden.iter().map(|hidden| hidden.segment)).chain(explained)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.moves.is_empty() && self.hidden.is_empty()
    }
}

/// A register the guest may access.
#[derive(Clone, Copy)]
pub(crate) struct Register {
    pub(crate) function: SegmentBdf,
    pub(crate) dword: Dword,
}

/// The text names no register.
#[derive(Debug, Error)]
pub(crate) enum RegisterError {
    #[error("expected BDF:OFFSET, as in 0000:01:01.0:0x04")]
    NoPair,
    #[error("{0:?} is {1}")]
    Address(String, ParseBdfError),
    #[error("{0:?} is no offset: expected 0 to fff in hexadecimal")]
    Offset(String),
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.function, self.dword)
    }
}

impl FromStr for Register {
    type Err = RegisterError;

    /// Any offset stands for the DWORD it is in.
    fn from_str(text: &str) -> Result<Self, RegisterError> {
        let (function, offset) = text.rsplit_once(':').ok_or(RegisterError::NoPair)?;
        let function = function.parse().map_err(|error| RegisterError::Address(function.into(), error))?;
        let digits = offset.strip_prefix("0x").unwrap_or(offset);
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u16::from_str_radix(digits, 16).ok().filter(|number| is_plain && *number < 0x1000);
        let number = number.ok_or_else(|| RegisterError::Offset(offset.into()))?;
        Ok(Self { function, dword: Dword::holding(number) })
    }
}

/// The text names no move.
#[derive(Debug, Error)]
pub(crate) enum MoveError {
    #[error("expected HOST=GUEST, as in 0000:02:00.0=0000:01:01.0")]
    NoPair,
    #[error("{0:?} is {1}")]
    Address(String, ParseBdfError),
    #[error("a function cannot leave its segment group")]
    OtherSegment,
}

impl FromStr for Move {
    type Err = MoveError;

    fn from_str(text: &str) -> Result<Self, MoveError> {
        let address = |text: &str| text.parse().map_err(|error| MoveError::Address(text.into(), error));
        let (host, guest) = text.split_once('=').ok_or(MoveError::NoPair)?;
        let (host, guest): (SegmentBdf, SegmentBdf) = (address(host)?, address(guest)?);
        if host.segment != guest.segment {
            return Err(MoveError::OtherSegment);
        }
        Ok(Self { host: Host(host), guest: Guest(guest), whole_device: false })
    }
}

pub(crate) fn parse() -> Result<Request, lexopt::Error> {
    let mut parser = Parser::from_env();
    let (mut dump, mut resources, mut write_guest) = (None, None, None);
    let mut guest = Kind::Linux61;
    let (mut moves, mut hidden, mut explained) = (Vec::<Move>::new(), Vec::new(), Vec::new());
    let mut placement = Placement::GuestAssigns;
    let (mut makes_room, mut is_virtual, mut verbose) = (false, false, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Value(text) => moves.push(text.parse()?),
            Arg::Long("dump") => dump = Some(PathBuf::from(parser.value()?)),
            Arg::Long("resources") => resources = Some(PathBuf::from(parser.value()?)),
            Arg::Long("write-guest") => write_guest = Some(PathBuf::from(parser.value()?)),
            Arg::Long("guest") => guest = parser.value()?.parse()?,
            Arg::Long("device") => moves.push(Move { whole_device: true, ..parser.value()?.parse()? }),
            Arg::Long("hide") => hidden.push(parser.value()?.parse()?),
            Arg::Long("explain") => explained.push(parser.value()?.parse()?),
            Arg::Long("pre-assigned") => placement = Placement::PreAssigned,
            Arg::Long("make-room") => makes_room = true,
            Arg::Long("virtual") => is_virtual = true,
            Arg::Long("verbose") => verbose = true,
            Arg::Long("help") => return Ok(Request::Help),
            _ => return Err(argument.unexpected()),
        }
    }
    let source = match (dump, resources) {
        (Some(dump), resources) => Source::Files { dump, resources },
        (None, None) => Source::Bundled,
        (None, Some(_)) => return Err("--resources needs --dump".into()),
    };
    if matches!(source, Source::Bundled) && moves.is_empty() && hidden.is_empty() {
        moves.push("09:00.0=01:01.0".parse().map_err(|error: MoveError| lexopt::Error::Custom(error.into()))?);
    }
    is_virtual |= guest == Kind::Edk2;
    Ok(Request::Run(Job {
        source,
        guest,
        moves,
        hidden,
        explained,
        placement,
        makes_room,
        is_virtual,
        write_guest,
        verbose,
    }))
}
