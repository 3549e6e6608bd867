//! A thin hypervisor that boots one Linux and moves PCI functions under it with `pci-remap`.
//!
//! Read [`pci`] first: what has to do with the crate is there, but for the tables of [`acpi`]. `main` shows what comes before, [`vm`] what happens
//! at an exit.

#![no_std]
#![no_main]

mod acpi;
mod console;
mod cut;
mod exceptions;
mod floating_point;
mod guest_memory;
mod hardware;
mod instruction;
mod linux;
mod multiboot;
mod options;
mod pci;
mod physical;
mod ports;
mod processor;
mod second_stage;
mod statistics;
mod string_io;
mod svm;
mod vm;
mod vmx;

use core::arch::global_asm;
use core::panic::PanicInfo;
use core::ptr;

use pci_remap::Span;

use crate::acpi::Tables;
use crate::multiboot::Information;
use crate::options::Options;
use crate::pci::{Pci, Stages};
use crate::ports::{Bitmap, Ports};
use crate::processor::Processor;
use crate::second_stage::{SecondStage, TABLES, Table};
use crate::statistics::Statistics;
use crate::svm::Svm;
use crate::vm::Vm;
use crate::vmx::Vmx;

global_asm!(include_str!("boot.s"));

unsafe extern "C" {
    static __start: u8;
    static __end: u8;
    static __image_end: u8;
}

/// What the processor reads by itself, and what is too large for the stack.
struct Memory {
    pci: pci::Memory,
    tables: [Table; TABLES],
    ports: Bitmap,
    svm: svm::Memory,
    vmx: vmx::Memory,
}

static mut MEMORY: Memory = Memory {
    pci: pci::Memory::EMPTY,
    tables: [const { Table::EMPTY }; TABLES],
    ports: Bitmap::EMPTY,
    svm: svm::Memory::EMPTY,
    vmx: vmx::Memory::EMPTY,
};

/// Called by `boot.s`, with what the boot loader left in two registers.
#[unsafe(no_mangle)]
extern "sysv64" fn main(magic: u32, information: u32) -> ! {
    console::start();
    exceptions::start();
    let information = Information::read(magic, information);
    let options = Options::parse(information.command_line).unwrap_or_else(|word| panic!("what is \"{word}\"?"));
    let tables = Tables::find();
    let processors = tables.processors();
    assert!(
        processors == 1,
        "{processors} processors: only one can be kept under the hypervisor; switch the others off"
    );

    let up_to = |end: *const u8| {
        let last = end.addr() as u64 - 1;
        Span::from_bounds((&raw const __start).addr() as u64, last).expect("linked in order")
    };
    let (hypervisor, image) = (up_to(&raw const __end), up_to(&raw const __image_end));
    let memory = linux::memory_map(&information, image);
    // SAFETY: `main` runs once, and this is the only reference.
    let fixed = unsafe { &mut *ptr::addr_of_mut!(MEMORY) };
    let mut pci = Pci::new(&mut fixed.pci, &tables, &options, &memory);
    let start = linux::load(&information, &memory);
    let has_svm = svm::is_there();
    assert!(has_svm || vmx::is_there(), "neither SVM with nested paging nor VMX with EPT and unrestricted guest");
    let format = if has_svm { svm::format() } else { vmx::format() };
    let mut second_stage = SecondStage::new(format, &mut fixed.tables, &memory);
    assert!(second_stage.punch(hypervisor));
    let mut stages = Stages { memory: second_stage, ports: Ports::new(&mut fixed.ports), are_new: false };
    pci.start(&mut stages);
    let (second_stage, ports) = (stages.memory.root(), stages.ports.bitmap());
    if has_svm {
        run(Svm::new(&mut fixed.svm, second_stage, ports, start), pci, stages, hypervisor)
    } else {
        run(Vmx::new(&mut fixed.vmx, second_stage, ports, start), pci, stages, hypervisor)
    }
}

fn run(processor: impl Processor, pci: Pci, stages: Stages, hypervisor: Span) -> ! {
    say!("starts Linux");
    Vm { processor, pci, stages, hypervisor, statistics: Statistics::default() }.run()
}

#[panic_handler]
fn panic(information: &PanicInfo<'_>) -> ! {
    say!("stopped: {information}");
    loop {
        x86_64::instructions::hlt();
    }
}
