//! One seeded history of three machines, and the oracle that watches it.
//!
//! One is the primary. The others follow it over connections that break, delay and lie; any of them loses its power at any
//! time; now and then another becomes primary, and the old one comes back with a tail that nobody else has, or has not
//! noticed at all.

use std::time::Duration;

use ringwal::ship::{
    Member, QUEUE_BYTES, Quorum, ShipError, Sink, SinkConfig, SinkEvent, Source, SourceConfig, SourceEvent, next_term,
};
use ringwal::sim::Faults;
use ringwal::sim::rng::Rng;
use ringwal::{LogId, Lsn};

use super::history::Tally;
use super::net::{Pipe, Recording};
use super::node::{Entry, GROUP_BYTES_MAX, Node, index};

const WINDOW_BYTES: u64 = 5000;
const HEARTBEAT: Duration = Duration::from_secs(1);
const NODES: usize = 3;

/// A connection.
struct Link {
    from: usize,
    to: usize,
    source: Source,
    sink: Sink,
    down: Pipe,
    up: Pipe,
    member: Option<Member>,
    /// The greatest term that the standby knew when it began.
    known: u64,
    /// The source ended, the sink ended.
    over: [bool; 2],
}

pub(crate) struct World<'a> {
    rng: Rng,
    now: Duration,
    tally: &'a mut Tally,
    log_id: LogId,
    nodes: Vec<Node>,
    links: Vec<Link>,
    recording: Recording,
    primary: usize,
    /// An old primary that goes on beside the new one.
    zombie: Option<usize>,
    /// Under which term each believes to reign.
    reign: [u64; NODES],
    /// How many standbys must have a record before it is promised.
    k: usize,
    quorum: Quorum,
    /// What was promised, whoever was primary.
    promised: Vec<Entry>,
    groups: u64,
    /// Whether a standby of which the last record is this far back is a beginning of the primary's log for certain.
    follows: [bool; NODES],
}

impl<'a> World<'a> {
    pub(crate) fn new(seed: u64, tally: &'a mut Tally) -> Self {
        let mut rng = Rng::new(seed);
        let mut log_id = [0; 16];
        rng.fill(&mut log_id);
        let nodes = (0..NODES).map(|at| Node::new(u8::try_from(at).unwrap(), &mut rng)).collect();
        let k = rng.index(3);
        Self {
            now: Duration::ZERO,
            tally,
            log_id: LogId::new(log_id),
            nodes,
            links: Vec::new(),
            recording: Recording::new(),
            primary: 0,
            zombie: None,
            reign: [0; NODES],
            k,
            quorum: Quorum::new(k, Lsn::ZERO),
            promised: Vec::new(),
            groups: 0,
            follows: [false; NODES],
            rng,
        }
    }

