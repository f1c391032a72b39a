//! Leases: what a site takes at most, shared by all shards and never exceeded.
//!
//! One shard owns a site, by rendezvous hash, and hands out tokens from its `Cell`; every shard
//! sends under those it holds and reports them used or unused. Inside the process a token never
//! expires: one that is not reported counts as in use. A site without limits asks nobody.
//!
//! Asks and grants say absolute values. What a full inbox refuses is said anew, with whatever has
//! changed meanwhile, at the next beat; nothing waits in a line, so nothing is lost or grows.

pub mod cell;
pub mod holder;
pub mod meter;
pub mod record;
pub mod store;

use std::cell::{Cell as CopyCell, RefCell};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::config::{Config, SiteLimits};
use crate::metrics::Metrics;
use crate::routing::Hop;
use crate::runtime::sync::Notify;
use crate::runtime::{clock, task, timer};
use cell::{Ask, Cell, Grant, Kind, LeaseCell, LimitUse};
use holder::{Holder, Urgency};
use meter::Cooling;
use store::{RecordStore, Recorded, Restored};

/// A destination as the world limits it: a place as it is seen from one of our addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteKey {
    pub hop: Hop,
    /// `None` where the kernel chooses.
    pub source: Option<IpAddr>,
}

impl SiteKey {
    /// The shard whose cell leases of this site come from: the one with the highest hash.
    pub fn owner(&self, shard_count: usize) -> usize {
        let score = |shard: &usize| {
            let mut hasher = DefaultHasher::new();
            (self, shard).hash(&mut hasher);
            hasher.finish()
        };
        (0..shard_count).max_by_key(score).expect("there is a shard")
    }

    /// What the configuration says of it.
    pub fn limits(&self, config: &Config) -> SiteLimits {
        let source = self.source.and_then(|address| config.source_at(address));
        let source = source.map(|source| source.name.as_str());
        // Without limits no name has to be written.
        if config.limits.is_empty() {
            return SiteLimits::default();
        }
        config.limits_of(&self.hop.to_string(), self.hop.domain.as_deref(), source)
    }
}

/// What holders and owners of different shards say to one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseMemo {
    Ask { site: SiteKey, from: usize, ask: Ask },
    Grant { site: SiteKey, grant: Grant },
}

/// Carries a memo to a shard; false when the shard's inbox is full.
pub type SendLease = Rc<dyn Fn(usize, LeaseMemo) -> bool>;

/// Leases on one shard: those it holds, and the cells of sites it owns. Clones are the same.
#[derive(Clone)]
pub struct Leases {
    inner: Rc<Inner>,
}

struct Inner {
    shard: usize,
    shard_count: usize,
    send: SendLease,
    metrics: Rc<Metrics>,
    config: RefCell<Arc<Config>>,
    /// In order, so that the beat serves sites in the same order each time.
    cells: RefCell<BTreeMap<SiteKey, Cell>>,
    held: RefCell<BTreeMap<SiteKey, Rc<SiteLease>>>,
    /// Sites for which more is in hand, or a connection is to be closed.
    news: RefCell<Vec<SiteKey>>,
    has_news: Notify,
    /// Rung when the first limited site appears.
    begins: Notify,
    /// Monotonic milliseconds before which a cell made now grants nothing.
    quiet_until_ms: CopyCell<u64>,
    store: RecordStore,
    recorded_sender: Sender<Recorded>,
    recorded: Receiver<Recorded>,
    /// No record is tried before, after one could not be written.
    record_again_ms: CopyCell<u64>,
}

/// A shard's leases of one site.
pub struct SiteLease {
    key: SiteKey,
    owner: usize,
    limits: CopyCell<SiteLimits>,
    limited: CopyCell<[bool; Kind::ALL.len()]>,
    holder: RefCell<Holder>,
}

impl SiteLease {
    fn new(key: SiteKey, shard_count: usize, config: &Config) -> Self {
        let lease = Self {
            owner: key.owner(shard_count),
            key,
            limits: CopyCell::default(),
            limited: CopyCell::default(),
            holder: RefCell::default(),
        };
        lease.reload(config);
        lease
    }

