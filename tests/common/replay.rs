//! A disk after a power cut: an image, mounted, so that the kernel recovers the file system on it.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use super::image::Image;
use super::powercut::{FileSystem, Loop};
use super::rig::Scratch;

/// A loop device whose disk is in memory, for one image after another.
#[derive(Debug)]
pub(crate) struct Replay {
    device: Loop,
    file: File,
    fs: FileSystem,
    scratch: Scratch,
}

impl Replay {
    pub(crate) fn new(fs: FileSystem) -> Result<Self, String> {
        let scratch = Scratch::new("replay");
        // In memory, where there is such a place: the image only, never the file system on it.
        let shared = Path::new("/dev/shm");
        let name = scratch.path().file_name().unwrap().to_string_lossy().into_owned();
        let path = if shared.is_dir() { shared.join(format!("ringwal-{name}.img")) } else { scratch.join("cut.img") };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.and_then(|file| file.set_len(fs.disk_bytes()).map(|()| file));
        let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
        let device = Loop::attach(&path);
        // The loop device keeps it.
        let _ = std::fs::remove_file(&path);
        Ok(Self { device: device?, file, fs, scratch })
    }

    fn mount_point(&self) -> PathBuf {
        self.scratch.join("mnt")
    }

    /// Keeps a sparse copy of an image, for whoever wants to know what was wrong.
    pub(crate) fn keep(image: &Image, name: &str) -> Result<PathBuf, String> {
        let path = Scratch::place().join(format!("{name}.img"));
        let told = |error: std::io::Error| format!("{}: {error}", path.display());
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).map_err(told)?;
        file.set_len(image.bytes()).map_err(told)?;
        image.put(&file);
        Ok(path)
    }

    /// Calls `look` with the image mounted. What the kernel and `look` write is gone with the next image.
    pub(crate) fn mounted<T>(&self, image: &Image, look: impl FnOnce(&Path) -> T) -> Result<T, String> {
        image.put(&self.file);
        self.device.forget_cache();
        let mount = self.fs.mount(&self.device, &self.mount_point())?;
        let answer = look(&self.mount_point());
        drop(mount);
        Ok(answer)
    }
}
