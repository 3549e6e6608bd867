//! From RSDP to tables, and tables by themselves.

use pci_remap::acpi::{
    self, EcamWindow, Fault, Header, Mcfg, RootTable, Rsdp, Signature, Table, point_entry, remove_entry,
};
use pci_remap::mechanism::Ecam;
use proptest::prelude::*;

use crate::tables::{entries, fault, mcfg, rsdp_0, rsdp_2, rsdt, table, xsdt};

#[test]
fn the_rsdp_names_the_root_tables_of_its_revision() {
    let roots = |bytes: &[u8]| Rsdp::parse(bytes).unwrap().roots().collect::<Vec<_>>();
    assert_eq!(roots(&rsdp_0(0xbffe_2350)), [0xbffe_2350]);
    assert_eq!(roots(&rsdp_2(0x7f7d_3000, 0x1_7f7d_30e8)), [0x1_7f7d_30e8, 0x7f7d_3000]);
    assert_eq!(roots(&rsdp_2(0, 0x7f7d_30e8)), [0x7f7d_30e8]);
}

#[test]
fn the_rsdp_is_found_at_a_multiple_of_16_where_all_of_it_is_good() {
    let mut area = vec![0; 0x200];
    area[0x18..0x2c].copy_from_slice(&rsdp_0(0x1000));
    area[0x40..0x48].copy_from_slice(b"RSD PTR ");
    assert_eq!(Rsdp::find(&area), None);
    area[0x1ec..].copy_from_slice(&rsdp_0(0x2000));
    assert_eq!(Rsdp::find(&area), None);
    area[0x1e0..0x1f4].copy_from_slice(&rsdp_0(0x2000));
    assert_eq!(Rsdp::find(&area), Some(0x1e0));
    assert_eq!(Rsdp::find(&area[..0x1f0]), None);
}

#[test]
fn a_damaged_rsdp_is_refused() {
    let good = rsdp_2(0x1000, 0x2000);
    assert_eq!(Rsdp::parse(&good[..19]), Err(fault(*b"RSD ", 19, Fault::Truncated { needed: 20, given: 19 })));
    assert_eq!(Rsdp::parse(&good[..35]), Err(fault(*b"RSD ", 35, Fault::Truncated { needed: 36, given: 35 })));
    let damaged = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        Rsdp::parse(&bytes)
    };
    assert_eq!(damaged(0), Err(fault(*b"RSD ", 0, Fault::WrongTable(Signature(*b"SSD ")))));
    assert_eq!(damaged(16), Err(fault(*b"RSD ", 8, Fault::BadChecksum)));
    assert_eq!(damaged(24), Err(fault(*b"RSD ", 32, Fault::BadChecksum)));
    assert_eq!(damaged(20), Err(fault(*b"RSD ", 36, Fault::Truncated { needed: 37, given: 36 })));
}

#[test]
fn root_tables_have_entries_of_their_width() {
    assert_eq!(entries(&rsdt(&[0x10, 0xffff_fff0])), [0x10, 0xffff_fff0]);
    assert_eq!(entries(&xsdt(&[0x10, 0x1_0000_0000])), [0x10, 0x1_0000_0000]);
    assert_eq!(entries(&xsdt(&[])), []);
    let facp = table(*b"FACP", &[0; 208]);
    assert_eq!(
        RootTable::parse(&facp).unwrap_err().to_string(),
        "XSDT at offset 0x0: its signature is FACP; pass the table of this name"
    );
}

#[test]
fn an_entry_is_pointed_elsewhere() {
    let mut root = xsdt(&[0x1000, 0x2000, 0x3000]);
    assert_eq!(point_entry(&mut root, 0x2000, 0x1_0000_0000), Ok(()));
    assert_eq!(root, xsdt(&[0x1000, 0x1_0000_0000, 0x3000]));
    let mut root = rsdt(&[0x1000, 0x2000]);
    assert_eq!(
        point_entry(&mut root, 0x2000, 0x1_0000_0000),
        Err(fault(*b"RSDT", 40, Fault::AddressTooHigh(0x1_0000_0000)))
    );
    assert_eq!(point_entry(&mut root, 0x2001, 0x3000), Err(fault(*b"RSDT", 36, Fault::NoEntry(0x2001))));
    assert_eq!(root, rsdt(&[0x1000, 0x2000]), "an error changes nothing");
}

