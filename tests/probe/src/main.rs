//! Uses all of the core, with input the compiler knows nothing about. It is linked, and never run.

#![no_std]
#![no_main]

mod acpi;
#[cfg(feature = "display")]
mod display;

use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};

use pci_remap::mechanism::{ConfigAddress, Ecam, ExtendedRegisters, NarrowAddress, PortAccess};
use pci_remap::plan::{
    BaseAddresses, BusNumbers, ErrorReporting, InterruptPin, IoBars, MsixTable, Policy, Vacated, Vfs, Way,
};
use pci_remap::topology::{BarSizes, ConfigSpace, Function, RootWindow};
use pci_remap::{
    Access, Bdf, Dword, Guest, Host, Lanes, Placement, Plan, PlanError, ReadDecision, Relocation, Remapper, Space,
    Span, Topology, Width, WriteDecision,
};

static REGISTERS: [AtomicU32; 4096] = [const { AtomicU32::new(0) }; 4096];
static INPUT: AtomicU32 = AtomicU32::new(0);

/// Registers of anything: what they hold is known to nobody.
struct Hardware;

impl Hardware {
    fn register(access: Host<Access>) -> Option<&'static AtomicU32> {
        let Host(access) = access;
        REGISTERS.get(usize::from(access.function().routing_id() ^ access.dword().index()))
    }
}

impl ConfigSpace for Hardware {
    fn read(&mut self, access: Host<Access>) -> u32 {
        Self::register(access).map_or(!0, |register| register.load(Ordering::Relaxed))
    }

    fn write(&mut self, access: Host<Access>, value: u32) {
        if let Some(register) = Self::register(access) {
            register.store(value, Ordering::Relaxed);
        }
    }
}

/// A value that may be anything.
trait Any {
    fn any() -> Self;
}

macro_rules! any_of_bytes {
    ($($Number:ident)*) => {
        $(impl Any for $Number {
            fn any() -> Self {
                let [a, b, c, d] = INPUT.load(Ordering::Relaxed).to_le_bytes();
                let [e, f, g, h] = INPUT.load(Ordering::Relaxed).to_le_bytes();
                let bytes = [a, b, c, d, e, f, g, h];
                bytes.first_chunk().map_or(0, |bytes| $Number::from_le_bytes(*bytes))
            }
        })*
    };
}

any_of_bytes!(u8 u16 u32 u64);

impl Any for bool {
    fn any() -> Self {
        u8::any() & 1 == 1
    }
}

impl Any for Bdf {
    fn any() -> Self {
        Self::from_routing_id(u16::any())
    }
}

impl Any for Span {
    fn any() -> Self {
        const ZERO: Span = Span::new(0, 1).unwrap();
        Self::new(u64::any(), u64::any()).unwrap_or(ZERO)
    }
}

impl Any for Access {
    fn any() -> Self {
        Self::new(Bdf::any(), Dword::holding(u16::any()), Lanes::new(u8::any()).unwrap_or(Lanes::ALL))
    }
}

impl Any for Space {
    fn any() -> Self {
        if bool::any() { Self::Memory } else { Self::Io }
    }
}

impl Any for Way {
    fn any() -> Self {
        match u8::any() {
            0 => Self::AriChain,
            1 => Self::UpstreamPort,
            2 => Self::ConventionalBridge,
            _ => Self::AsIs,
        }
    }
}

impl Any for Width {
    fn any() -> Self {
        match u8::any() {
            0 => Self::Byte,
            1 => Self::Word,
            _ => Self::Dword,
        }
    }
}

impl Any for Relocation {
    fn any() -> Self {
        Self {
            host: Host(Bdf::any()),
            guest: Guest(Bdf::any()),
            placement: if bool::any() { Placement::GuestAssigns } else { Placement::PreAssigned },
            io_bars: if bool::any() { IoBars::Forward } else { IoBars::Hide },
            msix_table: if bool::any() { MsixTable::Direct } else { MsixTable::Trapped },
            errors: match u8::any() {
                0 => ErrorReporting::Keep,
                1 => ErrorReporting::Pass,
                _ => ErrorReporting::Hide,
            },
            interrupt_pin: bool::any().then_some(InterruptPin::IntC),
            vfs: if bool::any() { Vfs::Hide } else { Vfs::Follow },
            policy: if bool::any() { Policy::Transparent } else { Policy::Strict },
        }
    }
}

/// The program. Nothing calls it.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    let scanned = Topology::<64>::scan(&mut Hardware);
    let known = (0..u8::any()).map(|_| {
        let sizes = BarSizes { bars: [u64::any(); 6], rom: u64::any(), vf_bars: [u64::any(); 6] };
        let bytes = [u8::any(); 4096];
        Function::from_bytes(Host(Bdf::any()), bytes.get(..usize::from(u16::any())).unwrap_or_default(), &sizes)
    });
    let known = Topology::<64>::from_functions(known);
    let (Ok(mut topology), Ok(known)) = (scanned, known) else { stop() };
    let _ = black_box(topology.add_root_window(RootWindow {
        bus: u8::any(),
        span: Host(Span::any()),
        space: Space::any(),
    }));
    let mut remapper = Remapper::<16>::new();
    for topology in [&topology, &known] {
        if let Ok(plan) = plan(topology) {
            plan.findings().for_each(|finding| {
                black_box((finding.grade(), finding));
            });
            plan.make_room().for_each(|write| Hardware.write(write.to, write.value));
            acpi::all(&plan);
            let _ = black_box(plan.build_into(&mut remapper));
            let _ = black_box(plan.build::<16>());
            run(&mut remapper);
        }
    }
    #[cfg(feature = "display")]
    display::all(&topology);
    stop()
}

