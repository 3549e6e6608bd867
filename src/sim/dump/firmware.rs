//! Host bridges, their windows and the ECAM window, drawn around the resources a machine has.

use std::vec;
use std::vec::Vec;

use super::Assumption;
use crate::address::Span;
use crate::delta::Space;
use crate::mechanism::Ecam;
use crate::sim::machine::{Function, Machine};
use crate::sim::platform::{Firmware, RootBridge, RootWindow};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const FOUR_GIB: u64 = 4 * GIB;
/// Where the interrupt controllers and the firmware ROM of a PC begin.
const LOW_MEMORY_END: u64 = 0xfec0_0000;

/// Host bridges of these root buses, each with the buses up to the next.
pub(super) fn without_windows(segment: u16, root_buses: &[u8]) -> Firmware {
    let ends = root_buses.iter().skip(1).map(|next| next - 1).chain([u8::MAX]);
    let roots = root_buses.iter().zip(ends);
    let roots = roots.map(|(start, end)| RootBridge { buses: *start..=end, windows: Vec::new() }).collect();
    Firmware { segment, ports: false, ecam: None, roots }
}

/// Makes up what the tables say, one segment group after the other.
pub(super) struct Maker {
    segments: usize,
    /// The ECAM windows of the segment groups so far.
    taken: Vec<Span>,
}

impl Maker {
    pub(super) fn new(segments: usize) -> Self {
        Self { segments, taken: Vec::new() }
    }

    /// Fills in windows and mechanisms.
    pub(super) fn complete(&mut self, machine: &mut Machine, has_extended_space: bool, notes: &mut Vec<Assumption>) {
        let resources = resources(machine);
        let (io, memory) =
            (within(&resources, Space::Io, 1, u64::MAX), within(&resources, Space::Memory, MIB, u64::MAX));
        let (segment, count) = (machine.firmware().segment, machine.firmware().roots.len());

        // Ports above 64 KiB, or several segment groups: not a PC.
        let ports = self.segments == 1 && segment == 0 && !has_wide_ports(machine);
        let ecam = (has_extended_space || !ports).then(|| self.ecam(&memory)).flatten();
        notes.push(Assumption::Roots { segment, count });
        notes.push(match ecam {
            Some((base, _)) => Assumption::Ecam { segment, base },
            None => Assumption::PortsOnly { segment },
        });

        let mut windows = io_windows(&io);
        windows.extend(low_memory(&memory).into_iter().flat_map(|window| without(window, ecam)));
        windows.extend(high_memory(&memory).into_iter().flat_map(|window| without(window, ecam)));
        let firmware = machine.firmware_mut();
        firmware.ports = ports;
        firmware.ecam = ecam.map(|(_, ecam)| ecam);
        for Claim { root, span, space } in windows {
            firmware.roots[root].windows.push(RootWindow { span, space });
        }
    }

    /// The first of the usual places without a resource, or else one above all of them.
    fn ecam(&mut self, memory: &[Claim]) -> Option<(u64, Ecam)> {
        const USUAL: [u64; 8] =
            [0xe000_0000, 0xb000_0000, 0xc000_0000, 0xd000_0000, 0x8000_0000, 0x6000_0000, 0x4000_0000, 0x3000_0000];
        let above = memory.iter().map(|claim| claim.span.last()).max().unwrap_or(0).max(FOUR_GIB);
        let above = (1..=64).filter_map(|step| (above >> 28).checked_add(step)?.checked_mul(1 << 28));
        let found = USUAL.into_iter().chain(above).find_map(|base| {
            let ecam = Ecam::new(base, 0..=255)?;
            let span = ecam.span().0;
            let free = !memory.iter().any(|claim| claim.span.overlaps(span))
                && !self.taken.iter().any(|taken| taken.overlaps(span));
            free.then_some((base, ecam))
        });
        self.taken.extend(found.map(|(_, ecam)| ecam.span().0));
        found
    }
}

/// Addresses a host bridge has to forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claim {
    root: usize,
    space: Space,
    span: Span,
}

