//! From the kernel's structures to the tree all guests return.

use std::vec::Vec;

use super::resource::{self, BRIDGE, IOV, ROM, Resource as Kernel, STD};
use super::{Boot, Linux};
use crate::sim::guest::capability::{list, list_extended};
use crate::sim::guest::{Device, DeviceTree, Resource, Window};
use crate::spec::bar::BarKind;
use crate::spec::express::PortType;

impl Linux<'_> {
    pub(super) fn report(mut self) -> Boot {
        let roots = self.buses.iter().filter(|bus| bus.bridge.is_none()).map(|bus| bus.number).collect();
        let mut devices = self.all().into_iter().map(|dev| self.report_device(dev)).collect::<Vec<_>>();
        devices.sort_by_key(|device| device.bdf);
        Boot { tree: DeviceTree { segment: self.config.firmware.segment, roots, devices }, log: self.log }
    }

    fn report_device(&mut self, dev: usize) -> Device {
        let device = &self.devices[dev];
        let (bdf, header, extended) = (device.bdf, device.header, device.config_size > 256);
        let capabilities = list(&mut self.config, bdf, header);
        let extended_capabilities = if extended { list_extended(&mut self.config, bdf) } else { Vec::new() };
        let device = &self.devices[dev];
        let parent = self.buses[device.bus].bridge.map(|bridge| self.devices[bridge].bdf);
        let windows = BRIDGE.map(|index| device.resources[index]).filter(|window| window.parent.is_some());
        Device {
            bdf,
            parent,
            id: device.id,
            revision: device.revision,
            class: device.class,
            header_type: header,
            multi_function: device.multi_function,
            port_type: device.port_type.map(|port| PortType::of(u32::from(port) << 20)),
            config_size: device.config_size,
            capabilities,
            extended_capabilities,
            bars: resources(&device.resources, STD.chain([ROM]), 0),
            vf_bars: resources(&device.resources, IOV, IOV.start),
            bus_range: device.subordinate.map(|bus| self.buses[bus].number..=self.buses[bus].last),
            windows: windows.filter_map(|one| Some(Window { kind: one.kind(), span: one.span()? })).collect(),
            enabled: device.enabled,
        }
    }
}

fn resources(all: &[Kernel; resource::COUNT], which: impl Iterator<Item = usize>, first: usize) -> Vec<Resource> {
    let existing = which.map(|index| (index, all[index])).filter(|(_, one)| one.exists());
    existing
        .map(|(index, one)| Resource {
            bar: index - first,
            kind: if index == ROM { BarKind::Rom } else { one.kind() },
            size: one.size,
            span: one.parent.and(one.span()),
        })
        .collect()
}
