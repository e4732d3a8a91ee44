//! Damage to the log of a finished history: told, or harmless; never another record.

use std::time::Duration;

use ringwal::Lsn;
use ringwal::harness::{Life, batches, judge, shown};
use ringwal::sim::{Rot, Sim, SimOptions};

use crate::world::{Violation, World, violated};

impl World<'_> {
    /// One damaged place: told, or nothing that was claimed durable is missing; never another record (A8).
    pub(crate) fn rot(&mut self) -> Result<(), Violation> {
        if self.rng.one_in(4) {
            self.read_astray()?;
        }
        let claimed = judge(&self.sim, true).map(|verdict| verdict.claimed).unwrap_or_default();
        let names: Vec<String> = self.sim.files().into_iter().filter(|name| name.ends_with(".seg")).collect();
        let Some(mut name) = names.get(self.rng.index(names.len().max(1))).cloned() else { return Ok(()) };
        let what = self.rng.below(10);
        // Nobody can tell when all the newest files are gone together.
        let newest = what == 0 && names.last() == Some(&name);
        let len = self.sim.bytes(&name).map_or(0, |bytes| bytes.len());
        match what {
            0 => self.sim.delete(&name),
            1 => self.sim.break_sector(&name, self.rng.index(len.max(1))),
            2 => names.iter().for_each(|name| self.sim.delete(name)),
            3 | 4 if self.fork.is_some() => self.graft(&name),
            5 => self.misdirect(&name),
            _ => {
                let kind = [Rot::Flip, Rot::Garble, Rot::Zero][self.rng.index(3)];
                let mut at = self.used_offset(&name);
                // Openings and copies are few, and whole rows of the table are about them.
                let rare: Vec<_> =
                    batches(&self.sim).into_iter().filter(|b| matches!(b.kind, "opening" | "copy")).collect();
                if self.rng.one_in(2) && !rare.is_empty() {
                    let which = if self.rng.one_in(2) { rare.len() - 1 } else { self.rng.index(rare.len()) };
                    (name, at) = (rare[which].name.clone(), rare[which].offset + self.rng.index(100));
                } else if self.rng.one_in(8) {
                    at = self.rng.index(64);
                }
                // One block at most: whoever damages a batch and the only one that claims it leaves no trace.
                let in_block = self.block_bytes - at % self.block_bytes;
                let span = [1, 1, 64, in_block][self.rng.index(4)].min(in_block);
                self.sim.rot(&name, at, span.min(len.saturating_sub(at)), kind);
            }
        }
        let before = self.sim.hash();
        let verdict = judge(&self.sim, true);
        if std::env::var_os("RINGWAL_SIM_SEED").is_some() {
            println!("rot {what} of {name}, {claimed} claimed: {verdict:?}");
            batches(&self.sim).iter().for_each(|batch| println!("{}", batch.text));
        }
        let seed = self.rng.next_u64();
        let opened = match &verdict {
            Ok(verdict) => {
                self.tally.count(verdict.label);
                if !verdict.damaged && verdict.last < claimed && what != 2 && !newest {
                    return violated("A8", format!("{name}: {claimed} claimed, {verdict:?} after rot {what}"));
                }
                Life::open(&self.sim, &self.options, seed)
            }
            Err(_) => {
                self.tally.count("R1");
                Life::open(&self.sim, &self.options, seed)
            }
        };
        match opened {
            Err(_) if self.sim.hash() != before => violated("A9", "a refused opening changed a byte"),
            Err(_) => Ok(()),
            Ok(life) => match life.read() {
                Ok(_) if newest => Ok(()),
                Ok(records) => {
                    self.oracle.same(&records)?;
                    if records.last().map_or(Lsn::ZERO, |(lsn, _)| *lsn) < claimed {
                        return violated(
                            "A8",
                            format!("{name}: {} of {claimed} claimed, silently (rot {what})", records.len()),
                        );
                    }
                    Ok(())
                }
                Err(_) => Ok(()),
            },
        }
    }

    /// A block was written in another's place.
    fn misdirect(&mut self, name: &str) {
        let Some(mut bytes) = self.sim.bytes(name) else { return };
        let (from, to) = (self.used_offset(name), self.used_offset(name));
        let block = |at: usize| at - at % self.block_bytes;
        bytes.copy_within(block(from)..block(from) + self.block_bytes, block(to));
        self.sim.put(name, &bytes);
        self.tally.count("misdirected blocks");
    }

    /// A reader whose disk returns once what stands elsewhere is told of damage, or sees what was written.
    fn read_astray(&mut self) -> Result<(), Violation> {
        self.sim.misdirect_read(Some(self.rng.below(24) as u32));
        let shown = shown(&self.sim);
        if self.sim.misdirect_read(None) {
            return Ok(());
        }
        self.tally.count(if shown.is_ok() { "read astray, unharmed" } else { "read astray, told" });
        shown.map_or(Ok(()), |records| self.oracle.same(&records))
    }

    /// Puts a block of another history of the same log in the place of ours: a backup restored in part, a snapshot of the
    /// machine that lived on.
    fn graft(&mut self, name: &str) {
        let Some(fork) = self.fork.take() else { return };
        let other =
            Sim::new(self.rng.next_u64(), SimOptions { block_bytes: self.block_bytes as u32, ..SimOptions::default() });
        other.restore(&fork);
        other.kill();
        let seed = self.rng.next_u64();
        let Ok(mut life) = Life::open(&other, &self.options, seed) else { return };
        for _ in 0..1 + self.rng.below(8) {
            let record = self.record();
            let _ = life.submit(&record);
            life.step(Duration::ZERO);
            other.tick_all();
            life.prepare();
            life.step(Duration::ZERO);
        }
        let (Some(mut ours), Some(theirs)) = (self.sim.bytes(name), other.bytes(name)) else { return };
        let blocks = ours.chunks(self.block_bytes).zip(theirs.chunks(self.block_bytes));
        let zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
        let differ: Vec<usize> = blocks
            .enumerate()
            .filter(|(_, (ours, theirs))| ours != theirs && !zero(ours) && !zero(theirs))
            .map(|(at, _)| at * self.block_bytes)
            .collect();
        if differ.is_empty() {
            return;
        }
        let at = differ[self.rng.index(differ.len())];
        ours[at..at + self.block_bytes].copy_from_slice(&theirs[at..at + self.block_bytes]);
        self.sim.put(name, &ours);
        self.tally.count("blocks of another history");
    }

    /// Somewhere in what was written, most of the time.
    fn used_offset(&mut self, name: &str) -> usize {
        let bytes = self.sim.bytes(name).unwrap_or_default();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        self.rng.index(used)
    }
}
