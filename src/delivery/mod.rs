//! Delivery: ready tasks to their next hops.
//!
//! **Owns** what was found out of where domains send their mail and how it is to be protected,
//! lines, the sites that pull from them, their connections and leases, the attempts, what rules for
//! replies do to later mail, and questions for mailboxes without a message.
//! **Uses** `queue` (pulls tasks, settles them), `routing`, `dns`, `web`, `tls`,
//! `proto::smtp::client`, `metrics`.
//! **Holds** that end of data is sent only for content that passed its checksum, that a site never
//! gets more than its limits allow from all shards together, and that every task taken is settled,
//! put back or held.
//! **Start reading** at `Delivery::run`, then `finding`, `attend`, `connection`; `lease` for the
//! limits.

mod attend;
mod concurrency;
mod connect;
mod connection;
mod content;
mod directory;
pub mod discovery;
mod effects;
mod finding;
mod held_up;
mod history;
mod hosts;
mod judge;
pub mod known;
pub mod lease;
mod line;
mod link;
mod local;
mod login;
mod parking;
mod siblings;
mod site;
mod sources;
pub mod sts;
mod suspensions;
mod tls;
pub mod tls_reports;
pub mod verify;
pub mod view;
mod wanted;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::dns::Resolver;
use crate::limits::LINE_HISTORIES_MAX;
use crate::mail::{
    Accounts, Outcome, RecipientOutcome, Reply, ReplyClass, Stream, TlsTag, WaitCause,
};
use crate::mailbox::Post;
use crate::metrics::Metrics;
use crate::proto::tlsrpt::PolicyReport;
use crate::queue::ledger::{CauseTimes, Waiting};
use crate::queue::{
    Announcement, Attempt, Flow, FlowId, LineId, Message, Queue, Sites, StandingOrders, Task,
};
use crate::routing::{Hop, Place};
use crate::runtime::blocking::Pool;
use crate::runtime::{clock, task, timer};
use directory::Directory;
use finding::{Way, Wayfinder};
use history::History;
use hosts::Hosts;
use known::{Known, KnownMailboxes};
use lease::store::RecordStore;
use lease::{LeaseMemo, Leases, SiteKey};
use line::{Line, LineKey, Member};
use login::SaltedPasswords;
use parking::Parking;
use site::Site;
use sources::Sources;
use sts::Policies;
use tls::BrokenTls;
use tls_reports::{ReportStore, TlsReporting};
use wanted::{Published, Wanted};

pub use suspensions::{SuspendedBy, Suspension, SuspensionKind, SuspensionScope, Suspensions};

/// What deliveries of different shards say to one another.
#[derive(Clone, Debug)]
pub enum DeliveryMemo {
    Lease(LeaseMemo),
    /// A rule said so on another shard.
    Suspension(Box<Suspension>),
    /// An operator wants nothing of it to hold any more.
    Lifted(Box<SuspensionScope>),
    /// What was counted of TLS, for the shard that reports on it.
    TlsSessions(Vec<PolicyReport>),
}

/// Carries a memo to a shard; false when the shard's inbox is full.
pub type SendMemo = Rc<dyn Fn(usize, DeliveryMemo) -> bool>;

/// Which shard this is, and the way to the others.
pub struct Neighbourhood {
    pub shard: usize,
    pub shard_count: usize,
    pub send: SendMemo,
    /// Of the process.
    pub records: RecordStore,
    /// Of the process.
    pub policies: Policies,
    pub tls_reports: ReportStore,
}

/// Delivery of this shard. Clones are the same.
#[derive(Clone)]
pub struct Delivery {
    inner: Rc<Inner>,
}

