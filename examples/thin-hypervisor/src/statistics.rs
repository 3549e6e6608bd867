//! How often the guest stopped, and why.

use core::fmt;

#[derive(Clone, Copy)]
pub enum Cause {
    /// CONFIG_ADDRESS and CONFIG_DATA.
    ConfigurationPorts,
    /// Other ports: moved I/O BARs.
    OtherPorts,
    /// ECAM pages the crate lists.
    Ecam,
    /// Memory of moved BARs that is not mapped: smaller than a page, or concealed.
    TrappedMemory,
    /// A first access, for which the page tables were filled in.
    FirstAccess,
    /// Instructions that always exit.
    Forced,
}

const NAMES: [&str; 6] = ["configuration ports", "other ports", "ECAM", "trapped memory", "first access", "forced"];

#[derive(Default)]
pub struct Statistics([u64; NAMES.len()]);

impl Statistics {
    pub fn count(&mut self, cause: Cause) {
        self.0[cause as usize] += 1;
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("exits")?;
        NAMES.iter().zip(self.0).try_for_each(|(name, count)| write!(f, ", {name} {count}"))
    }
}
