//! Virtual Functions that follow a function that is moved, or that stays while addresses are virtual: where hardware has
//! them, and where the guest finds them. And those of functions that show no SR-IOV.

use heapless::Vec;

use super::placement::{find_fit, lowest_fit, windows};
use super::{Cause, Place, Places, Plan, Policy, Relocation, Vfs};
use crate::address::{Bdf, Guest, Host, Span};
use crate::delta::Space;
use crate::spec::capability::ExtendedCapabilityId;
use crate::spec::sriov;
use crate::topology::{Bar, Function, SrIov, VF_BAR};

/// Most functions of one plan whose Virtual Functions follow.
pub const MAX_FOLLOWED: usize = 8;

/// The Virtual Functions of one moved function.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VirtualFunctions {
    /// The Physical Function.
    pub(crate) physical: Host<Bdf>,
    /// TotalVFs.
    pub(crate) count: u16,
    pub(crate) host: Host<Addresses>,
    pub(crate) guest: Guest<Addresses>,
    pub(crate) bars: [Option<VfBar>; 6],
    /// Whether they are there only once ARI Capable Hierarchy is set.
    pub(crate) need_ari: bool,
}

/// The Routing IDs of all Virtual Functions of one (9.3.3.9, 9.3.3.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    first: u16,
    stride: u16,
}

/// A VF BAR, for all Virtual Functions together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VfBar {
    pub(crate) bar: Bar,
    /// What hardware decodes, by what firmware or the planner chose.
    pub(crate) host: Host<Span>,
    /// The address the guest finds.
    pub(crate) guest: u64,
}

impl Addresses {
    fn new(physical: Bdf, offset: u16, stride: u16) -> Option<Self> {
        let first = physical.routing_id().checked_add(offset).filter(|_| offset != 0)?;
        Some(Self { first, stride })
    }

    /// The one with this number, from 0 on.
    pub(crate) fn nth(self, number: u16) -> Bdf {
        Bdf::from_routing_id(self.first.wrapping_add(number.wrapping_mul(self.stride)))
    }

    /// The one that has the number `of` has among `others`, where it is one.
    #[inline]
    pub(crate) fn counterpart(self, others: Self, of: Bdf) -> Bdf {
        let distance = of.routing_id().wrapping_sub(others.first);
        if self.stride == others.stride {
            return Bdf::from_routing_id(self.first.wrapping_add(distance));
        }
        self.nth(distance.checked_div(others.stride).unwrap_or(0))
    }

    /// The number of one among the first `count`.
    pub(crate) fn number(self, of: Bdf, count: u16) -> Option<u16> {
        let distance = of.routing_id().checked_sub(self.first)?;
        let number = distance.checked_div(self.stride).unwrap_or(0);
        if number < count && self.nth(number) == of { Some(number) } else { None }
    }

    /// First VF Offset (15:0) and VF Stride (31:16) of this Physical Function.
    pub(crate) fn register(self, physical: Bdf) -> u32 {
        u32::from(self.stride) << 16 | u32::from(self.first.wrapping_sub(physical.routing_id()))
    }

    pub(crate) fn all(self, count: u16) -> impl Iterator<Item = Bdf> {
        (0..count).map(move |number| self.nth(number))
    }

    /// Whether no Routing ID is beyond the last there is.
    fn is_complete(self, count: u16) -> bool {
        let last = u32::from(count.saturating_sub(1)).saturating_mul(self.stride.into());
        last.saturating_add(self.first.into()) <= u16::MAX.into()
    }
}

/// What is known of the Virtual Functions that shall follow.
pub(crate) type Followed = Vec<Result<VirtualFunctions, (Host<Bdf>, Cause)>, MAX_FOLLOWED>;

impl VirtualFunctions {
    /// Each that is not where hardware has it, with the place the guest finds it at.
    pub(crate) fn moves(&self) -> impl Iterator<Item = (Host<Bdf>, Guest<Bdf>)> + use<> {
        let Self { count, host, guest, .. } = *self;
        let all = (0..count).map(move |number| (host.map(|all| all.nth(number)), guest.map(|all| all.nth(number))));
        all.filter(|(host, guest)| host.0 != guest.0)
    }
}

