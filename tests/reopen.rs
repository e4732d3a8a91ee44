//! A closed log is let go: whoever opens it next, in the same process and at once, has it to himself.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

use ringwal::{Log, Lsn, Options};

#[test]
fn a_closed_log_opens_again_at_once() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reopen-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let options = Options::default().segment_bytes(1 << 20).allow_volatile(true);
    for round in 1..=400 {
        let log = Log::open(&dir, options.clone()).wait().unwrap_or_else(|error| panic!("opening {round}: {error}"));
        assert_eq!(log.append(b"record").wait().unwrap(), Lsn::new(round));
        log.close().wait().unwrap();
    }
    fs::remove_dir_all(&dir).unwrap();
}
