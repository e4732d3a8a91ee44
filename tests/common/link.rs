//! What the tests of shipping need: both ends of real connections, and what a log holds in short.

use std::path::Path;
use std::time::{Duration, Instant};

use ringwal::{Log, Lsn, OpenError, Options, Primary, Progress, ShipError, Standby};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// For waits that should be short: longer is a failure, and nothing else is timed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// How often these sources say something.
pub(crate) const BEAT: Duration = Duration::from_millis(100);

pub(crate) fn options() -> Options {
    Options::default().segment_bytes(1 << 20)
}

/// What record `lsn` holds: of very different lengths.
pub(crate) fn payload(lsn: u64) -> Vec<u8> {
    let len = match lsn % 50 {
        0 => 0,
        1 => 40_000,
        rest => (rest * 37 % 900) as usize,
    };
    (0..len).map(|at| (lsn as usize * 7 + at) as u8).collect()
}

/// Two ends of one connection on the loopback interface.
pub(crate) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

pub(crate) async fn primary(dir: &Path, k: usize) -> Primary {
    Primary::with_heartbeat(Log::open(dir, options()).await.unwrap(), k, BEAT)
}

/// Opens a standby; one that was dropped a moment ago may still be letting its log go.
pub(crate) async fn standby(dir: &Path) -> Standby {
    let began = Instant::now();
    loop {
        match Standby::open(dir, options()).await {
            Ok(standby) => return standby.named(dir.file_name().unwrap().to_string_lossy()),
            Err(OpenError::Held { .. }) if began.elapsed() < LONG => tokio::time::sleep(BEAT / 10).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A standby that follows a primary.
pub(crate) struct Link {
    pub(crate) progress: Progress,
    pub(crate) follows: JoinHandle<(Standby, Result<(), ShipError>)>,
    pub(crate) serves: JoinHandle<Result<(), ShipError>>,
}

impl Link {
    pub(crate) async fn new(primary: &Primary, mut standby: Standby) -> Self {
        let (near, far) = pair().await;
        let (primary, progress) = (primary.clone(), standby.progress());
        let serves = tokio::spawn(async move { primary.serve(far).await });
        let follows = tokio::spawn(async move {
            let ended = standby.follow(near).await;
            (standby, ended)
        });
        Self { progress, follows, serves }
    }

    pub(crate) async fn reaches(&self, lsn: Lsn) {
        until("the standby has it", || {
            assert!(!self.follows.is_finished() || self.progress.durable_lsn() >= lsn, "it follows no more");
            self.progress.durable_lsn() >= lsn
        })
        .await;
    }

    /// Both ends, when the connection is over.
    pub(crate) async fn ended(self) -> (Standby, Result<(), ShipError>, Result<(), ShipError>) {
        let (standby, follower) = soon(self.follows).await.unwrap();
        (standby, follower, soon(self.serves).await.unwrap())
    }
}

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.expect("it takes too long")
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn append(primary: &Primary, lsns: std::ops::RangeInclusive<u64>) {
    for lsn in lsns {
        assert_eq!(soon(primary.append(&payload(lsn))).await.unwrap(), Lsn::new(lsn));
    }
}

/// LSN, length and checksum of every record.
pub(crate) fn records(log: &Log) -> Vec<(u64, usize, u32)> {
    let records = log.read(..).unwrap().map(Result::unwrap);
    records.map(|record| (record.lsn.get(), record.payload.len(), crc32fast::hash(&record.payload))).collect()
}

/// What [`records`] says of a log that holds `1..=last` of [`payload`].
pub(crate) fn expected(last: u64) -> Vec<(u64, usize, u32)> {
    (1..=last).map(|lsn| (lsn, payload(lsn).len(), crc32fast::hash(&payload(lsn)))).collect()
}
