//! From bus to [`Access`]: the two ways software reaches configuration space, each settled once.
//!
//! * Configuration Mechanism #1, the ports CF8h and CFCh (PCI 3.0, 3.2.2.3.2): [`ConfigAddress`].
//! * The Enhanced Configuration Access Mechanism, a memory window (PCIe Base 6.0, 7.2.2): [`Ecam`].
//!
//! Both hand out [`Piece`]s: an access in canonical form, and where its bytes sit in the value the processor moves.
//! Nothing here fails. A request that is not a configuration access is said to be none, and one that leaves its DWORD,
//! its window or the address space is cut to what belongs to configuration space.

use crate::access::{Access, Dword, Lanes, Width};
use crate::address::{Bdf, Guest, Span};

/// The part of a bus access that falls into one DWORD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    access: Guest<Access>,
    /// Index, in the bus access, of the byte that travels on the first lane.
    first_byte: u8,
}

impl Piece {
    /// The access in canonical form.
    #[inline]
    pub const fn access(self) -> Guest<Access> {
        self.access
    }

    /// Takes this piece's bytes out of the value the processor writes and puts them on their lanes.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the mask keeps 32 bits")]
    pub const fn lanes_of(self, written: u64) -> u32 {
        let lanes = self.access.0.lanes();
        let bytes = written.wrapping_shr(self.byte_shift());
        (bytes.wrapping_shl(self.lane_shift()) & lanes.mask() as u64) as u32
    }

    /// Puts the lanes of the DWORD that was read into the value the processor gets. Start from all ones: bytes that
    /// no piece fills belong to nobody.
    ///
    /// ```
    /// use pci_remap::mechanism::Ecam;
    ///
    /// let ecam = Ecam::new(0xe000_0000, 0..=255).unwrap();
    /// // A two-byte read at offset 3 of 00:00.0 straddles two DWORDs.
    /// let read = ecam.pieces(0xe000_0003, 2).fold(!0, |value, piece| piece.answer(value, 0x1122_3344));
    /// assert_eq!(read & 0xffff, 0x4411);
    /// ```
    #[inline]
    pub const fn answer(self, value: u64, dword: u32) -> u64 {
        let lanes = self.access.0.lanes();
        let (shift, low) = (self.byte_shift(), self.lane_shift());
        let mask = (lanes.mask().wrapping_shr(low) as u64).wrapping_shl(shift);
        value & !mask | (dword.wrapping_shr(low) as u64).wrapping_shl(shift) & mask
    }

    /// Bits below the piece in the value of the bus access.
    const fn byte_shift(self) -> u32 {
        (self.first_byte as u32) << 3
    }

    /// Bits below the piece in the DWORD.
    const fn lane_shift(self) -> u32 {
        self.access.0.lanes().first() << 3
    }
}

/// Whether CONFIG_ADDRESS bits 27:24 select register bits 11:8, as AMD processors do once `EnableCf8ExtCfg` is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExtendedRegisters {
    /// Bits 27:24 are reserved: they read zero and select nothing.
    #[default]
    Reserved,
    /// Bits 27:24 are register bits 11:8.
    Amd,
}

/// What a byte or word write to CF8h..=CFBh does. In hardware it is no write of CONFIG_ADDRESS but an ordinary I/O
/// access; some virtual chipsets merge it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NarrowAddress {
    /// As hardware does.
    #[default]
    Forward,
    /// Byte and word accesses read and write their bytes of the latch, except those that start at CF9h, the reset
    /// control register of PC chipsets.
    Merge,
}

/// What an access to a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum PortAccess {
    /// Not a configuration access. Do what you would do without this crate.
    Forward,
    /// CONFIG_ADDRESS: a read gets this value (of the accessed width, from bit 0 on); a write has been latched.
    Latch(u32),
    /// CONFIG_DATA: a configuration access.
    Config(Piece),
}

/// CONFIG_ADDRESS, the latch at port CF8h. One for each guest, or for each host bridge the guest sees.
///
/// An access to the data port copies the latch and never consumes it. While the enable bit is clear the data port is
/// [`PortAccess::Forward`].
///
/// ```
/// use pci_remap::mechanism::{ConfigAddress, PortAccess};
/// use pci_remap::Width;
///
/// let mut ports = ConfigAddress::default();
/// assert_eq!(ports.write(0xcf8, Width::Dword, 0x8002_0010), PortAccess::Latch(0x8002_0010));
/// let PortAccess::Config(piece) = ports.read(0xcfe, Width::Word) else { unreachable!() };
/// assert_eq!(piece.access().to_string(), "02:00.0 10h lanes 1100");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConfigAddress {
    value: u32,
    extended: ExtendedRegisters,
    narrow: NarrowAddress,
}

