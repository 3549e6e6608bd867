//! The simulated hardware: registers keep their read-only bits, requests go where the registers say.

mod support;

use arbitrary::{Arbitrary, Unstructured};
use pci_remap::mechanism::Ecam;
use pci_remap::sim::machine::{
    Blueprint, BuildError, Builder, Capability, ExtendedCapability, FixedRange, Machine, Quirks, ROM, Request, VfBar,
    Windows, capabilities, signature,
};
use pci_remap::sim::platform::Platform;
use pci_remap::spec::bar::BarKind;
use pci_remap::spec::express::PortType;
use pci_remap::spec::header;
use pci_remap::spec::header::Command;
use pci_remap::{Access, Bdf, Dword, Lanes, Space, Width};
use proptest::prelude::*;
use support::{MEMORY, MEMORY_64, bdf as at, read, span, write};

/// What an untouched DWORD at this place reads.
fn untouched(bdf: &str, bar: usize, offset: u64) -> u64 {
    u64::from(signature(0, at(bdf), bar, offset))
}

/// Two Root Ports with a NIC each; the second NIC has every kind of BAR.
fn two_nics() -> Machine {
    let first = Windows::memory(span(0xf790_0000, 0x10_0000));
    let second = Windows {
        io: Some(span(0xe000, 0x1000)),
        memory: Some(span(0xf780_0000, 0x10_0000)),
        prefetchable: Some(span(0x10_0000_0000, 0x1000_0000)),
    };
    Builder::new()
        .root(0x00..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY, Builder::PORTS])
        .root_port(at("00:01.0"), 0x01..=0x01, first)
        .root_port(at("00:01.1"), 0x02..=0x02, second)
        .endpoint(Blueprint::endpoint(at("01:00.0")).bar(0, MEMORY, 0x1000, 0xf790_0000))
        .endpoint(
            Blueprint::endpoint(at("02:00.0"))
                .bar(0, MEMORY, 0x2_0000, 0xf780_0000)
                .bar(1, MEMORY_64, 0x1000_0000, 0x10_0000_0000)
                .bar(3, BarKind::Io, 0x20, 0xe020)
                .rom(0x1_0000, 0xf784_0000),
        )
        .build()
        .unwrap()
}

#[test]
fn writing_all_ones_to_a_bar_shows_its_size_and_type() {
    let mut machine = two_nics();
    for offset in [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30] {
        write(&mut machine, "02:00.0", offset, !0);
    }
    let sized = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30].map(|offset| read(&mut machine, "02:00.0", offset));
    assert_eq!(sized, [0xfffe_0000, 0xf000_000c, 0xffff_ffff, 0xffff_ffe1, 0, 0, 0xffff_0001]);
}

#[test]
fn every_bar_reads_its_own_memory_and_remembers_single_bytes() {
    let mut machine = two_nics();
    assert_eq!(machine.memory_read(0xf780_0010, 4), untouched("02:00.0", 0, 0x10));
    assert_eq!(machine.memory_read(0x10_0000_0000, 4), untouched("02:00.0", 1, 0));
    assert_eq!(machine.io_read(0xe024, 4), untouched("02:00.0", 3, 4));

    machine.memory_write(0xf780_0013, 3, 0x0033_2211);
    let expected = untouched("02:00.0", 0, 0x10) & 0x00ff_ffff | 0x1100_0000;
    let next = untouched("02:00.0", 0, 0x14) & 0xffff_0000 | 0x3322;
    assert_eq!(machine.memory_read(0xf780_0010, 8), next << 32 | expected);
    assert_eq!((machine.conflicts(), machine.unsupported_requests()), (&[][..], 0));
}

#[test]
fn the_rom_answers_only_with_both_of_its_enables() {
    let mut machine = two_nics();
    assert_eq!(machine.memory_read(0xf784_0000, 4), 0xffff_ffff);
    write(&mut machine, "02:00.0", 0x30, 0xf784_0001);
    assert_eq!(machine.memory_read(0xf784_0000, 4), untouched("02:00.0", ROM, 0));
    write(&mut machine, "02:00.0", 0x04, 0x0004);
    assert_eq!(machine.memory_read(0xf784_0000, 4), 0xffff_ffff);
}

