//! Active State Power Management of links (drivers/pci/pcie/aspm.c): common clock, what both ends can, what the policy
//! wants.

use std::vec::Vec;

use bitflags::bitflags;

use super::express::{DOWNSTREAM_PORT, ENDPOINT, LEGACY_ENDPOINT, ROOT_PORT, Register};
use super::power::State;
use super::{Linux, Release};

/// ASPM Control in Link Control.
const CONTROL: u16 = 3;
const L0S: u16 = 1;
const L1: u16 = 2;
/// Enable Clock Power Management in Link Control.
const CLOCK_REQUEST: u16 = 1 << 8;
/// ASPM Support in Link Capabilities.
const SUPPORT: u32 = 3 << 10;
/// Clock Power Management in Link Capabilities.
const CLOCK_PM: u32 = 1 << 18;
/// Role-Based Error Reporting in Device Capabilities: what 1.0a functions do not have.
const ROLE_BASED: u32 = 1 << 15;

bitflags! {
    /// The `ASPM_STATE_*` flags.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct States: u8 {
        const L0S_UP = 1 << 0;
        const L0S_DOWN = 1 << 1;
        const L1 = 1 << 2;
        const L1_1 = 1 << 3;
        const L1_2 = 1 << 4;
        const L1_1_PCIPM = 1 << 5;
        const L1_2_PCIPM = 1 << 6;
    }
}

impl States {
    const L0S: Self = Self::L0S_UP.union(Self::L0S_DOWN);
    const PCIPM: Self = Self::L1_1_PCIPM.union(Self::L1_2_PCIPM);
    const L1SS: Self = Self::L1_1.union(Self::L1_2).union(Self::PCIPM);
}

/// `pcie_aspm.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// What firmware enabled.
    Default,
    /// Everything.
    PowerSupersave,
}

/// `struct pcie_link_state`.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkState {
    downstream: usize,
    /// The port whose link is on the way to the root.
    parent: Option<usize>,
    supported: States,
    capable: States,
    enabled: States,
    default: States,
    disabled: States,
    clock_pm_capable: bool,
    clock_pm_enabled: bool,
    clock_pm_default: bool,
}

