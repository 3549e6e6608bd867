//! Finding out what the hardware has, before a guest runs.

use super::{BarSizes, Function, SrIov, Topology, TopologyError};
use crate::access::{Access, Dword, Lanes};
use crate::address::{Bdf, Host};
use crate::spec::bar::BarKind;
use crate::spec::capability::{CapabilityId, ExtendedCapabilityId, extended_id_of, extended_next_of};
use crate::spec::express::{ARI_FORWARDING_ENABLE, DEVICE_CONTROL_2};
use crate::spec::header::{self, ClassCode, Command, HeaderType};
use crate::spec::sriov;

/// The host's configuration space.
pub trait ConfigSpace {
    /// Reads the lanes of the access; the other lanes of the answer do not matter. All ones where no function is.
    fn read(&mut self, access: Host<Access>) -> u32;

    /// Writes the lanes of the access.
    fn write(&mut self, access: Host<Access>, value: u32);
}

impl<const N: usize> Topology<N> {
    /// Finds all functions of a segment group, and sizes what they decode with decoding switched off. Every register
    /// is put back exactly as it was. Call it before the guest runs: while a function is sized it does not answer.
    ///
    /// Behind a port from which a link leads down only device 0 is looked at, as hardware that ignores the device
    /// number would answer 32 times; with ARI Forwarding enabled the functions of the ARI list are found as well.
    ///
    /// # Errors
    /// [`TopologyError::TooManyFunctions`].
    pub fn scan(hardware: &mut impl ConfigSpace) -> Result<Self, TopologyError> {
        let mut topology = Self::new();
        topology.scan_into(hardware)?;
        Ok(topology)
    }

    /// As [`Self::scan`], into a topology that is in its place already: a static, where the stack is small.
    ///
    /// # Errors
    /// [`TopologyError::TooManyFunctions`].
    pub fn scan_into(&mut self, hardware: &mut impl ConfigSpace) -> Result<(), TopologyError> {
        self.functions.clear();
        // A bridge has a lower bus number than what it leads to, so it is known by the time its bus is scanned.
        for bus in 0..=u8::MAX {
            let port = self.view().bridge_to(bus);
            let one_device = port.is_some_and(Function::leads_down_a_link);
            let ari = port.and_then(Function::express).is_some_and(|express| {
                express
                    .registers
                    .get(usize::from(DEVICE_CONTROL_2))
                    .is_some_and(|control| control & ARI_FORWARDING_ENABLE != 0)
            });
            for device in 0..=if one_device { 0 } else { 31 } {
                let Some(first) = Bdf::new(bus, device, 0) else { continue };
                self.scan_device(hardware, Host(first), ari)?;
            }
            if self.view().bridge_to(bus).is_some_and(Function::can_forward_by_ari) {
                self.find_vf_addresses_with_ari(hardware, bus);
            }
        }
        Ok(())
    }

    /// Virtual Functions may be elsewhere while ARI Capable Hierarchy of the first Physical Function is set; it is not
    /// touched while there are some (9.3.3.3.5).
    fn find_vf_addresses_with_ari(&mut self, hardware: &mut impl ConfigSpace, bus: u8) {
        let functions = self.view().bus(bus);
        let physical = functions.clone().find_map(|function| Some((function.bdf(), *function.sriov()?)));
        let Some((first, sriov)) = physical else { return };
        let is_enabled = functions.filter_map(Function::sriov).any(SrIov::is_enabled);
        let own = sriov.register(sriov::CONTROL);
        let is_clear = !is_enabled && own & sriov::ARI_CAPABLE_HIERARCHY == 0;
        let Some(control) = sriov.dword.plus(sriov::CONTROL).filter(|_| is_clear) else { return };
        write_low_half(hardware, first, control, own | sriov::ARI_CAPABLE_HIERARCHY);
        if read(hardware, first, control) & sriov::ARI_CAPABLE_HIERARCHY != 0 {
            for function in self.functions.iter_mut().filter(|function| function.bdf().0.bus() == bus) {
                if let Some(sriov) = function.sriov().copied() {
                    function.set_vf_addresses_with_ari(find_vf_addresses(hardware, function.bdf(), &sriov));
                }
            }
        }
        write_low_half(hardware, first, control, own);
    }

    fn scan_device(
        &mut self,
        hardware: &mut impl ConfigSpace,
        first: Host<Bdf>,
        ari: bool,
    ) -> Result<(), TopologyError> {
        if !is_present(hardware, first) {
            return Ok(());
        }
        let function = scan_function(hardware, first);
        let multi_function = function.is_multi_function();
        self.insert(function)?;
        if ari {
            return self.scan_ari(hardware, first);
        }
        for number in 1..=if multi_function { 7 } else { 0 } {
            let bdf = Host(first.0.with_function(number));
            if is_present(hardware, bdf) {
                self.insert(scan_function(hardware, bdf))?;
            }
        }
        Ok(())
    }

