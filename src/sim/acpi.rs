//! Any bytes, taken for ACPI tables: what [`acpi`] makes of them is a good table, or an error that changed nothing.

use std::boxed::Box;
use std::sync::OnceLock;
use std::vec;
use std::vec::Vec;

use crate::acpi::{self, Fault, Header, Mcfg, RootTable, Rsdp, Table, TableError};
use crate::address::{Bdf, Guest, Host};
use crate::plan::Plan;
use crate::sim::machine::{Blueprint, Builder, Windows};
use crate::sim::vm::{self, FUNCTIONS};
use crate::topology::Topology;

/// Checks the laws for these bytes, as they are, and as a table with this length and a good checksum.
///
/// # Panics
/// When one does not hold.
pub fn obey(bytes: &[u8]) {
    static MACHINE: OnceLock<Box<Topology<FUNCTIONS>>> = OnceLock::new();
    let still = Plan::new(MACHINE.get_or_init(machine));
    let at = |text: &str| text.parse::<Bdf>().expect("an address");
    let moved = still.clone().relocate(Host(at("02:00.0")), Guest(at("01:01.0"))).expect("a NIC to move");
    for bytes in [bytes.to_vec(), sealed(bytes)] {
        read(&bytes);
        edit(&bytes);
        for (plan, changes) in [(&moved, true), (&still, false)] {
            rewrite(&bytes, changes, |buffer| acpi::rewrite_scopes(&bytes, 0, plan, buffer));
            rewrite(&bytes, changes, |buffer| acpi::add_aliases(&bytes, 0, plan, buffer));
        }
    }
}

/// Two root ports, and a NIC behind the second.
fn machine() -> Box<Topology<FUNCTIONS>> {
    let at = |device| Bdf::new(0, device, 0).expect("an address");
    let machine = Builder::new()
        .root(0..=0xff, &[Builder::LOW_MEMORY])
        .root_port(at(5), 1..=1, Windows::default())
        .root_port(at(6), 2..=2, Windows::default())
        .endpoint(Blueprint::endpoint(Bdf::new(2, 0, 0).expect("an address")))
        .build();
    vm::topology(&mut machine.expect("a machine")).expect("few functions")
}

/// The bytes with a length and a checksum that are good, where there is a header.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= size_of::<Header>() {
        let length = u32::try_from(bytes.len()).expect("a table");
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[9] = 0;
        bytes[9] = bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
    }
    bytes
}

/// Whatever is there is inside the bytes.
fn read(bytes: &[u8]) {
    if let Ok(table) = Table::parse(bytes) {
        assert!(bytes.starts_with(table.bytes()));
        assert_eq!(table.bytes().len(), usize::try_from(table.header().length.get()).expect("it is in memory"));
    }
    if let Ok(rsdp) = Rsdp::parse(bytes) {
        assert!(rsdp.roots().count() <= 2);
        assert_eq!(Rsdp::find(bytes), Some(0));
    }
    if let Ok(root) = RootTable::parse(bytes) {
        assert!(root.entries().count() <= bytes.len() / 4);
    }
    if let Ok(mcfg) = Mcfg::parse(bytes) {
        assert!(mcfg.windows().count() <= bytes.len() / 16);
    }
}

/// An edit in place makes a good table, or changes nothing.
fn edit(bytes: &[u8]) {
    let first = RootTable::parse(bytes).ok().and_then(|root| root.entries().next()).unwrap_or(0);
    let check = |edit: &dyn Fn(&mut [u8]) -> Result<(), TableError>| {
        let mut edited = bytes.to_vec();
        match edit(&mut edited) {
            Ok(()) => assert!(Table::parse(&edited).is_ok()),
            Err(_) => assert_eq!(edited, bytes, "an error changed the table"),
        }
    };
    check(&|bytes| acpi::hide(bytes));
    check(&|bytes| acpi::point_entry(bytes, first, 0x1_0000_0000));
    check(&|bytes| acpi::remove_entry(bytes, first));
}

/// A new table is good, as long as it was said to be, and the old one where nothing is moved.
fn rewrite(bytes: &[u8], changes: bool, rewrite: impl Fn(&mut [u8]) -> Result<usize, TableError>) {
    let needed = match rewrite(&mut []) {
        Err(TableError { fault: Fault::NoRoom { needed, given: 0 }, .. }) => needed,
        Err(_) => return,
        Ok(len) => panic!("{len} bytes were written into none"),
    };
    let mut buffer = vec![0xee; needed + 16];
    assert_eq!(rewrite(&mut buffer), Ok(needed));
    assert_eq!(Table::parse(&buffer).map(|table| table.bytes().len()), Ok(needed));
    assert_eq!(buffer[needed..], [0xee; 16], "bytes after the table were written");
    if !changes {
        assert!(bytes.starts_with(&buffer[..needed]), "a plan without moves changed the table");
    }
}
