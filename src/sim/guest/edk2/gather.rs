//! `GatherDeviceInfo` and `GatherPpbInfo`: what a function is and needs.

use std::format;
use std::vec::Vec;

use super::{BAR0, COMMAND, Edk2, bar_type};
use crate::address::Bdf;
use crate::sim::guest::capability::{find, find_extended};
use crate::sim::guest::tree::{Device, Resource};
use crate::spec::bar::BarKind;
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::express::PortType;
use crate::spec::header::{ClassCode, Command, HeaderType};

impl Edk2<'_> {
    /// `GatherDeviceInfo`, `GatherPpbInfo`.
    pub(super) fn gather(&mut self, bdf: Bdf, header: &[u32; 16], parent: Option<Bdf>) {
        let header_type = HeaderType::of(header[3]);
        let kind = if header_type == Some(HeaderType::Type1) { "PPB" } else { "PCI" };
        let place = format!("[{:02X}|{:02X}|{:02X}]", bdf.bus(), bdf.device(), bdf.function());
        let id = header[0];
        let (vendor, device) = (id & 0xffff, id >> 16);
        self.log.push(format!("PciBus: Discovered {kind} @ {place}  [VID = {vendor:#x}, DID = {device:#x}]"));
        let Some(header_type) = header_type else { return };
        let owned = Command::IO_SPACE_ENABLE | Command::MEMORY_SPACE_ENABLE | Command::BUS_MASTER_ENABLE;
        let command = self.config.read16(bdf, COMMAND);
        self.config.write16(bdf, COMMAND, command & !owned.bits());
        let mut bars = self.parse_bars(bdf, header_type);
        if header_type == HeaderType::Type1 {
            self.init_bridge(bdf);
        }
        bars.extend(self.parse_rom(bdf, header_type));
        let config = &mut self.config;
        let express = find(config, bdf, header_type, CapabilityId::PCI_EXPRESS);
        let port_type = express.map(|at| PortType::of(u32::from(config.read16(bdf, at + 2)) << 16));
        let extended = express.is_some() && config.read32(bdf, 0x100) != !0;
        if extended {
            self.enable_ari(bdf, parent);
        }
        let class = ClassCode::of(header[2]);
        self.devices.push(Device {
            bdf,
            parent,
            id,
            revision: header[2].to_le_bytes()[0],
            class,
            header_type,
            multi_function: header[3] & 0x0080_0000 != 0,
            port_type,
            config_size: if extended { 4096 } else { 256 },
            capabilities: Vec::new(),
            extended_capabilities: Vec::new(),
            bars,
            vf_bars: Vec::new(),
            bus_range: None,
            windows: Vec::new(),
            enabled: false,
        });
    }

    /// `CreatePciIoDevice`: a function with ARI below a port that can forward it makes the port do so.
    fn enable_ari(&mut self, bdf: Bdf, parent: Option<Bdf>) {
        const ARI_FORWARDING: u32 = 1 << 5;
        let Some(bridge) = parent else { return };
        let config = &mut self.config;
        if find_extended(config, bdf, ExtendedCapabilityId::ARI).is_none() {
            return;
        }
        let Some(at) = find(config, bridge, HeaderType::Type1, CapabilityId::PCI_EXPRESS) else { return };
        if config.read32(bridge, at + 0x24) & ARI_FORWARDING != 0 {
            let control = config.read32(bridge, at + 0x28);
            if control & ARI_FORWARDING == 0 {
                config.write32(bridge, at + 0x28, control | ARI_FORWARDING);
            }
        }
    }

    /// `PciParseBar` for each register: `BarExisted` writes all ones, reads, restores.
    fn parse_bars(&mut self, bdf: Bdf, header_type: HeaderType) -> Vec<Resource> {
        let mut bars = Vec::new();
        let mut index = 0;
        while index < header_type.bars() {
            let offset = BAR0 + 4 * u16::try_from(index).unwrap_or_default();
            let low = self.size_register(bdf, offset, !0);
            let kind = BarKind::of(low);
            let mut sized = u64::from(low & !kind.type_mask());
            if kind.is_64_bit() {
                sized |= u64::from(self.size_register(bdf, offset + 4, !0)) << 32;
            } else if sized != 0 {
                // The upper bits of an I/O BAR may be hardwired to zero.
                sized |= u64::from(u32::MAX) << 32;
            }
            let size = sized & sized.wrapping_neg();
            if low != 0 && low != !0 && size != 0 {
                bars.push(Resource { bar: index, kind, size, span: None });
                let name = bar_type(kind);
                let (slot, align) = (bars.len() - 1, size - 1);
                self.log.push(format!(
                    "   BAR[{slot}]: Type = {name}; Alignment = {align:#X};\tLength = {size:#X};\tOffset = 0x{offset:02X}"
                ));
            }
            index += if kind.is_64_bit() { 2 } else { 1 };
        }
        bars
    }

    /// `PciParseBar`'s sibling for Option ROMs, which get their address only while they are read.
    fn parse_rom(&mut self, bdf: Bdf, header_type: HeaderType) -> Option<Resource> {
        let sized = self.size_register(bdf, header_type.rom()?.offset(), 0xffff_fffe) & 0xffff_f800;
        let size = u64::from(sized & sized.wrapping_neg());
        (size > 0).then_some(Resource { bar: Resource::ROM, kind: BarKind::Rom, size, span: None })
    }

    fn size_register(&mut self, bdf: Bdf, offset: u16, mask: u32) -> u32 {
        let before = self.config.read32(bdf, offset);
        self.config.write32(bdf, offset, mask);
        let sized = self.config.read32(bdf, offset);
        self.config.write32(bdf, offset, before);
        sized
    }

    /// `GatherPpbInfo` and `InitializePpb`: which windows there are, and all of them closed.
    fn init_bridge(&mut self, bdf: Bdf) {
        let config = &mut self.config;
        let before = config.read16(bdf, 0x24);
        config.write16(bdf, 0x24, 0xffff);
        let pref = config.read16(bdf, 0x24);
        config.write16(bdf, 0x24, before);
        if pref & 0xf == 1 {
            self.wide_windows.insert(bdf);
        }
        config.write8(bdf, 0x1c, 0xff);
        config.write8(bdf, 0x1d, 0x00);
        for (base, limit) in [(0x20, 0x22), (0x24, 0x26)] {
            config.write16(bdf, base, 0xffff);
            config.write16(bdf, limit, 0x0000);
        }
        config.write32(bdf, 0x28, !0);
        config.write32(bdf, 0x2c, 0);
    }
}
