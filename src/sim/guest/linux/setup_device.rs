//! `pci_setup_device`: what is read of a function when it is found.

use std::vec::Vec;

use super::interrupts::Interrupts;
use super::power::Power;
use super::ptm::Ptm;
use super::resource::{self, Flags, Resource};
use super::{Dev, Found, Linux, Release};
use crate::address::Bdf;
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::header::{ClassCode, Command, HeaderType};

const COMMAND: u16 = 0x04;
const CLASS: u16 = 0x08;
const HEADER_TYPE: u16 = 0x0e;
const INTERRUPT_LINE: u16 = 0x3c;
const INTERRUPT_PIN: u16 = 0x3d;

impl Linux<'_> {
    /// Returns the new function's number; `None` for a header layout nobody knows. Of a virtual function BARs and pin
    /// are not looked at.
    pub(super) fn setup_device(&mut self, bus: usize, bdf: Bdf, id: u32, physical: Option<usize>) -> Option<usize> {
        let header_type = self.config.read8(bdf, HEADER_TYPE);
        let header = HeaderType::of(u32::from(header_type) << 16);
        let dev = self.devices.len();
        self.devices.push(Dev {
            bdf,
            bus,
            id,
            revision: 0,
            class: ClassCode(0),
            header: header.unwrap_or(HeaderType::Type0),
            multi_function: header_type & 0x80 != 0,
            config_size: 256,
            express: None,
            port_type: None,
            pin: 0,
            transparent: false,
            implemented: Flags::empty(),
            hotplug: false,
            ari_enabled: false,
            sriov: None,
            virtual_functions: (0, 0),
            physical,
            resources: [Resource::default(); resource::COUNT],
            subordinate: None,
            enabled: false,
            is_master: false,
            is_removed: false,
            express_flags: 0,
            device_capabilities: 0,
            ltr_path: false,
            rrs_visible: false,
            found: Found::default(),
            power: Power::default(),
            ptm: Ptm::default(),
            link: None,
            slot: None,
            driver: None,
            interrupts: Interrupts::None,
            reset_methods: Vec::new(),
            saved: None,
        });
        self.set_pcie_port_type(bus, dev);
        let class = self.read32(dev, CLASS);
        self.devices[dev].class = ClassCode::of(class);
        self.devices[dev].revision = class.to_le_bytes()[0];
        self.devices[dev].config_size = self.config_space_size(bus, dev);
        // set_pcie_thunderbolt looks for Intel's vendor-specific capability.
        if self.devices[dev].express.is_some() {
            let _ = self.find_extended(dev, ExtendedCapabilityId::VENDOR_SPECIFIC);
        }
        self.announce(dev, header_type & 0x7f);
        if physical.is_none() {
            self.intx_mask_broken(dev);
        }
        let Some(header) = header else {
            self.info(dev, format_args!("unknown header type {:02x}, ignoring device", header_type & 0x7f));
            self.devices.pop();
            return None;
        };
        self.setup_header(dev, header);
        Some(dev)
    }

    /// `set_pcie_port_type`.
    fn set_pcie_port_type(&mut self, bus: usize, dev: usize) {
        let Some(at) = self.find(dev, CapabilityId::PCI_EXPRESS) else { return };
        let flags = self.read16(dev, at + 2);
        let [low, _] = flags.to_le_bytes();
        let read = low >> 4;
        self.devices[dev].express_flags = flags;
        self.devices[dev].device_capabilities = self.read32(dev, at + 4);
        // A corrected type is ORed in without its shift, so the port ends up with type 0.
        let port = match (read, self.upstream_port_type(bus)) {
            (6, Some(above)) if Self::leads_down(above) => {
                self.info(dev, "claims to be downstream port but is acting as upstream port, correcting type");
                0
            }
            (5, Some(5)) => {
                self.info(dev, "claims to be upstream port but is acting as downstream port, correcting type");
                0
            }
            _ => read,
        };
        self.devices[dev].express = Some((at, port));
        self.devices[dev].port_type = Some(read);
    }

    /// `pci_cfg_space_size`.
    fn config_space_size(&mut self, bus: usize, dev: usize) -> u16 {
        if self.devices[dev].physical.is_some() {
            return 4096;
        }
        if self.buses[bus].no_extended_config {
            return 256;
        }
        let Dev { class, express, .. } = self.devices[dev];
        if !class.is_host_bridge() && express.is_none() && !self.is_pci_x_mode_2(dev) {
            return 256;
        }
        if self.read32(dev, 0x100) == !0 || self.is_extended_config_aliased(dev) { 256 } else { 4096 }
    }

    /// `pci_ext_cfg_is_aliased`: some bridges show the first 256 bytes sixteen times.
    fn is_extended_config_aliased(&mut self, dev: usize) -> bool {
        let id = self.read32(dev, 0);
        (0x100..0x1000).step_by(0x100).all(|offset| self.read32(dev, offset) == id)
    }

    fn announce(&mut self, dev: usize, header_type: u8) {
        let Dev { id, class, express, .. } = self.devices[dev];
        let [device_high, device_low, vendor_high, vendor_low] = id.to_be_bytes();
        let vendor = u16::from_be_bytes([vendor_high, vendor_low]);
        let device = u16::from_be_bytes([device_high, device_low]);
        let kind = match (self.release, express) {
            (Release::V6_1, _) => "",
            (Release::V6_15, Some((_, port))) => express_type(port),
            (Release::V6_15, None) => conventional_type(header_type),
        };
        let class = class.0;
        self.info(dev, format_args!("[{vendor:04x}:{device:04x}] type {header_type:02x} class {class:#08x}{kind}"));
    }

    /// `pci_intx_mask_broken`: toggles Interrupt Disable and puts it back.
    fn intx_mask_broken(&mut self, dev: usize) {
        let before = self.read16(dev, COMMAND);
        self.write16(dev, COMMAND, before ^ Command::INTERRUPT_DISABLE.bits());
        let _toggled = self.read16(dev, COMMAND);
        self.write16(dev, COMMAND, before);
    }

    fn setup_header(&mut self, dev: usize, header: HeaderType) {
        let class = self.devices[dev].class;
        let fits = match header {
            HeaderType::Type0 => !class.is_pci_bridge(),
            HeaderType::Type1 => true,
            HeaderType::CardBus => class.class() == 0x0607,
        };
        if !fits {
            let (class, number) = (class.0, if header == HeaderType::Type0 { 0 } else { 2 });
            self.info(dev, format_args!("ignoring class {class:#08x} (doesn't match header type {number:02x})"));
            self.devices[dev].class = ClassCode(0);
            return;
        }
        self.devices[dev].transparent = header == HeaderType::Type1 && class.0 & 0xff == 1;
        if self.devices[dev].physical.is_some() {
            return;
        }
        self.read_irq(dev);
        self.read_bases(dev);
        match header {
            HeaderType::Type0 => {
                let _subsystem_vendor = self.read16(dev, 0x2c);
                let _subsystem = self.read16(dev, 0x2e);
            }
            HeaderType::Type1 => {
                self.read_bridge_windows(dev);
                self.set_pcie_hotplug_bridge(dev);
                if let Some(at) = self.find(dev, CapabilityId::SUBSYSTEM_ID) {
                    let _subsystem_vendor = self.read16(dev, at + 4);
                    let _subsystem = self.read16(dev, at + 6);
                }
            }
            HeaderType::CardBus => {
                let _subsystem_vendor = self.read16(dev, 0x40);
                let _subsystem = self.read16(dev, 0x42);
            }
        }
    }

    /// `pci_read_irq`.
    fn read_irq(&mut self, dev: usize) {
        let bdf = self.devices[dev].bdf;
        let pin = self.config.read8(bdf, INTERRUPT_PIN);
        if pin != 0 {
            let _line = self.config.read8(bdf, INTERRUPT_LINE);
        }
        self.devices[dev].pin = pin;
    }

    /// `set_pcie_hotplug_bridge`: Slot Capabilities, Hot-Plug Capable.
    fn set_pcie_hotplug_bridge(&mut self, dev: usize) {
        const HOT_PLUG_CAPABLE: u32 = 1 << 6;
        // pcie_capability_reg_implemented: only ports with a slot have the register.
        if let Some((at, 4 | 6)) = self.devices[dev].express
            && self.read16(dev, at + 2) & 1 << 8 != 0
        {
            self.devices[dev].hotplug = self.read32(dev, at + 0x14) & HOT_PLUG_CAPABLE != 0;
        }
    }
}

/// `pci_type_str` of a PCI Express function.
fn express_type(port: u8) -> &'static str {
    match port {
        0 => " PCIe Endpoint",
        1 => " PCIe Legacy Endpoint",
        4 => " PCIe Root Port",
        5 => " PCIe Switch Upstream Port",
        6 => " PCIe Switch Downstream Port",
        7 => " PCIe to PCI/PCI-X bridge",
        8 => " PCI/PCI-X to PCIe bridge",
        9 => " PCIe Root Complex Integrated Endpoint",
        10 => " PCIe Root Complex Event Collector",
        _ => " PCIe unknown",
    }
}

/// `pci_type_str` of any other function.
fn conventional_type(header_type: u8) -> &'static str {
    match header_type {
        0 => " conventional PCI endpoint",
        1 => " conventional PCI bridge",
        2 => " CardBus bridge",
        _ => " conventional PCI",
    }
}
