//! Where things are in the guest's memory, its RAM, and memory of devices.

use anyhow::{Context, Result};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use pci_remap::mechanism::Ecam;
use pci_remap::{Guest, Span};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, MmapRegion, VolatileMemory};

pub type Ram = GuestMemoryMmap;
/// Pages a device's memory is in: those of a function's BAR, or made up for a simulated one.
pub type Mapping = MmapRegion;

/// The slot of RAM; those of devices follow.
pub const RAM_SLOT: u32 = 0;

/// I/O APIC, local APIC, and what KVM keeps for itself.
const CONTROLLERS: Guest<Span> = Guest(Span::from_bounds(0xfec0_0000, 0xffff_ffff).unwrap());

/// The guest's RAM, from address 0 on.
pub fn ram(vm: &VmFd, size: usize) -> Result<Ram> {
    let ram = Ram::from_ranges(&[(GuestAddress(0), size)]).context("RAM of the guest")?;
    let slot = kvm_userspace_memory_region {
        slot: RAM_SLOT,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: size as u64,
        userspace_addr: ram.get_host_address(GuestAddress(0))? as u64,
    };
    // SAFETY: the RAM lives as long as the guest runs; nothing else is in it.
    unsafe { vm.set_user_memory_region(slot) }.context("KVM: a slot for RAM")?;
    Ok(ram)
}

/// Guest addresses at which no BAR may be.
pub fn reserved(ram: usize, ecam: Ecam) -> [Guest<Span>; 3] {
    let ram = Span::from_bounds(0, ram as u64 - 1).expect("there is RAM");
    [Guest(ram), ecam.span(), CONTROLLERS]
}

/// Where the VMM has some bytes of a device's memory, as a slot takes it.
pub fn address_of(mapping: &Mapping, offset: u64, len: u64) -> Option<u64> {
    let end = offset.checked_add(len)?;
    (end <= mapping.size() as u64).then(|| mapping.as_ptr() as u64 + offset)
}

/// Reads from a device's memory; what is past its end is all ones.
pub fn read(mapping: &Mapping, offset: u64, data: &mut [u8]) {
    data.fill(0xff);
    let _ = mapping.as_volatile_slice().read(data, offset as usize);
}

/// Writes to a device's memory what is in it.
pub fn write(mapping: &Mapping, offset: u64, data: &[u8]) {
    let _ = mapping.as_volatile_slice().write(data, offset as usize);
}
