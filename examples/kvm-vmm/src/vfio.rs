//! Functions of this machine, by VFIO: configuration, memory, interrupts, and DMA to the guest's RAM.

use std::fs::{self, File};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use kvm_bindings::{kvm_create_device, kvm_device_type_KVM_DEV_TYPE_VFIO};
use kvm_ioctls::VmFd;
use libc::{MAP_SHARED, PROT_READ, PROT_WRITE};
use pci_remap::plan::InterruptPin;
use pci_remap::sim::dump::SegmentBdf;
use pci_remap::sim::platform::Message;
use pci_remap::spec::capability::CapabilityId;
use pci_remap::spec::msix;
use pci_remap::topology::{Function, MsiX};
use pci_remap::{Access, Bdf, Dword, Host, Space, Span};
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioDeviceFd, VfioError};
use vm_memory::FileOffset;

use crate::interrupts::{Line, Router, Vector};
use crate::memory::{Mapping, Ram};

/// What the kernel says about functions.
pub const SYSFS: &str = "/sys/bus/pci/devices";

/// Whether a function can be given to a guest, as far as the kernel tells before anything is opened.
pub fn check(sysfs: &Path, address: SegmentBdf) -> Result<()> {
    let path = sysfs.join(address.to_string());
    ensure!(path.exists(), "{address}: this machine has no such function; lspci -D lists them");
    ensure!(
        link(&path, "iommu_group").is_some(),
        "{address}: this machine has no IOMMU, or it is off: VFIO needs one; switch it on in the firmware, and with \
         intel_iommu=on where the kernel leaves it off"
    );
    let owner = match link(&path, "driver") {
        Some(driver) if driver == "vfio-pci" => return Ok(()),
        Some(driver) => format!("driver {driver}"),
        None => "no driver".into(),
    };
    bail!(
        "{address} belongs to {owner}, not to vfio-pci:\n  modprobe vfio-pci\n  echo vfio-pci > {0}/driver_override\n  \
         echo {address} > {0}/driver/unbind\n  echo {address} > /sys/bus/pci/drivers_probe",
        path.display()
    )
}

/// What to do about a function that cannot be opened.
fn hint(sysfs: &Path, address: SegmentBdf, error: VfioError) -> Error {
    let path = sysfs.join(address.to_string());
    match error {
        VfioError::GroupViable => {
            let others = fs::read_dir(path.join("iommu_group/devices")).into_iter().flatten().flatten();
            let others = others.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let mut others: Vec<_> = others.filter(|other| *other != address.to_string()).collect();
            others.sort();
            anyhow!(
                "{address}: the IOMMU cannot tell it from {}, of which some belong to other drivers; give all of them to \
                 vfio-pci",
                others.join(", ")
            )
        }
        VfioError::OpenGroup(error, group) => anyhow!("/dev/vfio/{group}: {error}; its owner has to be you, or root"),
        error => anyhow!("{address}: {error}"),
    }
}

/// The name of what a link there leads to.
fn link(folder: &Path, name: &str) -> Option<String> {
    let target = fs::read_link(folder.join(name)).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The IOMMU's address space.
pub struct Container(Arc<VfioContainer>);

impl Container {
    pub fn new(vm: &VmFd) -> Result<Self> {
        let mut device = kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_VFIO, ..Default::default() };
        let device = vm.create_device(&mut device).context("KVM: its VFIO device")?;
        let container = VfioContainer::new(Some(Arc::new(VfioDeviceFd::new_from_kvm(device))));
        let hint = |error| anyhow!("/dev/vfio/vfio: {error}; load vfio-pci and vfio_iommu_type1");
        Ok(Self(Arc::new(container.map_err(hint)?)))
    }

    /// Lets functions reach the guest's RAM, at the guest's addresses. There has to be a function already.
    pub fn map(&self, ram: &Ram) -> Result<()> {
        // SAFETY: the RAM outlives the container, and only volatile accesses are made to it.
        let mapped = unsafe { self.0.vfio_map_guest_memory(ram) };
        mapped.map_err(|error| anyhow!("the guest's RAM cannot be mapped for DMA: {error}; see ulimit -l"))
    }
}

