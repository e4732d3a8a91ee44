//! Kill -9 of a primary that waits for one standby, of that standby, or of both, again and again on the same logs, each in
//! a process of its own and connected over TCP. After every kill the standby's log is the beginning of the primary's, and
//! nothing acknowledged is missing on either side.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringwal::{Log, OpenError, Options, Primary, Reader, Standby};
use tokio::net::TcpStream;

use super::rig::{Reaped, Rng, Scratch, child as child_in};

/// Kills on one pair of logs before a fresh one is begun, so that reading all of it stays quick.
pub(crate) const KILLS_PER_PAIR: u32 = 20;
const APPENDERS: u64 = 6;
const LONG: Duration = Duration::from_secs(30);

fn options() -> Options {
    Options::default().segment_bytes(512 << 10)
}

/// A primary or a standby, in a process of its own.
pub(crate) fn side(role: &str) {
    let dir = PathBuf::from(std::env::var("RINGWAL_DIR").unwrap());
    let address: SocketAddr = std::env::var("RINGWAL_ADDRESS").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match role {
            "primary" => lead(&dir, address).await,
            _ => follow(&dir, address).await,
        }
    });
}

async fn lead(dir: &Path, address: SocketAddr) {
    let primary = Primary::with_heartbeat(Log::open(dir, options()).await.unwrap(), 1, Duration::from_millis(200));
    let seed = primary.log().durable_lsn().get();
    for appender in 0..APPENDERS {
        let primary = primary.clone();
        tokio::spawn(async move {
            let mut rng = Rng::new(seed << 8 | appender);
            loop {
                let len = if rng.one_in(50) { 20_000 } else { rng.below(2_000) };
                let record: Vec<u8> = (0..len).map(|_| rng.next().to_le_bytes()[0]).collect();
                let lsn = primary.append(&record).await.unwrap();
                let crc = crc32fast::hash(&record);
                // One write, whole or not at all: a kill comes between two of them.
                std::io::stdout().write_all(format!("A {lsn} {len} {crc}\n").as_bytes()).unwrap();
            }
        });
    }
    loop {
        if let Ok(stream) = TcpStream::connect(address).await {
            stream.set_nodelay(true).unwrap();
            let ended = primary.serve(stream).await;
            // A standby that may not follow is what the parent looks for.
            if let Err(error) = ended
                && !error.is_passing()
            {
                std::io::stdout().write_all(format!("X {error}\n").as_bytes()).unwrap();
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn follow(dir: &Path, address: SocketAddr) {
    let mut standby = Standby::open(dir, options()).await.unwrap();
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        if let Err(error) = standby.follow(stream).await
            && !error.is_passing()
        {
            std::io::stdout().write_all(format!("X {error}\n").as_bytes()).unwrap();
        }
    }
}

/// What was heard of both sides.
#[derive(Debug, Default)]
struct Told {
    acked: BTreeMap<u64, (usize, u32)>,
    wrong: Vec<String>,
}

fn start(role: &str, dir: &Path, address: SocketAddr, told: &Arc<Mutex<Told>>) -> Reaped {
    let mut command = child_in(role);
    let mut child = command.env("RINGWAL_DIR", dir).env("RINGWAL_ADDRESS", address.to_string()).spawn().unwrap();
    let (pipe, told, role) = (child.stdout.take().unwrap(), told.clone(), role.to_owned());
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut told = told.lock().unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            if let ["A", lsn, len, crc] = words[..]
                && let (Ok(lsn), Ok(len), Ok(crc)) = (lsn.parse(), len.parse(), crc.parse())
                && told.acked.insert(lsn, (len, crc)).is_some()
            {
                told.wrong.push(format!("LSN {lsn} was acknowledged twice"));
            }
            if line.starts_with("X ") || line.contains("panicked") {
                told.wrong.push(format!("{role}: {line}"));
            }
        }
    });
    Reaped(child)
}

fn end(child: Reaped) {
    let mut child = child;
    assert!(child.0.try_wait().unwrap().is_none(), "it ended by itself");
    child.0.kill().unwrap();
    child.0.wait().unwrap();
}

pub(crate) type Records = Vec<(u64, usize, u32)>;

fn hashed(records: ringwal::Records) -> Records {
    let records = records.map(Result::unwrap);
    records.map(|record| (record.lsn.get(), record.payload.len(), crc32fast::hash(&record.payload))).collect()
}

