//! One PCI segment group as hardware: functions with registers, bridges that route by them, memory behind every BAR.
//!
//! Nothing here knows what a guest or a remapper wants. Every request is routed by the registers as they stand, so
//! software that moves a BAR or renumbers a bus really moves it. Requests nobody claims read all ones, writes to them
//! are dropped; two claimants for one address are recorded as a [`Conflict`].
//!
//! ```
//! use pci_remap::sim::machine::{Blueprint, Builder, Windows};
//! use pci_remap::spec::bar::BarKind;
//! use pci_remap::{Access, Bdf, Dword, Span};
//!
//! let (port, nic): (Bdf, Bdf) = ("00:01.0".parse()?, "01:00.0".parse()?);
//! let memory = Span::new(0xf780_0000, 0x10_0000).unwrap();
//! let mut machine = Builder::new()
//!     .root(0x00..=0xff, &[Builder::LOW_MEMORY])
//!     .root_port(port, 0x01..=0x01, Windows::memory(memory))
//!     .function(Blueprint::endpoint(nic).bar(0, BarKind::Memory32 { prefetchable: false }, 0x2_0000, 0xf780_0000))
//!     .build()?;
//!
//! let signature = pci_remap::sim::machine::signature(0, nic, 0, 0x10);
//! assert_eq!(machine.memory_read(0xf780_0010, 4), u64::from(signature));
//! assert_eq!(machine.config_read(Access::whole(nic, Dword::at(0x10).unwrap())), 0xf780_0000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "arbitrary")]
mod arbitrary;
mod attributes;
mod blueprint;
mod builder;
pub mod capabilities;
mod error;
mod function;
mod interrupt;
mod link;
mod power;
mod reset;
mod routing;
mod slot;
mod structures;
mod virtual_function;
mod writes;

use core::time::Duration;
use std::collections::BTreeMap;
use std::vec::Vec;

use crate::access::{Access, Dword, Lanes, Width};
use crate::address::{Bdf, Span};
use crate::delta::Space;
use crate::mechanism::{ConfigAddress, PortAccess};
use crate::sim::platform::{Firmware, Message, Platform};
use crate::spec::header;

pub use attributes::Attributes;
pub use blueprint::{Blueprint, Windows};
pub use builder::{BuildError, Builder};
pub use error::Fault;
pub use function::{Bar, Function, Quirks};
pub use interrupt::{Dma, Signaled, Undelivered};
pub use link::{Disagreement, LinkState};
pub use power::Wake;
pub use reset::Reset;
pub use routing::{Conflict, Hit, Request};
pub use structures::{Capability, ExtendedCapability, FixedRange, VfBar};
pub use writes::ConfigWrite;

/// Index of the Expansion ROM among the BARs of a function.
pub const ROM: usize = 6;

/// A function of a [`Machine`], whatever its bus number is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionId(usize);

/// One PCI segment group.
#[derive(Debug, Clone)]
pub struct Machine {
    firmware: Firmware,
    functions: Vec<Function>,
    /// The functions on each root bus, in the order of `firmware.roots`.
    roots: Vec<Vec<FunctionId>>,
    ports: ConfigAddress,
    /// Words software has written, by function, BAR and byte offset.
    memory: BTreeMap<(FunctionId, usize, u64), u32>,
    conflicts: Vec<Conflict>,
    unsupported: u64,
    now: Duration,
    wake: Wake,
    faults: Vec<Fault>,
    msi_log: Vec<Signaled>,
    config_writes: Vec<ConfigWrite>,
}

impl Machine {
    /// Lets time pass: links come up, functions get ready. Nothing else does, accesses take none.
    pub fn elapse(&mut self, time: Duration) {
        self.now = self.now.saturating_add(time);
        self.settle_links();
    }

    /// The time since the machine was built.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// What firmware tables say.
    pub fn firmware(&self) -> &Firmware {
        &self.firmware
    }

