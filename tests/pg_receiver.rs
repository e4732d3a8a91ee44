//! The example `pg_receiver` with a real PostgreSQL: commits wait for it, and nothing that was acknowledged is lost
//! when the receiver is killed, or the server.
#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "common/rig.rs"]
mod rig;
#[allow(dead_code, reason = "shared with the example")]
#[path = "../examples/pg_receiver/server.rs"]
mod server;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringwal::{Log, Options};

use server::{Home, Programs, Server, Witness, missing, recover, run, wait_for};

const NAME: &str = "ringwal";
const PATIENCE: Duration = Duration::from_secs(30);

/// The built example: a plain `cargo test` puts it beside this test's own directory.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples/pg_receiver");
    assert!(path.exists(), "{} is not built: cargo build --examples --features cli", path.display());
    path
}

/// PostgreSQL's programs, and a directory that their user can enter; None where there is no PostgreSQL.
fn workshop(test: &str) -> Option<(Programs, Home)> {
    match Programs::find() {
        Ok(programs) => Some((programs, Home::make(Path::new("/var/tmp"), &format!("ringwal-test-{test}")).unwrap())),
        Err(why) => {
            rig::skip(test, &why);
            None
        }
    }
}

fn new_server(programs: &Programs, home: &Home, name: &str) -> Server {
    Server::init(programs, &home.join(name)).unwrap();
    // Nothing here is about the server's own disk.
    Server::start(programs, &home.join(name), &["full_page_writes=off"]).unwrap()
}

fn receive(log: &Path, connection: &str, more: &[&str]) -> Command {
    let mut command = Command::new(example());
    command.arg("receive").arg(log).args(["--connection", connection, "--name", NAME]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs a receiver or a restoring that ends by itself: its exit code and the one line that it says.
fn refused(command: &mut Command) -> (i32, String) {
    let mut child = rig::Reaped(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    wait_for(PATIENCE, || Ok(child.0.try_wait().unwrap().is_some())).expect("it does not refuse");
    let mut text = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (child.0.wait().unwrap().code().unwrap(), text.lines().last().unwrap_or_default().to_owned())
}

fn restore(log: &Path, into: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(example());
    command.arg("restore").arg(log).arg("--into").arg(into).args(more).stdin(Stdio::null());
    command
}

/// A running receiver with a slot.
struct Receiver {
    child: rig::Reaped,
    first_line: String,
    rest: BufReader<ChildStderr>,
}

impl Receiver {
    fn start(server: &Server, log: &Path, connection: &str) -> Self {
        let mut child = rig::Reaped(receive(log, connection, &["--slot", NAME]).spawn().unwrap());
        let (mut rest, mut first_line) = (BufReader::new(child.0.stderr.take().unwrap()), String::new());
        rest.read_line(&mut first_line).unwrap();
        server.wait_until_caught_up(NAME).unwrap();
        Self { child, first_line, rest }
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.0.id()).unwrap()), signal).unwrap();
    }

    /// Ends it with a signal: what it said, and its exit code if it ended by itself.
    fn end(mut self, signal: Signal) -> (String, Option<i32>) {
        self.send(signal);
        let mut said = String::new();
        self.rest.read_to_string(&mut said).unwrap();
        (said, self.child.0.wait().unwrap().code())
    }
}

