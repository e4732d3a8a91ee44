//! The machine that figures belong to.

use std::fmt;
use std::fs;
use std::path::Path;
use std::thread;

use serde_json::{Value, json};

use crate::disk::probe::{DeviceFacts, disk_core};

/// What a figure must not be shown without.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The kernel's release.
    pub kernel: String,
    /// The cores this process may use.
    pub cores: usize,
    /// The processor's name, where the system tells.
    pub cpu: Option<String>,
    /// File system and device under the directory.
    pub device: String,
}

impl Facts {
    /// Of this machine, with the device under `dir`.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let cpu = read("/proc/cpuinfo").and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            line.split_once(':').map(|(_, name)| name.trim().to_owned())
        });
        Self {
            kernel: read("/proc/sys/kernel/osrelease").map_or_else(|| "?".to_owned(), |text| text.trim().to_owned()),
            cores: thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu,
            device: DeviceFacts::of(dir).map_or_else(|_| "unknown device".to_owned(), |facts| device(&facts, dir)),
        }
    }

    /// For a line of JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({"kernel": self.kernel, "cores": self.cores, "cpu": self.cpu, "device": self.device})
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; Linux {}, {} cores", self.device, self.kernel, self.cores)?;
        match &self.cpu {
            Some(cpu) => write!(f, " ({cpu})"),
            None => Ok(()),
        }
    }
}

/// What is known of the device under `path`.
pub(super) fn device(facts: &DeviceFacts, path: &Path) -> String {
    let core = disk_core(path).map(|core| format!(", interrupts on core {core}"));
    format!("{facts}{}", core.unwrap_or_default())
}

/// The load average of the last minute, where the system tells: others' work shows in every figure.
#[must_use]
pub fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}