fn plan(topology: &Topology<64>) -> Result<Plan<'_>, PlanError> {
    let mut plan = Plan::new(topology).relocate_device(Host(Bdf::any()), Guest(Bdf::any()))?;
    while bool::any() {
        plan = match u8::any() {
            0 => plan.relocate(Host(Bdf::any()), Guest(Bdf::any()))?,
            1 => plan.hide(Host(Bdf::any()))?,
            2 => plan.policy(if bool::any() { Policy::Strict } else { Policy::Transparent }),
            3 => plan.reserve(Guest(Span::any()))?,
            4 => plan.vacated(if bool::any() { Vacated::InertFirst } else { Vacated::Placeholder }),
            5 => plan.find_behind(Host(Bdf::any()), Way::any())?,
            6 => plan.bus_numbers(if bool::any() { BusNumbers::Virtual } else { BusNumbers::Hardware }),
            7 => plan.base_addresses(if bool::any() { BaseAddresses::Virtual } else { BaseAddresses::Hardware }),
            _ => plan.with(Relocation::any())?,
        };
    }
    Ok(plan)
}

/// A guest, and the host that serves it.
fn run(remapper: &mut Remapper<16>) {
    remapper.preparation().for_each(|write| Hardware.write(write.to, write.value));
    let Some(ecam) = Ecam::new(u64::any(), 0..=u8::any()) else { return };
    for range in remapper.traps() {
        let _ = black_box((ecam.page(range.first), ecam.page(range.last)));
    }
    let extended = if bool::any() { ExtendedRegisters::Amd } else { ExtendedRegisters::Reserved };
    let narrow = if bool::any() { NarrowAddress::Merge } else { NarrowAddress::Forward };
    let mut ports = ConfigAddress::new(extended, narrow);
    while bool::any() {
        if let PortAccess::Config(piece) = ports.read(u16::any(), Width::any()) {
            black_box(piece.answer(!0, read(remapper, piece.access())));
        }
        if let PortAccess::Config(piece) = ports.write(u16::any(), Width::any(), u32::any()) {
            write(remapper, piece.access(), piece.lanes_of(u64::any()));
        }
        for piece in ecam.pieces(u64::any(), u8::any()) {
            black_box(piece.answer(u64::any(), read(remapper, piece.access())));
            write(remapper, piece.access(), piece.lanes_of(u64::any()));
        }
        write(remapper, Guest(Access::any()), u32::any());
        black_box(remapper.translate(Space::any(), Guest(u64::any())));
        black_box((remapper.to_host(Guest(Bdf::any())), remapper.to_guest(Host(Bdf::any()))));
        black_box(remapper.requesters(Host(Access::any()), u32::any()));
        black_box(remapper.explain(Guest(Access::any())));
        black_box((remapper.next_event(), remapper.event_counts()));
        black_box(remapper.touched_functions().last());
        black_box(remapper.emulated_registers(Host(Bdf::any())).last());
        for (offset, width) in Access::any().parts() {
            black_box(Access::at(Bdf::any(), offset, width));
        }
        black_box(Span::any().pages());
    }
}

fn read(remapper: &Remapper<16>, access: Guest<Access>) -> u32 {
    match remapper.read(access) {
        ReadDecision::Passthrough => Hardware.read(Host(access.0)),
        ReadDecision::Hide => !0,
        ReadDecision::Emulate(value) => value,
        ReadDecision::Redirect { to, splice } => splice.apply(Hardware.read(to)),
        ReadDecision::Requesters { to } => remapper.requesters(to, Hardware.read(to)),
    }
}

fn write(remapper: &mut Remapper<16>, access: Guest<Access>, value: u32) {
    let mut outcome = remapper.write(access, value);
    if let Some(replay) = outcome.replay() {
        let state = replay.reads().map(|access| Hardware.read(access));
        replay.writes(state).for_each(|write| Hardware.write(write.to, write.value));
    }
    match outcome.decision {
        WriteDecision::Passthrough => Hardware.write(Host(access.0), value),
        WriteDecision::Redirect { to, value } => Hardware.write(to, value),
        WriteDecision::Hide | WriteDecision::Emulate => {}
    }
    black_box(outcome.ends_reset());
    let mut delta = outcome.delta;
    while let Some(change) = delta.next() {
        let _ = black_box(change.operation());
        if bool::any() {
            change.confirm();
        }
        black_box(delta.is_empty());
    }
    if bool::any() {
        remapper.note_reset(Host(Bdf::any()));
        remapper.note_resume();
        black_box(remapper.has_forgotten(Host(Bdf::any())));
        let mut replays = remapper.replays();
        black_box(replays.is_empty());
        while let Some(replay) = replays.next() {
            replay.writes([u32::any(), u32::any()]).for_each(|write| Hardware.write(write.to, write.value));
        }
    }
    let mut block = [u8::any(); 0x8000];
    let used = black_box((remapper.saved_len(), remapper.save(&mut block))).1.unwrap_or_default();
    let _ = black_box(remapper.restore(block.get(..used).unwrap_or_default()));
    let mut late = remapper.pending();
    while let Some(change) = late.next() {
        let _ = black_box(change.operation());
        change.confirm();
    }
}

fn stop() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    stop()
}

/// The `core` that comes with the compiler names it in tables nobody reads.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
