//! Tables that are damaged in every way there is.

use pci_remap::sim::acpi::obey;
use proptest::prelude::*;

use crate::{dmar, ivrs, tables};

/// One of each kind.
fn good_tables() -> Vec<Vec<u8>> {
    vec![
        dmar::qemu(),
        dmar::of_most_kinds(),
        ivrs::with_one_block(),
        tables::mcfg(&[(0xb000_0000, 0, 0, 255)]),
        tables::rsdt(&[0x1000, 0x2000, 0x3000]),
        tables::xsdt(&[0x1000, 0x2000]),
        tables::rsdp_0(0x1000),
        tables::rsdp_2(0x1000, 0x2000),
    ]
}

#[test]
fn good_tables_keep_the_laws() {
    for table in good_tables() {
        obey(&table);
    }
}

#[test]
fn tables_cut_anywhere_keep_the_laws() {
    for table in good_tables() {
        (0..table.len()).for_each(|end| obey(&table[..end]));
    }
}

proptest! {
    #[test]
    fn damaged_tables_keep_the_laws(
        which: prop::sample::Index,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut table = which.get(&good_tables()).clone();
        for (at, byte) in damage {
            *at.get_mut(&mut table) = byte;
        }
        obey(&table);
    }
}
