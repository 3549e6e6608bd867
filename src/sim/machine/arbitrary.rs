//! Random machines that firmware could have left behind: bus numbers and windows nest, BARs do not overlap.

use std::ops::RangeInclusive;
use std::vec;
use std::vec::Vec;

use arbitrary::{Arbitrary, Result, Unstructured};

use super::{Blueprint, Builder, Capability, ExtendedCapability, Quirks, VfBar, Windows};
use crate::address::{Bdf, Span};
use crate::spec::bar::BarKind;
use crate::spec::express::PortType;
use crate::spec::header::Command;

/// Up to four Root Ports with endpoints, switches or conventional bridges behind them, and endpoints on the root bus.
/// Every bridge is enabled; functions have any Command. BARs lie in the windows above them, or read zero where those
/// are full or absent.
impl<'a> Arbitrary<'a> for Builder {
    fn arbitrary(source: &mut Unstructured<'a>) -> Result<Self> {
        let windows = [Self::LOW_MEMORY, Self::HIGH_MEMORY, Self::PORTS];
        let mut plan = Plan { builder: Self::new().root(0x00..=0xff, &windows), next_bus: 1 };
        for port in 0..source.int_in_range(1..=4_u8)? {
            plan.root_port(port, source)?;
        }
        let mut room = Room::new(Windows::memory(span(0xf000_0000, 0x0800_0000)));
        for device in 0x10..0x10 + source.int_in_range(0..=3_u8)? {
            plan.device(bdf(0, device), PortType::RootComplexIntegratedEndpoint, &mut room, source)?;
        }
        Ok(plan.builder)
    }
}

struct Plan {
    builder: Builder,
    next_bus: u8,
}

impl Plan {
    fn root_port(&mut self, index: u8, source: &mut Unstructured<'_>) -> Result<()> {
        let own = bdf(0, index + 1);
        let start = u64::from(index);
        let windows = Windows {
            io: optional(source, span(0x1000 + start * 0x3000, 0x3000))?,
            memory: optional(source, span(0x9000_0000 + start * 0x0400_0000, 0x0400_0000))?,
            prefetchable: optional(source, span(0x10_0000_0000 + (start << 32), 1 << 32))?,
        };
        let bus = self.bus(source)?;
        match source.int_in_range(0..=3_u8)? {
            0 => (),
            1 => self.device(bdf(bus, 0), PortType::Endpoint, &mut Room::new(windows), source)?,
            2 => self.switch(bus, windows, source)?,
            _ => {
                let behind = self.bus(source)?;
                let mut room = Room::new(windows);
                for device in 0..source.int_in_range(1..=3_u8)? {
                    self.device(bdf(behind, device), PortType::Reserved, &mut room, source)?;
                }
                let bridge = Blueprint::port(bdf(bus, 0), PortType::PciExpressToPciBridge, self.from(behind), windows);
                self.add(bridge);
            }
        }
        self.add(Blueprint::port(own, PortType::RootPort, self.from(bus), windows));
        Ok(())
    }

    fn switch(&mut self, bus: u8, windows: Windows, source: &mut Unstructured<'_>) -> Result<()> {
        let inside = self.bus(source)?;
        for port in 0..source.int_in_range(1..=3_u8)? {
            let part = |window: Option<Span>, parts: u64| {
                let len = window.map_or(0, |window| window.len() / parts);
                window.and_then(|window| Span::new(window.start() + u64::from(port) * len, len))
            };
            let below = Windows {
                io: part(windows.io, 3),
                memory: part(windows.memory, 4),
                prefetchable: part(windows.prefetchable, 4),
            };
            let behind = self.bus(source)?;
            self.device(bdf(behind, 0), PortType::Endpoint, &mut Room::new(below), source)?;
            self.add(Blueprint::port(bdf(inside, port), PortType::DownstreamPort, self.from(behind), below));
        }
        self.add(Blueprint::port(bdf(bus, 0), PortType::UpstreamPort, self.from(inside), windows));
        Ok(())
    }

    /// A device of one to three functions. `kind` is Reserved for conventional ones.
    fn device(&mut self, first: Bdf, kind: PortType, room: &mut Room, source: &mut Unstructured<'_>) -> Result<()> {
        let functions = source.int_in_range(1..=3_u8)?;
        for number in 0..functions {
            let next = if number + 1 < functions { number + 1 } else { 0 };
            let mut function = endpoint(first.with_function(number), room, source)?;
            if kind != PortType::Reserved {
                function = capabilities(function.capability(&Capability::Express(kind)), next, source)?;
            }
            if functions == 1 && kind == PortType::Endpoint && source.ratio(1, 8)? {
                function = function.quirk(Quirks::ANSWERS_EVERY_DEVICE);
            }
            self.add(function);
        }
        Ok(())
    }

    fn add(&mut self, blueprint: Blueprint) {
        self.builder = std::mem::take(&mut self.builder).function(blueprint);
    }

