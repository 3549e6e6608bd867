//! Dumps of real machines, and moves made up for them.

#![allow(dead_code, reason = "each test file uses what it needs")]

pub(crate) mod lspci;
pub(crate) mod moves;

use core::sync::atomic::{AtomicUsize, Ordering};
use std::path::{Path, PathBuf};
use std::{env, fs, process};

use pci_remap::sim::dump::{Dump, LoadedMachine, Resources};

/// A dump's files.
#[derive(Debug, Clone)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn name(&self) -> String {
        self.0.file_name().unwrap().to_string_lossy().into_owned()
    }

    pub(crate) fn dump_file(&self) -> PathBuf {
        self.0.join("dump.txt")
    }

    /// The list of its resources, where the folder has one.
    pub(crate) fn resources_file(&self) -> Option<PathBuf> {
        Some(self.0.join("resources.txt")).filter(|file| file.exists())
    }

    /// The machines, awake, as firmware hands them over.
    pub(crate) fn machines(&self) -> Vec<LoadedMachine> {
        let dump: Dump = fs::read_to_string(self.dump_file()).unwrap().parse().unwrap();
        let resources = self.resources_file().map(|file| fs::read_to_string(file).unwrap());
        let resources: Option<Resources> = resources.map(|text| text.parse().unwrap());
        let mut machines = dump.machines(resources.as_ref());
        for loaded in &mut machines {
            loaded.machine.wake_all();
        }
        machines
    }
}

/// The dumps of this repository.
pub(crate) fn bundled() -> Vec<Folder> {
    folders(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dumps"))
}

/// The dumps of the folder `PCI_REMAP_DUMPS` names; says so when it names none.
pub(crate) fn collected() -> Vec<Folder> {
    let Some(folder) = env::var_os("PCI_REMAP_DUMPS") else {
        println!("skipped: PCI_REMAP_DUMPS names no folder");
        return Vec::new();
    };
    folders(Path::new(&folder))
}

fn folders(parent: &Path) -> Vec<Folder> {
    let entries = fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.join("dump.txt").exists()).map(Folder).collect();
    folders.sort_by_key(Folder::name);
    folders
}

/// A file nobody else uses; whoever asks removes it.
pub(crate) fn scratch_file() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}.txt", process::id()))
}
