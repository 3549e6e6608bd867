//! Virtual Functions that follow their Physical Function: they are there while the guest's VF Enable says so, at the
//! offset and stride it reads, and their memory where its VF BARs put it.

use super::Remapper;
use super::index::Entry;
use super::reason::Reason;
use super::rule::{Effect, Rules, TooManyRules};
use super::state::Fingerprint;
use super::touched::Touched;
use super::window::Trapped;
use crate::access::{Access, Dword};
use crate::address::{Bdf, Guest, Host, halves};
use crate::decision::{ReadDecision, WriteDecision};
use crate::plan::{Addresses, MsixTable, Plan, PlanError, VirtualFunctions, is_reached};
use crate::spec::bar::BarKind;
use crate::spec::header::{self, Command};
use crate::spec::{express, sriov, type0};
use crate::topology::{Function, SrIov};

/// The Virtual Functions of one moved function. All have the same rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Followed {
    /// Places of the Physical Function and of what has the windows and the rules, among the touched functions.
    pub(super) physical: usize,
    pub(super) windows: usize,
    control: Dword,
    num_vfs: Dword,
    /// How many there can be, and how many there are.
    total: u16,
    enabled: u16,
    host: Host<Addresses>,
    guest: Guest<Addresses>,
}

impl<const F: usize> Remapper<F> {
    pub(super) fn add_virtual_functions(&mut self, plan: &Plan<'_>, found: &VirtualFunctions) -> Result<(), PlanError> {
        let host = found.physical;
        let Some(function) = plan.host().function(host) else { return Ok(()) };
        let Some(sriov) = function.sriov() else { return Ok(()) };
        let Some(physical) = self.functions.iter().position(|touched| touched.host == host.0) else { return Ok(()) };
        if let Some(touched) = self.functions.get_mut(physical) {
            let shown = touched.show_sriov(plan, found, sriov);
            shown.map_err(|TooManyRules| PlanError::TooManyRegisters(host))?;
        }
        let relocation = plan.relocation_of(host);
        let trapped = relocation.is_some_and(|relocation| relocation.msix_table == MsixTable::Trapped);
        let all = Touched::virtual_functions(function, found, sriov, trapped);
        let windows = self.add(all.map_err(|TooManyRules| PlanError::TooManyRegisters(host))?)?;
        if let Some(port) = plan.ari_port(found) {
            let index = self.staying(port)?;
            if let Some(touched) = self.functions.get_mut(index) {
                touched.forward_ari(port).map_err(|TooManyRules| PlanError::TooManyRegisters(port.bdf()))?;
            }
        }
        if let Some((first, sriov)) =
            plan.host().first_physical_function(host).and_then(|first| Some((first, first.sriov()?)))
        {
            let touched = self.functions.iter().position(|touched| touched.host == first.bdf().0);
            let index = touched.map_or_else(|| self.staying(first), Ok)?;
            if let Some(touched) = self.functions.get_mut(index) {
                let held = touched.hold_hierarchy(sriov, found.need_ari);
                held.map_err(|TooManyRules| PlanError::TooManyRegisters(first.bdf()))?;
            }
        }
        let VirtualFunctions { count: total, host, guest, .. } = *found;
        let control = register(sriov, sriov::CONTROL);
        let num_vfs = register(sriov, sriov::NUM_VFS);
        // A plan has no more.
        let _ = self.followed.push(Followed { physical, windows, control, num_vfs, total, enabled: 0, host, guest });
        Ok(())
    }

    /// Virtual Functions firmware enabled of what shows no SR-IOV are not found, and what they decode is concealed.
    pub(super) fn conceal_virtual_functions(&mut self, plan: &Plan<'_>) -> Result<(), PlanError> {
        for (function, sriov) in plan.stranding() {
            for Host(place) in sriov.enabled_addresses(function.bdf()) {
                if plan.host().function(Host(place)).is_none() && self.index.entry(Guest(place)) == Entry::Plain {
                    self.set(Guest(place), Entry::Absent)?;
                }
            }
            let concealed = Touched::stranded(plan, function, sriov);
            if !concealed.windows.is_empty() {
                self.add(concealed)?;
            }
        }
        Ok(())
    }

    /// A read of a Virtual Function there is.
    #[inline]
    pub(super) fn read_virtual_function(&self, number: usize, access: Access) -> ReadDecision {
        let Some((all, Host(host))) = self.virtual_function(number, Guest(access.function())) else {
            return ReadDecision::Hide;
        };
        let rule = all.rules.of(access.dword());
        if rule.is_read() { rule.read(access.of(host)) } else { ReadDecision::Emulate(rule.shadow) }
    }

