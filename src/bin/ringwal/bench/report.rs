//! What `bench` prints.

use std::io::{self, Write};
use std::path::Path;

use ringwal::engines::{Sample, family};
use serde_json::json;

use super::Leg;

/// The baselines that ratios are to.
const REFERENCES: [&str; 2] = ["threadpool", "naive"];

/// One line for one run.
pub(super) fn json(leg: &Leg, payload: usize) -> String {
    let Sample { latency_ns, method, .. } = &leg.sample;
    let micros = |nanos: u64| round(nanos as f64 / 1e3);
    json!({
        "engine": leg.engine,
        "callers": leg.callers,
        "payload": payload,
        "per_s": round(leg.sample.per_second()),
        "p50_us": micros(latency_ns.value_at_quantile(0.5)),
        "p99_us": micros(latency_ns.value_at_quantile(0.99)),
        "p999_us": micros(latency_ns.value_at_quantile(0.999)),
        "max_us": micros(latency_ns.max()),
        "cpu_us_per": round(leg.sample.cpu_us_per_append()),
        "records_per_flush": round(leg.sample.records_per_flush),
        "method": method,
    })
    .to_string()
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Where, on what, and what the disk can do at best.
pub(super) fn heading(
    out: &mut impl Write,
    dir: &Path,
    device: &str,
    legs: &[Leg],
    floor: Option<&Sample>,
) -> io::Result<()> {
    let samples = || legs.iter().filter(|leg| leg.engine == "floor").map(|leg| &leg.sample).chain(floor);
    let p50 = Spread::of(samples().map(|sample| sample.latency_ns.value_at_quantile(0.5) as f64 / 1e3));
    let rate = Spread::of(samples().map(Sample::per_second));
    writeln!(
        out,
        "{}: {device}; floor: one durable 4 KiB overwrite takes {:.0} us ({:.0}..{:.0}), {}/s without any hand-off",
        dir.display(),
        p50.median,
        p50.min,
        p50.max,
        short(rate.median)
    )?;
    writeln!(
        out,
        "a virtual disk may acknowledge a flush without doing it: compare within this table, not with other machines"
    )
}

/// The rows for one number of callers.
pub(super) fn table(out: &mut impl Write, legs: &[Leg], callers: u32) -> io::Result<()> {
    let rows = Row::all(legs, callers);
    let references: Vec<(&str, Option<&Row<'_>>)> =
        REFERENCES.iter().map(|name| (*name, fastest(&rows, name))).collect();
    writeln!(out, "\n{callers} {}", if callers == 1 { "caller" } else { "callers" })?;
    write!(
        out,
        "{:<20} {:>7} {:<17} {:>8} {:>8} {:>9} {:>9}",
        "engine", "per s", "(min..max)", "p50 us", "p99 us", "rec/flush", "cpu us"
    )?;
    for (name, reference) in &references {
        if reference.is_some() {
            write!(out, "  {:<22}", format!("x {name}"))?;
        }
    }
    writeln!(out)?;
    for row in &rows {
        let fastest =
            references.iter().any(|(_, reference)| reference.is_some_and(|row_of| row_of.engine == row.engine));
        row.print(out, if fastest { "*" } else { "" })?;
        for reference in references.iter().filter_map(|(_, reference)| *reference) {
            write!(out, "  {:<22}", row.ratio_to(reference))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The kind of file on which a baseline is faster.
fn fastest<'a>(rows: &'a [Row<'a>], name: &str) -> Option<&'a Row<'a>> {
    let kinds = rows.iter().filter(|row| family(row.engine) == name);
    kinds.max_by(|a, b| a.rate().median.total_cmp(&b.rate().median))
}

/// One engine's rounds.
struct Row<'a> {
    engine: &'static str,
    /// In the order of the rounds.
    legs: Vec<&'a Leg>,
}

impl<'a> Row<'a> {
    fn all(legs: &'a [Leg], callers: u32) -> Vec<Self> {
        let mut rows: Vec<Self> = Vec::new();
        // The floor has one caller, whatever the others have.
        for leg in legs.iter().filter(|leg| leg.callers == callers || leg.engine == "floor") {
            match rows.iter_mut().find(|row| row.engine == leg.engine) {
                Some(row) => row.legs.push(leg),
                None => rows.push(Self { engine: leg.engine, legs: vec![leg] }),
            }
        }
        rows.sort_by_key(|row| row.engine == "floor");
        rows
    }

    fn rate(&self) -> Spread {
        self.spread(Sample::per_second)
    }

    fn spread(&self, value: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.legs.iter().map(|leg| value(&leg.sample)))
    }

    fn print(&self, out: &mut impl Write, mark: &str) -> io::Result<()> {
        let rate = self.rate();
        let quantile = |q: f64| self.spread(|sample| sample.latency_ns.value_at_quantile(q) as f64 / 1e3).median;
        write!(
            out,
            "{:<20} {:>7} {:<17} {:>8.0} {:>8.0} {:>9.1} {:>9.2}",
            format!("{}{mark}", self.engine),
            short(rate.median),
            format!("({}..{})", short(rate.min), short(rate.max)),
            quantile(0.5),
            quantile(0.99),
            self.spread(|sample| sample.records_per_flush).median,
            self.spread(Sample::cpu_us_per_append).median,
        )
    }

    /// The ratios of the rounds: runs of one round stand next to each other in time.
    fn ratio_to(&self, other: &Row<'_>) -> String {
        let ratios = self.legs.iter().filter_map(|leg| {
            let beside = other.legs.iter().find(|other| other.round == leg.round)?;
            Some(leg.sample.per_second() / beside.sample.per_second().max(1e-9))
        });
        let Spread { min, median, max } = Spread::of(ratios);
        format!("{median:.2} ({min:.2}..{max:.2})")
    }
}

struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.wrapping_sub(1)), at(middle)) };
        Self { min: at(0), median, max: at(values.len().wrapping_sub(1)) }
    }
}

/// 12.3k, 1.05M.
fn short(value: f64) -> String {
    match value {
        value if value >= 999_500.0 => format!("{:.2}M", value / 1e6),
        value if value >= 999.5 => format!("{:.1}k", value / 1e3),
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0].into_iter());
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.5, 4.0));
        assert!(Spread::of(std::iter::empty()).median.is_nan());
    }

    #[test]
    fn rates_are_short() {
        assert_eq!(
            [short(7.0), short(12_345.0), short(999_400.0), short(1_050_000.0)],
            ["7", "12.3k", "999.4k", "1.05M"]
        );
    }
}
