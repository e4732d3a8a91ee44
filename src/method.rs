//! The ways in which a write becomes durable: the word that options, journal, disks and statistics share.

use std::fmt;

/// How writes become durable. All leave the same bytes on the disk, and what they promise is the same: a batch is
/// acknowledged when all of its bytes are written and a flush that covers them succeeded, and every batch before it is.
///
/// Which one is fastest depends on the device, the file system and the load; which ones there are depends on the disk:
/// io_uring has them all, plain system calls have only [`Method::Syscalls`]. A disk that is asked for one that it does
/// not have uses its reference method: [`Method::LinkedFdatasync`], or [`Method::Syscalls`] without io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// io_uring: a write with an fdatasync linked behind it. The reference: works everywhere, two hops to a kernel worker.
    LinkedFdatasync,
    /// io_uring: one write with RWF_DSYNC. It makes only its own bytes durable. One request, and cheapest where the
    /// device needs no flush or none of its own; slow on devices whose forced-unit-access writes are.
    DsyncWrite,
    /// io_uring for the write; an fdatasync(2) on the ring thread once its completion was seen. One flush serves every
    /// batch in the same file whose write had completed by then. The ring thread waits for it.
    WriteThenFdatasync,
    /// Plain system calls on the ring thread, which waits for both: pwrite, then fdatasync. No hop at all.
    Syscalls,
    /// An absent disk: nothing is durable.
    Simulated,
}

impl Method {
    /// Those that make anything durable, the reference first.
    pub const ALL: &'static [Self] =
        &[Self::LinkedFdatasync, Self::DsyncWrite, Self::WriteThenFdatasync, Self::Syscalls];

    /// How many there are, [`Method::Simulated`] included.
    pub(crate) const COUNT: usize = 5;

    /// Each, by its index.
    pub(crate) const EACH: [Self; Self::COUNT] =
        [Self::LinkedFdatasync, Self::DsyncWrite, Self::WriteThenFdatasync, Self::Syscalls, Self::Simulated];

    /// As tables print it.
    ///
    /// ```
    /// assert_eq!(ringwal::Method::DsyncWrite.word(), "dsync-write");
    /// ```
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::LinkedFdatasync => "linked-fdatasync",
            Self::DsyncWrite => "dsync-write",
            Self::WriteThenFdatasync => "write-fdatasync",
            Self::Syscalls => "syscalls",
            Self::Simulated => "none",
        }
    }

    /// The method of [`Method::ALL`] that has this word; `None` if none has.
    ///
    /// ```
    /// use ringwal::Method;
    /// assert!(Method::ALL.iter().all(|method| Method::from_word(method.word()) == Some(*method)));
    /// ```
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|method| method.word() == word)
    }

    /// Its place in [`Method::EACH`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stands_at_its_index_and_has_a_word_of_its_own() {
        for (index, method) in Method::EACH.into_iter().enumerate() {
            assert_eq!(method.index(), index);
            let known = Method::ALL.contains(&method);
            assert_eq!(Method::from_word(method.word()), known.then_some(method));
        }
        assert_eq!(Method::from_word("none"), None);
    }
}
