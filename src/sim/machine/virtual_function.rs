//! Virtual Functions: they are there while VF Enable of their Physical Function is set (9.2.1.2), and decode what its VF
//! BARs say.

use super::function::Function;
use super::reset::Reset;
use super::writes::RegisterWrite;
use super::{Blueprint, Capability, ExtendedCapability, FunctionId, Machine};
use crate::address::{Bdf, Span};
use crate::spec::capability::ExtendedCapabilityId;
use crate::spec::express::PortType;
use crate::spec::header::{self, Command};
use crate::spec::sriov;

/// What makes a function a virtual one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Virtual {
    /// Its Physical Function.
    pub(super) physical: FunctionId,
    /// Its number, from 0 on.
    number: u16,
    /// What it decodes.
    pub(super) spans: [Option<Span>; 6],
}

impl Machine {
    /// A register of SR-IOV was written.
    pub(super) fn virtual_functions_written(&mut self, id: FunctionId, write: &RegisterWrite) {
        let at = self.function(id).extended(ExtendedCapabilityId::SR_IOV);
        let inside = at.and_then(|at| write.dword.index().checked_sub(at.index()));
        if inside.is_some_and(|index| index < sriov::DWORDS) {
            self.follow_physical(id);
        }
    }

    /// Lets Virtual Functions come and go as the registers of their Physical Function say. Those on another bus are not
    /// modelled.
    pub(super) fn follow_physical(&mut self, physical: FunctionId) {
        self.follow_hierarchy(physical);
        let count = self.function(physical).enabled_virtual_functions();
        let bdf = self.function(physical).bdf();
        for number in 0..count {
            let Some(at) = self.function(physical).virtual_function(number).filter(|at| at.bus() == bdf.bus()) else {
                break;
            };
            let spans = self.function(physical).virtual_spans(number);
            let id = self.existing(physical, number).unwrap_or_else(|| {
                self.functions.push(Function::virtual_of(self.function(physical), at));
                FunctionId(self.functions.len() - 1)
            });
            let parent = self.function(physical).parent;
            self.functions[id.0].place_virtual(Virtual { physical, number, spans }, at, parent);
            let siblings = self.siblings(physical);
            if !siblings.contains(&id) {
                siblings.push(id);
            }
        }
        let gone = self.functions().filter(|(_, function)| {
            function.virtual_of.is_some_and(|own| own.physical == physical && own.number >= count)
        });
        for id in gone.map(|(id, _)| id).collect::<std::vec::Vec<_>>() {
            if self.siblings(physical).contains(&id) {
                self.siblings(physical).retain(|other| *other != id);
                self.reset(id, Reset::Cold);
                self.functions[id.0].ready_at = core::time::Duration::ZERO;
            }
        }
    }

    /// ARI Capable Hierarchy is in the first Physical Function, and is about all (9.3.3.3.5).
    fn follow_hierarchy(&mut self, physical: FunctionId) {
        let mut all = self.siblings(physical).clone();
        all.retain(|id| self.function(*id).extended(ExtendedCapabilityId::SR_IOV).is_some());
        all.sort_by_key(|id| self.function(*id).bdf());
        let Some(first) = all.first() else { return };
        let is_set = self.function(*first).sriov(sriov::CONTROL) & sriov::ARI_CAPABLE_HIERARCHY != 0;
        for id in all {
            let function = &mut self.functions[id.0];
            let at = function.extended(ExtendedCapabilityId::SR_IOV).and_then(|at| at.plus(sriov::VF_OFFSET));
            if let Some((at, [without, with])) = at.zip(function.vf_offsets) {
                function.set(at, if is_set { with } else { without });
            }
        }
    }

    fn existing(&self, physical: FunctionId, number: u16) -> Option<FunctionId> {
        let is_it = |own: Virtual| own.physical == physical && own.number == number;
        self.functions().find(|(_, function)| function.virtual_of.is_some_and(is_it)).map(|(id, _)| id)
    }

