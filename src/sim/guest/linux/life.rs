//! The whole life of a Linux guest, step by step, and what it did to the functions that are watched.

use core::fmt;
use std::format;
use std::string::String;
use std::vec::Vec;

use super::aspm::Policy;
use super::portdrv::Services;
use super::reset::Method;
use super::sleep::Sleep;
use super::{Linux, Release};
use crate::address::Bdf;
use crate::sim::guest::{Boot, Kind};
use crate::sim::platform::Platform;

/// What a stock system does to a machine, one thing after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The driver of ports starts its services: PME, AER, hot-plug, DPC, bandwidth control.
    BindPorts,
    /// Nothing happens for 100 ms: ports nothing needs are put to D3hot.
    SuspendIdlePorts,
    /// The drivers of devices are loaded: they enable them and take interrupts.
    BindDrivers,
    /// Every watched function is reset by its own Function Level Reset, if it has one.
    ResetFunction,
    /// ... by that of its Advanced Features.
    ResetAdvancedFeatures,
    /// ... by way of D3hot.
    ResetPower,
    /// ... by a reset of its bus, if it is alone there.
    ResetBus,
    /// The drivers of watched functions are unbound and bound again.
    Rebind,
    /// Watched functions are removed, and the buses scanned again.
    RemoveFunctions,
    /// The bridges right above watched functions are removed, and the buses scanned again.
    RemoveBridges,
    /// User space lets devices be suspended: all go to D3hot, then the ports above them, and come back.
    SuspendDevices,
    /// User space asks for all the link power management there is, then for what firmware chose.
    SaveLinkPower,
    /// The machine gets hot, so that links are slowed down, and cools.
    SlowLinks,
    /// Suspend to idle.
    SuspendToIdle,
    /// Suspend to RAM.
    SuspendToRam,
    /// Another kernel is started by kexec, and does all the first steps again.
    Kexec,
    /// All bridges of the root buses are removed, and the buses scanned again: nothing keeps its addresses.
    RemoveEverything,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 17] = [
        Self::BindPorts,
        Self::SuspendIdlePorts,
        Self::BindDrivers,
        Self::ResetFunction,
        Self::ResetAdvancedFeatures,
        Self::ResetPower,
        Self::ResetBus,
        Self::Rebind,
        Self::RemoveFunctions,
        Self::RemoveBridges,
        Self::SuspendDevices,
        Self::SaveLinkPower,
        Self::SlowLinks,
        Self::SuspendToIdle,
        Self::SuspendToRam,
        Self::Kexec,
        Self::RemoveEverything,
    ];
}

/// What is wrong with a watched function after a step.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The guest does not find it.
    NotFound,
    /// It has no driver.
    NoDriver,
    /// Its memory does not read as it did.
    Silent,
    /// A message it signals does not arrive.
    NoInterrupts,
    /// It cannot read and write memory.
    NoDma,
    /// A reset did not succeed.
    NotReset,
    /// The kernel complained about it.
    Complaint(String),
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// After which step.
    pub step: Step,
    /// To which function.
    pub function: Bdf,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {:?}: {:?}", self.function, self.step, self.fault)
    }
}

/// A watched function at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Its address.
    pub function: Bdf,
    /// Whether a driver is bound.
    pub has_driver: bool,
    /// Whether its memory reads as it did when the driver came.
    pub answers: bool,
    /// Whether its messages arrive; `None` when it signals none.
    pub interrupts: Option<bool>,
    /// What the kernel said about it.
    pub messages: Vec<String>,
}

/// What a life was like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The watched functions at the end.
    pub watched: Vec<Watched>,
    /// What went wrong with them, oldest first.
    pub failures: Vec<Failure>,
    /// The tree at the end, and everything the kernel logged.
    pub boot: Boot,
}

/// A running Linux guest.
pub struct Life<'p> {
    linux: Linux<'p>,
    watched: Vec<Bdf>,
    failures: Vec<Failure>,
    /// Lines of the log that were looked at.
    seen: usize,
}

impl fmt::Debug for Life<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("watched", &self.watched).field("failures", &self.failures).finish_non_exhaustive()
    }
}

