//! `ringwal ship` and `ringwal receive`: two processes beside a third that writes.

use std::net::TcpListener;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::tool::{Appending, Done, Scratch, append, command, on, run};

const LONG: Duration = Duration::from_secs(20);

/// An address that was free a moment ago.
fn address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A command in the background; killed if the test ends first.
struct Running(Option<Child>);

impl Running {
    fn start(verb: &str, dir: &Path, more: &[&str]) -> Self {
        Self(Some(command([verb, dir.to_str().unwrap()].iter().chain(more)).spawn().unwrap()))
    }

    fn end(mut self, signal: Option<Signal>) -> Done {
        let child = self.0.take().unwrap();
        if let Some(signal) = signal {
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        Done { code: output.status.code(), out: output.stdout, err: String::from_utf8(output.stderr).unwrap() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until both logs show the same, with so many records.
fn same(a: &Path, b: &Path, count: usize) {
    let began = Instant::now();
    let hashes = |dir| on("cat", dir, &["--format", "hash"]).out;
    loop {
        let (ours, theirs) = (hashes(a), hashes(b));
        let lines = ours.iter().filter(|byte| **byte == b'\n').count();
        if ours == theirs && lines == count {
            return;
        }
        assert!(began.elapsed() < LONG, "{lines} of {count} lines");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_log_is_shipped_beside_its_writer_and_through_restarts() {
    let scratch = Scratch::new();
    let (a, b, to) = (scratch.join("a"), scratch.join("b"), address());
    append(&a, &[], b"one\ntwo\nthree\n").code(0);
    let mut writer = Appending::start(&a);
    // The source may come first.
    let ship = Running::start("ship", &a, &["--to", &to]);
    let receive = Running::start("receive", &b, &["--listen", &to]);
    writer.send(b"four\nfive\n");
    same(&a, &b, 5);
    writer.send(&[b'x'; 100_000].iter().chain(b"\n\n").copied().collect::<Vec<_>>());
    same(&a, &b, 7);
    // The standby goes and comes back; the shipper finds it again.
    receive.end(Some(Signal::SIGTERM)).code(130);
    writer.send(b"eight\n");
    let receive = Running::start("receive", &b, &["--listen", &to]);
    same(&a, &b, 8);
    // The shipper goes and comes back.
    assert!(ship.end(Some(Signal::SIGINT)).code(130).err.lines().all(|line| line.ends_with("trying on")));
    let ship = Running::start("ship", &a, &["--to", &to]);
    writer.send(b"nine\n");
    same(&a, &b, 9);
    let done = receive.end(Some(Signal::SIGINT)).code(130);
    assert!(done.out.is_empty(), "nothing is printed where there is no terminal");
    ship.end(Some(Signal::SIGTERM)).code(130);
    // Sealed: the copy is whole, and may be written on.
    assert!(on("verify", &b, &[]).code(0).text().contains("clean"));
}

#[test]
fn a_standby_that_may_not_follow_ends_the_shipper() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.join("a"), scratch.join("b"));
    append(&a, &[], b"one\ntwo\n").code(0);
    append(&b, &[], b"another log\n").code(0);
    let to = address();
    let receive = Running::start("receive", &b, &["--listen", &to, "--once"]);
    let ship = Running::start("ship", &a, &["--to", &to]);
    let refused = ship.end(None).code(1);
    assert!(refused.err.contains("connect the right ones"), "{}", refused.err);
    receive.end(None).fails(1, &["connect the right ones"]);
}

#[test]
fn plain_text_is_for_loopback_and_files_are_named() {
    let scratch = Scratch::new();
    let a = scratch.join("a");
    let dir = a.to_str().unwrap();
    append(&a, &[], b"one\n").code(0);
    run(["receive", dir, "--listen", "0.0.0.0:7777"]).fails(3, &["0.0.0.0:7777", "--tls-cert"]);
    run(["ship", dir, "--to", "192.0.2.1:7777"]).fails(3, &["192.0.2.1:7777", "--tls-ca"]);
    run(["ship", dir, "--to", "here"]).fails(3, &["HOST:PORT"]);
    run(["ship", dir, "--to", "127.0.0.1:1", "--tls-cert", "c"]).fails(3, &["--tls-key"]);
    let files = ["--tls-cert", "/no/cert", "--tls-key", "/no/key", "--tls-ca", "/no/ca"];
    run(["ship", dir, "--to", "127.0.0.1:1"].iter().chain(&files)).fails(3, &["/no/cert"]);
    let missing = scratch.join("missing");
    run(["ship", missing.to_str().unwrap(), "--to", "127.0.0.1:1"]).fails(3, &["no such directory"]);
}

#[test]
fn certificates_on_both_sides_let_a_log_through_and_others_not() {
    let scratch = Scratch::new();
    let (a, b, to) = (scratch.join("a"), scratch.join("b"), address());
    append(&a, &[], b"one\ntwo\n").code(0);
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let files = |name: &str| -> Vec<String> {
        let ca = CertifiedIssuer::self_signed(params.clone(), KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let write = |what: &str, text: String| {
            let path = scratch.join(&format!("{name}-{what}"));
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        [
            "--tls-cert",
            &write("cert", cert.pem()),
            "--tls-key",
            &write("key", key.serialize_pem()),
            "--tls-ca",
            &write("ca", ca.pem()),
        ]
        .map(str::to_owned)
        .into()
    };
    let (ours, others) = (files("ours"), files("others"));
    let with = |option: &'static str, files: &[String]| -> Vec<String> {
        [option.to_owned(), to.clone()].iter().chain(files).cloned().collect()
    };
    let start = |verb: &str, dir: &Path, args: Vec<String>| {
        Running::start(verb, dir, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let receive = start("receive", &b, with("--listen", &ours));
    let stranger = start("ship", &a, with("--to", &others)).end(None).code(3);
    assert!(stranger.err.contains("TLS: "), "{}", stranger.err);
    let ship = start("ship", &a, with("--to", &ours));
    same(&a, &b, 2);
    ship.end(Some(Signal::SIGTERM)).code(130);
    assert!(receive.end(Some(Signal::SIGTERM)).code(130).err.contains("TLS: "));
}
