//! `plots`: pages drawn from lines of JSON, those of `ringwal bench --json`, of `compare` and of `targets`.
//!
//! One page for each machine-and-directory that the lines name, with three plots as SVG files beside it: throughput
//! against callers, records per flush against callers, and latency percentiles at each number of callers. Every figure
//! is the median over the rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use ringwal::engines::Failure;
use ringwal::engines::report::{Spread, short};
use serde_json::Value;

/// Draw plots and a page from lines of JSON
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the page and its plots go; made if it is missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Lines of JSON
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// The percentiles on the horizontal axis of the latency plots, and the keys of the lines.
const PERCENTILES: [(&str, &str); 5] =
    [("50", "p50_us"), ("99", "p99_us"), ("99.9", "p999_us"), ("99.99", "p9999_us"), ("max", "max_us")];
const SIZE: (u32, u32) = (900, 520);

/// The rounds of one engine with so many callers.
#[derive(Default)]
struct Point {
    lines: Vec<Value>,
}

impl Point {
    fn median(&self, key: &str) -> f64 {
        Spread::of(self.lines.iter().filter_map(|line| line[key].as_f64())).median
    }
}

/// By engine, then by callers.
type Series = BTreeMap<String, BTreeMap<u64, Point>>;

pub fn run(args: &Args) -> Result<(), Failure> {
    let mut places: BTreeMap<String, Series> = BTreeMap::new();
    for path in &args.files {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        for line in text.lines() {
            // A line that a kill cut off is left out, and so are outcomes of targets.
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            if let (Some(engine), Some(callers)) = (line["engine"].as_str(), line["callers"].as_u64()) {
                let place = place(&line);
                let engine = if line["rate"].is_null() { engine.to_owned() } else { format!("{engine} (open loop)") };
                places
                    .entry(place)
                    .or_default()
                    .entry(engine)
                    .or_default()
                    .entry(callers)
                    .or_default()
                    .lines
                    .push(line);
            }
        }
    }
    if places.is_empty() {
        return Err("no lines with an engine and callers in them; give files of --json".into());
    }
    fs::create_dir_all(&args.out)?;
    let mut page =
        "# What was measured\n\nMedians over the rounds, engines interleaved in one run; only figures of one \
                    plot compare. The lines behind them: `--json`.\n"
            .to_owned();
    for (index, (place, series)) in places.iter().enumerate() {
        section(&mut page, &args.out, index, place, series)?;
    }
    let path = args.out.join("README.md");
    fs::write(&path, page)?;
    println!("{}", path.display());
    Ok(())
}

/// What figures must share to stand in one plot.
fn place(line: &Value) -> String {
    let machine = &line["machine"];
    let word = |key: &str| machine[key].as_str().unwrap_or("?").to_owned();
    format!(
        "{}; Linux {}, {} cores ({}); records of {} bytes{}",
        word("device"),
        word("kernel"),
        machine["cores"],
        word("cpu"),
        line["payload"],
        line["segment_bytes"].as_u64().map(|bytes| format!(", segments of {bytes} bytes")).unwrap_or_default()
    )
}

fn section(page: &mut String, out: &Path, index: usize, place: &str, series: &Series) -> Result<(), Failure> {
    writeln!(page, "\n## {place}\n")?;
    let against_callers = [
        ("throughput", "appends per second", "per_s"),
        ("records-per-flush", "records per flush", "records_per_flush"),
    ];
    for (name, title, key) in against_callers {
        let file = format!("{index}-{name}.svg");
        let curves = curves(series, key);
        if curves.iter().any(|(_, points)| !points.is_empty()) {
            draw_curves(&out.join(&file), title, place, &curves)?;
            writeln!(page, "![{title} against callers]({file})\n")?;
        }
    }
    let callers: BTreeSet<u64> = series.values().flat_map(|points| points.keys().copied()).collect();
    for callers in callers {
        let file = format!("{index}-latency-{callers}.svg");
        draw_latency(&out.join(&file), callers, place, series)?;
        writeln!(page, "![latency percentiles, {callers} callers]({file})\n")?;
    }
    writeln!(page, "| engine | callers | per s (min..max) | p50 us | p99.9 us | p99.99 us | CPU us | rec/flush |")?;
    writeln!(page, "|---|---|---|---|---|---|---|---|")?;
    for (engine, points) in series {
        for (callers, point) in points {
            let rate = Spread::of(point.lines.iter().filter_map(|line| line["per_s"].as_f64()));
            writeln!(
                page,
                "| {engine} | {callers} | {} ({}..{}) | {:.0} | {:.0} | {:.0} | {:.2} | {:.1} |",
                short(rate.median),
                short(rate.min),
                short(rate.max),
                point.median("p50_us"),
                point.median("p999_us"),
                point.median("p9999_us"),
                point.median("cpu_us_per"),
                point.median("records_per_flush"),
            )?;
        }
    }
    Ok(())
}

