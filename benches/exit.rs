//! What the crate's part of a VM exit takes, by the clock. `benches/instructions` counts the same operations.

#[expect(dead_code, reason = "the other bench uses the rest")]
mod support;

use core::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use support::{Exits, disable, enable, read, read_by_ports, size, write};

fn exits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("exit");
    for count in [1, 16, 64] {
        let mut exits = Exits::new(count);
        let reads = [
            ("read untouched", support::untouched()),
            ("read absent", support::absent()),
            ("read redirected", exits.vendor()),
            ("read BAR", exits.bar()),
        ];
        for (name, access) in reads {
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| read(exits.remapper(), black_box(access)));
            });
        }
        let address = exits.config_address();
        group.bench_function(BenchmarkId::new("read through CF8 and CFC", count), |bencher| {
            let (ports, remapper) = exits.ports();
            bencher.iter(|| read_by_ports(ports, remapper, black_box(address), black_box(0x1572_8086)));
        });
        let command = exits.command();
        group.bench_function(BenchmarkId::new("enable and disable decoding", count), |bencher| {
            let remapper = exits.remapper_mut();
            bencher.iter(|| enable(remapper, black_box(command)) + disable(remapper, black_box(command)));
        });
        // Last, as it moves the BAR. The second write is what makes the first one a change again.
        let bar = exits.bar();
        group.bench_function(BenchmarkId::new("size BAR and put it back", count), |bencher| {
            let remapper = exits.remapper_mut();
            bencher.iter(|| (size(remapper, black_box(bar)), write(remapper, black_box(bar), 0)));
        });
    }
    group.finish();
}

criterion_group!(benches, exits);
criterion_main!(benches);
