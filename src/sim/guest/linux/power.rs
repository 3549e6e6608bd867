//! Power states of a function (drivers/pci/pci.c), and which bridges may be in D3 (`pci_bridge_d3_possible`).

use std::string::String;

use super::Linux;
use super::express::{DOWNSTREAM_PORT, ROOT_PORT, UPSTREAM_PORT};
use super::link::READY_TIMEOUT;
use crate::spec::capability::CapabilityId;

/// Power Management Capabilities and PMCSR, by byte offset in the capability.
const CAPABILITIES: u16 = 0x02;
const CONTROL: u16 = 0x04;
const STATE: u16 = 3;
const NO_SOFT_RESET: u16 = 1 << 3;
const PME_ENABLE: u16 = 1 << 8;
const PME_STATUS: u16 = 1 << 15;
const STATUS: u16 = 0x06;
/// `PCI_PM_D3HOT_WAIT`.
const D3HOT_DELAY: u64 = 10;

/// `pci_power_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum State {
    D0,
    D1,
    D2,
    D3Hot,
    D3Cold,
    #[default]
    Unknown,
}

impl State {
    fn of(control: u16) -> Self {
        [Self::D0, Self::D1, Self::D2, Self::D3Hot][usize::from(control & STATE)]
    }

    fn bits(self) -> u16 {
        match self {
            Self::D0 | Self::Unknown => 0,
            Self::D1 => 1,
            Self::D2 => 2,
            Self::D3Hot | Self::D3Cold => 3,
        }
    }

