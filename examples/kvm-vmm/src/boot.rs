//! Puts what the guest runs into its RAM: a Linux kernel, or the built-in payload.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::elf::Elf;
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use pci_remap::{Guest, Space};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::acpi;
use crate::arguments::Job;
use crate::hardware::Hardware;
use crate::memory::Ram;

/// What the payload wants to know, or Linux's zero page.
const PARAMETERS: u64 = 0x7000;
const COMMAND_LINE: u64 = 0x6_0000;
/// Where ACPI looks for its root pointer.
const TABLES: u64 = 0xe_0000;
/// Where a BIOS starts again. Linux goes there to reset a machine with reduced hardware and no EFI.
const RESET_VECTOR: u64 = 0xf_fff0;
/// Writes 6 to the reset control register, CF9h: mov al, 6; mov dx, 0cf9h; out dx, al; hlt.
const RESET_CODE: [u8; 7] = [0xb0, 0x06, 0xba, 0xf9, 0x0c, 0xee, 0xf4];
const HIGH_MEMORY: u64 = 0x10_0000;

static PAYLOAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/payload"));

/// Where the processor starts, and what it finds in RSI.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub entry: u64,
    pub parameters: u64,
}

/// Loads the job's guest.
pub fn load(job: &Job, ram: &Ram, hardware: &Hardware) -> Result<Start> {
    match &job.kernel {
        Some(kernel) => linux(job, ram, hardware, kernel).with_context(|| kernel.display().to_string()),
        None => payload(job, ram, hardware),
    }
}

fn payload(job: &Job, ram: &Ram, hardware: &Hardware) -> Result<Start> {
    let loaded = Elf::load(ram, None, &mut Cursor::new(PAYLOAD), None).context("the built-in guest")?;
    let low = hardware.windows().filter(|window| window.space == Space::Memory && window.span.last() < 1 << 32);
    let low = low.max_by_key(|window| window.span.len()).map_or([0, 0], |low| [low.span.start(), low.span.last()]);
    let Guest(ecam) = hardware.ecam.span();
    let parameters = [ecam.start(), low[0], low[1], job.rounds.into()];
    write(ram, PARAMETERS, &parameters.map(u64::to_le_bytes).concat())?;
    Ok(Start { entry: loaded.kernel_load.0, parameters: PARAMETERS })
}

fn linux(job: &Job, ram: &Ram, hardware: &Hardware, kernel: &Path) -> Result<Start> {
    let mut file = File::open(kernel)?;
    // The 64-bit entry of a bzImage is 200h behind its 32-bit one.
    let (loaded, offset) = match Elf::load(ram, None, &mut file, Some(GuestAddress(HIGH_MEMORY))) {
        Ok(loaded) => (loaded, 0),
        Err(_) => match BzImage::load(ram, None, &mut file, Some(GuestAddress(HIGH_MEMORY))) {
            Ok(loaded) => (loaded, 0x200),
            Err(error) => bail!("neither a vmlinux nor a bzImage that starts in 64-bit mode: {error}"),
        },
    };
    let mut header = header(&loaded);
    // A bzImage unpacks itself to where it likes to be, and its RAM disk has to be above.
    let end = loaded.kernel_end.max(header.pref_address + u64::from(header.init_size));
    let top = ram.last_addr().0 + 1;
    let disk = job.initrd.as_deref().map(|path| fs::read(path).with_context(|| path.display().to_string()));
    let disk = disk.transpose()?.unwrap_or_default();
    let start = top.saturating_sub(disk.len() as u64) & !0xfff;
    ensure!(start >= end, "the RAM of the guest has no room for it; see --memory");
    write(ram, start, &disk)?;
    (header.ramdisk_image, header.ramdisk_size) = (start as u32, disk.len() as u32);
    let cmdline = &job.cmdline;
    write(ram, COMMAND_LINE, &[cmdline.as_bytes(), &[0]].concat())?;
    (header.cmd_line_ptr, header.cmdline_size) = (COMMAND_LINE as u32, cmdline.len() as u32);

    write(ram, TABLES, &acpi::tables(TABLES, hardware))?;
    write(ram, RESET_VECTOR, &RESET_CODE)?;
    let mut parameters = boot_params { hdr: header, acpi_rsdp_addr: TABLES, ..Default::default() };
    let Guest(ecam) = hardware.ecam.span();
    let map = [
        (0, 0xa_0000, RAM),
        (TABLES, HIGH_MEMORY - TABLES, RESERVED),
        (HIGH_MEMORY, top - HIGH_MEMORY, RAM),
        (ecam.start(), ecam.len(), RESERVED),
    ];
    for (entry, (addr, size, kind)) in parameters.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr, size, r#type: kind };
    }
    parameters.e820_entries = map.len() as u8;
    ram.write_obj(parameters, GuestAddress(PARAMETERS))?;
    Ok(Start { entry: loaded.kernel_load.0 + offset, parameters: PARAMETERS })
}

/// Types of memory in the map (E820).
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// The header of a bzImage, or what it would say for a vmlinux.
fn header(loaded: &KernelLoaderResult) -> setup_header {
    let mut header = loaded.setup_header.unwrap_or(setup_header {
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        kernel_alignment: 0x100_0000,
        ..Default::default()
    });
    // A loader without a number.
    header.type_of_loader = 0xff;
    header
}

fn write(ram: &Ram, address: u64, bytes: &[u8]) -> Result<()> {
    Ok(ram.write_slice(bytes, GuestAddress(address))?)
}
