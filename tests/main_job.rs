//! The main job as a program: `examples/relocate`, its output, its errors, and what lspci makes of what it writes.

mod collection;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use pci_remap::sim::vm::topology;

use collection::moves::{self, Kind};
use collection::{Folder, bundled, collected, lspci, scratch_file};

/// Cargo tells tests where binaries are, but not examples. It builds them for every test run, and puts them next to the
/// folder of the test programs: `target/debug/deps/main_job-…` and `target/debug/examples/relocate`.
fn program() -> PathBuf {
    let test = env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    folder.join("examples").join(format!("relocate{}", env::consts::EXE_SUFFIX))
}

fn relocate<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(program()).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

/// Exit status and everything on standard error.
fn failure(arguments: &[&str]) -> (i32, String) {
    let output = relocate(arguments);
    (output.status.code().unwrap(), text(&output.stderr).to_owned())
}

fn error(message: &str) -> (i32, String) {
    (1, format!("relocate: {message}\n"))
}

fn usage(message: &str) -> (i32, String) {
    (2, format!("relocate: {message}\nTry --help.\n"))
}

/// A file that is there as long as this lives.
struct Scratch(PathBuf);

impl Scratch {
    fn new(text: &str) -> Self {
        let file = scratch_file();
        fs::write(&file, text).unwrap();
        Self(file)
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn without_arguments_a_disk_moves_behind_another_root_port() {
    let output = relocate::<&str>([]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let output = text(&output.stdout);
    let (_, after) = output.split_once("After\n\n").unwrap();
    let (after, report) = after.split_once("\n\n").unwrap();
    assert_eq!(
        after,
        r"-[0000:00]-+-00.0  Intel Corporation 8th Gen Core Processor Host Bridge/DRAM Registers
           +-01.0-[01]--+-00.0  NVIDIA Corporation GA106 [GeForce RTX 3060 Lite Hash Rate]
           |            +-00.1  NVIDIA Corporation GA106 High Definition Audio Controller
           |            \-01.0  Samsung Electronics Co Ltd NVMe SSD Controller 980
           +-08.0  Intel Corporation Xeon E3-1200 v5/v6 / E3-1500 v5 / 6th/7th/8th Gen Core Processor Gaussian Mixture Model
           +-14.0  Intel Corporation 200 Series/Z370 Chipset Family USB 3.0 xHCI Controller
           +-16.0  Intel Corporation 200 Series PCH CSME HECI #1
           +-17.0  Intel Corporation 200 Series PCH SATA controller [AHCI mode]
           +-1b.0-[02]--
           +-1b.2-[03]--
           +-1b.3-[04]--
           +-1b.4-[05]--
           +-1c.0-[06]--
           +-1c.2-[07]--
           +-1c.4-[08]--
           +-1d.0-[09]--
           +-1f.0  Intel Corporation Z370 Chipset LPC/eSPI Controller
           +-1f.1  Intel Corporation 200 Series/Z370 Chipset Family P2SB
           +-1f.2  Intel Corporation 200 Series/Z370 Chipset Family Power Management Controller
           +-1f.3  Intel Corporation 200 Series PCH HD Audio
           +-1f.4  Intel Corporation 200 Series/Z370 Chipset Family SMBus Controller
           \-1f.6  Intel Corporation Ethernet Connection (2) I219-V"
    );
    for line in [
        "  info: 09:00.0: 00:01.0 is shown as an Upstream Port, so that 01:01.0 is looked for behind it; it has no slot, and no PME and error services (00:01.0 A0h reads 01420010)",
        "  pci 0000:01:01.0: BAR 0: assigned [mem 0xf7010000-0xf7013fff 64bit]",
        "  pci 0000:01:01.0: enabling device (0004 -> 0006)",
        "  mem 0xf7010000-0xf7013fff -> 0xf7100000-0xf7103fff  16 KiB  09:00.0 BAR 0",
        "  mem 0xf7100000-0xf7103fff  16 KiB  09:00.0 BAR 0",
        "    010-027  Base Address Registers",
        "  3 of 23 functions are hooked, 20 are untouched",
        "  01:01.0 BAR 0 at 0xf7010000-0xf7013fff: reached 09:00.0",
    ] {
        assert!(report.lines().any(|printed| printed == line), "{line}\nis not in\n{report}");
    }
}

/// The lines of the last section with this heading.
fn section<'a>(report: &'a str, heading: &str) -> Vec<&'a str> {
    let (_, section) = report.rsplit_once(&format!("\n{heading}\n")).unwrap();
    section.split("\n\n").next().unwrap().lines().map(str::trim_end).collect()
}

#[test]
fn every_step_of_the_guests_life_is_told() {
    let output = relocate::<&str>([]);
    let life = section(text(&output.stdout), "The guest's life after booting");
    let steps: Vec<_> = life.iter().filter_map(|line| line.split_once("  01:01.0 ")).collect();
    let names = steps.iter().map(|(name, _)| name.trim()).collect::<Vec<_>>();
    assert_eq!(names[..4], ["bind ports", "suspend idle ports", "bind drivers", "reset function"]);
    assert_eq!((names.len(), names[16]), (17, "remove everything"));
    // The port the disk left stays awake, and its link up, whatever the guest does.
    for (name, states) in steps {
        let how = if ["bind ports", "suspend idle ports"].contains(&name.trim()) { "is found; " } else { "works; " };
        assert!(states.starts_with(how) && states.ends_with("; 00:1d.0 in D0, link up"), "{name}: {states}");
    }
    assert_eq!(life[17], "  at the end 01:01.0 has a driver, its memory answers, its interrupts arrive");
    assert!(life[18].ends_with("; 0 writes reached 00:1d.0"), "{}", life[18]);
    assert_eq!(life.len(), 19);
}

#[test]
fn a_guest_that_only_boots_has_no_life_to_tell() {
    let output = relocate(["--guest", "freebsd"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    assert!(!text(&output.stdout).contains("The guest's life"));
}

#[test]
fn firmware_that_chooses_all_anew_reaches_what_moved() {
    let output = relocate(["--guest", "edk2"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let proof = section(text(&output.stdout), "Proof");
    assert_eq!(proof, ["  01:01.0 BAR 0 at 0xf7004000-0xf7007fff: reached 09:00.0"]);
}

/// The bus of an empty slot, whose port forwards no memory.
#[test]
fn a_disk_moves_to_a_slot_once_there_is_room() {
    let (code, message) = failure(&["09:00.0=03:00.0"]);
    assert_eq!((code, message.contains("`Plan::make_room` may open one")), (1, true), "{message}");
    let output = relocate(["--make-room", "09:00.0=03:00.0"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let report = text(&output.stdout);
    assert_eq!(section(report, "Room: written to bridges before the guest starts"), ["  00:1b.2 20h <- f730f730"]);
    assert_eq!(section(report, "Proof"), ["  03:00.0 BAR 0 at 0xf7300000-0xf7303fff: reached 09:00.0"]);
}

#[test]
fn what_a_guest_finds_is_explained() {
    let output = relocate(["--explain", "01:01.0:0x10", "--explain", "0000:09:00.0:2"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let report = text(&output.stdout);
    assert_eq!(
        section(report, "Explained: 0000:01:01.0 10h (Base Address Registers)"),
        [
            "  01:01.0 10h: of 09:00.0",
            "    read from the shadow, f7010004: all bits",
            "    written to the shadow: bits 31:14",
            "    not writable: bits 13:0",
            "    why: the guest places the BAR in the shadow, and the second stage follows; the real one stays (7.5.1.2.1; Linux's pci_read_bases, pci_assign_resource)",
            "    now reads: f7010004",
        ]
    );
    assert_eq!(
        section(report, "Explained: 0000:09:00.0 00h"),
        ["  09:00.0 00h: nothing: the function is found at 01:01.0", "    now reads: ffffffff"]
    );
}

#[test]
fn registers_are_explained_by_their_names() {
    let registers = ["01:01.0:78", "01:01.0:0x82", "00:1d.0:3e", "01:01.0:fff"];
    let output = relocate(registers.iter().flat_map(|register| ["--explain", register]));
    let headings = text(&output.stdout).lines().filter_map(|line| line.strip_prefix("Explained: "));
    assert_eq!(
        headings.collect::<Vec<_>>(),
        [
            "0000:01:01.0 78h (Device Control, Device Status)",
            "0000:01:01.0 80h (Link Control, Link Status)",
            "0000:00:1d.0 3Ch (Interrupt Line, Interrupt Pin, Bridge Control)",
            "0000:01:01.0 FFCh",
        ]
    );
}

#[test]
fn help_names_every_option() {
    let output = relocate(["--help"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    for option in [
        "dump",
        "resources",
        "guest",
        "device",
        "hide",
        "explain",
        "pre-assigned",
        "virtual",
        "write-guest",
        "verbose",
        "help",
    ] {
        assert!(text(&output.stdout).contains(&format!("\n  --{option} ")), "{option}");
    }
}

#[test]
fn a_wrong_command_line_is_told_from_a_job_that_fails() {
    let cannot_parse = |argument: &str, why: &str| usage(&format!("cannot parse argument {argument:?}: {why}"));
    let no_address = "not a PCI function address: expected bus:device.function in hexadecimal, as in 02:00.0, device up to 1f, function up to 7";
    assert_eq!(failure(&["--frobnicate"]), usage("invalid option '--frobnicate'"));
    assert_eq!(failure(&["--dump"]), usage("missing argument for option '--dump'"));
    assert_eq!(failure(&["--resources", "list"]), usage("--resources needs --dump"));
    assert_eq!(failure(&["09:00.0"]), cannot_parse("09:00.0", "expected HOST=GUEST, as in 0000:02:00.0=0000:01:01.0"));
    assert_eq!(failure(&["09:00.0=01:20.0"]), cannot_parse("09:00.0=01:20.0", &format!("\"01:20.0\" is {no_address}")));
    assert_eq!(failure(&["--hide", "9"]), cannot_parse("9", no_address));
    let explain = |register: &str, why: &str| {
        assert_eq!(failure(&["--explain", register]), cannot_parse(register, why));
    };
    explain("4", "expected BDF:OFFSET, as in 0000:01:01.0:0x04");
    explain("01:01.8:4", &format!("\"01:01.8\" is {no_address}"));
    for offset in ["", "1000", "+4", "0x", "0xg"] {
        let why = format!("{offset:?} is no offset: expected 0 to fff in hexadecimal");
        explain(&format!("01:01.0:{offset}"), &why);
    }
    assert_eq!(
        failure(&["09:00.0=0001:01:01.0"]),
        cannot_parse("09:00.0=0001:01:01.0", "a function cannot leave its segment group")
    );
    assert_eq!(
        failure(&["--guest", "dos"]),
        cannot_parse("dos", "not a guest: expected linux-6.1, linux-6.15, freebsd or edk2")
    );
}

#[test]
fn a_dump_without_a_move_is_drawn_and_what_to_pass_is_said() {
    let folder = bundled().into_iter().find(|folder| folder.name() == "hp-8460p").unwrap();
    let output = relocate(["--dump".as_ref(), folder.dump_file().as_os_str()]);
    let (status, message) = usage("nothing to do: say what to move, as in 0000:02:00.0=0000:01:01.0");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(status), message.as_str()));
    assert!(text(&output.stdout).starts_with("-[0000:00]-+-00.0  Intel Corporation 2nd Generation Core"));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing = "/nonexistent/dump.txt";
    let (status, message) = failure(&["--dump", missing, "09:00.0=01:01.0"]);
    assert_eq!((status, message.starts_with(&format!("relocate: {missing}: "))), (1, true), "{message}");

    let fails = |dump: &Scratch| failure(&["--dump", dump.name(), "00:1f.3=00:1e.0"]);
    let rows = |bytes: &[u8]| pci_remap::sim::dump::write([("00:1f.3".parse().unwrap(), "SMBus", bytes)]);
    let mut smbus = [0; 64];
    smbus[..8].copy_from_slice(&[0x86, 0x80, 0x22, 0x1c, 0x03, 0x00, 0x90, 0x02]);

    let empty = Scratch::new("");
    assert_eq!(fails(&empty), error(&format!("{}: there is no function in the dump", empty.name())));
    let truncated = Scratch::new(&rows(&smbus[..48]));
    let why = "0000:00:1f.3 has 48 bytes: expected 64, 128, 256 or 4096";
    assert_eq!(fails(&truncated), error(&format!("{}: {why}", truncated.name())));
    let cut = Scratch::new(&rows(&smbus).replace("\n30: 00 00", "\n30: 00"));
    let why = "line 5, 0000:00:1f.3: a row needs 16 bytes of two hexadecimal digits, this one has 15";
    assert_eq!(fails(&cut), error(&format!("{}: {why}", cut.name())));

    let mut looping = [0; 256];
    looping[..64].copy_from_slice(&smbus);
    looping[0x34] = 0x40;
    looping[0x40..0x42].copy_from_slice(&[0x09, 0x50]);
    looping[0x50..0x52].copy_from_slice(&[0x09, 0x40]);
    let looping = Scratch::new(&rows(&looping));
    let why = "0000:00:1f.3: the capability list loops, it comes back to 40h";
    assert_eq!(fails(&looping), error(&format!("{}: {why}", looping.name())));

    let (dump, list) = (Scratch::new(&rows(&smbus)), Scratch::new("0000:00:1f.3 BAR9 0x0 0x1\n"));
    let why = "line 1: expected a function, a register, its first and last address, as in 0000:02:00.0 BAR0 0xf7800000 0xf781ffff";
    assert_eq!(
        failure(&["--dump", dump.name(), "--resources", list.name(), "00:1f.3=00:1e.0"]),
        error(&format!("{}: {why}", list.name()))
    );
}

#[test]
fn plans_that_cannot_be_made_say_why() {
    assert_eq!(failure(&["0a:00.0=01:01.0"]), error("segment 0000: there is no function at 0a:00.0"));
    assert_eq!(failure(&["0001:0a:00.0=0001:01:01.0"]), error("the dump has no segment group 0001"));
    assert_eq!(
        failure(&["09:00.0=01:01.0", "--explain", "0001:01:01.0:4"]),
        error("the dump has no segment group 0001")
    );
    assert_eq!(
        failure(&["09:00.0=01:01.0", "09:00.0=01:02.0"]),
        error("segment 0000: 09:00.0 is moved to 01:01.0 already; a function has one guest address")
    );
    assert_eq!(
        failure(&["--hide", "09:00.0", "09:00.0=01:01.0"]),
        error("segment 0000: 09:00.0 cannot be hidden and moved at once")
    );
}

#[test]
fn a_refused_plan_names_every_error() {
    assert_eq!(
        failure(&["09:00.0=01:02.1", "01:00.0=09:00.0"]),
        error(
            "segment 0000: the plan is refused
  09:00.0: 01:02.1 is never looked for: its device has no function 0; move a function there as well
  01:00.0: BAR 0 needs 0x1000000 bytes, and no window that leads to 09:00.0 has room; `Plan::make_room` may widen one (01:00.0 10h reads f6000000)
  01:00.0: BAR 1 needs 0x400000000 bytes, and no window that leads to 09:00.0 has room; `Plan::make_room` may widen one (01:00.0 14h reads 0000000c)
  01:00.0: BAR 3 needs 0x2000000 bytes, and no window that leads to 09:00.0 has room; `Plan::make_room` may widen one (01:00.0 1Ch reads 0000000c)
  01:00.0: 01:00.1 would not be found without function 0; move the whole device, hide it too, or leave an inert function 0 there"
        )
    );
}

#[test]
fn a_whole_device_moves_to_assigned_places() {
    let arguments = ["--device", "01:00.0=00:05.0", "--pre-assigned"].map(OsString::from);
    let output = relocate(&arguments);
    assert_works(&arguments, &output, "01:00.0=00:05.0");
    let (_, proof) = text(&output.stdout).split_once("\nProof\n").unwrap();
    let (proof, _) = proof.split_once("\nThe guest's life").unwrap();
    assert_eq!(
        proof,
        "  00:05.0 BAR 0 at 0xfa000000-0xfaffffff: reached 01:00.0
  00:05.0 BAR 1 at 0x4000000000-0x43ffffffff: reached 01:00.0
  00:05.0 BAR 3 at 0xf8000000-0xf9ffffff: reached 01:00.0
  00:05.1 BAR 0 at 0xf7228000-0xf722bfff: reached 01:00.1
"
    );
}

#[test]
fn every_bundled_machine_does_the_job() {
    bundled().iter().for_each(does_the_job);
}

#[test]
fn every_collected_machine_does_the_job() {
    collected().iter().for_each(does_the_job);
}

/// Moves a function the planner lets move, and lets lspci read what the guest reads.
fn does_the_job(folder: &Folder) {
    let Some(job) = feasible_move(folder) else {
        println!("{}: nothing can be moved", folder.name());
        return;
    };
    let guest = Scratch::new("");
    let mut arguments: Vec<OsString> = vec!["--dump".into(), folder.dump_file().into_os_string()];
    if let Some(resources) = folder.resources_file() {
        arguments.extend(["--resources".into(), resources.into_os_string()]);
    }
    arguments.push(job.clone().into());
    let output = relocate(arguments.iter().cloned().chain(["--write-guest".into(), guest.name().into()]));
    let name = format!("{} {job}", folder.name());
    assert_works(&arguments, &output, &name);
    // Firmware that numbers and places everything anew.
    assert_works_with(&arguments, &["--guest", "edk2"], &name);
    println!("{}: {job} works", folder.name());
    if !lspci::is_installed() {
        return;
    }
    let complaints = lspci::complaints(&guest.0);
    let new: Vec<_> = complaints.difference(&lspci::complaints(&folder.dump_file())).cloned().collect();
    assert_eq!(new, [""; 0], "{} {job}", folder.name());
    // The guests do not look behind CardBus bridges.
    if !fs::read_to_string(folder.dump_file()).unwrap().contains("CardBus bridge") {
        assert_eq!(skeleton(after(text(&output.stdout))), skeleton(&lspci::tree(&guest.0)), "{} {job}", folder.name());
    }
}

/// The function is reached and survives all of the guest's life; where bridges are removed and what is behind them is
/// placed anew, as far as addresses are the guest's alone.
fn assert_works(arguments: &[OsString], output: &Output, job: &str) {
    let errors = text(&output.stderr);
    let Some(failures) = errors.strip_prefix("relocate: the guest's life fails\n") else {
        assert_eq!((output.status.code(), errors), (Some(0), ""), "{job}");
        return;
    };
    let is_known = |line: &str| line.contains(" after RemoveBridges: ") || line.contains(" after RemoveEverything: ");
    assert_eq!((output.status.code(), failures.lines().all(is_known)), (Some(1), true), "{job}: {errors}");
    assert_works_with(arguments, &["--virtual"], job);
}

fn assert_works_with(arguments: &[OsString], more: &[&str], job: &str) {
    let output = relocate(arguments.iter().cloned().chain(more.iter().map(OsString::from)));
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{job} {more:?}");
    println!("{job} works with {more:?}");
}

/// The tree in a report.
fn after(report: &str) -> &str {
    let (_, after) = report.split_once("After\n\n").unwrap();
    after.split_once("\n\n").unwrap().0
}

/// A tree without the names, which lspci has from a list of its own.
fn skeleton(tree: &str) -> Vec<&str> {
    let is_name = |rest: &str| rest.starts_with(|first: char| first.is_ascii_alphanumeric());
    tree.lines()
        .map(|line| {
            let names = line.match_indices("  ").find(|(at, gap)| is_name(&line[at + gap.len()..]));
            names.map_or(line, |(at, _)| &line[..at]).trim_end()
        })
        .collect()
}

/// The first move of the first kind the planner accepts for a function with BARs, preferably.
fn feasible_move(folder: &Folder) -> Option<String> {
    let mut found = None;
    for mut loaded in folder.machines() {
        let topology = topology(&mut loaded.machine).unwrap();
        for kind in [Kind::FreeDevice, Kind::FreeFunction] {
            let (accepted, _) = moves::accepted(&topology, moves::candidates(&topology, kind));
            let segment = loaded.segment;
            let has_bars = |one: &&moves::Move| topology.view().function(one[0].0).unwrap().bars().next().is_some();
            if let Some(one) = accepted.iter().find(has_bars) {
                return Some(argument(segment, one));
            }
            found = found.or_else(|| accepted.first().map(|one| argument(segment, one)));
        }
    }
    found
}

fn argument(segment: u16, one: &moves::Move) -> String {
    let (host, guest) = one[0];
    format!("{segment:04x}:{host}={segment:04x}:{guest}")
}
