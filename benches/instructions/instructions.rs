//! What the crate's part of a VM exit takes, in instructions, and the most it may take.
//!
//! Counted is one call of a function of `support`: its own instructions and all it calls, nothing of the set-up. An
//! operation over its limit fails the run.

#[path = "../support/mod.rs"]
mod support;

use core::hint::black_box;

use gungraun::prelude::*;
use gungraun::{Callgrind, EntryPoint, EventKind};
use support::Exits;

/// Instructions of a function that does nothing. They are in every count, and come on top of every limit.
const EMPTY: u64 = 3;

/// Counts what happens in a function of `support`, and sets its limit.
fn at_most(function: &str, instructions: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::with_args(["--cache-sim=no"]);
    callgrind.entry_point(EntryPoint::Custom(format!("*::support::{function}")));
    callgrind.hard_limits([(EventKind::Ir, instructions + EMPTY)]);
    callgrind.format([EventKind::Ir]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

#[library_benchmark(config = at_most("nothing", 0))]
#[bench::call(Exits::new(1))]
fn empty(exits: Exits) -> Exits {
    let _ = black_box(support::nothing(exits.remapper(), black_box(exits.vendor())));
    exits
}

#[library_benchmark(config = at_most("read", 15))]
#[benches::of(args = [1, 16, 64], setup = Exits::new)]
fn read_untouched(exits: Exits) -> Exits {
    let _ = black_box(support::read(exits.remapper(), black_box(support::untouched())));
    exits
}

#[library_benchmark(config = at_most("read", 15))]
#[benches::of(args = [1, 16, 64], setup = Exits::new)]
fn read_untouched_bus(exits: Exits) -> Exits {
    let _ = black_box(support::read(exits.remapper(), black_box(support::elsewhere())));
    exits
}

#[library_benchmark(config = at_most("read", 30))]
#[benches::of(args = [1, 16, 64], setup = Exits::new)]
fn read_absent(exits: Exits) -> Exits {
    let _ = black_box(support::read(exits.remapper(), black_box(support::absent())));
    exits
}

#[library_benchmark(config = at_most("read", 45))]
#[benches::of(args = [1, 16, 64], setup = Exits::new)]
fn read_redirected(exits: Exits) -> Exits {
    let _ = black_box(support::read(exits.remapper(), black_box(exits.vendor())));
    exits
}

#[library_benchmark(config = at_most("read", 45))]
#[benches::of(args = [1, 16, 64], setup = Exits::new)]
fn read_bar(exits: Exits) -> Exits {
    let _ = black_box(support::read(exits.remapper(), black_box(exits.bar())));
    exits
}

#[library_benchmark(config = at_most("read", 90))]
#[benches::of(args = [1, 8], setup = Exits::following)]
fn read_virtual_function(exits: Exits) -> Exits {
    let _ = black_box(support::read(exits.remapper(), black_box(exits.class())));
    exits
}

#[library_benchmark(config = at_most("read", 80))]
#[benches::of(args = [1, 8], setup = Exits::following)]
fn read_vendor_of_virtual_function(exits: Exits) -> Exits {
    let _ = black_box(support::read(exits.remapper(), black_box(exits.vendor())));
    exits
}

#[library_benchmark(config = at_most("write", 120))]
#[benches::of(args = [1, 16, 64], setup = Exits::new)]
fn write_bar(mut exits: Exits) -> Exits {
    let bar = black_box(exits.bar());
    let _ = black_box(support::write(exits.remapper_mut(), bar, black_box(!0)));
    exits
}

#[library_benchmark(config = at_most("size", 120))]
#[benches::of(args = [1, 16, 64], setup = Exits::new)]
fn size_bar(mut exits: Exits) -> Exits {
    let bar = black_box(exits.bar());
    let _ = black_box(support::size(exits.remapper_mut(), bar));
    exits
}

#[library_benchmark(config = at_most("read_by_ports", 70))]
#[benches::of(args = [1, 16, 64], setup = Exits::new)]
fn read_by_ports(mut exits: Exits) -> Exits {
    let address = black_box(exits.config_address());
    let (ports, remapper) = exits.ports();
    black_box(support::read_by_ports(ports, remapper, address, black_box(0x1572_8086)));
    exits
}

#[library_benchmark(config = at_most("enable", 500))]
#[benches::of(args = [1, 16, 64], setup = Exits::new)]
fn enable_decoding(mut exits: Exits) -> Exits {
    let command = black_box(exits.command());
    assert_eq!(support::enable(exits.remapper_mut(), command), 3);
    exits
}

#[library_benchmark(config = at_most("disable", 420))]
#[benches::of(args = [1, 16, 64], setup = decoding)]
fn disable_decoding(mut exits: Exits) -> Exits {
    let command = black_box(exits.command());
    assert_eq!(support::disable(exits.remapper_mut(), command), 3);
    exits
}

fn decoding(count: u8) -> Exits {
    let mut exits = Exits::new(count);
    let command = exits.command();
    support::enable(exits.remapper_mut(), command);
    exits
}

library_benchmark_group!(
    name = exit,
    benchmarks = [
        empty,
        read_untouched,
        read_untouched_bus,
        read_absent,
        read_redirected,
        read_bar,
        read_virtual_function,
        read_vendor_of_virtual_function,
        write_bar,
        size_bar,
        read_by_ports,
        enable_decoding,
        disable_decoding
    ]
);

main!(library_benchmark_groups = exit);
