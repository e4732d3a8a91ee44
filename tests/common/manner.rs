//! How a writer under test makes its batches durable: by each method in turn, unless one is pinned.

use std::process::Command;

use ringwal::{Method, Options};

use super::rig::env_count;

/// A method, and how many batches may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Manner {
    word: &'static str,
    pub(crate) depth: usize,
}

impl Manner {
    /// Of the history with this number. `RINGWAL_METHOD` pins the method, by its word, and `RINGWAL_DEPTH` the depth.
    pub(crate) fn of(number: usize) -> Self {
        let method = pinned().unwrap_or(Method::ALL[number % Method::ALL.len()]);
        let depth = env_count("RINGWAL_DEPTH").unwrap_or([1, 2, 4][number / Method::ALL.len() % 3]);
        Self { word: method.word(), depth }
    }

    /// One of every method, or the pinned one.
    pub(crate) fn each() -> Vec<Self> {
        let count = if pinned().is_some() { 1 } else { Method::ALL.len() };
        // Depth 2 as well as 1 without being asked: what is pinned, is pinned.
        (0..count)
            .map(|number| Self { depth: env_count("RINGWAL_DEPTH").unwrap_or(1 + number % 2), ..Self::of(number) })
            .collect()
    }

    pub(crate) fn word(self) -> &'static str {
        self.word
    }

    /// As a child of this process finds it, with [`Manner::of`] any number.
    pub(crate) fn tell(self, command: &mut Command) {
        command.env("RINGWAL_METHOD", self.word).env("RINGWAL_DEPTH", self.depth.to_string());
    }

    pub(crate) fn set(self, options: Options) -> Options {
        options.method(Method::from_word(self.word).unwrap()).flight_max(self.depth)
    }
}

/// The method that the environment pins.
fn pinned() -> Option<Method> {
    let word = std::env::var("RINGWAL_METHOD").ok()?;
    Some(Method::from_word(&word).unwrap_or_else(|| panic!("RINGWAL_METHOD={word} is none of {:?}", Method::ALL)))
}
