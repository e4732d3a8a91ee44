//! A shard that takes changes: acknowledged when they are durable here and at the standbys.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::time::Duration;

use ringwal::{LocalLog, Log, Lsn, Primary, SubmitError};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::command::{Command, Commands, Reply, Verb};
use crate::greeting;
use crate::store::{Change, Map, Result, Settings};

/// How often a standby hears something: one that has missed five is given up.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// How long standbys may take for the last changes when standard input has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

pub(crate) type Streams = UnboundedReceiver<StdTcpStream>;

/// The shard of a primary: its log is driven inside this very thread, beside everything else that it does.
pub(crate) async fn run(
    settings: Settings,
    shard: usize,
    sync: usize,
    commands: Commands,
    streams: Streams,
) -> Result<()> {
    let log = LocalLog::open(settings.shard_dir(shard), settings.options()).await?;
    let driving = tokio_uring::spawn(log.drive());
    let map = Map::recover(&log)?;
    let office =
        Office { shard, shards: settings.shards, primary: Primary::with_heartbeat(log.log().clone(), sync, HEARTBEAT) };
    office.serve(map, commands, streams).await?;
    drop(log);
    driving.await?;
    Ok(())
}

/// What a shard needs to take changes.
pub(crate) struct Office {
    pub(crate) shard: usize,
    pub(crate) shards: usize,
    pub(crate) primary: Primary,
}

impl Office {
    /// Of a log that nobody follows.
    pub(crate) fn alone(shard: usize, shards: usize, log: Log) -> Self {
        Self { shard, shards, primary: Primary::new(log, 0) }
    }

    /// Serves commands and standbys until there are no more commands, and closes the log.
    pub(crate) async fn serve(&self, mut map: Map, mut commands: Commands, mut streams: Streams) -> Result<()> {
        let mut answers = JoinSet::new();
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.handle(command, &mut map, &mut answers).await?,
                    None => break,
                },
                Some(stream) = streams.recv() => self.receive(stream),
                Some(_) = answers.join_next() => {}
            }
        }
        // Standbys are still served meanwhile.
        let last_words = async { while answers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
        self.primary.log().close().await?;
        Ok(())
    }

    /// Changes have their place in log and map when this returns, so that both have them in one order. Only the answers
    /// are waited for side by side.
    async fn handle(&self, command: Command, map: &mut Map, answers: &mut JoinSet<()>) -> Result<()> {
        let Command { verb, answer } = command;
        match verb {
            Verb::Change(change) => {
                let lsn = self.submit(&change).await?;
                map.apply(change, lsn);
                let text = format!("ok {lsn} shard {}", self.shard);
                answers.spawn_local(answer_replicated(self.primary.clone(), lsn, text, answer));
            }
            // Nobody is shown what may yet be lost: the map runs ahead of the standbys.
            Verb::Get(key) => {
                let text = map.get(&key);
                answers.spawn_local(answer_replicated(self.primary.clone(), map.applied, text, answer));
            }
            Verb::Lag => drop(answer.send(Reply::Text("error: this is a primary".to_owned()))),
            Verb::Promote => drop(answer.send(Reply::Text("error: this is a primary already".to_owned()))),
        }
        Ok(())
    }

    async fn submit(&self, change: &Change) -> Result<Lsn> {
        let record = change.encode();
        loop {
            match self.primary.log().submit(record.as_bytes()) {
                Ok(pending) => return Ok(pending.lsn()),
                // So much is on its way already: the disk will have made room soon.
                Err(SubmitError::Full) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Serves a standby for as long as it is there.
    fn receive(&self, stream: StdTcpStream) {
        let (primary, shard, shards) = (self.primary.clone(), self.shard, self.shards);
        tokio_uring::spawn(async move {
            let greeted = async {
                let mut stream = TcpStream::from_std(stream)?;
                greeting::welcome(&mut stream, shards, primary.log().log_id()).await?;
                io::Result::Ok(stream)
            };
            let Ok(stream) = greeted.await else { return };
            // It comes again if it can; what a person must see to is told.
            if let Err(error) = primary.serve(stream).await
                && !error.is_passing()
            {
                eprintln!("shard {shard}: a standby left: {error}");
            }
        });
    }
}

async fn answer_replicated(primary: Primary, lsn: Lsn, text: String, answer: oneshot::Sender<Reply>) {
    let text = match primary.wait_replicated(lsn).await {
        Ok(_) => text,
        // The change may survive, or not: that is what an error means here.
        Err(error) => format!("error: {error}"),
    };
    let _ = answer.send(Reply::Text(text));
}
