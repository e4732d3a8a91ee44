//! What a comparison prints: a line of JSON for each run, or a table with medians, spread and ratios.

use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use super::compare::Leg;
use super::facts::Facts;
use super::{Sample, family};

/// The baselines that ratios are to, where they take part.
pub const REFERENCES: [&str; 2] = ["threadpool", "naive"];

/// One line for one run.
#[must_use]
pub fn json(leg: &Leg, facts: &Facts) -> String {
    let sample = &leg.sample;
    let micros = |quantile: f64| round(sample.latency_us(quantile));
    json!({
        "engine": leg.engine,
        "callers": leg.callers,
        "payload": leg.payload,
        "round": leg.round,
        "rate": leg.rate.map(|(per_s, _)| round(per_s)),
        "per_s": round(sample.per_second()),
        "p50_us": micros(0.5),
        "p99_us": micros(0.99),
        "p999_us": micros(0.999),
        "p9999_us": micros(0.9999),
        "max_us": round(sample.latency_ns.max() as f64 / 1e3),
        "cpu_us_per": round(sample.cpu_us_per_append()),
        "records_per_flush": round(sample.records_per_flush),
        "method": sample.method,
        "tuning": sample.tuning,
        "segment_bytes": leg.segment_bytes,
        "keep_bytes": leg.keep_bytes,
        "logs": leg.logs,
        "rotations": sample.rotations,
        "behind": sample.behind,
        "threads": sample.threads,
        "machine": facts.json(),
    })
    .to_string()
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Where, on what, and what the disk can do at best.
///
/// # Errors
/// Those of `out`.
pub fn heading(
    out: &mut impl Write,
    dir: &Path,
    facts: &Facts,
    legs: &[Leg],
    floor: Option<&Sample>,
) -> io::Result<()> {
    let samples = || legs.iter().filter(|leg| leg.engine == "floor").map(|leg| &leg.sample).chain(floor);
    let p50 = Spread::of(samples().map(|sample| sample.latency_us(0.5)));
    let rate = Spread::of(samples().map(Sample::per_second));
    let method = samples().next().map_or("?", |sample| sample.method);
    writeln!(out, "{}: {facts}", dir.display())?;
    writeln!(
        out,
        "floor: one durable 4 KiB overwrite takes {:.0} us ({:.0}..{:.0}), {}/s without any hand-off, by {method}",
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

/// The rows for one number of callers, with ratios to `references`.
///
/// # Errors
/// Those of `out`.
pub fn table(out: &mut impl Write, legs: &[Leg], callers: usize, references: &[&str]) -> io::Result<()> {
    let rows = Row::all(legs, callers);
    let references: Vec<(&str, Option<&Row<'_>>)> =
        references.iter().map(|name| (*name, fastest(&rows, name))).collect();
    writeln!(out, "\n{callers} {}", if callers == 1 { "caller" } else { "callers" })?;
    let width = rows.iter().map(|row| row.name.len() + 1).max().unwrap_or(0).max(20);
    write!(
        out,
        "{:<width$} {:>7} {:<17} {:>8} {:>8} {:>8} {:>9} {:>8}  {:<17}",
        "engine", "per s", "(min..max)", "p50 us", "p99 us", "p99.9 us", "rec/flush", "cpu us", "method"
    )?;
    for (name, reference) in &references {
        if reference.is_some() {
            write!(out, "  {:<22}", format!("x {name}"))?;
        }
    }
    writeln!(out)?;
    for row in &rows {
        let fastest = references.iter().any(|(_, reference)| reference.is_some_and(|row_of| row_of.name == row.name));
        row.print(out, if fastest { "*" } else { "" }, width)?;
        for reference in references.iter().filter_map(|(_, reference)| *reference) {
            write!(out, "  {:<22}", row.ratio_to(reference))?;
        }
        writeln!(out)?;
    }
    for row in &rows {
        if let Some(leg) = row.legs.last().filter(|leg| !leg.sample.tuning.is_empty()) {
            writeln!(out, "  {} chose {}", row.name, leg.sample.tuning)?;
        }
    }
    Ok(())
}

/// The kind of file on which a baseline is faster.
fn fastest<'a>(rows: &'a [Row<'a>], name: &str) -> Option<&'a Row<'a>> {
    let kinds = rows.iter().filter(|row| family(&row.name) == name);
    kinds.max_by(|a, b| a.rate().median.total_cmp(&b.rate().median))
}

/// One engine's rounds.
struct Row<'a> {
    /// The engine, and how it was loaded if that was no closed loop.
    name: String,
    /// In the order of the rounds.
    legs: Vec<&'a Leg>,
}

impl<'a> Row<'a> {
    fn all(legs: &'a [Leg], callers: usize) -> Vec<Self> {
        let mut rows: Vec<Self> = Vec::new();
        // The floor has one caller, whatever the others have.
        for leg in legs.iter().filter(|leg| leg.callers == callers || leg.engine == "floor") {
            let name = match leg.rate {
                Some((_, rate)) => format!("{} {}", leg.engine, rate.word()),
                None => leg.engine.clone(),
            };
            match rows.iter_mut().find(|row| row.name == name) {
                Some(row) => row.legs.push(leg),
                None => rows.push(Self { name, legs: vec![leg] }),
            }
        }
        rows.sort_by_key(|row| row.name == "floor");
        rows
    }

    fn rate(&self) -> Spread {
        self.spread(Sample::per_second)
    }

    fn spread(&self, value: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.legs.iter().map(|leg| value(&leg.sample)))
    }

    fn print(&self, out: &mut impl Write, mark: &str, width: usize) -> io::Result<()> {
        let rate = self.rate();
        let quantile = |q: f64| self.spread(|sample| sample.latency_us(q)).median;
        write!(
            out,
            "{:<width$} {:>7} {:<17} {:>8.0} {:>8.0} {:>8.0} {:>9} {:>8.2}  {:<17}",
            format!("{}{mark}", self.name),
            short(rate.median),
            format!("({}..{})", short(rate.min), short(rate.max)),
            quantile(0.5),
            quantile(0.99),
            quantile(0.999),
            match self.spread(|sample| sample.records_per_flush).median {
                unknown if unknown.is_nan() => "-".to_owned(),
                records => format!("{records:.1}"),
            },
            self.spread(Sample::cpu_us_per_append).median,
            self.remark(),
        )
    }

    /// The method, or what else must not be overlooked.
    fn remark(&self) -> String {
        let behind: u64 = self.legs.iter().map(|leg| leg.sample.behind).sum();
        let last = self.legs.last().map(|leg| &leg.sample);
        match (last.map(|sample| (sample.method, sample.threads)), behind) {
            (_, 1..) => "CANNOT KEEP UP".to_owned(),
            (Some((method, Some(threads))), _) => format!("{method}, {threads} threads"),
            (Some((method, None)), _) => method.to_owned(),
            (None, _) => String::new(),
        }
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

/// The least, the middle and the greatest of some values; NaN if there are none.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one, or between the middle two.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of these values.
    #[must_use]
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
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
#[must_use]
pub fn short(value: f64) -> String {
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
