//! Functions of this machine, by VFIO: configuration, memory, interrupts, and DMA to the guest's RAM.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvm_ioctls::VmFd;
use pci_remap::sim::dump::SegmentBdf;
use pci_remap::spec::capability::CapabilityId;
use pci_remap::spec::msix;
use pci_remap::topology::{Function, MsiX};
use pci_remap::{Access, Bdf, Dword, Host, Space, Span};
use thiserror::Error;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_REGION_INFO_FLAG_MMAP,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioDeviceFd, VfioError, VfioRegionInfoCap};

use crate::Failure;
use crate::interrupts::{Message, Router, Vector};
use crate::memory::{Mapping, Ram};

/// Why a function cannot be given to the guest.
#[derive(Debug, Error)]
pub enum VfioFailure {
    #[error("{0}: this machine has no such function; lspci -D lists them")]
    NoFunction(SegmentBdf),
    #[error(
        "{0}: this machine has no IOMMU, or it is off: VFIO needs one; switch it on in the firmware, and with intel_iommu=on where the kernel leaves it off"
    )]
    NoIommu(SegmentBdf),
    #[error(
        "{0} belongs to {1}, not to vfio-pci:\n  modprobe vfio-pci\n  echo vfio-pci > /sys/bus/pci/devices/{0}/driver_override\n  echo {0} > /sys/bus/pci/devices/{0}/driver/unbind\n  echo {0} > /sys/bus/pci/drivers_probe"
    )]
    OtherDriver(SegmentBdf, String),
    #[error(
        "{0}: the IOMMU cannot tell it from {others}, of which some belong to other drivers; give all of them to vfio-pci",
        others = .1.join(", ")
    )]
    NotViable(SegmentBdf, Vec<String>),
    #[error("{}: {error}; its owner has to be you, or root", path.display())]
    Permission { path: PathBuf, error: io::Error },
    #[error("/dev/vfio/vfio: {0}; load vfio-pci and vfio_iommu_type1")]
    Container(VfioError),
    #[error("{0}: {1}")]
    Device(SegmentBdf, VfioError),
    #[error("the guest's RAM cannot be mapped for DMA: {0}; see ulimit -l")]
    Dma(VfioError),
    #[error("{0}: interrupts: {1}")]
    Interrupts(SegmentBdf, VfioError),
}

/// Whether a function can be given to a guest, as far as the kernel tells before anything is opened.
pub fn check(address: SegmentBdf) -> Result<(), VfioFailure> {
    let path = folder(address);
    if !path.exists() {
        return Err(VfioFailure::NoFunction(address));
    }
    if link(&path, "iommu_group").is_none() {
        return Err(VfioFailure::NoIommu(address));
    }
    match link(&path, "driver") {
        Some(driver) if driver == "vfio-pci" => Ok(()),
        Some(driver) => Err(VfioFailure::OtherDriver(address, format!("driver {driver}"))),
        None => Err(VfioFailure::OtherDriver(address, "no driver".into())),
    }
}

/// What the kernel says about a function.
fn folder(address: SegmentBdf) -> PathBuf {
    PathBuf::from(format!("/sys/bus/pci/devices/{address}"))
}