struct Inner {
    shard: usize,
    shard_count: usize,
    send: SendMemo,
    queue: Queue,
    metrics: Rc<Metrics>,
    config: RefCell<Arc<Config>>,
    finder: RefCell<Rc<Wayfinder>>,
    directory: RefCell<Directory>,
    /// What deliveries have told of mailboxes.
    known: RefCell<KnownMailboxes>,
    hosts: RefCell<Hosts>,
    /// Nobody serves it: flows stand in it while the DNS is asked where they go.
    asking_line: Cell<LineId>,
    leases: Leases,
    /// Of each key, one for all that is wanted of its hosts.
    sites: RefCell<HashMap<SiteKey, Vec<Rc<Site>>>>,
    lines: RefCell<HashMap<LineId, Rc<Line>>>,
    line_ids: RefCell<HashMap<LineKey, LineId>>,
    /// Of lines that were closed, for those that come after them.
    histories: RefCell<HashMap<LineKey, Rc<RefCell<History>>>>,
    sources: RefCell<Sources>,
    broken_tls: RefCell<BrokenTls>,
    salted_passwords: RefCell<SaltedPasswords>,
    tls_reporting: TlsReporting,
    /// Hosts that cannot give mail under REQUIRETLS what it asks for.
    unfit: RefCell<BrokenTls>,
    policies: Policies,
    suspensions: RefCell<Suspensions>,
    /// What a full inbox refused of suspensions: about as much as stands in the table, for each
    /// shard.
    outbox: RefCell<VecDeque<(usize, DeliveryMemo)>>,
    parking: Parking,
    post: Post,
    /// Who has mailboxes here.
    accounts: RefCell<Arc<Accounts>>,
    /// Begun when they are needed first.
    maildir_threads: RefCell<Option<Pool>>,
    draining: Cell<bool>,
}

impl Delivery {
    /// Starts delivering on the calling executor; mail of `orders` waits from the first moment.
    pub fn start(
        config: Arc<Config>,
        queue: Queue,
        post: Post,
        metrics: Rc<Metrics>,
        neighbourhood: Neighbourhood,
        orders: Arc<StandingOrders>,
    ) -> Delivery {
        let Neighbourhood { shard, shard_count, send, records, policies, tls_reports } =
            neighbourhood;
        let of_leases = send.clone();
        let send_lease =
            Rc::new(move |to: usize, memo: LeaseMemo| of_leases(to, DeliveryMemo::Lease(memo)));
        let leases =
            Leases::start(shard, shard_count, config.clone(), metrics.clone(), records, send_lease);
        let finder = Rc::new(Wayfinder::new(&config, metrics.clone()));
        let delivery = Delivery {
            inner: Rc::new(Inner {
                shard,
                shard_count,
                send,
                parking: Parking::new(&queue, orders),
                post,
                asking_line: Cell::new(queue.open_line()),
                queue,
                metrics,
                config: RefCell::new(config),
                finder: RefCell::new(finder),
                directory: RefCell::default(),
                known: RefCell::default(),
                hosts: RefCell::default(),
                leases,
                sites: RefCell::default(),
                lines: RefCell::default(),
                line_ids: RefCell::default(),
                histories: RefCell::default(),
                sources: RefCell::default(),
                broken_tls: RefCell::default(),
                salted_passwords: RefCell::default(),
                tls_reporting: TlsReporting::new(shard, tls_reports),
                unfit: RefCell::default(),
                policies,
                suspensions: RefCell::default(),
                outbox: RefCell::default(),
                accounts: RefCell::default(),
                maildir_threads: RefCell::default(),
                draining: Cell::new(false),
            }),
        };
        task::spawn(delivery.clone().run());
        task::spawn(delivery.clone().run_upkeep());
        task::spawn(delivery.clone().run_lease_news());
        task::spawn(delivery.clone().run_tls_reports());
        delivery
    }

    /// New connections and new decisions follow `config`, for what is ready now too.
    pub fn reload(&self, config: Arc<Config>) {
        let inner = &self.inner;
        inner.config.replace(config.clone());
        inner.reload_ways(&config);
        inner.leases.reload(config);
        inner.sources.borrow_mut().forget();
        inner.hosts.borrow_mut().forget();
        inner.broken_tls.borrow_mut().forget();
        inner.unfit.borrow_mut().forget();
        // The flows are announced anew, and go where they belong from now on.
        let lines: Vec<Rc<Line>> = inner.lines.borrow().values().cloned().collect();
        lines.iter().for_each(|line| inner.close_line(line));
        // Connections that lack a lease now are to notice.
        for site in inner.sites.borrow().values().flatten() {
            site.work.notify_all();
        }
        // Orders for a site are for other flows now.
        task::spawn(self.clone().sort_anew());
    }

