//! Routing IDs: what requests carry.

mod support;

use pci_remap::sim::machine::{Blueprint, Builder, Capability, Machine};
use pci_remap::spec::express::PortType;
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
