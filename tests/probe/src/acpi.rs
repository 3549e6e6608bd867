//! What the core does with ACPI tables.

use core::hint::black_box;

use pci_remap::acpi::{self, Header, Mcfg, PowerMethods, RootTable, Rsdp, Slot, Table};
use pci_remap::{Bdf, Plan};

use crate::Any;

pub(crate) fn all(plan: &Plan<'_>) {
    let mut bytes = [0; 4096];
    bytes.iter_mut().for_each(|byte| *byte = u8::any());
    let Some(bytes) = bytes.get_mut(..usize::from(u16::any())) else { return };
    let _ = black_box((Header::parse(bytes), Table::parse(bytes), Rsdp::find(bytes)));
    if let Ok(rsdp) = Rsdp::parse(bytes) {
        rsdp.roots().for_each(|root| _ = black_box(root));
    }
    if let Ok(root) = RootTable::parse(bytes) {
        root.entries().for_each(|entry| _ = black_box(entry));
    }
    if let Ok(mcfg) = Mcfg::parse(bytes) {
        mcfg.windows().for_each(|window| _ = black_box(window));
    }
    let _ = black_box(acpi::hide(bytes));
    let _ = black_box(acpi::point_entry(bytes, u64::any(), u64::any()));
    let _ = black_box(acpi::remove_entry(bytes, u64::any()));
    let mut buffer = [0; 4096];
    let Some(buffer) = buffer.get_mut(..usize::from(u16::any())) else { return };
    let _ = black_box(acpi::rewrite_scopes(bytes, u16::any(), plan, buffer));
    let _ = black_box(acpi::add_aliases(bytes, u16::any(), plan, buffer));
    black_box(&buffer);
    plan.advice().for_each(|advice| _ = black_box(advice));
    let slots = (0..u8::any()).map(|_| Slot { at: Bdf::any(), methods: PowerMethods::from_bits_retain(u8::any()) });
    plan.powered_slots(slots).for_each(|slot| _ = black_box(slot));
}
