//! Sites of one key whose mail asks different TLS of its servers: they share leases, and take
//! turns where these are scarce.

use std::rc::Rc;

use super::Inner;
use super::site::Site;

impl Inner {
    /// Whether a sibling without a connection has waited for a lease since before `now_ms`, longer
    /// than the site has: what is free is for that one.
    pub(super) fn comes_after_sibling(&self, site: &Rc<Site>, now_ms: u64) -> bool {
        let before_ms = site.denied_since().unwrap_or(now_ms);
        self.has_waiting_sibling(site, before_ms, now_ms)
    }

    /// Whether a leased connection, opened at `opened_ms`, is to be closed: siblings wait for one,
    /// and it has no work or had its turn. All in monotonic milliseconds.
    pub(super) fn is_to_yield(&self, site: &Rc<Site>, opened_ms: u64, now_ms: u64) -> bool {
        let had_its_turn = now_ms >= opened_ms + TURN_MS || site.ready_count(&self.queue) == 0;
        had_its_turn && self.has_waiting_sibling(site, now_ms, now_ms)
    }

    /// Idle connections of siblings are to see whether they may stay.
    pub(super) fn call_siblings(&self, site: &Rc<Site>) {
        for sibling in self.sites_of(&site.key).iter().filter(|it| !Rc::ptr_eq(it, site)) {
            sibling.work.notify_all();
        }
    }

    fn has_waiting_sibling(&self, site: &Rc<Site>, before_ms: u64, now_ms: u64) -> bool {
        let sites = self.sites.borrow();
        let siblings = sites.get(&site.key).into_iter().flatten();
        siblings.filter(|it| !Rc::ptr_eq(it, site)).any(|it| {
            it.denied_since().is_some_and(|since_ms| since_ms < before_ms)
                && it.connection_count() == 0
                && it.ready_count(&self.queue) > 0
                && !it.is_blocked(now_ms)
                && it.suspended_until(now_ms).is_none()
        })
    }
}

/// How long a connection is kept while siblings wait for one.
const TURN_MS: u64 = 1_000;
