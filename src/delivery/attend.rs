//! Seeing to it that ready mail is taken: by an idle connection, by another one, or later.

use std::rc::Rc;
use std::time::Duration;

use super::connection::{self, Permits};
use super::lease::cell::Kind;
use super::line::Line;
use super::site::{Place, Site};
use super::suspensions::SuspensionKind;
use super::{Delivery, Inner, Suspension};
use crate::mail::{Outcome, WaitCause};
use crate::runtime::{clock, task};

/// What became of work that was offered to a site.
enum Offer {
    /// An idle connection looks at it.
    Handed,
    /// Another connection is on its way.
    Opening(WaitCause),
    /// All that it may have is busy, or waits for a lease.
    Busy(WaitCause),
    /// It sends nothing before a moment, in monotonic milliseconds.
    Blocked { until_ms: u64, cause: WaitCause },
    /// What waits for it is to be Failed.
    Dead(Box<Suspension>),
}

/// What keeps a line as a whole from being served.
enum Idle {
    Until(u64, WaitCause),
    Dead(Box<Suspension>),
}

impl Delivery {
    /// Sees to it that the ready tasks of a line are taken.
    pub(super) fn attend(&self, line: &Rc<Line>) {
        let inner = &self.inner;
        if inner.draining.get() || !line.has_work(&inner.queue) {
            return;
        }
        line.used_ms.set(clock::coarse_ms());
        if line.key.hop.place.is_here() {
            return self.attend_here(line);
        }
        let (mut busy, mut idle) = (None, None);
        for member in line.members_by_turn() {
            match self.offer(line, &member.site) {
                Offer::Handed => return line.note(WaitCause::Turn),
                Offer::Opening(cause) => return line.note(cause),
                // One that only waits for its leases does not speak for those that are served.
                Offer::Busy(WaitCause::Turn) => busy = Some(WaitCause::Turn),
                Offer::Busy(cause) => busy = busy.or(Some(cause)),
                Offer::Blocked { until_ms, cause } => {
                    idle = Some(match idle {
                        Some(Idle::Until(ms, cause)) if ms <= until_ms => Idle::Until(ms, cause),
                        _ => Idle::Until(until_ms, cause),
                    });
                }
                Offer::Dead(suspension) => idle = idle.or(Some(Idle::Dead(suspension))),
            }
        }
        if let Some(cause) = busy {
            return line.note(cause);
        }
        match idle.expect("a line has a member") {
            Idle::Until(until_ms, cause) => {
                line.note(cause);
                let wait_ms = until_ms.saturating_sub(clock::coarse_ms());
                // For a moment it is not worth the while.
                if wait_ms >= POSTPONED_MS_MIN && !line.being_emptied.replace(true) {
                    let wait = Duration::from_millis(wait_ms);
                    task::spawn(self.clone().postpone(line.clone(), wait));
                }
            }
            Idle::Dead(suspension) => {
                line.note(WaitCause::SuspendedByRule);
                if !line.being_emptied.replace(true) {
                    task::spawn(self.clone().fail_waiting(line.clone(), suspension));
                }
            }
        }
    }

    fn offer(&self, line: &Line, site: &Rc<Site>) -> Offer {
        let inner = &self.inner;
        let now_ms = clock::coarse_ms();
        if let Some(block) = inner.block(line, site, now_ms) {
            return block;
        }
        if site.is_starved() && site.is_connected() {
            return Offer::Busy(WaitCause::MessageRate);
        }
        if site.has_idle() {
            site.work.notify_one();
            return Offer::Handed;
        }
        let config = inner.config.borrow();
        if !site.should_open(&config.delivery, &inner.queue) {
            let connected = site.is_connected();
            return Offer::Busy(if connected { WaitCause::Turn } else { WaitCause::Connecting });
        }
        let permits = match inner.comes_after_sibling(site, now_ms) {
            true => Err(WaitCause::ConnectionSlots),
            false => inner.opening_permits(site),
        };
        site.set_denied(permits.is_err());
        let permits = match permits {
            Ok(permits) => permits,
            Err(cause) => {
                inner.call_siblings(site);
                return Offer::Busy(cause);
            }
        };
        let connected = site.is_connected();
        let patience_ms = config.delivery.connect_timeout.as_millis() as u64;
        inner.sources.borrow_mut().on_try(site.key.source, patience_ms, now_ms);
        let place = Place::open(site);
        task::spawn(connection::run(inner.clone(), self.clone(), site.clone(), place, permits));
        Offer::Opening(if connected { WaitCause::Turn } else { WaitCause::Connecting })
    }

