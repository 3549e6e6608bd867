//! Virtual Functions: as hardware has them, and where a guest finds those of a function that moved.

mod support;

use pci_remap::Bdf;
use pci_remap::sim::guest::Kind;
use pci_remap::sim::guest::life::{Life, Step};
use pci_remap::sim::machine::{Blueprint, Capability, ExtendedCapability, Machine, VfBar, signature};
use pci_remap::spec::express::PortType;
use support::*;

const KERNELS: [Kind; 2] = [Kind::Linux61, Kind::Linux615];
/// Bytes of one Virtual Function in each of its two BARs.
const VF_SIZE: u64 = 0x4000;

/// A NIC with eight Virtual Functions from device 16 on, on every other function number (QEMU's igb).
fn adapter(at: &str) -> Blueprint {
    let bar = |address| VfBar { kind: MEMORY_64, size: VF_SIZE, address };
    let bars = vec![(0, bar(0x10_0110_0000)), (3, bar(0x10_0112_0000))];
    Blueprint::endpoint(bdf(at))
        .bar(0, MEMORY, 0x2_0000, 0xe100_0000)
        .bar(3, MEMORY, 0x4000, 0xe102_0000)
        .capability(&Capability::PowerManagement)
        .capability(&Capability::MsiX { vectors: 4, table: (3, 0), pba: (3, 0x2000) })
        .capability(&Capability::Express(PortType::Endpoint))
        .extended(&ExtendedCapability::AdvancedErrorReporting)
        .extended(&ExtendedCapability::Ari { next: 0 })
        .extended(&ExtendedCapability::SrIov { total: 8, offset: 0x80, stride: 2, bars })
}

/// Addresses of the first `count` Virtual Functions of that NIC.
fn virtual_functions(physical: &str, count: u16) -> Vec<Bdf> {
    (0..count).map(|number| Bdf::from_routing_id(bdf(physical).routing_id() + 0x80 + 2 * number)).collect()
}

fn run_to_drivers(life: &mut Life<'_>) {
    for step in [Step::BindPorts, Step::SuspendIdlePorts, Step::BindDrivers] {
        life.run(step);
    }
}

mod hardware {
    use super::*;
    use pci_remap::{Access, Dword};

    fn machine() -> Machine {
        let mut machine = support::machine([adapter("02:00.0")]);
        // ARI Forwarding of the port; its PCI Express Capability is the only one.
        write(&mut machine, "00:01.1", 0x40 + 0x28, 1 << 5);
        machine
    }

    fn read(machine: &mut Machine, function: &str, offset: u16) -> u32 {
        machine.config_read(Access::whole(bdf(function), Dword::at(offset).unwrap()))
    }

    fn write(machine: &mut Machine, function: &str, offset: u16, value: u32) {
        machine.config_write(Access::whole(bdf(function), Dword::at(offset).unwrap()), value);
    }

    /// Where SR-IOV is: after Advanced Error Reporting and ARI.
    const SRIOV: u16 = 0x100 + 0x48 + 0x08;

    #[test]
    fn they_are_there_while_vf_enable_is_set_and_decode_by_the_registers_of_the_physical_function() {
        let mut machine = machine();
        assert_eq!(read(&mut machine, "02:00.0", SRIOV) & 0xffff, 0x10);
        assert_eq!(read(&mut machine, "02:10.0", 0x08), !0);
        write(&mut machine, "02:00.0", SRIOV + 0x10, 2);
        write(&mut machine, "02:00.0", SRIOV + 0x08, 0x9);
        assert_eq!(read(&mut machine, "02:10.0", 0x00), !0, "its ID is the Physical Function's");
        assert_eq!(read(&mut machine, "02:10.0", 0x08), read(&mut machine, "02:00.0", 0x08));
        assert_ne!(read(&mut machine, "02:10.2", 0x08), !0);
        assert_eq!(read(&mut machine, "02:10.4", 0x08), !0, "there are two");
        write(&mut machine, "02:10.2", 0x04, 0x7);
        assert_eq!(read(&mut machine, "02:10.2", 0x04) & 0xffff, 0x4, "Bus Master Enable is all it has");
        write(&mut machine, "02:10.2", 0x10, !0);
        assert_eq!(read(&mut machine, "02:10.2", 0x10), 0, "BARs read zero");
        let word = |at: u64, function: &str, bar| (0x10_0110_0000 + at, u64::from(signature(0, bdf(function), bar, 8)));
        for (address, value) in
            [word(8, "02:10.0", 0), word(VF_SIZE + 8, "02:10.2", 0), word(0x2_0000 + 8, "02:10.0", 3)]
        {
            assert_eq!(machine.memory_read(address, 4), value);
        }
        assert_eq!(machine.memory_read(0x10_0110_0000 + 2 * VF_SIZE, 4), 0xffff_ffff, "nothing beyond the last");
        write(&mut machine, "02:00.0", SRIOV + 0x08, 0x1);
        assert_eq!(machine.memory_read(0x10_0110_0008, 4), 0xffff_ffff, "VF Memory Space Enable is off");
        write(&mut machine, "02:00.0", SRIOV + 0x08, 0x0);
        assert_eq!(read(&mut machine, "02:10.0", 0x08), !0);
    }

    #[test]
    fn their_requests_carry_their_own_id_and_a_reset_of_the_physical_function_takes_them_away() {
        let mut machine = machine();
        write(&mut machine, "02:00.0", SRIOV + 0x10, 8);
        write(&mut machine, "02:00.0", SRIOV + 0x08, 0x9);
        assert!(machine.dma_write(bdf("02:10.6"), 0x1000, 64).is_err(), "not a bus master yet");
        write(&mut machine, "02:10.6", 0x04, 0x4);
        assert_eq!(machine.dma_write(bdf("02:10.6"), 0x1000, 64).unwrap().requester, bdf("02:10.6"));
        machine.reset_function(machine.original(bdf("02:00.0")).unwrap());
        assert_eq!(machine.find(bdf("02:10.6")), None);
        assert!(machine.conflicts().is_empty());
    }
}

#[test]
fn linux_enables_them_and_their_drivers_bind() {
    for kind in KERNELS {
        let mut machine = machine([adapter("02:00.0")]);
        let mut life = Life::start(kind, &mut machine, &[bdf("02:00.0")]).unwrap();
        run_to_drivers(&mut life);
        assert_eq!(life.set_virtual_functions(bdf("02:00.0"), 8), virtual_functions("02:00.0", 8), "{kind}");
        life.run(Step::SuspendDevices);
        assert_eq!(life.set_virtual_functions(bdf("02:00.0"), 2), virtual_functions("02:00.0", 2), "{kind}");
        life.run(Step::Rebind);
        let report = life.finish();
        assert_eq!(report.failures, [], "{kind}");
        for function in virtual_functions("02:00.0", 2) {
            let device = report.boot.tree.device(function).unwrap();
            for bar in [0, 3] {
                assert_eq!(device.read(&mut machine, bar, 0x20), Some(signature(0, function, bar, 0x20)), "{kind}");
            }
        }
    }
}
