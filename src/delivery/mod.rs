//! Delivery: ready tasks to their next hops.
//!
//! **Owns** sites, their connections, and the attempts on them.
//! **Uses** `queue` (pulls tasks, settles them), `routing`, `dns`, `proto::smtp::client`,
//! `metrics`.
//! **Holds** that end of data is sent only for content that passed its checksum, that a site is
//! never connected to more often than allowed, and that every task taken is settled, put back or
//! held.
//! **Start reading** at `Delivery::run`, then `connection`.

mod connection;
mod content;
pub mod discovery;
mod judge;
mod site;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Config, NextHop};
use crate::mail::{RecipientOutcome, Reply};
use crate::metrics::Metrics;
use crate::queue::{Announcement, Attempt, FlowId, LineId, Message, Queue, Task};
use crate::routing::Routes;
use crate::runtime::{clock, task, timer};
use site::{Place, Site};

/// Delivery of this shard. Clones are the same.
#[derive(Clone)]
pub struct Delivery {
    inner: Rc<Inner>,
}

struct Inner {
    queue: Queue,
    metrics: Rc<Metrics>,
    config: RefCell<Arc<Config>>,
    routes: RefCell<Rc<Routes>>,
    sites: RefCell<HashMap<NextHop, Rc<Site>>>,
    /// Whose ready tasks a line holds.
    lines: RefCell<HashMap<LineId, Rc<Site>>>,
    draining: Cell<bool>,
}

impl Delivery {
    /// Starts delivering on the calling executor.
    pub fn start(config: Arc<Config>, queue: Queue, metrics: Rc<Metrics>) -> Delivery {
        let routes = Rc::new(Routes::new(&config));
        let delivery = Delivery {
            inner: Rc::new(Inner {
                queue,
                metrics,
                config: RefCell::new(config),
                routes: RefCell::new(routes),
                sites: RefCell::default(),
                lines: RefCell::default(),
                draining: Cell::new(false),
            }),
        };
        task::spawn(delivery.clone().run());
        task::spawn(delivery.clone().run_upkeep());
        delivery
    }

    /// New connections and new decisions follow `config`, for what is ready now too.
    pub fn reload(&self, config: Arc<Config>) {
        self.inner.routes.replace(Rc::new(Routes::new(&config)));
        self.inner.config.replace(config);
        let mut lines = self.inner.lines.borrow_mut();
        for (line, site) in std::mem::take(&mut *lines) {
            // Its flows are announced anew, and go where they belong from now on.
            self.inner.queue.close_line(line);
            site.line.set(self.inner.queue.open_line());
            lines.insert(site.line.get(), site);
        }
    }

    /// No task is begun from now on; connections end after the one they have.
    pub fn drain(&self) {
        self.inner.draining.set(true);
        for site in self.inner.sites.borrow().values() {
            site.work.notify_all();
        }
    }

    /// Sites left alone after failures are tried again at once.
    pub fn forget_failures(&self) {
        for site in self.inner.sites.borrow().values() {
            site.forget_failures();
        }
    }

    /// Connections open or being opened.
    pub fn connection_count(&self) -> usize {
        self.inner.sites.borrow().values().map(|site| site.connection_count()).sum()
    }

    /// Suspends until no connection is left, or until `end`. Returns whether none is.
    pub async fn drained(&self, end: Instant) -> bool {
        while self.connection_count() > 0 {
            if clock::now() >= end {
                return false;
            }
            timer::sleep(Duration::from_millis(20)).await;
        }
        true
    }

    async fn run(self) {
        loop {
            let announcement = self.inner.queue.next_announcement().await;
            if self.inner.draining.get() {
                return;
            }
            match announcement {
                Announcement::Flow(flow) => self.place(flow).await,
                Announcement::Line(line) => {
                    let site = self.inner.lines.borrow().get(&line).cloned();
                    if let Some(site) = site {
                        self.attend(&site);
                    }
                }
            }
        }
    }

    /// Lets a flow go where its domain is routed to. The line is announced then.
    async fn place(&self, flow: FlowId) {
        let Some(domain) = self.inner.queue.flow(flow).map(|flow| flow.domain) else { return };
        let resolved = self.inner.routes.borrow().resolve(&domain);
        match resolved {
            Ok(next_hop) => self.inner.queue.assign(flow, self.site(next_hop).line.get()),
            Err(reply) => self.fail_unroutable(flow, &reply).await,
        }
    }