    fn reload(&self, config: &Config) {
        let limits = self.key.limits(config);
        self.limits.set(limits);
        self.limited.set(Kind::ALL.map(|kind| !kind.bounds(&limits).is_empty()));
    }

    pub fn limits(&self) -> SiteLimits {
        self.limits.get()
    }

    pub fn is_limited(&self, kind: Kind) -> bool {
        self.limited.get()[kind as usize]
    }

    /// Whether others wait for one of our connections.
    pub fn is_to_close(&self) -> bool {
        self.is_limited(Kind::Connection) && self.holder.borrow().is_to_close()
    }

    /// Nothing waits for leases of this site any more.
    pub fn wish_nothing(&self) {
        if self.limited.get() != [false; Kind::ALL.len()] {
            let mut holder = self.holder.borrow_mut();
            Kind::ALL.iter().for_each(|kind| holder.wish(*kind, 0));
        }
    }
}

/// A lease in use. Dropped without a word it counts as used until a while from now: its task has
/// died, and what it sent may still be under way.
pub struct Token {
    /// `None` once it was reported.
    lease: Option<Rc<SiteLease>>,
    kind: Kind,
}

impl Token {
    /// It was used, and the peer has seen the end of that.
    pub fn finish(mut self) {
        // The clock counts whole milliseconds.
        self.report(clock::monotonic_ms() + 1);
    }

    /// It was not used: nothing of it was sent.
    pub fn put_back(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.holder.borrow_mut().put_back(self.kind);
        }
    }

    fn report(&mut self, end_ms: u64) {
        if let Some(lease) = self.lease.take() {
            lease.holder.borrow_mut().finish(self.kind, end_ms);
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.report(clock::monotonic_ms() + 1 + ABORT_MS);
    }
}

impl Leases {
    pub fn start(
        shard: usize,
        shard_count: usize,
        config: Arc<Config>,
        metrics: Rc<Metrics>,
        store: RecordStore,
        send: SendLease,
    ) -> Leases {
        let (recorded_sender, recorded) = channel();
        let leases = Leases {
            inner: Rc::new(Inner {
                shard,
                shard_count,
                send,
                metrics,
                config: RefCell::new(config),
                cells: RefCell::default(),
                held: RefCell::default(),
                news: RefCell::default(),
                has_news: Notify::default(),
                begins: Notify::default(),
                quiet_until_ms: CopyCell::new(clock::monotonic_ms() + QUIET_MS),
                store,
                recorded_sender,
                recorded,
                record_again_ms: CopyCell::new(0),
            }),
        };
        task::spawn(leases.clone().run());
        leases
    }

    /// Limits follow `config`. What went out without a lease until now counts at the peers: a
    /// limit that there was not begins after a quiet time.
    pub fn reload(&self, config: Arc<Config>) {
        let inner = &self.inner;
        let quiet_until_ms = clock::monotonic_ms() + QUIET_MS;
        inner.quiet_until_ms.set(quiet_until_ms);
        for lease in inner.held.borrow().values() {
            lease.reload(&config);
        }
        for (key, cell) in &mut *inner.cells.borrow_mut() {
            cell.set_limits(&key.limits(&config), quiet_until_ms);
        }
        inner.config.replace(config);
    }

    /// The leases of a site on this shard.
    pub fn of_site(&self, key: &SiteKey) -> Rc<SiteLease> {
        let inner = &self.inner;
        let mut held = inner.held.borrow_mut();
        let new = || {
            inner.begins.notify_one();
            Rc::new(SiteLease::new(key.clone(), inner.shard_count, &inner.config.borrow()))
        };
        held.entry(key.clone()).or_insert_with(new).clone()
    }

    /// Forgets sites that nobody sends to and that never had a lease: what the owner counts of the
    /// others goes on.
    pub fn sweep(&self) {
        let mut held = self.inner.held.borrow_mut();
        held.retain(|_, lease| Rc::strong_count(lease) > 1 || lease.holder.borrow().has_asked());
    }

