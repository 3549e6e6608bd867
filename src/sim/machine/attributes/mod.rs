//! Which bits of which register software can change.
//!
//! What no table names is read-only: reserved registers, capabilities not listed here, and the device-specific space
//! between them. Hardware has writable registers there, but what they do is not ours to model, and a register that
//! takes any value would hide mistakes of the software under test.

mod reset;
mod tables;

use std::vec;
use std::vec::Vec;

pub use reset::Reset;
pub(super) use reset::{AtReset, of as at_reset};
use tables::Row;

use super::capabilities;
use super::function::Bar;
use crate::access::{Dword, Lanes};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::express::{self, PortType};
use crate::spec::header::{self, HeaderType};
use crate::spec::{bar, enhanced_allocation, sriov, type1};

/// Attributes of the bits of one DWORD. A bit in neither mask is RO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// RW: reads what was written.
    pub rw: u32,
    /// RW1C: writing a one clears it.
    pub rw1c: u32,
}

impl Attributes {
    /// What the register holds after a write.
    pub fn write(self, old: u32, lanes: Lanes, new: u32) -> u32 {
        let lanes = lanes.mask();
        let merged = old & !(self.rw & lanes) | new & self.rw & lanes;
        merged & !(new & self.rw1c & lanes)
    }
}

/// The attributes of every DWORD of a function.
///
/// `bars` are the decoders at the header's BAR registers and the ROM, `vf_bars` those of SR-IOV.
pub(super) fn of(config: &[u32], bars: &[Option<Bar>; 7], vf_bars: &[Option<Bar>; 6]) -> Vec<Attributes> {
    let mut table = Table { config, attributes: vec![Attributes::default(); config.len()] };
    let Some(kind) = capabilities::header_type(config) else { return table.attributes };
    let (standard_list, extended_list) = (capabilities::standard(config), capabilities::extended(config));
    let express = standard_list.find(CapabilityId::PCI_EXPRESS);
    let port = express.map(|at| PortType::of(table.value(at)));

    table.rows(Dword::holding(0), tables::COMMON);
    if express.is_none() {
        table.rows(Dword::holding(0), tables::CONVENTIONAL);
    }
    match kind {
        HeaderType::Type0 => (),
        HeaderType::Type1 => {
            table.rows(Dword::holding(0), tables::TYPE_1);
            windows(&mut table);
        }
        HeaderType::CardBus => table.rows(Dword::holding(0), tables::CARD_BUS),
    }
    table.bars(header::BAR0, &bars[..kind.bars()]);
    if let (Some(rom), Some(decoder)) = (kind.rom(), bars[super::ROM]) {
        table.bars(rom, &[Some(decoder)]);
        table.row(rom, 0, bar::ROM_ENABLE, 0);
    }
    for (id, at) in standard_list.entries {
        table.rows(at, tables::standard(id));
        match id {
            CapabilityId::MSI => msi(&mut table, at),
            CapabilityId::PCI_EXPRESS => express_registers(&mut table, at),
            CapabilityId::ENHANCED_ALLOCATION => enhanced_allocation_enables(&mut table, at, kind),
            _ => (),
        }
    }
    for (id, at) in extended_list.entries {
        table.rows(at, tables::extended(id));
        match id {
            ExtendedCapabilityId::AER
                if matches!(port, Some(PortType::RootPort | PortType::RootComplexEventCollector)) =>
            {
                table.rows(at, tables::AER_ROOT);
            }
            // 7.7.11: what ACS Capability has, ACS Control can enable.
            ExtendedCapabilityId::ACS => {
                let offered = at.plus(1).map_or(0, |capability| table.value(capability) & 0x7f);
                table.row(at, 1, offered << 16, 0);
            }
            ExtendedCapabilityId::RESIZABLE_BAR | ExtendedCapabilityId::VF_RESIZABLE_BAR => {
                resizable_bars(&mut table, at);
            }
            ExtendedCapabilityId::SR_IOV => {
                if let Some(first) = at.plus(sriov::VF_BAR0) {
                    table.bars(first, vf_bars);
                }
            }
            _ => (),
        }
    }
    table.attributes
}

/// The optional windows of a bridge. One whose registers read all zero does not exist (7.5.1.3.6, 7.5.1.3.9).
fn windows(table: &mut Table<'_>) {
    let io = table.value(type1::IO_WINDOW) & 0xffff;
    if io != 0 {
        table.row(type1::IO_WINDOW, 0, 0xf0f0, 0);
    }
    if io & 0xf == 1 {
        table.row(type1::IO_UPPER, 0, !0, 0);
    }
    let prefetchable = table.value(type1::PREFETCHABLE_WINDOW);
    if prefetchable != 0 {
        table.row(type1::PREFETCHABLE_WINDOW, 0, 0xfff0_fff0, 0);
    }
    if prefetchable & 0xf == 1 {
        table.row(type1::PREFETCHABLE_BASE_UPPER, 0, !0, 0);
        table.row(type1::PREFETCHABLE_LIMIT_UPPER, 0, !0, 0);
    }
}

