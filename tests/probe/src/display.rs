//! What the core prints and parses.

use core::fmt::Write;

use pci_remap::{Access, Bdf, Guest, Host, Plan, Remapper, Topology};

use crate::{Any, stop};

/// Takes text and loses it.
struct Nowhere;

impl Write for Nowhere {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        core::hint::black_box(text);
        Ok(())
    }
}

pub(crate) fn all(topology: &Topology<64>) {
    let bytes = [u8::any(); 16];
    let Ok(text) = core::str::from_utf8(&bytes) else { stop() };
    match text.parse::<Bdf>() {
        Ok(bdf) => print(format_args!("{bdf} {bdf:?}")),
        Err(error) => print(format_args!("{error}")),
    }
    print(format_args!("{}", Access::any()));
    match Plan::new(topology).relocate(Host(Bdf::any()), Guest(Bdf::any())) {
        Ok(plan) => {
            plan.findings().for_each(|finding| print(format_args!("{}: {finding}", finding.grade())));
            plan.advice().for_each(|advice| print(format_args!("{advice}")));
            let mut remapper = Remapper::<16>::new();
            print(format_args!("{0} {0:#}", remapper.explain(Guest(Access::any()))));
            remapper.next_event().into_iter().for_each(|event| print(format_args!("{event}")));
            let mut delta = remapper.pending();
            while let Some(change) = delta.next() {
                print(format_args!("{}", change.operation()));
            }
        }
        Err(error) => print(format_args!("{error}")),
    }
    if let Err(error) = Topology::<64>::from_functions([]) {
        print(format_args!("{error}"));
    }
}

fn print(text: core::fmt::Arguments<'_>) {
    let _ = Nowhere.write_fmt(text);
}
