//! Talks to a primary or a standby: a child process that can be killed.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A child; killed when dropped. Any number of threads may ask it things.
pub(crate) struct Client {
    child: Mutex<Child>,
    asking: Mutex<Option<Asking>>,
}

struct Asking {
    stdin: ChildStdin,
    /// Who waits for an answer, in the order of the questions.
    waiting: Sender<SyncSender<String>>,
}

impl Client {
    pub(crate) fn start(program: &Path, args: &[&str]) -> io::Result<Self> {
        let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes"));
        };
        let (waiting, queue): (_, Receiver<SyncSender<String>>) = channel();
        thread::spawn(move || {
            let answers = BufReader::new(stdout).lines().map_while(Result::ok);
            answers.zip(queue).for_each(|(answer, asked)| drop(asked.send(answer)));
        });
        Ok(Self { child: Mutex::new(child), asking: Mutex::new(Some(Asking { stdin, waiting })) })
    }

    /// The answer to a line; none if the child is gone, or says nothing for very long.
    pub(crate) fn ask(&self, line: &str) -> Option<String> {
        self.send(line)?.recv_timeout(PATIENCE).ok()
    }

    /// Where the answer to a line will be.
    pub(crate) fn send(&self, line: &str) -> Option<Receiver<String>> {
        let mut asking = lock(&self.asking);
        let asking = asking.as_mut()?;
        let (answer, answered) = sync_channel(1);
        // Queued first: the answer may come at once.
        asking.waiting.send(answer).ok()?;
        writeln!(asking.stdin, "{line}").ok()?;
        Some(answered)
    }

    /// kill -9.
    pub(crate) fn kill(&self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Ends it in order; whether it says that all went well.
    #[allow(dead_code, reason = "for tests")]
    pub(crate) fn end(&self) -> bool {
        drop(lock(&self.asking).take());
        lock(&self.child).wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.kill();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loopback address that nobody listens at.
pub(crate) fn free_address() -> io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