type Curve<'a> = (&'a str, Vec<(f64, f64)>);

fn curves<'a>(series: &'a Series, key: &str) -> Vec<Curve<'a>> {
    let curve = |points: &BTreeMap<u64, Point>| {
        let points = points.iter().map(|(callers, point)| (*callers as f64, point.median(key)));
        points.filter(|(_, value)| *value > 0.0).collect()
    };
    series.iter().map(|(engine, points)| (engine.as_str(), curve(points))).collect()
}

/// Both axes grow by factors.
fn draw_curves(path: &Path, title: &str, place: &str, curves: &[Curve<'_>]) -> Result<(), Failure> {
    let points = || curves.iter().flat_map(|(_, points)| points.iter());
    let (xs, ys) = (range(points().map(|point| point.0)), range(points().map(|point| point.1)));
    let root = canvas(path, place)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("{title} against callers"), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d(xs.log_scale(), ys.log_scale())
        .map_err(drawing)?;
    let label = |value: &f64| short(*value);
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("callers").y_desc(title).x_label_formatter(&label).y_label_formatter(&label).light_line_style(WHITE);
    mesh.draw().map_err(drawing)?;
    for (index, (engine, points)) in curves.iter().enumerate() {
        add(&mut chart, index, engine, points.clone())?;
    }
    legend(&mut chart)?;
    root.present().map_err(drawing)
}

/// Percentiles stand side by side, latency grows by factors.
fn draw_latency(path: &Path, callers: u64, place: &str, series: &Series) -> Result<(), Failure> {
    let with: Vec<(&str, &Point)> =
        series.iter().filter_map(|(engine, points)| Some((engine.as_str(), points.get(&callers)?))).collect();
    let ys = range(with.iter().flat_map(|(_, point)| PERCENTILES.map(|(_, key)| point.median(key))));
    let root = canvas(path, place)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("latency, {callers} callers"), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..(PERCENTILES.len() - 1) as f64, ys.log_scale())
        .map_err(drawing)?;
    let name = |at: &f64| {
        let nearest = PERCENTILES.get(at.round().max(0.0) as usize);
        nearest.map_or(String::new(), |(name, _)| (*name).to_owned())
    };
    let label = |value: &f64| short(*value);
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("percentile").y_desc("us").x_labels(PERCENTILES.len()).x_label_formatter(&name);
    mesh.y_label_formatter(&label).light_line_style(WHITE).draw().map_err(drawing)?;
    for (index, (engine, point)) in with.iter().enumerate() {
        let points = PERCENTILES.iter().enumerate().map(|(at, (_, key))| (at as f64, point.median(key)));
        add(&mut chart, index, engine, points.filter(|(_, value)| *value > 0.0).collect())?;
    }
    legend(&mut chart)?;
    root.present().map_err(drawing)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// White, with the machine's facts at the bottom.
fn canvas<'a>(path: &'a Path, place: &str) -> Result<Area<'a>, Failure> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(drawing)?;
    let (chart, foot) = root.split_vertically(SIZE.1 - 22);
    let style = ("sans-serif", 11).into_font().color(&BLACK.mix(0.7));
    foot.draw(&Text::new(place.to_owned(), (12, 4), style)).map_err(drawing)?;
    Ok(chart)
}

type Chart<'a, 'b, X, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>;

fn add<'a, X, Y>(
    chart: &mut Chart<'a, '_, X, Y>,
    index: usize,
    engine: &str,
    points: Vec<(f64, f64)>,
) -> Result<(), Failure>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let color = Palette99::pick(index).to_rgba();
    // ringwal's own stand out.
    let style = color.stroke_width(if engine.starts_with("ringwal") { 3 } else { 1 });
    chart
        .draw_series(LineSeries::new(points, style).point_size(3))
        .map_err(drawing)?
        .label(engine)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    Ok(())
}

fn legend<'a, 'b: 'a, X, Y>(chart: &mut Chart<'a, 'b, X, Y>) -> Result<(), Failure>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut labels = chart.configure_series_labels();
    labels.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).position(SeriesLabelPosition::UpperLeft);
    labels.draw().map_err(drawing)
}

/// From below the least to above the greatest of these, all greater than 0.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (mut least, mut greatest) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values.filter(|value| *value > 0.0) {
        (least, greatest) = (least.min(value), greatest.max(value));
    }
    if least > greatest { 0.5..2.0 } else { least * 0.9..greatest * 1.2 }
}

fn drawing(error: impl std::fmt::Display) -> Failure {
    format!("a plot cannot be drawn: {error}").into()
}
