//! Functions that cannot be given to a guest, by a folder that looks as the kernel's; the pins of those that can.

use std::io;
use std::os::unix::fs::symlink;

use vmm_sys_util::tempdir::TempDir;

use super::*;

const NIC: SegmentBdf = SegmentBdf { segment: 0, bdf: Bdf::from_routing_id(0x0200) };

/// A function whose links lead there.
fn sysfs(links: &[(&str, &str)]) -> TempDir {
    let sysfs = TempDir::new().unwrap();
    let function = sysfs.as_path().join(NIC.to_string());
    fs::create_dir(&function).unwrap();
    for (name, target) in links {
        symlink(target, function.join(name)).unwrap();
    }
    sysfs
}

fn refusal(links: &[(&str, &str)]) -> String {
    let sysfs = sysfs(links);
    let error = check(sysfs.as_path(), NIC).unwrap_err().to_string();
    error.replace(sysfs.as_path().to_str().unwrap(), SYSFS)
}

#[test]
fn a_function_of_vfio_pci_with_an_iommu_is_taken() {
    let links = [("iommu_group", "../../kernel/iommu_groups/7"), ("driver", "../drivers/vfio-pci")];
    assert!(check(sysfs(&links).as_path(), NIC).is_ok());
}

#[test]
fn without_an_iommu_it_is_said_where_to_switch_it_on() {
    assert_eq!(
        refusal(&[("driver", "../drivers/vfio-pci")]),
        "0000:02:00.0: this machine has no IOMMU, or it is off: VFIO needs one; switch it on in the firmware, and with \
         intel_iommu=on where the kernel leaves it off"
    );
}

#[test]
fn a_function_that_is_another_drivers_comes_with_the_commands_that_take_it() {
    let group = ("iommu_group", "../../kernel/iommu_groups/7");
    let commands = ":\n  modprobe vfio-pci\n  echo vfio-pci > /sys/bus/pci/devices/0000:02:00.0/driver_override\n  \
                    echo 0000:02:00.0 > /sys/bus/pci/devices/0000:02:00.0/driver/unbind\n  \
                    echo 0000:02:00.0 > /sys/bus/pci/drivers_probe";
    for (links, owner) in [(&[group, ("driver", "../drivers/e1000e")][..], "driver e1000e"), (&[group], "no driver")] {
        assert_eq!(refusal(links), format!("0000:02:00.0 belongs to {owner}, not to vfio-pci{commands}"));
    }
}

#[test]
fn a_group_that_is_not_viable_comes_with_its_other_functions() {
    let sysfs = sysfs(&[]);
    for other in ["0000:02:00.1", "0000:02:00.0", "0000:01:00.0"] {
        fs::create_dir_all(sysfs.as_path().join(format!("{NIC}/iommu_group/devices/{other}"))).unwrap();
    }
    assert_eq!(
        hint(sysfs.as_path(), NIC, VfioError::GroupViable).to_string(),
        "0000:02:00.0: the IOMMU cannot tell it from 0000:01:00.0, 0000:02:00.1, of which some belong to other drivers; \
         give all of them to vfio-pci"
    );
}

#[test]
fn a_group_that_is_somebody_elses_comes_with_its_name() {
    let error = VfioError::OpenGroup(io::Error::from_raw_os_error(libc::EACCES), "7".into());
    assert_eq!(
        hint(sysfs(&[]).as_path(), NIC, error).to_string(),
        "/dev/vfio/7: Permission denied (os error 13); its owner has to be you, or root"
    );
}

#[test]
fn a_pin_is_shown_only_where_its_line_can_rise_again() {
    use InterruptPin::{IntA, IntB, IntC, IntD};
    let shown = |has_lines| [0, 1, 2, 3, 4, 5].map(|own| shown_pin(NIC, own, has_lines));
    assert_eq!(shown(true), [None, Some(IntA), Some(IntB), Some(IntC), Some(IntD), None]);
    assert_eq!(shown(false), [None; 6]);
}