    /// The functions on the bus of one.
    fn siblings(&mut self, id: FunctionId) -> &mut std::vec::Vec<FunctionId> {
        match self.function(id).parent {
            Some(bridge) => &mut self.functions[bridge.0].children,
            None => self.roots.iter_mut().find(|root| root.contains(&id)).expect("a function is on some bus"),
        }
    }

    /// The function whose registers decide for this one: of a Virtual Function, the Physical Function.
    pub(super) fn governor(&self, id: FunctionId) -> FunctionId {
        self.function(id).virtual_of.map_or(id, |own| own.physical)
    }
}

impl Function {
    /// Whether it is a Virtual Function.
    pub fn is_virtual(&self) -> bool {
        self.virtual_of.is_some()
    }

    /// A Virtual Function: its ID reads all ones (9.3.4.1.1), Bus Master Enable and Function Level Reset are its own, and
    /// its MSI-X Table is in the second half of its last BAR.
    fn virtual_of(physical: &Self, at: Bdf) -> Self {
        let class = physical.read(header::CLASS) >> 8;
        let blueprint = Blueprint::endpoint(at)
            .named(&std::format!("VF {at}"))
            .id(!0)
            .class(class)
            .command(Command::empty())
            .capability(&Capability::Express(PortType::Endpoint))
            .extended(&ExtendedCapability::Ats);
        let last = (0..6).rev().find_map(|index| Some((index, physical.vf_bar(index.into())?)));
        let half = last.and_then(|(index, bar)| Some((index, u32::try_from(bar.size / 2).ok()?)));
        let blueprint = match half {
            Some((index, half)) => {
                let (table, pba) = ((index, half), (index, half + half / 2));
                blueprint.capability(&Capability::MsiX { vectors: 3, table, pba })
            }
            None => blueprint,
        };
        let mut function = Self::new(blueprint);
        function.make_virtual(physical);
        function
    }

    /// NumVFs, while VF Enable is set.
    fn enabled_virtual_functions(&self) -> u16 {
        let is_enabled = self.sriov(sriov::CONTROL) & sriov::VF_ENABLE != 0;
        let [[count, _], [total, _]] = [sriov::NUM_VFS, sriov::TOTAL_VFS].map(|at| sriov::halves(self.sriov(at)));
        if is_enabled { count.min(total) } else { 0 }
    }

    /// Routing ID of a Virtual Function (9.3.3.9, 9.3.3.10).
    fn virtual_function(&self, number: u16) -> Option<Bdf> {
        let [offset, stride] = sriov::halves(self.sriov(sriov::VF_OFFSET));
        let id = number.checked_mul(stride)?.checked_add(offset)?.checked_add(self.bdf().routing_id())?;
        Some(Bdf::from_routing_id(id))
    }

    /// What a Virtual Function decodes: its part of each VF BAR, while VF Memory Space Enable is set (9.3.3.3.4).
    fn virtual_spans(&self, number: u16) -> [Option<Span>; 6] {
        let is_decoding = self.sriov(sriov::CONTROL) & sriov::VF_MEMORY_SPACE_ENABLE != 0;
        core::array::from_fn(|index| {
            let bar = self.vf_bar(index).filter(|_| is_decoding)?;
            let register = sriov::VF_BAR0 + u16::try_from(index).ok()?;
            let high = if bar.kind.is_64_bit() { u64::from(self.sriov(register + 1)) << 32 } else { 0 };
            let base = high | u64::from(self.sriov(register) & !bar.kind.type_mask());
            Span::new(base.checked_add(u64::from(number) * bar.size)?, bar.size)
        })
    }

    /// A DWORD of the SR-IOV Capability; zero without it.
    fn sriov(&self, index: u16) -> u32 {
        self.extended(ExtendedCapabilityId::SR_IOV).and_then(|at| at.plus(index)).map_or(0, |at| self.read(at))
    }
}
