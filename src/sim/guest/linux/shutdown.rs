//! `device_shutdown` before another kernel is started by kexec.

use super::Linux;
use super::power::State;
use super::probe::Driver;

impl Linux<'_> {
    pub(super) fn kexec_shutdown(&mut self) {
        for dev in self.all().into_iter().rev() {
            self.runtime_resume(dev);
            // pci_device_shutdown
            if let Some(Driver::Port(_)) = self.devices[dev].driver {
                self.services_remove(dev);
            }
            if self.devices[dev].power.state <= State::D3Hot {
                self.stop_master(dev);
            }
        }
    }
}
