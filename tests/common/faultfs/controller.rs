//! Who decides about each operation: it counts them, lets the fault strike, and cuts the power.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::{EIO, ESTALE};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::fault::{Fault, Op, Span, What};
use super::media::{Media, SECTOR};
use crate::common::rig::Rng;

/// The first time that the fault struck.
#[derive(Clone, Debug)]
pub(crate) struct Strike {
    pub(crate) at: Instant,
    /// The file's name; empty for the directory.
    pub(crate) name: String,
}

/// A bit that is read wrongly: file, byte, mask.
type Rotten = (u64, usize, u8);

struct State {
    media: Media,
    /// What the power cut left, once the power is off.
    left: Option<Media>,
    counts: BTreeMap<Op, u64>,
    fault: Option<Fault>,
    /// Operations that the fault's suffix matched.
    matched: u64,
    strikes: u64,
    first: Option<Strike>,
    rotten: Option<Rotten>,
    limited: Option<FileSizeLimit>,
    rng: Rng,
}

/// How far the process may write into a file, as long as this lives.
struct FileSizeLimit(usize);

impl FileSizeLimit {
    fn set(bytes: usize) -> Option<Self> {
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).ok()?;
        setrlimit(Resource::RLIMIT_FSIZE, bytes as u64, hard).ok()?;
        Some(Self(bytes))
    }
}

impl Drop for FileSizeLimit {
    fn drop(&mut self) {
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_FSIZE) {
            let _ = setrlimit(Resource::RLIMIT_FSIZE, hard, hard);
        }
    }
}

impl State {
    /// Counts an operation; what happens to it, if anything does.
    fn judge(&mut self, op: Op, name: &str) -> Result<Option<What>, i32> {
        if self.left.is_some() {
            return Err(EIO);
        }
        *self.counts.entry(op).or_default() += 1;
        let Some(fault) = self.fault.filter(|fault| fault.is_for(op, name)) else { return Ok(None) };
        self.matched += 1;
        if matches!(fault.what, What::Limited(_)) || !fault.strikes(self.matched) {
            return Ok(None);
        }
        self.strike(name);
        Ok(Some(fault.what))
    }

    fn strike(&mut self, name: &str) {
        self.strikes += 1;
        self.first.get_or_insert_with(|| Strike { at: Instant::now(), name: name.to_owned() });
    }

    fn arm(&mut self, fault: Option<Fault>) {
        (self.fault, self.rotten, self.limited) = (fault, None, None);
        (self.matched, self.strikes, self.first) = (0, 0, None);
        self.counts.clear();
    }

    fn cut_power(&mut self) {
        if self.left.is_none() {
            self.left = Some(self.media.after_cut(&mut self.rng));
        }
    }

    /// As [`What`] says, for what either happens whole or not at all.
    fn carry_out<T>(&mut self, what: Option<What>, act: impl FnOnce(&mut Media) -> Result<T, i32>) -> Result<T, i32> {
        match what {
            Some(What::Fails(errno)) => Err(errno),
            Some(What::PowerCut) => {
                if self.rng.one_in(2) {
                    let _ = act(&mut self.media);
                }
                self.cut_power();
                Err(EIO)
            }
            _ => act(&mut self.media),
        }
    }

    fn write(&mut self, file: u64, offset: usize, data: &[u8], dsync: bool) -> Result<usize, i32> {
        let name = self.media.name_of(file).unwrap_or_default().to_owned();
        let written = match self.judge(Op::Write, &name)? {
            Some(What::Half) => data.len() / 2 / SECTOR * SECTOR,
            Some(What::Unaligned) => data.len() / 2 + 1 + self.below(SECTOR - 2),
            Some(What::Fails(errno)) => {
                // Some of it may have got through.
                let some = if errno == EIO { self.below(data.len() / SECTOR + 1) * SECTOR } else { 0 };
                self.media.write(file, offset, &data[..some]);
                return Err(errno);
            }
            Some(What::PowerCut) => {
                self.media.write(file, offset, data);
                self.cut_power();
                return Err(EIO);
            }
            _ => data.len(),
        };
        let written = written.clamp(1, data.len());
        self.media.write(file, offset, &data[..written]);
        self.limit(&name, offset, written);
        if dsync {
            // A write makes its own bytes durable and nobody else's, and so does its failure lose no others.
            let what = self.judge(Op::Flush, &name)?;
            if what == Some(What::EIO) {
                self.media.drop_range(file, offset, written);
            }
            self.carry_out(what, |media| {
                media.flush_range(file, offset, written);
                Ok(())
            })?;
        }
        Ok(written)
    }