impl Linux<'_> {
    /// `pcie_aspm_init_link_state`, after a slot scan found something.
    pub(super) fn aspm_init_link_state(&mut self, port: usize) {
        let is_sane = self.aspm_sanity_check(port);
        let device = &self.devices[port];
        if device.link.is_some() || !device.is_downstream_port() {
            return;
        }
        // VIA has a root port under a bridge.
        if device.is_port(&[ROOT_PORT]) && self.upstream_bridge(port).is_some() {
            return;
        }
        let Some(downstream) = self.function_0(port) else {
            self.log.push("BUG: kernel NULL pointer dereference in pcie_aspm_init_link_state".into());
            return;
        };
        let parent = self.link_above(port);
        if parent.is_none() && device_needs_parent(self, port) {
            return;
        }
        let none = States::empty();
        self.devices[port].link = Some(LinkState {
            downstream,
            parent,
            supported: none,
            capable: none,
            enabled: none,
            default: none,
            disabled: none,
            clock_pm_capable: false,
            clock_pm_enabled: false,
            clock_pm_default: false,
        });
        self.aspm_cap_init(port, is_sane);
        self.clock_pm_cap_init(port, is_sane);
        self.config_aspm_path(port, Policy::Default);
        self.set_clock_pm(port, Policy::Default);
    }

    /// `pci_function_0`.
    fn function_0(&self, port: usize) -> Option<usize> {
        self.below(port).into_iter().find(|child| self.devices[*child].bdf.function() == 0)
    }

    /// The port of the next link towards the root.
    fn link_above(&self, port: usize) -> Option<usize> {
        if !self.devices[port].is_port(&[DOWNSTREAM_PORT]) {
            return None;
        }
        let upstream = self.upstream_bridge(port)?;
        self.upstream_bridge(upstream).filter(|above| self.devices[*above].link.is_some())
    }

    /// `pcie_aspm_sanity_check`.
    fn aspm_sanity_check(&mut self, port: usize) -> bool {
        for child in self.below(port) {
            if self.devices[child].express.is_none() {
                return false;
            }
            if self.express_read32(child, Register::DeviceCapabilities) & ROLE_BASED == 0 {
                self.info(child, "disabling ASPM on pre-1.1 PCIe device.  You can enable it with 'pcie_aspm=force'");
                return false;
            }
        }
        true
    }

    /// `pcie_aspm_cap_init`.
    fn aspm_cap_init(&mut self, port: usize, is_sane: bool) {
        let Some(mut link) = self.devices[port].link else { return };
        if !is_sane {
            // So that it is switched off later.
            link.enabled = States::all();
            link.disabled = States::all();
            self.devices[port].link = Some(link);
            return;
        }
        let child = link.downstream;
        if self.common_aspm(port, child) == 0 {
            return;
        }
        self.configure_common_clock(port);
        // Latencies may depend on the clock.
        let common = self.common_aspm(port, child);
        let parent_control = self.express_read16(port, Register::LinkControl);
        let child_control = self.express_read16(child, Register::LinkControl);
        let kept = if self.release == Release::V6_15 {
            self.write_without_aspm(port, child, [parent_control, child_control])
        } else {
            None
        };
        link.supported.set(States::L0S, common & 1 << 10 != 0);
        link.enabled.set(States::L0S_UP, child_control & L0S != 0);
        link.enabled.set(States::L0S_DOWN, parent_control & L0S != 0);
        link.supported.set(States::L1, common & 1 << 11 != 0);
        link.enabled.set(States::L1, parent_control & child_control & L1 != 0);
        let (supported, enabled) = self.l1ss_init(port, child);
        link.supported |= supported;
        link.enabled |= enabled;
        self.resume_aspm(port, child, kept);
        link.default = link.enabled;
        link.capable = link.supported;
        self.devices[port].link = Some(link);
        self.check_latencies_below(port);
    }

    /// What both ends support.
    fn common_aspm(&mut self, port: usize, child: usize) -> u32 {
        self.express_read32(port, Register::LinkCapabilities)
            & self.express_read32(child, Register::LinkCapabilities)
            & SUPPORT
    }

    /// Since 6.7, ASPM is off while L1 substates are programmed. What was there, if it was on.
    pub(super) fn suspend_aspm(&mut self, port: usize, child: usize) -> Option<[u16; 2]> {
        let own = self.express_read16(child, Register::LinkControl);
        let above = self.express_read16(port, Register::LinkControl);
        self.write_without_aspm(port, child, [above, own])
    }

    fn write_without_aspm(&mut self, port: usize, child: usize, controls: [u16; 2]) -> Option<[u16; 2]> {
        let [parent_control, child_control] = controls;
        if (parent_control | child_control) & CONTROL == 0 {
            return None;
        }
        self.express_write16(child, Register::LinkControl, child_control & !CONTROL);
        self.express_write16(port, Register::LinkControl, parent_control & !CONTROL);
        Some(controls)
    }

    /// Undoes [`suspend_aspm`](Self::suspend_aspm).
    pub(super) fn resume_aspm(&mut self, port: usize, child: usize, kept: Option<[u16; 2]>) {
        if let Some([parent_control, child_control]) = kept {
            self.express_write16(port, Register::LinkControl, parent_control);
            self.express_write16(child, Register::LinkControl, child_control);
        }
    }

    /// `pcie_clkpm_cap_init`: the worst of all functions.
    fn clock_pm_cap_init(&mut self, port: usize, is_sane: bool) {
        let (mut capable, mut enabled) = (true, true);
        for child in self.below(port) {
            if self.express_read32(child, Register::LinkCapabilities) & CLOCK_PM == 0 {
                (capable, enabled) = (false, false);
                break;
            }
            enabled &= self.express_read16(child, Register::LinkControl) & CLOCK_REQUEST != 0;
        }
        if let Some(link) = &mut self.devices[port].link {
            link.clock_pm_capable = capable && is_sane;
            link.clock_pm_enabled = enabled;
            link.clock_pm_default = enabled;
        }
    }

    /// `pcie_set_clkpm`.
    fn set_clock_pm(&mut self, port: usize, policy: Policy) {
        let Some(link) = self.devices[port].link else { return };
        let wanted = match policy {
            Policy::Default => link.clock_pm_default,
            Policy::PowerSupersave => true,
        };
        let wanted = wanted && link.clock_pm_capable;
        if link.clock_pm_enabled == wanted {
            return;
        }
        for child in self.below(port) {
            let value = if wanted { CLOCK_REQUEST } else { 0 };
            self.express_update(child, Register::LinkControl, CLOCK_REQUEST, value);
        }
        if let Some(link) = &mut self.devices[port].link {
            link.clock_pm_enabled = wanted;
        }
    }

    fn check_latencies_below(&mut self, port: usize) {
        for child in self.below(port) {
            if self.devices[child].is_port(&[ENDPOINT, LEGACY_ENDPOINT]) {
                self.check_latency(child);
            }
        }
    }

    /// `pcie_aspm_check_latency`: all links on the way must wake up as fast as the endpoint needs it.
    fn check_latency(&mut self, endpoint: usize) {
        if !matches!(self.devices[endpoint].power.state, State::D0 | State::Unknown) {
            return;
        }
        let capabilities = self.devices[endpoint].device_capabilities;
        let acceptable = |field: u32, unit: u32| if field == 7 { u32::MAX } else { unit << field };
        let acceptable_l0s = acceptable(capabilities >> 6 & 7, 64);
        let acceptable_l1 = acceptable(capabilities >> 9 & 7, 1000);
        let mut switches = 0;
        let mut next = self.upstream_bridge(endpoint);
        while let Some(port) = next {
            let Some(mut link) = self.devices[port].link else { return };
            let up = self.express_read32(port, Register::LinkCapabilities);
            let down = self.express_read32(link.downstream, Register::LinkCapabilities);
            let l0s = |capabilities: u32| match capabilities >> 12 & 7 {
                7 => 5000,
                field => 64 << field,
            };
            let l1 = |capabilities: u32| match capabilities >> 15 & 7 {
                7 => 65_000,
                field => 1000 << field,
            };
            if l0s(up) > acceptable_l0s {
                link.capable.remove(States::L0S_UP);
            }
            if l0s(down) > acceptable_l0s {
                link.capable.remove(States::L0S_DOWN);
            }
            if l1(up).max(l1(down)) + switches > acceptable_l1 {
                link.capable.remove(States::L1);
            }
            switches += 1000;
            self.devices[port].link = Some(link);
            next = link.parent;
        }
    }

    /// `pcie_config_aspm_path`: this link and those above it.
    fn config_aspm_path(&mut self, port: usize, policy: Policy) {
        let mut next = Some(port);
        while let Some(port) = next {
            let Some(link) = self.devices[port].link else { return };
            let wanted = match policy {
                Policy::Default => link.default,
                Policy::PowerSupersave => States::all(),
            };
            self.config_aspm_link(port, wanted);
            next = link.parent;
        }
    }

    /// `pcie_config_aspm_link`: L1 goes on port first, and off function first.
    fn config_aspm_link(&mut self, port: usize, wanted: States) {
        let Some(link) = self.devices[port].link else { return };
        let child = link.downstream;
        let mut state = wanted & (link.capable - link.disabled);
        if !state.contains(States::L1) {
            state.remove(States::L1SS);
        }
        if self.devices[port].power.state != State::D0 || self.devices[child].power.state != State::D0 {
            state = (state - States::PCIPM) | (link.enabled & States::PCIPM);
        }
        if link.enabled == state {
            return;
        }
        let l1 = if state.contains(States::L1) { L1 } else { 0 };
        let downstream = l1 | if state.contains(States::L0S_UP) { L0S } else { 0 };
        let upstream = l1 | if state.contains(States::L0S_DOWN) { L0S } else { 0 };
        if link.capable.intersects(States::L1SS) {
            self.config_l1ss(port, child, state & States::L1SS, state - link.enabled);
        }
        if l1 != 0 {
            self.express_update(port, Register::LinkControl, CONTROL, upstream);
        }
        for child in self.below(port) {
            self.express_update(child, Register::LinkControl, CONTROL, downstream);
        }
        if l1 == 0 {
            self.express_update(port, Register::LinkControl, CONTROL, upstream);
        }
        if let Some(link) = &mut self.devices[port].link {
            link.enabled = state;
        }
    }

    /// Off for the time substates are changed.
    pub(super) fn disable_l1(&mut self, dev: usize) {
        self.express_update(dev, Register::LinkControl, L1, 0);
    }

    /// `pcie_aspm_pm_state_change`, until 6.2 and again since 6.8: latencies count only for functions in D0.
    pub(super) fn aspm_pm_state_change(&mut self, port: usize) {
        if self.devices[port].link.is_none() {
            return;
        }
        let root = self.link_root(port);
        self.update_aspm_capable(root);
        self.config_aspm_path(port, Policy::Default);
    }

    fn link_root(&self, port: usize) -> usize {
        let above = |port: &usize| self.devices[*port].link.and_then(|link| link.parent);
        core::iter::successors(Some(port), above).last().unwrap_or(port)
    }

    /// `pcie_update_aspm_capable`.
    fn update_aspm_capable(&mut self, root: usize) {
        let ports = self.all().into_iter().filter(|port| self.devices[*port].link.is_some());
        let ports = ports.filter(|port| self.link_root(*port) == root).collect::<Vec<_>>();
        for port in &ports {
            if let Some(link) = &mut self.devices[*port].link {
                link.capable = link.supported;
            }
        }
        for port in ports {
            self.check_latencies_below(port);
        }
    }

    /// `pcie_aspm_exit_link_state`: with function 0 goes the link.
    pub(super) fn aspm_exit_link_state(&mut self, dev: usize) {
        let Some(port) = self.upstream_bridge(dev) else { return };
        let Some(link) = self.devices[port].link.filter(|link| link.downstream == dev) else { return };
        let root = self.link_root(port);
        self.config_aspm_link(port, States::empty());
        self.devices[port].link = None;
        if let Some(parent) = link.parent {
            self.update_aspm_capable(root);
            self.config_aspm_path(parent, Policy::Default);
        }
    }

    /// `pcie_aspm_set_policy`, from sysfs.
    pub(super) fn set_aspm_policy(&mut self, policy: Policy) {
        for port in self.all() {
            if let Some(link) = self.devices[port].link {
                let wanted = match policy {
                    Policy::Default => link.default,
                    Policy::PowerSupersave => States::all(),
                };
                self.config_aspm_link(port, wanted);
                self.set_clock_pm(port, policy);
            }
        }
    }
}

/// Links of switches hang on the link above.
fn device_needs_parent(linux: &Linux<'_>, port: usize) -> bool {
    let is_switch = linux.devices[port].is_port(&[DOWNSTREAM_PORT]);
    is_switch && linux.upstream_bridge(port).is_some_and(|upstream| linux.upstream_bridge(upstream).is_some())
}