impl ConfigAddress {
    const ENABLE: u32 = 1 << 31;
    const PORT: u16 = 0xcf8;
    const DATA: u16 = 0xcfc;

    /// A latch that reads zero.
    pub const fn new(extended: ExtendedRegisters, narrow: NarrowAddress) -> Self {
        Self { value: 0, extended, narrow }
    }

    /// The value of the latch. Bits that select nothing are zero.
    pub const fn value(&self) -> u32 {
        self.value
    }

    /// Sorts a read of `width` at `port`.
    #[inline]
    pub fn read(&self, port: u16, width: Width) -> PortAccess {
        match port.wrapping_sub(Self::PORT) {
            0 if width == Width::Dword => PortAccess::Latch(self.value),
            lane @ 0..=3 => self.merged(lane, width).map_or_else(
                || self.data(port, width),
                |lanes| {
                    let read = (self.value & lanes.mask()).wrapping_shr(lanes.first() << 3);
                    PortAccess::Latch(read)
                },
            ),
            _ => self.data(port, width),
        }
    }

    /// Sorts a write of `width` at `port`. The value is that of the instruction: it starts at bit 0.
    #[inline]
    pub fn write(&mut self, port: u16, width: Width, value: u32) -> PortAccess {
        match port.wrapping_sub(Self::PORT) {
            0 if width == Width::Dword => self.latch(value),
            lane @ 0..=3 => match self.merged(lane, width) {
                Some(lanes) => self.latch(lanes.merge(self.value, value.wrapping_shl(lanes.first() << 3))),
                None => self.data(port, width),
            },
            _ => self.data(port, width),
        }
    }

    fn latch(&mut self, value: u32) -> PortAccess {
        // PCI 3.0, 3.2.2.3.2: bits 30:24 are reserved, bits 1:0 are hardwired to zero.
        let mask = match self.extended {
            ExtendedRegisters::Reserved => 0x80ff_fffc,
            ExtendedRegisters::Amd => 0x8fff_fffc,
        };
        self.value = value & mask;
        PortAccess::Latch(self.value)
    }

    /// The lanes of the latch a narrow access reaches, if it reaches any.
    fn merged(self, lane: u16, width: Width) -> Option<Lanes> {
        let lane = u8::try_from(lane).ok()?;
        let inside = lane.checked_add(width.bytes())? <= 4;
        if self.narrow == NarrowAddress::Merge && lane != 1 && inside { Lanes::run(lane, width.bytes()) } else { None }
    }

    #[inline]
    fn data(self, port: u16, width: Width) -> PortAccess {
        // An access may start below CFCh or run past CFFh; only its bytes in between are ours.
        let end = port.saturating_add(u16::from(width.bytes()));
        let start = if port > Self::DATA { port } else { Self::DATA };
        let inside = end.saturating_sub(start);
        let lane = start.wrapping_sub(Self::DATA);
        if self.value & Self::ENABLE == 0 || lane > 3 || inside == 0 {
            return PortAccess::Forward;
        }
        let [_, lane] = lane.to_be_bytes();
        let [_, count] = inside.to_be_bytes();
        let [_, first_byte] = start.wrapping_sub(port).to_be_bytes();
        let Some(lanes) = Lanes::run(lane, count) else { return PortAccess::Forward };
        let [register, devfn, bus, high] = self.value.to_le_bytes();
        let function = Bdf::from_routing_id(u16::from_le_bytes([devfn, bus]));
        let dword = Dword::holding(u16::from_le_bytes([register, high & 0x0f]));
        PortAccess::Config(Piece { access: Guest(Access::new(function, dword, lanes)), first_byte })
    }
}

/// An ECAM window: 1 MiB for each bus, 4 KiB for each function (PCIe Base 6.0, 7.2.2; ACPI table MCFG).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ecam {
    /// Address of bus 0, decoded or not.
    base: u64,
    span: Span,
}

impl Ecam {
    /// The window of `buses`, where `base` is what MCFG says: the address bus 0 has, or would have if the window
    /// started there (PCI Firmware 3.3, 4.1.2). `None` when there is no bus, when `base` is not aligned to a bus, or
    /// when the window leaves the 64-bit space.
    pub const fn new(base: u64, buses: core::ops::RangeInclusive<u8>) -> Option<Self> {
        let (first, last) = (*buses.start() as u64, *buses.end() as u64);
        if first > last || base & 0xf_ffff != 0 {
            return None;
        }
        let Some(start) = base.checked_add(first << 20) else { return None };
        let Some(end) = base.checked_add(last << 20 | 0xf_ffff) else { return None };
        match Span::from_bounds(start, end) {
            Some(span) => Some(Self { base, span }),
            None => None,
        }
    }

    /// All addresses of the window.
    pub const fn span(self) -> Guest<Span> {
        Guest(self.span)
    }

