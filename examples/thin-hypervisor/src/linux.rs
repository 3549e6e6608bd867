//! Starting Linux by its 64-bit boot protocol (Documentation/arch/x86/boot.rst).

use pci_remap::Span;

use crate::multiboot::{Information, MAX_RANGES, Range};
use crate::physical;
use crate::processor::Start;

use heapless::Vec;

/// Low memory for what the kernel is started with. The extended BIOS data area begins at 9FC00h.
const BOOT_PARAMETERS: u64 = 0x9_0000;
const PAGE_TABLES: u64 = 0x9_2000;
const DESCRIPTORS: u64 = 0x9_8000;
const COMMAND_LINE: u64 = 0x9_9000;
const COMMAND_LINE_MAX: usize = 2047;

/// Setup header and boot parameters (arch/x86/include/uapi/asm/bootparam.h).
const SETUP_SECTS: usize = 0x1f1;
const E820_COUNT: usize = 0x1e8;
const HEADER_LEN: usize = 0x201;
const MAGIC: usize = 0x202;
const LOADER: usize = 0x210;
const RAMDISK: usize = 0x218;
const COMMAND_LINE_POINTER: usize = 0x228;
const RAMDISK_MAX: usize = 0x22c;
const XLOADFLAGS: usize = 0x236;
const PREFERRED_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;
const E820_TABLE: usize = 0x2d0;

/// The memory map the guest gets: firmware's, without the image.
pub fn memory_map(information: &Information, image: Span) -> Vec<Range, MAX_RANGES> {
    let mut map = Vec::new();
    for range in &information.memory {
        let parts = [
            Span::from_bounds(range.span.start(), range.span.last().min(image.start() - 1)),
            Span::from_bounds(range.span.start().max(image.last() + 1), range.span.last()),
        ];
        for span in parts.into_iter().flatten() {
            let _ = map.push(Range { span, kind: range.kind });
        }
    }
    let _ = map.push(Range { span: image, kind: Range::RESERVED });
    map.sort_unstable_by_key(|range| range.span.start());
    map
}

/// Puts kernel and initramfs where they belong, and says how to start.
pub fn load(information: &Information, memory: &[Range]) -> Start {
    let [kernel, rest @ ..] = &information.modules[..] else { panic!("no kernel: give one as the first module") };
    let image = physical::bytes(kernel.span.start(), kernel.span.len());
    assert_eq!(&image[MAGIC..MAGIC + 4], b"HdrS", "the first module is no Linux kernel");
    assert!(image[XLOADFLAGS] & 1 != 0, "the kernel has no 64-bit entry point");
    let (entry, init_size) = (field(image, PREFERRED_ADDRESS, 8), field(image, INIT_SIZE, 4));
    let place = Span::new(entry, init_size).expect("a kernel of some size");
    assert!(is_ram(memory, place), "no RAM for the kernel at {place}");
    let setup = (image[SETUP_SECTS].max(4) as u64 + 1) * 512;
    let ramdisk_max = field(image, RAMDISK_MAX, 4);
    let header_end = MAGIC + image[HEADER_LEN] as usize;

    // SAFETY: low memory is RAM, and what the loader left there has been read.
    let parameters = unsafe { physical::bytes_mut(BOOT_PARAMETERS, 0x1000) };
    parameters.fill(0);
    parameters[SETUP_SECTS..header_end].copy_from_slice(&image[SETUP_SECTS..header_end]);
    parameters[LOADER] = 0xff;

    // The initramfs goes up first: the loader may have put it where the kernel has to be.
    if let [initramfs, ..] = rest {
        let from = initramfs.span;
        let to = room_at_the_top(memory, from.len(), ramdisk_max, place).expect("no RAM for the initramfs");
        // SAFETY: it is RAM that nothing but the modules is in, and the two do not overlap with the kernel.
        unsafe { physical::copy(from.start(), to, from.len()) };
        parameters[RAMDISK..][..4].copy_from_slice(&(to as u32).to_le_bytes());
        parameters[RAMDISK + 4..][..4].copy_from_slice(&(from.len() as u32).to_le_bytes());
    }
    let command_line = kernel.command_line.as_bytes();
    assert!(command_line.len() <= COMMAND_LINE_MAX, "the kernel's command line is too long");
    // SAFETY: as for the parameters. The loader's text is elsewhere.
    let text = unsafe { physical::bytes_mut(COMMAND_LINE, COMMAND_LINE_MAX as u64 + 1) };
    text.fill(0);
    text[..command_line.len()].copy_from_slice(command_line);
    parameters[COMMAND_LINE_POINTER..][..4].copy_from_slice(&(COMMAND_LINE as u32).to_le_bytes());
    // SAFETY: the place is RAM that holds at most the modules, and the copy may overlap.
    unsafe { physical::copy(kernel.span.start() + setup, entry, kernel.span.len() - setup) };

    let ranges = memory.len().min(128);
    parameters[E820_COUNT] = ranges as u8;
    for (bytes, range) in parameters[E820_TABLE..].chunks_exact_mut(20).zip(&memory[..ranges]) {
        bytes[..8].copy_from_slice(&range.span.start().to_le_bytes());
        bytes[8..16].copy_from_slice(&range.span.len().to_le_bytes());
        bytes[16..].copy_from_slice(&range.kind.to_le_bytes());
    }
    write_page_tables();
    write_descriptors();
    Start { instruction: entry + 0x200, argument: BOOT_PARAMETERS, cr3: PAGE_TABLES, descriptors: DESCRIPTORS }
}

fn field(image: &[u8], offset: usize, len: usize) -> u64 {
    image[offset..offset + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn is_ram(memory: &[Range], span: Span) -> bool {
    memory.iter().any(|range| range.kind == Range::USABLE && range.span.covers(span))
}

/// The highest page-aligned place for `len` bytes, up to address `max`, away from the kernel.
fn room_at_the_top(memory: &[Range], len: u64, max: u64, kernel: Span) -> Option<u64> {
    let usable = memory.iter().filter(|range| range.kind == Range::USABLE && range.span.start() < max);
    let places = usable.filter_map(|range| {
        let start = (range.span.last().min(max) + 1).checked_sub(len)? & !0xfff;
        let place = Span::new(start, len)?;
        (range.span.covers(place) && !place.overlaps(kernel)).then_some(start)
    });
    places.max()
}

/// 4 GiB of identity mapping by 2 MiB pages.
fn write_page_tables() {
    // SAFETY: as for the parameters.
    let tables = unsafe { physical::bytes_mut(PAGE_TABLES, 0x6000) };
    let (top, directories) = tables.split_at_mut(0x2000);
    top.fill(0);
    top[..8].copy_from_slice(&(PAGE_TABLES + 0x1003).to_le_bytes());
    for (index, entry) in (0..4).zip(top[0x1000..].chunks_exact_mut(8)) {
        entry.copy_from_slice(&(PAGE_TABLES + 0x2003 + 0x1000 * index).to_le_bytes());
    }
    for (index, entry) in (0_u64..).zip(directories.chunks_exact_mut(8)) {
        entry.copy_from_slice(&(index << 21 | 0x83).to_le_bytes());
    }
}

fn write_descriptors() {
    // SAFETY: as for the parameters.
    let table = unsafe { physical::bytes_mut(DESCRIPTORS, 32) };
    for (entry, descriptor) in table.chunks_exact_mut(8).zip([0, 0, 0x00af_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff]) {
        entry.copy_from_slice(&descriptor.to_le_bytes());
    }
}
