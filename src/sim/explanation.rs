//! Whether the remapper does what it says.

use crate::access::{Access, Lanes};
use crate::address::{Guest, Host};
use crate::decision::{ReadDecision, Splice, WriteDecision};
use crate::remapper::{Found, Reason, Register, Remapper};

/// What [`Remapper::explain`] says of an access is what a read and a write of it do.
///
/// # Panics
/// When it is not.
pub fn what_is_said_is_done<const F: usize>(remapper: &mut Remapper<F>, access: Guest<Access>, value: u32) {
    let said = remapper.explain(access);
    let read = remapper.read(access);
    let write = remapper.write(access, value).decision;
    let (expected_read, expected_write) = match said.found {
        Found::Untouched => (ReadDecision::Passthrough, WriteDecision::Passthrough),
        Found::Nothing(_) => (ReadDecision::Hide, WriteDecision::Hide),
        Found::Elsewhere(Host(host)) => {
            let to = Host(access.0.of(host));
            (ReadDecision::Redirect { to, splice: Splice::HARDWARE }, WriteDecision::Redirect { to, value })
        }
        Found::Function { host: Host(host), register, .. } => {
            let lanes = access.0.lanes().mask();
            let is_plain = (register.from_hardware, register.to_hardware) == (lanes, lanes);
            assert!(register.reason.is_some() || is_plain, "{said}: a rule without a reason");
            let access = access.0.of(host);
            // That reset is made by another bridge.
            let is_elsewhere = register.reason == Some(Reason::BusReset);
            (read_of(access, register), if is_elsewhere { write } else { write_of(access, register, value) })
        }
    };
    assert_eq!(read_in_lanes(read, access.0), read_in_lanes(expected_read, access.0), "{said}");
    assert_eq!(write_in_lanes(write), write_in_lanes(expected_write), "{said}: {value:08x} was written");
}

fn read_of(access: Access, register: Register) -> ReadDecision {
    let Register { from_hardware: hardware, requesters, shadow, .. } = register;
    match hardware {
        _ if requesters != 0 => ReadDecision::Requesters { to: Host(access.with_lanes(Lanes::ALL)) },
        0 => ReadDecision::Emulate(shadow),
        hardware => ReadDecision::Redirect { to: Host(access), splice: Splice { hardware, shadow } },
    }
}

fn write_of(access: Access, register: Register, value: u32) -> WriteDecision {
    match access.lanes().touching(register.to_hardware) {
        None => WriteDecision::Emulate,
        Some(lanes) => WriteDecision::Redirect {
            to: Host(access.with_lanes(lanes)),
            value: value & register.to_hardware | register.held,
        },
    }
}

/// The decision without what is in lanes that do not count. Hardware may be asked only whether it answers.
fn read_in_lanes(decision: ReadDecision, access: Access) -> ReadDecision {
    let lanes = access.lanes();
    let mask = lanes.mask();
    match decision {
        ReadDecision::Emulate(value) => ReadDecision::Emulate(value & mask),
        ReadDecision::Redirect { to, splice } => match splice.hardware & mask {
            0 => ReadDecision::Emulate(splice.shadow & mask),
            hardware => ReadDecision::Redirect {
                to: to.map(|to| to.with_lanes(lanes)),
                splice: Splice { hardware, shadow: splice.shadow & mask },
            },
        },
        other => other,
    }
}

fn write_in_lanes(decision: WriteDecision) -> WriteDecision {
    match decision {
        WriteDecision::Redirect { to, value } => WriteDecision::Redirect { to, value: value & to.0.lanes().mask() },
        other => other,
    }
}
