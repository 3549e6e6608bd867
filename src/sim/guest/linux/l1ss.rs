//! L1 PM Substates of a link (drivers/pci/pcie/aspm.c): times at both ends, then what is enabled.

use super::aspm::States;
use super::{Linux, Release};

const CAPABILITIES: u16 = 0x04;
const CONTROL_1: u16 = 0x08;
const CONTROL_2: u16 = 0x0c;
/// L1 PM Substates Supported.
const SUPPORTED: u32 = 1 << 4;
/// The four states, in capabilities and in Control 1.
const STATES: u32 = 0xf;
/// PCI-PM L1.2 and ASPM L1.2.
const L1_2: u32 = 0b101;
const ASPM_L1_2: u32 = 1 << 2;
const COMMON_MODE_RESTORE_TIME: u32 = 0xff00;
const THRESHOLD: u32 = 0xe3ff_0000;

/// Capabilities and Control 1: PCI-PM L1.2, PCI-PM L1.1, ASPM L1.2, ASPM L1.1.
const BITS: [(u32, States); 4] =
    [(1 << 0, States::L1_2_PCIPM), (1 << 1, States::L1_1_PCIPM), (1 << 2, States::L1_2), (1 << 3, States::L1_1)];

fn states(bits: u32) -> States {
    BITS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, state)| *state).collect()
}

fn bits(states: States) -> u32 {
    BITS.iter().filter(|(_, state)| states.contains(*state)).map(|(bit, _)| *bit).sum()
}

