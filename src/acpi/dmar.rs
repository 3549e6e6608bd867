//! DMAR: which remapping unit looks after which functions (Intel VT-d 4.1, chapter 8).

use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::path::Path;
use super::record::{Output, Record, Row, at_least};
use super::table::{Signature, Table, TableError};
use crate::address::{Bdf, Host};
use crate::plan::{Plan, Relocation};
use crate::topology::TopologyView;

/// Where the remapping structures start.
const STRUCTURES: usize = 48;

/// What a remapping structure with device scopes starts with (8.3 to 8.10).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Structure {
    kind: U16,
    length: U16,
    flags: U16,
    segment: U16,
}

/// DMA Remapping Hardware Unit Definition.
const DRHD: u16 = 0;

/// Where the device scopes of a kind of structure start; `None` when it has none, or none that we know of.
fn scopes_at(kind: u16) -> Option<usize> {
    match kind {
        DRHD => Some(16),
        // Reserved Memory Region Reporting.
        1 => Some(24),
        // Root Port ATS Capability, SoC Integrated Address Translation Cache, SoC Integrated Device Property.
        2 | 5 | 6 => Some(8),
        _ => None,
    }
}

/// A device scope (8.3.1), without the path that follows.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Scope {
    kind: u8,
    length: u8,
    flags: U16,
    enumeration_id: u8,
    start_bus: u8,
}

const ENDPOINT: u8 = 1;
/// A bridge, and all that is behind it.
const SUB_HIERARCHY: u8 = 2;

/// Writes a DMAR in which the device scopes of moved functions lead to where the guest finds them, and says how many
/// bytes it has. Functions that leave a bridge whose whole sub-hierarchy belongs to a unit get a scope of their own there.
///
/// This is for hypervisors that translate Routing IDs for a guest with a remapping unit, emulated or shadowed: on the wire
/// a moved function keeps the host's. A guest that owns the real unit programs it for the guest's and the function gets
/// no DMA; [hide](super::hide) the table from such a one. There is no alias in this table; that is for
/// [IVRS](super::add_aliases). Virtual Functions have no scopes: they are looked up by their Physical Function (Linux:
/// `device_lookup_iommu`).
///
/// The structures of other PCI segment groups than `segment`, that of the plan, stay as they are. Put the new table where
/// the guest leaves it alone, and [point](super::point_entry) the root tables there.
///
/// # Errors
/// As [`Table::parse`]; [`Fault::WrongTable`](super::Fault::WrongTable), [`Fault::BadLength`](super::Fault::BadLength) for
/// a structure or scope inside the table, and [`Fault::NoRoom`](super::Fault::NoRoom) when the buffer is too small.
pub fn rewrite_scopes(dmar: &[u8], segment: u16, plan: &Plan<'_>, buffer: &mut [u8]) -> Result<usize, TableError> {
    let table = Table::of(Signature::DMAR, dmar)?;
    let (head, structures) = table.split(STRUCTURES, structure_length)?;
    let mut new = Output::new(buffer);
    new.put(head);
    for structure in structures {
        let structure = structure.map_err(|bad| bad.of(Signature::DMAR))?;
        let start = new.len();
        let Some((layout, head, scopes)) = parts(structure) else {
            new.put(structure.bytes);
            continue;
        };
        new.put(head);
        let is_ours = layout.segment.get() == segment;
        for scope in scopes.clone() {
            let scope = scope.map_err(|bad| bad.of(Signature::DMAR))?;
            match scope_of(scope).filter(|_| is_ours).and_then(|(scope, hops)| Some((scope, moved(plan, scope, hops)?)))
            {
                Some((scope, path)) => put(&mut new, scope, &path),
                None => new.put(scope.bytes),
            }
        }
        if is_ours && layout.kind.get() == DRHD {
            for path in leaving(plan, &scopes) {
                let scope = Scope { kind: ENDPOINT, length: 0, flags: U16::ZERO, enumeration_id: 0, start_bus: 0 };
                put(&mut new, &scope, &path);
            }
        }
        new.set_length(start).map_err(|bad| bad.of(Signature::DMAR))?;
    }
    new.finish(Signature::DMAR)
}

