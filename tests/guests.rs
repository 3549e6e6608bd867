//! Guests on simulated machines and on dumps of real ones: what they find, where they put it, and that they end.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use pci_remap::mechanism::Ecam;
use pci_remap::sim::dump::{Dump, Resources};
use pci_remap::sim::guest::life::Life;
use pci_remap::sim::guest::{Boot, Device, DeviceTree, Kind, boot, lspci_tv};
use pci_remap::sim::machine::{Blueprint, Builder, Capability, ExtendedCapability, Machine, VfBar, Windows, signature};
use pci_remap::sim::platform::{Firmware, Platform, RootBridge, RootWindow};
use pci_remap::spec::bar::BarKind;
use pci_remap::spec::express::PortType;
use pci_remap::spec::header::{self, Command};
use pci_remap::{Bdf, Dword, Space, Span, Width};

const MEMORY: BarKind = BarKind::Memory32 { prefetchable: false };
const PREFETCHABLE: BarKind = BarKind::Memory64 { prefetchable: true };
const DUMPS: [&str; 4] = ["arm-n1sdp", "gigabyte-z370", "hp-8460p", "lenovo-kbl-switchtec"];

fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

fn span(start: u64, len: u64) -> Span {
    Span::new(start, len).unwrap()
}

fn endpoint(address: &str) -> Blueprint {
    Blueprint::endpoint(bdf(address))
        .capability(&Capability::Express(PortType::Endpoint))
        .id(0x10d3_8086)
        .class(0x02_0000)
}

/// A PC with one root port to bus 01, whose memory window is 2 MiB from F780_0000h on.
fn pc() -> Builder {
    Builder::new().root(0x00..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY, Builder::PORTS]).root_port(
        bdf("00:01.0"),
        0x01..=0x01,
        Windows::memory(span(0xf780_0000, 0x20_0000)),
    )
}

fn bundled(name: &str) -> Vec<Machine> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dumps").join(name);
    let dump: Dump = fs::read_to_string(folder.join("dump.txt")).unwrap().parse().unwrap();
    let resources = fs::read_to_string(folder.join("resources.txt")).ok();
    let resources: Option<Resources> = resources.map(|text| text.parse().unwrap());
    dump.machines(resources.as_ref()).into_iter().map(|loaded| loaded.machine).collect()
}

fn all_bundled() -> impl Iterator<Item = Machine> {
    DUMPS.into_iter().flat_map(bundled).map(|mut machine| {
        machine.wake_all();
        machine
    })
}

fn addresses(tree: &DeviceTree) -> BTreeSet<Bdf> {
    tree.devices.iter().map(|device| device.bdf).collect()
}

/// Whether Linux's one-child rule lets a function be found: device 0 only, below a port that leads down a link.
fn is_found_by_linux(machine: &Machine, function: Bdf) -> bool {
    let leads_down = |bridge: &Device| bridge.port_type.is_some_and(PortType::leads_down_a_link);
    let all = boot(Kind::FreeBsd, &mut machine.clone()).tree;
    let device = all.device(function).unwrap();
    let below_a_link = device.parent.and_then(|parent| all.device(parent)).is_some_and(leads_down);
    function.device() == 0 || !below_a_link
}

#[test]
fn every_guest_finds_the_functions_of_real_machines() {
    for machine in all_bundled() {
        let present = machine.functions().map(|(_, function)| function.bdf()).collect::<BTreeSet<_>>();
        for kind in [Kind::FreeBsd, Kind::Linux61, Kind::Linux615] {
            let mut expected = present.clone();
            if kind != Kind::FreeBsd {
                expected.retain(|function| is_found_by_linux(&machine, *function));
            }
            assert_eq!(addresses(&boot(kind, &mut machine.clone()).tree), expected, "{kind}");
        }
        // It numbers the buses anew, so only the count stays.
        assert_eq!(boot(Kind::Edk2, &mut machine.clone()).tree.devices.len(), present.len());
    }
}

/// Every BAR with an address: not on top of another, inside the windows above, and answering with its own memory.
fn check_assignments(machine: &mut Machine, boot: &Boot, context: &str) {
    let segment = machine.firmware().segment;
    let mut seen: Vec<(Bdf, bool, Span)> = Vec::new();
    for device in &boot.tree.devices {
        let windows = windows_above(machine, &boot.tree, device);
        for bar in device.bars.iter().filter(|bar| bar.bar != 6) {
            let Some(place) = bar.span else { continue };
            let memory = bar.kind.is_memory();
            let what = format!("{context}: {} BAR {} at {place}", device.bdf, bar.bar);
            assert_eq!(place.len(), bar.size, "{what}");
            assert_eq!(place.start() & (bar.size - 1), 0, "{what}");
            let inside = windows.iter().any(|(kind, window)| *kind == memory && window.covers(place));
            assert!(inside, "{what} is in none of {windows:?}");
            let other = seen.iter().find(|(_, kind, other)| *kind == memory && other.overlaps(place));
            assert_eq!(other, None, "{what}");
            seen.push((device.bdf, memory, place));
            if device.enabled && machine.functions().count() > 0 {
                let original = machine.function(machine.find(device.bdf).unwrap()).bdf();
                let expected = signature(segment, original, bar.bar, 0);
                assert_eq!(device.read(machine, bar.bar, 0), Some(expected), "{what}");
            }
        }
    }
    assert!(machine.conflicts().is_empty(), "{context}: {:?}", machine.conflicts());
}

