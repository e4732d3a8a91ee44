//! A PostgreSQL server of our own, to be used and killed: for `demo`, `compare` and the tests.
//!
//! PostgreSQL refuses to run as root; for root its programs run as `postgres` or `nobody`.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

pub(crate) type Result<T> = std::result::Result<T, String>;

const START_MAX: Duration = Duration::from_secs(60);

/// PostgreSQL's programs, and who runs them.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    bin: PathBuf,
    /// User and group, where it cannot be ourselves.
    user: Option<(u32, u32)>,
}

impl Programs {
    /// In `PG_BIN`, in `PATH`, or in the newest /usr/lib/postgresql/*/bin.
    pub(crate) fn find() -> Result<Self> {
        let there = |dir: &PathBuf| ["postgres", "initdb", "pgbench"].iter().all(|name| dir.join(name).is_file());
        let bin = candidates().into_iter().find(there);
        let bin = bin.ok_or("no PostgreSQL here: set PG_BIN to the directory of postgres, initdb and pgbench")?;
        let user = if geteuid().is_root() { Some(unprivileged()?) } else { None };
        Ok(Self { bin, user })
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        // Our own directory may be closed to the other user.
        command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Makes a directory that the programs may write into, and nobody else read.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<()> {
        let made = DirBuilder::new().mode(0o700).create(path).and_then(|()| self.give(path));
        made.map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Gives a file, or a directory with the files in it, to who runs the programs.
    pub(crate) fn give(&self, path: &Path) -> io::Result<()> {
        let Some((uid, gid)) = self.user else { return Ok(()) };
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                self.give(&entry?.path())?;
            }
        }
        chown(path, Some(uid), Some(gid))
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<_> = std::env::var_os("PG_BIN").into_iter().map(PathBuf::from).collect();
    if let Some(path) = std::env::var_os("PATH") {
        found.extend(std::env::split_paths(&path));
    }
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().collect();
    versions.sort_by_key(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    found.extend(versions.iter().rev().map(|entry| entry.path().join("bin")));
    found
}

fn unprivileged() -> Result<(u32, u32)> {
    let find = |name| User::from_name(name).ok().flatten();
    let user = find("postgres").or_else(|| find("nobody"));
    let user = user.ok_or("PostgreSQL does not run as root, and there is no user postgres or nobody")?;
    Ok((user.uid.as_raw(), user.gid.as_raw()))
}

/// Runs a command to its end and returns its standard output; what it says of a failure is the error.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    Err(format!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()))
}

/// A directory for everything, removed when dropped unless it is to be kept.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    pub(crate) keep: bool,
}

impl Home {
    /// Below `parent`, which the servers' user must be able to enter; a socket's path there is short enough.
    pub(crate) fn make(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path, keep: false })
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) programs: Programs,
    data: PathBuf,
    sockets: PathBuf,
    pub(crate) port: u16,
    postmaster: Child,
}

impl Server {
    /// A new cluster in `data`. The user postgres is trusted on the socket and needs a password on TCP.
    pub(crate) fn init(programs: &Programs, data: &Path) -> Result<()> {
        programs.make_dir(data)?;
        let mut initdb = programs.command("initdb");
        initdb.args(["--no-sync", "-U", "postgres", "-E", "UTF8", "--locale=C"]);
        initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256", "-D"]).arg(data);
        run(&mut initdb).map(drop)
    }

    /// Starts a server on the cluster in `data`, with these settings, on a free port and a socket beside `data`.
    pub(crate) fn start(programs: &Programs, data: &Path, settings: &[&str]) -> Result<Self> {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.map_err(|error| format!("no free port: {error}"))?.port();
        Self::start_on(programs, data, port, settings)
    }

    /// As [`Server::start`], on this port.
    pub(crate) fn start_on(programs: &Programs, data: &Path, port: u16, settings: &[&str]) -> Result<Self> {
        let sockets = data.with_extension("socket");
        if !sockets.exists() {
            programs.make_dir(&sockets)?;
        }
        let log_path = data.with_extension("log");
        let log = File::options().create(true).append(true).open(&log_path).map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = programs.command("postgres");
        command.arg("-D").arg(data).arg("-k").arg(&sockets).args(["-p", &port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "max_wal_senders=10"].iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let postmaster = command.stdout(log).stderr(errors).spawn().map_err(|error| format!("postgres: {error}"))?;
        let mut server = Self { programs: programs.clone(), data: data.to_path_buf(), sockets, port, postmaster };
        let ready = wait_for(START_MAX, || match server.postmaster.try_wait() {
            Ok(None) => Ok(server.sql("SELECT 1").is_ok()),
            _ => Err(format!("the server does not start:\n{}", last_lines(&log_path))),
        });
        ready.map(|()| server)
    }

    /// How to connect to it through its socket.
    pub(crate) fn conninfo(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.sockets.display(), self.port)
    }

