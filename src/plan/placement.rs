//! Where the BARs of moved functions fit: in the windows that lead to their new bus, clear of what is there.
//!
//! The order and the rules are Linux's (`__pci_assign_resource`), so that what fits here fits there: largest first,
//! lowest place first, prefetchable BARs in the prefetchable window or else in the other, all others in the other only.

use heapless::Vec;

use super::{IoBars, MAX_MOVES, Plan, Relocation};
use crate::address::{Bdf, Guest, Host, Span};
use crate::delta::Space;
use crate::spec::bar::BarKind;
use crate::topology::{Bar, Bridge, Function, SrIov};

/// What became of one BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// There is no such BAR, or it is not shown.
    None,
    /// It is shown; nothing is known about windows.
    Unknown,
    /// It fits here.
    At(u64),
    /// No window takes its kind.
    NoWindow,
    /// No window has room.
    NoRoom,
}

/// Most BARs of functions that stay which the guest places beside what moved.
const MAX_OTHERS: usize = 32;

/// The places of all BARs of all moved functions.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    places: [[Place; 7]; MAX_MOVES],
    /// Places, on their bus, of BARs of functions that stay for which firmware had none.
    others: Vec<(u8, Space, Span), MAX_OTHERS>,
}

impl Places {
    /// Places everything, largest first.
    pub(crate) fn find(plan: &Plan<'_>) -> Self {
        let mut places = Self { places: [[Place::None; 7]; MAX_MOVES], others: Vec::new() };
        let mut others: Vec<_, MAX_OTHERS> = Vec::new();
        for other in without_address(plan) {
            // What is beyond so many the guest may put anywhere.
            let _ = others.push(other);
        }
        for size in sizes() {
            for (bus, bar) in others.iter().filter(|(_, bar)| bar.size() == size) {
                places.place_other(plan, *bus, bar);
            }
            for (index, relocation, bar) in of_size(plan, size) {
                let place = places.place(plan, relocation, bar);
                places.set(index, bar.number(), place);
            }
        }
        places.hide_optional_io(plan);
        places
    }

    /// All BARs that are shown, with the number of the move.
    pub(super) fn largest_first<'p>(plan: &'p Plan<'_>) -> impl Iterator<Item = (usize, Relocation, &'p Bar)> {
        sizes().flat_map(move |size| of_size(plan, size))
    }

    /// Linux gives what has no address room together with what moved, Expansion ROMs too.
    fn place_other(&mut self, plan: &Plan<'_>, bus: u8, bar: &Bar) {
        let size = bar.size();
        let found = find_fit(plan, bus, bar.kind(), size, size, |span| self.obstacle(plan, bus, bar.space(), span));
        if let Place::At(at) = found
            && let Some(span) = Span::new(at, size)
        {
            // There is room for all.
            let _ = self.others.push((bus, bar.space(), span));
        }
    }

    pub(super) fn set(&mut self, index: usize, bar: usize, place: Place) {
        if let Some(slot) = self.places.get_mut(index).and_then(|places| places.get_mut(bar)) {
            *slot = place;
        }
    }

    /// What became of a BAR of the `index`th move.
    pub(crate) fn of(&self, index: usize, bar: usize) -> Place {
        self.places.get(index).and_then(|places| places.get(bar)).copied().unwrap_or(Place::None)
    }

    /// Drivers that have memory BARs do without I/O, and Linux does not enable a function of which one BAR has no
    /// place (`pci_enable_resources`): an I/O BAR without a place is better not there.
    fn hide_optional_io(&mut self, plan: &Plan<'_>) {
        for (places, relocation) in self.places.iter_mut().zip(plan.relocations()) {
            let Some(function) = plan.host().function(relocation.host) else { continue };
            let has_memory = function.bars().any(|bar| bar.space() == Space::Memory && bar.kind() != BarKind::Rom);
            for bar in function.bars().filter(|bar| has_memory && bar.space() == Space::Io) {
                if let Some(place @ (Place::NoRoom | Place::NoWindow)) = places.get_mut(bar.number()) {
                    *place = Place::None;
                }
            }
        }
    }

    fn place(&self, plan: &Plan<'_>, relocation: Relocation, bar: &Bar) -> Place {
        let (bus, size) = (relocation.guest.0.bus(), shown_size(bar));
        find_fit(plan, bus, bar.kind(), size, size, |span| self.obstacle(plan, bus, bar.space(), span))
    }

    /// Something on the bus that has addresses in the span already.
    pub(super) fn obstacle(&self, plan: &Plan<'_>, bus: u8, space: Space, span: Span) -> Option<Span> {
        // Ports that an ISA device decodes by 10 bits Linux keeps free (`pcibios_align_resource`).
        if space == Space::Io && span.start() & 0x300 != 0 {
            return Span::from_bounds(span.start(), span.start() | 0x3ff);
        }
        let host = plan.host();
        let staying = host.bus(bus).filter(|function| plan.stays(function.bdf()));
        // What stands where a function left keeps its addresses, but no ROM.
        let inert = plan.inert().filter(|left| left.0.bus() == bus).filter_map(|left| host.function(left));
        let kept = inert.flat_map(Function::bars).filter(|bar| bar.kind() != BarKind::Rom);
        let bars = staying.clone().flat_map(Function::bars).chain(kept);
        let bars = bars.filter(|bar| bar.space() == space).filter_map(Bar::span);
        let vf_bars = staying.clone().filter_map(Function::sriov).flat_map(SrIov::spans);
        let vf_bars = vf_bars.filter(|_| space == Space::Memory);
        let behind = staying.filter_map(Function::bridge).flat_map(|bridge| bridge.windows(space));
        let reserved = plan.reserved().iter().filter(|_| space == Space::Memory).map(|reserved| reserved.0);
        let placed = self.placed(plan, bus).filter(|(kind, _)| *kind == space).map(|(_, span)| span);
        let host_spans = bars.chain(vf_bars).chain(behind).map(|Host(span)| span);
        host_spans.chain(reserved).chain(placed).find(|other| other.overlaps(span))
    }

    /// What was placed on the bus so far.
    pub(super) fn placed(&self, plan: &Plan<'_>, bus: u8) -> impl Iterator<Item = (Space, Span)> {
        let moves = plan.relocations().iter().zip(&self.places);
        let here = moves.filter(move |(relocation, _)| relocation.guest.0.bus() == bus);
        let placed = here.flat_map(move |(relocation, places)| {
            let bars = plan.host().function(relocation.host).into_iter().flat_map(Function::bars);
            bars.filter_map(move |bar| match places.get(bar.number()) {
                Some(Place::At(at)) => Some((bar.space(), Span::new(*at, shown_size(bar))?)),
                _ => None,
            })
        });
        let others = self.others.iter().filter(move |(on, ..)| *on == bus).map(|(_, space, span)| (*space, *span));
        placed.chain(others)
    }
}

