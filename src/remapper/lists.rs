//! Hiding capabilities: the entry before a hidden one points past it, and its registers read zero.

use super::reason::Reason;
use super::rule::{Rules, TooManyRules};
use crate::access::Dword;
use crate::spec::capability::{CapabilityId, EXTENDED_ID, EXTENDED_NEXT, ExtendedCapabilityId, NEXT};
use crate::spec::header::{self, Status};
use crate::topology::Function;

/// Hides all capabilities `is_hidden` names, for a reason. The list stays well formed, and ends where the host's was cut.
pub(super) fn hide_capabilities(
    rules: &mut Rules,
    reason: Reason,
    function: &Function,
    is_hidden: impl Fn(CapabilityId) -> bool,
) -> Result<(), TooManyRules> {
    let list = function.capabilities();
    if !list.iter().any(|entry| is_hidden(entry.id)) && function.list_fault().is_none() {
        return Ok(());
    }
    // Where the pointer to the next visible entry is: first in the header, then in the entry before.
    let mut pointer = (function.header_type().capabilities_pointer(), 0);
    let mut is_empty = true;
    for entry in list {
        if is_hidden(entry.id) {
            let dwords = within(entry.dwords, entry.dword, list.iter().map(|other| other.dword));
            rules.because(reason).zero(entry.dword, dwords)?;
        } else {
            point(rules, pointer, entry.dword.offset())?;
            pointer = (entry.dword, NEXT.trailing_zeros());
            is_empty = false;
        }
    }
    point(rules, pointer, 0)?;
    if is_empty {
        let list = u32::from(Status::CAPABILITIES_LIST.bits()) << 16;
        rules.because(Reason::CapabilityList).fix(header::COMMAND, list, 0)?;
    }
    Ok(())
}

fn point(rules: &mut Rules, (dword, shift): (Dword, u32), to: u16) -> Result<(), TooManyRules> {
    let (mask, value) = (0xff_u32.wrapping_shl(shift), u32::from(to).wrapping_shl(shift));
    rules.because(Reason::CapabilityList).fix(dword, mask, value)
}

/// Hides all extended capabilities `is_hidden` names, for a reason. The list starts at 100h, so a hidden entry there
/// becomes a null capability that keeps its pointer (7.6.3: ID and version zero). What was hidden before stays so.
pub(super) fn hide_extended_capabilities(
    rules: &mut Rules,
    reason: Reason,
    function: &Function,
    is_hidden: impl Fn(ExtendedCapabilityId) -> bool,
) -> Result<(), TooManyRules> {
    let list = function.extended_capabilities();
    if !list.iter().any(|entry| is_hidden(entry.id)) && function.list_fault().is_none() {
        return Ok(());
    }
    let mut last_visible = header::EXTENDED;
    for entry in list {
        if rules.of(entry.dword).from_hardware & EXTENDED_ID == 0 {
            continue;
        }
        if is_hidden(entry.id) {
            let dwords = within(entry.dwords, entry.dword, list.iter().map(|other| other.dword));
            rules.because(reason).zero(entry.dword, dwords)?;
        } else {
            if entry.dword != header::EXTENDED {
                point_extended(rules, last_visible, entry.dword.offset())?;
            }
            last_visible = entry.dword;
        }
    }
    point_extended(rules, last_visible, 0)
}

fn point_extended(rules: &mut Rules, from: Dword, to: u16) -> Result<(), TooManyRules> {
    rules.because(Reason::CapabilityList).fix(from, EXTENDED_NEXT, u32::from(to) << 20)
}

/// Everything after the header that belongs to no capability which is shown reads zero.
pub(super) fn hide_what_is_unknown(
    rules: &mut Rules,
    function: &Function,
    is_shown: impl Fn(CapabilityId) -> bool,
    is_shown_extended: impl Fn(ExtendedCapabilityId) -> bool,
) -> Result<(), TooManyRules> {
    let (list, extended) = (function.capabilities(), function.extended_capabilities());
    let starts = || list.iter().map(|entry| entry.dword).chain(extended.iter().map(|entry| entry.dword));
    let shown = list.iter().filter(|entry| is_shown(entry.id)).map(|entry| (entry.dword, entry.dwords));
    let shown_extended =
        extended.iter().filter(|entry| is_shown_extended(entry.id)).map(|entry| (entry.dword, entry.dwords));
    let end = if function.has_extended_space() { Dword::COUNT } else { header::EXTENDED.index() };
    for dword in (header::END.index()..end).filter_map(Dword::new) {
        let mut known = shown.clone().chain(shown_extended.clone());
        let is_known = known.any(|(first, dwords)| {
            let offset = dword.index().checked_sub(first.index());
            offset.is_some_and(|offset| offset < within(dwords, first, starts()))
        });
        if !is_known {
            rules.because(Reason::Unknown).zero_untreated(dword)?;
        }
    }
    Ok(())
}

/// Number of DWORDs of the capability that starts here, as far as no other starts in it.
pub(super) fn room_of(function: &Function, dword: Dword) -> u16 {
    let list = function.capabilities();
    let entry = list.iter().find(|entry| entry.dword == dword);
    entry.map_or(1, |entry| within(entry.dwords, dword, list.iter().map(|other| other.dword)))
}

/// The part of a capability's length that no other capability of the list starts in.
fn within(dwords: u16, first: Dword, others: impl Iterator<Item = Dword>) -> u16 {
    let room = others.filter(|other| *other > first).map(|other| other.index().wrapping_sub(first.index())).min();
    room.map_or(dwords, |room| room.min(dwords))
}
