//! Moves made up for real machines: whatever the planner accepts must work.

mod collection;

use core::fmt::Write as _;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::{fs, thread};

use pci_remap::sim::dump::{self, Dump, SegmentBdf};
use pci_remap::sim::guest::{Boot, Device, Kind as GuestKind, Resource, boot};
use pci_remap::sim::machine::{Machine, signature};

use pci_remap::plan::{Cause, Vacated};
use pci_remap::sim::vm::{FUNCTIONS, Vm, topology};
use pci_remap::spec::bar::BarKind;
use pci_remap::spec::header;
use pci_remap::{Access, Bdf, Dword, Guest, Host, Plan, Space, Span, Topology};

use collection::moves::{self, Kind, Move};
use collection::{Folder, bundled, collected, lspci};

/// Moves of each kind that are tried on a machine.
const TRIED: usize = 12;

#[test]
fn accepted_moves_work_on_the_bundled_machines() {
    try_all(bundled());
}

#[test]
fn accepted_moves_work_on_collected_machines() {
    try_all(collected());
}

/// Tries moves on all machines, two at a time, and fails with everything that did not work.
fn try_all(folders: Vec<Folder>) {
    let failures = Mutex::new(Vec::new());
    let queue = Mutex::new(folders.into_iter());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(folder) = queue.lock().unwrap().next() else { break };
                    let (text, failed) = try_folder(&folder);
                    print!("{text}");
                    failures.lock().unwrap().extend(failed);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn try_folder(folder: &Folder) -> (String, Vec<String>) {
    let (mut text, mut failures) = (String::new(), Vec::new());
    for loaded in folder.machines() {
        let name = format!("{} {:04x}", folder.name(), loaded.segment);
        let subject = Subject::new(loaded.machine);
        let mut shown = None;
        for kind in Kind::ALL {
            let candidates = moves::candidates(&subject.topology, kind);
            let count = candidates.len();
            let stranding = moves::stranding(&subject.topology, &candidates);
            let with_room = candidates.iter().filter_map(|one| Some((one.clone(), subject.with_room(one)?)));
            let with_room: Vec<_> = with_room.collect();
            let with_room_count = with_room.len();
            for (one, roomy) in moves::spread(with_room, TRIED / 2) {
                match roomy.try_plan(&moves::plan(&roomy.topology, &one), &one, false) {
                    Outcome::Worked | Outcome::AddressesReused(_) => {}
                    Outcome::Failed(faults) => {
                        failures.extend(faults.iter().map(|fault| format!("{name} {one:?} with room: {fault}")));
                    }
                }
            }
            let (accepted, refused) = moves::accepted(&subject.topology, candidates);
            let accepted_count = accepted.len();
            let tried = moves::spread(accepted, TRIED);
            let (mut worked, mut kept, mut limits, mut by) = (0, 0, 0, BTreeMap::<_, usize>::new());
            for one in &tried {
                let plan = moves::plan(&subject.topology, one);
                let placeholder = plan.clone().vacated(Vacated::Placeholder);
                match subject.try_plan(&plan, one, false) {
                    Outcome::Worked => worked += 1,
                    Outcome::AddressesReused(_) if subject.try_plan(&placeholder, one, true).is_work() => kept += 1,
                    Outcome::AddressesReused(_) if is_swap(&subject, one) => limits += 1,
                    Outcome::AddressesReused(faults) | Outcome::Failed(faults) => {
                        failures.extend(faults.iter().map(|fault| format!("{name} {one:?}: {fault}")));
                    }
                }
                for (way, plan) in moves::by_every_way(&subject.topology, one) {
                    match subject.try_plan(&plan, one, false) {
                        Outcome::Worked | Outcome::AddressesReused(_) => {
                            *by.entry(format!("{way:?}")).or_default() += 1;
                        }
                        Outcome::Failed(faults) => {
                            failures.extend(faults.iter().map(|fault| format!("{name} {one:?} by {way:?}: {fault}")));
                        }
                    }
                }
            }
            let stranding = moves::spread(stranding, TRIED / 2);
            for one in &stranding {
                let plan = moves::plan(&subject.topology, one).vacated(Vacated::InertFirst);
                if let Outcome::AddressesReused(faults) | Outcome::Failed(faults) = subject.try_plan(&plan, one, true) {
                    failures.extend(faults.iter().map(|fault| format!("{name} {one:?} behind an inert one: {fault}")));
                }
            }
            let stranding = stranding.len();
            let _ = writeln!(
                text,
                "{name} {kind:?}: {count} candidates, {accepted_count} accepted, {with_room_count} once there is room, {} tried, {worked} worked, {kept} with a placeholder; addresses reused {limits}; by each way {by:?}; {stranding} left siblings behind an inert function; refused {refused:?}",
                tried.len()
            );
            shown = shown.or_else(|| tried.first().cloned());
        }
        if let Some(one) = shown {
            failures.extend(subject.complaints(&one).into_iter().map(|line| format!("{name} {one:?}: {line}")));
        }
    }
    (text, failures)
}

enum Outcome {
    Worked,
    /// The guest found the addresses of a moved function free, and put something of another function there, while the
    /// real BAR stays: what `Cause::LeavesAddresses` warns of.
    AddressesReused(Vec<String>),
    Failed(Vec<String>),
}

impl Outcome {
    fn is_work(&self) -> bool {
        matches!(self, Self::Worked)
    }
}

/// Whether something else is where a function left, so that nothing can keep its addresses.
fn is_swap(subject: &Subject, one: &Move) -> bool {
    let plan = moves::plan(&subject.topology, one);
    let warned = plan.findings().any(|finding| matches!(finding.cause, Cause::LeavesAddresses(_)));
    warned && one.iter().any(|(host, _)| one.iter().any(|(_, guest)| guest.0 == host.0))
}

/// A machine to move functions on.
struct Subject {
    machine: Machine,
    topology: Box<Topology<FUNCTIONS>>,
    /// The machine after a guest booted on it.
    bare: Machine,
    before: Boot,
}

impl Subject {
    fn new(mut machine: Machine) -> Self {
        let topology = topology(&mut machine).unwrap();
        let mut bare = machine.clone();
        let before = boot(GuestKind::Linux61, &mut bare);
        Self { machine, topology, bare, before }
    }

    fn segment(&self) -> u16 {
        self.machine.firmware().segment
    }

    fn start(&self, one: &Move) -> Vm {
        Vm::start(self.machine.clone(), &moves::plan(&self.topology, one)).unwrap()
    }

    /// The same machine once there is room for a move that is refused without.
    fn with_room(&self, one: &Move) -> Option<Self> {
        let (machine, topology) = moves::with_room(&self.machine, &self.topology, one)?;
        Some(Self { machine, topology, bare: self.bare.clone(), before: self.before.clone() })
    }

    /// Boots a guest behind the move and returns what is wrong then.
    fn try_plan(&self, plan: &Plan<'_>, one: &Move, has_placeholder: bool) -> Outcome {
        let mut vm = Vm::start(self.machine.clone(), plan).unwrap();
        let after = boot(GuestKind::Linux61, &mut vm);
        let mut faults = Vec::new();
        for (host, guest) in one {
            match after.tree.device(guest.0) {
                None => faults.push(format!("nothing is found at {guest}")),
                Some(device) => faults.extend(self.moved_device(&mut vm, *host, device)),
            }
            let taken = one.iter().any(|(_, guest)| guest.0 == host.0);
            let left = vm.remapper().to_host(Guest(host.0));
            if !taken && left != Some(None) {
                faults.push(format!("{host} is not vacated"));
            }
            if !taken && !has_placeholder && (after.tree.device(host.0).is_some() || id(&mut vm, host.0) != !0) {
                faults.push(format!("something is found at {host}"));
            }
        }
        faults.extend(self.others(&mut vm, &after, one));
        let conflicts = vm.machine().conflicts().iter().filter(|conflict| !self.bare.conflicts().contains(conflict));
        faults.extend(conflicts.map(|conflict| format!("{conflict:x?}")));
        match faults.is_empty() {
            true => Outcome::Worked,
            false if self.reuses_addresses(&vm, &after) => Outcome::AddressesReused(faults),
            false => Outcome::Failed(faults),
        }
    }

    /// Whether the guest gave addresses a function left to something else.
    fn reuses_addresses(&self, vm: &Vm, after: &Boot) -> bool {
        let bare = self.before.tree.devices.iter().flat_map(spans).collect::<Vec<_>>();
        let staying = after.tree.devices.iter().filter(|device| vm.remapper().to_host(Guest(device.bdf)).is_none());
        let mut new = staying.flat_map(spans).filter(|new| !bare.contains(new));
        let concealed = vm.second_stage().concealed();
        new.any(|(_, space, span)| concealed.iter().any(|(Guest(own), of)| *of == space && own.overlaps(span)))
    }

    fn moved_device(&self, vm: &mut Vm, host: Host<Bdf>, device: &Device) -> Vec<String> {
        let mut faults = Vec::new();
        let id = self.machine.original(host.0).unwrap();
        let real = self.machine.function(id);
        if device.id != real.config()[0] {
            faults.push(format!("{} has the ID {:08x}", device.bdf, device.id));
        }
        for (bar, decoder) in real.bars() {
            if vm.machine().function(id).bar_span(bar) != real.bar_span(bar) {
                faults.push(format!("the real BAR {bar} of {host} changed"));
            }
            let Some(found) = device.bars.iter().find(|found| found.bar == bar) else { continue };
            if bar == Resource::ROM {
                continue;
            }
            if found.span.is_none() {
                faults.push(format!("BAR {bar} of {host} has no address"));
                continue;
            }
            for offset in [0, decoder.size - 4] {
                let expected = signature(self.segment(), host.0, bar, offset);
                match device.read(vm, bar, offset) {
                    Some(answer) if answer == expected => {}
                    answer => faults.push(format!("BAR {bar} of {host} reads {answer:x?} at {offset:#x}: {found:x?}")),
                }
            }
            faults.extend(self.writes_land(vm, host, device, bar));
        }
        faults
    }

    /// A write through a BAR reaches this BAR of the hardware.
    fn writes_land(&self, vm: &mut Vm, host: Host<Bdf>, device: &Device, bar: usize) -> Option<String> {
        let id = self.machine.original(host.0)?;
        let start = self.machine.function(id).bar_span(bar)?.start();
        let pattern = 0x1234_5670 + u32::try_from(bar).ok()?;
        device.write(vm, bar, 0, pattern)?;
        let machine = vm.machine_mut();
        let is_memory = self.machine.function(id).bar(bar)?.kind.is_memory();
        let landed = if is_memory { machine.memory_read(start, 4) } else { machine.io_read(start, 4) };
        (landed != u64::from(pattern)).then(|| format!("a write to BAR {bar} of {host} did not land: {landed:#x}"))
    }

    /// Functions that stay answer as they do on the bare machine, also after writes to the moved ones.
    fn others(&self, vm: &mut Vm, after: &Boot, one: &Move) -> Vec<String> {
        let mut bare = self.bare.clone();
        let staying = self.before.tree.devices.iter().filter(|device| one.iter().all(|(host, _)| host.0 != device.bdf));
        let mut faults = Vec::new();
        for before in staying {
            let Some(now) = after.tree.device(before.bdf) else {
                faults.push(format!("{} is not found any more", before.bdf));
                continue;
            };
            for bar in before.bars.iter().filter(|bar| bar.bar != Resource::ROM) {
                let own = signature(self.segment(), before.bdf, bar.bar, 0);
                if before.read(&mut bare, bar.bar, 0) != Some(own) {
                    continue;
                }
                let read = now.read(vm, bar.bar, 0);
                if read != Some(own) {
                    faults.push(format!("BAR {} of {}, which stays, reads {read:x?}", bar.bar, before.bdf));
                }
            }
        }
        faults
    }

    /// What lspci has against the configuration space a guest reads, other than what it has against the machine's own,
    /// and whether it draws another tree than the guest found.
    fn complaints(&self, one: &Move) -> Vec<String> {
        if !lspci::is_installed() {
            return Vec::new();
        }
        let mut vm = self.start(one);
        let after = boot(GuestKind::Linux61, &mut vm);
        let functions = after.tree.devices.iter().map(|device| {
            let dwords = (0..device.config_size / 4).filter_map(Dword::new);
            let bytes = dwords.flat_map(|dword| vm.config_read(Guest(Access::whole(device.bdf, dword))).to_le_bytes());
            (SegmentBdf { segment: self.segment(), bdf: device.bdf }, bytes.collect::<Vec<_>>())
        });
        let functions: Vec<_> = functions.collect();
        let text = dump::write(functions.iter().map(|(at, bytes)| (*at, "", bytes.as_slice())));
        let (own, guest) = (collection::scratch_file(), collection::scratch_file());
        fs::write(&own, Dump::of(&self.machine).to_string()).unwrap();
        fs::write(&guest, text).unwrap();
        let mut complaints: Vec<_> = lspci::complaints(&guest).difference(&lspci::complaints(&own)).cloned().collect();
        let tree = after.tree.lspci_tv(&|_| String::new());
        let drawn = lspci::tree(&guest);
        // The guests do not look behind CardBus bridges.
        let has_cardbus = after.tree.devices.iter().any(|device| device.header_type == header::HeaderType::CardBus);
        if !has_cardbus && !tree.lines().map(str::trim_end).eq(drawn.lines().map(str::trim_end)) {
            complaints.push(format!("lspci draws\n{drawn}and not\n{tree}"));
        }
        fs::remove_file(own).unwrap();
        fs::remove_file(guest).unwrap();
        complaints
    }
}

/// What a function decodes and forwards.
fn spans(device: &Device) -> impl Iterator<Item = (Bdf, Space, Span)> {
    let bars = device.bars.iter().filter_map(|bar| Some((space(bar.kind), bar.span?)));
    let windows = device.windows.iter().map(|window| (space(window.kind), window.span));
    bars.chain(windows).map(|(space, span)| (device.bdf, space, span))
}

fn space(kind: BarKind) -> Space {
    if kind.is_memory() { Space::Memory } else { Space::Io }
}

fn id(vm: &mut Vm, bdf: Bdf) -> u32 {
    vm.config_read(Guest(Access::whole(bdf, header::ID)))
}
