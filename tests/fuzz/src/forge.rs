//! Bytes that somebody means: fields are changed and the checksums computed anew, so that the code behind them is
//! reached. Checksums are no authentication: of what comes out of this only P11 is asked, and that records which nobody
//! forged are the ones that were appended.

use crate::accident::Damaged;
use crate::input::Input;
use crate::layout::{
    BLOCK, COUNT, DIGEST, FIRST, Field, HEADER, HEADER_FIELDS, LINK_BLOCK, LINK_CRC, LINK_SEGMENT, LOG_ID, NONCE, Owner,
    RECORDS_BYTES, SEGMENT_ID, BLOCK_INDEX, STATIC_FIELDS, is_batch, seal_header, seal_records, seal_static,
};

/// One forgery.
pub fn forge(damaged: &mut Damaged, input: &mut Input<'_>) {
    match input.index(8) {
        0 => static_field(damaged, input),
        1 => record(damaged, input),
        2 => adopt(damaged, input),
        _ => header_field(damaged, input),
    }
}

/// Where batches begin in these bytes.
fn batches(bytes: &[u8]) -> Vec<usize> {
    (BLOCK..bytes.len()).step_by(BLOCK).filter(|at| is_batch(&bytes[*at..])).collect()
}

/// One of the batches of a file.
fn batch<'a>(damaged: &'a mut Damaged, input: &mut Input<'_>) -> Option<&'a mut [u8]> {
    let (_, bytes) = damaged.file(input)?;
    let all = batches(bytes);
    let at = *all.get(input.index(all.len()))?;
    Some(&mut bytes[at..])
}

/// A value for a field: near the one that it has, or any.
fn change(field: Field, bytes: &mut [u8], input: &mut Input<'_>) {
    let value = match input.index(4) {
        0 => field.get(bytes).wrapping_add(1),
        1 => field.get(bytes).wrapping_sub(1),
        _ => input.long(),
    };
    field.set(bytes, value);
}

fn header_field(damaged: &mut Damaged, input: &mut Input<'_>) {
    if let Some(bytes) = batch(damaged, input) {
        for _ in 0..1 + input.index(3) {
            change(HEADER_FIELDS[input.index(HEADER_FIELDS.len())], bytes, input);
        }
        seal_header(bytes);
    }
}

fn static_field(damaged: &mut Damaged, input: &mut Input<'_>) {
    let Some((_, bytes)) = damaged.file(input) else { return };
    if bytes.len() >= BLOCK {
        change(STATIC_FIELDS[input.index(STATIC_FIELDS.len())], bytes, input);
        seal_static(bytes);
    }
}

/// The records of a batch, as far as they are there.
fn records(bytes: &[u8]) -> std::ops::Range<usize> {
    let len = usize::try_from(RECORDS_BYTES.get(bytes)).unwrap_or(usize::MAX);
    HEADER..HEADER.saturating_add(len).min(bytes.len())
}

/// Changes bytes of records, then every checksum above them.
fn record(damaged: &mut Damaged, input: &mut Input<'_>) {
    damaged.forged = true;
    let Some(bytes) = batch(damaged, input) else { return };
    let range = records(bytes);
    if range.is_empty() {
        return;
    }
    for _ in 0..1 + input.index(4) {
        let at = range.start + input.index(range.len());
        bytes[at] = input.byte();
    }
    let owner = Owner { log_id: LOG_ID.array(bytes), nonce: NONCE.get(bytes), first: FIRST.get(bytes) };
    let (count, digest, covered) = seal_records(&mut bytes[range], owner);
    if input.bit() {
        RECORDS_BYTES.set(bytes, covered as u64);
    }
    COUNT.set(bytes, count.into());
    DIGEST.set(bytes, digest);
    seal_header(bytes);
}

/// Makes a batch say that it belongs where it stands, behind another: what is left of a chain is joined.
fn adopt(damaged: &mut Damaged, input: &mut Input<'_>) {
    let Some((name, bytes)) = damaged.file(input) else { return };
    let id = name.strip_suffix(".seg").and_then(|id| u64::from_str_radix(id, 16).ok()).unwrap_or(0);
    let all = batches(bytes);
    let Some(at) = all.get(input.index(all.len())).copied() else { return };
    let before = all.iter().copied().rfind(|before| *before < at);
    if let Some(before) = before {
        let crc = seal_header(&mut bytes[before..]);
        let (segment, block) = (SEGMENT_ID.get(&bytes[before..]), BLOCK_INDEX.get(&bytes[before..]));
        let next = FIRST.get(&bytes[before..]).wrapping_add(COUNT.get(&bytes[before..]));
        let batch = &mut bytes[at..];
        LINK_SEGMENT.set(batch, segment);
        LINK_BLOCK.set(batch, block);
        LINK_CRC.set(batch, crc.into());
        if input.bit() {
            FIRST.set(batch, next);
        }
    }
    let batch = &mut bytes[at..];
    SEGMENT_ID.set(batch, id);
    BLOCK_INDEX.set(batch, (at / BLOCK) as u64);
    seal_header(batch);
}
