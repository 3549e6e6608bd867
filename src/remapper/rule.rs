//! What becomes of one DWORD: which bits come from hardware, which reach it, and what the others read.

use super::reason::Reason;
use super::state::Fingerprint;
use crate::access::{Access, Dword, Lanes};
use crate::address::Host;
use crate::decision::{ReadDecision, Splice, WriteDecision};

/// The registers of one function are more than a table has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyRules;

/// Most rules of one function, a power of two.
const MAX_RULES: usize = 128;

/// In [`Rule::reading`]: the guest reads a bit of the hardware, as it is.
const READ: u8 = 1 << 4;

/// What a write sets off: resets and power states by its value, all else by a change of the shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// Whether the function decodes may have changed.
    Decoding,
    /// Which bus the bridge leads to may have changed.
    BusNumbers,
    /// Which Virtual Functions there are, or where they decode, may have changed.
    VirtualFunctions,
    /// Where the function decodes may have changed. It matters while it does.
    Placing,
    /// Initiate Function Level Reset in Device Control may have been written.
    FunctionLevelReset,
    /// Initiate Function Level Reset in AF Control may have been written.
    AdvancedFeaturesReset,
    /// PowerState in PMCSR was written.
    PowerState,
    /// Secondary Bus Reset in Bridge Control may have been written.
    SecondaryBusReset,
    /// Link Disable in Link Control may have been written.
    LinkDisable,
    /// Power Controller Control in Slot Control may have been written.
    SlotPower,
    /// DPC Software Trigger in DPC Control may have been written.
    Containment,
    /// DPC Trigger Status in DPC Status may have been written.
    ContainmentEnd,
    /// Bits that are kept from hardware changed, and somebody may want to know.
    Guard,
}

/// The rule of one DWORD. Bits that do not come from hardware come from the shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    /// Bits the guest reads from hardware; never set in `writable` or `shadow`.
    pub(super) from_hardware: u32,
    /// Bits of a guest write that reach hardware.
    pub(super) to_hardware: u32,
    /// Value of the other bits in such a write. RW1C bits are zero here, so that no merge clears them.
    pub(super) hold: u32,
    /// Bits of the shadow the guest may change.
    pub(super) writable: u32,
    /// The shadow.
    pub(super) shadow: u32,
    /// What a change of the shadow sets off.
    pub(super) effect: Effect,
    /// Whether hardware is read as it is (`READ`), and the lanes that are read in any case (3:0): all where the DWORD is
    /// shared. Where requesters are named it is not; that is looked at last.
    reading: u8,
    /// The lanes with bits of `to_hardware` (3:0), and those that hold Routing IDs of the host's (7:4).
    to_lanes: u8,
    /// Why it is as it is; `None` where the DWORD is the hardware's.
    pub(super) reason: Option<Reason>,
}

impl Rule {
    /// The DWORD is the hardware's.
    const PLAIN: Self = Self {
        from_hardware: !0,
        to_hardware: !0,
        hold: 0,
        writable: 0,
        shadow: 0,
        effect: Effect::None,
        reading: READ,
        to_lanes: Lanes::ALL.bits(),
        reason: None,
    };
    /// The DWORD reads zero and takes no writes.
    const ZERO: Self = Self { from_hardware: 0, to_hardware: 0, reading: 0, to_lanes: 0, ..Self::PLAIN };

    /// Whether the guest reads a bit of the hardware, as it is.
    #[inline]
    pub(super) const fn is_read(&self) -> bool {
        self.reading != 0
    }

    /// Whether hardware says there who requested something, by the host's Routing IDs.
    #[inline]
    pub(super) const fn names_requesters(&self) -> bool {
        self.to_lanes > Lanes::ALL.bits()
    }

    /// What to do with a read of the hardware. A DWORD that is shared is read whole, so that every byte of it, one from the
    /// shadow too, tells whether hardware answers.
    #[inline]
    pub(super) fn read(&self, access: Access) -> ReadDecision {
        let lanes = access.lanes().and(self.reading & Lanes::ALL.bits());
        let splice = Splice { hardware: self.from_hardware, shadow: self.shadow };
        ReadDecision::Redirect { to: Host(access.with_lanes(lanes)), splice }
    }