/// All sizes of BARs, the largest first.
fn sizes() -> impl Iterator<Item = u64> {
    (0..63).rev().map(|bit| 1 << bit)
}

/// The BARs of this size that are shown, with the number of the move.
fn of_size<'p>(plan: &'p Plan<'_>, size: u64) -> impl Iterator<Item = (usize, Relocation, &'p Bar)> {
    plan.relocations().iter().copied().enumerate().flat_map(move |(index, relocation)| {
        let bars = plan.host().function(relocation.host).into_iter().flat_map(Function::bars);
        let bars = bars.filter(move |bar| shown_size(bar) == size && is_shown(plan, relocation, bar));
        bars.map(move |bar| (index, relocation, bar))
    })
}

/// BARs of functions that stay on a bus something moves to, without an address the guest could keep.
fn without_address<'p>(plan: &'p Plan<'_>) -> impl Iterator<Item = (u8, &'p Bar)> {
    let buses = plan.relocations().iter().map(|relocation| relocation.guest.0.bus()).enumerate();
    let earlier = |nth| plan.relocations().iter().take(nth).map(|relocation| relocation.guest.0.bus());
    let buses = buses.filter(move |(nth, bus)| earlier(*nth).all(|other| other != *bus)).map(|(_, bus)| bus);
    buses.flat_map(move |bus| {
        let staying = plan.host().bus(bus).filter(|function| plan.stays(function.bdf()));
        let is_without = move |bar: &&Bar| {
            let mut windows = windows(plan, bus, bar.kind()).peekable();
            let is_kept = |Host(span)| windows.peek().is_none() || windows.any(|window| window.covers(span));
            !bar.span().is_some_and(is_kept)
        };
        staying.flat_map(Function::bars).filter(is_without).map(move |bar| (bus, bar))
    })
}

/// The size the guest finds: memory BARs are at least a page, so that no two share one.
pub(crate) fn shown_size(bar: &Bar) -> u64 {
    if bar.space() == Space::Memory { bar.size().max(0x1000) } else { bar.size() }
}

fn is_shown(plan: &Plan<'_>, relocation: Relocation, bar: &Bar) -> bool {
    is_reached(plan, relocation.host, bar) && (bar.space() == Space::Memory || relocation.io_bars == IoBars::Forward)
}

