//! What rules for replies say of later mail: sites to be slow with, left alone, or taken for dead.
//! `Pure.`
//!
//! Every shard has the same table: whoever judges a reply tells the others. Entries end by time.

use std::net::IpAddr;

use super::lease::SiteKey;
use crate::limits::SUSPENSIONS_MAX;
use crate::mail::{Reply, ReplyClass};
use crate::routing::Hop;

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspension {
    pub scope: SuspensionScope,
    pub kind: SuspensionKind,
    /// Monotonic milliseconds of this process.
    pub until_ms: u64,
    pub by: SuspendedBy,
    /// What the next hop said.
    pub reply: Reply,
    pub class: ReplyClass,
}

/// Whose mail an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SuspensionScope {
    pub hop: Hop,
    /// `None` for all of them. Mail without a source of its own has its entries here too.
    pub source: Option<IpAddr>,
    /// `None` for all of them.
    pub tenant: Option<Box<str>>,
}

impl SuspensionScope {
    /// Whether it is about mail to a site; `tenant` is said where its mail stands apart.
    fn holds(&self, site: &SiteKey, tenant: Option<&str>) -> bool {
        self.holds_site(site) && (self.tenant.is_none() || self.tenant.as_deref() == tenant)
    }

    fn holds_site(&self, site: &SiteKey) -> bool {
        self.hop == site.hop && (self.source.is_none() || self.source == site.source)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SuspensionKind {
    /// Connections, and the rates that a `[[limit]]` gives, go down to one in so many.
    Slow(u32),
    /// Nothing goes out.
    Suspend,
    /// What waits is Failed. Afterwards the next message asks anew.
    Dead,
}

/// Who wanted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspendedBy {
    /// The position of the rule in its file, 0-based.
    Rule(usize),
}

/// The table of one shard.
#[derive(Debug, Default)]
pub struct Suspensions {
    entries: Vec<Suspension>,
}

impl Suspensions {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Suspension> {
        self.entries.iter()
    }

    /// Adds an entry, or lets the one of the same scope and kind hold longer. Returns whether that
    /// is worth telling others: not for a moment more of what they know.
    pub fn add(&mut self, suspension: Suspension) -> bool {
        let same = self.entries.iter_mut().find(|it| {
            it.scope == suspension.scope
                && std::mem::discriminant(&it.kind) == std::mem::discriminant(&suspension.kind)
        });
        if let Some(same) = same {
            let is_news =
                suspension.until_ms > same.until_ms + NEWS_MS_MIN || suspension.kind != same.kind;
            if is_news {
                *same = suspension;
            }
            return is_news;
        }
        if self.entries.len() == SUSPENSIONS_MAX {
            let ends_first = (0..self.entries.len()).min_by_key(|it| self.entries[*it].until_ms);
            self.entries.swap_remove(ends_first.expect("the table is full"));
        }
        self.entries.push(suspension);
        true
    }

    /// Forgets what is over; returns whose.
    pub fn expire(&mut self, now_ms: u64) -> Vec<SuspensionScope> {
        let mut over = Vec::new();
        self.entries.retain(|it| {
            if it.until_ms <= now_ms {
                over.push(it.scope.clone());
            }
            it.until_ms > now_ms
        });
        over
    }

    /// Forgets those that `is_lifted` points out; returns whose.
    pub fn lift(&mut self, is_lifted: impl Fn(&Suspension) -> bool) -> Vec<SuspensionScope> {
        let mut over = Vec::new();
        self.entries.retain(|it| {
            let goes = is_lifted(it);
            if goes {
                over.push(it.scope.clone());
            }
            !goes
        });
        over
    }

    /// The divisor of a site's limits: 1 where nothing slows it.
    pub fn divisor(&self, site: &SiteKey) -> u32 {
        let of_site = self.entries.iter().filter(|it| it.scope.holds_site(site));
        let factors = of_site.filter_map(|it| match it.kind {
            SuspensionKind::Slow(factor) => Some(factor),
            SuspensionKind::Suspend | SuspensionKind::Dead => None,
        });
        factors.max().unwrap_or(1)
    }