#[test]
fn a_bar_moves_with_its_register_and_stays_inside_its_bridge() {
    let mut machine = two_nics();
    write(&mut machine, "02:00.0", 0x10, 0xf788_0000);
    assert_eq!(machine.memory_read(0xf780_0000, 4), 0xffff_ffff);
    assert_eq!(machine.memory_read(0xf788_0000, 4), untouched("02:00.0", 0, 0));
    write(&mut machine, "02:00.0", 0x10, 0xf7a0_0000);
    assert_eq!(machine.decoders(Space::Memory, 0xf7a0_0000), []);
    assert_eq!(machine.unsupported_requests(), 1);
}

#[test]
fn a_bridge_forwards_what_its_windows_and_command_say() {
    let mut machine = two_nics();
    write(&mut machine, "00:01.1", 0x04, 0x0006);
    assert_eq!(machine.io_read(0xe020, 4), 0xffff_ffff);
    assert_eq!(machine.memory_read(0xf780_0000, 4), untouched("02:00.0", 0, 0));
    write(&mut machine, "00:01.1", 0x20, 0x0000_fff0);
    assert_eq!(machine.memory_read(0xf780_0000, 4), 0xffff_ffff);
    assert_eq!(machine.memory_read(0x10_0000_0000, 4), untouched("02:00.0", 1, 0));
    write(&mut machine, "00:01.1", 0x2c, 0x0f);
    assert_eq!(machine.memory_read(0x10_0000_0000, 4), 0xffff_ffff);
}

#[test]
fn a_renumbered_bus_takes_its_functions_along() {
    let mut machine = two_nics();
    let nic = machine.find(at("02:00.0")).unwrap();
    write(&mut machine, "00:01.1", 0x18, 0x0007_0700);
    assert_eq!((machine.find(at("02:00.0")), machine.find(at("07:00.0"))), (None, Some(nic)));
    assert_eq!(machine.function(nic).bdf(), at("02:00.0"));
    assert_eq!(read(&mut machine, "02:00.0", 0), 0xffff_ffff);
    assert_eq!(machine.memory_read(0xf780_0000, 4), untouched("02:00.0", 0, 0));
}

#[test]
fn two_claimants_are_a_conflict_and_read_all_ones() {
    let mut machine = two_nics();
    write(&mut machine, "00:01.0", 0x20, 0xf790_f780);
    assert_eq!(machine.memory_read(0xf780_0000, 4), 0xffff_ffff);
    let [first, second] = [at("00:01.0"), at("00:01.1")].map(|port| machine.find(port).unwrap());
    let [conflict] = machine.conflicts() else { panic!("{:?}", machine.conflicts()) };
    assert_eq!((conflict.request, &conflict.claimants[..]), (Request::Memory(0xf780_0000), &[first, second][..]));

    write(&mut machine, "00:01.0", 0x18, 0x0002_0200);
    assert_eq!(read(&mut machine, "02:00.0", 0), 0xffff_ffff);
    assert_eq!(machine.conflicts()[1].request, Request::Configuration(at("02:00.0")));
}

#[test]
fn below_a_link_only_device_0_answers_until_ari_forwarding_is_enabled() {
    let ari = |bdf, next| Blueprint::endpoint(at(bdf)).extended(&ExtendedCapability::Ari { next });
    let mut machine = Builder::new()
        .root(0x00..=0xff, &[])
        .root_port(at("00:01.0"), 0x01..=0x01, Windows::default())
        .endpoint(ari("01:00.0", 8))
        .endpoint(ari("01:01.0", 0))
        .build()
        .unwrap();
    assert_eq!(machine.find(at("01:01.0")), None);
    // Device Control 2 of the port, whose PCI Express Capability is the first.
    write(&mut machine, "00:01.0", 0x40 + 0x28, 0x20);
    assert_eq!(machine.find(at("01:01.0")), machine.original(at("01:01.0")));
}

