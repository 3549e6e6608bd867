//! Device scopes of moved functions.

use pci_remap::acpi::{Fault, Path, Signature, TableError, rewrite_scopes};
use pci_remap::sim::machine::{Blueprint, Builder, Machine};
use pci_remap::spec::express::PortType;
use pci_remap::{Plan, Topology};

use crate::support::*;
use crate::tables::{fault, table};

const ENDPOINT: u8 = 1;
const SUB_HIERARCHY: u8 = 2;
const IO_APIC: u8 = 3;

fn scope(kind: u8, id: u8, bus: u8, hops: &[(u8, u8)]) -> Vec<u8> {
    let length = u8::try_from(6 + 2 * hops.len()).unwrap();
    [kind, length, 0, 0, id, bus]
        .into_iter()
        .chain(hops.iter().flat_map(|(device, function)| [*device, *function]))
        .collect()
}

fn structure(kind: u16, segment: u16, fixed: &[u8], scopes: &[Vec<u8>]) -> Vec<u8> {
    let length = 8 + fixed.len() + scopes.iter().map(Vec::len).sum::<usize>();
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(u16::try_from(length).unwrap().to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(segment.to_le_bytes());
    bytes.extend(fixed);
    bytes.extend(scopes.concat());
    bytes
}

fn drhd(segment: u16, scopes: &[Vec<u8>]) -> Vec<u8> {
    structure(0, segment, &0xfed9_0000_u64.to_le_bytes(), scopes)
}

fn rmrr(scopes: &[Vec<u8>]) -> Vec<u8> {
    structure(1, 0, &[[0, 0, 0, 0xbf, 0, 0, 0, 0], [0xff, 0xff, 0xf, 0xbf, 0, 0, 0, 0]].concat(), scopes)
}

fn dmar(structures: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![0x26, 1];
    body.extend([0; 10]);
    body.extend(structures.concat());
    table(*b"DMAR", &body)
}

fn with_nic() -> Machine {
    machine([nic("02:00.0")])
}

/// The new table, where every move is `relocate`d in the plan.
fn rewritten(machine: &mut Machine, moves: &[(&str, &str)], dmar: &[u8]) -> Result<Vec<u8>, TableError> {
    let topology = scan(machine);
    let plan = Plan::new(topology);
    let plan = moves.iter().try_fold(plan, |plan, (from, to)| plan.relocate(host(from), guest(to))).unwrap();
    let mut buffer = vec![0xee; 0x1000];
    let length = rewrite_scopes(dmar, 0, &plan, &mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// As QEMU 7.2 writes it for two root ports, `-device intel-iommu,intremap=on`.
pub(crate) fn qemu() -> Vec<u8> {
    dmar(&[drhd(
        0,
        &[
            scope(IO_APIC, 0, 0xff, &[(0, 0)]),
            scope(ENDPOINT, 0, 0, &[(0, 0)]),
            scope(SUB_HIERARCHY, 0, 0, &[(1, 0)]),
            scope(SUB_HIERARCHY, 0, 0, &[(1, 1)]),
            scope(ENDPOINT, 0, 0, &[(0x1f, 0)]),
        ],
    )])
}

#[test]
fn a_plan_without_moves_changes_nothing() {
    for table in [qemu(), dmar(&[])] {
        assert_eq!(rewritten(&mut with_nic(), &[], &table), Ok(table));
    }
}

#[test]
fn a_reserved_region_follows_the_function_it_is_for() {
    let old = dmar(&[qemu()[48..].to_vec(), rmrr(&[scope(ENDPOINT, 7, 0, &[(1, 1), (0, 0)])])]);
    let new = dmar(&[qemu()[48..].to_vec(), rmrr(&[scope(ENDPOINT, 7, 0, &[(1, 0), (1, 0)])])]);
    assert_eq!(rewritten(&mut with_nic(), &[("02:00.0", "01:01.0")], &old), Ok(new));
}

#[test]
fn a_path_may_become_shorter_or_longer() {
    let rmrr_at = |hops: &[(u8, u8)]| dmar(&[rmrr(&[scope(ENDPOINT, 0, 0, hops)]), rmrr(&[])]);
    assert_eq!(
        rewritten(&mut with_nic(), &[("02:00.0", "00:05.0")], &rmrr_at(&[(1, 1), (0, 0)])),
        Ok(rmrr_at(&[(5, 0)]))
    );
    let mut root_device = machine([Blueprint::endpoint(bdf("00:05.0"))]);
    assert_eq!(
        rewritten(&mut root_device, &[("00:05.0", "02:00.0")], &rmrr_at(&[(5, 0)])),
        Ok(rmrr_at(&[(1, 1), (0, 0)]))
    );
}

#[test]
fn a_function_that_leaves_the_bridge_of_its_unit_is_named_there() {
    let old =
        dmar(&[drhd(0, &[scope(SUB_HIERARCHY, 0, 0, &[(1, 1)])]), drhd(0, &[scope(SUB_HIERARCHY, 0, 0, &[(1, 0)])])]);
    let new = dmar(&[
        drhd(0, &[scope(SUB_HIERARCHY, 0, 0, &[(1, 1)]), scope(ENDPOINT, 0, 0, &[(1, 0), (1, 0)])]),
        drhd(0, &[scope(SUB_HIERARCHY, 0, 0, &[(1, 0)])]),
    ]);
    assert_eq!(rewritten(&mut with_nic(), &[("02:00.0", "01:01.0")], &old), Ok(new));
    assert_eq!(rewritten(&mut with_nic(), &[("02:00.0", "01:01.0")], &qemu()), Ok(qemu()), "one unit has both bridges");
}

/// One structure of each kind, and two segments.
pub(crate) fn of_most_kinds() -> Vec<u8> {
    let path: &[(u8, u8)] = &[(1, 1), (0, 0)];
    dmar(&[
        drhd(1, &[scope(ENDPOINT, 0, 0, path)]),
        drhd(0, &[scope(IO_APIC, 0, 0, path), scope(5, 0, 0, path)]),
        // RHSA, ANDD, and one that nobody defined.
        structure(3, 0, &[0; 12], &[]),
        structure(4, 0, b"\\_SB.I2C0\0", &[]),
        structure(0x77, 0, &[1, 2, 3], &[]),
    ])
}

#[test]
fn other_segments_and_other_kinds_stay_as_they_are() {
    let table = of_most_kinds();
    assert_eq!(rewritten(&mut with_nic(), &[("02:00.0", "01:01.0")], &table), Ok(table));
}

#[test]
fn lengths_that_cannot_be_are_refused_where_they_are() {
    let refused = |structures: &[Vec<u8>]| rewritten(&mut with_nic(), &[], &dmar(structures)).unwrap_err();
    let bad_length = |offset, length| fault(*b"DMAR", offset, Fault::BadLength(length));
    assert_eq!(refused(&[rmrr(&[])[..20].to_vec()]), bad_length(48, 24));
    assert_eq!(refused(&[vec![0, 0, 15, 0, 0, 0, 0, 0]]), bad_length(48, 15));
    assert_eq!(refused(&[drhd(0, &[vec![1, 7, 0, 0, 0, 0, 0]])]), bad_length(64, 7));
    assert_eq!(refused(&[drhd(0, &[vec![1, 8, 0, 0, 0, 0]])]), bad_length(64, 8));
    assert_eq!(refused(&[drhd(0, &[]), vec![9, 0, 3, 0]]), bad_length(64, 3));
    assert_eq!(rewritten(&mut with_nic(), &[], &table(*b"DMAR", &[0; 11])), Err(bad_length(4, 47)),);
    assert_eq!(
        rewritten(&mut with_nic(), &[], &table(*b"IVRS", &[0; 12])),
        Err(fault(*b"DMAR", 0, Fault::WrongTable(Signature::IVRS))),
    );
}

#[test]
fn a_buffer_too_small_is_told_how_much_is_needed() {
    let mut machine = with_nic();
    let plan = Plan::new(scan(&mut machine));
    let needed = qemu().len();
    for given in 0..needed {
        assert_eq!(
            rewrite_scopes(&qemu(), 0, &plan, &mut vec![0; given]),
            Err(fault(*b"DMAR", given, Fault::NoRoom { needed, given }))
        );
    }
}

#[test]
fn paths_go_through_every_bridge_on_the_way() {
    let mut machine = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY])
        .root_port(bdf("00:02.0"), 2..=4, windows(0xe100_0000))
        .function(Blueprint::port(bdf("02:00.0"), PortType::UpstreamPort, 3..=4, windows(0xe100_0000)))
        .function(Blueprint::port(bdf("03:05.0"), PortType::DownstreamPort, 4..=4, windows(0xe100_0000)))
        .endpoint(nic("04:00.1"))
        .build()
        .unwrap();
    let topology: &Topology<_> = scan(&mut machine);
    let path = |address| Path::to(topology.view(), bdf(address)).map(|path| path.to_string());
    assert_eq!(path("04:00.1").as_deref(), Some("00:02.0/00.0/05.0/00.1"));
    assert_eq!(path("00:1f.0").as_deref(), Some("00:1f.0"));
    assert_eq!(path("05:00.0"), None);
}