    /// The same, where requesters are named.
    pub(super) fn read_requesters(&self, access: Access) -> ReadDecision {
        match access.lanes().among(self.to_lanes >> 4) {
            Some(_) => ReadDecision::Requesters { to: Host(access.with_lanes(Lanes::ALL)) },
            None => self.read(access),
        }
    }

    /// The bits of those Routing IDs.
    pub(super) fn requesters(&self) -> u32 {
        Lanes::new(self.to_lanes >> 4).map_or(0, Lanes::mask)
    }

    /// What of a write reaches the hardware. Bytes that are all ours are left alone there; in shared ones our bits are held.
    #[inline]
    pub(super) fn write(&self, access: Access, value: u32) -> Option<WriteDecision> {
        let lanes = self.written_lanes(access.lanes())?;
        let value = value & self.to_hardware | self.hold;
        Some(WriteDecision::Redirect { to: Host(access.with_lanes(lanes)), value })
    }

    /// The bits that are ones in hardware: those that are held, and of the guest's that reach it.
    pub(super) const fn ones(&self) -> u32 {
        self.shadow & self.writable & self.to_hardware | self.hold
    }

    /// Those of the lanes in which a bit the guest writes reaches the hardware.
    #[inline]
    pub(super) const fn written_lanes(&self, lanes: Lanes) -> Option<Lanes> {
        lanes.among(self.to_lanes)
    }
}

/// The rules of one function, by DWORD.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// Indices into `table`.
    codes: [u8; Dword::COUNT as usize],
    table: [Rule; MAX_RULES],
    count: usize,
    /// Rules many DWORDs share and nobody changes, a bit for each: the plain one, and those that read zero.
    shared: u128,
}

/// Where the rule of a DWORD is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(u8);

/// Declares rules, all for one reason.
pub(super) struct Because<'r> {
    rules: &'r mut Rules,
    reason: Reason,
}

const PLAIN: u8 = 0;
const _: () = assert!(MAX_RULES == u128::BITS as usize, "every rule may be shared");

impl Rules {
    /// All plain.
    pub(super) const fn new() -> Self {
        let shared = 1 << PLAIN;
        Self { codes: [PLAIN; Dword::COUNT as usize], table: [Rule::PLAIN; MAX_RULES], count: 1, shared }
    }

    #[inline]
    pub(super) fn of(&self, dword: Dword) -> &Rule {
        self.table.get(self.index(dword)).unwrap_or(&Rule::PLAIN)
    }

    #[inline]
    pub(super) fn of_mut(&mut self, dword: Dword) -> Option<&mut Rule> {
        let index = self.index(dword);
        self.table.get_mut(index)
    }

    /// The shadow of a DWORD; zero where there is none.
    #[inline]
    pub(super) fn shadow(&self, dword: Dword) -> u32 {
        self.of(dword).shadow
    }

    /// Where the rule of a DWORD is, as long as none is declared.
    pub(super) fn place(&self, dword: Dword) -> Place {
        Place(self.code(dword))
    }

    #[inline]
    pub(super) fn at(&self, Place(code): Place) -> &Rule {
        self.table.get(usize::from(code) & (MAX_RULES - 1)).unwrap_or(&Rule::PLAIN)
    }

    /// All DWORDs with a rule, and those that read zero.
    pub(super) fn ruled(&self) -> impl Iterator<Item = (Dword, &Rule)> {
        let ruled = (0..Dword::COUNT).filter_map(Dword::new).filter(|dword| self.code(*dword) != PLAIN);
        ruled.map(|dword| (dword, self.of(dword)))
    }