    /// What firmware tables say, to be changed. Buses and windows of the roots also route.
    pub fn firmware_mut(&mut self) -> &mut Firmware {
        &mut self.firmware
    }

    /// Reads configuration space: the whole DWORD, whatever the lanes. From 100h on, a conventional function reads all
    /// ones, and a PCI Express function whose extended space is not known reads zero, an empty list.
    pub fn config_read(&mut self, access: Access) -> u32 {
        match self.config_target(access.function()) {
            Some(function) if self.is_ready(function) => self.peek(function, access.dword()),
            Some(function) if access.dword() == header::ID => self.retry_status(function),
            Some(_) | None => !0,
        }
    }

    /// Writes the lanes of the access, as far as the register's bits can be written and the function is ready.
    pub fn config_write(&mut self, access: Access, value: u32) {
        if let Some(function) = self.config_target(access.function()).filter(|function| self.is_ready(*function)) {
            self.write_function(function, access, value);
        }
    }

    /// Reads a register of a function, wherever its bus is now.
    pub fn peek(&self, function: FunctionId, dword: Dword) -> u32 {
        self.functions[function.0].read(dword)
    }

    /// Sets a register of a function, read-only bits too. Registers the function does not have stay absent.
    pub fn poke(&mut self, function: FunctionId, dword: Dword, value: u32) {
        self.functions[function.0].set(dword, value);
    }

    /// Reads `len` bytes (1 to 8) from Memory Space; the rest of the value is zero.
    pub fn memory_read(&mut self, address: u64, len: u8) -> u64 {
        self.space_read(Space::Memory, address, len)
    }

    /// Writes the lowest `len` bytes (1 to 8) of `value` to Memory Space.
    pub fn memory_write(&mut self, address: u64, len: u8, value: u64) {
        self.space_write(Space::Memory, address, len, value);
    }

    /// Reads `len` bytes (1 to 8) from I/O Space; the rest of the value is zero. Some machines have I/O Space above
    /// 64 KiB, hence the wide address.
    pub fn io_read(&mut self, address: u64, len: u8) -> u64 {
        self.space_read(Space::Io, address, len)
    }

    /// Writes the lowest `len` bytes (1 to 8) of `value` to I/O Space.
    pub fn io_write(&mut self, address: u64, len: u8, value: u64) {
        self.space_write(Space::Io, address, len, value);
    }

    /// The functions in the order they were described, and behind them Virtual Functions that were enabled.
    pub fn functions(&self) -> impl Iterator<Item = (FunctionId, &Function)> {
        self.functions.iter().enumerate().map(|(index, function)| (FunctionId(index), function))
    }

    /// One function.
    pub fn function(&self, id: FunctionId) -> &Function {
        &self.functions[id.0]
    }

    /// The function that was at this address when the machine was built.
    pub fn original(&self, bdf: Bdf) -> Option<FunctionId> {
        self.functions().find(|(_, function)| function.bdf() == bdf).map(|(id, _)| id)
    }

    /// The requests two functions or bridges claimed, oldest first. Only the first thousand are kept.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// Number of requests nobody claimed.
    pub fn unsupported_requests(&self) -> u64 {
        self.unsupported
    }

    fn space_read(&mut self, space: Space, address: u64, len: u8) -> u64 {
        words(address, len).fold(mask(len), |value, word| {
            let read = match self.target(space, word.address) {
                Some(hit) => self.word(hit),
                None => !0,
            };
            let bytes = u64::from(word.lanes.mask() >> word.low()) << word.shift;
            value & !bytes | u64::from(read >> word.low()) << word.shift & bytes
        })
    }

    fn space_write(&mut self, space: Space, address: u64, len: u8, value: u64) {
        for word in words(address, len) {
            let Some(hit) = self.target(space, word.address) else { continue };
            #[expect(clippy::cast_possible_truncation, reason = "the rest belongs to the next word")]
            let new = (value >> word.shift) as u32;
            let merged = word.lanes.merge(self.word(hit), new << word.low());
            self.memory.insert((hit.function, hit.bar, hit.offset), merged);
        }
    }

