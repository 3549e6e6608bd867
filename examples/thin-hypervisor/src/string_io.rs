//! INS and OUTS on ports that exit: between a port and the guest's memory, once or RCX times.

use pci_remap::Width;

use crate::guest_memory;
use crate::physical;
use crate::processor::{FLAGS_DIRECTION, Processor, RCX, RDI, RSI};
use crate::vm::Vm;

/// Elements of one exit; the rest are done in the next, so that interrupts are not held up.
const AT_ONCE: u64 = 256;

impl<P: Processor> Vm<P> {
    /// Whether the instruction is done. It is not when elements are left, and then is executed again.
    pub fn string(&mut self, port: u16, width: Width, is_write: bool, is_repeated: bool) -> bool {
        let count = if is_repeated { self.processor.registers().0[RCX] } else { 1 };
        let index = if is_write { RSI } else { RDI };
        let bytes = u64::from(width.bytes());
        let step = if self.processor.flags() & FLAGS_DIRECTION == 0 { bytes } else { bytes.wrapping_neg() };
        let now = count.min(AT_ONCE);
        for _ in 0..now {
            let linear = self.processor.registers().0[index];
            self.element(port, width, is_write, linear);
            self.processor.registers().0[index] = linear.wrapping_add(step);
        }
        if is_repeated {
            self.processor.registers().0[RCX] = count - now;
        }
        now == count
    }

    fn element(&mut self, port: u16, width: Width, is_write: bool, linear: u64) {
        let paging = self.processor.paging();
        let place = |byte: u8| {
            let address = guest_memory::translate(paging, linear.wrapping_add(byte.into()));
            address.unwrap_or_else(|| panic!("string I/O with memory at {linear:#x}, which is not there"))
        };
        if is_write {
            let bytes = (0..width.bytes()).map(|byte| (physical::read(place(byte), 1) as u32) << (8 * byte));
            let value = bytes.fold(0, |value, byte| value | byte);
            return self.pci.port_write(port, width, value, &mut self.stages);
        }
        let value = self.pci.port_read(port, width);
        for byte in 0..width.bytes() {
            let address = place(byte);
            if !self.hypervisor.contains(address) {
                // SAFETY: it is the guest's own memory.
                unsafe { physical::write(address, 1, (value >> (8 * byte)).into()) }
            }
        }
    }
}
