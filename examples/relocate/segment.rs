//! One segment group: the machine as it is, and the guest behind the plan.

use pci_remap::plan::{BaseAddresses, BusNumbers};
use pci_remap::sim::dump::{Assumption, LoadedMachine, SegmentBdf};
use pci_remap::sim::guest::{Boot, Device, boot};
use pci_remap::sim::machine::Machine;
use pci_remap::sim::vm::{Exits, FUNCTIONS, Vm, topology};
use pci_remap::topology::Function;
use pci_remap::{Access, Bdf, Dword, Finding, Grade, Guest, Host, HostWrite, Plan, PlanError, Relocation, Topology};

use crate::Failure;
use crate::arguments::{Job, Move};
use crate::life::{self, Lived};
use crate::names::Names;

pub(crate) struct Segment {
    pub(crate) number: u16,
    pub(crate) assumptions: Vec<Assumption>,
    /// What was written to bridges to make room.
    pub(crate) room: Vec<HostWrite>,
    pub(crate) topology: Box<Topology<FUNCTIONS>>,
    pub(crate) moves: Vec<Relocation>,
    pub(crate) hidden: Vec<Host<Bdf>>,
    pub(crate) findings: Vec<Finding>,
    /// The machine after a guest booted on it.
    pub(crate) bare: Machine,
    pub(crate) before: Boot,
    pub(crate) vm: Vm,
    pub(crate) after: Boot,
    /// What booting cost.
    pub(crate) exits: Exits,
    /// What came after it; for guests that only boot there is nothing.
    pub(crate) lived: Option<Lived>,
}

impl Segment {
    /// Plans the job's part in this segment group, and boots the guest on the bare machine and behind the plan.
    pub(crate) fn start(loaded: LoadedMachine, job: &Job) -> Result<Self, Failure> {
        let LoadedMachine { segment: number, machine: mut bare, assumptions } = loaded;
        let mut machine = bare.clone();
        let scan = |machine: &mut Machine| topology(machine).map_err(|error| Failure::Topology(number, error));
        let mut topology = scan(&mut machine)?;
        let room = if job.makes_room { room(&topology, number, job) } else { Ok(Vec::new()) };
        let room = room.map_err(|error| Failure::Plan(number, error))?;
        if !room.is_empty() {
            for HostWrite { to: Host(access), value } in &room {
                machine.config_write(*access, *value);
            }
            topology = scan(&mut machine)?;
        }
        let plan = plan(&topology, number, job).map_err(|error| Failure::Plan(number, error))?;
        let findings: Vec<_> = plan.findings().collect();
        let errors: Vec<_> = findings.iter().copied().filter(|finding| finding.grade() == Grade::Error).collect();
        if !errors.is_empty() {
            return Err(Failure::Refused(number, errors));
        }
        let (moves, hidden) = (plan.relocations().to_vec(), plan.hidden().to_vec());
        let mut vm = Vm::start(machine.clone(), &plan).map_err(|error| Failure::Plan(number, error))?;
        let lived = life::live(job.guest, bare.clone(), vm.clone(), &topology, &moves);
        let before = boot(job.guest, &mut bare);
        let after = boot(job.guest, &mut vm);
        let exits = vm.exits();
        Ok(Self { number, assumptions, room, topology, moves, hidden, findings, bare, before, vm, after, exits, lived })
    }

    /// Whether the plan does anything.
    pub(crate) fn is_changed(&self) -> bool {
        !self.moves.is_empty() || !self.hidden.is_empty()
    }

    /// The function of the dump that the guest on the bare machine finds at an address.
    pub(crate) fn bare_host(&self, found: Bdf) -> Option<Bdf> {
        self.bare.find(found).map(|id| self.bare.function(id).bdf())
    }

    /// The function of the dump that the guest behind the plan finds at an address.
    pub(crate) fn host(&self, found: Bdf) -> Option<Bdf> {
        let on_hardware = match self.vm.remapper().to_host(Guest(found)) {
            None => found,
            Some(host) => host?.0,
        };
        let machine = self.vm.machine();
        machine.find(on_hardware).map(|id| machine.function(id).bdf())
    }

    /// Address, name and configuration space of every function the guest found.
    pub(crate) fn guest_functions(&mut self, names: &Names) -> Vec<(SegmentBdf, String, Vec<u8>)> {
        let found: Vec<_> = self.after.tree.devices.iter().map(|device| (device.bdf, device.config_size)).collect();
        let functions = found.into_iter().map(|(bdf, size)| {
            let name = names.headline(self.number, self.host(bdf)).to_owned();
            let dwords = (0..size / 4).filter_map(Dword::new).map(|dword| Guest(Access::whole(bdf, dword)));
            let bytes = dwords.flat_map(|access| self.vm.config_read(access).to_le_bytes()).collect();
            (SegmentBdf { segment: self.number, bdf }, name, bytes)
        });
        functions.collect()
    }

    /// What the guest knows of a moved function.
    pub(crate) fn moved_device(&self, moved: Relocation) -> Option<&Device> {
        let Guest(found) = self.vm.remapper().to_guest(moved.host)?;
        self.after.tree.device(found)
    }
}

/// What makes room for the moves of one segment group.
fn room(topology: &Topology<FUNCTIONS>, segment: u16, job: &Job) -> Result<Vec<HostWrite>, PlanError> {
    Ok(plan(topology, segment, job)?.make_room().collect())
}

/// The moves and hidden functions of one segment group.
fn plan<'t>(topology: &'t Topology<FUNCTIONS>, segment: u16, job: &Job) -> Result<Plan<'t>, PlanError> {
    let moves = job.moves.iter().filter(|one| one.host.0.segment == segment);
    let plan =
        moves.flat_map(|one| relocations(topology, *one)).try_fold(Plan::new(topology), |plan, relocation| {
            plan.with(Relocation { placement: job.placement, ..relocation })
        })?;
    let hidden = job.hidden.iter().filter(|hidden| hidden.segment == segment);
    let plan = hidden.map(|hidden| Host(hidden.bdf)).try_fold(plan, Plan::hide)?;
    let is_changed = !plan.relocations().is_empty() || !plan.hidden().is_empty();
    Ok(if job.is_virtual && is_changed {
        plan.bus_numbers(BusNumbers::Virtual).base_addresses(BaseAddresses::Virtual)
    } else {
        plan
    })
}

/// The functions a move is about.
fn relocations(topology: &Topology<FUNCTIONS>, one: Move) -> Vec<Relocation> {
    let (host, guest) = (one.host.map(|host| host.bdf), one.guest.map(|guest| guest.bdf));
    let mut functions: Vec<_> = topology.view().device(host).map(Function::bdf).collect();
    if !one.whole_device || functions.is_empty() {
        return vec![Relocation::new(host, guest)];
    }
    functions.sort();
    let to = |function: Host<Bdf>| guest.map(|guest| guest.with_function(function.0.function()));
    functions.into_iter().map(|function| Relocation::new(function, to(function))).collect()
}