fn windows_above(machine: &Machine, tree: &DeviceTree, device: &Device) -> Vec<(bool, Span)> {
    if let Some(parent) = device.parent {
        let windows = &tree.device(parent).unwrap().windows;
        return windows.iter().map(|window| (window.kind.is_memory(), window.span)).collect();
    }
    let windows = machine.firmware().roots.iter().flat_map(|root| &root.windows);
    windows.map(|window| (window.space == Space::Memory, window.span)).collect()
}

#[test]
fn every_bar_a_guest_assigns_answers_with_its_own_memory() {
    for kind in Kind::ALL {
        for (index, mut machine) in all_bundled().enumerate() {
            let boot = boot(kind, &mut machine);
            check_assignments(&mut machine, &boot, &format!("{kind} on machine {index}"));
        }
        let mut machine = unassigned();
        let boot = boot(kind, &mut machine);
        check_assignments(&mut machine, &boot, &format!("{kind}, nothing assigned"));
        let missing = boot.tree.devices.iter().flat_map(|device| &device.bars).filter(|bar| bar.span.is_none());
        assert_eq!(missing.count(), 0, "{kind}: {:#?}", boot.log);
    }
}

/// Switch, conventional bridge and endpoints, as after reset: no windows, no addresses.
fn unassigned() -> Machine {
    let off = |address| endpoint(address).command(Command::empty());
    let closed = Windows::default();
    Builder::new()
        .root(0x00..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY, Builder::PORTS])
        .function(off("00:02.0").bar(0, MEMORY, 0x1000, 0).bar(1, BarKind::Io, 0x20, 0).bar(
            2,
            PREFETCHABLE,
            1 << 28,
            0,
        ))
        .root_port(bdf("00:01.0"), 0x01..=0x04, closed)
        .switch(
            bdf("01:00.0"),
            0x02..=0x04,
            closed,
            &[(bdf("02:00.0"), 0x03..=0x03, closed), (bdf("02:01.0"), 0x04..=0x04, closed)],
        )
        .function(off("03:00.0").bar(0, MEMORY, 0x2_0000, 0).bar(2, BarKind::Io, 0x100, 0))
        .function(off("03:00.1").bar(0, MEMORY, 0x40_0000, 0).bar(2, PREFETCHABLE, 0x100_0000, 0))
        .function(off("04:00.0").bar(0, PREFETCHABLE, 0x4000, 0).bar(
            4,
            BarKind::Memory64 { prefetchable: false },
            0x8000,
            0,
        ))
        .bridge(bdf("00:1e.0"), 0x05..=0x05, closed)
        .function(Blueprint::endpoint(bdf("05:04.0")).command(Command::empty()).bar(0, MEMORY, 0x80, 0).bar(
            1,
            BarKind::Io,
            0x10,
            0,
        ))
        .build()
        .unwrap()
}

#[test]
fn a_second_walk_gives_the_same_tree() {
    for kind in Kind::ALL {
        for (index, mut machine) in all_bundled().chain([unassigned()]).enumerate() {
            let first = boot(kind, &mut machine).tree;
            let second = boot(kind, &mut machine).tree;
            assert_eq!(first, second, "{kind} on machine {index}");
        }
    }
}

#[test]
fn a_bar_that_reads_zero_with_decode_off_is_assigned_in_the_window_above() {
    for kind in Kind::ALL {
        let nic = endpoint("01:00.0").command(Command::empty()).bar(0, MEMORY, 0x2_0000, 0);
        let mut machine = pc().function(nic).build().unwrap();
        let tree = boot(kind, &mut machine).tree;
        let nic = tree.device(bdf("01:00.0")).unwrap();
        let window = tree.device(bdf("00:01.0")).unwrap().windows[0].span;
        assert!(window.covers(nic.bars[0].span.unwrap()), "{kind}");
        assert!(nic.enabled, "{kind}");
        assert_eq!(nic.read(&mut machine, 0, 0x40), Some(signature(0, bdf("01:00.0"), 0, 0x40)), "{kind}");
        assert_eq!(nic.read(&mut machine, 0, 0x1_fffd), None);
    }
}

