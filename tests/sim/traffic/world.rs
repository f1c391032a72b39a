//! What the processes of a run live in: disks, next hops, and the clients' memory.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ringpost_sim::Bug;
use ringpost_sim::config::{
    Config, Limit, LogFormat, NextHop, NextHopProtocol, Retry, RetryPolicy, SiteLimits,
};
use ringpost_sim::journal::format::SEGMENT_HEADER_BYTES;
use ringpost_sim::journal::tap::{JournalAllotment, Tap};
use ringpost_sim::limits::FRAME_BYTES_MAX;
use ringpost_sim::proto::classify::NamePattern;
use ringpost_sim::rng::Rng;
use ringpost_sim::routing::Hop;
use ringpost_sim::runtime::executor;
use ringpost_sim::runtime::log_ring::Device;

use super::ledger::{Ledger, SENDERS};
use crate::peers::{Peer, Time};

pub struct World {
    pub bug: Bug,
    pub config: Arc<Config>,
    pub shards: Vec<Shard>,
    pub sites: Vec<Site>,
    pub ledger: RefCell<Ledger>,
    network: RefCell<Network>,
    violation: RefCell<Option<String>>,
    /// No session is begun from now on, and no connection goes on.
    pub is_stopping: Cell<bool>,
    /// Faults have an end, and nobody sends anything.
    pub is_draining: Cell<bool>,
    /// An operator had tasks of this process tried before their time.
    pub is_hurried: Cell<bool>,
    /// An operator let mail go before its release, which outlives the process.
    pub has_released: Cell<bool>,
}

/// What of a shard outlives its processes.
pub struct Shard {
    pub device: Rc<Device>,
    pub allotment: Rc<JournalAllotment>,
    pub tap: Rc<Tap>,
    /// Tasks, by message and number, that this process put off without a record.
    pub put_off: RefCell<BTreeSet<(u64, u16)>>,
}

/// A next hop.
pub struct Site {
    pub next_hop: NextHop,
    pub mood: Cell<Mood>,
}

impl Site {
    pub fn hop(&self) -> Hop {
        Hop::parse(&self.next_hop.to_string()).expect("an address")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// It takes its time.
    Slow,
    /// Most of what it gets it wants to get later.
    Defers,
    /// It takes some, and not the rest.
    Refuses,
    /// Connections break before or after the end of data.
    Breaks,
    /// Nobody is there.
    Dead,
}

#[derive(Default)]
struct Network {
    peers: Vec<Peer>,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    count: u64,
    /// Open as the process knows it, with their sites.
    connections: BTreeMap<u64, usize>,
}

/// What a next hop sees.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Accepted {
        site: usize,
        connection: u64,
    },
    Closed {
        site: usize,
        connection: u64,
    },
    Mail {
        site: usize,
    },
    End {
        site: usize,
        /// Recipients for which it takes the message.
        taken: Vec<String>,
        /// The message is a report.
        report: Option<String>,
    },
}

