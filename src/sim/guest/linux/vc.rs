//! Virtual Channels (drivers/pci/vc.c), without arbitration tables: their controls are kept over sleeps and resets.

use std::vec::Vec;

use super::Linux;
use crate::spec::capability::ExtendedCapabilityId;

const CAPABILITY_1: u16 = 0x04;
const PORT_CONTROL: u16 = 0x0c;
const RESOURCE_CAPABILITY: u16 = 0x10;
const RESOURCE_CONTROL: u16 = 0x14;
/// Registers of each channel.
const STEP: u16 = 0x0c;
const ENABLE: u32 = 1 << 31;

/// `vc_caps`, in their order.
const IDS: [ExtendedCapabilityId; 3] =
    [ExtendedCapabilityId::MFVC, ExtendedCapabilityId::VIRTUAL_CHANNEL, ExtendedCapabilityId::VIRTUAL_CHANNEL_MFVC];

/// Port VC Control, and VC Resource Control of each channel.
#[derive(Debug, Clone)]
pub(super) struct Channels {
    id: ExtendedCapabilityId,
    port: u16,
    resources: Vec<u32>,
}

impl Linux<'_> {
    /// `pci_save_vc_state`.
    pub(super) fn save_channels(&mut self, dev: usize) -> Vec<Channels> {
        let mut saved = Vec::new();
        for id in IDS {
            let Some(at) = self.find_extended(dev, id) else { continue };
            let count = self.channels(dev, at);
            let port = self.read16(dev, at + PORT_CONTROL);
            let mut resources = Vec::new();
            for channel in 0..count {
                let _capability = self.read32(dev, at + RESOURCE_CAPABILITY + STEP * channel);
                resources.push(self.read32(dev, at + RESOURCE_CONTROL + STEP * channel));
            }
            saved.push(Channels { id, port, resources });
        }
        saved
    }

    /// `pci_restore_vc_state`: a channel that is enabled keeps being so, one that was is enabled again.
    pub(super) fn restore_channels(&mut self, dev: usize, saved: &[Channels]) {
        for Channels { id, port, resources } in saved {
            let Some(at) = self.find_extended(dev, *id) else { continue };
            let _count = self.channels(dev, at);
            self.write16(dev, at + PORT_CONTROL, *port);
            for (channel, control) in (0..).zip(resources) {
                let _capability = self.read32(dev, at + RESOURCE_CAPABILITY + STEP * channel);
                let offset = at + RESOURCE_CONTROL + STEP * channel;
                let is_enabled = self.read32(dev, offset) & ENABLE;
                self.write32(dev, offset, control & !ENABLE | is_enabled);
                if control & ENABLE != is_enabled && channel > 0 {
                    self.update32(dev, offset, 0, ENABLE);
                }
            }
        }
    }

    /// Extended VC Count, and VC0.
    fn channels(&mut self, dev: usize, at: u16) -> u16 {
        u16::try_from(self.read32(dev, at + CAPABILITY_1) & 7).unwrap_or_default() + 1
    }
}
