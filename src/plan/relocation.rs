//! One move, and what the guest is given of the function.

use crate::address::{Bdf, Guest, Host};

/// Who chooses the guest addresses of a moved function's BARs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Placement {
    /// The BARs read zero and decoding is off, so the guest places them, as it does with a function firmware left
    /// alone (Linux: `pcibios_resource_survey` skips them, `pci_assign_unassigned_resources` places them).
    #[default]
    GuestAssigns,
    /// The planner finds addresses in the destination window, and the guest finds them programmed and enabled, as
    /// firmware would have left them.
    PreAssigned,
}

/// What a moved function's I/O BARs become. I/O ports have no second stage, so they cost an exit for each access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum IoBars {
    /// Shown; the guest's ports are trapped and forwarded. Hidden all the same when the function decodes memory too and
    /// no I/O window leads to its new place.
    #[default]
    Forward,
    /// Not shown.
    Hide,
}

/// What happens to a moved function's MSI-X Table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum MsixTable {
    /// Mapped with the rest of its BAR; the guest programs it.
    #[default]
    Direct,
    /// The pages it touches are trapped, for a VMM that owns interrupts.
    Trapped,
}

/// What becomes of a moved function's error messages. They go up the wire it has, to a port that is another in the
/// guest's view, and name it by its real Requester ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum ErrorReporting {
    /// The guest's enables (Device Control 3:0, SERR# Enable) read back and stay here; hardware reports as firmware told
    /// it to. Advanced Error Reporting shows the function's own errors.
    #[default]
    Keep,
    /// The guest's enables reach hardware.
    Pass,
    /// As [`Self::Keep`], without Advanced Error Reporting.
    Hide,
}

/// An INTx interrupt (7.5.1.1.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum InterruptPin {
    IntA = 1,
    IntB = 2,
    IntC = 3,
    IntD = 4,
}

/// What becomes of the Virtual Functions of a moved function (SR-IOV).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Vfs {
    /// The guest finds no SR-IOV.
    #[default]
    Hide,
    /// They move with it: the guest enables them, finds them at addresses on the bus of its Physical Function, and places
    /// their memory. They show no extended capabilities: those that work are few, and where they are is not known before
    /// there are Virtual Functions. [`Policy::Strict`] hides all of them, as nobody knows what their registers do.
    Follow,
}

/// How much of a moved function the guest is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Policy {
    /// All but what cannot work where it is shown. For a guest that owns the machine.
    #[default]
    Transparent,
    /// Nothing but what is known to be harmless: the header, the capabilities Power Management, MSI, MSI-X, PCI Express,
    /// Vital Product Data and Advanced Features, the extended capabilities Advanced Error Reporting, Device Serial
    /// Number and Resizable BAR. Every other register reads zero. For a guest that is not trusted.
    Strict,
}

/// One function's move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relocation {
    /// The function.
    pub host: Host<Bdf>,
    /// Where the guest shall see it.
    pub guest: Guest<Bdf>,
    /// Who places its BARs.
    pub placement: Placement,
    /// What its I/O BARs become.
    pub io_bars: IoBars,
    /// What happens to its MSI-X Table.
    pub msix_table: MsixTable,
    /// What becomes of its error messages.
    pub errors: ErrorReporting,
    /// The pin to show. INTx is routed by the real place of the function, which the guest does not know: choose the
    /// pin whose routing at the guest's place ends at the same interrupt. With `None` it shows no pin and uses MSI.
    pub interrupt_pin: Option<InterruptPin>,
    /// What becomes of its Virtual Functions.
    pub vfs: Vfs,
    /// How much of it the guest is given.
    pub policy: Policy,
}

impl Relocation {
    /// A move with the defaults: the guest places the BARs, I/O ports are forwarded, the MSI-X Table is mapped, errors
    /// are reported as firmware chose, no interrupt pin is shown, Virtual Functions are hidden, and capabilities nobody
    /// knows are shown.
    pub const fn new(host: Host<Bdf>, guest: Guest<Bdf>) -> Self {
        Self {
            host,
            guest,
            placement: Placement::GuestAssigns,
            io_bars: IoBars::Forward,
            msix_table: MsixTable::Direct,
            errors: ErrorReporting::Keep,
            interrupt_pin: None,
            vfs: Vfs::Hide,
            policy: Policy::Transparent,
        }
    }
}