    /// The 4 KiB page of a function; `None` when its bus is not in the window.
    pub fn page(self, function: Guest<Bdf>) -> Option<Guest<Span>> {
        let offset = u64::from(function.0.routing_id()) << 12;
        let page = Span::new(self.base.checked_add(offset)?, 0x1000)?;
        if self.span.covers(page) { Some(Guest(page)) } else { None }
    }

    /// Cuts a memory access of `len` bytes (up to 8, more are ignored) into its DWORDs. Bytes outside the window
    /// belong to no piece.
    #[inline]
    pub fn pieces(self, address: u64, len: u8) -> Pieces {
        Pieces { ecam: self, address, next: 0, len: if len > 8 { 8 } else { len } }
    }
}

/// The pieces of one ECAM access, at most three. See [`Ecam::pieces`].
#[derive(Debug, Clone)]
pub struct Pieces {
    ecam: Ecam,
    address: u64,
    next: u8,
    len: u8,
}

impl Iterator for Pieces {
    type Item = Piece;

    #[inline]
    fn next(&mut self) -> Option<Piece> {
        while self.next < self.len {
            let first_byte = self.next;
            let address = self.address.checked_add(u64::from(first_byte));
            let Some(address) = address.filter(|address| self.ecam.span.contains(*address)) else {
                self.next = first_byte.saturating_add(1);
                continue;
            };
            let [.., a, b, c, d] = address.wrapping_sub(self.ecam.base).to_be_bytes();
            let lane = d & 3;
            let count = self.len.wrapping_sub(first_byte).min(4_u8.wrapping_sub(lane));
            self.next = first_byte.saturating_add(count);
            let lanes = Lanes::run(lane, count)?;
            let [_, routing_high, routing_low, ..] = (u32::from_be_bytes([a, b, c, d]) >> 4).to_be_bytes();
            let function = Bdf::from_routing_id(u16::from_be_bytes([routing_high, routing_low]));
            let dword = Dword::holding(u16::from_be_bytes([c, d]));
            return Some(Piece { access: Guest(Access::new(function, dword, lanes)), first_byte });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    const WIDTHS: [Width; 3] = [Width::Byte, Width::Word, Width::Dword];

    fn enabled() -> ConfigAddress {
        let mut ports = ConfigAddress::default();
        let _ = ports.write(0xcf8, Width::Dword, 0x8001_0a40);
        ports
    }

    /// Which bytes of the data port a port access of this width touches, as (byte of the access, lane).
    fn data_bytes(port: u16, width: Width) -> Vec<(u8, u16)> {
        (0..width.bytes())
            .map(|byte| (byte, port + u16::from(byte)))
            .filter(|(_, at)| (0xcfc..=0xcff).contains(at))
            .map(|(byte, at)| (byte, at - 0xcfc))
            .collect()
    }

    #[test]
    fn every_port_and_width_reaches_exactly_its_bytes_of_the_data_port() {
        for port in 0xcf0..=0xd04_u16 {
            for width in WIDTHS {
                if port == 0xcf8 && width == Width::Dword {
                    continue;
                }
                let bytes = data_bytes(port, width);
                match enabled().read(port, width) {
                    PortAccess::Config(piece) => {
                        let lanes = bytes.iter().fold(0, |lanes, (_, lane)| lanes | 1 << lane);
                        assert_eq!(piece.access().0.lanes().bits(), lanes, "{port:#x} {width:?}");
                        let dword = 0x4433_2211;
                        let expected = bytes.iter().fold(!0_u64, |value, (byte, lane)| {
                            value & !(0xff << (8 * byte)) | u64::from(dword >> (8 * lane) & 0xff) << (8 * byte)
                        });
                        assert_eq!(piece.answer(!0, dword), expected);
                        let written =
                            bytes.iter().fold(0, |lanes, (byte, lane)| lanes | (u32::from(byte + 1) << (8 * lane)));
                        assert_eq!(piece.lanes_of(0x0403_0201), written);
                    }
                    PortAccess::Forward => assert!(bytes.is_empty(), "{port:#x} {width:?}"),
                    PortAccess::Latch(_) => panic!("{port:#x} {width:?} is no CONFIG_ADDRESS access"),
                }
            }
        }
    }

    #[test]
    fn a_disabled_latch_leaves_the_data_port_alone() {
        let mut ports = enabled();
        let _ = ports.write(0xcf8, Width::Dword, 0x0001_0a40);
        for port in 0xcfc..=0xcff {
            for width in WIDTHS {
                assert_eq!(ports.read(port, width), PortAccess::Forward);
                assert_eq!(ports.write(port, width, 0), PortAccess::Forward);
            }
        }
    }

    #[test]
    fn the_latch_is_copied_and_never_consumed() {
        let ports = enabled();
        let first = ports.read(0xcfc, Width::Dword);
        assert!(matches!(first, PortAccess::Config(_)));
        assert_eq!(ports.read(0xcfc, Width::Dword), first);
        assert_eq!(ports.read(0xcf8, Width::Dword), PortAccess::Latch(0x8001_0a40));
    }

    #[test]
    fn narrow_writes_and_the_reset_port_do_not_touch_the_latch() {
        for narrow in [NarrowAddress::Forward, NarrowAddress::Merge] {
            let mut ports = ConfigAddress::new(ExtendedRegisters::Reserved, narrow);
            let _ = ports.write(0xcf8, Width::Dword, 0x8001_0a40);
            for width in [Width::Byte, Width::Word] {
                assert_eq!(ports.write(0xcf9, width, 0x0e0e), PortAccess::Forward);
                assert_eq!(ports.read(0xcf9, width), PortAccess::Forward);
            }
            assert_eq!(ports.value(), 0x8001_0a40);
        }
        let mut hardware = enabled();
        assert_eq!(hardware.write(0xcfb, Width::Byte, 1), PortAccess::Forward);
        assert_eq!(hardware.value(), 0x8001_0a40);
    }

    #[test]
    fn a_merging_chipset_assembles_the_latch_from_bytes_and_words() {
        let mut ports = ConfigAddress::new(ExtendedRegisters::Reserved, NarrowAddress::Merge);
        let _ = ports.write(0xcf8, Width::Word, 0x0a40);
        let _ = ports.write(0xcfa, Width::Byte, 0x01);
        let _ = ports.write(0xcfb, Width::Byte, 0x80);
        assert_eq!(ports.value(), 0x8001_0a40);
        assert_eq!(ports.read(0xcfa, Width::Word), PortAccess::Latch(0x8001));
    }

    #[test]
    fn bits_27_to_24_select_extended_registers_only_where_asked_for() {
        for (extended, dword, latched) in
            [(ExtendedRegisters::Reserved, "10h", 0x8001_0010), (ExtendedRegisters::Amd, "310h", 0x8301_0010)]
        {
            let mut ports = ConfigAddress::new(extended, NarrowAddress::Forward);
            let _ = ports.write(0xcf8, Width::Dword, 0xf301_0013);
            assert_eq!(ports.value(), latched);
            let PortAccess::Config(piece) = ports.read(0xcfc, Width::Dword) else { panic!("not enabled") };
            assert_eq!(piece.access().0.dword().to_string(), dword);
        }
    }

    #[test]
    fn ecam_cuts_any_width_and_alignment_into_dwords() {
        let ecam = Ecam::new(0xb000_0000, 0..=255).unwrap();
        let dwords = |index: u32| index * 0x0404_0404 + 0x0302_0100;
        for start in 0..16_u64 {
            for len in 0..=12_u8 {
                let read = ecam
                    .pieces(0xb000_0000 + start, len)
                    .fold(!0, |value, piece| piece.answer(value, dwords(u32::from(piece.access().0.dword().index()))));
                let expected = (0..u64::from(len.min(8)))
                    .fold(!0, |value, byte| value & !(0xff << (8 * byte)) | (start + byte) << (8 * byte));
                assert_eq!(read, expected, "{start} {len}");
            }
        }
    }

    #[test]
    fn ecam_starts_at_any_bus_and_drops_what_lies_outside() {
        let ecam = Ecam::new(0x4000_0000, 0x20..=0x21).unwrap();
        assert_eq!(ecam.span(), Guest(Span::new(0x4200_0000, 0x20_0000).unwrap()));
        let last = ecam.pieces(0x421f_fffe, 8).map(|piece| piece.access().to_string()).collect::<Vec<_>>();
        assert_eq!(last, ["21:1f.7 FFCh lanes 1100"]);
        assert_eq!(ecam.pieces(0x41ff_ffff, 1).next(), None);
        let first = ecam.pieces(0x41ff_fffe, 4).next().unwrap();
        assert_eq!(
            (first.access().to_string().as_str(), first.lanes_of(0x4433_2211)),
            ("20:00.0 00h lanes 0011", 0x4433)
        );
        assert_eq!(
            ecam.page(Guest(Bdf::new(0x20, 3, 1).unwrap())),
            Some(Guest(Span::new(0x4201_9000, 0x1000).unwrap()))
        );
        assert_eq!(ecam.page(Guest(Bdf::new(0x22, 0, 0).unwrap())), None);
    }

    #[test]
    fn ecam_ends_with_the_address_space() {
        let ecam = Ecam::new(u64::MAX << 28, 0..=255).unwrap();
        assert_eq!(ecam.pieces(u64::MAX - 1, 8).count(), 1);
        assert_eq!(Ecam::new(u64::MAX << 20, 0..=255), None);
        assert_eq!(Ecam::new(0x1000, 0..=255), None);
    }
}
