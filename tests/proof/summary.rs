//! The summary file: a line of JSON for each run, and what all of them add up to.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::rigs::RIGS;

/// What a run proves something about: a line counts as long as these are as they were.
const PROVED: [&str; 5] = ["src/format", "src/journal", "src/disk", "src/read", "src/runtime"];

/// Which sources a run was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    commit: String,
    /// The five directories, by their content; none if they are not as committed, so that the run counts for nothing.
    sources: Option<String>,
}

impl Origin {
    /// The sources as they are now.
    pub(crate) fn read() -> Result<Self, String> {
        newer_than_this_program()?;
        let commit = git(&["rev-parse", "HEAD"])?;
        let changed = !git(&[&["status", "--porcelain", "--"], &PROVED[..]].concat())?.is_empty();
        let trees: Vec<_> = PROVED.iter().map(|at| format!("HEAD:{at}")).collect();
        let trees = git(&[&["rev-parse"], &trees.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())?;
        let sources = trees.lines().map(|tree| &tree[..8]).collect::<Vec<_>>().join("-");
        Ok(Self { commit: commit[..12].to_owned(), sources: (!changed).then_some(sources) })
    }
}

/// A program built from other sources would count for these.
fn newer_than_this_program() -> Result<(), String> {
    let time =
        |path: &Path| path.metadata().and_then(|meta| meta.modified()).map_err(|e| format!("{}: {e}", path.display()));
    let built = time(&std::env::current_exe().map_err(|error| error.to_string())?)?;
    let mut directories: Vec<_> = PROVED.iter().map(|at| root().join(at)).collect();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))? {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.is_dir() {
                directories.push(path);
            } else if time(&path)? > built {
                return Err(format!("{} is newer than this program: build it again", path.display()));
            }
        }
    }
    Ok(())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn git(args: &[&str]) -> Result<String, String> {
    output("git", args)
}

fn output(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).current_dir(root()).args(args).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// What came of a run, or of a part of a long one.
pub(crate) struct Line {
    pub(crate) rig: String,
    pub(crate) seeds: String,
    pub(crate) count: u64,
    pub(crate) violations: u64,
    pub(crate) labels: BTreeMap<String, u64>,
    pub(crate) origin: Origin,
}

/// A summary file.
pub(crate) struct Summary(PathBuf);

impl Summary {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The one that is committed.
    pub(crate) fn committed() -> PathBuf {
        root().join("tests/proof/summary.jsonl")
    }

    pub(crate) fn add(&self, line: &Line) -> Result<(), String> {
        let labels: Map<String, Value> = line.labels.iter().map(|(label, n)| (label.clone(), json!(n))).collect();
        let text = json!({
            "date": output("date", &["-u", "+%F"])?, "commit": line.origin.commit, "sources": line.origin.sources, "rig": line.rig,
            "seeds": line.seeds, "count": line.count, "violations": line.violations, "labels": labels,
        });
        let told = |error: std::io::Error| format!("{}: {error}", self.0.display());
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0).map_err(told)?;
        file.write_all(format!("{text}\n").as_bytes()).map_err(told)
    }

    /// Prints what the lines add up to; whether every rig has its figure and nothing was violated.
    pub(crate) fn table(&self) -> Result<bool, String> {
        let sources = Origin::read_sources()?;
        let text = std::fs::read_to_string(&self.0).map_err(|error| format!("{}: {error}", self.0.display()))?;
        let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut stale = 0;
        for (number, line) in text.lines().enumerate() {
            let line: Value =
                serde_json::from_str(line).map_err(|error| format!("{}:{}: {error}", self.0.display(), number + 1))?;
            if line["sources"].as_str() != Some(sources.as_str()) {
                stale += 1;
                continue;
            }
            let sum = sums.entry(line["rig"].as_str().unwrap_or_default().to_owned()).or_default();
            sum.0 += line["count"].as_u64().unwrap_or(0);
            sum.1 += line["violations"].as_u64().unwrap_or(0);
        }
        let mut whole = true;
        println!("| rig | what is counted | so far | target | violations |\n|---|---|---|---|---|");
        for rig in RIGS {
            let (count, violations) = sums.get(rig.name).copied().unwrap_or_default();
            whole &= count >= rig.target && violations == 0;
            println!("| {} | {} | {count} | {} | {violations} |", rig.name, rig.unit, rig.target);
        }
        if stale > 0 {
            println!("\n{stale} lines are about other sources and count for nothing.");
        }
        Ok(whole)
    }
}

impl Origin {
    fn read_sources() -> Result<String, String> {
        Self::read()?.sources.ok_or_else(|| format!("{PROVED:?} are not as committed: no line counts"))
    }
}
