//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use lexopt::{Arg, Parser, ValueExt};
use pci_remap::sim::dump::SegmentBdf;
use pci_remap::{Bdf, Guest, Host};

use crate::Failure;

pub const HELP: &str = "\
Runs a guest on KVM that finds PCI functions at other addresses than they have.

Usage: kvm-vmm --kernel FILE [OPTIONS]     boots Linux
       kvm-vmm --guest-payload [OPTIONS]   runs the built-in guest, which tries everything and reports

  --vfio HOST=GUEST       gives the guest a function of this machine, as in 0000:02:00.0=01:01.0
  --sim DUMP              the guest's machine is the one of an lspci -xxxx dump, simulated
  HOST=GUEST              moves a function of the dump, as in 02:00.0=01:01.0
  --hide BDF              hides a function of the dump
  --resources FILE        sizes of the dump's BARs; derived from the addresses without

  --initrd FILE           initial RAM disk for the kernel
  --cmdline TEXT          command line of the kernel; \"console=ttyS0\" without
  --memory MIB            RAM of the guest, up to 2048; 512 without
  --rounds N              how often the built-in guest moves each BAR; 1 without
  --hammer                a thread uses the memory of the moved functions at the same time
  --verbose               says every change of the guest's memory map
  --help                  shows this text

Ctrl-A x ends the guest. Exit status: what the guest writes to port f4h, 0 when it switches off, 1 when something
goes wrong, 2 for a usage error.
";

/// What to do.
#[derive(Debug, Default)]
pub struct Job {
    pub guest: Option<Software>,
    pub vfio: Vec<(SegmentBdf, Guest<Bdf>)>,
    pub dump: Option<PathBuf>,
    pub resources: Option<PathBuf>,
    pub moves: Vec<(Host<Bdf>, Guest<Bdf>)>,
    pub hidden: Vec<Host<Bdf>>,
    /// In MiB.
    pub memory: usize,
    pub rounds: u32,
    pub hammer: bool,
    pub verbose: bool,
}

/// What the guest runs.
#[derive(Debug)]
pub enum Software {
    Linux { kernel: PathBuf, initrd: Option<PathBuf>, cmdline: String },
    Payload,
}

/// The job, or `None` when only help was asked for.
pub fn parse() -> Result<Option<Job>, Failure> {
    let mut parser = Parser::from_env();
    let mut job = Job { memory: 512, rounds: 1, ..Job::default() };
    let (mut kernel, mut initrd, mut payload) = (None, None, false);
    let mut cmdline = String::from("console=ttyS0");
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("vfio") => job.vfio.push(pair(&parser.value()?.string()?)?),
            Arg::Long("sim") => job.dump = Some(parser.value()?.into()),
            Arg::Long("resources") => job.resources = Some(parser.value()?.into()),
            Arg::Long("hide") => job.hidden.push(parser.value()?.parse()?),
            Arg::Long("kernel") => kernel = Some(parser.value()?.into()),
            Arg::Long("initrd") => initrd = Some(parser.value()?.into()),
            Arg::Long("cmdline") => cmdline = parser.value()?.string()?,
            Arg::Long("guest-payload") => payload = true,
            Arg::Long("memory") => job.memory = parser.value()?.parse()?,
            Arg::Long("rounds") => job.rounds = parser.value()?.parse()?,
            Arg::Long("hammer") => job.hammer = true,
            Arg::Long("verbose") => job.verbose = true,
            Arg::Long("help") => return Ok(None),
            Arg::Value(text) => job.moves.push(pair(&text.string()?)?),
            _ => return Err(argument.unexpected().into()),
        }
    }
    job.guest = match (kernel, payload) {
        (Some(kernel), false) => Some(Software::Linux { kernel, initrd, cmdline }),
        (None, true) => Some(Software::Payload),
        (Some(_), true) => return Err(Failure::Usage("--kernel and --guest-payload: one guest only".into())),
        (None, false) => return Err(Failure::Usage("no guest: say --kernel FILE or --guest-payload".into())),
    };
    if job.dump.is_none() && !(job.moves.is_empty() && job.hidden.is_empty()) {
        return Err(Failure::Usage("HOST=GUEST and --hide are about the functions of --sim DUMP".into()));
    }
    if job.hammer && !(payload && job.vfio.is_empty()) {
        return Err(Failure::Usage("--hammer is for --guest-payload and simulated functions".into()));
    }
    if !(16..=2048).contains(&job.memory) {
        return Err(Failure::Usage("--memory: between 16 and 2048 MiB".into()));
    }
    Ok(Some(job))
}

fn pair<H: FromStr<Err: ToString>, G: FromStr<Err: ToString>>(text: &str) -> Result<(H, G), Failure> {
    let wrong = |why: String| Failure::Usage(format!("{text:?}: {why}"));
    let (host, guest) = text.split_once('=').ok_or_else(|| wrong("expected HOST=GUEST".into()))?;
    let (host, guest) = (host.parse(), guest.parse());
    Ok((
        host.map_err(|error: H::Err| wrong(error.to_string()))?,
        guest.map_err(|error: G::Err| wrong(error.to_string()))?,
    ))
}