/// A function of this machine.
pub struct Device {
    address: SegmentBdf,
    pub bdf: Bdf,
    vfio: VfioDevice,
    /// What each BAR decodes, by the region that stands for it.
    bars: Vec<(u32, Space, Span)>,
    /// What of its memory can be mapped, by the host's addresses.
    pub mappings: Vec<(Span, Mapping)>,
    msi: Option<Msi>,
    msix: Option<MsixTable>,
    has_pin: bool,
    /// The kind of interrupt in use, and what stands for it.
    kind: Option<u32>,
    line: Option<Line>,
    vectors: Vec<Vector>,
    router: Arc<Router>,
    // Last, so that the devices of a container go first.
    _container: Arc<VfioContainer>,
}

/// MSI Capability (7.7.1). VFIO keeps its registers, all but the enable.
struct Msi {
    at: Dword,
    enabled: bool,
}

/// MSI-X Capability (7.7.2) and its Table, of which VFIO shows nothing to write to.
struct MsixTable {
    at: Dword,
    place: MsiX,
    /// MSI-X Enable (31) and Function Mask (30).
    control: u32,
    entries: Vec<u8>,
}

const MSI_ENABLE: u32 = 1 << 16;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_FUNCTION_MASK: u32 = 1 << 30;

impl Device {
    /// Opens a function, which the remapper knows by the address `bdf`.
    pub fn open(container: &Container, address: SegmentBdf, bdf: Bdf, router: &Arc<Router>) -> Result<Self> {
        let sysfs = Path::new(SYSFS);
        let vfio = VfioDevice::new(&sysfs.join(address.to_string()), container.0.clone(), false);
        Ok(Self {
            address,
            bdf,
            vfio: vfio.map_err(|error| hint(sysfs, address, error))?,
            bars: Vec::new(),
            mappings: Vec::new(),
            msi: None,
            msix: None,
            has_pin: false,
            kind: None,
            line: None,
            vectors: Vec::new(),
            router: router.clone(),
            _container: container.0.clone(),
        })
    }

    /// The pin to show, where VFIO has its interrupt.
    pub fn interrupt_pin(&self, function: &Function) -> Option<InterruptPin> {
        self.vfio.get_irq_info(VFIO_PCI_INTX_IRQ_INDEX).filter(|irq| irq.count == 1)?;
        shown_pin(self.address, function.interrupt_pin(), self.router.has_lines())
    }

    /// Takes over where its BARs and capabilities are, and maps what can be mapped.
    pub fn learn(&mut self, function: &Function, has_pin: bool) -> Result<()> {
        // SAFETY: the descriptor is the device's, and stays open as long as this reference.
        let file = unsafe { BorrowedFd::borrow_raw(self.vfio.as_raw_fd()) };
        let file = Arc::new(File::from(file.try_clone_to_owned()?));
        for (bar, Host(span)) in function.bars().filter_map(|bar| Some((bar, bar.span()?))) {
            let region = bar.number() as u32;
            self.bars.push((region, bar.space(), span));
            if self.vfio.get_region_flags(region) & VFIO_REGION_INFO_FLAG_MMAP == 0 {
                continue;
            }
            // A BAR below a page is mapped as a page: VFIO allows it only where nothing else is in it.
            let pages = span.pages();
            let file = FileOffset::from_arc(file.clone(), self.vfio.get_region_offset(region));
            match Mapping::build(Some(file), pages.len() as usize, PROT_READ | PROT_WRITE, MAP_SHARED) {
                Ok(mapping) => self.mappings.push((pages, mapping)),
                Err(error) => eprintln!("kvm-vmm: {}: BAR {region} cannot be mapped: {error}", self.address),
            }
        }
        self.msi = function.capability(CapabilityId::MSI).map(|at| Msi { at, enabled: false });
        self.msix = function.capability(CapabilityId::MSI_X).zip(function.msix()).map(|(at, place)| {
            // 7.7.2.9: after reset every entry is masked.
            let mut entries = vec![0; place.len as usize];
            entries.iter_mut().skip(12).step_by(msix::ENTRY as usize).for_each(|mask| *mask = 1);
            MsixTable { at, place, control: 0, entries }
        });
        self.has_pin = has_pin;
        self.sync_interrupts();
        Ok(())
    }