/// The layout a structure with scopes starts with, its bytes before the scopes, and these.
fn parts(structure: Record<'_>) -> Option<(&Structure, &[u8], Row<'_>)> {
    let layout = structure.start::<Structure>()?;
    let (head, scopes) = structure.split(scopes_at(layout.kind.get())?, scope_length)?;
    Some((layout, head, scopes))
}

/// A scope and its path.
fn scope_of(scope: Record<'_>) -> Option<(&Scope, &[[u8; 2]])> {
    let (hops, _) = scope.bytes.get(size_of::<Scope>()..)?.as_chunks();
    Some((scope.start()?, hops))
}

/// The function of the host a scope names.
fn function_of(topology: TopologyView<'_>, scope: &Scope, hops: &[[u8; 2]]) -> Option<Host<Bdf>> {
    let is_pci = matches!(scope.kind, ENDPOINT | SUB_HIERARCHY);
    if is_pci { Path::end(topology, scope.start_bus, hops).map(Host) } else { None }
}

/// Where the guest finds the function of a scope, if it is moved.
fn moved(plan: &Plan<'_>, scope: &Scope, hops: &[[u8; 2]]) -> Option<Path> {
    let relocation = plan.relocation_of(function_of(plan.host(), scope, hops)?)?;
    Path::to(plan.host(), relocation.guest.0)
}

/// Where the guest finds functions that the scopes cover only by a bridge they are no longer behind.
fn leaving<'a>(plan: &'a Plan<'_>, scopes: &'a Row<'a>) -> impl Iterator<Item = Path> + use<'a> {
    let host = plan.host();
    let named = move || {
        let scopes = scopes.clone().flatten().filter_map(scope_of);
        scopes.filter_map(move |(scope, hops)| Some((scope.kind, host.function(function_of(host, scope, hops)?)?)))
    };
    let is_behind = move |bus: u8| {
        let mut bridges = named().filter(|(kind, _)| *kind == SUB_HIERARCHY).filter_map(|(_, bridge)| bridge.bridge());
        bridges.any(|bridge| (bridge.secondary..=bridge.subordinate).contains(&bus))
    };
    let leaves = move |relocation: &&Relocation| {
        is_behind(relocation.host.0.bus())
            && !is_behind(relocation.guest.0.bus())
            && !named().any(|(_, function)| function.bdf() == relocation.host)
    };
    plan.relocations().iter().filter(leaves).filter_map(move |relocation| Path::to(host, relocation.guest.0))
}

/// Writes a scope with another path.
fn put(new: &mut Output<'_>, scope: &Scope, path: &Path) {
    let hops = path.hops().count();
    let length = size_of::<Scope>().saturating_add(hops.saturating_mul(2));
    // A path has at most `MAX_HOPS`.
    let length = u8::try_from(length).unwrap_or(0);
    new.put(Scope { length, start_bus: path.bus(), ..*scope }.as_bytes());
    path.hops().for_each(|hop| new.put(&hop));
}

/// Bytes of a remapping structure.
fn structure_length(bytes: &[u8]) -> Result<usize, usize> {
    let ([kind, length], _) = <[U16; 2]>::read_from_prefix(bytes).map_err(|_| bytes.len())?;
    at_least(scopes_at(kind.get()).unwrap_or(4), length.get().into())
}

/// Bytes of a device scope.
fn scope_length(bytes: &[u8]) -> Result<usize, usize> {
    let (scope, _) = Scope::ref_from_prefix(bytes).map_err(|_| bytes.len())?;
    let length = at_least(size_of::<Scope>(), scope.length.into())?;
    if length & 1 == 0 { Ok(length) } else { Err(length) }
}
