//! IVRS: which IOMMU looks after which functions (AMD I/O Virtualization Technology 3.08, 5.2).

use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::record::{Output, Record, Row, at_least};
use super::table::{Fault, Signature, Table, TableError};
use crate::address::{Bdf, Guest, Host};
use crate::plan::{Places, Plan, VirtualFunctions};
use crate::topology::Function;

/// Where the blocks start.
const BLOCKS: usize = 48;

/// What an I/O Virtualization Hardware Definition starts with (5.2.2.1). Types 11h and 40h have 16 bytes more.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ivhd {
    kind: u8,
    flags: u8,
    length: U16,
    /// The IOMMU itself.
    device_id: U16,
    capability_offset: U16,
    base_address: [u8; 8],
    segment: U16,
    information: [u8; 6],
}

/// An I/O Virtualization Memory Definition (5.2.2.9).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ivmd {
    kind: u8,
    flags: u8,
    length: U16,
    device_id: U16,
    /// The last device, where `kind` is [`IVMD_RANGE`].
    auxiliary: U16,
    segment: U16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<Ivhd>() == 24 && size_of::<Ivmd>() == 32);

const IVMD_SELECT: u8 = 0x21;
const IVMD_RANGE: u8 = 0x22;

/// The start of a device entry (5.2.2.5 to 5.2.2.8). All but one have 4 or 8 bytes, by bits 7:6 of the type.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    kind: u8,
    device_id: U16,
    /// Which special requests are let through.
    data_setting: u8,
}

const ALL: u8 = 1;
const SELECT: u8 = 2;
const RANGE_START: u8 = 3;
const RANGE_END: u8 = 4;
const ALIAS_SELECT: u8 = 0x42;
const ALIAS_RANGE_START: u8 = 0x43;
const EXTENDED_SELECT: u8 = 0x46;
const EXTENDED_RANGE_START: u8 = 0x47;
const ACPI_DEVICE: u8 = 0xf0;

/// Writes an IVRS that says of each moved function that its requests carry the host's Requester ID, and how many bytes it
/// has: an alias entry in every block of the IOMMU that looks after it. A guest that owns the IOMMU then programs both
/// entries of the device table, for DMA and for interrupts (Linux: `clone_aliases`, `alloc_irq_table`), and the moved
/// function works. Memory definitions of a moved function (5.2.2.9) become the guest address's. Virtual Functions that
/// follow are moved functions, too.
///
/// The blocks of other PCI segment groups than `segment`, that of the plan, stay as they are. Put the new table where
/// the guest leaves it alone, and [point](super::point_entry) the root tables there.
///
/// # Errors
/// As [`Table::parse`]; [`Fault::WrongTable`], [`Fault::BadLength`] for a block or entry inside the table,
/// [`Fault::NoRoom`] when the buffer is too small, and [`Fault::OtherIommu`] and [`Fault::SharedRequesterId`] when no
/// alias can help; [hide](super::hide) the table then.
pub fn add_aliases(ivrs: &[u8], segment: u16, plan: &Plan<'_>, buffer: &mut [u8]) -> Result<usize, TableError> {
    let table = Table::of(Signature::IVRS, ivrs)?;
    let (head, blocks) = table.split(BLOCKS, block_length)?;
    let units = Units { blocks: blocks.clone(), segment };
    units.check()?;
    let followed = plan.virtual_functions(&Places::find(plan));
    let moves = || moved_functions(plan).chain(followed.iter().flatten().flat_map(VirtualFunctions::moves));
    for moved in moves() {
        units.check_alias(plan, moved, moves())?;
    }
    let mut new = Output::new(buffer);
    new.put(head);
    for block in blocks.flatten() {
        if let Some((ivhd, entries)) = ivhd(block).filter(|(ivhd, _)| ivhd.segment.get() == segment) {
            let start = new.len();
            new.put(block.bytes);
            for (host, guest) in moves() {
                let wire = units.wire_id(plan, host);
                if let Some(setting) =
                    setting(&entries, wire.0).filter(|_| units.unit_of(wire.0) == Some(ivhd.device_id))
                {
                    new.put(&alias(guest, wire, setting.data));
                }
            }
            new.set_length(start).map_err(|bad| bad.of(Signature::IVRS))?;
        } else if let Some(ivmd) =
            block.start::<Ivmd>().filter(|ivmd| is_ivmd(ivmd.kind) && ivmd.segment.get() == segment)
        {
            put_memory(&mut new, moves(), ivmd, block);
        } else {
            new.put(block.bytes);
        }
    }
    new.finish(Signature::IVRS)
}