#[test]
fn a_bar_outside_the_window_is_moved_into_it() {
    for (kind, claim) in [
        (Kind::Linux61, "can't claim BAR 0 [mem 0xf7c00000-0xf7c1ffff]: no compatible bridge window"),
        (Kind::Linux615, "BAR 0 [mem 0xf7c00000-0xf7c1ffff]: can't claim; no compatible bridge window"),
    ] {
        let mut machine = pc().function(endpoint("01:00.0").bar(0, MEMORY, 0x2_0000, 0xf7c0_0000)).build().unwrap();
        let boot = boot(kind, &mut machine);
        assert!(boot.log.contains(&format!("pci 0000:01:00.0: {claim}")), "{:#?}", boot.log);
        assert_eq!(boot.tree.device(bdf("01:00.0")).unwrap().bars[0].span, Some(span(0xf780_0000, 0x2_0000)));
    }
}

#[test]
fn linux_says_which_bar_is_in_the_way() {
    let builder = pc().function(endpoint("01:00.0").bar(0, MEMORY, 0x2_0000, 0xf780_0000));
    let mut machine = builder.function(endpoint("01:00.1").bar(0, MEMORY, 0x1_0000, 0xf781_0000)).build().unwrap();
    let boot = boot(Kind::Linux61, &mut machine);
    let expected = "pci 0000:01:00.1: can't claim BAR 0 [mem 0xf7810000-0xf781ffff]: \
                    address conflict with 0000:01:00.0 [mem 0xf7800000-0xf781ffff]";
    assert!(boot.log.iter().any(|line| line == expected), "{:#?}", boot.log);
    assert_eq!(boot.tree.device(bdf("01:00.1")).unwrap().bars[0].span, Some(span(0xf782_0000, 0x1_0000)));
}

#[test]
fn linux_leaves_a_bar_alone_for_which_a_claimed_window_has_no_room_but_freebsd_grows_the_window() {
    let machine = || {
        let nic = endpoint("01:00.0").command(Command::empty()).bar(0, MEMORY, 0x40_0000, 0);
        pc().function(nic).build().unwrap()
    };
    for kind in [Kind::Linux61, Kind::Linux615] {
        let boot = boot(kind, &mut machine());
        let nic = boot.tree.device(bdf("01:00.0")).unwrap();
        assert_eq!((nic.bars[0].span, nic.enabled), (None, false));
        assert!(boot.log.iter().any(|line| line.contains("no space")));
        assert!(boot.log.iter().any(|line| line.contains("try booting with pci=realloc")));
    }
    let tree = boot(Kind::FreeBsd, &mut machine()).tree;
    assert!(tree.device(bdf("01:00.0")).unwrap().enabled);
    assert!(tree.device(bdf("00:01.0")).unwrap().windows[0].span.len() > 0x20_0000);
}

/// `__assign_resources_sorted`: windows for what may be plugged in leave what is needed its room.
#[test]
fn linux_places_what_is_needed_before_what_is_good_to_have() {
    for kind in [Kind::Linux61, Kind::Linux615] {
        let window = RootWindow { space: Space::Memory, span: span(0xe000_0000, 0x40_0000) };
        let port = Blueprint::port(bdf("00:01.0"), PortType::RootPort, 0x01..=0x01, Windows::default()).with_services();
        let card = endpoint("00:02.0").command(Command::empty()).bar(0, MEMORY, 0x1_0000, 0);
        let mut machine = Builder::new().root(0x00..=0xff, &[window]).function(port).function(card).build().unwrap();
        let boot = boot(kind, &mut machine);
        let place = boot.tree.device(bdf("00:02.0")).unwrap().bars[0].span;
        assert_eq!(place, Some(span(0xe000_0000, 0x1_0000)), "{:#?}", boot.log);
        assert_eq!(boot.tree.device(bdf("00:01.0")).unwrap().windows[0].span, span(0xe010_0000, 0x20_0000), "{kind}");
    }
}

/// `calculate_mem_align`: 6 MiB at a multiple of 2 MiB are behind a window at a multiple of 2 MiB.
#[test]
fn linux_aligns_a_window_as_the_longer_one_behind_it() {
    for kind in [Kind::Linux61, Kind::Linux615] {
        let closed = Windows::default();
        let off = |address| endpoint(address).command(Command::empty());
        let mut machine = Builder::new()
            .root(0x00..=0xff, &[RootWindow { space: Space::Memory, span: span(0xe000_0000, 0x100_0000) }])
            .endpoint(endpoint("00:02.0").bar(0, MEMORY, 0x10_0000, 0xe000_0000))
            .root_port(bdf("00:01.0"), 0x01..=0x03, closed)
            .switch(bdf("01:00.0"), 0x02..=0x03, closed, &[(bdf("02:00.0"), 0x03..=0x03, closed)])
            .function(off("03:00.0").bar(0, MEMORY, 0x40_0000, 0).bar(1, MEMORY, 0x20_0000, 0))
            .build()
            .unwrap();
        let boot = boot(kind, &mut machine);
        let places = boot.tree.device(bdf("03:00.0")).unwrap().bars.iter().map(|bar| bar.span).collect::<Vec<_>>();
        assert_eq!(places, [Some(span(0xe040_0000, 0x40_0000)), Some(span(0xe020_0000, 0x20_0000))], "{:#?}", boot.log);
    }
}

