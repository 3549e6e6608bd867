//! edk2's PciBusDxe: bus numbers are reset and given anew depth first, then every BAR is sized, windows are computed
//! from the bottom up, and everything is programmed. Nothing of what firmware before it did is kept.

use std::collections::BTreeSet;
use std::string::String;
use std::vec::Vec;

use super::Boot;
use super::capability::{list, list_extended};
use super::config::Config;
use super::tree::{Device, DeviceTree, Resource};
use crate::address::Bdf;
use crate::sim::platform::Platform;
use crate::spec::bar::BarKind;
use crate::spec::header::{Command, HeaderType};

mod assign;
mod gather;

const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
const BUS_NUMBERS: u16 = 0x18;
const SUBORDINATE: u16 = 0x1a;

pub(super) fn boot(platform: &mut dyn Platform) -> Boot {
    let mut edk2 =
        Edk2 { config: Config::new(platform), log: Vec::new(), devices: Vec::new(), wide_windows: BTreeSet::new() };
    let roots = edk2.config.firmware.roots.clone();
    for root in &roots {
        let (bus, last) = (*root.buses.start(), *root.buses.end());
        edk2.reset_bus_numbers(bus, &mut BTreeSet::new());
        edk2.scan_bus(bus, &mut bus.clone(), last);
        edk2.collect(bus, None);
        edk2.assign(bus, root);
    }
    for dev in 0..edk2.devices.len() {
        edk2.enable(dev);
    }
    edk2.report(roots.iter().map(|root| *root.buses.start()).collect())
}

struct Edk2<'p> {
    config: Config<'p>,
    log: Vec<String>,
    devices: Vec<Device>,
    /// Bridges with a 64-bit prefetchable window.
    wide_windows: BTreeSet<Bdf>,
}

impl Edk2<'_> {
    /// `PciDevicePresent`: the first DWORD, then all 16 of the header.
    fn header(&mut self, bdf: Bdf) -> Option<[u32; 16]> {
        if self.config.read32(bdf, 0) & 0xffff == 0xffff {
            return None;
        }
        let mut header = [0; 16];
        for (offset, dword) in (0..).step_by(4).zip(&mut header) {
            *dword = self.config.read32(bdf, offset);
        }
        Some(header)
    }

    /// All functions of a bus; a device without function 0 has none.
    fn present(&mut self, bus: u8, mut found: impl FnMut(&mut Self, Bdf, [u32; 16])) {
        for device in 0..32 {
            for function in 0..8 {
                let Some(bdf) = Bdf::new(bus, device, function) else { continue };
                match self.header(bdf) {
                    Some(header) => {
                        found(self, bdf, header);
                        if function == 0 && header[3] & 0x0080_0000 == 0 {
                            break;
                        }
                    }
                    None if function == 0 => break,
                    None => {}
                }
            }
        }
    }

    /// `ResetAllPpbBusNumber`.
    fn reset_bus_numbers(&mut self, bus: u8, seen: &mut BTreeSet<u8>) {
        if !seen.insert(bus) {
            return;
        }
        self.present(bus, |edk2, bdf, header| {
            if is_bridge(&header) {
                let numbers = edk2.config.read32(bdf, BUS_NUMBERS);
                let [_, secondary, ..] = numbers.to_le_bytes();
                if secondary != 0 {
                    edk2.reset_bus_numbers(secondary, seen);
                }
                edk2.config.write32(bdf, BUS_NUMBERS, numbers & 0xff00_0000);
            }
        });
    }

    /// `PciScanBus`: numbers depth first; while a bridge is searched its subordinate number is the highest there is.
    fn scan_bus(&mut self, bus: u8, highest: &mut u8, last: u8) {
        self.present(bus, |edk2, bdf, header| {
            if !is_bridge(&header) || *highest >= last {
                return;
            }
            *highest += 1;
            let secondary = *highest;
            edk2.config.write16(bdf, BUS_NUMBERS, u16::from_le_bytes([bus, secondary]));
            edk2.config.write8(bdf, SUBORDINATE, 0xff);
            edk2.scan_bus(secondary, highest, last);
            edk2.config.write8(bdf, SUBORDINATE, *highest);
        });
    }

    /// `PciPciDeviceInfoCollector`: the functions, now at their final addresses.
    fn collect(&mut self, bus: u8, parent: Option<Bdf>) {
        self.present(bus, |edk2, bdf, header| {
            edk2.gather(bdf, &header, parent);
            if !is_bridge(&header) {
                return;
            }
            let [_, secondary, subordinate, _] = edk2.config.read32(bdf, BUS_NUMBERS).to_le_bytes();
            // Hardware that did not take its number is left alone; each bus is collected once.
            if secondary > bus && secondary <= subordinate && !edk2.devices.iter().any(|one| one.bdf.bus() == secondary)
            {
                if let Some(device) = edk2.devices.last_mut() {
                    device.bus_range = Some(secondary..=subordinate);
                }
                edk2.collect(secondary, Some(bdf));
            }
        });
    }

    /// `PciEnableCommandRegister` of a function whose BARs all have an address.
    fn enable(&mut self, dev: usize) {
        let device = &self.devices[dev];
        let mut bars = device.bars.iter().filter(|bar| bar.bar != Resource::ROM);
        if bars.clone().any(|bar| bar.span.is_none()) {
            return;
        }
        let forwards = device.header_type == HeaderType::Type1;
        let io = bars.clone().any(|bar| !bar.kind.is_memory());
        let memory = bars.any(|bar| bar.kind.is_memory());
        let mut command = Command::BUS_MASTER_ENABLE;
        command.set(Command::IO_SPACE_ENABLE, io || forwards);
        command.set(Command::MEMORY_SPACE_ENABLE, memory || forwards);
        let bdf = device.bdf;
        let before = self.config.read16(bdf, COMMAND);
        self.config.write16(bdf, COMMAND, before | command.bits());
        self.devices[dev].enabled = true;
    }

    fn report(mut self, roots: Vec<u8>) -> Boot {
        for dev in 0..self.devices.len() {
            let Device { bdf, header_type, config_size, .. } = self.devices[dev];
            self.devices[dev].capabilities = list(&mut self.config, bdf, header_type);
            if config_size > 256 {
                self.devices[dev].extended_capabilities = list_extended(&mut self.config, bdf);
            }
        }
        self.devices.sort_by_key(|device| device.bdf);
        let tree = DeviceTree { segment: self.config.firmware.segment, roots, devices: self.devices };
        Boot { tree, log: self.log }
    }
}

fn is_bridge(header: &[u32; 16]) -> bool {
    HeaderType::of(header[3]) == Some(HeaderType::Type1)
}

fn bar_type(kind: BarKind) -> &'static str {
    match kind {
        BarKind::Io => "  Io16",
        BarKind::Memory32 { prefetchable: false } | BarKind::Rom => " Mem32",
        BarKind::Memory32 { prefetchable: true } => "PMem32",
        BarKind::Memory64 { prefetchable: false } => " Mem64",
        BarKind::Memory64 { prefetchable: true } => "PMem64",
    }
}