    /// These have mailboxes here from now on.
    pub fn set_accounts(&self, accounts: Arc<Accounts>) {
        self.inner.accounts.replace(accounts);
    }

    /// The resolver of this shard, until the next reload.
    pub fn resolver(&self) -> Resolver {
        self.inner.finder.borrow().resolver.clone()
    }

    pub fn on_memo(&self, memo: DeliveryMemo) {
        match memo {
            DeliveryMemo::Lease(memo) => self.inner.leases.on_memo(memo),
            DeliveryMemo::Suspension(suspension) => {
                self.inner.enter(*suspension);
            }
            DeliveryMemo::TlsSessions(counted) => self.inner.collect_tls_sessions(counted),
            DeliveryMemo::Lifted(scope) => {
                self.inner.lift(|it| it.scope == *scope);
            }
        }
    }

    /// No task is begun from now on; connections end after the one they have.
    pub fn drain(&self) {
        self.inner.draining.set(true);
        for site in self.inner.sites.borrow().values().flatten() {
            site.work.notify_all();
        }
    }

    /// Sites, hosts and sources left alone after failures are tried again at once, and the DNS is
    /// asked again for domains that it refused.
    pub fn forget_failures(&self) {
        self.inner.sources.borrow_mut().forget();
        self.inner.hosts.borrow_mut().forget();
        self.inner.directory.borrow_mut().forget_refusals();
        self.inner.broken_tls.borrow_mut().forget();
        self.inner.unfit.borrow_mut().forget();
        for site in self.inner.sites.borrow().values().flatten() {
            site.forget_failures();
        }
    }

    /// Connections open or being opened.
    pub fn connection_count(&self) -> usize {
        self.inner.sites.borrow().values().flatten().map(|site| site.connection_count()).sum()
    }

    /// Suspends until no connection is left, or until `end`. Returns whether none is.
    pub async fn drained(&self, end: Instant) -> bool {
        timer::until(end, || self.connection_count() == 0).await
    }

    async fn run(self) {
        loop {
            let announcement = self.inner.queue.next_announcement().await;
            if self.inner.draining.get() {
                return;
            }
            match announcement {
                Announcement::Flow(flow) => {
                    self.place(flow);
                    self.ask_dns();
                }
                Announcement::Line(line) => {
                    let line = self.inner.lines.borrow().get(&line).cloned();
                    if let Some(line) = line {
                        self.attend(&line);
                    }
                }
            }
        }
    }

    /// Lets a flow go where its domain is routed to and its stream belongs. The line is announced
    /// then.
    fn place(&self, id: FlowId) {
        let inner = &self.inner;
        let Some(flow) = inner.queue.flow(id) else { return };
        if let Some(line) = inner.parking.line_for(&flow, || self.site_of(&flow)) {
            inner.queue.assign(id, line);
            return;
        }
        match inner.find_way(id, &flow) {
            Way::To { hop, published, renew_ms } => {
                let key = inner.line_key(hop, &published, &flow.domain, &flow.stream);
                let line = inner.line(key);
                line.renew_ms.set(line.renew_ms.get().min(renew_ms));
                inner.queue.assign(id, line.id);
            }
            Way::Asked => inner.queue.assign(id, inner.asking_line.get()),
            Way::Refused(reply) => {
                task::spawn(self.clone().refuse(id, reply));
            }
        }
    }