#[test]
fn a_second_function_is_found_through_the_multi_function_bit_and_a_hole_is_skipped() {
    for kind in Kind::ALL {
        let mut machine = pc().function(endpoint("01:00.0")).function(endpoint("01:00.5")).build().unwrap();
        let tree = boot(kind, &mut machine).tree;
        assert_eq!(addresses(&tree), ["00:01.0", "01:00.0", "01:00.5"].map(bdf).into(), "{kind}");
        let zero = machine.original(bdf("01:00.0")).unwrap();
        let value = machine.peek(zero, header::HEADER_TYPE) & !header::MULTI_FUNCTION;
        machine.poke(zero, header::HEADER_TYPE, value);
        assert_eq!(addresses(&boot(kind, &mut machine).tree), ["00:01.0", "01:00.0"].map(bdf).into(), "{kind}");
    }
}

#[test]
fn an_ari_chain_leads_to_device_one_below_a_root_port() {
    for kind in Kind::ALL {
        let mut machine = pc()
            .function(endpoint("01:00.0").multi_function().extended(&ExtendedCapability::Ari { next: 8 }))
            .function(endpoint("01:01.0").extended(&ExtendedCapability::Ari { next: 0 }))
            .build()
            .unwrap();
        let boot = boot(kind, &mut machine);
        assert_eq!(addresses(&boot.tree), ["00:01.0", "01:00.0", "01:01.0"].map(bdf).into(), "{kind}");
        if kind == Kind::FreeBsd {
            assert!(boot.log.contains(&"\tdomain=0, bus=1, slot=0, func=8".into()), "{:#?}", boot.log);
        }
    }
}

/// A machine that notes which functions were asked for anything.
struct Watched {
    machine: Machine,
    asked: BTreeSet<Bdf>,
    /// Writes through ECAM: function, offset, value.
    written: Vec<(Bdf, u16, u32)>,
    ports: pci_remap::mechanism::ConfigAddress,
}

impl Watched {
    fn new(machine: Machine) -> Self {
        Self {
            machine,
            asked: BTreeSet::new(),
            written: Vec::new(),
            ports: pci_remap::mechanism::ConfigAddress::default(),
        }
    }
}

impl Platform for Watched {
    fn firmware(&self) -> &Firmware {
        self.machine.firmware()
    }

    fn port_read(&mut self, port: u16, width: Width) -> u32 {
        if let pci_remap::mechanism::PortAccess::Config(piece) = self.ports.read(port, width) {
            self.asked.insert(piece.access().0.function());
        }
        self.machine.port_read(port, width)
    }

    fn port_write(&mut self, port: u16, width: Width, value: u32) {
        let _ = self.ports.write(port, width, value);
        self.machine.port_write(port, width, value);
    }

    fn memory_read(&mut self, address: u64, width: Width) -> u32 {
        let pieces = self.machine.firmware().ecam.map(|ecam| ecam.pieces(address, width.bytes()));
        self.asked.extend(pieces.into_iter().flatten().map(|piece| piece.access().0.function()));
        Platform::memory_read(&mut self.machine, address, width)
    }

    fn memory_write(&mut self, address: u64, width: Width, value: u32) {
        let pieces = self.machine.firmware().ecam.map(|ecam| ecam.pieces(address, width.bytes()));
        let offset = u16::try_from(address & 0xfff).unwrap();
        let functions = pieces.into_iter().flatten().map(|piece| piece.access().0.function());
        self.written.extend(functions.map(|function| (function, offset, value)));
        Platform::memory_write(&mut self.machine, address, width, value);
    }
}

#[test]
fn below_a_root_port_linux_asks_device_zero_only_and_the_others_ask_all() {
    let machine = |segment| pc().segment(segment).function(endpoint("01:00.0")).build().unwrap();
    for kind in Kind::ALL {
        // Another segment group than the first: the early quirks, which ask everybody, do not run there.
        let mut watched = Watched::new(machine(1));
        boot(kind, &mut watched);
        let linux = matches!(kind, Kind::Linux61 | Kind::Linux615);
        assert_eq!(watched.asked.contains(&bdf("01:01.0")), !linux, "{kind}");
        assert!(watched.asked.contains(&bdf("00:1f.0")), "{kind}");
    }
    let mut watched = Watched::new(machine(0));
    boot(Kind::Linux61, &mut watched);
    assert!(watched.asked.contains(&bdf("01:1f.0")));
}

