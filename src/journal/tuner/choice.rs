//! What there is to choose from, and where to begin.

use std::fmt;

use crate::method::Method;
use crate::options::Pins;

/// How a batch flies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) method: Method,
    /// How many batches may be in flight at once.
    pub(crate) depth: usize,
    /// Whether to wait a moment, with nothing in flight, for the callers that were just served: one batch of all of them
    /// instead of two cohorts that wait for each other's flush.
    pub(crate) gather: bool,
    /// Whether the ring thread keeps to the core that takes the disk's interrupts, where there is one such core: a
    /// completion that has to wake another core first costs tens of microseconds.
    pub(crate) home: bool,
}

/// A choice but for its method.
type Shape = (usize, bool);

impl Choice {
    /// Whether it keeps the ring thread in the kernel for a whole flush.
    pub(crate) fn blocks(self) -> bool {
        self.method.blocks()
    }

    /// The same with the ring thread at home if it is not, and the other way round.
    pub(super) fn elsewhere(self) -> Self {
        Self { home: !self.home, ..self }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} in flight", self.method.word(), self.depth)?;
        if self.gather {
            f.write_str(", gathering")?;
        }
        if self.home { f.write_str(", on the disk's core") } else { Ok(()) }
    }
}

/// What the device says of itself: where to begin, never an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prior {
    /// Whether it has a volatile write cache, if known.
    pub(crate) write_cache: Option<bool>,
    /// Whether it takes forced-unit-access writes, if known.
    pub(crate) fua: Option<bool>,
}

/// What may be chosen: all that the disk can do, or what is pinned.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    methods: Vec<Method>,
    shapes: Vec<Shape>,
    first: Method,
    /// Whether the ring thread has a core to keep to.
    pub(super) home: bool,
}

impl Rules {
    /// `offered` is what the disk can do, its reference method first, not empty; `depth_max` bounds the depth; where
    /// `may_block` is false, methods that block are chosen only if pinned or if there is no other.
    pub(crate) fn new(offered: &[Method], pins: Pins, depth_max: usize, may_block: bool, prior: Prior) -> Self {
        let mut methods: Vec<Method> = match pins.method {
            // What the disk cannot do it would replace by its reference method, the first.
            Some(pinned) if offered.contains(&pinned) => vec![pinned],
            Some(_) => Vec::new(),
            None => offered.iter().copied().filter(|method| may_block || !method.blocks()).collect(),
        };
        if methods.is_empty() {
            methods.extend(offered.first());
        }
        let shapes = match (pins.depth, pins.gather) {
            (Some(depth), gather) => vec![(depth, gather.unwrap_or(false))],
            (None, gather) => {
                let all = [(1, false), (1, true), (2, false), (4, false)];
                let kept = all
                    .into_iter()
                    .filter(|(depth, gathers)| *depth <= depth_max && gather.is_none_or(|gather| gather == *gathers));
                kept.collect()
            }
        };
        let first = prior.begins_with();
        let first = if methods.contains(&first) { first } else { methods[0] };
        Self { methods, shapes, first, home: false }
    }

    /// Says whether the ring thread has a core to keep to; if so, it begins there.
    pub(crate) fn with_home(mut self, home: bool) -> Self {
        self.home = home;
        self
    }

    /// Where to begin.
    pub(super) fn first(&self) -> Choice {
        let (depth, gather) = self.shapes[0];
        Choice { method: self.first, depth, gather, home: self.home }
    }

    /// Where to begin with a caller alone: the hop to a kernel worker and back (two wake-ups, some 40 us of 140 where it
    /// was measured) buys it nothing, so that system calls on the ring thread are best if they may be used.
    pub(super) fn first_alone(&self) -> Choice {
        let method = if self.methods.contains(&Method::Syscalls) { Method::Syscalls } else { self.first };
        self.alone(method)
    }

    /// What a caller alone may choose from: there is nobody to gather, and a second batch is seldom there to fly.
    pub(super) fn arms_alone(&self) -> Vec<Choice> {
        self.methods.iter().map(|method| self.alone(*method)).collect()
    }

    /// A method for a caller alone: whoever joins it does not wait for its flush.
    fn alone(&self, method: Method) -> Choice {
        let deepest = self.shapes.iter().rev().find(|(_, gathers)| !gathers).or(self.shapes.last());
        let shape = if method == Method::Syscalls { self.shapes.first() } else { deepest };
        let (depth, gather) = shape.copied().unwrap_or((1, false));
        Choice { method, depth, gather, home: self.home }
    }

    /// All of it. A thread that blocks has one batch in flight, whatever it would like.
    pub(super) fn arms(&self) -> Vec<Choice> {
        let of = |method: Method| {
            let only = self.shapes.len() == 1;
            let shapes = self.shapes.iter().filter(move |(depth, _)| only || *depth == 1 || method != Method::Syscalls);
            shapes.map(move |&(depth, gather)| Choice { method, depth, gather, home: self.home })
        };
        self.methods.iter().copied().flat_map(of).collect()
    }

    /// The same in a method that does not block, if there is one.
    pub(super) fn without_blocking(&self, choice: Choice) -> Choice {
        let others = std::iter::once(self.first).chain(self.methods.iter().copied());
        let method = others.into_iter().find(|method| !method.blocks()).unwrap_or(choice.method);
        Choice { method, ..choice }
    }
}

impl Prior {
    /// Without a volatile cache nothing needs a flush, and RWF_DSYNC saves the hop to a worker. With a cache and no FUA
    /// both flush alike, and it saves the hop. With a cache and FUA, consumer drives are up to 2.4 times slower by it than
    /// by a flush (a Samsung 980 PRO: 4.0 against 1.7 ms). Where nothing is known, the reference method.
    pub(crate) fn begins_with(self) -> Method {
        match (self.write_cache, self.fua) {
            (Some(false), _) | (Some(true), Some(false)) => Method::DsyncWrite,
            _ => Method::LinkedFdatasync,
        }
    }
}
