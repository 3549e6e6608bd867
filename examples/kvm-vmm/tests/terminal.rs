//! The terminal is raw while a guest runs, and as it was afterwards, however it ends.

mod kvm;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libc::termios;

const DUMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/dumps/lenovo-kbl-switchtec/dump.txt");

/// A pseudoterminal: the end a user types into, and the VMM's.
struct Terminal {
    user: File,
    vmm: OwnedFd,
}

impl Terminal {
    /// A terminal that is not as terminals usually are, so that it has to be remembered how it was.
    fn new() -> Self {
        let (mut user, mut vmm) = (-1, -1);
        let nothing = std::ptr::null_mut();
        // SAFETY: both are written to; the name, the settings and the size are left out.
        assert_eq!(unsafe { libc::openpty(&mut user, &mut vmm, nothing, nothing.cast(), nothing.cast()) }, 0);
        // SAFETY: the descriptors are new.
        let terminal = unsafe { Self { user: File::from_raw_fd(user), vmm: OwnedFd::from_raw_fd(vmm) } };
        let mut unusual = terminal.settings();
        unusual.c_lflag &= !(libc::ECHO | libc::IEXTEN);
        unusual.c_cc[libc::VINTR] = b'q';
        // SAFETY: the settings are complete.
        assert_eq!(unsafe { libc::tcsetattr(vmm, libc::TCSANOW, &unusual) }, 0);
        terminal
    }

    fn settings(&self) -> termios {
        // SAFETY: all zeros are settings, and the call writes them.
        let mut settings = unsafe { std::mem::zeroed() };
        // SAFETY: it is as large as what the call writes.
        assert_eq!(unsafe { libc::tcgetattr(self.vmm.as_raw_fd(), &mut settings) }, 0);
        settings
    }

    /// All of it but the unused bytes between.
    fn mode(&self) -> ([u32; 4], [u8; 32]) {
        let settings = self.settings();
        ([settings.c_iflag, settings.c_oflag, settings.c_cflag, settings.c_lflag], settings.c_cc)
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvm-vmm"));
        command.args(["--guest-payload", "--memory", "32", "--sim", DUMP]).args(arguments);
        command.stdin(self.vmm.try_clone().unwrap()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts a guest that runs for minutes, and waits until the terminal is raw.
    fn start_long(&self) -> Child {
        let child = self.start(&["--rounds", "1000000", "00:16.0=00:05.0"]);
        let started = Instant::now();
        while self.settings().c_lflag & (libc::ICANON | libc::ISIG | libc::ECHO) != 0 {
            assert!(started.elapsed() < Duration::from_secs(20), "the terminal does not get raw");
            thread::sleep(Duration::from_millis(1));
        }
        child
    }
}

#[test]
fn a_guest_that_ends_leaves_the_terminal_as_it_was() {
    if kvm::is_there() {
        let terminal = Terminal::new();
        let before = terminal.mode();
        assert_eq!(terminal.start(&[]).wait().unwrap().code(), Some(0));
        assert_eq!(terminal.mode(), before);
    }
}

#[test]
fn a_vmm_that_fails_leaves_the_terminal_as_it_was_before_it_says_why() {
    let terminal = Terminal::new();
    let before = terminal.mode();
    let mut child = terminal.start(&["05:00.0=00:05.0"]);
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!((child.wait().unwrap().code(), terminal.mode()), (Some(1), before), "{message}");
}

#[test]
fn a_vmm_that_is_killed_leaves_the_terminal_as_it_was() {
    if !kvm::is_there() {
        return;
    }
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        let terminal = Terminal::new();
        let before = terminal.mode();
        let mut child = terminal.start_long();
        // SAFETY: the process is a child nobody has waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        assert_eq!((child.wait().unwrap().code(), terminal.mode()), (Some(128 + signal), before));
    }
}

#[test]
fn ctrl_a_x_ends_the_guest_and_leaves_the_terminal_as_it_was() {
    if kvm::is_there() {
        let mut terminal = Terminal::new();
        let before = terminal.mode();
        let mut child = terminal.start_long();
        terminal.user.write_all(b"\x01x").unwrap();
        assert_eq!((child.wait().unwrap().code(), terminal.mode()), (Some(0), before));
    }
}
