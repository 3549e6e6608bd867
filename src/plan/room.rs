//! Room for what moves: wider windows of the bridges that lead there, where something around them is free.
//!
//! Real windows are made wider, before the guest starts, as hardware then forwards what the guest sees, wherever the guest
//! puts it later. Nothing else decodes what they gain, so it does not matter that nothing answers there.

use heapless::Vec;

use super::placement::{Place, Places, align_up, lowest_fit, reach, shown_size};
use super::way::has_hot_plug;
use super::{MAX_MOVES, Placement, Plan};
use crate::access::{Access, Dword, Lanes};
use crate::address::{Bdf, Host, Span, halves};
use crate::decision::HostWrite;
use crate::delta::Space;
use crate::spec::bar::BarKind;
use crate::spec::header::HeaderType;
use crate::spec::type1;
use crate::topology::{Bar, Function, SrIov};

/// A window of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Io,
    Memory,
    Prefetchable,
}

/// A window as it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wider {
    bridge: Host<Bdf>,
    kind: Kind,
    span: Span,
}

const BELOW_4_GIB: Span = reach(BarKind::Rom);

/// Bridges one behind the other, from the moved function up.
const MAX_DEPTH: usize = 8;

/// The windows that are to be wider.
struct Room<'p, 't> {
    plan: &'p Plan<'t>,
    places: Places,
    wider: Vec<Wider, MAX_MOVES>,
}

impl Plan<'_> {
    /// What the host writes to bridges so that what has no room in their windows gets some: BARs the
    /// [findings](Self::findings) name as [`NoRoom`](super::Cause::NoRoom) or [`NoWindow`](super::Cause::NoWindow). Nothing
    /// where everything has room, or nothing around the windows is free. The windows of host bridges have to be known
    /// ([`Topology::add_root_window`](crate::Topology::add_root_window)).
    ///
    /// Make the writes, scan again, and plan again. A window is only ever made wider. One that is closed is opened if it is
    /// that of memory, as only that is one every bridge has (7.5.1.3).
    pub fn make_room(&self) -> impl Iterator<Item = HostWrite> {
        let wider = Room::find(self).wider;
        (0..MAX_MOVES)
            .map_while(move |nth| wider.get(nth).copied())
            .flat_map(|wider| wider.writes().into_iter().flatten())
    }
}

impl<'p, 't> Room<'p, 't> {
    /// Makes room for the largest first, so that what is placed later finds the same places.
    fn find(plan: &'p Plan<'t>) -> Self {
        let mut room = Self { plan, places: Places::find(plan), wider: Vec::new() };
        for (index, relocation, bar) in Places::largest_first(plan) {
            let is_without = matches!(room.places.of(index, bar.number()), Place::NoRoom | Place::NoWindow);
            let is_kept =
                relocation.placement == Placement::PreAssigned || !room.is_contested(relocation.guest.0.bus());
            if is_without
                && is_kept
                && bar.kind() != BarKind::Rom
                && let Some(at) = room.make(relocation.guest.0.bus(), bar)
            {
                room.places.set(index, bar.number(), Place::At(at));
            }
        }
        room
    }

    /// Whether the guest gives room on a bus to the window of a bridge there rather than to a BAR without an address:
    /// Linux wants a MiB or more for slots (`pci_hotplug_mmio_size`), and places what is larger first.
    fn is_contested(&self, bus: u8) -> bool {
        let host = self.plan.host();
        host.bus(bus).filter_map(|beside| Some((beside, beside.bridge()?))).any(|(beside, bridge)| {
            let mut behind = (bridge.secondary..=bridge.subordinate).flat_map(|bus| host.bus(bus));
            bridge.memory.is_none() && (has_hot_plug(beside) || behind.any(has_hot_plug))
        })
    }