    fn count(&mut self, what: &str) {
        *self.tally.entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn run(&mut self) -> Result<(), String> {
        self.open(0)?;
        self.reign(0);
        for _ in 0..400 + self.rng.below(400) {
            let longest = if self.rng.one_in(50) { 3000 } else { 60 };
            self.now += Duration::from_millis(self.rng.below(longest));
            self.act()?;
            self.drive()?;
            self.check()?;
        }
        self.heal()
    }

    fn act(&mut self) -> Result<(), String> {
        let at = self.rng.index(NODES);
        match self.rng.below(100) {
            0..=19 => self.append(self.primary)?,
            20..=22 => {
                if let Some(zombie) = self.zombie {
                    self.append(zombie)?;
                }
            }
            23..=49 => drop(self.nodes[at].sim.tick()),
            50..=59 => drop(self.nodes[at].life.as_mut().map(ringwal::harness::Life::prepare)),
            60..=64 => self.open(at)?,
            65..=79 => self.connect(at),
            80 => self.lose(at),
            81 if self.rng.one_in(2) => self.crash(at),
            82 if self.rng.one_in(4) => (0..NODES).for_each(|at| self.crash(at)),
            83 if self.rng.one_in(3) => self.promote()?,
            84 => self.nodes[at].check()?,
            85 if self.rng.one_in(4) => self.links.iter_mut().for_each(|link| link.sink.close()),
            86 if self.rng.one_in(4) => self.links.iter_mut().for_each(|link| link.source.close()),
            _ => {}
        }
        Ok(())
    }

    /// A client of a primary, or of one that believes to be.
    fn append(&mut self, at: usize) -> Result<(), String> {
        let count = if self.rng.one_in(3) { 2 + self.rng.index(3) } else { 1 };
        self.groups += 1;
        let (term, group) = (self.reign[at], self.groups);
        let long = self.rng.one_in(20) && count == 1;
        let entry = |rng: &mut Rng| {
            let mut payload = vec![0; if long { 3900 } else { [0, 8, 30, 200][rng.index(4)] }];
            rng.fill(&mut payload);
            Entry { payload, term, group }
        };
        let entries = (0..count).map(|_| entry(&mut self.rng)).collect();
        self.nodes[at].append(entries).map(drop)
    }

    fn open(&mut self, at: usize) -> Result<(), String> {
        if self.nodes[at].life.is_some() || !self.nodes[at].open(self.log_id, &mut self.rng)? {
            return Ok(());
        }
        self.count("openings");
        if at == self.primary {
            self.start_quorum();
        }
        Ok(())
    }

    /// Its power fails, or its process is killed.
    fn crash(&mut self, at: usize) {
        if self.nodes[at].life.is_none() {
            return;
        }
        let power = self.rng.one_in(2);
        self.nodes[at].crash(power);
        self.count(if power { "power cuts" } else { "kills" });
        self.drop_links(|link| link.from == at || link.to == at);
        if self.zombie == Some(at) {
            self.zombie = None;
        }
    }

    fn lose(&mut self, at: usize) {
        self.drop_links(|link| link.to == at);
    }

    fn drop_links(&mut self, which: impl Fn(&Link) -> bool) {
        let (gone, stay) = std::mem::take(&mut self.links).into_iter().partition(|link| which(link));
        self.links = stay;
        let gone: Vec<Link> = gone;
        gone.iter().filter_map(|link| link.member).for_each(|member| self.quorum.handle_left(member));
    }

    fn start_quorum(&mut self) {
        let primary = &self.nodes[self.primary];
        let start = primary.staged.iter().take_while(|entry| entry.term < self.reign[self.primary]).count();
        self.quorum = Quorum::new(self.k, Lsn::new(start as u64));
    }

    fn reign(&mut self, at: usize) {
        let known = self.nodes.iter().map(|node| node.term).max().unwrap_or(0);
        let term = next_term(known, self.rng.next_u64() as u32);
        (self.nodes[at].term, self.reign[at], self.primary) = (term, term, at);
        self.follows = [false; NODES];
        self.start_quorum();
    }

    /// As the tour of `ship` says: the primary is lost, or believed to be, and the best of those that can be asked follows.
    fn promote(&mut self) -> Result<(), String> {
        let old = self.primary;
        let mut asked: Vec<usize> = (0..NODES).filter(|at| *at != old && !self.nodes[*at].fresh).collect();
        if self.k > 1 && asked.len() > 1 {
            asked.remove(self.rng.index(2));
        }
        for at in &asked {
            self.open(*at)?;
        }
        let reached = asked.iter().all(|at| self.nodes[*at].life.is_some());
        // What is received and not appended is forgotten, what is appended may become durable.
        let Some(best) = asked.iter().copied().max_by_key(|at| self.nodes[*at].rank()).filter(|_| reached) else {
            return Ok(());
        };
        let beside = self.nodes[old].life.is_some() && self.zombie.is_none() && self.rng.one_in(2);
        if beside {
            self.zombie = Some(old);
            self.count("promotions beside the old primary");
        } else {
            self.crash(old);
        }
        self.drop_links(|_| true);
        if self.zombie == Some(best) {
            self.zombie = None;
        }
        let chosen = &mut self.nodes[best];
        chosen.inbox.clear();
        let (held, promised) = (chosen.durable(), self.promised.len());
        if self.k > 0 && (held < promised || chosen.staged[..promised] != self.promised[..]) {
            return Err(format!("A1: {promised} promised, {held} with the new primary {best}"));
        }
        if self.k == 0 {
            let same = self.promised.iter().zip(&chosen.staged[..held]).take_while(|(a, b)| a == b).count();
            self.promised.truncate(same);
        }
        self.count("promotions");
        self.reign(best);
        Ok(())
    }

    fn connect(&mut self, to: usize) {
        let from = match self.zombie {
            // It finds only those who know better: the others were told whom to follow.
            Some(zombie) if self.nodes[to].term > self.reign[zombie] && self.rng.one_in(3) => zombie,
            _ => self.primary,
        };
        let busy = self.links.iter().any(|link| link.to == to);
        let not_now = to == self.primary || self.zombie == Some(to) || from == to || busy;
        if not_now || self.nodes[from].life.is_none() || !self.nodes[to].is_settled() {
            return;
        }
        let (here, there) = (&self.nodes[from], &self.nodes[to]);
        let source = SourceConfig {
            log_id: self.log_id,
            term: self.reign[from],
            first: Lsn::FIRST,
            durable: Lsn::new(here.durable() as u64),
            batch_bytes_max: GROUP_BYTES_MAX as u64,
            challenge: self.rng.next_u64(),
            heartbeat: HEARTBEAT,
            silence: 5 * HEARTBEAT,
            handshake: 10 * HEARTBEAT,
        };
        let last = there.durable();
        let sink = SinkConfig {
            standby: there.id,
            name: format!("machine {to}"),
            log_id: (last > 0 || there.term > 0).then_some(self.log_id),
            term: there.term,
            last: Lsn::new(last as u64),
            standing: there.standing(last),
            group_bytes_max: GROUP_BYTES_MAX,
            window_bytes: WINDOW_BYTES,
            challenge: self.rng.next_u64(),
            handshake: 10 * HEARTBEAT,
        };
        self.links.push(Link {
            from,
            to,
            source: Source::new(source, self.now),
            sink: Sink::new(sink, self.now),
            down: Pipe::new(&mut self.rng),
            up: Pipe::new(&mut self.rng),
            member: None,
            known: there.term,
            over: [false; 2],
        });
    }

    /// Machines and connections go on.
    fn drive(&mut self) -> Result<(), String> {
        let later = Duration::from_millis(self.rng.below(15));
        for node in &mut self.nodes {
            node.drain_inbox()?;
            if let Some(life) = &mut node.life {
                life.step(later);
            }
        }
        for at in (0..NODES).filter(|at| self.nodes[*at].has_failed()).collect::<Vec<_>>() {
            self.count("disks failed");
            self.crash(at);
        }
        if self.nodes[self.primary].life.is_some() {
            self.quorum.handle_local(Lsn::new(self.nodes[self.primary].durable() as u64));
        }
        let mut links = std::mem::take(&mut self.links);
        let driven = links.iter_mut().try_for_each(|link| self.drive_link(link));
        self.links = links;
        driven?;
        if let Some(zombie) = self.zombie.filter(|zombie| self.links.iter().any(|l| l.from == *zombie && l.over[0])) {
            // Fenced or not, it is asked to follow sooner or later.
            self.crash(zombie);
        }
        self.drop_links(|link| link.over == [true; 2]);
        self.promise()
    }

    fn drive_link(&mut self, link: &mut Link) -> Result<(), String> {
        link.source.handle_durable(Lsn::new(self.nodes[link.from].durable() as u64));
        // Not what the log already held when it began.
        link.sink.handle_durable(Lsn::new(self.nodes[link.to].durable() as u64));
        link.source.handle_time(self.now);
        link.sink.handle_time(self.now);
        if let Some(batch) = link.source.poll_wants().and_then(|from| self.nodes[link.from].batch(from)) {
            link.source.handle_batch(&batch);
        }
        let (rng, recording) = (&mut self.rng, &mut self.recording);
        while link.down.has_room()
            && let Some(piece) = link.source.poll_transmit()
        {
            link.down.send(&piece, rng, recording);
        }
        while link.up.has_room()
            && let Some(piece) = link.sink.poll_transmit()
        {
            link.up.send(&piece, rng, recording);
        }
        for _ in 0..rng.below(4) {
            if let Some(bytes) = link.down.receive(rng) {
                link.sink.handle_bytes(&bytes, self.now);
            }
            if let Some(bytes) = link.up.receive(rng) {
                link.source.handle_bytes(&bytes, self.now);
            }
        }
        if link.down.has_foreign() && !link.sink.is_ended() || link.up.has_foreign() && !link.source.is_ended() {
            return Err("A3: a frame of another connection was taken".to_owned());
        }
        while let Some(event) = link.source.poll_event() {
            self.handle_source(link, event)?;
        }
        while let Some(event) = link.sink.poll_event() {
            self.handle_sink(link, event)?;
        }
        let bound = WINDOW_BYTES as usize + 2 * (GROUP_BYTES_MAX + 100);
        if link.sink.held_bytes() > bound || link.source.held_bytes() > QUEUE_BYTES + 2 * GROUP_BYTES_MAX {
            return Err(format!("P9: {} and {} bytes held", link.source.held_bytes(), link.sink.held_bytes()));
        }
        Ok(())
    }

    fn handle_source(&mut self, link: &mut Link, event: SourceEvent) -> Result<(), String> {
        match event {
            SourceEvent::Check { lsn } => link.source.handle_checked(self.nodes[link.from].standing(index(lsn))),
            SourceEvent::Started { from, standby, name } => {
                self.count("connections started");
                if self.reign[link.from] < link.known {
                    return Err(format!("A3: {name} follows term {} and knows {}", self.reign[link.from], link.known));
                }
                if link.from == self.primary {
                    link.member = Some(self.quorum.handle_started(standby, from.prev()));
                }
            }
            SourceEvent::Acked { durable } => {
                if index(durable) > self.nodes[link.to].durable() {
                    return Err(format!("A1: {durable} acknowledged, {} durable", self.nodes[link.to].durable()));
                }
                if let Some(member) = link.member {
                    self.quorum.handle_acked(member, durable);
                }
            }
            SourceEvent::Fenced { .. } => self.count("fences"),
            SourceEvent::Ended(error) => {
                link.over[0] = true;
                self.ended(&error);
            }
        }
        Ok(())
    }

    fn handle_sink(&mut self, link: &mut Link, event: SinkEvent) -> Result<(), String> {
        let [source, node] = self.nodes.get_disjoint_mut([link.from, link.to]).map_err(|error| error.to_string())?;
        let here = &source.staged;
        match event {
            SinkEvent::Welcome { log_id, term, durable, .. } => {
                assert_eq!(log_id, self.log_id);
                node.term = node.term.max(term);
                if index(durable) < node.staged.len() || here.get(..node.staged.len()) != Some(&node.staged[..]) {
                    return Err(format!("A3: {} records are not those of the source", node.staged.len()));
                }
                link.sink.handle_ready(self.now);
                self.follows[link.to] = link.from == self.primary;
            }
            SinkEvent::Group(group) => {
                let at = node.staged.len() + node.inbox.iter().map(|(group, _)| group.records.len()).sum::<usize>();
                if index(group.first) != at + 1 {
                    return Err(format!("A2: LSN {} came, {} was due", group.first, at + 1));
                }
                let same =
                    |(entry, payload): (&Entry, &bytes::Bytes)| entry.payload == *payload && entry.term == group.term;
                let entries = here.get(at..at + group.records.len()).unwrap_or_default().to_vec();
                if entries.len() != group.records.len() || !entries.iter().zip(&group.records).all(same) {
                    return Err(format!("A3: not the source's records from LSN {}", group.first));
                }
                node.inbox.push_back((group, entries));
                self.count("groups");
            }
            SinkEvent::Durable { source } => {
                let durable = self.nodes[link.from].durable();
                if index(source) > durable {
                    return Err(format!("A7: {source} is not durable at the source, {durable} is"));
                }
            }
            SinkEvent::Ended(error) => {
                link.over[1] = true;
                self.ended(&error);
                if matches!(error, ShipError::Diverged { .. } | ShipError::Ahead { .. }) {
                    self.make_anew(link.to, link.from);
                }
            }
        }
        Ok(())
    }

    fn ended(&mut self, error: &ShipError) {
        let name = format!("{error:?}");
        let name = name.split([' ', '{']).next().unwrap_or_default().to_owned();
        self.count(&format!("ended: {name}"));
    }

    /// An operator makes a standby anew that cannot follow, once nothing that was promised needs it.
    fn make_anew(&mut self, at: usize, source: usize) {
        let holds = |other: usize| {
            other != at
                && self.follows[other]
                && !self.nodes[other].fresh
                && self.nodes[other].durable() >= self.promised.len()
        };
        let safe = self.k == 0 || (0..NODES).any(holds);
        if safe && source == self.primary && self.nodes[self.primary].durable() >= self.promised.len() {
            self.nodes[at].wipe(&mut self.rng);
            self.follows[at] = false;
            self.count("made anew");
        }
    }

    /// What the quorum holds is promised to the clients.
    fn promise(&mut self) -> Result<(), String> {
        let n = index(self.quorum.durable());
        let primary = &self.nodes[self.primary];
        if n > self.promised.len() {
            let Some(new) = primary.staged.get(..n) else { return Err(format!("A1: {n} promised and not here")) };
            if new[..self.promised.len()] != self.promised[..] {
                return Err("A1: what was promised is another record now".to_owned());
            }
            let more = n - self.promised.len();
            self.promised = new.to_vec();
            *self.tally.entry("records promised".to_owned()).or_default() += more as u64;
        }
        for at in 0..NODES {
            let node = &mut self.nodes[at];
            node.fresh &= !(self.follows[at] && node.durable() >= self.promised.len());
        }
        Ok(())
    }

    /// After every step: a standby's log is a beginning of what is durable at the primary.
    fn check(&self) -> Result<(), String> {
        let primary = &self.nodes[self.primary];
        for (at, node) in self.nodes.iter().enumerate().filter(|(at, _)| self.follows[*at]) {
            let n = node.staged.len();
            if n > primary.durable() {
                return Err(format!("A7: {n} records at standby {at}, {} durable at the primary", primary.durable()));
            }
            // All of it is compared where it is received, and when a log is opened.
            if let Some(last) = n.checked_sub(1)
                && primary.staged.get(last) != Some(&node.staged[last])
            {
                return Err(format!("A3: standby {at} holds another record at LSN {n}"));
            }
        }
        Ok(())
    }

    /// With everything healed everybody catches up.
    fn heal(&mut self) -> Result<(), String> {
        if let Some(zombie) = self.zombie {
            self.crash(zombie);
        }
        self.drop_links(|_| true);
        for _ in 0..3000 {
            self.nodes.iter().for_each(|node| node.sim.set_faults(Faults::default()));
            self.now += Duration::from_millis(20);
            for at in 0..NODES {
                self.open(at)?;
                self.nodes[at].sim.tick_all();
                self.nodes[at].life.as_mut().map(ringwal::harness::Life::prepare);
                self.connect(at);
            }
            self.links.iter_mut().for_each(|link| (link.down.heal(), link.up.heal()).0);
            self.drive()?;
            self.check()?;
            let primary = &self.nodes[self.primary];
            let done = |node: &Node| node.is_settled() && node.durable() == primary.durable();
            if primary.is_settled() && self.nodes.iter().all(done) {
                self.nodes.iter().try_for_each(Node::check)?;
                self.count("caught up in the end");
                return Ok(());
            }
            self.make_stuck_anew();
        }
        let state: Vec<_> =
            self.nodes.iter().map(|node| (node.life.is_some(), node.durable(), node.staged.len())).collect();
        Err(format!("A10: not caught up: {state:?}, primary {}, following {:?}", self.primary, self.follows))
    }

    /// Those that cannot follow and were not made anew while more could have been lost.
    fn make_stuck_anew(&mut self) {
        let leader = self.primary;
        for at in (0..NODES).filter(|at| *at != leader) {
            let (node, primary) = (&self.nodes[at], &self.nodes[leader]);
            if node.is_settled() && primary.staged.get(..node.staged.len()) != Some(&node.staged[..]) {
                self.nodes[at].wipe(&mut self.rng);
                self.drop_links(|link| link.to == at);
            }
        }
    }
}
