//! Walks the capability lists of a configuration space that lies in memory.

use std::vec::Vec;

use crate::access::Dword;
use crate::spec::capability::{self, CapabilityId, ExtendedCapabilityId};
use crate::spec::header::{self, HeaderType, Status};

/// A capability list as far as it can be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<Id> {
    /// The capabilities and where they start, in the order of the list.
    pub entries: Vec<(Id, Dword)>,
    /// The entry the last one leads back to, if the list loops.
    pub returns_to: Option<Dword>,
}

impl<Id: Copy + PartialEq> List<Id> {
    /// Where the first capability of this kind starts.
    pub fn find(&self, id: Id) -> Option<Dword> {
        self.entries.iter().find(|(own, _)| *own == id).map(|(_, at)| *at)
    }

    /// Follows pointers from `first` on. `entry` gives the capability at a place and where the next one is, or `None`
    /// when the list has ended before this place.
    fn follow(first: Dword, entry: impl Fn(Dword) -> Option<(Id, Dword)>) -> Self {
        let mut list = Self { entries: Vec::new(), returns_to: None };
        let mut at = first;
        while let Some((id, next)) = entry(at) {
            if list.entries.iter().any(|(_, seen)| *seen == at) {
                list.returns_to = Some(at);
                break;
            }
            list.entries.push((id, at));
            at = next;
        }
        list
    }
}

/// The capabilities in the first 256 bytes. A pointer into the header, or past the DWORDs that are known, ends the
/// list.
pub fn standard(config: &[u32]) -> List<CapabilityId> {
    let status = register(config, header::COMMAND).unwrap_or(0) >> 16;
    let pointer = header_type(config).filter(|_| status & u32::from(Status::CAPABILITIES_LIST.bits()) != 0);
    let pointer = pointer.and_then(|kind| register(config, kind.capabilities_pointer())).unwrap_or(0);
    let first = u16::from(pointer.to_le_bytes()[0] & capability::POINTER);
    List::follow(Dword::holding(first), |at| {
        let dword = register(config, at).filter(|_| at >= header::END)?;
        Some((capability::id_of(dword), Dword::holding(u16::from(capability::next_of(dword)))))
    })
}

/// The extended capabilities, null ones that continue the list included.
pub fn extended(config: &[u32]) -> List<ExtendedCapabilityId> {
    List::follow(header::EXTENDED, |at| {
        let dword = register(config, at).filter(|dword| !at.is_conventional() && !matches!(*dword, 0 | u32::MAX))?;
        Some((capability::extended_id_of(dword), Dword::holding(capability::extended_next_of(dword))))
    })
}

/// Header Type of the function; `None` for undefined ones.
pub fn header_type(config: &[u32]) -> Option<HeaderType> {
    register(config, header::HEADER_TYPE).and_then(HeaderType::of)
}

fn register(config: &[u32], dword: Dword) -> Option<u32> {
    config.get(usize::from(dword.index())).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn config(pointer: u8, capabilities: &[(usize, u32)]) -> Vec<u32> {
        let mut config = vec![0; 1024];
        config[1] = 0x0010_0000;
        config[13] = u32::from(pointer);
        for (offset, dword) in capabilities {
            config[offset / 4] = *dword;
        }
        config
    }

    fn at(offset: u16) -> Dword {
        Dword::at(offset).unwrap()
    }

    #[test]
    fn a_list_is_followed_in_its_own_order() {
        let config = config(0x80, &[(0x80, 0x4010), (0x40, 0x0001)]);
        let entries = vec![(CapabilityId::PCI_EXPRESS, at(0x80)), (CapabilityId::POWER_MANAGEMENT, at(0x40))];
        assert_eq!(standard(&config), List { entries, returns_to: None });
    }

    #[test]
    fn a_list_that_loops_is_followed_once() {
        let config = config(0x40, &[(0x40, 0x5001), (0x50, 0x5005), (0x100, 0x2001_0001), (0x200, 0x1001_0003)]);
        let entries = vec![(CapabilityId::POWER_MANAGEMENT, at(0x40)), (CapabilityId::MSI, at(0x50))];
        assert_eq!(standard(&config), List { entries, returns_to: Some(at(0x50)) });
        assert_eq!(extended(&config).returns_to, Some(at(0x100)));
    }

    #[test]
    fn pointers_into_the_header_and_past_the_end_end_the_list() {
        assert_eq!(standard(&config(0x10, &[])).entries, []);
        assert_eq!(standard(&config(0x43, &[(0x40, 0x1001)])).entries, [(CapabilityId::POWER_MANAGEMENT, at(0x40))]);
        let short = &config(0x40, &[(0x40, 0x8001)])[..20];
        assert_eq!(standard(short).entries, [(CapabilityId::POWER_MANAGEMENT, at(0x40))]);
        assert_eq!(extended(&config(0, &[(0x100, 0x0901_0001)])).entries.len(), 1);
        assert_eq!((standard(&[]).entries, extended(&[!0; 1024]).entries), (vec![], vec![]));
    }
}
