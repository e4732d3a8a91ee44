//! Many callers at once: each appends in its own way, is polled only when it was woken, and may go away at any moment.

use ringwal::harness::{Call, Caller, Life};
use ringwal::sim::rng::Rng;
use ringwal::{AppendError, Lsn};

use crate::world::{Oracle, Tally, Violation, violated};

/// As many at once.
const CALLERS_MAX: usize = 12;

/// The callers of one life.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    members: Vec<Member>,
    /// Whether the log was cut back: what was durable before may be gone by now.
    pub(crate) cut: bool,
}

#[derive(Debug)]
struct Member {
    caller: Caller,
    call: Call,
    /// What it appends; taken when it has its LSNs.
    records: Option<Vec<Vec<u8>>>,
    /// How many those were, and the last of its LSNs.
    count: u64,
    last: Option<Lsn>,
    commits: bool,
}

impl Crowd {
    /// Whether another may come.
    pub(crate) fn has_room(&self) -> bool {
        self.members.len() < CALLERS_MAX
    }

    pub(crate) fn join(&mut self, life: &Life, call: Call, records: Vec<Vec<u8>>) {
        let (caller, count) = (life.caller(call, records.clone()), records.len() as u64);
        self.members.push(Member { caller, call, records: Some(records), count, last: None, commits: false });
    }

    /// One of them does something: is polled if it was woken, commits what it reserved, or goes away.
    pub(crate) fn stir(
        &mut self,
        life: &Life,
        rng: &mut Rng,
        oracle: &mut Oracle,
        tally: &mut Tally,
    ) -> Result<(), Violation> {
        if self.members.is_empty() {
            return Ok(());
        }
        let at = rng.index(self.members.len());
        let member = &mut self.members[at];
        match rng.below(12) {
            0 => {
                self.members.swap_remove(at);
                tally.count("callers gone");
                return Ok(());
            }
            1 | 2 if member.call == Call::Reserve && !member.commits => {
                member.commits = true;
                member.caller.commit();
            }
            _ => {}
        }
        self.poll(at, life, oracle, tally)
    }

    /// Polls those that were woken, until none is.
    pub(crate) fn stir_all(&mut self, life: &Life, oracle: &mut Oracle, tally: &mut Tally) -> Result<(), Violation> {
        while let Some(at) = self.members.iter().position(|member| member.caller.is_woken()) {
            self.poll(at, life, oracle, tally)?;
        }
        Ok(())
    }

    /// The log has nothing more to do: whoever waits now waits for ever (A10). A slot that nobody commits is no waiting.
    pub(crate) fn ends(&mut self, life: &Life, oracle: &mut Oracle, tally: &mut Tally) -> Result<(), Violation> {
        self.stir_all(life, oracle, tally)?;
        self.members.retain(|member| member.call != Call::Reserve || member.commits);
        match self.members.pop() {
            None => Ok(()),
            Some(member) => {
                violated("A10", format!("a caller waits for ever: {:?}, LSN {:?}", member.call, member.last))
            }
        }
    }

    fn poll(&mut self, at: usize, life: &Life, oracle: &mut Oracle, tally: &mut Tally) -> Result<(), Violation> {
        let member = &mut self.members[at];
        if !member.caller.is_woken() {
            return Ok(());
        }
        let before = life.appended();
        let answer = member.caller.poll();
        let staged = life.appended().get() - before.get();
        if staged > 0 {
            let Some(records) = member.records.take() else { return violated("A3", "a caller staged twice") };
            if staged != member.count {
                return violated("A4", format!("{staged} of {} records staged", member.count));
            }
            member.last = Some(life.appended());
            match member.call {
                Call::Batch => oracle.stage_group(&records),
                _ => oracle.stage(life.appended(), records.into_iter().next().unwrap_or_default())?,
            }
        }
        let Some(answer) = answer else { return Ok(()) };
        let member = self.members.swap_remove(at);
        match answer {
            Ok(lsns) => {
                tally.count("callers answered");
                if member.call != Call::Sync && Some(*lsns.end()) != member.last {
                    return violated("A2", format!("{lsns:?} acknowledged instead of {:?}", member.last));
                }
                if *lsns.end() > life.durable() && !self.cut {
                    return violated("A1", format!("{lsns:?} acknowledged, durable up to {}", life.durable()));
                }
                Ok(())
            }
            Err(AppendError::Poisoned(_) | AppendError::NoSpace(_) | AppendError::TooLarge { .. }) => Ok(()),
            Err(AppendError::Closed) => Ok(()),
            Err(error) => violated("A5", format!("a caller is refused: {error}")),
        }
    }
}