/// What is written to the registers of a function, after the two of `pci_intx_mask_broken`, up to the first one past the ROM.
fn sizing_writes(kind: Kind) -> Vec<(u16, u32)> {
    let nic = endpoint("01:00.0").bar(0, MEMORY, 0x2_0000, 0xf780_0000).bar(2, PREFETCHABLE, 0x4000, 0xf782_0000);
    let mut watched = Watched::new(pc().segment(1).function(nic.rom(0x1_0000, 0)).build().unwrap());
    boot(kind, &mut watched);
    let nic = watched.written.iter().filter(|(function, _, _)| *function == bdf("01:00.0"));
    nic.map(|(_, offset, value)| (*offset, *value)).skip(2).take_while(|(offset, _)| *offset < 0x34).collect()
}

#[test]
fn linux_6_1_disables_decoding_for_each_bar_and_6_15_once_for_all() {
    let (off, on) = ((0x04, 0x0004), (0x04, 0x0007));
    let one_by_one = [
        [off, (0x10, !0), (0x10, 0xf780_0000), on].to_vec(),
        [off, (0x14, !0), (0x14, 0), on].to_vec(),
        [off, (0x18, !0), (0x18, 0xf782_000c), (0x1c, !0), (0x1c, 0), on].to_vec(),
        [off, (0x20, !0), (0x20, 0), on].to_vec(),
        [off, (0x24, !0), (0x24, 0), on].to_vec(),
        [off, (0x30, 0xffff_f800), (0x30, 0), on].to_vec(),
    ]
    .concat();
    assert_eq!(sizing_writes(Kind::Linux61)[..one_by_one.len()], one_by_one);
    let batch = [
        off,
        (0x10, !0),
        (0x10, 0xf780_0000),
        (0x14, !0),
        (0x14, 0),
        (0x18, !0),
        (0x18, 0xf782_000c),
        (0x1c, !0),
        (0x1c, 0),
        (0x20, !0),
        (0x20, 0),
        (0x24, !0),
        (0x24, 0),
        (0x30, 0xffff_f800),
        (0x30, 0),
        on,
    ];
    assert_eq!(sizing_writes(Kind::Linux615)[..batch.len()], batch);
}

#[test]
fn a_port_shown_as_upstream_port_lets_linux_look_at_all_devices() {
    let windows = Windows::memory(span(0xf780_0000, 0x20_0000));
    let mut machine = Builder::new()
        .root(0x00..=0xff, &[Builder::LOW_MEMORY])
        .function(Blueprint::port(bdf("00:01.0"), PortType::UpstreamPort, 0x01..=0x01, windows))
        .function(endpoint("01:00.0"))
        .function(endpoint("01:01.0").bar(0, MEMORY, 0x1000, 0xf780_0000))
        .build()
        .unwrap();
    let tree = boot(Kind::Linux61, &mut machine).tree;
    let moved = tree.device(bdf("01:01.0")).unwrap();
    assert_eq!((moved.parent, moved.config_size, moved.enabled), (Some(bdf("00:01.0")), 4096, true));
}

#[test]
fn behind_a_conventional_bridge_linux_uses_256_bytes() {
    let windows = Windows::memory(span(0xf780_0000, 0x20_0000));
    let mut machine = Builder::new()
        .root(0x00..=0xff, &[Builder::LOW_MEMORY])
        .bridge(bdf("00:01.0"), 0x01..=0x01, windows)
        .function(endpoint("01:01.0").extended(&ExtendedCapability::SerialNumber(1)))
        .build()
        .unwrap();
    let boot = boot(Kind::Linux61, &mut machine);
    let device = boot.tree.device(bdf("01:01.0")).unwrap();
    assert_eq!((device.config_size, device.extended_capabilities.len()), (256, 0));
    assert!(boot.log.contains(&"pci_bus 0000:01: extended config space not accessible".into()));
}

#[test]
fn valid_bus_numbers_are_kept_by_linux_and_invalid_ones_replaced() {
    for kind in [Kind::Linux61, Kind::Linux615] {
        let mut machine = pc().function(endpoint("01:00.0").bar(0, MEMORY, 0x1000, 0)).build().unwrap();
        let port = machine.original(bdf("00:01.0")).unwrap();
        machine.poke(port, Dword::at(0x18).unwrap(), 0x0005_0500);
        let tree = boot(kind, &mut machine).tree;
        assert_eq!(addresses(&tree), ["00:01.0", "05:00.0"].map(bdf).into());

        machine.poke(port, Dword::at(0x18).unwrap(), 0x0001_0509);
        let boot = boot(kind, &mut machine);
        let said = "pci 0000:00:01.0: bridge configuration invalid ([bus 05-01]), reconfiguring";
        assert!(boot.log.contains(&said.into()), "{:#?}", boot.log);
        assert_eq!(addresses(&boot.tree), ["00:01.0", "01:00.0"].map(bdf).into());
        assert_eq!(machine.peek(port, Dword::at(0x18).unwrap()) & 0xff_ffff, 0x0001_0100);
    }
}

