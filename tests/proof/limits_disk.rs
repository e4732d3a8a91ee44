//! Limits of the disk: full and then not, read-only, given up, taken away, not ours.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;
use ringwal::{AppendError, Cause, Log, Lsn, OpenError, Reader, State, verify};

use crate::common::powercut::{Mount, run};
use crate::common::rig::is_root;
use crate::common::told::told_well;
use crate::limits_cases::{Place, append_next, append_to, append_until_refused, append_when_there_is_room, holds};

/// A file system of the case's own.
fn mounted(place: &Place, kind: &str) -> (Mount, Place) {
    let at = place.dir.join("mnt");
    let image = place.dir.join("image");
    let mount = match kind {
        "tmpfs" => Mount::new("tmpfs", "size=1m,mode=0777", "none", &at),
        kind => {
            // The smallest that their tools make, or nearly.
            let bytes = if kind == "xfs" { 320 << 20 } else { 16 << 20 };
            File::create(&image).unwrap().set_len(bytes).unwrap();
            run(&format!("mkfs.{kind}"), &["-q", image.to_str().unwrap()]).unwrap();
            Mount::new(kind, "loop", image.to_str().unwrap(), &at)
        }
    };
    (mount.unwrap(), Place { dir: at, manner: place.manner })
}

pub(crate) fn full_tmpfs(place: &Place) {
    full(place, "tmpfs");
}

pub(crate) fn full_ext4(place: &Place) {
    full(place, "ext4");
}

pub(crate) fn full_xfs(place: &Place) {
    full(place, "xfs");
}

/// Takes all room in the file system but so many bytes.
fn fill(ballast: &Path, but: u64) {
    let file = File::create(ballast).unwrap();
    let spare = ballast.with_extension("spare");
    if but > 0 {
        fallocate(File::create(&spare).unwrap(), FallocateFlags::empty(), 0, i64::try_from(but).unwrap()).unwrap();
    }
    let (mut len, mut piece) = (0, 256 << 20);
    while piece >= 4096 {
        match fallocate(&file, FallocateFlags::empty(), len, piece) {
            Ok(()) => len += piece,
            Err(_) => piece /= 2,
        }
    }
    let _ = fs::remove_file(spare);
}

fn full(place: &Place, kind: &str) {
    let (mount, place) = mounted(place, kind);
    let ballast = place.dir.join("ballast");
    let log = place.open().unwrap();
    append_to(&log, 5);
    fill(&ballast, 256 << 10);
    let (last, refusal) = append_until_refused(&log);
    assert!(matches!(&refusal, AppendError::NoSpace(failure) if failure.errno == libc::ENOSPC), "{refusal:?}");
    told_well(&refusal, &place.log());
    holds(&log, last);
    assert!(matches!(append_next(&log), Err(AppendError::NoSpace(_))), "it goes on saying so");
    fs::remove_file(&ballast).unwrap();
    append_when_there_is_room(&log);
    append_to(&log, last + 20);
    holds(&log, last + 20);
    log.close().wait().unwrap();
    place.reopens(last + 20);
    drop(log);
    drop(mount);
}