    /// One of its clients' programs, told where it is.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = self.programs.command(program);
        command.env("PGHOST", &self.sockets).env("PGPORT", self.port.to_string());
        command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command
    }

    /// The answer's rows, one a line.
    pub(crate) fn sql(&self, sql: &str) -> Result<String> {
        run(self.client("psql").args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql]))
    }

    /// Has commits wait for the standby of this name; for none, if it is empty.
    pub(crate) fn wait_for_standby(&self, name: &str) -> Result<()> {
        self.sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"))?;
        self.sql("SELECT pg_reload_conf()")?;
        wait_for(START_MAX, || {
            let sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            let shown = self.sql("SHOW synchronous_standby_names")? == name;
            Ok(shown && (name.is_empty() || self.sql(sync)? == "1"))
        })
    }

    /// Waits until the standby of this name has flushed everything.
    pub(crate) fn wait_until_caught_up(&self, name: &str) -> Result<()> {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_replication
             WHERE application_name = '{name}' AND flush_lsn >= pg_current_wal_flush_lsn()"
        );
        wait_for(START_MAX, || Ok(self.sql(&sql)? == "1")).map_err(|error| format!("{name} does not catch up: {error}"))
    }

    /// A copy of the cluster, without WAL.
    pub(crate) fn back_up(&self, into: &Path) -> Result<()> {
        self.programs.make_dir(into)?;
        run(self.client("pg_basebackup").args(["-X", "none", "-c", "fast", "--no-sync", "-D"]).arg(into)).map(drop)
    }

    /// Kills every process of it at once, as a power cut would.
    pub(crate) fn kill(mut self) {
        self.kill_all();
    }

    fn kill_all(&mut self) {
        let children = children_of(self.postmaster.id());
        let _ = self.postmaster.kill();
        let _ = self.postmaster.wait();
        for pid in children {
            let _ = kill(pid, Signal::SIGKILL);
        }
        // The only thing that outlives it: its shared memory segment's id is in the seventh line.
        let note = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        if let Some(id) = note.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            let _ = run(Command::new("ipcrm").args(["-m", id]));
        }
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.postmaster.id()).map_err(|error| error.to_string())?);
        kill(pid, Signal::SIGINT).map_err(|error| error.to_string())?;
        wait_for(START_MAX, || Ok(matches!(self.postmaster.try_wait(), Ok(Some(_)))))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.postmaster.try_wait(), Ok(Some(_))) {
            self.kill_all();
        }
    }
}

/// Starts a server on a backup that recovers from the segments in `wal`, and waits until it is done.
pub(crate) fn recover(programs: &Programs, backup: &Path, wal: &Path) -> Result<Server> {
    programs.give(wal).map_err(|error| error.to_string())?;
    let signal = backup.join("recovery.signal");
    File::create(&signal).and_then(|_| programs.give(&signal)).map_err(|error| error.to_string())?;
    let restore = format!("restore_command=cp \"{}/%f\" \"%p\"", wal.display());
    let server = Server::start(programs, backup, &[&restore, "synchronous_standby_names="])?;
    wait_for(START_MAX, || Ok(server.sql("SELECT pg_is_in_recovery()")? == "f"))?;
    Ok(server)
}

/// Asks until the answer is yes.
pub(crate) fn wait_for(max: Duration, mut asked: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !asked()? {
        if began.elapsed() > max {
            return Err(format!("nothing happened for {max:?}"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The living processes whose parent is `parent`.
pub(crate) fn children_of(parent: u32) -> Vec<Pid> {
    let is_child = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // "pid (name) state parent ..", and a name may hold anything.
        let (_, rest) = stat.rsplit_once(')').unwrap_or_default();
        let mut words = rest.split_whitespace();
        let (state, of) = (words.next(), words.next().and_then(|word| word.parse::<u32>().ok()));
        state != Some("Z") && of == Some(parent)
    };
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let pids = names.filter_map(|name| name.to_string_lossy().parse::<i32>().ok());
    pids.filter(|pid| is_child(*pid)).map(Pid::from_raw).collect()
}

fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// Clients that insert numbers and remember those that the server acknowledged, until the server is gone.
#[derive(Debug)]
pub(crate) struct Witness {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<i64>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Witness {
    pub(crate) fn start(server: &Server, clients: usize) -> Result<Self> {
        server.sql("CREATE TABLE IF NOT EXISTS witness (id bigint PRIMARY KEY)")?;
        let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(1)));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let clients = (0..clients)
            .map(|_| {
                let (conninfo, stop, next) = (server.conninfo(), stop.clone(), next.clone());
                let acknowledged = acknowledged.clone();
                thread::spawn(move || {
                    // An error is the server's end.
                    let _ = insert_numbers(&conninfo, &stop, &next, &acknowledged);
                })
            })
            .collect();
        Ok(Self { stop, acknowledged, clients })
    }

    /// How many have been acknowledged so far.
    pub(crate) fn count(&self) -> usize {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What was acknowledged until the clients ended.
    pub(crate) fn end(self) -> Vec<i64> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let _ = client.join();
        }
        std::mem::take(&mut self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn insert_numbers(
    conninfo: &str,
    stop: &AtomicBool,
    next: &AtomicI64,
    acknowledged: &Mutex<Vec<i64>>,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(conninfo, tokio_postgres::NoTls).await?;
        let _connection = tokio::spawn(connection);
        let insert = client.prepare("INSERT INTO witness VALUES ($1)").await?;
        while !stop.load(Ordering::Relaxed) {
            let id = next.fetch_add(1, Ordering::Relaxed);
            client.execute(&insert, &[&id]).await?;
            acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        }
        Ok(())
    })
}

/// Those of `acknowledged` that the server does not have.
pub(crate) fn missing(server: &Server, acknowledged: &[i64]) -> Result<Vec<i64>> {
    let there = server.sql("SELECT id FROM witness")?;
    let there: HashSet<i64> = there.lines().filter_map(|line| line.parse().ok()).collect();
    Ok(acknowledged.iter().copied().filter(|id| !there.contains(id)).collect())
}
