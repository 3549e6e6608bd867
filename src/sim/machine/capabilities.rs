//! Walks the capability lists of a configuration space that lies in memory.

use std::vec::Vec;

use crate::access::Dword;
use crate::spec::capability::{self, CapabilityId, ExtendedCapabilityId};
use crate::spec::header::{self, HeaderType, Status};

/// The list returns to an entry it has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the capability list loops: it comes back to {0}")]
pub struct Loop(pub Dword);

/// A capability and where it starts.
pub type Entry<Id> = (Id, Dword);

/// The capabilities in the first 256 bytes. A pointer into the header, or past the DWORDs that are known, ends the
/// list.
///
/// # Errors
///
/// [`Loop`] when the list has no end.
pub fn standard(config: &[u32]) -> Result<Vec<Entry<CapabilityId>>, Loop> {
    let mut found = Vec::new();
    let (Some(status), Some(kind)) = (register(config, header::COMMAND), header_type(config)) else { return Ok(found) };
    if status >> 16 & u32::from(Status::CAPABILITIES_LIST.bits()) == 0 {
        return Ok(found);
    }
    let first = register(config, kind.capabilities_pointer()).unwrap_or(0).to_le_bytes()[0] & capability::POINTER;
    let mut next = Dword::holding(u16::from(first));
    while next >= header::END {
        let Some(dword) = register(config, next) else { break };
        if found.iter().any(|(_, seen)| *seen == next) {
            return Err(Loop(next));
        }
        found.push((capability::id_of(dword), next));
        next = Dword::holding(u16::from(capability::next_of(dword)));
    }
    Ok(found)
}

/// The extended capabilities, null ones that continue the list included.
///
/// # Errors
///
/// [`Loop`] when the list has no end.
pub fn extended(config: &[u32]) -> Result<Vec<Entry<ExtendedCapabilityId>>, Loop> {
    let mut found = Vec::new();
    let mut next = header::EXTENDED;
    while !next.is_conventional() {
        let Some(dword) = register(config, next).filter(|dword| !matches!(*dword, 0 | u32::MAX)) else { break };
        if found.iter().any(|(_, seen)| *seen == next) {
            return Err(Loop(next));
        }
        found.push((capability::extended_id_of(dword), next));
        next = Dword::holding(capability::extended_next_of(dword));
    }
    Ok(found)
}

/// Header Type of the function; `None` for undefined ones.
pub fn header_type(config: &[u32]) -> Option<HeaderType> {
    register(config, header::HEADER_TYPE).and_then(HeaderType::of)
}

fn register(config: &[u32], dword: Dword) -> Option<u32> {
    config.get(usize::from(dword.index())).copied()
}
