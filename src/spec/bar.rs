//! Base Address Registers (7.5.1.2.1) and the Expansion ROM Base Address (7.5.1.2.4).

/// What the read-only low bits of a Base Address Register say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BarKind {
    /// I/O Space; bits 1:0 are `01b`.
    Io,
    /// Memory Space, anywhere in the first 4 GiB.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// Memory Space, anywhere; takes the next register too.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// The Expansion ROM: Memory Space in the first 4 GiB, with an enable of its own in bit 0.
    Rom,
}

impl BarKind {
    /// The kind a Base Address Register with this value is.
    pub const fn of(raw: u32) -> Self {
        let prefetchable = raw & 8 != 0;
        match raw & 0b111 {
            0b001 | 0b011 | 0b101 | 0b111 => Self::Io,
            0b100 => Self::Memory64 { prefetchable },
            _ => Self::Memory32 { prefetchable },
        }
    }

    /// The bits that carry no address: 1:0 for I/O, 3:0 for memory, 10:0 for a ROM.
    pub const fn type_mask(self) -> u32 {
        match self {
            Self::Io => 0x3,
            Self::Memory32 { .. } | Self::Memory64 { .. } => 0xf,
            Self::Rom => 0x7ff,
        }
    }

    /// Value of the low bits.
    pub const fn type_bits(self) -> u32 {
        match self {
            Self::Io => 1,
            Self::Memory32 { prefetchable } => (prefetchable as u32) << 3,
            Self::Memory64 { prefetchable } => 4 | (prefetchable as u32) << 3,
            Self::Rom => 0,
        }
    }

    /// Whether it decodes memory, not I/O.
    pub const fn is_memory(self) -> bool {
        !matches!(self, Self::Io)
    }

    /// Whether it takes two registers.
    pub const fn is_64_bit(self) -> bool {
        matches!(self, Self::Memory64 { .. })
    }

    /// Whether reads have no side effects.
    pub const fn is_prefetchable(self) -> bool {
        matches!(self, Self::Memory32 { prefetchable: true } | Self::Memory64 { prefetchable: true })
    }
}

/// Expansion ROM Enable, bit 0 of the Expansion ROM Base Address register.
pub const ROM_ENABLE: u32 = 1;
