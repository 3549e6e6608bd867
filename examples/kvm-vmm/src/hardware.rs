//! The host of the remapper: functions from VFIO, and a simulated machine around them.
//!
//! The machine is the one of a dump, or just a host bridge and a root port for each bus a function is moved to. What is
//! the hardware's is the simulator's or VFIO's business; nothing here knows what the guest sees.

use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use kvm_ioctls::VmFd;
use pci_remap::mechanism::Ecam;
use pci_remap::plan::MsixTable;
use pci_remap::sim::dump::Dump;
use pci_remap::sim::machine::{Blueprint, Builder, Machine, Windows, signature};
use pci_remap::sim::platform::RootWindow as Window;
use pci_remap::sim::vm::FUNCTIONS;
use pci_remap::topology::{ConfigSpace, RootWindow, Topology};
use pci_remap::{Access, Bdf, Host, Plan, Relocation, Space, Span};

use crate::arguments::Job;
use crate::bus::little_endian;
use crate::interrupts::Router;
use crate::memory::{self, Mapping, Ram};
use crate::vfio::{self, Container, Device};

/// The ECAM window of a machine that has none, or that is made up.
const ECAM: u64 = 0xe000_0000;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

pub struct Hardware {
    machine: Machine,
    devices: Vec<Device>,
    /// Memory of the simulated functions that are moved, by their own addresses.
    memory: Vec<(Span, Mapping)>,
    pub ecam: Ecam,
    router: Arc<Router>,
}

impl Hardware {
    /// Opens the functions of the job, and builds the machine around them.
    pub fn find(job: &Job, vm: &Arc<VmFd>, ram: &Ram) -> Result<Self> {
        let machine = match &job.dump {
            Some(dump) => load(dump, job.resources.as_deref())?,
            None => made_up(job),
        };
        let ecam = machine.firmware().ecam.or(Ecam::new(ECAM, 0..=255)).expect("256 buses at a multiple of 256 MiB");
        let router = Arc::new(Router::new(vm.clone())?);
        let mut devices = Vec::new();
        if !job.vfio.is_empty() {
            job.vfio.iter().try_for_each(|(address, _)| vfio::check(vfio::SYSFS.as_ref(), *address))?;
            let container = Container::new(vm)?;
            for (nth, (address, _)) in job.vfio.iter().enumerate() {
                devices.push(Device::open(&container, *address, stand_in(job, nth), &router)?);
            }
            container.map(ram)?;
        }
        Ok(Self { machine, devices, memory: Vec::new(), ecam, router })
    }

    pub fn is_from_vfio(&self, function: Host<Bdf>) -> bool {
        self.devices.iter().any(|device| device.bdf == function.0)
    }

    /// The windows of the host bridges.
    pub fn windows(&self) -> impl Iterator<Item = Window> {
        self.machine.firmware().roots.iter().flat_map(|root| root.windows.iter().copied())
    }

    /// What there is.
    pub fn topology(&mut self) -> Result<Box<Topology<FUNCTIONS>>> {
        let mut topology = Box::new(Topology::new());
        topology.scan_into(self)?;
        for root in &self.machine.firmware().roots {
            for window in &root.windows {
                let (bus, span) = (*root.buses.start(), Host(window.span));
                topology.add_root_window(RootWindow { bus, span, space: window.space })?;
            }
        }
        Ok(topology)
    }

    /// The moves the job asks for. Interrupts of VFIO functions are the VMM's, so it has to see their MSI-X Tables, and
    /// knows where their INTx ends: all at one line, whatever the pin and the place.
    pub fn relocations(&self, job: &Job, topology: &Topology<FUNCTIONS>) -> Vec<Relocation> {
        let simulated = job.moves.iter().map(|(host, guest)| Relocation::new(*host, *guest));
        let real = self.devices.iter().zip(&job.vfio).map(|(device, (_, guest))| {
            let host = Host(device.bdf);
            let interrupt_pin = topology.view().function(host).and_then(|function| device.interrupt_pin(function));
            Relocation { msix_table: MsixTable::Trapped, interrupt_pin, ..Relocation::new(host, *guest) }
        });
        simulated.chain(real).collect()
    }

