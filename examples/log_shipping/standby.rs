//! A shard that follows a primary's: it applies what is durable here, answers reads, and can be promoted.

use std::cell::RefCell;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use std::{io, thread};

use ringwal::{Log, Progress, Standby};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::command::{Command, Commands, Reply, Verb};
use crate::greeting;
use crate::primary::Office;
use crate::store::{self, Map, PROMOTED, Result, Settings};

/// How long it waits before it tries to connect again.
const AGAIN: Duration = Duration::from_millis(100);

/// How often it looks for a primary that it has never seen.
const TRIES: u32 = 300;

/// How many shards the primary has. Asked once, and then kept: a standby also starts without its primary.
pub(crate) fn shards(dir: &Path, primary: &str) -> Result<usize> {
    if let Some(kept) = store::shards(dir)? {
        return Ok(kept);
    }
    let mut tries = 0;
    let shards = loop {
        match greeting::ask_shards(primary) {
            Ok(shards) => break shards,
            Err(error) if tries == TRIES => return Err(format!("there is no primary: {primary}: {error}").into()),
            Err(_) => thread::sleep(AGAIN),
        }
        tries += 1;
    };
    store::keep_shards(dir, shards)?;
    Ok(shards)
}

/// The shard of a standby, and later perhaps of a primary.
pub(crate) async fn run(settings: Settings, shard: usize, primary: String, mut commands: Commands) -> Result<()> {
    let Some((standby, log)) = open(&settings, shard, &primary, &mut commands).await? else { return Ok(()) };
    let follower = Follower { map: Rc::default(), applied: Rc::default(), progress: standby.progress() };
    let tailing = tokio_uring::spawn(follower.clone().tail(log.clone()));
    let promoted = follower.follow(standby, &settings, (shard, &primary), &mut commands).await?;
    let Some((log, answer)) = promoted else {
        log.close().await?;
        return tailing.await?;
    };
    // Everything that was ever received is in the map before anything is read or changed.
    let first = log.append(PROMOTED).await?;
    while follower.map.borrow().applied < first {
        follower.applied.notified().await;
    }
    tailing.abort();
    let _ = tailing.await;
    let _ = answer.send(Reply::Text("promoted".to_owned()));
    let (_none, streams) = mpsc::unbounded_channel();
    Office::alone(shard, settings.shards, log).serve(follower.map.take(), commands, streams).await
}

/// Opens the standby and its log. The first time that needs the primary, which says which log it is; until then there is
/// nothing to answer with. None: there are no more commands.
async fn open(
    settings: &Settings,
    shard: usize,
    primary: &str,
    commands: &mut Commands,
) -> Result<Option<(Standby, Log)>> {
    let (dir, options) = (settings.shard_dir(shard), settings.options());
    loop {
        let standby = Standby::open(&dir, options.clone()).await?.named(format!("shard-{shard}"));
        if let Some(log) = standby.log().cloned() {
            return Ok(Some((standby, log)));
        }
        // `follow` would make the log, too, but gives it out only at the connection's end.
        match greeting::connect(primary, shard, settings.shards).await {
            Ok((_, log_id)) => Log::open(&dir, options.clone().log_id(log_id)).await?.close().await?,
            Err(_) if commands.is_closed() => return Ok(None),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

#[derive(Clone)]
struct Follower {
    map: Rc<RefCell<Map>>,
    /// More was applied.
    applied: Rc<Notify>,
    progress: Progress,
}

impl Follower {
    /// Applies what is in the log, and then whatever becomes durable there.
    async fn tail(self, log: Log) -> Result<()> {
        let mut tail = log.tail(log.first_lsn());
        while let Some(record) = tail.next().await {
            self.map.borrow_mut().apply_record(&record?)?;
            self.applied.notify_one();
        }
        Ok(())
    }

    /// Follows one connection after the other, and answers meanwhile. Returns the log and whom to tell when it is to be a
    /// primary's, none when there are no more commands.
    async fn follow(
        &self,
        mut standby: Standby,
        settings: &Settings,
        (shard, primary): (usize, &str),
        commands: &mut Commands,
    ) -> Result<Option<(Log, oneshot::Sender<Reply>)>> {
        let answer = {
            let mut following = std::pin::pin!(follow(&mut standby, settings, shard, primary));
            loop {
                let command = tokio::select! {
                    refused = &mut following => match refused {},
                    command = commands.recv() => command,
                };
                let Some(Command { verb, answer }) = command else { return Ok(None) };
                let reply = match verb {
                    Verb::Get(key) => Reply::Text(self.map.borrow().get(&key)),
                    Verb::Lag => Reply::Lag(self.lag()),
                    Verb::Change(_) => Reply::Text("error: this is a standby; promote it first".to_owned()),
                    // The connection is dropped here: nothing more is acknowledged to the old primary.
                    Verb::Promote => break answer,
                };
                let _ = answer.send(reply);
            }
        };
        let random = RandomState::new().hash_one(shard) as u32;
        Ok(Some((standby.promote(random).await?, answer)))
    }

    /// Records that are durable at the primary, as far as it said, and not in the map.
    fn lag(&self) -> u64 {
        let applied = self.map.borrow().applied;
        self.progress.source_lsn().max(applied).since(applied)
    }
}

/// Follows for ever.
async fn follow(standby: &mut Standby, settings: &Settings, shard: usize, primary: &str) -> std::convert::Infallible {
    let mut said = String::new();
    loop {
        let followed = match greeting::connect(primary, shard, settings.shards).await {
            Ok((stream, _)) => standby.follow(stream).await.map_err(|error| (error.is_passing(), error.to_string())),
            Err(error) => Err((error.kind() != io::ErrorKind::Other, error.to_string())),
        };
        // What ends by itself is not worth a word; what a person must see to is told once.
        if let Err((false, error)) = followed
            && error != said
        {
            eprintln!("shard {shard}: does not follow: {error}");
            said = error;
        }
        tokio::time::sleep(AGAIN).await;
    }
}
