//! The guest of `--guest-payload`: finds all functions by both mechanisms, places the BARs nobody has placed, moves them,
//! reads and writes device memory through them, takes an MSI, and reports.

#![no_std]
#![no_main]

mod config;
mod place;
mod processor;
mod report;

use config::{Found, Function};
use place::Places;
use processor::{port_write_8, port_write_32};
use report::say;

/// What the VMM tells, eight bytes each.
#[repr(C)]
pub struct Parameters {
    /// Where the ECAM window is.
    ecam: usize,
    /// The memory window of the root bus, both ends included.
    low: u64,
    high: u64,
    /// How often each BAR is moved.
    rounds: u64,
}

const EXIT: u16 = 0xf4;
const DOORBELL: u16 = 0xf8;
/// Any value no device has.
const PATTERN: u32 = 0x0b5e_55ed;

/// The first Rust code, in 64-bit mode with a stack.
#[unsafe(no_mangle)]
extern "C" fn run(parameters: &Parameters) -> ! {
    processor::take_interrupts();
    let found = Found::scan(parameters.ecam);
    let mut same = 0;
    for function in found.functions() {
        let (id, class) = (function.read(0), function.read(8) >> 8);
        say!(function.0, " ", hex id & 0xffff, 4, ":", hex id >> 16, 4, " class ", hex class, 6, "\n");
        let is_same = |dword: u32| function.read(4 * dword) == function.read_ecam(parameters.ecam, 4 * dword);
        same += u32::from((0..64).all(is_same));
    }
    let count = found.functions().len() as u32;
    say!(dec count, " functions, ", dec same, " of them the same through ECAM, which has ", dec found.strangers, " more\n");
    let mut good = same == count && found.strangers == 0;

    for function in found.functions() {
        if function.wants_places() {
            good &= try_function(*function, &found, parameters);
        }
    }
    port_write_8(EXIT, if good { 0 } else { 1 });
    processor::halt()
}

/// Places the BARs of a function and moves each, with what is in them; then takes an MSI.
fn try_function(function: Function, found: &Found, parameters: &Parameters) -> bool {
    let mut good = true;
    let mut places = Places::of_bus(function, found, parameters);
    let mut bars = function.bars();
    for bar in bars.iter_mut().flatten().filter(|bar| bar.is_memory()) {
        let Some(at) = places.next(bar, 0) else {
            say!(function.0, " BAR ", dec bar.number, ": no room\n");
            return false;
        };
        function.place(bar, at);
    }
    function.enable();
    for bar in bars.iter_mut().flatten().filter(|bar| bar.is_memory()) {
        let first = bar.address;
        let own = read(first, 0);
        write(first, 4, PATTERN);
        let keeps = read(first, 4) == PATTERN;
        say!(function.0, " BAR ", dec bar.number, ": ", hex bar.size as u32, 1, "h bytes at ", hex first as u32, 8, " read ", hex own, 8);
        say!(if keeps { ", keep what is written" } else { ", LOSE what is written" });
        let Some(second) = places.next(bar, first + 1) else {
            say!("; no room to move\n");
            return false;
        };
        let (mut followed, mut left) = (0_u32, 0_u32);
        for round in 0..parameters.rounds as u32 {
            let (from, to) = (bar.address, if bar.address == first { second } else { first });
            function.move_bar(bar, to);
            followed += u32::from(read(to, 0) == own && read(to, 4) == PATTERN ^ round);
            left += u32::from(read(from, 0) == !0);
            write(to, 4, PATTERN ^ (round + 1));
        }
        let rounds = parameters.rounds as u32;
        say!("; moved ", dec rounds, " times, found ", dec followed, " times, nothing left behind ", dec left, " times\n");
        good &= keeps && followed == rounds && left == rounds;
    }
    if let Some(capability) = function.capability(config::MSI) {
        function.enable_msi(capability, processor::MESSAGE_ADDRESS, processor::VECTOR);
        let before = processor::interrupts();
        port_write_32(DOORBELL, function.0.into());
        let taken = (0..1_000_000).any(|_| processor::interrupts() != before);
        say!(function.0, if taken { " interrupts by MSI\n" } else { " does NOT interrupt by MSI\n" });
        good &= taken;
    }
    good
}

fn read(address: u64, offset: u64) -> u32 {
    // SAFETY: device memory, or nothing, in which case it reads all ones.
    unsafe { ((address + offset) as *const u32).read_volatile() }
}

fn write(address: u64, offset: u64, value: u32) {
    // SAFETY: as above; the payload's own memory is below every window.
    unsafe { ((address + offset) as *mut u32).write_volatile(value) }
}
