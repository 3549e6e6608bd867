//! The tree in the shape `lspci -tv` prints it (pciutils 3.9, ls-tree.c).

use std::collections::BTreeSet;
use std::format;
use std::string::String;
use std::vec::Vec;

use super::tree::{Device, DeviceTree};

impl DeviceTree {
    /// The tree as `lspci -tv` prints it, with `name` for what follows two spaces after a function that is no bridge.
    pub fn lspci_tv(&self, name: &dyn Fn(&Device) -> String) -> String {
        let mut drawing = Drawing { tree: self, name, text: String::new(), drawn: BTreeSet::new() };
        // pciutils always has bus 0, and puts each further bus without a bridge in front of those it has.
        let mut roots = self.roots.iter().copied().collect::<BTreeSet<_>>();
        roots.insert(0);
        let roots = roots.into_iter().rev().collect::<Vec<_>>();
        if let [root] = roots[..] {
            drawing.bus(root, &format!("-[{:04x}:{root:02x}]-", self.segment));
        } else {
            for (index, root) in roots.iter().enumerate() {
                let start = if index == 0 { "-" } else { " " };
                let knot = if index + 1 == roots.len() { '\\' } else { '+' };
                drawing.bus(*root, &format!("{start}{knot}-[{:04x}:{root:02x}]-", self.segment));
            }
        }
        drawing.text
    }
}

struct Drawing<'t> {
    tree: &'t DeviceTree,
    name: &'t dyn Fn(&Device) -> String,
    text: String,
    drawn: BTreeSet<u8>,
}

impl Drawing<'_> {
    fn bus(&mut self, bus: u8, line: &str) {
        let tree = self.tree;
        let fresh = self.drawn.insert(bus);
        let devices = tree.devices.iter().filter(|device| fresh && device.bdf.bus() == bus).collect::<Vec<_>>();
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
