//! Odd things under the log's names, and a lock file that is not what it should be: on real files only.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::bench::{Bench as _, OnFiles};
use super::judgement::{Harm, Outcome, judge};
use crate::common::rig::is_root;

/// Makes something odd at the path; the second path is in an empty directory elsewhere.
type Oddity = fn(&Path, &Path);

const ODDITIES: [(&str, Oddity); 8] = [
    ("a directory", |at, _| fs::create_dir(at).unwrap()),
    ("a directory with something in it", |at, _| fs::create_dir_all(at.join("inside")).unwrap()),
    ("a FIFO", |at, _| nix::unistd::mkfifo(at, Mode::S_IRWXU).unwrap()),
    ("a socket", |at, _| drop(UnixListener::bind(at).unwrap())),
    ("a symbolic link to a file", |at, elsewhere| {
        fs::write(elsewhere, "text").unwrap();
        symlink(elsewhere, at).unwrap();
    }),
    ("a symbolic link to nothing", |at, elsewhere| symlink(elsewhere, at).unwrap()),
    ("a symbolic link to itself", |at, _| symlink(at, at).unwrap()),
    ("a device", |at, _| match is_root() {
        true => mknod(at, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).unwrap(),
        false => nix::unistd::mkfifo(at, Mode::S_IRWXU).unwrap(),
    }),
];

/// Names of the log's that nothing has.
const FREE: [&str; 4] = ["00000000000000ff.seg", "00000000000000ff.spare", "standby", "reader.cursor"];

/// Every oddity under every name; `found` is told what it was, and what came of it.
pub(crate) fn every_oddity(bench: &OnFiles, mut found: impl FnMut(&str, Outcome)) {
    let elsewhere = bench.dir().with_extension("elsewhere");
    let names: Vec<_> = bench.subject().files.keys().map(String::as_str).chain(FREE).collect();
    for name in names {
        let at = bench.dir().join(name);
        let kept = bench.subject().files.get(name);
        for (kind, make) in ODDITIES {
            fs::create_dir(&elsewhere).unwrap();
            if kept.is_some() {
                fs::remove_file(&at).unwrap();
            }
            make(&at, &elsewhere.join("file"));
            found(&format!("{name} is {kind}"), refused(bench, name));
            fs::remove_dir_all(&elsewhere).unwrap();
            bench.restore();
        }
        // A file of two names.
        fs::create_dir(&elsewhere).unwrap();
        if kept.is_none() {
            fs::write(&at, "text").unwrap();
        }
        fs::hard_link(&at, elsewhere.join("file")).unwrap();
        found(&format!("{name} has a second link"), refused(bench, name));
        fs::remove_dir_all(&elsewhere).unwrap();
        bench.restore();
    }
    // Under a name that is none of ours, anything may stand.
    for (kind, make) in ODDITIES {
        fs::create_dir(&elsewhere).unwrap();
        make(&bench.dir().join("stranger"), &elsewhere.join("file"));
        let outcome = match judge(bench.subject(), &harm(bench, "stranger"), &bench.look_again()) {
            Outcome::Detected(_) => Outcome::Violation("A8", format!("a stranger that is {kind} is refused")),
            outcome => outcome,
        };
        found(&format!("a stranger is {kind}"), outcome);
        fs::remove_dir_all(&elsewhere).unwrap();
        bench.restore();
    }
}

fn harm(bench: &OnFiles, name: &str) -> Harm {
    Harm { strange: true, ..Harm::of(bench.subject(), &[(name, None)]) }
}

/// Opening must refuse it, and name it; so must who only reads, unless it is nothing that they read.
fn refused(bench: &OnFiles, name: &str) -> Outcome {
    let look = bench.look_again();
    let outcome = judge(bench.subject(), &harm(bench, name), &look);
    match (&look.open, look.named()) {
        _ if matches!(outcome, Outcome::Violation(..)) => outcome,
        (Ok(_), _) => Outcome::Violation("A8", format!("{name} is odd, and opened: {look:?}")),
        (_, Some((path, _))) if path != bench.dir().join(name) => {
            Outcome::Violation("A8", format!("{name} is odd, and another is named: {look:?}"))
        }
        _ => outcome,
    }
}

/// Every lock file that a crash, rot or a helpful person can leave.
pub(crate) fn every_lock(bench: &mut OnFiles, mut found: impl FnMut(&str, Outcome)) {
    let lock = bench.subject().files["LOCK"].clone();
    let mut try_one = |what: &str, bytes: Option<&[u8]>| {
        let look = bench.look(&[("LOCK", bytes)]);
        let subject = bench.subject();
        // It tells who holds the log, and whose it is; whoever lost it has lost no record.
        let outcome = match judge(subject, &Harm::of(subject, &[]), &look) {
            Outcome::Harmless => Outcome::Harmless,
            outcome @ Outcome::Violation(..) => outcome,
            outcome => Outcome::Violation("A8", format!("{outcome:?}: {look:?}")),
        };
        found(&format!("LOCK is {what}"), outcome);
    };
    try_one("missing", None);
    for len in 0..lock.len() {
        try_one("cut short", Some(&lock[..len]));
    }
    for bit in 0..lock.len() * 8 {
        let mut flipped = lock.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        try_one("rotten", Some(&flipped));
    }
    for byte in [0, b' ', b'9', 0xff] {
        try_one("garbage", Some(&vec![byte; lock.len()]));
        try_one("longer", Some(&[&lock[..], &[byte; 5000]].concat()));
    }
}