/// A function, and where the guest finds it.
type Moved = (Host<Bdf>, Guest<Bdf>);

/// Functions with another address in the guest, but for virtual ones.
fn moved_functions<'a>(plan: &'a Plan<'_>) -> impl Iterator<Item = Moved> + use<'a> {
    let moves = plan.relocations().iter().map(|relocation| (relocation.host, relocation.guest));
    moves.filter(|(host, guest)| host.0 != guest.0)
}

/// The entry that says that requests of one function carry the ID of another (5.2.2.6).
fn alias(guest: Guest<Bdf>, wire: Host<Bdf>, data_setting: u8) -> [u8; 8] {
    let [guest_low, guest_high] = guest.0.routing_id().to_le_bytes();
    let [wire_low, wire_high] = wire.0.routing_id().to_le_bytes();
    [ALIAS_SELECT, guest_low, guest_high, data_setting, 0, wire_low, wire_high, 0]
}

/// Writes a memory definition for the functions of the guest it is about.
fn put_memory(new: &mut Output<'_>, moves: impl Iterator<Item = Moved>, ivmd: &Ivmd, block: Record<'_>) {
    let first = ivmd.device_id.get();
    let devices = match ivmd.kind {
        IVMD_SELECT => first..=first,
        _ if ivmd.kind == IVMD_RANGE => first..=ivmd.auxiliary.get(),
        // It is about all.
        _ => return new.put(block.bytes),
    };
    let of = |guest: Guest<Bdf>| Ivmd {
        kind: IVMD_SELECT,
        device_id: guest.0.routing_id().into(),
        auxiliary: U16::ZERO,
        ..*ivmd
    };
    let mut affected = moves.filter(|(host, _)| devices.contains(&host.0.routing_id())).peekable();
    if ivmd.kind == IVMD_RANGE || affected.peek().is_none() {
        new.put(block.bytes);
    }
    affected.for_each(|(_, guest)| new.put(of(guest).as_bytes()));
}

/// The IOMMUs of a PCI segment group.
#[derive(Debug, Clone)]
struct Units<'a> {
    blocks: Row<'a>,
    segment: u16,
}

/// What an IOMMU knows of a device.
#[derive(Debug, Clone, Copy)]
struct Setting {
    data: u8,
    alias: Option<Bdf>,
}

impl<'a> Units<'a> {
    /// The definitions, with their device entries.
    fn definitions(&self) -> impl Iterator<Item = (&'a Ivhd, Row<'a>)> + use<'a> {
        let segment = self.segment;
        self.blocks.clone().flatten().filter_map(ivhd).filter(move |(ivhd, _)| ivhd.segment.get() == segment)
    }

    /// Whether every block and every device entry has a length that can be.
    fn check(&self) -> Result<(), TableError> {
        for block in self.blocks.clone() {
            let block = block.map_err(|bad| bad.of(Signature::IVRS))?;
            for entry in ivhd(block).into_iter().flat_map(|(_, entries)| entries) {
                entry.map_err(|bad| bad.of(Signature::IVRS))?;
            }
        }
        Ok(())
    }

    /// Whether an alias makes a function work that is moved as others are.
    fn check_alias(
        &self,
        plan: &Plan<'_>,
        (host, guest): Moved,
        moves: impl Iterator<Item = Moved>,
    ) -> Result<(), TableError> {
        let wire = self.wire_id(plan, host);
        let (wanted, own) = (self.unit_of(wire.0), self.unit_of(guest.0));
        if own.is_some() && own != wanted {
            return Err(Fault::OtherIommu(guest, wire).of(Signature::IVRS, BLOCKS));
        }
        let functions = plan.host().functions().iter().map(Function::bdf);
        let found = functions.filter_map(|other| Some((other, plan.guest_address(other)?)));
        let mut visible = found.chain(moves).filter(|(other, _)| *other != host);
        let shares = |(other, at): &Moved| at.0 == wire.0 || self.wire_id(plan, *other) == wire;
        match visible.find(|other| wanted.is_some() && shares(other)) {
            Some((other, _)) => Err(Fault::SharedRequesterId(host, other).of(Signature::IVRS, BLOCKS)),
            None => Ok(()),
        }
    }

    /// The Requester ID of a function as the IOMMU has it: firmware knows, else bridges tell.
    fn wire_id(&self, plan: &Plan<'_>, host: Host<Bdf>) -> Host<Bdf> {
        let known = self.definitions().filter_map(|(_, entries)| setting(&entries, host.0)?.alias).last();
        known.map_or_else(|| plan.host().wire_id(host), Host)
    }

    /// The IOMMU that looks after a device: of several, the last, as with Linux (`set_dev_entry_from_acpi`).
    fn unit_of(&self, device: Bdf) -> Option<U16> {
        self.definitions()
            .filter(|(_, entries)| setting(entries, device).is_some())
            .map(|(ivhd, _)| ivhd.device_id)
            .last()
    }
}