pub(crate) fn full_and_unclean(place: &Place) {
    let (mount, place) = mounted(place, "tmpfs");
    let status = place.again("die-unclean").stderr(Stdio::null()).status().unwrap();
    assert!(!status.success());
    let mut ballast = File::create(place.dir.join("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    let log = place.open().unwrap();
    assert_eq!((log.recovery_report().last, log.recovery_report().label), (Lsn::new(5), "R11"));
    holds(&log, 5);
    log.close().wait().unwrap();
    drop((log, ballast));
    drop(mount);
}

/// Leaves a log with two segments ready behind the current one, and no seal.
fn die_unclean(place: &Place) {
    let log = Log::open(place.log(), place.options().idle_seal(Duration::from_secs(60))).wait().unwrap();
    append_to(&log, 5);
    let names = || fs::read_dir(place.log()).unwrap().map(|entry| entry.unwrap().path());
    let count = |suffix: &str| names().filter(|path| path.extension().is_some_and(|e| e == suffix)).count();
    while count("spare") > 0 || count("seg") < 3 {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::process::abort();
}

pub(crate) fn read_only(place: &Place) {
    for kind in ["tmpfs", "ext4"] {
        let (mount, place) = mounted(place, kind);
        let log = place.open().unwrap();
        append_to(&log, 100);
        log.close().wait().unwrap();
        drop(log);
        run("mount", &["-o", "remount,ro", place.dir.to_str().unwrap()]).unwrap();
        let error = place.open().unwrap_err();
        assert!(matches!(&error, OpenError::Io(failure) if failure.errno == libc::EROFS), "{error:?}");
        told_well(&error, &place.log());
        assert!(matches!(verify(place.log()).unwrap().state, State::Clean));
        assert_eq!(Reader::open(place.log()).unwrap().read(..).unwrap().count(), 100);
        run("mount", &["-o", "remount,rw", place.dir.to_str().unwrap()]).unwrap();
        place.reopens(100);
        drop(mount);
    }
}

/// As after an error in its journal: from then on it takes no write.
pub(crate) fn gives_up(place: &Place) {
    let (mount, inside) = mounted(place, "ext4");
    let log = inside.open().unwrap();
    append_to(&log, 50);
    run("mount", &["-o", "remount,abort", inside.dir.to_str().unwrap()]).unwrap();
    let (last, refusal) = append_until_refused(&log);
    assert!(matches!(&refusal, AppendError::Poisoned(Cause::Io(_))), "{refusal:?}");
    told_well(&refusal, &inside.log());
    assert_eq!(log.close().wait().unwrap_err(), refusal);
    drop(log);
    drop(mount);
    let image = place.dir.join("image");
    let mount = Mount::new("ext4", "loop", image.to_str().unwrap(), &inside.dir).unwrap();
    inside.reopens(last);
    drop(mount);
}

pub(crate) fn directory_deleted(place: &Place) {
    let log = place.open().unwrap();
    append_to(&log, 20);
    fs::remove_dir_all(place.log()).unwrap();
    // Until it needs another file.
    let (_, refusal) = append_until_refused(&log);
    assert!(
        matches!(&refusal, AppendError::Poisoned(Cause::Io(failure)) if failure.errno == libc::ENOENT),
        "{refusal:?}"
    );
    told_well(&refusal, &place.log());
    assert_eq!(log.close().wait().unwrap_err(), refusal);
    place.reopens(0);
}

/// For an unprivileged user.
pub(crate) fn permissions(place: &Place) {
    assert!(!is_root());
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let denied = |error: &OpenError| matches!(error, OpenError::Io(failure) if failure.errno == libc::EACCES);
    // A directory that may not be written to.
    let closed = place.dir.join("closed");
    fs::create_dir(&closed).unwrap();
    mode(&closed, 0o555);
    let error = place.open_at(&closed).unwrap_err();
    assert!(denied(&error), "{error:?}");
    told_well(&error, &closed);
    // Nor one below it.
    let below = closed.join("log");
    let error = place.open_at(&below).unwrap_err();
    assert!(denied(&error) || matches!(error, OpenError::Missing { .. }), "{error:?}");
    told_well(&error, &below);
    // Segments that may not be read.
    let log = place.open().unwrap();
    append_to(&log, 300);
    log.close().wait().unwrap();
    for segment in segments(&place.log()).iter().take(2) {
        mode(segment, 0o000);
        let openings =
            [place.open().unwrap_err(), Reader::open(place.log()).unwrap_err(), verify(place.log()).unwrap_err()];
        for error in openings {
            assert!(denied(&error), "{error:?}");
            told_well(&error, segment);
        }
        mode(segment, 0o600);
    }
    place.reopens(300);
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    segments.sort();
    segments
}

/// A part of a case, in a child of its child.
pub(crate) fn part(role: &str, place: &Place) -> bool {
    let known = role == "die-unclean";
    if known {
        die_unclean(place);
    }
    known
}
