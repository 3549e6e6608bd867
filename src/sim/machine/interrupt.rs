//! What functions send to memory: DMA and Message Signaled Interrupts, by the registers as they stand.

use std::vec::Vec;

use super::error::{Fault, Uncorrectable};
use super::link::LinkState;
use super::{FunctionId, Machine};
use crate::address::Bdf;
use crate::sim::platform::Message;
use crate::spec::capability::CapabilityId;
use crate::spec::express;
use crate::spec::header::Command;
use crate::spec::msix;

/// A message that reached the processors' interrupt controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signaled {
    /// The Requester ID it came with.
    pub requester: Bdf,
    /// The write.
    pub message: Message,
}

/// A DMA access that reached memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dma {
    /// The Requester ID it came with.
    pub requester: Bdf,
    /// First address.
    pub address: u64,
    /// Number of bytes.
    pub len: u32,
}

/// Why a request of a function did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Undelivered {
    /// There is no such function, or a bridge keeps it out of reach.
    #[error("nothing is there")]
    Absent,
    /// Not in D0, or not ready after a reset.
    #[error("{0} sleeps")]
    Asleep(Bdf),
    /// Bus Master Enable is off: of the function, or of a bridge on the way.
    #[error("{0} may not master the bus")]
    NotMaster(Bdf),
    /// The link below this port is down.
    #[error("the link below {0} is down")]
    NoLink(Bdf),
    /// More payload than this port takes.
    #[error("{0} refuses the payload")]
    Malformed(Bdf),
    /// The completion finds no way back: no bus number of this bridge leads to the requester.
    #[error("{0} does not know the way back")]
    NoWayBack(Bdf),
    /// The vector is not enabled, masked, or not there.
    #[error("the vector is off")]
    Masked,
}

impl Machine {
    /// The messages that arrived, oldest first.
    pub fn msi_log(&self) -> &[Signaled] {
        &self.msi_log
    }

    /// Lets the function that was at this address when the machine was built write `len` bytes of memory, in TLPs of its
    /// Max_Payload_Size.
    ///
    /// # Errors
    /// [`Undelivered`] with what keeps it from arriving.
    pub fn dma_write(&mut self, function: Bdf, address: u64, len: u32) -> Result<Dma, Undelivered> {
        let id = self.original(function).ok_or(Undelivered::Absent)?;
        self.write_memory(id, address, len)
    }

    pub(super) fn write_memory(&mut self, id: FunctionId, address: u64, len: u32) -> Result<Dma, Undelivered> {
        let payload = len.min(self.function(self.governor(id)).max_payload());
        let requester = self.send_up(id, payload)?;
        Ok(Dma { requester, address, len })
    }

    /// Lets a function read `len` bytes of memory. The completions have up to Max_Payload_Size of the Root Port, and no
    /// more than Max_Read_Request_Size of the function.
    ///
    /// # Errors
    /// [`Undelivered`] with what keeps the request or its completions from arriving.
    pub fn dma_read(&mut self, function: Bdf, address: u64, len: u32) -> Result<Dma, Undelivered> {
        let id = self.original(function).ok_or(Undelivered::Absent)?;
        self.read_memory(id, address, len)
    }

    pub(super) fn read_memory(&mut self, id: FunctionId, address: u64, len: u32) -> Result<Dma, Undelivered> {
        let requester = self.send_up(id, 0)?;
        let control = self.function(self.governor(id)).express(express::DEVICE_CONTROL);
        let request = if self.function(id).is_express() { 128 << (control >> 12 & 7) } else { len };
        let sender = self.root_port(id).map_or(u32::MAX, |root| self.function(root).max_payload());
        let payload = len.min(request).min(sender);
        let way: Vec<_> = std::iter::successors(Some(id), |id| self.function(*id).parent).collect();
        for hop in way.iter().rev() {
            let function = self.function(*hop);
            if *hop != id && !function.buses().is_some_and(|buses| buses.contains(&requester.bus())) {
                return Err(Undelivered::NoWayBack(function.bdf()));
            }
            if self.root_port(id) != Some(*hop) {
                self.receive(*hop, requester, payload)?;
            }
        }
        Ok(Dma { requester, address, len })
    }

    /// Lets a function signal one of its vectors by MSI-X or MSI, whichever is enabled.
    ///
    /// # Errors
    /// [`Undelivered`] with what keeps the message from arriving.
    pub fn raise_msi(&mut self, function: Bdf, vector: u16) -> Result<Signaled, Undelivered> {
        let id = self.original(function).ok_or(Undelivered::Absent)?;
        self.raise(id, vector)
    }

    pub(super) fn raise(&mut self, id: FunctionId, vector: u16) -> Result<Signaled, Undelivered> {
        let message = match self.msix_message(id, vector) {
            Some(found) => found,
            None => self.msi_message(id, vector),
        };
        let message = message.ok_or(Undelivered::Masked)?;
        let requester = self.send_up(id, 4)?;
        let signaled = Signaled { requester, message };
        self.msi_log.push(signaled);
        Ok(signaled)
    }