impl SrIov {
    /// Where those are that were enabled when the topology was made.
    pub(crate) fn enabled_addresses(&self, physical: Host<Bdf>) -> impl Iterator<Item = Host<Bdf>> + use<> {
        let all = Addresses::new(physical.0, self.first_vf_offset, self.vf_stride);
        let count = self.enabled_vfs();
        all.into_iter().flat_map(move |all| all.all(count)).map(Host)
    }

    /// Whether they decoded something of which the topology does not have the sizes.
    pub(crate) fn decodes_what_is_unknown(&self) -> bool {
        let is_used = (sriov::VF_BAR0..sriov::VF_BAR0.saturating_add(6)).any(|index| self.register(index) != 0);
        self.is_decoding() && is_used && self.vf_bars.iter().all(Option::is_none)
    }
}

impl Relocation {
    /// The SR-IOV Capability, if Virtual Functions shall follow.
    pub(crate) fn followed(self, function: &Function) -> Option<&SrIov> {
        let follows = self.vfs == Vfs::Follow && self.policy != Policy::Strict;
        function.sriov().filter(|sriov| follows && sriov.total_vfs != 0)
    }
}

impl<'t> Plan<'t> {
    /// Functions of which firmware enabled Virtual Functions, and the guest finds no SR-IOV.
    pub(crate) fn stranding(&self) -> impl Iterator<Item = (&'t Function, &'t SrIov)> {
        let enabled = self.host().functions().iter().filter_map(|function| Some((function, function.sriov()?)));
        enabled.filter(|(function, sriov)| sriov.is_enabled() && !self.shows_sriov(function))
    }

    /// Functions whose Virtual Functions shall follow, in the order of the moves; then, where addresses are virtual, those
    /// that stay.
    fn followers(&self) -> impl Iterator<Item = (Relocation, &'t Function, &'t SrIov)> {
        let in_place = self.in_place().map(|function| Relocation {
            vfs: Vfs::Follow,
            ..Relocation::new(function.bdf(), Guest(function.bdf().0))
        });
        self.relocations().iter().copied().chain(in_place).filter_map(|relocation| {
            let function = self.host().function(relocation.host)?;
            Some((relocation, function, relocation.followed(function)?))
        })
    }

    /// Whether the guest finds SR-IOV of a function that is not moved as hardware has it.
    pub(crate) fn shows_own_sriov(&self, function: &Function) -> bool {
        self.relocation_of(function.bdf()).is_none() && self.shows_sriov(function)
    }

    fn shows_sriov(&self, function: &Function) -> bool {
        match self.relocation_of(function.bdf()) {
            Some(relocation) => relocation.followed(function).is_some(),
            None => self.stays(function.bdf()) && !self.in_place().any(|one| one.bdf() == function.bdf()),
        }
    }
}

