//! What the format promises, on drawn batches: it reads back what was written, and no torn, moved, mixed or foreign
//! bytes pass for a batch.

mod sane;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::batch::CRC;
use super::record::{self, RecordRef};
use super::segment::{Name, SEGMENT_HEADER_BYTES, parse_name, segment_name, spare_name};
use super::*;
use crate::lsn::{Epoch, LogId, Lsn, SegmentId};

/// Failures are replayed by the seed that proptest prints; no file is left in the tree.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A batch, its bytes, and the place where they stand.
#[derive(Clone, Debug)]
struct Written {
    header: BatchHeader,
    crc: u32,
    records: Vec<(RecordKind, Vec<u8>)>,
    block_bytes: u32,
    bytes: Vec<u8>,
}

impl Written {
    /// Encodes `records` under `header`, whose count, length and digest follow from them.
    fn new(mut header: BatchHeader, records: Vec<(RecordKind, Vec<u8>)>, block_bytes: u32) -> Self {
        let records_bytes: usize = records.iter().map(|(_, payload)| record_bytes(payload.len())).sum();
        let mut bytes = vec![0; batch_bytes(records_bytes, block_bytes)];
        (header.count, header.digest) = (0, 0);
        let mut at = BATCH_HEADER_BYTES;
        for (kind, payload) in &records {
            let crc = RecordCrc::of_kind(*kind, payload, header.log_id, header.nonce);
            let lsn = header.first.plus(u64::from(header.count));
            header.digest = header.digest.wrapping_add(record::encode(crc, lsn, payload, &mut bytes[at..]));
            header.count += u32::from(*kind == RecordKind::User);
            at += record_bytes(payload.len());
        }
        header.records_bytes = u32::try_from(records_bytes).unwrap();
        let crc = header.encode(&mut bytes);
        Self { header, crc, records, block_bytes, bytes }
    }

    /// Whether `bytes`, read from this batch's place, are a valid batch as a whole.
    fn accepts(&self, bytes: &[u8]) -> bool {
        whole(bytes, &self.header, self.block_bytes)
    }

    fn body(&self) -> &[u8] {
        &self.bytes[BATCH_HEADER_BYTES..]
    }
}

/// Whether `bytes` are a valid batch as a whole at the place that `place` names.
fn whole(bytes: &[u8], place: &BatchHeader, block_bytes: u32) -> bool {
    match BatchHeader::decode(bytes, place.log_id, place.segment, place.block) {
        Verdict::Valid((header, _)) => header.check(bytes, block_bytes),
        _ => false,
    }
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    // Constant payloads look like padding, and like one another: the ones most easily mistaken.
    let drawn = prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 300..1700)];
    let constant = (prop_oneof![Just(0u8), Just(1), Just(0xff)], 0..1200usize).prop_map(|(byte, len)| vec![byte; len]);
    prop_oneof![1 => Just(Vec::new()), 3 => drawn, 1 => constant]
}

fn records() -> impl Strategy<Value = Vec<(RecordKind, Vec<u8>)>> {
    let kind = prop_oneof![4 => Just(RecordKind::User), 1 => Just(RecordKind::Control)];
    vec((kind, payload()), 0..9)
}

fn link() -> impl Strategy<Value = Option<Link>> {
    let some = (1..u64::MAX, any::<u32>(), any::<u32>());
    proptest::option::of(some.prop_map(|(segment, block, crc)| Link { segment: SegmentId::new(segment), block, crc }))
}

/// Headers of every kind, without records yet.
fn header() -> impl Strategy<Value = BatchHeader> {
    let kind =
        prop_oneof![2 => Just(Kind::Data), 1 => Just(Kind::Copy), 1 => Just(Kind::Opening), 1 => Just(Kind::Seal)];
    let first = prop_oneof![1..100u64, 1..u64::MAX / 2];
    let identity = (any::<[u8; 16]>(), any::<u64>(), any::<u64>(), 1..u64::MAX - 1, 1..u32::MAX);
    let claims = (any::<Index>(), any::<u64>(), any::<u64>(), any::<u64>());
    (kind, any::<bool>(), identity, first, claims, link()).prop_map(|(kind, flag, identity, first, claims, link)| {
        let (log_id, epoch, nonce, segment, block) = identity;
        let (durable, trim, restated_to, term) = claims;
        let cut = flag && kind == Kind::Opening;
        let block = if cut { 1 } else { block };
        // Links lead strictly back.
        let link = link.filter(|link| (link.segment.get(), link.block) < (segment, block));
        BatchHeader {
            kind,
            cut,
            close: flag && kind == Kind::Seal,
            log_id: LogId::new(log_id),
            epoch: Epoch::new(epoch),
            nonce,
            segment: SegmentId::new(segment),
            block,
            records_bytes: 0,
            first: Lsn::new(first),
            count: 0,
            digest: 0,
            durable: Lsn::new(durable.index(usize::try_from(first).unwrap()) as u64),
            trim: Lsn::new(trim),
            restated_to: Lsn::new(restated_to),
            term,
            link,
        }
    })
}

