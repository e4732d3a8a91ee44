//! The whole log on a simulated disk: seeded random histories, and every crash point of small workloads.
//!
//! `RINGWAL_SIM_SEED=n cargo test --test sim` replays one history; `RINGWAL_SIM_RUNS=n` sets how many there are.

#[cfg(ringwal_seeded_bugs)]
#[allow(dead_code, reason = "each program uses its part")]
#[path = "../common/bugs.rs"]
mod bugs;
mod copies;
mod crowd;
mod exhaustive;
mod history;
mod random;
mod rot;
#[cfg(ringwal_seeded_bugs)]
mod seeded;
mod world;
