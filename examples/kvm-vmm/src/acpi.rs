//! The ACPI tables of a PC without legacy hardware: where its processor, host bridge, ECAM window and serial port are.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, PackageBuilder, Path,
    ResourceTemplate,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use pci_remap::Guest;
use pci_remap::delta;

use crate::bus::{RESET, SERIAL, SLEEP};
use crate::console;
use crate::hardware::Hardware;
use crate::interrupts::INTX;

const OEM: [u8; 6] = *b"REMAP ";
const TABLE: [u8; 8] = *b"KVMVMM  ";

/// All tables, to be put at this address; the root pointer comes first.
pub fn tables(at: u64, hardware: &Hardware) -> Vec<u8> {
    let mut tables = vec![0; Rsdp::len()];
    let mut add = |table: &dyn Aml| {
        tables.resize(tables.len().next_multiple_of(16), 0);
        let address = at + tables.len() as u64;
        table.to_aml_bytes(&mut tables);
        address
    };
    let Guest(ecam) = hardware.ecam.span();

    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, 1);
    dsdt.append_slice(&definitions(hardware));
    let dsdt = add(&dsdt);

    let port = |port: u16| GAS::new(Space::SystemIo, 8, 0, AccessSize::ByteAccess, port.into());
    let mut fadt = FADTBuilder::new(OEM, TABLE, 1).dsdt_64(dsdt).flag(Flags::HwReducedAcpi).flag(Flags::ResetRegSup);
    (fadt.reset_reg, fadt.reset_value) = (port(RESET), 0x06);
    (fadt.sleep_control_reg, fadt.sleep_status_reg) = (port(SLEEP), port(SLEEP + 1));

    let mut madt = MADT::new(OEM, TABLE, 1, LocalInterruptController::Address(0xfee0_0000));
    madt.add_structure(ProcessorLocalApic::new(0, 0, EnabledStatus::Enabled));
    madt.add_structure(IoApic::new(1, 0xfec0_0000, 0));

    let mut mcfg = MCFG::new(OEM, TABLE, 1);
    mcfg.add_ecam(ecam.start(), 0, 0, 0xff);

    let addresses = [add(&fadt.finalize()), add(&madt), add(&mcfg)];
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    for address in addresses {
        xsdt.add_entry(address);
    }
    let xsdt = add(&xsdt);

    let mut root = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
    tables[..root.len()].copy_from_slice(&root);
    tables
}

/// The devices, in AML.
fn definitions(hardware: &Hardware) -> Vec<u8> {
    let name = |name: &str, value: &dyn Aml| Name::new(Path::new(name), value);
    let Guest(ecam) = hardware.ecam.span();

    // What the host bridge forwards.
    let memory = |start, last| AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, start, last, None);
    let mut forwards: Vec<Box<dyn Aml>> =
        vec![Box::new(AddressSpace::new_bus_number(0_u16, 0xff)), Box::new(IO::new(0xcf8, 0xcf8, 1, 8))];
    for window in hardware.windows() {
        let (start, last) = (window.span.start(), window.span.last());
        forwards.push(match window.space {
            delta::Space::Io => Box::new(AddressSpace::new_io(start as u32, last as u32, None)),
            delta::Space::Memory => Box::new(memory(start, last)),
        });
    }
    let forwards = ResourceTemplate::new(forwards.iter().map(|window| &**window).collect());
    // Every Interrupt Pin of every device ends at the same line.
    let mut pins = PackageBuilder::new();
    for (device, pin) in (0..32_u32).flat_map(|device| (0..4_u8).map(move |pin| (device, pin))) {
        pins.add_element(&Package::new(vec![&(device << 16 | 0xffff), &pin, &aml::ZERO, &INTX]));
    }
    let (express, conventional) = (EISAName::new("PNP0A08"), EISAName::new("PNP0A03"));
    let bridge = [
        name("_HID", &express),
        name("_CID", &conventional),
        name("_UID", &aml::ZERO),
        name("_SEG", &aml::ZERO),
        name("_BBN", &aml::ZERO),
        name("_CRS", &forwards),
        name("_PRT", &pins),
    ];

    // Linux trusts MCFG only where the mainboard reserves the window (`pci_mmcfg_check_reserved`).
    let window = memory(ecam.start(), ecam.last());
    let mainboard = [name("_HID", &EISAName::new("PNP0C02")), name("_CRS", &ResourceTemplate::new(vec![&window]))];

    let (ports, line) = (IO::new(SERIAL, SERIAL, 1, 8), Interrupt::new(true, true, false, false, console::LINE));
    let serial = [
        name("_HID", &EISAName::new("PNP0501")),
        name("_UID", &aml::ZERO),
        name("_CRS", &ResourceTemplate::new(vec![&ports, &line])),
    ];

    let device = |path: &str, names: &[Name]| {
        let mut bytes = Vec::new();
        Device::new(Path::new(path), names.iter().map(|name| name as &dyn Aml).collect()).to_aml_bytes(&mut bytes);
        bytes
    };
    let mut definitions =
        [device("_SB_.PCI0", &bridge), device("_SB_.MBRD", &mainboard), device("_SB_.COM1", &serial)].concat();
    let sleep: [&dyn Aml; 2] = [&5_u8, &aml::ZERO];
    name("_S5_", &Package::new(sleep.to_vec())).to_aml_bytes(&mut definitions);
    definitions
}
