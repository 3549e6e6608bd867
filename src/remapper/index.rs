//! From guest address to what the plan makes of it, in two loads: bus, then device and function.

use heapless::Vec;

use super::state::Fingerprint;
use crate::address::{Bdf, Guest, Host};
use crate::plan::MAX_FOLLOWED;

/// What is at a guest address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// What the hardware has there.
    Plain,
    /// Nothing.
    Absent,
    /// The touched function with this index.
    Touched(usize),
    /// What the hardware has on a bus of another number.
    Elsewhere,
    /// A Virtual Function of the followed function with this number.
    Virtual(usize),
}

/// Most functions an [`Index`] tells apart.
pub(super) const MAX_FUNCTIONS: usize = VIRTUAL as usize;
const _: () = assert!(MAX_FOLLOWED == (ABSENT - VIRTUAL) as usize, "each has a code");

/// The guest addresses a plan touches, on at most `B` buses.
#[derive(Debug, Clone)]
pub(super) struct Index<const B: usize> {
    /// By the number the guest knows a bus by now: 0 for one without touched addresses, [`NOWHERE`], or the place of a
    /// touched bus, counted from 1.
    ways: [u8; 256],
    /// By place, then by device and function number: a code.
    codes: [[u8; 256]; B],
    buses: Vec<Bus, B>,
}

/// A bus with touched addresses.
#[derive(Debug, Clone)]
struct Bus {
    /// The number it has in hardware.
    host: u8,
    /// Where bus numbers are virtual: the number the guest gave it, and the last one behind it.
    range: Option<(u8, u8)>,
}

/// In `Index::ways`: no bridge leads to this number now.
const NOWHERE: u8 = u8::MAX;

/// Codes that are no index of a touched function: what the hardware has there; the same, on a bus the guest knows by
/// another number; nothing; from `VIRTUAL` on a Virtual Function, by whose it is.
const PLAIN: u8 = 255;
const RENAMED: u8 = 254;
const ABSENT: u8 = 253;
const VIRTUAL: u8 = 245;

impl<const B: usize> Index<B> {
    pub(super) const fn new() -> Self {
        Self { ways: [0; 256], codes: [[PLAIN; 256]; B], buses: Vec::new() }
    }

    pub(super) fn clear(&mut self) {
        self.ways = [0; 256];
        self.codes = [[PLAIN; 256]; B];
        self.buses.clear();
    }

    #[inline]
    pub(super) fn entry(&self, function: Guest<Bdf>) -> Entry {
        let way = self.way(function.0.bus());
        // Zero wraps to a place no bus has.
        let Some(codes) = self.codes.get(usize::from(way).wrapping_sub(1)) else {
            return if way == 0 { Entry::Plain } else { Entry::Absent };
        };
        match codes.get(usize::from(function.0.devfn())).copied().unwrap_or(PLAIN) {
            PLAIN => Entry::Plain,
            index if index < VIRTUAL => Entry::Touched(index.into()),
            ABSENT => Entry::Absent,
            RENAMED => Entry::Elsewhere,
            followed => Entry::Virtual(followed.wrapping_sub(VIRTUAL).into()),
        }
    }

    /// The index of the touched function at a guest address; no index where there is none.
    #[inline]
    pub(super) fn code(&self, function: Guest<Bdf>) -> u8 {
        let place = usize::from(self.way(function.0.bus())).wrapping_sub(1);
        let code = self.codes.get(place).and_then(|codes| codes.get(usize::from(function.0.devfn())));
        code.copied().unwrap_or(PLAIN)
    }

    /// Of which followed function there is a Virtual Function at a guest address.
    #[inline]
    pub(super) fn followed(&self, function: Guest<Bdf>) -> Option<usize> {
        let number = usize::from(self.code(function).wrapping_sub(VIRTUAL));
        if number < MAX_FOLLOWED { Some(number) } else { None }
    }

    /// Puts something at a guest address; `Err` holds the bus there is no room for.
    pub(super) fn set(&mut self, function: Guest<Bdf>, entry: Entry) -> Result<(), u8> {
        let bus = function.0.bus();
        let place = self.touch(bus)?;
        let code = match entry {
            Entry::Plain => PLAIN,
            Entry::Elsewhere => RENAMED,
            Entry::Absent => ABSENT,
            Entry::Touched(index) => u8::try_from(index).ok().filter(|index| *index < VIRTUAL).ok_or(bus)?,
            Entry::Virtual(followed) => {
                let code = u8::try_from(followed).ok().and_then(|followed| followed.checked_add(VIRTUAL));
                code.filter(|code| *code < ABSENT).ok_or(bus)?
            }
        };
        let codes = self.codes.get_mut(place).ok_or(bus)?;
        *codes.get_mut(usize::from(function.0.devfn())).ok_or(bus)? = code;
        Ok(())
    }