    /// Room for a BAR on a bus.
    fn make(&mut self, bus: u8, bar: &Bar) -> Option<u64> {
        let bridge = self.bridge_to(bus)?;
        let kinds = match bar.space() {
            Space::Io => [Some(Kind::Io), None],
            Space::Memory => [Some(Kind::Prefetchable).filter(|_| bar.kind().is_prefetchable()), Some(Kind::Memory)],
        };
        let (size, reach) = (shown_size(bar), reach(bar.kind()));
        kinds.into_iter().flatten().find_map(|kind| {
            let choices = self.choices(bus, bridge, kind, size);
            choices.into_iter().flatten().find_map(|at| {
                let span = Span::new(at, size).filter(|span| reach.covers(*span))?;
                let is_clear = self.places.obstacle(self.plan, bus, bar.space(), span).is_none();
                let wider = is_clear.then(|| self.lead_to(bus, kind, span))??;
                // What does not fit is not made wider.
                let is_kept = wider.iter().all(|wider| self.keep(*wider));
                is_kept.then_some(at)
            })
        })
    }

    /// Where the BAR may be: in the window once that is wider, right after it, right before it, or anywhere while it is
    /// closed.
    fn choices(&self, bus: u8, bridge: &Function, kind: Kind, size: u64) -> [Option<u64>; 3] {
        match (self.window(bridge, kind), kind) {
            (Some(own), _) => {
                let obstacle = |span| self.places.obstacle(self.plan, bus, kind.space(), span);
                let within = lowest_fit(own, size, size, obstacle);
                let after = own.last().checked_add(1).and_then(|next| align_up(next, size));
                let before = own.start().checked_sub(size).map(|at| at & !size.wrapping_sub(1));
                [within, after, before]
            }
            (None, Kind::Memory) => {
                let len = size.max(kind.granule());
                let obstacle = |span| self.decoder(bridge, kind, span);
                let mut windows = self.windows_above(bridge.bdf().0.bus(), kind);
                [windows.find_map(|window| lowest_fit(window, len, len, obstacle)), None, None]
            }
            (None, _) => [None; 3],
        }
    }

    /// The windows that have to be wider for a span to be led to on a bus.
    fn lead_to(&self, bus: u8, kind: Kind, span: Span) -> Option<Vec<Wider, MAX_DEPTH>> {
        let (mut bus, mut span, mut kind, mut wider) = (bus, span, kind, Vec::new());
        while let Some(bridge) = self.bridge_to(bus) {
            let own = self.window(bridge, kind);
            if kind == Kind::Prefetchable && own.is_none() {
                kind = Kind::Memory;
                continue;
            }
            if own.is_some_and(|own| own.covers(span)) {
                return Some(wider);
            }
            span = hull(own, span, kind.granule())?;
            if !kind.can_hold(bridge, span) || self.decoder(bridge, kind, span).is_some() {
                return None;
            }
            wider.push(Wider { bridge: bridge.bdf(), kind, span }).ok()?;
            bus = bridge.bdf().0.bus();
        }
        let mut roots = self.plan.host().root_windows(bus).filter(|window| window.space == kind.space());
        roots.any(|window| window.span.0.covers(span)).then_some(wider)
    }

    /// What lies in a span in hardware beside a bridge, or is to be.
    fn decoder(&self, bridge: &Function, kind: Kind, span: Span) -> Option<Span> {
        let (bus, space) = (bridge.bdf().0.bus(), kind.space());
        let beside = self.plan.host().bus(bus);
        let bars = beside.clone().flat_map(Function::bars).filter(|bar| bar.space() == space).filter_map(Bar::span);
        let vf_bars = beside.clone().filter_map(Function::sriov).flat_map(SrIov::spans);
        let bars = bars.chain(vf_bars.filter(|_| space == Space::Memory));
        let windows = beside.flat_map(|other| {
            let of_kind = [Kind::Io, Kind::Memory, Kind::Prefetchable].into_iter().filter(|of| of.space() == space);
            let others = of_kind.filter(|of| other.bdf() != bridge.bdf() || *of != kind);
            others.filter_map(|of| self.window(other, of))
        });
        let reserved = self.plan.reserved().iter().filter(|_| space == Space::Memory).map(|reserved| reserved.0);
        let placed = self.places.placed(self.plan, bus).filter(|(kind, _)| *kind == space).map(|(_, span)| span);
        let mut all = bars.map(|Host(span)| span).chain(windows).chain(reserved).chain(placed);
        all.find(|other| other.overlaps(span))
    }

