//! MSI-X, MSI and INTx of a function (drivers/pci/msi/msi.c).

use std::vec::Vec;

use super::Linux;
use crate::access::Width;
use crate::sim::platform::Message;
use crate::spec::capability::CapabilityId;
use crate::spec::header::Command;

const COMMAND: u16 = 0x04;
/// Message Control of both capabilities.
const CONTROL: u16 = 0x02;
const MSI_ENABLE: u16 = 1 << 0;
const MSI_WIDE: u16 = 1 << 7;
const MSI_MASKS: u16 = 1 << 8;
/// Multiple Message Enable.
const MSI_COUNT: u16 = 7 << 4;
const MSI_ADDRESS: u16 = 0x04;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;
/// Registers of an MSI-X Table entry.
const ENTRY: u64 = 16;
const ENTRY_UPPER: u64 = 4;
const ENTRY_DATA: u64 = 8;
const ENTRY_CONTROL: u64 = 12;
/// Local APIC of the first processor.
const APIC: u32 = 0xfee0_0000;

/// How a function signals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Interrupts {
    /// Not at all.
    #[default]
    None,
    /// By its pin.
    IntX(u32),
    /// By one message.
    Msi(u32),
    /// By messages from a table in memory.
    MsiX {
        /// Address of the table.
        table: u64,
        /// The numbers of the vectors in use.
        vectors: Vec<u32>,
    },
}

impl Interrupts {
    /// The number of the first.
    pub(super) fn first(&self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::IntX(irq) | Self::Msi(irq) => Some(*irq),
            Self::MsiX { vectors, .. } => vectors.first().copied(),
        }
    }
}

/// `x86_vector_msi_compose_msg`.
fn message(irq: u32) -> Message {
    Message { address: APIC.into(), data: irq }
}

