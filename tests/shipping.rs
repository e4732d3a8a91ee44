//! Live logs shipped over real connections: what standbys get, when appends resolve, who is refused, and that no
//! stranger's bytes and no standby hold up the writer.
#![expect(clippy::cast_possible_truncation, reason = "small numbers")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod link;
    pub(crate) mod rig;
}
#[path = "ship/hostile.rs"]
mod hostile;
#[path = "ship/measure.rs"]
mod measure;
#[path = "ship/tls.rs"]
mod tls;

use common::link::{BEAT, Link, append, expected, options, payload, primary, records, soon, standby, until};
use common::rig::Scratch;
use ringwal::{AppendError, Log, Lsn, Primary, PrimaryError, ShipError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_catches_up_and_then_follows_live() {
    let scratch = Scratch::new("live");
    let primary = primary(&scratch.join("a"), 0).await;
    append(&primary, 1..=300).await;
    let groups: Vec<Vec<u8>> = (301..=400).map(payload).collect();
    for group in groups.chunks(7) {
        primary.log().append_batch(group).await.unwrap();
    }
    let link = Link::new(&primary, standby(&scratch.join("b")).await).await;
    link.reaches(Lsn::new(400)).await;
    append(&primary, 401..=700).await;
    link.reaches(Lsn::new(700)).await;
    until("the primary knows", || {
        primary.standbys().first().is_some_and(|one| one.name == "b" && one.acked == Lsn::new(700) && one.lag == 0)
    })
    .await;
    assert_eq!(link.progress.source_lsn(), Lsn::new(700));
    assert!(link.progress.behind_for().is_none());
    // The log's end ends the connection in order.
    primary.log().close().await.unwrap();
    let (standby, follower, server) = link.ended().await;
    assert_eq!((follower, server), (Ok(()), Ok(())));
    let log = standby.log().unwrap();
    assert_eq!(log.log_id(), primary.log().log_id());
    assert_eq!(records(log), expected(700));
    assert!(primary.standbys().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_append_waits_for_k_standbys_and_no_more() {
    let scratch = Scratch::new("sync");
    let primary = primary(&scratch.join("a"), 2).await;
    let first = Link::new(&primary, standby(&scratch.join("b")).await).await;
    let waiting = tokio::spawn({
        let primary = primary.clone();
        async move { primary.append(&payload(1)).await }
    });
    first.reaches(Lsn::new(1)).await;
    tokio::time::sleep(2 * BEAT).await;
    assert!(!waiting.is_finished() && primary.replicated_lsn() == Lsn::ZERO, "one standby is not two");
    let second = Link::new(&primary, standby(&scratch.join("c")).await).await;
    assert_eq!(soon(waiting).await.unwrap(), Ok(Lsn::new(1)));
    let third = Link::new(&primary, standby(&scratch.join("d")).await).await;
    until("three follow", || primary.standbys().len() == 3).await;
    // Two of three are enough.
    second.follows.abort();
    append(&primary, 2..=40).await;
    assert_eq!(primary.replicated_lsn(), Lsn::new(40));
    assert!(first.progress.durable_lsn() >= Lsn::new(40) && third.progress.durable_lsn() >= Lsn::new(40));
    // One is not; the log's end ends the wait.
    third.follows.abort();
    soon(third.serves).await.unwrap().unwrap_err();
    let waiting = tokio::spawn({
        let primary = primary.clone();
        async move { primary.append(&payload(41)).await }
    });
    first.reaches(Lsn::new(41)).await;
    primary.log().close().await.unwrap();
    assert_eq!(soon(waiting).await.unwrap(), Err(PrimaryError::Append(AppendError::Closed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_and_a_source_that_come_back_go_on_where_they_were() {
    let scratch = Scratch::new("again");
    let (a, b) = (scratch.join("a"), scratch.join("b"));
    let first = primary(&a, 1).await;
    let link = Link::new(&first, standby(&b).await).await;
    append(&first, 1..=60).await;
    let id = first.standbys()[0].id;
    // The standby goes, in the midst of it, and comes back from its disk.
    link.follows.abort();
    assert!(matches!(soon(link.serves).await.unwrap(), Err(ShipError::Connection { .. })));
    let waiting = tokio::spawn({
        let first = first.clone();
        async move { append(&first, 61..=100).await }
    });
    let link = Link::new(&first, standby(&b).await).await;
    soon(waiting).await.unwrap();
    assert_eq!(first.standbys()[0].id, id, "its id stays with its log");
    // The source goes and comes back; the standby stays.
    first.log().close().await.unwrap();
    let (standby, ..) = link.ended().await;
    drop(first);
    let second = primary(&a, 1).await;
    let link = Link::new(&second, standby).await;
    append(&second, 101..=160).await;
    second.log().close().await.unwrap();
    let (standby, ..) = link.ended().await;
    assert_eq!(records(standby.log().unwrap()), expected(160));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_promotion_the_old_primary_is_fenced_and_refused() {
    let scratch = Scratch::new("promote");
    let old = primary(&scratch.join("a"), 0).await;
    let link = Link::new(&old, standby(&scratch.join("b")).await).await;
    let other = Link::new(&old, standby(&scratch.join("c")).await).await;
    append(&old, 1..=10).await;
    link.reaches(Lsn::new(10)).await;
    other.reaches(Lsn::new(10)).await;
    link.serves.abort();
    other.serves.abort();
    let ((promoted, _), (mut other, _)) = (soon(link.follows).await.unwrap(), soon(other.follows).await.unwrap());
    append(&old, 11..=15).await;
    let log = promoted.promote(7).await.unwrap();
    assert!(log.term() > 0 && log.durable_lsn() == Lsn::new(10));
    let new = Primary::with_heartbeat(log, 1, BEAT);
    assert_eq!(new.replicated_lsn(), Lsn::ZERO, "nothing is promised before a record of this reign");
    // The other standby follows the new primary.
    let link = Link::new(&new, other).await;
    append(&new, 11..=12).await;
    assert_eq!(new.replicated_lsn(), Lsn::new(12));
    link.serves.abort();
    (other, _) = soon(link.follows).await.unwrap();
    // A standby that knows better ends the old one, whoever else waits or follows there.
    let bystander = Link::new(&old, standby(&scratch.join("e")).await).await;
    bystander.reaches(Lsn::new(15)).await;
    let (other, told, heard) = Link::new(&old, other).await.ended().await;
    let term = new.log().term();
    assert_eq!(heard, Err(ShipError::Fenced { ours: 0, theirs: term }));
    assert_eq!(told, Err(ShipError::Fenced { ours: term, theirs: 0 }));
    assert_eq!(old.append(b"late").await, Err(PrimaryError::Fenced { ours: 0, theirs: term }));
    assert_eq!(old.wait_replicated(Lsn::new(1)).await, Err(PrimaryError::Fenced { ours: 0, theirs: term }));
    assert_eq!(bystander.ended().await.2, Err(ShipError::Fenced { ours: 0, theirs: term }));
    assert_eq!(records(other.log().unwrap()), records(new.log()));
    // Its log holds what the new one's does not.
    old.log().close().await.unwrap();
    drop(old);
    let (_, refused, refuses) = Link::new(&new, standby(&scratch.join("a")).await).await.ended().await;
    assert_eq!(refused, Err(ShipError::Ahead { ours: Lsn::new(15), theirs: Lsn::new(12) }));
    assert_eq!(refuses, Err(ShipError::Ahead { ours: Lsn::new(12), theirs: Lsn::new(15) }));
    let third = Link::new(&new, other).await;
    append(&new, 13..=20).await;
    let (_, refused, refuses) = Link::new(&new, standby(&scratch.join("a")).await).await.ended().await;
    let at = Lsn::new(15);
    assert_eq!(refused, Err(ShipError::Diverged { ours: at, theirs: Lsn::new(20), at }));
    assert_eq!(refuses, Err(ShipError::Diverged { ours: Lsn::new(20), theirs: at, at }));
    append(&new, 21..=22).await;
    assert_eq!(third.progress.durable_lsn(), Lsn::new(22));
}

/// Terms that change within what a standby catches up on stay at their records, also through its restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_of_several_reigns_can_itself_be_followed() {
    let scratch = Scratch::new("reigns");
    let log = Log::open(scratch.join("a"), options()).await.unwrap();
    for reign in 0..3_u64 {
        if reign > 0 {
            log.begin_term(reign << 32).await.unwrap();
        }
        for lsn in 10 * reign + 1..=10 * reign + 10 {
            log.append(&payload(lsn)).await.unwrap();
        }
    }
    let first = Primary::with_heartbeat(log, 0, BEAT);
    let link = Link::new(&first, standby(&scratch.join("b")).await).await;
    link.reaches(Lsn::new(30)).await;
    link.follows.abort();
    let _ = soon(link.serves).await;
    let copy = standby(&scratch.join("b")).await;
    assert_eq!(copy.log().unwrap().term(), 2 << 32);
    // The last record is compared by its term: the source takes it back.
    let (link, more) = (Link::new(&first, copy).await, first.clone());
    append(&more, 31..=35).await;
    link.reaches(Lsn::new(35)).await;
    first.log().close().await.unwrap();
    let (copy, follower, _) = link.ended().await;
    assert_eq!(follower, Ok(()));
    // And another finds all three reigns there.
    let second = Primary::with_heartbeat(copy.promote(1).await.unwrap(), 0, BEAT);
    let link = Link::new(&second, standby(&scratch.join("c")).await).await;
    link.reaches(Lsn::new(35)).await;
    second.log().close().await.unwrap();
    let (copy, follower, _) = link.ended().await;
    assert_eq!((follower, records(copy.log().unwrap())), (Ok(()), expected(35)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_records_of_an_earlier_reign_are_promised_with_the_first_of_this_one() {
    let scratch = Scratch::new("start");
    let log = Log::open(scratch.join("a"), options()).await.unwrap();
    for lsn in 1..=9 {
        log.append(&payload(lsn)).await.unwrap();
    }
    log.begin_term(5 << 32).await.unwrap();
    for lsn in 10..=12 {
        log.append(&payload(lsn)).await.unwrap();
    }
    // A restart in the same reign: its records are known for its own.
    let primary = Primary::with_heartbeat(log, 1, BEAT);
    assert_eq!(primary.replicated_lsn(), Lsn::ZERO);
    let link = Link::new(&primary, standby(&scratch.join("b")).await).await;
    // Record 3 is at the standby long before it is promised.
    assert!(soon(primary.wait_replicated(Lsn::new(3))).await.unwrap() >= Lsn::new(10));
    drop(link);
}

/// A batch of many callers' records, the longest record there is, and one that fills a batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_records_pass() {
    let scratch = Scratch::new("long");
    let primary = primary(&scratch.join("a"), 1).await;
    let link = Link::new(&primary, standby(&scratch.join("b")).await).await;
    let AppendError::TooLarge { max, .. } = primary.log().append(&vec![0; 1 << 20]).await.unwrap_err() else {
        panic!("a megabyte fits a segment of one")
    };
    let appends = (0..64).map(|number| {
        let primary = primary.clone();
        let record = vec![number as u8; if number % 8 == 0 { max } else { 1000 * number }];
        tokio::spawn(async move { primary.append(&record).await })
    });
    for append in appends.collect::<Vec<_>>() {
        soon(append).await.unwrap().unwrap();
    }
    primary.log().close().await.unwrap();
    let (standby, follower, _) = link.ended().await;
    assert_eq!(follower, Ok(()));
    assert_eq!(records(standby.log().unwrap()), records(primary.log()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_standby_was_shown_outlives_its_log_and_no_term_is_drawn_twice() {
    let scratch = Scratch::new("terms");
    let dir = scratch.join("b");
    let log = Log::open(&dir, options()).await.unwrap();
    log.append(&payload(1)).await.unwrap();
    log.close().await.unwrap();
    drop(log);
    // A source that was at its seventh reign, of which the log's batches do not tell yet.
    std::fs::write(dir.join("standby"), format!("{:032x} {:016x}\n", 5, 7u64 << 32)).unwrap();
    let copy = standby(&dir).await;
    assert_eq!(copy.term(), 7 << 32);
    let log = copy.promote_above(9 << 32 | 1, 5).await.unwrap();
    assert_eq!(log.term(), 10 << 32 | 5);
    assert_eq!(log.recovery_report().strangers, [""; 0]);
    log.begin_term(u64::MAX).await.unwrap();
    log.close().await.unwrap();
    drop(log);
    assert!(matches!(standby(&dir).await.promote(0).await, Err(ringwal::PromoteError::Exhausted)));
    // Somebody else's place is nobody's to take.
    std::fs::write(dir.join("standby"), "garbage").unwrap();
    assert!(ringwal::Standby::open(&dir, options()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_ends_in_order_leaves_nothing_behind() {
    for round in 0..5 {
        let scratch = Scratch::new(&format!("switch-{round}"));
        let log = Log::open(scratch.join("a"), options()).await.unwrap();
        log.begin_term(3 << 32).await.unwrap();
        let primary = Primary::with_heartbeat(log, 0, BEAT);
        let link = Link::new(&primary, standby(&scratch.join("b")).await).await;
        append(&primary, 1..=10).await;
        link.reaches(Lsn::new(10)).await;
        append(&primary, 11..=600).await;
        // Nobody waits for standbys, whatever the reign.
        assert!(soon(primary.wait_replicated(Lsn::new(600))).await.unwrap() >= Lsn::new(600));
        primary.log().close().await.unwrap();
        let (standby, follower, _) = link.ended().await;
        assert_eq!(follower, Ok(()));
        assert!(records(standby.log().unwrap()) == expected(600), "round {round}");
    }
}
