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
}

/// Most functions an [`Index`] tells apart.
pub(super) const MAX_FUNCTIONS: usize = 253;

/// The guest addresses a plan touches, on at most `B` buses.
#[derive(Debug, Clone)]
pub(super) struct Index<const B: usize> {
    /// 0, or the number of a bus with touched addresses, counted from 1.
    bus: [u8; 256],
    /// By device and function number: 0 plain, 1 absent, else the index of a touched function plus 2.
    buses: Vec<[u8; 256], B>,
}

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
        // Zero wraps to a place no bus has.
        let codes = self.buses.get(usize::from(code(&self.bus, function.0.bus())).wrapping_sub(1));
        match codes.map_or(PLAIN, |codes| code(codes, function.0.devfn())) {
            PLAIN => Entry::Plain,
            ABSENT => Entry::Absent,
            code => Entry::Touched(usize::from(code.wrapping_sub(FIRST))),
        }
    }

    /// Puts something at a guest address; `Err` holds the bus there is no room for.
    pub(super) fn set(&mut self, function: Guest<Bdf>, entry: Entry) -> Result<(), u8> {
        let bus = function.0.bus();
        let number = match self.number(bus) {
            Some(number) => number,
            None => self.add(bus).ok_or(bus)?,
        };
        let code = match entry {
            Entry::Plain => PLAIN,
            Entry::Absent => ABSENT,
            Entry::Touched(index) => u8::try_from(index).ok().and_then(|index| index.checked_add(FIRST)).ok_or(bus)?,
        };
        let place = self.buses.get_mut(number).and_then(|codes| codes.get_mut(usize::from(function.0.devfn())));
        *place.ok_or(bus)? = code;
        Ok(())
    }

    #[inline]
    fn number(&self, bus: u8) -> Option<usize> {
        usize::from(code(&self.bus, bus)).checked_sub(1)
    }

    fn add(&mut self, bus: u8) -> Option<usize> {
        let number = self.buses.len();
        self.buses.push([PLAIN; 256]).ok()?;
        *self.bus.get_mut(usize::from(bus))? = u8::try_from(self.buses.len()).ok()?;
        Some(number)
    }
}

/// A table of 256 has a place for every byte.
#[inline]
fn code(codes: &[u8; 256], at: u8) -> u8 {
    codes.get(usize::from(at)).copied().unwrap_or(PLAIN)
}
