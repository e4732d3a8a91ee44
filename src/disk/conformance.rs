//! What every real disk must do by every method, once for all of them: each function is a test of one promise of [`Disk`].

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::libc::{EFBIG, EINVAL};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

use super::alarm::{Alarm, gather};
use super::file::RealDirectory;
use super::scratch::{Scratch, alone};
use super::{Buffer, Completion, Directory, Disk, FileSlot, Method, Notify, SegmentFile, Write};
use crate::error::{Op, OpenError};

const BLOCK: usize = 4096;
const LONG: Duration = Duration::from_secs(60);
/// Set for the child process of [`a_short_write_is_finished_or_fails`].
const CHILD: &str = "RINGWAL_TEST_FILE_LIMIT";

pub(super) struct Rig<D> {
    pub(super) disk: D,
    pub(super) directory: RealDirectory,
    pub(super) file: Arc<dyn SegmentFile>,
    pub(super) slot: FileSlot,
    pub(super) notify: Notify,
    /// How its writes ask to become durable.
    pub(super) method: Method,
    _scratch: Scratch,
}

/// A disk with one attached file of `blocks` written blocks, whose writes ask for `method`.
pub(super) fn rig<D: Disk>(mut disk: D, method: Method, blocks: usize) -> Rig<D> {
    let scratch = Scratch::new();
    let directory = RealDirectory::open(&scratch, false).unwrap();
    let file = directory.create("a.seg").unwrap();
    file.write_at(&Buffer::new(blocks * BLOCK), 0).unwrap();
    file.sync().unwrap();
    let slot = disk.attach(&file).unwrap();
    Rig { disk, directory, file, slot, notify: Notify::new().unwrap(), method, _scratch: scratch }
}

impl<D: Disk> Rig<D> {
    /// A write of `blocks` blocks filled with `fill`.
    pub(super) fn write(&self, token: u64, block: usize, blocks: usize, fill: u8) -> Write {
        let mut buffer = Buffer::new(blocks * BLOCK);
        buffer.fill(fill);
        let (offset, method) = ((block * BLOCK) as u64, self.method);
        Write { token, file: self.slot, offset, len: blocks * BLOCK, buffer, method }
    }

    /// Waits for everything in flight.
    pub(super) fn finish(&mut self, wakeable: bool) -> Vec<Completion> {
        let mut out = Vec::new();
        while self.disk.in_flight() > 0 {
            self.disk.wait(&self.notify, wakeable, Some(LONG));
            self.disk.reap(&mut out);
        }
        out
    }

    fn content(&self, block: usize, blocks: usize) -> Buffer {
        let mut buffer = Buffer::new(blocks * BLOCK);
        assert_eq!(self.file.read_at(&mut buffer, (block * BLOCK) as u64).unwrap(), blocks * BLOCK);
        buffer
    }
}

/// A write comes back once, with its token and its buffer, and its bytes are in the file.
pub(super) fn a_write_comes_back_with_its_buffer<D: Disk>(disk: D, method: Method) {
    let mut rig = rig(disk, method, 8);
    let mut pool = rig.disk.pool(2 * BLOCK, 16 * BLOCK).unwrap();
    for round in 1..=20u8 {
        let mut buffer = pool.take(2 * BLOCK).unwrap();
        buffer.fill(round);
        let (at, fixed) = (buffer.as_ptr(), buffer.fixed());
        let write =
            Write { token: u64::from(round), file: rig.slot, offset: BLOCK as u64, len: 2 * BLOCK, buffer, method };
        rig.disk.submit(write);
        rig.disk.kick();
        assert_eq!(rig.disk.in_flight(), 1);
        let mut done = rig.finish(round % 2 == 0);
        assert_eq!((done.len(), rig.disk.in_flight()), (1, 0));
        let Completion { token, buffer, result, method: used } = done.remove(0);
        assert!(rig.disk.methods().contains(&used) && (used == method || !rig.disk.methods().contains(&method)));
        assert_eq!((token, result, buffer.as_ptr(), buffer.fixed()), (u64::from(round), Ok(()), at, fixed));
        pool.put(buffer);
        assert!(rig.content(1, 2).iter().all(|byte| *byte == round));
        assert!(rig.content(3, 5).iter().all(|byte| *byte == 0));
    }
    rig.disk.detach(rig.slot);
}

