//! The example `log_shipping`: whichever side is killed, nothing that was acknowledged is missing on the other.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../examples/log_shipping/client.rs"]
mod client;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use client::{Client, free_address};
use ringwal::Reader;

const SHARDS: usize = 2;
const WRITERS: usize = 6;
/// For waits that should be short: longer is a failure.
const LONG: Duration = Duration::from_secs(15);

/// The built example, beside this test's own directory.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples/log_shipping");
    assert!(path.exists(), "{} is not built: cargo build --examples --features cli", path.display());
    path
}

/// A directory on a real file system; removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shipping-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where everything is, and the two processes.
struct Pair {
    scratch: Scratch,
    address: String,
    primary: Arc<RwLock<Arc<Client>>>,
    standby: Client,
}

impl Pair {
    fn start(name: &str) -> Self {
        let (scratch, address) = (Scratch::new(name), free_address().unwrap());
        let primary = start(&scratch, "primary", &address);
        let standby = start(&scratch, "standby", &address);
        Self { scratch, address, primary: Arc::new(RwLock::new(Arc::new(primary))), standby }
    }

    fn primary(&self) -> Arc<Client> {
        self.primary.read().unwrap().clone()
    }

    fn kill_primary(&self) {
        self.primary().kill();
    }

    fn restart_primary(&self) {
        *self.primary.write().unwrap() = Arc::new(start(&self.scratch, "primary", &self.address));
    }

    fn restart_standby(&mut self) {
        self.standby = start(&self.scratch, "standby", &self.address);
    }

    /// Until the standby has everything.
    fn wait_even(&self) {
        // That the primary acknowledges a change in each shard says that the standby has all before it.
        for number in 0..8 {
            let answer = self.primary().ask(&format!("set even-{number} 1")).unwrap();
            assert!(answer.starts_with("ok "), "{answer}");
        }
        let deadline = Instant::now() + LONG;
        while self.standby.ask("lag").unwrap() != "lag 0" {
            assert!(Instant::now() < deadline, "the standby does not catch up");
            sleep(Duration::from_millis(20));
        }
    }

    /// The records of a shard: LSN and bytes.
    fn records(&self, role: &str, shard: usize) -> BTreeMap<u64, Vec<u8>> {
        let reader = Reader::open(self.scratch.0.join(role).join(format!("shard-{shard}"))).unwrap();
        let records = reader.read(..).unwrap().map(|record| record.unwrap());
        records.map(|record| (record.lsn.get(), record.payload.to_vec())).collect()
    }
}

fn start(scratch: &Scratch, role: &str, address: &str) -> Client {
    let dir = scratch.0.join(role);
    let dir = dir.to_str().unwrap();
    let shards = SHARDS.to_string();
    match role {
        "primary" => Client::start(&program(), &[role, dir, "--listen", address, "--shards", &shards]).unwrap(),
        _ => Client::start(&program(), &[role, dir, "--primary", address]).unwrap(),
    }
}

/// The outside witness: it remembers every acknowledgement, and where the record is said to be.
#[derive(Default)]
struct Witness {
    /// By shard and LSN: the record.
    acked: Mutex<BTreeMap<(usize, u64), String>>,
    stop: AtomicBool,
}

impl Witness {
    /// `ok LSN shard I`
    fn hear(&self, change: &str, answer: &str) {
        let words: Vec<&str> = answer.split(' ').collect();
        let ["ok", lsn, "shard", shard] = words[..] else { panic!("{change}: {answer}") };
        let at = (shard.parse().unwrap(), lsn.parse().unwrap());
        let before = self.acked.lock().unwrap().insert(at, change.to_owned());
        assert_eq!(before, None, "{at:?} was acknowledged twice, now for {change}");
    }

    fn count(&self) -> usize {
        self.acked.lock().unwrap().len()
    }

    /// Writers that go on with the next primary when theirs is gone. Every fifth change takes a key away.
    fn writers(self: &Arc<Self>, primary: &Arc<RwLock<Arc<Client>>>) -> Vec<JoinHandle<()>> {
        let start = |writer| {
            let (witness, primary) = (self.clone(), primary.clone());
            thread::spawn(move || {
                for number in 0.. {
                    if witness.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let change = match number % 5 {
                        4 => format!("del {writer}-{}", number - 1),
                        _ => format!("set {writer}-{number} {}", "x".repeat(number % 300)),
                    };
                    let client = primary.read().unwrap().clone();
                    match client.ask(&change) {
                        Some(answer) => witness.hear(&change, &answer),
                        None => sleep(Duration::from_millis(10)),
                    }
                }
            })
        };
        (0..WRITERS).map(start).collect()
    }

    /// What `get` must say of the keys whose last change was acknowledged for certain.
    fn values(&self) -> BTreeMap<String, String> {
        let mut values = BTreeMap::new();
        for change in self.acked.lock().unwrap().values() {
            let mut words = change.splitn(3, ' ');
            let (word, key) = (words.next().unwrap(), words.next().unwrap().to_owned());
            let number: usize = key.split_once('-').unwrap().1.parse().unwrap();
            match words.next() {
                // Such a one may have been deleted without an answer.
                Some(value) if number % 5 != 3 => drop(values.insert(key, format!("value {value}"))),
                Some(_) => {}
                None => drop((assert_eq!(word, "del"), values.insert(key, "none".to_owned()))),
            }
        }
        values
    }

    /// Everything that was acknowledged is in the log, where it was said to be.
    fn judge(&self, side: &str, logs: &[BTreeMap<u64, Vec<u8>>]) {
        for ((shard, lsn), change) in &*self.acked.lock().unwrap() {
            let found = logs[*shard].get(lsn).map(|record| String::from_utf8_lossy(record).into_owned());
            assert_eq!(found.as_deref(), Some(change.as_str()), "{side}: record {lsn} of shard {shard}");
        }
    }
}