fn batch() -> impl Strategy<Value = Written> {
    let block_bytes = prop_oneof![Just(512u32), Just(1024), Just(4096)];
    (header(), records(), block_bytes).prop_map(|(header, records, block_bytes)| {
        let holds = matches!(header.kind, Kind::Data | Kind::Copy);
        Written::new(header, if holds { records } else { Vec::new() }, block_bytes)
    })
}

/// Batches that hold at least one record.
fn full_batch() -> impl Strategy<Value = Written> {
    batch().prop_filter("holds records", |batch| !batch.records.is_empty())
}

proptest! {
    #![proptest_config(cases(1024))]

    #[test]
    fn a_link_that_leads_nowhere_back_is_bad(header in header(), further in 0..9u32) {
        let (segment, block) = (header.segment, header.block.saturating_add(further));
        let header = BatchHeader { link: Some(Link { segment, block, crc: 1 }), ..header };
        let mut bytes = vec![0; 512];
        header.encode(&mut bytes);
        prop_assert_eq!(BatchHeader::decode(&bytes, header.log_id, header.segment, header.block), Verdict::Bad);
    }

    #[test]
    fn a_batch_reads_back_as_it_was_written(batch in batch()) {
        let decoded = BatchHeader::decode(&batch.bytes, batch.header.log_id, batch.header.segment, batch.header.block);
        prop_assert_eq!(decoded, Verdict::Valid((batch.header, batch.crc)));
        prop_assert!(batch.header.check(&batch.bytes, batch.block_bytes));
        prop_assert_eq!(batch.header.bytes(batch.block_bytes), batch.bytes.len());

        let read: Vec<RecordRef<'_>> = batch.header.records(&batch.bytes).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read.len(), batch.records.len());
        let mut next = batch.header.first;
        for (read, (kind, payload)) in read.iter().zip(&batch.records) {
            prop_assert_eq!((read.kind, read.lsn, read.payload), (*kind, next, payload.as_slice()));
            next = if *kind == RecordKind::User { next.next() } else { next };
        }
        prop_assert_eq!(batch.header.last().next(), next);
    }

    #[test]
    fn bytes_behind_a_batch_do_not_matter_and_missing_ones_do(batch in batch(), more in vec(any::<u8>(), 0..64)) {
        let mut longer = batch.bytes.clone();
        longer.extend(more);
        prop_assert!(batch.accepts(&longer));
        prop_assert!(!batch.accepts(&batch.bytes[..batch.bytes.len() - 1]));
    }

    #[test]
    fn a_flipped_bit_is_seen_anywhere(batch in batch(), places in vec((any::<Index>(), 0..8u32), 64)) {
        let mut bytes = batch.bytes.clone();
        for (place, bit) in places {
            let at = place.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(!batch.accepts(&bytes), "byte {at}, bit {bit}");
            bytes[at] ^= 1 << bit;
        }
    }

    /// Every pair of sectors of a batch and of the one behind it: after a swap they are not both whole.
    #[test]
    fn swapped_sectors_and_blocks_are_seen(
        first in batch(),
        behind in batch(),
        unit in prop_oneof![Just(SECTOR_BYTES), Just(4096)],
    ) {
        let second = at_place_behind(&first, &behind);
        let split = first.bytes.len();
        let mut both = [first.bytes.clone(), second.bytes.clone()].concat();
        let unit = unit.min(first.block_bytes as usize);
        let units = both.len() / unit;
        for left in 0..units {
            for right in left + 1..units {
                if both[left * unit..][..unit] == both[right * unit..][..unit] {
                    continue;
                }
                swap(&mut both, left, right, unit);
                let whole = first.accepts(&both[..split]) && second.accepts(&both[split..]);
                prop_assert!(!whole, "{left} and {right} of {units} units of {unit} bytes");
                swap(&mut both, left, right, unit);
            }
        }
    }

    /// A write of which any subset of sectors was lost, over zeros or over an older batch at the same place.
    #[test]
    fn a_torn_batch_is_seen(
        new in full_batch(),
        old in batch(),
        kept in vec(any::<bool>(), 1..40),
        over_zeros in any::<bool>(),
    ) {
        let old = Written::new(
            BatchHeader {
                log_id: new.header.log_id,
                segment: new.header.segment,
                block: new.header.block,
                cut: false,
                ..old.header
            },
            old.records,
            new.block_bytes,
        );
        let mut bytes = new.bytes.clone();
        for (at, sector) in bytes.chunks_mut(SECTOR_BYTES).enumerate() {
            if !kept[at % kept.len()] {
                let from = old.bytes.get(at * SECTOR_BYTES..(at + 1) * SECTOR_BYTES).filter(|_| !over_zeros);
                sector.copy_from_slice(from.unwrap_or(&[0; SECTOR_BYTES]));
            }
        }
        // All of the old batch is the old batch, and that is what it then says it is.
        if bytes != new.bytes && (over_zeros || !bytes.starts_with(&old.bytes)) {
            prop_assert!(!new.accepts(&bytes));
        }
    }

    #[test]
    fn a_batch_elsewhere_is_stale_and_a_foreign_one_bad(
        batch in batch(),
        segment in 1..u64::MAX,
        block in 1..u32::MAX,
        foreign in any::<[u8; 16]>(),
    ) {
        let (header, records_bytes) = (&batch.header, batch.header.records_bytes);
        let (segment, foreign) = (SegmentId::new(segment), LogId::new(foreign));
        prop_assume!(segment != header.segment && block != header.block && foreign != header.log_id);
        let read = |log_id, segment, block| BatchHeader::decode(&batch.bytes, log_id, segment, block);
        prop_assert_eq!(read(header.log_id, header.segment, block), Verdict::Stale(records_bytes));
        prop_assert_eq!(read(header.log_id, header.segment, header.block + 1), Verdict::Stale(records_bytes));
        prop_assert_eq!(read(header.log_id, segment, header.block), Verdict::Stale(records_bytes));
        prop_assert_eq!(read(header.log_id, header.segment.next(), header.block), Verdict::Stale(records_bytes));
        prop_assert_eq!(read(foreign, header.segment, header.block), Verdict::Bad);
    }

    /// The records of a batch that was written at the same place, with the same LSNs, by another epoch or another log:
    /// what a dead tail leaves. They fail even under a header whose digest was made to fit them.
    #[test]
    fn records_of_another_epoch_log_or_position_fail_under_this_header(
        batch in full_batch(),
        nonce in any::<u64>(),
        log_id in any::<[u8; 16]>(),
        further in 1..1000u64,
    ) {
        prop_assume!(nonce != batch.header.nonce && log_id != batch.header.log_id.bytes());
        let others = [
            BatchHeader { nonce, ..batch.header },
            BatchHeader { nonce: batch.header.nonce ^ 1, ..batch.header },
            BatchHeader { log_id: LogId::new(log_id), ..batch.header },
            BatchHeader { first: batch.header.first.plus(further), ..batch.header },
        ];
        for other in others {
            let dead = Written::new(other, batch.records.clone(), batch.block_bytes);
            let mut bytes = batch.bytes.clone();
            bytes[BATCH_HEADER_BYTES..].copy_from_slice(dead.body());
            prop_assert!(!batch.accepts(&bytes), "records of {other:?}");
            BatchHeader { digest: dead.header.digest, ..batch.header }.encode(&mut bytes);
            prop_assert!(!batch.accepts(&bytes), "records of {other:?}, with their digest");
        }
    }

    /// The same user records in another order, each whole: the LSN in their CRCs tells. Control records that follow one
    /// another share an LSN, and nothing tells their order.
    #[test]
    fn swapped_records_are_seen(
        header in header(),
        payloads in vec(payload(), 2..9),
        left in any::<Index>(),
        right in any::<Index>(),
    ) {
        let records = payloads.iter().map(|payload| (RecordKind::User, payload.clone())).collect();
        let batch = Written::new(BatchHeader { kind: Kind::Data, cut: false, close: false, ..header }, records, 512);
        let mut at = 0;
        let mut pieces = Vec::new();
        for payload in &payloads {
            pieces.push(&batch.body()[at..][..record_bytes(payload.len())]);
            at += record_bytes(payload.len());
        }
        let (left, right) = (left.index(pieces.len()), right.index(pieces.len()));
        pieces.swap(left, right);
        let mut bytes = batch.bytes.clone();
        bytes[BATCH_HEADER_BYTES..][..at].copy_from_slice(&pieces.concat());
        prop_assert_eq!(batch.accepts(&bytes), left == right);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..1200)) {
        feed(&bytes);
        let verdict = BatchHeader::decode(&bytes, LogId::new([0; 16]), SegmentId::new(1), 1);
        prop_assert!(!matches!(verdict, Verdict::Valid(_)));
    }

    /// Bytes that a checksum does not stop: any field may be anything, the CRCs are right.
    #[test]
    fn hostile_fields_never_panic(
        batch in batch(),
        changes in vec((any::<Index>(), any::<u8>()), 1..12),
        extreme in proptest::option::of((any::<Index>(), any::<bool>())),
    ) {
        let mut bytes = batch.bytes.clone();
        for (at, value) in changes {
            let at = at.index(bytes.len().min(BATCH_HEADER_BYTES + 64));
            bytes[at] = value;
        }
        if let Some((at, ones)) = extreme {
            let at = at.index(BATCH_HEADER_BYTES / 4) * 4;
            bytes[at..at + 4].fill(if ones { 0xff } else { 0 });
        }
        // Its place and magic as they should be, or it is thrown out early.
        bytes[..12].copy_from_slice(&batch.bytes[..12]);
        bytes[16..32].copy_from_slice(&batch.bytes[16..32]);
        bytes[48..60].copy_from_slice(&batch.bytes[48..60]);
        let crc = crc32fast::hash(&bytes[..CRC.start]);
        put(&mut bytes, CRC, &crc.to_le_bytes());
        feed(&bytes);
        feed_to(&bytes, &batch.header);
    }

    #[test]
    fn hostile_static_blocks_never_panic(mut block in vec(any::<u8>(), 0..600), fix in any::<bool>()) {
        if fix && block.len() >= SEGMENT_HEADER_BYTES {
            block[..8].copy_from_slice(b"RWALSEGM");
            block[8..12].copy_from_slice(&VERSION.to_le_bytes());
            let crc = crc32fast::hash(&block[..SEGMENT_HEADER_BYTES - 4]);
            block[SEGMENT_HEADER_BYTES - 4..SEGMENT_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        }
        if let Verdict::Valid(header) = SegmentHeader::decode(&block) {
            prop_assert!(header.blocks >= 2 && header.block_bytes.is_power_of_two());
        }
    }

    #[test]
    fn only_what_we_write_is_a_name(id in any::<u64>(), text in "[0-9a-fA-F.+segpart_]{0,24}") {
        let id = id.max(1);
        prop_assert_eq!(parse_name(&segment_name(SegmentId::new(id))), Name::Segment(SegmentId::new(id)));
        prop_assert_eq!(parse_name(&spare_name(id)), Name::Spare(id));
        match parse_name(&text) {
            Name::Segment(id) => prop_assert_eq!(segment_name(id), text),
            Name::Spare(number) => prop_assert_eq!(spare_name(number), text),
            Name::Cursor(name) => prop_assert_eq!(crate::format::segment::cursor_name(&name).unwrap(), text),
            Name::Lock | Name::Standby | Name::Unknown => {}
        }
    }
}

