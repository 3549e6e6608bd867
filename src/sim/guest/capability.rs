//! Capability lists as the guests read them. Garbage lists end after as many entries as fit.

use std::vec::Vec;

use super::config::Config;
use crate::address::Bdf;
use crate::spec::capability::{
    self, CapabilityId, ExtendedCapabilityId, MAX_CAPABILITIES, MAX_EXTENDED_CAPABILITIES, extended_id_of,
    extended_next_of,
};
use crate::spec::header::{HeaderType, Status};

/// Offset of Status.
const STATUS: u16 = 0x06;
/// Offset of the first extended capability.
const EXTENDED: u16 = 0x100;

/// The list in the first 256 bytes, one word for each entry, up to the first entry that is `wanted`
/// (Linux's `__pci_find_next_cap_ttl`).
fn walk(
    config: &mut Config<'_>,
    bdf: Bdf,
    header: HeaderType,
    mut wanted: impl FnMut(CapabilityId) -> bool,
) -> Vec<(CapabilityId, u8)> {
    let mut list = Vec::new();
    if config.read16(bdf, STATUS) & Status::CAPABILITIES_LIST.bits() == 0 {
        return list;
    }
    let mut at = config.read8(bdf, header.capabilities_pointer().offset());
    while at >= 0x40 && list.len() < MAX_CAPABILITIES {
        at &= capability::POINTER;
        let [id, next] = config.read16(bdf, at.into()).to_le_bytes();
        if id == 0xff {
            break;
        }
        list.push((CapabilityId(id), at));
        if wanted(CapabilityId(id)) {
            break;
        }
        at = next;
    }
    list
}

/// The whole list.
pub(super) fn list(config: &mut Config<'_>, bdf: Bdf, header: HeaderType) -> Vec<(CapabilityId, u8)> {
    walk(config, bdf, header, |_| false)
}

/// Where a capability is.
pub(super) fn find(config: &mut Config<'_>, bdf: Bdf, header: HeaderType, id: CapabilityId) -> Option<u16> {
    walk(config, bdf, header, |found| found == id)
        .last()
        .filter(|(found, _)| *found == id)
        .map(|(_, offset)| u16::from(*offset))
}

/// The list from 100h on, up to the first entry that is `wanted` (Linux's `pci_find_next_ext_capability`).
fn walk_extended(
    config: &mut Config<'_>,
    bdf: Bdf,
    mut wanted: impl FnMut(ExtendedCapabilityId) -> bool,
) -> Vec<(ExtendedCapabilityId, u16)> {
    let mut list = Vec::new();
    let mut at = EXTENDED;
    while list.len() < MAX_EXTENDED_CAPABILITIES {
        let header = config.read32(bdf, at);
        if at == EXTENDED && header == 0 {
            break;
        }
        let id = extended_id_of(header);
        list.push((id, at));
        if wanted(id) {
            break;
        }
        at = extended_next_of(header);
        if at < EXTENDED {
            break;
        }
    }
    list
}

/// The whole extended list.
pub(super) fn list_extended(config: &mut Config<'_>, bdf: Bdf) -> Vec<(ExtendedCapabilityId, u16)> {
    walk_extended(config, bdf, |_| false)
}

/// Where an extended capability is.
pub(super) fn find_extended(config: &mut Config<'_>, bdf: Bdf, id: ExtendedCapabilityId) -> Option<u16> {
    walk_extended(config, bdf, |found| found == id).last().filter(|(found, _)| *found == id).map(|(_, offset)| *offset)
}
