//! Names of registers, and ranges of them.

use pci_remap::spec::capability::{CapabilityId, ExtendedCapabilityId};
use pci_remap::spec::express;
use pci_remap::spec::header::{self, HeaderType};
use pci_remap::topology::Function;
use pci_remap::{Dword, Remapper};

/// The emulated registers of a function: a line for each register of the header, and for each run of DWORDs after it.
pub(crate) fn emulated<const F: usize>(remapper: &Remapper<F>, function: &Function) -> Vec<String> {
    let mut lines: Vec<Range> = Vec::new();
    for (dword, from_hardware) in remapper.emulated_registers(function.bdf()) {
        let name = name(function, dword);
        match lines.last_mut() {
            Some(range) if range.takes(dword, name.as_ref()) => range.add(dword, from_hardware, name),
            _ => lines.push(Range::new(dword, from_hardware, name)),
        }
    }
    lines.iter().map(Range::line).collect()
}

struct Range {
    first: Dword,
    last: Dword,
    names: Vec<String>,
    /// Bits that read as the hardware's in one of the DWORDs, and those that do in all.
    any_hardware: u32,
    all_hardware: u32,
}

impl Range {
    fn new(dword: Dword, from_hardware: u32, name: Option<String>) -> Self {
        Self {
            first: dword,
            last: dword,
            names: name.into_iter().collect(),
            any_hardware: from_hardware,
            all_hardware: from_hardware,
        }
    }

    fn takes(&self, dword: Dword, name: Option<&String>) -> bool {
        self.last.plus(1) == Some(dword) && (self.first >= header::END || self.names.last() == name)
    }

    fn add(&mut self, dword: Dword, from_hardware: u32, name: Option<String>) {
        self.last = dword;
        self.any_hardware |= from_hardware;
        self.all_hardware &= from_hardware;
        self.names.extend(name.filter(|name| self.names.last() != Some(name)));
    }

    fn line(&self) -> String {
        let last = self.last.offset() + 3;
        let names = self.names.join(", ");
        let part = match (self.any_hardware, self.all_hardware) {
            (0, _) => "",
            (_, u32::MAX) => "writes to ",
            _ => "bits of ",
        };
        let what = if names.is_empty() { "registers without a name" } else { &names };
        format!("{:03x}-{last:03x}  {part}{what}", self.first.offset())
    }
}

/// The registers of a DWORD of the header, or the capability that starts there.
fn name(function: &Function, dword: Dword) -> Option<String> {
    if dword < header::END {
        return Some(header_name(function.header_type(), dword.offset()).to_owned());
    }
    let standard = function.capabilities().iter().find(|entry| entry.dword == dword);
    let extended = function.extended_capabilities().iter().find(|entry| entry.dword == dword);
    standard.map(|entry| capability_name(entry.id)).or_else(|| extended.map(|entry| extended_name(entry.id)))
}

/// The registers of any DWORD, also of those after the first of a capability.
pub(crate) fn full_name(function: &Function, dword: Dword) -> Option<String> {
    let offset_in = |first: Dword, dwords| dword.index().checked_sub(first.index()).filter(|offset| *offset < dwords);
    let mut standard = function.capabilities().iter().filter(|entry| entry.id == CapabilityId::PCI_EXPRESS);
    let express = standard.find_map(|entry| express_name(offset_in(entry.dword, entry.dwords)?));
    let starts = function.capabilities().iter().map(|entry| (entry.dword, entry.dwords));
    let starts = starts.chain(function.extended_capabilities().iter().map(|entry| (entry.dword, entry.dwords)));
    let mut within = starts.filter_map(|(first, dwords)| Some((first, offset_in(first, dwords)?)));
    match (express, within.find(|(_, offset)| *offset != 0)) {
        (Some(express), _) => Some(express.to_owned()),
        (None, Some((first, offset))) => Some(format!("{}, its offset {:02X}h", name(function, first)?, 4 * offset)),
        (None, None) => name(function, dword),
    }
}

/// The registers of the PCI Express Capability, but for its first DWORD.
fn express_name(register: u16) -> Option<&'static str> {
    Some(match register {
        express::DEVICE_CAPABILITIES => "Device Capabilities",
        express::DEVICE_CONTROL => "Device Control, Device Status",
        express::LINK_CAPABILITIES => "Link Capabilities",
        express::LINK_CONTROL => "Link Control, Link Status",
        express::SLOT_CAPABILITIES => "Slot Capabilities",
        express::SLOT_CONTROL => "Slot Control, Slot Status",
        express::ROOT_CONTROL => "Root Control, Root Capabilities",
        express::ROOT_STATUS => "Root Status",
        express::DEVICE_CAPABILITIES_2 => "Device Capabilities 2",
        express::DEVICE_CONTROL_2 => "Device Control 2, Device Status 2",
        express::LINK_CAPABILITIES_2 => "Link Capabilities 2",
        express::LINK_CONTROL_2 => "Link Control 2, Link Status 2",
        express::SLOT_CAPABILITIES_2 => "Slot Capabilities 2",
        express::SLOT_CONTROL_2 => "Slot Control 2, Slot Status 2",
        _ => return None,
    })
}

