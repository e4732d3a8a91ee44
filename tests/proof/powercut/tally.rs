//! What the cuts of a recording met, told when it is over.

use std::collections::BTreeMap;

use crate::common::cuts::Cut;
use crate::common::powercut::FileSystem;
use crate::common::recording::{Plan, Recording};
use crate::common::survivor::Survivor;
use crate::run::Run;

/// Counts of one recording.
pub(crate) struct Tally<'a> {
    run: &'a Run,
    manner: String,
    counts: BTreeMap<String, u64>,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(run: &'a Run, plan: &Plan, fs: FileSystem) -> Self {
        Self { run, manner: format!("{} {}", fs.name(), plan.label()), counts: BTreeMap::new() }
    }

    fn add(&mut self, label: &str, n: u64) {
        match self.counts.get_mut(label) {
            Some(count) => *count += n,
            None => drop(self.counts.insert(label.to_owned(), n)),
        }
    }

    pub(crate) fn recording(&mut self, recording: &Recording) {
        self.add("recordings", 1);
        self.add("recycled segments", recording.recycled);
        self.add("acknowledged", recording.witness.acks.len() as u64);
    }

    pub(crate) fn cut(&mut self, cut: Cut, survivor: &Survivor) {
        let manner = self.manner.clone();
        self.add(&manner, 1);
        self.add(survivor.label, 1);
        self.add("torn by sectors", u64::from(cut.torn));
        self.add("torn tails", u64::from(survivor.torn_bytes > 0));
        self.add("records copied", survivor.copied);
        self.add("begin behind LSN 1", u64::from(survivor.first > 1));
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        for (label, n) in &self.counts {
            self.run.met(label, *n);
        }
    }
}
