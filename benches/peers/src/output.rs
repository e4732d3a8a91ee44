//! Lines of JSON that outlive an interruption.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use ringwal::engines::Failure;

/// A file that lines are appended to; none to keep nothing.
pub struct Lines(Option<(PathBuf, File)>);

impl Lines {
    pub fn append_to(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = File::options().append(true).create(true).open(path);
        let file = file.map_err(|error| format!("{}: {error}; give another --json", path.display()))?;
        Ok(Self(Some((path.to_owned(), file))))
    }

    pub fn say(&mut self, line: &str) -> Result<(), Failure> {
        if let Some((path, file)) = &mut self.0 {
            let written = file.write_all(format!("{line}\n").as_bytes());
            written.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}

/// The directory, absolute, which must exist.
pub fn directory(dir: &Path) -> Result<PathBuf, Failure> {
    let full = std::fs::canonicalize(dir);
    Ok(full.map_err(|error| format!("{}: {error}; give --dir a directory on the disk in question", dir.display()))?)
}
