//! The laws of Virtual Functions that follow a moved function.

use std::vec::Vec;

use super::{Claim, Placed, Session};
use crate::access::{Access, Lanes};
use crate::address::{Bdf, Guest, Span};
use crate::decision::{ReadDecision, Splice};
use crate::delta::Space;
use crate::plan::{MsixTable, Relocation, VirtualFunctions};
use crate::spec::{header, sriov};
use crate::topology::{Function, SrIov};

impl<'t> Session<'t> {
    /// NumVFs changes only while VF Enable is clear (9.3.3.7).
    pub(super) fn enable_virtual_functions(&mut self, index: u8, count: u8, are_there: bool, decode: bool) {
        let Some(Placed { guest, function, .. }) = self.placed(index) else { return };
        let at = |index| function.sriov().and_then(|sriov| sriov.dword.plus(index));
        let (Some(control), Some(num_vfs)) = (at(sriov::CONTROL), at(sriov::NUM_VFS)) else { return };
        let low_half = |dword| Access::new(guest, dword, Lanes::run(0, 2).unwrap());
        if self.vm.config_read(Guest(low_half(control))) & sriov::VF_ENABLE == 0 {
            self.write(low_half(num_vfs), u32::from(count % 10));
        }
        let value = u32::from(are_there) * sriov::VF_ENABLE + u32::from(decode) * sriov::VF_MEMORY_SPACE_ENABLE;
        self.write(low_half(control), value);
    }

    pub(super) fn sriov(&self, of: &VirtualFunctions) -> Option<&'t SrIov> {
        self.topology.view().function(of.physical).and_then(Function::sriov)
    }

    /// The move of the Physical Function; to where it is, if it stays.
    fn move_of(&self, of: &VirtualFunctions) -> Relocation {
        let moved = self.relocations.iter().find(|relocation| relocation.host == of.physical);
        moved.copied().unwrap_or(Relocation::new(of.physical, Guest(of.physical.0)))
    }

    /// A register of the SR-IOV Capability the guest finds.
    fn read_sriov(&mut self, of: &VirtualFunctions, index: u16) -> u32 {
        let guest = self.move_of(of).guest.0;
        let dword = self.sriov(of).and_then(|sriov| sriov.dword.plus(index)).unwrap();
        self.vm.config_read(Guest(Access::whole(guest, dword)))
    }
}

/// The windows of all Virtual Functions of one, as the guest's registers describe them.
pub(super) fn claims(session: &mut Session<'_>, found: &VirtualFunctions) -> Vec<Claim> {
    let relocation = session.move_of(found);
    let Some(function) = session.topology.view().function(found.physical) else { return Vec::new() };
    let both = sriov::VF_ENABLE | sriov::VF_MEMORY_SPACE_ENABLE;
    let count = (session.read_sriov(found, sriov::NUM_VFS) & 0xffff).min(found.count.into());
    if session.vm.remapper().has_forgotten(found.physical)
        || !session.is_awake(relocation.guest.0, function)
        || session.read_sriov(found, sriov::CONTROL) & both != both
    {
        return Vec::new();
    }
    let mut claims = Vec::new();
    for one in found.bars.iter().flatten() {
        let index = sriov::VF_BAR0 + u16::try_from(one.bar.number()).unwrap();
        let low = session.read_sriov(found, index) & !one.bar.kind().type_mask();
        let is_wide = one.bar.kind().is_64_bit();
        let high = if is_wide { u64::from(session.read_sriov(found, index + 1)) } else { 0 };
        let base = high << 32 | u64::from(low);
        let limit = if is_wide { (1 << 52) - 1 } else { u64::from(u32::MAX) };
        let size = one.bar.size() * u64::from(count);
        let Some(span) = Span::new(base, size).filter(|span| base != 0 && span.last() < limit) else {
            continue;
        };
        let trapped = if relocation.msix_table == MsixTable::Trapped { 0..span.len() } else { 0..0 };
        let host = Span::new(one.host.0.start(), size).unwrap();
        claims.push(Claim { span, host, space: Space::Memory, trapped });
    }
    claims
}

/// And of Virtual Functions: at the offset and stride the guest reads it finds those it enabled, each the one hardware has
/// by its own offset and stride, and nothing else; and their memory is theirs.
pub(super) fn are_where_they_are_said_to_be(session: &mut Session<'_>) {
    if session.renumbered || session.refuses {
        return;
    }
    for found in session.followed.clone() {
        let relocation = session.move_of(&found);
        if session.vm.config_read(Guest(Access::whole(relocation.guest.0, header::ID))) == !0 {
            continue;
        }
        let is_enabled = session.read_sriov(&found, sriov::CONTROL) & sriov::VF_ENABLE != 0;
        let num_vfs = session.read_sriov(&found, sriov::NUM_VFS) & 0xffff;
        let count = if is_enabled { num_vfs.min(found.count.into()) } else { 0 };
        let (offset, stride) = {
            let register = session.read_sriov(&found, sriov::VF_OFFSET);
            (register & 0xffff, register >> 16)
        };
        for number in 0..u32::from(found.count) {
            let id = u32::from(relocation.guest.0.routing_id()) + offset + number * stride;
            let guest = Guest(Access::whole(Bdf::from_routing_id(u16::try_from(id).unwrap()), header::CLASS));
            let read = session.vm.remapper().read(guest);
            let host = found.host.map(|all| guest.0.of(all.nth(u16::try_from(number).unwrap())));
            let expected = if number < count {
                ReadDecision::Redirect { to: host, splice: Splice::HARDWARE }
            } else {
                ReadDecision::Hide
            };
            assert_eq!(read, expected, "Virtual Function {number} of {}", found.physical);
        }
        memory_is_theirs(session, &found);
    }
}

fn memory_is_theirs(session: &Session<'_>, found: &VirtualFunctions) {
    let mappings = session.vm.second_stage().mappings();
    let way = session.way_to(found.physical.0.bus());
    if !way.iter().all(|bridge| session.has_left(found.physical, bridge)) {
        return;
    }
    for bar in found.bars.iter().flatten() {
        let mapped = mappings.iter().find(|mapping| mapping.host.0.start() == bar.host.0.start());
        for number in (0..found.count).filter(|_| mapped.is_some()) {
            let address = bar.host.0.start() + u64::from(number) * bar.bar.size();
            for hit in session.vm.machine().decoders(Space::Memory, address) {
                let decoder = session.vm.machine().function(hit.function).bdf();
                assert_eq!(decoder, found.host.0.nth(number), "law 2, confinement: {address:#x}");
            }
        }
    }
}