/// Many writes at once, more than fit into a small queue, from buffers of the pool and of their own.
pub(super) fn many_in_flight<D: Disk>(disk: D, method: Method) {
    let mut rig = rig(disk, method, 64);
    for round in 1..=5u8 {
        for block in 0..64 {
            rig.disk.submit(rig.write(block as u64, block, 1, round.wrapping_add(u8::try_from(block).unwrap())));
            if block % 7 == 0 {
                rig.disk.kick();
            }
        }
        let done = rig.finish(false);
        assert!(done.iter().all(|completion| completion.result.is_ok()));
        assert_eq!(done.iter().map(|completion| completion.token).collect::<HashSet<_>>().len(), 64);
        let content = rig.content(0, 64);
        for (block, bytes) in content.chunks(BLOCK).enumerate() {
            assert!(bytes.iter().all(|byte| usize::from(*byte) == block + usize::from(round)));
        }
    }
}

/// A write that the file refuses fails, with errno, path and offset, and leaves the disk usable.
pub(super) fn a_refused_write_is_told<D: Disk>(disk: D, method: Method) {
    let mut rig = rig(disk, method, 4);
    let mut write = rig.write(7, 1, 1, 1);
    if rig.directory.is_buffered() {
        write.offset = 1 << 62;
    } else {
        write.len = 100;
    }
    let offset = write.offset;
    rig.disk.submit(write);
    let done = rig.finish(false);
    let failure = done[0].result.clone().unwrap_err();
    let errno = if rig.directory.is_buffered() { EFBIG } else { EINVAL };
    assert_eq!((done[0].token, failure.op, failure.errno, failure.offset), (7, Op::Write, errno, offset));
    assert_eq!(failure.path, *rig.file.path());
    rig.disk.submit(rig.write(8, 1, 1, 1));
    assert_eq!(rig.finish(true)[0].result, Ok(()));
    let mut nowhere = rig.write(9, 1, 1, 1);
    nowhere.file = FileSlot(77);
    rig.disk.submit(nowhere);
    assert!(rig.finish(true)[0].result.is_err());
}

/// A write across the process's file size limit: the first part is written, the rest fails, and neither is called
/// durable. In a child process (`test` is the calling test's name), which the limit ends with.
pub(super) fn a_short_write_is_finished_or_fails<D: Disk>(disk: impl Fn() -> D, methods: &[Method], test: &str) {
    if std::env::var_os(CHILD).is_none() {
        let _turn = alone();
        let child = Command::new(std::env::current_exe().unwrap()).args(["--exact", test]).env(CHILD, "1").output();
        let output = child.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    #[expect(unsafe_code, reason = "signal dispositions are unsafe to change")]
    // SAFETY: ignoring a signal runs no handler.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    let limit = 3 * BLOCK as u64;
    setrlimit(Resource::RLIMIT_FSIZE, limit, limit).unwrap();
    for method in methods {
        let mut rig = rig(disk(), *method, 0);
        rig.disk.submit(rig.write(1, 1, 4, 9));
        let failure = rig.finish(false)[0].result.clone().unwrap_err();
        assert_eq!((failure.op, failure.errno), (Op::Write, EFBIG), "{method}");
        assert_eq!(rig.file.len().unwrap(), limit, "the first part was written");
        assert!(rig.content(1, 2).iter().all(|byte| *byte == 9));
        rig.disk.submit(rig.write(2, 1, 2, 8));
        assert_eq!(rig.finish(false)[0].result, Ok(()));
    }
}

/// Every write flushes the device's cache, as far as the device tells: at least as many flushes as writes that wait for
/// each other. Says nothing where the device has no cache to flush, or writes through what RWF_DSYNC says.
pub(super) fn every_write_is_flushed<D: Disk>(disk: D, method: Method) {
    let mut rig = rig(disk, method, 4);
    let Some(before) = flushes(&*rig.file) else { return };
    let writes = 200;
    for token in 0..writes {
        rig.disk.submit(rig.write(token, 1, 1, 1));
        assert_eq!(rig.finish(false)[0].result, Ok(()));
    }
    let after = flushes(&*rig.file).unwrap_or(0);
    assert!(after - before >= writes, "{method}: {} flushes for {writes} writes", after - before);
}

/// How many flushes the device of `file` has completed; `None` if it does not tell, or needs none.
fn flushes(file: &dyn SegmentFile) -> Option<u64> {
    let dev = nix::sys::stat::fstat(file.fd()?).ok()?.st_dev;
    let (major, minor) = (nix::sys::stat::major(dev), nix::sys::stat::minor(dev));
    let device = std::path::PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let read = |name: &str| std::fs::read_to_string(device.join(name)).ok();
    let queue = |name: &str| read(&format!("queue/{name}")).or_else(|| read(&format!("../queue/{name}")));
    if queue("write_cache")?.trim() != "write back" || queue("fua")?.trim() != "0" {
        return None;
    }
    read("stat")?.split_whitespace().nth(15)?.parse().ok()
}

/// Dropping a disk waits for what was submitted.
pub(super) fn dropping_waits<D: Disk>(disk: D, method: Method) {
    let blocks = 256;
    let mut rig = rig(disk, method, 8 * blocks);
    for part in 0..8 {
        rig.disk.submit(rig.write(0, part * blocks, blocks, 5));
    }
    rig.disk.kick();
    let Rig { disk, file, _scratch, .. } = rig;
    drop(disk);
    let mut content = Buffer::new(8 * blocks * BLOCK);
    file.read_at(&mut content, 0).unwrap();
    assert!(content.iter().all(|byte| *byte == 5));
}

/// A wake-up ends a sleep wherever it happens, and one that nobody waits for stays.
pub(super) fn wake_ups_arrive<D: Disk>(disk: D, method: Method) {
    let mut rig = rig(disk, method, 4);
    let end = AtomicBool::new(false);
    let notify = Notify::new().unwrap();
    let rounds = 60;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                notify.wake();
                thread::yield_now();
            }
        });
        // Also when an assertion fails: the scope waits for the thread.
        let _end = SetOnDrop(&end);
        let mut out = Vec::new();
        for round in 0..rounds {
            rig.disk.submit(rig.write(round, 0, 1, 1));
            rig.disk.kick();
            while rig.disk.in_flight() > 0 {
                rig.disk.wait(&notify, round % 3 > 0, None);
                rig.disk.reap(&mut out);
            }
            // Nothing in flight: only the other thread can end this.
            rig.disk.wait(&notify, true, None);
        }
        assert_eq!(out.iter().filter(|completion| completion.result.is_ok()).count() as u64, rounds);
    });
    notify.wake();
    rig.disk.wait(&notify, true, None);
    rig.disk.wait(&notify, true, Some(Duration::from_millis(1)));
}

