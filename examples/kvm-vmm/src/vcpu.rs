//! The virtual machine and its processor, which starts in 64-bit mode.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress};

use crate::boot::Start;
use crate::bus::{Bus, Stop};
use crate::lock;
use crate::memory::Ram;

// Tables below the boot parameters and above.
const GDT: u64 = 0x500;
const STACK: u64 = 0x6ff0;
const PAGE_TABLES: u64 = 0x9000;
/// How much is mapped, one to one: every window of a machine below 64 GiB.
const MAPPED_GIB: u64 = 64;

/// A machine with interrupt controllers and a timer.
pub fn machine(kvm: &Kvm) -> Result<Arc<VmFd>> {
    let vm = kvm.create_vm().context("KVM: a virtual machine")?;
    vm.set_identity_map_address(0xfffb_c000).context("KVM: its identity map")?;
    vm.set_tss_address(0xfffb_d000).context("KVM: its task state")?;
    vm.create_irq_chip().context("KVM: interrupt controllers")?;
    let timer = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(timer).context("KVM: a timer")?;
    Ok(Arc::new(vm))
}

/// A processor that starts there.
pub fn new(kvm: &Kvm, vm: &VmFd, ram: &Ram, start: Start) -> Result<VcpuFd> {
    let vcpu = vm.create_vcpu(0).context("KVM: a processor")?;
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    for leaf in cpuid.as_mut_slice().iter_mut().filter(|leaf| leaf.function == 1) {
        // The local APIC's ID is 0; there are a TSC deadline timer and a hypervisor.
        leaf.ebx &= 0x00ff_ffff;
        leaf.ecx |= 1 << 24 | 1 << 31;
    }
    vcpu.set_cpuid2(&cpuid).context("KVM: what the processor can")?;
    let mut special = vcpu.get_sregs()?;
    enter_long_mode(&mut special, ram)?;
    vcpu.set_sregs(&special).context("KVM: 64-bit mode")?;
    let (rip, rsi) = (start.entry, start.parameters);
    vcpu.set_regs(&kvm_regs { rip, rsi, rsp: STACK, rflags: 2, ..Default::default() }).context("KVM: registers")?;
    Ok(vcpu)
}

/// Runs until the guest ends.
pub fn run(mut vcpu: VcpuFd, bus: &Mutex<Bus>) -> Result<Stop> {
    let why = loop {
        match vcpu.run() {
            Ok(VcpuExit::IoIn(port, data)) => lock(bus).port_read(port, data),
            Ok(VcpuExit::IoOut(port, data)) => {
                if let Some(stop) = lock(bus).port_write(port, data) {
                    return Ok(stop);
                }
            }
            Ok(VcpuExit::MmioRead(address, data)) => lock(bus).memory_read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => lock(bus).memory_write(address, data),
            Ok(VcpuExit::Intr) => {}
            Ok(VcpuExit::Shutdown) => break "a triple fault".into(),
            Ok(VcpuExit::InternalError) => break "KVM cannot emulate an instruction".into(),
            Ok(other) => break format!("KVM stops with {other:?}"),
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {}
            Err(error) => break error.to_string(),
        }
    };
    let at = vcpu.get_regs().map_or(0, |registers| registers.rip);
    bail!("the guest cannot go on: {why}, at {at:#x}")
}

/// 64-bit mode with flat segments and an identity map.
fn enter_long_mode(registers: &mut kvm_sregs, ram: &Ram) -> Result<()> {
    let segment = |selector, type_, long| kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        s: 1,
        l: long,
        db: 1 - long,
        g: 1,
        ..Default::default()
    };
    // Linux's boot protocol names the selectors.
    let (code, data) = (segment(0x10, 0xb, 1), segment(0x18, 0x3, 0));
    registers.cs = code;
    for register in [&mut registers.ds, &mut registers.es, &mut registers.fs, &mut registers.gs, &mut registers.ss] {
        *register = data;
    }
    let descriptors = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff_u64];
    (registers.gdt.base, registers.gdt.limit) = (GDT, size_of_val(&descriptors) as u16 - 1);
    let (pml4, pdpt, directories) = (PAGE_TABLES, PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    let write = |at, value: u64| ram.write_obj(value, GuestAddress(at));
    (GDT..).step_by(8).zip(descriptors).try_for_each(|(at, descriptor)| write(at, descriptor))?;
    // Present and writable; in a directory, pages of 2 MiB.
    write(pml4, pdpt | 3)?;
    for gib in 0..MAPPED_GIB {
        let directory = directories + gib * 0x1000;
        write(pdpt + gib * 8, directory | 3)?;
        (0..512).try_for_each(|page| write(directory + page * 8, gib << 30 | page << 21 | 0x83))?;
    }
    registers.cr3 = pml4;
    // PAE; paging and protection; long mode enabled and active.
    registers.cr4 |= 1 << 5;
    registers.cr0 |= 1 << 31 | 1;
    registers.efer |= 1 << 8 | 1 << 10;
    Ok(())
}
