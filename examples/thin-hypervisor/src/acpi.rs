//! Firmware's tables (ACPI 6.5, 5.2): where configuration space is, how many processors there are, and IOMMUs.
//! `pci-remap` reads and edits them; here is where they lie in memory.

use core::ptr;

use heapless::Vec;
use pci_remap::Plan;
use pci_remap::acpi::{self, Mcfg, RootTable, Rsdp, Signature, Table};
use pci_remap::mechanism::Ecam;

use crate::options::Iommu;
use crate::physical;
use crate::say;

const MAX_TABLES: usize = 64;

/// Longer than any table; what follows one is not looked at.
const ENOUGH: u64 = 1 << 20;

/// Where the root tables are, and the tables they name.
pub struct Tables {
    roots: Vec<u64, 2>,
    tables: Vec<u64, MAX_TABLES>,
}

/// Where the guest finds a table that grew.
#[repr(align(4096))]
struct Room([u8; 4096]);

#[unsafe(link_section = ".guest")]
static mut ROOM: Room = Room([0; 4096]);

impl Tables {
    pub fn find() -> Self {
        let extended_bios_data = physical::read(0x40e, 2) << 4;
        let areas = [physical::bytes(extended_bios_data.max(0x400), 0x400), physical::bytes(0xe_0000, 0x2_0000)];
        let rsdp = areas.iter().find_map(|area| Rsdp::find(area).map(|at| Rsdp::parse(&area[at..])));
        let rsdp = rsdp.expect("no ACPI tables").unwrap_or_else(|fault| panic!("{fault}"));
        let roots: Vec<u64, 2> = rsdp.roots().collect();
        let mut tables = Vec::new();
        for &root in &roots {
            let root = RootTable::parse(physical::bytes(root, ENOUGH)).unwrap_or_else(|fault| panic!("{fault}"));
            for address in root.entries() {
                if !tables.contains(&address) {
                    tables.push(address).expect("more ACPI tables than there is room for");
                }
            }
        }
        Self { roots, tables }
    }

    fn named(&self, signature: Signature) -> Option<&'static [u8]> {
        let mut tables = self.tables.iter().map(|address| physical::bytes(*address, ENOUGH));
        tables.find(|table| Signature::of(table) == Some(signature))
    }

    /// The ECAM window of segment group 0, as the guest finds it; `None` on machines without.
    pub fn ecam(&self) -> Option<Ecam> {
        let table = Mcfg::parse(self.named(Signature::MCFG)?).unwrap_or_else(|fault| panic!("{fault}"));
        table.windows().find(|window| window.segment == 0).map(|window| window.ecam)
    }

    /// Processors that are there: a local APIC or x2APIC with its Enabled flag (5.2.12.2, 5.2.12.12).
    pub fn processors(&self) -> usize {
        let Some(table) = self.named(Signature(*b"APIC")) else { return 1 };
        let table = Table::parse(table).unwrap_or_else(|fault| panic!("{fault}"));
        let mut structures = &table.bytes()[44..];
        let mut count = 0;
        while let [kind, len, ..] = *structures {
            let flags = match kind {
                0 => structures[4],
                9 => structures[8],
                _ => 0,
            };
            count += usize::from(flags & 1);
            structures = &structures[usize::from(len.max(2)).min(structures.len())..];
        }
        count
    }

    /// Takes DMA and interrupt remapping units away from the guest, which would let a moved function's guest address do
    /// DMA, and on the wire is the host's; or tells it of AMD's which address that is.
    pub fn edit_iommus(&self, wanted: Iommu, plan: &Plan<'_>) {
        for &address in &self.tables {
            // SAFETY: it is RAM, and nobody has a reference to it now.
            let table = unsafe { physical::bytes_mut(address, ENOUGH) };
            match (Signature::of(table), wanted) {
                (Some(Signature::IVRS), Iommu::Alias) => self.add_aliases(address, table, plan),
                (Some(signature @ (Signature::IVRS | Signature::DMAR)), Iommu::Hide | Iommu::Alias) => {
                    acpi::hide(table).unwrap_or_else(|fault| panic!("{fault}"));
                    say!("hid the IOMMU (table {signature})");
                }
                _ => {}
            }
        }
    }

    /// A new IVRS in the place of this one.
    fn add_aliases(&self, address: u64, ivrs: &[u8], plan: &Plan<'_>) {
        // SAFETY: a machine has one such table, so this is the only reference.
        let room = unsafe { &mut (*ptr::addr_of_mut!(ROOM)).0 };
        acpi::add_aliases(ivrs, 0, plan, room).unwrap_or_else(|fault| panic!("{fault}"));
        for &root in &self.roots {
            // SAFETY: it is RAM, and nobody has a reference to it now.
            let root = unsafe { physical::bytes_mut(root, ENOUGH) };
            acpi::point_entry(root, address, room.as_ptr().addr() as u64).unwrap_or_else(|fault| panic!("{fault}"));
        }
        say!("told the guest's IOMMU of Requester IDs (table IVRS)");
    }
}