    /// A write to a Virtual Function there is.
    pub(super) fn write_virtual_function(&self, number: usize, access: Access, value: u32) -> WriteDecision {
        let Some((all, Host(host))) = self.virtual_function(number, Guest(access.function())) else {
            return WriteDecision::Hide;
        };
        all.rules.of(access.dword()).write(access.of(host), value).unwrap_or(WriteDecision::Emulate)
    }

    /// What has the rules of the Virtual Function the guest finds at an address, and where hardware has it.
    #[inline]
    pub(super) fn virtual_function(&self, number: usize, guest: Guest<Bdf>) -> Option<(&Touched, Host<Bdf>)> {
        let followed = self.followed.get(number)?;
        Some((self.functions.get(followed.windows)?, followed.on_hardware(guest)))
    }

    /// Where hardware has the Virtual Function the guest finds at an address.
    pub(super) fn virtual_to_host(&self, number: usize, guest: Guest<Bdf>) -> Option<Host<Bdf>> {
        self.followed.get(number).map(|followed| followed.on_hardware(guest))
    }

    /// Whether what is at this place among the touched functions stands for Virtual Functions.
    pub(super) fn stands_for_virtual_functions(&self, index: usize) -> bool {
        self.followed.iter().any(|followed| followed.windows == index)
    }

    /// The address a Virtual Function has in the guest, by the bus numbers of the start.
    pub(super) fn virtual_to_guest(&self, host: Host<Bdf>) -> Option<Guest<Bdf>> {
        self.followed.iter().find_map(|followed| followed.to_guest(host))
    }

    /// Works out anew where the windows of a function shall be, and those of its Virtual Functions.
    pub(super) fn settle_all(&mut self, index: usize) {
        self.settle(index);
        self.settle_virtual_functions(index);
    }

    /// Works out anew which Virtual Functions there are, and where their windows shall be, after a register of their
    /// Physical Function changed.
    #[inline(never)]
    pub(super) fn settle_virtual_functions(&mut self, physical: usize) {
        let Some(place) = self.followed.iter().position(|followed| followed.physical == physical) else { return };
        let Some(followed) = self.followed.get_mut(place) else { return };
        let Some((before, [windows, ..])) = self.functions.split_at_mut_checked(followed.windows) else { return };
        let Some(function) = before.get(physical) else { return };
        let enabled = followed.count(&function.rules);
        let was = core::mem::replace(&mut followed.enabled, enabled);
        let reach_before = windows.reach;
        windows.windows.iter_mut().for_each(|window| window.cover(enabled, followed.total));
        let is_there = function.power.is_awake() && !function.has_forgotten && followed.are_decoding(&function.rules);
        let command = if is_there { u32::from(Command::MEMORY_SPACE_ENABLE.bits()) } else { 0 };
        windows.claim_by(&function.rules, command);
        let _ = self.areas.memory.move_to(windows.reach.memory, reach_before.memory);
        let reach = windows.reach.with(reach_before);
        let followed = *followed;
        for number in was.min(enabled)..was.max(enabled) {
            let entry = if number < enabled { Entry::Virtual(place) } else { Entry::Absent };
            // The bus is touched since the plan was built.
            let _ = self.index.set(followed.guest.map(|all| all.nth(number)), entry);
        }
        self.settle_meeting(followed.windows, reach);
    }
}

impl Followed {
    pub(super) fn identify(&self, fingerprint: &mut Fingerprint) {
        // How many there are follows from the registers.
        let Self { physical, windows, control, num_vfs, total, enabled: _, host, guest } = *self;
        fingerprint.add_count(physical);
        fingerprint.add_count(windows);
        for dword in [control, num_vfs] {
            fingerprint.add(dword.index());
        }
        fingerprint.add(total);
        for all in [host.0, guest.0] {
            fingerprint.add(all.nth(0).routing_id());
            fingerprint.add(all.nth(1).routing_id());
        }
    }

    /// NumVFs while VF Enable is set.
    fn count(&self, rules: &Rules) -> u16 {
        let [count, _] = sriov::halves(rules.shadow(self.num_vfs));
        let is_enabled = rules.shadow(self.control) & sriov::VF_ENABLE != 0;
        if is_enabled { count.min(self.total) } else { 0 }
    }

    fn are_decoding(&self, rules: &Rules) -> bool {
        self.enabled != 0 && rules.shadow(self.control) & sriov::VF_MEMORY_SPACE_ENABLE != 0
    }