    /// Looks after lines whose connections are all busy: nothing else may happen there for long.
    /// And what holds for a time ends in time.
    async fn run_upkeep(self) {
        let inner = &self.inner;
        let mut last_ms = clock::coarse_ms();
        let mut pass = 0_u64;
        while !inner.draining.get() {
            timer::sleep(UPKEEP_PERIOD).await;
            let now_ms = clock::coarse_ms();
            if inner.parking.has_ended() {
                task::spawn(self.clone().sort_anew());
            }
            inner.expire_suspensions(now_ms);
            inner.flush_outbox();
            if inner.queue.ready_count(inner.asking_line.get()) > 0 {
                inner.metrics.waits.add(WaitCause::Dns, now_ms - last_ms);
            }
            let lines: Vec<Rc<Line>> = inner.lines.borrow().values().cloned().collect();
            for line in lines.iter().filter(|line| line.has_work(&inner.queue)) {
                if line.renew_ms.get() <= now_ms && !line.being_emptied.get() {
                    // Its flows are announced anew: the DNS may say something else of them now.
                    inner.close_line(line);
                    continue;
                }
                self.attend(line);
                inner.metrics.waits.add(line.cause(), now_ms - last_ms);
            }
            for sites in inner.sites.borrow().values() {
                if sites.iter().all(|site| site.ready_count(&inner.queue) == 0) {
                    sites.iter().for_each(|site| site.lease.wish_nothing());
                }
                for site in sites {
                    if site.ready_count(&inner.queue) == 0 {
                        site.set_starved(false);
                    } else if site.is_starved() {
                        // Whoever wakes asks again.
                        site.work.notify_one();
                    }
                }
            }
            last_ms = now_ms;
            pass += 1;
            if pass.is_multiple_of(SWEEP_PASSES) {
                inner.sweep(now_ms);
            }
        }
    }
}

/// A line as the ledger of its tasks asks it.
struct OfLine(Rc<Line>);

impl Waiting for OfLine {
    fn causes(&self, from_ms: u64, to_ms: u64) -> CauseTimes {
        // The history is by the monotonic clock: a wall clock that is set does not bend it. What
        // was before this process, or before the line, is not known any more.
        let start_ms = clock::unix_ms().saturating_sub(clock::monotonic_ms());
        let monotonic = |at_ms: u64| at_ms.saturating_sub(start_ms);
        self.0.causes(monotonic(from_ms), monotonic(to_ms))
    }
}

impl Sites for Delivery {
    fn site_of(&self, flow: &Flow) -> Option<String> {
        self.inner.site_in_words(flow)
    }

    fn waiting_of(&self, flow: &Flow) -> Rc<dyn Waiting> {
        self.inner.waiting_of(flow)
    }
}

impl Inner {
    /// The line that a flow stands in, if there is one.
    fn line_of(&self, flow: &Flow) -> Option<Rc<Line>> {
        let (hop, published) = self.known_way(flow)?;
        let key = self.line_key(hop, &published, &flow.domain, &flow.stream);
        let id = *self.line_ids.borrow().get(&key)?;
        self.lines.borrow().get(&id).cloned()
    }

    fn line_key(&self, hop: Hop, published: &Published, domain: &str, stream: &Stream) -> LineKey {
        let wanted = self.wanted(&hop, published, domain, stream);
        let config = self.config.borrow();
        let pool = config.pool_of(domain, stream).map(|pool| pool.name.as_str().into());
        let suspensions = self.suspensions.borrow();
        let is_apart = !suspensions.is_empty() && suspensions.is_by_tenant(&hop, &stream.tenant);
        LineKey { hop, wanted, pool, tenant: is_apart.then(|| stream.tenant.clone()) }
    }

    /// What is asked of the hosts that mail in a stream to a domain goes to.
    fn wanted(&self, hop: &Hop, published: &Published, domain: &str, stream: &Stream) -> Wanted {
        let config = self.config.borrow();
        let demand = config.demand_to(hop.place.next_hop().as_ref(), domain);
        match stream.tls {
            // What goes into a mailbox of this host does not leave it.
            TlsTag::Required if !hop.ends_here() => {
                let demand = demand.with_require_tls().into();
                Wanted::new(demand, config.published_of(domain), published)
            }
            // Better to arrive than to be protected, says the message (RFC 8689 §4.2.2).
            TlsTag::Optional => Wanted { demand, ..Wanted::default() },
            _ => Wanted::new(demand, config.published_of(domain), published),
        }
    }

