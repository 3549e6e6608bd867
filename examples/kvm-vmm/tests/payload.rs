//! The built-in guest on this machine's KVM, with functions of a real machine's dump moved.

mod kvm;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pci_remap::sim::dump::Dump;
use pci_remap::sim::machine::{Machine, signature};
use pci_remap::sim::vm::{Vm, topology};
use pci_remap::spec::header;
use pci_remap::{Access, Bdf, Guest, Plan};

fn dump() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/dumps/lenovo-kbl-switchtec/dump.txt")
}

/// Runs the VMM on the dump.
fn vmm(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvm-vmm"));
    command
        .args(["--memory", "32", "--sim"])
        .arg(dump())
        .arg("--resources")
        .arg(dump().with_file_name("resources.txt"));
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn machine() -> Machine {
    let dump: Dump = fs::read_to_string(dump()).unwrap().parse().unwrap();
    let resources = fs::read_to_string(self::dump().with_file_name("resources.txt")).unwrap().parse().unwrap();
    dump.machines(Some(&resources)).remove(0).machine
}

/// What a guest of the simulator finds, in the words of the built-in one.
fn inventory(plan: impl FnOnce(Plan<'_>) -> Plan<'_>) -> String {
    let mut machine = machine();
    let topology = topology(&mut machine).unwrap();
    let mut vm = Vm::start(machine, &plan(Plan::new(&topology))).unwrap();
    let functions = vm.guest_functions();
    let mut lines = String::new();
    for function in &functions {
        let [id, class] =
            [header::ID, header::CLASS].map(|dword| vm.config_read(Guest(Access::whole(*function, dword))));
        lines += &format!("{function} {:04x}:{:04x} class {:06x}\n", id & 0xffff, id >> 16, class >> 8);
    }
    let count = functions.len();
    lines + &format!("{count} functions, {count} of them the same through ECAM, which has 0 more\n")
}

/// What the built-in guest says of a BAR that does everything right.
fn bar(guest: &str, host: &str, number: usize, size: u64, at: u64, rounds: u32) -> String {
    let own = signature(0, host.parse::<Bdf>().unwrap(), number, 0);
    format!(
        "{guest} BAR {number}: {size:x}h bytes at {at:08x} read {own:08x}, keep what is written; moved {rounds} times, \
         found {rounds} times, nothing left behind {rounds} times\n"
    )
}

#[test]
fn the_guest_finds_moved_functions_moves_their_bars_and_takes_their_interrupts() {
    if !kvm::is_there() {
        return;
    }
    let output = vmm(&["--guest-payload", "--rounds", "5", "04:00.0=00:05.0", "00:16.0=04:01.0", "--hide", "00:1f.3"]);
    let inventory = inventory(|plan| {
        let plan = plan.relocate("04:00.0".parse().unwrap(), "00:05.0".parse().unwrap()).unwrap();
        let plan = plan.relocate("00:16.0".parse().unwrap(), "04:01.0".parse().unwrap()).unwrap();
        plan.hide("00:1f.3".parse().unwrap()).unwrap()
    });
    for (gone, there) in [("04:00.0", "00:05.0"), ("00:16.0", "04:01.0"), ("00:1f.3", "00:1f.2")] {
        assert!(!inventory.contains(gone) && inventory.contains(there), "{inventory}");
    }
    let expected = [
        inventory,
        bar("00:05.0", "04:00.0", 2, 0x1000, 0xe010_0000, 5),
        bar("00:05.0", "04:00.0", 4, 0x4000, 0xe010_4000, 5),
        "00:05.0 interrupts by MSI\n".into(),
        bar("04:01.0", "00:16.0", 0, 0x1000, 0xf700_0000, 5),
        "04:01.0 interrupts by MSI\n".into(),
    ];
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected.concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_device_that_is_busy_keeps_its_memory_while_the_guest_moves_it() {
    if !kvm::is_there() {
        return;
    }
    let output = vmm(&["--guest-payload", "--hammer", "--rounds", "300", "00:16.0=04:01.0"]);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains(&bar("04:01.0", "00:16.0", 0, 0x1000, 0xf700_1000, 300)), "{stdout}");
    let tries =
        stderr.split_once("used its memory ").and_then(|(_, rest)| rest.split_once(" times, and lost it 0 times"));
    assert!(tries.is_some_and(|(tries, _)| tries.parse::<u64>().unwrap() > 300), "{stderr}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_machine_nothing_is_moved_in_is_found_as_it_is() {
    if !kvm::is_there() {
        return;
    }
    let output = vmm(&["--guest-payload"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), inventory(|plan| plan));
    assert_eq!(output.status.code(), Some(0));
}

/// Exit status and everything on standard error.
fn failure(arguments: &[&str]) -> (i32, String) {
    let output = vmm(arguments);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn wrong_usage_is_told_before_anything_happens() {
    for (arguments, message) in [
        (&[][..], "no guest: say --kernel FILE or --guest-payload"),
        (&["--kernel", "vmlinux", "--guest-payload"], "--kernel and --guest-payload: one guest only"),
        (&["--guest-payload", "04:00.0"], "\"04:00.0\": expected HOST=GUEST"),
        (
            &["--guest-payload", "04:00.0=x"],
            "\"04:00.0=x\": not a PCI function address: expected bus:device.function in hexadecimal, as in 02:00.0, \
             device up to 1f, function up to 7",
        ),
        (&["--guest-payload", "--memory", "4096"], "--memory: between 16 and 2048 MiB"),
    ] {
        assert_eq!(failure(arguments), (2, format!("kvm-vmm: {message}\nTry --help.\n")));
    }
}

#[test]
fn what_cannot_be_is_said_with_its_reason() {
    if !kvm::is_there() {
        return;
    }
    for (arguments, message) in [
        (&["--guest-payload", "05:00.0=00:05.0"][..], "there is no function at 05:00.0"),
        (
            &["--guest-payload", "04:00.0=00:1f.2"],
            "the plan is refused\n  04:00.0: 00:1f.2 is occupied; move or hide the function that is there (00:1f.2 00h reads a2a18086)",
        ),
        (
            &["--guest-payload", "00:16.0=01:04.0"],
            "the plan is refused\n  00:16.0: BAR 0 needs 0x1000 bytes, and no window that leads to 01:04.0 has room; \
             `Plan::make_room` may widen one (00:16.0 10h reads f712d004)",
        ),
        (
            &["--guest-payload", "--vfio", "0000:ff:1f.7=00:09.0"],
            "0000:ff:1f.7: this machine has no such function; lspci -D lists them",
        ),
        (&["--kernel", "/nowhere/vmlinux"], "/nowhere/vmlinux: No such file or directory (os error 2)"),
        (
            &["--kernel", "/dev/null"],
            "/dev/null: neither a vmlinux nor a bzImage that starts in 64-bit mode: Kernel Loader: failed to load bzImage \
             kernel image: Kernel Loader: Invalid bzImage",
        ),
    ] {
        let (status, text) = failure(arguments);
        assert_eq!(status, 1, "{text}");
        assert!(text.contains(&format!("kvm-vmm: {message}")), "{message}\nis not in\n{text}");
    }
}
