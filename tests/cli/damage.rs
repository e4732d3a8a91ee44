//! Damage is refused with 2 after what precedes it; a torn tail is 1 until the log is opened again.

use crate::tool::{Appending, Scratch, append, batches, on, patch, place};

/// Bytes of a batch's header and of a record's, before the first payload.
const BEFORE_PAYLOAD: u64 = 144 + 12;

#[test]
fn a_flipped_bit_in_the_middle_is_2_with_file_offset_and_range() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    for line in [b"first\n", b"middl\n", b"third\n"] {
        append(&dir, &[], line).code(0);
    }
    let batches = batches(&dir);
    let batch = batches.iter().find(|batch| batch["kind"] == "data" && batch["first"] == 2).unwrap();
    let (file, offset, _) = place(&dir, batch);
    patch(&file, offset + BEFORE_PAYLOAD, |byte| byte[0] ^= 1, 1);
    let before = std::fs::read(&file).unwrap();
    let verdict = on("verify", &dir, &[]).code(2);
    for word in [file.to_str().unwrap(), &format!("offset {offset}"), "LSN 2 to", "row R"] {
        assert!(verdict.text().contains(word), "no {word:?} in {verdict:?}");
    }
    assert_eq!(verdict.text().lines().count(), 1);
    let cat = on("cat", &dir, &[]).fails(2, &[file.to_str().unwrap(), &format!("offset {offset}")]);
    assert_eq!(cat.text(), "first\n");
    assert_eq!(on("cat", &dir, &["--to", "1"]).code(0).text(), "first\n");
    append(&dir, &[], b"more\n").fails(2, &[file.to_str().unwrap()]);
    assert!(std::fs::read(&file).unwrap() == before, "nothing was changed");
}

#[test]
fn damage_in_an_old_segment_is_met_when_it_is_read() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    let line = |i: u32| format!("record {i:0>990}\n");
    for from in [0, 1000, 2000] {
        let input: String = (from..from + 1000).map(line).collect();
        append(&dir, &[], input.as_bytes()).code(0);
    }
    let batches = batches(&dir);
    let batch = batches.iter().filter(|batch| batch["kind"] == "data").nth(1).unwrap();
    let (file, offset, _) = place(&dir, batch);
    assert!(batches.last().unwrap()["segment"] != batch["segment"]);
    patch(&file, offset + BEFORE_PAYLOAD, |byte| byte[0] ^= 1, 1);
    let first = u32::try_from(batch["first"].as_u64().unwrap()).unwrap();
    let cat = on("cat", &dir, &[]).fails(2, &[file.to_str().unwrap()]);
    let expected: String = (0..first - 1).map(line).collect();
    assert!(cat.text() == expected, "{} of {first}", cat.text().lines().count());
    on("verify", &dir, &[]).code(2);
}

#[test]
fn a_missing_newest_file_is_not_clean() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    append(&dir, &[], b"a\n").code(0);
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            std::fs::remove_file(path).unwrap();
        }
    }
    on("verify", &dir, &[]).code(2);
    on("cat", &dir, &[]).fails(2, &[dir.to_str().unwrap()]);
}

#[test]
fn a_torn_tail_is_1_with_its_bytes_and_0_once_reopened() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    let mut appending = Appending::start(&dir);
    assert_eq!(appending.send(b"a\nb\n"), [1, 2]);
    appending.kill(&dir);
    let last = batches(&dir).pop().unwrap();
    let (file, offset, bytes) = place(&dir, &last);
    patch(&file, offset + bytes, |bytes| bytes.fill(0xaa), 5000);
    let verdict = on("verify", &dir, &[]).code(1);
    assert!(verdict.text().contains("8192 bytes") && verdict.text().contains("R12"), "{verdict:?}");
    append(&dir, &[], b"c\n").code(0);
    on("verify", &dir, &[]).code(0);
    assert_eq!(on("cat", &dir, &[]).code(0).text(), "a\nb\nc\n");
}