    /// Follows Next Function Number from function to function (7.8.8.2). It must rise, so the walk ends.
    fn scan_ari(&mut self, hardware: &mut impl ConfigSpace, first: Host<Bdf>) -> Result<(), TopologyError> {
        let mut current = first;
        while let Some(ari) =
            self.view().function(current).and_then(|function| function.extended_capability(ExtendedCapabilityId::ARI))
        {
            let Some(capability) = ari.plus(1) else { break };
            let [_, next, ..] = read(hardware, current, capability).to_le_bytes();
            if next <= current.0.devfn() {
                break;
            }
            current = Host(Bdf::from_routing_id(u16::from_be_bytes([first.0.bus(), next])));
            if !is_present(hardware, current) {
                break;
            }
            self.insert(scan_function(hardware, current))?;
        }
        Ok(())
    }
}

fn scan_function(hardware: &mut impl ConfigSpace, bdf: Host<Bdf>) -> Function {
    let sizes = size_bars(hardware, bdf);
    let extended = has_extended_space(hardware, bdf);
    let mut function = Function::from_registers(bdf, extended, |dword| read(hardware, bdf, dword), &sizes);
    if let Some(sriov) = function.sriov().copied().filter(|sriov| !sriov.is_enabled()) {
        function.set_vf_addresses(find_vf_addresses(hardware, bdf, &sriov));
    }
    function
}

/// First VF Offset and VF Stride may depend on NumVFs (9.3.3.9): Linux's `compute_max_vf_buses` asks for each number, too.
/// Zeros when they do.
fn find_vf_addresses(hardware: &mut impl ConfigSpace, bdf: Host<Bdf>, sriov: &SrIov) -> [u16; 2] {
    let (Some(num_vfs), Some(offset)) = (sriov.dword.plus(sriov::NUM_VFS), sriov.dword.plus(sriov::VF_OFFSET)) else {
        return [0; 2];
    };
    let mut found = None;
    for count in (1..=sriov.total_vfs).rev() {
        write_low_half(hardware, bdf, num_vfs, count.into());
        let [offset, stride] = sriov::halves(read(hardware, bdf, offset));
        // Of a single one there is no stride.
        let is_same = |[first, step]: &mut [u16; 2]| *first == offset && (*step == stride || count == 1);
        if !is_same(found.get_or_insert([offset, stride])) {
            found = Some([0; 2]);
            break;
        }
    }
    write_low_half(hardware, bdf, num_vfs, sriov.register(sriov::NUM_VFS));
    found.unwrap_or_default()
}

fn write_low_half(hardware: &mut impl ConfigSpace, bdf: Host<Bdf>, dword: Dword, value: u32) {
    if let Some(lanes) = Lanes::run(0, 2) {
        hardware.write(bdf.map(|bdf| Access::new(bdf, dword, lanes)), value);
    }
}

fn read(hardware: &mut impl ConfigSpace, bdf: Host<Bdf>, dword: Dword) -> u32 {
    hardware.read(bdf.map(|bdf| Access::whole(bdf, dword)))
}

fn write(hardware: &mut impl ConfigSpace, bdf: Host<Bdf>, dword: Dword, value: u32) {
    hardware.write(bdf.map(|bdf| Access::whole(bdf, dword)), value);
}

/// Linux's `pci_bus_generic_read_dev_vendor_id`: some broken boards answer 0 or all ones in one half.
fn is_present(hardware: &mut impl ConfigSpace, bdf: Host<Bdf>) -> bool {
    !matches!(read(hardware, bdf, header::ID), 0xffff_ffff | 0 | 0x0000_ffff | 0xffff_0000)
}

/// PCI Express functions have it unless the path to them does not carry it: then 100h reads all ones, or repeats the
/// header (Linux's `pci_ext_cfg_is_aliased`).
fn has_extended_space(hardware: &mut impl ConfigSpace, bdf: Host<Bdf>) -> bool {
    let is_express = Function::from_registers(bdf, false, |dword| read(hardware, bdf, dword), &BarSizes::default())
        .capability(CapabilityId::PCI_EXPRESS)
        .is_some();
    is_express && ![header::ABSENT, read(hardware, bdf, header::ID)].contains(&read(hardware, bdf, header::EXTENDED))
}