/// A hardware definition, and its device entries.
fn ivhd(block: Record<'_>) -> Option<(&Ivhd, Row<'_>)> {
    let ivhd = block.start::<Ivhd>()?;
    let (_, entries) = block.split(entries_at(ivhd.kind)?, entry_length)?;
    Some((ivhd, entries))
}

/// Where the device entries of a kind of block start; `None` when it has none, or none that we know of.
fn entries_at(kind: u8) -> Option<usize> {
    match kind {
        0x10 => Some(24),
        0x11 | 0x40 => Some(40),
        _ => None,
    }
}

fn is_ivmd(kind: u8) -> bool {
    matches!(kind, 0x20 | IVMD_SELECT | IVMD_RANGE)
}

/// What the entries say of a device, as Linux's `init_iommu_from_acpi` reads them; `None` when none names it.
fn setting(entries: &Row<'_>, device: Bdf) -> Option<Setting> {
    let mut found: Option<Setting> = None;
    let mut set = |data, alias: Option<Bdf>| {
        let alias = alias.or(found.and_then(|earlier| earlier.alias));
        found = Some(Setting { data, alias });
    };
    let mut range = None;
    for record in entries.clone().flatten() {
        let Some(entry) = record.start::<Entry>() else { continue };
        let (own, data) = (Bdf::from_routing_id(entry.device_id.get()), entry.data_setting);
        match entry.kind {
            ALL => set(data, None),
            SELECT | EXTENDED_SELECT if own == device => set(data, None),
            ALIAS_SELECT if own == device => set(data, source_of(record)),
            ALIAS_SELECT if source_of(record) == Some(device) => set(data, None),
            RANGE_START | EXTENDED_RANGE_START => range = Some((own, data, None)),
            ALIAS_RANGE_START => range = Some((own, data, source_of(record))),
            RANGE_END => match range.take() {
                Some((first, data, alias)) if (first..=own).contains(&device) => set(data, alias),
                Some((_, data, Some(source))) if source == device => set(data, None),
                _ => {}
            },
            _ => {}
        }
    }
    found
}

/// The Requester ID an alias entry names: bytes 5 and 6.
fn source_of(record: Record<'_>) -> Option<Bdf> {
    let source = record.bytes.get(5..).and_then(|rest| U16::read_from_prefix(rest).ok());
    source.map(|(source, _)| Bdf::from_routing_id(source.get()))
}

/// Bytes of a block.
fn block_length(bytes: &[u8]) -> Result<usize, usize> {
    let ([kind, _, low, high], _) = <[u8; 4]>::read_from_prefix(bytes).map_err(|_| bytes.len())?;
    let smallest = if is_ivmd(kind) { size_of::<Ivmd>() } else { entries_at(kind).unwrap_or(4) };
    at_least(smallest, u16::from_le_bytes([low, high]).into())
}

/// Bytes of a device entry. Nobody defined how many types 80h and above have, but for one.
fn entry_length(bytes: &[u8]) -> Result<usize, usize> {
    match bytes.first() {
        Some(0x00..=0x3f) => Ok(4),
        Some(0x40..=0x7f) => Ok(8),
        // 5.2.2.8: byte 21 counts the bytes of the unique ID that follows.
        Some(&ACPI_DEVICE) => match bytes.get(21) {
            Some(unique_id) => Ok(usize::from(*unique_id).saturating_add(22)),
            None => Err(bytes.len()),
        },
        _ => Err(0),
    }
}
