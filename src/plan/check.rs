//! The checks behind [`Plan::findings`]: one small function for each thing that can be wrong.

use super::finding::{Cause, Evidence, Finding};
use super::placement::{Place, Places, has_page_to_itself, is_reached};
use super::virtual_functions::{MAX_FOLLOWED, VirtualFunctions};
use super::{IoBars, Plan, Relocation};
use crate::access::Dword;
use crate::address::{Bdf, Guest, Host, Span};
use crate::delta::Space;
use crate::spec::bar::BarKind;
use crate::spec::capability::CapabilityId;
use crate::spec::header::{self, Command, HeaderType};
use crate::spec::{sriov, type1};
use crate::topology::{Bar, Function, SrIov};

type MoveCheck = fn(&Plan<'_>, Relocation, &Function) -> Option<Finding>;

const MOVE_CHECKS: [MoveCheck; 18] = [
    address_occupied,
    no_way_to_the_bus,
    bridge_is_gone,
    no_first_function,
    found_by,
    is_a_bridge,
    boot_display,
    fixed_addresses,
    broken_list,
    sriov_hidden,
    too_many_followed,
    root_window_unknown,
    leaves_siblings,
    vital_product_data_apart,
    vital_product_data_of_first,
    leaves_addresses,
    placed_anew,
    bus_reset_lost,
];

const BARS: usize = 7;
/// The checks of one move: those of the function, then those of its BARs.
const PER_MOVE: usize = MOVE_CHECKS.len() + BARS;
/// The functions a leaving function 0 may leave behind.
const SIBLINGS: usize = 7;

/// Runs every check on every move, and the one on siblings on every function that leaves its place.
pub(super) fn findings(plan: &Plan<'_>, places: Places) -> impl Iterator<Item = Finding> {
    let followed = plan.virtual_functions(&places);
    let moves = plan.relocations().len();
    let checks = (0..moves.saturating_mul(PER_MOVE)).filter_map(move |nth| {
        let (index, check) = (nth.checked_div(PER_MOVE)?, nth.checked_rem(PER_MOVE)?);
        let relocation = *plan.relocations().get(index)?;
        let function = plan.host().function(relocation.host)?;
        if let Some(check) = MOVE_CHECKS.get(check) {
            return check(plan, relocation, function);
        }
        let bar = function.bar(check.checked_sub(MOVE_CHECKS.len())?)?;
        bar_finding(plan, relocation, function, bar, places.of(index, bar.number()))
    });
    let leaving = plan.relocations().iter().map(|relocation| relocation.host).chain(plan.hidden().iter().copied());
    let left_behind = leaving.flat_map(move |host| {
        (1..=SIBLINGS).filter_map(move |number| sibling_left_behind(plan, host, u8::try_from(number).ok()?))
    });
    let shown: [Option<Host<Bdf>>; MAX_FOLLOWED] =
        core::array::from_fn(|nth| followed.get(nth)?.as_ref().ok().map(|found| found.physical));
    let followed = (0..MAX_FOLLOWED).filter_map(move |nth| followed.get(nth).copied()).map(|found| match found {
        Ok(VirtualFunctions { physical, count, guest, .. }) => {
            Finding { function: physical, cause: Cause::VfsFollow(count, guest.map(|all| all.nth(0))), evidence: None }
        }
        Err((function, cause)) => Finding { function, cause, evidence: None },
    });
    let followed = followed.filter(|found| plan.relocation_of(found.function).is_some());
    let hidden = plan.hidden().iter().filter_map(|host| has_fixed_addresses(plan.host().function(*host)?));
    let in_place = plan.in_place().flat_map(move |function| {
        let bars = function.bars().filter_map(move |bar| bar_in_place(plan, function, bar));
        let hidden = function.sriov().filter(|_| !shown.contains(&Some(function.bdf())));
        bars.chain(hidden.map(|sriov| finding(function, Cause::SrIovHidden(sriov.total_vfs))))
    });
    let stranding = plan.stranding().filter_map(|(function, sriov)| vfs_reached(function, sriov));
    checks.chain(left_behind).chain(hidden).chain(followed).chain(in_place).chain(stranding)
}

fn finding(function: &Function, cause: Cause) -> Finding {
    Finding { function: function.bdf(), cause, evidence: None }
}

impl Finding {
    fn shown_by(mut self, function: &Function, dword: Dword) -> Self {
        let value = function.header(dword);
        self.evidence = Some(Evidence { function: function.bdf(), dword, value });
        self
    }
}

fn address_occupied(plan: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    let there = plan.host().function(Host(relocation.guest.0))?;
    let in_the_way = there.bdf() != relocation.host && plan.stays(there.bdf());
    in_the_way.then(|| finding(function, Cause::AddressOccupied(relocation.guest)).shown_by(there, header::ID))
}

fn no_way_to_the_bus(plan: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    let bus = relocation.guest.0.bus();
    let host = plan.host();
    if host.bridge_to(bus).is_some() || host.is_root_bus(bus) {
        return None;
    }
    let passing = host.functions().iter().find(|function| {
        function.bridge().is_some_and(|bridge| (bridge.secondary..=bridge.subordinate).contains(&bus))
    });
    Some(match passing {
        Some(bridge) => {
            finding(function, Cause::NoBridgeLeadsThere(relocation.guest)).shown_by(bridge, type1::BUS_NUMBERS)
        }
        None => finding(function, Cause::NoSuchBus(relocation.guest)),
    })
}

fn bridge_is_gone(plan: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    let mut way = plan.host().way_up(relocation.guest.0.bus());
    let gone = way.find(|bridge| !plan.stays(bridge.bdf()))?;
    Some(finding(function, Cause::BridgeIsGone(relocation.guest, gone.bdf())))
}

fn no_first_function(plan: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    let first = relocation.guest.map(|guest| guest.with_function(0));
    let is_missing = plan.occupant(first).is_none() && !plan.is_inert(first);
    is_missing.then(|| finding(function, Cause::NoFirstFunction(relocation.guest)))
}

fn found_by(plan: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    let port = plan.host().bridge_to(relocation.guest.0.bus()).filter(|_| relocation.guest.0.device() != 0)?;
    let way = plan.way(port)?;
    let cause = if plan.can_show(port, way) { Cause::FoundBy } else { Cause::NotFoundBy };
    let evidence = port.express().map(|express| Evidence {
        function: port.bdf(),
        dword: express.dword,
        value: express.register(0),
    });
    Some(Finding { evidence, ..finding(function, cause(way, relocation.guest, port.bdf())) })
}

fn is_a_bridge(_: &Plan<'_>, _: Relocation, function: &Function) -> Option<Finding> {
    let cause = if function.class().is_host_bridge() {
        Cause::IsHostBridge
    } else if function.header_type() != HeaderType::Type0 {
        Cause::IsBridge
    } else {
        return None;
    };
    Some(finding(function, cause).shown_by(function, header::CLASS))
}

fn boot_display(_: &Plan<'_>, _: Relocation, function: &Function) -> Option<Finding> {
    let decodes = function.command().intersects(Command::IO_SPACE_ENABLE | Command::MEMORY_SPACE_ENABLE);
    let is_boot_display = function.class().is_vga() && decodes;
    is_boot_display.then(|| finding(function, Cause::BootDisplay).shown_by(function, header::CLASS))
}

fn fixed_addresses(_: &Plan<'_>, _: Relocation, function: &Function) -> Option<Finding> {
    has_fixed_addresses(function)
}

/// What decodes them answers there whatever the guest does, and nothing conceals them.
fn has_fixed_addresses(function: &Function) -> Option<Finding> {
    function.has_fixed_addresses().then(|| finding(function, Cause::FixedAddresses))
}

fn broken_list(_: &Plan<'_>, _: Relocation, function: &Function) -> Option<Finding> {
    function.list_fault().map(|fault| finding(function, Cause::BrokenList(fault)))
}

fn sriov_hidden(_: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    let hidden = function.sriov().filter(|_| relocation.followed(function).is_none());
    hidden.map(|sriov| finding(function, Cause::SrIovHidden(sriov.total_vfs)))
}

/// Where Virtual Functions are is known, and they are not found. What they decode is concealed where that is known.
fn vfs_reached(function: &Function, sriov: &SrIov) -> Option<Finding> {
    let control = sriov::CONTROL;
    let dword = sriov.dword.plus(control).filter(|_| sriov.decodes_what_is_unknown())?;
    let evidence = Evidence { function: function.bdf(), dword, value: sriov.register(control) };
    Some(Finding { evidence: Some(evidence), ..finding(function, Cause::VfsReached(sriov.enabled_vfs())) })
}

fn too_many_followed(plan: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    relocation.followed(function)?;
    let earlier = plan.relocations().iter().take_while(|other| other.host != relocation.host);
    let followed = earlier
        .filter(|other| plan.host().function(other.host).is_some_and(|function| other.followed(function).is_some()));
    (followed.count() >= MAX_FOLLOWED).then(|| finding(function, Cause::TooManyFollowed))
}

fn root_window_unknown(plan: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    let bus = relocation.guest.0.bus();
    let unknown = plan.host().is_root_bus(bus) && !plan.host().knows_root_windows();
    (unknown && function.bars().next().is_some()).then(|| finding(function, Cause::RootWindowUnknown(relocation.guest)))
}

/// Other functions of the host's device that the guest finds in another.
fn siblings_apart<'p>(plan: &'p Plan<'_>, relocation: Relocation) -> impl Iterator<Item = &'p Function> {
    plan.host().device(relocation.host).filter(move |sibling| {
        let guest = plan.guest_address(sibling.bdf());
        sibling.bdf() != relocation.host && guest.is_some_and(|Guest(at)| !at.same_device(relocation.guest.0))
    })
}

fn leaves_siblings(plan: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    if relocation.host.0.function() == 0 {
        return None;
    }
    siblings_apart(plan, relocation).next().map(|sibling| finding(function, Cause::LeavesSiblings(sibling.bdf())))
}

/// Functions of a device may have their Vital Product Data in one place. A guest takes turns in one device only.
fn vital_product_data_apart(plan: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    let own = vital_product_data(function)?;
    let sibling = siblings_apart(plan, relocation).find(|sibling| vital_product_data(sibling).is_some())?;
    Some(Finding { evidence: Some(own), ..finding(function, Cause::VitalProductDataApart(sibling.bdf())) })
}

/// Linux's `quirk_f0_vpd_link` takes Intel's network functions that look alike for one device.
fn vital_product_data_of_first(plan: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    vital_product_data(function)?;
    let first = plan.occupant(relocation.guest.map(|guest| guest.with_function(0)))?;
    let first = plan.host().function(first).filter(|first| !first.bdf().0.same_device(relocation.host.0))?;
    let evidence = vital_product_data(first);
    let is_intel = function.id() & 0xffff == 0x8086;
    let is_alike = function.id() == first.id() && function.class() == first.class();
    (evidence.is_some() && is_intel && is_alike && function.class().is_ethernet())
        .then(|| Finding { evidence, ..finding(function, Cause::VitalProductDataOf(first.bdf())) })
}

fn vital_product_data(function: &Function) -> Option<Evidence> {
    let entry = function.capabilities().iter().find(|entry| entry.id == CapabilityId::VPD)?;
    Some(Evidence { function: function.bdf(), dword: entry.dword, value: entry.first })
}

/// On a root bus, and behind a port something is still found behind, a guest may give what a function left to another,
/// while the real BAR stays. Behind a port left empty nothing needs addresses.
fn leaves_addresses(plan: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    let bus = relocation.host.0.bus();
    let is_root_bus = plan.host().bridge_to(bus).is_none();
    let is_shared = is_root_bus || plan.is_inhabited(bus);
    let mut bars = function.bars().filter(|bar| bar.kind() != BarKind::Rom && is_reached(plan, relocation.host, bar));
    let bar = bars.find(|bar| !is_root_bus || has_room_for_others(plan, bus, bar))?;
    let moves = relocation.guest.0 != relocation.host.0;
    (moves && is_shared && !plan.has_virtual_addresses() && !plan.is_inert(Guest(relocation.host.0)))
        .then(|| finding(function, Cause::LeavesAddresses(bus)).shown_by(function, bar.dword(function.header_type())))
}

/// Whether a guest that keeps what firmware placed may have something to put where this BAR is on a root bus: what has no
/// place there, or windows of bridges, which are of 1 MiB of memory and 4 KiB of I/O (7.5.1.3.6, 7.5.1.3.8).
fn has_room_for_others(plan: &Plan<'_>, bus: u8, bar: &Bar) -> bool {
    let Some(Host(span)) = bar.span() else { return false };
    let (host, space) = (plan.host(), bar.space());
    let last = if space == Space::Memory { 0xf_ffff } else { 0xfff };
    let window = Span::from_bounds(span.start() & !last, span.last() | last);
    let staying = || host.bus(bus).filter(|function| plan.stays(function.bdf()));
    let others = || staying().flat_map(Function::bars).filter(|other| other.space() == space);
    let fits_a_window =
        !others().filter_map(Bar::span).any(|Host(other)| window.is_some_and(|own| own.overlaps(other)));
    let is_placed = |Host(span): Host<Span>| {
        let mut windows = host.root_windows(bus).filter(|window| window.space == space);
        !host.knows_root_windows() || windows.any(|window| window.span.0.covers(span))
    };
    let is_open = |function: &Function| function.header_type() == HeaderType::CardBus || function.sriov().is_some();
    fits_a_window || !others().all(|other| other.span().is_some_and(is_placed)) || staying().any(is_open)
}

/// Once bridges are removed and found again, Linux places all they forward anew, as firmware did not: the windows of a
/// bridge the function is wired behind, where they are the guest's, and those beside it, where they are not.
fn placed_anew(plan: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    let bar = function.bars().find(|bar| bar.kind() != BarKind::Rom && is_reached(plan, relocation.host, bar))?;
    if plan.has_virtual_addresses() || leaves_addresses(plan, relocation, function).is_some() {
        return None;
    }
    let mut way = plan.host().way_up(relocation.host.0.bus());
    let above = way.find(|above| plan.passes_windows(above) || plan.may_place_beside(above))?;
    Some(finding(function, Cause::PlacedAnew(above.bdf())).shown_by(above, window_of(above, bar)))
}

/// The register of the window that forwards a BAR.
fn window_of(bridge: &Function, bar: &Bar) -> Dword {
    let prefetchable = bridge.bridge().and_then(|bridge| bridge.prefetchable);
    let is_prefetchable = prefetchable.zip(bar.span()).is_some_and(|(window, Host(span))| window.span.0.covers(span));
    match bar.space() {
        Space::Io => type1::IO_WINDOW,
        Space::Memory if is_prefetchable => type1::PREFETCHABLE_WINDOW,
        Space::Memory => type1::MEMORY_WINDOW,
    }
}

fn bus_reset_lost(plan: &Plan<'_>, relocation: Relocation, function: &Function) -> Option<Finding> {
    let port = plan.host().bridge_to(relocation.guest.0.bus()).filter(|port| plan.has_empty_link(port))?;
    plan.reset_of(port).is_none().then(|| finding(function, Cause::BusResetLost(relocation.guest, port.bdf())))
}

fn sibling_left_behind(plan: &Plan<'_>, host: Host<Bdf>, number: u8) -> Option<Finding> {
    let sibling = host.map(|bdf| bdf.with_function(number));
    let stays = plan.host().function(sibling).is_some() && plan.stays(sibling);
    let place = Guest(host.0);
    let is_gone = plan.occupant(place).is_none() && !plan.is_inert(place);
    let stranded = host.0.function() == 0 && stays && is_gone;
    stranded.then_some(Finding { function: host, cause: Cause::SiblingLeftBehind(sibling), evidence: None })
}

/// Of a function that stays, hardware decodes what firmware gave an address.
fn bar_in_place(plan: &Plan<'_>, function: &Function, bar: &Bar) -> Option<Finding> {
    let cause = match bar.span() {
        _ if bar.kind() == BarKind::Rom => return None,
        None => Cause::BarUnassigned(bar.number()),
        Some(_) if !is_reached(plan, function.bdf(), bar) => Cause::BarUnreached(bar.number()),
        Some(_) => return None,
    };
    Some(finding(function, cause).shown_by(function, bar.dword(function.header_type())))
}

fn bar_finding(
    plan: &Plan<'_>,
    relocation: Relocation,
    function: &Function,
    bar: &Bar,
    place: Place,
) -> Option<Finding> {
    let number = bar.number();
    let cause = match place {
        // Linux gives a ROM room only when there is some (`pci_assign_unassigned_resources`).
        Place::NoWindow | Place::NoRoom | Place::None if bar.kind() == BarKind::Rom => return None,
        Place::NoWindow => Cause::NoWindow(number, bar.space(), relocation.guest),
        Place::NoRoom => Cause::NoRoom(number, super::shown_size(bar), relocation.guest),
        Place::None if bar.span().is_none() => Cause::BarUnassigned(number),
        Place::None if !is_reached(plan, relocation.host, bar) => Cause::BarUnreached(number),
        Place::None if relocation.io_bars == IoBars::Hide => return None,
        Place::None => Cause::IoBarHidden(number),
        Place::At(_) | Place::Unknown if bar.space() == Space::Memory && bar.size() < 0x1000 => {
            if has_page_to_itself(plan, function, bar) {
                Cause::BarGrown(number, bar.size())
            } else {
                Cause::BarTrapped(number, bar.size())
            }
        }
        Place::At(_) | Place::Unknown => return None,
    };
    Some(finding(function, cause).shown_by(function, bar.dword(function.header_type())))
}