/// Small and good enough: which side, and when.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("RINGWAL_SHIPPING_SEED").map_or_else(
            |_| std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into(),
            |seed| seed.parse().unwrap(),
        );
        eprintln!("RINGWAL_SHIPPING_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn time(&mut self, millis: u64) -> Duration {
        Duration::from_millis(self.below(millis))
    }
}

fn check_values(side: &str, client: &Client, expected: &BTreeMap<String, String>) {
    for keys in expected.iter().collect::<Vec<_>>().chunks(500) {
        let asked: Vec<_> = keys.iter().map(|(key, _)| client.send(&format!("get {key}")).unwrap()).collect();
        for ((key, value), answer) in keys.iter().zip(asked) {
            assert_eq!(answer.recv_timeout(LONG).as_ref(), Ok(*value), "{side}: {key}");
        }
    }
}

#[test]
fn either_side_may_be_killed_at_any_time() {
    let kills: usize = std::env::var("RINGWAL_SHIPPING_KILLS").map_or(4, |kills| kills.parse().unwrap());
    let (mut dice, mut pair, witness) = (Dice::new(), Pair::start("kills"), Arc::new(Witness::default()));
    let writers = witness.writers(&pair.primary);
    for kill in 0..kills {
        // Writes are under way when it happens, after each restart.
        let (before, deadline) = (witness.count(), Instant::now() + LONG);
        while witness.count() <= before + 50 {
            assert!(Instant::now() < deadline, "kill {kill}: nothing is acknowledged any more");
            sleep(Duration::from_millis(5));
        }
        sleep(dice.time(300));
        let sides = dice.below(5);
        if sides != 0 {
            pair.standby.kill();
        }
        sleep(dice.time(30));
        if sides == 0 || sides >= 3 {
            pair.kill_primary();
        }
        sleep(dice.time(150));
        if sides == 0 || sides >= 3 {
            pair.restart_primary();
        }
        if sides != 0 {
            pair.restart_standby();
        }
    }
    witness.stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    pair.wait_even();
    check_values("primary", &pair.primary(), &witness.values());
    check_values("standby", &pair.standby, &witness.values());
    assert!(pair.primary().end() && pair.standby.end(), "both end in order");

    let logs = |role| (0..SHARDS).map(|shard| pair.records(role, shard)).collect::<Vec<_>>();
    let (primary, standby) = (logs("primary"), logs("standby"));
    assert!(primary == standby, "the logs differ");
    assert!(primary.iter().all(|log| log.len() > 10), "each shard was written to");
    witness.judge("primary", &primary);
    witness.judge("standby", &standby);
}

#[test]
fn a_promoted_standby_has_everything_and_takes_changes() {
    let (pair, witness) = (Pair::start("promote"), Arc::new(Witness::default()));
    assert!(pair.standby.ask("set a b").unwrap().starts_with("error: this is a standby"));
    let writers = witness.writers(&pair.primary);
    sleep(Duration::from_millis(700));
    witness.stop.store(true, Ordering::Relaxed);
    // The last changes are under way.
    pair.kill_primary();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(pair.standby.ask("promote").as_deref(), Some("promoted"));
    // Reads come first: they must not wait for a change.
    let expected = witness.values();
    assert!(expected.len() > 50 && expected.values().any(|value| value == "none"));
    check_values("the promoted standby", &pair.standby, &expected);
    assert!(pair.standby.ask("set after promotion").unwrap().starts_with("ok "));
    assert_eq!(pair.standby.ask("get after").as_deref(), Some("value promotion"));
    assert!(pair.standby.ask("promote").unwrap().starts_with("error: "));
    assert!(pair.standby.end());
    let standby: Vec<_> = (0..SHARDS).map(|shard| pair.records("standby", shard)).collect();
    witness.judge("standby", &standby);
    // Nobody can go behind a promotion: the first record of the new reign is in each shard.
    assert!(standby.iter().all(|log| log.values().any(|record| record == b"promoted")));
}

#[test]
fn without_its_standby_a_primary_acknowledges_nothing() {
    let pair = Pair::start("alone");
    assert_eq!(pair.primary().ask("set a 1").as_deref().map(|answer| &answer[..4]), Some("ok 1"));
    pair.standby.kill();
    let primary = pair.primary();
    let answer = primary.send("set a 2").unwrap();
    // Nor is it shown to anybody.
    let value = primary.send("get a").unwrap();
    assert!(answer.recv_timeout(Duration::from_millis(700)).is_err());
    let standby = start(&pair.scratch, "standby", &pair.address);
    assert!(answer.recv_timeout(LONG).unwrap().starts_with("ok 2 "));
    assert_eq!(value.recv_timeout(LONG).unwrap(), "value 2");
    assert!(standby.end() && primary.end());
}

#[test]
fn the_demo_keeps_its_word_and_leaves_nothing_behind() {
    let scratch = Scratch::new("demo");
    let demo = || {
        let mut command = Command::new(program());
        command.arg("demo").arg("--dir").arg(&scratch.0).stdin(Stdio::null()).stdout(Stdio::piped());
        command
    };
    let interrupted = demo().spawn().unwrap();
    sleep(Duration::from_millis(900));
    let pid = nix::unistd::Pid::from_raw(interrupted.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let interrupted = interrupted.wait_with_output().unwrap();
    assert!(!interrupted.status.success(), "{interrupted:?}");
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0, "after SIGINT");

    let output = demo().output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains(" acknowledged, 0 missing\n"), "{said}");
    assert!(said.contains("kill -9 of the standby: 0 acknowledged while it is away\n"), "{said}");
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
}