impl Plan<'_> {
    /// Finds places for all Virtual Functions that shall follow. SR-IOV of a function that stays is hidden where they cannot.
    pub(crate) fn virtual_functions(&self, places: &Places) -> Followed {
        let mut found = Vec::new();
        for (relocation, function, sriov) in self.followers() {
            let one = Search { plan: self, places, earlier: &found, relocation, function, sriov }.run();
            if one.is_err() && self.relocation_of(relocation.host).is_none() {
                continue;
            }
            // Those there is no room for are found by `too_many_followed`.
            let _ = found.push(one.map_err(|cause| (relocation.host, cause)));
        }
        found
    }

    /// The port that has to forward every device number for Virtual Functions to be reached, as they are at others than 0.
    pub(crate) fn ari_port(&self, of: &VirtualFunctions) -> Option<&Function> {
        self.ari_port_of(of.physical, of.host.0, of.count)
    }

    fn ari_port_of(&self, physical: Host<Bdf>, all: Addresses, count: u16) -> Option<&Function> {
        let port = self.host().bridge_to(physical.0.bus()).filter(|port| port.leads_down_a_link())?;
        let is_on_link = |bdf: Bdf| bdf.bus() == physical.0.bus() && bdf.device() != 0;
        all.all(count).any(is_on_link).then_some(port)
    }

    /// Whether Virtual Functions of this function, and of others on its link, are reached only once ARI Capable Hierarchy
    /// is set, which is one for all. While they are reached as firmware left it, it stays so.
    fn need_ari(&self, of: Host<Bdf>) -> bool {
        let first = |function| self.host().first_physical_function(function).map(Function::bdf);
        let are_reached = |with_ari| {
            let mut on_link = self.followers().filter(|(other, ..)| first(other.host) == first(of));
            on_link.all(|(_, function, sriov)| self.reached_addresses(function, sriov, with_ari).is_ok())
        };
        !are_reached(false) && are_reached(true)
    }

    /// Where hardware has the Virtual Functions, if it leads to all of them, and to nothing else there.
    fn reached_addresses(&self, function: &Function, sriov: &SrIov, with_ari: bool) -> Result<Addresses, Cause> {
        let (physical, count) = (function.bdf(), sriov.total_vfs);
        let own = Some([sriov.first_vf_offset, sriov.vf_stride]);
        let [offset, stride] = if with_ari { sriov.with_ari } else { own }.ok_or(Cause::VfsUnknown)?;
        let decodes = sriov.vf_bars.iter().any(Option::is_some);
        let is_known = decodes && !sriov.is_enabled() && (stride != 0 || count == 1);
        let all = Addresses::new(physical.0, offset, stride).filter(|all| is_known && all.is_complete(count));
        let all = all.ok_or(Cause::VfsUnknown)?;
        let (host, bus) = (self.host(), physical.0.bus());
        let buses = match host.bridge_to(bus).and_then(Function::bridge) {
            Some(bridge) => bridge.secondary..=bridge.subordinate,
            None => bus..=bus,
        };
        let can_pass = self.ari_port_of(physical, all, count).is_none_or(|port| {
            port.can_forward_by_ari() && function.extended_capability(ExtendedCapabilityId::ARI).is_some()
        });
        let is_reached = |bdf: &Bdf| {
            let is_alone = bdf.bus() == bus || host.bridge_to(bdf.bus()).is_none();
            buses.contains(&bdf.bus()) && is_alone && can_pass && host.function(Host(*bdf)).is_none()
        };
        match all.all(count).find(|bdf| !is_reached(bdf)) {
            Some(bdf) => Err(Cause::VfsUnreached(Host(bdf))),
            None => Ok(all),
        }
    }
}

struct Search<'s, 't> {
    plan: &'s Plan<'t>,
    places: &'s Places,
    earlier: &'s Followed,
    relocation: Relocation,
    function: &'s Function,
    sriov: &'s SrIov,
}

impl Search<'_, '_> {
    fn run(&self) -> Result<VirtualFunctions, Cause> {
        let count = self.sriov.total_vfs;
        let need_ari = self.plan.need_ari(self.relocation.host);
        let host = self.plan.reached_addresses(self.function, self.sriov, need_ari)?;
        let mut found = VirtualFunctions {
            physical: self.relocation.host,
            count,
            host: Host(host),
            guest: Guest(self.guest_addresses(host)?),
            bars: [None; 6],
            need_ari,
        };
        for bar in self.sriov.vf_bars.iter().flatten().copied() {
            let host = self.host_bar(&found, bar)?;
            let guest = self.guest_bar(&found, bar)?;
            if let Some(slot) = found.bars.get_mut(bar.number()) {
                *slot = Some(VfBar { bar, host: Host(host), guest });
            }
        }
        Ok(found)
    }

    /// As far from the Physical Function as in hardware if nothing is in the way, or else as near as can be; on its bus.
    fn guest_addresses(&self, host: Addresses) -> Result<Addresses, Cause> {
        let (guest, count) = (self.relocation.guest, self.sriov.total_vfs);
        let own = (host.first.wrapping_sub(self.relocation.host.0.routing_id()), host.stride);
        let nearer = [host.stride, 1].into_iter().flat_map(|stride| (1..=255).map(move |offset| (offset, stride)));
        let mut choices = core::iter::once(own).chain(nearer).filter_map(|(offset, stride)| {
            Addresses::new(guest.0, offset, stride).filter(|all| all.is_complete(count))
        });
        let is_free = |bdf: Bdf| bdf.bus() == guest.0.bus() && !self.is_taken(Guest(bdf));
        choices.find(|all| all.all(count).all(is_free)).ok_or(Cause::NoAddressesForVfs(count, guest))
    }