#[test]
fn edk2_numbers_buses_depth_first_and_forgets_what_was_assigned() {
    let mut machine = Builder::new()
        .root(0x00..=0xff, &[Builder::LOW_MEMORY])
        .root_port(bdf("00:01.0"), 0x40..=0x40, Windows::memory(span(0xf780_0000, 0x20_0000)))
        .function(endpoint("40:00.0").bar(0, MEMORY, 0x1000, 0xf780_0000))
        .root_port(bdf("00:02.0"), 0x20..=0x20, Windows::memory(span(0xf7a0_0000, 0x20_0000)))
        .function(endpoint("20:00.0").bar(0, MEMORY, 0x1000, 0xf7a0_0000))
        .build()
        .unwrap();
    let tree = boot(Kind::Edk2, &mut machine).tree;
    assert_eq!(addresses(&tree), ["00:01.0", "00:02.0", "01:00.0", "02:00.0"].map(bdf).into());
    let nic = tree.device(bdf("01:00.0")).unwrap();
    assert_eq!(nic.bars[0].span, Some(span(0x8000_0000, 0x1000)));
    assert_eq!(nic.read(&mut machine, 0, 0), Some(signature(0, bdf("40:00.0"), 0, 0)));
}

#[test]
fn linux_sizes_vf_bars_and_assigns_them_as_one() {
    for kind in [Kind::Linux61, Kind::Linux615] {
        let vf = VfBar { kind: MEMORY, size: 0x4000, address: 0 };
        let sriov = ExtendedCapability::SrIov { total: 8, offset: 0x80, stride: 2, bars: vec![(0, vf)] };
        let nic = endpoint("01:00.0").bar(0, MEMORY, 0x2_0000, 0xf780_0000).extended(&sriov);
        let mut machine = pc().function(nic).build().unwrap();
        let tree = boot(kind, &mut machine).tree;
        let vfs = tree.device(bdf("01:00.0")).unwrap().vf_bars[0];
        assert_eq!((vfs.bar, vfs.size, vfs.span), (0, 0x2_0000, Some(span(0xf782_0000, 0x2_0000))), "{kind}");
    }
}

#[test]
fn nothing_is_assigned_over_the_ecam_window() {
    for kind in Kind::ALL {
        let machine = unassigned();
        let firmware = Firmware { ecam: Ecam::new(0x8000_0000, 0..=255), ..machine.firmware().clone() };
        let mut machine = machine;
        *machine.firmware_mut() = firmware;
        let boot = boot(kind, &mut machine);
        let ecam = machine.firmware().ecam.unwrap().span().0;
        let bars = boot.tree.devices.iter().flat_map(|device| &device.bars);
        let memory = bars.filter(|bar| bar.kind.is_memory()).map(|bar| bar.span.unwrap());
        assert_eq!(memory.filter(|span| span.overlaps(ecam)).count(), 0, "{kind}");
    }
}

#[test]
fn without_ecam_a_guest_sees_256_bytes_and_without_ports_it_uses_ecam_for_all() {
    for kind in Kind::ALL {
        let nic = || endpoint("01:00.0").extended(&ExtendedCapability::SerialNumber(1));
        let mut ports = pc().ecam(None).function(nic()).build().unwrap();
        assert_eq!(boot(kind, &mut ports).tree.device(bdf("01:00.0")).unwrap().config_size, 256, "{kind}");
        let mut ecam = pc().segment(3).function(nic()).build().unwrap();
        let tree = boot(kind, &mut ecam).tree;
        assert_eq!((tree.segment, tree.device(bdf("01:00.0")).unwrap().config_size), (3, 4096), "{kind}");
    }
}