    /// The place of a bus with touched addresses, made if it is not one yet; `Err` when there is no room.
    pub(super) fn touch(&mut self, bus: u8) -> Result<usize, u8> {
        if let Some(place) = self.buses.iter().position(|touched| touched.host == bus) {
            return Ok(place);
        }
        let place = self.buses.len();
        let way = u8::try_from(place).ok().and_then(|place| place.checked_add(1)).filter(|way| *way < NOWHERE);
        self.buses.push(Bus { host: bus, range: None }).map_err(|_| bus)?;
        *self.ways.get_mut(usize::from(bus)).ok_or(bus)? = way.ok_or(bus)?;
        Ok(place)
    }

    /// No bridge leads anywhere: but for root buses, every number is nowhere.
    pub(super) fn close_bridges(&mut self, is_root: impl Fn(u8) -> bool) {
        for (number, way) in (0..=u8::MAX).zip(&mut self.ways) {
            if !is_root(number) {
                *way = NOWHERE;
            }
        }
        for bus in &mut self.buses {
            bus.range = None;
        }
    }

    /// A bridge on the bus at `from` (a root bus for `None`) leads to the bus at `to` by these numbers, if they lie
    /// within those of the bridge above and no other bridge has them.
    pub(super) fn lead(&mut self, from: Option<usize>, to: usize, secondary: u8, subordinate: u8) {
        let above = match from {
            None => Some((0, u8::MAX)),
            Some(place) => self.buses.get(place).and_then(|bus| bus.range),
        };
        let within = above.is_some_and(|(first, last)| first < secondary && secondary <= last);
        let free = self.way(secondary) == NOWHERE;
        let (Some(bus), Ok(place)) = (self.buses.get_mut(to), u8::try_from(to)) else { return };
        if within && free && secondary <= subordinate {
            bus.range = Some((secondary, subordinate));
            let plain = if bus.host == secondary { PLAIN } else { RENAMED };
            let codes = self.codes.get_mut(to).map(<[u8; 256]>::as_mut_slice).unwrap_or_default();
            codes.iter_mut().filter(|code| matches!(**code, PLAIN | RENAMED)).for_each(|code| *code = plain);
            if let Some(way) = self.ways.get_mut(usize::from(secondary)) {
                *way = place.saturating_add(1);
            }
        }
    }

    /// The number the guest knows a bus of the host by now; `None` when none leads there.
    pub(super) fn number_of(&self, host: u8) -> Option<u8> {
        match self.buses.iter().position(|bus| bus.host == host) {
            Some(place) => (0..=u8::MAX).find(|number| usize::from(self.way(*number)).checked_sub(1) == Some(place)),
            None => Some(host).filter(|number| self.way(*number) == 0),
        }
    }

    pub(super) fn identify(&self, fingerprint: &mut Fingerprint) {
        // The ways follow from the bus numbers, and so does which of its codes for the hardware's a bus has.
        let Self { ways: _, codes, buses } = self;
        fingerprint.add_count(buses.len());
        for (Bus { host, range: _ }, codes) in buses.iter().zip(codes) {
            fingerprint.add(*host);
            for code in codes {
                fingerprint.add_byte(match *code {
                    RENAMED => PLAIN,
                    // Which Virtual Functions there are follows from registers.
                    VIRTUAL..=ABSENT => ABSENT,
                    code => code,
                });
            }
        }
    }

    /// Where the hardware has what the guest means by an address; `None` when no bridge leads to the bus.
    pub(super) fn on_hardware(&self, function: Guest<Bdf>) -> Option<Host<Bdf>> {
        match self.way(function.0.bus()) {
            0 => Some(Host(function.0)),
            way => {
                let bus = self.buses.get(usize::from(way).wrapping_sub(1))?;
                Some(Host(function.0.on_bus(bus.host)))
            }
        }
    }

    #[inline]
    fn way(&self, bus: u8) -> u8 {
        self.ways.get(usize::from(bus)).copied().unwrap_or(0)
    }
}
