//! Bytes of strangers, sent to real sources and standbys: each ends with a typed error, and the writer goes on.

use std::time::Duration;

use ringwal::ship::{Sink, SinkConfig, Standing};
use ringwal::{LogId, Lsn, Primary, ShipError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::link::{Link, append, expected, pair, payload, primary, records, soon, standby};
use crate::common::rig::Scratch;

/// Where a frame's fields are, and those of a hello's body.
const CRC_AT: usize = 16;
const BODY_AT: usize = 20;

fn sink_config(primary: &Primary) -> SinkConfig {
    SinkConfig {
        standby: [9; 16],
        name: "stranger".to_owned(),
        log_id: Some(primary.log().log_id()),
        term: 0,
        last: Lsn::ZERO,
        standing: Standing::default(),
        group_bytes_max: 64 << 20,
        window_bytes: 1 << 20,
        challenge: 77,
        handshake: Duration::from_secs(10),
    }
}

fn hello(config: SinkConfig) -> Vec<u8> {
    Sink::new(config, Duration::ZERO).poll_transmit().unwrap().to_vec()
}

/// The frame with a number replaced, and a checksum that holds.
fn forged(mut frame: Vec<u8>, at: usize, number: u32) -> Vec<u8> {
    frame[at..at + 4].copy_from_slice(&number.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame[..CRC_AT]);
    crc.update(&frame[BODY_AT..]);
    frame[CRC_AT..BODY_AT].copy_from_slice(&crc.finalize().to_le_bytes());
    frame
}

/// What a source makes of these bytes.
async fn says(primary: &Primary, bytes: &[u8]) -> ShipError {
    let (mut near, far) = pair().await;
    let primary = primary.clone();
    let served = tokio::spawn(async move { primary.serve(far).await });
    near.write_all(bytes).await.unwrap();
    // What it answers is read to the end: it hangs up.
    let mut answer = Vec::new();
    soon(near.read_to_end(&mut answer)).await.unwrap();
    soon(served).await.unwrap().unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_refuses_every_stranger_and_writes_on() {
    let scratch = Scratch::new("hostile");
    let primary = primary(&scratch.join("a"), 0).await;
    append(&primary, 1..=20).await;
    let config = || sink_config(&primary);
    let garbage = says(&primary, &[0xa5; 4096]).await;
    assert!(matches!(garbage, ShipError::Garbage { .. } | ShipError::FrameTooLarge { .. }), "{garbage:?}");
    let web = says(&primary, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(matches!(web, ShipError::FrameTooLarge { .. }), "{web:?}");
    // A length that would be 4 GiB of memory.
    let huge = says(&primary, &[[0xff; 4].as_slice(), &[4, 0, 0, 0], &[0; 12]].concat()).await;
    assert!(matches!(huge, ShipError::FrameTooLarge { len: 0xffff_ffff, .. }), "{huge:?}");
    let old = says(&primary, &forged(hello(config()), BODY_AT + 8, 0)).await;
    assert_eq!(old, ShipError::Version { ours: 1, theirs: 0 });
    let new = says(&primary, &forged(forged(hello(config()), BODY_AT + 8, 9), BODY_AT + 12, 9)).await;
    assert_eq!(new, ShipError::Version { ours: 1, theirs: 9 });
    let format = says(&primary, &forged(hello(config()), BODY_AT + 16, 99)).await;
    assert!(matches!(format, ShipError::Format { theirs: 99, .. }), "{format:?}");
    let theirs = LogId::new([3; 16]);
    let wrong = says(&primary, &hello(SinkConfig { log_id: Some(theirs), ..config() })).await;
    assert_eq!(wrong, ShipError::WrongLog { ours: primary.log().log_id(), theirs });
    let ahead = says(&primary, &hello(SinkConfig { last: Lsn::new(21), ..config() })).await;
    assert_eq!(ahead, ShipError::Ahead { ours: Lsn::new(20), theirs: Lsn::new(21) });
    let last = Lsn::new(17);
    let diverged = says(&primary, &hello(SinkConfig { last, ..config() })).await;
    assert_eq!(diverged, ShipError::Diverged { ours: Lsn::new(20), theirs: last, at: last });
    let small = says(&primary, &hello(SinkConfig { group_bytes_max: 4096, ..config() })).await;
    assert!(matches!(small, ShipError::GroupTooLarge { max: 4096, .. }), "{small:?}");
    let mut damaged = hello(config());
    damaged[60] ^= 1;
    assert!(matches!(says(&primary, &damaged).await, ShipError::Garbage { .. }));
    // Cut off in the midst of a hello.
    let (mut near, far) = pair().await;
    near.write_all(&hello(config())[..30]).await.unwrap();
    drop(near);
    assert!(matches!(soon(primary.serve(far)).await, Err(ShipError::Connection { .. })));
    let replayed = says(&primary, &recorded(&primary).await).await;
    assert_eq!(replayed, ShipError::ReplayedSession);
    // Nobody of them ended anything.
    assert_eq!(primary.fenced_by(), None);
    append(&primary, 21..=40).await;
    let link = Link::new(&primary, standby(&scratch.join("b")).await).await;
    link.reaches(Lsn::new(40)).await;
    primary.log().close().await.unwrap();
    let (standby, ..) = link.ended().await;
    assert_eq!(records(standby.log().unwrap()), expected(40));
}

/// What a standby said on a whole connection.
async fn recorded(primary: &Primary) -> Vec<u8> {
    let (mut near, far) = pair().await;
    let serving = primary.clone();
    let served = tokio::spawn(async move { serving.serve(far).await });
    let mut sink = Sink::new(sink_config(primary), Duration::ZERO);
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        while let Some(event) = sink.poll_event() {
            if let ringwal::ship::SinkEvent::Welcome { .. } = event {
                sink.handle_ready(Duration::ZERO);
            }
        }
        while let Some(piece) = sink.poll_transmit() {
            near.write_all(&piece).await.unwrap();
            said.extend_from_slice(&piece);
        }
        if primary.standbys().len() == 1 {
            drop(near);
            let _ = soon(served).await;
            return said;
        }
        let len = soon(near.read(&mut buffer)).await.unwrap();
        sink.handle_bytes(&buffer[..len], Duration::ZERO);
    }
}

/// What a standby makes of these bytes.
async fn hears(standby: &mut ringwal::Standby, bytes: &[u8]) -> ShipError {
    let (near, mut far): (TcpStream, TcpStream) = pair().await;
    let write = async {
        far.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = far.read_to_end(&mut rest).await;
    };
    let (ended, ()) = soon(async { tokio::join!(standby.follow(near), write) }).await;
    ended.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_refuses_every_stranger_and_follows_on() {
    let scratch = Scratch::new("hostile-standby");
    let first = primary(&scratch.join("a"), 0).await;
    append(&first, 1..=20).await;
    let link = Link::new(&first, standby(&scratch.join("b")).await).await;
    link.reaches(Lsn::new(20)).await;
    link.serves.abort();
    let (mut copy, _) = soon(link.follows).await.unwrap();
    let garbage = hears(&mut copy, &[0xa5; 4096]).await;
    assert!(matches!(garbage, ShipError::Garbage { .. } | ShipError::FrameTooLarge { .. }), "{garbage:?}");
    let huge = hears(&mut copy, &[[0xff; 4].as_slice(), &[4, 0, 0, 0], &[0; 12]].concat()).await;
    assert!(matches!(huge, ShipError::FrameTooLarge { len: 0xffff_ffff, .. }), "{huge:?}");
    // Two standbys connected to one another.
    let twin = hears(&mut copy, &hello(sink_config(&first))).await;
    assert_eq!(twin, ShipError::ReplayedSession);
    // Another log's source.
    let other = primary(&scratch.join("c"), 0).await;
    append(&other, 1..=30).await;
    let (copy, refused, refuses) = Link::new(&other, copy).await.ended().await;
    let (ours, theirs) = (first.log().log_id(), other.log().log_id());
    assert_eq!(refused, Err(ShipError::WrongLog { ours, theirs }));
    assert_eq!(refuses, Err(ShipError::WrongLog { ours: theirs, theirs: ours }));
    first.append(&payload(21)).await.unwrap();
    let link = Link::new(&first, copy).await;
    link.reaches(Lsn::new(21)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_gives_up_a_standby_that_says_nothing() {
    let scratch = Scratch::new("silent");
    let primary = primary(&scratch.join("a"), 0).await;
    let (mut near, far) = pair().await;
    let serving = primary.clone();
    let served = tokio::spawn(async move { serving.serve(far).await });
    let mut sink = Sink::new(sink_config(&primary), Duration::ZERO);
    near.write_all(&sink.poll_transmit().unwrap()).await.unwrap();
    let mut buffer = [0; 4096];
    let len = soon(near.read(&mut buffer)).await.unwrap();
    sink.handle_bytes(&buffer[..len], Duration::ZERO);
    sink.handle_ready(Duration::ZERO);
    near.write_all(&sink.poll_transmit().unwrap()).await.unwrap();
    // From here on it neither reads nor says anything.
    append(&primary, 1..=200).await;
    assert!(matches!(soon(served).await.unwrap(), Err(ShipError::Silent { .. })));
    append(&primary, 201..=210).await;
}
