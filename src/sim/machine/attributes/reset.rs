//! What the resets leave of a register, and what it holds after.

use std::vec;
use std::vec::Vec;

use super::capabilities;
use crate::access::Dword;
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::{enhanced_allocation, express, resizable_bar};

/// Kinds of resets, from the one that forgets least on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reset {
    /// Function Level Reset (6.6.2): spares the link.
    Function,
    /// D3hot to D0 without No_Soft_Reset (5.3.1.4.1).
    Soft,
    /// Hot reset (6.6.1): by Secondary Bus Reset, or as the link went down.
    Hot,
    /// Power came back: not even sticky bits survive.
    Cold,
}

/// What happens to the writable bits of one DWORD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::sim::machine) struct AtReset {
    /// Values after a reset.
    default: u32,
    /// Bits that only losing power changes.
    sticky: u32,
    /// Bits that a Function Level Reset spares.
    link: u32,
}

impl AtReset {
    /// The bits that keep their values.
    fn kept(self, reset: Reset) -> u32 {
        match reset {
            Reset::Function => self.sticky | self.link,
            Reset::Soft | Reset::Hot => self.sticky,
            Reset::Cold => 0,
        }
    }

    /// What the register holds after a reset; `writable` are its RW and RW1C bits. The others stay.
    pub(in crate::sim::machine) fn apply(self, reset: Reset, old: u32, writable: u32) -> u32 {
        let lost = writable & !self.kept(reset);
        old & !lost | self.default & lost
    }
}

/// A register of a structure: its byte offset there, default, sticky bits, bits of the link.
struct Row(u16, u32, u32, u32);

/// PME_En and PME_Status.
const POWER_MANAGEMENT: &[Row] = &[Row(0x04, 0, 0x8100, 0)];
/// Device Control: relaxed ordering, no snoop, 512 bytes of Max_Read_Request_Size. Link Control as 6.6.2 lists it.
const EXPRESS: &[Row] = &[
    Row(4 * express::DEVICE_CONTROL, 0x2810, 0, express::MAX_PAYLOAD_SIZE),
    Row(4 * express::LINK_CONTROL, 0, 0, 0x03cb),
    Row(4 * express::LINK_CONTROL_2, 0, 0xffff, 0xffff),
];
/// 7.8.4: statuses, masks and severities are sticky.
const AER: &[Row] = &[
    Row(0x04, 0, !0, 0),
    Row(0x08, 0, !0, 0),
    Row(0x0c, 0x0046_2030, !0, 0),
    Row(0x10, 0, !0, 0),
    Row(0x14, 0x2000, !0, 0),
    Row(0x18, 0, !0, 0),
    Row(0x30, 0, !0, 0),
];
/// System Page Size: 4 KiB.
const SR_IOV: &[Row] = &[Row(0x20, 1, 0, 0)];
/// Virtual channels are the link's: TC/VC maps. Trigger reasons are sticky.
const DPC: &[Row] = &[Row(0x08, 0, !0, 0)];

/// What resets do to every DWORD of a function that was built with these registers.
pub(in crate::sim::machine) fn of(config: &[u32]) -> Vec<AtReset> {
    let mut table = Table { rows: vec![AtReset::default(); config.len()] };
    for (id, at) in capabilities::standard(config).entries {
        match id {
            CapabilityId::POWER_MANAGEMENT => table.rows(at, POWER_MANAGEMENT),
            CapabilityId::PCI_EXPRESS => {
                table.rows(at, EXPRESS);
                // Target Link Speed starts with the highest there is.
                let speed = at.plus(express::LINK_CAPABILITIES).map_or(0, |dword| value(config, dword) & 0xf);
                table.default(at.plus(express::LINK_CONTROL_2), speed);
            }
            // Enables are as firmware finds them.
            CapabilityId::ENHANCED_ALLOCATION => {
                if let Some(kind) = capabilities::header_type(config) {
                    for entry in super::enhanced_allocation_entries(config, at, kind) {
                        table.default(Some(entry), value(config, entry) & enhanced_allocation::ENABLE);
                    }
                }
            }
            _ => (),
        }
    }
    for (id, at) in capabilities::extended(config).entries {
        match id {
            ExtendedCapabilityId::AER => table.rows(at, AER),
            ExtendedCapabilityId::SR_IOV => table.rows(at, SR_IOV),
            ExtendedCapabilityId::DPC => table.rows(at, DPC),
            ExtendedCapabilityId::RESIZABLE_BAR | ExtendedCapabilityId::VF_RESIZABLE_BAR => {
                let count =
                    at.plus(resizable_bar::control(0)).map_or(0, |first| resizable_bar::count(value(config, first)));
                for control in (0..count).filter_map(|bar| at.plus(resizable_bar::control(bar))) {
                    table.default(Some(control), value(config, control) & 0x3f00);
                }
            }
            _ => (),
        }
    }
    table.rows
}

fn value(config: &[u32], dword: Dword) -> u32 {
    config.get(usize::from(dword.index())).copied().unwrap_or(0)
}

struct Table {
    rows: Vec<AtReset>,
}

impl Table {
    fn row(&mut self, at: Option<Dword>) -> Option<&mut AtReset> {
        self.rows.get_mut(usize::from(at?.index()))
    }

    fn rows(&mut self, at: Dword, rows: &[Row]) {
        for Row(offset, default, sticky, link) in rows {
            if let Some(row) = self.row(at.plus(offset / 4)) {
                *row = AtReset { default: *default, sticky: *sticky, link: *link };
            }
        }
    }

    fn default(&mut self, at: Option<Dword>, default: u32) {
        if let Some(row) = self.row(at) {
            row.default = default;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_harder_reset_keeps_less() {
        let register = AtReset { default: 0x0810, sticky: 0x000f, link: 0x00f0 };
        let after = |reset| register.apply(reset, 0xffff_5a5a, 0xffff);
        let resets = [Reset::Function, Reset::Soft, Reset::Hot, Reset::Cold];
        assert_eq!(resets.map(after), [0xffff_085a, 0xffff_081a, 0xffff_081a, 0xffff_0810]);
    }
}
