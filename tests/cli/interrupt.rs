//! Signals: what was read is made durable and printed, the log is sealed.

use nix::sys::signal::Signal;

use crate::tool::{Appending, Scratch, batches, on, patch, place};

#[test]
fn a_signal_ends_with_130_and_a_sealed_log() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let scratch = Scratch::new();
        let dir = scratch.join("log");
        let mut appending = Appending::start(&dir);
        assert_eq!(appending.send(b"a\nb\nunfinished"), [1, 2], "printed while the input is open");
        appending.signal(signal);
        let status = appending.child.wait().unwrap();
        assert_eq!(status.code(), Some(130));
        let done = appending.end();
        assert_eq!(done.text(), "");
        assert!(done.err.contains("10 bytes"), "the unfinished line is mentioned: {:?}", done.err);
        let verdict = on("verify", &dir, &[]).code(0);
        assert!(verdict.text().contains("R10"), "sealed: {verdict:?}");
        assert_eq!(on("cat", &dir, &[]).code(0).text(), "a\nb\n");
    }
}

#[test]
fn many_lines_behind_a_signal_are_all_printed_or_not_appended() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    let mut appending = Appending::start(&dir);
    let stdin = appending.stdin.take().unwrap();
    let endless = std::thread::spawn(move || {
        let mut stdin = stdin;
        let line = [b'x'; 99];
        // Until nobody reads any more.
        while std::io::Write::write_all(&mut stdin, &[&line[..], b"\n"].concat()).is_ok() {}
    });
    let mut first = String::new();
    std::io::BufRead::read_line(&mut appending.stdout, &mut first).unwrap();
    appending.signal(Signal::SIGINT);
    let done = appending.end().code(130);
    endless.join().unwrap();
    let last: u64 = done.text().lines().last().unwrap_or(&first).trim().parse().unwrap();
    let verdict = on("verify", &dir, &[]).code(0);
    assert!(
        verdict.text().contains(&format!("LSN 1 to {last}")) && verdict.text().contains("R10"),
        "{last}: {verdict:?}"
    );
}

#[test]
fn after_kill_9_the_log_is_unsealed_and_nothing_acknowledged_is_lost() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    let mut appending = Appending::start(&dir);
    assert_eq!(appending.send(b"a\nb\n"), [1, 2]);
    appending.kill(&dir);
    on("verify", &dir, &[]).code(0);
    assert_eq!(crate::tool::append(&dir, &[], b"c\n").code(0).text(), "3\n");
    assert_eq!(on("cat", &dir, &[]).code(0).text(), "a\nb\nc\n");
}

#[test]
fn records_without_a_claim_wait_for_the_next_opening() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    let mut appending = Appending::start(&dir);
    assert_eq!(appending.send(b"a\n"), [1]);
    appending.kill(&dir);
    // Had it been killed before the idle seal, there would be none.
    let batches = batches(&dir);
    let data = batches.iter().rposition(|batch| batch["kind"] == "data").unwrap();
    for seal in &batches[data + 1..] {
        let (file, offset, bytes) = place(&dir, seal);
        patch(&file, offset, |bytes| bytes.fill(0), usize::try_from(bytes).unwrap());
    }
    let done = on("cat", &dir, &[]).fails(0, &["1 more records", "next opening"]);
    assert_eq!(done.text(), "");
    assert_eq!(crate::tool::append(&dir, &[], b"b\n").code(0).text(), "2\n");
    assert_eq!(on("cat", &dir, &[]).code(0).text(), "a\nb\n");
}
