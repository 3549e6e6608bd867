//! Native hot-plug (drivers/pci/hotplug/pciehp_hpc.c, pciehp_ctrl.c, pciehp_core.c, pciehp_pci.c).

use super::Linux;
use super::express::{PRESENCE_DETECT, Register};
use super::link::ACTIVE;

/// Slot Capabilities.
const ATTENTION_BUTTON: u32 = 1 << 0;
const POWER_CONTROLLER: u32 = 1 << 1;
const ATTENTION_INDICATOR: u32 = 1 << 3;
const POWER_INDICATOR: u32 = 1 << 4;
const NO_COMMAND_COMPLETED: u32 = 1 << 18;
/// Slot Control: the enables of notifications.
const ATTENTION_BUTTON_ENABLE: u16 = 1 << 0;
const PRESENCE_ENABLE: u16 = 1 << 3;
const COMMAND_COMPLETED_ENABLE: u16 = 1 << 4;
const INTERRUPT_ENABLE: u16 = 1 << 5;
const LINK_STATE_ENABLE: u16 = 1 << 12;
/// All of them, power fault and latch included.
const NOTIFICATIONS: u16 = 0x103f;
/// Slot Control: what the slot does.
const ATTENTION: u16 = 3 << 6;
const ATTENTION_ON: u16 = 1 << 6;
const ATTENTION_OFF: u16 = 3 << 6;
const POWER_LED: u16 = 3 << 8;
const POWER_LED_ON: u16 = 1 << 8;
const POWER_LED_BLINK: u16 = 2 << 8;
const POWER_LED_OFF: u16 = 3 << 8;
const POWER_OFF: u16 = 1 << 10;
/// Slot Status.
const POWER_FAULT: u16 = 1 << 1;
const PRESENCE_CHANGED: u16 = 1 << 3;
const COMMAND_COMPLETED: u16 = 1 << 4;
const LINK_CHANGED: u16 = 1 << 8;
const EVENTS: u16 = 0x011f;
/// Link Control and Status.
const LINK_DISABLE: u16 = 1 << 4;
const TRAINING: u16 = 1 << 11;
const WIDTH: u16 = 0x3f0;

/// `struct controller`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Controller {
    capabilities: u32,
    is_on: bool,
    is_busy: bool,
}

