//! Whether this machine can run a guest.

use std::fs::OpenOptions;
use std::io::{self, Write};

/// Whether there is a KVM. Says so where there is none: a test that did not run shall not look as if it had.
pub fn is_there() -> bool {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &opened {
        // Not by `eprintln`, whose output the test harness keeps to itself.
        let mut stderr = io::stderr();
        writeln!(stderr, "skipped: the guest of kvm-vmm, because of /dev/kvm: {error}").unwrap();
    }
    opened.is_ok()
}
