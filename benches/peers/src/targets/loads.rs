//! CPU per append, rotations inside the window, and the open loop.

use ringwal::engines::Failure;
use ringwal::engines::compare::{Comparison, Leg, Rate};
use ringwal::engines::report::short;

use super::{Bench, Goal, median, own, rate, ratios};

/// Callers of the rows below: enough for full batches, few enough that one more wake-up shows.
const CALLERS: usize = 256;
/// How many rotations there have to be in a window.
const ROTATIONS: f64 = 10.0;
const SEGMENT_BYTES_MIN: f64 = (4 << 20) as f64;
const SEGMENT_BYTES_MAX: f64 = (64 << 20) as f64;

/// CPU per append at 2048 callers; the ratio to `null` carries to other machines.
pub fn cpu(bench: &mut Bench) -> Result<(), Failure> {
    let mut names = own();
    names.push("null");
    let (candidates, comparison) = (bench.candidates(&names), bench.comparison(2048));
    let legs = bench.legs(&comparison, &candidates)?;
    let cpu = |leg: &Leg| leg.sample.cpu_us_per_append();
    for name in own() {
        let values: Vec<f64> = legs.iter().filter(|leg| leg.engine == name).map(cpu).collect();
        let to_null = super::Spread::of(ratios(&legs, name, "null", cpu).into_iter()).median;
        let detail = format!(
            "{}/s; null {:.2} us, ratio {to_null:.2}",
            short(median(&legs, name, rate)),
            median(&legs, "null", cpu)
        );
        bench.keep(&format!("{name}, 2048 callers: CPU us per append"), Goal::AtMost(0.3), &values, &detail)?;
    }
    Ok(())
}

/// p99.99 with at least ten rotations in the window, against the same load on one large segment, round by round.
pub fn rotations(bench: &mut Bench) -> Result<(), Failure> {
    for name in own() {
        let candidates = bench.candidates(&[name]);
        let seconds = bench.seconds * 2.0;
        let base = Comparison { rounds: 1, seconds, warm_up: 0.2, ..bench.comparison(CALLERS) };
        // How much one window writes: counted in small segments.
        let probe = Comparison { segment_bytes: Some(8 << 20), ..base.clone() };
        let legs = bench.legs(&probe, &candidates)?;
        let bytes = legs.iter().map(|leg| (leg.sample.rotations + 1) as f64 * (8 << 20) as f64).sum::<f64>();
        let small = (bytes / (ROTATIONS * 1.5)).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX) as u64 & !0xf_ffff;
        let large = ((bytes * 2.5) as u64).max(256 << 20).next_power_of_two();
        let with = Comparison { segment_bytes: Some(small), ..base.clone() };
        let without = Comparison { segment_bytes: Some(large), ..base };
        let (mut values, mut counts, mut tails) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..bench.rounds {
            // In turn first: neither is always the one that comes upon a warm disk.
            let order = if round % 2 == 0 { [&with, &without] } else { [&without, &with] };
            let [first, second] = order.map(|comparison| bench.legs(comparison, &candidates));
            let (mut first, mut second) = (first?, second?);
            let (Some(first), Some(second)) = (first.pop(), second.pop()) else { return Err("no run".into()) };
            let (with, without) = if round % 2 == 0 { (first, second) } else { (second, first) };
            counts.push(format!("{} and {}", with.sample.rotations, without.sample.rotations));
            let [tail_with, tail_without] = [&with, &without].map(|leg| leg.sample.latency_us(0.9999));
            tails.push(tail_without);
            values.push(tail_with / tail_without);
        }
        let detail = format!(
            "{CALLERS} callers, {seconds} s, segments of {} and {} MiB; rotations {}; p99.99 without {:.0} us",
            small >> 20,
            large >> 20,
            counts.join(", "),
            super::Spread::of(tails.into_iter()).median
        );
        bench.keep(&format!("{name}: p99.99 with rotations against without"), Goal::AtMost(2.0), &values, &detail)?;
    }
    Ok(())
}

/// p99.9 against p50 at half the rate of the closed loop just before.
pub fn open_loop(bench: &mut Bench) -> Result<(), Failure> {
    let candidates = bench.candidates(&own());
    let comparison = Comparison { rate: Some(Rate::Share(0.5)), ..bench.comparison(CALLERS) };
    let legs = bench.legs(&comparison, &candidates)?;
    for name in own() {
        let open: Vec<&Leg> = legs.iter().filter(|leg| leg.engine == name && leg.rate.is_some()).collect();
        let values: Vec<f64> =
            open.iter().map(|leg| leg.sample.latency_us(0.999) / leg.sample.latency_us(0.5)).collect();
        let middle = |figure: &dyn Fn(&Leg) -> f64| super::Spread::of(open.iter().map(|leg| figure(leg))).median;
        let behind: u64 = open.iter().map(|leg| leg.sample.behind).sum();
        let detail = format!(
            "at most {CALLERS} at a time, {}/s; p50 {:.0} us, p99.9 {:.0} us; {behind} arrivals not served",
            short(middle(&|leg| leg.rate.map_or(f64::NAN, |(rate, _)| rate))),
            middle(&|leg| leg.sample.latency_us(0.5)),
            middle(&|leg| leg.sample.latency_us(0.999))
        );
        bench.keep(
            &format!("{name}, open loop at half the peak: p99.9 against p50"),
            Goal::AtMost(5.0),
            &values,
            &detail,
        )?;
    }
    Ok(())
}
