//! A real log to which something happened: verified, read, opened for writing, and gone on with.
//!
//! Input: which log, what is done with it afterwards, then what happens to it, one thing after another.
//!
//! held, byte for byte, and no record is missing that an undamaged batch claims durable. If checksums were computed anew,
//! records that nobody appended may come out, but nothing else.

use std::sync::LazyLock;

use ringwal::harness::{Judgement, Life, batches, judge, shown};
use ringwal::sim::Sim;
use ringwal::OpenError;

use crate::accident::Damaged;
use crate::forge::forge;
use crate::gauge::{Use, measure};
use crate::input::Input;
use crate::life::{self, Records};
use crate::logs::{LOGS, Log};

/// How many things happen to one log.
const ACCIDENTS_MAX: usize = 6;

/// What each log costs when nothing happened to it.
static COSTS: LazyLock<Vec<Use>> = LazyLock::new(|| {
    let cost = |log| {
        let whole = [0, GO_ON].map(|plan| live(log, &Damaged::new(log), plan));
        whole.into_iter().fold(Use::default(), Use::max)
    };
    LOGS.iter().map(cost).collect()
});

/// Bits of the plan: checksums are computed anew; the log goes on once it is open.
const FORGE: u8 = 1;
const GO_ON: u8 = 2;

/// One log, what happens to it, and what comes of it.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (which, plan) = (input.index(LOGS.len()), input.byte());
    let log = &LOGS[which];
    let mut damaged = Damaged::new(log);
    for _ in 0..ACCIDENTS_MAX {
        if input.is_empty() {
            break;
        }
        if plan & FORGE == FORGE && input.bit() {
            forge(&mut damaged, &mut input);
        } else {
            damaged.accident(&mut input);
        }
    }
    let met = live(log, &damaged, plan);
    bounded(met, COSTS[which], damaged.longest());
}

/// Nothing was allocated from a length that nobody checked.
pub(crate) fn bounded(met: Use, clean: Use, longest: usize) {
    let more = 2 * longest.max(crate::layout::BLOCK * 16);
    let fits = met.peak <= clean.peak + more && met.largest <= clean.largest.max(more);
    assert!(fits, "A10: {met:?} for files of up to {longest} bytes, {clean:?} for a whole log");
}

/// Judges, shows, opens and goes on; tells what that allocated.
fn live(log: &'static Log, damaged: &Damaged, plan: u8) -> Use {
    let sim = log.disk(1);
    damaged.put(&sim);
    tell(&sim);
    let before = sim.hash();
    let oracle = Oracle { log, damaged, forging: plan & FORGE == FORGE };
    let (judged, mut met) = measure(|| [true, false].map(|whole| judge(&sim, whole)));
    let (seen, used) = measure(|| shown(&sim));
    met = met.max(used);
    oracle.judged(&judged, &seen);
    assert_eq!(sim.hash(), before, "A6: who reads changed a byte");
    let (life, used) = measure(|| Life::open(&sim, &log.options, 0x5eed));
    met = met.max(used);
    match life {
        Err(error) => {
            assert_eq!(sim.hash(), before, "A9: a refused opening changed a byte: {error}");
            oracle.refused(&judged[1], &error);
        }
        Ok(life) => {
            let (records, used) = measure(|| life.read());
            met = met.max(used);
            oracle.opened(&judged[1], &seen, &records);
            if plan & GO_ON == GO_ON
                && let Ok(records) = records
            {
                let ((), used) = measure(|| go_on(&sim, log, life, records, &oracle));
                met = met.max(used);
            }
        }
    }
    met
}

/// For a person who replays an input: what the directory has become.
pub(crate) fn tell(sim: &Sim) {
    static ASKED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("RINGWAL_FUZZ_TELL").is_some());
    if *ASKED {
        println!("{}", sim.describe());
        batches(sim).iter().for_each(|batch| println!("{} {}: {}", batch.name, batch.offset, batch.text));
        println!("{:?}\n{:?}", judge(sim, true), judge(sim, false));
    }
}

