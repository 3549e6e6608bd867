//! Aliases of moved functions. Stock Linux 6.1 was seen to serve a NIC by an alias on another bus, in an entry of this
//! form at this place of QEMU's table.

use core::slice::from_ref;

use pci_remap::acpi::{Fault, Signature, TableError, add_aliases};
use pci_remap::plan::Vfs;
use pci_remap::sim::machine::{Blueprint, Builder, Machine};
use pci_remap::spec::express::PortType;
use pci_remap::{Plan, Relocation};

use crate::support::*;
use crate::tables::{fault, table};

/// The IOMMU of QEMU, and of most desktops.
const IOMMU: u16 = 0x0008;

fn four(kind: u8, device: &str, setting: u8) -> Vec<u8> {
    let [low, high] = bdf(device).routing_id().to_le_bytes();
    vec![kind, low, high, setting]
}

fn select(device: &str) -> Vec<u8> {
    four(2, device, 0)
}

fn range(first: &str, last: &str) -> Vec<u8> {
    [four(3, first, 0), four(4, last, 0)].concat()
}

/// Device `device` uses the ID of `source`.
fn eight(kind: u8, device: &str, setting: u8, source: &str) -> Vec<u8> {
    let [low, high] = bdf(source).routing_id().to_le_bytes();
    [four(kind, device, setting), vec![0, low, high, 0]].concat()
}

fn alias(device: &str, source: &str) -> Vec<u8> {
    eight(0x42, device, 0, source)
}

/// An I/O APIC.
fn special() -> Vec<u8> {
    vec![0x48, 0, 0, 0, 0, 0xa0, 0, 1]
}

/// A device ACPI names: an AMDI0020 with a unique ID of three characters.
fn uart() -> Vec<u8> {
    b"\xf0\0\0\0AMDI0020\0\0\0\0\0\0\0\0\x02\x03U1\0".to_vec()
}

fn ivhd(kind: u8, iommu: u16, segment: u16, entries: &[Vec<u8>]) -> Vec<u8> {
    let entries = entries.concat();
    let head = if kind == 0x10 { 24 } else { 40 };
    let mut bytes = vec![kind, 0xd1];
    bytes.extend(u16::try_from(head + entries.len()).unwrap().to_le_bytes());
    bytes.extend(iommu.to_le_bytes());
    bytes.extend([0x40, 0, 0, 0, 0xd8, 0xfe, 0, 0, 0, 0]);
    bytes.extend(segment.to_le_bytes());
    bytes.resize(head, 0);
    bytes.extend(entries);
    bytes
}

fn ivmd(kind: u8, device: &str, last: &str, segment: u16) -> Vec<u8> {
    let mut bytes = vec![kind, 0x07, 32, 0];
    bytes.extend(bdf(device).routing_id().to_le_bytes());
    bytes.extend(bdf(last).routing_id().to_le_bytes());
    bytes.extend(segment.to_le_bytes());
    bytes.extend([0; 6]);
    bytes.extend(0xbf00_0000_u64.to_le_bytes());
    bytes.extend(0x10_0000_u64.to_le_bytes());
    bytes
}

fn ivrs(blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![0, 0x28, 0, 0];
    body.resize(12, 0);
    body.extend(blocks.concat());
    table(*b"IVRS", &body)
}