fn header_name(header_type: HeaderType, offset: u16) -> &'static str {
    match (header_type, offset) {
        (_, 0x00) => "Vendor ID, Device ID",
        (_, 0x04) => "Command, Status",
        (_, 0x08) => "Revision ID, Class Code",
        (_, 0x0c) => "Cache Line Size, Latency Timer, Header Type, BIST",
        (HeaderType::Type0, 0x10..=0x24) | (HeaderType::Type1, 0x10 | 0x14) => "Base Address Registers",
        (HeaderType::Type0, 0x28) => "Cardbus CIS Pointer",
        (HeaderType::Type0, 0x2c) => "Subsystem Vendor ID, Subsystem ID",
        (HeaderType::Type0, 0x30) | (HeaderType::Type1, 0x38) => "Expansion ROM Base Address",
        (HeaderType::Type0 | HeaderType::Type1, 0x34) => "Capabilities Pointer",
        (HeaderType::Type0, 0x3c) => "Interrupt Line, Interrupt Pin, Min_Gnt, Max_Lat",
        (HeaderType::Type1, 0x18) => "Bus Numbers, Secondary Latency Timer",
        (HeaderType::Type1, 0x1c) => "I/O Base, I/O Limit, Secondary Status",
        (HeaderType::Type1, 0x20) => "Memory Base, Memory Limit",
        (HeaderType::Type1, 0x24) => "Prefetchable Memory Base, Prefetchable Memory Limit",
        (HeaderType::Type1, 0x28) => "Prefetchable Base Upper 32 Bits",
        (HeaderType::Type1, 0x2c) => "Prefetchable Limit Upper 32 Bits",
        (HeaderType::Type1, 0x30) => "I/O Base Upper 16 Bits, I/O Limit Upper 16 Bits",
        (HeaderType::Type1, 0x3c) => "Interrupt Line, Interrupt Pin, Bridge Control",
        _ => "reserved",
    }
}

fn capability_name(id: CapabilityId) -> String {
    let name = match id {
        CapabilityId::POWER_MANAGEMENT => "Power Management",
        CapabilityId::AGP => "AGP",
        CapabilityId::VPD => "Vital Product Data",
        CapabilityId::SLOT_IDENTIFICATION => "Slot Identification",
        CapabilityId::MSI => "MSI",
        CapabilityId::PCI_X => "PCI-X",
        CapabilityId::VENDOR_SPECIFIC => "Vendor-Specific",
        CapabilityId::HOT_PLUG_CONTROLLER => "Hot-Plug Controller",
        CapabilityId::SUBSYSTEM_ID => "Subsystem ID",
        CapabilityId::PCI_EXPRESS => "PCI Express",
        CapabilityId::MSI_X => "MSI-X",
        CapabilityId::SATA => "SATA",
        CapabilityId::ADVANCED_FEATURES => "Advanced Features",
        CapabilityId::ENHANCED_ALLOCATION => "Enhanced Allocation",
        CapabilityId::FLATTENING_PORTAL_BRIDGE => "Flattening Portal Bridge",
        CapabilityId(id) => return format!("capability {id:02x}h"),
    };
    format!("{name} Capability")
}

fn extended_name(id: ExtendedCapabilityId) -> String {
    let name = match id {
        ExtendedCapabilityId::AER => "Advanced Error Reporting",
        ExtendedCapabilityId::VIRTUAL_CHANNEL | ExtendedCapabilityId::VIRTUAL_CHANNEL_MFVC => "Virtual Channel",
        ExtendedCapabilityId::DEVICE_SERIAL_NUMBER => "Device Serial Number",
        ExtendedCapabilityId::ROOT_COMPLEX_LINK_DECLARATION => "Root Complex Link Declaration",
        ExtendedCapabilityId::MFVC => "Multi-Function Virtual Channel",
        ExtendedCapabilityId::VENDOR_SPECIFIC => "Vendor-Specific",
        ExtendedCapabilityId::ACS => "ACS",
        ExtendedCapabilityId::ARI => "ARI",
        ExtendedCapabilityId::ATS => "ATS",
        ExtendedCapabilityId::SR_IOV => "SR-IOV",
        ExtendedCapabilityId::MULTICAST => "Multicast",
        ExtendedCapabilityId::PAGE_REQUEST => "Page Request",
        ExtendedCapabilityId::RESIZABLE_BAR => "Resizable BAR",
        ExtendedCapabilityId::TPH_REQUESTER => "TPH Requester",
        ExtendedCapabilityId::LTR => "LTR",
        ExtendedCapabilityId::SECONDARY_PCI_EXPRESS => "Secondary PCI Express",
        ExtendedCapabilityId::PASID => "PASID",
        ExtendedCapabilityId::DPC => "Downstream Port Containment",
        ExtendedCapabilityId::L1_PM_SUBSTATES => "L1 PM Substates",
        ExtendedCapabilityId::PTM => "Precision Time Measurement",
        ExtendedCapabilityId::VF_RESIZABLE_BAR => "VF Resizable BAR",
        ExtendedCapabilityId::DATA_LINK_FEATURE => "Data Link Feature",
        ExtendedCapabilityId::PHYSICAL_LAYER_16 => "Physical Layer 16.0 GT/s",
        ExtendedCapabilityId::LANE_MARGINING => "Lane Margining at the Receiver",
        ExtendedCapabilityId::DOE => "Data Object Exchange",
        ExtendedCapabilityId::IDE => "Integrity and Data Encryption",
        ExtendedCapabilityId(id) => return format!("extended capability {id:04x}h"),
    };
    format!("{name} Extended Capability")
}
