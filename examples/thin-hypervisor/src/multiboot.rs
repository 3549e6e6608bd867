//! What the boot loader left: command line, modules, memory map (Multiboot 0.6.96, 3.3).

use core::ffi::CStr;

use heapless::Vec;
use pci_remap::Span;

use crate::physical;

const MAGIC: u32 = 0x2bad_b002;

/// Most ranges of a memory map.
pub const MAX_RANGES: usize = 64;

pub struct Information {
    /// Without the name of the file.
    pub command_line: &'static str,
    pub modules: Vec<Module, 2>,
    pub memory: Vec<Range, MAX_RANGES>,
}

/// A file the loader put into memory.
pub struct Module {
    pub span: Span,
    /// Without the name of the file.
    pub command_line: &'static str,
}

/// A range of the memory map, as firmware's E820 has it.
#[derive(Clone, Copy)]
pub struct Range {
    pub span: Span,
    pub kind: u32,
}

impl Range {
    /// RAM the operating system may use.
    pub const USABLE: u32 = 1;
    pub const RESERVED: u32 = 2;
}

impl Information {
    pub fn read(magic: u32, address: u32) -> Self {
        assert_eq!(magic, MAGIC, "not started by a multiboot loader");
        let field = |offset: u32| physical::read(u64::from(address + offset), 4);
        let flags = field(0);
        assert_eq!(flags & 0x4c, 0x4c, "the loader gives no command line, modules or memory map");
        let modules = (0..field(20)).map(|index| {
            let module = |offset| physical::read(field(24) + 16 * index + offset, 4);
            let span = Span::from_bounds(module(0), module(4) - 1).expect("an empty module");
            Module { span, command_line: arguments(module(8)) }
        });
        Self {
            command_line: arguments(field(16)),
            modules: modules.take(2).collect(),
            memory: memory(field(48), field(44)),
        }
    }
}

fn memory(start: u64, len: u64) -> Vec<Range, MAX_RANGES> {
    let mut ranges = Vec::new();
    let mut entry = start;
    while entry < start + len {
        let kind = physical::read(entry + 20, 4) as u32;
        if let Some(span) = Span::new(physical::read(entry + 4, 8), physical::read(entry + 12, 8)) {
            let _ = ranges.push(Range { span, kind });
        }
        entry += physical::read(entry, 4) + 4;
    }
    ranges
}

/// A command line without its first word, which is a file's name.
fn arguments(address: u64) -> &'static str {
    if address == 0 {
        return "";
    }
    let text = CStr::from_bytes_until_nul(physical::bytes(address, 4096)).expect("a command line without end");
    let text = text.to_str().expect("a command line that is no text");
    text.split_once(' ').map_or("", |(_, arguments)| arguments).trim()
}