    /// The BAR that has a byte, and where in it.
    pub fn bar_at(&self, space: Space, host: u64) -> Option<(u32, u64)> {
        let (bar, _, span) = self.bars.iter().find(|(_, of, span)| *of == space && span.contains(host))?;
        Some((*bar, host - span.start()))
    }

    pub fn read(&self, bar: u32, offset: u64, data: &mut [u8]) {
        match self.msix.as_ref().and_then(|table| table.entries.get(table.range(bar, offset, data.len())?)) {
            Some(bytes) => data.copy_from_slice(bytes),
            None => self.vfio.region_read(bar, data, offset),
        }
    }

    pub fn write(&mut self, bar: u32, offset: u64, data: &[u8]) {
        let range = self.msix.as_ref().and_then(|table| table.range(bar, offset, data.len()));
        match (&mut self.msix, range) {
            (Some(table), Some(range)) => {
                table.entries[range].copy_from_slice(data);
                self.sync_interrupts();
            }
            _ => self.vfio.region_write(bar, data, offset),
        }
    }

    pub fn config_read(&self, dword: Dword) -> u32 {
        let mut data = [0; 4];
        self.vfio.region_read(VFIO_PCI_CONFIG_REGION_INDEX, &mut data, dword.offset().into());
        let value = u32::from_le_bytes(data);
        match (&self.msi, &self.msix) {
            (Some(msi), _) if msi.at == dword => value & !MSI_ENABLE | if msi.enabled { MSI_ENABLE } else { 0 },
            (_, Some(table)) if table.at == dword => value & !(MSIX_ENABLE | MSIX_FUNCTION_MASK) | table.control,
            _ => value,
        }
    }

    pub fn config_write(&mut self, access: Access, value: u32) {
        let written = access.lanes().merge(self.config_read(access.dword()), value);
        for (offset, width) in access.parts() {
            let lane = usize::from(offset & 3);
            let bytes = &value.to_le_bytes()[lane..lane + usize::from(width.bytes())];
            self.vfio.region_write(VFIO_PCI_CONFIG_REGION_INDEX, bytes, offset.into());
        }
        let within = |at: Dword| (0..6).contains(&(i32::from(access.dword().index()) - i32::from(at.index())));
        if let Some(msi) = self.msi.as_mut().filter(|msi| within(msi.at)) {
            if msi.at == access.dword() {
                msi.enabled = written & MSI_ENABLE != 0;
            }
            self.sync_interrupts();
        }
        if let Some(table) = self.msix.as_mut().filter(|table| table.at == access.dword()) {
            table.control = written & (MSIX_ENABLE | MSIX_FUNCTION_MASK);
            self.sync_interrupts();
        }
    }

    /// Makes interrupts what the registers say: messages where they are enabled, and INTx where not.
    fn sync_interrupts(&mut self) {
        let (kind, messages) = match (&self.msix, &self.msi) {
            (Some(table), _) if table.control & MSIX_ENABLE != 0 => (Some(VFIO_PCI_MSIX_IRQ_INDEX), table.messages()),
            (_, Some(msi)) if msi.enabled => (Some(VFIO_PCI_MSI_IRQ_INDEX), self.msi_messages(msi.at)),
            _ => (self.has_pin.then_some(VFIO_PCI_INTX_IRQ_INDEX), Vec::new()),
        };
        let mut done = self.switch_interrupts(kind, messages.len());
        for (vector, message) in self.vectors.iter_mut().zip(messages) {
            done = done.and(vector.send(message));
        }
        if let Err(error) = done {
            eprintln!("kvm-vmm: {}: interrupts: {error:#}", self.address);
        }
    }