    /// Makes the hardware ready for a guest: its interrupts, and memory behind the BARs that move.
    pub fn prepare(&mut self, topology: &Topology<FUNCTIONS>, plan: &Plan<'_>) -> Result<()> {
        for moved in plan.relocations() {
            let (Host(bdf), Some(function)) = (moved.host, topology.view().function(moved.host)) else { continue };
            if let Some(device) = self.devices.iter_mut().find(|device| device.bdf == bdf) {
                device.learn(function, moved.interrupt_pin.is_some())?;
            } else {
                let bars = function.bars().filter(|bar| bar.space() == Space::Memory);
                for (number, Host(span)) in bars.filter_map(|bar| Some((bar.number(), bar.span()?))) {
                    self.back(bdf, number, span)?;
                }
            }
        }
        Ok(())
    }

    /// RAM behind a BAR of a simulated function, which tells in its first page whose it is.
    fn back(&mut self, bdf: Bdf, bar: usize, span: Span) -> Result<()> {
        let pages = span.pages();
        if !self.memory.iter().any(|(other, _)| other.covers(pages)) {
            self.memory.push((pages, Mapping::new(pages.len() as usize)?));
        }
        for offset in (0..span.len().min(0x1000)).step_by(4) {
            self.window_write(Space::Memory, span.start() + offset, &signature(0, bdf, bar, offset).to_le_bytes());
        }
        Ok(())
    }

    /// The address a slot takes to give the guest these host addresses, if they can be mapped.
    pub fn mapping_of(&self, host: Host<Span>) -> Option<u64> {
        let devices = self.devices.iter().flat_map(|device| &device.mappings);
        let (span, mapping) = self.memory.iter().chain(devices).find(|(span, _)| span.covers(host.0))?;
        memory::address_of(mapping, host.0.start() - span.start(), host.0.len())
    }

    /// Reads from a window of a moved function, by the host's address.
    pub fn window_read(&mut self, space: Space, host: u64, data: &mut [u8]) {
        if let Some((span, mapping)) = self.memory_at(space, host) {
            memory::read(mapping, host - span.start(), data);
        } else if let Some((device, bar, offset)) = self.device_at(space, host) {
            device.read(bar, offset, data);
        } else {
            self.untouched_read(space, host, data);
        }
    }

    pub fn window_write(&mut self, space: Space, host: u64, data: &[u8]) {
        if let Some((span, mapping)) = self.memory_at(space, host) {
            memory::write(mapping, host - span.start(), data);
        } else if let Some((device, bar, offset)) = self.device_at(space, host) {
            device.write(bar, offset, data);
        } else {
            self.untouched_write(space, host, data);
        }
    }

    /// Reads what no plan touches.
    pub fn untouched_read(&mut self, space: Space, address: u64, data: &mut [u8]) {
        let len = data.len().min(8);
        let value = match space {
            Space::Memory => self.machine.memory_read(address, len as u8),
            Space::Io => self.machine.io_read(address, len as u8),
        };
        data[..len].copy_from_slice(&value.to_le_bytes()[..len]);
    }

    pub fn untouched_write(&mut self, space: Space, address: u64, data: &[u8]) {
        let value = little_endian(data);
        match space {
            Space::Memory => self.machine.memory_write(address, data.len() as u8, value),
            Space::Io => self.machine.io_write(address, data.len() as u8, value),
        }
    }

    /// Makes a simulated function send its first message, if it may.
    pub fn ring(&mut self, host: Host<Bdf>) {
        match self.machine.raise_msi(host.0, 0) {
            Ok(signaled) => self.router.send(signaled.message),
            Err(why) => eprintln!("kvm-vmm: {} cannot interrupt: {why}", host.0),
        }
    }

    fn memory_at(&self, space: Space, host: u64) -> Option<&(Span, Mapping)> {
        self.memory.iter().find(|(span, _)| space == Space::Memory && span.contains(host))
    }

    /// Time passes for the simulated machine only here.
    pub fn wait(&mut self, time: Duration) {
        thread::sleep(time);
        self.machine.elapse(time);
    }

    fn device_at(&mut self, space: Space, host: u64) -> Option<(&mut Device, u32, u64)> {
        let mut devices = self.devices.iter_mut();
        devices.find_map(|device| device.bar_at(space, host).map(|(bar, offset)| (device, bar, offset)))
    }
}