    fn line(&self, key: LineKey) -> Rc<Line> {
        if let Some(id) = self.line_ids.borrow().get(&key) {
            return self.lines.borrow()[id].clone();
        }
        let members = {
            let config = self.config.borrow().clone();
            let pool = key.pool.as_deref();
            let pool = pool.and_then(|name| config.pools.iter().find(|it| it.name == name));
            let sites = view::sites_of(&config, &key.hop, pool).into_iter();
            let member = |(of, weight)| Member::new(self.site(of, &key.wanted), weight);
            sites.map(member).collect()
        };
        let id = self.queue.open_line();
        let history = self.histories.borrow_mut().remove(&key);
        let line = Rc::new(Line::new(id, key.clone(), members, history));
        for member in &line.members {
            member.site.join(line.clone());
        }
        self.lines.borrow_mut().insert(id, line.clone());
        self.line_ids.borrow_mut().insert(key, id);
        line
    }

    /// Its flows are announced anew.
    fn close_line(&self, line: &Rc<Line>) {
        self.queue.close_line(line.id);
        for member in &line.members {
            member.site.leave(line);
        }
        self.lines.borrow_mut().remove(&line.id);
        self.line_ids.borrow_mut().remove(&line.key);
        let mut histories = self.histories.borrow_mut();
        if histories.len() >= LINE_HISTORIES_MAX {
            histories.clear();
        }
        histories.insert(line.key.clone(), line.history());
    }

    /// Forgets lines that have had no mail for long, and sites that nothing is to be known of.
    fn sweep(&self, now_ms: u64) {
        let lines: Vec<Rc<Line>> = self.lines.borrow().values().cloned().collect();
        for line in lines.iter().filter(|line| line.is_unused(&self.queue, now_ms)) {
            self.close_line(line);
        }
        self.sites.borrow_mut().retain(|_, sites| {
            sites.retain(|site| !site.is_unused(now_ms));
            !sites.is_empty()
        });
        let sites = self.sites.borrow();
        let places: HashSet<&Place> = sites.keys().map(|key| &key.hop.place).collect();
        let (mut directory, mut hosts) = (self.directory.borrow_mut(), self.hosts.borrow_mut());
        directory.sweep(now_ms, |place| places.contains(place));
        hosts.sweep(now_ms);
        self.metrics.delivery.domains_known.set(directory.domain_count() as u64);
        self.metrics.delivery.hosts_failed.set(hosts.count() as u64);
        self.leases.sweep();
    }

    fn site(&self, key: SiteKey, wanted: &Wanted) -> Rc<Site> {
        let mut sites = self.sites.borrow_mut();
        let sites = sites.entry(key.clone()).or_default();
        if let Some(site) = sites.iter().find(|site| site.wanted == *wanted) {
            return site.clone();
        }
        let lease = self.leases.of_site(&key);
        let divisor = self.suspensions.borrow().divisor(&key);
        let site = Site::new(key, wanted.clone(), lease, &self.config.borrow().delivery);
        site.set_divisor(divisor);
        let site = Rc::new(site);
        sites.push(site.clone());
        site
    }

    fn sites_of(&self, key: &SiteKey) -> Vec<Rc<Site>> {
        self.sites.borrow().get(key).cloned().unwrap_or_default()
    }

