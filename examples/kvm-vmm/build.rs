//! Builds the guest of `--guest-payload`, a program for a bare processor.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    let folder = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("payload");
    let program = Path::new(&env::var_os("OUT_DIR").unwrap()).join("payload");
    let script = folder.join("link.ld");
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap());
    rustc.args([
        "--edition=2024",
        "--crate-name=payload",
        "-Cpanic=abort",
        "-Copt-level=2",
        "-Crelocation-model=static",
    ]);
    // Where KVM interprets kernel code instead of running it, it knows no SSE. A target without it may not be installed;
    // nothing here calls a function that passes floating point.
    rustc.arg("-Ctarget-feature=-sse,-sse2");
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"] {
        rustc.arg(format!("-Clink-arg={argument}"));
    }
    rustc.arg(format!("-Clink-arg=-Wl,-T,{}", script.display())).arg("-o").arg(program).arg(folder.join("main.rs"));
    let output = rustc.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("cargo::rerun-if-changed=payload");
}
