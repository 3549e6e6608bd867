//! What a move would do to a real machine: plans it on a dump, boots a guest on the result, and proves that the moved
//! functions are reached.
//!
//! ```text
//! cargo run --example relocate
//! cargo run --example relocate -- --dump FILE 02:00.0=01:01.0
//! ```

mod arguments;
mod life;
mod names;
mod registers;
mod report;
mod segment;

use core::fmt::Display;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use pci_remap::sim::dump::{self, Dump, DumpError, Resources, ResourcesError};
use pci_remap::sim::guest::{DeviceTree, boot, lspci_tv};
use pci_remap::topology::TopologyError;
use pci_remap::{Finding, PlanError};
use thiserror::Error;

use arguments::{Request, Source};
use names::Names;
use segment::Segment;

/// A desktop whose disk is behind one root port and whose display is behind another.
const BUNDLED: &str = include_str!("../../tests/dumps/gigabyte-z370/dump.txt");
const BUNDLED_RESOURCES: &str = include_str!("../../tests/dumps/gigabyte-z370/resources.txt");

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("relocate: {failure}");
            failure.exit_code()
        }
    }
}

/// Why the job was not done.
#[derive(Debug, Error)]
enum Failure {
    #[error("{0}\nTry --help.")]
    Usage(#[from] lexopt::Error),
    #[error("nothing to do: say what to move, as in 0000:02:00.0=0000:01:01.0\nTry --help.")]
    NothingToDo,
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{}: {error}", path.display())]
    Dump { path: PathBuf, error: DumpError },
    #[error("{}: {error}", path.display())]
    Resources { path: PathBuf, error: ResourcesError },
    #[error("the dump has no segment group {0:04x}")]
    NoSegment(u16),
    #[error("segment {0:04x}: {1}")]
    Topology(u16, TopologyError),
    #[error("segment {0:04x}: {1}")]
    Plan(u16, PlanError),
    #[error("segment {0:04x}: the plan is refused{list}", list = list(.1))]
    Refused(u16, Vec<Finding>),
    #[error("standard output: {0}")]
    Output(io::Error),
    #[error("{0} of the moved functions' BARs do not reach them")]
    NotReached(usize),
    #[error("the guest's life fails{list}", list = list(.0))]
    NotAlive(Vec<life::Failure>),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(if matches!(self, Self::Usage(_) | Self::NothingToDo) { 2 } else { 1 })
    }
}

/// One line for each.
fn list(lines: &[impl Display]) -> String {
    lines.iter().fold(String::new(), |list, line| list + &format!("\n  {line}"))
}

fn run() -> Result<(), Failure> {
    let job = match arguments::parse()? {
        Request::Help => return print(arguments::HELP),
        Request::Run(job) => job,
    };
    let (dump, resources) = load(&job.source)?;
    let mut machines = dump.machines(resources.as_ref());
    // Firmware hands a machine over awake; the dump may have been taken while something slept.
    for loaded in &mut machines {
        loaded.machine.wake_all();
    }
    if let Some(missing) = job.segments().find(|number| machines.iter().all(|loaded| loaded.segment != *number)) {
        return Err(Failure::NoSegment(missing));
    }
    if job.is_empty() {
        let boots: Vec<_> = machines.iter().map(|loaded| boot(job.guest, &mut loaded.machine.clone())).collect();
        let trees: Vec<_> = boots.iter().map(|boot| &boot.tree).collect();
        let names = Names::of(&dump);
        print(&lspci_tv(&trees, &|segment, device| names.of_device(segment, Some(device.bdf), device)))?;
        return Err(Failure::NothingToDo);
    }
    let names = Names::of(&dump);
    let started = machines.into_iter().map(|loaded| Segment::start(loaded, &job));
    let mut segments = started.collect::<Result<Vec<_>, _>>()?;

    let mut text = trees(&segments, &names);
    let mut missed = 0;
    for segment in segments.iter_mut().filter(|segment| segment.is_changed()) {
        missed += report::segment(&mut text, segment, &names, job.verbose);
    }
    for register in &job.explained {
        let segment = segments.iter_mut().filter(|segment| segment.number == register.function.segment);
        segment.for_each(|segment| report::explained(&mut text, segment, *register));
    }
    print(&text)?;
    if let Some(path) = &job.write_guest {
        write_guest(path, &mut segments, &names)?;
    }
    if missed != 0 {
        return Err(Failure::NotReached(missed));
    }
    let failures = segments.iter().filter_map(|segment| segment.lived.as_ref()).flat_map(|lived| &lived.failures);
    let failures: Vec<_> = failures.cloned().collect();
    if failures.is_empty() { Ok(()) } else { Err(Failure::NotAlive(failures)) }
}

fn load(source: &Source) -> Result<(Dump, Option<Resources>), Failure> {
    let Source::Files { dump, resources } = source else {
        return parse(BUNDLED, Path::new("the bundled dump"), Some((BUNDLED_RESOURCES, Path::new("its resources"))));
    };
    let text = read(dump)?;
    let list = resources.as_deref().map(read).transpose()?;
    parse(&text, dump, list.as_deref().zip(resources.as_deref()))
}

fn parse(dump: &str, path: &Path, resources: Option<(&str, &Path)>) -> Result<(Dump, Option<Resources>), Failure> {
    let dump = dump.parse().map_err(|error| Failure::Dump { path: path.into(), error })?;
    let resources =
        resources.map(|(text, path)| text.parse().map_err(|error| Failure::Resources { path: path.into(), error }));
    Ok((dump, resources.transpose()?))
}

fn read(path: &Path) -> Result<String, Failure> {
    let bytes = fs::read(path).map_err(|error| Failure::File { path: path.into(), error })?;
    // Names of vendors may be in any encoding; the rest is ASCII.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Standard output may be a closed pipe, on which `println` would panic.
fn print(text: &str) -> Result<(), Failure> {
    io::stdout().write_all(text.as_bytes()).map_err(Failure::Output)
}

/// The trees of all segment groups, on the bare machine and behind the remapper.
fn trees(segments: &[Segment], names: &Names) -> String {
    let before: Vec<&DeviceTree> = segments.iter().map(|segment| &segment.before.tree).collect();
    let after: Vec<&DeviceTree> = segments.iter().map(|segment| &segment.after.tree).collect();
    let find = |number| segments.iter().find(|segment| segment.number == number);
    let before = lspci_tv(&before, &|number, device| {
        names.of_device(number, find(number).and_then(|segment| segment.bare_host(device.bdf)), device)
    });
    let after = lspci_tv(&after, &|number, device| {
        names.of_device(number, find(number).and_then(|segment| segment.host(device.bdf)), device)
    });
    format!("Before\n\n{before}\nAfter\n\n{after}")
}

/// Writes what the guest reads in the form `lspci -F` reads.
fn write_guest(path: &Path, segments: &mut [Segment], names: &Names) -> Result<(), Failure> {
    let functions: Vec<_> = segments.iter_mut().flat_map(|segment| segment.guest_functions(names)).collect();
    let text = dump::write(functions.iter().map(|(at, name, bytes)| (*at, name.as_str(), bytes.as_slice())));
    fs::write(path, text).map_err(|error| Failure::File { path: path.into(), error })
}