#[test]
fn a_phantom_answers_at_every_device_number_of_its_bus() {
    let phantom = Blueprint::endpoint(at("01:00.0")).quirk(Quirks::ANSWERS_EVERY_DEVICE);
    let mut machine = Builder::new()
        .root(0x00..=0xff, &[])
        .root_port(at("00:01.0"), 0x01..=0x01, Windows::default())
        .endpoint(phantom)
        .build()
        .unwrap();
    let itself = machine.find(at("01:00.0"));
    assert!((0..32).all(|device| machine.find(Bdf::new(1, device, 0).unwrap()) == itself));
    assert_eq!((machine.find(at("01:05.1")), machine.find(at("02:05.0"))), (None, None));
    assert_eq!(read(&mut machine, "01:1f.0", 0), 0x1572_8086);
}

#[test]
fn a_switch_forwards_through_both_of_its_ports() {
    let windows = Windows::memory(span(0xf000_0000, 0x20_0000));
    let behind = Windows::memory(span(0xf010_0000, 0x10_0000));
    let mut machine = Builder::new()
        .root(0x00..=0xff, &[Builder::LOW_MEMORY])
        .root_port(at("00:1c.0"), 0x03..=0x06, windows)
        .switch(
            at("03:00.0"),
            0x04..=0x06,
            windows,
            &[(at("04:01.0"), 0x05..=0x05, Windows::default()), (at("04:03.0"), 0x06..=0x06, behind)],
        )
        .endpoint(Blueprint::endpoint(at("06:00.0")).bar(2, MEMORY, 0x4000, 0xf010_4000))
        .build()
        .unwrap();
    assert_eq!(machine.memory_read(0xf010_4000, 4), untouched("06:00.0", 2, 0));
    assert_eq!(read(&mut machine, "06:00.0", 0x18), 0xf010_4000);
    assert_eq!(machine.function(machine.find(at("04:03.0")).unwrap()).port_type(), Some(PortType::DownstreamPort));
}

#[test]
fn registers_keep_their_read_only_bits_and_clear_error_bits_by_ones() {
    let mut machine = two_nics();
    let nic = machine.find(at("02:00.0")).unwrap();
    machine.poke(nic, Dword::at(0x04).unwrap(), 0xf910_0000);
    write(&mut machine, "02:00.0", 0x04, 0x4000_ffff);
    assert_eq!(read(&mut machine, "02:00.0", 0x04), 0xb910_0547);
    write(&mut machine, "02:00.0", 0x00, 0);
    assert_eq!(read(&mut machine, "02:00.0", 0x00), 0x1572_8086);
    let interrupt_line = Access::new(at("02:00.0"), Dword::at(0x3c).unwrap(), Lanes::new(0b0011).unwrap());
    machine.config_write(interrupt_line, !0);
    assert_eq!(machine.peek(nic, Dword::at(0x3c).unwrap()), 0x0000_00ff);
}

#[test]
fn conventional_functions_do_not_answer_beyond_256_bytes() {
    let mut machine = Builder::new()
        .root(0x00..=0xff, &[])
        .function(Blueprint::endpoint(at("00:1f.3")))
        .endpoint(Blueprint::endpoint(at("00:02.0")))
        .build()
        .unwrap();
    assert_eq!((read(&mut machine, "00:1f.3", 0xfc), read(&mut machine, "00:1f.3", 0x100)), (0, 0xffff_ffff));
    assert_eq!(read(&mut machine, "00:02.0", 0x100), 0);
}

#[test]
fn fixed_ranges_and_resizable_bars_and_vf_bars_behave() {
    let fixed = FixedRange { bar: 2, properties: 1, base: 0x9000_0000, max_offset: 0xfffc };
    let vf = VfBar { kind: MEMORY_64, size: 0x4000, address: 0 };
    let mut machine = Builder::new()
        .root(0x00..=0xff, &[Builder::LOW_MEMORY])
        .endpoint(
            Blueprint::endpoint(at("00:02.0"))
                .bar(0, MEMORY, 0x10_0000, 0xa000_0000)
                .capability(&Capability::EnhancedAllocation(vec![fixed]))
                .extended(&ExtendedCapability::ResizableBar(vec![(0, 0b111)]))
                .extended(&ExtendedCapability::SrIov { total: 8, offset: 16, stride: 1, bars: vec![(0, vf)] }),
        )
        .build()
        .unwrap();
    assert_eq!(machine.memory_read(0x9000_fffc, 4), untouched("00:02.0", 2, 0xfffc));
    // Resizable BAR Control: 4 MiB.
    write(&mut machine, "00:02.0", 0x108, 0x0200);
    write(&mut machine, "00:02.0", 0x10, !0);
    assert_eq!(read(&mut machine, "00:02.0", 0x10), 0xffc0_0000);
    write(&mut machine, "00:02.0", 0x10c + 0x24, !0);
    assert_eq!(read(&mut machine, "00:02.0", 0x10c + 0x24), 0xffff_c00c);
}

