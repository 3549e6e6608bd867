//! The second stage of address translation: where the guest's physical addresses lead.
//!
//! What it says is kept as lists, topmost first: windows of moved functions, holes, and below them the machine itself.
//! The page tables are made from the lists and are only a cache: a change rewrites the entries it touches, with the
//! largest pages that fit, so tables split and merge as windows come and go; what was never touched is filled in on
//! the first access.

use heapless::Vec;
use pci_remap::{Backing, Guest, MapOp, Span};

use crate::multiboot::{MAX_RANGES, Range};

/// Page tables there is room for; when they run out, all are forgotten and filled in anew.
pub const TABLES: usize = 128;
const MAX_WINDOWS: usize = 128;
const MAX_HOLES: usize = 128;

/// Bits of an address below a page table entry of this level; 1 is a page.
const fn shift(level: u8) -> u32 {
    3 + 9 * level as u32
}

#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Table([u64; 512]);

impl Table {
    pub const EMPTY: Self = Self([0; 512]);
}

/// How the processor wants its entries.
#[derive(Clone, Copy)]
pub struct Format {
    /// Bits of an entry that leads to a table.
    pub table: u64,
    /// Bits of a page of RAM.
    pub ram: u64,
    /// Bits of a page of whatever else the machine has.
    pub machine: u64,
    /// Bits of a page of a moved BAR: uncacheable.
    pub device: u64,
    /// Largest level that has pages: 3 where there are 1 GiB pages.
    pub largest: u8,
}

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A range of guest addresses that leads elsewhere.
#[derive(Clone, Copy)]
struct Window {
    guest: Span,
    /// `None`: accesses are trapped.
    host: Option<u64>,
}

/// What a range of guest addresses is.
enum Content {
    /// The same all over: this page table entry.
    Same(u64),
    /// It has to be looked at in smaller parts.
    Mixed,
}

pub struct SecondStage {
    format: Format,
    /// The first is the root.
    tables: &'static mut [Table; TABLES],
    free: Vec<usize, TABLES>,
    windows: Vec<Window, MAX_WINDOWS>,
    holes: Vec<Span, MAX_HOLES>,
    ram: Vec<Span, MAX_RANGES>,
}

impl SecondStage {
    /// The machine as it is.
    pub fn new(format: Format, tables: &'static mut [Table; TABLES], memory: &[Range]) -> Self {
        let ram = memory.iter().filter(|range| range.kind == Range::USABLE).filter_map(|range| {
            // A page that is RAM only in part is not treated as RAM.
            let start = range.span.start().next_multiple_of(0x1000);
            Span::from_bounds(start, ((range.span.last() + 1) & !0xfff).checked_sub(1)?)
        });
        let ram = ram.collect();
        let mut stage = Self { format, tables, free: Vec::new(), windows: Vec::new(), holes: Vec::new(), ram };
        stage.forget();
        stage
    }

    /// The physical address of the root table.
    pub fn root(&self) -> u64 {
        self.tables.as_ptr().addr() as u64
    }

    /// Makes all accesses to these pages exit.
    pub fn punch(&mut self, hole: Span) -> bool {
        let done = self.holes.push(hole.pages()).is_ok();
        self.refresh(hole.pages());
        done
    }

    /// Carries out a change of Memory Space.
    pub fn apply(&mut self, change: MapOp) -> bool {
        let Guest(guest) = change.guest();
        match change {
            MapOp::Conceal { .. } => return self.punch(guest),
            MapOp::Unmap { .. } => self.windows.retain(|window| window.guest != guest.pages()),
            MapOp::Map { host, backing, .. } => {
                let host = if backing == Backing::Direct { Some(host.0.start()) } else { None };
                if self.windows.push(Window { guest: guest.pages(), host }).is_err() {
                    return false;
                }
            }
        }
        self.refresh(guest.pages());
        true
    }

    /// Fills in the page tables at an address whose access exited; `false` when it is meant to exit.
    pub fn fill(&mut self, address: u64) -> bool {
        let page = Span::new(address & !0xfff, 0x1000).expect("a page");
        let Content::Same(entry @ 1..) = self.content(page, 1) else { return false };
        let _ = entry;
        let large = address >> shift(3) << shift(3);
        self.refresh(Span::new(large, 1 << shift(3)).expect("a large page"));
        true
    }

    /// Makes the page tables say what the lists say.
    fn refresh(&mut self, span: Span) {
        if self.build(0, 4, 0, span).is_none() {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.free = (1..TABLES).collect();
        self.tables[0] = Table::EMPTY;
    }

    /// Rewrites the entries of a table, which starts at guest address `base`, that have a part in the span. `None` when
    /// there is no room for another table.
    fn build(&mut self, table: usize, level: u8, base: u64, span: Span) -> Option<()> {
        let size = 1_u64 << shift(level);
        let first = span.start().saturating_sub(base) / size;
        let last = ((span.last() - base) / size).min(511);
        for index in first..=last {
            let range = Span::new(base + index * size, size)?;
            let entry = self.tables[table].0[index as usize];
            self.tables[table].0[index as usize] = match self.content(range, level) {
                Content::Same(new) => {
                    self.release(entry, level);
                    new
                }
                Content::Mixed => {
                    let (child, part) = match self.child(entry, level) {
                        Some(child) => (child, span.intersection(range)?),
                        // What was one page becomes a table: all of it has to be written.
                        None => {
                            let child = self.free.pop()?;
                            self.tables[child] = Table::EMPTY;
                            (child, range)
                        }
                    };
                    // Above the level of large pages nothing is lost by waiting for the first access.
                    let part = if level > 3 { span.intersection(range)? } else { part };
                    self.build(child, level - 1, range.start(), part)?;
                    self.tables.as_ptr().wrapping_add(child).addr() as u64 | self.format.table
                }
            };
        }
        Some(())
    }

    /// The table an entry leads to.
    fn child(&self, entry: u64, level: u8) -> Option<usize> {
        let is_table = level > 1 && entry & PRESENT != 0 && entry & LARGE == 0;
        is_table.then(|| ((entry & ADDRESS) - self.root()) as usize / size_of::<Table>())
    }

    /// Gives back the tables an entry leads to.
    fn release(&mut self, entry: u64, level: u8) {
        let Some(child) = self.child(entry, level) else { return };
        for index in 0..512 {
            self.release(self.tables[child].0[index], level - 1);
        }
        let _ = self.free.push(child);
    }

    fn content(&self, range: Span, level: u8) -> Content {
        let large = if level > 1 { LARGE } else { 0 };
        let page = |host: u64, kind: u64| {
            if level <= self.format.largest && host.is_multiple_of(1 << shift(level)) {
                Content::Same(host | kind | large)
            } else {
                Content::Mixed
            }
        };
        if let Some(window) = self.windows.iter().find(|window| window.guest.overlaps(range)) {
            return match window.host {
                _ if !window.guest.covers(range) => Content::Mixed,
                Some(host) => page(host + (range.start() - window.guest.start()), self.format.device),
                None => Content::Same(0),
            };
        }
        if let Some(hole) = self.holes.iter().find(|hole| hole.overlaps(range)) {
            return if hole.covers(range) { Content::Same(0) } else { Content::Mixed };
        }
        match self.ram.iter().find(|ram| ram.overlaps(range)) {
            None => page(range.start(), self.format.machine),
            Some(ram) if ram.covers(range) => page(range.start(), self.format.ram),
            Some(_) => Content::Mixed,
        }
    }
}
