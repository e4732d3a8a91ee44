//! Kill -9 of a primary that waits for one standby, of that standby, or of both, again and again on the same logs, each in
//! a process of its own and connected over TCP. After every kill the standby's log is the beginning of the primary's, and
//! nothing acknowledged is missing on either side. `RINGWAL_SHIP_KILLS=500` for more than the default 5.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod rig;
}

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::rig::{Reaped, Rng, Scratch, child as child_in, env_count, role, say};
use ringwal::{Log, OpenError, Options, Primary, Reader, Standby};
use tokio::net::TcpStream;

/// Kills on one pair of logs before a fresh one is begun, so that reading all of it stays quick.
const KILLS_PER_PAIR: u32 = 20;
const APPENDERS: u64 = 6;
const LONG: Duration = Duration::from_secs(30);

fn options() -> Options {
    Options::default().segment_bytes(512 << 10)
}

/// A primary or a standby. Runs only in a child; otherwise it returns at once.
#[test]
fn child() {
    let Some(role) = role() else { return };
    let dir = PathBuf::from(std::env::var("RINGWAL_DIR").unwrap());
    let address: SocketAddr = std::env::var("RINGWAL_ADDRESS").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match role.as_str() {
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

type Records = Vec<(u64, usize, u32)>;

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
fn judge(primary: &Records, standby: &Records, acked: &BTreeMap<u64, (usize, u32)>) -> Vec<String> {
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

#[test]
fn killed_primaries_and_standbys_lose_nothing_acknowledged() {
    if role().is_some() {
        return;
    }
    let kills = u32::try_from(env_count("RINGWAL_SHIP_KILLS").unwrap_or(5)).unwrap();
    let seed = Rng::seed();
    say(&format!("ship_kills: RINGWAL_SEED={seed}"));
    let mut rng = Rng::new(seed);
    let (mut done, mut counts, mut acks) = (0, [0; 3], 0);
    while done < kills {
        let scratch = Scratch::new("ship-kills");
        let (a, b) = (scratch.join("a"), scratch.join("b"));
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = port.local_addr().unwrap();
        drop(port);
        let told = Arc::new(Mutex::new(Told::default()));
        let (mut primary, mut standby) = (start("primary", &a, address, &told), start("standby", &b, address, &told));
        for _ in 0..KILLS_PER_PAIR.min(kills - done) {
            // Mostly once records flow again; sometimes while the two have hardly begun.
            let before = told.lock().unwrap().acked.len();
            if rng.one_in(5) {
                std::thread::sleep(Duration::from_millis(rng.below(60)));
            } else {
                let began = Instant::now();
                while told.lock().unwrap().acked.len() == before {
                    assert!(began.elapsed() < LONG, "nothing is acknowledged: {:?}", told.lock().unwrap().wrong);
                    std::thread::sleep(Duration::from_millis(1));
                }
                std::thread::sleep(Duration::from_micros(rng.below(60_000)));
            }
            let whom = rng.below(3);
            counts[usize::try_from(whom).unwrap()] += 1;
            let (kills_primary, kills_standby) = (whom != 1, whom != 0);
            let dead = match whom {
                0 => vec![std::mem::replace(&mut primary, idle())],
                1 => vec![std::mem::replace(&mut standby, idle())],
                _ => vec![std::mem::replace(&mut primary, idle()), std::mem::replace(&mut standby, idle())],
            };
            dead.into_iter().for_each(end);
            done += 1;
            // The pipes are read to their ends, and a side that lives comes to rest: it has nobody to wait with.
            std::thread::sleep(Duration::from_millis(50));
            let last = told.lock().unwrap().acked.last_key_value().map_or(0, |(lsn, _)| *lsn);
            let look = |dir: &Path, dead: bool| match dead {
                true if !dir.exists() => Records::new(),
                true => recovered(dir),
                false => beside(dir, last),
            };
            let (held_a, held_b) = (look(&a, kills_primary), look(&b, kills_standby));
            let told_now = told.lock().unwrap();
            let mut wrong = judge(&held_a, &held_b, &told_now.acked);
            wrong.extend(told_now.wrong.iter().cloned());
            assert!(wrong.is_empty(), "kill {done}: {wrong:#?}");
            drop(told_now);
            if kills_primary {
                primary = start("primary", &a, address, &told);
            }
            if kills_standby {
                standby = start("standby", &b, address, &told);
            }
        }
        acks += told.lock().unwrap().acked.len();
    }
    let [primaries, standbys, both] = counts;
    say(&format!(
        "ship_kills: {done} kills ({primaries} primaries, {standbys} standbys, {both} both), {acks} acknowledged"
    ));
    assert!(acks > done as usize, "hardly anything was acknowledged");
}

/// A place to put while a child is killed.
fn idle() -> Reaped {
    Reaped(std::process::Command::new("true").spawn().unwrap())
}

#[test]
fn the_judge_sees_each_kind_of_lie() {
    if role().is_some() {
        return;
    }
    let log: Records = (1..=5).map(|lsn| (lsn, 10, 7)).collect();
    let acked: BTreeMap<_, _> = (1..=3).map(|lsn| (lsn, (10, 7))).collect();
    assert!(judge(&log, &log[..3].to_vec(), &acked).is_empty());
    assert!(!judge(&log, &log[..2].to_vec(), &acked).is_empty(), "missing at the standby");
    assert!(!judge(&log[..4].to_vec(), &log, &acked).is_empty(), "ahead of the primary");
    let mut other = log.clone();
    other[1].2 = 8;
    assert!(!judge(&other, &log, &acked).is_empty() && !judge(&log, &other, &acked).is_empty(), "other bytes");
}
