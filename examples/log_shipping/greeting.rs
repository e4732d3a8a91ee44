//! What is said on a connection before the log's own protocol begins: the standby says which shard it wants, the primary
//! how many there are and which log that is.
//!
//! ```text
//! standby:  shard I                primary:  SHARDS LOG-ID         and then the log's protocol
//! standby:  how many               primary:  SHARDS                and that was all
//! ```

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use ringwal::LogId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::UnboundedSender;

/// How long either side may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A greeting is never longer.
const LINE_BYTES_MAX: u64 = 100;

/// Accepts standbys for ever, and hands each connection to the shard that it asks for. Threads that block, since this
/// happens once for each connection; what is sent on it afterwards is the shard's.
pub(crate) fn listen(listener: TcpListener, shards: Vec<UnboundedSender<TcpStream>>) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let shards = shards.clone();
            thread::spawn(move || {
                // A stranger who says something else is hung up on.
                let _ = stream.and_then(|stream| hand_over(stream, &shards));
            });
        }
    });
}

fn hand_over(mut stream: TcpStream, shards: &[UnboundedSender<TcpStream>]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let line = read_line(&mut stream)?;
    let shard = line.strip_prefix("shard ").and_then(|shard| shard.parse::<usize>().ok());
    match shard.and_then(|shard| shards.get(shard)) {
        Some(shard) => {
            stream.set_nonblocking(true)?;
            let _ = shard.send(stream);
            Ok(())
        }
        None => writeln!(stream, "{}", shards.len()),
    }
}

/// A line and nothing behind it: that belongs to another protocol.
#[expect(clippy::unbuffered_bytes, reason = "a buffer would swallow what comes behind the line")]
fn read_line(stream: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    for byte in stream.take(LINE_BYTES_MAX).bytes() {
        match byte? {
            b'\n' => break,
            byte => line.push(byte),
        }
    }
    String::from_utf8(line).map_err(io::Error::other)
}

/// Asks how many shards there are.
pub(crate) fn ask_shards(address: &str) -> io::Result<usize> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "how many")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    line.trim().parse().map_err(io::Error::other)
}

/// The primary's answer, given by the shard.
pub(crate) async fn welcome(stream: &mut tokio::net::TcpStream, shards: usize, log_id: LogId) -> io::Result<()> {
    stream.write_all(format!("{shards} {log_id}\n").as_bytes()).await
}

/// Connects to a shard of the primary, which has so many of them.
pub(crate) async fn connect(address: &str, shard: usize, shards: usize) -> io::Result<(tokio::net::TcpStream, LogId)> {
    let greeting = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(format!("shard {shard}\n").as_bytes()).await?;
        let mut line = Vec::new();
        while !line.ends_with(b"\n") && line.len() < LINE_BYTES_MAX as usize {
            line.push(stream.read_u8().await?);
        }
        io::Result::Ok((stream, line))
    };
    let (stream, line) = tokio::time::timeout(PATIENCE, greeting).await??;
    let line = String::from_utf8_lossy(&line);
    match line.trim().split_once(' ') {
        Some((count, log_id)) if count == shards.to_string() => match LogId::parse(log_id) {
            Some(log_id) => Ok((stream, log_id)),
            None => Err(io::Error::other("no log id")),
        },
        _ => Err(io::Error::other(format!("the primary does not have {shards} shards: {line}"))),
    }
}
