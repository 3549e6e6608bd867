//! Findings: what speaks against a plan, and the register that proves it.

use core::fmt;

use super::Way;
use crate::access::Dword;
use crate::address::{Bdf, Guest, Host};
use crate::delta::Space;
use crate::topology::{ListFault, ROM, VF_BAR};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    /// Good to know.
    Info,
    /// It may work; something may be missing.
    Risk,
    /// It cannot work; the plan is not built.
    Error,
}

/// A register of the host, and what it read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// Whose register.
    pub function: Host<Bdf>,
    /// Which DWORD.
    pub dword: Dword,
    /// What it read when the topology was made.
    pub value: u32,
}

/// Something about one move, one hidden function, or one that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// The function that is moved or hidden; where addresses are virtual, also one that stays.
    pub function: Host<Bdf>,
    /// What it is.
    pub cause: Cause,
    /// The register that proves it, where one does.
    pub evidence: Option<Evidence>,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Another function stays at the guest address.
    AddressOccupied(Guest<Bdf>),
    /// No host bridge and no bridge has the bus.
    NoSuchBus(Guest<Bdf>),
    /// A bridge forwards the bus number, but none has it as its Secondary Bus Number.
    NoBridgeLeadsThere(Guest<Bdf>),
    /// The bridge that leads to the bus is hidden or moved.
    BridgeIsGone(Guest<Bdf>, Host<Bdf>),
    /// The guest address needs a function 0 in its device, and there is none.
    NoFirstFunction(Guest<Bdf>),
    /// Function 0 leaves and this sibling, which needs it to be found, stays.
    SiblingLeftBehind(Host<Bdf>),
    /// The function loses its sibling: drivers that pair functions of a device may miss it.
    LeavesSiblings(Host<Bdf>),
    /// The function may have its Vital Product Data in one place with this sibling, from which it is apart: a guest that
    /// reads the data of both at once may mix them up, as it takes turns in one device only.
    VitalProductDataApart(Host<Bdf>),
    /// Linux takes the function for one of the same device as this function 0, and reads the Vital Product Data of that.
    VitalProductDataOf(Host<Bdf>),
    /// The addresses of its BARs are free to the guest and forwarded to this bus as before: what the guest puts there
    /// answers together with it.
    LeavesAddresses(u8),
    /// This bridge forwards its addresses. A guest that places anew what it finds may move the windows away, or give the
    /// addresses to something else.
    PlacedAnew(Host<Bdf>),
    /// Nothing is wired behind the destination port, and no bridge has just what the guest finds there behind it: a reset
    /// of the bus (Secondary Bus Reset) does not reach the function.
    BusResetLost(Guest<Bdf>, Host<Bdf>),
    /// A link leads down from the destination port, behind which stock Linux looks for device 0 only; this is how it
    /// finds the function all the same, and what that costs.
    FoundBy(Way, Guest<Bdf>, Host<Bdf>),
    /// The destination port cannot show as the caller wants it, or stock Linux would not believe it.
    NotFoundBy(Way, Guest<Bdf>, Host<Bdf>),
    /// Bridges cannot be moved.
    IsBridge,
    /// Host bridges cannot be moved.
    IsHostBridge,
    /// The display the machine booted with: legacy VGA addresses do not follow it.
    BootDisplay,
    /// BARs at fixed addresses (Enhanced Allocation).
    FixedAddresses,
    /// The capability list cannot be trusted.
    BrokenList(ListFault),
    /// A BAR was never given an address on the host, so there is nothing to map. It is not shown.
    BarUnassigned(usize),
    /// No bridge above the function forwards the BAR's address, so whatever is there is not the BAR. It is not shown.
    BarUnreached(usize),
    /// No window of the destination takes the BAR's kind of address. [`Plan::make_room`](super::Plan::make_room) may open
    /// one.
    NoWindow(usize, Space, Guest<Bdf>),
    /// No window of the destination has room for the BAR of this size. [`Plan::make_room`](super::Plan::make_room) may widen
    /// one.
    NoRoom(usize, u64, Guest<Bdf>),
    /// An I/O BAR is not shown, because no I/O window with room leads to the destination.
    IoBarHidden(usize),
    /// The destination is a root bus and nothing is known of host bridges' windows.
    RootWindowUnknown(Guest<Bdf>),
    /// A BAR smaller than a page is trapped, because its host page holds something else or it starts inside the page.
    BarTrapped(usize, u64),
    /// A BAR smaller than a page is shown with the size of a page.
    BarGrown(usize, u64),
    /// Virtual Functions do not follow; the capability is hidden.
    SrIovHidden(u16),
    /// So many Virtual Functions follow, and this is where the guest finds the first.
    VfsFollow(u16, Guest<Bdf>),
    /// So many Virtual Functions were enabled when the topology was made, which does not have the sizes of what they decode:
    /// the guest does not find them, but reaches their memory.
    VfsReached(u16),
    /// What Virtual Functions decode or where they are is not known: they were enabled when the topology was made, it does
    /// not have their sizes, or their addresses depend on how many there are.
    VfsUnknown,
    /// Requests do not reach a Virtual Function, or reach something else.
    VfsUnreached(Host<Bdf>),
    /// The bus of the guest address has not enough device and function numbers for so many Virtual Functions.
    NoAddressesForVfs(u16, Guest<Bdf>),
    /// More than [`MAX_FOLLOWED`](super::MAX_FOLLOWED) functions whose Virtual Functions shall follow.
    TooManyFollowed,
}