    /// Looks after sites whose connections are all busy: nothing else may happen there for long.
    async fn run_upkeep(self) {
        while !self.inner.draining.get() {
            timer::sleep(UPKEEP_PERIOD).await;
            let sites: Vec<Rc<Site>> = self.inner.sites.borrow().values().cloned().collect();
            for site in sites.iter().filter(|site| site.has_work(&self.inner.queue)) {
                self.attend(site);
            }
        }
    }

    fn site(&self, next_hop: NextHop) -> Rc<Site> {
        let mut sites = self.inner.sites.borrow_mut();
        let site = sites.entry(next_hop).or_insert_with(|| {
            let site = Rc::new(Site::new(next_hop, self.inner.queue.open_line()));
            self.inner.lines.borrow_mut().insert(site.line.get(), site.clone());
            site
        });
        site.clone()
    }

    /// Sees to it that the ready tasks of a site are taken: by an idle connection, a new one, or
    /// later.
    fn attend(&self, site: &Rc<Site>) {
        if self.inner.draining.get() {
            return;
        }
        if let Some(wait) = site.suspended_for(clock::coarse_ms()) {
            task::spawn(self.clone().postpone(site.clone(), wait));
        } else if site.has_idle() {
            site.work.notify_one();
        } else if site.should_open(self.connections_max(), &self.inner.queue) {
            let place = Place::open(site);
            task::spawn(connection::run(self.inner.clone(), self.clone(), site.clone(), place));
        }
    }

    fn connections_max(&self) -> usize {
        self.inner.config.borrow().delivery.connections_max
    }

    /// Puts every ready task of a suspended site back for a while: its end is not waited for by
    /// each of them alone, and their lifetimes are watched meanwhile.
    async fn postpone(self, site: Rc<Site>, wait: Duration) {
        let mut count = 0;
        while let Some(task) = site.take(&self.inner.queue) {
            // Spread over a fifth, so that they do not come back as one crowd.
            let spread = wait / 5 * (clock::random_u64() % 1000) as u32 / 1000;
            self.inner.queue.put_back_until(task, wait + spread);
            count += 1;
            if count % POSTPONED_AT_ONCE == 0 {
                task::yield_now().await;
            }
        }
    }

    /// Mail that was accepted under other routes and has none now.
    async fn fail_unroutable(&self, flow: FlowId, reply: &Reply) {
        let line = self.inner.queue.open_line();
        self.inner.queue.assign(flow, line);
        while let Some(task) = self.inner.queue.take(line) {
            let started = clock::now();
            match self.inner.queue.load(task).await {
                Ok(message) => {
                    let replies = vec![reply.clone(); message.recipient_indexes.len()];
                    let attempt = Attempt::without_session("no route".into());
                    self.inner.settle(task, &message, replies, started, attempt);
                }
                Err(error) => self.inner.queue.hold(task, &error),
            }
        }
        self.inner.queue.close_line(line);
    }
}

impl Inner {
    /// Ends the attempt, which began at `started`: each recipient's outcome follows from its reply.
    fn settle(
        &self,
        task: Task,
        message: &Rc<Message>,
        replies: Vec<Reply>,
        started: Instant,
        mut attempt: Attempt,
    ) {
        assert_eq!(replies.len(), message.recipient_indexes.len());
        self.metrics.delivery.attempts.add(1);
        let now_ms = clock::unix_ms();
        let outcomes = message.recipient_indexes.iter().zip(replies).map(|(index, reply)| {
            let domain = message.envelope.recipients[usize::from(*index)].domain();
            let stream = &message.envelope.stream;
            let (outcome, judgement) = self.judge(&reply, &attempt, domain, stream);
            if judgement.is_none() {
                let age_ms = now_ms.saturating_sub(message.envelope.accepted_ms);
                self.metrics.relay_latency.record(Duration::from_millis(age_ms));
            }
            RecipientOutcome {
                recipient_index: *index,
                outcome,
                reply,
                class: judgement.map(|it| it.class),
            }
        });
        let outcomes: Vec<RecipientOutcome> = outcomes.collect();
        attempt.duration = started.elapsed();
        self.queue.settle(task, message, outcomes, attempt);
    }
}

/// How often sites with waiting work are looked after.
const UPKEEP_PERIOD: Duration = Duration::from_millis(50);
/// Tasks put back before others get a turn.
const POSTPONED_AT_ONCE: usize = 256;
