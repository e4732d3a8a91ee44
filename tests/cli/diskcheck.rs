//! `diskcheck`: what was acknowledged is there, and the check can fail.

use std::path::Path;

use crate::tool::{Done, Scratch, append, batches, on, patch, place, run};

fn write(dir: &Path, seed: &str, count: &str) -> Done {
    write_with(dir, seed, count, &[])
}

fn write_with(dir: &Path, seed: &str, count: &str, more: &[&str]) -> Done {
    let fixed = ["--size", "0..3000", "--producers", "4", "--segment-bytes", "1048576"];
    let args = ["diskcheck", "write", dir.to_str().unwrap(), "--seed", seed, "--count", count];
    run(args.iter().chain(&fixed).chain(more))
}

fn check(dir: &Path, acks: &Path) -> Done {
    run(["diskcheck", "check", dir.to_str().unwrap(), "--acks", acks.to_str().unwrap(), "--segment-bytes", "1048576"])
}

#[test]
fn what_was_acknowledged_is_found_and_what_was_not_is_missed() {
    let scratch = Scratch::new();
    let (dir, acks) = (scratch.join("log"), scratch.join("acks"));
    append(&dir, &[], b"somebody else's\n").code(0);
    let mut text = write(&dir, "1", "300").code(0).text().to_owned();
    text += write_with(&dir, "2", "50", &["--local"]).code(0).text();
    assert_eq!(text.lines().count(), 350);
    std::fs::write(&acks, &text).unwrap();
    assert!(check(&dir, &acks).code(0).text().contains("all 350"));
    // Checking opens the log for writing: the acknowledgements hold behind that, too.
    check(&dir, &acks).code(0);
    on("verify", &dir, &[]).code(0);

    let line = text.lines().find(|line| line.starts_with("ACK 100 ")).unwrap();
    let tampered = text.replace(line, &format!("{}deadbeef", &line[..line.len() - 8]));
    std::fs::write(&acks, tampered).unwrap();
    check(&dir, &acks).fails(1, &["1 changed", "LSN 100"]);
    std::fs::write(&acks, format!("{text}ACK 352 1 00000000\n")).unwrap();
    check(&dir, &acks).fails(1, &["1 missing", "LSN 352"]);
    std::fs::write(&acks, format!("{text}{line}\n")).unwrap();
    check(&dir, &acks).fails(1, &["LSN 100", "twice"]);
    // Whoever kept the lines was cut off within the last one.
    std::fs::write(&acks, format!("{text}ACK 352 1 0000")).unwrap();
    check(&dir, &acks).code(0);
    std::fs::write(&acks, format!("{text}ACK what\n")).unwrap();
    check(&dir, &acks).fails(3, &["line 351"]);
}

#[test]
fn records_depend_on_the_seed_alone() {
    let scratch = Scratch::new();
    let sorted = |name: &str, seed: &str| {
        let acks = write(&scratch.join(name), seed, "40").code(0);
        // Which producer comes first is not fixed; length and CRC of the records are.
        let mut records: Vec<String> = acks
            .text()
            .lines()
            .map(|line| line.split_once(' ').unwrap().1.split_once(' ').unwrap().1.to_owned())
            .collect();
        records.sort();
        records
    };
    assert_eq!(sorted("a", "7"), sorted("b", "7"));
    assert_ne!(sorted("c", "7"), sorted("d", "8"));
}

#[test]
fn damage_is_2_and_nothing_acknowledged_in_no_log_is_fine() {
    let scratch = Scratch::new();
    let (dir, acks) = (scratch.join("log"), scratch.join("acks"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(&acks, "").unwrap();
    check(&dir, &acks).code(0);
    std::fs::write(&acks, "ACK 1 1 00000000\n").unwrap();
    check(&dir, &acks).fails(1, &["1 missing"]);
    check(&scratch.join("none"), &acks).fails(3, &["none"]);
    check(&dir, &scratch.join("none")).fails(3, &["none", "--acks"]);

    let text = write(&dir, "1", "100").code(0);
    write(&dir, "2", "100").code(0);
    std::fs::write(&acks, text.out).unwrap();
    let batches = batches(&dir);
    let (file, offset, _) = place(&dir, batches.iter().find(|batch| batch["kind"] == "data").unwrap());
    patch(&file, offset + 100, |byte| byte[0] ^= 1, 1);
    check(&dir, &acks).fails(2, &[file.to_str().unwrap()]);
}