impl ConfigSpace for Hardware {
    fn read(&mut self, access: Host<Access>) -> u32 {
        match self.devices.iter_mut().find(|device| device.bdf == access.0.function()) {
            Some(device) => device.config_read(access.0.dword()),
            None => self.machine.config_read(access.0),
        }
    }

    fn write(&mut self, access: Host<Access>, value: u32) {
        match self.devices.iter_mut().find(|device| device.bdf == access.0.function()) {
            Some(device) => device.config_write(access.0, value),
            None => self.machine.config_write(access.0, value),
        }
    }
}

/// The machine of a dump.
fn load(dump: &Path, resources: Option<&Path>) -> Result<Machine> {
    let resources = resources.map(parsed).transpose()?;
    let machines = parsed::<Dump>(dump)?.machines(resources.as_ref());
    let first = machines.into_iter().find(|loaded| loaded.segment == 0);
    let first = first.with_context(|| format!("{}: the dump has no segment group 0000", dump.display()))?;
    Ok(first.machine)
}

/// What a file says.
fn parsed<T: FromStr<Err: Into<Error>>>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(Error::new).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    text.and_then(|text| text.parse().map_err(Into::into)).with_context(|| path.display().to_string())
}

/// A host bridge, and a root port for each bus a function is moved to.
fn made_up(job: &Job) -> Machine {
    let window = |start, len, space| Window { span: Span::new(start, len).expect("not empty"), space };
    let windows = [
        window(0x1000, 0xf000, Space::Io),
        window(0x8000_0000, ECAM - 0x8000_0000, Space::Memory),
        window(32 * GIB, 32 * GIB, Space::Memory),
    ];
    let bridge = Blueprint::endpoint(Bdf::default()).id(0x0d57_1b36).class(0x06_0000);
    let mut builder = Builder::new().ecam(Ecam::new(ECAM, 0..=255)).root(0..=0xff, &windows).function(bridge);

    let mut buses: Vec<_> = job.vfio.iter().map(|(_, guest)| guest.0.bus()).filter(|bus| *bus != 0).collect();
    buses.sort_unstable();
    buses.dedup();
    let is_free = |bdf: &Bdf| job.vfio.iter().all(|(_, guest)| !guest.0.same_device(*bdf));
    let free = (1..=31).filter_map(|device| Bdf::new(0, device, 0)).filter(is_free);
    // More ports than there are windows for are left without; the planner says what that means.
    for (nth, (bus, port)) in (0_u64..).zip(buses.into_iter().zip(free)) {
        let windows = Windows {
            io: Span::new(0x1000 + nth * 0x1000, 0x1000).filter(|_| nth < 15),
            memory: Span::new(0x8000_0000 + nth * 128 * MIB, 128 * MIB).filter(|_| nth < 12),
            prefetchable: Span::new((32 + 4 * nth) * GIB, 4 * GIB).filter(|_| nth < 8),
        };
        builder = builder.root_port(port, bus..=bus, windows);
    }
    builder.build().expect("ports are at different addresses of bus 0")
}

/// The host address the remapper knows the `nth` VFIO function by. It is its own where that is not an address of the
/// made-up machine, and where a scan finds it there: function 0 of its device.
fn stand_in(job: &Job, nth: usize) -> Bdf {
    let own = job.vfio[nth].0.bdf;
    let is_guest_bus = |bus| bus == 0 || job.dump.is_some() || job.vfio.iter().any(|(_, guest)| guest.0.bus() == bus);
    let is_twice = job.vfio.iter().filter(|(host, _)| host.bdf == own).count() > 1;
    if own.function() == 0 && !is_guest_bus(own.bus()) && !is_twice {
        return own;
    }
    let bus =
        (1..=u8::MAX).rev().find(|bus| !is_guest_bus(*bus) && job.vfio.iter().all(|(host, _)| host.bdf.bus() != *bus));
    let stand_in = Bdf::new(bus.unwrap_or(u8::MAX), nth as u8 & 0x1f, 0).expect("a device number");
    eprintln!("kvm-vmm: {} stands at {stand_in} in what follows", job.vfio[nth].0);
    stand_in
}