/// A log whose process is dead, through recovery.
fn recovered(dir: &Path) -> Records {
    let began = Instant::now();
    loop {
        // One that was killed before it had a log must not be given another one here.
        match Log::open(dir, options().create(false)).wait() {
            Err(OpenError::Missing { .. }) => return Records::new(),
            Ok(log) => {
                let records = hashed(log.read(..).unwrap());
                log.close().wait().unwrap();
                return records;
            }
            // Its last write may land after its process is gone.
            Err(OpenError::Held { .. }) if began.elapsed() < LONG => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A log beside its idle process: its idle seal shows all of it before long.
fn beside(dir: &Path, last: u64) -> Records {
    let began = Instant::now();
    loop {
        if let Ok(reader) = Reader::open(dir) {
            if reader.durable_lsn().get() >= last && reader.unclaimed() == 0 {
                return hashed(reader.read(..).unwrap());
            }
            assert!(began.elapsed() < LONG, "{}: {last} was acknowledged, {reader:?}", dir.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What is wrong with the two logs, given what was acknowledged.
pub(crate) fn judge(primary: &Records, standby: &Records, acked: &BTreeMap<u64, (usize, u32)>) -> Vec<String> {
    let mut wrong = Vec::new();
    if primary.len() < standby.len() || primary[..standby.len()] != standby[..] {
        wrong.push(format!("{} records of the standby are no beginning of {}", standby.len(), primary.len()));
    }
    for (name, log) in [("primary", primary), ("standby", standby)] {
        for (lsn, held) in acked {
            let found = usize::try_from(lsn - 1).ok().and_then(|at| log.get(at));
            if found != Some(&(*lsn, held.0, held.1)) {
                wrong.push(format!("LSN {lsn} was acknowledged and the {name} holds {found:?} of {}", log.len()));
            }
        }
    }
    wrong.truncate(6);
    wrong
}

/// What a pair of logs went through.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pair {
    pub(crate) primaries: u64,
    pub(crate) standbys: u64,
    pub(crate) both: u64,
    pub(crate) acks: u64,
}

impl Pair {
    pub(crate) fn kills(&self) -> u64 {
        self.primaries + self.standbys + self.both
    }
}

/// A primary and a standby, killed `kills` times; what came of it, or the first thing that was wrong.
pub(crate) fn kill_pair(seed: u64, kills: u32) -> Result<Pair, String> {
    let mut rng = Rng::new(seed);
    let scratch = Scratch::new("ship-kills");
    let dirs = [scratch.join("a"), scratch.join("b")];
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let told = Arc::new(Mutex::new(Told::default()));
    let begin = |at: usize| start(["primary", "standby"][at], &dirs[at], address, &told);
    let mut sides = [begin(0), begin(1)];
    let mut pair = Pair::default();
    for kill in 0..kills {
        await_moment(&told, &mut rng)?;
        let whom = rng.below(3);
        let dies = [whom != 1, whom != 0];
        *[&mut pair.primaries, &mut pair.standbys, &mut pair.both][usize::try_from(whom).unwrap()] += 1;
        for at in [0, 1].into_iter().filter(|at| dies[*at]) {
            end(std::mem::replace(&mut sides[at], idle()));
        }
        // The pipes are read to their ends, and a side that lives comes to rest: it has nobody to wait with.
        std::thread::sleep(Duration::from_millis(50));
        let last = told.lock().unwrap().acked.last_key_value().map_or(0, |(lsn, _)| *lsn);
        let [a, b] = [0, 1].map(|at| match dies[at] {
            true if !dirs[at].exists() => Records::new(),
            true => recovered(&dirs[at]),
            false => beside(&dirs[at], last),
        });
        let heard = told.lock().unwrap();
        let mut wrong = judge(&a, &b, &heard.acked);
        wrong.extend(heard.wrong.iter().cloned());
        drop(heard);
        if !wrong.is_empty() {
            return Err(format!("kill {kill}: {wrong:#?}"));
        }
        for at in [0, 1].into_iter().filter(|at| dies[*at]) {
            sides[at] = begin(at);
        }
    }
    pair.acks = told.lock().unwrap().acked.len() as u64;
    Ok(pair)
}

/// Mostly once records flow again; sometimes while the two have hardly begun.
fn await_moment(told: &Mutex<Told>, rng: &mut Rng) -> Result<(), String> {
    if rng.one_in(5) {
        std::thread::sleep(Duration::from_millis(rng.below(60)));
        return Ok(());
    }
    let (began, before) = (Instant::now(), told.lock().unwrap().acked.len());
    while told.lock().unwrap().acked.len() == before {
        if began.elapsed() > LONG {
            return Err(format!("nothing is acknowledged: {:?}", told.lock().unwrap().wrong));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_micros(rng.below(60_000)));
    Ok(())
}

/// A place to put while a child is killed.
fn idle() -> Reaped {
    Reaped(std::process::Command::new("true").spawn().unwrap())
}