impl Finding {
    /// How much it matters.
    pub const fn grade(&self) -> Grade {
        match self.cause {
            Cause::AddressOccupied(_)
            | Cause::NoSuchBus(_)
            | Cause::NoBridgeLeadsThere(_)
            | Cause::BridgeIsGone(..)
            | Cause::NoFirstFunction(_)
            | Cause::SiblingLeftBehind(_)
            | Cause::NotFoundBy(..)
            | Cause::IsBridge
            | Cause::IsHostBridge
            | Cause::FixedAddresses
            | Cause::BrokenList(_)
            | Cause::NoWindow(..)
            | Cause::NoRoom(..)
            | Cause::VfsUnknown
            | Cause::VfsUnreached(_)
            | Cause::NoAddressesForVfs(..)
            | Cause::TooManyFollowed => Grade::Error,
            Cause::BarUnassigned(bar) if bar >= VF_BAR => Grade::Error,
            Cause::BarUnassigned(_)
            | Cause::BarUnreached(_)
            | Cause::IoBarHidden(_)
            | Cause::BootDisplay
            | Cause::FoundBy(Way::ConventionalBridge | Way::AsIs, ..)
            | Cause::LeavesAddresses(_)
            | Cause::PlacedAnew(_)
            | Cause::BusResetLost(..)
            | Cause::VitalProductDataOf(_)
            | Cause::VfsReached(_)
            | Cause::LeavesSiblings(_) => Grade::Risk,
            Cause::FoundBy(Way::AriChain | Way::UpstreamPort, ..)
            | Cause::RootWindowUnknown(_)
            | Cause::VitalProductDataApart(_)
            | Cause::BarTrapped(..)
            | Cause::BarGrown(..)
            | Cause::SrIovHidden(_)
            | Cause::VfsFollow(..) => Grade::Info,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.function, self.cause)?;
        match self.evidence {
            Some(Evidence { function, dword, value }) => write!(f, " ({function} {dword} reads {value:08x})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Risk => "risk",
            Self::Error => "error",
        })
    }
}

/// A BAR as one speaks of it.
struct BarName(usize);

impl fmt::Display for BarName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ROM => f.write_str("the Expansion ROM"),
            number => match number.checked_sub(VF_BAR) {
                Some(number) => write!(f, "VF BAR {number}"),
                None => write!(f, "BAR {number}"),
            },
        }
    }
}

