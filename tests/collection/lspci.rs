//! lspci from pciutils, which reads what guests read.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Whether it is installed; says so when it is not.
pub(crate) fn is_installed() -> bool {
    let found = Command::new("lspci").arg("--version").output().is_ok();
    if !found {
        println!("skipped: lspci is not installed");
    }
    found
}

/// The tree `lspci -t` prints.
pub(crate) fn tree(file: &Path) -> String {
    let output = Command::new("lspci").arg("-F").arg(file).arg("-t").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What lspci complains about, whatever function it is about.
pub(crate) fn complaints(file: &Path) -> BTreeSet<String> {
    let outputs = ["-tv", "-vvv"].map(|how| Command::new("lspci").arg("-F").arg(file).arg(how).output().unwrap());
    for output in &outputs {
        assert!(output.status.success(), "{}: {}", file.display(), output.status);
    }
    let text = outputs.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).concat();
    text.lines().map(str::to_owned).collect()
}