    /// Puts every ready task of a line that nobody serves back for a while: the end of that is not
    /// waited for by each of them alone, and their lifetimes are watched meanwhile.
    async fn postpone(self, line: Rc<Line>, wait: Duration) {
        let mut count = 0;
        while let Some(task) = self.inner.queue.take(line.id) {
            // Spread over a fifth, so that they do not come back as one crowd.
            let spread = wait / 5 * (clock::random_u64() % 1000) as u32 / 1000;
            self.inner.queue.put_back_until(task, wait + spread);
            count += 1;
            if count % POSTPONED_AT_ONCE == 0 {
                task::yield_now().await;
            }
        }
        line.being_emptied.set(false);
    }

    /// Fails what waits for a site that a rule calls dead.
    async fn fail_waiting(self, line: Rc<Line>, suspension: Box<Suspension>) {
        let inner = &self.inner;
        let site = &line.members[0].site.name;
        let is_dead = || {
            let suspensions = inner.suspensions.borrow();
            suspensions
                .iter()
                .any(|it| it.kind == SuspensionKind::Dead && it.scope == suspension.scope)
        };
        while is_dead()
            && let Some(task) = inner.queue.take(line.id)
        {
            let class = Some(suspension.class);
            inner.end(task, &suspension.reply, Outcome::Failed, class, site.clone()).await;
        }
        line.being_emptied.set(false);
    }

    /// Serves the lines of sites for which there are more leases, or of which a connection is to
    /// be closed.
    pub(super) async fn run_lease_news(self) {
        loop {
            for key in self.inner.leases.next_news().await {
                for site in self.inner.sites_of(&key) {
                    site.set_starved(false);
                    site.work.notify_all();
                    self.attend_lines(&site);
                }
            }
        }
    }

    /// Sees to it that whatever a site could take is taken.
    pub(super) fn attend_lines(&self, site: &Site) {
        let mut index = 0;
        while let Some(line) = site.line(index) {
            self.attend(&line);
            index += 1;
        }
    }
}

impl Inner {
    /// What keeps a site from sending the mail of a line, if anything does.
    fn block(&self, line: &Line, site: &Site, now_ms: u64) -> Option<Offer> {
        let until_ms = self.sources.borrow().unusable_until(site.key.source, now_ms);
        if let Some(until_ms) = until_ms {
            site.block_until(until_ms);
            return Some(Offer::Blocked { until_ms, cause: WaitCause::NoSource });
        }
        let until_ms = self.sources.borrow().probed_until(site.key.source, now_ms);
        if let Some(until_ms) = until_ms {
            // The one whose connection asks may go on with it.
            if site.connection_count() == 0 {
                site.block_until(until_ms);
            }
            return Some(Offer::Blocked { until_ms, cause: WaitCause::NoSource });
        }
        let suspensions = self.suspensions.borrow();
        if !suspensions.is_empty() {
            let tenant = line.key.tenant.as_deref();
            let by_rule = suspensions.blocks(&site.key, tenant);
            site.block_until(suspensions.blocks(&site.key, None).map_or(0, |it| it.until_ms));
            match by_rule {
                Some(it) if it.kind == SuspensionKind::Dead => {
                    return Some(Offer::Dead(Box::new(it.clone())));
                }
                Some(Suspension { until_ms, .. }) => {
                    let (until_ms, cause) = (*until_ms, WaitCause::SuspendedByRule);
                    return Some(Offer::Blocked { until_ms, cause });
                }
                None => {}
            }
        } else if site.is_blocked(now_ms) {
            site.block_until(0);
        }
        let until_ms = site.suspended_until(now_ms)?;
        Some(Offer::Blocked { until_ms, cause: WaitCause::Failures })
    }

    /// What another connection needs; the cause where there is none.
    pub(super) fn opening_permits(&self, site: &Rc<Site>) -> Result<Permits, WaitCause> {
        let lease = &site.lease;
        let mut permits = Permits { slot: None, opening: None };
        if lease.is_limited(Kind::Connection) {
            let slot = self.leases.take(lease, Kind::Connection, 0);
            permits.slot = Some(slot.ok_or(WaitCause::ConnectionSlots)?);
        }
        if lease.is_limited(Kind::Opening) {
            permits.opening = self.leases.take(lease, Kind::Opening, 0);
            if permits.opening.is_none() {
                permits.put_back();
                return Err(WaitCause::ConnectionRate);
            }
        }
        Ok(permits)
    }
}

/// Tasks put back before others get a turn.
const POSTPONED_AT_ONCE: usize = 256;
/// Tasks of a line that is served again sooner stay where they are.
const POSTPONED_MS_MIN: u64 = 1_000;
