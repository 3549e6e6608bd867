//! Linux 6.15: as 6.1, but `pci_read_bases` sizes all BARs of a function in one batch with decode off once, bridge
//! windows are logged when the bridge is found, and messages name resources differently.

use super::Boot;
use super::linux::{Release, boot as walk};
use crate::sim::platform::Platform;

pub(super) fn boot(platform: &mut dyn Platform) -> Boot {
    walk(Release::V6_15, platform)
}
