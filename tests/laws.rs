//! The laws of `sim::laws`, over random machines, plans and guests.

use arbitrary::{Arbitrary, Unstructured};
use pci_remap::sim::laws;
use pci_remap::sim::scenario::Scenario;
use proptest::prelude::*;

fn scenarios() -> impl Strategy<Value = Scenario> {
    proptest::collection::vec(any::<u8>(), 512..6000)
        .prop_filter_map("too few bytes", |bytes| Scenario::arbitrary(&mut Unstructured::new(&bytes)).ok())
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4096, ..ProptestConfig::default() })]

    #[test]
    fn every_scenario_obeys_the_laws(scenario in scenarios()) {
        laws::obey(&scenario);
    }
}