    /// Where hardware has one the guest finds, whatever number it knows their bus by: all are on one.
    #[inline]
    fn on_hardware(&self, Guest(guest): Guest<Bdf>) -> Host<Bdf> {
        let Guest(all) = self.guest;
        self.host.map(|own| own.counterpart(all, guest.on_bus(all.nth(0).bus())))
    }

    fn to_guest(self, host: Host<Bdf>) -> Option<Guest<Bdf>> {
        let number = self.host.0.number(host.0, self.enabled)?;
        Some(self.guest.map(|all| all.nth(number)))
    }
}

impl Touched {
    /// What has the windows of all Virtual Functions of one, and the rules of each; the guest finds it nowhere.
    fn virtual_functions(
        function: &Function,
        found: &VirtualFunctions,
        sriov: &SrIov,
        is_trapped: bool,
    ) -> Result<Self, TooManyRules> {
        let mut all = Self::new(function, None);
        let mut rules = all.rules.because(Reason::VirtualFunctions);
        // 9.3.4.1: the ID is no ID, there are no BARs and no ROM. Of what is half of an agreement with the port all is
        // reserved (9.3.5). Where extended capabilities are is not known before there are Virtual Functions.
        rules.fix(header::ID, !0, header::ABSENT)?;
        rules.zero(header::BAR0, 6)?;
        rules.zero(type0::ROM, 1)?;
        rules.zero(header::EXTENDED, Dword::COUNT)?;
        for one in found.bars.into_iter().flatten() {
            let trapped = if is_trapped { Trapped::All } else { Trapped::None };
            let dword = bar_register(sriov, one.bar.number());
            let enable = Command::MEMORY_SPACE_ENABLE;
            all.add_parts(one.bar.kind(), dword, one.host.0.len(), one.host, trapped, enable);
        }
        Ok(all)
    }

    /// What has the windows of Virtual Functions nothing leads to.
    fn stranded(plan: &Plan<'_>, function: &Function, sriov: &SrIov) -> Self {
        let mut all = Self::new(function, None);
        all.is_inert = true;
        let bars = sriov.vf_bars.iter().flatten().filter(|_| sriov.is_decoding());
        for bar in bars.filter(|bar| is_reached(plan, function.bdf(), bar)) {
            if let Some(span) = bar.span_of_all(sriov.enabled_vfs()) {
                let dword = bar_register(sriov, bar.number());
                all.add_parts(bar.kind(), dword, span.0.len(), span, Trapped::None, Command::empty());
            }
        }
        all
    }

    /// SR-IOV of a moved function: what tells where its Virtual Functions are is the guest's, and how many there are
    /// reaches hardware.
    fn show_sriov(&mut self, plan: &Plan<'_>, found: &VirtualFunctions, sriov: &SrIov) -> Result<(), TooManyRules> {
        let at = |index| register(sriov, index);
        let own = |index| sriov.register(index);
        let Some(guest) = self.guest else { return Ok(()) };
        let mut rules = self.rules.because(Reason::VirtualFunctions);
        // No migration, no tags of 10 bits.
        rules.fix(at(sriov::CAPABILITIES), !0, 0)?;
        let enables = sriov::VF_ENABLE | sriov::VF_MEMORY_SPACE_ENABLE | sriov::ARI_CAPABLE_HIERARCHY;
        rules.keep(at(sriov::CONTROL), !0, enables, 0)?;
        rules.pass(at(sriov::CONTROL), sriov::VF_ENABLE)?;
        rules.hold(at(sriov::CONTROL), sriov::VF_MEMORY_SPACE_ENABLE)?;
        rules.set_off(at(sriov::CONTROL), Effect::VirtualFunctions)?;
        let count = u32::from(found.count);
        rules.fix(at(sriov::TOTAL_VFS), !0, count << 16 | count)?;
        rules.keep(at(sriov::NUM_VFS), !0, 0xffff, dependency(plan, found.physical, guest, sriov) << 16)?;
        rules.pass(at(sriov::NUM_VFS), 0xffff)?;
        rules.set_off(at(sriov::NUM_VFS), Effect::VirtualFunctions)?;
        rules.fix(at(sriov::VF_OFFSET), !0, found.guest.0.register(guest))?;
        // What one decodes may depend on the size of pages, so there is but one (9.3.3.12).
        rules.fix(at(sriov::SUPPORTED_PAGE_SIZES), !0, own(sriov::SYSTEM_PAGE_SIZE))?;
        rules.fix(at(sriov::SYSTEM_PAGE_SIZE), !0, own(sriov::SYSTEM_PAGE_SIZE))?;
        rules.fix(at(sriov::MIGRATION_STATE), !0, 0)?;
        for one in found.bars.into_iter().flatten() {
            let dword = bar_register(sriov, one.bar.number());
            let (reason, effect) = (Reason::VirtualFunctions, Effect::VirtualFunctions);
            self.keep_address(reason, effect, dword, one.bar.kind(), one.bar.size(), one.guest)?;
            self.place_vf_bar(sriov, one.bar.number(), one.bar.kind(), one.host.0.start());
        }
        for index in 0..6 {
            self.rules.because(Reason::VirtualFunctions).zero_untreated(bar_register(sriov, index))?;
        }
        self.restore(at(sriov::SYSTEM_PAGE_SIZE), !0, own(sriov::SYSTEM_PAGE_SIZE));
        self.restore(at(sriov::NUM_VFS), 0xffff, 0);
        self.restore(at(sriov::CONTROL), 0xffff, 0);
        Ok(())
    }

