//! What there is to say about a segment group, as text.

use core::fmt::{Display, Write as _};
use std::collections::BTreeSet;

use pci_remap::delta::Backing;
use pci_remap::sim::dump::SegmentBdf;
use pci_remap::sim::machine::{Request, signature};
use pci_remap::sim::vm::Exits;
use pci_remap::topology::ROM;
use pci_remap::{Access, Bdf, Guest, Host, Relocation, Space, Span};

use crate::arguments::Register;
use crate::names::Names;
use crate::registers;
use crate::segment::Segment;

/// Appends everything, and returns how many BARs do not reach their function.
pub(crate) fn segment(text: &mut String, segment: &mut Segment, names: &Names, verbose: bool) -> usize {
    let number = segment.number;
    section(text, &format!("Segment {number:04x}: assumed of the machine"), segment.assumptions.iter());
    let findings = segment.findings.iter().map(|finding| format!("{}: {finding}", finding.grade()));
    section(text, "Findings", findings);
    if !segment.room.is_empty() {
        let writes = segment.room.iter().map(|write| format!("{} <- {:08x}", write.to, write.value));
        section(text, "Room: written to bridges before the guest starts", writes);
    }
    section(text, "The guest said", said(segment, verbose));
    section(text, "Guest addresses and what is behind them", mappings(segment));
    section(text, "Concealed: where hardware has the BARs of functions that left", concealed(segment));
    section(text, "Emulated registers", emulated(segment, names));
    section(text, "Hooks", hooks(segment));
    let proofs = proofs(segment);
    section(text, "Proof", proofs.iter().map(|proof| &proof.line));
    if let Some(lived) = &segment.lived {
        section(text, "The guest's life after booting", &lived.lines);
    }
    let conflicts = conflicts(segment);
    if !conflicts.is_empty() {
        section(text, "Conflicts: more than one function answers", conflicts);
    }
    proofs.iter().filter(|proof| !proof.holds).count()
}

/// Appends what the guest reads and writes at an address, and why.
pub(crate) fn explained(text: &mut String, segment: &mut Segment, register: Register) {
    let Register { function: SegmentBdf { bdf, .. }, dword } = register;
    let access = Guest(Access::whole(bdf, dword));
    let host = segment.vm.remapper().to_host(Guest(bdf)).unwrap_or(Some(Host(bdf)));
    let function = host.and_then(|host| segment.topology.view().function(host));
    let name = function.and_then(|function| registers::full_name(function, dword));
    let name = name.map_or_else(String::new, |name| format!(" ({name})"));
    let explanation = format!("{:#}", segment.vm.remapper().explain(access));
    let value = segment.vm.config_read(access);
    let lines = explanation.lines().map(str::to_owned).chain([format!("  now reads: {value:08x}")]);
    section(text, &format!("Explained: {register}{name}"), lines);
}

/// Addresses at which hardware answers twice, as when the guest puts something where a moved function's real BAR is.
fn conflicts(segment: &Segment) -> BTreeSet<String> {
    let machine = segment.vm.machine();
    let conflicts = machine.conflicts().iter().filter(|conflict| !segment.bare.conflicts().contains(conflict));
    conflicts
        .map(|conflict| {
            let claimants = conflict.claimants.iter().map(|claimant| machine.function(*claimant).bdf().to_string());
            let claimants = claimants.collect::<Vec<_>>().join(" and ");
            match conflict.request {
                Request::Configuration(bdf) => format!("{bdf}: {claimants}"),
                Request::Memory(address) => format!("mem {address:#x}: {claimants}"),
                Request::Io(address) => format!("io {address:#x}: {claimants}"),
            }
        })
        .collect()
}

fn section(text: &mut String, heading: &str, lines: impl IntoIterator<Item = impl Display>) {
    let mut is_empty = true;
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n{heading}");
    for line in lines {
        let _ = writeln!(text, "  {line}");
        is_empty = false;
    }
    if is_empty {
        text.push_str("  nothing\n");
    }
}

/// The guest's log, or what of it is about moved functions, the bridges concerned, and trouble.
fn said(segment: &Segment, verbose: bool) -> impl Iterator<Item = &str> {
    let topology = segment.topology.view();
    let ends = segment.moves.iter().flat_map(|moved| [moved.host.0, moved.guest.0]);
    let ends = ends.chain(segment.hidden.iter().map(|hidden| hidden.0)).collect::<Vec<_>>();
    let bridges = ends.iter().filter_map(|end| topology.bridge_to(end.bus())).map(|bridge| bridge.bdf().0);
    let names = ends.iter().copied().chain(bridges).flat_map(spellings).collect::<Vec<_>>();
    let matters = move |line: &str| {
        let trouble = ["can't", "no space", "no room", "failed"];
        trouble.iter().any(|word| line.contains(word)) || names.iter().any(|name| line.contains(name.as_str()))
    };
    blocks(&segment.after.log)
        .filter(move |block| verbose || block.iter().any(|line| matters(line)))
        .flatten()
        .map(String::as_str)
}

