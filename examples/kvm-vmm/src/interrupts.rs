//! Message interrupts: routes from events to the guest's local APICs.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KvmIrqRouting, kvm_irq_routing_entry, kvm_msi,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Failure;

/// Pins of the I/O APIC; messages get the numbers after them.
const PINS: u32 = 24;

/// What a function writes to interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    pub address: u64,
    pub data: u32,
}

/// KVM's routing table, which is set as a whole.
pub struct Router {
    vm: Arc<VmFd>,
    messages: Mutex<BTreeMap<u32, Message>>,
}

impl Router {
    pub fn new(vm: Arc<VmFd>) -> Result<Self, Failure> {
        let router = Self { vm, messages: Mutex::default() };
        router.set(&BTreeMap::new())?;
        Ok(router)
    }

    /// Sends a message at once.
    pub fn send(&self, message: Message) {
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..kvm_msi::default()
        };
        if let Err(error) = self.vm.signal_msi(msi) {
            eprintln!("kvm-vmm: KVM refuses {message:x?}: {error}");
        }
    }

    fn route(&self, number: u32, message: Message) -> Result<(), Failure> {
        let mut messages = self.messages.lock().expect("nobody panics with it");
        messages.insert(number, message);
        self.set(&messages)
    }

    fn set(&self, messages: &BTreeMap<u32, Message>) -> Result<(), Failure> {
        let mut entries = Vec::new();
        for pin in 0..PINS {
            if pin < 16 {
                let chip = if pin < 8 { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
                entries.push(pin_of(pin, chip, pin % 8));
            }
            entries.push(pin_of(pin, KVM_IRQCHIP_IOAPIC, pin));
        }
        for (number, message) in messages {
            let mut entry = kvm_irq_routing_entry { gsi: *number, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
            entry.u.msi.address_lo = message.address as u32;
            entry.u.msi.address_hi = (message.address >> 32) as u32;
            entry.u.msi.data = message.data;
            entries.push(entry);
        }
        let table = KvmIrqRouting::from_entries(&entries).map_err(io::Error::other)?;
        self.vm.set_gsi_routing(&table).map_err(|error| Failure::Kvm("interrupt routes", error))
    }
}

fn pin_of(number: u32, chip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi: number, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip.irqchip = chip;
    entry.u.irqchip.pin = pin;
    entry
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
    pub fn new(router: Arc<Router>) -> Result<Self, Failure> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        let mut messages = router.messages.lock().expect("nobody panics with it");
        let number = (PINS..).find(|number| !messages.contains_key(number)).expect("fewer than all numbers");
        messages.insert(number, Message { address: 0, data: 0 });
        drop(messages);
        Ok(Self { event, number, message: None, router })
    }

    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Sends this message from now on, or masks it.
    pub fn send(&mut self, message: Option<Message>) -> Result<(), Failure> {
        if message == self.message {
            return Ok(());
        }
        if let Some(message) = message {
            self.router.route(self.number, message)?;
        }
        let vm = &self.router.vm;
        match (self.message, message) {
            (None, Some(_)) => vm.register_irqfd(&self.event, self.number),
            (Some(_), None) => vm.unregister_irqfd(&self.event, self.number),
            _ => Ok(()),
        }
        .map_err(|error| Failure::Kvm("an interrupt's event", error))?;
        self.message = message;
        Ok(())
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        let _ = self.send(None);
        self.router.messages.lock().expect("nobody panics with it").remove(&self.number);
    }
}
