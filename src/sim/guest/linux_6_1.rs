//! Linux 6.1.

use super::Boot;
use super::linux::{Release, boot as walk};
use crate::sim::platform::Platform;

pub(super) fn boot(platform: &mut dyn Platform) -> Boot {
    walk(Release::V6_1, platform)
}