    /// The spans that lead to the bus a bridge is on.
    fn windows_above(&self, bus: u8, kind: Kind) -> impl Iterator<Item = Span> {
        let above = self.bridge_to(bus);
        let own = above.and_then(|above| self.window(above, kind));
        let roots =
            self.plan.host().root_windows(bus).filter(move |root| above.is_none() && root.space == kind.space());
        own.into_iter().chain(roots.map(|root| root.span.0)).filter_map(|span| span.intersection(BELOW_4_GIB))
    }

    fn bridge_to(&self, bus: u8) -> Option<&'t Function> {
        self.plan.host().way_up(bus).next().filter(|bridge| bridge.header_type() == HeaderType::Type1)
    }

    /// A window as it is to be.
    fn window(&self, bridge: &Function, kind: Kind) -> Option<Span> {
        let wider = self.wider.iter().find(|wider| wider.bridge == bridge.bdf() && wider.kind == kind);
        wider.map(|wider| wider.span).or_else(|| {
            let bridge = bridge.bridge()?;
            let window = match kind {
                Kind::Io => bridge.io,
                Kind::Memory => bridge.memory,
                Kind::Prefetchable => bridge.prefetchable.map(|window| window.span),
            };
            window.map(|Host(span)| span)
        })
    }

    fn keep(&mut self, wider: Wider) -> bool {
        let earlier =
            self.wider.iter_mut().find(|earlier| earlier.bridge == wider.bridge && earlier.kind == wider.kind);
        match earlier {
            Some(earlier) => *earlier = wider,
            None => return self.wider.push(wider).is_ok(),
        }
        true
    }
}

impl Kind {
    const fn space(self) -> Space {
        match self {
            Self::Io => Space::Io,
            Self::Memory | Self::Prefetchable => Space::Memory,
        }
    }

    /// What base and limit count in (7.5.1.3.6, 7.5.1.3.8).
    const fn granule(self) -> u64 {
        match self {
            Self::Io => 0x1000,
            Self::Memory | Self::Prefetchable => 0x10_0000,
        }
    }

    /// Whether the registers of a bridge can say that it forwards a span.
    fn can_hold(self, bridge: &Function, span: Span) -> bool {
        let last = match self {
            Self::Io if bridge.header(type1::IO_WINDOW) & 0xf == 0 => 0xffff,
            Self::Prefetchable
                if bridge.bridge().and_then(|bridge| bridge.prefetchable).is_some_and(|window| window.is_64_bit) =>
            {
                u64::MAX
            }
            Self::Io | Self::Memory | Self::Prefetchable => u64::from(u32::MAX),
        };
        span.last() <= last
    }
}

impl Wider {
    /// The registers that say so (7.5.1.3). The bits that tell what a window can hold are read-only.
    fn writes(self) -> [Option<HostWrite>; 3] {
        let [start, last] = [self.span.start(), self.span.last()];
        let [start_low, start_high] = halves(start);
        let [last_low, last_high] = halves(last);
        let write = |dword: Dword, value| HostWrite { to: Host(Access::whole(self.bridge.0, dword)), value };
        let memory = last_low & 0xfff0_0000 | start_low >> 16 & 0xfff0;
        match self.kind {
            Kind::Io => {
                let window = last_low & 0xf000 | start_low >> 8 & 0xf0;
                let upper = last_low & 0xffff_0000 | start_low >> 16;
                let lower = write(type1::IO_WINDOW, window);
                [
                    Lanes::run(0, 2).map(|lanes| HostWrite { to: lower.to.map(|to| to.with_lanes(lanes)), ..lower }),
                    Some(write(type1::IO_UPPER, upper)),
                    None,
                ]
            }
            Kind::Memory => [Some(write(type1::MEMORY_WINDOW, memory)), None, None],
            Kind::Prefetchable => [
                Some(write(type1::PREFETCHABLE_WINDOW, memory)),
                Some(write(type1::PREFETCHABLE_BASE_UPPER, start_high)),
                Some(write(type1::PREFETCHABLE_LIMIT_UPPER, last_high)),
            ],
        }
    }
}

/// The smallest window around both.
fn hull(own: Option<Span>, span: Span, granule: u64) -> Option<Span> {
    let mask = granule.wrapping_sub(1);
    let own = own.unwrap_or(span);
    Span::from_bounds(own.start().min(span.start()) & !mask, own.last().max(span.last()) | mask)
}
