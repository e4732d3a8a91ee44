//! A disk with faults under the real ring: some of what the rig `faults` tries (tests/proof), and whether that disk itself
//! loses and keeps what it should.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common {
    #![allow(dead_code, reason = "each test uses its part")]
    pub(crate) mod faultfs;
    pub(crate) mod manner;
    pub(crate) mod rig;
}

#[path = "proof/faults_history.rs"]
mod faults_history;
#[path = "proof/faults_ledger.rs"]
mod faults_ledger;
#[path = "proof/faults_life.rs"]
mod faults_life;
#[path = "proof/faults_plan.rs"]
mod faults_plan;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use nix::libc::{EIO, O_DSYNC};

use common::faultfs::{Fault, FaultFs, Op, Span, What, unavailable};
use common::rig::{Rng, env_count, say, skip};
use faults_history::{Tally, history};
use faults_plan::case;

/// The disk, or a loud skip.
fn disk(test: &str) -> Option<FaultFs> {
    if let Some(why) = unavailable() {
        skip(test, &why);
        return None;
    }
    Some(FaultFs::mount().unwrap())
}

#[test]
fn every_fault_is_told_and_loses_nothing() {
    const TEST: &str = "every_fault_is_told_and_loses_nothing";
    let (Some(one), Some(other)) = (disk(TEST), disk(TEST)) else { return };
    let count = env_count("RINGWAL_FAULTS").unwrap_or(150) as u64;
    let first = Rng::seed();
    let (next, struck) = (AtomicU64::new(first), AtomicU64::new(0));
    let violations = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for disk in [&one, &other] {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed - first >= count || !violations.lock().unwrap().is_empty() {
                        return;
                    }
                    match history(disk, case(seed), &mut Tally::new()) {
                        Ok(strikes) => struck.fetch_add(u64::from(strikes > 0), Ordering::Relaxed),
                        Err(violation) => {
                            let what = format!("RINGWAL_SEED={seed}: {}: {violation:?}", case(seed));
                            return violations.lock().unwrap().push(what);
                        }
                    };
                }
            });
        }
    });
    let violations = violations.into_inner().unwrap();
    assert!(violations.is_empty(), "{violations:#?}");
    let struck = struck.into_inner();
    say(&format!("faults: {struck} of {count} histories from seed {first} had their fault"));
    assert!(struck > count / 3, "only {struck} of {count} faults struck");
}

const SECTOR: usize = 512;

fn cut(disk: &FaultFs) {
    disk.cut_power();
    disk.restore_power();
}

fn create(path: &Path) -> File {
    OpenOptions::new().create_new(true).read(true).write(true).open(path).unwrap()
}

/// A file of two sectors of ones, durable by bytes and by name.
fn durable_file(disk: &FaultFs, seed: u64) -> File {
    disk.format(seed);
    let file = create(&disk.path().join("file"));
    file.write_all_at(&[1; 2 * SECTOR], 0).unwrap();
    file.sync_data().unwrap();
    File::open(disk.path()).unwrap().sync_all().unwrap();
    file
}

/// What 40 power cuts leave of the file's first bytes of each sector, after `act`.
fn fates(disk: &FaultFs, act: impl Fn(&File)) -> Vec<(u8, u8)> {
    let mut fates: Vec<_> = (0..40)
        .map(|seed| {
            let file = durable_file(disk, seed);
            act(&file);
            drop(file);
            cut(disk);
            let bytes = std::fs::read(disk.path().join("file")).unwrap();
            (bytes[0], bytes[SECTOR])
        })
        .collect();
    fates.sort_unstable();
    fates.dedup();
    fates
}

#[test]
fn the_disk_forgets_what_was_not_flushed_and_nothing_else() {
    let Some(disk) = disk("the_disk_forgets_what_was_not_flushed_and_nothing_else") else { return };
    let write = |file: &File| file.write_all_at(&[2; 2 * SECTOR], 0).unwrap();
    assert_eq!(fates(&disk, write), [(1, 1), (1, 2), (2, 1), (2, 2)]);
    let flush = |file: &File| {
        write(file);
        file.sync_data().unwrap();
    };
    assert_eq!(fates(&disk, flush), [(2, 2)]);
    let failed_flush = |file: &File| {
        write(file);
        disk.arm(Some(Fault { op: Op::Flush, n: 1, what: What::EIO, span: Span::Once, suffix: "file" }));
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
        // This one succeeds, and proves nothing for what the one before it dropped.
        file.sync_data().unwrap();
        let mut read = [0; 2 * SECTOR];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read, [2; 2 * SECTOR], "it is read as it was written until the power goes");
    };
    assert_eq!(fates(&disk, failed_flush), [(1, 1), (1, 2), (2, 1), (2, 2)]);
    let written_anew = |file: &File| {
        failed_flush(file);
        file.write_all_at(&[3; SECTOR], 0).unwrap();
        file.sync_data().unwrap();
    };
    assert_eq!(fates(&disk, written_anew), [(3, 1), (3, 2)]);
}

#[test]
fn a_write_with_dsync_makes_its_own_bytes_durable_and_no_others() {
    let Some(disk) = disk("a_write_with_dsync_makes_its_own_bytes_durable_and_no_others") else { return };
    let path = disk.path().join("file");
    let write = |file: &File| {
        file.write_all_at(&[2; SECTOR], 0).unwrap();
        // For the kernel the same as RWF_DSYNC at each write.
        let synced = OpenOptions::new().write(true).custom_flags(O_DSYNC).open(&path).unwrap();
        synced.write_all_at(&[2; SECTOR], SECTOR as u64).unwrap();
    };
    assert_eq!(fates(&disk, write), [(1, 2), (2, 2)]);
}

#[test]
fn a_name_is_durable_once_the_directory_is_synced() {
    let Some(disk) = disk("a_name_is_durable_once_the_directory_is_synced") else { return };
    let names = |act: &dyn Fn()| {
        let mut found: Vec<Vec<String>> = (0..40)
            .map(|seed| {
                drop(durable_file(&disk, seed));
                act();
                cut(&disk);
                disk.contents().into_keys().collect()
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    let (old, new) = (disk.path().join("file"), disk.path().join("new"));
    let rename = || std::fs::rename(&old, &new).unwrap();
    assert_eq!(names(&rename), [["file"], ["new"]]);
    let synced = || {
        rename();
        File::open(disk.path()).unwrap().sync_all().unwrap();
    };
    assert_eq!(names(&synced), [["new"]]);
    let removed = || std::fs::remove_file(&old).unwrap();
    assert_eq!(names(&removed), [vec![], vec!["file".to_owned()]]);
}
