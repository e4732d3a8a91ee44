//! What the kernel and the device offer: why io_uring is refused, which block size to keep to, what the device says.
//!
//! Everything here is a prior or a message, never a promise: sysfs may be absent, and a virtual disk tells what it likes.

use std::fmt;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::NixPath;
use nix::errno::Errno;
use nix::libc::{self, dev_t};
use nix::sys::stat::{fstat, major, minor};
use nix::sys::statfs::{FsType, fstatfs};

use super::irq;

/// Smaller blocks save nothing: the page is the unit of the file systems and of most disks.
const BLOCK_BYTES_MIN: u32 = 4096;
/// Some file systems report their preferred transfer size (a megabyte and more) as the block size.
const FS_BLOCK_BYTES_MAX: u64 = 64 * 1024;

/// io_uring cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RingRefused {
    /// What the system answered.
    pub(crate) errno: i32,
    /// The likely cause and its cure, one sentence.
    pub(crate) why: String,
}

impl fmt::Display for RingRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for RingRefused {}

impl RingRefused {
    /// From the failure of setting up, or of the first round trip.
    pub(crate) fn new(error: &io::Error) -> Self {
        let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
        let disabled = disabled.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Self { errno: error.raw_os_error().unwrap_or(0), why: why_refused(error, disabled) }
    }
}

/// One sentence on why the set-up failed; `disabled` is the sysctl `kernel.io_uring_disabled`.
fn why_refused(error: &io::Error, disabled: u32) -> String {
    let likely = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS) => {
            "this kernel or sandbox has no io_uring; use Linux 5.15 or newer, or a container runtime that passes it on"
        }
        Some(Errno::EPERM) if disabled == 2 => {
            "the sysctl kernel.io_uring_disabled is 2, which forbids it to everyone; set it to 0"
        }
        Some(Errno::EPERM) if disabled == 1 => {
            "the sysctl kernel.io_uring_disabled is 1; set it to 0, or add this user to the group kernel.io_uring_group"
        }
        Some(Errno::EPERM | Errno::EACCES) => {
            "most likely a seccomp filter (Docker and containerd forbid io_uring by default) or a security module; \
             allow io_uring_setup, io_uring_enter and io_uring_register there"
        }
        Some(Errno::ENOMEM) => {
            "most likely the limit on locked memory or the cgroup's memory; raise RLIMIT_MEMLOCK (ulimit -l) or memory.max"
        }
        Some(Errno::EMFILE | Errno::ENFILE) => "no file descriptor is left; raise RLIMIT_NOFILE (ulimit -n)",
        Some(Errno::ETIME) => "a request was taken and never answered; a sandbox may be filtering io_uring",
        _ => "the cause is not known; the kernel log may tell",
    };
    format!("{likely} ({error})")
}

/// What a file system and the device under it say about themselves, for the bench table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceFacts {
    /// The file system's name, or its magic number where the name is not known.
    pub(crate) file_system: String,
    /// The block device's name in sysfs ("nvme0n1p2"); none for tmpfs, overlay, NFS and the like.
    pub(crate) device: Option<String>,
    /// "write back" or "write through".
    pub(crate) write_cache: Option<String>,
    /// Whether it takes forced-unit-access writes.
    pub(crate) fua: Option<bool>,
    /// Whether it says that it has a spindle (virtual disks do).
    pub(crate) rotational: Option<bool>,
}

impl DeviceFacts {
    /// The facts for the file system that `path` is on; what cannot be found out stays empty.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let file = fs::File::open(path)?;
        let magic = fstatfs(&file)?.filesystem_type();
        let queue = Queue::of(fstat(&file)?.st_dev);
        let flag = |name| queue.as_ref().and_then(|queue| queue.read(name)).map(|text| text != "0");
        Ok(Self {
            file_system: file_system_name(magic).map_or_else(|| format!("{:#x}", magic.0), str::to_owned),
            device: queue.as_ref().map(|queue| queue.device.clone()),
            write_cache: queue.as_ref().and_then(|queue| queue.read("write_cache")),
            fua: flag("fua"),
            rotational: flag("rotational"),
        })
    }
}

impl fmt::Display for DeviceFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.file_system, self.device.as_deref().unwrap_or("no block device"))?;
        if let Some(cache) = &self.write_cache {
            write!(f, ", {cache} cache")?;
        }
        match self.fua {
            Some(true) => f.write_str(", FUA")?,
            Some(false) => f.write_str(", no FUA")?,
            None => {}
        }
        if self.rotational == Some(true) {
            f.write_str(", rotational")?;
        }
        Ok(())
    }
}

/// The one core that takes the interrupts of the disk that `path` is on, if there is one and it can be found out.
pub(crate) fn disk_core(path: &Path) -> Option<usize> {
    let queue = Queue::of(fstat(&fs::File::open(path).ok()?).ok()?.st_dev)?;
    irq::core_of(queue.path.parent()?, Path::new("/proc"))
}