#[test]
fn linux_6_1_logs_a_small_machine_like_this() {
    let nic = endpoint("01:00.0").bar(0, MEMORY, 0x2_0000, 0).bar(2, PREFETCHABLE, 0x4000, 0);
    let mut machine = Builder::new()
        .root(0x00..=0xff, &[Builder::LOW_MEMORY])
        .function(
            Blueprint::bridge(bdf("00:01.0"), 0x01..=0x01, Windows::memory(span(0xf780_0000, 0x20_0000)))
                .id(0x1901_8086)
                .capability(&Capability::Express(PortType::RootPort)),
        )
        .function(nic.command(Command::empty()))
        .build()
        .unwrap();
    let boot = boot(Kind::Linux61, &mut machine);
    assert_eq!(
        boot.log,
        [
            "PCI: Using configuration type 1 for base access",
            "PCI host bridge to bus 0000:00",
            "pci_bus 0000:00: root bus resource [mem 0x80000000-0xfebfffff window]",
            "pci_bus 0000:00: root bus resource [bus 00-ff]",
            "pci 0000:00:01.0: [8086:1901] type 01 class 0x060400",
            "pci 0000:00:01.0: enabling Extended Tags",
            "pci 0000:01:00.0: [8086:10d3] type 00 class 0x020000",
            "pci 0000:01:00.0: reg 0x10: [mem 0x00000000-0x0001ffff]",
            "pci 0000:01:00.0: reg 0x18: [mem 0x00000000-0x00003fff 64bit pref]",
            "pci 0000:01:00.0: enabling Extended Tags",
            "pci 0000:00:01.0: PCI bridge to [bus 01]",
            "pci 0000:00:01.0:   bridge window [mem 0xf7800000-0xf79fffff]",
            "pci 0000:00:01.0: BAR 15: assigned [mem 0x80000000-0x800fffff 64bit pref]",
            "pci 0000:01:00.0: BAR 0: assigned [mem 0xf7800000-0xf781ffff]",
            "pci 0000:01:00.0: BAR 2: assigned [mem 0x80000000-0x80003fff 64bit pref]",
            "pci 0000:00:01.0: PCI bridge to [bus 01]",
            "pci 0000:00:01.0:   bridge window [mem 0xf7800000-0xf79fffff]",
            "pci 0000:00:01.0:   bridge window [mem 0x80000000-0x800fffff 64bit pref]",
            "pci_bus 0000:00: resource 4 [mem 0x80000000-0xfebfffff window]",
            "pci_bus 0000:01: resource 1 [mem 0xf7800000-0xf79fffff]",
            "pci_bus 0000:01: resource 2 [mem 0x80000000-0x800fffff 64bit pref]",
            "pci 0000:01:00.0: enabling device (0000 -> 0002)",
        ]
    );
}

#[test]
fn the_tree_is_drawn_as_lspci_draws_it() {
    let tree = boot(Kind::Linux61, &mut unassigned()).tree;
    let name = |device: &Device| format!("{:04x}", device.id >> 16);
    assert_eq!(
        tree.lspci_tv(&name),
        r"-[0000:00]-+-01.0-[01-04]----00.0-[02-04]--+-00.0-[03]--+-00.0  10d3
           |                               |            \-00.1  10d3
           |                               \-01.0-[04]----00.0  10d3
           +-02.0  10d3
           \-1e.0-[05]----04.0  1572
"
    );
    let mut machine = Builder::new()
        .root(0x00..=0x3f, &[Builder::LOW_MEMORY])
        .root(0x40..=0x7f, &[])
        .function(endpoint("00:02.0"))
        .function(endpoint("40:01.0"))
        .function(endpoint("40:02.0"))
        .build()
        .unwrap();
    assert_eq!(
        boot(Kind::FreeBsd, &mut machine).tree.lspci_tv(&name),
        r"-+-[0000:00]---02.0  10d3
 \-[0000:40]-+-01.0  10d3
             \-02.0  10d3
"
    );
}