/// The name of what a link there leads to.
fn link(folder: &Path, name: &str) -> Option<String> {
    let target = fs::read_link(folder.join(name)).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The IOMMU's address space.
pub struct Container(Arc<VfioContainer>);

impl Container {
    pub fn new(vm: &VmFd) -> Result<Self, Failure> {
        let mut device = kvm_bindings::kvm_create_device {
            type_: kvm_bindings::kvm_device_type_KVM_DEV_TYPE_VFIO,
            ..Default::default()
        };
        let device = vm.create_device(&mut device).map_err(|error| Failure::Kvm("its VFIO device", error))?;
        let container = VfioContainer::new(Some(Arc::new(VfioDeviceFd::new_from_kvm(device))));
        Ok(Self(Arc::new(container.map_err(VfioFailure::Container)?)))
    }

    /// Lets functions reach the guest's RAM, at the guest's addresses. There has to be a function already.
    pub fn map(&self, ram: &Ram) -> Result<(), VfioFailure> {
        // SAFETY: the RAM outlives the container, and only volatile accesses are made to it.
        unsafe { self.0.vfio_map_guest_memory(ram) }.map_err(VfioFailure::Dma)
    }
}

/// A function of this machine.
pub struct Device {
    address: SegmentBdf,
    bdf: Bdf,
    vfio: VfioDevice,
    /// What each BAR decodes, by the region that stands for it.
    bars: Vec<(u32, Space, Span)>,
    mappings: Vec<(Span, Mapping)>,
    msi: Option<Msi>,
    msix: Option<MsixTable>,
    vectors: Vec<Vector>,
    /// The kind of interrupt the vectors stand for.
    active: Option<u32>,
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
    pub fn open(
        container: &Container,
        address: SegmentBdf,
        bdf: Bdf,
        router: Arc<Router>,
    ) -> Result<Self, VfioFailure> {
        let path = folder(address);
        let vfio = VfioDevice::new(&path, container.0.clone(), false).map_err(|error| match error {
            VfioError::GroupViable => {
                let others = fs::read_dir(path.join("iommu_group/devices")).into_iter().flatten().flatten();
                let others = others.map(|entry| entry.file_name().to_string_lossy().into_owned());
                VfioFailure::NotViable(address, others.filter(|other| *other != address.to_string()).collect())
            }
            VfioError::OpenGroup(error, _) => {
                let group = link(&path, "iommu_group").unwrap_or_default();
                VfioFailure::Permission { path: PathBuf::from("/dev/vfio").join(group), error }
            }
            error => VfioFailure::Device(address, error),
        })?;
        Ok(Self {
            address,
            bdf,
            vfio,
            bars: Vec::new(),
            mappings: Vec::new(),
            msi: None,
            msix: None,
            vectors: Vec::new(),
            active: None,
            router,
            _container: container.0.clone(),
        })
    }

    pub fn bdf(&self) -> Bdf {
        self.bdf
    }

    /// Takes over where its BARs and capabilities are, and maps what can be mapped.
    pub fn learn(&mut self, function: &Function) -> Result<(), Failure> {
        // SAFETY: the descriptor is the device's, and stays open as long as this reference.
        let file = unsafe { BorrowedFd::borrow_raw(self.vfio.as_raw_fd()) };
        let file = File::from(file.try_clone_to_owned()?);
        for (bar, Host(span)) in function.bars().filter_map(|bar| Some((bar, bar.span()?))) {
            let region = bar.number() as u32;
            self.bars.push((region, bar.space(), span));
            if self.vfio.get_region_flags(region) & VFIO_REGION_INFO_FLAG_MMAP == 0 {
                continue;
            }
            // A BAR below a page is mapped as a page: VFIO allows it only where nothing else is in it.
            let sparse = self.vfio.get_region_caps(region).into_iter().find_map(|capability| match capability {
                VfioRegionInfoCap::SparseMmap(sparse) => Some(sparse.areas),
                _ => None,
            });
            let whole = (0, self.vfio.get_region_size(region).max(0x1000));
            let areas = sparse.map_or(vec![whole], |areas| areas.iter().map(|area| (area.offset, area.size)).collect());
            for (offset, len) in areas {
                let in_file = self.vfio.get_region_offset(region) + offset;
                match (Mapping::of_file(&file, in_file, len as usize), Span::new(span.start() + offset, len)) {
                    (Ok(mapping), Some(span)) => self.mappings.push((span, mapping)),
                    (Err(error), _) => eprintln!("kvm-vmm: {}: BAR {region} cannot be mapped: {error}", self.address),
                    _ => {}
                }
            }
        }
        self.msi = function.capability(CapabilityId::MSI).map(|at| Msi { at, enabled: false });
        self.msix = function.capability(CapabilityId::MSI_X).zip(function.msix()).map(|(at, place)| {
            // 7.7.2.9: after reset every entry is masked.
            let mut entries = vec![0; place.len as usize];
            entries.iter_mut().skip(12).step_by(msix::ENTRY as usize).for_each(|mask| *mask = 1);
            MsixTable { at, place, control: 0, entries }
        });
        Ok(())
    }

    /// What of its memory can be mapped, by the host's addresses.
    pub fn mappings(&self) -> impl Iterator<Item = &(Span, Mapping)> {
        self.mappings.iter()
    }

    /// The BAR that has a byte, and where in it.
    pub fn bar_at(&self, space: Space, host: u64) -> Option<(u32, u64)> {
        let (bar, _, span) = self.bars.iter().find(|(_, of, span)| *of == space && span.contains(host))?;
        Some((*bar, host - span.start()))
    }

    pub fn read(&self, bar: u32, offset: u64, data: &mut [u8]) {
        match self.msix.as_ref().and_then(|table| table.bytes(bar, offset, data.len())) {
            Some(bytes) => data.copy_from_slice(bytes),
            None => self.vfio.region_read(bar, data, offset),
        }
    }

    pub fn write(&mut self, bar: u32, offset: u64, data: &[u8]) {
        match self.msix.as_mut().and_then(|table| table.bytes_mut(bar, offset, data.len())) {
            Some(bytes) => {
                bytes.copy_from_slice(data);
                self.sync_interrupts();
            }
            None => self.vfio.region_write(bar, data, offset),
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

    /// Makes interrupts what the registers say.
    fn sync_interrupts(&mut self) {
        let (kind, messages) = match (&self.msix, &self.msi) {
            (Some(table), _) if table.control & MSIX_ENABLE != 0 => (Some(VFIO_PCI_MSIX_IRQ_INDEX), table.messages()),
            (_, Some(msi)) if msi.enabled => (Some(VFIO_PCI_MSI_IRQ_INDEX), self.msi_messages(msi.at)),
            _ => (None, Vec::new()),
        };
        if let Err(failure) = self.switch_interrupts(kind, messages.len()) {
            eprintln!("kvm-vmm: {failure}");
        }
        for (vector, message) in self.vectors.iter_mut().zip(messages) {
            if let Err(failure) = vector.send(message) {
                eprintln!("kvm-vmm: {}: {failure}", self.address);
            }
        }
    }

    /// Switches to another kind of interrupt, or another number of them.
    fn switch_interrupts(&mut self, kind: Option<u32>, count: usize) -> Result<(), Failure> {
        if kind == self.active && count == self.vectors.len() {
            return Ok(());
        }
        let failed = |error| VfioFailure::Interrupts(self.address, error);
        if let Some(active) = self.active.take() {
            self.vfio.disable_irq(active).map_err(failed)?;
        }
        self.vectors.clear();
        if let Some(kind) = kind {
            let vectors = (0..count).map(|_| Vector::new(self.router.clone())).collect::<Result<Vec<_>, _>>()?;
            self.vfio.enable_irq(kind, vectors.iter().map(Vector::event).collect()).map_err(failed)?;
            self.vectors = vectors;
            self.active = Some(kind);
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

impl MsixTable {
    fn range(&self, bar: u32, offset: u64, len: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(offset.checked_sub(self.place.offset)?).ok()?;
        let inside = bar as usize == self.place.bar && start + len <= self.entries.len();
        inside.then_some(start..start + len)
    }

    fn bytes(&self, bar: u32, offset: u64, len: usize) -> Option<&[u8]> {
        self.entries.get(self.range(bar, offset, len)?)
    }

    fn bytes_mut(&mut self, bar: u32, offset: u64, len: usize) -> Option<&mut [u8]> {
        let range = self.range(bar, offset, len)?;
        self.entries.get_mut(range)
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