fn size_bars(hardware: &mut impl ConfigSpace, bdf: Host<Bdf>) -> BarSizes {
    let Some(header_type) = HeaderType::of(read(hardware, bdf, header::HEADER_TYPE)) else {
        return BarSizes::default();
    };
    let command = read(hardware, bdf, header::COMMAND) & 0xffff;
    // A host bridge that stops decoding may take the processor's own memory with it (Linux's `mmio_always_on`).
    // Status, the upper half of that register, is RW1C: it takes no part.
    let decoding = if ClassCode::of(read(hardware, bdf, header::CLASS)).is_host_bridge() {
        0
    } else {
        u32::from((Command::IO_SPACE_ENABLE | Command::MEMORY_SPACE_ENABLE).bits())
    };
    if command & decoding != 0 {
        write_low_half(hardware, bdf, header::COMMAND, command & !decoding);
    }
    let mut sizes =
        BarSizes { rom: header_type.rom().map_or(0, |rom| size_rom(hardware, bdf, rom)), ..BarSizes::default() };
    let count = header_type.bars();
    size_table(hardware, bdf, header::BAR0, sizes.bars.get_mut(..count).unwrap_or_default());
    if command & decoding != 0 {
        write_low_half(hardware, bdf, header::COMMAND, command);
    }
    if let Some(capability) = find_sriov(hardware, bdf) {
        // VF BARs decode only with VF Memory Space Enable; while VFs are enabled they are left alone.
        let control = capability.plus(sriov::CONTROL).map_or(0, |dword| read(hardware, bdf, dword));
        if let (Some(vf_bar0), 0) =
            (capability.plus(sriov::VF_BAR0), control & (sriov::VF_ENABLE | sriov::VF_MEMORY_SPACE_ENABLE))
        {
            size_table(hardware, bdf, vf_bar0, &mut sizes.vf_bars);
        }
    }
    sizes
}

fn find_sriov(hardware: &mut impl ConfigSpace, bdf: Host<Bdf>) -> Option<Dword> {
    if !has_extended_space(hardware, bdf) {
        return None;
    }
    let mut dword = header::EXTENDED;
    loop {
        let entry = read(hardware, bdf, dword);
        if extended_id_of(entry) == ExtendedCapabilityId::SR_IOV {
            return Some(dword);
        }
        let next = Dword::holding(extended_next_of(entry));
        // Lists that go back are left to the checked walk; no such function is known to have VFs.
        if entry == 0 || entry == header::ABSENT || next <= dword {
            return None;
        }
        dword = next;
    }
}

fn size_table(hardware: &mut impl ConfigSpace, bdf: Host<Bdf>, first: Dword, sizes: &mut [u64]) {
    let mut registers = sizes.iter_mut().zip(0_u16..).filter_map(|(size, index)| Some((size, first.plus(index)?)));
    while let Some((size, dword)) = registers.next() {
        let kind = BarKind::of(read(hardware, bdf, dword));
        let low = writable_bits(hardware, bdf, dword) & !kind.type_mask();
        let mask = if kind.is_64_bit() {
            let Some((_, upper)) = registers.next() else { return };
            u64::from(writable_bits(hardware, bdf, upper)) << 32 | u64::from(low)
        } else if kind == BarKind::Io && low >> 16 == 0 && low != 0 {
            // 7.5.1.2.1: the upper 16 bits of an I/O BAR may be hardwired to zero.
            u64::from(low | 0xffff_0000) | 0xffff_ffff << 32
        } else if low == 0 {
            0
        } else {
            u64::from(low) | 0xffff_ffff << 32
        };
        *size = size_of_mask(mask);
    }
}

fn size_rom(hardware: &mut impl ConfigSpace, bdf: Host<Bdf>, rom: Dword) -> u64 {
    let mask = writable_bits(hardware, bdf, rom) & !BarKind::Rom.type_mask();
    if mask == 0 { 0 } else { size_of_mask(u64::from(mask) | 0xffff_ffff << 32) }
}

/// The lowest address bit that can be set is the size.
fn size_of_mask(mask: u64) -> u64 {
    mask & mask.wrapping_neg()
}

fn writable_bits(hardware: &mut impl ConfigSpace, bdf: Host<Bdf>, dword: Dword) -> u32 {
    let original = read(hardware, bdf, dword);
    // All ones, but for the ROM's enable (bit 0), which stays as it is; in a BAR it is read-only.
    write(hardware, bdf, dword, !BarKind::Rom.type_mask() | original & BarKind::Rom.type_mask() | 0x7fe);
    let probed = read(hardware, bdf, dword);
    write(hardware, bdf, dword, original);
    probed
}
