//! What a function is made of: registers as firmware left them, and the sizes of its decoders.

use std::ops::RangeInclusive;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use super::structures::{Capability, ExtendedCapability, capability_dwords, extended_dwords, low_half};
use super::{Quirks, ROM, capabilities};
use crate::access::Dword;
use crate::address::{Bdf, Span};
use crate::spec::bar::{BarKind, ROM_ENABLE};
use crate::spec::capability::CapabilityId;
use crate::spec::express::{self, PortType};
use crate::spec::header::{self, Command, HeaderType, Status};
use crate::spec::{power_management, sriov, type1};

/// A function before it is put into a machine.
///
/// Registers may be malformed where real ones are: [`register`](Blueprint::register) makes a capability list loop or
/// leave the space once its capabilities are in place, and the software under test has to survive it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blueprint {
    pub(super) bdf: Bdf,
    pub(super) name: String,
    /// 64 or 1024 DWORDs.
    pub(super) config: Vec<u32>,
    /// Bytes each BAR and the ROM decode; 0 for those not implemented.
    pub(super) sizes: [u64; 7],
    pub(super) vf_sizes: [u64; 6],
    /// First VF Offset and VF Stride with ARI Capable Hierarchy, where it changes them.
    pub(super) vf_offset_with_ari: Option<u32>,
    pub(super) quirks: Quirks,
    /// Index of the first DWORD no capability occupies, in the first 256 bytes and in the extended space.
    pub(super) free: [usize; 2],
}

/// The windows of a bridge; one that is absent is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Windows {
    /// I/O Space, in units of 4 KiB.
    pub io: Option<Span>,
    /// Memory Space below 4 GiB, in units of 1 MiB.
    pub memory: Option<Span>,
    /// Prefetchable Memory Space, in units of 1 MiB.
    pub prefetchable: Option<Span>,
}

impl Windows {
    /// Only a memory window.
    pub fn memory(span: Span) -> Self {
        Self { memory: Some(span), ..Self::default() }
    }
}

impl Blueprint {
    /// A Type 0 function without BARs and capabilities, with Memory Space, I/O Space and Bus Master enabled. It is
    /// conventional until [`capability`](Self::capability) adds PCI Express.
    pub fn endpoint(bdf: Bdf) -> Self {
        Self::header(bdf, HeaderType::Type0, 0x1572_8086, 0x0002_0000)
    }

    /// A bridge without PCI Express Capability: conventional, unless [`capability`](Self::capability) adds one.
    pub fn bridge(bdf: Bdf, buses: RangeInclusive<u8>, windows: Windows) -> Self {
        let mut bridge = Self::header(bdf, HeaderType::Type1, 0x1901_8086, 0x0006_0400);
        let numbers = [bdf.bus(), *buses.start(), *buses.end(), 0];
        bridge.set(type1::BUS_NUMBERS, u32::from_le_bytes(numbers));
        bridge.open(windows);
        bridge
    }

    /// A bridge that is a port of PCI Express: its capabilities are PCI Express, Power Management and MSI.
    pub fn port(bdf: Bdf, kind: PortType, buses: RangeInclusive<u8>, windows: Windows) -> Self {
        Self::bridge(bdf, buses, windows)
            .capability(&Capability::Express(kind))
            .capability(&Capability::PowerManagement)
            .capability(&Capability::Msi)
    }

    /// Gives a [`port`](Self::port) what its services look after: a slot with a power controller and hot-plug, error
    /// reporting, time, and containment of errors.
    ///
    /// # Panics
    /// When it has no PCI Express Capability.
    #[must_use]
    pub fn with_services(mut self) -> Self {
        let start = capabilities::standard(&self.config).find(CapabilityId::PCI_EXPRESS);
        let at = |register| start.and_then(|start| start.plus(register)).expect("a port has PCI Express");
        self.set(at(0), self.value(at(0)) | express::SLOT_IMPLEMENTED);
        // Power Controller, Hot-Plug Surprise and Hot-Plug Capable; the slot is occupied.
        self.set(at(express::SLOT_CAPABILITIES), 0x0062);
        self.set(at(express::SLOT_CONTROL), 0x0040_0000);
        self.extended(&ExtendedCapability::AdvancedErrorReporting)
            .extended(&ExtendedCapability::PrecisionTimeMeasurement)
            .extended(&ExtendedCapability::DownstreamPortContainment)
    }

    /// A function with these registers. Space after the last of them reads zero up to 256 bytes; there is extended
    /// space only when the registers reach into it.
    pub fn raw(bdf: Bdf, mut config: Vec<u32>) -> Self {
        config.resize(if config.len() > 64 { 1024 } else { 64 }, 0);
        let after = |from: usize, end: usize| {
            let used = config.get(from..end).and_then(|dwords| dwords.iter().rposition(|dword| *dword != 0));
            used.map_or(from, |used| from + used + 1)
        };
        let free = [after(16, 64), after(64, 1024)];
        Self {
            bdf,
            name: String::new(),
            config,
            sizes: [0; 7],
            vf_sizes: [0; 6],
            vf_offset_with_ari: None,
            quirks: Quirks::empty(),
            free,
        }
    }