impl<'p> Life<'p> {
    /// Boots a guest until drivers are to be loaded. `watched` are the functions the report is about, as the guest sees
    /// them. `None` for guests that are no Linux.
    pub fn start(kind: Kind, platform: &'p mut dyn Platform, watched: &[Bdf]) -> Option<Self> {
        let release = match kind {
            Kind::Linux61 => Release::V6_1,
            Kind::Linux615 => Release::V6_15,
            Kind::FreeBsd | Kind::Edk2 => return None,
        };
        let linux = Linux::enumerate(release, platform);
        Some(Self { linux, watched: watched.to_vec(), failures: Vec::new(), seen: 0 })
    }

    /// All steps.
    pub fn run_all(&mut self) {
        for step in Step::ALL {
            self.run(step);
        }
    }

    /// One step, and a look at the watched functions after it.
    pub fn run(&mut self, step: Step) {
        match step {
            Step::BindPorts => self.linux.bind_ports(),
            Step::SuspendIdlePorts => self.linux.suspend_idle_ports(),
            Step::BindDrivers => self.linux.bind_drivers(),
            Step::ResetFunction => self.reset(step, Method::Flr),
            Step::ResetAdvancedFeatures => self.reset(step, Method::AfFlr),
            Step::ResetPower => self.reset(step, Method::Pm),
            Step::ResetBus => self.reset(step, Method::Bus),
            Step::Rebind => self.rebind(),
            Step::RemoveFunctions => self.remove_functions(),
            Step::RemoveBridges => {
                let bridges = self.watched_devices().into_iter().filter_map(|dev| self.linux.upstream_bridge(dev));
                self.remove_bridges(bridges.collect());
            }
            Step::SuspendDevices => {
                self.linux.suspend_devices();
                self.linux.resume_devices();
            }
            Step::SaveLinkPower => {
                self.linux.set_aspm_policy(Policy::PowerSupersave);
                self.linux.set_aspm_policy(Policy::Default);
            }
            Step::SlowLinks => self.slow_links(),
            Step::SuspendToIdle => self.linux.sleep_and_wake(Sleep::Idle),
            Step::SuspendToRam => self.linux.sleep_and_wake(Sleep::Ram),
            Step::Kexec => self.kexec(),
            Step::RemoveEverything => {
                let is_root = |dev: &usize| self.linux.upstream_bridge(*dev).is_none() && self.linux.is_bridge(*dev);
                self.remove_bridges(self.linux.all().into_iter().filter(is_root).collect());
            }
        }
        self.look(step);
    }