    /// ARI Capable Hierarchy of the first Physical Function is in hardware what the plan counts on, and in the guest what
    /// it writes: that changes nothing of where it finds Virtual Functions (9.3.3.3.5, 9.3.3.9).
    fn hold_hierarchy(&mut self, sriov: &SrIov, is_needed: bool) -> Result<(), TooManyRules> {
        let (control, bit) = (register(sriov, sriov::CONTROL), sriov::ARI_CAPABLE_HIERARCHY);
        let own = sriov.register(sriov::CONTROL);
        let held = if is_needed { bit } else { own & bit };
        self.prepare(control, bit, held, own);
        if self.can_forget() && !self.restores.iter().any(|setting| setting.dword == control) {
            self.restore(control, 0xffff, held);
        }
        let rule = *self.rules.of(control);
        let mut rules = self.rules.because(Reason::VirtualFunctions);
        if rule.to_hardware & bit != 0 {
            rules.keep(control, bit, bit, own & bit)?;
        }
        if rule.to_hardware != 0 {
            rules.hold(control, held)?;
        }
        Ok(())
    }

    /// The real VF BAR, which firmware may have left without an address.
    fn place_vf_bar(&mut self, sriov: &SrIov, number: usize, kind: BarKind, address: u64) {
        let dword = bar_register(sriov, number);
        let current = |number: usize| {
            u16::try_from(number).map_or(0, |index| sriov.register(sriov::VF_BAR0.saturating_add(index)))
        };
        let [low, high] = halves(address);
        let low = low | kind.type_bits();
        self.prepare(dword, !0, low, current(number));
        self.restore(dword, !0, low);
        if let Some(upper) = dword.plus(1).filter(|_| kind.is_64_bit()) {
            self.prepare(upper, !0, high, current(number.saturating_add(1)));
            self.restore(upper, !0, high);
        }
    }

    /// Virtual Functions at device numbers other than 0 are reached while the port forwards by ARI (6.13).
    fn forward_ari(&mut self, port: &Function) -> Result<(), TooManyRules> {
        let Some(express) = port.express() else { return Ok(()) };
        let Some(control) = express.dword.plus(express::DEVICE_CONTROL_2) else { return Ok(()) };
        let (enable, own) = (express::ARI_FORWARDING_ENABLE, express.register(express::DEVICE_CONTROL_2));
        self.prepare(control, enable, enable, own);
        if self.rules.of(control).to_hardware & enable != 0 {
            let mut rules = self.rules.because(Reason::VirtualFunctions);
            rules.keep(control, enable, enable, own & enable)?;
        }
        if self.rules.of(control).to_hardware != 0 {
            self.rules.because(Reason::VirtualFunctions).hold(control, enable)?;
        }
        Ok(())
    }
}

/// Function Dependency Link (9.3.3.8): in the guest's view, as Linux looks for the function by it (`sriov_enable`).
fn dependency(plan: &Plan<'_>, physical: Host<Bdf>, guest: Bdf, sriov: &SrIov) -> u32 {
    let [_, _, link, _] = sriov.register(sriov::NUM_VFS).to_le_bytes();
    let on = Host(Bdf::from_routing_id(u16::from_be_bytes([physical.0.bus(), link])));
    let own_link = physical.0.devfn() == link || physical.0.function() == link;
    let moved = plan.relocation_of(on).filter(|moved| !own_link && moved.guest.0.bus() == guest.bus());
    moved.map_or(guest, |moved| moved.guest.0).devfn().into()
}

fn register(sriov: &SrIov, index: u16) -> Dword {
    sriov.dword.plus(index).unwrap_or(sriov.dword)
}

fn bar_register(sriov: &SrIov, number: usize) -> Dword {
    register(sriov, u16::try_from(number).map_or(0, |number| sriov::VF_BAR0.saturating_add(number)))
}
