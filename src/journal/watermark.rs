//! Out-of-order completions -> the durable prefix. The only place that reasons about which flush covers what: each
//! covers its own batch, so a batch is durable when it and every batch before it have completed.

use std::collections::VecDeque;

use crate::lsn::Lsn;
use crate::seeded;

/// The batches in flight, in log order, and the LSN up to which everything is durable.
#[derive(Clone, Debug)]
pub(crate) struct Watermark {
    /// The ticket of the first batch in `flights`.
    first_ticket: u64,
    flights: VecDeque<InFlight>,
    /// Of the batches in `flights`.
    bytes: usize,
    durable: Lsn,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    last: Lsn,
    bytes: usize,
    completed: bool,
}

impl Watermark {
    /// Everything up to `durable` is durable, nothing is in flight.
    pub(crate) fn new(durable: Lsn) -> Self {
        Self { first_ticket: 0, flights: VecDeque::new(), bytes: 0, durable }
    }

    /// A batch of `bytes` was submitted whose last record is `last` (for a seal: the last one before it). Returns its
    /// ticket.
    pub(crate) fn handle_submitted(&mut self, last: Lsn, bytes: usize) -> u64 {
        debug_assert!(self.flights.back().is_none_or(|before| before.last <= last));
        let ticket = self.next_ticket();
        self.flights.push_back(InFlight { last, bytes, completed: false });
        self.bytes += bytes;
        ticket
    }

    /// The batch with this ticket is written and flushed.
    pub(crate) fn handle_completed(&mut self, ticket: u64) {
        let index = usize::try_from(ticket - self.first_ticket).unwrap_or(usize::MAX);
        let flight = self.flights.get_mut(index).expect("a ticket completes once");
        flight.completed = true;
        if seeded::is("m3") {
            self.durable = self.durable.max(flight.last);
        }
        while let Some(flight) = self.flights.front().copied().filter(|flight| flight.completed) {
            self.flights.pop_front();
            self.first_ticket += 1;
            self.bytes -= flight.bytes;
            self.durable = self.durable.max(flight.last);
        }
    }

    /// Everything up to here is durable.
    pub(crate) fn durable(&self) -> Lsn {
        self.durable
    }

    /// The bytes of the batches that are submitted and not behind the watermark: what no header claims durable yet.
    pub(crate) fn bytes_in_flight(&self) -> usize {
        self.bytes
    }

    /// The ticket that the next batch gets.
    pub(crate) fn next_ticket(&self) -> u64 {
        self.first_ticket + self.flights.len() as u64
    }

    /// Whether the batch with this ticket and all before it are durable.
    pub(crate) fn is_behind(&self, ticket: u64) -> bool {
        ticket < self.first_ticket
    }

    /// How many batches are submitted and not behind the watermark.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_over_the_contiguous_prefix_only() {
        let mut watermark = Watermark::new(Lsn::new(4));
        let tickets: Vec<u64> = (5..9).map(|last| watermark.handle_submitted(Lsn::new(last), 512)).collect();
        watermark.handle_completed(tickets[2]);
        watermark.handle_completed(tickets[1]);
        assert_eq!((watermark.durable(), watermark.in_flight()), (Lsn::new(4), 4));
        watermark.handle_completed(tickets[0]);
        assert_eq!((watermark.durable(), watermark.in_flight()), (Lsn::new(7), 1));
        assert_eq!(watermark.bytes_in_flight(), 512);
        watermark.handle_completed(tickets[3]);
        assert_eq!((watermark.durable(), watermark.in_flight()), (Lsn::new(8), 0));
    }

    /// Every order of completing five batches: durable is always exactly the completed prefix.
    #[test]
    fn every_order_of_five() {
        fn permute(rest: Vec<u64>, done: &mut Vec<u64>, check: &mut impl FnMut(&[u64])) {
            if rest.is_empty() {
                return check(done);
            }
            for (at, ticket) in rest.iter().enumerate() {
                let mut others = rest.clone();
                others.remove(at);
                done.push(*ticket);
                permute(others, done, check);
                done.pop();
            }
        }
        permute((0..5).collect(), &mut Vec::new(), &mut |order| {
            let mut watermark = Watermark::new(Lsn::ZERO);
            for last in 1..=5 {
                watermark.handle_submitted(Lsn::new(last), 512);
            }
            for (index, ticket) in order.iter().enumerate() {
                watermark.handle_completed(*ticket);
                let done = &order[..=index];
                let prefix = (0..5).take_while(|ticket| done.contains(ticket)).count() as u64;
                assert_eq!(watermark.durable(), Lsn::new(prefix));
            }
        });
    }
}
