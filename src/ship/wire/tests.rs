//! The codec: everything comes back as it went, and no bytes make it panic, hang or take memory unasked.

use proptest::prelude::*;

use super::*;
use crate::ship::payload_crc;

const SESSION: u64 = 0x5e55;
const STORED_MAX: usize = 4096;

fn whole(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.encode(SESSION).to_vec();
    if let Frame::Records(shipped) = frame {
        bytes.extend_from_slice(&shipped.stored);
    }
    bytes
}

fn decoder() -> Decoder {
    Decoder::new(STORED_MAX, Some(SESSION))
}

fn frames() -> impl Strategy<Value = Frame> {
    let hello = (any::<[u64; 4]>(), any::<Option<[u8; 16]>>(), any::<[u8; 16]>(), any::<[u32; 2]>(), "[a-zé]{0,32}");
    let welcome = (any::<[u64; 6]>(), any::<[u32; 2]>(), any::<[u8; 16]>());
    let records = (any::<[u64; 4]>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..300));
    prop_oneof![
        hello.prop_map(|([term, last, last_term, max], id, standby, [format, crc], name)| Frame::Hello(Hello {
            format,
            log_id: id.map(LogId::new),
            standby,
            name,
            term: id.map_or(0, |_| term),
            last: Lsn::new(id.map_or(0, |_| last)),
            last_term,
            last_crc: crc,
            group_bytes_max: max,
        })),
        welcome.prop_map(|([term, first, durable, resume, max, challenge], [version, beat], id)| {
            Frame::Welcome(Welcome {
                version,
                heartbeat_ms: beat,
                log_id: LogId::new(id),
                term,
                first: Lsn::new(first),
                durable: Lsn::new(durable),
                resume: Lsn::new(resume),
                batch_bytes_max: max,
                challenge,
            })
        }),
        any::<u64>().prop_map(|credit| Frame::Start { credit }),
        records.prop_map(|([term, nonce, first, durable], count, stored)| Frame::Records(Shipped {
            term,
            nonce,
            first: Lsn::new(first),
            durable: Lsn::new(durable),
            count,
            stored: stored.into(),
        })),
        any::<[u64; 4]>().prop_map(|[durable, received, credit, heartbeat]| Frame::Ack(Ack {
            durable: Lsn::new(durable),
            received: Lsn::new(received),
            credit,
            heartbeat,
        })),
        any::<[u64; 3]>().prop_map(|[term, durable, sequence]| Frame::Heartbeat {
            term,
            durable: Lsn::new(durable),
            sequence,
        }),
        any::<u32>().prop_map(|code| Frame::Refuse(ShipError::Unknown { code: code.max(100) })),
        Just(Frame::Bye),
    ]
}