#[test]
fn an_entry_is_taken_out() {
    let mut root = rsdt(&[0x1000, 0x2000, 0x3000]);
    let length = root.len();
    assert_eq!(remove_entry(&mut root, 0x1000), Ok(()));
    root.truncate(length - 4);
    assert_eq!(root, rsdt(&[0x2000, 0x3000]));
    assert_eq!(remove_entry(&mut root, 0x1000), Err(fault(*b"RSDT", 36, Fault::NoEntry(0x1000))));
}

#[test]
fn a_hidden_table_has_another_name_and_a_good_checksum() {
    let mut dmar = table(*b"DMAR", &[0x26, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let body = dmar[36..].to_vec();
    assert_eq!(acpi::hide(&mut dmar), Ok(()));
    assert_eq!(dmar, table(*b"OEMH", &body));
}

#[test]
fn a_table_ends_where_its_length_says() {
    let mut page = table(*b"SSDT", &[1, 2, 3]);
    page.resize(0x1000, 0xaa);
    assert_eq!(Table::parse(&page).unwrap().bytes(), &page[..39]);
    assert_eq!(Header::parse(&page).unwrap().length.get(), 39);
    assert_eq!(Table::parse(&page[..38]), Err(fault(*b"SSDT", 38, Fault::Truncated { needed: 39, given: 38 })));
    assert_eq!(Table::parse(&page[..35]), Err(fault(*b"SSDT", 0, Fault::Truncated { needed: 36, given: 35 })));
    page[4] = 35;
    assert_eq!(Table::parse(&page), Err(fault(*b"SSDT", 4, Fault::BadLength(35))));
    assert_eq!(acpi::hide(&mut page), Err(fault(*b"SSDT", 4, Fault::BadLength(35))));
}

#[test]
fn mcfg_names_the_ecam_windows_of_each_segment() {
    let windows = |bytes: &[u8]| Mcfg::parse(bytes).unwrap().windows().collect::<Vec<_>>();
    let window = |segment, base, buses| EcamWindow { segment, ecam: Ecam::new(base, buses).unwrap() };
    assert_eq!(windows(&mcfg(&[(0xb000_0000, 0, 0, 255)])), [window(0, 0xb000_0000, 0..=255)]);
    assert_eq!(
        windows(&mcfg(&[(0x80_0000_0000, 0, 0, 0x3f), (0x80_0000_0000, 0, 0x40, 0x7f), (0x90_0000_0000, 1, 0, 255)])),
        [
            window(0, 0x80_0000_0000, 0..=0x3f),
            window(0, 0x80_0000_0000, 0x40..=0x7f),
            window(1, 0x90_0000_0000, 0..=255),
        ]
    );
    assert_eq!(windows(&mcfg(&[(0xb000_0000, 0, 9, 8), (0xb000_1000, 0, 0, 8), (u64::MAX << 20, 0, 0, 8)])), []);
}

#[test]
fn an_mcfg_that_ends_too_early_is_refused() {
    assert_eq!(Mcfg::parse(&table(*b"MCFG", &[0; 7])), Err(fault(*b"MCFG", 4, Fault::BadLength(43))));
    let mut rest = vec![0; 8];
    rest.extend([1; 15]);
    assert_eq!(Mcfg::parse(&table(*b"MCFG", &rest)).unwrap().windows().count(), 0);
    assert_eq!(Mcfg::parse(&table(*b"APIC", &[0; 8])), Err(fault(*b"MCFG", 0, Fault::WrongTable(Signature(*b"APIC")))));
}

proptest! {
    #[test]
    fn a_byte_that_flips_is_noticed(at in 0_usize..60, flip in 1_u8..) {
        let good = mcfg(&[(0xb000_0000, 0, 0, 255)]);
        let mut bytes = good.clone();
        bytes[at] ^= flip;
        let damaged = bytes.clone();
        prop_assert!(Mcfg::parse(&bytes).is_err());
        prop_assert!(acpi::hide(&mut bytes).is_err());
        prop_assert_eq!(bytes, damaged, "an error changes nothing");
    }

    #[test]
    fn what_is_pointed_elsewhere_is_there(
        tables in prop::collection::vec(any::<u64>(), 1..20), which: prop::sample::Index, to: u64,
    ) {
        let mut root = xsdt(&tables);
        let from = *which.get(&tables);
        prop_assert_eq!(point_entry(&mut root, from, to), Ok(()));
        let first = tables.iter().position(|table| *table == from).unwrap();
        let mut expected = tables;
        expected[first] = to;
        prop_assert_eq!(entries(&root), expected);
    }
}