/// One descriptor tells of the end of a write, of a wake-up and of a due time; nothing else is needed to find them.
pub(super) fn watching_tells<D: Disk>(disk: D, method: Method) {
    let mut rig = rig(disk, method, 4);
    let alarm = Alarm::new().unwrap();
    let descriptor = gather(&mut rig.disk, &rig.notify, &alarm).unwrap();
    let told = || {
        let mut fds = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
        let told = poll(&mut fds, PollTimeout::from(60_000u16)) == Ok(1);
        rig.notify.empty();
        assert!(told, "nothing is told");
    };
    let mut out = Vec::new();
    // A kernel worker lets go of a request after its completion, and says that there is work once more.
    let quiet = |disk: &mut D| {
        let mut out = Vec::new();
        let quiet = (0..8).any(|_| !disk.watch(&alarm) || (disk.reap(&mut out), false).1);
        assert!(quiet && out.is_empty(), "nothing is left");
    };
    for round in 0..20u8 {
        rig.disk.submit(rig.write(u64::from(round), 0, 1, round));
        rig.disk.kick();
        while rig.disk.in_flight() > 0 {
            if !rig.disk.watch(&alarm) {
                told();
            }
            rig.disk.reap(&mut out);
        }
        assert_eq!(out.pop().map(|completion| completion.result), Some(Ok(())));
        quiet(&mut rig.disk);
        assert!(rig.notify.begin_ring_wait());
        rig.notify.wake();
        told();
        rig.notify.end_ring_wait();
        // What was told meanwhile went with the wake-up: look before each sleep.
        quiet(&mut rig.disk);
        alarm.set(Some(Duration::from_millis(1)), Duration::ZERO).unwrap();
        told();
        quiet(&mut rig.disk);
        alarm.set(None, Duration::from_millis(1)).unwrap();
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The disk keeps a lock that everyone else let go, until it is detached.
pub(super) fn a_held_lock_stays<D: Disk>(disk: D, method: Method) {
    let _turn = alone();
    let mut rig = rig(disk, method, 1);
    let lock = rig.directory.lock(Duration::ZERO).unwrap();
    let slot = rig.disk.hold(lock.as_fd()).unwrap();
    drop(lock);
    assert!(matches!(rig.directory.lock(Duration::ZERO), Err(OpenError::Held { .. })));
    rig.disk.detach(slot);
    // The kernel may close a file of the ring's table a moment later.
    let free = (0..1000).any(|_| {
        thread::sleep(Duration::from_millis(5));
        rig.directory.lock(Duration::ZERO).is_ok()
    });
    assert!(free);
}
