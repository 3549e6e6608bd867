//! Building a remapper from a plan without errors.

use super::Remapper;
use super::area::Areas;
use super::event::Events;
use super::index::{Entry, MAX_FUNCTIONS};
use super::rule::TooManyRules;
use super::touched::Touched;
use crate::address::{Bdf, Guest, Host};
use crate::plan::{Followed, Places, Plan, PlanError, Role, VirtualFunctions, Way, left_payload};
use crate::spec::express::PortType;
use crate::topology::{Function, MAX_ROOT_WINDOWS};

impl<const F: usize> Remapper<F> {
    pub(crate) fn clear(&mut self) {
        self.index.clear();
        self.functions.clear();
        self.areas = Areas::new();
        self.pending.clear();
        self.reserved.clear();
        self.roots.clear();
        self.followed.clear();
        self.forgetful = 0;
        self.events = Events::new();
    }

    pub(crate) fn build(&mut self, plan: &Plan<'_>) -> Result<(), PlanError> {
        self.reserved.extend_from_slice(plan.reserved()).map_err(|_| PlanError::TooManyReserved)?;
        let places = Places::find(plan);
        let followed = plan.virtual_functions(&places);
        self.empty_vacated(plan)?;
        for found in followed.iter().flatten() {
            self.empty_virtual_functions(found)?;
        }
        self.add_moved(plan, &places)?;
        self.add_hidden(plan)?;
        self.add_inert(plan)?;
        self.add_ports(plan)?;
        self.add_in_place(plan, &followed)?;
        self.add_event_collectors(plan)?;
        for found in followed.iter().flatten() {
            self.add_virtual_functions(plan, found)?;
        }
        self.conceal_virtual_functions(plan)?;
        self.leave_links_alone(plan)?;
        self.agree_on_payloads(plan)?;
        self.chain_functions(plan)?;
        self.set_multi_function_bits(plan)?;
        if plan.has_virtual_bus_numbers() {
            self.virtualize_bus_numbers(plan)?;
        }
        self.find_registers();
        for index in 0..self.functions.len() {
            self.settle(index);
        }
        Ok(())
    }

    /// Finds the registers of all windows, now that no rule is added.
    fn find_registers(&mut self) {
        for touched in &mut self.functions {
            touched.windows.iter_mut().for_each(|window| window.registers.find(&touched.rules));
        }
        for followed in &self.followed {
            let Some((before, [all, ..])) = self.functions.split_at_mut_checked(followed.windows) else { continue };
            let Some(physical) = before.get(followed.physical) else { continue };
            all.windows.iter_mut().for_each(|window| window.registers.find(&physical.rules));
        }
    }

    /// Nothing is at the places of moved and hidden functions, nor on a bus all functions left, nor at the device
    /// numbers a downstream link does not carry: functions that ignore the device number would answer there.
    fn empty_vacated(&mut self, plan: &Plan<'_>) -> Result<(), PlanError> {
        for port in plan.ports() {
            let from = match port.role {
                Role::Vacant => 0,
                Role::Guarded | Role::Destination if port.way.is_some() => 8,
                Role::Guarded | Role::Destination | Role::Bystander => continue,
            };
            for devfn in from..=u8::MAX {
                let place = Bdf::from_routing_id(u16::from_be_bytes([port.bridge.secondary, devfn]));
                // With ARI in hardware, functions stay at such numbers.
                if !plan.host().function(Host(place)).is_some_and(|function| plan.stays(function.bdf())) {
                    self.set(Guest(place), Entry::Absent)?;
                }
            }
        }
        let leaving = plan.relocations().iter().map(|relocation| relocation.host).chain(plan.hidden().iter().copied());
        for Host(host) in leaving {
            self.set(Guest(host), Entry::Absent)?;
        }
        Ok(())
    }

    /// Virtual Functions are not there yet, and never where hardware has them.
    fn empty_virtual_functions(&mut self, found: &VirtualFunctions) -> Result<(), PlanError> {
        let mut all = found.host.0.all(found.count).chain(found.guest.0.all(found.count));
        all.try_for_each(|place| self.set(Guest(place), Entry::Absent))
    }

    fn add_moved(&mut self, plan: &Plan<'_>, places: &Places) -> Result<(), PlanError> {
        for (index, relocation) in plan.relocations().iter().copied().enumerate() {
            let Some(function) = plan.host().function(relocation.host) else { continue };
            let moved = Touched::moved(plan, places, index, relocation, function);
            self.add(moved.map_err(|TooManyRules| PlanError::TooManyRegisters(relocation.host))?)?;
        }
        Ok(())
    }

