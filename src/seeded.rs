//! Seeded bugs: deliberate mistakes that the tests must catch, or their silence means nothing.
//!
//! Compiled in only under `--cfg ringwal_seeded_bugs`, which no release sets, and then chosen at run time with
//! `choose` or the environment variable `RINGWAL_SEEDED_BUG`. Otherwise [`is`] is the constant `false`.

/// Whether the deliberate mistake `name` is switched on.
#[cfg(not(ringwal_seeded_bugs))]
#[inline(always)]
#[must_use]
pub const fn is(_name: &str) -> bool {
    false
}

#[cfg(ringwal_seeded_bugs)]
pub use on::{choose, is};

#[cfg(ringwal_seeded_bugs)]
mod on {
    use std::sync::RwLock;

    static CHOSEN: RwLock<Option<String>> = RwLock::new(None);

    /// Switches `name` on, or everything off.
    pub fn choose(name: Option<&str>) {
        *CHOSEN.write().unwrap_or_else(|e| e.into_inner()) = Some(name.unwrap_or("").to_owned());
    }

    /// Whether the deliberate mistake `name` is switched on.
    #[must_use]
    pub fn is(name: &str) -> bool {
        let chosen = CHOSEN.read().unwrap_or_else(|e| e.into_inner());
        if let Some(chosen) = chosen.as_deref() {
            return chosen == name;
        }
        drop(chosen);
        choose(std::env::var("RINGWAL_SEEDED_BUG").ok().as_deref());
        is(name)
    }
}
