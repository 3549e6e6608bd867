//! Which bits of which register software can change.
//!
//! What no table names is read-only: reserved registers, capabilities not listed here, and the device-specific space
//! between them. Hardware has writable registers there, but what they do is not ours to model, and a register that
//! takes any value would hide mistakes of the software under test.

use std::vec;
use std::vec::Vec;

use super::capabilities;
use super::function::Bar;
use crate::access::{Dword, Lanes};
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::express::{self, PortType};
use crate::spec::header::{self, HeaderType, Status};
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

/// A register of a structure: its byte offset there, its RW and its RW1C bits.
struct Row(u16, u32, u32);

/// Registers all header types share, for PCI Express functions (7.5.1.1).
const COMMON: &[Row] =
    &[Row(0x04, 0x0547, (Status::RW1C.bits() as u32) << 16), Row(0x0c, 0x0000_00ff, 0), Row(0x3c, 0x0000_00ff, 0)];
/// What only conventional functions have: Memory Write and Invalidate, Latency Timer.
const CONVENTIONAL: &[Row] = &[Row(0x04, 0x0010, 0), Row(0x0c, 0x0000_ff00, 0)];
/// Type 1 (7.5.1.3). The I/O and prefetchable windows are optional, see [`windows`].
const TYPE_1: &[Row] = &[
    Row(0x18, 0x00ff_ffff, 0),
    Row(0x1c, 0, (Status::RW1C.bits() as u32) << 16),
    Row(0x20, 0xfff0_fff0, 0),
    Row(0x3c, 0x005f_0000, 0),
];
/// Type 2: secondary status, bus numbers, windows, Bridge Control (Linux's `PCI_CB_*`).
const CARD_BUS: &[Row] = &[
    Row(0x14, 0, (Status::RW1C.bits() as u32) << 16),
    Row(0x18, 0xffff_ffff, 0),
    Row(0x1c, 0xffff_f000, 0),
    Row(0x20, 0xffff_f000, 0),
    Row(0x24, 0xffff_f000, 0),
    Row(0x28, 0xffff_f000, 0),
    Row(0x2c, 0xffff_fffc, 0),
    Row(0x30, 0xffff_fffc, 0),
    Row(0x34, 0xffff_fffc, 0),
    Row(0x38, 0xffff_fffc, 0),
    Row(0x3c, 0x07ff_0000, 0),
];

/// Capabilities of a fixed layout.
fn standard(id: CapabilityId) -> &'static [Row] {
    match id {
        // PMCSR (7.5.2.2): PowerState, PME_En, Data_Select; PME_Status.
        CapabilityId::POWER_MANAGEMENT => &[Row(0x04, 0x1f03, 0x8000)],
        // AGP Command.
        CapabilityId::AGP => &[Row(0x08, 0xffff_ffff, 0)],
        // Address and F (7.9.18); Data. F does not move by itself here.
        CapabilityId::VPD => &[Row(0x00, 0xffff_0000, 0), Row(0x04, 0xffff_ffff, 0)],
        // PCI-X Command.
        CapabilityId::PCI_X => &[Row(0x00, 0x007f_0000, 0)],
        // Function Mask, MSI-X Enable (7.7.2.2).
        CapabilityId::MSI_X => &[Row(0x00, 0xc000_0000, 0)],
        _ => &[],
    }
}

/// Extended capabilities of a fixed layout.
fn extended(id: ExtendedCapabilityId) -> &'static [Row] {
    match id {
        // 7.8.4: both statuses, masks, severity, ECRC enables; Root Error Command and Status.
        ExtendedCapabilityId::AER => &[
            Row(0x04, 0, 0x07ff_f030),
            Row(0x08, 0x07ff_f030, 0),
            Row(0x0c, 0x07ff_f030, 0),
            Row(0x10, 0, 0xf1c1),
            Row(0x14, 0xf1c1, 0),
            Row(0x18, 0x0140, 0),
        ],
        // 7.8.8: Function Group, enables.
        ExtendedCapabilityId::ARI => &[Row(0x04, 0x0073_0000, 0)],
        // 10.5.1: Enable, Smallest Translation Unit.
        ExtendedCapabilityId::ATS => &[Row(0x04, 0x801f_0000, 0)],
        // 9.3.3: Control, NumVFs, System Page Size.
        ExtendedCapabilityId::SR_IOV => &[Row(0x08, 0x003f, 0), Row(0x10, 0xffff, 0), Row(0x20, 0xffff_ffff, 0)],
        // 10.5.2: Enable; Response Failure, Unexpected Page Request Group Index; Outstanding Page Request Allocation.
        ExtendedCapabilityId::PAGE_REQUEST => &[Row(0x04, 0x1, 0x0003_0000), Row(0x0c, 0xffff_ffff, 0)],
        // 7.9.13: ST Mode Select, TPH Requester Enable.
        ExtendedCapabilityId::TPH_REQUESTER => &[Row(0x08, 0x0307, 0)],
        // 7.8.2: Max Snoop and Max No-Snoop Latency.
        ExtendedCapabilityId::LTR => &[Row(0x04, 0x1fff_1fff, 0)],
        // 7.7.3: Link Control 3; Lane Error Status.
        ExtendedCapabilityId::SECONDARY_PCI_EXPRESS => &[Row(0x04, 0xfe03, 0), Row(0x08, 0, 0xffff_ffff)],
        // 7.8.9: enables.
        ExtendedCapabilityId::PASID => &[Row(0x04, 0x0007_0000, 0)],
        // 7.9.14: Control; Status; RP PIO Status, Mask, Severity, SysError, Exception.
        ExtendedCapabilityId::DPC => &[
            Row(0x04, 0x00bf_0000, 0),
            Row(0x08, 0, 0x0009),
            Row(0x0c, 0, 0x0007_0707),
            Row(0x10, 0x0007_0707, 0),
            Row(0x14, 0x0007_0707, 0),
            Row(0x18, 0x0007_0707, 0),
            Row(0x1c, 0x0007_0707, 0),
        ],
        // 7.8.3: Control 1 and 2.
        ExtendedCapabilityId::L1_PM_SUBSTATES => &[Row(0x08, 0xe3ff_ff0f, 0), Row(0x0c, 0x00fb, 0)],
        // 7.9.15: Enable, Root Select, Effective Granularity.
        ExtendedCapabilityId::PTM => &[Row(0x08, 0xff03, 0)],
        _ => &[],
    }
}