impl Linux<'_> {
    /// `pci_msi_init`: off, whatever firmware or a crashed kernel left.
    pub(super) fn msi_init(&mut self, dev: usize) {
        let at = self.find(dev, CapabilityId::MSI);
        self.devices[dev].found.msi = at;
        if let Some(at) = at {
            let control = self.read16(dev, at + CONTROL);
            if control & MSI_ENABLE != 0 {
                self.write16(dev, at + CONTROL, control & !MSI_ENABLE);
            }
        }
    }

    /// `pci_msix_init`.
    pub(super) fn msix_init(&mut self, dev: usize) {
        let at = self.find(dev, CapabilityId::MSI_X);
        self.devices[dev].found.msix = at;
        if let Some(at) = at {
            let control = self.read16(dev, at + CONTROL);
            if control & MSIX_ENABLE != 0 {
                self.write16(dev, at + CONTROL, control & !MSIX_ENABLE);
            }
        }
    }

    /// `pci_alloc_irq_vectors`: MSI-X, one MSI (more need remapping), or the pin. How many there are.
    pub(super) fn alloc_vectors(&mut self, dev: usize, most: u16) -> usize {
        if let Some(count) = self.enable_msix(dev, most) {
            return count;
        }
        if self.enable_msi(dev) {
            return 1;
        }
        if self.devices[dev].pin == 0 {
            return 0;
        }
        self.set_intx(dev, true);
        let irq = self.next_irq();
        self.devices[dev].interrupts = Interrupts::IntX(irq);
        1
    }

    fn next_irq(&mut self) -> u32 {
        self.last_irq += 1;
        self.last_irq
    }

    /// `msix_capability_init`, then `request_irq` for each vector.
    fn enable_msix(&mut self, dev: usize, most: u16) -> Option<usize> {
        let at = self.devices[dev].found.msix?;
        let size = (self.read16(dev, at + CONTROL) & 0x7ff) + 1;
        self.msix_control(dev, at, 0, MSIX_MASK_ALL | MSIX_ENABLE);
        let _control = self.read16(dev, at + CONTROL);
        let Some(table) = self.msix_table(dev, at) else {
            self.msix_control(dev, at, MSIX_MASK_ALL | MSIX_ENABLE, 0);
            return None;
        };
        let vectors: Vec<_> = (0..size.min(most)).map(|_| self.next_irq()).collect();
        for entry in 0..vectors.len() as u64 {
            let _control = self.table_read(table, entry, ENTRY_CONTROL);
        }
        for (entry, irq) in (0..).zip(&vectors) {
            self.write_entry(table, entry, *irq);
        }
        self.set_intx(dev, false);
        for entry in 0..size.into() {
            self.table_write(table, entry, ENTRY_CONTROL, 1);
        }
        self.msix_control(dev, at, MSIX_MASK_ALL, 0);
        let count = vectors.len();
        for entry in 0..count as u64 {
            self.table_write(table, entry, ENTRY_CONTROL, 0);
        }
        self.devices[dev].interrupts = Interrupts::MsiX { table, vectors };
        Some(count)
    }

    /// `msix_map_region`: the table is in a BAR, at the address the kernel gave it.
    fn msix_table(&mut self, dev: usize, at: u16) -> Option<u64> {
        let place = self.read32(dev, at + 4);
        let resource = self.devices[dev].resources.get((place & 7) as usize)?;
        Some(resource.span()?.start() + u64::from(place & !7))
    }

    /// `__pci_write_msi_msg`; the read flushes.
    fn write_entry(&mut self, table: u64, entry: u64, irq: u32) {
        let Message { address, data } = message(irq);
        self.table_write(table, entry, 0, u32::try_from(address).unwrap_or_default());
        self.table_write(table, entry, ENTRY_UPPER, 0);
        self.table_write(table, entry, ENTRY_DATA, data);
        let _flushed = self.table_read(table, entry, ENTRY_DATA);
    }

    fn table_read(&mut self, table: u64, entry: u64, register: u64) -> u32 {
        self.config.platform.memory_read(table + entry * ENTRY + register, Width::Dword)
    }

    fn table_write(&mut self, table: u64, entry: u64, register: u64, value: u32) {
        self.config.platform.memory_write(table + entry * ENTRY + register, Width::Dword, value);
    }

    /// `pci_msix_clear_and_set_ctrl`.
    fn msix_control(&mut self, dev: usize, at: u16, clear: u16, set: u16) {
        let control = self.read16(dev, at + CONTROL);
        self.write16(dev, at + CONTROL, control & !clear | set);
    }

    /// `msi_capability_init`, then `request_irq`.
    fn enable_msi(&mut self, dev: usize) -> bool {
        let Some(at) = self.devices[dev].found.msi else { return false };
        let irq = self.next_irq();
        self.msi_enable(dev, at, false);
        self.set_msi_mask(dev, at, !0);
        self.write_msi(dev, at, irq);
        self.set_intx(dev, false);
        self.msi_enable(dev, at, true);
        self.set_msi_mask(dev, at, 0);
        self.devices[dev].interrupts = Interrupts::Msi(irq);
        true
    }

    /// `pci_msi_set_enable`.
    fn msi_enable(&mut self, dev: usize, at: u16, enable: bool) {
        let control = self.read16(dev, at + CONTROL) & !MSI_ENABLE;
        self.write16(dev, at + CONTROL, control | if enable { MSI_ENABLE } else { 0 });
    }

    fn write_msi(&mut self, dev: usize, at: u16, irq: u32) {
        let Message { address, data } = message(irq);
        let control = self.read16(dev, at + CONTROL) & !MSI_COUNT;
        self.write16(dev, at + CONTROL, control);
        self.write32(dev, at + MSI_ADDRESS, u32::try_from(address).unwrap_or_default());
        let data = u16::try_from(data).unwrap_or_default();
        if control & MSI_WIDE != 0 {
            self.write32(dev, at + 8, 0);
            self.write16(dev, at + 12, data);
        } else {
            self.write16(dev, at + 8, data);
        }
        let _flushed = self.read16(dev, at + CONTROL);
    }

    /// `pci_msi_update_mask`, where there are masks.
    fn set_msi_mask(&mut self, dev: usize, at: u16, mask: u32) {
        let control = self.read16(dev, at + CONTROL);
        if control & MSI_MASKS != 0 {
            let offset = if control & MSI_WIDE != 0 { 16 } else { 12 };
            self.write32(dev, at + offset, mask);
        }
    }

    /// `pci_intx`.
    fn set_intx(&mut self, dev: usize, enable: bool) {
        let before = self.read16(dev, COMMAND);
        let disable = Command::INTERRUPT_DISABLE.bits();
        let after = if enable { before & !disable } else { before | disable };
        if after != before {
            self.write16(dev, COMMAND, after);
        }
    }

    /// `pci_free_irq_vectors`.
    pub(super) fn free_vectors(&mut self, dev: usize) {
        let found = self.devices[dev].found;
        match core::mem::take(&mut self.devices[dev].interrupts) {
            Interrupts::None | Interrupts::IntX(_) => {}
            Interrupts::Msi(_) => {
                if let Some(at) = found.msi {
                    self.msi_enable(dev, at, false);
                    self.set_intx(dev, true);
                    self.set_msi_mask(dev, at, 0);
                }
            }
            Interrupts::MsiX { table, vectors } => {
                for entry in 0..vectors.len() as u64 {
                    self.table_write(table, entry, ENTRY_CONTROL, 1);
                    let _flushed = self.table_read(table, 0, 0);
                }
                if let Some(at) = found.msix {
                    self.msix_control(dev, at, MSIX_ENABLE, 0);
                    self.set_intx(dev, true);
                }
            }
        }
    }

    /// `pci_restore_msi_state`.
    pub(super) fn restore_interrupts(&mut self, dev: usize) {
        let found = self.devices[dev].found;
        match (self.devices[dev].interrupts.clone(), found) {
            (Interrupts::Msi(irq), super::Found { msi: Some(at), .. }) => {
                self.set_intx(dev, false);
                self.msi_enable(dev, at, false);
                self.write_msi(dev, at, irq);
                self.set_msi_mask(dev, at, 0);
                let control = self.read16(dev, at + CONTROL) & !MSI_COUNT;
                self.write16(dev, at + CONTROL, control | MSI_ENABLE);
            }
            (Interrupts::MsiX { table, vectors }, super::Found { msix: Some(at), .. }) => {
                self.set_intx(dev, false);
                self.msix_control(dev, at, 0, MSIX_ENABLE | MSIX_MASK_ALL);
                let command = self.read16(dev, COMMAND);
                self.write16(dev, COMMAND, command | Command::MEMORY_SPACE_ENABLE.bits());
                for (entry, irq) in (0..).zip(vectors) {
                    self.table_write(table, entry, ENTRY_CONTROL, 1);
                    self.write_entry(table, entry, irq);
                    self.table_write(table, entry, ENTRY_CONTROL, 0);
                }
                self.write16(dev, COMMAND, command);
                self.msix_control(dev, at, MSIX_MASK_ALL, 0);
            }
            _ => {}
        }
    }

    /// Whether every vector's message arrives as it was programmed; `None` when there are no messages.
    pub(super) fn messages_arrive(&mut self, dev: usize) -> Option<bool> {
        let vectors = match self.devices[dev].interrupts.clone() {
            Interrupts::None | Interrupts::IntX(_) => return None,
            Interrupts::Msi(irq) => Vec::from([irq]),
            Interrupts::MsiX { vectors, .. } => vectors,
        };
        let bdf = self.devices[dev].bdf;
        let arrives = |linux: &mut Self, vector, irq| linux.config.platform.signal(bdf, vector) == Some(message(irq));
        Some((0..).zip(vectors).all(|(vector, irq)| arrives(self, vector, irq)))
    }
}
