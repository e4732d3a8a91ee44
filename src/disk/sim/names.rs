//! The simulated directory's entries: what is visible, what is durable, and the changes in between.
//!
//! A change (create, rename, remove) is visible at once and durable with the next sync of the directory. A power cut
//! keeps either the first so many un-synced changes (a journalled file system) or any subset of them (one that orders
//! nothing), drawn anew for each cut; a single change is always whole. A name that survives leads to its file, whose
//! bytes have their own fate.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rng::{Rng, mix, mix_bytes};

/// What stands under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A regular file, by its number.
    File(u64),
    /// Anything else, in words.
    Odd(&'static str),
}

#[derive(Clone, Debug)]
enum Change {
    Create { name: Arc<str>, node: Node },
    Rename { from: Arc<str>, to: Arc<str>, node: Node },
    Remove { name: Arc<str>, node: Node },
}

type Entries = BTreeMap<Arc<str>, Node>;

/// The entries of the one directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    live: Entries,
    durable: Entries,
    unsynced: Vec<Change>,
}

impl Names {
    pub(super) fn get(&self, name: &str) -> Option<Node> {
        self.live.get(name).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Node)> {
        self.live.iter().map(|(name, node)| (&**name, *node))
    }

    /// Takes a name that is free.
    pub(super) fn create(&mut self, name: &str, node: Node) {
        let name: Arc<str> = name.into();
        self.live.insert(name.clone(), node);
        self.unsynced.push(Change::Create { name, node });
    }

    /// Renames `from`, which exists, to `to`, which is free.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        if let Some((from, node)) = self.live.remove_entry(from) {
            let to: Arc<str> = to.into();
            self.live.insert(to.clone(), node);
            self.unsynced.push(Change::Rename { from, to, node });
        }
    }

    /// Removes a name that exists.
    pub(super) fn remove(&mut self, name: &str) {
        if let Some((name, node)) = self.live.remove_entry(name) {
            self.unsynced.push(Change::Remove { name, node });
        }
    }

    /// Everything visible is durable.
    pub(super) fn sync(&mut self) {
        if !self.unsynced.is_empty() {
            self.unsynced.clear();
            self.durable = self.live.clone();
        }
    }

    /// How many changes are not durable.
    pub(super) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// The power fails. Returns how many changes were lost.
    pub(super) fn power_cut(&mut self, rng: &mut Rng) -> u64 {
        let changes = std::mem::take(&mut self.unsynced);
        let first_lost = rng.one_in(2).then(|| rng.index(changes.len() + 1));
        let mut lost = 0;
        for (at, change) in changes.into_iter().enumerate() {
            let kept = first_lost.map_or_else(|| rng.one_in(2), |first| at < first);
            if kept {
                apply(&mut self.durable, change);
            } else {
                lost += 1;
            }
        }
        self.live = self.durable.clone();
        lost
    }

    /// Whether any name, durable or not, leads or may yet lead to the file.
    pub(super) fn may_lead_to(&self, inode: u64) -> bool {
        let is_it = |node: &Node| *node == Node::File(inode);
        self.live.values().any(is_it)
            || self.durable.values().any(is_it)
            || self.unsynced.iter().any(|change| match change {
                Change::Create { node, .. } | Change::Rename { node, .. } | Change::Remove { node, .. } => is_it(node),
            })
    }

    pub(super) fn hash(&self, hash: u64) -> u64 {
        self.live.iter().fold(hash, |hash, (name, node)| {
            let hash = mix_bytes(hash, name.as_bytes());
            match node {
                Node::File(_) => mix(hash, 1),
                Node::Odd(what) => mix_bytes(hash, what.as_bytes()),
            }
        })
    }
}

/// Replays one change on entries that may lack the changes before it.
fn apply(entries: &mut Entries, change: Change) {
    match change {
        Change::Create { name, node } => {
            entries.insert(name, node);
        }
        Change::Rename { from, to, node } => {
            drop_if(entries, &from, node);
            entries.insert(to, node);
        }
        Change::Remove { name, node } => drop_if(entries, &name, node),
    }
}

/// Drops a name only if it leads where the change believed: another file may have taken it.
fn drop_if(entries: &mut Entries, name: &str, node: Node) {
    if entries.get(name) == Some(&node) {
        entries.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The names that remain after each of many power cuts.
    fn cuts(names: &Names) -> BTreeSet<Vec<String>> {
        let cut = |seed| {
            let mut names = names.clone();
            names.power_cut(&mut Rng::new(seed));
            names.iter().map(|(name, _)| name.to_owned()).collect()
        };
        (0..200).map(cut).collect()
    }

    fn sets(of: &[&[&str]]) -> BTreeSet<Vec<String>> {
        of.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
    }

    #[test]
    fn a_synced_entry_survives_and_an_unsynced_one_may_not() {
        let mut names = Names::default();
        names.create("a", Node::File(0));
        assert_eq!(cuts(&names), sets(&[&[], &["a"]]));
        names.sync();
        assert_eq!(cuts(&names), sets(&[&["a"]]));
        names.remove("a");
        assert_eq!(cuts(&names), sets(&[&[], &["a"]]));
    }

    #[test]
    fn unsynced_changes_survive_in_any_subset_but_a_rename_is_whole() {
        let mut names = Names::default();
        names.create("spare", Node::File(0));
        names.sync();
        names.rename("spare", "b");
        names.create("c", Node::File(1));
        assert_eq!(cuts(&names), sets(&[&["spare"], &["b"], &["b", "c"], &["c", "spare"]]));
    }

    #[test]
    fn a_rename_whose_create_was_lost_still_takes_the_new_name() {
        let mut names = Names::default();
        names.create("spare", Node::File(0));
        names.rename("spare", "b");
        assert_eq!(cuts(&names), sets(&[&[], &["spare"], &["b"]]));
    }
}
