//! Free places for BARs, in the window that leads to a bus.

use crate::Parameters;
use crate::config::{Bar, Found, Function};

/// What is in a window already.
pub struct Places {
    window: (u64, u64),
    taken: [(u64, u64); 96],
    count: usize,
}

impl Places {
    /// The window that leads to the function's bus, and what the functions on it take.
    pub fn of_bus(function: Function, found: &Found, parameters: &Parameters) -> Self {
        let root = (parameters.low, parameters.high);
        let mut places = Self { window: root, taken: [(0, 0); 96], count: 0 };
        for other in found.functions().iter().copied() {
            let bridge = other.bridge();
            if let Some((secondary, [memory, _])) = bridge
                && secondary == function.bus()
            {
                places.window = memory;
            }
            if other.bus() != function.bus() || other == function {
                continue;
            }
            for window in bridge.iter().flat_map(|(_, windows)| windows) {
                places.take(window.0, window.1);
            }
            for bar in other.bars().iter().flatten().filter(|bar| bar.is_memory() && bar.address != 0) {
                places.take(bar.address, bar.address + (bar.size - 1));
            }
        }
        places
    }

    /// Takes the lowest free place for a BAR from an address on.
    pub fn next(&mut self, bar: &Bar, from: u64) -> Option<u64> {
        let align = |address: u64| (address + (bar.size - 1)) & !(bar.size - 1);
        let mut at = align(self.window.0.max(from));
        loop {
            let last = at + (bar.size - 1);
            if last > self.window.1 {
                return None;
            }
            let Some((_, end)) = self.taken[..self.count].iter().find(|(start, end)| *start <= last && at <= *end)
            else {
                self.take(at, last);
                return Some(at);
            };
            at = align(end + 1);
        }
    }

    fn take(&mut self, start: u64, end: u64) {
        if start <= end {
            self.taken[self.count] = (start, end);
            self.count += 1;
        }
    }
}