/// What is on the root buses: BARs, fixed ranges and bridge windows. What lies further down is inside them.
fn resources(machine: &Machine) -> Vec<Claim> {
    let root_of = |function: &Function| {
        machine.firmware().roots.iter().position(|root| *root.buses.start() == function.bdf().bus())
    };
    let on_roots = machine.functions().filter_map(|(_, function)| Some((root_of(function)?, function)));
    let claims = on_roots.flat_map(|(root, function)| {
        // What does not decode may hold anything, such as the ones software sized a ROM with.
        let bars = function.bars().filter(|(index, _)| function.decodes(*index));
        let bars = bars.filter_map(|(index, bar)| {
            let space = if bar.kind.is_memory() { Space::Memory } else { Space::Io };
            Some((space, function.bar_span(index)?))
        });
        let fixed = function.fixed_ranges().into_iter().map(|(_, space, span)| (space, span));
        let all: Vec<_> = bars.chain(fixed).chain(function.programmed_windows()).collect();
        all.into_iter().map(move |(space, span)| Claim { root, space, span })
    });
    claims.collect()
}

fn has_wide_ports(machine: &Machine) -> bool {
    machine.functions().any(|(_, function)| {
        let io = function.bars().filter(|(_, bar)| !bar.kind.is_memory());
        io.filter_map(|(index, _)| function.bar_span(index)).any(|span| span.last() > 0xffff)
    })
}

/// The claims that start in a range, in order; below the range they are unassigned or legacy.
fn within(claims: &[Claim], space: Space, from: u64, to: u64) -> Vec<Claim> {
    let inside = claims.iter().filter(|claim| claim.space == space && (from..=to).contains(&claim.span.start()));
    let mut inside: Vec<_> = inside.copied().collect();
    inside.sort_by_key(|claim| claim.span.start());
    inside
}

/// Joins neighbours of one root, and cuts what overlaps another root's.
fn runs(claims: &[Claim]) -> Vec<Claim> {
    let mut runs: Vec<Claim> = Vec::new();
    for claim in claims {
        match runs.last_mut() {
            Some(last) if last.root == claim.root => {
                let end = last.span.last().max(claim.span.last());
                last.span = Span::from_bounds(last.span.start(), end).unwrap_or(last.span);
            }
            Some(last) => {
                let start = claim.span.start().max(last.span.last().saturating_add(1));
                runs.extend(Span::from_bounds(start, claim.span.last()).map(|span| Claim { span, ..*claim }));
            }
            None => runs.push(*claim),
        }
    }
    runs
}

/// Widens every run: down to its alignment but not below `from`, up to the next run, the last one up to `end`.
fn widen(runs: &[Claim], from: u64, align: u64, end: impl Fn(u64) -> u64) -> Vec<Claim> {
    let mut free = from;
    let mut wide = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let start = (run.span.start() & !(align - 1)).max(free).min(run.span.start());
        let last = match runs.get(index + 1) {
            Some(next) => (next.span.start() & !(align - 1)).saturating_sub(1).max(run.span.last()),
            None => end(run.span.last()).max(run.span.last()),
        };
        wide.extend(Span::from_bounds(start, last).map(|span| Claim { span, ..*run }));
        free = last.saturating_add(1);
    }
    wide
}

/// All ports below 64 KiB for PCs; elsewhere units of 64 KiB around what is used.
fn io_windows(claims: &[Claim]) -> Vec<Claim> {
    let mut wide = widen(&runs(claims), 0, 0x1000, |last| last | 0xffff);
    match wide.first_mut() {
        Some(first) => {
            let start = first.span.start();
            let start = if start < 0x1_0000 { 0 } else { start & !0xffff };
            first.span = Span::from_bounds(start, first.span.last()).unwrap_or(first.span);
        }
        None => wide.extend(Span::new(0, 0x1_0000).map(|span| Claim { root: 0, space: Space::Io, span })),
    }
    wide
}

/// Memory up to [`LOW_MEMORY_END`], from the lowest resource on; resources above that as they are.
fn low_memory(claims: &[Claim]) -> Vec<Claim> {
    let below = within(claims, Space::Memory, MIB, LOW_MEMORY_END - 1);
    let mut wide = widen(&runs(&below), MIB, 16 * MIB, |_| LOW_MEMORY_END - 1);
    if wide.is_empty() {
        wide.extend(Span::from_bounds(0xc000_0000, LOW_MEMORY_END - 1).map(|span| Claim {
            root: 0,
            space: Space::Memory,
            span,
        }));
    }
    let beyond = wide.last().map_or(0, |claim| claim.span.last());
    let above = within(claims, Space::Memory, LOW_MEMORY_END, FOUR_GIB - 1);
    let above = runs_of_pages(&above).into_iter().filter(|claim| claim.span.start() > beyond);
    wide.extend(above);
    wide
}