    /// Switches to another kind of interrupt, or another number of them.
    fn switch_interrupts(&mut self, kind: Option<u32>, count: usize) -> Result<()> {
        if kind == self.kind && count == self.vectors.len() {
            return Ok(());
        }
        if let Some(kind) = self.kind.take() {
            self.vfio.disable_irq(kind)?;
        }
        (self.line, self.vectors) = (None, Vec::new());
        if kind == Some(VFIO_PCI_INTX_IRQ_INDEX) {
            let [raised, resample] = self.line.insert(Line::new(&self.router)?).events();
            self.vfio.enable_irq(VFIO_PCI_INTX_IRQ_INDEX, vec![raised])?;
            self.kind = kind;
            self.vfio.set_irq_resample_fd(VFIO_PCI_INTX_IRQ_INDEX, vec![resample])?;
        } else if let Some(messages) = kind {
            self.vectors = (0..count).map(|_| Vector::new(&self.router)).collect::<Result<_>>()?;
            self.vfio.enable_irq(messages, self.vectors.iter().map(Vector::event).collect())?;
            self.kind = kind;
        }
        Ok(())
    }

    fn msi_messages(&self, at: Dword) -> Vec<Option<Message>> {
        let register = |index| at.plus(index).map_or(0, |dword| self.config_read(dword));
        let control = register(0) >> 16;
        let (high, data) = if control & 0x80 != 0 { (register(2), register(3)) } else { (0, register(2)) };
        let address = u64::from(high) << 32 | u64::from(register(1));
        // Multiple Message Enable: the function changes the low bits of the data.
        let count = 1 << (control >> 4 & 7).min(5);
        (0..count).map(|vector| Some(Message { address, data: data & 0xffff | vector })).collect()
    }
}

/// The pin to show: the function's own, where KVM has a line for it.
fn shown_pin(address: SegmentBdf, own: u8, has_lines: bool) -> Option<InterruptPin> {
    let pins = [InterruptPin::IntA, InterruptPin::IntB, InterruptPin::IntC, InterruptPin::IntD];
    let pin = pins.into_iter().find(|pin| *pin as u8 == own)?;
    if !has_lines {
        eprintln!("kvm-vmm: {address} shows no Interrupt Pin: this KVM tells nobody when a line may rise again");
    }
    has_lines.then_some(pin)
}

impl MsixTable {
    /// The bytes of the Table an access is for, if it is.
    fn range(&self, bar: u32, offset: u64, len: usize) -> Option<Range<usize>> {
        let start = usize::try_from(offset.checked_sub(self.place.offset)?).ok()?;
        let inside = bar as usize == self.place.bar && start + len <= self.entries.len();
        inside.then_some(start..start + len)
    }

    /// What each vector sends.
    fn messages(&self) -> Vec<Option<Message>> {
        let (entries, _) = self.entries.as_chunks::<16>();
        let message = |entry: &[u8; 16]| {
            let (dwords, _) = entry.as_chunks();
            let [low, high, data, control] = [0, 1, 2, 3].map(|index: usize| u32::from_le_bytes(dwords[index]));
            let masked = control & 1 != 0 || self.control & MSIX_FUNCTION_MASK != 0;
            (!masked).then_some(Message { address: u64::from(high) << 32 | u64::from(low), data })
        };
        entries.iter().map(message).collect()
    }
}

#[cfg(test)]
#[path = "../tests/unit/vfio.rs"]
mod tests;