    /// Takes a lease into use, and sees to it that `wish` more are in hand soon. `None` where none
    /// is in hand; `next_news` tells when that changes.
    pub fn take(&self, lease: &Rc<SiteLease>, kind: Kind, wish: u32) -> Option<Token> {
        let now_ms = clock::coarse_ms();
        let (mut taken, is_short) = {
            let mut holder = lease.holder.borrow_mut();
            let taken = holder.take(kind, now_ms);
            holder.wish(kind, if taken { wish } else { wish.max(1) });
            (taken, holder.unused(kind) < u64::from(wish / 2))
        };
        if !taken || is_short {
            self.inner.tell(lease, Urgency::Now, now_ms);
        }
        if !taken {
            let mut holder = lease.holder.borrow_mut();
            taken = holder.take(kind, now_ms);
            if taken {
                holder.wish(kind, wish);
            }
        }
        taken.then(|| Token { lease: Some(lease.clone()), kind })
    }

    /// Of each limit of a site one in `divisor`. Counts where this shard owns the site.
    pub fn set_divisor(&self, key: &SiteKey, divisor: u32) {
        if key.owner(self.inner.shard_count) == self.inner.shard {
            self.inner.with_cell(key, |cell| cell.set_divisor(divisor));
        }
    }

    /// What is used of the limits of a site, over all shards; `None` where another shard knows.
    pub fn uses(&self, key: &SiteKey) -> Option<Vec<LimitUse>> {
        let is_ours = key.owner(self.inner.shard_count) == self.inner.shard;
        let mut cells = self.inner.cells.borrow_mut();
        let cell = cells.get_mut(key).filter(|_| is_ours)?;
        Some(cell.uses(clock::coarse_ms()))
    }

    /// Suspends until more is in hand for some site, or a connection is to be closed; returns
    /// which.
    pub async fn next_news(&self) -> Vec<SiteKey> {
        loop {
            let news = std::mem::take(&mut *self.inner.news.borrow_mut());
            if !news.is_empty() {
                return news;
            }
            self.inner.has_news.notified().await;
        }
    }

    pub fn on_memo(&self, memo: LeaseMemo) {
        let inner = &self.inner;
        let now_ms = clock::coarse_ms();
        match memo {
            LeaseMemo::Ask { site, from, ask } => {
                inner.begins.notify_one();
                inner.with_cell(&site, |cell| cell.handle_ask(from, &ask));
                inner.hand_out(&site, now_ms);
            }
            LeaseMemo::Grant { site, grant } => inner.on_grant(&site, &grant, now_ms),
        }
    }

    /// The beat: returns, what was refused, and grants of what has cooled off.
    async fn run(self) {
        let inner = self.inner;
        loop {
            while inner.is_unlimited() {
                inner.begins.notified().await;
                timer::sleep(BEAT).await;
            }
            timer::sleep(BEAT).await;
            let now_ms = clock::coarse_ms();
            let held: Vec<Rc<SiteLease>> = inner.held.borrow().values().cloned().collect();
            for lease in &held {
                lease.holder.borrow_mut().return_idle(now_ms);
                inner.tell(lease, Urgency::Later, now_ms);
            }
            let sites: Vec<SiteKey> = inner.cells.borrow().keys().cloned().collect();
            for site in sites {
                inner.keep_record(&site, now_ms);
                inner.hand_out(&site, now_ms);
            }
            inner.on_recorded(now_ms);
            inner.count();
        }
    }
}

impl Inner {
    /// No site needs the beat.
    fn is_unlimited(&self) -> bool {
        let is_limited = |lease: &Rc<SiteLease>| lease.limited.get() != [false; Kind::ALL.len()];
        self.cells.borrow().is_empty() && !self.held.borrow().values().any(is_limited)
    }

    fn with_cell<R>(&self, key: &SiteKey, with: impl FnOnce(&mut Cell) -> R) -> R {
        let mut cells = self.cells.borrow_mut();
        if let Some(cell) = cells.get_mut(key) {
            return with(cell);
        }
        let cell = cells.entry(key.clone()).or_insert_with(|| {
            let limits = key.limits(&self.config.borrow());
            let restored = self.restored(key, &limits);
            Cell::new(&limits, self.shard_count, self.quiet_until_ms.get(), &restored)
        });
        with(cell)
    }

