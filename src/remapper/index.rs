//! From guest address to what the plan makes of it, in two loads: bus, then device and function.

use heapless::Vec;

use crate::address::{Bdf, Guest};

/// What is at a guest address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// What the hardware has there.
    Plain,
    /// Nothing.
    Absent,
    /// The touched function with this index.
    Touched(usize),
    /// What the hardware has on another bus, at the same device and function number.
    OnBus(u8),
}

/// Most functions an [`Index`] tells apart.
pub(super) const MAX_FUNCTIONS: usize = 253;

/// The guest addresses a plan touches, on at most `B` buses.
#[derive(Debug, Clone)]
pub(super) struct Index<const B: usize> {
    /// By the number the guest knows a bus by now: 0, or the place of a touched bus, counted from 1.
    bus: [u8; 256],
    buses: Vec<Bus, B>,
}

/// A bus with touched addresses.
#[derive(Debug, Clone)]
struct Bus {
    /// By device and function number: 0 plain, 1 absent, else the index of a touched function plus 2.
    codes: [u8; 256],
    /// The number it has in hardware.
    host: u8,
    /// Where bus numbers are virtual: the number the guest gave it, and the last one behind it.
    range: Option<(u8, u8)>,
}

/// In `Index::bus`: no bridge leads to this number now.
const NOWHERE: u8 = u8::MAX;

const PLAIN: u8 = 0;
const ABSENT: u8 = 1;
const FIRST: u8 = 2;

impl<const B: usize> Index<B> {
    pub(super) const fn new() -> Self {
        Self { bus: [0; 256], buses: Vec::new() }
    }

    pub(super) fn clear(&mut self) {
        self.bus = [0; 256];
        self.buses.clear();
    }

    #[inline]
    pub(super) fn entry(&self, function: Guest<Bdf>) -> Entry {
        let number = function.0.bus();
        // Zero wraps to a place no bus has.
        let place = code(&self.bus, number);
        let Some(bus) = self.buses.get(usize::from(place).wrapping_sub(1)) else {
            return if place == NOWHERE { Entry::Absent } else { Entry::Plain };
        };
        match code(&bus.codes, function.0.devfn()) {
            PLAIN if bus.host == number => Entry::Plain,
            PLAIN => Entry::OnBus(bus.host),
            ABSENT => Entry::Absent,
            code => Entry::Touched(usize::from(code.wrapping_sub(FIRST))),
        }
    }

    /// Puts something at a guest address; `Err` holds the bus there is no room for.
    pub(super) fn set(&mut self, function: Guest<Bdf>, entry: Entry) -> Result<(), u8> {
        let bus = function.0.bus();
        let place = self.touch(bus)?;
        let code = match entry {
            Entry::Plain | Entry::OnBus(_) => PLAIN,
            Entry::Absent => ABSENT,
            Entry::Touched(index) => u8::try_from(index).ok().and_then(|index| index.checked_add(FIRST)).ok_or(bus)?,
        };
        let codes = self.buses.get_mut(place).map(|bus| &mut bus.codes);
        *codes.and_then(|codes| codes.get_mut(usize::from(function.0.devfn()))).ok_or(bus)? = code;
        Ok(())
    }

    /// The place of a bus with touched addresses, made if it is not one yet; `Err` when there is no room.
    pub(super) fn touch(&mut self, bus: u8) -> Result<usize, u8> {
        if let Some(place) = self.place(bus).filter(|place| *place < self.buses.len()) {
            return Ok(place);
        }
        let place = self.buses.len();
        let code = u8::try_from(place).ok().and_then(|place| place.checked_add(1)).filter(|code| *code < NOWHERE);
        let new = Bus { codes: [PLAIN; 256], host: bus, range: None };
        self.buses.push(new).map_err(|_| bus)?;
        *self.bus.get_mut(usize::from(bus)).ok_or(bus)? = code.ok_or(bus)?;
        Ok(place)
    }

    /// No bridge leads anywhere: but for root buses, every number is nowhere.
    pub(super) fn close_bridges(&mut self, is_root: impl Fn(u8) -> bool) {
        for (number, place) in (0..=u8::MAX).zip(&mut self.bus) {
            if !is_root(number) {
                *place = NOWHERE;
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
        let free = code(&self.bus, secondary) == NOWHERE;
        let (Some(bus), Ok(place)) = (self.buses.get_mut(to), u8::try_from(to)) else { return };
        if within && free && secondary <= subordinate {
            bus.range = Some((secondary, subordinate));
            if let Some(slot) = self.bus.get_mut(usize::from(secondary)) {
                *slot = place.saturating_add(1);
            }
        }
    }

    #[inline]
    fn place(&self, bus: u8) -> Option<usize> {
        usize::from(code(&self.bus, bus)).checked_sub(1)
    }
}

/// A table of 256 has a place for every byte.
#[inline]
fn code(codes: &[u8; 256], at: u8) -> u8 {
    codes.get(usize::from(at)).copied().unwrap_or(PLAIN)
}
