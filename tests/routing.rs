//! Routing IDs: what requests carry, and what the guest must read of them.

mod support;

use pci_remap::sim::machine::{Blueprint, Builder, Capability, Machine};
use pci_remap::spec::express::PortType;
use pci_remap::{Bdf, Guest, Host, Plan, Remapper};
use support::*;

/// All Requester IDs of a function.
fn requester_ids(machine: &mut Machine, of: &str) -> Vec<String> {
    scan(machine).view().requester_ids(host(of)).map(|id| id.to_string()).collect()
}

#[test]
fn links_leave_requester_ids_alone() {
    assert_eq!(requester_ids(&mut machine([nic("02:00.0")]), "02:00.0"), ["02:00.0"]);
}

#[test]
fn bridges_to_conventional_pci_put_their_own_id_in_place() {
    let mut machine = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY])
        .bridge(bdf("00:1e.0"), 1..=2, windows(0xe000_0000))
        .bridge(bdf("01:02.0"), 2..=2, windows(0xe000_0000))
        .endpoint(Blueprint::endpoint(bdf("02:03.0")))
        .root_port(bdf("00:02.0"), 3..=4, windows(0xe100_0000))
        .function(Blueprint::port(bdf("03:00.0"), PortType::PciExpressToPciBridge, 4..=4, windows(0xe100_0000)))
        .endpoint(Blueprint::endpoint(bdf("04:05.1")))
        .endpoint(Blueprint::endpoint(bdf("04:05.0")).multi_function())
        .build()
        .unwrap();
    assert_eq!(requester_ids(&mut machine, "02:03.0"), ["02:03.0", "01:02.0", "00:1e.0"]);
    assert_eq!(requester_ids(&mut machine, "04:05.1"), ["04:05.1", "04:00.0"]);
    assert_eq!(scan(&mut machine).view().wire_id(host("04:05.1")), host("04:00.0"));
    assert_eq!(scan(&mut machine).view().wire_id(host("00:02.0")), host("00:02.0"));
}

#[test]
fn phantom_functions_have_ids_of_their_own() {
    let with_phantoms = |bits: u32| {
        let endpoint = Blueprint::endpoint(bdf("00:05.0")).capability(&Capability::Express(PortType::Endpoint));
        let at =
            scan(&mut machine([endpoint.clone()])).view().function(host("00:05.0")).unwrap().express().unwrap().dword;
        let capabilities = at.plus(1).unwrap();
        requester_ids(&mut machine([endpoint.register(capabilities, 0x8000 | bits << 3)]), "00:05.0")
    };
    assert_eq!(with_phantoms(0b00), ["00:05.0"]);
    assert_eq!(with_phantoms(0b01), ["00:05.0", "00:05.4"]);
    assert_eq!(with_phantoms(0b10), ["00:05.0", "00:05.2", "00:05.4", "00:05.6"]);
    assert_eq!(
        with_phantoms(0b11),
        ["00:05.0", "00:05.1", "00:05.2", "00:05.3", "00:05.4", "00:05.5", "00:05.6", "00:05.7"]
    );
}

/// The talk's move, and a hidden function.
fn remapper() -> Remapper<8> {
    let mut machine = machine([nic("02:00.0"), Blueprint::endpoint(bdf("00:1f.0"))]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest("01:01.0")).unwrap();
    plan.hide(host("00:1f.0")).unwrap().build().unwrap()
}

#[test]
fn to_guest_is_the_inverse_of_to_host() {
    let remapper = remapper();
    let mut elsewhere = Vec::new();
    for id in (0..=u16::MAX).map(Bdf::from_routing_id) {
        let found = remapper.to_host(Guest(id)).unwrap_or(Some(Host(id)));
        match found {
            Some(function) => assert_eq!(remapper.to_guest(function), Some(Guest(id))),
            None => assert!(remapper.to_guest(Host(id)).is_none_or(|guest| guest.0 != id)),
        }
        if remapper.to_guest(Host(id)) != Some(Guest(id)) && id.bus() != 2 && id.bus() != 1 {
            elsewhere.push(id);
        }
    }
    assert_eq!(elsewhere, [bdf("00:1f.0")], "the hidden one");
    assert_eq!(remapper.to_guest(host("02:00.0")), Some(guest("01:01.0")));
}
