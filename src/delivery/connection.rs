//! One connection to a site, from its opening to its end: task after task.

use std::rc::Rc;
use std::time::Duration;

use super::lease::Token;
use super::lease::cell::Kind;
use super::link::{After, Link, NotOpened};
use super::site::{Place, Site};
use super::{Delivery, Inner};
use crate::mail::{Outcome, Reply, ReplyClass, WaitCause};
use crate::queue::{Attempt, Task};
use crate::runtime::clock;
use crate::runtime::timer::{self, Deadline};

/// The leases under which a connection is opened; `None` where there is no limit.
pub(super) struct Permits {
    pub slot: Option<Token>,
    pub opening: Option<Token>,
}

impl Permits {
    /// Nothing was sent.
    pub fn put_back(self) {
        self.slot.into_iter().chain(self.opening).for_each(Token::put_back);
    }
}

/// A ready task, and the lease under which its message may go.
pub(super) struct Work {
    pub task: Task,
    pub lease: Option<Token>,
}

/// Opens a connection and delivers on it until there is nothing left to do.
pub(super) async fn run(
    inner: Rc<Inner>,
    delivery: Delivery,
    site: Rc<Site>,
    mut place: Place,
    permits: Permits,
) {
    match Link::open(&inner, &site).await {
        Ok(mut link) => {
            permits.opening.into_iter().for_each(Token::finish);
            place.opened();
            inner.metrics.delivery.connections.add(1);
            inner.metrics.delivery.connections_open.add(1);
            let slot = permits.slot;
            let last = serve(&inner, &delivery, &site, &mut place, &mut link, &slot).await;
            match slot {
                Some(slot) => link.end_for_certain(last, slot).await,
                None => link.end(last).await,
            }
            inner.metrics.delivery.connections_open.sub(1);
            drop(place);
        }
        Err(NotOpened::Source(error)) => {
            permits.put_back();
            drop(place);
            inner.on_source_failed(&site, &error);
        }
        Err(NotOpened::Proxy(error)) => {
            // The leases count as used: the proxy may have reached the peer.
            drop(permits);
            drop(place);
            inner.on_source_failed(&site, &error);
        }
        Err(NotOpened::Host | NotOpened::Tls) => {
            drop(permits);
            drop(place);
            inner.metrics.delivery.connect_failures.add(1);
        }
        Err(NotOpened::Unfit(reply)) => {
            drop(permits);
            drop(place);
            inner.metrics.delivery.connect_failures.add(1);
            // The site is well; this mail is not for it.
            for _ in 0..UNFIT_TASKS_MAX {
                let Some(task) = site.take(&inner.queue) else { break };
                fail_attempt(&inner, &site, task, &reply).await;
            }
        }
        Err(NotOpened::Site(reply)) => {
            // The leases count as used: something of it may have reached the peer.
            drop(permits);
            drop(place);
            inner.metrics.delivery.connect_failures.add(1);
            on_not_opened(&inner, &site, &reply).await;
        }
        Err(NotOpened::Login(reply)) => {
            drop(permits);
            drop(place);
            inner.metrics.delivery.connect_failures.add(1);
            inner.metrics.delivery.logins_refused.add(1);
            on_login_refused(&inner, &site, &reply).await;
        }
    }
    // What became ready while the last task ended has nobody to take it.
    delivery.attend_lines(&site);
}

async fn on_not_opened(inner: &Rc<Inner>, site: &Rc<Site>, reply: &Reply) {
    if let Some(task) = leave_alone(inner, site) {
        fail_attempt(inner, site, task, reply).await;
    }
}

/// No rule for replies has a say here: whatever the wording, it is not the fault of a message.
async fn on_login_refused(inner: &Rc<Inner>, site: &Rc<Site>, reply: &Reply) {
    if let Some(task) = leave_alone(inner, site) {
        let class = Some(ReplyClass::Credentials);
        inner.end(task, reply, Outcome::Delayed, class, site.name.clone()).await;
    }
}

/// A connection could not be opened. Returns the task that tells the log and the operator why, if
/// one is to; the others wait without an attempt.
fn leave_alone(inner: &Inner, site: &Site) -> Option<Task> {
    let config = inner.config.borrow().clone();
    if site.has_enough(&config.delivery) {
        return None;
    }
    site.on_unreachable(&config);
    site.take(&inner.queue)
}

