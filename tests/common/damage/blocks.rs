//! Blocks, sectors and whole files that are gone, somewhere else, somebody else's or of another time.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bench::Bench;
use super::judgement::{Harm, Outcome, judge};
use super::subject::{Files, Subject};
use crate::common::rig::Rng;

/// One damage: its kind, and each file that it changes, with its bytes; none where the name is gone.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    pub(crate) kind: &'static str,
    pub(crate) files: BTreeMap<String, Option<Vec<u8>>>,
}

/// All that is done to one log, in parts: what belongs to part `part` of [`PARTS`].
pub(crate) struct Damages<'a, B> {
    bench: &'a mut B,
    subject: Arc<Subject>,
    /// Another log of the same shape.
    other: &'a Files,
    part: u64,
    all: bool,
    number: u64,
    rng: Rng,
    found: &'a mut dyn FnMut(&Damage, Outcome),
}

/// So many parts a log's damages are done in.
pub(crate) const PARTS: u64 = 1024;

/// A piece of a file: its name, where it begins and ends.
type Piece = (String, usize, usize);

impl<'a, B: Bench> Damages<'a, B> {
    pub(crate) fn new(
        bench: &'a mut B,
        other: &'a Files,
        part: u64,
        found: &'a mut dyn FnMut(&Damage, Outcome),
    ) -> Self {
        Self { subject: bench.subject().clone(), bench, other, part, all: false, number: 0, rng: Rng::new(part), found }
    }

    /// Does them.
    pub(crate) fn do_all(mut self) {
        let sizes = [512, self.subject.shape.block_bytes as usize];
        for size in sizes.into_iter().skip(usize::from(sizes[0] == sizes[1])) {
            for piece in self.pieces(size) {
                self.overwritten(&piece);
                self.exchanged(&piece);
            }
        }
        // Not the lock file, which has its own oddities.
        let names: Vec<_> = self.subject.files.keys().filter(|name| name.ends_with(".seg")).cloned().collect();
        for name in &names {
            self.cut_and_extended(name);
            self.misplaced(name, &names);
        }
    }

    /// Does, of all parts, what is done to whole files, and cuts them at every block and beside it.
    pub(crate) fn do_files(mut self) {
        self.all = true;
        let names: Vec<_> = self.subject.files.keys().filter(|name| name.ends_with(".seg")).cloned().collect();
        for name in &names {
            self.misplaced(name, &names);
            let block = self.subject.shape.block_bytes as usize;
            let edges = (0..self.subject.files[name].len()).step_by(block);
            for len in edges.flat_map(|edge| [edge.saturating_sub(1), edge, edge + 1, edge + 512]) {
                self.cut(name, len);
            }
        }
    }

    fn pieces(&self, size: usize) -> Vec<Piece> {
        let of = |(name, bytes): (&String, &Vec<u8>)| {
            let name = name.clone();
            // A lock file is shorter than any.
            (0..bytes.len() / size).map(move |at| (name.clone(), at * size, (at + 1) * size))
        };
        self.subject.files.iter().flat_map(of).collect()
    }

    /// Whether the next damage belongs to this part.
    fn mine(&mut self) -> bool {
        self.number += 1;
        self.all || self.number % PARTS == self.part
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.subject.files[name].clone()
    }

