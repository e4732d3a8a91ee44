//! Lines from standard input to the shards, and their answers back in the order of the lines.
//!
//! Commands run in a pipeline: the next ones go to their shards while earlier ones are on their way to the disk and to
//! the standbys, so that many changes share a flush and a round trip.

use std::io::{self, BufRead as _, Write as _};
use std::process::exit;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use crate::store::{Change, Result, shard_of};

/// How far reading commands may run ahead of answering them.
const AHEAD: usize = 1024;

/// What a shard is asked.
pub(crate) struct Command {
    pub(crate) verb: Verb,
    pub(crate) answer: oneshot::Sender<Reply>,
}

#[derive(Clone)]
pub(crate) enum Verb {
    Change(Change),
    Get(String),
    Lag,
    Promote,
}

pub(crate) enum Reply {
    Text(String),
    /// Records behind: to be summed up over the shards.
    Lag(u64),
}

pub(crate) type Commands = UnboundedReceiver<Command>;

/// The answers to one line: of one shard, or of each.
type Answers = Vec<oneshot::Receiver<Reply>>;

impl Verb {
    fn parse(line: &str) -> Option<Self> {
        match line.split_once(' ') {
            Some(("get", key)) if !key.is_empty() && !key.contains(' ') => Some(Self::Get(key.to_owned())),
            None if line == "lag" => Some(Self::Lag),
            None if line == "promote" => Some(Self::Promote),
            _ => Change::decode(line).map(Self::Change),
        }
    }

    /// None: it is for all shards.
    fn key(&self) -> Option<&str> {
        match self {
            Self::Change(change) => Some(change.key()),
            Self::Get(key) => Some(key),
            Self::Lag | Self::Promote => None,
        }
    }
}

/// Serves standard input until it ends, and then lets the shards go. The thread that is returned gives the last answers.
pub(crate) fn serve(shards: Vec<UnboundedSender<Command>>) -> Result<JoinHandle<()>> {
    let (queue, answers) = sync_channel(AHEAD);
    let answering = thread::spawn(move || {
        answer_all(&answers).unwrap_or_else(|error| {
            // Not by way of `main`, which waits for the next command.
            eprintln!("{error}");
            exit(1);
        });
    });
    for line in io::stdin().lock().lines() {
        if queue.send(send(&shards, &line?)).is_err() {
            break;
        }
    }
    Ok(answering)
}

fn send(shards: &[UnboundedSender<Command>], line: &str) -> Answers {
    let Some(verb) = Verb::parse(line) else {
        let (answer, answered) = oneshot::channel();
        let _ = answer.send(Reply::Text("error: set KEY VALUE | get KEY | del KEY | lag | promote".to_owned()));
        return vec![answered];
    };
    let asked = match verb.key() {
        Some(key) => std::slice::from_ref(&shards[shard_of(key, shards.len())]),
        None => shards,
    };
    let ask = |shard: &UnboundedSender<Command>| {
        let (answer, answered) = oneshot::channel();
        // A shard that is gone is on its way to end the process; nobody hears an answer then.
        let _ = shard.send(Command { verb: verb.clone(), answer });
        answered
    };
    asked.iter().map(ask).collect()
}

fn answer_all(queue: &Receiver<Answers>) -> Result<()> {
    let mut out = io::stdout().lock();
    for answers in queue {
        let replies = answers.into_iter().map(|answer| {
            answer.blocking_recv().unwrap_or_else(|_| Reply::Text("error: the shard is closed".to_owned()))
        });
        writeln!(out, "{}", joined(replies))?;
        // Whoever reads a pipe waits for it.
        out.flush()?;
    }
    Ok(())
}

/// One answer of those of the shards: an error if there is one.
fn joined(replies: impl Iterator<Item = Reply>) -> String {
    let (mut lag, mut said) = (0, None::<String>);
    for reply in replies {
        match reply {
            Reply::Lag(records) => lag += records,
            Reply::Text(text) if said.is_none() || text.starts_with("error") => said = Some(text),
            Reply::Text(_) => {}
        }
    }
    said.unwrap_or_else(|| format!("lag {lag}"))
}
