//! One history from its seed.

use crate::world::{Plan, Tally, Violation, World};

/// How a seed's history is drawn.
fn plan(seed: u64) -> Plan {
    Plan { faults: seed % 2 == 1, rot: seed % 3 == 2 }
}

/// One history; a panic counts as a violation.
pub(crate) fn history(seed: u64, tally: &mut Tally) -> Result<u64, Violation> {
    let run = std::panic::AssertUnwindSafe(|| {
        let mut world = World::new(seed, tally);
        let result = world.run(plan(seed));
        if result.is_err() && std::env::var_os("RINGWAL_SIM_SEED").is_some() {
            ringwal::harness::batches(&world.sim).iter().for_each(|batch| println!("{}", batch.text));
        }
        result.map(|()| world.sim.trace())
    });
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Violation { assertion: "A10", text: format!("panic: {}", text.unwrap_or_default()) })
    })
}
