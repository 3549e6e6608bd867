//! What KVM refuses.

use super::*;
use kvm_ioctls::Kvm;

use crate::memory::{self, Mapping};

#[test]
fn a_slot_that_is_refused_stays_due_and_disturbs_no_other() {
    let Ok(kvm) = Kvm::new() else { return eprintln!("skipped: memory slots, because there is no /dev/kvm") };
    let vm = Arc::new(kvm.create_vm().unwrap());
    let mut stage = SecondStage::new(vm);
    let memory = Mapping::new(0x4000).unwrap();
    let address_of = |Host(span): Host<Span>| memory::address_of(&memory, span.start(), span.len());

    let span = |start, len| Span::new(start, len).unwrap();
    let map = |guest, host, len| MapOp::Map {
        guest: Guest(span(guest, len)),
        host: Host(span(host, len)),
        space: Space::Memory,
        backing: Backing::Direct,
        prefetchable: false,
    };
    let unmap = |guest, len| MapOp::Unmap { guest: Guest(span(guest, len)), space: Space::Memory };
    assert!(stage.apply(map(0x1_0000, 0, 0x2000), address_of));
    // KVM has no overlapping slots. The remapper asks for none; an embedder's own slot may be in the way.
    assert!(!stage.apply(map(0x1_1000, 0x2000, 0x2000), address_of));
    assert_eq!(stage.slots().map(|(guest, _)| guest).collect::<Vec<_>>(), [0x1_0000]);
    assert!(stage.apply(unmap(0x1_0000, 0x2000), address_of));
    assert!(stage.apply(map(0x1_1000, 0x2000, 0x2000), address_of));
    assert_eq!((stage.slots().map(|(guest, _)| guest).collect::<Vec<_>>(), stage.changes), (vec![0x1_1000], 3));
}