/// Guests write an address in different ways.
fn spellings(bdf: Bdf) -> [String; 3] {
    let (bus, device, function) = (bdf.bus(), bdf.device(), bdf.function());
    [
        bdf.to_string(),
        format!("bus={bus}, slot={device}, func={function}"),
        format!("[{bus:02X}|{device:02X}|{function:02X}]"),
    ]
}

/// A line, and the indented ones after it, which are about the same.
fn blocks(log: &[String]) -> impl Iterator<Item = &[String]> {
    log.chunk_by(|_, next| next.starts_with([' ', '\t']))
}

fn mappings(segment: &Segment) -> Vec<String> {
    let mappings = segment.vm.second_stage().mappings().iter().map(|mapping| {
        let how = if mapping.backing == Backing::Trapped { ", trapped" } else { "" };
        let owner = owner(segment, mapping.space, mapping.host.0);
        format!(
            "{} {} -> {}  {}{how}  {owner}",
            mapping.space,
            mapping.guest,
            mapping.host,
            size(mapping.guest.0.len())
        )
    });
    mappings.collect()
}

fn concealed(segment: &Segment) -> Vec<String> {
    let concealed = segment.vm.second_stage().concealed().iter();
    concealed
        .map(|(guest, space)| format!("{space} {guest}  {}  {}", size(guest.0.len()), owner(segment, *space, guest.0)))
        .collect()
}

/// The BAR that decodes these host addresses.
fn owner(segment: &Segment, space: Space, host: Span) -> String {
    let touched = segment.moves.iter().map(|moved| moved.host).chain(segment.hidden.iter().copied());
    let functions = touched.filter_map(|touched| segment.topology.view().function(touched));
    let mut bars = functions.flat_map(|function| function.bars().map(move |bar| (function.bdf(), bar)));
    let found = bars.find(|(_, bar)| bar.space() == space && bar.span().is_some_and(|Host(span)| span.covers(host)));
    found.map_or_else(String::new, |(function, bar)| format!("{function} {}", bar_name(bar.number())))
}

fn bar_name(bar: usize) -> String {
    if bar == ROM { "Expansion ROM".to_owned() } else { format!("BAR {bar}") }
}

fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

fn emulated(segment: &Segment, names: &Names) -> Vec<String> {
    let remapper = segment.vm.remapper();
    let touched = remapper.touched_functions().flat_map(|(host, guest)| {
        let headline = names.headline(segment.number, Some(host.0));
        let title = match guest {
            Some(Guest(guest)) if guest == host.0 => format!("{host} {headline}"),
            Some(guest) => format!("{host}, as {guest}: {headline}"),
            None => format!("{host}, hidden: {headline}"),
        };
        let function = segment.topology.view().function(host);
        let ranges = function.map(|function| registers::emulated(remapper, function)).unwrap_or_default();
        [title].into_iter().chain(ranges.into_iter().map(|range| format!("  {range}")))
    });
    touched.collect()
}

fn hooks(segment: &Segment) -> [String; 3] {
    let remapper = segment.vm.remapper();
    let (all, touched) = (segment.topology.functions().len(), remapper.touched_functions().count());
    let addresses = remapper.traps().map(|range| u32::from(range.last.0.routing_id() - range.first.0.routing_id()) + 1);
    let Exits { passthrough, hide, emulate, redirect, trapped } = segment.exits;
    [
        format!("{touched} of {all} functions are hooked, {} are untouched", all - touched),
        format!("configuration accesses of {} guest addresses must be trapped", addresses.sum::<u32>()),
        format!(
            "while booting: {emulate} configuration accesses emulated, {redirect} redirected, {hide} to nothing, {passthrough} passed through; {trapped} accesses to trapped windows"
        ),
    ]
}

struct Proof {
    line: String,
    holds: bool,
}

/// Reads the first DWORD of each memory BAR of the moved functions where the guest put it.
fn proofs(segment: &mut Segment) -> Vec<Proof> {
    let moves = segment.moves.clone();
    moves.into_iter().flat_map(|moved| proofs_of(segment, moved)).collect()
}

fn proofs_of(segment: &mut Segment, moved: Relocation) -> Vec<Proof> {
    let Relocation { host, guest, .. } = moved;
    let Some(device) = segment.moved_device(moved).cloned() else {
        return vec![Proof { line: format!("{guest}: the guest found nothing"), holds: false }];
    };
    let bars = device.bars.iter().filter(|bar| bar.kind.is_memory() && bar.bar != ROM);
    let proofs = bars.map(|bar| {
        let expected = signature(segment.number, host.0, bar.bar, 0);
        let read = device.read(&mut segment.vm, bar.bar, 0);
        let (outcome, holds) = match (bar.span, read) {
            (Some(span), Some(read)) if read == expected => (format!("at {span}: reached {host}"), true),
            (Some(span), Some(read)) => (format!("at {span}: reads {read:08x}, not {expected:08x} of {host}"), false),
            _ => ("has no address".to_owned(), false),
        };
        Proof { line: format!("{guest} {} {outcome}", bar_name(bar.bar)), holds }
    });
    let proofs = proofs.collect::<Vec<_>>();
    if proofs.is_empty() {
        return vec![Proof { line: format!("{guest}: found; it has no memory BAR"), holds: true }];
    }
    proofs
}
