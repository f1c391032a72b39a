//! Leases of one site, shared by shards over a network that delays and overtakes, through ends of
//! the process; and the peer, who counts.
//!
//! Holders and the owner's cell are the real ones; what is around them (clock, memos, connections,
//! the file) is simulated from a seed. Whatever second or minute the peer looks at, and at whatever
//! point of a message: it never sees more than its limits. `RINGPOST_SIM_LEASE_SEED` runs one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use ringpost_sim::config::SiteLimits;
use ringpost_sim::delivery::lease::SiteKey;
use ringpost_sim::delivery::lease::cell::{Ask, Cell, Grant, Kind, LeaseCell};
use ringpost_sim::delivery::lease::holder::{Holder, Urgency};
use ringpost_sim::delivery::lease::record::{self, Clocks, Records};
use ringpost_sim::routing::{Hop, Place};

use crate::peers::{Peer, Time};
use ringpost_sim::rng::Rng;

/// What is wrong with the world around the leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// A message's token is reported used when its MAIL is sent, not when its reply has come.
    ReturnsAtGrant,
    /// A new process does not wait for what its predecessor sent.
    ForgetsWindow,
    /// A new process does not read the file.
    ForgetsRecord,
    /// A connection's slot is given back at QUIT.
    FreesBeforeFin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A shard's beat.
    Beat(usize),
    /// A shard's mail comes and goes.
    Demand(usize),
    /// An ask or a grant arrives, by its number.
    Memo(u64),
    /// A connection of a shard gets on.
    Step(u64),
    /// What the peer sees.
    Accepted(u64),
    Mail,
    End,
    Closed(u64),
    /// A record is written.
    Recorded,
    Kill,
}

enum Memo {
    Ask(usize, Ask),
    Grant(usize, Grant),
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The handshake is under way.
    Opening,
    Ready,
    /// So many messages are under way.
    Sending(u32),
    /// QUIT was said.
    Closing,
}

struct Connection {
    shard: usize,
    phase: Phase,
    messages_left: usize,
}

/// One process.
struct Life {
    cell: Cell,
    holders: Vec<Holder>,
    wants: Vec<bool>,
    connections: BTreeMap<u64, Connection>,
    /// Being written, and whether it will be.
    writing: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ran {
    messages: u64,
    connections: u64,
    lives: u64,
}

struct World<'r> {
    rng: &'r mut Rng,
    bug: Bug,
    now: Time,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    count: u64,
    memos: HashMap<u64, Memo>,
    limits: SiteLimits,
    shard_count: usize,
    life: Life,
    file: Option<String>,
    peer: Peer,
    by_shard: Vec<u64>,
    ran: Ran,
}

