//! Capability lists (7.5.3, 7.6; IDs from PCI Code and ID Assignment 1.16).

/// Capability ID of the list in the first 256 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CapabilityId(pub u8);

#[expect(missing_docs, reason = "the names are the specification's")]
impl CapabilityId {
    pub const POWER_MANAGEMENT: Self = Self(0x01);
    pub const AGP: Self = Self(0x02);
    pub const VPD: Self = Self(0x03);
    pub const SLOT_IDENTIFICATION: Self = Self(0x04);
    pub const MSI: Self = Self(0x05);
    pub const PCI_X: Self = Self(0x07);
    pub const VENDOR_SPECIFIC: Self = Self(0x09);
    pub const HOT_PLUG_CONTROLLER: Self = Self(0x0c);
    pub const SUBSYSTEM_ID: Self = Self(0x0d);
    pub const PCI_EXPRESS: Self = Self(0x10);
    pub const MSI_X: Self = Self(0x11);
    pub const SATA: Self = Self(0x12);
    pub const ADVANCED_FEATURES: Self = Self(0x13);
    pub const ENHANCED_ALLOCATION: Self = Self(0x14);
    pub const FLATTENING_PORTAL_BRIDGE: Self = Self(0x15);
}

/// Extended Capability ID of the list from 100h on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCapabilityId(pub u16);

#[expect(missing_docs, reason = "the names are the specification's")]
impl ExtendedCapabilityId {
    pub const NULL: Self = Self(0x0000);
    pub const AER: Self = Self(0x0001);
    pub const VIRTUAL_CHANNEL: Self = Self(0x0002);
    pub const DEVICE_SERIAL_NUMBER: Self = Self(0x0003);
    pub const ROOT_COMPLEX_LINK_DECLARATION: Self = Self(0x0005);
    pub const MFVC: Self = Self(0x0008);
    pub const VIRTUAL_CHANNEL_MFVC: Self = Self(0x0009);
    pub const VENDOR_SPECIFIC: Self = Self(0x000b);
    pub const ACS: Self = Self(0x000d);
    pub const ARI: Self = Self(0x000e);
    pub const ATS: Self = Self(0x000f);
    pub const SR_IOV: Self = Self(0x0010);
    pub const MULTICAST: Self = Self(0x0012);
    pub const PAGE_REQUEST: Self = Self(0x0013);
    pub const RESIZABLE_BAR: Self = Self(0x0015);
    pub const TPH_REQUESTER: Self = Self(0x0017);
    pub const LTR: Self = Self(0x0018);
    pub const SECONDARY_PCI_EXPRESS: Self = Self(0x0019);
    pub const PASID: Self = Self(0x001b);
    pub const DPC: Self = Self(0x001d);
    pub const L1_PM_SUBSTATES: Self = Self(0x001e);
    pub const PTM: Self = Self(0x001f);
    pub const FRS_QUEUEING: Self = Self(0x0021);
    pub const VF_RESIZABLE_BAR: Self = Self(0x0024);
    pub const DATA_LINK_FEATURE: Self = Self(0x0025);
    pub const PHYSICAL_LAYER_16: Self = Self(0x0026);
    pub const LANE_MARGINING: Self = Self(0x0027);
    pub const PHYSICAL_LAYER_32: Self = Self(0x002a);
    pub const DOE: Self = Self(0x002e);
    pub const IDE: Self = Self(0x0030);
    pub const PHYSICAL_LAYER_64: Self = Self(0x0031);
}

/// First DWORD of a capability: ID in bits 7:0, pointer to the next in 15:8.
pub const NEXT: u32 = 0xff00;
/// The pointer's lowest two bits are reserved.
pub const POINTER: u8 = 0xfc;

/// Extended Capability Header: ID in bits 15:0, version in 19:16, offset of the next in 31:20.
pub const EXTENDED_NEXT: u32 = 0xfff0_0000;
/// The ID alone.
pub const EXTENDED_ID: u32 = 0xffff;

/// Most entries the list in the first 256 bytes can have: 192 bytes after the header, four each.
pub const MAX_CAPABILITIES: usize = 48;
/// Most entries the list from 100h on can have: 3840 bytes, eight each, as Linux counts
/// (`pci_find_next_ext_capability`).
pub const MAX_EXTENDED_CAPABILITIES: usize = 480;

/// The ID in the first DWORD of a capability.
pub const fn id_of(dword: u32) -> CapabilityId {
    CapabilityId(dword.to_le_bytes()[0])
}

/// The byte offset of the next capability; 0 ends the list.
pub const fn next_of(dword: u32) -> u8 {
    dword.to_le_bytes()[1] & POINTER
}

/// The ID in an Extended Capability Header.
pub const fn extended_id_of(dword: u32) -> ExtendedCapabilityId {
    let [low, high, ..] = dword.to_le_bytes();
    ExtendedCapabilityId(u16::from_le_bytes([low, high]))
}

/// The byte offset of the next extended capability; 0 ends the list.
pub const fn extended_next_of(dword: u32) -> u16 {
    let [.., low, high] = dword.to_le_bytes();
    (u16::from_le_bytes([low, high]) >> 4) & 0xffc
}