    /// A port signals one of its own events, by the vector its capability names, if it can.
    pub(super) fn port_interrupt(&mut self, id: FunctionId) {
        let vector = (self.function(id).express(0) >> 25 & 0x1f) as u16;
        // Where it cannot, nobody hears.
        let _ = self.raise(id, vector);
    }

    /// Sends a memory request to the host bridge, and tells its Requester ID there.
    fn send_up(&mut self, id: FunctionId, payload: u32) -> Result<Bdf, Undelivered> {
        let function = self.function(id);
        if self.function(self.governor(id)).power_state() != 0 || !self.is_ready(id) {
            return Err(Undelivered::Asleep(function.bdf()));
        }
        if !function.command().contains(Command::BUS_MASTER_ENABLE) {
            return Err(Undelivered::NotMaster(function.bdf()));
        }
        let mut requester = self.requester(id);
        let mut at = id;
        while let Some(bridge) = self.function(at).parent {
            let function = self.function(bridge);
            let bdf = function.bdf();
            match self.link(bridge) {
                None | Some(LinkState::Active | LinkState::Retraining) => (),
                Some(LinkState::Training | LinkState::Down) => return Err(Undelivered::NoLink(bdf)),
            }
            if !function.forwards_in_this_state() || !self.is_ready(bridge) {
                return Err(Undelivered::Asleep(bdf));
            }
            if !function.command().contains(Command::BUS_MASTER_ENABLE) {
                return Err(Undelivered::NotMaster(bdf));
            }
            // A bridge from conventional PCI speaks for all behind it (PCI Express to PCI/PCI-X Bridge 1.0, 2.3).
            if function.port_type() == Some(express::PortType::PciExpressToPciBridge)
                && let Some(buses) = function.buses()
            {
                requester = Bdf::from_routing_id(u16::from(*buses.start()) << 8);
            }
            self.receive(bridge, requester, payload)?;
            at = bridge;
        }
        Ok(requester)
    }

    /// A TLP with more payload than Max_Payload_Size of its receiver is malformed.
    fn receive(&mut self, receiver: FunctionId, requester: Bdf, payload: u32) -> Result<(), Undelivered> {
        let function = self.function(receiver);
        let limit = self.function(self.governor(receiver)).max_payload();
        if payload <= limit {
            return Ok(());
        }
        let receiver_bdf = function.bdf();
        self.fault(Fault::MalformedTlp { receiver: receiver_bdf, requester, payload, limit });
        self.uncorrectable(receiver, Uncorrectable::MalformedTlp);
        Err(Undelivered::Malformed(receiver_bdf))
    }

    /// The message of an MSI-X vector: `None` without MSI-X or with it off, `Some(None)` where the vector is masked.
    #[expect(clippy::option_option, reason = "off and masked are different things")]
    fn msix_message(&self, id: FunctionId, vector: u16) -> Option<Option<Message>> {
        let function = self.function(id);
        let at = function.standard(CapabilityId::MSI_X)?;
        let control = function.read(at) >> 16;
        if control & 0x8000 == 0 {
            return None;
        }
        let size = control & 0x7ff;
        let table = at.plus(msix::TABLE).map_or(0, |table| function.read(table));
        let (bar, offset) = ((table & 7) as usize, u64::from(table & !7) + 16 * u64::from(vector));
        let word = |index: u64| self.memory.get(&(id, bar, offset + 4 * index)).copied();
        // An entry nobody wrote is masked.
        let is_masked = control & 0x4000 != 0 || word(3).is_none_or(|control| control & 1 != 0);
        if u32::from(vector) > size || is_masked {
            return Some(None);
        }
        let [low, high, data] = [0, 1, 2].map(|index| word(index).unwrap_or(0));
        Some(Some(Message { address: u64::from(high) << 32 | u64::from(low), data }))
    }

    fn msi_message(&self, id: FunctionId, vector: u16) -> Option<Message> {
        let function = self.function(id);
        let at = function.standard(CapabilityId::MSI)?;
        let read = |index| at.plus(index).map_or(0, |dword| function.read(dword));
        let control = read(0) >> 16;
        let is_wide = control & 0x80 != 0;
        let vectors = 1_u32 << (control >> 4 & 7);
        let vector = u32::from(vector) & (vectors - 1);
        let mask = if control & 0x100 != 0 { read(if is_wide { 4 } else { 3 }) } else { 0 };
        if control & 1 == 0 || mask >> vector & 1 != 0 {
            return None;
        }
        let high = if is_wide { u64::from(read(2)) << 32 } else { 0 };
        let data = read(if is_wide { 3 } else { 2 }) & 0xffff & !(vectors - 1) | vector;
        Some(Message { address: high | u64::from(read(1)), data })
    }
}