impl World<'_> {
    fn at(&mut self, time: Time, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count, event)));
    }

    fn after(&mut self, us_max: usize, event: Event) {
        let delay = self.rng.below(us_max) as u64 + 1;
        self.at(self.now + delay, event);
    }

    /// The clock as shards read it: whole milliseconds.
    fn ms(&self) -> u64 {
        self.now / 1000
    }

    /// The coarse one lags behind.
    fn coarse_ms(&mut self) -> u64 {
        self.ms().saturating_sub(self.rng.below(11) as u64)
    }

    fn clocks(&self) -> Clocks {
        let ms = self.ms();
        Clocks { boot_id: "b".into(), boot_ms: ms, unix_ms: 5_000_000 + ms, monotonic_ms: ms }
    }

    fn begin_life(&mut self) {
        let is_forgetful = self.bug == Bug::ForgetsRecord;
        let text = self.file.as_ref().filter(|_| !is_forgetful);
        let records = text.map(|text| record::read(text, &self.clocks()).expect("not damaged"));
        let restored = records.and_then(|mut it| it.remove(&SITE)).unwrap_or_default().windows;
        let quiet_ms = if self.bug == Bug::ForgetsWindow { 0 } else { 2_000 };
        let quiet_until_ms = self.ms() + quiet_ms;
        self.life = Life {
            cell: Cell::new(&self.limits, self.shard_count, quiet_until_ms, &restored),
            holders: (0..self.shard_count).map(|_| Holder::default()).collect(),
            wants: (0..self.shard_count).map(|_| self.rng.percent(80)).collect(),
            connections: BTreeMap::new(),
            writing: None,
        };
        self.ran.lives += 1;
        for shard in 0..self.shard_count {
            self.after(10_000, Event::Beat(shard));
            self.after(3_000_000, Event::Demand(shard));
        }
        let life = 1_000_000 + self.rng.below(20_000_000) as u64;
        self.at(self.now + life, Event::Kill);
    }

    /// Everything of the process goes; what it sent arrives all the same.
    fn kill(&mut self) {
        self.memos.clear();
        let connections: Vec<u64> = self.life.connections.keys().copied().collect();
        let kept = std::mem::take(&mut self.events).into_iter().filter(|Reverse((.., event))| {
            matches!(event, Event::Accepted(_) | Event::Mail | Event::End | Event::Closed(_))
        });
        self.events = kept.collect();
        for id in connections {
            let is_closing = matches!(self.life.connections[&id].phase, Phase::Closing);
            if !is_closing {
                // Behind whatever of it is still under way.
                let delay = 900_000 + self.rng.below(100_000) as u64;
                self.at(self.now + delay, Event::Closed(id));
            }
        }
        if let Some(text) = self.life.writing.take()
            && self.rng.percent(50)
        {
            self.file = Some(text);
        }
        self.now += 1_000 + self.rng.below(500_000) as u64;
        // What arrived while nobody ran is seen by the peer in its time.
        self.begin_life();
    }

    fn tell(&mut self, shard: usize, urgency: Urgency) {
        let Some(ask) = self.life.holders[shard].poll_ask(urgency) else { return };
        if shard == OWNER {
            self.life.cell.handle_ask(shard, &ask);
            return self.hand_out();
        }
        if self.rng.percent(10) {
            return self.life.holders[shard].refuse_ask();
        }
        self.send(Memo::Ask(shard, ask));
    }

    fn hand_out(&mut self) {
        let now_ms = self.coarse_ms();
        while let Some((holder, grant)) = self.life.cell.poll_grant(now_ms) {
            if holder == OWNER {
                self.life.holders[holder].handle_grant(&grant, now_ms);
            } else if self.rng.percent(10) {
                return self.life.cell.refuse_grant(holder);
            } else {
                self.send(Memo::Grant(holder, grant));
            }
        }
    }

    /// Memos may overtake one another.
    fn send(&mut self, memo: Memo) {
        self.count += 1;
        let number = self.count;
        self.memos.insert(number, memo);
        let us_max = if self.rng.percent(5) { 200_000 } else { 5_000 };
        self.after(us_max, Event::Memo(number));
    }

    fn take(&mut self, shard: usize, kind: Kind, wish: u32) -> bool {
        let now_ms = self.coarse_ms();
        for attempt in 0..2 {
            let holder = &mut self.life.holders[shard];
            let taken = holder.take(kind, now_ms);
            holder.wish(kind, if taken { wish } else { wish.max(1) });
            if taken {
                return true;
            }
            if attempt == 0 {
                self.tell(shard, Urgency::Now);
            }
        }
        false
    }

    fn finish(&mut self, shard: usize, kind: Kind, wait_ms: u64) {
        let end_ms = self.ms() + 1 + wait_ms;
        self.life.holders[shard].finish(kind, end_ms);
    }

    fn beat(&mut self, shard: usize) {
        let now_ms = self.coarse_ms();
        self.life.holders[shard].return_idle(now_ms);
        self.tell(shard, Urgency::Later);
        if shard == OWNER {
            if let Some(record) = self.life.cell.poll_record(now_ms) {
                let records = Records::from([(SITE, record)]);
                self.life.writing = Some(record::write(&records, &self.clocks()));
                self.after(50_000, Event::Recorded);
            }
            self.hand_out();
        }
        let own = self.life.connections.values().filter(|it| it.shard == shard).count();
        if self.life.wants[shard] && own < CONNECTIONS_PER_SHARD {
            self.open(shard);
        }
        self.at(self.now + 10_000, Event::Beat(shard));
    }

    fn open(&mut self, shard: usize) {
        let limits = self.limits;
        if limits.connections.is_some() && !self.take(shard, Kind::Connection, 0) {
            return;
        }
        if limits.connections_per_second.is_some() && !self.take(shard, Kind::Opening, 0) {
            if limits.connections.is_some() {
                self.life.holders[shard].put_back(Kind::Connection);
            }
            return;
        }
        self.count += 1;
        let id = self.count;
        let messages_left = 1 + self.rng.below(200);
        let connection = Connection { shard, phase: Phase::Opening, messages_left };
        self.life.connections.insert(id, connection);
        let there = self.now + 1 + self.rng.below(20_000) as u64;
        self.at(there, Event::Accepted(id));
        let back = there + 1 + self.rng.below(20_000) as u64;
        self.at(back, Event::Step(id));
    }

    fn step(&mut self, id: u64) {
        let Some(connection) = self.life.connections.get(&id) else { return };
        let Connection { shard, phase, messages_left } = *connection;
        match phase {
            Phase::Opening => {
                if self.limits.connections_per_second.is_some() {
                    self.finish(shard, Kind::Opening, 0);
                }
                self.enter(id, Phase::Ready);
                self.step(id);
            }
            Phase::Ready => {
                let holder = &self.life.holders[shard];
                let wants = self.life.wants[shard];
                if messages_left == 0 || holder.is_to_close() || !wants && self.rng.percent(20) {
                    return self.close(id);
                }
                let group = if wants { 1 + self.rng.below(5) } else { 0 };
                let mut count = 0;
                let is_limited = !Kind::Message.bounds(&self.limits).is_empty();
                while count < group && (!is_limited || self.take(shard, Kind::Message, 10)) {
                    count += 1;
                }
                if count == 0 {
                    return self.after(20_000, Event::Step(id));
                }
                self.send_messages(id, count as u32);
            }
            Phase::Sending(count) => {
                for _ in 0..count {
                    if self.bug != Bug::ReturnsAtGrant && self.is_message_limited() {
                        self.finish(shard, Kind::Message, 0);
                    }
                }
                self.enter(id, Phase::Ready);
                self.step(id);
            }
            Phase::Closing => {
                if self.bug != Bug::FreesBeforeFin && self.limits.connections.is_some() {
                    self.finish(shard, Kind::Connection, 0);
                }
                self.life.connections.remove(&id);
            }
        }
    }

    fn is_message_limited(&self) -> bool {
        !Kind::Message.bounds(&self.limits).is_empty()
    }

    fn enter(&mut self, id: u64, phase: Phase) {
        self.life.connections.get_mut(&id).expect("it steps").phase = phase;
    }

    fn send_messages(&mut self, id: u64, count: u32) {
        let connection = self.life.connections.get_mut(&id).expect("it steps");
        let shard = connection.shard;
        connection.messages_left = connection.messages_left.saturating_sub(count as usize);
        self.by_shard[shard] += u64::from(count);
        let breaks = self.rng.percent(2);
        // What a broken connection still carries arrives within a second.
        let spread = if breaks { 450_000 } else { 30_000 };
        let mut last = self.now;
        for _ in 0..count {
            let mail = self.now + 1 + self.rng.below(spread) as u64;
            let end = mail + 1 + self.rng.below(spread) as u64;
            self.at(mail, Event::Mail);
            self.at(end, Event::End);
            last = last.max(end);
            if self.bug == Bug::ReturnsAtGrant && self.is_message_limited() {
                self.finish(shard, Kind::Message, 0);
            }
        }
        if breaks {
            self.break_off(id, count, last);
            return;
        }
        self.enter(id, Phase::Sending(count));
        let reply = last + 1 + self.rng.below(20_000) as u64;
        self.at(reply, Event::Step(id));
    }

    fn break_off(&mut self, id: u64, count: u32, last: Time) {
        let shard = self.life.connections[&id].shard;
        if self.bug != Bug::ReturnsAtGrant && self.is_message_limited() {
            (0..count).for_each(|_| self.finish(shard, Kind::Message, 1_000));
        }
        if self.limits.connections.is_some() {
            self.finish(shard, Kind::Connection, 1_000);
        }
        self.life.connections.remove(&id);
        self.at(last + 1, Event::Closed(id));
    }

    fn close(&mut self, id: u64) {
        let shard = self.life.connections[&id].shard;
        self.enter(id, Phase::Closing);
        if self.bug == Bug::FreesBeforeFin && self.limits.connections.is_some() {
            self.finish(shard, Kind::Connection, 0);
        }
        let there = self.now + 1 + self.rng.below(20_000) as u64;
        self.at(there, Event::Closed(id));
        let back = there + 1 + self.rng.below(20_000) as u64;
        self.at(back, Event::Step(id));
    }

    fn on_event(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Beat(shard) => self.beat(shard),
            Event::Demand(shard) => {
                self.life.wants[shard] = self.rng.percent(80);
                self.after(3_000_000, Event::Demand(shard));
            }
            Event::Memo(number) => match self.memos.remove(&number).expect("sent once") {
                Memo::Ask(shard, ask) => {
                    self.life.cell.handle_ask(shard, &ask);
                    self.hand_out();
                }
                Memo::Grant(shard, grant) => {
                    let now_ms = self.coarse_ms();
                    self.life.holders[shard].handle_grant(&grant, now_ms);
                }
            },
            Event::Step(id) => self.step(id),
            Event::Recorded => {
                let text = self.life.writing.take().expect("being written");
                let durable = !self.rng.percent(5);
                if durable {
                    self.file = Some(text);
                }
                self.life.cell.on_recorded(durable);
            }
            Event::Kill => self.kill(),
            Event::Accepted(id) => {
                self.ran.connections += 1;
                self.peer.on_accepted(id, self.now)?;
            }
            Event::Closed(id) => self.peer.on_closed(id),
            Event::Mail => {
                self.ran.messages += 1;
                self.peer.on_mail(self.now)?;
            }
            Event::End => self.peer.on_end(self.now)?,
        }
        Ok(())
    }
}

