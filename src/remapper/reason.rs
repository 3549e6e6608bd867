//! Why registers are not simply the hardware's.

use core::fmt;

/// Why the guest does not find a register as hardware has it.
///
/// A DWORD may have several reasons; the one that comes last here is told. They print as a sentence that cites the
/// section of the PCI Express Base Specification, revision 6.0, and the function of Linux that is the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The list of capabilities leads past those that are not shown.
    CapabilityList,
    /// A function that is at this address only for others: an address occupied, or siblings reached.
    Inert,
    /// The port something left and nothing is found behind any more.
    VacantPort,
    /// A capability a moved function does not show.
    HiddenCapability,
    /// A capability of a port that would take its link down.
    HiddenService,
    /// Registers [`Policy::Strict`](crate::plan::Policy::Strict) knows nothing of.
    Unknown,
    /// A write here may reset the function, or put it to sleep.
    PowerAndReset,
    /// A BAR the guest places.
    Bar,
    /// The address of a ROM the guest places.
    Rom,
    /// A register without a BAR.
    EmptyBar,
    /// The sizes a BAR could have.
    ResizableBar,
    /// A self-test.
    SelfTest,
    /// Interrupt Pin and Interrupt Line.
    InterruptPin,
    /// Whether the device has other functions.
    MultiFunction,
    /// Which function comes next.
    FunctionChain,
    /// The decode enables of a moved function.
    DecodeEnables,
    /// Which errors a moved function reports.
    ErrorReporting,
    /// Which functions errors and wake-ups came from.
    Requesters,
    /// What the whole way up to the Root Complex takes.
    WayUp,
    /// Max_Payload_Size.
    PayloadSize,
    /// The state of a link that carries a moved function.
    Link,
    /// The link of a function that is shown without one.
    NoLink,
    /// The slot of a port something left.
    NoSlot,
    /// How functions behind the port are found.
    Way,
    /// The link of a port nothing is wired behind.
    EmptyLink,
    /// What makes a bridge forward.
    Forwarding,
    /// Bus numbers, windows and Bridge Control of a port something left.
    Routing,
    /// A write here may reset moved functions that are wired behind the bridge.
    ResetBehind,
    /// Secondary Bus Reset of a port nothing is wired behind.
    BusReset,
    /// Virtual Functions that follow.
    VirtualFunctions,
    /// Bus numbers that are the guest's alone.
    BusNumbers,
}

impl Reason {
    /// Whether the guest believes to change hardware, and does not.
    pub(super) const fn is_guard(self) -> bool {
        matches!(
            self,
            Self::VacantPort
                | Self::ErrorReporting
                | Self::WayUp
                | Self::PayloadSize
                | Self::Link
                | Self::Way
                | Self::EmptyLink
                | Self::Forwarding
                | Self::Routing
        )
    }
}

