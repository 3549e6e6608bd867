//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Error, Result, anyhow, ensure};
use lexopt::{Arg, Parser, ValueExt};
use pci_remap::sim::dump::SegmentBdf;
use pci_remap::{Bdf, Guest, Host};

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
  --help                  shows this text

Ctrl-A x ends the guest. Exit status: what the guest writes to port f4h, 0 when it switches off, 1 when something
goes wrong, 2 for a usage error.
";

/// What to do.
#[derive(Debug, Default)]
pub struct Job {
    /// The Linux to run; the built-in guest without.
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    pub cmdline: String,
    pub vfio: Vec<(SegmentBdf, Guest<Bdf>)>,
    pub dump: Option<PathBuf>,
    pub resources: Option<PathBuf>,
    pub moves: Vec<(Host<Bdf>, Guest<Bdf>)>,
    pub hidden: Vec<Host<Bdf>>,
    /// In MiB.
    pub memory: usize,
    pub rounds: u32,
    pub hammer: bool,
}

/// The job, or `None` when only help was asked for.
pub fn parse() -> Result<Option<Job>> {
    let mut parser = Parser::from_env();
    let mut job = Job { cmdline: "console=ttyS0".into(), memory: 512, rounds: 1, ..Job::default() };
    let mut payload = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("vfio") => job.vfio.push(pair(&parser.value()?.string()?)?),
            Arg::Long("sim") => job.dump = Some(parser.value()?.into()),
            Arg::Long("resources") => job.resources = Some(parser.value()?.into()),
            Arg::Long("hide") => job.hidden.push(parser.value()?.parse()?),
            Arg::Long("kernel") => job.kernel = Some(parser.value()?.into()),
            Arg::Long("initrd") => job.initrd = Some(parser.value()?.into()),
            Arg::Long("cmdline") => job.cmdline = parser.value()?.string()?,
            Arg::Long("guest-payload") => payload = true,
            Arg::Long("memory") => job.memory = parser.value()?.parse()?,
            Arg::Long("rounds") => job.rounds = parser.value()?.parse()?,
            Arg::Long("hammer") => job.hammer = true,
            Arg::Long("help") => return Ok(None),
            Arg::Value(text) => job.moves.push(pair(&text.string()?)?),
            _ => return Err(argument.unexpected().into()),
        }
    }
    ensure!(job.kernel.is_some() || payload, "no guest: say --kernel FILE or --guest-payload");
    ensure!(job.kernel.is_none() || !payload, "--kernel and --guest-payload: one guest only");
    let has_moves = !(job.moves.is_empty() && job.hidden.is_empty());
    ensure!(job.dump.is_some() || !has_moves, "HOST=GUEST and --hide are about the functions of --sim DUMP");
    ensure!(!job.hammer || payload && job.vfio.is_empty(), "--hammer is for --guest-payload and simulated functions");
    ensure!((16..=2048).contains(&job.memory), "--memory: between 16 and 2048 MiB");
    Ok(Some(job))
}

fn pair<H: FromStr<Err: Into<Error>>, G: FromStr<Err: Into<Error>>>(text: &str) -> Result<(H, G)> {
    let wrong = |why: Error| anyhow!("{text:?}: {why}");
    let (host, guest) = text.split_once('=').context("expected HOST=GUEST").map_err(wrong)?;
    Ok((
        host.parse().map_err(|why: H::Err| wrong(why.into()))?,
        guest.parse().map_err(|why: G::Err| wrong(why.into()))?,
    ))
}
