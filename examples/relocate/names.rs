//! What functions are called, from the headlines of the dump.

use std::collections::BTreeMap;

use pci_remap::Bdf;
use pci_remap::sim::dump::{Dump, SegmentBdf};
use pci_remap::sim::guest::Device;

/// The headlines of a dump.
pub(crate) struct Names(BTreeMap<SegmentBdf, String>);

impl Names {
    pub(crate) fn of(dump: &Dump) -> Self {
        Self(dump.functions().iter().map(|function| (function.address(), function.name().to_owned())).collect())
    }

    /// The whole headline: class, vendor, device and IDs.
    pub(crate) fn headline(&self, segment: u16, host: Option<Bdf>) -> &str {
        host.and_then(|bdf| self.0.get(&SegmentBdf { segment, bdf })).map_or("", String::as_str)
    }

    /// What `lspci -tv` says of a function the guest found: vendor and device.
    pub(crate) fn of_device(&self, segment: u16, host: Option<Bdf>, device: &Device) -> String {
        match vendor_and_device(self.headline(segment, host)) {
            name if name.is_empty() => format!("Device {:04x}:{:04x}", device.id & 0xffff, device.id >> 16),
            name => name,
        }
    }
}

/// Vendor and device in `Class [0200]: Vendor Device [8086:10d3] (rev 01)`.
fn vendor_and_device(headline: &str) -> String {
    let (_, name) = headline.split_once(": ").unwrap_or(("", headline));
    let name = ["(rev ", "(prog-if "].iter().fold(name, |name, end| name.split(end).next().unwrap_or(name)).trim_end();
    let Some((name, ids)) = name.rsplit_once(" [").and_then(|(name, ids)| Some((name, ids.strip_suffix(']')?))) else {
        return name.to_owned();
    };
    match ids.split_once(':') {
        // What the list of names does not know is called by its ID.
        Some(_) if name == "Device" => format!("{name} {ids}"),
        Some((_, id)) if name.ends_with("Device") => format!("{name} {id}"),
        Some(_) => name.to_owned(),
        None => format!("{name} [{ids}]"),
    }
}