    fn add_hidden(&mut self, plan: &Plan<'_>) -> Result<(), PlanError> {
        for function in plan.hidden().iter().filter_map(|host| plan.host().function(*host)) {
            self.add(Touched::hidden(plan, function))?;
        }
        Ok(())
    }

    fn add_inert(&mut self, plan: &Plan<'_>) -> Result<(), PlanError> {
        for function in plan.inert().filter_map(|host| plan.host().function(host)) {
            let bdf = function.bdf();
            let inert = Touched::inert(plan, function);
            self.add(inert.map_err(|TooManyRules| PlanError::TooManyRegisters(bdf))?)?;
        }
        Ok(())
    }

    fn add_ports(&mut self, plan: &Plan<'_>) -> Result<(), PlanError> {
        for port in plan.ports() {
            // A destination port that shows as it is, and resets nothing that moved, needs no look.
            let is_plain = port.way.is_none() && !port.has_empty_link && !plan.has_moved_behind(port.bridge);
            if port.role == Role::Destination && is_plain && !plan.touches_all_bridges() {
                continue;
            }
            let bdf = port.function.bdf();
            if plan.stays(bdf) {
                let in_place = plan.has_virtual_addresses();
                let touched = if in_place { Touched::port_in_place(plan, &port) } else { Touched::port(&port) };
                self.add(touched.map_err(|TooManyRules| PlanError::TooManyRegisters(bdf))?)?;
            }
        }
        Ok(())
    }

    fn add_in_place(&mut self, plan: &Plan<'_>, followed: &Followed) -> Result<(), PlanError> {
        for function in plan.in_place() {
            let shows_sriov = followed.iter().flatten().any(|found| found.physical == function.bdf());
            let in_place = Touched::in_place(plan, function, shows_sriov);
            self.add(in_place.map_err(|TooManyRules| PlanError::TooManyRegisters(function.bdf()))?)?;
        }
        Ok(())
    }

    /// What functions on a root bus signal ends at the Root Complex Event Collector there (1.3.4).
    fn add_event_collectors(&mut self, plan: &Plan<'_>) -> Result<(), PlanError> {
        let is_collector = |function: &&Function| {
            function.express().is_some_and(|express| express.port_type == PortType::RootComplexEventCollector)
        };
        for collector in plan.host().functions().iter().filter(is_collector) {
            let mut beside = plan.host().bus(collector.bdf().0.bus());
            if plan.stays(collector.bdf()) && beside.any(|function| !plan.stays(function.bdf())) {
                let index = self.staying(collector)?;
                if let Some(touched) = self.functions.get_mut(index) {
                    let named = touched.name_requesters(collector);
                    named.map_err(|TooManyRules| PlanError::TooManyRegisters(collector.bdf()))?;
                }
            }
        }
        Ok(())
    }

    /// A link that carries a moved function stays as firmware set it up, whatever shares it.
    fn leave_links_alone(&mut self, plan: &Plan<'_>) -> Result<(), PlanError> {
        let shared = plan.ports().filter(|port| port.role == Role::Guarded && port.function.leads_down_a_link());
        for port in shared {
            let staying = plan.host().bus(port.bridge.secondary).filter(|function| plan.stays(function.bdf()));
            for function in staying {
                let index = self.staying(function)?;
                if let Some(touched) = self.functions.get_mut(index) {
                    let left = touched.leave_link_alone(function);
                    left.map_err(|TooManyRules| PlanError::TooManyRegisters(function.bdf()))?;
                }
            }
        }
        Ok(())
    }

    /// All that stays behind a port that shows as a conventional bridge agrees with it before the guest starts.
    fn agree_on_payloads(&mut self, plan: &Plan<'_>) -> Result<(), PlanError> {
        for port in plan.ports().filter(|port| port.way == Some(Way::ConventionalBridge)) {
            let buses = port.bridge.secondary..=port.bridge.subordinate;
            let behind = plan.host().functions().iter().filter(|function| buses.contains(&function.bdf().0.bus()));
            for function in behind.filter(|function| plan.stays(function.bdf())) {
                let payload = plan.payload(function);
                if payload == left_payload(function) {
                    continue;
                }
                let index = self.staying(function)?;
                if let Some(touched) = self.functions.get_mut(index) {
                    let _ = touched.prepare_payload(function, payload);
                }
            }
        }
        Ok(())
    }