    /// Why mail does not go out by a site, if it does not; the entry that ends last, a dead site
    /// before all. `tenant` is said where its mail stands apart.
    pub fn blocks(&self, site: &SiteKey, tenant: Option<&str>) -> Option<&Suspension> {
        let blocking = self.entries.iter().filter(|it| {
            !matches!(it.kind, SuspensionKind::Slow(_)) && it.scope.holds(site, tenant)
        });
        blocking.max_by_key(|it| (it.kind == SuspensionKind::Dead, it.until_ms))
    }

    /// Whether some tenant's mail to a place is suspended by itself.
    pub fn is_by_tenant(&self, hop: &Hop, tenant: &str) -> bool {
        self.entries
            .iter()
            .any(|it| it.scope.hop == *hop && it.scope.tenant.as_deref() == Some(tenant))
    }
}

/// A longer time is news from here on: a crowd of replies that say the same is told once.
const NEWS_MS_MIN: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn site(source: Option<&str>) -> SiteKey {
        SiteKey {
            hop: Hop::parse("smtp://192.0.2.1:25").expect("a hop"),
            source: source.map(|it| it.parse().expect("an address")),
        }
    }

    fn entry(
        kind: SuspensionKind,
        until_ms: u64,
        source: Option<&str>,
        tenant: Option<&str>,
    ) -> Suspension {
        let SiteKey { hop, source } = site(source);
        Suspension {
            scope: SuspensionScope { hop, source, tenant: tenant.map(Into::into) },
            kind,
            until_ms,
            by: SuspendedBy::Rule(0),
            reply: Reply::bare(421, "no"),
            class: ReplyClass::Rate,
        }
    }

    #[test]
    fn an_entry_holds_for_its_scope_and_its_time() {
        let mut table = Suspensions::default();
        assert!(table.add(entry(SuspensionKind::Suspend, 100, Some("192.0.2.9"), None)));
        assert!(table.add(entry(SuspensionKind::Suspend, 200, None, Some("acme"))));
        let until = |table: &Suspensions, source, tenant| {
            table.blocks(&site(source), tenant).map(|it| it.until_ms)
        };
        assert_eq!(until(&table, Some("192.0.2.9"), None), Some(100));
        assert_eq!(until(&table, Some("192.0.2.8"), None), None);
        assert_eq!(until(&table, Some("192.0.2.9"), Some("acme")), Some(200));
        assert_eq!(until(&table, None, Some("acme")), Some(200));
        assert!(table.is_by_tenant(&site(None).hop, "acme"));
        assert_eq!(table.expire(99).len(), 0);
        assert_eq!(table.expire(100).len(), 1);
        assert_eq!(until(&table, Some("192.0.2.9"), None), None);
        assert_eq!(table.lift(|it| it.scope.tenant.is_some()).len(), 1);
        assert!(table.is_empty());
    }

    #[test]
    fn what_is_said_again_is_news_only_when_it_holds_much_longer() {
        let mut table = Suspensions::default();
        assert!(table.add(entry(SuspensionKind::Slow(2), 10_000, None, None)));
        assert!(!table.add(entry(SuspensionKind::Slow(2), 10_500, None, None)));
        assert!(table.add(entry(SuspensionKind::Slow(4), 10_500, None, None)));
        assert!(table.add(entry(SuspensionKind::Slow(4), 20_000, None, None)));
        assert_eq!((table.iter().count(), table.divisor(&site(None))), (1, 4));
        assert!(table.blocks(&site(None), None).is_none());
        assert!(table.add(entry(SuspensionKind::Dead, 5, None, None)));
        assert!(table.add(entry(SuspensionKind::Suspend, 900, None, None)));
        let kind = table.blocks(&site(None), None).map(|it| it.kind);
        assert_eq!(kind, Some(SuspensionKind::Dead));
    }

    #[test]
    fn a_full_table_lets_the_entry_go_that_ends_first() {
        let mut table = Suspensions::default();
        for number in 0..=SUSPENSIONS_MAX {
            let tenant = number.to_string();
            let until_ms = 1_000 + number as u64;
            table.add(entry(SuspensionKind::Suspend, until_ms, None, Some(&tenant)));
        }
        assert_eq!(table.iter().count(), SUSPENSIONS_MAX);
        assert!(table.blocks(&site(None), Some("0")).is_none());
        assert!(table.blocks(&site(None), Some("1")).is_some());
    }
}