/// `behind`, in the same log, at the block behind `first`.
fn at_place_behind(first: &Written, behind: &Written) -> Written {
    let block = first.header.block.saturating_add(first.header.blocks(first.block_bytes));
    let header = BatchHeader {
        log_id: first.header.log_id,
        segment: first.header.segment,
        block,
        cut: false,
        nonce: first.header.nonce,
        ..behind.header
    };
    Written::new(header, behind.records.clone(), first.block_bytes)
}

fn swap(bytes: &mut [u8], left: usize, right: usize, unit: usize) {
    let (before, behind) = bytes.split_at_mut(right * unit);
    before[left * unit..][..unit].swap_with_slice(&mut behind[..unit]);
}

/// Every decoder of the format, on bytes from anywhere. None owns memory: they lend out parts of what they are given,
/// so no length in the bytes can make them allocate.
fn feed(bytes: &[u8]) {
    let log_id = bytes.get(16..32).and_then(|id| id.try_into().ok()).map_or(LogId::new([7; 16]), LogId::new);
    let place = |range: Range<usize>| bytes.get(range).map_or(1, |bytes| u64::from(bytes[0]).max(1));
    let _ = SegmentHeader::decode(bytes);
    for record in record::Records::new(bytes, Lsn::FIRST, log_id, 0) {
        let _ = record;
    }
    let verdict = BatchHeader::decode(bytes, log_id, SegmentId::new(place(48..49)), 1);
    if let Verdict::Valid((header, _)) = verdict {
        feed_to(bytes, &header);
    }
}

