//! Bytes per second of 64 KiB records, against the best that fio makes of durable sequential O_DIRECT writes to a file
//! whose blocks are written already.

use std::path::Path;
use std::process::Command;

use ringwal::LocalLog;
use ringwal::engines::Failure;
use ringwal::engines::compare::Comparison;
use serde_json::Value;

use super::{Bench, Goal, Spread, own};

const RECORD_BYTES: usize = 64 << 10;
const CALLERS: usize = 64;
/// What a log in its steady state keeps.
const KEPT_BYTES: u64 = 128 << 20;
/// As large as ringwal's window needs, so that both go over blocks once.
const FILE_MIB: u64 = 1024;

/// What fio can vary.
#[derive(Clone, Copy)]
struct Way {
    block: &'static str,
    depth: u32,
    durable: &'static str,
    /// The core that takes the disk's interrupts, or none.
    core: Option<usize>,
}

const BLOCKS: [&str; 4] = ["64k", "256k", "1m", "4m"];
const DEPTHS: [u32; 4] = [1, 2, 4, 8];
const DURABLE: [&str; 2] = ["--fdatasync=1", "--sync=dsync"];

impl Way {
    /// The whole command line.
    fn arguments(&self, file: &Path, seconds: f64) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["--name=wal", "--rw=write", "--direct=1", "--ioengine=io_uring", "--overwrite=1", "--time_based"]
                .map(str::to_owned)
                .into();
        arguments.push(format!("--filename={}", file.display()));
        arguments.push(format!("--size={FILE_MIB}m"));
        arguments.push(format!("--bs={}", self.block));
        arguments.push(format!("--iodepth={}", self.depth));
        arguments.push(self.durable.to_owned());
        arguments.extend(self.core.map(|core| format!("--cpus_allowed={core}")));
        arguments.push(format!("--runtime={}ms", (seconds * 1000.0) as u64));
        arguments.push("--output-format=json".to_owned());
        arguments
    }

    fn bytes_per_second(&self, file: &Path, seconds: f64) -> Result<f64, Failure> {
        let value = fio(&self.arguments(file, seconds))?;
        let rate = value["jobs"][0]["write"]["bw_bytes"].as_f64();
        Ok(rate.ok_or("fio's output has no jobs[0].write.bw_bytes")?)
    }
}

fn fio(arguments: &[String]) -> Result<Value, Failure> {
    let output = Command::new("fio").args(arguments).output();
    let output = output.map_err(|error| format!("fio: {error}; install it (apt-get install fio)"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("fio {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    // Notes may precede the object.
    let json = &text[text.find('{').ok_or("fio printed no JSON")?..];
    Ok(serde_json::from_str(json)?)
}

pub fn run(bench: &mut Bench) -> Result<(), Failure> {
    let file = Written::lay_out(&bench.dir)?;
    let mut ways = Vec::new();
    for durable in DURABLE {
        for block in BLOCKS {
            for depth in DEPTHS {
                let way = Way { block, depth, durable, core: None };
                let rate = way.bytes_per_second(&file.0, 0.7)?;
                eprintln!("  fio {durable} bs={block} iodepth={depth}: {:.0} MiB/s", rate / f64::from(1 << 20));
                ways.push((rate, way));
            }
        }
    }
    ways.sort_by(|a, b| b.0.total_cmp(&a.0));
    // The first three take part in every round: a lucky trial is no best.
    let core = LocalLog::disk_core(&bench.dir);
    let finalists = ways.iter().take(3).map(|(_, way)| *way);
    let seats = || std::iter::once(None).chain(core.map(Some));
    let finalists: Vec<Way> = finalists.flat_map(|way| seats().map(move |core| Way { core, ..way })).collect();
    let comparison = Comparison { callers: vec![CALLERS], rounds: 1, ..Comparison::new(&bench.dir, RECORD_BYTES) };
    let comparison = Comparison { seconds: bench.seconds, ..comparison };
    // Beside a new log, one in its steady state behind snapshots: like fio, it writes over blocks that are written.
    let steady = Comparison { keep_bytes: Some(KEPT_BYTES), warm_up: 2.0, ..comparison.clone() };
    let (mut fio, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let best: Result<Vec<f64>, Failure> =
            finalists.iter().map(|way| way.bytes_per_second(&file.0, bench.seconds)).collect();
        fio.push(best?);
        let candidates = bench.candidates(&own());
        let mut legs = bench.legs(&comparison, &candidates)?;
        legs.extend(bench.legs(&steady, &candidates)?);
        ours.push(legs.iter().map(|leg| leg.sample.per_second() * RECORD_BYTES as f64).collect::<Vec<_>>());
    }
    let middle = |index: usize| Spread::of(fio.iter().map(|round: &Vec<f64>| round[index])).median;
    let best = (0..finalists.len()).max_by(|a, b| middle(*a).total_cmp(&middle(*b))).unwrap_or(0);
    let command = finalists[best].arguments(Path::new("FILE"), bench.seconds).join(" ");
    let fresh = own().into_iter().map(|name| (name.to_owned(), Goal::AtLeast(0.9)));
    // Only an application that truncates has a log in this state: it is beside the table.
    let steady = own().into_iter().map(|name| (format!("{name} using its segments again"), Goal::None));
    for (index, (name, goal)) in fresh.chain(steady).enumerate() {
        let values: Vec<f64> = ours.iter().zip(&fio).map(|(ours, fio)| ours[index] / fio[best]).collect();
        let detail = format!(
            "{:.0} MiB/s; fio {:.0} MiB/s by fio {command}",
            Spread::of(ours.iter().map(|round| round[index])).median / f64::from(1 << 20),
            middle(best) / f64::from(1 << 20)
        );
        bench.keep(&format!("{name}, 64 KiB records, 64 callers: bytes/s against fio"), goal, &values, &detail)?;
    }
    Ok(())
}

/// A file whose blocks are written; removed when dropped.
struct Written(std::path::PathBuf);

impl Written {
    fn lay_out(dir: &Path) -> Result<Self, Failure> {
        let file = Self(dir.join(format!("ringwal-fio-{}", std::process::id())));
        let arguments = [
            "--name=layout",
            "--rw=write",
            "--direct=1",
            "--bs=1m",
            "--ioengine=io_uring",
            "--iodepth=4",
            "--end_fsync=1",
            "--output-format=json",
        ];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
        arguments.push(format!("--filename={}", file.0.display()));
        arguments.push(format!("--size={FILE_MIB}m"));
        fio(&arguments)?;
        Ok(file)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_file(&self.0);
    }
}
