//! What a vCPU's exit reaches: configuration space by both mechanisms, device windows, and the few ports of a PC.

use std::fmt;
use std::time::Duration;

use pci_remap::mechanism::{ConfigAddress, PortAccess};
use pci_remap::sim::vm::TOUCHED;
use pci_remap::topology::ConfigSpace;
use pci_remap::{
    Access, Bdf, Guest, Host, MapDelta, ReadDecision, Remapper, Replay, Space, Span, Translation, Width, WriteDecision,
};

use crate::console::Port;
use crate::hardware::Hardware;
use crate::lock;
use crate::second_stage::SecondStage;

/// The serial port, COM1.
pub const SERIAL: u16 = 0x3f8;
/// The reset control register of PC chipsets; the ACPI tables name it too.
pub const RESET: u16 = 0xcf9;
/// The ACPI sleep control and status registers.
pub const SLEEP: u16 = 0x600;
/// A byte written here ends the guest with that exit status.
pub const EXIT: u16 = 0xf4;
/// A Routing ID written here makes the simulated function the guest has there send its MSI.
pub const DOORBELL: u16 = 0xf8;

/// Where a device that is hammered writes in its BARs.
const HAMMERED: u64 = 0xff8;

/// How a guest ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It wants to start again.
    Reset,
    /// It is done, with this exit status.
    SwitchedOff(u8),
}

#[derive(Debug, Default)]
struct Counts {
    config: u64,
    windows: u64,
    /// In windows that are to be mapped: a lost mapping, or memory that VFIO does not map.
    unmapped: u64,
    elsewhere: u64,
    ports: u64,
}

pub struct Bus {
    remapper: Box<Remapper<TOUCHED>>,
    hardware: Hardware,
    second_stage: SecondStage,
    config_address: ConfigAddress,
    serial: Port,
    counts: Counts,
}

impl Bus {
    /// Applies what is due before the guest starts.
    pub fn new(
        mut remapper: Box<Remapper<TOUCHED>>,
        hardware: Hardware,
        mut second_stage: SecondStage,
        serial: Port,
    ) -> Self {
        apply(remapper.pending(), &mut second_stage, &hardware);
        let config_address = ConfigAddress::default();
        Self { remapper, hardware, second_stage, config_address, serial, counts: Counts::default() }
    }

    pub fn port_read(&mut self, port: u16, data: &mut [u8]) {
        let Some(width) = width(data.len()) else { return data.fill(0xff) };
        let value = match self.config_address.read(port, width) {
            PortAccess::Latch(value) => value.into(),
            PortAccess::Config(piece) => piece.answer(!0, self.config_read(piece.access())),
            PortAccess::Forward => return self.device_port_read(port, data),
        };
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
    }

    pub fn port_write(&mut self, port: u16, data: &[u8]) -> Option<Stop> {
        let width = width(data.len())?;
        let value = little_endian(data);
        match self.config_address.write(port, width, value as u32) {
            PortAccess::Latch(_) => None,
            PortAccess::Config(piece) => {
                self.config_write(piece.access(), piece.lanes_of(value));
                None
            }
            PortAccess::Forward => self.device_port_write(port, data),
        }
    }

    pub fn memory_read(&mut self, address: u64, data: &mut [u8]) {
        let mut pieces = self.hardware.ecam.pieces(address, data.len() as u8).peekable();
        if pieces.peek().is_none() {
            return self.window_read(Space::Memory, address, data);
        }
        let value = pieces.fold(!0, |value, piece| piece.answer(value, self.config_read(piece.access())));
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
    }

    pub fn memory_write(&mut self, address: u64, data: &[u8]) {
        let mut pieces = self.hardware.ecam.pieces(address, data.len() as u8).peekable();
        if pieces.peek().is_none() {
            self.window_write(Space::Memory, address, data);
        }
        for piece in pieces {
            self.config_write(piece.access(), piece.lanes_of(little_endian(data)));
        }
    }

    fn config_read(&mut self, access: Guest<Access>) -> u32 {
        self.counts.config += 1;
        match self.remapper.read(access) {
            ReadDecision::Passthrough => self.hardware.read(Host(access.0)),
            ReadDecision::Hide => !0,
            ReadDecision::Emulate(value) => value,
            ReadDecision::Redirect { to, splice } => splice.apply(self.hardware.read(to)),
            ReadDecision::Requesters { to } => self.remapper.requesters(to, self.hardware.read(to)),
        }
    }

    fn config_write(&mut self, access: Guest<Access>, value: u32) {
        self.counts.config += 1;
        let mut outcome = self.remapper.write(access, value);
        if let Some(replay) = outcome.replay() {
            make(replay, &mut self.hardware);
        }
        match outcome.decision {
            WriteDecision::Passthrough => self.hardware.write(Host(access.0), value),
            WriteDecision::Hide | WriteDecision::Emulate => {}
            WriteDecision::Redirect { to, value } => self.hardware.write(to, value),
        }
        let ends_reset = outcome.ends_reset();
        apply(outcome.delta, &mut self.second_stage, &self.hardware);
        if ends_reset {
            self.wait_for_replays();
        }
    }

    /// What was reset has a second to become ready.
    fn wait_for_replays(&mut self) {
        for _ in 0..1000 {
            self.hardware.wait(Duration::from_millis(1));
            let mut replays = self.remapper.replays();
            if replays.is_empty() {
                break;
            }
            while let Some(replay) = replays.next() {
                make(replay, &mut self.hardware);
            }
        }
        apply(self.remapper.pending(), &mut self.second_stage, &self.hardware);
    }

