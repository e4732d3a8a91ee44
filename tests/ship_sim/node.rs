//! A machine with a log: the real one on a simulated disk, and what should be in it.

use std::collections::VecDeque;

use ringwal::harness::Life;
use ringwal::ship::{Batch, Group, Standing};
use ringwal::sim::rng::Rng;
use ringwal::sim::{Faults, Sim, SimOptions};
use ringwal::{AppendError, LogId, Lsn, Method, OpenError, Options, SubmitError};

/// The longest record's payload, in bytes: such that no batch, which may fill a buffer of whole pages, is longer than the
/// longest group.
const RECORD_MAX: usize = 4096 - 144 - 12;
pub(crate) const GROUP_BYTES_MAX: usize = RECORD_MAX + 12;

/// A record as it was first appended. No two have the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) payload: Vec<u8>,
    pub(crate) term: u64,
    /// The group that it belongs to.
    pub(crate) group: u64,
}

pub(crate) struct Node {
    pub(crate) id: [u8; 16],
    pub(crate) sim: Sim,
    pub(crate) life: Option<Life>,
    /// What was appended, in order: the log holds a beginning of it.
    pub(crate) staged: Vec<Entry>,
    /// What the log was last seen to hold durably.
    durable: usize,
    /// The greatest term known. With the terms of `staged`, what a live log keeps in its headers; both survive crashes.
    pub(crate) term: u64,
    /// Groups received and not yet appended.
    pub(crate) inbox: VecDeque<(Group, Vec<Entry>)>,
    /// Made anew and not yet caught up: counts as lost.
    pub(crate) fresh: bool,
    options: Options,
}

impl Node {
    pub(crate) fn new(id: u8, rng: &mut Rng) -> Self {
        let sim = Sim::new(rng.next_u64(), SimOptions::default());
        if rng.one_in(4) {
            sim.set_faults(Faults { write_error: 1000, sync_error: 1000, write_short: 10_000, ..Faults::default() });
        }
        let options = Options::default()
            .method(Method::ALL[rng.index(4)])
            .block_bytes(512)
            .segment_bytes((40 + rng.below(12)) * 512)
            .flight_max([1, 2, 4][rng.index(3)])
            .batch_bytes_max(512 * (1 + rng.index(3)))
            .record_bytes_max(RECORD_MAX)
            .pending_bytes_max(1 << 20);
        Self {
            id: [id; 16],
            sim,
            life: None,
            staged: Vec::new(),
            durable: 0,
            term: 0,
            inbox: VecDeque::new(),
            fresh: false,
            options,
        }
    }

    /// Everything up to here is durable; while it is down, what will be recovered at least.
    pub(crate) fn durable(&self) -> usize {
        self.life.as_ref().map_or(self.durable, |life| index(life.durable()))
    }

    /// Opens the log, and checks what the crash left: what was durable is there, nothing else but what was appended behind
    /// it, no group in part, byte for byte.
    pub(crate) fn open(&mut self, log_id: LogId, rng: &mut Rng) -> Result<bool, String> {
        if rng.one_in(4) {
            self.sim.crash_after(Some(1 + rng.below(30)));
        }
        let life = match Life::open_named(&self.sim, &self.options, rng.next_u64(), log_id) {
            Ok(life) => life,
            Err(OpenError::Io(_)) if self.sim.crashed() || self.sim.faults() != Faults::default() => {
                self.sim.power_cut();
                return Ok(false);
            }
            Err(error) => return Err(format!("cannot open: {error}")),
        };
        self.sim.crash_after(None);
        let n = index(life.durable());
        if n < self.durable || n > self.staged.len() {
            return Err(format!("{n} recovered, {} durable of {}", self.durable, self.staged.len()));
        }
        if let (Some(last), Some(next)) = (n.checked_sub(1), self.staged.get(n))
            && self.staged[last].group == next.group
        {
            return Err(format!("a group is cut at {n}"));
        }
        self.staged.truncate(n);
        self.life = Some(life);
        self.check()?;
        self.durable = n;
        Ok(true)
    }

