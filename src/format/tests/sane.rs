//! Every bound of every field, one at a time, under a checksum that is right: what no writer of ours writes is not
//! believed, whatever its CRC says.

use super::super::cursor::CursorSlot;
use super::*;

/// `bytes` with a field changed and the CRC behind `crc_at` bytes made right again.
fn forged(bytes: &[u8], at: usize, field: &[u8], crc_at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + field.len()].copy_from_slice(field);
    let crc = crc32fast::hash(&bytes[..crc_at]);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn a_static_block_keeps_to_its_bounds() {
    let header = SegmentHeader {
        log_id: LogId::new([7; 16]),
        id: SegmentId::new(3),
        block_bytes: 512,
        blocks: 8,
        created_ns: 1,
    };
    let mut block = vec![0; 512];
    header.encode(&mut block);
    let crc_at = SEGMENT_HEADER_BYTES - 4;
    let judged = |at: usize, field: &[u8]| SegmentHeader::decode(&forged(&block, at, field, crc_at));
    assert_eq!(judged(0, b""), Verdict::Valid(header));
    // The version, the block size, the reserved word and the length stand where the table in `segment` says.
    assert_eq!(judged(8, &0u32.to_le_bytes()), Verdict::Bad, "version 0");
    assert_eq!(judged(8, &9u32.to_le_bytes()), Verdict::Newer(9));
    for block_bytes in [0u32, 256, 513, 131_072] {
        assert_eq!(judged(12, &block_bytes.to_le_bytes()), Verdict::Bad, "blocks of {block_bytes}");
    }
    for bytes in [0, 512, 4097, SEGMENT_BYTES_MAX + 512, u64::MAX] {
        assert_eq!(judged(40, &bytes.to_le_bytes()), Verdict::Bad, "{bytes} bytes");
    }
    assert_eq!(judged(56, &1u32.to_le_bytes()), Verdict::Bad, "a reserved word");
    assert_eq!(judged(511, &[1]), Verdict::Bad, "padding");
    assert_eq!(SegmentHeader::decode(&block[..SEGMENT_HEADER_BYTES - 1]), Verdict::Bad, "too short");
}

#[test]
fn a_header_keeps_to_its_bounds() {
    let whole = small(Kind::Data, &[b"one", b"two"]);
    let judged = |change: fn(&mut BatchHeader)| {
        let (mut header, mut bytes) = (whole.header, whole.bytes.clone());
        change(&mut header);
        header.encode(&mut bytes);
        BatchHeader::decode(&bytes, header.log_id, header.segment, header.block)
    };
    assert!(matches!(judged(|_| {}), Verdict::Valid(_)));
    type Change = fn(&mut BatchHeader);
    let changes: [(&str, Change); 8] = [
        ("a data batch that cuts", |header| header.cut = true),
        ("an opening that cuts in block 2", |header| {
            (header.kind, header.cut, header.block) = (Kind::Opening, true, 2);
            (header.count, header.records_bytes, header.digest) = (0, 0, 0);
        }),
        ("a data batch that closes", |header| header.close = true),
        ("a batch in block 0", |header| header.block = 0),
        ("a batch before the first record", |header| header.first = Lsn::ZERO),
        ("a claim of itself", |header| header.durable = header.first),
        ("a seal with records", |header| header.kind = Kind::Seal),
        ("more records than fit", |header| header.count = header.records_bytes),
    ];
    for (what, change) in changes {
        assert_eq!(judged(change), Verdict::Bad, "{what}");
    }
    let version_zero = forged(&whole.bytes, 8, &0u32.to_le_bytes(), CRC.start);
    let (log_id, segment, block) = (whole.header.log_id, whole.header.segment, whole.header.block);
    assert_eq!(BatchHeader::decode(&version_zero, log_id, segment, block), Verdict::Bad);
    assert_eq!(BatchHeader::decode(&whole.bytes[..BATCH_HEADER_BYTES - 1], log_id, segment, block), Verdict::Bad);
}

#[test]
fn a_batch_holds_what_its_header_counts() {
    let written = small(Kind::Data, &[b"one", b"two"]);
    for (count, digest, what) in [(1, 0, "a record too few"), (2, 1, "another digest")] {
        let (mut header, mut bytes) = (written.header, written.bytes.clone());
        header.count = count;
        header.digest = header.digest.wrapping_add(digest);
        header.encode(&mut bytes);
        assert!(!header.check(&bytes, written.block_bytes), "{what}");
    }
    assert!(written.header.check(&written.bytes, written.block_bytes));
    assert!(!written.header.check(&written.bytes[..100], written.block_bytes), "cut short");
}

#[test]
fn control_records_take_no_lsn_and_are_passed_over() {
    let records = [
        (RecordKind::Control, &b"a"[..]),
        (RecordKind::User, b"b"),
        (RecordKind::Control, b"c"),
        (RecordKind::User, b"d"),
    ];
    let records = records.map(|(kind, payload)| (kind, payload.to_vec())).to_vec();
    let written = Written::new(small(Kind::Data, &[b"x"]).header, records, 512);
    assert!(written.accepts(&written.bytes));
    let held = HeldBatch::new(written.header, &bytes::Bytes::from(written.bytes.clone()));
    let first = written.header.first;
    let all: Vec<_> = held.records_from(Lsn::FIRST).map(|(lsn, payload)| (lsn, payload.to_vec())).collect();
    assert_eq!(all, [(first, b"b".to_vec()), (first.next(), b"d".to_vec())]);
    assert_eq!(held.records_from(first.next()).count(), 1);
    assert_eq!(held.records_from(first.plus(9)).next_lsn(), None);
}

#[test]
fn a_cursors_slot_keeps_to_its_bounds() {
    let slot = CursorSlot { log_id: LogId::new([7; 16]), sequence: 2, lsn: Lsn::new(9) };
    let mut block = vec![0; 512];
    slot.encode(&mut block);
    let judged = |at: usize, field: &[u8]| CursorSlot::decode(&forged(&block, at, field, 48));
    assert_eq!(judged(0, b""), Verdict::Valid(slot));
    assert_eq!(judged(8, &9u32.to_le_bytes()), Verdict::Newer(9));
    assert_eq!(judged(8, &0u32.to_le_bytes()), Verdict::Bad, "version 0");
    assert_eq!(judged(12, &1u32.to_le_bytes()), Verdict::Bad, "a reserved word");
    assert_eq!(judged(60, &[1]), Verdict::Bad, "behind the slot");
    assert_eq!(judged(0, b"R"), Verdict::Valid(slot));
    assert_eq!(judged(0, b"X"), Verdict::Bad, "another magic");
    assert_eq!(CursorSlot::decode(&block[..51]), Verdict::Bad, "too short");
}

#[test]
fn names_that_nobody_gives_are_strangers() {
    for name in [".cursor", "a b.cursor", "0000000000000000.seg", "x.seg", "000000000000001.seg"] {
        assert_eq!(parse_name(name), Name::Unknown, "{name}");
    }
}