impl fmt::Display for Reason {
    #[expect(clippy::too_many_lines, reason = "it is a table")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CapabilityList => {
                "the capability list leads past what is not shown (7.5.1.1.11, 7.6.3; Linux's pci_find_next_capability)"
            }
            Self::Inert => {
                "nothing of it is the hardware's: it keeps an address occupied, or siblings reachable (7.5.1.1.9; \
                 Linux's pci_scan_slot)"
            }
            Self::VacantPort => {
                "nothing is found behind the port any more: it shows as a bridge without services, which is never \
                 suspended (Linux's pci_bridge_d3_possible, pcie_portdrv_probe)"
            }
            Self::HiddenCapability => {
                "the capability names functions by their address, changes what BARs decode, or is half of an agreement \
                 with the port the function is wired to (7.7 to 7.9, 9.3.3, 10.5)"
            }
            Self::HiddenService => {
                "the capability could take down the link the moved function needs (7.5.2.2, 7.9.14; Linux's \
                 pci_set_low_power_state, dpc_handler)"
            }
            Self::Unknown => "Policy::Strict shows no register it does not know",
            Self::PowerAndReset => {
                "a reset is noticed, as hardware forgets its BARs in it, and so is sleep, in which nothing is decoded \
                 (6.6.2, 5.3.1; Linux's pcie_flr, pci_set_power_state)"
            }
            Self::Bar => {
                "the guest places the BAR in the shadow, and the second stage follows; the real one stays (7.5.1.2.1; \
                 Linux's pci_read_bases, pci_assign_resource)"
            }
            Self::Rom => {
                "the guest places the ROM in the shadow; the real address stays, and only the enable reaches hardware \
                 (7.5.1.2.4; Linux's pci_enable_rom)"
            }
            Self::EmptyBar => {
                "there is no BAR the guest could use: zero and read-only, so that no host address shows (7.5.1.2.1)"
            }
            Self::ResizableBar => {
                "the BAR keeps the size firmware gave it, as that is what is mapped (7.8.6; Linux's pci_resize_resource)"
            }
            Self::SelfTest => "a self-test may reset the function (7.5.1.1.10)",
            Self::InterruptPin => {
                "the pin is what the plan knows of the routing of INTx, and the line the guest's own note \
                 (7.5.1.1.12, 7.5.1.1.13; Linux's acpi_pci_irq_lookup)"
            }
            Self::MultiFunction => {
                "the device has other functions in the guest's view than in hardware (7.5.1.1.9; Linux's next_fn)"
            }
            Self::FunctionChain => {
                "the chain leads to the functions the guest finds (7.8.8.2; Linux's next_ari_fn)"
            }
            Self::DecodeEnables => {
                "the enables make windows appear and vanish, and hardware keeps decoding; SERR# Enable is as the \
                 plan says of errors (7.5.1.1.3; Linux's pci_enable_resources)"
            }
            Self::ErrorReporting => {
                "errors are reported to the port the function is wired to: the enables stay the host's (7.5.3.4; \
                 Linux's pci_aer_init)"
            }
            Self::Requesters => {
                "hardware names functions by its own Routing IDs, which may be others' in the guest's view (7.5.3.14, \
                 7.8.4.11, 7.9.14.5; Linux's is_error_source, pcie_pme_handle_request)"
            }
            Self::WayUp => {
                "LTR, OBFF, tags, ordering and ARI Forwarding are agreed on with all of the real way up, and stay as \
                 firmware left them (7.5.3.15, 7.5.3.16; Linux's pci_configure_ltr, pci_configure_ari)"
            }
            Self::PayloadSize => {
                "Max_Payload_Size stays what both ends of the real link take, as more is a fatal error; error \
                 reporting is as the plan says (7.5.3.4; Linux's pci_configure_mps)"
            }
            Self::Link => {
                "a link has two ends, and the guest sees one: it stays as firmware trained it (7.5.3.6, 7.5.3.7, \
                 7.5.3.19; Linux's pcie_aspm_cap_init, pcie_aspm_configure_common_clock)"
            }
            Self::NoLink => {
                "on a root bus it is a Root Complex Integrated Endpoint, which has no link (7.5.3.2; Linux's \
                 pcie_cap_has_lnkctl)"
            }
            Self::NoSlot => {
                "without a slot there is no power to switch off (7.5.3.2, 7.5.3.10; Linux's pciehp_probe)"
            }
            Self::Way => {
                "a guest looks for all device numbers behind a port that shows so (7.5.3.2, 7.5.3.15; Linux's \
                 only_one_child)"
            }
            Self::EmptyLink => {
                "nothing is wired behind the port: its link shows as trained, or what is found there is given up \
                 (7.5.3.8; Linux's pci_bridge_wait_for_secondary_bus, pciehp_check_presence)"
            }
            Self::Forwarding => {
                "the function behind the port is reached while it forwards: hardware keeps the enables on (7.5.1.1.3; \
                 Linux's pci_disable_device)"
            }
            Self::Routing => {
                "bus numbers, windows and Bridge Control lead to the function that left: what the guest writes is read \
                 back and stays here (7.5.1.3; Linux's pci_setup_bridge, pci_reset_secondary_bus)"
            }
            Self::ResetBehind => {
                "a reset of what is wired behind the bridge is noticed, as moved functions there forget their BARs in it \
                 (7.5.1.3.13, 7.5.3.7, 7.5.3.10, 7.9.14.3, 7.9.14.4; Linux's pci_reset_secondary_bus, \
                 pciehp_power_off_slot, dpc_reset_link)"
            }
            Self::VirtualFunctions => {
                "Virtual Functions are where the guest finds them, and their memory where it puts it; the real ones stay \
                 (9.3.3; Linux's sriov_enable, pci_iov_add_virtfn)"
            }
            Self::BusReset => {
                "a reset of this bus is made where the functions found there are wired (7.5.1.3.13; Linux's \
                 pci_reset_secondary_bus)"
            }
            Self::BusNumbers => {
                "the guest numbers buses as it likes; the hardware's numbers stay (7.5.1.3.2 to 7.5.1.3.4; Linux's \
                 pci_scan_bridge_extend, edk2's PciBusDxe)"
            }
        })
    }
}