    /// A bus number; sometimes numbers in between stay unused.
    fn bus(&mut self, source: &mut Unstructured<'_>) -> Result<u8> {
        let bus = self.next_bus + source.int_in_range(0..=2)?;
        self.next_bus = bus + 1;
        Ok(bus)
    }

    /// The buses from this one to the last that is in use.
    fn from(&self, bus: u8) -> RangeInclusive<u8> {
        bus..=self.next_bus - 1
    }
}

fn endpoint(bdf: Bdf, room: &mut Room, source: &mut Unstructured<'_>) -> Result<Blueprint> {
    let command = Command::from_bits_truncate(source.int_in_range(0..=7)?);
    let mut function = Blueprint::endpoint(bdf).command(command);
    let mut index = 0;
    while index < 6 {
        let prefetchable = source.arbitrary()?;
        let (kind, size) = match source.int_in_range(0..=3_u8)? {
            0 => (None, 0),
            1 => (Some(BarKind::Io), 4 << source.int_in_range(0..=6)?),
            2 => (Some(BarKind::Memory32 { prefetchable }), 16 << source.int_in_range(0..=16)?),
            _ => (Some(BarKind::Memory64 { prefetchable }).filter(|_| index < 5), 16 << source.int_in_range(0..=22)?),
        };
        if let Some(kind) = kind {
            function = function.bar(index, kind, size, room.take(kind, size));
        }
        index += if kind.is_some_and(BarKind::is_64_bit) { 2 } else { 1 };
    }
    if source.arbitrary()? {
        let size = 0x800 << source.int_in_range(0..=7)?;
        function = function.rom(size, u32::try_from(room.take(BarKind::Rom, size)).unwrap_or(0));
    }
    Ok(function)
}

fn capabilities(mut function: Blueprint, next: u8, source: &mut Unstructured<'_>) -> Result<Blueprint> {
    let standard = [
        Capability::PowerManagement,
        Capability::Msi,
        Capability::MsiX { vectors: 16, table: (0, 0), pba: (0, 0x800) },
        Capability::VitalProductData,
        Capability::AdvancedFeatures,
        Capability::VendorSpecific(vec![source.arbitrary()?]),
    ];
    let vf_bar = VfBar { kind: BarKind::Memory64 { prefetchable: true }, size: 0x4000, address: 0 };
    let extended = [
        ExtendedCapability::Null,
        ExtendedCapability::AdvancedErrorReporting,
        ExtendedCapability::SerialNumber(source.arbitrary()?),
        ExtendedCapability::Ari { next },
        ExtendedCapability::SrIov { total: 8, offset: 0x80, stride: 1, bars: vec![(0, vf_bar)] },
        ExtendedCapability::Ats,
        ExtendedCapability::LatencyToleranceReporting,
        ExtendedCapability::L1PmSubstates,
        ExtendedCapability::PrecisionTimeMeasurement,
        ExtendedCapability::AccessControl,
        ExtendedCapability::VendorSpecific { id: 1, body: vec![source.arbitrary()?; 2] },
    ];
    let chosen: u32 = source.arbitrary()?;
    let chosen = |index: usize| chosen >> index & 1 == 1;
    for (_, capability) in standard.iter().enumerate().filter(|(index, _)| chosen(*index)) {
        function = function.capability(capability);
    }
    for (_, capability) in extended.iter().enumerate().filter(|(index, _)| chosen(index + 16)) {
        function = function.extended(capability);
    }
    Ok(function)
}

/// What is left of the windows of a bus.
struct Room {
    windows: Windows,
}

impl Room {
    fn new(windows: Windows) -> Self {
        Self { windows }
    }

    /// An aligned place for a BAR; 0 where none is left.
    fn take(&mut self, kind: BarKind, size: u64) -> u64 {
        let Windows { io, memory, prefetchable } = &mut self.windows;
        let windows: Vec<_> = match kind {
            BarKind::Io => vec![io],
            BarKind::Memory64 { prefetchable: true } => vec![prefetchable, memory],
            _ => vec![memory],
        };
        let place = |window: &mut Option<Span>| {
            let free = (*window)?;
            let start = free.start().checked_next_multiple_of(size)?;
            let taken = Span::new(start, size).filter(|taken| free.covers(*taken))?;
            *window = Span::from_bounds(taken.last() + 1, free.last());
            Some(start)
        };
        windows.into_iter().find_map(place).unwrap_or(0)
    }
}

/// One window in eight is closed.
fn optional(source: &mut Unstructured<'_>, window: Span) -> Result<Option<Span>> {
    Ok(if source.ratio(1, 8)? { None } else { Some(window) })
}

fn bdf(bus: u8, device: u8) -> Bdf {
    Bdf::new(bus, device, 0).expect("device numbers here are small")
}

fn span(start: u64, len: u64) -> Span {
    Span::new(start, len).expect("windows here are not empty")
}