    /// What is declared now is for this reason.
    pub(super) fn because(&mut self, reason: Reason) -> Because<'_> {
        Because { rules: self, reason }
    }

    /// Changes all rules, but for which bits are the hardware's.
    pub(super) fn change_all(&mut self, change: impl FnMut(&mut Rule)) {
        self.table.iter_mut().take(self.count).for_each(change);
    }

    pub(super) fn identify(&self, fingerprint: &mut Fingerprint) {
        // The table is looked through as far as it is used; what is shared shows in the codes.
        let Self { codes, table: _, count: _, shared: _ } = self;
        fingerprint.add_bytes(codes);
        for rule in self.used() {
            let Rule {
                from_hardware,
                to_hardware,
                hold,
                writable,
                shadow,
                effect,
                // They follow from the others.
                reading: _,
                to_lanes,
                // It decides nothing.
                reason: _,
            } = *rule;
            for bits in [from_hardware, to_hardware, hold, writable, shadow & !writable] {
                fingerprint.add(bits);
            }
            fingerprint.add(to_lanes);
            fingerprint.add(effect as u8);
        }
    }

    /// The bits of the shadow the guest changes, where there are some.
    pub(super) fn words(&self) -> impl Iterator<Item = u32> {
        self.used().filter(|rule| rule.writable != 0).map(|rule| rule.shadow & rule.writable)
    }

    /// Whether these are words of such rules.
    pub(super) fn accepts(&self, words: &mut impl Iterator<Item = u32>) -> bool {
        let mut writable = self.used().map(|rule| rule.writable).filter(|writable| *writable != 0);
        writable.all(|writable| words.next().is_some_and(|word| word & !writable == 0))
    }

    pub(super) fn take_words(&mut self, words: &mut impl Iterator<Item = u32>) {
        self.change_all(|rule| {
            if rule.writable != 0 {
                rule.shadow = rule.shadow & !rule.writable | words.next().unwrap_or(0) & rule.writable;
            }
        });
    }

    fn used(&self) -> impl Iterator<Item = &Rule> {
        self.table.iter().take(self.count)
    }

    fn is_shared(&self, index: usize) -> bool {
        u32::try_from(index).is_ok_and(|index| self.shared.wrapping_shr(index) & 1 != 0)
    }

    /// The rule of DWORDs that read zero for this reason.
    fn zero(&mut self, reason: Reason) -> Result<u8, TooManyRules> {
        let zero = Rule { reason: Some(reason), ..Rule::ZERO };
        let mut known = self.table.iter().enumerate().take(self.count);
        let index = match known.find(|(index, rule)| **rule == zero && self.is_shared(*index)) {
            Some((index, _)) => index,
            None => self.add(zero)?,
        };
        let code = u8::try_from(index).map_err(|_| TooManyRules)?;
        self.shared |= 1_u128.wrapping_shl(code.into());
        Ok(code)
    }

    /// Adds a rule, for no DWORD yet.
    fn add(&mut self, rule: Rule) -> Result<usize, TooManyRules> {
        let index = self.count;
        *self.table.get_mut(index).ok_or(TooManyRules)? = rule;
        self.count = index.saturating_add(1);
        Ok(index)
    }

    /// The rule that is the DWORD's own; it starts as the one it shared.
    fn own(&mut self, dword: Dword) -> Result<&mut Rule, TooManyRules> {
        let mut index = self.index(dword);
        if self.is_shared(index) {
            index = self.add(*self.of(dword))?;
            let code = u8::try_from(index).map_err(|_| TooManyRules)?;
            *self.codes.get_mut(usize::from(dword.index())).ok_or(TooManyRules)? = code;
        }
        self.table.get_mut(index).ok_or(TooManyRules)
    }

    #[inline]
    fn index(&self, dword: Dword) -> usize {
        // The mask changes nothing, and tells the compiler so.
        usize::from(self.code(dword)) & (MAX_RULES - 1)
    }

    #[inline]
    fn code(&self, dword: Dword) -> u8 {
        self.codes.get(usize::from(dword.index() & (Dword::COUNT - 1))).copied().unwrap_or(PLAIN)
    }
}

impl Place {
    /// Of the rule of DWORDs that are the hardware's; its shadow is zero.
    pub(super) const PLAIN: Self = Self(PLAIN);
}

