//! The report, on the serial port. `core::fmt` would be most of the program.

use crate::processor::port_write_8;

const SERIAL: u16 = 0x3f8;

/// Something that can be said.
pub trait Say {
    fn say(self);
}

impl Say for &str {
    fn say(self) {
        for byte in self.bytes() {
            port_write_8(SERIAL, byte);
        }
    }
}

/// A function's address, as a Routing ID.
impl Say for u16 {
    fn say(self) {
        let (id, dot) = (u32::from(self), ".");
        hex(id >> 8, 2);
        ":".say();
        hex(id >> 3 & 0x1f, 2);
        dot.say();
        hex(id & 7, 1);
    }
}

/// A number with at least so many digits.
pub fn hex(value: u32, digits: u32) {
    for digit in (0..8).rev() {
        let nibble = (value >> (4 * digit) & 0xf) as u8;
        if digit < digits || value >> (4 * digit) != 0 {
            port_write_8(SERIAL, if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
        }
    }
}

pub fn dec(value: u32) {
    if value >= 10 {
        dec(value / 10);
    }
    port_write_8(SERIAL, b'0' + (value % 10) as u8);
}

/// Says texts, addresses of functions, and numbers: `hex VALUE, DIGITS` or `dec VALUE`.
macro_rules! say {
    () => {};
    (hex $value:expr, $digits:literal $(, $($rest:tt)*)?) => {
        $crate::report::hex($value, $digits);
        say!($($($rest)*)?);
    };
    (dec $value:expr $(, $($rest:tt)*)?) => {
        $crate::report::dec($value);
        say!($($($rest)*)?);
    };
    ($what:expr $(, $($rest:tt)*)?) => {
        $crate::report::Say::say($what);
        say!($($($rest)*)?);
    };
}
pub(crate) use say;
