//! Appends by number of callers: against the floor, the peers, what people write, and ringwal without a disk.

use ringwal::engines::Failure;
use ringwal::engines::compare::{Candidate, Leg};
use ringwal::engines::report::short;

use super::{Bench, Goal, median, own, rate, ratios};

/// One caller: p50 against the floor, appends per second against the best peer.
pub fn one(bench: &mut Bench) -> Result<(), Failure> {
    let legs = against_peers(bench, 1, &["floor"])?;
    let method = legs.iter().find(|leg| leg.engine == "floor").map_or("", |leg| leg.sample.method);
    for name in own() {
        let p50 = |leg: &Leg| leg.sample.latency_us(0.5);
        let detail =
            format!("p50 {:.0} us, floor {:.0} us by {method}", median(&legs, name, p50), median(&legs, "floor", p50));
        let values = ratios(&legs, name, "floor", p50);
        bench.keep(&format!("{name}, 1 caller: p50 against floor"), Goal::AtMost(1.10), &values, &detail)?;
    }
    keep_against_best(bench, &legs, 1, 1.0)
}

/// 16 callers.
pub fn sixteen(bench: &mut Bench) -> Result<(), Failure> {
    let legs = against_peers(bench, 16, &[])?;
    keep_against_best(bench, &legs, 16, 2.0)
}

/// 256 callers: against the best peer, `naive` and `threadpool`, each on the file that is faster.
pub fn many(bench: &mut Bench) -> Result<(), Failure> {
    let baselines = ["naive/grow", "naive/direct", "threadpool/grow", "threadpool/direct"];
    let legs = against_peers(bench, 256, &baselines)?;
    keep_against_best(bench, &legs, 256, 10.0)?;
    for (family, bound) in [("naive", 150.0), ("threadpool", 60.0)] {
        let files = [format!("{family}/grow"), format!("{family}/direct")];
        let best = best_of(&legs, files.iter().map(String::as_str)).unwrap_or_default();
        for name in own() {
            let detail = format!("{}/s against {} at {}/s", words(&legs, name), best, words(&legs, &best));
            let what = format!("{name}, 256 callers against {family}");
            bench.keep(&what, Goal::AtLeast(bound), &ratios(&legs, name, &best, rate), &detail)?;
        }
    }
    Ok(())
}

/// 1024 and 4096 callers against the best peer at the callers it does best with; 4096 against ringwal without a disk.
pub fn most(bench: &mut Bench) -> Result<(), Failure> {
    let peers: Vec<Candidate> = bench.peers.iter().map(|peer| Candidate::new(*peer)).collect();
    for callers in [1024, 4096] {
        // Peers find their best number of threads up to 256: more callers than that are one row to them.
        let mut candidates = bench.candidates(&own());
        candidates.extend(bench.candidates(&["null"]));
        candidates.extend(peers.iter().copied());
        let comparison = bench.comparison(callers);
        let legs = bench.legs(&comparison, &candidates)?;
        keep_against_best(bench, &legs, callers, 25.0)?;
        if callers == 4096 {
            for name in own() {
                let detail = format!("{}/s, null {}/s", words(&legs, name), words(&legs, "null"));
                let values = ratios(&legs, name, "null", rate);
                bench.keep(&format!("{name}, 4096 callers against null"), Goal::AtLeast(0.6), &values, &detail)?;
            }
        }
    }
    Ok(())
}

fn against_peers(bench: &mut Bench, callers: usize, more: &[&str]) -> Result<Vec<Leg>, Failure> {
    let mut candidates = bench.candidates(&own());
    candidates.extend(bench.peers.iter().map(|peer| Candidate::new(*peer)));
    candidates.extend(bench.candidates(more));
    let comparison = bench.comparison(callers);
    bench.legs(&comparison, &candidates)
}

fn keep_against_best(bench: &mut Bench, legs: &[Leg], callers: usize, bound: f64) -> Result<(), Failure> {
    let names: Vec<&str> = bench.peers.iter().map(|peer| peer.name()).collect();
    let Some(best) = best_of(legs, names.iter().copied()) else { return Err("no peer ran".into()) };
    let threads = legs.iter().rev().find(|leg| leg.engine == best).and_then(|leg| leg.sample.threads).unwrap_or(0);
    let each: Vec<String> = names.iter().map(|name| format!("{name} {}", words(legs, name))).collect();
    for name in own() {
        let detail = format!("{}/s; best is {best} with {threads} threads; {}", words(legs, name), each.join(", "));
        let what = format!("{name}, {callers} callers against the best peer");
        bench.keep(&what, Goal::AtLeast(bound), &ratios(legs, name, &best, rate), &detail)?;
    }
    Ok(())
}

/// The name with the highest median rate.
fn best_of<'a>(legs: &[Leg], names: impl Iterator<Item = &'a str>) -> Option<String> {
    let rated = names.map(|name| (name, median(legs, name, rate))).filter(|(_, rate)| !rate.is_nan());
    rated.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(name, _)| name.to_owned())
}

fn words(legs: &[Leg], engine: &str) -> String {
    short(median(legs, engine, rate))
}