    /// `pci_power_name`.
    fn name(self) -> &'static str {
        match self {
            Self::D0 => "D0",
            Self::D1 => "D1",
            Self::D2 => "D2",
            Self::D3Hot => "D3hot",
            Self::D3Cold => "D3cold",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of a function's power.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "the kernel's own flags")]
pub(super) struct Power {
    pub(super) at: Option<u16>,
    pub(super) state: State,
    /// The states it signals PME from, D0 in bit 0.
    pub(super) pme: u8,
    has_d1: bool,
    has_d2: bool,
    pub(super) bridge_d3: bool,
    pub(super) is_immediately_ready: bool,
    wakeup_prepared: bool,
    /// `pci_channel_io_perm_failure`.
    pub(super) is_disconnected: bool,
    pub(super) is_suspended: bool,
    /// `skip_bus_pm`.
    pub(super) stays_in_d0: bool,
}

/// A power state could not be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PowerError;

impl Linux<'_> {
    /// `pci_pm_init`: no PME from now on, and none pending.
    pub(super) fn pm_init(&mut self, dev: usize) {
        let Some(at) = self.find(dev, CapabilityId::POWER_MANAGEMENT) else { return };
        let capabilities = self.read16(dev, at + CAPABILITIES);
        if capabilities & 7 > 3 {
            self.info(dev, format_args!("unsupported PM cap regs version ({})", capabilities & 7));
            return;
        }
        let [_, high] = capabilities.to_le_bytes();
        let bridge_d3 = self.bridge_d3_possible(dev);
        let power = &mut self.devices[dev].power;
        power.at = Some(at);
        power.bridge_d3 = bridge_d3;
        power.has_d1 = capabilities & 1 << 9 != 0;
        power.has_d2 = capabilities & 1 << 10 != 0;
        power.pme = high >> 3;
        let states = names(capabilities, &[(9, " D1"), (10, " D2")]);
        if !states.is_empty() {
            self.info(dev, format_args!("supports{states}"));
        }
        let pme = names(capabilities, &[(11, " D0"), (12, " D1"), (13, " D2"), (14, " D3hot"), (15, " D3cold")]);
        if !pme.is_empty() {
            self.info(dev, format_args!("PME# supported from{pme}"));
            self.pme_active(dev, false);
        }
        self.devices[dev].power.is_immediately_ready = self.read16(dev, STATUS) & 1 != 0;
    }

    /// `__pci_pme_active`.
    pub(super) fn pme_active(&mut self, dev: usize, enable: bool) {
        let Power { at: Some(at), pme, .. } = self.devices[dev].power else { return };
        if pme != 0 {
            let control = self.read16(dev, at + CONTROL) & !PME_ENABLE | PME_STATUS;
            self.write16(dev, at + CONTROL, control | if enable { PME_ENABLE } else { 0 });
        }
    }

    /// `pci_pme_restore`.
    pub(super) fn pme_restore(&mut self, dev: usize) {
        let Power { at: Some(at), pme, wakeup_prepared, .. } = self.devices[dev].power else { return };
        if pme != 0 {
            let control = self.read16(dev, at + CONTROL) & !(PME_ENABLE | PME_STATUS);
            self.write16(dev, at + CONTROL, control | if wakeup_prepared { PME_ENABLE } else { PME_STATUS });
        }
    }

    /// `__pci_enable_wake`.
    pub(super) fn enable_wake(&mut self, dev: usize, state: State, enable: bool) {
        let Power { wakeup_prepared, pme, .. } = self.devices[dev].power;
        if !self.power_manageable(dev) || enable == wakeup_prepared {
            return;
        }
        if !enable {
            self.pme_active(dev, false);
            self.devices[dev].power.wakeup_prepared = false;
        } else if pme >> state.bits() & 1 == 1 || pme >> 4 & 1 == 1 {
            self.pme_active(dev, true);
            self.devices[dev].power.wakeup_prepared = true;
        }
    }

    /// `pci_power_manageable`.
    pub(super) fn power_manageable(&self, dev: usize) -> bool {
        self.devices[dev].subordinate.is_none() || self.devices[dev].power.bridge_d3
    }

    /// `pci_bridge_d3_possible`, with firmware of 2015 or later and no ACPI methods.
    pub(super) fn bridge_d3_possible(&self, dev: usize) -> bool {
        let device = &self.devices[dev];
        device.is_port(&[ROOT_PORT, UPSTREAM_PORT, DOWNSTREAM_PORT]) && !device.hotplug
    }

    /// `pci_bridge_d3_update`: a child came, changed or went.
    pub(super) fn bridge_d3_update(&mut self, dev: usize) {
        let Some(bridge) = self.upstream_bridge(dev).filter(|bridge| self.bridge_d3_possible(*bridge)) else { return };
        let is_removed = self.devices[dev].is_removed;
        let before = self.devices[bridge].power.bridge_d3;
        if is_removed && before {
            return;
        }
        let mut possible = is_removed || self.allows_d3cold(dev);
        if possible && !before {
            possible = self.all_below(bridge).into_iter().all(|child| self.allows_d3cold(child));
        }
        if possible != before {
            self.devices[bridge].power.bridge_d3 = possible;
            self.bridge_d3_update(bridge);
        }
    }

    /// `pci_dev_check_d3cold`.
    fn allows_d3cold(&self, dev: usize) -> bool {
        self.devices[dev].power.at.is_some() && self.power_manageable(dev)
    }

    /// `pci_update_current_state`.
    pub(super) fn update_current_state(&mut self, dev: usize, state: State) {
        let Some(at) = self.devices[dev].power.at else {
            self.devices[dev].power.state = state;
            return;
        };
        let control = self.read16(dev, at + CONTROL);
        self.devices[dev].power.state = if control == !0 { State::D3Cold } else { State::of(control) };
    }

    /// `pci_set_power_state`.
    pub(super) fn set_power_state(&mut self, dev: usize, state: State) -> Result<(), PowerError> {
        if self.devices[dev].power.state == state {
            return Ok(());
        }
        if state == State::D0 { self.set_full_power_state(dev) } else { self.set_low_power_state(dev, state) }
    }

    /// `pci_set_full_power_state`.
    fn set_full_power_state(&mut self, dev: usize) -> Result<(), PowerError> {
        let needs_bars = match self.power_up(dev) {
            Ok(needs_bars) => needs_bars,
            Err(_) if self.devices[dev].power.state == State::D0 => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(at) = self.devices[dev].power.at else { return Ok(()) };
        let state = State::of(self.read16(dev, at + CONTROL));
        self.devices[dev].power.state = state;
        if state != State::D0 {
            self.info(dev, format_args!("Refused to change power state from {} to D0", state.name()));
        } else if needs_bars {
            self.restore_bars(dev);
        }
        if let Some(port) = self.upstream_bridge(dev) {
            self.aspm_pm_state_change(port);
        }
        Ok(())
    }

    /// `pci_power_up`. Whether the function forgot what it was told.
    pub(super) fn power_up(&mut self, dev: usize) -> Result<bool, PowerError> {
        let Power { at, state: before, is_disconnected, .. } = self.devices[dev].power;
        let Some(at) = at else {
            self.devices[dev].power.state = State::D0;
            return Err(PowerError);
        };
        if is_disconnected {
            self.devices[dev].power.state = State::D3Cold;
            return Err(PowerError);
        }
        let control = self.read16(dev, at + CONTROL);
        if control == !0 {
            self.inaccessible(dev, before, State::D0);
            return Err(PowerError);
        }
        let state = State::of(control);
        let forgets = control & NO_SOFT_RESET == 0;
        if state != State::D0 {
            self.write16(dev, at + CONTROL, 0);
            if state == State::D3Hot {
                self.sleep(D3HOT_DELAY);
                if forgets && !self.dev_wait(dev, "power up D3hot->D0uninitialized", READY_TIMEOUT) {
                    self.devices[dev].power.state = State::D3Cold;
                    return Err(PowerError);
                }
            }
        }
        self.devices[dev].power.state = State::D0;
        let was_low = state == State::D3Hot || matches!(before, State::D3Hot | State::D3Cold | State::Unknown);
        Ok(was_low && forgets)
    }

    /// `pci_set_low_power_state`.
    fn set_low_power_state(&mut self, dev: usize, state: State) -> Result<(), PowerError> {
        let Power { at, state: before, has_d1, has_d2, .. } = self.devices[dev].power;
        let at = at.ok_or(PowerError)?;
        let is_shallower = before <= State::D3Cold && before > state;
        if is_shallower || state == State::D1 && !has_d1 || state == State::D2 && !has_d2 {
            return Err(PowerError);
        }
        let control = self.read16(dev, at + CONTROL);
        if control == !0 {
            self.inaccessible(dev, before, state);
            return Err(PowerError);
        }
        self.write16(dev, at + CONTROL, control & !STATE | state.bits());
        if state == State::D3Hot {
            self.sleep(D3HOT_DELAY);
        }
        let now = State::of(self.read16(dev, at + CONTROL));
        self.devices[dev].power.state = now;
        if now != state {
            let text = format_args!("Refused to change power state from {} to {}", now.name(), state.name());
            self.info(dev, text);
        }
        Ok(())
    }

    fn inaccessible(&mut self, dev: usize, from: State, to: State) {
        let (from, to) = (from.name(), to.name());
        self.info(dev, format_args!("Unable to change power state from {from} to {to}, device inaccessible"));
        self.devices[dev].power.state = State::D3Cold;
    }

    /// `pci_target_state`, without ACPI.
    pub(super) fn target_state(&self, dev: usize, wakeup: bool) -> State {
        let Power { at, state, pme, .. } = self.devices[dev].power;
        if state == State::D3Cold || at.is_none() {
            return if state == State::D3Cold { State::D3Cold } else { State::D0 };
        }
        let states = [State::D3Hot, State::D2, State::D1, State::D0];
        let signals = |state: &State| pme >> state.bits() & 1 == 1;
        let deepest = states.into_iter().find(signals).filter(|_| wakeup && pme != 0);
        deepest.unwrap_or(State::D3Hot)
    }
}

/// The names of the bits that are set.
fn names(bits: u16, table: &[(u16, &str)]) -> String {
    table.iter().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| *name).collect()
}
