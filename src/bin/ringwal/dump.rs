//! `ringwal dump`: segments and batches, as they stand in the files.

use std::io::Write;
use std::path::PathBuf;

use ringwal::{BatchInfo, SegmentInfo};
use serde_json::json;

use crate::failure::Failure;
use crate::progress::Spinner;
use crate::{output, signals};

/// Show segments and batches, whether they count or not; changes nothing
///
/// Batches of an earlier epoch that a later opening cut off are shown as well: this is what the files hold, and verify
/// says what it means.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The log's directory
    dir: PathBuf,
    /// One JSON object per line: segments, each followed by its batches
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    signals::end_at_once()?;
    let spinner = Spinner::start("reading the log");
    let segments = ringwal::dump(&args.dir).map_err(|error| Failure::open(&args.dir, &error))?;
    drop(spinner);
    let mut out = output::stdout();
    // What a running log has found out since is not on the disk: its `Stats::tuning` tells.
    if let Some(begins) = ringwal::engines::first_choice(&args.dir).filter(|_| !args.json) {
        writeln!(out, "{begins}")?;
    }
    for segment in &segments {
        if args.json { write_json(&mut out, segment)? } else { write_text(&mut out, segment)? }
    }
    Ok(out.flush()?)
}

fn write_text(out: &mut impl Write, segment: &SegmentInfo) -> std::io::Result<()> {
    let SegmentInfo { id, log_id, block_bytes, bytes, batches, .. } = segment;
    writeln!(out, "segment {id}: {bytes} bytes in blocks of {block_bytes}, log {log_id}, {} batches", batches.len())?;
    for batch in batches {
        let BatchInfo { offset, bytes, kind, epoch, first, count, durable, .. } = batch;
        write!(out, "  {offset:>10} {bytes:>8} {kind:<7} epoch {epoch}")?;
        match count {
            0 => write!(out, ", before LSN {first}")?,
            1 => write!(out, ", LSN {first}")?,
            _ => write!(out, ", LSN {first} to {}", first.plus(u64::from(*count)).prev())?,
        }
        write!(out, ", durable {durable}")?;
        if let Some((segment, block)) = batch.link {
            write!(out, ", behind {segment}/{block}")?;
        }
        let marks = [(batch.cut, ", cut"), (batch.close, ", close"), (!batch.whole, ", NOT WHOLE")];
        marks.iter().filter(|(holds, _)| *holds).try_for_each(|(_, word)| out.write_all(word.as_bytes()))?;
        writeln!(out)?;
    }
    Ok(())
}

fn write_json(out: &mut impl Write, segment: &SegmentInfo) -> std::io::Result<()> {
    let line = json!({
        "segment": segment.id.to_string(),
        "log_id": segment.log_id.to_string(),
        "block_bytes": segment.block_bytes,
        "bytes": segment.bytes,
        "batches": segment.batches.len(),
    });
    writeln!(out, "{line}")?;
    for batch in &segment.batches {
        let line = json!({
            "segment": segment.id.to_string(),
            "offset": batch.offset,
            "bytes": batch.bytes,
            "kind": batch.kind,
            "cut": batch.cut,
            "close": batch.close,
            "epoch": batch.epoch.get(),
            "first": batch.first.get(),
            "count": batch.count,
            "durable": batch.durable.get(),
            "link": batch.link.map(|(segment, block)| json!({"segment": segment.to_string(), "block": block})),
            "whole": batch.whole,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}
