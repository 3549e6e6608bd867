//! Capability lists, walked with guards: a list that loops or leaves its range ends there and says so.

use heapless::Vec;
use thiserror::Error;

use crate::access::Dword;
use crate::spec::capability::{
    CapabilityId, ExtendedCapabilityId, POINTER, capability_dwords, extended_capability_dwords, extended_control_dword,
    extended_id_of, extended_next_of, id_of, next_of,
};
use crate::spec::header::{self, HeaderType, Status};

/// Most capabilities kept of one function.
pub(super) const CAPABILITIES: usize = 24;
/// Most extended capabilities kept of one function.
pub(super) const EXTENDED: usize = 48;

/// An entry of the list in the first 256 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// What it is.
    pub id: CapabilityId,
    /// Where it starts.
    pub dword: Dword,
    /// Number of DWORDs it has.
    pub dwords: u16,
    /// What its first DWORD read when the topology was made.
    pub first: u32,
    /// What its second DWORD read when the topology was made: for Power Management, PMCSR.
    pub control: u32,
}

/// An entry of the list from 100h on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtendedCapability {
    /// What it is.
    pub id: ExtendedCapabilityId,
    /// Where it starts.
    pub dword: Dword,
    /// Number of DWORDs it has.
    pub dwords: u16,
    /// What the DWORD with its control register read when the topology was made
    /// ([`extended_control_dword`]).
    pub control: u32,
}

/// Why a capability list was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ListFault {
    /// The list comes back to an entry it had.
    #[error("the capability list loops back to {0}")]
    Loop(Dword),
    /// A pointer leads into the header, or out of the space its list lives in.
    #[error("the capability list points to {0}, where no capability can be")]
    OutOfRange(Dword),
    /// More entries than are kept.
    #[error("the capability list has more entries than are kept, from {0} on")]
    TooLong(Dword),
}

/// Walks the list of a function with capabilities (7.5.1.1.11).
pub(super) fn capabilities(
    header_type: HeaderType,
    read: &mut impl FnMut(Dword) -> u32,
) -> (Vec<Capability, CAPABILITIES>, Option<ListFault>) {
    let mut found: Vec<Capability, CAPABILITIES> = Vec::new();
    let [.., low, high] = read(header::COMMAND).to_le_bytes();
    if !Status::from_bits_retain(u16::from_le_bytes([low, high])).contains(Status::CAPABILITIES_LIST) {
        return (found, None);
    }
    let [pointer, ..] = read(header_type.capabilities_pointer()).to_le_bytes();
    let mut pointer = pointer & POINTER;
    while pointer != 0 {
        let dword = Dword::holding(pointer.into());
        if dword < header::END {
            return (found, Some(ListFault::OutOfRange(dword)));
        }
        if found.iter().any(|capability| capability.dword == dword) {
            return (found, Some(ListFault::Loop(dword)));
        }
        let entry = read(dword);
        // Linux (`__pci_find_next_cap_ttl`) takes FFh for the end; it is what a function that went away answers.
        if id_of(entry) == CapabilityId(0xff) {
            break;
        }
        let dwords = capability_dwords(id_of(entry), |index| dword.plus(index).map_or(0, &mut *read));
        let control = dword.plus(1).map_or(0, &mut *read);
        if found.push(Capability { id: id_of(entry), dword, dwords, first: entry, control }).is_err() {
            return (found, Some(ListFault::TooLong(dword)));
        }
        pointer = next_of(entry);
    }
    (found, None)
}

/// Walks the list of a function with extended configuration space (7.6.3). Null capabilities are no entries.
pub(super) fn extended_capabilities(
    read: &mut impl FnMut(Dword) -> u32,
) -> (Vec<ExtendedCapability, EXTENDED>, Option<ListFault>) {
    let mut found: Vec<ExtendedCapability, EXTENDED> = Vec::new();
    let mut dword = header::EXTENDED;
    // Pointers that only go up end by themselves; one that goes back may loop.
    let mut steps_back = 0_u8;
    loop {
        let entry = read(dword);
        if entry == 0 || entry == header::ABSENT {
            return (found, None);
        }
        let id = extended_id_of(entry);
        let dwords = extended_capability_dwords(id, |index| dword.plus(index).map_or(0, &mut *read));
        if id != ExtendedCapabilityId::NULL {
            let control = dword.plus(extended_control_dword(id)).map_or(0, &mut *read);
            if found.push(ExtendedCapability { id, dword, dwords, control }).is_err() {
                return (found, Some(ListFault::TooLong(dword)));
            }
        }
        let next = extended_next_of(entry);
        if next == 0 {
            return (found, None);
        }
        let next = Dword::holding(next);
        if next < header::EXTENDED {
            return (found, Some(ListFault::OutOfRange(next)));
        }
        if next == dword || found.iter().any(|capability| capability.dword == next) {
            return (found, Some(ListFault::Loop(next)));
        }
        if next < dword {
            steps_back = steps_back.saturating_add(1);
            if usize::from(steps_back) > EXTENDED {
                return (found, Some(ListFault::Loop(next)));
            }
        }
        dword = next;
    }
}