impl World {
    pub fn new(rng: &mut Rng, bug: Bug) -> Rc<World> {
        let site_count = rng.between(2, 5);
        let next_hop = |index: usize| NextHop::Address {
            protocol: NextHopProtocol::Smtp,
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, index as u8 + 1)), 25),
        };
        let limits: Vec<SiteLimits> = (0..site_count).map(|_| some_limits(rng)).collect();
        let sites = (0..site_count)
            .map(|index| Site { next_hop: next_hop(index), mood: Cell::new(Mood::Well) });
        let shard_count = [1, 1, 2, 2, 3, 4][rng.below(6)];
        let segment_bytes = SEGMENT_BYTES_MIN + rng.below(3) * 256 * 1024;
        let shards = (0..shard_count).map(|_| {
            let device = Rc::new(Device::default());
            for _ in 0..rng.between(2, 7) {
                device.disk.borrow_mut().add_slot(segment_bytes);
            }
            let slots_max = Cell::new(rng.between(8, 14));
            let is_full = Cell::new(false);
            Shard {
                device,
                allotment: Rc::new(JournalAllotment { segment_bytes, slots_max, is_full }),
                tap: Tap::new(bug),
                put_off: RefCell::default(),
            }
        });
        let shards = shards.collect();
        let config = some_config(rng, &limits, next_hop);
        Rc::new(World {
            bug,
            config: Arc::new(config),
            shards,
            sites: sites.collect(),
            ledger: RefCell::default(),
            network: RefCell::new(Network {
                peers: limits.into_iter().map(Peer::new).collect(),
                ..Network::default()
            }),
            violation: RefCell::default(),
            is_stopping: Cell::new(false),
            is_draining: Cell::new(false),
            is_hurried: Cell::new(false),
            has_released: Cell::new(false),
        })
    }

    /// Notes what is not as it must be, and ends the process.
    pub fn check(&self, checked: Result<(), String>) {
        if let Err(violation) = checked {
            self.violation.borrow_mut().get_or_insert(violation);
            executor::stop();
        }
    }

    pub fn verdict(&self) -> Result<(), String> {
        self.violation.borrow().clone().map_or(Ok(()), Err)
    }

    /// Where the mail of a domain goes that nobody rerouted.
    pub fn site_of(&self, domain: &str, next_hop: Option<&NextHop>) -> usize {
        let by_next_hop = |it: &NextHop| self.sites.iter().position(|site| site.next_hop == *it);
        let by_domain = || {
            let number = domain.strip_prefix('d').and_then(|it| it.strip_suffix(".test"));
            number.and_then(|it| it.parse::<usize>().ok()).unwrap_or(0) % self.sites.len()
        };
        next_hop.and_then(by_next_hop).unwrap_or_else(by_domain)
    }

    /// Lets a next hop see something at `time`, even if no process lives by then.
    pub fn at(&self, time: Time, event: Event) {
        let network = &mut *self.network.borrow_mut();
        network.count += 1;
        network.events.push(Reverse((time, network.count, event)));
    }

    /// A connection that is being opened.
    pub fn connect(&self, site: usize) -> u64 {
        let network = &mut *self.network.borrow_mut();
        network.count += 1;
        network.connections.insert(network.count, site);
        network.count
    }

    /// The next hop sees the end of a connection at `time`.
    pub fn disconnect(&self, connection: u64, time: Time) {
        let site = self.network.borrow_mut().connections.remove(&connection);
        self.at(time, Event::Closed { site: site.expect("it is open"), connection });
    }

    /// The process has ended: connections that it had open end within a second.
    pub fn disconnect_all(&self) {
        let connections = std::mem::take(&mut self.network.borrow_mut().connections);
        for (connection, site) in connections {
            // Behind whatever of it is still under way.
            let time = executor::now_us() + 900_000 + executor::below(100_000) as u64;
            self.at(time, Event::Closed { site, connection });
        }
    }

    pub fn next_event_us(&self) -> Option<Time> {
        self.network.borrow().events.peek().map(|Reverse((time, ..))| *time)
    }

    /// Lets next hops see what has come to them.
    pub fn see(&self) {
        let now = executor::now_us();
        let mut network = self.network.borrow_mut();
        while network.events.peek().is_some_and(|Reverse((time, ..))| *time <= now) {
            let Some(Reverse((time, _, event))) = network.events.pop() else { return };
            self.check(self.on_event(&mut network.peers, time, event));
        }
    }

    fn on_event(&self, peers: &mut [Peer], time: Time, event: Event) -> Result<(), String> {
        match event {
            Event::Accepted { site, connection } => peers[site].on_accepted(connection, time),
            Event::Closed { site, connection } => {
                peers[site].on_closed(connection);
                Ok(())
            }
            Event::Mail { site } => peers[site].on_mail(time),
            Event::End { site, taken, report } => {
                let mut ledger = self.ledger.borrow_mut();
                taken.iter().for_each(|address| ledger.on_taken(address));
                report.map_or(Ok(()), |report| ledger.on_report(&report))?;
                peers[site].on_end(time)
            }
        }
    }

    /// Some next hop feels otherwise from now on.
    pub fn change_mood(&self) {
        let moods = [Mood::Slow, Mood::Defers, Mood::Refuses, Mood::Breaks, Mood::Dead];
        let site = &self.sites[executor::below(self.sites.len())];
        let is_well = executor::percent(45);
        site.mood.set(if is_well { Mood::Well } else { moods[executor::below(moods.len())] });
    }

    /// From now on nothing fails and nobody sends anything.
    pub fn begin_drain(&self) {
        self.is_draining.set(true);
        self.is_hurried.set(true);
        self.has_released.set(true);
        self.sites.iter().for_each(|site| site.mood.set(Mood::Well));
        for shard in &self.shards {
            shard.device.failure_rarity.set(0);
            shard.allotment.is_full.set(false);
        }
    }
}

fn some_limits(rng: &mut Rng) -> SiteLimits {
    if rng.percent(45) {
        return SiteLimits::default();
    }
    let mut limit = |chance: usize, from: usize, end: usize| {
        rng.percent(chance).then(|| rng.between(from, end) as u32)
    };
    SiteLimits {
        connections: limit(70, 1, 5),
        connections_per_second: limit(40, 2, 8),
        messages_per_second: limit(70, 5, 60),
        ..SiteLimits::default()
    }
}

fn some_config(
    rng: &mut Rng,
    limits: &[SiteLimits],
    next_hop: impl Fn(usize) -> NextHop,
) -> Config {
    static BASE: OnceLock<Config> = OnceLock::new();
    let mut config = BASE.get_or_init(Config::embedded).clone();
    let seconds = |count: usize| Duration::from_secs(count as u64);
    config.hostname = "mx.sim.test".into();
    config.queue.retry_wait_min = Duration::from_millis(300 + rng.below(2_000) as u64);
    config.queue.retry_wait_max = seconds(rng.between(3, 10));
    config.queue.lifetime = seconds(rng.between(15, 120));
    config.queue.content_cache_bytes = [0, 50_000, 10 << 20][rng.below(3)];
    config.queue.messages_max = rng.between(40, 200);
    config.log.format = LogFormat::Json;
    config.limits = limits
        .iter()
        .enumerate()
        .map(|(index, limits)| Limit {
            site: NamePattern::parse(&next_hop(index).to_string()),
            domain: None,
            source: None,
            limits: *limits,
        })
        .collect();
    // Reports come back in any case.
    let policy = RetryPolicy { lifetime: Duration::from_secs(3600), ..config.queue.retry() };
    let domain = NamePattern::parse(SENDERS);
    config.retries.push(Retry { domain, tenant: None, class: None, policy });
    if rng.percent(50) {
        let policy =
            RetryPolicy { delay_notice: Some(seconds(rng.between(2, 8))), ..config.queue.retry() };
        let (domain, tenant, class) = (None, None, None);
        config.retries.push(Retry { domain, tenant, class, policy });
    }
    config
}

/// A header and two frames.
const SEGMENT_BYTES_MIN: usize = SEGMENT_HEADER_BYTES + 2 * FRAME_BYTES_MAX;
