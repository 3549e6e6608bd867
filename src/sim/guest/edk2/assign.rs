//! `PciHostBridgeResourceAllocator`: apertures from the bottom up, then everything is programmed.

use std::format;
use std::vec::Vec;

use super::{BAR0, Edk2, bar_type};
use crate::address::{Bdf, Span};
use crate::delta::Space;
use crate::sim::guest::space::{LAST_32, align_up, halves, hardest_first, lowest_fit};
use crate::sim::guest::tree::{Resource, Window};
use crate::sim::platform::RootBridge;
use crate::spec::bar::BarKind;

const IO_STEP: u64 = 0x1000;
const MEMORY_STEP: u64 = 1 << 20;

/// A BAR of a function, or a window with all that is in it.
#[derive(Clone)]
struct Need {
    owner: Owner,
    size: u64,
    align: u64,
    /// Whether it may lie above 4 GiB.
    wide: bool,
    /// What lies in a window, with its offset.
    inside: Vec<(u64, Self)>,
}

#[derive(Clone, Copy)]
enum Owner {
    /// Number of the function, index into its `bars`.
    Bar(usize, usize),
    /// Number of the bridge.
    Window(usize, Aperture),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Aperture {
    Io,
    Memory,
    Prefetchable,
}

impl Edk2<'_> {
    /// `PciHostBridgeResourceAllocator`: apertures from the bottom up, then places in the root's windows.
    pub(super) fn assign(&mut self, bus: u8, root: &RootBridge) {
        for aperture in [Aperture::Io, Aperture::Memory, Aperture::Prefetchable] {
            let memory = aperture != Aperture::Io;
            let ecam = self.config.firmware.ecam.filter(|_| memory).map(|ecam| ecam.span().0);
            let mut taken = ecam.into_iter().collect::<Vec<_>>();
            // Prefetchable memory shares the root's windows with other memory.
            if aperture == Aperture::Prefetchable {
                taken.extend(self.assigned_memory());
            }
            for need in self.needs(bus, aperture, true) {
                match place(root, aperture, &need, &taken) {
                    Some(span) => {
                        taken.push(span);
                        self.program(&need, span.start());
                    }
                    None => self.log.push(format!("PciBus: no room for {:#X} bytes", need.size)),
                }
            }
        }
    }

    fn assigned_memory(&self) -> Vec<Span> {
        let windows = self.devices.iter().flat_map(|one| &one.windows).map(|one| (one.kind, one.span));
        let bars = self.devices.iter().flat_map(|one| &one.bars).filter_map(|one| Some((one.kind, one.span?)));
        windows.chain(bars).filter(|(kind, _)| kind.is_memory()).map(|(_, span)| span).collect()
    }

    /// What the functions of a bus need of one kind, the hardest to place first.
    fn needs(&self, bus: u8, aperture: Aperture, wide: bool) -> Vec<Need> {
        let mut needs = Vec::new();
        for (dev, device) in self.devices.iter().enumerate().filter(|(_, device)| device.bdf.bus() == bus) {
            for (index, bar) in device.bars.iter().enumerate() {
                if bar.bar != Resource::ROM && aperture_of(bar.kind, wide) == aperture {
                    let (size, align) = (bar.size, bar.size);
                    let wide = bar.kind.is_64_bit() && device.parent.is_none() || aperture == Aperture::Prefetchable;
                    needs.push(Need { owner: Owner::Bar(dev, index), size, align, wide, inside: Vec::new() });
                }
            }
            if let Some(buses) = &device.bus_range {
                let wide = wide && self.wide_windows.contains(&device.bdf);
                let inside = self.needs(*buses.start(), aperture, wide);
                needs.extend(window(dev, aperture, inside));
            }
        }
        hardest_first(needs, |need| need.align)
    }

    /// `ProgramResource`: BARs, and windows after what is in them.
    fn program(&mut self, need: &Need, base: u64) {
        for (offset, inner) in &need.inside {
            self.program(inner, base + offset);
        }
        let Some(span) = Span::new(base, need.size) else { return };
        match need.owner {
            Owner::Bar(dev, index) => self.program_bar(dev, index, span),
            Owner::Window(dev, aperture) => self.program_window(dev, aperture, span),
        }
    }