    /// Where functions are found by their chain, each names the next in the guest's view.
    fn chain_functions(&mut self, plan: &Plan<'_>) -> Result<(), PlanError> {
        for port in plan.ports().filter(|port| port.way == Some(Way::AriChain)) {
            for (guest, host) in plan.guest_bus(port.bridge.secondary) {
                let Some(function) = plan.host().function(host) else { continue };
                let index = match self.index.entry(guest) {
                    Entry::Touched(index) => index,
                    _ => self.staying(function)?,
                };
                if let Some(touched) = self.functions.get_mut(index) {
                    let mut chained = touched.chain_to(function, plan.next_in_chain(guest));
                    if guest.0.devfn() == 0 {
                        // FreeBSD follows a chain only behind a function with the bit.
                        chained = chained.and_then(|()| touched.set_multi_function(true));
                    }
                    chained.map_err(|TooManyRules| PlanError::TooManyRegisters(host))?;
                }
            }
        }
        Ok(())
    }

    /// A function that stays where it is, touched from now on.
    pub(super) fn staying(&mut self, function: &Function) -> Result<usize, PlanError> {
        match self.index.entry(Guest(function.bdf().0)) {
            Entry::Touched(index) => Ok(index),
            _ => self.add(Touched::staying(function)),
        }
    }

    /// Every bridge keeps its numbers, and leads to the bus the guest means.
    fn virtualize_bus_numbers(&mut self, plan: &Plan<'_>) -> Result<(), PlanError> {
        let host = plan.host();
        for function in host.functions() {
            let bus = function.bdf().0.bus();
            if host.is_root_bus(bus) && !self.roots.contains(&bus) {
                self.roots.push(bus).map_err(|bus| PlanError::TooFewBuses(bus, MAX_ROOT_WINDOWS))?;
            }
        }
        for port in plan.ports() {
            let Guest(bdf) = Guest(port.function.bdf().0);
            let to = self.index.touch(port.bridge.secondary).map_err(|bus| PlanError::TooFewBuses(bus, F))?;
            let from = if host.is_root_bus(bdf.bus()) {
                None
            } else {
                Some(self.index.touch(bdf.bus()).map_err(|bus| PlanError::TooFewBuses(bus, F))?)
            };
            let touched = self.functions.iter_mut().find(|touched| touched.host == bdf);
            if let Some(touched) = touched {
                let kept = touched.virtualize_bus_numbers(port.function, from, to);
                kept.map_err(|TooManyRules| PlanError::TooManyRegisters(Host(bdf)))?;
            }
        }
        self.renumber();
        Ok(())
    }

    /// Function 0 of every device that gains or loses functions says whether there are others, and no longer which.
    fn set_multi_function_bits(&mut self, plan: &Plan<'_>) -> Result<(), PlanError> {
        let places = plan.relocations().iter().flat_map(|relocation| [relocation.guest, Guest(relocation.host.0)]);
        for place in places.chain(plan.hidden().iter().map(|hidden| Guest(hidden.0))) {
            let first = place.map(|place| place.with_function(0));
            let Some(function) = plan.occupant(first).and_then(|host| plan.host().function(host)) else { continue };
            let is_chained = first.0.device() == 0 && plan.is_chained(first);
            let has_siblings = plan.has_siblings(first) || is_chained;
            let touched = match self.index.entry(first) {
                Entry::Touched(index) => Some(index),
                _ if function.is_multi_function() == has_siblings && !function.chains_functions() => None,
                _ => Some(self.staying(function)?),
            };
            if let Some(touched) = touched.and_then(|index| self.functions.get_mut(index)) {
                // A moved function shows no chain anyway, also one that is moved to where it is.
                let staying = plan.relocation_of(function.bdf()).is_none() && !plan.is_chained(first);
                let unchained = if staying { touched.unchain(function) } else { Ok(()) };
                let set = unchained.and_then(|()| touched.set_multi_function(has_siblings));
                set.map_err(|TooManyRules| PlanError::TooManyRegisters(function.bdf()))?;
            }
        }
        Ok(())
    }

    pub(super) fn add(&mut self, touched: Touched) -> Result<usize, PlanError> {
        let index = self.functions.len();
        let too_few = PlanError::TooFewFunctions(Host(touched.host), F.min(MAX_FUNCTIONS));
        let guest = touched.guest;
        if index >= MAX_FUNCTIONS {
            return Err(too_few);
        }
        self.functions.push(touched).map_err(|_| too_few)?;
        if let Some(guest) = guest {
            self.set(Guest(guest), Entry::Touched(index))?;
        }
        Ok(index)
    }

    pub(super) fn set(&mut self, place: Guest<Bdf>, entry: Entry) -> Result<(), PlanError> {
        self.index.set(place, entry).map_err(|bus| PlanError::TooFewBuses(bus, F))
    }
}