impl fmt::Display for Cause {
    #[expect(clippy::too_many_lines, reason = "it is a table")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::AddressOccupied(guest) => write!(f, "{guest} is occupied; move or hide the function that is there"),
            Self::NoSuchBus(guest) => {
                write!(f, "no bridge has bus {:02x} of {guest}; choose a bus the machine has", guest.0.bus())
            }
            Self::NoBridgeLeadsThere(guest) => {
                write!(
                    f,
                    "bus {:02x} of {guest} is forwarded by a bridge, but is no bridge's secondary bus",
                    guest.0.bus()
                )
            }
            Self::BridgeIsGone(guest, bridge) => {
                write!(f, "{guest} lies behind {bridge}, which the guest does not see there")
            }
            Self::NoFirstFunction(guest) => {
                write!(f, "{guest} is never looked for: its device has no function 0; move a function there as well")
            }
            Self::SiblingLeftBehind(sibling) => {
                write!(
                    f,
                    "{sibling} would not be found without function 0; move the whole device, hide it too, or leave an inert function 0 there"
                )
            }
            Self::LeavesSiblings(sibling) => write!(f, "{sibling} stays behind; a driver that pairs them will miss it"),
            Self::VitalProductDataApart(sibling) => write!(
                f,
                "its Vital Product Data may be in one place with that of {sibling}; do not read both at once"
            ),
            Self::VitalProductDataOf(first) => write!(
                f,
                "it looks like {first}, and Linux reads the Vital Product Data of that instead; choose another device"
            ),
            Self::LeavesAddresses(bus) => write!(
                f,
                "the guest may give the addresses it leaves to another function of bus {bus:02x}, unless a placeholder keeps them, or addresses are virtual"
            ),
            Self::PlacedAnew(bridge) => write!(
                f,
                "where bridges are removed and found again, the guest may move what {bridge} forwards away, or give it to others, unless addresses are virtual"
            ),
            Self::BusResetLost(guest, port) => {
                write!(f, "a bus reset by {port} does not reach {guest}: it is wired elsewhere, and not alone")
            }
            Self::FoundBy(Way::AriChain, guest, port) => {
                write!(
                    f,
                    "the functions behind {port} show as a chain (ARI) that leads to {guest}; the first must stay"
                )
            }
            Self::FoundBy(Way::UpstreamPort, guest, port) => write!(
                f,
                "{port} is shown as an Upstream Port, so that {guest} is looked for behind it; it has no slot, and no PME and error services"
            ),
            Self::FoundBy(Way::ConventionalBridge, guest, port) => write!(
                f,
                "{port} is shown as a PCI-X bridge, so that {guest} is looked for behind it; it has no port services, and Windows may refuse what is there"
            ),
            Self::FoundBy(Way::AsIs, guest, port) => {
                write!(
                    f,
                    "{port} shows as it is; only a guest that looks for all device numbers behind it finds {guest}"
                )
            }
            Self::NotFoundBy(Way::AriChain, guest, port) => write!(
                f,
                "no chain (ARI) leads to {guest}: {port} has no second set of registers, or a function there has no ARI Capability or has Virtual Functions"
            ),
            Self::NotFoundBy(_, guest, port) => write!(
                f,
                "{port} cannot be shown as an Upstream Port: it is below another port, where Linux corrects its type and does not find {guest}"
            ),
            Self::IsBridge => f.write_str("a bridge cannot be moved; move the functions behind it"),
            Self::IsHostBridge => f.write_str("a host bridge cannot be moved"),
            Self::BootDisplay => {
                f.write_str("it is the display the machine booted with; legacy VGA addresses do not follow it")
            }
            Self::FixedAddresses => {
                f.write_str("it decodes fixed addresses (Enhanced Allocation), which can be neither moved nor hidden")
            }
            Self::BrokenList(fault) => write!(f, "{fault}"),
            Self::BarUnreached(bar) => {
                write!(f, "{} has an address its bridges do not forward, and is not shown", BarName(bar))
            }
            Self::NoWindow(bar, space, guest) => {
                write!(
                    f,
                    "{} cannot be placed: no {space} window of its kind leads to {guest}; `Plan::make_room` may open one",
                    BarName(bar)
                )
            }
            Self::NoRoom(bar, size, guest) => {
                write!(
                    f,
                    "{} needs {size:#x} bytes, and no window that leads to {guest} has room; `Plan::make_room` may widen one",
                    BarName(bar)
                )
            }
            Self::IoBarHidden(bar) => {
                write!(f, "{} decodes I/O, no window has room for it, and it is not shown", BarName(bar))
            }
            Self::RootWindowUnknown(guest) => {
                write!(f, "the windows of the host bridge above {guest} are not known; the guest must find room")
            }
            Self::BarTrapped(bar, size) => {
                write!(f, "{} has {size:#x} bytes of a page that holds more; accesses are trapped", BarName(bar))
            }
            Self::BarGrown(bar, size) => write!(f, "{} has {size:#x} bytes and is shown as a whole page", BarName(bar)),
            Self::BarUnassigned(bar) if bar >= VF_BAR => {
                write!(f, "{} has no address on the host, and no window has room for all Virtual Functions", BarName(bar))
            }
            Self::BarUnassigned(bar) => write!(f, "{} has no address on the host and is not shown", BarName(bar)),
            Self::VfsFollow(vfs, guest) => write!(f, "its {vfs} Virtual Functions follow, the first at {guest}"),
            Self::VfsReached(vfs) => write!(
                f,
                "its {vfs} Virtual Functions are enabled, and the guest reaches what they decode, as its size is not known; disable them before the scan"
            ),
            Self::VfsUnknown => f.write_str(
                "where its Virtual Functions are, or what they decode, is not known; disable them before the scan, or hide them",
            ),
            Self::VfsUnreached(vf) => write!(
                f,
                "its Virtual Function {vf} is not reached: the port above has not its bus, or cannot forward by ARI, or something else is there"
            ),
            Self::NoAddressesForVfs(vfs, guest) => {
                write!(f, "bus {:02x} of {guest} has no room for {vfs} Virtual Functions", guest.0.bus())
            }
            Self::TooManyFollowed => write!(
                f,
                "the Virtual Functions of at most {} functions follow; hide those of others",
                super::MAX_FOLLOWED
            ),
            Self::SrIovHidden(vfs) => write!(f, "its {vfs} Virtual Functions do not follow; SR-IOV is hidden"),
        }
    }
}
