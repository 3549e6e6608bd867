//! The tree in the shape `lspci -tv` prints it (pciutils 3.9, ls-tree.c).

use std::collections::BTreeSet;
use std::format;
use std::string::String;
use std::vec::Vec;

use super::tree::{Device, DeviceTree};

impl DeviceTree {
    /// The tree as `lspci -tv` prints it, with `name` for what follows two spaces after a function that is no bridge.
    pub fn lspci_tv(&self, name: &dyn Fn(&Device) -> String) -> String {
        lspci_tv(&[self], &|_, device| name(device))
    }
}

/// The trees of all segment groups as `lspci -tv` prints them; `name` gets the number of the segment group too.
pub fn lspci_tv(trees: &[&DeviceTree], name: &dyn Fn(u16, &Device) -> String) -> String {
    let own = trees.iter().flat_map(|tree| tree.roots.iter().map(|root| (tree.segment, *root)));
    // pciutils always has bus 0 of segment 0.
    let roots = own.chain([(0, 0)]).collect::<BTreeSet<_>>();
    let mut text = String::new();
    for (index, (segment, root)) in roots.iter().enumerate() {
        let start = if index == 0 { "-" } else { " " };
        let knot = match (roots.len(), index + 1 == roots.len()) {
            (1, _) => "",
            (_, true) => "\\-",
            (_, false) => "+-",
        };
        let devices = trees.iter().filter(|tree| tree.segment == *segment).flat_map(|tree| &tree.devices).collect();
        let name = &|device: &Device| name(*segment, device);
        let mut drawing = Drawing { devices, name, text: String::new(), drawn: BTreeSet::new() };
        drawing.bus(*root, &format!("{start}{knot}[{segment:04x}:{root:02x}]-"));
        text.push_str(&drawing.text);
    }
    text
}

struct Drawing<'t> {
    devices: Vec<&'t Device>,
    name: &'t dyn Fn(&Device) -> String,
    text: String,
    /// Buses that were drawn: bridges with wrong numbers do not lead in circles.
    drawn: BTreeSet<u8>,
}

impl Drawing<'_> {
    fn bus(&mut self, bus: u8, line: &str) {
        let fresh = self.drawn.insert(bus);
        let on_bus = self.devices.iter().copied().filter(|device| fresh && device.bdf.bus() == bus);
        let devices = on_bus.collect::<Vec<_>>();
        match devices[..] {
            [] => self.print(line),
            [device] => self.device(device, &format!("{line}--")),
            [first, .., last] => {
                self.device(first, &format!("{line}+-"));
                let rest = blank(line);
                for device in &devices[1..devices.len() - 1] {
                    self.device(device, &format!("{rest}+-"));
                }
                self.device(last, &format!("{rest}\\-"));
            }
        }
    }

    fn device(&mut self, device: &Device, line: &str) {
        let line = format!("{line}{:02x}.{:x}", device.bdf.device(), device.bdf.function());
        match device.bus_range.clone().map(RangeBounds::from) {
            Some(RangeBounds(first, last)) if first == last => self.bus(first, &format!("{line}-[{first:02x}]--")),
            Some(RangeBounds(first, last)) => self.bus(first, &format!("{line}-[{first:02x}-{last:02x}]--")),
            None => self.print(&format!("{line}  {}", (self.name)(device))),
        }
    }

    fn print(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

struct RangeBounds(u8, u8);

impl From<std::ops::RangeInclusive<u8>> for RangeBounds {
    fn from(range: std::ops::RangeInclusive<u8>) -> Self {
        Self(*range.start(), *range.end())
    }
}

/// What later lines show where this one was printed: the trunks that go on.
fn blank(line: &str) -> String {
    line.chars().map(|c| if c == '+' || c == '|' { '|' } else { ' ' }).collect()
}