fn some_limits(rng: &mut Rng) -> SiteLimits {
    let mut limit = |chance: usize, from: usize, end: usize| {
        rng.percent(chance).then(|| rng.between(from, end) as u32)
    };
    SiteLimits {
        connections: limit(70, 1, 6),
        connections_per_second: limit(40, 1, 8),
        messages_per_second: limit(70, 1, 80),
        messages_per_minute: limit(50, 1, 900),
        ..SiteLimits::default()
    }
}

fn run(seed: u64, bug: Bug) -> Result<(Ran, Vec<u64>), String> {
    let rng = &mut Rng::new(seed);
    let limits = some_limits(rng);
    let shard_count = rng.between(1, 6);
    let mut world = World {
        rng,
        bug,
        now: 0,
        events: BinaryHeap::new(),
        count: 0,
        memos: HashMap::new(),
        limits,
        shard_count,
        life: Life {
            cell: Cell::new(&limits, shard_count, 0, &[]),
            holders: Vec::new(),
            wants: Vec::new(),
            connections: BTreeMap::new(),
            writing: None,
        },
        file: None,
        peer: Peer::new(limits),
        by_shard: vec![0; shard_count],
        ran: Ran::default(),
    };
    world.begin_life();
    while let Some(Reverse((time, _, event))) = world.events.pop() {
        if time > RUN_US {
            break;
        }
        // What the peer saw while no process ran lies behind the clock of the next one.
        let now = std::mem::replace(&mut world.now, time);
        world.on_event(event)?;
        world.now = world.now.max(now);
    }
    Ok((world.ran, world.by_shard))
}

