//! A small VMM on KVM and VFIO, in which `pci-remap` decides what the guest sees of PCI.
//!
//! ```text
//!  vCPU exit ──► Bus ──► mechanism ──► Remapper ──► Hardware: VFIO functions, simulated machine
//!                                         └───────► SecondStage: KVM memory slots
//! ```
//!
//! The VMM knows no PCI rule. It cuts exits into accesses, carries out decisions, and makes slots of map changes.

mod acpi;
mod arguments;
mod boot;
mod bus;
mod console;
mod hardware;
mod interrupts;
mod memory;
mod second_stage;
mod vcpu;
mod vfio;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvm_ioctls::Kvm;
use pci_remap::plan::Cause;
use pci_remap::sim::dump::{DumpError, ResourcesError};
use pci_remap::sim::vm::{FUNCTIONS, TOUCHED};
use pci_remap::topology::TopologyError;
use pci_remap::{Finding, Grade, Plan, PlanError, Remapper, Topology};
use thiserror::Error;

use arguments::Job;
use bus::{Bus, Stop};
use console::Console;
use hardware::Hardware;
use second_stage::SecondStage;
use vcpu::Vcpu;

/// Why there is no guest, or no more.
#[derive(Debug, Error)]
pub enum Failure {
    #[error("{0}\nTry --help.")]
    Usage(String),
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{}: {error}", path.display())]
    Dump { path: PathBuf, error: DumpError },
    #[error("{}: {error}", path.display())]
    Resources { path: PathBuf, error: ResourcesError },
    #[error("{}: the dump has no segment group 0000", .0.display())]
    NoSegment(PathBuf),
    #[error("/dev/kvm: {0}{hint}", hint = kvm_hint(.0))]
    NoKvm(kvm_ioctls::Error),
    #[error("KVM: {0}: {1}")]
    Kvm(&'static str, kvm_ioctls::Error),
    #[error("RAM of the guest: {0}")]
    Ram(#[from] vm_memory::GuestMemoryError),
    #[error("RAM of the guest: {0}")]
    NoRam(#[from] vm_memory::mmap::FromRangesError),
    #[error("the built-in guest: {0}")]
    Payload(#[from] linux_loader::loader::Error),
    #[error("{0}")]
    System(#[from] io::Error),
    #[error("{0}")]
    Vfio(#[from] vfio::VfioFailure),
    #[error("{0}")]
    Topology(#[from] TopologyError),
    #[error("{0}")]
    Plan(#[from] PlanError),
    #[error("the plan is refused{list}", list = list(.0))]
    Refused(Vec<Finding>),
    #[error("{}: {error}", path.display())]
    Kernel { path: PathBuf, error: boot::KernelError },
    #[error("the device lost its memory {0} times")]
    Lost(u64),
    #[error("the guest cannot go on: {0}")]
    Guest(String),
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

fn kvm_hint(error: &kvm_ioctls::Error) -> &'static str {
    match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => {
            "; load kvm_intel or kvm_amd, and switch virtualization on in the firmware"
        }
        libc::EACCES | libc::EPERM => "; become a member of its group (usually kvm), or root",
        _ => "",
    }
}

fn list(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("\n  {finding}")).collect()
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("kvm-vmm: {failure}");
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn run() -> Result<u8, Failure> {
    let Some(job) = arguments::parse()? else {
        print!("{}", arguments::HELP);
        return Ok(0);
    };
    let console = Console::new();
    loop {
        match run_once(&job, &console)? {
            Stop::SwitchedOff(code) => return Ok(code),
            // Everything is built anew, as after switching on: VFIO resets functions whose last user is gone.
            Stop::Reset => eprintln!("kvm-vmm: the guest resets the machine"),
        }
    }
}

/// From switching the machine on to switching it off.
fn run_once(job: &Job, console: &Console) -> Result<Stop, Failure> {
    let kvm = Kvm::new().map_err(Failure::NoKvm)?;
    let vm = vcpu::machine(&kvm)?;
    let ram = memory::ram(&vm, job.memory << 20)?;
    let mut hardware = Hardware::find(job, &vm, &ram)?;

    let topology = hardware.topology()?;
    let plan = plan(job, &topology, &hardware)?;
    let mut remapper = Box::new(Remapper::<TOUCHED>::new());
    plan.build_into(&mut remapper)?;
    hardware.prepare(&topology, &plan, &remapper)?;

    let start = boot::load(job, &ram, &hardware)?;
    let vcpu = Vcpu::new(&kvm, &vm, &ram, start)?;
    let second_stage = SecondStage::new(vm.clone(), job.verbose);
    let bus = Mutex::new(Bus::new(remapper, hardware, second_stage, console.connect(&vm)?));
    let stop = if job.hammer { run_hammered(vcpu, &bus)? } else { vcpu.run(&bus)? };
    eprintln!("kvm-vmm: {}", bus.lock().expect("nobody panics with it").counts());
    Ok(stop)
}

/// Runs the guest while another thread uses what the guest moves.
fn run_hammered(vcpu: Vcpu, bus: &Mutex<Bus>) -> Result<Stop, Failure> {
    let runs = AtomicBool::new(true);
    let (stop, (tries, lost)) = thread::scope(|scope| {
        let device = scope.spawn(|| {
            let (mut tries, mut lost) = (0_u64, 0_u64);
            while runs.load(Ordering::Relaxed) {
                lost += u64::from(!bus.lock().expect("nobody panics with it").hammer());
                tries += 1;
                // The lock is not fair.
                thread::yield_now();
            }
            (tries, lost)
        });
        let stop = vcpu.run(bus);
        runs.store(false, Ordering::Relaxed);
        (stop, device.join().expect("nobody panics"))
    });
    eprintln!("kvm-vmm: a device used its memory {tries} times, and lost it {lost} times");
    if lost == 0 { stop } else { Err(Failure::Lost(lost)) }
}

/// What the guest shall see, if that can be.
fn plan<'t>(job: &Job, topology: &'t Topology<FUNCTIONS>, hardware: &Hardware) -> Result<Plan<'t>, Failure> {
    let mut plan = Plan::new(topology);
    for relocation in hardware.relocations(job) {
        plan = plan.with(relocation)?;
    }
    for hidden in &job.hidden {
        plan = plan.hide(*hidden)?;
    }
    for reserved in memory::reserved(job.memory << 20, hardware.ecam()) {
        plan = plan.reserve(reserved)?;
    }
    let (errors, others): (Vec<_>, Vec<_>) = plan.findings().partition(|finding| finding.grade() == Grade::Error);
    // What a function of this machine leaves are this machine's addresses, which the guest has not.
    let is_moot = |finding: &Finding| {
        matches!(finding.cause, Cause::LeavesAddresses(_)) && hardware.is_from_vfio(finding.function)
    };
    for finding in others.into_iter().filter(|finding| !is_moot(finding)) {
        eprintln!("kvm-vmm: {}: {finding}", finding.grade());
    }
    if errors.is_empty() { Ok(plan) } else { Err(Failure::Refused(errors)) }
}
