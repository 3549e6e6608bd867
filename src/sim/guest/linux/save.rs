//! `pci_save_state`: what a function is told again after a sleep or a reset.

use std::vec::Vec;

use super::Linux;
use super::express::Register;
use super::vc::Channels;
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};

/// Maximum snoop latencies of the LTR capability.
pub(super) const LTR_LATENCIES: u16 = 0x04;
/// PCI-X Command.
pub(super) const PCI_X_COMMAND: u16 = 0x02;

/// The control registers of the PCI Express Capability that are kept.
pub(super) const EXPRESS: [Register; 7] = [
    Register::DeviceControl,
    Register::LinkControl,
    Register::SlotControl,
    Register::RootControl,
    Register::DeviceControl2,
    Register::LinkControl2,
    Register::SlotControl2,
];

/// The buffers of a function.
#[derive(Debug, Clone)]
pub(super) struct Saved {
    pub(super) header: [u32; 16],
    pub(super) express: [u16; 7],
    pub(super) l1ss: Option<[(u32, u32); 2]>,
    pub(super) pci_x: Option<u16>,
    pub(super) ltr: Option<u32>,
    pub(super) dpc: Option<u16>,
    pub(super) aer: Vec<u32>,
    pub(super) ptm: Option<u32>,
    pub(super) channels: Vec<Channels>,
}

impl Linux<'_> {
    pub(super) fn save_state(&mut self, dev: usize) {
        let mut header = [0; 16];
        for (offset, dword) in (0..).step_by(4).zip(&mut header) {
            *dword = self.read32(dev, offset);
        }
        let express = EXPRESS.map(|register| self.express_read16(dev, register));
        let l1ss = self.save_l1ss(dev);
        let pci_x = self.find(dev, CapabilityId::PCI_X).map(|at| self.read16(dev, at + PCI_X_COMMAND));
        let ltr = self.find_ltr(dev).map(|at| self.read32(dev, at + LTR_LATENCIES));
        let dpc = self.save_dpc(dev);
        let aer = self.save_aer(dev);
        let ptm = self.save_ptm(dev);
        let channels = self.save_channels(dev);
        self.devices[dev].saved = Some(Saved { header, express, l1ss, pci_x, ltr, dpc, aer, ptm, channels });
    }

    pub(super) fn find_ltr(&mut self, dev: usize) -> Option<u16> {
        self.devices[dev].express?;
        self.find_extended(dev, ExtendedCapabilityId::LTR)
    }
}
