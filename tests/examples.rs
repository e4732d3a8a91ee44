//! The examples do what they say: the quickstarts run, and the key-value store survives kill -9.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The built example: a plain `cargo test` puts it beside this test's own directory. `--test examples` alone does not
/// build it; `cargo build --examples --features cli` does.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let path = profile.join("examples").join(name);
    assert!(path.exists(), "{} is not built: cargo build --examples --features cli", path.display());
    path
}

/// A directory on a real file system; removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("example-{name}-{}", std::process::id()));
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

/// A running store.
struct Store {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Store {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(example("kv_store"))
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, stdout }
    }

    fn send(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the store is gone");
        line.trim_end_matches('\n').to_owned()
    }

    fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.answer()
    }

    fn list(&mut self) -> BTreeMap<String, String> {
        let count = self.ask("list").strip_prefix("list ").unwrap().parse().unwrap();
        let pairs = (0..count).map(|_| self.answer());
        pairs.map(|line| line.split_once(' ').map(|(key, value)| (key.to_owned(), value.to_owned())).unwrap()).collect()
    }

    /// Kills it with what it was told and has not answered yet, and returns the answers that got out all the same.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // The last line may have been cut.
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut rest).unwrap();
        let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    fn end(self) {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        assert!(child.wait().unwrap().success());
    }
}

/// Puts `count` keys in a pipeline, reads half of the answers, kills the store, and returns how many were answered.
fn put_many_and_kill(mut store: Store, round: usize, count: usize) -> usize {
    for number in 0..count {
        store.send(&format!("put key-{number} value-{round}-{number}"));
    }
    for _ in 0..count / 2 {
        assert!(store.answer().starts_with("ok "));
    }
    let late = store.kill();
    assert!(late.iter().all(|answer| answer.starts_with("ok ")), "{late:?}");
    count / 2 + late.len()
}

/// Every answered put is there, and nothing that was never put.
fn check(kept: &BTreeMap<String, String>, round: usize, answered: usize, count: usize) {
    for number in 0..answered {
        let value = kept.get(&format!("key-{number}"));
        assert_eq!(value, Some(&format!("value-{round}-{number}")), "round {round}, key {number} of {answered}");
    }
    for (key, value) in kept.iter().filter(|(key, _)| key.starts_with("key-")) {
        let number: usize = key["key-".len()..].parse().unwrap();
        let before = round.checked_sub(1).is_some_and(|before| *value == format!("value-{before}-{number}"));
        assert!(number < count && (before || *value == format!("value-{round}-{number}")), "{key} {value}");
    }
}

#[test]
fn answered_changes_survive_kill_9() {
    let scratch = Scratch::new("kill");
    const COUNT: usize = 800;
    for round in 0..3 {
        let answered = put_many_and_kill(Store::start(&scratch.0), round, COUNT);
        let mut store = Store::start(&scratch.0);
        check(&store.list(), round, answered, COUNT);
        // For the next round everything has this round's value.
        for number in 0..COUNT {
            assert!(store.ask(&format!("put key-{number} value-{round}-{number}")).starts_with("ok "));
        }
        store.kill();
    }
}

#[test]
fn a_snapshot_and_what_follows_it_survive_kill_9() {
    let scratch = Scratch::new("snapshot");
    let mut store = Store::start(&scratch.0);
    for (command, answer) in [
        ("put a 1", "ok 1"),
        ("put b two words", "ok 2"),
        ("put gone soon", "ok 3"),
        ("delete gone", "ok 4"),
        ("snapshot", "snapshot 4"),
        ("put c ", "ok 5"),
        ("put a 2", "ok 6"),
        ("delete b", "ok 7"),
        ("get a", "value 2"),
        ("get b", "none"),
    ] {
        assert_eq!(store.ask(command), answer, "{command}");
    }
    store.kill();

    let mut store = Store::start(&scratch.0);
    assert_eq!(store.ask("get gone"), "none", "delete stays deleted, in the snapshot");
    assert_eq!(store.ask("get b"), "none", "delete stays deleted, behind the snapshot");
    assert_eq!(store.ask("get a"), "value 2");
    assert_eq!(store.ask("get c"), "value ");
    assert_eq!(store.ask("snapshot"), "snapshot 7");
    store.kill();

    // The snapshot alone says it all now, and an unfinished one is nothing.
    fs::write(scratch.0.join("snapshot.new"), b"KVSNAP01 torn").unwrap();
    let mut store = Store::start(&scratch.0);
    assert_eq!(store.list(), BTreeMap::from([("a".to_owned(), "2".to_owned()), ("c".to_owned(), String::new())]));
    assert_eq!(store.ask("put d 4"), "ok 8");
    store.end();
    assert!(Store::start(&scratch.0).ask("get d") == "value 4");
}

#[test]
fn what_is_not_a_command_is_told_so() {
    let scratch = Scratch::new("protocol");
    let mut store = Store::start(&scratch.0);
    for nonsense in ["", "put", "put key", "get", "get a b", "list all", "drop table"] {
        assert!(store.ask(nonsense).starts_with("error: "), "{nonsense:?}");
    }
    assert_eq!(store.ask("list"), "list 0");
    store.end();
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let scratch = Scratch::new("damaged");
    let mut store = Store::start(&scratch.0);
    assert_eq!(store.ask("put a 1"), "ok 1");
    assert_eq!(store.ask("snapshot"), "snapshot 1");
    store.end();
    let path = scratch.0.join("snapshot");
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let output = Command::new(example("kv_store")).arg(&scratch.0).stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("damaged"), "{output:?}");
}

#[test]
fn the_quickstarts_run() {
    for name in ["quickstart", "quickstart_tokio_uring"] {
        let scratch = Scratch::new(name);
        for first in [1, 5] {
            let output = Command::new(example(name)).arg(scratch.0.join("log")).output().unwrap();
            assert!(output.status.success(), "{name}: {output:?}");
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(said.contains(&format!("hello is durable as record {first}\n")), "{said}");
            assert!(said.ends_with(&format!("{}: none\n", first + 3)), "{said}");
        }
    }
}

#[test]
fn the_local_log_runs() {
    let scratch = Scratch::new("local");
    let output = Command::new(example("local")).arg(scratch.0.join("log")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("hello is durable as record 1\nthree more shared 1 flush(es)\n"), "{said}");
    assert!(said.ends_with("4: together\n"), "{said}");
}