    /// Puts the damage in place and judges what comes of it, unless it changes nothing.
    fn damage(&mut self, kind: &'static str, files: impl IntoIterator<Item = (String, Option<Vec<u8>>)>) {
        let subject = &self.subject;
        let mut files: BTreeMap<_, _> = files.into_iter().collect();
        files.retain(|name, bytes| subject.files.get(name) != bytes.as_ref());
        if files.is_empty() {
            return;
        }
        let changed: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_deref())).collect();
        let look = self.bench.look(&changed);
        let outcome = judge(subject, &Harm::of(subject, &changed), &look);
        (self.found)(&Damage { kind, files }, outcome);
    }

    fn replace(&mut self, kind: &'static str, (name, start, end): &Piece, with: &[u8]) {
        let mut bytes = self.bytes(name);
        bytes[*start..*end].copy_from_slice(with);
        self.damage(kind, [(name.clone(), Some(bytes))]);
    }

    /// One piece holds something that never stood there, or not at this time.
    fn overwritten(&mut self, piece: &Piece) {
        let (name, start, end) = piece;
        if self.mine() {
            self.replace("zeroed", piece, &vec![0; end - start]);
        }
        if self.mine() {
            let garbage: Vec<_> = (*start..*end).map(|_| self.rng.next().to_le_bytes()[0]).collect();
            self.replace("garbled", piece, &garbage);
        }
        if self.mine() {
            // Several in a row.
            let len = self.subject.files[name].len();
            let end = (end + (1 + self.rng.below(16) as usize) * (end - start)).min(len);
            self.replace("zeroed in a row", &(name.clone(), *start, end), &vec![0; end - start]);
        }
        let subject = self.subject.clone();
        for (kind, from) in [("of another log", self.other), ("of an older time", &subject.older)] {
            if self.mine()
                && let Some(bytes) = from.get(name).and_then(|bytes| bytes.get(*start..*end))
            {
                self.replace(kind, piece, bytes);
            }
        }
        for (_, other) in subject.files.iter().filter(|(other, _)| *other != name) {
            if self.mine()
                && let Some(bytes) = other.get(*start..*end)
            {
                self.replace("of another segment's same place", piece, bytes);
            }
        }
    }

    /// One piece and another: copied over it, or both exchanged.
    fn exchanged(&mut self, piece: &Piece) {
        for _ in 0..4 {
            if self.mine() {
                let other = self.any_piece(piece.2 - piece.1);
                let bytes = self.subject.files[&other.0][other.1..other.2].to_vec();
                self.replace("copied over another", piece, &bytes);
            }
            if self.mine() {
                let other = self.any_piece(piece.2 - piece.1);
                self.swap(piece, &other);
            }
        }
        // And its neighbour.
        let next = (piece.0.clone(), piece.2, 2 * piece.2 - piece.1);
        if self.mine() && next.2 <= self.subject.files[&next.0].len() {
            self.swap(piece, &next);
        }
    }

    fn any_piece(&mut self, size: usize) -> Piece {
        let subject = self.subject.clone();
        let files: Vec<_> = subject.files.iter().filter(|(_, bytes)| bytes.len() >= size).collect();
        let (name, bytes) = files[self.rng.below(files.len() as u64) as usize];
        let start = self.rng.below((bytes.len() / size) as u64) as usize * size;
        (name.clone(), start, start + size)
    }

    fn swap(&mut self, a: &Piece, b: &Piece) {
        let mut files: BTreeMap<_, _> =
            [(a.0.clone(), self.bytes(&a.0)), (b.0.clone(), self.bytes(&b.0))].into_iter().collect();
        let (in_a, in_b) = (files[&a.0][a.1..a.2].to_vec(), files[&b.0][b.1..b.2].to_vec());
        files.get_mut(&a.0).unwrap()[a.1..a.2].copy_from_slice(&in_b);
        files.get_mut(&b.0).unwrap()[b.1..b.2].copy_from_slice(&in_a);
        let kind = if a.0 == b.0 { "swapped within a segment" } else { "swapped between segments" };
        self.damage(kind, files.into_iter().map(|(name, bytes)| (name, Some(bytes))));
    }

    /// A file at every shorter length, and at longer ones.
    fn cut_and_extended(&mut self, name: &str) {
        let len = self.subject.files[name].len();
        for len in 0..len {
            if self.mine() {
                self.cut(name, len);
            }
        }
        for more in [1, 100, 511, 512, 513, 4096, 8192, 100_000] {
            for (kind, byte) in [("extended by zeros", 0), ("extended by garbage", 0xa5)] {
                if self.mine() {
                    let mut bytes = self.bytes(name);
                    bytes.resize(len + more, byte);
                    self.damage(kind, [(name.to_owned(), Some(bytes))]);
                }
            }
        }
    }

    fn cut(&mut self, name: &str, len: usize) {
        let mut bytes = self.bytes(name);
        bytes.truncate(len);
        self.damage("truncated", [(name.to_owned(), Some(bytes))]);
    }

    /// A file is missing, another log's or another time's, stands under another name, or under two.
    fn misplaced(&mut self, name: &str, names: &[String]) {
        let bytes = self.bytes(name);
        if self.mine() {
            self.damage("missing", [(name.to_owned(), None)]);
        }
        let subject = self.subject.clone();
        for (kind, from) in [("file of another log", self.other), ("file of an older time", &subject.older)] {
            if self.mine() {
                self.damage(kind, from.get(name).map(|bytes| (name.to_owned(), Some(bytes.clone()))));
            }
        }
        for other in names.iter().filter(|other| *other != name) {
            if self.mine() {
                self.damage("doubled over another", [(other.clone(), Some(bytes.clone()))]);
            }
            if self.mine() {
                self.damage("renamed over another", [(other.clone(), Some(bytes.clone())), (name.to_owned(), None)]);
            }
            if self.mine() {
                let swapped = [(other.clone(), Some(bytes.clone())), (name.to_owned(), Some(self.bytes(other)))];
                self.damage("names swapped", swapped);
            }
        }
        for free in free_names(names) {
            if self.mine() {
                self.damage("doubled under a free name", [(free.clone(), Some(bytes.clone()))]);
            }
            if self.mine() {
                self.damage("renamed to a free name", [(free, Some(bytes.clone())), (name.to_owned(), None)]);
            }
        }
        // The newest files together: what they alone told is gone with them.
        let newest = names.iter().filter(|other| other.as_str() >= name);
        if self.mine() {
            let gone: Vec<_> = newest.map(|name| (name.clone(), None)).collect();
            self.damage("missing with all newer ones", gone);
        }
    }
}

/// Names that no file of the log has: before all, between, behind, far away.
fn free_names(names: &[String]) -> Vec<String> {
    let ids: Vec<_> =
        names.iter().filter_map(|name| u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok()).collect();
    let (least, greatest) = (ids.iter().min().unwrap(), ids.iter().max().unwrap());
    [least - 1, greatest + 1, greatest + 2, u64::MAX].iter().map(|id| format!("{id:016x}.seg")).collect()
}