    fn restored(&self, key: &SiteKey, limits: &SiteLimits) -> Vec<(u64, Vec<Cooling>)> {
        match self.store.restored() {
            Restored::Records(records) => {
                records.get(key).map_or(Vec::new(), |record| record.windows.clone())
            }
            Restored::Unknown => {
                let used_up = |bound: &meter::Bound| {
                    let free_ms = clock::monotonic_ms() + bound.window_ms;
                    (bound.window_ms, vec![Cooling { free_ms, count: bound.count_max }])
                };
                Kind::Message.bounds(limits).iter().map(used_up).collect()
            }
        }
    }

    /// Tells the owner of a site what is to be told.
    fn tell(&self, lease: &SiteLease, urgency: Urgency, now_ms: u64) {
        let Some(ask) = lease.holder.borrow_mut().poll_ask(urgency) else { return };
        if lease.owner == self.shard {
            self.with_cell(&lease.key, |cell| cell.handle_ask(self.shard, &ask));
            self.hand_out(&lease.key, now_ms);
            return;
        }
        let memo = LeaseMemo::Ask { site: lease.key.clone(), from: self.shard, ask };
        if !(self.send)(lease.owner, memo) {
            lease.holder.borrow_mut().refuse_ask();
        }
    }

    /// Gives holders of a site what the cell has for them.
    fn hand_out(&self, site: &SiteKey, now_ms: u64) {
        while let Some((holder, grant)) = self.with_cell(site, |cell| cell.poll_grant(now_ms)) {
            if holder == self.shard {
                self.on_grant(site, &grant, now_ms);
            } else if !(self.send)(holder, LeaseMemo::Grant { site: site.clone(), grant }) {
                self.with_cell(site, |cell| cell.refuse_grant(holder));
                return;
            }
        }
    }

    fn on_grant(&self, site: &SiteKey, grant: &Grant, now_ms: u64) {
        let lease = self.held.borrow().get(site).cloned();
        let lease = lease.expect("whoever asked holds");
        if lease.holder.borrow_mut().handle_grant(grant, now_ms) {
            self.news.borrow_mut().push(site.clone());
            self.has_news.notify_one();
        }
    }

    fn keep_record(&self, site: &SiteKey, now_ms: u64) {
        if now_ms < self.record_again_ms.get() {
            return;
        }
        let Some(record) = self.with_cell(site, |cell| cell.poll_record(now_ms)) else { return };
        if !self.store.write(site.clone(), record, self.recorded_sender.clone()) {
            self.with_cell(site, |cell| cell.on_recorded(false));
        }
    }

    fn on_recorded(&self, now_ms: u64) {
        while let Ok(Recorded { site, durable }) = self.recorded.try_recv() {
            self.with_cell(&site, |cell| cell.on_recorded(durable));
            if durable {
                self.hand_out(&site, now_ms);
            } else {
                self.record_again_ms.set(now_ms + RECORD_AGAIN_MS);
            }
        }
    }

    fn count(&self) {
        let cells = self.cells.borrow();
        let sum = |kind| cells.values().map(|cell| cell.in_use(kind)).sum();
        self.metrics.delivery.leased_connections.set(sum(Kind::Connection));
        self.metrics.delivery.leased_messages.set(sum(Kind::Message));
    }
}

/// How often what is not urgent is said, and what has cooled off is dealt.
const BEAT: Duration = Duration::from_millis(10);
/// After a start, and after a limit appeared: what went out before may still be under way to the
/// peer for a second, and counts in its window of one second from then on.
const QUIET_MS: u64 = 2_000;
/// What was broken off may reach the peer for so long.
const ABORT_MS: u64 = 1_000;
const RECORD_AGAIN_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_spread_over_shards_and_most_stay_when_one_is_added() {
        let key = |port: u16| SiteKey {
            hop: Hop::parse(&format!("smtp://192.0.2.1:{port}")).expect("a hop"),
            source: None,
        };
        let owners = |count: usize| (1..=400).map(|port| key(port).owner(count)).collect();
        let (four, five): (Vec<usize>, Vec<usize>) = (owners(4), owners(5));
        for shard in 0..4 {
            let count = four.iter().filter(|owner| **owner == shard).count();
            assert!((50..150).contains(&count), "{count} of shard {shard}");
        }
        assert!(four.iter().zip(&five).all(|(four, five)| four == five || *five == 4));
    }
}