/// The decoders behind a header, at the place it names.
fn feed_to(bytes: &[u8], place: &BatchHeader) {
    let verdict = BatchHeader::decode(bytes, place.log_id, place.segment, place.block);
    let Verdict::Valid((header, _)) = verdict else { return };
    for block_bytes in [512, 4096, 65536] {
        let whole = header.check(bytes, block_bytes);
        assert!(!whole || header.bytes(block_bytes) <= bytes.len());
        let _ = header.blocks(block_bytes);
    }
    let _ = (header.last(), header.records(bytes).count());
}

fn small(kind: Kind, payloads: &[&[u8]]) -> Written {
    let header = BatchHeader {
        kind,
        cut: kind == Kind::Opening,
        close: kind == Kind::Seal,
        log_id: LogId::new(*b"0123456789abcdef"),
        epoch: Epoch::new(3),
        nonce: 0x0123_4567_89ab_cdef,
        segment: SegmentId::new(5),
        block: 1,
        records_bytes: 0,
        first: Lsn::new(42),
        count: 0,
        digest: 0,
        durable: Lsn::new(40),
        trim: Lsn::FIRST,
        restated_to: Lsn::ZERO,
        term: 0,
        link: Some(Link { segment: SegmentId::new(4), block: 9, crc: 77 }),
    };
    let user = payloads.iter().map(|payload| (RecordKind::User, payload.to_vec())).collect();
    Written::new(header, user, 512)
}