/// Number of DWORDs a capability has; `read` answers the `n`th of them. One for those we know nothing of.
pub fn capability_dwords(id: CapabilityId, mut read: impl FnMut(u16) -> u32) -> u16 {
    match id {
        CapabilityId::POWER_MANAGEMENT
        | CapabilityId::VPD
        | CapabilityId::PCI_X
        | CapabilityId::HOT_PLUG_CONTROLLER
        | CapabilityId::SUBSYSTEM_ID
        | CapabilityId::SATA
        | CapabilityId::ADVANCED_FEATURES => 2,
        CapabilityId::AGP | CapabilityId::MSI_X => 3,
        // 7.7.1: bit 23 of the DWORD is 64-bit Address Capable, bit 24 Per-Vector Masking Capable.
        CapabilityId::MSI => match read(0) >> 23 & 0b11 {
            0b00 => 3,
            0b01 => 4,
            0b10 => 5,
            _ => 6,
        },
        // 7.9.4: Capability Length in bytes, bits 23:16.
        CapabilityId::VENDOR_SPECIFIC => u16::from(read(0).to_le_bytes()[2]).div_ceil(4).max(1),
        CapabilityId::PCI_EXPRESS => super::express::dwords(read(0)),
        CapabilityId::ENHANCED_ALLOCATION => {
            let mut dwords = 1_u16;
            for _ in 0..super::enhanced_allocation::entries(read(0)) {
                let entry = super::enhanced_allocation::entry_size(read(dwords));
                dwords = dwords.saturating_add(entry).saturating_add(1);
            }
            dwords
        }
        _ => 1,
    }
}

/// The DWORD of an extended capability its control register is in: Root Error Command for Advanced Error Reporting
/// (7.8.4.9), for most others the one after the header.
pub const fn extended_control_dword(id: ExtendedCapabilityId) -> u16 {
    match id {
        ExtendedCapabilityId::AER => 11,
        _ => 1,
    }
}

/// Number of DWORDs an extended capability has; `read` answers the `n`th of them. One for those we know nothing of.
pub fn extended_capability_dwords(id: ExtendedCapabilityId, mut read: impl FnMut(u16) -> u32) -> u16 {
    match id {
        // 7.7.7: a DWORD for each lane, of which no endpoint has more than 16.
        ExtendedCapabilityId::AER | ExtendedCapabilityId::LANE_MARGINING => 18,
        ExtendedCapabilityId::VIRTUAL_CHANNEL
        | ExtendedCapabilityId::MFVC
        | ExtendedCapabilityId::VIRTUAL_CHANNEL_MFVC => {
            // 7.9.1: Extended VC Count, bits 2:0 of the second DWORD; three DWORDs for each Virtual Channel.
            let channels = u16::from(read(1).to_le_bytes()[0] & 0b111).saturating_add(1);
            channels.saturating_mul(3).saturating_add(4)
        }
        ExtendedCapabilityId::DEVICE_SERIAL_NUMBER
        | ExtendedCapabilityId::PTM
        | ExtendedCapabilityId::DATA_LINK_FEATURE => 3,
        ExtendedCapabilityId::ACS
        | ExtendedCapabilityId::ARI
        | ExtendedCapabilityId::ATS
        | ExtendedCapabilityId::LTR
        | ExtendedCapabilityId::PASID => 2,
        ExtendedCapabilityId::SR_IOV => super::sriov::DWORDS,
        ExtendedCapabilityId::PAGE_REQUEST => 4,
        // 7.8.6.3: Number of Resizable BARs, bits 7:5 of the first control register; two DWORDs for each.
        ExtendedCapabilityId::RESIZABLE_BAR | ExtendedCapabilityId::VF_RESIZABLE_BAR => {
            let bars = u16::from(read(2).to_le_bytes()[0] >> 5);
            bars.saturating_mul(2).saturating_add(1)
        }
        ExtendedCapabilityId::TPH_REQUESTER => {
            // 7.9.13.2: a Steering Tag table in the structure (location 1) of Table Size + 1 entries, two bytes each.
            let capability = read(1);
            let [_, _, low, high] = capability.to_le_bytes();
            let entries = (u16::from_le_bytes([low, high]) & 0x7ff).saturating_add(1);
            if capability >> 9 & 0b11 == 1 { entries.div_ceil(2).saturating_add(3) } else { 3 }
        }
        // 7.7.3, 7.7.5, 7.7.6, 7.7.12: with 16 lanes.
        ExtendedCapabilityId::SECONDARY_PCI_EXPRESS => 11,
        ExtendedCapabilityId::PHYSICAL_LAYER_16
        | ExtendedCapabilityId::PHYSICAL_LAYER_32
        | ExtendedCapabilityId::PHYSICAL_LAYER_64 => 12,
        ExtendedCapabilityId::L1_PM_SUBSTATES => 5,
        ExtendedCapabilityId::DPC => 16,
        ExtendedCapabilityId::DOE => 6,
        _ => 1,
    }
}
