//! What happens to files: bits flip, sectors are swapped, files vanish and come back. Nothing here knows a checksum, so
//! whatever the library makes of the result must have been in the log.

use ringwal::sim::Sim;
use ringwal::sim::rng::Rng;

use crate::input::Input;
use crate::layout::BLOCK;
use crate::logs::{Files, LOGS, Log};

/// The unit of damage: what a device keeps or loses as one.
const SECTOR: usize = 512;

/// How much longer a file may become, in sectors: as long again.
const GROWTH_MAX: usize = 16;

/// A directory in which something happened.
#[derive(Debug)]
pub struct Damaged {
    log: &'static Log,
    /// Its files now.
    pub files: Files,
    /// What is no file: (name, what it is).
    odd: Vec<(String, &'static str)>,
    /// Sectors that cannot be read: (name, offset).
    broken: Vec<(String, usize)>,
    /// How many accidents there were.
    pub accidents: usize,
    /// Whether any record may be one that nobody appended: checksums were computed anew.
    pub forged: bool,
}

type Accident = fn(&mut Damaged, &mut Input<'_>);

const ACCIDENTS: [Accident; 19] = [
    Damaged::flip,
    Damaged::flip,
    Damaged::zero,
    Damaged::garble,
    Damaged::swap_sectors,
    Damaged::copy_sectors,
    Damaged::copy_sectors,
    Damaged::stale_sectors,
    Damaged::stale_sectors,
    Damaged::stale_file,
    Damaged::foreign_sectors,
    Damaged::foreign_file,
    Damaged::truncate,
    Damaged::extend,
    Damaged::delete,
    Damaged::double,
    Damaged::rename,
    Damaged::put_odd,
    Damaged::break_sector,
];

impl Damaged {
    /// A log to which nothing has happened yet.
    #[must_use]
    pub fn new(log: &'static Log) -> Self {
        Self { log, files: log.files.clone(), odd: Vec::new(), broken: Vec::new(), accidents: 0, forged: false }
    }

    /// One accident.
    pub fn accident(&mut self, input: &mut Input<'_>) {
        self.accidents += 1;
        let which = input.index(ACCIDENTS.len());
        ACCIDENTS[which](self, input);
    }

    /// Makes the directory on `sim`, which holds the log, what it has become.
    pub fn put(&self, sim: &Sim) {
        for (name, _) in &self.log.files {
            if !self.files.iter().any(|(left, _)| left == name) {
                sim.delete(name);
            }
        }
        for (name, bytes) in &self.files {
            if !self.log.files.iter().any(|(before, same)| before == name && same == bytes) {
                sim.put(name, bytes);
            }
        }
        self.odd.iter().for_each(|(name, what)| sim.put_odd(name, what));
        self.broken.iter().for_each(|(name, offset)| sim.break_sector(name, *offset));
    }

    /// Whether some sector fails whoever reads it.
    #[must_use]
    pub fn cannot_be_read(&self) -> bool {
        !self.broken.is_empty()
    }

    /// The longest file, in bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.files.iter().map(|(_, bytes)| bytes.len()).max().unwrap_or(0)
    }

    /// One of the files, if there is any.
    pub fn file(&mut self, input: &mut Input<'_>) -> Option<&mut (String, Vec<u8>)> {
        let at = input.index(self.files.len());
        self.files.get_mut(at)
    }

    /// A stretch of sectors in something of `len` bytes.
    fn sectors(input: &mut Input<'_>, len: usize) -> std::ops::Range<usize> {
        let from = input.index(len / SECTOR) * SECTOR;
        let count = 1 + usize::from(input.byte() >> 5);
        from.min(len)..(from + count * SECTOR).min(len)
    }

    fn flip(&mut self, input: &mut Input<'_>) {
        let Some((_, bytes)) = self.file(input) else { return };
        let sector = input.index(bytes.len() / SECTOR) * SECTOR;
        let at = (sector + usize::from(input.short()) % SECTOR).min(bytes.len().saturating_sub(1));
        let mask = 1 << (input.byte() & 7);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= mask;
        }
    }

    fn zero(&mut self, input: &mut Input<'_>) {
        let Some((_, bytes)) = self.file(input) else { return };
        let range = Self::sectors(input, bytes.len());
        bytes[range].fill(0);
    }

    /// Random bytes: drawn from a seed, so that nobody can aim at a checksum.
    fn garble(&mut self, input: &mut Input<'_>) {
        let Some((_, bytes)) = self.file(input) else { return };
        let range = Self::sectors(input, bytes.len());
        Rng::new(input.byte().into()).fill(&mut bytes[range]);
    }

    fn swap_sectors(&mut self, input: &mut Input<'_>) {
        let from = input.index(self.files.len());
        let Some((_, bytes)) = self.files.get(from) else { return };
        let range = Self::sectors(input, bytes.len());
        let taken = bytes[range.clone()].to_vec();
        let Some((_, other)) = self.file(input) else { return };
        let at = (input.index(other.len() / SECTOR) * SECTOR).min(other.len());
        let len = taken.len().min(other.len() - at);
        let given = other[at..at + len].to_vec();
        other[at..at + len].copy_from_slice(&taken[..len]);
        self.files[from].1[range.start..range.start + len].copy_from_slice(&given);
    }