    /// Its Virtual Functions are elsewhere while ARI Capable Hierarchy of the first Physical Function on its link is set:
    /// First VF Offset and VF Stride then.
    #[must_use]
    pub fn vf_addresses_with_ari(mut self, offset: u16, stride: u16) -> Self {
        self.vf_offset_with_ari = Some(u32::from(stride) << 16 | u32::from(offset));
        self
    }

    /// Names it.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.to_string();
        self
    }

    /// Device ID (31:16) and Vendor ID (15:0).
    #[must_use]
    pub fn id(self, id: u32) -> Self {
        self.register(header::ID, id)
    }

    /// Class code, as in [`ClassCode`](crate::spec::header::ClassCode).
    #[must_use]
    pub fn class(self, class: u32) -> Self {
        self.register(header::CLASS, class << 8)
    }

    /// Makes Command what firmware left there.
    #[must_use]
    pub fn command(mut self, command: Command) -> Self {
        let status = self.value(header::COMMAND) & 0xffff_0000;
        self.set(header::COMMAND, status | u32::from(command.bits()));
        self
    }

    /// Sets Multi-Function Device. [`Builder`](super::Builder) does it by itself where functions share a device.
    #[must_use]
    pub fn multi_function(mut self) -> Self {
        self.set(header::HEADER_TYPE, self.value(header::HEADER_TYPE) | header::MULTI_FUNCTION);
        self
    }

    /// A BAR that decodes `size` bytes, at `address`. Sizes are rounded up to what a BAR can express.
    #[must_use]
    pub fn bar(mut self, index: usize, kind: BarKind, size: u64, address: u64) -> Self {
        let register = header::BAR0.index() + u16::try_from(index).unwrap_or(0);
        let low = low_half(address) & !kind.type_mask() | kind.type_bits();
        if let (Some(bar), Some(slot)) = (Dword::new(register), self.sizes[..ROM].get_mut(index)) {
            *slot = size;
            self.set(bar, low);
            if kind.is_64_bit() && index + 1 < ROM {
                self.set(Dword::holding(bar.offset() + 4), low_half(address >> 32));
            }
        }
        self
    }

    /// An Expansion ROM of `size` bytes at `address`, disabled.
    #[must_use]
    pub fn rom(mut self, size: u64, address: u32) -> Self {
        let register = HeaderType::of(self.value(header::HEADER_TYPE)).and_then(HeaderType::rom);
        if let Some(register) = register {
            self.sizes[ROM] = size;
            self.set(register, address & !BarKind::Rom.type_mask());
        }
        self
    }

    /// Enables the Expansion ROM.
    #[must_use]
    pub fn rom_enabled(mut self) -> Self {
        if let Some(register) = HeaderType::of(self.value(header::HEADER_TYPE)).and_then(HeaderType::rom) {
            self.set(register, self.value(register) | ROM_ENABLE);
        }
        self
    }

    /// Sizes of the decoders: BARs 0 to 5 and the ROM. For registers given as [`raw`](Self::raw).
    #[must_use]
    pub fn sizes(mut self, sizes: [u64; 7]) -> Self {
        self.sizes = sizes;
        self
    }

    /// Sizes of the VF BARs. For registers given as [`raw`](Self::raw).
    #[must_use]
    pub fn vf_sizes(mut self, sizes: [u64; 6]) -> Self {
        self.vf_sizes = sizes;
        self
    }

    /// Any register.
    #[must_use]
    pub fn register(mut self, dword: Dword, value: u32) -> Self {
        self.set(dword, value);
        self
    }

    /// Adds a way in which it deviates from the specification.
    #[must_use]
    pub fn quirk(mut self, quirk: Quirks) -> Self {
        self.quirks |= quirk;
        self
    }

    /// Makes it keep its registers on the way from D3hot to D0 (No_Soft_Reset), where it has Power Management.
    #[must_use]
    pub fn no_soft_reset(mut self) -> Self {
        let power = capabilities::standard(&self.config).find(CapabilityId::POWER_MANAGEMENT);
        if let Some(control) = power.and_then(|power| power.plus(power_management::CONTROL)) {
            self.set(control, self.value(control) | power_management::NO_SOFT_RESET);
        }
        self
    }

    /// Appends a capability to the list, at the first free place. What does not fit is left out. PCI Express brings the
    /// extended space along.
    #[must_use]
    pub fn capability(mut self, capability: &Capability) -> Self {
        if matches!(capability, Capability::Express(_)) {
            self.config.resize(1024, 0);
        }
        let dwords = capability_dwords(capability);
        let last = self.last_capability();
        let Some(start) = self.place(0, 64, &dwords) else { return self };
        let pointer = u32::from(start.offset());
        match last {
            Some(last) => self.set(last, self.value(last) & 0xffff_00ff | pointer << 8),
            None => self.set(header::CAPABILITIES_POINTER, pointer),
        }
        let listed = u32::from(Status::CAPABILITIES_LIST.bits()) << 16;
        self.set(header::COMMAND, self.value(header::COMMAND) | listed);
        self
    }

    /// Appends an extended capability to the list, at the first free place. What does not fit is left out.
    #[must_use]
    pub fn extended(mut self, capability: &ExtendedCapability) -> Self {
        if let ExtendedCapability::SrIov { bars, .. } = capability {
            for (index, bar) in bars {
                if let Some(size) = self.vf_sizes.get_mut(usize::from(*index)) {
                    *size = bar.size;
                }
            }
        }
        self.config.resize(1024, 0);
        let mut dwords = extended_dwords(capability, &self.sizes);
        if matches!(capability, ExtendedCapability::SrIov { .. }) {
            // Function Dependency Link: on no other.
            dwords[usize::from(sriov::NUM_VFS)] |= u32::from(self.bdf.function()) << 16;
        }
        let last = self.last_extended();
        let Some(start) = self.place(1, 1024, &dwords) else { return self };
        if let Some(last) = last {
            self.set(last, self.value(last) & 0xf_ffff | u32::from(start.offset()) << 20);
        }
        self
    }

    /// Makes the last entry of the capability list point to this offset, as no sound list does.
    #[must_use]
    pub fn broken_list(mut self, next: u8) -> Self {
        if let Some(last) = self.last_capability() {
            self.set(last, self.value(last) & 0xffff_00ff | u32::from(next) << 8);
        }
        self
    }

    /// The same of the list of extended capabilities.
    #[must_use]
    pub fn broken_extended_list(mut self, next: u16) -> Self {
        if let Some(last) = self.last_extended() {
            self.set(last, self.value(last) & 0xf_ffff | u32::from(next) << 20);
        }
        self
    }

    fn header(bdf: Bdf, kind: HeaderType, id: u32, class: u32) -> Self {
        let layout = match kind {
            HeaderType::Type0 => 0,
            HeaderType::Type1 => 1,
            HeaderType::CardBus => 2,
        };
        let enabled = Command::IO_SPACE_ENABLE | Command::MEMORY_SPACE_ENABLE | Command::BUS_MASTER_ENABLE;
        Self::raw(bdf, vec![0; 64]).id(id).class(class).register(header::HEADER_TYPE, layout << 16).command(enabled)
    }

    fn open(&mut self, windows: Windows) {
        // A closed window has its base above its limit. All of them can hold the wide form of addresses.
        let bounds = |window: Option<Span>, shift: u32| match window {
            Some(window) => (window.start() >> shift << shift, window.last()),
            None => (0xfff0_0000 >> 20 << shift, 0),
        };
        let (low, high) = (low_half, |address: u64| low_half(address >> 32));

        let (base, limit) = bounds(windows.memory, 20);
        self.set(type1::MEMORY_WINDOW, low(base) >> 16 & 0xfff0 | low(limit) & 0xfff0_0000);
        let (base, limit) = bounds(windows.prefetchable, 20);
        self.set(type1::PREFETCHABLE_WINDOW, low(base) >> 16 & 0xfff0 | low(limit) & 0xfff0_0000 | 0x0001_0001);
        self.set(type1::PREFETCHABLE_BASE_UPPER, high(base));
        self.set(type1::PREFETCHABLE_LIMIT_UPPER, high(limit));
        let (base, limit) = match windows.io {
            Some(window) => (low(window.start()), low(window.last())),
            None => (0xf000, 0),
        };
        self.set(type1::IO_WINDOW, base >> 8 & 0xf0 | limit & 0xf000 | 0x0101);
        self.set(type1::IO_UPPER, base >> 16 | limit & 0xffff_0000);
    }

    /// The last entry of the capability list.
    fn last_capability(&self) -> Option<Dword> {
        capabilities::standard(&self.config).entries.last().map(|entry| entry.1)
    }

    fn last_extended(&self) -> Option<Dword> {
        capabilities::extended(&self.config).entries.last().map(|entry| entry.1)
    }

    /// Writes a structure to the first free place of a list and tells where that is; `None` when it does not fit.
    fn place(&mut self, list: usize, end: usize, dwords: &[u32]) -> Option<Dword> {
        let start = self.free[list];
        let after = start + dwords.len();
        let first = u16::try_from(start).ok().and_then(Dword::new).filter(|_| after <= end)?;
        self.config[start..after].copy_from_slice(dwords);
        self.free[list] = after;
        Some(first)
    }

    pub(super) fn value(&self, dword: Dword) -> u32 {
        self.config.get(usize::from(dword.index())).copied().unwrap_or(0)
    }

    fn set(&mut self, dword: Dword, value: u32) {
        let index = usize::from(dword.index());
        if index >= self.config.len() {
            self.config.resize(1024, 0);
        }
        self.config[index] = value;
    }
}
