//! Which tables name a moved function, and what to write there.

use pci_remap::acpi::{Matters, PowerMethods, PoweredSlot, Slot};
use pci_remap::plan::{InterruptPin, Vfs};
use pci_remap::sim::machine::Machine;
use pci_remap::{Plan, Relocation};

use crate::support::*;

fn advice(mut machine: Machine, relocation: Relocation) -> Vec<String> {
    let plan = Plan::new(scan(&mut machine)).with(relocation).unwrap();
    plan.advice().map(|advice| advice.to_string()).collect()
}

#[test]
fn all_that_names_the_talks_nic_is_listed() {
    assert_eq!(
        advice(machine([nic("02:00.0").class(0x02_0000)]), Relocation::new(host("02:00.0"), guest("01:01.0"))),
        [
            "02:00.0 at 01:01.0: DMAR: hide it from a guest that owns the units, else write device scope 00:01.1/00.0 as 00:01.0/01.0",
            "02:00.0 at 01:01.0: IVRS: hide it, or add an alias entry for 01:01.0, source 02:00.0",
            "02:00.0 at 01:01.0: _ADR: what describes it is 00000000 below 00:01.1, the guest looks for 00010000 below 00:01.0",
            "02:00.0 at 01:01.0: SRAT: write PCI device handle 02:00.0 as 01:01.0",
            "02:00.0 at 01:01.0: HEST: write 02:00.0 as 01:01.0 in PCI Express AER structures",
            "02:00.0 at 01:01.0: GHES, BERT: records of errors name 02:00.0, the guest knows 01:01.0",
            "02:00.0 at 01:01.0: iBFT: write 02:00.0 as 01:01.0 in NIC structures",
        ]
    );
}

#[test]
fn a_shown_pin_needs_a_route_and_a_console_its_address() {
    let mut relocation = Relocation::new(host("02:00.0"), guest("00:05.3"));
    relocation.interrupt_pin = Some(InterruptPin::IntC);
    let advice = advice(machine([nic("02:00.0").class(0x07_0002)]), relocation);
    let about = |table: &str| advice.iter().filter(|advice| advice.contains(table)).cloned().collect::<Vec<_>>();
    assert_eq!(
        about("_PRT"),
        ["02:00.0 at 00:05.3: _PRT of the host bridge: map address 0005ffff, pin 2, as its own pin is routed"]
    );
    assert_eq!(
        about("SPCR"),
        ["02:00.0 at 00:05.3: SPCR, DBG2: write 02:00.0 as 00:05.3, with the base address the guest has, or hide them"]
    );
    assert_eq!(about("iBFT"), [""; 0]);
}

#[test]
fn a_virtual_function_is_in_no_table_but_ivrs_and_records_of_errors() {
    let follow = Relocation { vfs: Vfs::Follow, ..Relocation::new(host("02:00.0"), guest("01:01.0")) };
    let advice = advice(machine([adapter("02:00.0")]), follow);
    let of_the_second: Vec<_> = advice.iter().filter(|advice| advice.starts_with("02:10.2")).collect();
    assert_eq!(
        of_the_second,
        [
            "02:10.2 at 01:11.2: IVRS: hide it, or add an alias entry for 01:11.2, source 02:10.2",
            "02:10.2 at 01:11.2: GHES, BERT: records of errors name 02:10.2, the guest knows 01:11.2",
        ]
    );
}

#[test]
fn a_plan_that_moves_nothing_has_no_advice() {
    assert_eq!(advice(machine([nic("02:00.0")]), Relocation::new(host("02:00.0"), guest("02:00.0"))), [""; 0]);
}

#[test]
fn slots_with_power_matter_above_the_function_and_at_both_its_places() {
    let mut machine = machine([nic("02:00.0")]);
    let plan = Plan::new(scan(&mut machine)).relocate(host("02:00.0"), guest("01:01.0")).unwrap();
    let slot = |at| Slot { at: bdf(at), methods: PowerMethods::PR3 };
    let known = ["00:01.0", "00:01.1", "01:00.0", "01:01.0", "02:00.0", "00:1f.0"].map(slot);
    let powered = |at, matters| PoweredSlot { slot: slot(at), host: host("02:00.0"), matters };
    assert_eq!(
        plan.powered_slots(known.into_iter()).collect::<Vec<_>>(),
        [
            powered("00:01.1", Matters::Above),
            powered("01:01.0", Matters::NewPlace),
            powered("02:00.0", Matters::OldPlace),
        ]
    );
}