#[test]
fn no_peer_ever_sees_more_than_its_limits() {
    if let Ok(seed) = std::env::var("RINGPOST_SIM_LEASE_SEED") {
        let ran = run(seed.parse().expect("a number"), Bug::None);
        println!("{:?}", ran.expect("no violation"));
        return;
    }
    let mut sum = Ran::default();
    for seed in 0..SEEDS {
        let (ran, by_shard) = run(seed, Bug::None).unwrap_or_else(|violation| {
            panic!("seed {seed}: {violation}\nRINGPOST_SIM_LEASE_SEED={seed} cargo test --test sim")
        });
        // Where a minute's worth goes in a burst, its shares are those of the moment.
        let has_shares = some_limits(&mut Rng::new(seed)).messages_per_minute.is_none();
        let all_send = by_shard.iter().all(|count| *count > 0);
        assert!(all_send || !has_shares, "seed {seed}: {by_shard:?}");
        sum.messages += ran.messages;
        sum.connections += ran.connections;
        sum.lives += ran.lives;
    }
    println!("{SEEDS} seeds: {sum:?}");
    assert!(sum.lives > 3 * SEEDS);
    assert!(sum.messages > 1_000 * SEEDS && sum.connections > 20 * SEEDS);
}

#[test]
fn the_same_seed_is_the_same_run_of_leases() {
    for seed in 0..3 {
        assert_eq!(run(seed, Bug::None), run(seed, Bug::None));
    }
}

fn caught(bug: Bug) {
    crate::caught_by(run, bug, BUG_SEEDS);
}

#[test]
fn a_token_returned_before_the_reply_is_caught() {
    caught(Bug::ReturnsAtGrant);
}

#[test]
fn a_window_forgotten_at_a_restart_is_caught() {
    caught(Bug::ForgetsWindow);
}

#[test]
fn a_record_forgotten_at_a_restart_is_caught() {
    caught(Bug::ForgetsRecord);
}

#[test]
fn a_slot_freed_before_the_fin_is_caught() {
    caught(Bug::FreesBeforeFin);
}

const SITE: SiteKey = SiteKey {
    hop: Hop {
        place: Place::Address {
            protocol: ringpost_sim::config::NextHopProtocol::Smtp,
            address: std::net::SocketAddr::new(
                std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
                2526,
            ),
        },
        domain: None,
    },
    source: None,
};
/// The shard that owns the site.
const OWNER: usize = 0;
const CONNECTIONS_PER_SHARD: usize = 4;
const RUN_US: Time = 90_000_000;
const SEEDS: u64 = 60;
const BUG_SEEDS: u64 = 40;
