//! The serial line, which the guest has as well: a line of ours may stand between two of its own.

use core::fmt::{self, Write};

use x86_64::instructions::port::Port;

/// The first serial port of a PC.
const COM1: u16 = 0x3f8;

struct Serial;

impl Serial {
    fn send(byte: u8) {
        let (mut data, mut line_status) = (Port::<u8>::new(COM1), Port::<u8>::new(COM1 + 5));
        // SAFETY: a 16550 or nothing is at these ports; nothing else is harmed.
        unsafe {
            while line_status.read() & 0x20 == 0 {}
            data.write(byte);
        }
    }
}

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                Self::send(b'\r');
            }
            Self::send(byte);
        }
        Ok(())
    }
}

/// 115200 baud, 8 bits, no parity, no interrupts.
pub fn start() {
    for (register, value) in [(1, 0x00), (3, 0x80), (0, 0x01), (1, 0x00), (3, 0x03), (2, 0xc7), (4, 0x03)] {
        // SAFETY: as for sending.
        unsafe { Port::<u8>::new(COM1 + register).write(value) }
    }
}

pub fn line(arguments: fmt::Arguments<'_>) {
    let _ = writeln!(Serial, "hypervisor: {arguments}");
}

/// A line on the console, marked as ours.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => { $crate::console::line(format_args!($($argument)*)) };
}