/// PCI Express Capability (7.5.3) as far as every function has it: Device Control and Status.
const EXPRESS_DEVICE: &[Row] = &[Row(4 * express::DEVICE_CONTROL, 0x7fff, 0x000f_0000)];
/// Link Control and Status.
const EXPRESS_LINK: &[Row] = &[Row(4 * express::LINK_CONTROL, 0x0fdb, 0xc000_0000)];
/// Slot Control and Status.
const EXPRESS_SLOT: &[Row] = &[Row(4 * express::SLOT_CONTROL, 0x1fff, 0x011f_0000)];
/// Root Control; Root Status.
const EXPRESS_ROOT: &[Row] =
    &[Row(4 * express::ROOT_CONTROL, 0x001f, 0), Row(4 * express::ROOT_STATUS, 0, 0x0001_0000)];
/// Version 2: Device Control 2.
const EXPRESS_DEVICE_2: &[Row] = &[Row(4 * express::DEVICE_CONTROL_2, 0xf7ff, 0)];
/// Version 2: Link Control 2 and Status 2.
const EXPRESS_LINK_2: &[Row] = &[Row(4 * express::LINK_CONTROL_2, 0xffff, 0x0020_0000)];
/// Root Error Command and Root Error Status of Advanced Error Reporting.
const AER_ROOT: &[Row] = &[Row(0x2c, 0x0007, 0), Row(0x30, 0, 0x007f)];

/// The attributes of every DWORD of a function.
///
/// `bars` are the decoders at the header's BAR registers and the ROM, `vf_bars` those of SR-IOV.
pub(super) fn of(config: &[u32], bars: &[Option<Bar>; 7], vf_bars: &[Option<Bar>; 6]) -> Vec<Attributes> {
    let mut table = Table { config, attributes: vec![Attributes::default(); config.len()] };
    let Some(kind) = capabilities::header_type(config) else { return table.attributes };
    let lists = (capabilities::standard(config), capabilities::extended(config));
    let (standard_list, extended_list) = (lists.0.unwrap_or_default(), lists.1.unwrap_or_default());
    let express = standard_list.iter().find(|(id, _)| *id == CapabilityId::PCI_EXPRESS).map(|(_, at)| *at);
    let port = express.map(|at| PortType::of(table.value(at)));

    table.rows(Dword::holding(0), COMMON);
    if express.is_none() {
        table.rows(Dword::holding(0), CONVENTIONAL);
    }
    match kind {
        HeaderType::Type0 => (),
        HeaderType::Type1 => {
            table.rows(Dword::holding(0), TYPE_1);
            windows(&mut table);
        }
        HeaderType::CardBus => table.rows(Dword::holding(0), CARD_BUS),
    }
    table.bars(header::BAR0, &bars[..kind.bars()]);
    if let (Some(rom), Some(decoder)) = (kind.rom(), bars[super::ROM]) {
        table.bars(rom, &[Some(decoder)]);
        table.row(rom, 0, bar::ROM_ENABLE, 0);
    }
    for (id, at) in standard_list {
        table.rows(at, standard(id));
        match id {
            CapabilityId::MSI => msi(&mut table, at),
            CapabilityId::PCI_EXPRESS => express_registers(&mut table, at),
            CapabilityId::ENHANCED_ALLOCATION => enhanced_allocation_enables(&mut table, at, kind),
            _ => (),
        }
    }
    for (id, at) in extended_list {
        table.rows(at, extended(id));
        match id {
            ExtendedCapabilityId::AER
                if matches!(port, Some(PortType::RootPort | PortType::RootComplexEventCollector)) =>
            {
                table.rows(at, AER_ROOT);
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
    table.rows(at, EXPRESS_DEVICE);
    if link {
        table.rows(at, EXPRESS_LINK);
    }
    if first & express::SLOT_IMPLEMENTED != 0 && port.leads_down_a_link() {
        table.rows(at, EXPRESS_SLOT);
    }
    if matches!(port, PortType::RootPort | PortType::RootComplexEventCollector) {
        table.rows(at, EXPRESS_ROOT);
    }
    if version_2 {
        table.rows(at, EXPRESS_DEVICE_2);
    }
    if version_2 && link {
        table.rows(at, EXPRESS_LINK_2);
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
