//! Moves made up for a machine, and which of them the planner accepts.

use std::collections::BTreeMap;

use pci_remap::plan::{Cause, Vacated, Way};
use pci_remap::sim::machine::Machine;
use pci_remap::sim::vm::{self, FUNCTIONS};
use pci_remap::spec::header::HeaderType;
use pci_remap::topology::Function;
use pci_remap::{Bdf, Grade, Guest, Host, Plan, Topology};

/// One or more functions that move together: host and guest address of each.
pub(crate) type Move = Vec<(Host<Bdf>, Guest<Bdf>)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// To a free device number on another bus.
    FreeDevice,
    /// To a free device number on its own bus, behind a bridge.
    OwnBus,
    /// To a free function number of a device that is there.
    FreeFunction,
    /// Two functions change places.
    Swap,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::FreeDevice, Self::OwnBus, Self::FreeFunction, Self::Swap];
}

/// More candidates than this are thinned out.
const MOST_CANDIDATES: usize = 300;

pub(crate) fn candidates(topology: &Topology<FUNCTIONS>, kind: Kind) -> Vec<Move> {
    let endpoints = endpoints(topology);
    let one = |host: Host<Bdf>, guest: Option<Bdf>| guest.map(|guest| vec![(host, Guest(guest))]);
    let all: Vec<Move> = match kind {
        Kind::FreeDevice => {
            let buses = buses(topology);
            let pairs = endpoints.iter().flat_map(|host| buses.iter().map(move |bus| (*host, *bus)));
            let others = pairs.filter(|(host, bus)| host.0.bus() != *bus);
            others.filter_map(|(host, bus)| one(host, free_device(topology, bus))).collect()
        }
        Kind::OwnBus => {
            let below = endpoints.iter().filter(|host| topology.view().bridge_to(host.0.bus()).is_some());
            below.filter_map(|host| one(*host, free_device(topology, host.0.bus()))).collect()
        }
        Kind::FreeFunction => {
            let devices: Vec<_> = topology.functions().iter().map(|function| function.bdf().0).collect();
            let firsts = devices.iter().filter(|bdf| bdf.function() == 0 && !is_behind_cardbus(topology, bdf.bus()));
            let pairs = firsts.flat_map(|first| endpoints.iter().map(move |host| (*host, *first)));
            let others = pairs.filter(|(host, first)| !host.0.same_device(*first));
            others.filter_map(|(host, first)| one(host, free_function(topology, first))).collect()
        }
        Kind::Swap => {
            let pairs =
                endpoints.iter().enumerate().flat_map(|(index, a)| endpoints[..index].iter().map(move |b| (a, b)));
            pairs.map(|(a, b)| vec![(*a, Guest(b.0)), (*b, Guest(a.0))]).collect()
        }
    };
    spread(all, MOST_CANDIDATES)
}

/// At most `most` of them, from all over the list.
pub(crate) fn spread<T>(all: Vec<T>, most: usize) -> Vec<T> {
    let len = all.len().max(1);
    let takes = |index: usize| len <= most || index * most / len != (index + 1) * most / len;
    all.into_iter().enumerate().filter(|(index, _)| takes(*index)).map(|(_, one)| one).collect()
}

/// The same moves by every other way a port there can show.
pub(crate) fn by_every_way<'t>(topology: &'t Topology<FUNCTIONS>, one: &Move) -> Vec<(Way, Plan<'t>)> {
    let destination = one.iter().find(|(_, guest)| guest.0.device() != 0).map(|(_, guest)| guest.0.bus());
    let port = destination.and_then(|bus| topology.view().bridge_to(bus)).filter(|port| port.leads_down_a_link());
    let Some(port) = port else { return Vec::new() };
    let by = |way| Some((way, plan(topology, one).find_behind(port.bdf(), way).ok()?));
    let ways = [Way::AriChain, Way::UpstreamPort, Way::ConventionalBridge].into_iter().filter_map(by);
    ways.filter(|(_, plan)| plan.findings().all(|finding| finding.grade() != Grade::Error)).collect()
}

