//! `bench`: what it prints and what it leaves behind. Never how fast.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::tool::{Scratch, command, run};

#[test]
fn json_lines_have_the_keys_of_the_contract() {
    let scratch = Scratch::new();
    let dir = scratch.join("");
    let fixed = ["--callers", "1,4", "--payload", "100", "--seconds", "0.1", "--rounds", "1", "--json"];
    let args = ["bench", "--dir", dir.to_str().unwrap(), "--engine", "null,naive,leader,floor"];
    let done = run(args.iter().chain(&fixed)).code(0);
    let lines: Vec<serde_json::Value> = done.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut runs: Vec<_> =
        lines.iter().map(|line| (line["engine"].as_str().unwrap(), line["callers"].as_u64().unwrap())).collect();
    runs.sort_unstable();
    let expected = [
        ("floor", 1),
        ("leader/direct", 1),
        ("leader/direct", 4),
        ("leader/grow", 1),
        ("leader/grow", 4),
        ("naive/direct", 1),
        ("naive/direct", 4),
        ("naive/grow", 1),
        ("naive/grow", 4),
        ("null", 1),
        ("null", 4),
    ];
    assert_eq!(runs, expected);
    let keys = [
        "callers",
        "cpu_us_per",
        "engine",
        "max_us",
        "method",
        "p50_us",
        "p999_us",
        "p99_us",
        "payload",
        "per_s",
        "records_per_flush",
    ];
    for line in &lines {
        let mut found: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, keys);
        assert!(line["per_s"].as_f64().unwrap() > 0.0 && line["payload"] == 100, "{line}");
        assert!(line["p50_us"].as_f64() <= line["p99_us"].as_f64(), "{line}");
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "sub-directories are removed");
}

#[test]
fn the_table_names_the_faster_file_and_the_ratios() {
    let scratch = Scratch::new();
    let (dir, input) = (scratch.join("bench"), scratch.join("lines"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(&input, "one\ntwo\n\nfours!").unwrap();
    let args = [
        "bench",
        "--dir",
        dir.to_str().unwrap(),
        "--engine",
        "ringwal,threadpool,naive",
        "--callers",
        "2",
        "--seconds",
        "0.1",
    ];
    let done = run(args.iter().chain(&["--rounds", "2", "--input", input.to_str().unwrap()])).code(0);
    let text = done.text();
    for word in ["floor", "virtual disk", "2 callers", "x threadpool", "x naive", "ringwal ", "3 bytes on average"] {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
    assert_eq!(text.matches("/grow*").count() + text.matches("/direct*").count(), 2, "{text}");
}

#[test]
fn an_interrupted_bench_cleans_up_and_ends_with_130() {
    let scratch = Scratch::new();
    let dir = scratch.join("");
    let args = ["bench", "--dir", dir.to_str().unwrap(), "--engine", "naive/grow", "--callers", "2", "--seconds", "60"];
    let child = command(args).spawn().unwrap();
    while std::fs::read_dir(&dir).unwrap().count() == 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..], &output.stderr[..]), (Some(130), &b""[..], &b""[..]));
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}
