//! I/O ports: a bitmap says which of them exit. Bit `n` of it stands for port `n`, on both kinds of processor.

use heapless::Vec;
use pci_remap::{MapOp, Span};

const MAX_SPANS: usize = 64;

/// CONFIG_ADDRESS and CONFIG_DATA.
const CONFIGURATION: Span = Span::new(0xcf8, 8).unwrap();

/// Three pages: AMD's processors look at the ports past FFFFh as well.
#[repr(C, align(4096))]
pub struct Bitmap([u8; 0x3000]);

impl Bitmap {
    pub const EMPTY: Self = Self([0; 0x3000]);
}

pub struct Ports {
    bitmap: &'static mut Bitmap,
    /// Windows of moved functions.
    windows: Vec<Span, MAX_SPANS>,
    /// Where nothing is to be found.
    concealed: Vec<Span, MAX_SPANS>,
}

impl Ports {
    pub fn new(bitmap: &'static mut Bitmap) -> Self {
        let mut ports = Self { bitmap, windows: Vec::new(), concealed: Vec::new() };
        ports.refresh(CONFIGURATION);
        ports
    }

    /// The physical address of the bitmap.
    pub fn bitmap(&self) -> u64 {
        self.bitmap.0.as_ptr().addr() as u64
    }

    /// Carries out a change of I/O Space.
    pub fn apply(&mut self, change: MapOp) -> bool {
        let span = change.guest().0;
        let done = match change {
            MapOp::Conceal { .. } => self.concealed.push(span).is_ok(),
            MapOp::Map { .. } => self.windows.push(span).is_ok(),
            MapOp::Unmap { .. } => {
                self.windows.retain(|window| *window != span);
                true
            }
        };
        self.refresh(span);
        done
    }

    fn refresh(&mut self, span: Span) {
        for port in span.start()..=span.last().min(0xffff) {
            let exits =
                [CONFIGURATION].iter().chain(&self.windows).chain(&self.concealed).any(|span| span.contains(port));
            let (byte, bit) = (&mut self.bitmap.0[port as usize / 8], 1 << (port % 8));
            if exits { *byte |= bit } else { *byte &= !bit }
        }
    }
}