#[test]
fn commits_wait_for_the_receiver() {
    let Some((programs, home)) = workshop("commits") else { return };
    let server = new_server(&programs, &home, "data");
    server.sql("ALTER ROLE postgres PASSWORD 'it''s a secret'").unwrap();
    // By TCP and with a password; the other tests use the socket.
    let connection = format!("host=127.0.0.1 port={} user=postgres password='it\\'s a secret'", server.port);
    let receiver = Receiver::start(&server, &home.join("log"), &connection);
    server.wait_for_standby(NAME).unwrap();

    let before = server.sql("SELECT pg_current_wal_lsn()").unwrap();
    server.sql("CREATE TABLE t (i int)").unwrap();
    let fed_back = format!("SELECT sync_state, flush_lsn > '{before}', flush_lsn = write_lsn FROM pg_stat_replication");
    assert_eq!(server.sql(&fed_back).unwrap(), "sync|t|t");

    // While it cannot make anything durable nothing is committed; as soon as it can, all is.
    let witness = Witness::start(&server, 2).unwrap();
    wait_for(PATIENCE, || Ok(witness.count() > 100)).unwrap();
    receiver.send(Signal::SIGSTOP);
    thread::sleep(Duration::from_millis(200));
    let stopped = witness.count();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(witness.count(), stopped, "a commit did not wait for its standby");
    receiver.send(Signal::SIGCONT);
    wait_for(PATIENCE, || Ok(witness.count() > stopped + 100)).unwrap();
    assert!(missing(&server, &witness.end()).unwrap().is_empty());

    // It answers a server that asks whether it is still there.
    server.sql("ALTER SYSTEM SET wal_sender_timeout = '2s'").unwrap();
    server.sql("SELECT pg_reload_conf()").unwrap();
    let sender = "SELECT pid FROM pg_stat_replication";
    let before = server.sql(sender).unwrap();
    thread::sleep(Duration::from_secs(4));
    assert_eq!(server.sql(sender).unwrap(), before, "the server gave it up");

    // A server that stops is not held up by it, and it is there again when the server is.
    let port = server.port;
    server.stop().unwrap();
    let server = Server::start_on(&programs, &home.join("data"), port, &[]).unwrap();
    server.wait_until_caught_up(NAME).unwrap();
    server.sql("INSERT INTO t VALUES (1)").unwrap();
    // A signal ends it in order.
    let (said, code) = receiver.end(Signal::SIGTERM);
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("the server ended the stream; trying again"), "{said}");
}