    /// Reads what has no slot, as one access where all of it is in one place.
    fn window_read(&mut self, space: Space, address: u64, data: &mut [u8]) {
        match self.place(space, address, data.len()) {
            Some(Translation::Host(Host(host))) => self.hardware.window_read(space, host, data),
            Some(Translation::Untouched) => self.hardware.untouched_read(space, address, data),
            Some(Translation::Absent) => data.fill(0xff),
            None => (address..).zip(data.chunks_mut(1)).for_each(|(at, byte)| self.window_read(space, at, byte)),
        }
    }

    fn window_write(&mut self, space: Space, address: u64, data: &[u8]) {
        match self.place(space, address, data.len()) {
            Some(Translation::Host(Host(host))) => self.hardware.window_write(space, host, data),
            Some(Translation::Untouched) => self.hardware.untouched_write(space, address, data),
            Some(Translation::Absent) => {}
            None => (address..).zip(data.chunks(1)).for_each(|(at, byte)| self.window_write(space, at, byte)),
        }
    }

    /// Where an access goes, if all of it goes to one place.
    fn place(&mut self, space: Space, address: u64, len: usize) -> Option<Translation> {
        let first = self.remapper.translate(space, Guest(address));
        let beyond = len as u64 - 1;
        let last = self.remapper.translate(space, Guest(address.wrapping_add(beyond)));
        let in_one_place = match (first, last) {
            (Translation::Host(Host(first)), Translation::Host(Host(last))) => first.wrapping_add(beyond) == last,
            (first, last) => first == last,
        };
        match first {
            _ if !in_one_place => return None,
            Translation::Untouched => self.counts.elsewhere += 1,
            _ if space == Space::Io || self.second_stage.traps(Guest(address)) => self.counts.windows += 1,
            Translation::Host(_) => self.counts.unmapped += 1,
            Translation::Absent => self.counts.elsewhere += 1,
        }
        Some(first)
    }

    /// What a device that is busy does to the same functions: it uses its memory through every slot there is, and looks
    /// whether the slot leads to it. Whether all do.
    pub fn hammer(&mut self, pattern: u64) -> bool {
        let slots: Vec<_> = self.second_stage.slots().collect();
        slots.into_iter().all(|(guest, address)| {
            let Translation::Host(Host(host)) = self.remapper.translate(Space::Memory, Guest(guest)) else {
                return false;
            };
            let mut read = [0; 8];
            self.hardware.window_write(Space::Memory, host + HAMMERED, &pattern.to_le_bytes());
            self.hardware.window_read(Space::Memory, host + HAMMERED, &mut read);
            let leads_there = Span::new(host, 8).and_then(|span| self.hardware.mapping_of(Host(span))) == Some(address);
            leads_there && read == pattern.to_le_bytes()
        })
    }

    fn device_port_read(&mut self, port: u16, data: &mut [u8]) {
        self.counts.ports += 1;
        match port {
            SERIAL..=0x3ff if data.len() == 1 => data[0] = lock(&self.serial).read((port - SERIAL) as u8),
            // Nothing in the keyboard controller; a clock without battery; nothing to wake up from.
            0x64 | 0x71 | SLEEP..=0x601 => data.fill(0),
            _ => self.window_read(Space::Io, port.into(), data),
        }
    }

    fn device_port_write(&mut self, port: u16, data: &[u8]) -> Option<Stop> {
        self.counts.ports += 1;
        match (port, data) {
            // An error is that of a closed standard output: the guest goes on without.
            (SERIAL..=0x3ff, [byte]) => drop(lock(&self.serial).write((port - SERIAL) as u8, *byte)),
            (EXIT, [status, ..]) => return Some(Stop::SwitchedOff(*status)),
            // Sleep Enable, bit 5. There is only S5.
            (SLEEP, [control]) if control & 0x20 != 0 => return Some(Stop::SwitchedOff(0)),
            (RESET, [control]) if control & 0x04 != 0 => return Some(Stop::Reset),
            // The keyboard controller's way to reset.
            (0x64, [0xfe]) => return Some(Stop::Reset),
            (DOORBELL, [low, high, ..]) => self.ring(Guest(Bdf::from_routing_id(u16::from_le_bytes([*low, *high])))),
            (0x64 | SLEEP | RESET, _) => {}
            _ => self.window_write(Space::Io, port.into(), data),
        }
        None
    }

    fn ring(&mut self, guest: Guest<Bdf>) {
        if let Some(host) = self.remapper.to_host(guest).unwrap_or(Some(Host(guest.0))) {
            self.hardware.ring(host);
        }
    }
}

/// Brings back what a reset made a function forget.
fn make(replay: Replay<'_, TOUCHED>, hardware: &mut Hardware) {
    let state = replay.reads().map(|access| hardware.read(access));
    for write in replay.writes(state) {
        hardware.write(write.to, write.value);
    }
}

/// All of a delta, before the guest runs again.
fn apply(mut delta: MapDelta<'_, TOUCHED>, second_stage: &mut SecondStage, hardware: &Hardware) {
    while let Some(change) = delta.next() {
        if second_stage.apply(change.operation(), |host| hardware.mapping_of(host)) {
            change.confirm();
        }
    }
}

fn width(len: usize) -> Option<Width> {
    match len {
        1 => Some(Width::Byte),
        2 => Some(Width::Word),
        4 => Some(Width::Dword),
        _ => None,
    }
}

pub fn little_endian(data: &[u8]) -> u64 {
    data.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// What the guest's exits were for.
impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { config, windows, unmapped, elsewhere, ports } = self.counts;
        let slots = self.second_stage.changes;
        write!(f, "{config} configuration accesses, {slots} slot changes; exits: {windows} for trapped windows, ")?;
        write!(f, "{unmapped} for mapped ones, {elsewhere} for other memory, {ports} for other ports")
    }
}