    /// User space writes `sriov_numvfs`, first 0 and then `count`: the Virtual Functions there are then, with drivers and
    /// watched; none when the kernel refuses.
    pub fn set_virtual_functions(&mut self, physical: Bdf, count: u16) -> Vec<Bdf> {
        let Some(dev) = self.linux.device_at(physical) else { return Vec::new() };
        self.linux.runtime_resume(dev);
        let is_own = |linux: &Linux<'_>, bdf: Bdf| {
            linux.device_at(bdf).is_some_and(|own| linux.devices[own].physical == Some(dev))
        };
        self.watched.retain(|bdf| !is_own(&self.linux, *bdf));
        self.linux.disable_virtual_functions(dev);
        let new = if count == 0 { Vec::new() } else { self.linux.enable_virtual_functions(dev, count) };
        let new: Vec<_> = new.into_iter().map(|own| self.linux.devices[own].bdf).collect();
        self.linux.bind_drivers();
        self.watched.extend(&new);
        new
    }

    fn reset(&mut self, step: Step, method: Method) {
        for dev in self.watched_devices() {
            if !self.linux.has_reset(dev, method) {
                continue;
            }
            if !self.linux.reset_function(dev, method) {
                self.fail(step, self.linux.devices[dev].bdf, Fault::NotReset);
            }
        }
    }

    fn rebind(&mut self) {
        for dev in self.watched_devices() {
            self.linux.unbind(dev);
            self.linux.probe(dev);
        }
    }

    fn remove_functions(&mut self) {
        for dev in self.watched_devices() {
            self.linux.stop_and_remove(dev);
        }
        self.linux.rescan();
        self.linux.bind_drivers();
    }

    fn remove_bridges(&mut self, bridges: Vec<usize>) {
        for dev in bridges {
            if !self.linux.devices[dev].is_removed {
                self.linux.stop_and_remove(dev);
            }
        }
        self.linux.rescan();
        self.linux.bind_ports();
        self.linux.suspend_idle_ports();
        self.linux.bind_drivers();
    }

    /// The cooling device of the bandwidth controller: 2.5 GT/s, then the speed there was.
    fn slow_links(&mut self) {
        for port in self.linux.all() {
            if self.linux.has_service(port, Services::BANDWIDTH) {
                self.linux.runtime_resume(port);
                let speed = self.linux.link_speed(port);
                if speed > 1 {
                    self.linux.set_target_speed(port, 1, true);
                    self.linux.set_target_speed(port, speed, true);
                }
            }
        }
    }

    fn kexec(&mut self) {
        self.linux.kexec_shutdown();
        self.linux.restart();
        self.linux.bind_ports();
        self.linux.suspend_idle_ports();
        self.linux.bind_drivers();
    }

    fn watched_devices(&self) -> Vec<usize> {
        self.watched.iter().filter_map(|bdf| self.linux.device_at(*bdf)).collect()
    }

    /// Notes what is wrong with the watched functions.
    fn look(&mut self, step: Step) {
        for line in self.complaints() {
            let (function, line) = line;
            self.fail(step, function, Fault::Complaint(line));
        }
        // Before that there is nothing to be expected of them.
        let has_drivers = step >= Step::BindDrivers;
        for bdf in self.watched.clone() {
            let Some(dev) = self.linux.device_at(bdf) else {
                self.fail(step, bdf, Fault::NotFound);
                continue;
            };
            if !has_drivers {
                continue;
            }
            self.linux.runtime_resume(dev);
            if self.linux.devices[dev].driver.is_none() {
                self.fail(step, bdf, Fault::NoDriver);
                continue;
            }
            if !self.linux.answers(dev) {
                self.fail(step, bdf, Fault::Silent);
            }
            if self.linux.messages_arrive(dev) == Some(false) {
                self.fail(step, bdf, Fault::NoInterrupts);
            }
            // More than any Max_Payload_Size.
            if !self.linux.config.platform.transfer(bdf, 0x1000) {
                self.fail(step, bdf, Fault::NoDma);
            }
        }
        // As they are when nobody uses them.
        if has_drivers {
            self.linux.suspend_idle_ports();
        }
    }

    fn fail(&mut self, step: Step, function: Bdf, fault: Fault) {
        self.failures.push(Failure { step, function, fault });
    }

    /// New lines about watched functions that tell of trouble.
    fn complaints(&mut self) -> Vec<(Bdf, String)> {
        const TROUBLE: [&str; 7] = [
            "Unable to change",
            "Refused to",
            "giving up",
            "error updating",
            "timed out",
            "does not answer",
            "can't enable device",
        ];
        let lines = self.linux.log[self.seen..].iter().filter(|line| TROUBLE.iter().any(|text| line.contains(text)));
        let about = lines.filter_map(|line| {
            let bdf = self.watched.iter().find(|bdf| line.contains(&self.prefix(**bdf)))?;
            Some((*bdf, line.clone()))
        });
        let about = about.collect();
        self.seen = self.linux.log.len();
        about
    }

    fn prefix(&self, bdf: Bdf) -> String {
        format!(" {:04x}:{bdf}: ", self.linux.config.firmware.segment)
    }

    /// What went wrong so far, oldest first.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// The end: what is true of the watched functions now, and everything that went wrong.
    pub fn finish(mut self) -> Report {
        let watched = self.watched.clone().into_iter().map(|bdf| self.watched(bdf)).collect();
        Report { watched, failures: self.failures, boot: self.linux.report() }
    }

    fn watched(&mut self, function: Bdf) -> Watched {
        let prefix = self.prefix(function);
        let messages = self.linux.log.iter().filter(|line| line.contains(&prefix)).cloned().collect();
        let Some(dev) = self.linux.device_at(function) else {
            return Watched { function, has_driver: false, answers: false, interrupts: None, messages };
        };
        self.linux.runtime_resume(dev);
        let has_driver = self.linux.devices[dev].driver.is_some();
        let (answers, interrupts) = (self.linux.answers(dev), self.linux.messages_arrive(dev));
        Watched { function, has_driver, answers, interrupts, messages }
    }
}

impl Linux<'_> {
    /// `pci_get_domain_bus_and_slot`.
    fn device_at(&self, bdf: Bdf) -> Option<usize> {
        self.devices.iter().position(|dev| dev.bdf == bdf && !dev.is_removed)
    }

    /// Another kernel on the same machine.
    fn restart(&mut self) {
        self.buses.clear();
        self.devices.clear();
        self.config.ports = self.config.firmware.ports && self.config.firmware.segment == 0;
        self.boot_until_drivers();
    }
}
