//! Both sides in processes of their own on loopback: written to, killed, promoted, and compared with what was acknowledged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, free_address};
use crate::store::Result;

const WRITERS: usize = 8;

/// Makes a directory in `dir`, and takes it away again in any case but kill -9.
pub(crate) fn run(dir: &Path) -> Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    let scratch = Scratch(dir.join(format!("ringwal-log-shipping-{}", std::process::id())));
    fs::create_dir_all(&scratch.0)?;
    Stage { program: std::env::current_exe()?, dir: scratch.0.clone(), address: free_address()?, interrupted }.play()
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A change that was acknowledged.
struct Acked {
    key: String,
    value: String,
}

struct Stage {
    program: PathBuf,
    dir: PathBuf,
    address: String,
    interrupted: Arc<AtomicBool>,
}

impl Stage {
    fn play(&self) -> Result<()> {
        let primary = Arc::new(self.start("primary", "--listen")?);
        let played = self.play_with(&primary);
        // Writers may still have it.
        primary.kill();
        played
    }

    fn play_with(&self, primary: &Arc<Client>) -> Result<()> {
        let standby = self.start("standby", "--primary")?;
        let (sender, acks) = channel();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (primary, sender) = (primary.clone(), sender.clone());
                thread::spawn(move || write(writer, &primary, &sender))
            })
            .collect();
        drop(sender);
        let mut acked = BTreeMap::new();
        println!("a primary, a standby, {WRITERS} writers; a write is acknowledged when both have it");
        self.watch(Duration::from_millis(1500), &acks, &mut acked)?;
        println!("{} writes acknowledged", acked.len());

        standby.kill();
        // What was acknowledged before the kill may be told only now.
        self.watch(Duration::from_millis(200), &acks, &mut acked)?;
        let before = acked.len();
        self.watch(Duration::from_millis(500), &acks, &mut acked)?;
        println!("kill -9 of the standby: {} acknowledged while it is away", acked.len() - before);

        let standby = self.start("standby", "--primary")?;
        self.watch(Duration::from_millis(1500), &acks, &mut acked)?;
        println!("the standby is back: {} writes acknowledged", acked.len());

        primary.kill();
        for writer in writers {
            writer.join().map_err(|_| "a writer panicked")?;
        }
        acked.extend(acks.try_iter().map(|ack| (ack.key, ack.value)));
        println!("kill -9 of the primary: {} writes acknowledged", acked.len());
        self.promote(&standby, &acked)
    }

    fn start(&self, role: &str, address: &str) -> Result<Client> {
        let dir = self.dir.join(role);
        let dir = dir.to_str().ok_or("a directory that is not text")?;
        Ok(Client::start(&self.program, &[role, dir, address, &self.address, "--allow-volatile"])?)
    }

    /// Takes note of acknowledgements for a while.
    fn watch(&self, time: Duration, acks: &Receiver<Acked>, acked: &mut BTreeMap<String, String>) -> Result<()> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.go_on()?;
            if let Ok(ack) = acks.recv_timeout(Duration::from_millis(20)) {
                acked.insert(ack.key, ack.value);
            }
        }
        Ok(())
    }

    fn ask(&self, side: &Client, line: &str) -> Result<String> {
        self.hear(&side.send(line).ok_or("it is gone")?)
    }

    /// Waits for an answer, and for a signal.
    fn hear(&self, answer: &Receiver<String>) -> Result<String> {
        loop {
            self.go_on()?;
            match answer.recv_timeout(Duration::from_millis(100)) {
                Err(RecvTimeoutError::Timeout) => {}
                answer => return Ok(answer?),
            }
        }
    }

    fn go_on(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
    }

    /// The standby takes over, and everything is there.
    fn promote(&self, standby: &Client, acked: &BTreeMap<String, String>) -> Result<()> {
        let began = Instant::now();
        let promoted = self.ask(standby, "promote")?;
        println!("{promoted} in {} ms", began.elapsed().as_millis());
        let (mut missing, mut asked) = (0, Vec::new());
        for (key, value) in acked {
            asked.push((standby.send(&format!("get {key}")).ok_or("the standby is gone")?, value));
        }
        for (answer, value) in asked {
            missing += usize::from(self.hear(&answer)? != format!("value {value}"));
        }
        let after = self.ask(standby, "set after promotion")?;
        println!("the new primary says to another write: {after}");
        println!("{} acknowledged, {missing} missing", acked.len());
        if missing > 0 || promoted != "promoted" || !after.starts_with("ok ") || acked.is_empty() {
            return Err("that is not what was promised".into());
        }
        Ok(())
    }
}

/// One change after the other until the primary is gone.
fn write(writer: usize, primary: &Client, acks: &Sender<Acked>) {
    for number in 0.. {
        let (key, value) = (format!("writer-{writer}-{number}"), format!("{}", number * 7 + writer));
        match primary.ask(&format!("set {key} {value}")) {
            Some(answer) if answer.starts_with("ok ") => drop(acks.send(Acked { key, value })),
            _ => break,
        }
    }
}