fn rewritten(mut machine: Machine, moves: &[(&str, &str)], ivrs: &[u8]) -> Result<Vec<u8>, TableError> {
    let plan = Plan::new(scan(&mut machine));
    let plan = moves.iter().try_fold(plan, |plan, (from, to)| plan.relocate(host(from), guest(to))).unwrap();
    let mut buffer = vec![0xee; 0x1000];
    let length = add_aliases(ivrs, 0, &plan, &mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

const TALK: &[(&str, &str)] = &[("02:00.0", "01:01.0")];

fn with_nic() -> Machine {
    machine([nic("02:00.0")])
}

/// What QEMU 7.2 writes for two root ports, `-device amd-iommu,intremap=on`.
fn qemu() -> Vec<Vec<u8>> {
    vec![
        select("00:00.0"),
        select("00:01.0"),
        range("01:00.0", "01:1f.7"),
        select("00:01.1"),
        range("02:00.0", "02:1f.7"),
        select("00:1f.0"),
        special(),
    ]
}

pub(crate) fn with_one_block() -> Vec<u8> {
    ivrs(&[ivhd(0x10, IOMMU, 0, &qemu()), ivmd(0x21, "02:00.0", "00:00.0", 0)])
}

#[test]
fn a_plan_without_moves_changes_nothing() {
    for table in [ivrs(&[ivhd(0x10, IOMMU, 0, &qemu())]), ivrs(&[])] {
        assert_eq!(rewritten(with_nic(), &[], &table), Ok(table));
    }
}

#[test]
fn the_talks_move_gets_an_alias_in_qemus_table() {
    let with_alias = [qemu(), vec![alias("01:01.0", "02:00.0")]].concat();
    assert_eq!(
        rewritten(with_nic(), TALK, &ivrs(&[ivhd(0x10, IOMMU, 0, &qemu())])),
        Ok(ivrs(&[ivhd(0x10, IOMMU, 0, &with_alias)]))
    );
}

fn following(mut machine: Machine, others: &[(&str, &str)], ivrs: &[u8]) -> Result<Vec<u8>, TableError> {
    let follow = Relocation { vfs: Vfs::Follow, ..Relocation::new(host("02:00.0"), guest("01:01.0")) };
    let plan = Plan::new(scan(&mut machine)).with(follow).unwrap();
    let plan = others.iter().try_fold(plan, |plan, (from, to)| plan.relocate(host(from), guest(to))).unwrap();
    let mut buffer = vec![0xee; 0x1000];
    let length = add_aliases(ivrs, 0, &plan, &mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

#[test]
fn virtual_functions_that_follow_get_an_alias_each() {
    let all = (0x10..0x12).flat_map(|device| [0, 2, 4, 6].map(|function| format!("{device:02x}.{function}")));
    let of_virtual_functions = all.map(|at| {
        let guest = at.replacen("10", "11", 1);
        let guest = if at.starts_with("11") { at.replacen("11", "12", 1) } else { guest };
        alias(&format!("01:{guest}"), &format!("02:{at}"))
    });
    let with_aliases: Vec<_> =
        qemu().into_iter().chain([alias("01:01.0", "02:00.0")]).chain(of_virtual_functions).collect();
    assert_eq!(
        following(machine([adapter("02:00.0")]), &[], &ivrs(&[ivhd(0x10, IOMMU, 0, &qemu())])),
        Ok(ivrs(&[ivhd(0x10, IOMMU, 0, &with_aliases)]))
    );
}

#[test]
fn no_alias_helps_where_another_function_has_the_id_of_a_virtual_one() {
    let result = following(
        machine([adapter("02:00.0"), Blueprint::endpoint(bdf("02:00.1"))]),
        &[("02:00.1", "02:10.2")],
        &ivrs(&[ivhd(0x10, IOMMU, 0, &qemu())]),
    );
    let shared = Fault::SharedRequesterId(host("02:10.2"), host("02:00.1"));
    assert_eq!(result, Err(fault(*b"IVRS", 48, shared)));
}

#[test]
fn every_block_of_the_iommu_gets_the_alias_and_no_other() {
    let all = |extra: &[Vec<u8>]| [&[four(1, "00:00.0", 0)], extra].concat();
    let old = ivrs(&[
        ivhd(0x10, IOMMU, 0, &all(&[])),
        ivhd(0x11, IOMMU, 0, &all(&[])),
        ivhd(0x40, IOMMU, 0, &all(&[uart()])),
        ivhd(0x10, IOMMU, 1, &all(&[])),
        // Of a kind nobody defined.
        vec![0x50, 0, 6, 0, 8, 0],
    ]);
    let entry = alias("01:01.0", "02:00.0");
    let new = ivrs(&[
        ivhd(0x10, IOMMU, 0, &all(from_ref(&entry))),
        ivhd(0x11, IOMMU, 0, &all(from_ref(&entry))),
        ivhd(0x40, IOMMU, 0, &all(&[uart(), entry])),
        ivhd(0x10, IOMMU, 1, &all(&[])),
        vec![0x50, 0, 6, 0, 8, 0],
    ]);
    assert_eq!(rewritten(with_nic(), TALK, &old), Ok(new));
}

#[test]
fn the_alias_has_the_data_setting_of_the_function() {
    let entries = vec![four(1, "00:00.0", 0), four(2, "02:00.0", 0xd7)];
    let new = [entries.clone(), vec![eight(0x42, "01:01.0", 0xd7, "02:00.0")]].concat();
    assert_eq!(
        rewritten(with_nic(), TALK, &ivrs(&[ivhd(0x10, IOMMU, 0, &entries)])),
        Ok(ivrs(&[ivhd(0x10, IOMMU, 0, &new)]))
    );
}

#[test]
fn a_function_behind_a_bridge_to_conventional_pci_has_the_alias_of_the_bridge() {
    let machine = || {
        Builder::new()
            .root(0..=0xff, &[Builder::LOW_MEMORY])
            .root_port(bdf("00:01.0"), 1..=1, windows(0xe000_0000))
            .root_port(bdf("00:01.1"), 2..=3, windows(0xe100_0000))
            .endpoint(Blueprint::endpoint(bdf("01:00.0")).bar(0, MEMORY, 0x10_0000, 0xe000_0000))
            .function(Blueprint::port(bdf("02:00.0"), PortType::PciExpressToPciBridge, 3..=3, windows(0xe100_0000)))
            .endpoint(Blueprint::endpoint(bdf("03:04.0")).bar(0, MEMORY, 0x1000, 0xe100_0000))
            .build()
            .unwrap()
    };
    let all = vec![four(1, "00:00.0", 0)];
    let moves = &[("03:04.0", "01:01.0")];
    let with_alias =
        |entries: &[Vec<u8>]| ivrs(&[ivhd(0x10, IOMMU, 0, &[entries, &[alias("01:01.0", "03:00.0")]].concat())]);
    assert_eq!(rewritten(machine(), moves, &ivrs(&[ivhd(0x10, IOMMU, 0, &all)])), Ok(with_alias(&all)));
    // Firmware says so itself, in both ways it can.
    let said = vec![all[0].clone(), [eight(0x43, "03:00.0", 0, "03:00.0"), four(4, "03:1f.7", 0)].concat()];
    assert_eq!(rewritten(machine(), moves, &ivrs(&[ivhd(0x10, IOMMU, 0, &said)])), Ok(with_alias(&said)));
    let said = vec![all[0].clone(), alias("03:04.0", "03:00.0")];
    assert_eq!(rewritten(machine(), moves, &ivrs(&[ivhd(0x10, IOMMU, 0, &said)])), Ok(with_alias(&said)));
}

#[test]
fn where_no_iommu_looks_after_the_function_there_is_no_alias() {
    let table = ivrs(&[ivhd(0x10, IOMMU, 0, &[select("00:1f.0")])]);
    assert_eq!(rewritten(with_nic(), TALK, &table), Ok(table));
}

#[test]
fn an_alias_across_iommus_is_refused() {
    let blocks = |bus_1: &str, last: &str| {
        ivrs(&[ivhd(0x10, IOMMU, 0, &[range("02:00.0", "02:1f.7")]), ivhd(0x10, 0x4002, 0, &[range(bus_1, last)])])
    };
    let refused = Err(fault(*b"IVRS", 48, Fault::OtherIommu(guest("01:01.0"), host("02:00.0"))));
    assert_eq!(rewritten(with_nic(), TALK, &blocks("01:00.0", "01:1f.7")), refused);
    assert_eq!(
        rewritten(with_nic(), TALK, &blocks("03:00.0", "03:1f.7")),
        Ok(ivrs(&[
            ivhd(0x10, IOMMU, 0, &[range("02:00.0", "02:1f.7"), alias("01:01.0", "02:00.0")]),
            ivhd(0x10, 0x4002, 0, &[range("03:00.0", "03:1f.7")]),
        ]))
    );
    // Nothing looks after the function, but something would after its guest address.
    assert_eq!(rewritten(with_nic(), TALK, &ivrs(&[ivhd(0x10, IOMMU, 0, &[select("01:01.0")])])), refused);
}

#[test]
fn an_id_that_another_function_has_in_the_guest_is_refused() {
    let table = ivrs(&[ivhd(0x10, IOMMU, 0, &[four(1, "00:00.0", 0)])]);
    let two = || machine([nic("02:00.0"), Blueprint::endpoint(bdf("00:05.0")).bar(0, MEMORY, 0x1000, 0xf000_0000)]);
    assert_eq!(
        rewritten(two(), &[("02:00.0", "00:05.0"), ("00:05.0", "02:00.0")], &table).unwrap_err().to_string(),
        "IVRS at offset 0x30: requests of 02:00.0 and 00:05.0 carry the same Requester ID, or the guest sees 00:05.0 at that of 02:00.0; hide the table"
    );
}

#[test]
fn memory_definitions_follow_the_function_they_are_for() {
    let none = || ivhd(0x10, IOMMU, 0, &[]);
    let ivmds = |blocks: &[Vec<u8>]| ivrs(&[&[none()], blocks].concat());
    let old = ivmds(&[
        ivmd(0x20, "00:00.0", "00:00.0", 0),
        ivmd(0x21, "02:00.0", "00:00.0", 0),
        ivmd(0x21, "00:1f.0", "00:00.0", 0),
        ivmd(0x22, "02:00.0", "02:1f.7", 0),
        ivmd(0x21, "02:00.0", "00:00.0", 1),
    ]);
    let new = ivmds(&[
        ivmd(0x20, "00:00.0", "00:00.0", 0),
        ivmd(0x21, "01:01.0", "00:00.0", 0),
        ivmd(0x21, "00:1f.0", "00:00.0", 0),
        ivmd(0x22, "02:00.0", "02:1f.7", 0),
        ivmd(0x21, "01:01.0", "00:00.0", 0),
        ivmd(0x21, "02:00.0", "00:00.0", 1),
    ]);
    assert_eq!(rewritten(with_nic(), TALK, &old), Ok(new));
}

#[test]
fn lengths_that_cannot_be_are_refused_where_they_are() {
    let refused = |blocks: &[Vec<u8>]| rewritten(with_nic(), TALK, &ivrs(blocks)).unwrap_err();
    let bad_length = |offset, length| fault(*b"IVRS", offset, Fault::BadLength(length));
    assert_eq!(refused(&[vec![0x10, 0, 23, 0]]), bad_length(48, 23));
    assert_eq!(refused(&[ivhd(0x11, IOMMU, 0, &qemu())[..70].to_vec()]), bad_length(48, 80));
    assert_eq!(refused(&[ivhd(0x10, IOMMU, 0, &[select("00:00.0"), vec![0x42, 0, 0, 0]])]), bad_length(76, 8));
    assert_eq!(refused(&[ivhd(0x10, IOMMU, 0, &[vec![0x80; 16]])]), bad_length(72, 0));
    assert_eq!(refused(&[ivmd(0x21, "02:00.0", "00:00.0", 0)[..20].to_vec()]), bad_length(48, 32));
    assert_eq!(refused(&[vec![0x50, 0, 0, 0]]), bad_length(48, 0));
    assert_eq!(rewritten(with_nic(), TALK, &table(*b"IVRS", &[0; 11])), Err(bad_length(4, 47)));
    assert_eq!(
        rewritten(with_nic(), TALK, &table(*b"DMAR", &[0; 12])),
        Err(fault(*b"IVRS", 0, Fault::WrongTable(Signature::DMAR)))
    );
}

#[test]
fn a_buffer_too_small_is_told_how_much_is_needed() {
    let mut machine = with_nic();
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest("01:01.0")).unwrap();
    let old = ivrs(&[ivhd(0x10, IOMMU, 0, &qemu())]);
    let needed = old.len() + 8;
    for given in 0..needed {
        assert_eq!(
            add_aliases(&old, 0, &plan, &mut vec![0; given]),
            Err(fault(*b"IVRS", given, Fault::NoRoom { needed, given }))
        );
    }
    assert_eq!(add_aliases(&old, 0, &plan, &mut vec![0; needed]), Ok(needed));
}
