//! `cat --follow`: what other processes append, as it becomes durable, across ends, kills and recoveries.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::tool::{Appending, Scratch, command, on};

/// For waits that should be short: longer is a failure, and nothing else is timed.
const LONG: Duration = Duration::from_secs(20);

struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(dir: &std::path::Path, args: &[&str]) -> Self {
        let mut command = command(["cat", dir.to_str().unwrap(), "--follow"]);
        let mut child = command.args(args).spawn().unwrap();
        let out: ChildStdout = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || BufReader::new(out).lines().try_for_each(|line| sender.send(line.unwrap())));
        Self { child, lines }
    }

    #[track_caller]
    fn expect<'a>(&self, expected: impl IntoIterator<Item = &'a str>) {
        for line in expected {
            assert_eq!(self.lines.recv_timeout(LONG).as_deref(), Ok(line));
        }
    }

    fn end(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }
}

#[test]
fn a_follower_sees_every_writer_come_and_go() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    crate::tool::append(&dir, &[], b"one\ntwo\n").code(0);
    let following = Following::start(&dir, &["--to", "9"]);
    let late = Following::start(&dir, &["--from", "4", "--to", "5", "--format", "hash"]);
    following.expect(["one", "two"]);
    // Ended in good order, killed, and recovered behind the kill.
    crate::tool::append(&dir, &[], b"three\n").code(0);
    following.expect(["three"]);
    let mut appending = Appending::start(&dir);
    assert_eq!(appending.send(b"four\nfive\n"), [4, 5]);
    // The writer lives: its idle seal shows them.
    following.expect(["four", "five"]);
    assert_eq!(appending.send(b"six\n"), [6]);
    appending.kill(&dir);
    crate::tool::append(&dir, &[], b"seven\n").code(0);
    following.expect(["six", "seven"]);
    crate::tool::append(&dir, &[], b"eight\nnine\nten\n").code(0);
    following.expect(["eight", "nine"]);
    assert!(following.lines.recv_timeout(LONG).is_err(), "it ends behind --to");
    assert_eq!(following.end(), 0);
    let crc = |text: &str| format!("{:08x}", crc32fast::hash(text.as_bytes()));
    late.expect([format!("4 4 {}", crc("four")).as_str(), &format!("5 4 {}", crc("five"))]);
    assert_eq!(late.end(), 0);
}

#[test]
fn a_follower_keeps_up_across_rotations() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    let lines: Vec<String> = (0..20_000).map(|number| format!("{number:0300}")).collect();
    crate::tool::append(&dir, &[], lines[0].as_bytes()).code(0);
    let following = Following::start(&dir, &["--to", "20000"]);
    for chunk in lines[1..].chunks(5_000) {
        crate::tool::append(&dir, &[], chunk.join("\n").as_bytes()).code(0);
    }
    following.expect(lines.iter().map(String::as_str));
    assert_eq!(following.end(), 0);
}

#[test]
fn a_follower_waits_for_a_log_and_ends_with_its_reader() {
    let scratch = Scratch::new();
    let dir = scratch.join("log");
    on("cat", &dir, &["--follow"]).fails(3, &["does not exist", dir.to_str().unwrap()]);
    std::fs::create_dir(&dir).unwrap();
    let mut following = Following::start(&dir, &[]);
    crate::tool::append(&dir, &[], b"first\n").code(0);
    following.expect(["first"]);
    // Nobody reads any more: the thread that does ends with its channel.
    drop(std::mem::replace(&mut following.lines, channel().1));
    crate::tool::append(&dir, &[], b"second\nthird\n").code(0);
    crate::tool::append(&dir, &[], b"fourth\n").code(0);
    assert_eq!(following.end(), 0);
}