#[test]
fn nothing_acknowledged_is_lost_when_receiver_and_server_are_killed() {
    let Some((programs, home)) = workshop("kills") else { return };
    let (log, wal) = (home.join("log"), home.join("wal"));
    let server = new_server(&programs, &home, "data");
    let mut receiver = Receiver::start(&server, &log, &server.conninfo());
    run(server.client("pgbench").args(["-i", "-q", "-s", "1"])).unwrap();
    server.back_up(&home.join("backup")).unwrap();
    server.wait_for_standby(NAME).unwrap();

    let witness = Witness::start(&server, 4).unwrap();
    let mut pgbench = server.client("pgbench");
    pgbench.args(["-n", "-M", "prepared", "-c", "4", "-T", "120"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut pgbench = rig::Reaped(pgbench.spawn().unwrap());
    // What came while the last batch was on its way is received, and is not said to be flushed.
    let ahead = "SELECT write_lsn > flush_lsn FROM pg_stat_replication";
    wait_for(PATIENCE, || Ok(server.sql(ahead)? == "t")).expect("chunks wait for one another, or are confirmed early");
    for _ in 0..3 {
        let before = witness.count();
        wait_for(PATIENCE, || Ok(witness.count() > before + 100)).unwrap();
        thread::sleep(Duration::from_millis(300));
        assert_eq!(receiver.end(Signal::SIGKILL).1, None);
        // The slot stands where the server was last told that everything is flushed.
        let told = "SELECT restart_lsn FROM pg_replication_slots WHERE NOT active";
        wait_for(PATIENCE, || Ok(!server.sql(told)?.is_empty())).unwrap();
        let told = server.sql(told).unwrap();
        receiver = Receiver::start(&server, &log, &server.conninfo());
        let (at, _) = receiver.first_line.strip_prefix("receiving from ").unwrap().split_once(' ').unwrap();
        let held = server.sql(&format!("SELECT '{at}'::pg_lsn >= '{told}'")).unwrap();
        assert_eq!(held, "t", "{told} was said to be flushed, and the log ended at {at}");
    }
    let before = witness.count();
    wait_for(PATIENCE, || Ok(witness.count() > before + 100)).unwrap();
    let flushed = server.sql("SELECT flush_lsn FROM pg_stat_replication").unwrap();
    assert!(pgbench.0.try_wait().unwrap().is_none(), "pgbench ended early");
    server.kill();
    let acknowledged = witness.end();
    receiver.end(Signal::SIGKILL);

    // PostgreSQL reads all of it, from the first segment to the last position that was fed back, and recovers from it.
    let restored = run(&mut restore(&log, &wal, &[])).unwrap();
    assert!(restored.contains(" 0 of them there already: "), "{restored}");
    let start = restored.split(": ").nth(1).unwrap().split(' ').next().unwrap();
    programs.give(&wal).unwrap();
    let mut dump = programs.command("pg_waldump");
    let dumped = run(dump.arg("-p").arg(&wal).args(["-s", start, "-e", &flushed])).unwrap();
    assert!(dumped.lines().count() > 1000, "{dumped}");
    let commits = dumped.lines().filter(|line| line.contains("desc: COMMIT")).count();
    assert!(commits >= before, "{commits} commits in the WAL, {before} were acknowledged by then");
    let fresh = recover(&programs, &home.join("backup"), &wal).unwrap();
    assert_eq!(missing(&fresh, &acknowledged).unwrap(), Vec::<i64>::new());
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)";
    assert_eq!(fresh.sql(sums).unwrap(), "t");

    files_are_completed_and_never_overwritten(&log, &home.join("other"), &flushed);
}

/// Restoring again keeps what is there, completes an earlier last segment, and refuses a file that is another.
fn files_are_completed_and_never_overwritten(log: &Path, wal: &Path, middle: &str) {
    let partial = run(&mut restore(log, wal, &["--to-lsn", middle])).unwrap();
    assert!(partial.contains(&format!(" to {middle}, ")), "{partial}");
    run(&mut restore(log, wal, &[])).unwrap();
    let again = run(&mut restore(log, wal, &[])).unwrap();
    let (all, kept) = again.split_once(" segments, ").unwrap();
    assert_eq!(kept.split(' ').next().unwrap(), all, "{again}");
    let (code, text) = refused(&mut restore(log, wal, &["--to-lsn", "FF/0"]));
    assert!(code == 1 && text.contains("before FF/0"), "{code}: {text}");

    let first = std::fs::read_dir(wal).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let mut bytes = std::fs::read(&first).unwrap();
    bytes[12345] ^= 1;
    std::fs::write(&first, &bytes).unwrap();
    let (code, text) = refused(&mut restore(log, wal, &[]));
    assert!(code == 1 && text.contains("differs from the log at byte 12345"), "{code}: {text}");
    assert_eq!(std::fs::read(&first).unwrap(), bytes, "it was overwritten");
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() {
    let Some((programs, home)) = workshop("refusals") else { return };
    let server = new_server(&programs, &home, "data");
    let (log, connection) = (home.join("log"), server.conninfo());
    let receiver = Receiver::start(&server, &log, &connection);

    // Somebody else's slot, and a held log.
    let (code, text) = refused(&mut receive(&home.join("second"), &connection, &["--slot", NAME]));
    assert!(code == 3 && text.contains("is active for PID"), "{code}: {text}");
    let (code, text) = refused(&mut receive(&log, &connection, &[]));
    assert!(code == 3 && text.contains("held"), "{code}: {text}");
    server.sql("CREATE TABLE t (i int)").unwrap();
    server.wait_until_caught_up(NAME).unwrap();
    receiver.end(Signal::SIGTERM);

    // Another server.
    let other = new_server(&programs, &home, "other");
    let system = "SELECT system_identifier FROM pg_control_system()";
    let (ours, theirs) = (server.sql(system).unwrap(), other.sql(system).unwrap());
    let (code, text) = refused(&mut receive(&log, &other.conninfo(), &[]));
    assert!(code == 1 && text.contains(&ours) && text.contains(&theirs), "{code}: {text}");

    // Another program's log, and a directory that is none: not a byte is added to it.
    let foreign = Log::open(home.join("foreign"), Options::default()).wait().unwrap();
    foreign.append(b"hello").wait().unwrap();
    foreign.close().wait().unwrap();
    let is_foreign = |(code, text): (i32, String)| {
        assert!(code == 3 && text.contains("the log of something else"), "{code}: {text}");
    };
    is_foreign(refused(&mut receive(&home.join("foreign"), &connection, &[])));
    is_foreign(refused(&mut restore(&home.join("foreign"), &home.join("wal"), &[])));
    std::fs::create_dir(home.join("files")).unwrap();
    std::fs::write(home.join("files").join("note"), "mine").unwrap();
    let (code, text) = refused(&mut receive(&home.join("files"), &connection, &[]));
    assert!(code == 3 && text.contains("not a log"), "{code}: {text}");
    assert_eq!(std::fs::read_dir(home.join("files")).unwrap().count(), 1);

    // Connections that lead nowhere.
    for (connection, why) in [
        ("host=127.0.0.1 port=1 user=postgres", "no connection: 127.0.0.1 port 1"),
        ("hots=127.0.0.1", "the connection string"),
        (format!("host=127.0.0.1 port={} user=postgres", server.port).as_str(), "password"),
        (format!("host=127.0.0.1 port={} user=postgres password=x", server.port).as_str(), "authentication failed"),
    ] {
        let (code, text) = refused(&mut receive(&home.join("nowhere"), connection, &[]));
        assert!(code == 3 && text.contains(why), "{connection}: {code}: {text}");
    }
}