impl Linux<'_> {
    /// `aspm_l1ss_init`: what both ends support and have enabled.
    pub(super) fn l1ss_init(&mut self, port: usize, child: usize) -> (States, States) {
        let Some((parent_at, child_at)) = self.l1ss_pair(port, child) else {
            return (States::empty(), States::empty());
        };
        let supported = |capabilities: u32| if capabilities & SUPPORTED == 0 { 0 } else { capabilities };
        let parent = supported(self.read32(port, parent_at + CAPABILITIES));
        let mut own = supported(self.read32(child, child_at + CAPABILITIES));
        if !self.devices[child].ltr_path {
            own &= !ASPM_L1_2;
        }
        let support = states(parent & own);
        let parent_control = if parent == 0 { 0 } else { self.read32(port, parent_at + CONTROL_1) };
        let child_control = if own == 0 { 0 } else { self.read32(child, child_at + CONTROL_1) };
        if support.intersects(States::L1_2 | States::L1_2_PCIPM) {
            self.program_l1ss_times(port, child, parent, own);
        }
        (support, states(parent_control & child_control))
    }

    fn l1ss_pair(&self, port: usize, child: usize) -> Option<(u16, u16)> {
        Some((self.devices[port].found.l1ss?, self.devices[child].found.l1ss?))
    }

    /// `aspm_calc_l1ss_info`.
    fn program_l1ss_times(&mut self, port: usize, child: usize, parent: u32, own: u32) {
        let Some((parent_at, child_at)) = self.l1ss_pair(port, child) else { return };
        let common_mode = (parent >> 8 & 0xff).max(own >> 8 & 0xff);
        let power_on = |capabilities: u32| {
            let (scale, value) = (capabilities >> 16 & 3, capabilities >> 19 & 0x1f);
            (value * [2, 10, 100, 0][scale as usize], scale | value << 3)
        };
        let (time, control_2) = if power_on(parent).0 > power_on(own).0 { power_on(parent) } else { power_on(own) };
        let (scale, value) = threshold(2 + 4 + common_mode + time);
        let control_1 = common_mode << 8 | scale << 29 | value << 16;
        let parent_1 = self.read32(port, parent_at + CONTROL_1);
        let parent_2 = self.read32(port, parent_at + CONTROL_2);
        let child_1 = self.read32(child, child_at + CONTROL_1);
        let child_2 = self.read32(child, child_at + CONTROL_2);
        if [parent_1, child_1] == [control_1; 2] && [parent_2, child_2] == [control_2; 2] {
            return;
        }
        let (parent_enabled, child_enabled) = (parent_1 & L1_2, child_1 & L1_2);
        if parent_enabled | child_enabled != 0 {
            self.update32(child, child_at + CONTROL_1, L1_2, 0);
            self.update32(port, parent_at + CONTROL_1, L1_2, 0);
        }
        self.write32(port, parent_at + CONTROL_2, control_2);
        self.write32(child, child_at + CONTROL_2, control_2);
        self.update32(port, parent_at + CONTROL_1, COMMON_MODE_RESTORE_TIME, control_1);
        self.update32(port, parent_at + CONTROL_1, THRESHOLD, control_1);
        self.update32(child, child_at + CONTROL_1, THRESHOLD, control_1);
        if parent_enabled | child_enabled != 0 {
            self.update32(port, parent_at + CONTROL_1, 0, parent_enabled);
            self.update32(child, child_at + CONTROL_1, 0, child_enabled);
        }
    }

    /// `pcie_config_aspm_l1ss`: all off, child first; then on what is wanted, port first. L1 is off meanwhile.
    pub(super) fn config_l1ss(&mut self, port: usize, child: usize, wanted: States, added: States) {
        let Some((parent_at, child_at)) = self.l1ss_pair(port, child) else { return };
        self.update32(child, child_at + CONTROL_1, STATES, 0);
        self.update32(port, parent_at + CONTROL_1, STATES, 0);
        if added.intersects(States::L1_1 | States::L1_2) {
            self.disable_l1(child);
            self.disable_l1(port);
        }
        self.update32(port, parent_at + CONTROL_1, STATES, bits(wanted));
        self.update32(child, child_at + CONTROL_1, STATES, bits(wanted));
    }

    /// `pci_save_aspm_l1ss_state`, since 6.9: Control 2 and 1, of the port above too.
    pub(super) fn save_l1ss(&mut self, dev: usize) -> Option<[(u32, u32); 2]> {
        let port = self.upstream_bridge(dev).filter(|_| self.release == Release::V6_15)?;
        let (parent_at, child_at) = self.l1ss_pair(port, dev)?;
        let own = (self.read32(dev, child_at + CONTROL_2), self.read32(dev, child_at + CONTROL_1));
        let above = (self.read32(port, parent_at + CONTROL_2), self.read32(port, parent_at + CONTROL_1));
        Some([own, above])
    }

    /// `pci_restore_aspm_l1ss_state`: the port's are written for the function.
    pub(super) fn restore_l1ss(&mut self, dev: usize, saved: [(u32, u32); 2]) {
        let Some(port) = self.upstream_bridge(dev) else { return };
        let Some((parent_at, child_at)) = self.l1ss_pair(port, dev) else { return };
        let [(child_2, child_1), (parent_2, parent_1)] = saved;
        let kept = self.suspend_aspm(port, dev);
        self.update32(dev, child_at + CONTROL_1, L1_2, 0);
        self.update32(port, parent_at + CONTROL_1, L1_2, 0);
        self.write32(port, parent_at + CONTROL_2, parent_2);
        self.write32(dev, child_at + CONTROL_2, child_2);
        self.write32(port, parent_at + CONTROL_1, parent_1 & !L1_2);
        self.write32(dev, child_at + CONTROL_1, child_1 & !L1_2);
        if (parent_1 | child_1) & L1_2 != 0 {
            self.update32(port, parent_at + CONTROL_1, 0, parent_1 & L1_2);
            self.update32(dev, child_at + CONTROL_1, 0, child_1 & L1_2);
        }
        self.resume_aspm(port, dev, kept);
    }
}

/// `encode_l12_threshold`: scale and value of a time in microseconds.
fn threshold(microseconds: u32) -> (u32, u32) {
    let time = microseconds * 1000;
    // Scale n counts in 32 to the power of n nanoseconds.
    (0..5)
        .map(|scale| (scale, 1_u32 << (5 * scale)))
        .find(|(_, unit)| u64::from(time) <= 0x3ff * u64::from(*unit))
        .map_or((5, 0x3ff), |(scale, unit)| (scale, time.div_ceil(unit)))
}