impl Linux<'_> {
    /// `pciehp_probe`, `pcie_init`.
    pub(super) fn pciehp_probe(&mut self, dev: usize) -> bool {
        if self.devices[dev].subordinate.is_none() {
            self.info(dev, "pciehp: Hotplug bridge without secondary bus, ignoring");
            return false;
        }
        let capabilities = self.express_read32(dev, Register::SlotCapabilities);
        let _status = self.express_read16(dev, Register::SlotStatus);
        let _control = self.express_read16(dev, Register::SlotControl);
        let is_on = !self.below(dev).is_empty();
        *self.controller_mut(dev) = Controller { capabilities, is_on, is_busy: false };
        let _link = self.express_read32(dev, Register::LinkCapabilities);
        self.express_write16(dev, Register::SlotStatus, EVENTS);
        self.info(dev, format_args!("pciehp: Slot #{}", capabilities >> 19));
        // An empty slot is switched off.
        if capabilities & POWER_CONTROLLER != 0 {
            let is_powered = self.slot_is_powered(dev);
            if !self.is_occupied(dev) && is_powered {
                self.pciehp_disable_notification(dev);
                self.power_off_slot(dev);
            }
        }
        let button = capabilities & ATTENTION_BUTTON != 0;
        let events = if button { ATTENTION_BUTTON_ENABLE } else { PRESENCE_ENABLE };
        let wanted = LINK_STATE_ENABLE | events | INTERRUPT_ENABLE | COMMAND_COMPLETED_ENABLE;
        self.slot_command(dev, wanted, NOTIFICATIONS & !(1 << 2), false);
        self.check_presence(dev);
        true
    }

    fn controller(&self, dev: usize) -> Controller {
        self.devices[dev].slot.unwrap_or_default()
    }

    fn controller_mut(&mut self, dev: usize) -> &mut Controller {
        self.devices[dev].slot.get_or_insert_default()
    }

    /// `pcie_do_write_cmd`: waits for the command before, and for this one if told so.
    fn slot_command(&mut self, dev: usize, command: u16, mask: u16, wait: bool) {
        self.wait_for_command(dev);
        let control = self.express_read16(dev, Register::SlotControl);
        if control == !0 {
            self.info(dev, "pciehp: pcie_do_write_cmd: no response from device");
            return;
        }
        self.controller_mut(dev).is_busy = true;
        self.express_write16(dev, Register::SlotControl, control & !mask | command & mask);
        if wait {
            self.wait_for_command(dev);
        }
    }

    /// `pcie_wait_cmd`, `pcie_poll_cmd`.
    fn wait_for_command(&mut self, dev: usize) {
        let controller = self.controller(dev);
        if controller.capabilities & NO_COMMAND_COMPLETED != 0 || !controller.is_busy {
            return;
        }
        self.controller_mut(dev).is_busy = false;
        for _ in 0..100 {
            let status = self.express_read16(dev, Register::SlotStatus);
            if status == !0 {
                self.info(dev, "pciehp: pcie_poll_cmd: no response from device");
                return;
            }
            if status & COMMAND_COMPLETED != 0 {
                self.express_write16(dev, Register::SlotStatus, COMMAND_COMPLETED);
                return;
            }
            self.sleep(10);
        }
        let control = self.express_read16(dev, Register::SlotControl);
        self.info(dev, format_args!("pciehp: Timeout on hotplug command {control:#06x} (issued 1000 msec ago)"));
    }

    /// `pciehp_card_present_or_link_active`.
    fn is_occupied(&mut self, dev: usize) -> bool {
        let status = self.express_read16(dev, Register::SlotStatus);
        if status != !0 && status & PRESENCE_DETECT != 0 {
            return true;
        }
        let link = self.express_read16(dev, Register::LinkStatus);
        link != !0 && link & ACTIVE != 0
    }

    /// `pciehp_get_power_status`.
    fn slot_is_powered(&mut self, dev: usize) -> bool {
        self.express_read16(dev, Register::SlotControl) & POWER_OFF == 0
    }

    /// `pciehp_power_off_slot`.
    fn power_off_slot(&mut self, dev: usize) {
        self.slot_command(dev, POWER_OFF, POWER_OFF, true);
    }

    /// `pciehp_check_presence`: what changed while nobody listened.
    fn check_presence(&mut self, dev: usize) {
        let is_occupied = self.is_occupied(dev);
        if is_occupied != self.controller(dev).is_on {
            self.presence_changed(dev);
        }
    }

    /// `pciehp_handle_presence_or_link_change`.
    fn presence_changed(&mut self, dev: usize) {
        if self.controller(dev).is_on {
            let slot = self.slot_name(dev);
            self.info(dev, format_args!("pciehp: Slot({slot}): Card not present"));
            self.remove_board(dev);
        }
        let present = self.express_read16(dev, Register::SlotStatus) & PRESENCE_DETECT != 0;
        let active = self.express_read16(dev, Register::LinkStatus) & ACTIVE != 0;
        if !present && !active {
            return;
        }
        let slot = self.slot_name(dev);
        if present {
            self.info(dev, format_args!("pciehp: Slot({slot}): Card present"));
        }
        if active {
            self.info(dev, format_args!("pciehp: Slot({slot}): Link Up"));
        }
        let is_on = self.enable_slot(dev);
        self.controller_mut(dev).is_on = is_on;
    }

    fn slot_name(&self, dev: usize) -> u32 {
        self.controller(dev).capabilities >> 19
    }

    /// `pciehp_enable_slot`.
    fn enable_slot(&mut self, dev: usize) -> bool {
        let capabilities = self.controller(dev).capabilities;
        if capabilities & POWER_CONTROLLER != 0 && self.slot_is_powered(dev) {
            let slot = self.slot_name(dev);
            self.info(dev, format_args!("pciehp: Slot({slot}): Already enabled"));
            return true;
        }
        self.board_added(dev)
    }

    /// `board_added`: where nothing is found, the slot is switched off.
    fn board_added(&mut self, dev: usize) -> bool {
        if self.controller(dev).capabilities & POWER_CONTROLLER != 0 {
            let status = self.express_read16(dev, Register::SlotStatus);
            if status & POWER_FAULT != 0 {
                self.express_write16(dev, Register::SlotStatus, POWER_FAULT);
            }
            self.slot_command(dev, 0, POWER_OFF, true);
            self.express_update(dev, Register::LinkControl, LINK_DISABLE, 0);
        }
        self.set_indicators(dev, Some(POWER_LED_BLINK), None);
        if !self.check_link_status(dev) || !self.configure_slot(dev) {
            self.set_slot_off(dev);
            return false;
        }
        self.set_indicators(dev, Some(POWER_LED_ON), Some(ATTENTION_OFF));
        true
    }

    /// `pciehp_check_link_status`.
    fn check_link_status(&mut self, dev: usize) -> bool {
        let slot = self.slot_name(dev);
        if !self.wait_for_link(dev, 100) {
            self.info(dev, format_args!("pciehp: Slot({slot}): No link"));
            return false;
        }
        // pci_bus_check_dev: half a hundred tries in a second.
        let is_found = (0..50).any(|_| {
            let found = self.first_below_answers(dev);
            if !found {
                self.sleep(20);
            }
            found
        });
        let status = self.express_read16(dev, Register::LinkStatus);
        if status & TRAINING != 0 || status & WIDTH == 0 {
            self.info(dev, format_args!("pciehp: Slot({slot}): Cannot train link: status {status:#06x}"));
            return false;
        }
        if !is_found {
            self.info(dev, format_args!("pciehp: Slot({slot}): No device found"));
        }
        is_found
    }

    /// `pciehp_configure_device`.
    fn configure_slot(&mut self, dev: usize) -> bool {
        let Some(bus) = self.devices[dev].subordinate else { return false };
        if !self.buses[bus].devices.is_empty() {
            return true;
        }
        if self.scan_slot(bus, 0) == 0 {
            let (segment, number) = (self.config.firmware.segment, self.buses[bus].number);
            self.info(dev, "pciehp: No new device found");
            self.info(dev, format_args!("pciehp: Cannot add device at {segment:04x}:{number:02x}:00"));
            return false;
        }
        self.assign_unassigned_bridge_resources(dev);
        self.add_devices(bus);
        true
    }

    /// `set_slot_off`.
    fn set_slot_off(&mut self, dev: usize) {
        if self.controller(dev).capabilities & POWER_CONTROLLER != 0 {
            self.power_off_slot(dev);
            self.sleep(1000);
        }
        self.set_indicators(dev, Some(POWER_LED_OFF), Some(ATTENTION_ON));
    }

    /// `remove_board`, after a surprise.
    fn remove_board(&mut self, dev: usize) {
        for child in self.all_below(dev) {
            self.devices[child].power.is_disconnected = true;
        }
        for child in self.below(dev).into_iter().rev() {
            self.stop_and_remove(child);
        }
        if self.controller(dev).capabilities & POWER_CONTROLLER != 0 {
            self.power_off_slot(dev);
            self.sleep(1000);
        }
        self.set_indicators(dev, Some(POWER_LED_OFF), None);
        self.controller_mut(dev).is_on = false;
    }

    /// `pciehp_set_indicators`.
    fn set_indicators(&mut self, dev: usize, power: Option<u16>, attention: Option<u16>) {
        let capabilities = self.controller(dev).capabilities;
        let power = power.filter(|_| capabilities & POWER_INDICATOR != 0).map(|power| (power, POWER_LED));
        let attention = attention.filter(|_| capabilities & ATTENTION_INDICATOR != 0).map(|own| (own, ATTENTION));
        let (command, mask) =
            power.into_iter().chain(attention).fold((0, 0), |(all, masks), (own, mask)| (all | own, masks | mask));
        if command != 0 {
            self.slot_command(dev, command, mask, false);
        }
    }

    /// `pcie_disable_notification`.
    pub(super) fn pciehp_disable_notification(&mut self, dev: usize) {
        self.slot_command(dev, 0, NOTIFICATIONS, true);
    }

    /// `pciehp_suspend` and `pciehp_runtime_suspend`: the link going down is no news.
    pub(super) fn pciehp_disable_interrupt(&mut self, dev: usize) {
        self.slot_command(dev, 0, INTERRUPT_ENABLE | LINK_STATE_ENABLE, true);
    }

    /// `pciehp_resume_noirq` and `pciehp_resume`, `pciehp_runtime_resume`.
    pub(super) fn pciehp_resume(&mut self, dev: usize) {
        // pci_restore_state wrote Slot Control.
        self.controller_mut(dev).is_busy = true;
        if self.controller(dev).is_on {
            self.express_write16(dev, Register::SlotStatus, PRESENCE_CHANGED | LINK_CHANGED);
        }
        let wanted = INTERRUPT_ENABLE | LINK_STATE_ENABLE;
        self.slot_command(dev, wanted, wanted, true);
        self.check_presence(dev);
    }

    /// `pciehp_reset_slot`: a reset of the bus that is no surprise. False when the function behind does not come back.
    pub(super) fn pciehp_reset_slot(&mut self, dev: usize) -> bool {
        let button = self.controller(dev).capabilities & ATTENTION_BUTTON != 0;
        let (enables, events) = if button {
            (LINK_STATE_ENABLE, LINK_CHANGED)
        } else {
            (LINK_STATE_ENABLE | PRESENCE_ENABLE, LINK_CHANGED | PRESENCE_CHANGED)
        };
        self.slot_command(dev, 0, enables, true);
        let came_back = self.secondary_bus_reset(dev);
        self.express_write16(dev, Register::SlotStatus, events);
        self.slot_command(dev, enables, enables, false);
        came_back
    }
}