/// The file system's name, if it forgets everything at power-off.
pub(crate) fn volatile(fd: BorrowedFd<'_>) -> Result<Option<&'static str>, Errno> {
    let name = file_system_name(fstatfs(fd)?.filesystem_type());
    Ok(name.filter(|name| matches!(*name, "tmpfs" | "ramfs")))
}

/// Whether a registered buffer must not be used on the file system of `fd`: ZFS hangs on them.
pub(crate) fn hangs_on_fixed_buffers(fd: BorrowedFd<'_>) -> bool {
    fstatfs(fd).is_ok_and(|statfs| file_system_name(statfs.filesystem_type()) == Some("zfs"))
}

/// The block size to keep to in the directory `dir`: the largest of what O_DIRECT asks for (told only of a file, hence
/// `file`, which may be absent), the file system's block and the device's physical sector; a power of two.
pub(crate) fn block_bytes(dir: BorrowedFd<'_>, file: &str) -> Result<u32, Errno> {
    let fs_block = u64::try_from(fstatfs(dir)?.block_size()).unwrap_or(0).min(FS_BLOCK_BYTES_MAX);
    let physical = Queue::of(fstat(dir)?.st_dev)
        .and_then(|queue| queue.read("physical_block_size"))
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let direct = direct_offset_align(dir, file).unwrap_or(0);
    let fs_block = u32::try_from(fs_block).unwrap_or(0);
    Ok(BLOCK_BYTES_MIN.max(fs_block).max(physical).max(direct).next_power_of_two())
}

/// What O_DIRECT asks of offsets in `file`; `None` before Linux 6.1 and where the file system does not say.
#[expect(unsafe_code, reason = "statx has no safe wrapper")]
fn direct_offset_align(dir: BorrowedFd<'_>, file: &str) -> Option<u32> {
    let mut statx = MaybeUninit::<libc::statx>::zeroed();
    let call = |name: &std::ffi::CStr| {
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        // SAFETY: `name` is a C string and `statx` a buffer of the type the call fills; both outlive the call.
        unsafe { libc::statx(dir.as_raw_fd(), name.as_ptr(), flags, libc::STATX_DIOALIGN, statx.as_mut_ptr()) }
    };
    if file.with_nix_path(call) != Ok(0) {
        return None;
    }
    // SAFETY: it is made of integers, for which the zeros it began with are valid, whatever the call filled.
    let statx = unsafe { statx.assume_init() };
    (statx.stx_mask & libc::STATX_DIOALIGN != 0).then_some(statx.stx_dio_offset_align)
}

/// A block device's request queue in sysfs.
struct Queue {
    device: String,
    path: PathBuf,
}

impl Queue {
    /// The queue of the device with this number; a partition's is its disk's.
    fn of(dev: dev_t) -> Option<Self> {
        let node = fs::canonicalize(format!("/sys/dev/block/{}:{}", major(dev), minor(dev))).ok()?;
        let device = node.file_name()?.to_str()?.to_owned();
        let path = [node.join("queue"), node.parent()?.join("queue")].into_iter().find(|path| path.is_dir())?;
        Some(Self { device, path })
    }

    fn read(&self, name: &str) -> Option<String> {
        Some(fs::read_to_string(self.path.join(name)).ok()?.trim().to_owned())
    }
}

/// The names of those that matter to a log, by the magic numbers of statfs(2).
fn file_system_name(magic: FsType) -> Option<&'static str> {
    // The width and sign of the number differ between architectures; the low 32 bits do not.
    #[expect(clippy::cast_possible_truncation, reason = "magic numbers have 32 bits")]
    let magic = magic.0 as u32;
    Some(match magic {
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0x794c_7630 => "overlayfs",
        0x6573_5546 => "fuse",
        0x6969 => "nfs",
        0xca45_1a4e => "bcachefs",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn each_refusal_names_its_cause_and_cure() {
        let why = |errno: Errno, disabled| why_refused(&io::Error::from(errno), disabled);
        assert!(why(Errno::ENOSYS, 0).contains("5.15"));
        assert!(why(Errno::EPERM, 0).contains("seccomp"));
        assert!(why(Errno::EPERM, 1).contains("kernel.io_uring_group"));
        assert!(why(Errno::EPERM, 2).contains("io_uring_disabled is 2"));
        assert!(why(Errno::ENOMEM, 0).contains("RLIMIT_MEMLOCK"));
        assert!(why(Errno::EMFILE, 0).contains("RLIMIT_NOFILE"));
        assert!(why(Errno::EIO, 0).contains("not known"));
    }

    #[test]
    fn the_block_is_a_power_of_two_of_a_page_or_more() {
        let dir = fs::File::open(std::env::temp_dir()).unwrap();
        let block = block_bytes(dir.as_fd(), "no such file").unwrap();
        assert!(block.is_power_of_two() && (4096..=1 << 20).contains(&block), "{block}");
    }

    #[test]
    fn tmpfs_is_volatile_and_proc_is_not() {
        let shm = fs::File::open("/dev/shm").ok();
        let shm = shm.filter(|shm| fstatfs(shm).unwrap().filesystem_type() == nix::sys::statfs::TMPFS_MAGIC);
        if let Some(shm) = shm {
            assert_eq!(volatile(shm.as_fd()), Ok(Some("tmpfs")));
        }
        assert_eq!(volatile(fs::File::open("/proc").unwrap().as_fd()), Ok(None));
    }

    #[test]
    fn facts_of_a_place_without_a_device_are_empty() {
        let facts = DeviceFacts::of(Path::new("/proc")).unwrap();
        assert_eq!(facts.to_string(), "0x9fa0 on no block device");
        assert!(!DeviceFacts::of(&std::env::temp_dir()).unwrap().file_system.is_empty());
    }
}