#[test]
fn the_tree_of_a_real_machine_is_the_one_lspci_draws() {
    for name in DUMPS {
        let dump = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dumps").join(name).join("dump.txt");
        let Ok(lspci) = std::process::Command::new("lspci").arg("-F").arg(dump).arg("-t").output() else { return };
        let boots = bundled(name).iter_mut().map(|machine| boot(Kind::FreeBsd, machine)).collect::<Vec<_>>();
        let trees = boots.iter().map(|boot| &boot.tree).collect::<Vec<_>>();
        let tree = lspci_tv(&trees, &|_, _| String::new());
        let lines = tree.lines().map(str::trim_end).collect::<Vec<_>>();
        assert_eq!(lines, String::from_utf8(lspci.stdout).unwrap().lines().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_function_that_never_gets_ready_is_waited_for_a_minute() {
    let mut machine = pc().function(endpoint("01:00.0").id(0xffff_0001)).build().unwrap();
    let boot = boot(Kind::Linux61, &mut machine);
    assert_eq!(boot.tree.device(bdf("01:00.0")), None);
    let waits = boot.log.iter().filter(|line| line.starts_with("pci 0000:01:00.0: not ready after")).count();
    assert_eq!(waits, 7, "{:#?}", boot.log);
    assert!(boot.log.contains(&"pci 0000:01:00.0: not ready after 65535ms; giving up".into()));
}

#[test]
fn linux_disables_a_rom_firmware_left_enabled_and_keeps_its_address() {
    let nic = endpoint("01:00.0").rom(0x1_0000, 0xf790_0000).rom_enabled();
    let mut machine = pc().function(nic).build().unwrap();
    let tree = boot(Kind::Linux61, &mut machine).tree;
    let rom = tree.device(bdf("01:00.0")).unwrap().bars[0];
    assert_eq!((rom.bar, rom.kind, rom.span), (6, BarKind::Rom, Some(span(0xf790_0000, 0x1_0000))));
    let nic = machine.original(bdf("01:00.0")).unwrap();
    assert_eq!(machine.peek(nic, Dword::at(0x30).unwrap()), 0xf790_0000);
}

#[test]
fn names_of_guests_parse_back() {
    for kind in Kind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    assert!("linux".parse::<Kind>().is_err());
}

#[test]
fn a_whole_life_ends_on_hardware_that_answers_nonsense() {
    let answers = || [Answers::Always(0x8086_8086), Answers::Noise(1), Answers::Fixed(1), Answers::Bridges(1)];
    for kind in [Kind::Linux61, Kind::Linux615] {
        for answers in answers() {
            let mut nonsense = Nonsense::new(answers, true);
            let mut life = Life::start(kind, &mut nonsense, &[bdf("00:00.0"), bdf("01:01.0")]).unwrap();
            life.run_all();
        }
    }
}

/// Hardware that answers nonsense.
struct Nonsense {
    firmware: Firmware,
    answers: Answers,
    latch: u32,
}

enum Answers {
    Always(u32),
    /// Another value at each read.
    Noise(u64),
    /// Another value at each address, read-only.
    Fixed(u64),
    /// Only functions of this many buses are there, the rest reads all ones; headers claim bridges and loops.
    Bridges(u64),
}

impl Nonsense {
    fn new(answers: Answers, ports: bool) -> Self {
        let roots = vec![RootBridge { buses: 0..=1, windows: vec![Builder::LOW_MEMORY, Builder::PORTS] }];
        let firmware = Firmware { segment: 0, ports, ecam: Ecam::new(0x4000_0000, 0..=3), roots };
        Self { firmware, answers, latch: 0 }
    }

    fn answer(&mut self, address: u64, width: Width) -> u32 {
        let value = match &mut self.answers {
            Answers::Always(value) => *value,
            Answers::Noise(state) => {
                *state = state.wrapping_add(1);
                mix(*state)
            }
            Answers::Fixed(seed) => mix(*seed ^ address << 8),
            Answers::Bridges(seed) => {
                let noise = mix(*seed ^ address << 8);
                match address & 0xfff {
                    0x0c..=0x0f => 0x0081_0000 >> (8 * (address & 3)),
                    0x18..=0x1b => noise & 0x0303_0303,
                    0x06..=0x07 => noise | 0x0010,
                    0x34 => 0x40,
                    0x40..=0xff => noise & 0xffff_7f7f,
                    _ => noise,
                }
            }
        };
        match width {
            Width::Byte => value & 0xff,
            Width::Word => value & 0xffff,
            Width::Dword => value,
        }
    }
}

fn mix(seed: u64) -> u32 {
    let mixed = (seed ^ seed >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u32::try_from((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32).unwrap()
}

impl Platform for Nonsense {
    fn firmware(&self) -> &Firmware {
        &self.firmware
    }

    fn port_read(&mut self, port: u16, width: Width) -> u32 {
        match port {
            0xcf8 => self.latch,
            _ => self.answer(
                u64::from(self.latch & 0x00ff_fffc) << 4 & 0xfff_f000
                    | u64::from(self.latch & 0xfc)
                    | u64::from(port & 3),
                width,
            ),
        }
    }

    fn port_write(&mut self, port: u16, _: Width, value: u32) {
        if port == 0xcf8 {
            self.latch = value;
        }
    }

    fn memory_read(&mut self, address: u64, width: Width) -> u32 {
        self.answer(address & 0xfff_ffff, width)
    }

    fn memory_write(&mut self, _: u64, _: Width, _: u32) {}
}

#[test]
fn guests_end_on_hardware_that_answers_nonsense() {
    let constants = [0, !0, 1, 0x0001_0001, 0x8086_8086, 0x7fff_ffff, 0x4040_4040, 0x0101_0101];
    let answers = || {
        let constants = constants.into_iter().map(Answers::Always);
        let noise = (1..3).flat_map(|seed| [Answers::Noise(seed << 20), Answers::Fixed(seed), Answers::Bridges(seed)]);
        constants.chain(noise)
    };
    for kind in Kind::ALL {
        for ports in [true, false] {
            for answers in answers() {
                boot(kind, &mut Nonsense::new(answers, ports));
            }
        }
    }
}
