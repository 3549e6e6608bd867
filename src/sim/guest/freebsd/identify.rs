//! `pci_add_children`: which addresses are looked at, and what is read there.

use std::format;
use std::vec::Vec;

use super::{COMMAND, FreeBsd};
use crate::address::Bdf;
use crate::sim::guest::capability::{find, find_extended};
use crate::sim::guest::tree::Device;
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::express::PortType;
use crate::spec::header::{ClassCode, HeaderType};

const VENDOR: u16 = 0x00;
const HEADER_TYPE: u16 = 0x0e;

impl FreeBsd<'_> {
    /// `pci_add_children`.
    pub(super) fn add_children(&mut self, bus: usize) {
        let number = self.buses[bus].number;
        let first = self.identify_function(bus, Bdf::from_routing_id(u16::from_be_bytes([number, 0])));
        if let Some(first) = first {
            self.try_enable_ari(bus, first);
        }
        let functions = self.buses[bus].functions;
        let slots = if functions > 8 { 1 } else { 32 };
        for slot in 0..slots {
            let zero = Bdf::from_routing_id(u16::from_be_bytes([number, slot << 3]));
            let header_type = self.config.read8(zero, HEADER_TYPE);
            if header_type & 0x7f > 2 {
                continue;
            }
            let count = if header_type & 0x80 == 0 { 1 } else { functions };
            for function in u16::from(slot == 0)..count {
                self.identify_function(bus, Bdf::from_routing_id(zero.routing_id() + function));
            }
        }
    }

    /// `pci_read_device`, `pci_fill_devinfo`.
    fn identify_function(&mut self, bus: usize, bdf: Bdf) -> Option<usize> {
        if self.config.read16(bdf, VENDOR) == 0xffff {
            return None;
        }
        let vendor = self.config.read16(bdf, VENDOR);
        let device = self.config.read16(bdf, 0x02);
        let command = self.config.read16(bdf, COMMAND);
        let status = self.config.read16(bdf, 0x06);
        let [base, sub, interface, revision] = [0x0b, 0x0a, 0x09, 0x08].map(|offset| self.config.read8(bdf, offset));
        let raw = self.config.read8(bdf, HEADER_TYPE);
        let [cache_line, latency, pin, _line] = [0x0c, 0x0d, 0x3d, 0x3c].map(|offset| self.config.read8(bdf, offset));
        let header_type = HeaderType::of(u32::from(raw) << 16)?;
        let config = &mut self.config;
        let express = find(config, bdf, header_type, CapabilityId::PCI_EXPRESS);
        let port_type = express.map(|at| PortType::of(u32::from(config.read16(bdf, at + 2)) << 16));
        let extended = express.is_some() && config.read32(bdf, 0x100) != !0;
        let parent = self.buses[bus].bridge.map(|bridge| self.devices[bridge].bdf);
        self.log.push(format!("found->\tvendor={vendor:#06x}, dev={device:#06x}, revid={revision:#04x}"));
        let segment = self.config.firmware.segment;
        let (slot, function) =
            if self.buses[bus].functions > 8 { (0, bdf.devfn()) } else { (bdf.device(), bdf.function()) };
        self.log.push(format!("\tdomain={segment}, bus={}, slot={slot}, func={function}", bdf.bus()));
        let multi = u8::from(raw & 0x80 != 0);
        self.log
            .push(format!("\tclass={base:02x}-{sub:02x}-{interface:02x}, hdrtype={:#04x}, mfdev={multi}", raw & 0x7f));
        self.log.push(format!("\tcmdreg={command:#06x}, statreg={status:#06x}, cachelnsz={cache_line} (dwords)"));
        self.log.push(format!(
            "\tlattimer={latency:#04x} ({} ns), mingnt=0x00 (0 ns), maxlat=0x00 (0 ns)",
            u32::from(latency) * 30
        ));
        if pin > 0 {
            self.log.push(format!("\tintpin={}, irq=0", char::from(b'a'.wrapping_add(pin.wrapping_sub(1) & 3))));
        }
        self.devices.push(Device {
            bdf,
            parent,
            id: u32::from(device) << 16 | u32::from(vendor),
            revision,
            class: ClassCode(u32::from_be_bytes([0, base, sub, interface])),
            header_type,
            multi_function: multi == 1,
            port_type,
            config_size: if extended { 4096 } else { 256 },
            capabilities: Vec::new(),
            extended_capabilities: Vec::new(),
            bars: Vec::new(),
            vf_bars: Vec::new(),
            bus_range: None,
            windows: Vec::new(),
            enabled: false,
        });
        let dev = self.devices.len() - 1;
        self.add_maps(dev);
        Some(dev)
    }

    /// `pcib_try_enable_ari`: the port must forward, function 0 must have version 1 of the capability.
    fn try_enable_ari(&mut self, bus: usize, dev: usize) {
        const ARI_FORWARDING: u32 = 1 << 5;
        let Some(bridge) = self.buses[bus].bridge else { return };
        let (bridge_bdf, bdf) = (self.devices[bridge].bdf, self.devices[dev].bdf);
        let config = &mut self.config;
        let Some(at) = find(config, bridge_bdf, HeaderType::Type1, CapabilityId::PCI_EXPRESS) else { return };
        if config.read32(bridge_bdf, at + 0x24) & ARI_FORWARDING == 0 || self.devices[dev].config_size <= 256 {
            return;
        }
        let Some(ari) = find_extended(config, bdf, ExtendedCapabilityId::ARI) else { return };
        if config.read32(bdf, ari) >> 16 & 0xf != 1 {
            return;
        }
        let control = config.read32(bridge_bdf, at + 0x28);
        config.write32(bridge_bdf, at + 0x28, control | ARI_FORWARDING);
        self.buses[bus].functions = 256;
    }
}
