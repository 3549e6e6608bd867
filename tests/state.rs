//! Saving and restoring: a guest that does not notice, and blocks that are refused.

mod support;

use pci_remap::plan::BusNumbers;
use pci_remap::sim::machine::signature;
use pci_remap::sim::platform::Platform;
use pci_remap::sim::vm::{FUNCTIONS, Vm};
use pci_remap::{
    Access, Dword, Guest, Host, MapOp, Plan, ReadDecision, Remapper, RestoreError, SaveError, Space, Topology, Width,
    WriteDecision,
};
use proptest::prelude::*;
use support::*;

const NIC: &str = "01:01.0";
const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
/// Where the NIC has PMCSR.
const POWER: u16 = 0x44;

fn plan(topology: &'static Topology<FUNCTIONS>) -> Plan<'static> {
    Plan::new(topology).relocate(host("02:00.0"), guest(NIC)).unwrap()
}

fn talk_with_plan() -> (Vm, Plan<'static>) {
    let mut machine = machine([nic("02:00.0")]);
    let plan = plan(scan(&mut machine));
    (Vm::start(machine, &plan).unwrap(), plan)
}

/// The guest places the BAR and lets it decode.
fn bring_up(vm: &mut Vm) -> Vec<MapOp> {
    vm.write(NIC, BAR0, 0xe010_0000);
    vm.write_word(NIC, COMMAND, 0x0006)
}

fn map(at: u64) -> MapOp {
    let (guest, host) = (Guest(span(at, 0x2_0000)), Host(span(0xe100_0000, 0x2_0000)));
    let backing = pci_remap::Backing::Direct;
    MapOp::Map { guest, host, space: Space::Memory, backing, prefetchable: false }
}

fn unmap(at: u64) -> MapOp {
    MapOp::Unmap { guest: Guest(span(at, 0x2_0000)), space: Space::Memory }
}

fn changes(remapper: &mut Remapper<8>) -> Vec<MapOp> {
    let mut pending = remapper.pending();
    let mut changes = Vec::new();
    while let Some(change) = pending.next() {
        changes.push(change.operation());
        change.confirm();
    }
    changes
}

fn write(remapper: &mut Remapper<8>, offset: u16, value: u32) {
    let _ = remapper.write(Guest(Access::whole(bdf(NIC), Dword::at(offset).unwrap())), value);
}

fn built(plan: &Plan<'_>) -> Box<Remapper<8>> {
    let mut remapper = Box::new(Remapper::new());
    plan.build_into(&mut remapper).unwrap();
    remapper
}

fn saved(remapper: &Remapper<8>) -> Vec<u8> {
    let mut block = vec![0xa5; remapper.saved_len()];
    assert_eq!(remapper.save(&mut block), Ok(block.len()));
    block
}

/// A remapper of the talk, and a block of one a guest has worked with.
fn built_and_block() -> (Box<Remapper<8>>, Vec<u8>) {
    let plan = plan(scan(&mut machine([nic("02:00.0")])));
    let mut remapper = built(&plan);
    changes(&mut remapper);
    write(&mut remapper, BAR0, 0xe010_0000);
    write(&mut remapper, COMMAND, 0x0006);
    (built(&plan), saved(&remapper))
}

#[test]
fn a_guest_does_not_notice_that_another_hypervisor_took_over() {
    let (mut vm, plan) = talk_with_plan();
    assert_eq!(bring_up(&mut vm), [map(0xe010_0000)]);
    let before = vm.second_stage().clone();
    vm.take_over(&plan).unwrap();
    assert_eq!(vm.second_stage(), &before, "everything is mapped anew");
    assert_eq!(vm.read(NIC, BAR0), 0xe010_0000);
    assert_eq!(vm.memory_read(0xe010_0000, Width::Dword), signature(0, bdf("02:00.0"), 0, 0));
    assert_eq!(vm.write(NIC, BAR0, 0xe020_0000), [unmap(0xe010_0000), map(0xe020_0000)]);
}

#[test]
fn a_replay_that_was_due_is_due_after_restoring() {
    let (mut vm, plan) = talk_with_plan();
    bring_up(&mut vm);
    let nic = vm.machine().original(bdf("02:00.0")).unwrap();
    vm.machine_mut().reset_function(nic);
    vm.note_reset(host("02:00.0"));
    vm.take_over(&plan).unwrap();
    assert!(vm.remapper().has_forgotten(host("02:00.0")));
    vm.elapse(core::time::Duration::from_millis(100));
    assert_eq!(bring_up(&mut vm), [map(0xe010_0000)]);
    assert_eq!(vm.machine().peek(nic, Dword::at(BAR0).unwrap()), 0xe100_0000);
}

#[test]
fn a_function_that_was_asleep_has_no_windows_until_it_wakes() {
    let (mut vm, plan) = talk_with_plan();
    bring_up(&mut vm);
    assert_eq!(vm.write_word(NIC, POWER, 3), [unmap(0xe010_0000)]);
    vm.take_over(&plan).unwrap();
    assert_eq!(vm.second_stage().mappings(), []);
    assert_eq!(vm.write_word(NIC, POWER, 0), []);
    assert!(vm.remapper().has_forgotten(host("02:00.0")), "it has no No_Soft_Reset");
}

#[test]
fn buses_keep_the_numbers_the_guest_gave_them() {
    let mut machine = machine([nic("02:00.0")]);
    let plan = plan(scan(&mut machine)).bus_numbers(BusNumbers::Virtual);
    let mut vm = Vm::start(machine, &plan).unwrap();
    vm.write("00:01.0", 0x18, 0x0007_0700);
    assert_eq!(vm.read("07:01.0", 0), 0x1572_8086);
    vm.take_over(&plan).unwrap();
    assert_eq!(vm.read("07:01.0", 0), 0x1572_8086);
    assert_eq!(vm.read("01:01.0", 0), !0);
    assert_eq!(vm.remapper().to_guest(host("02:00.0")), Some(guest("07:01.0")));
}

#[test]
fn after_a_build_everything_is_due_and_in_a_remapper_at_work_the_difference() {
    let (mut fresh, block) = built_and_block();
    let mut at_work = fresh.clone();
    fresh.restore(&block).unwrap();
    let all = changes(&mut fresh);
    assert_eq!(all.iter().filter(|change| matches!(change, MapOp::Conceal { .. })).count(), 3);
    assert_eq!(all.last(), Some(&map(0xe010_0000)));

    changes(&mut at_work);
    write(&mut at_work, BAR0, 0xe030_0000);
    write(&mut at_work, COMMAND, 0x0006);
    assert_eq!(changes(&mut at_work), [map(0xe030_0000)]);
    at_work.restore(&block).unwrap();
    assert_eq!(changes(&mut at_work), [unmap(0xe030_0000), map(0xe010_0000)]);
}

#[test]
fn a_block_that_is_longer_than_the_state_will_do_and_a_shorter_one_says_what_is_needed() {
    let (mut remapper, block) = built_and_block();
    let needed = remapper.saved_len();
    assert_eq!(remapper.save(&mut vec![0; needed - 1]), Err(SaveError { room: needed - 1, needed }));
    assert_eq!(SaveError { room: 1, needed: 2 }.to_string(), "the block has 1 bytes, and 2 are needed");
    let mut page = vec![0xa5; 0x1000];
    assert_eq!(remapper.save(&mut page), Ok(needed));
    page[..needed].copy_from_slice(&block);
    assert_eq!(remapper.restore(&page), Ok(()));
    assert_eq!(saved(&remapper), block);
}

#[test]
fn a_foreign_block_is_refused_by_name() {
    let (mut remapper, block) = built_and_block();
    let before = saved(&remapper);
    let mut refused = |block: &[u8]| {
        let error = remapper.restore(block).unwrap_err();
        assert_eq!(saved(&remapper), before, "nothing has changed");
        error
    };
    for length in 0..block.len() {
        assert_eq!(refused(&block[..length]), RestoreError::TooShort);
    }
    assert_eq!(refused(&[0; 0x1000]), RestoreError::NotABlock);
    let mut newer = block.clone();
    newer[8] = 2;
    assert_eq!(refused(&newer), RestoreError::Version { found: 2 });
    assert_eq!(RestoreError::Version { found: 2 }.to_string(), "the state is of version 2, and this is version 1");
    assert_eq!(refused(&[0; 0]).to_string(), "the block is cut off");
}

#[test]
fn a_block_of_another_plan_or_machine_is_refused() {
    let (_, block) = built_and_block();
    let moved_bar = nic("02:00.0").bar(4, MEMORY, 0x1000, 0xe108_0000);
    let talk = scan(&mut machine([nic("02:00.0")]));
    let others = [
        plan(scan(&mut machine([moved_bar]))),
        Plan::new(talk).relocate(host("02:00.0"), guest("01:02.0")).unwrap(),
        plan(talk).reserve(Guest(span(0xfee0_0000, 0x1000))).unwrap(),
        plan(talk).hide(host("01:00.0")).unwrap(),
        Plan::new(talk),
    ];
    for other in others {
        assert_eq!(built(&other).restore(&block), Err(RestoreError::OtherPlan));
    }
}

#[test]
fn a_block_with_any_bit_flipped_is_refused() {
    let (mut remapper, block) = built_and_block();
    let before = saved(&remapper);
    for bit in 0..block.len() * 8 {
        let mut flipped = block.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = remapper.restore(&flipped).unwrap_err();
        let expected = match bit / 8 {
            0..8 => RestoreError::NotABlock,
            8..12 => RestoreError::Version { found: 1 ^ 1 << (bit - 64) },
            12..16 if error == RestoreError::TooShort => RestoreError::TooShort,
            _ => RestoreError::Damaged,
        };
        assert_eq!(error, expected, "bit {bit}");
    }
    assert_eq!(saved(&remapper), before);
}

/// The block with the checksum it should have.
fn sealed(mut block: Vec<u8>) -> Vec<u8> {
    block[24..32].fill(0);
    let (header, words) = block.split_at(32);
    let parts = [&32_u64.to_le_bytes()[..], header, &(words.len() as u64).to_le_bytes(), words].concat();
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let checksum = parts.into_iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    block[24..32].copy_from_slice(&checksum.to_le_bytes());
    block
}

#[test]
fn a_state_no_guest_could_have_made_is_damaged_whatever_its_checksum() {
    let (mut remapper, block) = built_and_block();
    assert_eq!((&block[..8], &block[8..12]), (&b"pciremap"[..], &[1, 0, 0, 0][..]));
    assert_eq!(sealed(block.clone()), block);
    let with = |index: usize, word: u32| {
        let mut block = block.clone();
        block[32 + 4 * index..][..4].copy_from_slice(&word.to_le_bytes());
        sealed(block)
    };
    // Of the NIC: whether it has forgotten, PowerState, its first register.
    for (index, word) in [(0, 2), (1, 1), (1, 4), (2, !0)] {
        assert_eq!(remapper.restore(&with(index, word)), Err(RestoreError::Damaged), "{index} {word:x}");
    }
    for length in [block.len() - 4, block.len() - 1, 32, 31] {
        let mut short = block.clone();
        short[12..16].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        if let Some(cut) = (length >= 32).then(|| sealed(short.iter().copied().take(length).collect())) {
            short = cut;
        }
        assert_eq!(remapper.restore(&short), Err(RestoreError::Damaged), "{length}");
    }
    assert_eq!(remapper.restore(&with(1, 3)), Ok(()), "it has D3hot");
}

proptest! {
    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), starts_well in any::<bool>()) {
        let (mut remapper, block) = built_and_block();
        let before = saved(&remapper);
        let mut bytes = bytes;
        if starts_well {
            bytes.splice(..0, block[..24].iter().copied());
        }
        prop_assert!(remapper.restore(&bytes).is_err());
        prop_assert_eq!(saved(&remapper), before);
    }

    /// Whatever registers a block gives it, windows lead to the NIC alone, and reads and writes go on as ever.
    #[test]
    fn a_forged_state_is_one_a_guest_could_have_made(words in proptest::collection::vec(any::<u32>(), 120), mask in any::<u32>()) {
        let (mut remapper, block) = built_and_block();
        let mut forged = block;
        for (bytes, word) in forged[32..].chunks_mut(4).zip(words) {
            let own = u32::from_le_bytes(bytes.try_into().unwrap());
            bytes.copy_from_slice(&(own ^ word & mask & 1 << (word % 32)).to_le_bytes());
        }
        let forged = sealed(forged);
        if remapper.restore(&forged).is_ok() {
            prop_assert_eq!(saved(&remapper), forged);
        }
        let bars = [span(0xe100_0000, 0x2_0000), span(0x10_0100_0000, 0x8000), span(0xe104_0000, 0x1_0000)];
        for change in changes(&mut remapper) {
            if let MapOp::Map { host: Host(host), .. } = change {
                prop_assert!(bars.iter().any(|bar| bar.covers(host)), "{}", change);
            }
        }
        let vacated = Guest(Access::whole(bdf("02:00.0"), Dword::at(0).unwrap()));
        prop_assert_eq!(remapper.read(vacated), ReadDecision::Hide);
        let bar = Guest(Access::whole(bdf(NIC), Dword::at(BAR0).unwrap()));
        prop_assert_eq!(remapper.write(bar, 0xe040_0000).decision, WriteDecision::Emulate);
        prop_assert_eq!(remapper.read(bar), ReadDecision::Emulate(0xe040_0000));
    }
}
