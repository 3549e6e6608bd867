//! How events of devices become interrupts of the guest: messages to its local APICs, and one line for Interrupt Pins.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting, kvm_irq_routing_entry, kvm_msi,
};
use kvm_ioctls::{Cap, VmFd};
use pci_remap::sim::platform::Message;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::lock;

/// Pins of the I/O APIC; messages get the numbers after them.
const PINS: u32 = 24;
/// The pin of the I/O APIC at which all INTx of the guest's functions end. The ACPI tables name it.
pub const INTX: u32 = 16;

/// KVM's routing table, which is set as a whole.
pub struct Router {
    vm: Arc<VmFd>,
    messages: Mutex<BTreeMap<u32, Message>>,
}

impl Router {
    pub fn new(vm: Arc<VmFd>) -> Result<Self> {
        let router = Self { vm, messages: Mutex::default() };
        router.set(&BTreeMap::new())?;
        Ok(router)
    }

    /// Whether a [`Line`] can be had.
    pub fn has_lines(&self) -> bool {
        self.vm.check_extension(Cap::IrqfdResample)
    }

    /// Sends a message at once.
    pub fn send(&self, message: Message) {
        let (address_lo, address_hi) = (message.address as u32, (message.address >> 32) as u32);
        let msi = kvm_msi { address_lo, address_hi, data: message.data, ..Default::default() };
        if let Err(error) = self.vm.signal_msi(msi) {
            eprintln!("kvm-vmm: KVM refuses {message:x?}: {error}");
        }
    }

    fn set(&self, messages: &BTreeMap<u32, Message>) -> Result<()> {
        let pins = (0..PINS).map(|pin| {
            let mut entry = kvm_irq_routing_entry { gsi: pin, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
            (entry.u.irqchip.irqchip, entry.u.irqchip.pin) = (KVM_IRQCHIP_IOAPIC, pin);
            entry
        });
        let messages = messages.iter().map(|(number, message)| {
            let mut entry = kvm_irq_routing_entry { gsi: *number, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
            (entry.u.msi.address_lo, entry.u.msi.address_hi) = (message.address as u32, (message.address >> 32) as u32);
            entry.u.msi.data = message.data;
            entry
        });
        let table = KvmIrqRouting::from_entries(&pins.chain(messages).collect::<Vec<_>>())?;
        self.vm.set_gsi_routing(&table).context("KVM: interrupt routes")
    }
}

/// An event a device signals, and what the guest gets for it.
pub struct Vector {
    event: EventFd,
    number: u32,
    /// What it sends; `None` while it is masked, when the event keeps what comes.
    message: Option<Message>,
    router: Arc<Router>,
}

impl Vector {
    /// A masked vector.
    pub fn new(router: &Arc<Router>) -> Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        let mut messages = lock(&router.messages);
        let number = (PINS..).find(|number| !messages.contains_key(number)).expect("fewer than all numbers");
        messages.insert(number, Message { address: 0, data: 0 });
        Ok(Self { event, number, message: None, router: router.clone() })
    }

    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Sends this message from now on, or masks it.
    pub fn send(&mut self, message: Option<Message>) -> Result<()> {
        if message == self.message {
            return Ok(());
        }
        if let Some(message) = message {
            let mut messages = lock(&self.router.messages);
            messages.insert(self.number, message);
            self.router.set(&messages)?;
        }
        let vm = &self.router.vm;
        match (self.message, message) {
            (None, Some(_)) => vm.register_irqfd(&self.event, self.number),
            (Some(_), None) => vm.unregister_irqfd(&self.event, self.number),
            _ => Ok(()),
        }
        .context("KVM: an interrupt's event")?;
        self.message = message;
        Ok(())
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        let _ = self.send(None);
        lock(&self.router.messages).remove(&self.number);
    }
}

/// What a function raises by INTx. It is level-triggered: the device is masked when it signals, and the guest's End Of
/// Interrupt signals the second event, which unmasks it. Where it still asserts then, it signals again.
pub struct Line {
    raised: EventFd,
    resample: EventFd,
    vm: Arc<VmFd>,
}

impl Line {
    pub fn new(router: &Router) -> Result<Self> {
        let (raised, resample, vm) = (EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?, router.vm.clone());
        vm.register_irqfd_with_resample(&raised, &resample, INTX).context("KVM: an interrupt line")?;
        Ok(Self { raised, resample, vm })
    }

    /// What the device signals, and what unmasks it.
    pub fn events(&self) -> [&EventFd; 2] {
        [&self.raised, &self.resample]
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.vm.unregister_irqfd(&self.raised, INTX);
    }
}
