//! A standby that takes records and never reads them: it holds up nobody, and costs no memory to speak of. A process of
//! its own, for its memory is measured.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod link;
    pub(crate) mod rig;
}

use std::time::{Duration, Instant};

use common::link::{Link, pair, soon};
use common::rig::{Scratch, say};
use ringwal::ship::{Sink, SinkConfig, Standing};
use ringwal::{Log, Lsn, Options, Primary, Standby};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const RECORD_BYTES: usize = 64 << 10;
const RECORDS: u64 = 1500;

/// The memory that this process holds, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// Connects as a standby that allows everything to be under way at once, and reads nothing of it.
async fn never_reads(primary: &Primary) -> tokio::net::TcpStream {
    let (mut near, far) = pair().await;
    let serving = primary.clone();
    tokio::spawn(async move { serving.serve(far).await });
    let config = SinkConfig {
        standby: [9; 16],
        name: "deaf".to_owned(),
        log_id: None,
        term: 0,
        last: Lsn::ZERO,
        standing: Standing::default(),
        group_bytes_max: 64 << 20,
        window_bytes: u64::MAX,
        challenge: 77,
        handshake: Duration::from_secs(10),
    };
    let (mut sink, mut buffer) = (Sink::new(config, Duration::ZERO), [0; 4096]);
    near.write_all(&sink.poll_transmit().unwrap()).await.unwrap();
    let len = soon(near.read(&mut buffer)).await.unwrap();
    sink.handle_bytes(&buffer[..len], Duration::ZERO);
    sink.handle_ready(Duration::ZERO);
    near.write_all(&sink.poll_transmit().unwrap()).await.unwrap();
    near
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_never_reads_holds_up_nobody() {
    let scratch = Scratch::new("slow");
    let options = Options::default().segment_bytes(4 << 20).recent_bytes_max(1 << 20);
    let log = Log::open(scratch.join("a"), options.clone()).await.unwrap();
    // Nobody is given up meanwhile.
    let primary = Primary::with_heartbeat(log, 0, Duration::from_secs(600));
    let standby = Standby::open(scratch.join("b"), options).await.unwrap();
    let healthy = Link::new(&primary, standby).await;
    let deaf = [never_reads(&primary).await, never_reads(&primary).await, never_reads(&primary).await];
    let record = vec![7; RECORD_BYTES];
    primary.append(&record).await.unwrap();
    healthy.reaches(Lsn::new(1)).await;
    let (before, began) = (resident(), Instant::now());
    for _ in 1..RECORDS {
        soon(primary.append(&record)).await.unwrap();
    }
    healthy.reaches(Lsn::new(RECORDS)).await;
    let grown = resident().saturating_sub(before);
    say(&format!("{RECORDS} records of {RECORD_BYTES} bytes in {:?}: {grown} bytes more", began.elapsed()));
    assert!(grown < 40 << 20, "{grown} bytes for standbys that do not read");
    drop(deaf);
}