    fn word(&self, hit: Hit) -> u32 {
        let bdf = self.functions[hit.function.0].bdf();
        self.memory
            .get(&(hit.function, hit.bar, hit.offset))
            .copied()
            .unwrap_or_else(|| signature(self.firmware.segment, bdf, hit.bar, hit.offset))
    }

    /// The function a request reaches; notes when there is none, or more than one.
    fn config_target(&mut self, bdf: Bdf) -> Option<FunctionId> {
        let claimants = self.config_claimants(bdf);
        self.only_claimant(Request::Configuration(bdf), claimants)
    }

    fn target(&mut self, space: Space, address: u64) -> Option<Hit> {
        let (claimants, hits) = self.claimants(space, address);
        if claimants.is_empty() || claimants.len() == 1 && hits.is_empty() {
            self.unsupported += 1;
            return None;
        }
        self.only_claimant(Request::of(space, address), claimants)?;
        hits.first().copied()
    }

    fn only_claimant(&mut self, request: Request, claimants: Vec<FunctionId>) -> Option<FunctionId> {
        /// Enough to find out what went wrong.
        const KEPT: usize = 1000;
        match claimants[..] {
            [] => self.unsupported += 1,
            [one] => return Some(one),
            _ if self.conflicts.len() < KEPT => self.conflicts.push(Conflict { request, claimants }),
            _ => (),
        }
        None
    }
}

/// A real processor: ports CF8h and CFCh where the machine has them, its ECAM window, and device memory. There is no
/// RAM: what no device claims reads all ones.
impl Platform for Machine {
    fn firmware(&self) -> &Firmware {
        &self.firmware
    }

    fn elapse(&mut self, time: Duration) {
        self.elapse(time);
    }

    fn suspend_to_ram(&mut self) {
        self.suspend_to_ram();
    }

    fn signal(&mut self, function: Bdf, vector: u16) -> Option<Message> {
        let function = self.find(function)?;
        Some(self.raise(function, vector).ok()?.message)
    }

    fn transfer(&mut self, function: Bdf, len: u32) -> bool {
        let function = self.find(function);
        function.is_some_and(|function| {
            self.write_memory(function, 0, len).is_ok() && self.read_memory(function, 0, len).is_ok()
        })
    }

    #[expect(clippy::cast_possible_truncation, reason = "a port access is at most four bytes")]
    fn port_read(&mut self, port: u16, width: Width) -> u32 {
        if self.firmware.ports {
            match self.ports.read(port, width) {
                PortAccess::Latch(value) => return value,
                PortAccess::Config(piece) => {
                    return piece.answer(mask(width.bytes()), self.config_read(piece.access().0)) as u32;
                }
                PortAccess::Forward => (),
            }
        }
        self.io_read(u64::from(port), width.bytes()) as u32
    }

    fn port_write(&mut self, port: u16, width: Width, value: u32) {
        if self.firmware.ports {
            match self.ports.write(port, width, value) {
                PortAccess::Latch(_) => return,
                PortAccess::Config(piece) => {
                    return self.config_write(piece.access().0, piece.lanes_of(u64::from(value)));
                }
                PortAccess::Forward => (),
            }
        }
        self.io_write(u64::from(port), width.bytes(), u64::from(value));
    }

    #[expect(clippy::cast_possible_truncation, reason = "the access is at most four bytes")]
    fn memory_read(&mut self, address: u64, width: Width) -> u32 {
        let Some(ecam) = self.firmware.ecam.filter(|ecam| reaches(ecam.span().0, address, width)) else {
            return self.space_read(Space::Memory, address, width.bytes()) as u32;
        };
        ecam.pieces(address, width.bytes())
            .fold(mask(width.bytes()), |value, piece| piece.answer(value, self.config_read(piece.access().0)))
            as u32
    }

