//! What goes wrong is said in one line, with the path and what to do, and has its exit code.

use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::tool::{Appending, Scratch, append, command, on, run};

#[test]
fn usage_errors_are_3_and_not_2() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    on("cat", &dir, &["--nonsense"]).fails(3, &["--nonsense", "--help"]);
    on("cat", &dir, &["--from", "0"]).fails(3, &["--from"]);
    on("cat", &dir, &["--format", "xml"]).fails(3, &["xml"]);
    run(["verify"]).fails(3, &["<DIR>"]);
    run(["frobnicate"]).fails(3, &["frobnicate"]);
    run::<&str>([]).code(3);
    append(&dir, &[], b"a\n").code(0);
    run(["bench", "--engine", "warp"]).fails(3, &["warp", "ringwal", "threadpool"]);
}

#[test]
fn what_is_missing_is_named_and_not_made() {
    let scratch = Scratch::new();
    let dir = scratch.join("no/log");
    append(&dir, &[], b"a\n").fails(3, &["no/log", "parent", "make it"]);
    for command in ["cat", "verify", "dump"] {
        on(command, &scratch.join("none"), &[]).fails(3, &["none", "does not exist"]);
    }
    assert!(!scratch.join("no").exists() && !scratch.join("none").exists());
}

#[test]
fn what_is_not_a_log_is_refused() {
    let scratch = Scratch::new();
    std::fs::write(scratch.join("file"), "x").unwrap();
    let segment = "0000000000000001.seg";
    std::fs::create_dir_all(scratch.join("dir").join(segment)).unwrap();
    std::fs::create_dir(scratch.join("link")).unwrap();
    symlink("/dev/null", scratch.join("link").join(segment)).unwrap();
    for (name, words) in [("file", "not a directory"), ("dir", "a directory"), ("link", "a symbolic link")] {
        let path = scratch.join(name);
        for command in ["append", "cat", "verify", "dump"] {
            on(command, &path, &[]).fails(3, &[path.to_str().unwrap(), words]);
        }
    }
}

#[test]
fn a_second_writer_is_told_who_holds_the_log() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    let mut first = Appending::start(&dir);
    assert_eq!(first.send(b"a\n"), [1]);
    let pid = first.child.id().to_string();
    append(&dir, &[], b"b\n").fails(3, &[dir.to_str().unwrap(), &pid]);
    // Readers are welcome.
    let verdict = on("verify", &dir, &[]).code(0);
    assert!(verdict.text().contains(&pid), "{verdict:?}");
    assert_eq!(first.send(b"b\n"), [2]);
    first.end().code(0);
    assert_eq!(on("cat", &dir, &[]).code(0).text(), "a\nb\n");
}

#[test]
fn a_record_over_the_limit_stops_there_and_names_its_line() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    let large = "x".repeat(1_200_000);
    let done = append(&dir, &[], format!("a\nb\n{large}\nc\n").as_bytes()).fails(3, &["line 3", "segment-bytes"]);
    assert_eq!(done.text(), "1\n2\n");
    assert_eq!(on("cat", &dir, &[]).code(0).text(), "a\nb\n");
    let done = append(&dir, &["--raw"], large.as_bytes()).fails(3, &["standard input"]);
    assert_eq!(done.text(), "");
    // Over what any log takes: refused before all of it is read.
    append(&dir, &[], &vec![b'x'; 17 << 20]).fails(3, &["line 1"]);
    assert!(on("verify", &dir, &[]).code(0).text().contains("LSN 1 to 2"));
}

#[test]
fn a_closed_standard_output_ends_quietly() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    let input: Vec<u8> = (0..20_000).flat_map(|i| format!("record {i}\n").into_bytes()).collect();
    append(&dir, &[], &input).code(0);
    for args in [["cat", "lines"], ["cat", "json"]] {
        let mut child = command([args[0], dir.to_str().unwrap(), "--format", args[1]]).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]), "{args:?}");
    }
    // An append stops, and the log is sealed.
    let mut first = Appending::start(&dir);
    drop(first.stdout);
    let mut stdin = first.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"a\n").unwrap();
    // Its standard input stays open: it must not wait for that.
    let waiting = Instant::now();
    while first.child.try_wait().unwrap().is_none() && waiting.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Past the deadline this ends it without an exit code, which is not 0.
    first.child.kill().unwrap();
    let output = first.child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
    let verdict = on("verify", &dir, &[]).code(0);
    assert!(verdict.text().contains("R10") && verdict.text().contains("LSN 1 to 20001"), "{verdict:?}");
}

#[test]
fn a_full_standard_output_is_an_error() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    append(&dir, &[], b"a\n").code(0);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let child = command(["cat", dir.to_str().unwrap()]).stdout(Stdio::from(full)).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stderr).unwrap().contains("standard output"));
}
