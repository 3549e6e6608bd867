//! Where things are in the guest's memory, its RAM, and memory of devices.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use pci_remap::mechanism::Ecam;
use pci_remap::{Guest, Span};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use crate::Failure;

pub type Ram = GuestMemoryMmap;

/// The slot of RAM; those of devices follow.
pub const RAM_SLOT: u32 = 0;

/// I/O APIC, local APIC, and what KVM keeps for itself.
const CONTROLLERS: Guest<Span> = Guest(Span::from_bounds(0xfec0_0000, 0xffff_ffff).unwrap());

/// The guest's RAM, from address 0 on.
pub fn ram(vm: &VmFd, size: usize) -> Result<Ram, Failure> {
    let ram = Ram::from_ranges(&[(GuestAddress(0), size)])?;
    let address = ram.get_host_address(GuestAddress(0))?;
    let slot = kvm_userspace_memory_region {
        slot: RAM_SLOT,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: size as u64,
        userspace_addr: address as u64,
    };
    // SAFETY: the RAM lives as long as the guest runs; nothing else is in it.
    unsafe { vm.set_user_memory_region(slot) }.map_err(|error| Failure::Kvm("a slot for RAM", error))?;
    Ok(ram)
}

/// Guest addresses at which no BAR may be.
pub fn reserved(ram: usize, ecam: Ecam) -> [Guest<Span>; 3] {
    let ram = Span::from_bounds(0, ram as u64 - 1).expect("there is RAM");
    [Guest(ram), ecam.span(), CONTROLLERS]
}

/// Pages a device's memory is in: those of a function's BAR, or made up for a simulated one.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: device memory may be accessed by any thread; accesses are volatile.
unsafe impl Send for Mapping {}

impl Mapping {
    /// `len` bytes of memory.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::new(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, 0)
    }

    /// `len` bytes of a file.
    pub fn of_file(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        let offset = offset.try_into().map_err(io::Error::other)?;
        Self::new(len, libc::MAP_SHARED, file.as_raw_fd(), offset)
    }

    fn new(len: usize, flags: i32, file: i32, offset: i64) -> io::Result<Self> {
        // SAFETY: the kernel chooses an address where nothing is.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, file, offset) };
        match NonNull::new(address.cast()) {
            Some(first) if address != libc::MAP_FAILED => Ok(Self { address: first, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The byte at an offset, as a slot takes it.
    pub fn address_of(&self, offset: u64, len: u64) -> Option<u64> {
        let end = offset.checked_add(len)?;
        (end <= self.len as u64).then(|| self.address.as_ptr() as u64 + offset)
    }

    /// Reads what is inside; the rest is all ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        // A part past the end, or all of it, is nobody's.
        let _ = self.bytes().read(data, offset as usize);
    }

    /// Writes what is inside.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let _ = self.bytes().write(data, offset as usize);
    }

    /// Its bytes, for accesses as wide as they are aligned.
    fn bytes(&self) -> VolatileSlice<'_> {
        // SAFETY: the mapping is as long as this, and lives as long; no Rust reference is to it.
        unsafe { VolatileSlice::new(self.address.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and slots that use it are gone: the guest has ended.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.len) };
    }
}