    fn memory_write(&mut self, address: u64, width: Width, value: u32) {
        let Some(ecam) = self.firmware.ecam.filter(|ecam| reaches(ecam.span().0, address, width)) else {
            return self.space_write(Space::Memory, address, width.bytes(), u64::from(value));
        };
        for piece in ecam.pieces(address, width.bytes()) {
            self.config_write(piece.access().0, piece.lanes_of(u64::from(value)));
        }
    }
}

/// What an untouched DWORD of device memory reads: it tells whose memory it is. `bdf` is the address the function had
/// when the machine was built, `offset` a byte offset into the BAR (rounded down to a DWORD). Never all ones.
pub fn signature(segment: u16, bdf: Bdf, bar: usize, offset: u64) -> u32 {
    let place = u64::from(segment) << 20 ^ u64::from(bdf.routing_id()) << 4 ^ bar as u64;
    // The finalizer of splitmix64: every bit of the input reaches every bit of the output.
    let mut mixed = place.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (offset & !3);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    let [.., a, b, c, d] = (mixed ^ mixed >> 31).to_be_bytes();
    match u32::from_be_bytes([a, b, c, d]) {
        u32::MAX => 0x5a5a_5a5a,
        signature => signature,
    }
}

/// The part of an access that falls into one aligned DWORD of an address space.
struct Word {
    address: u64,
    lanes: Lanes,
    /// Bits below this part in the value of the access.
    shift: u32,
}

impl Word {
    /// Bits below this part in the DWORD.
    fn low(&self) -> u32 {
        self.lanes.first() * 8
    }
}

/// Cuts an access of up to 8 bytes into DWORDs; bytes past the end of the address space belong to none.
fn words(address: u64, len: u8) -> impl Iterator<Item = Word> {
    let len = len.min(8);
    let mut next = 0;
    std::iter::from_fn(move || {
        let at = address.checked_add(u64::from(next)).filter(|_| next < len)?;
        let lane = at.to_le_bytes()[0] & 3;
        let lanes = Lanes::run(lane, len - next)?;
        let word = Word { address: at & !3, lanes, shift: u32::from(next) * 8 };
        next += 4 - lane;
        Some(word)
    })
}

/// All ones in `len` bytes.
fn mask(len: u8) -> u64 {
    u64::MAX.checked_shr(64 - 8 * u32::from(len.min(8))).unwrap_or(0)
}

fn reaches(window: Span, address: u64, width: Width) -> bool {
    let last = address.saturating_add(u64::from(width.bytes()) - 1);
    Span::from_bounds(address, last).is_some_and(|access| access.overlaps(window))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn words_cover_any_access_once_in_order() {
        for start in 0..8_u64 {
            for len in 0..=8_u8 {
                let mut bytes = Vec::new();
                for word in words(0x1000 + start, len) {
                    assert_eq!(word.shift, 8 * u32::try_from(bytes.len()).unwrap());
                    let lanes = (0..4).filter(|lane| word.lanes.bits() >> lane & 1 == 1);
                    bytes.extend(lanes.map(|lane| word.address + lane));
                }
                assert_eq!(bytes, (0..u64::from(len)).map(|byte| 0x1000 + start + byte).collect::<Vec<_>>());
            }
        }
        assert_eq!(words(u64::MAX - 2, 8).map(|word| word.lanes.bits()).collect::<Vec<_>>(), [0b1110]);
    }

    #[test]
    fn signatures_of_neighbours_differ() {
        let mut seen = BTreeSet::new();
        for id in 0..64 {
            for bar in 0..7 {
                for dword in 0..16 {
                    assert!(seen.insert(signature(0, Bdf::from_routing_id(id), bar, 4 * dword)));
                }
            }
        }
        let nic = Bdf::from_routing_id(0x0200);
        assert_eq!(signature(0, nic, 0, 0x13), signature(0, nic, 0, 0x10));
        assert_ne!(signature(0, nic, 0, 0), signature(1, nic, 0, 0));
    }
}