#[test]
fn both_mechanisms_reach_the_same_registers() {
    let mut machine = two_nics();
    machine.port_write(0xcf8, Width::Dword, 0x8002_0010);
    assert_eq!(machine.port_read(0xcfc, Width::Dword), 0xf780_0000);
    let page = 0x4000_0000 + (0x0200 << 12);
    let mut bus: Box<dyn Platform> = Box::new(machine);
    assert_eq!(bus.memory_read(page + 0x12, Width::Word), 0xf780);
    bus.port_write(0xcfe, Width::Word, 0xf788);
    assert_eq!(bus.memory_read(page + 0x10, Width::Dword), 0xf788_0000);
    bus.memory_write(page + 0x04, Width::Byte, 0);
    assert_eq!(bus.memory_read(0xf788_0000, Width::Dword), 0xffff_ffff);
    assert_eq!(bus.port_read(0xcfc, Width::Byte), 0);
}

#[test]
fn a_segment_without_ports_leaves_cf8_to_its_devices() {
    let mut machine = Builder::new()
        .segment(1)
        .ecam(Ecam::new(0x5000_0000, 0..=1))
        .root(0x00..=0x01, &[])
        .endpoint(Blueprint::endpoint(at("00:02.0")))
        .build()
        .unwrap();
    machine.port_write(0xcf8, Width::Dword, 0x8000_1000);
    assert_eq!(machine.port_read(0xcfc, Width::Dword), 0xffff_ffff);
    assert_eq!(Platform::memory_read(&mut machine, 0x5001_0000, Width::Dword), 0x1572_8086);
}

#[test]
fn functions_that_share_a_device_are_marked_and_mistakes_are_refused() {
    let endpoint = |bdf| Blueprint::endpoint(at(bdf)).command(Command::empty());
    let builder = Builder::new().root(0x00..=0x0f, &[]).function(endpoint("00:02.0")).function(endpoint("00:02.1"));
    let mut machine = builder.clone().build().unwrap();
    assert_eq!(read(&mut machine, "00:02.0", 0x0c) >> 16, 0x80);
    let twice = builder.clone().function(endpoint("00:02.1")).build();
    assert_eq!(twice.map(drop), Err(BuildError::Duplicate(at("00:02.1"))));
    let nowhere = builder.function(endpoint("05:00.0")).build();
    assert_eq!(nowhere.map(drop), Err(BuildError::Unreachable(at("05:00.0"))));
}

/// One conventional bridge on the root bus, with a function of one memory and one I/O BAR behind it.
fn behind(bridge: Blueprint) -> Machine {
    let function =
        Blueprint::endpoint(at("01:04.0")).bar(0, MEMORY, 0x1000, 0xf000_0000).bar(1, BarKind::Io, 4, 0x1100);
    let builder = Builder::new().root(0x00..=0xff, &[Builder::LOW_MEMORY, Builder::PORTS]);
    builder.function(bridge).function(function).build().unwrap()
}

#[test]
fn a_cardbus_bridge_forwards_by_its_own_registers() {
    let mut registers = vec![0; 64];
    registers[1] = 0x0000_0003;
    registers[3] = 0x0002_0000;
    // Bus numbers, memory window 1, I/O window 0.
    registers[6] = 0x0001_0100;
    (registers[9], registers[10]) = (0xf000_0000, 0xf000_1000);
    (registers[11], registers[12]) = (0x0000_1000, 0x0000_10fc);
    let mut machine = behind(Blueprint::raw(at("00:1e.0"), registers));
    assert_eq!(machine.find(at("01:04.0")), machine.original(at("01:04.0")));
    assert_eq!(machine.memory_read(0xf000_0000, 4), untouched("01:04.0", 0, 0));
    assert_eq!(machine.io_read(0x1100, 4), 0xffff_ffff);
    write(&mut machine, "00:1e.0", 0x30, 0x0000_1100);
    assert_eq!(machine.io_read(0x1100, 4), untouched("01:04.0", 1, 0));
}