async fn fail_attempt(inner: &Rc<Inner>, site: &Site, task: Task, reply: &Reply) {
    let started = clock::now();
    match inner.queue.load(task).await {
        Ok(message) => {
            let replies = vec![reply.clone(); message.recipient_indexes.len()];
            let attempt = Attempt::without_session(site.name.clone());
            inner.settle(task, &message, replies, started, attempt, site);
        }
        Err(error) => inner.queue.hold(task, &error),
    }
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// With QUIT.
    Quit,
    /// The peer has gone, or is not worth a word.
    Gone,
}

async fn serve(
    inner: &Rc<Inner>,
    delivery: &Delivery,
    site: &Rc<Site>,
    place: &mut Place,
    link: &mut Link,
    slot: &Option<Token>,
) -> Last {
    let mut message_count = 0;
    let opened_ms = clock::coarse_ms();
    let idle = Deadline::default();
    loop {
        let now_ms = clock::coarse_ms();
        let (count_max, idle_timeout) = inner.bounds(site);
        let lacks_slot = slot.is_none() && site.lease.is_limited(Kind::Connection);
        if message_count >= count_max
            || inner.draining.get()
            || lacks_slot
            || site.lease.is_to_close()
            || site.is_blocked(now_ms)
            || (slot.is_some() && inner.is_to_yield(site, opened_ms, now_ms))
            || site.has_too_many(&inner.config.borrow().delivery)
        {
            return Last::Quit;
        }
        let Some(work) = inner.take(site) else {
            if site.is_starved() {
                site.note(WaitCause::MessageRate, &inner.queue);
            }
            place.idle();
            let woken = timer::timeout(&idle, idle_timeout, site.work.notified()).await;
            place.busy();
            match woken {
                // The peer may have taken its leave meanwhile: nothing is sent into the void.
                Ok(()) if !link.is_quiet() => return Last::Gone,
                Ok(()) => continue,
                Err(timer::Elapsed) => return Last::Quit,
            }
        };
        if link.has_input() {
            // It talks though nobody asked, most likely to say that it closes.
            inner.put_back(work);
            return Last::Gone;
        }
        delivery.attend_lines(site);
        let (count, after) = link.deliver(inner, site, work, count_max - message_count).await;
        match after {
            After::Continue => {}
            After::Leave => return Last::Quit,
            After::Close => return Last::Gone,
        }
        message_count += count;
    }
}

impl Inner {
    /// Messages that a connection carries at most, and how long it may be idle.
    fn bounds(&self, site: &Site) -> (u32, Duration) {
        let (limits, config) = (site.lease.limits(), &self.config.borrow().delivery);
        let count_max = config.messages_per_connection_max;
        (
            limits.messages_per_connection.map_or(count_max, |it| it.min(count_max)),
            limits.idle_timeout.unwrap_or(config.idle_timeout),
        )
    }

    /// The next task for a site and the lease for its message. `None` where there is no task, or
    /// no lease: the site starves then, and hears of the next one.
    pub(super) fn take(&self, site: &Rc<Site>) -> Option<Work> {
        if !site.lease.is_limited(Kind::Message) {
            let task = site.take(&self.queue)?;
            return Some(Work { task, lease: None });
        }
        let ready_count = site.ready_count(&self.queue);
        if ready_count == 0 {
            return None;
        }
        let soon = MESSAGES_AHEAD * site.connection_count();
        let wish = soon.min(ready_count) as u32;
        let lease = self.leases.take(&site.lease, Kind::Message, wish);
        site.set_starved(lease.is_none());
        let lease = lease?;
        match site.take(&self.queue) {
            Some(task) => Some(Work { task, lease: Some(lease) }),
            None => {
                lease.put_back();
                None
            }
        }
    }

    /// Nothing of it was sent.
    pub(super) fn put_back(&self, work: Work) {
        self.queue.put_back(work.task);
        work.lease.into_iter().for_each(Token::put_back);
    }
}

/// Tasks that end by what one connection told of all of them.
const UNFIT_TASKS_MAX: usize = 100;
/// Leases for messages that each connection of a site may have in hand.
const MESSAGES_AHEAD: usize = 5;
/// Longest wait for the peer's end of a connection that is limited.
pub(super) const END_WAIT_MAX: Duration = Duration::from_secs(5);
