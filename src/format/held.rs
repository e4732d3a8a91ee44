//! A batch held in memory: its records can be taken out one by one, without a copy and without a second check.

use bytes::Bytes;

use super::record::peek;
use super::{BATCH_HEADER_BYTES, BatchHeader, RECORD_HEADER_BYTES, RecordKind};
use crate::lsn::Lsn;

/// A batch in memory, of which every byte is known to be what its header says.
#[derive(Clone, Debug)]
pub(crate) struct HeldBatch {
    pub(crate) header: BatchHeader,
    /// The last record of it that counts: a cut opening behind it may have ended it early.
    pub(crate) last: Lsn,
    /// Records as they stand on disk, one behind the other.
    records: Bytes,
}

impl HeldBatch {
    /// Holds the batch that begins at the start of `bytes`, which the caller has checked, or has written itself.
    pub(crate) fn new(header: BatchHeader, bytes: &Bytes) -> Self {
        let end = (BATCH_HEADER_BYTES + header.records_bytes as usize).min(bytes.len());
        let begin = BATCH_HEADER_BYTES.min(end);
        Self { header, last: header.last(), records: bytes.slice(begin..end) }
    }

    /// Ended early: nothing above `last` counts.
    pub(crate) fn until(self, last: Lsn) -> Self {
        Self { last: self.last.min(last), ..self }
    }

    /// Its first record.
    pub(crate) fn first(&self) -> Lsn {
        self.header.first
    }

    /// How much memory it keeps, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// The user records from `from` on.
    pub(crate) fn records_from(&self, from: Lsn) -> HeldRecords {
        let mut records = HeldRecords { rest: self.records.clone(), next: self.header.first, last: self.last };
        records.skip_to(from);
        records
    }
}

/// The user records of a batch, in order. None of them is checked again.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldRecords {
    rest: Bytes,
    next: Lsn,
    last: Lsn,
}

impl HeldRecords {
    /// The LSN of the next record, if there is one.
    pub(crate) fn next_lsn(&self) -> Option<Lsn> {
        (!self.rest.is_empty() && self.next <= self.last).then_some(self.next)
    }

    /// What is left of the records as they stand on disk: headers, checksums and payloads.
    pub(crate) fn as_stored(&self) -> Bytes {
        let mut end = self.clone();
        end.skip_to(self.last.next());
        self.rest.slice(..self.rest.len() - end.rest.len())
    }

    fn skip_to(&mut self, from: Lsn) {
        while self.next < from && self.take().is_some() {}
    }

    /// The next record of either kind; the end of the batch where a header cannot be.
    fn take(&mut self) -> Option<(RecordKind, Lsn, Bytes)> {
        let (kind, end) = peek(&self.rest)?;
        let whole = self.rest.split_to(end);
        let lsn = self.next;
        if kind == RecordKind::User {
            self.next = lsn.next();
        }
        Some((kind, lsn, whole.slice(RECORD_HEADER_BYTES..)))
    }
}

impl Iterator for HeldRecords {
    type Item = (Lsn, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        while self.next <= self.last {
            let (kind, lsn, payload) = self.take()?;
            if kind == RecordKind::User {
                return Some((lsn, payload));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Kind, RecordCrc, record};
    use crate::lsn::{Epoch, LogId, SegmentId};

    fn batch(payloads: &[&[u8]]) -> HeldBatch {
        let log_id = LogId::new([3; 16]);
        let mut bytes = vec![0; BATCH_HEADER_BYTES];
        for (at, payload) in payloads.iter().enumerate() {
            let lsn = Lsn::new(10 + at as u64);
            let begin = bytes.len();
            bytes.resize(begin + super::super::record_bytes(payload.len()), 0);
            record::encode(RecordCrc::new(payload, log_id, 5), lsn, payload, &mut bytes[begin..]);
        }
        let header = BatchHeader {
            kind: Kind::Data,
            cut: false,
            close: false,
            log_id,
            epoch: Epoch::new(1),
            nonce: 5,
            segment: SegmentId::new(1),
            block: 1,
            records_bytes: u32::try_from(bytes.len() - BATCH_HEADER_BYTES).unwrap(),
            first: Lsn::new(10),
            count: u32::try_from(payloads.len()).unwrap(),
            digest: 0,
            durable: Lsn::ZERO,
            trim: Lsn::FIRST,
            restated_to: Lsn::ZERO,
            term: 0,
            link: None,
        };
        bytes.resize(4096, 0);
        HeldBatch::new(header, &Bytes::from(bytes))
    }

    fn lsns(records: HeldRecords) -> Vec<u64> {
        records.map(|(lsn, _)| lsn.get()).collect()
    }

    #[test]
    fn records_come_out_from_any_place_to_the_last_that_counts() {
        let batch = batch(&[b"ten", b"", b"twelve"]);
        let all: Vec<_> = batch.records_from(Lsn::FIRST).collect();
        assert_eq!(all[0], (Lsn::new(10), Bytes::from("ten")));
        assert_eq!(all[1], (Lsn::new(11), Bytes::new()));
        assert_eq!(all[2], (Lsn::new(12), Bytes::from("twelve")));
        assert_eq!(lsns(batch.records_from(Lsn::new(11))), [11, 12]);
        assert_eq!(lsns(batch.clone().until(Lsn::new(11)).records_from(Lsn::new(11))), [11]);
        assert_eq!(lsns(batch.records_from(Lsn::new(13))), [0; 0]);
        assert_eq!(batch.records_from(Lsn::new(13)).next_lsn(), None);
    }

    #[test]
    fn what_is_left_is_as_it_was_stored() {
        let batch = batch(&[b"ten", b"", b"twelve"]);
        let stored = batch.clone().until(Lsn::new(11)).records_from(Lsn::new(11)).as_stored();
        let read: Vec<_> = record::Records::new(&stored, Lsn::new(11), LogId::new([3; 16]), 5).collect();
        assert_eq!(read.len(), 1);
        assert!(read[0].is_ok_and(|record| record.lsn == Lsn::new(11)));
        assert_eq!(batch.records_from(Lsn::FIRST).as_stored().len(), 3 * 12 + 9);
    }
}
