//! What an exit costs: remappers of real size, and one function per operation, so that each can be timed and counted.

use core::hint::black_box;

use pci_remap::mechanism::{ConfigAddress, PortAccess};
use pci_remap::plan::Vfs;
use pci_remap::sim::machine::{Blueprint, Builder, ExtendedCapability, VfBar};
use pci_remap::sim::vm;
use pci_remap::spec::bar::BarKind;
use pci_remap::spec::header::Command;
use pci_remap::{
    Access, Bdf, Dword, Guest, Host, Lanes, Plan, ReadDecision, Relocation, Remapper, Width, WriteDecision,
};

/// Room for 64 moved functions.
const ROOM: usize = 64;

/// Sizes of the BARs each function has: 16 KiB, 64 KiB, 1 MiB, all with 64-bit addresses.
const BARS: [u64; 3] = [0x4000, 0x1_0000, 0x10_0000];

/// Addresses one function has to itself, for hardware and guest alike.
const STRIDE: u64 = 0x40_0000;
const HOST: u64 = 0x10_0000_0000;
const GUEST: u64 = 0x18_0000_0000;

const COMMAND: u16 = 0x04;
const CLASS: u16 = 0x08;
const BAR0: u16 = 0x10;
const SRIOV_CONTROL: u16 = 0x108;
const NUM_VFS: u16 = 0x110;
const MEMORY_SPACE_ENABLE: u32 = Command::MEMORY_SPACE_ENABLE.bits() as u32;

/// A guest whose functions all decode, but for the last one moved: the operations are about that one.
#[derive(Clone)]
pub(crate) struct Exits {
    remapper: Box<Remapper<ROOM>>,
    ports: ConfigAddress,
    moved: Bdf,
}

impl Exits {
    /// `count` functions moved on the root bus, from devices 1 to 8 to devices 17 to 24.
    pub(crate) fn new(count: u8) -> Self {
        let mut remapper = remapper(count);
        drain(&mut remapper);
        for index in 0..count {
            let function = moved(index);
            for (address, dword) in (GUEST + u64::from(index) * STRIDE..).step_by(0x10_0000).zip([0x10, 0x18, 0x20]) {
                let [low, high] = [address & 0xffff_ffff, address >> 32].map(|half| u32::try_from(half).unwrap());
                let _ = remapper.write(whole(function, dword), low);
                let _ = remapper.write(whole(function, dword + 4), high);
            }
            if index + 1 < count {
                let changes = write_and_apply(&mut remapper, command(function), MEMORY_SPACE_ENABLE);
                assert_eq!(changes, BARS.len());
            }
        }
        Self { remapper, ports: ConfigAddress::default(), moved: moved(count - 1) }
    }

    /// `count` functions moved from devices 1 to 8, each with four Virtual Functions that follow and are there: the
    /// operations are about the last of all.
    pub(crate) fn following(count: u8) -> Self {
        let root = Builder::new().root(0..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY]);
        let physical = |index| nic(8 * index).extended(&sriov(8 * index));
        let mut machine = (0..count).fold(root, |machine, index| machine.endpoint(physical(index))).build().unwrap();
        let topology = vm::topology(&mut machine).unwrap();
        let follow = |index| Relocation {
            vfs: Vfs::Follow,
            ..Relocation::new(Host(original(8 * index)), Guest(moved(8 * index)))
        };
        let plan = (0..count).fold(Plan::new(&topology), |plan, index| plan.with(follow(index)).unwrap());
        let mut remapper = Box::new(Remapper::new());
        plan.build_into(&mut remapper).unwrap();
        drain(&mut remapper);
        for function in (0..count).map(|index| moved(8 * index)) {
            let _ = remapper.write(whole(function, NUM_VFS), 4);
            let _ = remapper.write(whole(function, SRIOV_CONTROL), 1);
        }
        let last = Host(Bdf::from_routing_id(original(8 * (count - 1)).routing_id() + 0x40 + 3));
        let Guest(last) = remapper.to_guest(last).unwrap();
        Self { remapper, ports: ConfigAddress::default(), moved: last }
    }

    pub(crate) fn remapper(&self) -> &Remapper<ROOM> {
        &self.remapper
    }

    pub(crate) fn remapper_mut(&mut self) -> &mut Remapper<ROOM> {
        &mut self.remapper
    }

    /// The latch, and the remapper behind it.
    pub(crate) fn ports(&mut self) -> (&mut ConfigAddress, &Remapper<ROOM>) {
        (&mut self.ports, &self.remapper)
    }

    pub(crate) fn vendor(&self) -> Guest<Access> {
        whole(self.moved, 0)
    }

    pub(crate) fn class(&self) -> Guest<Access> {
        whole(self.moved, CLASS)
    }

    pub(crate) fn bar(&self) -> Guest<Access> {
        whole(self.moved, BAR0)
    }

    pub(crate) fn command(&self) -> Guest<Access> {
        command(self.moved)
    }

    /// What the guest writes to CF8h to reach the Vendor ID.
    pub(crate) fn config_address(&self) -> u32 {
        1 << 31 | u32::from(self.moved.routing_id()) << 8
    }
}