    /// What the log holds durably is what was appended.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Some(life) = &self.life else { return Ok(()) };
        let records = life.read().map_err(|error| format!("cannot read: {error}"))?;
        for (at, (lsn, payload)) in records.iter().enumerate() {
            if index(*lsn) != at + 1 || self.staged.get(at).is_none_or(|entry| entry.payload != *payload) {
                return Err(format!("another record at LSN {lsn}"));
            }
        }
        if records.len() == index(life.durable()) { Ok(()) } else { Err(format!("{} readable", records.len())) }
    }

    /// The process or the machine ends.
    pub(crate) fn crash(&mut self, power: bool) {
        self.durable = self.durable();
        self.life = None;
        self.inbox.clear();
        if power { self.sim.power_cut() } else { self.sim.kill() }
    }

    /// Another machine under the same id: the disk is gone.
    pub(crate) fn wipe(&mut self, rng: &mut Rng) {
        self.crash(false);
        *self = Self { fresh: true, ..Self::new(self.id[0], rng) };
    }

    /// Appends a group, if there is room.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) -> Result<bool, String> {
        let Some(life) = &self.life else { return Ok(false) };
        let taken = if let [entry] = &entries[..] {
            match life.submit(&entry.payload) {
                Ok(_) => true,
                Err(SubmitError::Full | SubmitError::Append(AppendError::Poisoned(_))) => false,
                Err(error) => return Err(format!("cannot append: {error}")),
            }
        } else {
            let records: Vec<_> = entries.iter().map(|entry| entry.payload.clone()).collect();
            match life.submit_group(&records) {
                Err(AppendError::Poisoned(_)) => false,
                taken => taken.map_err(|error| format!("cannot append: {error}"))?,
            }
        };
        if taken {
            self.staged.extend(entries);
        }
        Ok(taken)
    }

    /// Appends what was received, as far as there is room.
    pub(crate) fn drain_inbox(&mut self) -> Result<(), String> {
        while let Some((_, entries)) = self.inbox.front() {
            if !self.append(entries.clone())? {
                return Ok(());
            }
            self.inbox.pop_front();
        }
        Ok(())
    }

    /// Whether its disk has failed: it must be opened again.
    pub(crate) fn has_failed(&self) -> bool {
        self.life.as_ref().is_some_and(Life::poisoned)
    }

    /// Whether nothing is on its way to the disk: only then may it say where its log ends.
    pub(crate) fn is_settled(&self) -> bool {
        self.life.is_some() && self.inbox.is_empty() && self.durable() == self.staged.len()
    }

    /// How the log stands at record `n`, read back from the disk.
    pub(crate) fn standing(&self, n: usize) -> Standing {
        let entry = n.checked_sub(1).and_then(|at| self.staged.get(at));
        let standing = |entry: &Entry| self.life.as_ref()?.standing(Lsn::new(n as u64), entry.term);
        entry.map_or(Standing::default(), |entry| standing(entry).expect("a durable record can be read"))
    }

    /// The term of the last durable record, and how many there are: by this a primary is chosen.
    pub(crate) fn rank(&self) -> (u64, usize) {
        let n = self.durable();
        (n.checked_sub(1).map_or(0, |last| self.staged[last].term), n)
    }

    /// The batch that a source wants.
    pub(crate) fn batch(&self, from: Lsn) -> Option<Batch> {
        let term = self.staged.get(index(from).checked_sub(1)?)?.term;
        let same = self.staged.iter().rposition(|entry| entry.term == term)?;
        self.life.as_ref()?.batch(from, Lsn::new(same as u64 + 1), term)
    }
}

pub(crate) fn index(lsn: Lsn) -> usize {
    usize::try_from(lsn.get()).unwrap()
}
