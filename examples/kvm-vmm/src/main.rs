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

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;

use anyhow::{Result, anyhow, bail};
use kvm_ioctls::{Kvm, VcpuFd};
use pci_remap::plan::Cause;
use pci_remap::sim::vm::{FUNCTIONS, TOUCHED};
use pci_remap::topology::ConfigSpace;
use pci_remap::{Finding, Grade, Plan, Remapper, Topology};

use arguments::Job;
use bus::{Bus, Stop};
use console::Console;
use hardware::Hardware;
use second_stage::SecondStage;

fn main() -> ExitCode {
    let job = match arguments::parse() {
        Ok(Some(job)) => job,
        Ok(None) => {
            print!("{}", arguments::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("kvm-vmm: {error}\nTry --help.");
            return ExitCode::from(2);
        }
    };
    run(&job).map_or_else(
        |error| {
            eprintln!("kvm-vmm: {error:#}");
            ExitCode::FAILURE
        },
        ExitCode::from,
    )
}

fn run(job: &Job) -> Result<u8> {
    let console = Console::new();
    loop {
        match run_once(job, &console)? {
            Stop::SwitchedOff(code) => return Ok(code),
            // Everything is built anew, as after switching on: VFIO resets functions whose last user is gone.
            Stop::Reset => eprintln!("kvm-vmm: the guest resets the machine"),
        }
    }
}

/// From switching the machine on to switching it off.
fn run_once(job: &Job, console: &Console) -> Result<Stop> {
    let kvm = Kvm::new().map_err(|error| anyhow!("/dev/kvm: {error}{}", hint(error)))?;
    let vm = vcpu::machine(&kvm)?;
    let ram = memory::ram(&vm, job.memory << 20)?;
    let mut hardware = Hardware::find(job, &vm, &ram)?;

    let topology = hardware.topology()?;
    let plan = plan(job, &topology, &hardware)?;
    let mut remapper = Box::new(Remapper::<TOUCHED>::new());
    plan.build_into(&mut remapper)?;
    remapper.preparation().for_each(|write| hardware.write(write.to, write.value));
    hardware.prepare(&topology, &plan)?;

    let start = boot::load(job, &ram, &hardware)?;
    let vcpu = vcpu::new(&kvm, &vm, &ram, start)?;
    let second_stage = SecondStage::new(vm.clone());
    let bus = Mutex::new(Bus::new(remapper, hardware, second_stage, console.connect(&vm)?));
    let stop = if job.hammer { run_hammered(vcpu, &bus)? } else { vcpu::run(vcpu, &bus)? };
    eprintln!("kvm-vmm: {}", lock(&bus));
    Ok(stop)
}

/// What to do about a /dev/kvm that cannot be opened.
fn hint(error: kvm_ioctls::Error) -> &'static str {
    match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => {
            "; load kvm_intel or kvm_amd, and switch virtualization on in the firmware"
        }
        libc::EACCES | libc::EPERM => "; become a member of its group (usually kvm), or root",
        _ => "",
    }
}

/// Runs the guest while another thread uses what the guest moves.
fn run_hammered(vcpu: VcpuFd, bus: &Mutex<Bus>) -> Result<Stop> {
    let runs = AtomicBool::new(true);
    let (stop, (tries, lost)) = thread::scope(|scope| {
        let device = scope.spawn(|| {
            let (mut tries, mut lost) = (0_u64, 0_u64);
            while runs.load(Ordering::Relaxed) {
                lost += u64::from(!lock(bus).hammer(tries));
                tries += 1;
                // The lock is not fair.
                thread::yield_now();
            }
            (tries, lost)
        });
        let stop = vcpu::run(vcpu, bus);
        runs.store(false, Ordering::Relaxed);
        (stop, device.join().expect("nobody panics"))
    });
    eprintln!("kvm-vmm: a device used its memory {tries} times, and lost it {lost} times");
    if lost == 0 { stop } else { bail!("the device lost its memory {lost} times") }
}

/// What the guest shall see, if that can be.
fn plan<'t>(job: &Job, topology: &'t Topology<FUNCTIONS>, hardware: &Hardware) -> Result<Plan<'t>> {
    let mut plan = Plan::new(topology);
    for relocation in hardware.relocations(job, topology) {
        plan = plan.with(relocation)?;
    }
    for hidden in &job.hidden {
        plan = plan.hide(*hidden)?;
    }
    for reserved in memory::reserved(job.memory << 20, hardware.ecam) {
        plan = plan.reserve(reserved)?;
    }
    // What a function of this machine leaves are this machine's addresses, which the guest has not.
    let is_moot = |finding: &Finding| {
        matches!(finding.cause, Cause::LeavesAddresses(_) | Cause::PlacedAnew(_))
            && hardware.is_from_vfio(finding.function)
    };
    let mut errors = String::new();
    for finding in plan.findings().filter(|finding| !is_moot(finding)) {
        match finding.grade() {
            Grade::Error => errors += &format!("\n  {finding}"),
            grade => eprintln!("kvm-vmm: {grade}: {finding}"),
        }
    }
    if errors.is_empty() { Ok(plan) } else { bail!("the plan is refused{errors}") }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}