/// A function the plan leaves alone, on the bus it touches.
pub(crate) fn untouched() -> Guest<Access> {
    whole(Bdf::new(0, 0x1f, 7).unwrap(), 0)
}

/// A function on a bus the plan leaves alone.
pub(crate) fn elsewhere() -> Guest<Access> {
    whole(Bdf::new(0x80, 0, 0).unwrap(), 0)
}

/// Where a moved function was.
pub(crate) fn absent() -> Guest<Access> {
    whole(original(0), 0)
}

fn remapper(count: u8) -> Box<Remapper<ROOM>> {
    let root = Builder::new().root(0..=0xff, &[Builder::LOW_MEMORY, Builder::HIGH_MEMORY]);
    let mut machine = (0..count).fold(root, |machine, index| machine.endpoint(nic(index))).build().unwrap();
    let topology = vm::topology(&mut machine).unwrap();
    let plan = (0..count)
        .fold(Plan::new(&topology), |plan, index| plan.relocate(Host(original(index)), Guest(moved(index))).unwrap());
    let mut remapper = Box::new(Remapper::new());
    plan.build_into(&mut remapper).unwrap();
    remapper
}

fn nic(index: u8) -> Blueprint {
    let kind = BarKind::Memory64 { prefetchable: true };
    let base = HOST + u64::from(index) * STRIDE;
    BARS.into_iter().enumerate().fold(Blueprint::endpoint(original(index)), |nic, (number, size)| {
        nic.bar(2 * number, kind, size, base + 0x10_0000 * number as u64)
    })
}

fn sriov(index: u8) -> ExtendedCapability {
    let kind = BarKind::Memory64 { prefetchable: true };
    let bar = VfBar { kind, size: 0x4000, address: HOST + u64::from(index) * STRIDE + 0x30_0000 };
    ExtendedCapability::SrIov { total: 4, offset: 0x40, stride: 1, bars: vec![(0, bar)] }
}

fn original(index: u8) -> Bdf {
    Bdf::new(0, 1 + index / 8, index % 8).unwrap()
}

fn moved(index: u8) -> Bdf {
    Bdf::new(0, 17 + index / 8, index % 8).unwrap()
}

fn whole(function: Bdf, offset: u16) -> Guest<Access> {
    Guest(Access::whole(function, Dword::at(offset).unwrap()))
}

fn command(function: Bdf) -> Guest<Access> {
    Guest(Access::new(function, Dword::at(COMMAND).unwrap(), Lanes::new(0b0011).unwrap()))
}

/// What counting costs by itself.
#[inline(never)]
pub(crate) fn nothing(_: &Remapper<ROOM>, _: Guest<Access>) -> ReadDecision {
    ReadDecision::Hide
}

/// One read.
#[inline(never)]
pub(crate) fn read(remapper: &Remapper<ROOM>, access: Guest<Access>) -> ReadDecision {
    remapper.read(access)
}

/// One write that changes no mapping.
#[inline(never)]
pub(crate) fn write(remapper: &mut Remapper<ROOM>, access: Guest<Access>, value: u32) -> WriteDecision {
    remapper.write(access, value).decision
}

/// How a guest sizes a BAR while decoding is off: all ones in, what stays out.
#[inline(never)]
pub(crate) fn size(remapper: &mut Remapper<ROOM>, access: Guest<Access>) -> ReadDecision {
    let _ = remapper.write(access, !0);
    remapper.read(access)
}

/// The address goes to CF8h, the DWORD comes from CFCh; hardware answers `raw`.
#[inline(never)]
pub(crate) fn read_by_ports(ports: &mut ConfigAddress, remapper: &Remapper<ROOM>, address: u32, raw: u32) -> u64 {
    let _ = ports.write(0xcf8, Width::Dword, address);
    let PortAccess::Config(piece) = ports.read(0xcfc, Width::Dword) else { return !0 };
    let dword = match remapper.read(piece.access()) {
        ReadDecision::Redirect { splice, .. } => splice.apply(raw),
        ReadDecision::Emulate(value) => value,
        ReadDecision::Requesters { to } => remapper.requesters(to, raw),
        ReadDecision::Passthrough | ReadDecision::Hide => !0,
    };
    piece.answer(!0, dword)
}

/// Memory Space Enable is set, and the windows appear. The answer is the number of changes.
#[inline(never)]
pub(crate) fn enable(remapper: &mut Remapper<ROOM>, command: Guest<Access>) -> usize {
    write_and_apply(remapper, command, MEMORY_SPACE_ENABLE)
}

/// Memory Space Enable is cleared, and the windows vanish.
#[inline(never)]
pub(crate) fn disable(remapper: &mut Remapper<ROOM>, command: Guest<Access>) -> usize {
    write_and_apply(remapper, command, 0)
}

#[inline]
fn write_and_apply(remapper: &mut Remapper<ROOM>, access: Guest<Access>, value: u32) -> usize {
    let mut delta = remapper.write(access, value).delta;
    let mut changes = 0;
    while let Some(change) = delta.next() {
        black_box(&change.operation());
        change.confirm();
        changes += 1;
    }
    changes
}

fn drain(remapper: &mut Remapper<ROOM>) {
    let mut delta = remapper.pending();
    while let Some(change) = delta.next() {
        change.confirm();
    }
}