    /// Sets the limit behind the write before the one that is to be cut short, and lifts it once that has come.
    fn limit(&mut self, name: &str, offset: usize, len: usize) {
        let Some(Fault { what: What::Limited(bytes), n, span, .. }) =
            self.fault.filter(|fault| fault.is_for(Op::Write, name))
        else {
            return;
        };
        if self.matched + 1 == n {
            self.limited = FileSizeLimit::set(offset + len + bytes);
        } else if let Some(FileSizeLimit(end)) = self.limited {
            // Cut short, unless it was shorter anyway or stands somewhere else.
            let short = offset + len == end;
            if short {
                self.strike(name);
            }
            if !short || !span.covers(self.strikes) {
                self.limited = None;
            }
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound.max(1) as u64)).unwrap_or(0)
    }

    fn read(&mut self, file: u64, offset: usize, len: usize) -> Result<Vec<u8>, i32> {
        let name = self.media.name_of(file).unwrap_or_default().to_owned();
        let what = self.judge(Op::Read, &name)?;
        let bytes = self.media.bytes(file).ok_or(ESTALE)?;
        let start = offset.min(bytes.len());
        let mut bytes = bytes[start..(start + len).min(bytes.len())].to_vec();
        match what {
            Some(What::Fails(errno)) => return Err(errno),
            Some(What::Half) if bytes.len() > SECTOR => bytes.truncate(bytes.len() / 2 / SECTOR * SECTOR),
            Some(What::Unaligned) if bytes.len() > SECTOR => bytes.truncate(bytes.len() / 2 + 1),
            Some(What::Flip) if self.rotten.is_none() && !bytes.is_empty() => {
                let at = self.below(bytes.len());
                self.rotten = Some((file, start + at, 1 << self.rng.below(8)));
            }
            _ => {}
        }
        if let Some((rotten, at, mask)) = self.rotten
            && rotten == file
            && let Some(byte) = at.checked_sub(start).and_then(|at| bytes.get_mut(at))
        {
            *byte ^= mask;
            if self.fault.is_some_and(|fault| fault.span == Span::Once) {
                // Once: no other read will see it. The strike is over, too.
                self.rotten = Some((u64::MAX, 0, 0));
            }
        }
        Ok(bytes)
    }
}

/// The disk's switchboard, shared by the file system that serves it and the rig that torments it.
pub(crate) struct Controller(Mutex<State>);

impl Controller {
    pub(crate) fn new(first_file: u64) -> Self {
        Self(Mutex::new(State {
            media: Media::new(first_file),
            left: None,
            counts: BTreeMap::new(),
            fault: None,
            matched: 0,
            strikes: 0,
            first: None,
            rotten: None,
            limited: None,
            rng: Rng::new(0),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What a rig does.

    /// An empty disk that is well; whatever chance decides follows from the seed.
    pub(crate) fn format(&self, seed: u64) {
        let mut state = self.state();
        let media = state.media.emptied();
        (state.media, state.left, state.rng) = (media, None, Rng::new(seed));
        state.arm(None);
    }

    /// From now on there is a fault; operations are counted from 0.
    pub(crate) fn arm(&self, fault: Option<Fault>) {
        self.state().arm(fault);
    }

    /// No fault any more; how often there was one is still known.
    pub(crate) fn mend(&self) {
        let mut state = self.state();
        (state.fault, state.rotten, state.limited) = (None, None, None);
    }

    /// How many operations there were of each kind since a fault was armed.
    pub(crate) fn counts(&self) -> BTreeMap<Op, u64> {
        self.state().counts.clone()
    }

    /// How often the fault struck, and when first.
    pub(crate) fn strikes(&self) -> (u64, Option<Strike>) {
        let state = self.state();
        (state.strikes, state.first.clone())
    }

    /// Cuts the power: everything fails until it is back.
    pub(crate) fn cut_power(&self) {
        self.state().cut_power();
    }

    pub(crate) fn is_off(&self) -> bool {
        self.state().left.is_some()
    }

    /// The power is back, and what the cut left is on the disk. Nobody may have a file open.
    pub(crate) fn restore_power(&self) {
        let mut state = self.state();
        if let Some(left) = state.left.take() {
            state.media = left;
        }
    }

    /// Every file as it is seen now.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let bytes = |file| state.media.bytes(file).unwrap_or_default().to_vec();
        state.media.names().map(|(name, file)| (name.to_owned(), bytes(file))).collect()
    }

    // What the file system asks.

    /// Looks at the disk, uncounted, unless the power is off.
    pub(super) fn look<T>(&self, look: impl FnOnce(&mut Media) -> Result<T, i32>) -> Result<T, i32> {
        let mut state = self.state();
        if state.left.is_some() {
            return Err(EIO);
        }
        look(&mut state.media)
    }

    /// An operation that happens whole or not at all.
    pub(super) fn act<T>(&self, op: Op, name: &str, act: impl FnOnce(&mut Media) -> Result<T, i32>) -> Result<T, i32> {
        self.after_delay(|state| {
            let what = state.judge(op, name)?;
            state.carry_out(what, act)
        })
    }

    pub(super) fn write(&self, file: u64, offset: usize, data: &[u8], dsync: bool) -> Result<usize, i32> {
        self.after_delay(|state| state.write(file, offset, data, dsync))
    }

    pub(super) fn read(&self, file: u64, offset: usize, len: usize) -> Result<Vec<u8>, i32> {
        self.after_delay(|state| state.read(file, offset, len))
    }

    pub(super) fn flush(&self, file: u64) -> Result<(), i32> {
        self.after_delay(|state| {
            let name = state.media.name_of(file).unwrap_or_default().to_owned();
            let what = state.judge(Op::Flush, &name)?;
            if what == Some(What::EIO) {
                state.media.drop_unflushed(file);
            }
            state.carry_out(what, |media| {
                media.flush(file);
                Ok(())
            })
        })
    }

    /// Does it; answers late if it is to be late. The disk goes on with other things meanwhile.
    fn after_delay<T>(&self, act: impl FnOnce(&mut State) -> Result<T, i32>) -> Result<T, i32> {
        let mut state = self.state();
        let before = state.strikes;
        let result = act(&mut state);
        let late = match state.fault.map(|fault| fault.what) {
            Some(What::Late(ms)) if state.strikes > before => ms,
            _ => 0,
        };
        drop(state);
        if late > 0 {
            thread::sleep(Duration::from_millis(late));
        }
        result
    }
}
