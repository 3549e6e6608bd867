//! The second stage: KVM memory slots, made and deleted as the remapper's changes say.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use pci_remap::{Backing, Guest, Host, MapOp, Space, Span};

use crate::memory::RAM_SLOT;

/// A slot of device memory.
struct Slot {
    number: u32,
    /// Where the VMM has it.
    address: u64,
}

/// The slots of device memory, by the guest address they start at. What has no slot exits.
pub struct SecondStage {
    vm: Arc<VmFd>,
    slots: BTreeMap<u64, Slot>,
    /// The windows that shall exit, first address to last.
    trapped: BTreeMap<u64, u64>,
    /// Number of slots made and deleted.
    pub changes: u64,
}

impl SecondStage {
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self { vm, slots: BTreeMap::new(), trapped: BTreeMap::new(), changes: 0 }
    }

    /// The slots: guest address, and the VMM's.
    pub fn slots(&self) -> impl Iterator<Item = (u64, u64)> {
        self.slots.iter().map(|(guest, slot)| (*guest, slot.address))
    }

    /// Whether the change is in force. One that KVM refuses stays due, and comes again with the next delta.
    /// `address_of` is where the VMM has memory of a device, if it can be mapped.
    pub fn apply(&mut self, change: MapOp, address_of: impl Fn(Host<Span>) -> Option<u64>) -> bool {
        let applied = match change {
            MapOp::Map { guest, host, space: Space::Memory, backing: Backing::Direct, .. } => {
                // Where the device cannot be mapped, accesses exit, and are forwarded.
                address_of(host).map_or(Ok(()), |address| self.add(guest.0.start(), guest.0.len(), address))
            }
            MapOp::Map { guest, space: Space::Memory, backing: Backing::Trapped, .. } => {
                self.trapped.insert(guest.0.start(), guest.0.last());
                Ok(())
            }
            MapOp::Unmap { guest, space: Space::Memory } => {
                self.trapped.remove(&guest.0.start());
                self.delete(guest.0.start())
            }
            // Without a slot everything exits: ports, and the host's own addresses, which mean nothing
            // to a guest that is not identity mapped.
            MapOp::Map { .. } | MapOp::Unmap { .. } | MapOp::Conceal { .. } => Ok(()),
        };
        if let Err(error) = applied {
            eprintln!("kvm-vmm: {change}: KVM refuses: {error}");
        }
        applied.is_ok()
    }

    /// Whether an access there exits because it shall.
    pub fn traps(&self, Guest(address): Guest<u64>) -> bool {
        self.trapped.range(..=address).next_back().is_some_and(|(_, last)| address <= *last)
    }

    fn add(&mut self, guest: u64, len: u64, address: u64) -> Result<(), kvm_ioctls::Error> {
        let is_free = |number: &u32| self.slots.values().all(|slot| slot.number != *number);
        let number = (RAM_SLOT + 1..).find(is_free).unwrap_or(u32::MAX);
        self.set(number, guest, len, address)?;
        self.slots.insert(guest, Slot { number, address });
        Ok(())
    }

    fn delete(&mut self, guest: u64) -> Result<(), kvm_ioctls::Error> {
        let Some(number) = self.slots.get(&guest).map(|slot| slot.number) else { return Ok(()) };
        self.set(number, guest, 0, 0)?;
        self.slots.remove(&guest);
        Ok(())
    }

    fn set(&mut self, slot: u32, guest: u64, len: u64, address: u64) -> Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: guest,
            memory_size: len,
            userspace_addr: address,
        };
        // SAFETY: a mapping of a device lives until the vCPU has ended; a length of zero deletes the slot.
        unsafe { self.vm.set_user_memory_region(region) }?;
        self.changes += 1;
        Ok(())
    }
}

#[cfg(test)]
#[path = "../tests/unit/second_stage.rs"]
mod tests;
