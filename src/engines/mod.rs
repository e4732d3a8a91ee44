//! The engines that `ringwal bench` and criterion compare: ringwal itself, and what people write instead.
//!
//! All of them write the same bytes per record (`frame`): same header, same checksum. Each baseline exists on two kinds
//! of file: `grow`, a growing buffered file as people write it, and `direct`, a file prepared exactly like ringwal's
//! (zero-filled, O_DIRECT), so that a ratio to the faster of the two says what group commit and the ring are worth, not
//! what preparing files is worth.
//!
//! Closed loop: each caller appends one record, waits until it is durable, and repeats. Open loop: appends arrive at a
//! fixed rate (`pace`).
//!
//! The same load, comparison and table serve other programs' engines, too: implement [`Engine`] with [`with_threads`].

mod async_load;
mod channel;
pub mod compare;
pub mod facts;
mod file;
mod floor;
mod frame;
mod leader;
mod load;
mod local;
mod meter;
mod naive;
mod own;
mod pace;
pub mod report;
mod threadpool;
mod tokio_uring;

use std::path::Path;

pub use load::{Counts, Limit, Load, Pins, Sample, THREADS_MAX, with_threads};
pub use own::METHODS;

use file::Kind;

/// What goes wrong in an engine, ready to show.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One way to make records durable.
pub trait Engine: Send + Sync {
    /// Its name; for a baseline, with the kind of file behind a slash.
    fn name(&self) -> &'static str;

    /// Whether the number of callers means nothing to it.
    fn ignores_callers(&self) -> bool {
        false
    }

    /// Whether [`Pins`] mean anything to it.
    fn takes_pins(&self) -> bool {
        false
    }

    /// Puts the load on a fresh log in the empty directory `dir`.
    ///
    /// # Errors
    /// The first failure of any caller.
    fn run(&self, dir: &Path, load: &Load) -> Result<Sample, Failure>;
}

/// All engines, each kind of file for itself.
pub static ENGINES: [&dyn Engine; 16] = [
    &own::RINGWAL,
    &local::RINGWAL,
    &own::SYSCALLS,
    &own::NULL,
    &local::NULL,
    &leader::Leader { name: "leader/grow", kind: Kind::Grow },
    &leader::Leader { name: "leader/direct", kind: Kind::Direct },
    &channel::Channel { name: "channel/grow", kind: Kind::Grow },
    &channel::Channel { name: "channel/direct", kind: Kind::Direct },
    &threadpool::ThreadPool { name: "threadpool/grow", kind: Kind::Grow },
    &threadpool::ThreadPool { name: "threadpool/direct", kind: Kind::Direct },
    &tokio_uring::TokioUring { name: "tokio-uring/grow", kind: Kind::Grow },
    &tokio_uring::TokioUring { name: "tokio-uring/direct", kind: Kind::Direct },
    &naive::Naive { name: "naive/grow", kind: Kind::Grow },
    &naive::Naive { name: "naive/direct", kind: Kind::Direct },
    &floor::Floor,
];

/// The names that [`find`] knows: those of families, which a baseline's two kinds of file are.
#[must_use]
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = ENGINES.iter().map(|engine| family(engine.name())).collect();
    names.dedup();
    names
}

/// What stands before the slash.
#[must_use]
pub fn family(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

/// The engines of that name: one, or both kinds of file of a baseline. None if there is no such engine.
#[must_use]
pub fn find(name: &str) -> Vec<&'static dyn Engine> {
    ENGINES.iter().copied().filter(|engine| engine.name() == name || family(engine.name()) == name).collect()
}

/// Where a log under `path` begins to look for the best way to fly its batches, and what the device says that suggests so.
#[must_use]
pub fn first_choice(path: &Path) -> Option<String> {
    let facts = crate::disk::probe::DeviceFacts::of(path).ok()?;
    let method = crate::log::prior(&facts).begins_with();
    Some(format!("on {}: a log begins with {method} and finds out", facts::device(&facts, path)))
}
