//! What a guest does that is worth a line in a log.

mod support;

use pci_remap::remapper::{Event, EventCounts};
use pci_remap::sim::guest::{Kind, boot};
use pci_remap::sim::vm::Vm;
use pci_remap::{Access, Dword, Guest, Space};
use support::{Registers, bdf, host, span, talk};

fn whole(function: &str, offset: u16) -> Guest<Access> {
    Guest(Access::whole(bdf(function), Dword::at(offset).unwrap()))
}

/// What one thing the guest does makes of the talk's machine.
fn events_of(act: impl FnOnce(&mut Vm)) -> Vec<Event> {
    let mut vm = talk();
    act(&mut vm);
    vm.take_events()
}

#[test]
fn a_write_to_a_vacated_address_is_an_event() {
    let events = events_of(|vm| drop(vm.write("02:00.0", 0x10, 0xe100_0000)));
    assert_eq!(events, [Event::WroteToNothing(whole("02:00.0", 0x10))]);
    assert_eq!(events[0].to_string(), "02:00.0 10h was written, and nothing is there");
}

#[test]
fn a_write_a_guard_keeps_from_hardware_is_an_event_when_it_would_change_something() {
    let mut vm = talk();
    let numbers = vm.read("00:01.1", 0x18);
    vm.write("00:01.1", 0x18, numbers);
    assert_eq!(vm.take_events(), []);
    vm.write("00:01.1", 0x18, numbers ^ 0x0001_0100);
    let access = whole("00:01.1", 0x18);
    let event = Event::KeptFromHardware { access, changed: 0x0001_0100, value: !numbers & 0x0001_0100 };
    assert_eq!(vm.take_events(), [event]);
}

#[test]
fn a_link_partners_register_is_guarded_too() {
    // Max_Payload_Size of the NIC, in Device Control.
    let dword = (0x40..0x100).step_by(4).find(|at| talk().read("01:01.0", *at) & 0xff == 0x10).unwrap() + 8;
    let events = events_of(|vm| {
        let control = vm.read("01:01.0", dword) & 0xffff;
        drop(vm.write_word("01:01.0", dword, control ^ 0x20));
    });
    let changed = |event: &Event| matches!(event, Event::KeptFromHardware { changed: 0x20, .. });
    assert!(matches!(&events[..], [event] if changed(event)), "{events:?}");
}

#[test]
fn a_window_over_another_is_an_event() {
    let events = events_of(|vm| {
        vm.write("01:01.0", 0x10, 0xe010_0000);
        vm.write("01:01.0", 0x18, 0xe010_0000);
        vm.write_word("01:01.0", 0x04, 0x2);
    });
    let guest = Guest(span(0xe010_0000, 0x8000));
    assert_eq!(events, [Event::WithoutPlace { function: host("02:00.0"), guest, space: Space::Memory }]);
    assert_eq!(
        events[0].to_string(),
        "a BAR of 02:00.0 is at mem 0xe0100000-0xe0107fff, where something else is: it is not mapped"
    );
}

#[test]
fn a_reset_is_an_event() {
    assert_eq!(events_of(|vm| vm.note_reset(host("02:00.0"))), [Event::Forgot(host("02:00.0"))]);
}

#[test]
fn a_flood_is_counted_and_not_kept() {
    let mut vm = talk();
    for _ in 0..100 {
        vm.write("02:00.0", 0x10, 0);
    }
    let counts = EventCounts { wrote_to_nothing: 100, lost: 84, ..EventCounts::default() };
    assert_eq!(vm.remapper().event_counts(), counts);
    assert_eq!(vm.take_events(), [Event::WroteToNothing(whole("02:00.0", 0x10)); 16]);
    // What was taken makes room; what was counted stays so.
    vm.write("02:00.0", 0x14, 0);
    assert_eq!(vm.take_events(), [Event::WroteToNothing(whole("02:00.0", 0x14))]);
    assert_eq!(vm.remapper().event_counts(), EventCounts { wrote_to_nothing: 101, ..counts });
}

#[test]
fn placing_a_function_and_using_it_makes_none() {
    let events = events_of(|vm| {
        vm.write("01:01.0", 0x10, !0);
        vm.write("01:01.0", 0x10, 0xe010_0000);
        vm.write_word("01:01.0", 0x04, 0x6);
        vm.write_word("01:01.0", 0x04, 0x0);
    });
    assert_eq!(events, []);
}

#[test]
fn no_guest_writes_to_nothing_while_it_boots() {
    for kind in Kind::ALL {
        let mut vm = talk();
        let _ = boot(kind, &mut vm);
        let EventCounts { wrote_to_nothing, without_place, forgot, .. } = vm.remapper().event_counts();
        assert_eq!((wrote_to_nothing, without_place, forgot), (0, 0, 0), "{kind}: {:?}", vm.take_events());
    }
}
