//! The guest's x87 and SSE registers. Compiled Rust uses the latter, so they are put away while the guest is stopped.

/// What FXSAVE64 writes. The upper halves of AVX registers stay where they are, as the hypervisor does not use AVX.
#[repr(C, align(16))]
pub struct FloatingPoint([u32; 128]);

impl FloatingPoint {
    /// As after FNINIT, with all SSE exceptions masked.
    pub const INITIAL: Self = {
        let mut state = [0; 128];
        state[0] = 0x037f;
        state[6] = 0x1f80;
        Self(state)
    };
}
