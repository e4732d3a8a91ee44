//! What goes in comes out.

use std::io::Write;
use std::path::PathBuf;

use crate::tool::{Scratch, append, on, run_with};

/// Real logs, or none.
fn data() -> Vec<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data");
    let dir = std::env::var_os("RINGWAL_DATA").map_or_else(|| PathBuf::from(default), PathBuf::from);
    let files = std::fs::read_dir(&dir).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
    let mut files: Vec<PathBuf> = files.unwrap_or_default();
    files.retain(|file| file.is_file());
    if files.is_empty() {
        let required = std::env::var("RINGWAL_REQUIRE").is_ok_and(|all| all == "all");
        assert!(!required, "no data in {}", dir.display());
        // Past the harness, which would swallow it.
        let skipped = format!("SKIPPED: no data in {}; set RINGWAL_DATA\n", dir.display());
        std::io::stderr().write_all(skipped.as_bytes()).unwrap();
    }
    files.sort();
    files
}

#[test]
fn real_files_come_back_line_by_line() {
    for file in data() {
        let (scratch, bytes) = (Scratch::new(), std::fs::read(&file).unwrap());
        let dir = scratch.join("log");
        let lines = bytes.split_inclusive(|byte| *byte == b'\n').count();
        let appended = append(&dir, &[], &bytes).code(0);
        let expected: String = (1..=lines).map(|lsn| format!("{lsn}\n")).collect();
        assert_eq!(appended.text(), expected, "{}: LSNs are dense and in order", file.display());
        let mut whole = bytes.clone();
        if !bytes.ends_with(b"\n") {
            whole.push(b'\n');
        }
        assert!(on("cat", &dir, &[]).code(0).out == whole, "{}: changed", file.display());
        let verdict = on("verify", &dir, &[]).code(0);
        assert!(
            verdict.text().contains(&format!("LSN 1 to {lines}")) && verdict.text().contains("clean"),
            "{verdict:?}"
        );
        assert!(append(&dir, &["--raw"], &bytes).code(0).text() == format!("{}\n", lines + 1));
        let from = (lines + 1).to_string();
        assert!(on("cat", &dir, &["--from", &from, "--format", "raw"]).code(0).out == bytes);
    }
}

#[test]
fn arbitrary_bytes_are_one_record_with_raw() {
    let scratch = Scratch::new();
    let bytes: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (name, bytes) in [("all", &bytes[..]), ("lf", b"\n\n"), ("none", b"")] {
        let dir = scratch.join(name);
        assert_eq!(append(&dir, &["--raw"], bytes).code(0).text(), "1\n");
        assert!(on("cat", &dir, &["--format", "raw"]).code(0).out == bytes, "{name}");
    }
}

#[test]
fn lines_are_bytes_and_each_counts() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    // A carriage return stays, an empty line is a record, and so is a last line without a line feed.
    assert_eq!(append(&dir, &[], b"a\r\n\n\xff\x00\nlast").code(0).text(), "1\n2\n3\n4\n");
    assert_eq!(on("cat", &dir, &[]).code(0).out, b"a\r\n\n\xff\x00\nlast\n");
    assert_eq!(on("cat", &dir, &["--from", "2", "--to", "3"]).code(0).out, b"\n\xff\x00\n");
    assert_eq!(on("cat", &dir, &["--format", "raw"]).code(0).out, b"a\r\xff\x00last");
    // It goes on behind what is there, and nothing on standard input is no record.
    assert_eq!(append(&dir, &[], b"").code(0).text(), "");
    assert_eq!(append(&dir, &[], b"more\n").code(0).text(), "5\n");
}

#[test]
fn hash_and_json_say_what_the_record_is() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    append(&dir, &[], b"a\n\n\xff\"\nq\"\\\n").code(0);
    let hash = on("cat", &dir, &["--format", "hash"]).code(0);
    // The check values of CRC-32 (IEEE) come from zlib.
    assert_eq!(hash.text(), "1 1 e8b7be43\n2 0 00000000\n3 2 079dae69\n4 3 6f1d808a\n");
    let json = on("cat", &dir, &["--format", "json"]).code(0);
    let lines: Vec<serde_json::Value> = json.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], serde_json::json!({"lsn": 1, "length": 1, "crc32": "e8b7be43", "text": "a"}));
    assert_eq!(lines[1], serde_json::json!({"lsn": 2, "length": 0, "crc32": "00000000", "text": ""}));
    assert_eq!(lines[2], serde_json::json!({"lsn": 3, "length": 2, "crc32": "079dae69", "base64": "/yI="}));
    assert_eq!(lines[3]["text"], "q\"\\");
}

#[test]
fn nothing_is_beyond_the_end_and_nothing_in_an_empty_directory() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    std::fs::create_dir(&dir).unwrap();
    assert!(on("verify", &dir, &[]).code(0).text().contains("empty"));
    assert_eq!(on("cat", &dir, &[]).code(0).text(), "");
    append(&dir, &[], b"a\n").code(0);
    assert_eq!(on("cat", &dir, &["--from", "2"]).code(0).text(), "");
    assert_eq!(on("cat", &dir, &["--to", "9"]).code(0).text(), "a\n");
}

#[test]
fn many_records_through_many_segments() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    let input: Vec<u8> =
        (0..30_000).flat_map(|i| format!("record {i} {}\n", "x".repeat(i % 300)).into_bytes()).collect();
    let appended = append(&dir, &[], &input).code(0);
    assert_eq!(appended.text().lines().count(), 30_000);
    assert_eq!(appended.text().lines().last(), Some("30000"));
    assert!(on("cat", &dir, &[]).code(0).out == input);
    let dump = on("dump", &dir, &[]).code(0);
    assert!(dump.text().lines().filter(|line| line.starts_with("segment")).count() > 4, "{}", dump.text());
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [&["--help"][..], &["--version"], &["append", "--help"], &["diskcheck", "write", "--help"]] {
        let done = run_with(args, b"").code(0);
        assert!(!done.out.is_empty() && done.err.is_empty(), "{args:?}");
    }
}
