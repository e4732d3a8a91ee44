//! One history from its seed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::world::World;

/// What the histories met: shown, so that a rig that tests nothing is seen.
pub(crate) type Tally = BTreeMap<String, u64>;

/// One history; a panic counts as a violation.
pub(crate) fn history(seed: u64, tally: &mut Tally) -> Result<(), String> {
    let run = AssertUnwindSafe(|| World::new(seed, tally).run());
    catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("A10: panic: {}", text.unwrap_or_default()))
    })
}
