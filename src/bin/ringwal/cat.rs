//! `ringwal cat`: records to standard output.

use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use ringwal::{Lsn, Reader, Record};

use crate::failure::{Failure, note};
use crate::{output, signals};

/// Print records
///
/// Shows what is durable beyond doubt, also beside a writer. Beyond the end there is nothing, and that is no error. If
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
    /// Wait for more records (not in this version)
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
        return Err(Failure::usage(format!(
            "{}: --follow comes with the tail, which this version does not have; run cat again with --from for what is new",
            dir.display()
        )));
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
