//! `ringwal cat`: records to standard output.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use ringwal::{Follow, Lsn, Reader, Record};

use crate::failure::{Failure, note};
use crate::{output, signals};

/// Print records
///
/// Shows what is durable beyond doubt, also beside a writer. Beyond the end there is nothing, and that is no error; with
/// --follow, whatever the writer makes durable (in groups, or about 10 ms after its last). If
/// the log is damaged, what precedes the damage is printed first.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The log's directory
    dir: PathBuf,
    /// The first record to print [default: the first that the log holds]
    #[arg(long, value_name = "LSN", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// The last record to print [default: the last]
    #[arg(long, value_name = "LSN", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
    /// Wait for more records, for ever or up to --to, beside the process that writes them
    #[arg(long)]
    follow: bool,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Lines)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Each record and a line feed
    Lines,
    /// The records with nothing between
    Raw,
    /// One object per line: lsn, length, crc32, and text, or base64 where it is not UTF-8
    Json,
    /// LSN LENGTH CRC32, the CRC of the payload in 8 hexadecimal digits
    Hash,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    signals::end_at_once()?;
    let dir = &args.dir;
    if args.follow {
        return follow(args);
    }
    let (reader, damage) = Reader::open_damaged(dir).map_err(|error| Failure::open(dir, &error))?;
    let wanted = Lsn::new(args.from.or(args.to).unwrap_or(u64::MAX));
    if wanted < reader.first_lsn() && damage.is_none() {
        let first = reader.first_lsn();
        return Err(Failure::usage(format!(
            "{}: LSN {wanted} was truncated: the log begins at LSN {first}",
            dir.display()
        )));
    }
    print(args, &reader)?;
    if let Some(damage) = damage
        && args.to.is_none_or(|to| Lsn::new(to) >= damage.first)
    {
        return Err(Failure::damaged(&damage));
    }
    tell_unclaimed(dir, &reader);
    Ok(())
}

fn print(args: &Args, reader: &Reader) -> Result<(), Failure> {
    let failed = |error| Failure::read(&args.dir, &error);
    let from = args.from.map_or(reader.first_lsn(), |from| Lsn::new(from).max(reader.first_lsn()));
    let to = Lsn::new(args.to.unwrap_or(u64::MAX));
    let mut out = output::stdout();
    for record in reader.read(from..=to).map_err(failed)? {
        match record {
            Ok(record) => print_record(&mut out, &record, args.format)?,
            Err(error) => {
                out.flush()?;
                return Err(failed(error));
            }
        }
    }
    Ok(out.flush()?)
}

/// How often the writer is looked after that tells nothing.
const LOOK: Duration = Duration::from_secs(1);

/// Prints what there is, and then each record as the writer's next batch, or its seal, says that it is durable.
fn follow(args: &Args) -> Result<(), Failure> {
    let failed = |error| Failure::read(&args.dir, &error);
    let from = Lsn::new(args.from.unwrap_or(0));
    let to = Lsn::new(args.to.unwrap_or(u64::MAX));
    let mut log = Follow::open(&args.dir, from).map_err(|error| Failure::open(&args.dir, &error))?;
    let mut out = output::stdout();
    while log.next_lsn() <= to {
        match log.next_ready() {
            Ok(Some(record)) => print_record(&mut out, &record, args.format)?,
            Ok(None) => {
                out.flush()?;
                log.wait(LOOK);
                // A reader that went away is noticed also while nothing is written.
                if output::is_gone() {
                    return Ok(());
                }
                log.refresh().map_err(failed)?;
            }
            Err(error) => {
                out.flush()?;
                return Err(failed(error));
            }
        }
    }
    Ok(out.flush()?)
}

fn print_record(out: &mut impl Write, record: &Record, format: Format) -> Result<(), Failure> {
    let Record { lsn, payload, .. } = record;
    match format {
        Format::Raw => out.write_all(payload)?,
        Format::Lines => {
            out.write_all(payload)?;
            out.write_all(b"\n")?;
        }
        Format::Hash => writeln!(out, "{lsn} {} {:08x}", payload.len(), crc32fast::hash(payload))?,
        Format::Json => {
            write!(
                out,
                "{{\"lsn\":{lsn},\"length\":{},\"crc32\":\"{:08x}\",",
                payload.len(),
                crc32fast::hash(payload)
            )?;
            let (key, text) = match std::str::from_utf8(payload) {
                Ok(text) => ("text", text.to_owned()),
                Err(_) => ("base64", STANDARD.encode(payload)),
            };
            writeln!(out, "\"{key}\":{}}}", serde_json::Value::String(text))?;
        }
    }
    Ok(())
}

/// Records that a crash left behind the last claim are shown only after recovery made them durable.
fn tell_unclaimed(dir: &Path, reader: &Reader) {
    if reader.unclaimed() > 0 && reader.writer().is_none() {
        note(&format!(
            "{}: {} more records wait for the next opening for writing, which makes them durable and shows them",
            dir.display(),
            reader.unclaimed()
        ));
    }
}
