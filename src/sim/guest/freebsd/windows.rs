//! `pcib_alloc_resource`: addresses out of the windows of a bridge, which grow when they are full.

use std::format;
use std::vec::Vec;

use super::{FreeBsd, IO_STEP, MEMORY_STEP, Pool};
use crate::address::{Bdf, Span};
use crate::sim::guest::space::{LAST_32, align_up, halves, lowest_fit};
use crate::spec::bar::BarKind;

impl Pool {
    fn is_for(&self, kind: BarKind, root: bool) -> bool {
        let pref_misplaced = self.kind.is_prefetchable() && !kind.is_prefetchable();
        self.kind.is_memory() == kind.is_memory() && (root || !pref_misplaced)
    }
}

impl FreeBsd<'_> {
    /// Takes these very addresses, if they are free and lead to the bus.
    pub(super) fn take(&mut self, bus: usize, kind: BarKind, span: Span) -> bool {
        let root = self.buses[bus].bridge.is_none();
        let ecam = self.ecam(kind);
        let free = |pool: &&mut Pool| {
            let inside = pool.span.is_some_and(|all| all.covers(span));
            inside && !pool.taken.iter().chain(&ecam).any(|other| other.overlaps(span))
        };
        let pools = self.buses[bus].pools.iter_mut().filter(|pool| pool.is_for(kind, root));
        pools.into_iter().find(free).map(|pool| pool.taken.push(span)).is_some()
    }

    /// `pcib_alloc_resource`: room in a window, or a window made larger.
    pub(super) fn allocate(&mut self, bus: usize, kind: BarKind, size: u64, align: u64) -> Option<Span> {
        let root = self.buses[bus].bridge.is_none();
        let pools = &self.buses[bus].pools;
        let mut fitting = (0..pools.len()).filter(|pool| pools[*pool].is_for(kind, root)).collect::<Vec<_>>();
        // The prefetchable window, if there is one, before the other.
        fitting.sort_by_key(|pool| !pools[*pool].kind.is_prefetchable());
        if let Some(span) = fitting.iter().find_map(|pool| self.suballocate(bus, *pool, kind, size, align)) {
            return Some(span);
        }
        fitting.into_iter().find_map(|pool| {
            self.grow_window(bus, pool, size, align)?;
            self.suballocate(bus, pool, kind, size, align)
        })
    }

    fn suballocate(&mut self, bus: usize, pool: usize, kind: BarKind, size: u64, align: u64) -> Option<Span> {
        let ecam = self.ecam(kind);
        let pool = &mut self.buses[bus].pools[pool];
        let min = if kind.is_memory() { MEMORY_STEP } else { IO_STEP };
        let max = if kind.is_64_bit() { u64::MAX } else { LAST_32 };
        let within = pool.span?.intersection(Span::from_bounds(min, max)?)?;
        let taken = pool.taken.iter().copied().chain(ecam).collect::<Vec<_>>();
        let span = lowest_fit(within, size, &taken, |start| align_up(start, align))?;
        pool.taken.push(span);
        Some(span)
    }

    /// `pcib_grow_window`: opens a closed window, or extends one upwards or downwards.
    fn grow_window(&mut self, bus: usize, pool: usize, size: u64, align: u64) -> Option<()> {
        let (bridge, parent) = (self.buses[bus].bridge?, self.buses[bus].parent?);
        let Pool { kind, span, ref taken } = self.buses[bus].pools[pool];
        let step = if kind.is_memory() { MEMORY_STEP } else { IO_STEP };
        let Some(span) = span else {
            let span = self.allocate(parent, kind, align_up(size, step)?, align.max(step))?;
            self.open_window(bus, pool, bridge, span);
            return Some(());
        };
        let end = taken.iter().map(|other| other.last() + 1).max().unwrap_or(span.start());
        let begin = taken.iter().map(|other| other.start()).min().unwrap_or(span.last());
        let up = align_up(end, align).and_then(|start| align_up(start.checked_add(size)?, step));
        let up = up.and_then(|end| Span::from_bounds(span.last().checked_add(1)?, end.checked_sub(1)?));
        let down = begin.checked_sub(size).map(|start| start & !(align - 1) & !(step - 1));
        let down = down.and_then(|start| Span::from_bounds(start, span.start().checked_sub(1)?));
        let what = if kind.is_prefetchable() {
            "prefetch"
        } else if kind.is_memory() {
            "memory"
        } else {
            "I/O port"
        };
        let name = self.devices[bridge].bdf;
        self.log.push(format!("pcib {name}: attempting to grow {what} window for (0-0xffffffffffffffff,{size:#x})"));
        let extension = [up, down].into_iter().flatten().find(|extension| self.extend(parent, kind, *extension))?;
        let grown = Span::from_bounds(span.start().min(extension.start()), span.last().max(extension.last()))?;
        self.open_window(bus, pool, bridge, grown);
        Some(())
    }

    /// `pcib_adjust_resource`: takes these addresses, and has the windows above extended where they end before.
    fn extend(&mut self, bus: usize, kind: BarKind, span: Span) -> bool {
        if self.take(bus, kind, span) {
            return true;
        }
        let (Some(bridge), Some(parent)) = (self.buses[bus].bridge, self.buses[bus].parent) else { return false };
        let mut pools = 0..self.buses[bus].pools.len();
        let touches = |window: Span| {
            window.last().checked_add(1).is_some_and(|end| window.contains(span.start()) || end == span.start())
        };
        let Some(pool) = pools.find(|pool| {
            let pool = &self.buses[bus].pools[*pool];
            pool.is_for(kind, false) && pool.span.is_some_and(touches)
        }) else {
            return false;
        };
        let Some(window) = self.buses[bus].pools[pool].span else { return false };
        let beyond = window.last().checked_add(1).and_then(|start| Span::from_bounds(start, span.last()));
        let Some(grown) = Span::from_bounds(window.start(), span.last()) else { return false };
        if !beyond.is_some_and(|beyond| self.extend(parent, kind, beyond)) {
            return false;
        }
        self.open_window(bus, pool, bridge, grown);
        self.take(bus, kind, span)
    }

    fn open_window(&mut self, bus: usize, pool: usize, bridge: usize, span: Span) {
        let bdf = self.devices[bridge].bdf;
        self.buses[bus].pools[pool].span = Some(span);
        self.log.push(format!("pcib {bdf}: grew window to ({:#x}-{:#x})", span.start(), span.last()));
        self.write_window(bdf, self.buses[bus].pools[pool].kind, span);
    }

    /// `pcib_write_windows`.
    fn write_window(&mut self, bdf: Bdf, kind: BarKind, span: Span) {
        let ([base, base_upper], [limit, limit_upper]) = (halves(span.start()), halves(span.last()));
        let config = &mut self.config;
        let high16 = |value: u32| u16::try_from(value >> 16).unwrap_or_default();
        match kind {
            BarKind::Io => {
                if config.read8(bdf, 0x1c) & 0xf == 1 {
                    config.write16(bdf, 0x30, high16(base));
                    config.write16(bdf, 0x32, high16(limit));
                }
                config.write8(bdf, 0x1c, base.to_le_bytes()[1]);
                config.write8(bdf, 0x1d, limit.to_le_bytes()[1]);
            }
            BarKind::Memory32 { prefetchable: false } | BarKind::Memory64 { prefetchable: false } | BarKind::Rom => {
                config.write16(bdf, 0x20, high16(base));
                config.write16(bdf, 0x22, high16(limit));
            }
            BarKind::Memory32 { .. } | BarKind::Memory64 { .. } => {
                if kind.is_64_bit() {
                    config.write32(bdf, 0x28, base_upper);
                    config.write32(bdf, 0x2c, limit_upper);
                }
                config.write16(bdf, 0x24, high16(base));
                config.write16(bdf, 0x26, high16(limit));
            }
        }
    }

    fn ecam(&self, kind: BarKind) -> Option<Span> {
        self.config.firmware.ecam.filter(|_| kind.is_memory()).map(|ecam| ecam.span().0)
    }
}
