//! Configuration writes that reached a function, and what they set off.

use super::{FunctionId, Machine};
use crate::access::{Access, Dword, Lanes};

/// A configuration write that a function took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigWrite {
    /// The function.
    pub function: FunctionId,
    /// Its register.
    pub dword: Dword,
    /// The bytes.
    pub lanes: Lanes,
    /// What was written, in DWORD position.
    pub value: u32,
    /// The bits that are different since.
    pub changed: u32,
}

/// A write as those see it whom it sets off.
pub(super) struct RegisterWrite {
    pub(super) dword: Dword,
    pub(super) old: u32,
    pub(super) new: u32,
    /// Bits a one was written to, whether they keep it or not.
    pub(super) ones: u32,
}

impl Machine {
    /// The configuration writes functions took, oldest first.
    pub fn config_writes(&self) -> &[ConfigWrite] {
        &self.config_writes
    }

    pub(super) fn write_function(&mut self, id: FunctionId, access: Access, value: u32) {
        let (dword, lanes) = (access.dword(), access.lanes());
        let function = &mut self.functions[id.0];
        function.captured_bus = access.function().bus();
        let old = function.read(dword);
        function.write(dword, lanes, value);
        let new = function.read(dword);
        self.config_writes.push(ConfigWrite { function: id, dword, lanes, value, changed: old ^ new });
        let write = RegisterWrite { dword, old, new, ones: value & lanes.mask() };
        self.error_written(id, &write);
        self.containment_written(id, &write);
        self.power_written(id, &write);
        self.link_written(id, &write);
        self.slot_written(id, &write);
        self.reset_written(id, &write);
        self.virtual_functions_written(id, &write);
    }
}
