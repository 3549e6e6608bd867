//! The hypervisor's command line.

use heapless::Vec;
use pci_remap::{Bdf, Guest, Host, Placement};

/// What the user wants.
///
/// ```text
/// relocate=02:00.0=01:01.0,03:00.0=01:02.0  hide=00:1f.2  placement=guest|pre-assigned
/// ```
#[derive(Default)]
pub struct Options {
    pub relocate: Vec<(Host<Bdf>, Guest<Bdf>), 16>,
    pub hide: Vec<Host<Bdf>, 16>,
    pub placement: Placement,
}

impl Options {
    pub fn parse(command_line: &str) -> Result<Self, &str> {
        let mut options = Self::default();
        for word in command_line.split_ascii_whitespace() {
            options.take(word).ok_or(word)?;
        }
        Ok(options)
    }

    fn take(&mut self, word: &str) -> Option<()> {
        let (key, value) = word.split_once('=')?;
        match key {
            "relocate" => value.split(',').try_for_each(|relocation| {
                let (host, guest) = relocation.split_once('=')?;
                self.relocate.push((host.parse().ok()?, guest.parse().ok()?)).ok()
            }),
            "hide" => value.split(',').try_for_each(|host| self.hide.push(host.parse().ok()?).ok()),
            "placement" => {
                self.placement = match value {
                    "guest" => Placement::GuestAssigns,
                    "pre-assigned" => Placement::PreAssigned,
                    _ => return None,
                };
                Some(())
            }
            _ => None,
        }
    }
}
