//! What the remapper says of an access, and that it is what it does.

mod collection;
mod support;

use collection::moves::{self, Kind};
use collection::{Folder, bundled, collected};
use pci_remap::plan::{Policy, Vacated};
use pci_remap::remapper::{Absence, Found, Reason};
use pci_remap::sim::explanation::what_is_said_is_done;
use pci_remap::sim::vm::{TOUCHED, topology};
use pci_remap::{Access, Bdf, Dword, Guest, Lanes, Plan, Remapper, Width};
use support::{bdf, talk};

/// Plans of each kind and machine whose every register is looked at.
const TRIED: usize = 2;

/// What is said of one access of the talk's guest, line by line.
fn said(function: &str, offset: u16, width: Width) -> Vec<String> {
    let access = Guest(Access::at(bdf(function), offset, width).unwrap());
    format!("{:#}", talk().remapper().explain(access)).lines().map(str::to_owned).collect()
}

#[test]
fn a_bar_is_said_to_be_the_shadows() {
    assert_eq!(
        said("01:01.0", 0x10, Width::Dword),
        [
            "01:01.0 10h: of 02:00.0",
            "  read from the shadow, 00000000: all bits",
            "  written to the shadow: bits 31:17",
            "  not writable: bits 16:0",
            "  why: the guest places the BAR in the shadow, and the second stage follows; the real one stays (7.5.1.2.1; Linux's pci_read_bases, pci_assign_resource)",
        ]
    );
}

#[test]
fn shared_bits_are_said_to_be_held() {
    assert_eq!(
        said("01:01.0", 0x04, Width::Word),
        [
            "01:01.0 04h lanes 0011: of 02:00.0",
            "  read from the shadow, 00000000: bits 8, 1:0",
            "  read from hardware: bits 15:9, 7:2",
            "  written to the shadow: bits 8, 1",
            "  written to hardware: bits 15:9, 7:2",
            "  held at one in hardware: bit 1",
            "  not writable: bit 0",
            "  why: the enables make windows appear and vanish, and hardware keeps decoding; SERR# Enable is as the plan says of errors (7.5.1.1.3; Linux's pci_enable_resources)",
        ]
    );
}

#[test]
fn what_is_not_there_is_said_to_be_elsewhere() {
    let at = |function| talk().remapper().explain(Guest(Access::whole(bdf(function), Dword::at(0).unwrap()))).found;
    assert_eq!(at("02:00.0"), Found::Nothing(Absence::Moved(Guest(bdf("01:01.0")))));
    assert_eq!(at("02:1f.7"), Found::Nothing(Absence::NotWired));
    assert_eq!(at("00:01.7"), Found::Untouched);
    assert_eq!(said("02:00.0", 0, Width::Dword), ["02:00.0 00h: nothing: the function is found at 01:01.0"]);
}

#[test]
fn the_reason_told_is_the_weightiest() {
    let reason = |function, offset| {
        let access = Guest(Access::whole(bdf(function), Dword::at(offset).unwrap()));
        match talk().remapper().explain(access).found {
            Found::Function { register, .. } => register.reason,
            _ => None,
        }
    };
    // Interrupt Pin is in the DWORD of Bridge Control.
    assert_eq!(reason("00:01.1", 0x3c), Some(Reason::Routing));
    assert_eq!(reason("00:01.1", 0x18), Some(Reason::Routing));
    assert_eq!(reason("00:01.1", 0x40), Some(Reason::VacantPort));
    assert_eq!(reason("01:01.0", 0x2c), None);
}

#[test]
fn whatever_is_done_on_the_bundled_machines_has_a_reason() {
    bundled().iter().for_each(is_as_said);
}

#[test]
fn whatever_is_done_on_collected_machines_has_a_reason() {
    collected().iter().for_each(is_as_said);
}

/// Plans of every kind, by every way, with every policy: what is said of all registers is what is done.
fn is_as_said(folder: &Folder) {
    let mut registers = 0;
    for mut loaded in folder.machines() {
        let topology = topology(&mut loaded.machine).unwrap();
        for kind in Kind::ALL {
            let candidates = moves::candidates(&topology, kind);
            let stranding = moves::spread(moves::stranding(&topology, &candidates), 1);
            for one in &stranding {
                registers += all_as_said(&moves::plan(&topology, one).vacated(Vacated::InertFirst));
            }
            for one in moves::spread(moves::accepted(&topology, candidates).0, TRIED) {
                let plan = moves::plan(&topology, &one);
                registers += all_as_said(&plan.clone().policy(Policy::Strict));
                registers += all_as_said(&plan.vacated(Vacated::Placeholder));
                for (_, plan) in moves::by_every_way(&topology, &one) {
                    registers += all_as_said(&plan);
                }
            }
        }
    }
    println!("{}: {registers} registers are as is said", folder.name());
}

fn all_as_said(plan: &Plan<'_>) -> usize {
    let mut remapper = Box::new(Remapper::<TOUCHED>::new());
    if plan.build_into(&mut remapper).is_err() {
        return 0;
    }
    let touched: Vec<Bdf> = remapper.touched_functions().filter_map(|(_, guest)| Some(guest?.0)).collect();
    let vacated = plan.relocations().iter().map(|relocation| relocation.host.0);
    let places: Vec<_> = touched.into_iter().chain(vacated).collect();
    let ends = [Lanes::ALL, Lanes::new(0b0001).unwrap(), Lanes::new(0b1100).unwrap()];
    for place in &places {
        for dword in (0..Dword::COUNT).filter_map(Dword::new) {
            for (lanes, value) in ends.into_iter().zip([!0, 0, 0x5555_5555]) {
                what_is_said_is_done(&mut remapper, Guest(Access::new(*place, dword, lanes)), value);
            }
        }
    }
    places.len() * usize::from(Dword::COUNT)
}
