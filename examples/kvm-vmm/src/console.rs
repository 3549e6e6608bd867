//! The guest's serial port on this terminal.

use std::io::{self, Read, Stdout, Write};
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, Weak};

use kvm_ioctls::VmFd;
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::terminal::Terminal as _;

use crate::Failure;

/// The interrupt line of COM1.
pub const LINE: u32 = 4;
/// Ctrl-A, then x, ends the guest.
const ESCAPE: u8 = 1;

type Uart = Serial<Line, NoEvents, Stdout>;

/// This terminal: raw while guests run, and as it was afterwards.
pub struct Console {
    /// The guest's end of it; there is none between guests.
    uart: Arc<Mutex<Weak<Mutex<Uart>>>>,
}

/// Standard input, where it is a terminal.
struct Terminal;

// SAFETY: descriptor 0 is nobody else's.
unsafe impl vmm_sys_util::terminal::Terminal for Terminal {
    fn tty_fd(&self) -> RawFd {
        0
    }
}

/// The guest's end.
pub struct Port(Arc<Mutex<Uart>>);

/// The interrupt of the serial port.
pub struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

impl Console {
    pub fn new() -> Self {
        let console = Self { uart: Arc::default() };
        // Where there is no terminal, there is nothing to make raw.
        let _ = Terminal.set_raw_mode();
        let uart = console.uart.clone();
        std::thread::spawn(move || type_into(&uart));
        console
    }

    /// A serial port for a guest.
    pub fn connect(&self, vm: &VmFd) -> Result<Port, Failure> {
        let line = EventFd::new(EFD_NONBLOCK)?;
        vm.register_irqfd(&line, LINE).map_err(|error| Failure::Kvm("the serial port's interrupt", error))?;
        let uart = Arc::new(Mutex::new(Serial::new(Line(line), io::stdout())));
        *self.uart.lock().expect("nobody panics with it") = Arc::downgrade(&uart);
        Ok(Port(uart))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = io::stdout().flush();
        let _ = Terminal.set_canon_mode();
    }
}

impl Port {
    pub fn read(&self, register: u8) -> u8 {
        self.0.lock().expect("nobody panics with it").read(register)
    }

    pub fn write(&self, register: u8, value: u8) {
        // An error is that of a closed standard output: the guest goes on without.
        let _ = self.0.lock().expect("nobody panics with it").write(register, value);
    }
}

/// Hands what is typed to the guest that runs.
fn type_into(uart: &Mutex<Weak<Mutex<Uart>>>) {
    let mut escaped = false;
    for byte in io::stdin().lock().bytes().map_while(Result::ok) {
        if escaped && byte == b'x' {
            let _ = Terminal.set_canon_mode();
            std::process::exit(0);
        }
        escaped = byte == ESCAPE;
        let running = uart.lock().expect("nobody panics with it").upgrade();
        if let Some(uart) = running {
            let _ = uart.lock().expect("nobody panics with it").enqueue_raw_bytes(&[byte]);
        }
    }
}
