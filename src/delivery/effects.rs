//! What a rule for replies does to the mail that comes after, on every shard.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use super::lease::SiteKey;
use super::site::Site;
use super::suspensions::{SuspendedBy, Suspension, SuspensionKind, SuspensionScope};
use super::{Delivery, DeliveryMemo, Inner};
use crate::event::notice;
use crate::mail::Reply;
use crate::proto::classify::{Effect, Judgement, Scope};
use crate::queue::{Flow, Selection};
use crate::routing::Hop;
use crate::runtime::clock;

impl Delivery {
    /// Lets nothing hold any more, on every shard, of what rules for replies said of the ways that
    /// the queued mail takes which `selection` means. Suspends now and then, and asks `go_on` then.
    pub async fn lift(&self, selection: &Selection, go_on: impl FnMut() -> bool) {
        let inner = &self.inner;
        if inner.suspensions.borrow().is_empty() {
            return;
        }
        let mut ways: HashSet<(Hop, Box<str>)> = HashSet::new();
        let visit = |flow: &Flow| {
            ways.extend(inner.hop_of(flow).map(|hop| (hop, flow.stream.tenant.clone())));
        };
        inner.queue.visit_selected(selection, self, visit, go_on).await;
        let lifted = inner.lift(|Suspension { scope, .. }| {
            let is_of = |of: &str| scope.tenant.as_deref().is_none_or(|tenant| tenant == of);
            ways.iter().any(|(hop, of)| *hop == scope.hop && is_of(of))
        });
        for scope in lifted {
            inner.tell_others(&DeliveryMemo::Lifted(Box::new(scope)));
        }
    }
}

impl Inner {
    /// Carries out what a judgement says of later mail, if it says something.
    pub(super) fn on_judgement(
        &self,
        judgement: &Judgement,
        reply: &Reply,
        site: &Site,
        tenant: &str,
    ) {
        let (Some(effect), Some(rule)) = (judgement.effect, judgement.rule) else { return };
        let SiteKey { hop, source } = site.key.clone();
        let of_site = SuspensionScope { hop, source: None, tenant: None };
        let (scope, kind, period) = match effect {
            Effect::Slow { factor, period } => (of_site, SuspensionKind::Slow(factor), period),
            Effect::Suspend { scope, period } => {
                let scope = match scope {
                    Scope::Site => of_site,
                    Scope::SiteAndSource => SuspensionScope { source, ..of_site },
                    Scope::SiteAndTenant => {
                        SuspensionScope { tenant: Some(tenant.into()), ..of_site }
                    }
                };
                (scope, SuspensionKind::Suspend, period)
            }
            Effect::Dead => (of_site, SuspensionKind::Dead, DEAD_PERIOD),
        };
        let suspension = Suspension {
            scope,
            kind,
            until_ms: clock::monotonic_ms() + period.as_millis() as u64,
            by: SuspendedBy::Rule(rule),
            reply: reply.clone(),
            class: judgement.class,
        };
        if self.enter(suspension.clone()) {
            self.metrics.delivery.suspensions.add(1);
            self.tell_others(&DeliveryMemo::Suspension(Box::new(suspension)));
        }
    }

    fn tell_others(&self, memo: &DeliveryMemo) {
        for shard in (0..self.shard_count).filter(|shard| *shard != self.shard) {
            self.outbox.borrow_mut().push_back((shard, memo.clone()));
        }
        self.flush_outbox();
    }

    /// Lets a suspension hold here. Returns whether it was news.
    pub(super) fn enter(&self, suspension: Suspension) -> bool {
        let scope = suspension.scope.clone();
        let is_news = self.suspensions.borrow_mut().add(suspension);
        if is_news {
            self.on_suspensions_changed(&scope);
        }
        is_news
    }

    /// Lets nothing hold any more of what `is_lifted` points out here. Returns what that was.
    pub(super) fn lift(&self, is_lifted: impl Fn(&Suspension) -> bool) -> Vec<SuspensionScope> {
        let over = self.suspensions.borrow_mut().lift(is_lifted);
        over.iter().for_each(|scope| self.on_suspensions_changed(scope));
        over
    }

    /// Forgets what is over.
    pub(super) fn expire_suspensions(&self, now_ms: u64) {
        if self.suspensions.borrow().is_empty() {
            return;
        }
        let over = self.suspensions.borrow_mut().expire(now_ms);
        over.iter().for_each(|scope| self.on_suspensions_changed(scope));
    }

    /// Has sites, lines and limits follow the table.
    fn on_suspensions_changed(&self, scope: &SuspensionScope) {
        let config = self.config.borrow().clone();
        let sources = config.sources.iter().map(|source| Some(source.address));
        for source in sources.chain([None]) {
            let key = SiteKey { hop: scope.hop.clone(), source };
            let (divisor, blocked_until_ms) = {
                let suspensions = self.suspensions.borrow();
                let block = suspensions.blocks(&key, None);
                (suspensions.divisor(&key), block.map_or(0, |it| it.until_ms))
            };
            self.leases.set_divisor(&key, divisor);
            for site in self.sites_of(&key) {
                site.set_divisor(divisor);
                site.block_until(blocked_until_ms);
                // Idle connections see whether they may stay.
                site.work.notify_all();
            }
        }
        if scope.tenant.is_some() {
            // Its mail stands apart as long as it is suspended by itself, and no longer.
            let mut lines: Vec<Rc<_>> = self.lines.borrow().values().cloned().collect();
            lines.retain(|line| line.key.hop == scope.hop);
            lines.iter().for_each(|line| self.close_line(line));
        }
        let count = self.suspensions.borrow().iter().count();
        self.metrics.delivery.suspended.set(count as u64);
    }

    /// Sends what full inboxes refused before, to each shard in order.
    pub(super) fn flush_outbox(&self) {
        let waiting = std::mem::take(&mut *self.outbox.borrow_mut());
        let mut full = HashSet::new();
        for (shard, memo) in waiting {
            if full.contains(&shard) || !(self.send)(shard, memo.clone()) {
                full.insert(shard);
                self.outbox.borrow_mut().push_back((shard, memo));
            }
        }
    }

    /// Our own address could not be used: its mail goes by others for a while.
    pub(super) fn on_source_failed(&self, site: &Site, error: &std::io::Error) {
        let source = site.key.source.expect("without one there is nothing to bind");
        let now_ms = clock::coarse_ms();
        let Some(wait_ms) = self.sources.borrow_mut().on_failed(source, now_ms) else { return };
        site.block_until(now_ms + wait_ms);
        let config = self.config.borrow();
        let name = config.source_at(source).map_or("", |source| source.name.as_str());
        notice!(
            "ringpost: source {name} ({source}) cannot be used: {error}: left alone for {} s",
            wait_ms / 1000
        );
    }
}

/// How long a site that a rule calls dead is not asked. The next message after that is sent as
/// usual: what the site says of it decides anew.
const DEAD_PERIOD: Duration = Duration::from_secs(3600);
