//! What a bridge forwards: bus numbers and windows (7.5.1.3).

use zerocopy::FromBytes;

use crate::address::{Host, Span};
use crate::delta::Space;
use crate::spec::cardbus::CardBus;
use crate::spec::header::HeaderType;
use crate::spec::type1::Type1;

/// The routing registers of a bridge, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    /// Secondary Bus Number.
    pub secondary: u8,
    /// Subordinate Bus Number.
    pub subordinate: u8,
    /// The I/O window; `None` when it is closed or there is none.
    pub io: Option<Host<Span>>,
    /// The non-prefetchable memory window.
    pub memory: Option<Host<Span>>,
    /// The prefetchable memory window.
    pub prefetchable: Option<PrefetchableWindow>,
}

/// A prefetchable memory window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefetchableWindow {
    /// What it decodes.
    pub span: Host<Span>,
    /// Whether it has the upper 32 bits.
    pub is_64_bit: bool,
}

impl Bridge {
    /// What it forwards of a space.
    pub(crate) fn windows(self, space: Space) -> impl Iterator<Item = Host<Span>> {
        let windows = match space {
            Space::Io => [self.io, None],
            Space::Memory => [self.memory, self.prefetchable.map(|window| window.span)],
        };
        windows.into_iter().flatten()
    }

    /// The bridge whose header this is; `None` for Type 0 headers and bridges with no bus behind them.
    pub(super) fn of(header_type: HeaderType, header: &[u8]) -> Option<Self> {
        let bridge = match header_type {
            HeaderType::Type0 => return None,
            HeaderType::Type1 => Self::of_type1(Type1::ref_from_bytes(header).ok()?),
            HeaderType::CardBus => Self::of_cardbus(CardBus::ref_from_bytes(header).ok()?),
        };
        if bridge.secondary == 0 || bridge.subordinate < bridge.secondary { None } else { Some(bridge) }
    }

    fn of_type1(header: &Type1) -> Self {
        // 7.5.1.3.6: bits 15:12 of I/O addresses in bits 7:4; bits 3:0 say whether bits 31:16 exist.
        let io_32_bit = header.io_base & 0xf == 1;
        let io_upper = |upper: u16| if io_32_bit { u64::from(upper) << 16 } else { 0 };
        let io_base = u64::from(header.io_base & 0xf0) << 8 | io_upper(header.io_base_upper.get());
        let io_limit = u64::from(header.io_limit & 0xf0) << 8 | io_upper(header.io_limit_upper.get()) | 0xfff;

        // 7.5.1.3.8: bits 31:20 of memory addresses in bits 15:4.
        let base = u64::from(header.memory_base.get() & 0xfff0) << 16;
        let limit = u64::from(header.memory_limit.get() & 0xfff0) << 16 | 0xf_ffff;

        let has_upper_half = header.prefetchable_base.get() & 0xf == 1;
        let upper = |upper: u32| if has_upper_half { u64::from(upper) << 32 } else { 0 };
        let pref_base =
            u64::from(header.prefetchable_base.get() & 0xfff0) << 16 | upper(header.prefetchable_base_upper.get());
        let pref_limit = u64::from(header.prefetchable_limit.get() & 0xfff0) << 16
            | upper(header.prefetchable_limit_upper.get())
            | 0xf_ffff;

        // A window from zero is one that was never programmed, as Linux's `pci_read_bridge_windows` has it.
        let window = |base: u64, limit: u64| if base == 0 { None } else { Span::from_bounds(base, limit).map(Host) };
        Self {
            secondary: header.secondary_bus_number,
            subordinate: header.subordinate_bus_number,
            io: window(io_base, io_limit),
            memory: window(base, limit),
            prefetchable: window(pref_base, pref_limit)
                .map(|span| PrefetchableWindow { span, is_64_bit: has_upper_half }),
        }
    }

    /// The windows of a CardBus bridge belong to its socket; nothing is placed there.
    fn of_cardbus(header: &CardBus) -> Self {
        Self {
            secondary: header.cardbus_bus_number,
            subordinate: header.subordinate_bus_number,
            io: None,
            memory: None,
            prefetchable: None,
        }
    }
}