/// MSI (7.7.1): the layout depends on 64-bit Address Capable and Per-Vector Masking Capable.
fn msi(table: &mut Table<'_>, at: Dword) {
    let control = table.value(at) >> 16;
    table.row(at, 0, 0x0071_0000, 0);
    table.row(at, 1, 0xffff_fffc, 0);
    let data = if control & 0x80 == 0 { 2 } else { 3 };
    if data == 3 {
        table.row(at, 2, !0, 0);
    }
    table.row(at, data, 0xffff, 0);
    if control & 0x100 != 0 {
        table.row(at, data + 1, !0, 0);
    }
}

/// PCI Express Capability: which registers exist depends on the port type and the version (7.5.3, table 7-15).
fn express_registers(table: &mut Table<'_>, at: Dword) {
    let first = table.value(at);
    let port = PortType::of(first);
    let version_2 = first >> 16 & 0xf >= 2;
    let link = !matches!(port, PortType::RootComplexIntegratedEndpoint | PortType::RootComplexEventCollector);
    table.rows(at, tables::EXPRESS_DEVICE);
    if link {
        table.rows(at, tables::EXPRESS_LINK);
    }
    if port.leads_down_a_link() {
        table.rows(at, tables::EXPRESS_LINK_BELOW);
    }
    if first & express::SLOT_IMPLEMENTED != 0 && port.leads_down_a_link() {
        table.rows(at, tables::EXPRESS_SLOT);
    }
    if matches!(port, PortType::RootPort | PortType::RootComplexEventCollector) {
        table.rows(at, tables::EXPRESS_ROOT);
    }
    if version_2 {
        table.rows(at, tables::EXPRESS_DEVICE_2);
    }
    if version_2 && link {
        table.rows(at, tables::EXPRESS_LINK_2);
    }
}

/// The Enable of every entry (7.8.5.3).
fn enhanced_allocation_enables(table: &mut Table<'_>, at: Dword, kind: HeaderType) {
    for entry in enhanced_allocation_entries(table.config, at, kind) {
        table.row(entry, 0, enhanced_allocation::ENABLE, 0);
    }
}

/// Where the entries of an Enhanced Allocation capability start. Type 1 headers have their bus numbers before them.
pub(super) fn enhanced_allocation_entries(config: &[u32], at: Dword, kind: HeaderType) -> Vec<Dword> {
    let value = |dword: Dword| config.get(usize::from(dword.index())).copied();
    let mut next = at.plus(if kind == HeaderType::Type1 { 2 } else { 1 });
    let count = value(at).map_or(0, enhanced_allocation::entries);
    let mut entries = Vec::new();
    for _ in 0..count {
        let Some((entry, first)) = next.and_then(|entry| Some((entry, value(entry)?))) else { break };
        entries.push(entry);
        next = entry.plus(enhanced_allocation::entry_size(first) + 1);
    }
    entries
}

/// BAR Size of every Resizable BAR Control register (7.8.6.3).
fn resizable_bars(table: &mut Table<'_>, at: Dword) {
    let count = at.plus(2).map_or(0, |control| table.value(control) >> 5 & 0b111);
    for entry in 0..u16::try_from(count).unwrap_or(0) {
        table.row(at, 2 + 2 * entry, 0x3f00, 0);
    }
}

struct Table<'a> {
    config: &'a [u32],
    attributes: Vec<Attributes>,
}

impl Table<'_> {
    fn value(&self, at: Dword) -> u32 {
        self.config.get(usize::from(at.index())).copied().unwrap_or(0)
    }

    fn rows(&mut self, at: Dword, rows: &[Row]) {
        for Row(offset, rw, rw1c) in rows {
            self.row(at, offset / 4, *rw, *rw1c);
        }
    }

    fn row(&mut self, at: Dword, index: u16, rw: u32, rw1c: u32) {
        let register = at.plus(index).and_then(|at| self.attributes.get_mut(usize::from(at.index())));
        if let Some(attributes) = register {
            attributes.rw |= rw;
            attributes.rw1c |= rw1c;
        }
    }

    fn bars(&mut self, first: Dword, bars: &[Option<Bar>]) {
        for (index, bar) in (0..).zip(bars) {
            let Some(bar) = bar else { continue };
            let [low, high] = bar.writable();
            self.row(first, index, low, 0);
            self.row(first, index + 1, high, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_changes_rw_bits_clears_rw1c_bits_and_leaves_the_rest() {
        let attributes = Attributes { rw: 0x0000_ffff, rw1c: 0x00ff_0000 };
        assert_eq!(attributes.write(0x55ff_1234, Lanes::ALL, 0xaa0f_abcd), 0x55f0_abcd);
        let high_byte = Lanes::new(0b0010).unwrap();
        assert_eq!(attributes.write(0x55ff_1234, high_byte, 0xaa0f_abcd), 0x55ff_ab34);
    }
}
