//! The whole log on a simulated disk: seeded random histories, and every crash point of small workloads.
//!
//! `RINGWAL_SIM_SEED=n cargo test --test sim` replays one history; `RINGWAL_SIM_RUNS=n` sets how many there are.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and shows what it counted")]

mod exhaustive;
mod random;
#[cfg(ringwal_seeded_bugs)]
mod seeded;
mod world;