    /// Copies sectors somewhere else: batches stand twice.
    fn copy_sectors(&mut self, input: &mut Input<'_>) {
        let Some((_, bytes)) = self.file(input) else { return };
        let range = Self::sectors(input, bytes.len());
        let taken = bytes[range].to_vec();
        self.paste(&taken, None, input);
    }

    /// Pastes sectors over one of the files: where they came from, or anywhere.
    fn paste(&mut self, taken: &[u8], origin: Option<usize>, input: &mut Input<'_>) {
        let Some((_, bytes)) = self.file(input) else { return };
        let anywhere = input.index(bytes.len() / SECTOR) * SECTOR;
        let at = origin.unwrap_or(anywhere).min(bytes.len());
        let len = taken.len().min(bytes.len() - at);
        bytes[at..at + len].copy_from_slice(&taken[..len]);
    }

    /// Sectors as they once were, in the same place or another: old epochs, dead tails.
    fn stale_sectors(&mut self, input: &mut Input<'_>) {
        let log = self.log;
        let Some(past) = log.past.get(input.index(log.past.len())) else { return };
        self.paste_from(past, input);
    }

    /// Sectors of another log.
    fn foreign_sectors(&mut self, input: &mut Input<'_>) {
        self.paste_from(&Self::foreign(input).files, input);
    }

    fn foreign(input: &mut Input<'_>) -> &'static Log {
        let log = input.index(LOGS.len());
        &LOGS[log]
    }

    fn paste_from(&mut self, files: &Files, input: &mut Input<'_>) {
        let Some((_, bytes)) = files.get(input.index(files.len())) else { return };
        let range = Self::sectors(input, bytes.len());
        let origin = (!input.bit()).then_some(range.start);
        self.paste(&bytes[range], origin, input);
    }

    /// A file as it once was; perhaps one that is gone since.
    fn stale_file(&mut self, input: &mut Input<'_>) {
        let log = self.log;
        let Some(past) = log.past.get(input.index(log.past.len())) else { return };
        self.file_from(past, input);
    }

    fn foreign_file(&mut self, input: &mut Input<'_>) {
        self.file_from(&Self::foreign(input).files, input);
    }

    fn file_from(&mut self, files: &Files, input: &mut Input<'_>) {
        if let Some((name, bytes)) = files.get(input.index(files.len())) {
            self.set(name.clone(), bytes.clone());
        }
    }

    /// Puts a file in place of whatever has the name.
    pub fn set(&mut self, name: String, bytes: Vec<u8>) {
        self.files.retain(|(other, _)| *other != name);
        self.files.push((name, bytes));
    }

    fn truncate(&mut self, input: &mut Input<'_>) {
        let Some((_, bytes)) = self.file(input) else { return };
        let (sector, within) = (input.index(bytes.len() / SECTOR + 1), usize::from(input.byte()) * 2);
        bytes.truncate(sector * SECTOR + within);
    }

    fn extend(&mut self, input: &mut Input<'_>) {
        let Some((_, bytes)) = self.file(input) else { return };
        let (how, range) = (input.byte(), Self::sectors(input, bytes.len()));
        let mut more = bytes[range].to_vec();
        match how % 3 {
            0 => more.fill(0),
            1 => Rng::new(how.into()).fill(&mut more),
            _ => {}
        }
        more.truncate(more.len() - usize::from(how >> 4).min(more.len()));
        more.truncate((GROWTH_MAX * 2 * SECTOR).saturating_sub(bytes.len()));
        bytes.extend_from_slice(&more);
    }

    fn delete(&mut self, input: &mut Input<'_>) {
        if !self.files.is_empty() {
            self.files.remove(input.index(self.files.len()));
        }
    }

    /// A name near those that there are.
    fn name(input: &mut Input<'_>) -> String {
        let number = u64::from(input.byte());
        match number >> 5 {
            0..=3 => format!("{:016x}.seg", number % 16),
            4 => format!("{:016x}.spare", number % 16),
            5 => ["reader.cursor", "LOCK", "standby", "stranger", "0.seg", "lost+found"][input.index(6)].to_owned(),
            6 => format!("{:016X}.seg", u64::MAX - number % 4),
            _ => format!("{:016x}.seg", u64::MAX - number % 4),
        }
    }

    fn double(&mut self, input: &mut Input<'_>) {
        let Some((_, bytes)) = self.file(input) else { return };
        let bytes = bytes.clone();
        self.set(Self::name(input), bytes);
    }

    fn rename(&mut self, input: &mut Input<'_>) {
        if !self.files.is_empty() {
            let (_, bytes) = self.files.remove(input.index(self.files.len()));
            self.set(Self::name(input), bytes);
        }
    }

    fn put_odd(&mut self, input: &mut Input<'_>) {
        let what = ["a directory", "a symbolic link"][input.index(2)];
        self.odd.push((Self::name(input), what));
    }

    fn break_sector(&mut self, input: &mut Input<'_>) {
        let Some((name, bytes)) = self.file(input) else { return };
        let place = (name.clone(), input.index(bytes.len() / BLOCK) * BLOCK);
        self.broken.push(place);
    }
}