/// Feeds `bytes` in pieces of `step`; what came out.
fn feed(decoder: &mut Decoder, bytes: &[u8], step: usize) -> Result<Vec<Frame>, ShipError> {
    let mut found = Vec::new();
    for mut piece in bytes.chunks(step) {
        while let Some((session, frame)) = decoder.take(&mut piece)? {
            assert_eq!(session, SESSION);
            found.push(frame);
        }
        assert!(piece.is_empty());
        assert!(decoder.held() <= HEADER_BYTES + RECORDS_BYTES + STORED_MAX);
    }
    Ok(found)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_come_back_however_they_are_cut(sent in proptest::collection::vec(frames(), 1..6), step in 1usize..200) {
        let bytes: Vec<u8> = sent.iter().flat_map(whole).collect();
        for step in [1, step, bytes.len()] {
            prop_assert_eq!(&feed(&mut decoder(), &bytes, step).unwrap(), &sent);
        }
    }

    #[test]
    fn a_frame_cut_short_waits_for_more(sent in frames(), cut in any::<prop::sample::Index>()) {
        let bytes = whole(&sent);
        let found = feed(&mut decoder(), &bytes[..cut.index(bytes.len())], 7);
        prop_assert_eq!(found, Ok(Vec::new()));
    }

    /// The records behind a records frame are under their own checksums; everything else is under the frame's.
    #[test]
    fn a_flipped_bit_is_found(sent in frames(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = whole(&sent);
        let covered = if matches!(sent, Frame::Records(_)) { HEADER_BYTES + RECORDS_BYTES } else { bytes.len() };
        bytes[at.index(covered)] ^= 1 << bit;
        match feed(&mut decoder(), &bytes, 64) {
            // It waits for a frame that the flip made longer.
            Ok(found) => prop_assert_eq!(found, Vec::new()),
            Err(error) => {
                let known = matches!(error, ShipError::Garbage { .. } | ShipError::FrameTooLarge { .. });
                prop_assert!(known);
            },
        }
    }

    #[test]
    fn any_bytes_are_refused_or_waited_on(bytes in proptest::collection::vec(any::<u8>(), 0..2000), step in 1usize..99) {
        let _ = feed(&mut decoder(), &bytes, step);
    }

    /// Lies under a checksum that holds: fields, lengths and types at random, the end cut off or more behind it.
    #[test]
    fn a_body_that_lies_is_refused_or_taken(
        sent in frames(),
        lies in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        kind in prop_oneof![Just(None), (0u8..10).prop_map(Some)],
        length in prop_oneof![Just(None), (0usize..200).prop_map(Some)],
    ) {
        let mut bytes = whole(&sent);
        bytes.resize(HEADER_BYTES + length.unwrap_or(bytes.len() - HEADER_BYTES), 7);
        bytes[4] = kind.unwrap_or(bytes[4]);
        let end = bytes.len().min(HEADER_BYTES + 100);
        let body = &mut bytes[HEADER_BYTES..end];
        if !body.is_empty() {
            lies.iter().for_each(|(at, lie)| body[at.index(body.len())] = *lie);
        }
        seal(&mut bytes);
        let _ = feed(&mut decoder(), &bytes, 50);
    }
}

/// Puts the length and the checksum right.
fn seal(bytes: &mut [u8]) {
    let length = u32::try_from(bytes.len() - HEADER_BYTES).unwrap();
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(bytes);
    bytes[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_long_frame_is_refused_before_it_takes_memory() {
    let mut decoder = decoder();
    let mut header = Frame::Bye.encode(SESSION).to_vec();
    header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let expected = ShipError::FrameTooLarge { len: u64::from(u32::MAX), max: CONTROL_BYTES_MAX as u64 };
    assert_eq!(decoder.take(&mut &header[..]).unwrap_err(), expected);
    assert!(decoder.held() <= HEADER_BYTES);
    // One that is allowed takes what arrived, not what was announced.
    let mut decoder = Decoder::new(1 << 30, Some(SESSION));
    header[..4].copy_from_slice(&(1u32 << 29).to_le_bytes());
    header[4] = 4;
    assert_eq!(decoder.take(&mut &header[..]), Ok(None));
    assert_eq!(decoder.take(&mut &[7; 100][..]), Ok(None));
    assert!(decoder.held() < 400, "{}", decoder.held());
}

#[test]
fn a_frame_of_another_session_is_told_from_a_damaged_one() {
    let bytes = Frame::Start { credit: 1 }.encode(SESSION + 1);
    assert_eq!(decoder().take(&mut &bytes[..]).unwrap_err(), ShipError::ReplayedSession);
    let mut damaged = Frame::Start { credit: 1 }.encode(SESSION).to_vec();
    damaged[9] ^= 1;
    assert!(matches!(decoder().take(&mut &damaged[..]), Err(ShipError::Garbage { .. })));
}

/// A hello of another version: the magic, both versions, and whatever that version puts behind them.
fn hello_of(version: u32, oldest: u32) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&oldest.to_le_bytes());
    bytes.extend_from_slice(&[9; 50]);
    bytes[4] = 1;
    seal(&mut bytes);
    bytes
}

#[test]
fn versions_without_a_common_one_are_named() {
    let take = |version, oldest| Decoder::new(0, None).take(&mut &hello_of(version, oldest)[..]).unwrap_err();
    assert_eq!(take(7, 5), ShipError::Version { ours: VERSION, theirs: 5 });
    assert_eq!(take(0, 0), ShipError::Version { ours: OLDEST, theirs: 0 });
    assert!(matches!(take(1, 1), ShipError::Garbage { .. }));
}

#[test]
fn a_hello_of_a_newer_version_that_understands_ours_may_be_longer() {
    let hello = Hello {
        format: 1,
        log_id: None,
        standby: [1; 16],
        name: "b".to_owned(),
        term: 0,
        last: Lsn::ZERO,
        last_term: 0,
        last_crc: payload_crc(b""),
        group_bytes_max: 9,
    };
    let mut bytes = Frame::Hello(hello.clone()).encode(SESSION).to_vec();
    bytes.extend_from_slice(b"more");
    seal(&mut bytes);
    assert!(decoder().take(&mut &bytes[..]).is_err(), "our own version is exact");
    bytes[HEADER_BYTES + 8] = 2;
    seal(&mut bytes);
    assert_eq!(decoder().take(&mut &bytes[..]), Ok(Some((SESSION, Frame::Hello(hello)))));
}

#[test]
fn who_has_no_log_knows_no_term_of_it() {
    let hello = |log_id, term, last| Hello {
        format: 1,
        log_id,
        standby: [1; 16],
        name: String::new(),
        term,
        last: Lsn::new(last),
        last_term: 0,
        last_crc: 0,
        group_bytes_max: 9,
    };
    let taken = |hello| decoder().take(&mut &Frame::Hello(hello).encode(SESSION)[..]).is_ok();
    assert!(taken(hello(None, 0, 0)) && taken(hello(Some(LogId::new([1; 16])), 1, 1)));
    assert!(!taken(hello(None, 1, 0)) && !taken(hello(None, 0, 1)));
}