#[test]
fn a_subtractive_bridge_takes_what_nobody_claims() {
    let closed = || Blueprint::bridge(at("00:1e.0"), 0x01..=0x01, Windows::default());
    assert_eq!(behind(closed()).memory_read(0xf000_0000, 4), 0xffff_ffff);
    let mut machine = behind(closed().class(0x0006_0401));
    assert_eq!(machine.memory_read(0xf000_0000, 4), untouched("01:04.0", 0, 0));
    assert_eq!((machine.memory_read(0xf100_0000, 4), machine.conflicts()), (0xffff_ffff, &[][..]));
}

#[test]
fn isa_enable_keeps_the_upper_ports_of_each_kib_on_the_primary_side() {
    let windows = Windows { io: Some(span(0x1000, 0x1000)), ..Windows::default() };
    let mut machine = behind(Blueprint::bridge(at("00:1e.0"), 0x01..=0x01, windows));
    assert_eq!(machine.io_read(0x1100, 4), untouched("01:04.0", 1, 0));
    write(&mut machine, "00:1e.0", 0x3c, 0x0004_0000);
    assert_eq!(machine.io_read(0x1100, 4), 0xffff_ffff);
    write(&mut machine, "01:04.0", 0x14, 0x1000);
    assert_eq!(machine.io_read(0x1000, 4), untouched("01:04.0", 1, 0));
}

proptest! {
    #[test]
    fn random_machines_are_whole(seed in prop::collection::vec(any::<u8>(), 0..2000)) {
        let builder = Builder::arbitrary(&mut Unstructured::new(&seed)).unwrap();
        let mut machine = builder.build().unwrap();
        let functions: Vec<_> = machine.functions().map(|(id, function)| (id, function.clone())).collect();
        for (id, function) in functions {
            prop_assert_eq!(machine.find(function.bdf()), Some(id));
            let (standard, extended) =
                (capabilities::standard(function.config()), capabilities::extended(function.config()));
            prop_assert_eq!((standard.returns_to, extended.returns_to), (None, None));
            for (index, bar) in function.bars().filter(|(index, _)| function.decodes(*index)) {
                let span = function.bar_span(index).unwrap();
                // Zero is a BAR nobody has placed.
                if span.start() == 0 {
                    continue;
                }
                let last = span.last() & !3;
                let read = if bar.kind.is_memory() { machine.memory_read(last, 4) } else { machine.io_read(last, 4) };
                let expected = signature(0, function.bdf(), index, last - span.start());
                prop_assert_eq!(read, u64::from(expected), "{} BAR{} {}", function.bdf(), index, span);
            }
        }
        prop_assert_eq!(machine.conflicts(), []);
    }

    #[test]
    fn a_capability_list_may_loop_and_point_anywhere(
        pointers in prop::collection::vec((0x40..0x100_u16, any::<u32>()), 0..8),
        extended in prop::collection::vec((0x100..0x1000_u16, any::<u32>()), 0..8),
        pointer in any::<u32>(),
        writes in prop::collection::vec((0..1024_u16, any::<u32>()), 0..32),
    ) {
        let mut blueprint = Blueprint::endpoint(at("00:02.0"))
            .capability(&Capability::Express(PortType::Endpoint))
            .register(header::CAPABILITIES_POINTER, pointer);
        for (offset, value) in pointers.into_iter().chain(extended) {
            blueprint = blueprint.register(Dword::holding(offset), value);
        }
        let mut machine = Builder::new().root(0x00..=0xff, &[]).function(blueprint).build().unwrap();
        for (dword, value) in writes {
            machine.config_write(Access::whole(at("00:02.0"), Dword::new(dword).unwrap()), value);
            machine.memory_read(u64::from(value), 4);
        }
    }
}
