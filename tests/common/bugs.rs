//! The deliberate mistakes of `ringwal::seeded`, and what each does: what no rig catches makes every rig's silence worthless.

/// A name, and what it does.
pub(crate) type Bug = (&'static str, &'static str);

/// In a log. `m..` are those of the reliability catalogue; the others drop one rule of the format or of recovery each.
pub(crate) const LOG: &[Bug] = &[
    ("m1", "no fdatasync"),
    ("m2", "acknowledges when the write completes"),
    ("m3", "acknowledges batch n + 1 while n is in flight"),
    ("m4", "the directory is not synced when a segment is made"),
    ("m5", "the directory is not synced when a segment is used again"),
    ("m6", "ignores a short write"),
    ("m7", "ignores a failed flush"),
    ("m8", "repeats a failed flush"),
    ("m9", "the CRC covers neither a record's length nor its payload"),
    ("m10", "no epoch, no identity: what a recycled file held is believed"),
    ("m-stale-recycled", "a batch's segment id is not compared: what a recycled file of this epoch held is believed"),
    ("m11", "no chain, and appends in place behind a torn tail"),
    ("m12", "cuts at the first bad batch, whatever claims it"),
    ("m13", "what an opening keeps is shown before it is flushed"),
    ("m14", "readers see what nobody claims durable"),
    ("m15", "an opening wipes what it copies before the copies are durable"),
    ("m16", "a buffer is used again before its write has ended"),
    ("m17", "a flush counts for other batches' writes"),
    ("m18", "a second writer is not refused"),
    ("m19", "a cancelled flush counts as done"),
    ("m20", "a batch claims what is still in flight"),
    ("m21", "a write that is to carry RWF_DSYNC goes without"),
    ("m22", "a flush is shared with writes whose completion was not seen before it"),
    ("m23", "a write with RWF_DSYNC counts for the writes that completed before it"),
    ("m24", "the rest of a short write with RWF_DSYNC goes without"),
    ("late", "a killed writer's writes land after recovery"),
    ("stale-evidence", "dead batches count as evidence"),
    ("no-copy", "kept records are not written again"),
    ("no-reseal", "appends behind a close seal that was not made durable"),
    ("exist", "that a later segment exists counts as evidence"),
    ("leave-dead", "dead segments stay"),
    ("no-opening-seal", "no seal behind an opening"),
    ("payload-blind-link", "the header covers no digest of the records, and epochs carry no nonce"),
    ("no-nonce", "epochs carry no nonce"),
    ("no-trim-mark", "the trim LSN is not written before the first unlink"),
];

/// Only real locks can be missing.
pub(crate) const NO_LOCK: &str = "m18";

/// In shipping.
pub(crate) const SHIPPING: &[Bug] = &[
    ("ship-ack-early", "a sink acknowledges what it has received"),
    ("ship-duplicate", "a sink takes records again"),
    ("ship-gap", "a sink takes records behind a gap"),
    ("ship-no-divergence", "nobody compares the logs"),
    ("ship-no-fencing", "nobody compares terms"),
    ("ship-no-session", "frames of other connections are taken"),
    ("ship-split", "a sink hands a batch on in two groups"),
    ("ship-undurable", "a source ships what is not durable"),
];