    /// Ends a task without asking anybody: each of its recipients has this outcome, Failed or
    /// Delayed.
    async fn end(
        &self,
        task: Task,
        reply: &Reply,
        outcome: Outcome,
        class: Option<ReplyClass>,
        site: Rc<str>,
    ) {
        let message = match self.queue.load(task).await {
            Ok(message) => message,
            Err(error) => return self.queue.hold(task, &error),
        };
        self.metrics.delivery.attempts.add(1);
        let outcomes = message.recipient_indexes.iter().map(|index| RecipientOutcome {
            recipient_index: *index,
            outcome,
            reply: reply.clone(),
            class,
        });
        let outcomes: Vec<RecipientOutcome> = outcomes.collect();
        outcomes.iter().filter_map(|it| it.class).for_each(|it| self.metrics.replies.count(it));
        let mut attempt = Attempt::without_session(site);
        if outcome == Outcome::Delayed {
            attempt.waiting = Some(self.waiting_of(&self.queue.flow_of(task)));
        }
        self.queue.settle(task, &message, outcomes, attempt);
    }

    /// What held up the ready tasks of a flow.
    fn waiting_of(&self, flow: &Flow) -> Rc<dyn Waiting> {
        let site = self.site_in_words(flow);
        let line = self.line_of(flow).map(|line| Rc::new(OfLine(line)) as Rc<dyn Waiting>);
        let line = self.waiting_for_dns(flow, line);
        self.parking.waiting_of(flow, site.as_deref(), line)
    }

    /// Ends the attempt, which began at `started`: each recipient's outcome follows from its reply.
    fn settle(
        &self,
        task: Task,
        message: &Rc<Message>,
        replies: Vec<Reply>,
        started: Instant,
        attempt: Attempt,
        site: &Site,
    ) {
        let (outcomes, attempt) = self.ended(task, message, replies, started, attempt, site);
        self.queue.settle(task, message, outcomes, attempt);
    }

    /// What an attempt came to, by recipient, and what is to be known of it.
    fn ended(
        &self,
        task: Task,
        message: &Rc<Message>,
        replies: Vec<Reply>,
        started: Instant,
        mut attempt: Attempt,
        site: &Site,
    ) -> (Vec<RecipientOutcome>, Attempt) {
        assert_eq!(replies.len(), message.recipient_indexes.len());
        self.metrics.delivery.attempts.add(1);
        let now_ms = clock::unix_ms();
        let flow = self.queue.flow_of(task);
        // The others pass on mail for mailboxes that they do not have.
        let tells_of_mailboxes = matches!(site.key.hop.place, Place::Exchanges(_));
        let outcomes = message.recipient_indexes.iter().zip(replies).map(|(index, reply)| {
            let recipient = &message.envelope.recipients[usize::from(*index)];
            let (domain, stream) = (recipient.domain(), &flow.stream);
            let (outcome, class) = self.judge(&reply, &attempt, site, domain, stream);
            if tells_of_mailboxes {
                self.note_mailbox(&recipient.address, outcome, class, now_ms);
            }
            if class.is_none() {
                let age_ms = now_ms.saturating_sub(message.envelope.accepted_ms);
                self.metrics.relay_latency.record(Duration::from_millis(age_ms));
            }
            RecipientOutcome { recipient_index: *index, outcome, reply, class }
        });
        let outcomes: Vec<RecipientOutcome> = outcomes.collect();
        if outcomes.iter().any(|it| it.outcome == Outcome::Delayed) {
            attempt.waiting = Some(self.waiting_of(&flow));
        }
        attempt.duration = started.elapsed();
        (outcomes, attempt)
    }
}

impl Inner {
    /// What the outcome of a delivery by its domain's own hosts tells of a mailbox.
    fn note_mailbox(
        &self,
        address: &str,
        outcome: Outcome,
        class: Option<ReplyClass>,
        now_ms: u64,
    ) {
        let known = match (outcome, class) {
            (Outcome::Delivered | Outcome::Relayed, _) => Known::Accepted,
            (Outcome::Failed, Some(ReplyClass::InvalidMailbox)) => Known::Refused,
            _ => return,
        };
        self.known.borrow_mut().note(address, known, now_ms / 1000);
    }
}

/// Rounds of upkeep between two looks for what is unused: every ten seconds or so.
const SWEEP_PASSES: u64 = 200;
/// How often lines with waiting work are looked after.
const UPKEEP_PERIOD: Duration = Duration::from_millis(50);
