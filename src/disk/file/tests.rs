//! The control plane on a real directory.

use super::*;
use crate::disk::Buffer;
use crate::disk::scratch::Scratch;
use std::os::unix::fs::PermissionsExt;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn errno<T: fmt::Debug>(result: Result<T, IoFailure>) -> Errno {
    Errno::from_raw(result.unwrap_err().errno)
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let scratch = Scratch::new();
    let before = nix::sys::stat::umask(Mode::empty());
    let dir = RealDirectory::open(&scratch.join("log"), true).unwrap();
    dir.create("a.seg").unwrap();
    nix::sys::stat::umask(before);
    assert_eq!((mode(&scratch.join("log")), mode(&scratch.join("log/a.seg"))), (0o700, 0o600));
}

#[test]
fn only_the_last_directory_is_made_and_only_if_asked() {
    let scratch = Scratch::new();
    let open = |path: &str, create| RealDirectory::open(&scratch.join(path), create);
    assert!(matches!(open("log", false), Err(OpenError::Missing { .. })));
    assert!(!scratch.join("log").exists());
    assert!(matches!(open("no/log", true), Err(OpenError::Missing { .. })));
    assert!(!scratch.join("no").exists());
    std::fs::write(scratch.join("file"), "x").unwrap();
    assert!(matches!(open("file", true), Err(OpenError::NotALog { .. })));
    assert!(matches!(open("file", false), Err(OpenError::NotALog { .. })));
    assert!(matches!(open("file/log", true), Err(OpenError::NotALog { .. })));
    std::os::unix::fs::symlink("nowhere", scratch.join("dangling")).unwrap();
    assert!(matches!(open("dangling", true), Err(OpenError::Missing { .. })));
    open("log", true).unwrap();
    open("log", true).unwrap();
    open("log", false).unwrap();
}

#[test]
fn an_existing_directory_keeps_its_mode() {
    let scratch = Scratch::new();
    std::fs::set_permissions(&*scratch, std::fs::Permissions::from_mode(0o750)).unwrap();
    RealDirectory::open(&scratch, true).unwrap();
    assert_eq!(mode(&scratch), 0o750);
}

#[test]
fn bytes_round_trip_and_the_end_of_the_file_is_told() {
    let scratch = Scratch::new();
    let dir = RealDirectory::open(&scratch, false).unwrap();
    let file = dir.create("a.seg").unwrap();
    file.allocate(16384).unwrap();
    let mut buffer = Buffer::new(8192);
    buffer.fill(7);
    file.write_at(&buffer, 4096).unwrap();
    file.sync().unwrap();
    dir.sync().unwrap();
    let again = dir.open("a.seg", Access::Read).unwrap();
    assert_eq!(again.len().unwrap(), 16384);
    let mut read = Buffer::new(16384);
    assert_eq!(again.read_at(&mut read, 4096).unwrap(), 12288);
    assert!(read[..8192].iter().all(|byte| *byte == 7) && read[8192..].iter().all(|byte| *byte == 0));
    assert_eq!(again.read_at(&mut read, 1 << 20).unwrap(), 0);
    assert_eq!(errno(again.write_at(&buffer, 0)), Errno::EBADF);
    assert_eq!(errno(file.write_at(&buffer, u64::MAX)), Errno::EFBIG);
}

#[test]
fn a_file_that_ends_within_a_sector_is_read_to_its_end() {
    let scratch = Scratch::new();
    std::fs::write(scratch.join("a.seg"), vec![9; 5000]).unwrap();
    let file = RealDirectory::open(&scratch, false).unwrap().open("a.seg", Access::Read).unwrap();
    let mut buffer = Buffer::new(16384);
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 5000);
    assert!(buffer[..5000].iter().all(|byte| *byte == 9));
    assert_eq!(file.read_at(&mut buffer, 4096).unwrap(), 904);
}

#[test]
fn nothing_is_overwritten_by_creating_or_renaming() {
    let scratch = Scratch::new();
    let dir = RealDirectory::open(&scratch, false).unwrap();
    dir.create("a").unwrap();
    dir.create("b").unwrap();
    assert_eq!(errno(dir.create("a")), Errno::EEXIST);
    let failure = dir.rename("a", "b").unwrap_err();
    assert_eq!((failure.errno, &*failure.path), (Errno::EEXIST as i32, &*scratch.join("b")));
    assert_eq!(errno(dir.rename("no", "c")), Errno::ENOENT);
    dir.rename("a", "c").unwrap();
    dir.remove("b").unwrap();
    assert_eq!(errno(dir.remove("b")), Errno::ENOENT);
    assert_eq!(dir.list().unwrap(), [DirEntry { name: "c".into(), kind: EntryKind::File { len: 0 } }]);
}

#[test]
fn a_file_knows_whether_its_name_still_leads_to_it() {
    let scratch = Scratch::new();
    let dir = RealDirectory::open(&scratch, false).unwrap();
    let file = dir.create("a").unwrap();
    assert!(file.is_still_named());
    dir.rename("a", "b").unwrap();
    assert!(!file.is_still_named());
    dir.create("a").unwrap();
    assert!(!file.is_still_named(), "another file stands under the name");
}

#[test]
fn odd_files_are_listed_as_such_and_refused() {
    let scratch = Scratch::new();
    let dir = RealDirectory::open(&scratch, false).unwrap();
    dir.create("file").unwrap();
    std::os::unix::fs::symlink("file", scratch.join("link")).unwrap();
    std::fs::create_dir(scratch.join("dir")).unwrap();
    nix::unistd::mkfifo(&scratch.join("fifo"), FILE_MODE).unwrap();
    std::fs::write(scratch.join("hard"), "").unwrap();
    std::fs::hard_link(scratch.join("hard"), scratch.join("hard2")).unwrap();
    let list = dir.list().unwrap();
    let kind = |name: &str| list.iter().find(|entry| entry.name == name).unwrap().kind;
    assert_eq!(kind("file"), EntryKind::File { len: 0 });
    let odd = [
        ("link", "a symbolic link", Errno::ELOOP),
        ("dir", "a directory", Errno::EISDIR),
        ("fifo", "a FIFO", Errno::ESPIPE),
        ("hard", "has a second hard link", Errno::EMLINK),
    ];
    for (name, words, refusal) in odd {
        assert_eq!(kind(name), EntryKind::Odd(words));
        let failure = dir.open(name, Access::ReadWrite).unwrap_err();
        assert_eq!((Errno::from_raw(failure.errno), &*failure.path), (refusal, &*scratch.join(name)));
        assert!(dir.open(name, Access::Read).is_err() && dir.create(name).is_err());
    }
}

#[test]
fn files_are_direct_where_possible_and_never_non_blocking() {
    let scratch = Scratch::new();
    let dir = RealDirectory::open(&scratch, false).unwrap();
    let file = dir.create("a").unwrap();
    let flags = OFlag::from_bits_truncate(fcntl(file.fd().unwrap(), FcntlArg::F_GETFL).unwrap());
    assert_eq!(flags.contains(OFlag::O_DIRECT), !dir.is_buffered());
    assert!(!flags.contains(OFlag::O_NONBLOCK));
    assert!(dir.block_bytes().unwrap() >= 4096);
}