type Read = Result<Records, OpenError>;

struct Oracle<'a> {
    log: &'static Log,
    damaged: &'a Damaged,
    /// Whether checksums were computed anew: then the log says what somebody wants it to say.
    forging: bool,
}

impl Oracle<'_> {
    fn records(&self, records: &Records) {
        if !self.damaged.forged && !self.log.ever_held(records) {
            panic!("A3: a record that was never appended: {records:?}");
        }
        let dense = records.windows(2).all(|pair| pair[0].0.next() == pair[1].0);
        assert!(dense, "A2: records are missing in between: {records:?}");
        if !self.forging {
            assert!(self.log.held(records), "A3: records of two lines: {records:?}");
        }
    }

    fn judged(&self, judged: &[Result<Judgement, OpenError>; 2], seen: &Read) {
        if let Ok(records) = seen {
            self.records(records);
        }
        if self.forging {
            return;
        }
        let vouched = self.log.vouched(&self.damaged.files);
        // An opening does not read ready segments to their end behind a close seal: one that an accident put there, and
        // another accident that zeroed the beginning of the segment behind it, hide the rest from it. `verify` reads all.
        let thorough = if self.damaged.accidents == 1 { &judged[..] } else { &judged[..1] };
        for judgement in thorough.iter().flatten().filter(|judgement| !judgement.damaged) {
            let kept = judgement.last.get();
            assert!(kept >= vouched, "A8: {kept} kept in silence of {vouched} claimed durable: {judgement:?}");
        }
        if let ([Ok(whole), Ok(tail)], Ok(records)) = (judged, seen)
            && !whole.damaged
        {
            assert_eq!(whole, tail, "A8: a whole log is judged in two ways");
            let last = records.last().map_or(whole.first.prev(), |(lsn, _)| *lsn);
            assert_eq!(last, whole.claimed, "A8: other records are shown than are claimed");
        }
    }

    fn refused(&self, tail: &Result<Judgement, OpenError>, error: &OpenError) {
        let sound = tail.as_ref().is_ok_and(|tail| !tail.damaged);
        // A copy is read where a reader has not looked.
        let unread = matches!(error, OpenError::Io(_)) && self.damaged.cannot_be_read();
        assert!(!sound || self.forging || unread, "A5: refused, though not damaged: {tail:?}, {error}");
    }

    fn opened(&self, tail: &Result<Judgement, OpenError>, seen: &Read, records: &Read) {
        let Ok(tail) = tail else { panic!("A8: opened, though it cannot be judged: {tail:?}") };
        assert!(!tail.damaged, "A8: opened, though damaged: {tail:?}");
        let Ok(records) = records else { return };
        self.records(records);
        if self.forging {
            return;
        }
        let last = records.last().map_or(tail.first.prev(), |(lsn, _)| *lsn);
        assert_eq!(last, tail.last, "A6: other records are kept than were judged");
        if let Ok(seen) = seen {
            let skip = records.iter().take_while(|record| seen.first().is_some_and(|first| record.0 < first.0)).count();
            let stays = records[skip..].starts_with(seen);
            assert!(stays, "A7: what a reader was shown is gone: {seen:?}, {records:?}");
        }
    }
}

/// The log takes records, ends in order, and holds them afterwards.
fn go_on(sim: &Sim, log: &'static Log, life: Life, mut records: Records, oracle: &Oracle<'_>) {
    let (appended, refused) = life::go_on(sim, life);
    if oracle.forging {
        // What was forged may stand in the way of what comes next.
        let _ = judge(sim, true);
        return;
    }
    assert!(refused.is_none(), "A5: an open log takes no record: {refused:?}");
    records.extend(appended);
    match Life::open(sim, &log.options, 0x5eee).and_then(|life| life.read()) {
        Ok(again) => assert_eq!(again, records, "A6: another opening keeps other records"),
        Err(OpenError::Io(_)) if oracle.damaged.cannot_be_read() => {}
        Err(error) => panic!("A5: a log that was open cannot be opened: {error}"),
    }
}