    fn is_taken(&self, guest: Guest<Bdf>) -> bool {
        let by_staying = || {
            let staying = self.plan.host().bus(guest.0.bus()).filter(|function| self.plan.shows_own_sriov(function));
            staying.filter_map(|function| Some((function.bdf().0, function.sriov()?))).any(|(physical, sriov)| {
                let own = [sriov.first_vf_offset, sriov.vf_stride];
                core::iter::once(own).chain(sriov.with_ari).any(|[offset, stride]| {
                    let all = Addresses::new(physical, offset, stride);
                    all.is_some_and(|all| all.number(guest.0, sriov.total_vfs).is_some())
                })
            })
        };
        self.plan.occupant(guest).is_some()
            || self.plan.is_inert(guest)
            || self.others().any(|other| other.guest.0.number(guest.0, other.count).is_some())
            || by_staying()
    }

    fn others(&self) -> impl Iterator<Item = &VirtualFunctions> {
        self.earlier.iter().flatten()
    }

    /// What hardware decodes: firmware's choice, or the lowest place nothing else decodes in the windows that lead there.
    fn host_bar(&self, found: &VirtualFunctions, bar: Bar) -> Result<Span, Cause> {
        let size = bar.size().saturating_mul(found.count.into());
        let bus = self.relocation.host.0.bus();
        let own_bus = || self.plan.host().bus(bus);
        let firmware = bar.span_of_all(found.count).map(|Host(span)| span);
        let is_led_to = |span: &Span| windows(self.plan, bus, bar.kind()).any(|window| window.covers(*span));
        let decoder = |span: Span| {
            let own = own_bus();
            let bars = own.clone().flat_map(Function::bars).filter(|bar| bar.space() == Space::Memory);
            let behind = own.filter_map(Function::bridge).flat_map(|bridge| bridge.windows(Space::Memory));
            let apertures = self.others().chain([found]).flat_map(|other| other.bars.iter().flatten());
            let decoded = bars.filter_map(Bar::span).chain(behind).chain(apertures.map(|bar| bar.host));
            decoded.map(|Host(span)| span).find(|other| other.overlaps(span))
        };
        if let Some(span) = firmware.filter(|span| is_led_to(span) && decoder(*span).is_none()) {
            return Ok(span);
        }
        let obstacle = |span: Span| {
            let vf_bars = own_bus().filter_map(Function::sriov).flat_map(SrIov::spans).map(|Host(span)| span);
            let reserved = self.plan.reserved().iter().map(|reserved| reserved.0);
            decoder(span).or_else(|| vf_bars.chain(reserved).find(|other| other.overlaps(span)))
        };
        let mut windows = windows(self.plan, bus, bar.kind());
        let at = windows.find_map(|window| lowest_fit(window, size, bar.size(), obstacle));
        at.and_then(|at| Span::new(at, size)).ok_or(Cause::BarUnassigned(vf_bar(bar)))
    }

    /// The guest finds VF BARs with addresses, as Linux places everything on a root bus anew where one has none
    /// (`pci_realloc_detect`).
    fn guest_bar(&self, found: &VirtualFunctions, bar: Bar) -> Result<u64, Cause> {
        let (guest, size) = (self.relocation.guest, bar.size().saturating_mul(found.count.into()));
        // What stays is at first where firmware put it.
        if let Some(Host(span)) =
            bar.span_of_all(found.count).filter(|_| self.plan.relocation_of(found.physical).is_none())
        {
            return Ok(span.start());
        }
        let is_here = |other: &&VirtualFunctions| other.guest.0.nth(0).bus() == guest.0.bus();
        let taken = |span: Span| {
            let apertures = self.others().filter(is_here).chain([found]).flat_map(|other| other.bars.iter().flatten());
            let shown =
                apertures.filter_map(|one| Span::new(one.guest, one.host.0.len())).filter(|one| one.start() != 0);
            shown
                .chain(self.places.obstacle(self.plan, guest.0.bus(), Space::Memory, span))
                .find(|one| one.overlaps(span))
        };
        match find_fit(self.plan, guest.0.bus(), bar.kind(), size, bar.size(), taken) {
            Place::At(at) => Ok(at),
            Place::NoRoom => Err(Cause::NoRoom(vf_bar(bar), size, guest)),
            Place::NoWindow => Err(Cause::NoWindow(vf_bar(bar), Space::Memory, guest)),
            Place::None | Place::Unknown => Ok(0),
        }
    }
}

/// The number findings give a VF BAR.
fn vf_bar(bar: Bar) -> usize {
    bar.number().saturating_add(VF_BAR)
}