/// Memory from 4 GiB on, with at least 32 GiB of free room above the last resource.
fn high_memory(claims: &[Claim]) -> Vec<Claim> {
    let above = within(claims, Space::Memory, FOUR_GIB, u64::MAX);
    let end = |last: u64| last.saturating_add(32 * GIB) | (32 * GIB - 1);
    widen(&runs(&above), FOUR_GIB, GIB, end)
}

/// Every resource by itself, in whole pages.
fn runs_of_pages(claims: &[Claim]) -> Vec<Claim> {
    let pages: Vec<_> = claims.iter().map(|claim| Claim { span: claim.span.pages(), ..*claim }).collect();
    let mut apart: Vec<Claim> = Vec::new();
    for claim in pages {
        let free = apart.last().map_or(0, |last| last.span.last().saturating_add(1));
        let start = claim.span.start().max(free);
        apart.extend(Span::from_bounds(start, claim.span.last()).map(|span| Claim { span, ..claim }));
    }
    apart
}

/// The parts of a window around the ECAM window.
fn without(window: Claim, ecam: Option<(u64, Ecam)>) -> Vec<Claim> {
    let Some(hole) = ecam.map(|(_, ecam)| ecam.span().0).filter(|hole| hole.overlaps(window.span)) else {
        return vec![window];
    };
    let below = hole.start().checked_sub(1).and_then(|last| Span::from_bounds(window.span.start(), last));
    let above = hole.last().checked_add(1).and_then(|start| Span::from_bounds(start, window.span.last()));
    [below, above].into_iter().flatten().map(|span| Claim { span, ..window }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(root: usize, start: u64, len: u64) -> Claim {
        Claim { root, space: Space::Memory, span: Span::new(start, len).unwrap() }
    }

    fn spans(claims: &[Claim]) -> Vec<(usize, u64, u64)> {
        claims.iter().map(|claim| (claim.root, claim.span.start(), claim.span.last())).collect()
    }

    #[test]
    fn one_root_gets_one_window_up_to_the_interrupt_controllers() {
        let claims = [claim(0, 0xd080_0000, 0x1000), claim(0, 0xf780_0000, 0x2_0000)];
        assert_eq!(spans(&low_memory(&claims)), [(0, 0xd000_0000, 0xfebf_ffff)]);
    }

    #[test]
    fn several_roots_share_memory_without_overlapping() {
        let claims = [claim(0, 0x9000_0000, 0x1000), claim(1, 0x9080_0000, 0x1000), claim(0, 0xa010_0000, 0x1000)];
        assert_eq!(
            spans(&low_memory(&claims)),
            [(0, 0x9000_0000, 0x9000_0fff), (1, 0x9000_1000, 0x9fff_ffff), (0, 0xa000_0000, 0xfebf_ffff)]
        );
    }

    #[test]
    fn resources_above_the_interrupt_controllers_get_windows_of_their_own() {
        let claims = [claim(0, 0xf000_0000, 0x1000), claim(0, 0xfed1_0000, 0x100), claim(0, 0xfed1_0200, 0x100)];
        assert_eq!(spans(&low_memory(&claims)), [(0, 0xf000_0000, 0xfebf_ffff), (0, 0xfed1_0000, 0xfed1_0fff)]);
    }

    #[test]
    fn memory_above_4_gib_has_free_room_at_its_end() {
        let claims = [claim(0, 0x38_1000_0000, 0x1000)];
        assert_eq!(spans(&high_memory(&claims)), [(0, 0x38_0000_0000, 0x47_ffff_ffff)]);
        assert_eq!(spans(&high_memory(&[claim(0, u64::MAX - 0xfff, 0x1000)])), [(0, 0xffff_ffff_c000_0000, u64::MAX)]);
    }

    #[test]
    fn a_window_is_cut_around_the_ecam_window() {
        let ecam = Ecam::new(0xe000_0000, 0..=255).map(|ecam| (0xe000_0000, ecam));
        let around = without(claim(0, 0xd000_0000, 0x2800_0000), ecam);
        assert_eq!(spans(&around), [(0, 0xd000_0000, 0xdfff_ffff), (0, 0xf000_0000, 0xf7ff_ffff)]);
    }
}
