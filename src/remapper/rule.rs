//! What becomes of one DWORD: which bits come from hardware, which reach it, and what the others read.

use heapless::Vec;

use crate::access::Dword;

/// The registers of one function are more than a table has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyRules;

/// Most DWORDs of one function with a rule of their own.
const MAX_RULES: usize = 64;

/// What a write sets off: a change of the shadow, or the value for the last three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// Whether the function decodes may have changed.
    Decoding,
    /// Which bus the bridge leads to may have changed.
    BusNumbers,
    /// Where the function decodes may have changed. It matters while it does.
    Placing,
    /// Initiate Function Level Reset in Device Control may have been written.
    FunctionLevelReset,
    /// Initiate Function Level Reset in AF Control may have been written.
    AdvancedFeaturesReset,
    /// PowerState in PMCSR was written.
    PowerState,
    /// Secondary Bus Reset in Bridge Control changed, of a port with an empty link.
    SecondaryBusReset,
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
}

impl Rule {
    const PLAIN: Self =
        Self { from_hardware: !0, to_hardware: !0, hold: 0, writable: 0, shadow: 0, effect: Effect::None };
}

/// What is to be done about a DWORD.
#[derive(Debug)]
pub(super) enum Treatment<T> {
    /// It is the hardware's.
    Plain,
    /// It reads zero and takes no writes.
    Zero,
    /// It has a rule.
    Rule(T),
}

/// The rules of one function, by DWORD.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// 0 plain, 1 zero, else the index of a rule plus 2.
    codes: [u8; Dword::COUNT as usize],
    rules: Vec<Rule, MAX_RULES>,
}

const PLAIN: u8 = 0;
const ZERO: u8 = 1;
const FIRST: u8 = 2;

impl Rules {
    /// All plain.
    pub(super) const fn new() -> Self {
        Self { codes: [PLAIN; Dword::COUNT as usize], rules: Vec::new() }
    }

    #[inline]
    pub(super) fn of(&self, dword: Dword) -> Treatment<&Rule> {
        match self.code(dword) {
            PLAIN => Treatment::Plain,
            ZERO => Treatment::Zero,
            code => self.rules.get(usize::from(code.wrapping_sub(FIRST))).map_or(Treatment::Plain, Treatment::Rule),
        }
    }

    #[inline]
    pub(super) fn of_mut(&mut self, dword: Dword) -> Treatment<&mut Rule> {
        match self.code(dword) {
            PLAIN => Treatment::Plain,
            ZERO => Treatment::Zero,
            code => self.rules.get_mut(usize::from(code.wrapping_sub(FIRST))).map_or(Treatment::Plain, Treatment::Rule),
        }
    }

    /// The shadow of a DWORD; zero where there is none.
    #[inline]
    pub(super) fn shadow(&self, dword: Dword) -> u32 {
        match self.of(dword) {
            Treatment::Rule(rule) => rule.shadow,
            Treatment::Plain | Treatment::Zero => 0,
        }
    }

    /// All DWORDs with a rule, and those that read zero.
    pub(super) fn ruled(&self) -> impl Iterator<Item = (Dword, Treatment<&Rule>)> {
        (0..Dword::COUNT)
            .filter_map(Dword::new)
            .map(|dword| (dword, self.of(dword)))
            .filter(|(_, treatment)| !matches!(treatment, Treatment::Plain))
    }

    /// The bits of `mask` read as `value`, and no write changes them.
    pub(super) fn fix(&mut self, dword: Dword, mask: u32, value: u32) -> Result<(), TooManyRules> {
        self.keep(dword, mask, 0, value)
    }

    /// The bits of `mask` are kept in the shadow, starting with `value`; the guest changes those of `writable`. None
    /// of them reaches hardware.
    pub(super) fn keep(&mut self, dword: Dword, mask: u32, writable: u32, value: u32) -> Result<(), TooManyRules> {
        let rule = self.rule(dword)?;
        rule.from_hardware &= !mask;
        rule.to_hardware &= !mask;
        rule.writable = rule.writable & !mask | writable & mask;
        rule.shadow = rule.shadow & !mask | value & mask;
        Ok(())
    }

    /// Writes of the bits of `mask` reach hardware too.
    pub(super) fn pass(&mut self, dword: Dword, mask: u32) -> Result<(), TooManyRules> {
        self.rule(dword)?.to_hardware |= mask;
        Ok(())
    }

    /// Whenever a write reaches hardware, the bits of `mask` are ones there.
    pub(super) fn hold(&mut self, dword: Dword, mask: u32) -> Result<(), TooManyRules> {
        self.rule(dword)?.hold |= mask;
        Ok(())
    }

    /// Writes of the bits of `mask` do not reach hardware.
    pub(super) fn drop_writes(&mut self, dword: Dword, mask: u32) -> Result<(), TooManyRules> {
        self.rule(dword)?.to_hardware &= !mask;
        Ok(())
    }

    /// The guest reads hardware and writes nothing.
    pub(super) fn show_read_only(&mut self, dword: Dword) -> Result<(), TooManyRules> {
        let rule = self.rule(dword)?;
        (rule.from_hardware, rule.to_hardware) = (!0, 0);
        Ok(())
    }

    /// A change of the shadow sets something off.
    pub(super) fn set_off(&mut self, dword: Dword, effect: Effect) -> Result<(), TooManyRules> {
        self.rule(dword)?.effect = effect;
        Ok(())
    }

    /// Changes all rules of single DWORDs, but for which bits are the hardware's.
    pub(super) fn change_all(&mut self, change: impl FnMut(&mut Rule)) {
        self.rules.iter_mut().for_each(change);
    }

    /// `count` DWORDs read zero and take no writes.
    pub(super) fn zero(&mut self, first: Dword, count: u16) {
        let start = usize::from(first.index());
        let end = start.saturating_add(count.into()).min(self.codes.len());
        self.codes.get_mut(start..end).unwrap_or_default().fill(ZERO);
    }

    /// A DWORD without a treatment of its own reads zero.
    pub(super) fn zero_untreated(&mut self, dword: Dword) {
        if self.code(dword) == PLAIN {
            self.zero(dword, 1);
        }
    }

    fn rule(&mut self, dword: Dword) -> Result<&mut Rule, TooManyRules> {
        let code = self.code(dword);
        let index = match code.checked_sub(FIRST) {
            Some(index) => usize::from(index),
            None => self.add(dword, code)?,
        };
        self.rules.get_mut(index).ok_or(TooManyRules)
    }

    fn add(&mut self, dword: Dword, code: u8) -> Result<usize, TooManyRules> {
        let index = self.rules.len();
        let from = if code == ZERO { Rule { from_hardware: 0, to_hardware: 0, ..Rule::PLAIN } } else { Rule::PLAIN };
        self.rules.push(from).map_err(|_| TooManyRules)?;
        let code = u8::try_from(index).ok().and_then(|index| index.checked_add(FIRST)).ok_or(TooManyRules)?;
        *self.codes.get_mut(usize::from(dword.index())).ok_or(TooManyRules)? = code;
        Ok(index)
    }

    #[inline]
    fn code(&self, dword: Dword) -> u8 {
        // The mask changes nothing, and tells the compiler so.
        self.codes.get(usize::from(dword.index() & (Dword::COUNT - 1))).copied().unwrap_or(PLAIN)
    }
}
