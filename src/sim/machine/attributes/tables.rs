//! The tables: registers by byte offset in their structure, with their RW and RW1C bits.

use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::express;
use crate::spec::header::Status;

/// A register of a structure: its byte offset there, its RW and its RW1C bits.
pub(super) struct Row(pub(super) u16, pub(super) u32, pub(super) u32);

/// Registers all header types share, for PCI Express functions (7.5.1.1).
pub(super) const COMMON: &[Row] =
    &[Row(0x04, 0x0547, (Status::RW1C.bits() as u32) << 16), Row(0x0c, 0x0000_00ff, 0), Row(0x3c, 0x0000_00ff, 0)];
/// What only conventional functions have: Memory Write and Invalidate, Latency Timer.
pub(super) const CONVENTIONAL: &[Row] = &[Row(0x04, 0x0010, 0), Row(0x0c, 0x0000_ff00, 0)];
/// Type 1 (7.5.1.3). The I/O and prefetchable windows are optional, see [`windows`].
pub(super) const TYPE_1: &[Row] = &[
    Row(0x18, 0x00ff_ffff, 0),
    Row(0x1c, 0, (Status::RW1C.bits() as u32) << 16),
    Row(0x20, 0xfff0_fff0, 0),
    Row(0x3c, 0x005f_0000, 0),
];
/// Type 2: secondary status, bus numbers, windows, Bridge Control (Linux's `PCI_CB_*`).
pub(super) const CARD_BUS: &[Row] = &[
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
pub(super) fn standard(id: CapabilityId) -> &'static [Row] {
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
pub(super) fn extended(id: ExtendedCapabilityId) -> &'static [Row] {
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
pub(super) const EXPRESS_DEVICE: &[Row] = &[Row(4 * express::DEVICE_CONTROL, 0x7fff, 0x000f_0000)];
/// Link Control. Retrain Link reads zero.
pub(super) const EXPRESS_LINK: &[Row] = &[Row(4 * express::LINK_CONTROL, 0x03cb, 0)];
/// Above a link: Link Disable, interrupt enables; bandwidth statuses.
pub(super) const EXPRESS_LINK_BELOW: &[Row] = &[Row(4 * express::LINK_CONTROL, 0x0c10, 0xc000_0000)];
/// Slot Control and Status.
pub(super) const EXPRESS_SLOT: &[Row] = &[Row(4 * express::SLOT_CONTROL, 0x1fff, 0x011f_0000)];
/// Root Control; Root Status.
pub(super) const EXPRESS_ROOT: &[Row] =
    &[Row(4 * express::ROOT_CONTROL, 0x001f, 0), Row(4 * express::ROOT_STATUS, 0, 0x0001_0000)];
/// Version 2: Device Control 2.
pub(super) const EXPRESS_DEVICE_2: &[Row] = &[Row(4 * express::DEVICE_CONTROL_2, 0xf7ff, 0)];
/// Version 2: Link Control 2 and Status 2.
pub(super) const EXPRESS_LINK_2: &[Row] = &[Row(4 * express::LINK_CONTROL_2, 0xffff, 0x0020_0000)];
/// Root Error Command and Root Error Status of Advanced Error Reporting.
pub(super) const AER_ROOT: &[Row] = &[Row(0x2c, 0x0007, 0), Row(0x30, 0, 0x007f)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_of_any_table_is_both_rw_and_rw1c() {
        let fixed = [
            COMMON,
            CONVENTIONAL,
            TYPE_1,
            CARD_BUS,
            EXPRESS_DEVICE,
            EXPRESS_LINK,
            EXPRESS_LINK_BELOW,
            EXPRESS_SLOT,
            EXPRESS_ROOT,
            EXPRESS_DEVICE_2,
            EXPRESS_LINK_2,
            AER_ROOT,
        ];
        let standard = (0..=u8::MAX).map(|id| standard(CapabilityId(id)));
        let extended = (0..=u16::MAX).map(|id| extended(ExtendedCapabilityId(id)));
        for Row(offset, rw, rw1c) in fixed.into_iter().chain(standard).chain(extended).flatten() {
            assert_eq!((offset % 4, rw & rw1c), (0, 0), "{offset:#x}");
        }
    }
}
