//! A queue of futures that wait for room: first come, first served.

use std::collections::VecDeque;
use std::task::Waker;

/// A future's place in a queue.
#[derive(Debug, Default)]
pub(crate) struct Turn(Option<u64>);

/// Who waits, in order. Tickets are unique over all queues of a stage, so that a turn is only ever found in its own.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<(u64, Waker)>,
}

impl Queue {
    /// Whether somebody else is to be served first.
    pub(super) fn is_behind(&self, turn: Option<&Turn>) -> bool {
        let mine = turn.and_then(|turn| turn.0);
        self.entries.front().is_some_and(|(head, _)| Some(*head) != mine)
    }

    /// Queues up: at the end, or before everybody if `first`. Who is queued already keeps its place.
    pub(super) fn queue_up(&mut self, turn: &mut Turn, waker: &Waker, first: bool, next_ticket: &mut u64) {
        if let Some(mine) = turn.0 {
            if let Some((_, queued)) = self.entries.iter_mut().find(|(queued, _)| *queued == mine) {
                queued.clone_from(waker);
            }
            return;
        }
        let entry = (*next_ticket, waker.clone());
        turn.0 = Some(*next_ticket);
        *next_ticket += 1;
        if first {
            self.entries.push_front(entry);
        } else {
            self.entries.push_back(entry);
        }
    }

    /// Leaves, if queued here.
    pub(super) fn leave(&mut self, turn: &mut Turn) {
        if let Some(mine) = turn.0
            && let Some(at) = self.entries.iter().position(|(queued, _)| *queued == mine)
        {
            self.entries.remove(at);
            turn.0 = None;
        }
    }

    /// The waker of who is next.
    pub(super) fn head(&self) -> Option<Waker> {
        self.entries.front().map(|(_, waker)| waker.clone())
    }

    /// Everybody's waker; the queue is empty then, and so are their turns when they leave.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waker> + '_ {
        self.entries.drain(..).map(|(_, waker)| waker)
    }
}

impl Turn {
    /// Whether it was given up or never taken.
    pub(super) fn is_free(&self) -> bool {
        self.0.is_none()
    }
}