#[test]
fn every_single_flipped_bit_is_seen_in_small_batches() {
    let batches = [
        small(Kind::Data, &[b"one", b"", b"three"]),
        small(Kind::Data, &[&[0; 500]]),
        small(Kind::Data, &[&[0; 512 - 144 - 12]]),
        small(Kind::Copy, &[b"", b"", b""]),
        small(Kind::Opening, &[]),
        small(Kind::Seal, &[]),
    ];
    for batch in batches {
        assert!(batch.accepts(&batch.bytes));
        let mut bytes = batch.bytes.clone();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!batch.accepts(&bytes), "{:?}: bit {bit}", batch.header.kind);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_batch_of_zeros_is_zero_and_a_zero_length_record_is_not() {
    let batch = small(Kind::Data, &[b""]);
    assert!(batch.accepts(&batch.bytes));
    assert_eq!(batch.header.count, 1);
    let (log_id, segment) = (batch.header.log_id, batch.header.segment);
    assert_eq!(BatchHeader::decode(&[0; 512], log_id, segment, 1), Verdict::Zero);
    let none = LogId::new([0; 16]);
    assert_eq!(BatchHeader::decode(&[0; 512], none, SegmentId::default(), 0), Verdict::Zero);
}

#[test]
fn newer_versions_kinds_and_flags_are_named() {
    let batch = small(Kind::Data, &[b"one"]);
    let changed = |at: usize, value: u8| {
        let mut bytes = batch.bytes.clone();
        bytes[at] = value;
        let crc = crc32fast::hash(&bytes[..CRC.start]);
        put(&mut bytes, CRC, &crc.to_le_bytes());
        BatchHeader::decode(&bytes, batch.header.log_id, batch.header.segment, batch.header.block)
    };
    assert_eq!(changed(8, 2), Verdict::Newer(2));
    assert_eq!(changed(12, 5), Verdict::Newer(VERSION));
    assert_eq!(changed(13, 4), Verdict::Newer(VERSION));
    // Known flags where they mean nothing, and reserved bytes, are not from a newer version: they are wrong.
    assert_eq!(changed(13, 1), Verdict::Bad);
    assert_eq!(changed(13, 2), Verdict::Bad);
    for reserved in [14, 15, 76, 79, 136, 139] {
        assert_eq!(changed(reserved, 1), Verdict::Bad, "byte {reserved}");
    }
}

#[test]
fn zero_is_told_from_anything_else() {
    for len in [0, 1, 15, 16, 17, 64] {
        let mut bytes = vec![0; len];
        assert!(is_zero(&bytes));
        for at in 0..len {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at} of {len}");
            bytes[at] = 0;
        }
    }
}