pub(crate) fn plan<'t>(topology: &'t Topology<FUNCTIONS>, one: &Move) -> Plan<'t> {
    one.iter().fold(Plan::new(topology), |plan, (host, guest)| plan.relocate(*host, *guest).unwrap())
}

/// Moves that are refused only because siblings would not be found any more.
pub(crate) fn stranding(topology: &Topology<FUNCTIONS>, all: &[Move]) -> Vec<Move> {
    let has_errors = |plan: &Plan<'_>| plan.findings().any(|finding| finding.grade() == Grade::Error);
    let is_stranding = |one: &&Move| {
        let plan = plan(topology, one);
        has_errors(&plan) && !has_errors(&plan.vacated(Vacated::InertFirst))
    };
    all.iter().filter(is_stranding).cloned().collect()
}

/// The moves the planner accepts, and how often it refused the others for what reason.
pub(crate) fn accepted(topology: &Topology<FUNCTIONS>, all: Vec<Move>) -> (Vec<Move>, BTreeMap<String, usize>) {
    let mut refused = BTreeMap::new();
    let mut accepted = Vec::new();
    for one in all {
        let plan = plan(topology, &one);
        match plan.findings().find(|finding| finding.grade() == Grade::Error) {
            Some(finding) => *refused.entry(name(&finding.cause)).or_default() += 1,
            None => accepted.push(one),
        }
    }
    (accepted, refused)
}

/// The machine once the host made room for a move that is refused without, and is not then.
pub(crate) fn with_room(
    machine: &Machine,
    topology: &Topology<FUNCTIONS>,
    one: &Move,
) -> Option<(Machine, Box<Topology<FUNCTIONS>>)> {
    let is_refused = |plan: &Plan<'_>| plan.findings().any(|finding| finding.grade() == Grade::Error);
    let refused = Some(plan(topology, one)).filter(is_refused)?;
    let mut machine = machine.clone();
    for write in refused.make_room() {
        machine.config_write(write.to.0, write.value);
    }
    let topology = vm::topology(&mut machine).unwrap();
    let is_accepted = !is_refused(&plan(&topology, one));
    is_accepted.then_some((machine, topology))
}

/// The name of the variant.
fn name(cause: &Cause) -> String {
    format!("{cause:?}").split('(').next().unwrap_or_default().to_owned()
}

/// The guests do not look behind CardBus bridges.
fn is_behind_cardbus(topology: &Topology<FUNCTIONS>, bus: u8) -> bool {
    topology.view().bridge_to(bus).is_some_and(|bridge| bridge.header_type() == HeaderType::CardBus)
}

fn endpoints(topology: &Topology<FUNCTIONS>) -> Vec<Host<Bdf>> {
    let functions = topology.functions().iter().filter(|function| !is_behind_cardbus(topology, function.bdf().0.bus()));
    let endpoints =
        functions.filter(|function| function.header_type() == HeaderType::Type0 && !function.class().is_host_bridge());
    endpoints.map(Function::bdf).collect()
}

/// Root buses, and buses behind bridges.
fn buses(topology: &Topology<FUNCTIONS>) -> Vec<u8> {
    let view = topology.view();
    let all = (0..=u8::MAX).filter(|bus| view.is_root_bus(*bus) || *bus != 0 && view.bridge_to(*bus).is_some());
    all.filter(|bus| !is_behind_cardbus(topology, *bus)).collect()
}

fn free_device(topology: &Topology<FUNCTIONS>, bus: u8) -> Option<Bdf> {
    let free = |first: &Bdf| topology.view().device(Host(*first)).next().is_none();
    (0..32).filter_map(|device| Bdf::new(bus, device, 0)).find(free)
}

fn free_function(topology: &Topology<FUNCTIONS>, first: Bdf) -> Option<Bdf> {
    let free = |bdf: &Bdf| topology.view().function(Host(*bdf)).is_none();
    (1..8).map(|function| first.with_function(function)).find(free)
}
