//! The guest's serial port on this terminal.

use std::io::{self, Read, Stdout, Write};
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use anyhow::{Context, Result};
use kvm_ioctls::VmFd;
use libc::{STDIN_FILENO, c_int, c_void, siginfo_t, termios};
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::register_signal_handler;
use vmm_sys_util::terminal::Terminal;

use crate::lock;

/// The interrupt line of COM1.
pub const LINE: u32 = 4;
/// Ctrl-A, then x, ends the guest.
const ESCAPE: u8 = 1;

/// This terminal: raw while guests run, and as it was afterwards.
pub struct Console {
    /// The guest's end of it; there is none between guests.
    uart: Arc<Mutex<Weak<Mutex<Uart>>>>,
}

type Uart = Serial<Line, NoEvents, Stdout>;

/// The guest's end.
pub type Port = Arc<Mutex<Uart>>;

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
        make_raw();
        let uart = console.uart.clone();
        std::thread::spawn(move || type_into(&uart));
        console
    }

    /// A serial port for a guest.
    pub fn connect(&self, vm: &VmFd) -> Result<Port> {
        let line = EventFd::new(EFD_NONBLOCK)?;
        vm.register_irqfd(&line, LINE).context("KVM: the serial port's interrupt")?;
        let uart = Arc::new(Mutex::new(Serial::new(Line(line), io::stdout())));
        *lock(&self.uart) = Arc::downgrade(&uart);
        Ok(uart)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = io::stdout().flush();
        restore();
    }
}

/// Hands what is typed to the guest that runs.
fn type_into(uart: &Mutex<Weak<Mutex<Uart>>>) {
    let mut escaped = false;
    for byte in io::stdin().lock().bytes().map_while(Result::ok) {
        if escaped && byte == b'x' {
            restore();
            std::process::exit(0);
        }
        escaped = byte == ESCAPE;
        let running = lock(uart).upgrade();
        if let Some(uart) = running {
            let _ = lock(&uart).enqueue_raw_bytes(&[byte]);
        }
    }
}

/// How the terminal was, where standard input is one.
static BEFORE: OnceLock<termios> = OnceLock::new();

/// Makes the terminal raw until the VMM ends, be it by a signal.
fn make_raw() {
    let mut before = MaybeUninit::<termios>::uninit();
    // SAFETY: it is as large as what the call writes.
    if unsafe { libc::tcgetattr(STDIN_FILENO, before.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: the call has succeeded, and so has written all of it.
    BEFORE.get_or_init(|| unsafe { before.assume_init() });
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        register_signal_handler(signal, end).expect("a signal that can be handled");
    }
    let _ = io::stdin().lock().set_raw_mode();
}

/// Makes the terminal what it was.
fn restore() {
    if let Some(before) = BEFORE.get() {
        // SAFETY: the settings are ones the kernel told.
        unsafe { libc::tcsetattr(STDIN_FILENO, libc::TCSANOW, before) };
    }
}

/// Ends the VMM by a signal. Calls nothing that a signal handler must not call.
extern "C" fn end(signal: c_int, _: *mut siginfo_t, _: *mut c_void) {
    restore();
    // SAFETY: nothing of this process is used any more.
    unsafe { libc::_exit(128 + signal) }
}
