//! What a guest knows about its functions.

use std::ops::RangeInclusive;
use std::vec::Vec;

use crate::access::Width;
use crate::address::{Bdf, Span};
use crate::sim::platform::Platform;
use crate::spec::bar::BarKind;
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId};
use crate::spec::express::PortType;
use crate::spec::header::{ClassCode, HeaderType};

/// The functions of one segment group as a guest found them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceTree {
    /// Number of the segment group.
    pub segment: u16,
    /// The root buses, in the order of the host bridges.
    pub roots: Vec<u8>,
    /// The functions, by address.
    pub devices: Vec<Device>,
}

impl DeviceTree {
    /// The function at an address.
    pub fn device(&self, bdf: Bdf) -> Option<&Device> {
        self.devices.iter().find(|device| device.bdf == bdf)
    }
}

/// One function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its address.
    pub bdf: Bdf,
    /// The bridge it is behind; `None` on a root bus.
    pub parent: Option<Bdf>,
    /// Device ID (31:16) and Vendor ID (15:0).
    pub id: u32,
    /// Revision ID.
    pub revision: u8,
    /// Class Code.
    pub class: ClassCode,
    /// Layout of its header.
    pub header_type: HeaderType,
    /// Whether its Header Type says that there are more functions.
    pub multi_function: bool,
    /// Device/Port Type, if it has a PCI Express Capability.
    pub port_type: Option<PortType>,
    /// Bytes of configuration space the guest uses: 256 or 4096.
    pub config_size: u16,
    /// The capabilities and where they are, in the order of the list.
    pub capabilities: Vec<(CapabilityId, u8)>,
    /// The extended capabilities and where they are, in the order of the list.
    pub extended_capabilities: Vec<(ExtendedCapabilityId, u16)>,
    /// What it decodes: BARs in order, then the ROM.
    pub bars: Vec<Resource>,
    /// What its virtual functions decode together, if the guest sizes VF BARs; `bar` counts from VF BAR0.
    pub vf_bars: Vec<Resource>,
    /// Bridges: Secondary to Subordinate Bus Number.
    pub bus_range: Option<RangeInclusive<u8>>,
    /// Bridges: what they forward down, closed windows left out.
    pub windows: Vec<Window>,
    /// Whether the guest enabled it: it decodes its BARs and may be a bus master.
    pub enabled: bool,
}

impl Device {
    /// Reads a DWORD at a byte `offset` into a BAR, at the address the guest gave it. `None` when there is no such BAR,
    /// it has no address, or the DWORD is not inside.
    pub fn read(&self, platform: &mut dyn Platform, bar: usize, offset: u64) -> Option<u32> {
        let (kind, address) = self.locate(bar, offset)?;
        if kind.is_memory() {
            Some(platform.memory_read(address, Width::Dword))
        } else {
            Some(platform.port_read(u16::try_from(address).ok()?, Width::Dword))
        }
    }

    /// Writes a DWORD at a byte `offset` into a BAR, at the address the guest gave it. `None` as for [`read`](Self::read).
    pub fn write(&self, platform: &mut dyn Platform, bar: usize, offset: u64, value: u32) -> Option<()> {
        let (kind, address) = self.locate(bar, offset)?;
        if kind.is_memory() {
            platform.memory_write(address, Width::Dword, value);
        } else {
            platform.port_write(u16::try_from(address).ok()?, Width::Dword, value);
        }
        Some(())
    }

    fn locate(&self, bar: usize, offset: u64) -> Option<(BarKind, u64)> {
        let resource = self.bars.iter().find(|resource| resource.bar == bar)?;
        let span = resource.span?;
        let dword = Span::new(span.start().checked_add(offset)?, 4)?;
        span.covers(dword).then_some((resource.kind, dword.start()))
    }
}

/// What a Base Address Register decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// Index of the register, 0 to 5; 6 is the Expansion ROM.
    pub bar: usize,
    /// What the register's low bits say.
    pub kind: BarKind,
    /// Number of bytes.
    pub size: u64,
    /// The addresses the guest gave it; `None` when it is unassigned.
    pub span: Option<Span>,
}

impl Resource {
    /// Index of the Expansion ROM.
    pub const ROM: usize = 6;
}

/// A window of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// I/O, memory, or prefetchable memory with 32 or 64 address bits.
    pub kind: BarKind,
    /// The addresses it forwards.
    pub span: Span,
}