    /// `ProgramBar`.
    fn program_bar(&mut self, dev: usize, index: usize, span: Span) {
        let bdf = self.devices[dev].bdf;
        let bar = &mut self.devices[dev].bars[index];
        bar.span = Some(span);
        let (kind, offset) = (bar.kind, BAR0 + 4 * u16::try_from(bar.bar).unwrap_or_default());
        let [low, high] = halves(span.start());
        self.log_place(bdf, bar_type(kind), span);
        self.config.write32(bdf, offset, low);
        if kind.is_64_bit() {
            self.config.write32(bdf, offset + 4, high);
        }
    }

    /// `ProgramPpbApperture`.
    fn program_window(&mut self, dev: usize, aperture: Aperture, span: Span) {
        let bdf = self.devices[dev].bdf;
        let ([base, base_upper], [limit, limit_upper]) = (halves(span.start()), halves(span.last()));
        let high16 = |value: u32| u16::try_from(value >> 16).unwrap_or_default();
        let config = &mut self.config;
        let kind = match aperture {
            Aperture::Io => {
                config.write8(bdf, 0x1c, base.to_le_bytes()[1]);
                config.write16(bdf, 0x30, high16(base));
                config.write8(bdf, 0x1d, limit.to_le_bytes()[1]);
                config.write16(bdf, 0x32, high16(limit));
                BarKind::Io
            }
            Aperture::Memory => {
                config.write16(bdf, 0x20, high16(base));
                config.write16(bdf, 0x22, high16(limit));
                BarKind::Memory32 { prefetchable: false }
            }
            Aperture::Prefetchable => {
                config.write16(bdf, 0x24, high16(base));
                config.write16(bdf, 0x26, high16(limit));
                config.write32(bdf, 0x28, base_upper);
                config.write32(bdf, 0x2c, limit_upper);
                BarKind::Memory64 { prefetchable: true }
            }
        };
        self.devices[dev].windows.push(Window { kind, span });
        self.log_place(bdf, bar_type(kind), span);
    }

    fn log_place(&mut self, bdf: Bdf, kind: &str, span: Span) {
        self.log.push(format!(
            "   Type = {kind}; Base = {:#X};\tLength = {:#X};\tOwner = PCI [{:02X}|{:02X}|{:02X}]",
            span.start(),
            span.len(),
            bdf.bus(),
            bdf.device(),
            bdf.function()
        ));
    }
}

/// Which window a BAR goes through: what has 64 bits and is prefetchable keeps to itself as long as every bridge above
/// can forward it, everything else is degraded to memory below 4 GiB.
fn aperture_of(kind: BarKind, wide: bool) -> Aperture {
    match kind {
        BarKind::Io => Aperture::Io,
        BarKind::Memory64 { prefetchable: true } if wide => Aperture::Prefetchable,
        _ => Aperture::Memory,
    }
}

/// `CalculateResourceAperture`: a window around its needs, placed one after the other.
fn window(dev: usize, aperture: Aperture, needs: Vec<Need>) -> Option<Need> {
    let step = if aperture == Aperture::Io { IO_STEP } else { MEMORY_STEP };
    let align = needs.iter().map(|need| need.align).max()?.max(step);
    let mut inside = Vec::new();
    let mut end = 0_u64;
    for need in needs {
        let Some(offset) = align_up(end, need.align) else { continue };
        let Some(next) = offset.checked_add(need.size) else { continue };
        end = next;
        inside.push((offset, need));
    }
    let wide = aperture == Aperture::Prefetchable;
    Some(Need { owner: Owner::Window(dev, aperture), size: align_up(end, step)?, align, wide, inside })
}

/// The lowest place in the root's windows; above 4 GiB first for what may go there.
fn place(root: &RootBridge, aperture: Aperture, need: &Need, taken: &[Span]) -> Option<Span> {
    let space = if aperture == Aperture::Io { Space::Io } else { Space::Memory };
    let min = if aperture == Aperture::Io { IO_STEP } else { MEMORY_STEP };
    let low = Span::from_bounds(min, LAST_32)?;
    let high = Span::from_bounds(LAST_32 + 1, u64::MAX)?;
    let regions: &[Span] = if need.wide { &[high, low] } else { &[low] };
    regions.iter().find_map(|region| {
        let windows = root.windows.iter().filter(|window| window.space == space);
        windows
            .filter_map(|window| window.span.intersection(*region))
            .find_map(|within| lowest_fit(within, need.size, taken, |start| align_up(start, need.align)))
    })
}