impl Because<'_> {
    /// The bits of `mask` read as `value`, and no write changes them.
    pub(super) fn fix(&mut self, dword: Dword, mask: u32, value: u32) -> Result<(), TooManyRules> {
        self.keep(dword, mask, 0, value)
    }

    /// The bits of `mask` are kept in the shadow, starting with `value`; the guest changes those of `writable`. None
    /// of them reaches hardware.
    pub(super) fn keep(&mut self, dword: Dword, mask: u32, writable: u32, value: u32) -> Result<(), TooManyRules> {
        self.change(dword, |rule| {
            rule.from_hardware &= !mask;
            rule.to_hardware &= !mask;
            rule.writable = rule.writable & !mask | writable & mask;
            rule.shadow = rule.shadow & !mask | value & mask;
        })
    }

    /// The bits of `mask` are the guest's as far as they are writable, starting as hardware's, and stay `own` in hardware.
    pub(super) fn keep_in_hardware(
        &mut self,
        dword: Dword,
        mask: u32,
        writable: u32,
        own: u32,
    ) -> Result<(), TooManyRules> {
        self.keep(dword, mask, writable, own & writable)?;
        self.hold(dword, own & mask)
    }

    /// Writes of the bits of `mask` reach hardware too.
    pub(super) fn pass(&mut self, dword: Dword, mask: u32) -> Result<(), TooManyRules> {
        self.change(dword, |rule| rule.to_hardware |= mask)
    }

    /// Whenever a write reaches hardware, the bits of `mask` are ones there.
    pub(super) fn hold(&mut self, dword: Dword, mask: u32) -> Result<(), TooManyRules> {
        self.change(dword, |rule| rule.hold |= mask)
    }

    /// Writes of the bits of `mask` do not reach hardware.
    pub(super) fn drop_writes(&mut self, dword: Dword, mask: u32) -> Result<(), TooManyRules> {
        self.change(dword, |rule| rule.to_hardware &= !mask)
    }

    /// The guest reads hardware and writes nothing.
    pub(super) fn show_read_only(&mut self, dword: Dword) -> Result<(), TooManyRules> {
        self.change(dword, |rule| (rule.from_hardware, rule.to_hardware) = (!0, 0))
    }

    /// The guest reads hardware, where the bits of `mask` are Routing IDs, 16 bits each.
    pub(super) fn name_requesters(&mut self, dword: Dword, mask: u32) -> Result<(), TooManyRules> {
        self.change(dword, |rule| rule.to_lanes |= lanes_of(mask).wrapping_shl(4))
    }

    /// A change of the shadow sets something off.
    pub(super) fn set_off(&mut self, dword: Dword, effect: Effect) -> Result<(), TooManyRules> {
        self.change(dword, |rule| rule.effect = effect)
    }

    /// `count` DWORDs read zero and take no writes.
    pub(super) fn zero(&mut self, first: Dword, count: u16) -> Result<(), TooManyRules> {
        let zero = self.rules.zero(self.reason)?;
        let start = usize::from(first.index());
        let end = start.saturating_add(count.into()).min(self.rules.codes.len());
        self.rules.codes.get_mut(start..end).unwrap_or_default().fill(zero);
        Ok(())
    }

    /// A DWORD without a treatment of its own reads zero.
    pub(super) fn zero_untreated(&mut self, dword: Dword) -> Result<(), TooManyRules> {
        if self.rules.code(dword) == PLAIN { self.zero(dword, 1) } else { Ok(()) }
    }

    /// Changes the rule of a DWORD, which gets one of its own.
    fn change(&mut self, dword: Dword, change: impl FnOnce(&mut Rule)) -> Result<(), TooManyRules> {
        let rule = self.rules.own(dword)?;
        change(rule);
        rule.to_lanes = rule.to_lanes & !Lanes::ALL.bits() | lanes_of(rule.to_hardware);
        rule.reading = match rule.from_hardware {
            0 => 0,
            _ if rule.names_requesters() => 0,
            u32::MAX => READ,
            _ => READ | Lanes::ALL.bits(),
        };
        rule.reason = rule.reason.max(Some(self.reason));
        if rule.effect == Effect::None && self.reason.is_guard() {
            rule.effect = Effect::Guard;
        }
        Ok(())
    }
}

fn lanes_of(mask: u32) -> u8 {
    Lanes::ALL.touching(mask).map_or(0, Lanes::bits)
}