/// Whether the BAR has an address and the bridges above the function forward it. Firmware leaves BARs outside their
/// windows, also switched off ones; what answers at such an address is something else, RAM perhaps.
pub(crate) fn is_reached(plan: &Plan<'_>, function: Host<Bdf>, bar: &Bar) -> bool {
    let Some(Host(span)) = bar.span() else { return false };
    let forwards = |bridge: Bridge| bridge.windows(bar.space()).any(|Host(window)| window.covers(span));
    let mut way = plan.host().way_up(function.0.bus());
    way.all(|above| above.bridge().is_none_or(forwards) || above.decodes_subtractively())
}

/// A place on a bus for `size` bytes of a kind.
pub(super) fn find_fit(
    plan: &Plan<'_>,
    bus: u8,
    kind: BarKind,
    size: u64,
    align: u64,
    obstacle: impl Fn(Span) -> Option<Span>,
) -> Place {
    let mut any = false;
    for window in windows(plan, bus, kind) {
        any = true;
        if let Some(at) = lowest_fit(window, size, align, &obstacle) {
            return Place::At(at);
        }
    }
    // Whoever tells windows tells all of them: a root bus without one has none. A bus nothing leads to is found wrong
    // for that alone.
    let knows_all = plan.host().is_root_bus(bus) && plan.host().knows_root_windows();
    let nothing_known = plan.host().bridge_to(bus).is_none() && !knows_all;
    match any {
        true => Place::NoRoom,
        false if nothing_known => Place::Unknown,
        false => Place::NoWindow,
    }
}

/// The lowest place in a window where there is no obstacle; `align` is a power of two.
pub(super) fn lowest_fit(window: Span, size: u64, align: u64, obstacle: impl Fn(Span) -> Option<Span>) -> Option<u64> {
    let mut at = align_up(window.start().max(1), align)?;
    loop {
        let span = Span::new(at, size)?;
        if !window.covers(span) {
            return None;
        }
        match obstacle(span) {
            Some(obstacle) => at = align_up(obstacle.last().checked_add(1)?, align)?,
            None => return Some(at),
        }
    }
}

/// The windows that lead to a bus and take this kind of BAR, best first, cut to what its register can hold.
pub(super) fn windows(plan: &Plan<'_>, bus: u8, kind: BarKind) -> impl Iterator<Item = Span> {
    let space = if kind.is_memory() { Space::Memory } else { Space::Io };
    let bridge = plan.host().bridge_to(bus).and_then(Function::bridge);
    let behind_bridge = bridge.map_or([None, None], |bridge| match space {
        Space::Io => [bridge.io, None],
        Space::Memory => {
            let prefetchable = bridge.prefetchable.map(|window| window.span);
            [prefetchable.filter(|_| kind.is_prefetchable()), bridge.memory]
        }
    });
    let root = plan.host().root_windows(bus).filter(move |window| bridge.is_none() && window.space == space);
    let spans = behind_bridge.into_iter().flatten().chain(root.map(|window| window.span)).map(|Host(span)| span);
    spans.filter_map(move |span| reach(kind).intersection(span))
}

/// Where a BAR of this kind may be. The last byte of 4 GiB is left alone: a BAR there cannot be told from one that is
/// being sized. The first 4 KiB of I/O Space belong to devices that are not PCI's (`PCIBIOS_MIN_IO`).
pub(super) const fn reach(kind: BarKind) -> Span {
    match kind {
        BarKind::Io => Span::of(0x1000, 0xffff_efff),
        BarKind::Memory64 { .. } => Span::of(0, u64::MAX),
        BarKind::Memory32 { .. } | BarKind::Rom => Span::of(0, 0xffff_ffff),
    }
}

/// `size` is a power of two.
pub(super) fn align_up(address: u64, size: u64) -> Option<u64> {
    let mask = size.wrapping_sub(1);
    Some(address.checked_add(mask)? & !mask)
}

/// Whether the page around a small BAR holds nothing else, so that the page may be mapped for it.
pub(crate) fn has_page_to_itself(plan: &Plan<'_>, owner: &Function, bar: &Bar) -> bool {
    let Some(Host(span)) = bar.span() else { return false };
    let page = span.pages();
    let alone = plan.host().functions().iter().all(|function| {
        function.bars().filter(|other| other.space() == Space::Memory).all(|other| {
            let same = function.bdf() == owner.bdf() && other.number() == bar.number();
            same || other.span().is_none_or(|Host(other)| !other.overlaps(page))
        })
    });
    alone && span.start() == page.start()
}

/// The guest address a pre-assigned BAR starts with.
pub(crate) fn guest_address(place: Place) -> Option<Guest<u64>> {
    match place {
        Place::At(at) => Some(Guest(at)),
        _ => None,
    }
}
