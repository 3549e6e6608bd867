//! The scan x86 Linux makes before everything else, `early_pci_scan_bus`: ports only, all 32 devices, class first.

use std::collections::BTreeSet;

use super::config::Config;
use crate::address::Bdf;

/// Reads what the early quirks are matched by, from bus 0 on. Each bus is scanned once: Linux would scan one again that
/// several bridges claim, which need not end.
pub(super) fn scan(config: &mut Config<'_>) {
    if config.ports {
        scan_bus(config, 0, &mut BTreeSet::new());
    }
}

fn scan_bus(config: &mut Config<'_>, bus: u8, seen: &mut BTreeSet<u8>) {
    if !seen.insert(bus) {
        return;
    }
    for device in 0..32 {
        for function in 0..8 {
            let Some(bdf) = Bdf::new(bus, device, function) else { continue };
            if !check_dev_quirk(config, bdf, seen) {
                break;
            }
        }
    }
}

/// Whether the next function is worth a look.
fn check_dev_quirk(config: &mut Config<'_>, bdf: Bdf, seen: &mut BTreeSet<u8>) -> bool {
    if config.read16(bdf, 0x0a) == 0xffff {
        return false;
    }
    let _vendor = config.read16(bdf, 0x00);
    let _device = config.read16(bdf, 0x02);
    let header_type = config.read8(bdf, 0x0e);
    if header_type & 0x7f == 1 {
        let secondary = config.read8(bdf, 0x19);
        if secondary > bdf.bus() {
            scan_bus(config, secondary, seen);
        }
    }
    header_type & 0x80 != 0
}
