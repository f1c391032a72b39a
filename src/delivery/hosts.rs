//! Hosts that could not be reached or refused a session: others are tried before them. `Pure.`

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::limits::HOST_FAILURES_MAX;
use crate::mail::Reply;

/// By address and the source it was tried from. Who has no entry is as good as any.
#[derive(Default)]
pub(super) struct Hosts {
    failed: HashMap<(SocketAddr, Option<IpAddr>), Failed>,
}

/// What is remembered of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// In a row.
    pub count: u32,
    /// Monotonic milliseconds until which others go first.
    pub until_ms: u64,
    /// What came of the last connection.
    pub reply: Reply,
}

impl Hosts {
    /// Monotonic milliseconds until which others go first, if they do.
    pub fn failed_until_ms(
        &self,
        host: SocketAddr,
        source: Option<IpAddr>,
        now_ms: u64,
    ) -> Option<u64> {
        let until_ms = self.failed.get(&(host, source))?.until_ms;
        (until_ms > now_ms).then_some(until_ms)
    }

    /// How many are remembered.
    pub fn count(&self) -> usize {
        self.failed.len()
    }

    /// Forgets what counts no more and what nobody has tried for long since.
    pub fn sweep(&mut self, now_ms: u64) {
        self.failed.retain(|_, it| now_ms < it.until_ms + FORGOTTEN_MS);
    }

    /// What holds against an address, whichever source it was tried from.
    pub fn failure(&self, host: SocketAddr, now_ms: u64) -> Option<&Failed> {
        let of_host = self.failed.iter().filter(|((address, _), _)| *address == host);
        of_host.map(|(_, failed)| failed).find(|failed| failed.until_ms > now_ms)
    }

    /// It did not answer, or would not have us; each time in a row counts for longer.
    pub fn on_failed(
        &mut self,
        host: SocketAddr,
        source: Option<IpAddr>,
        reply: &Reply,
        now_ms: u64,
    ) {
        let key = (host, source);
        if self.failed.len() >= HOST_FAILURES_MAX && !self.failed.contains_key(&key) {
            self.failed.retain(|_, it| it.until_ms > now_ms);
            if self.failed.len() >= HOST_FAILURES_MAX {
                self.failed.clear();
            }
        }
        let new = Failed { count: 0, until_ms: 0, reply: reply.clone() };
        let failed = self.failed.entry(key).or_insert(new);
        // Connections that failed at the same time are one failure.
        if failed.until_ms <= now_ms {
            let wait_ms = (WAIT_MS_MIN << failed.count.min(16)).min(WAIT_MS_MAX);
            failed.count += 1;
            failed.until_ms = now_ms + wait_ms;
        }
        failed.reply.clone_from(reply);
    }

    /// It took a session.
    pub fn on_used(&mut self, host: SocketAddr, source: Option<IpAddr>) {
        if !self.failed.is_empty() {
            self.failed.remove(&(host, source));
        }
    }

    /// All of them may be tried at once.
    pub fn forget(&mut self) {
        self.failed.clear();
    }
}

const WAIT_MS_MIN: u64 = 60_000;
const WAIT_MS_MAX: u64 = 600_000;
/// A failure after this is no longer one in a row.
const FORGOTTEN_MS: u64 = 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    const NO: Reply = Reply::bare(421, "no");

    fn host(number: u32) -> SocketAddr {
        (std::net::Ipv4Addr::from_bits(number), 25).into()
    }

    #[test]
    fn a_host_that_fails_is_tried_after_others_for_a_growing_time() {
        let mut hosts = Hosts::default();
        let it = host(1);
        let is_failed =
            |hosts: &Hosts, source, now_ms| hosts.failed_until_ms(it, source, now_ms).is_some();
        assert!(!is_failed(&hosts, None, 0));
        hosts.on_failed(it, None, &NO, 0);
        hosts.on_failed(it, None, &NO, 1);
        assert!(is_failed(&hosts, None, 59_999));
        assert!(!is_failed(&hosts, None, 60_000), "two at once are one");
        assert!(!is_failed(&hosts, Some([192, 0, 2, 1].into()), 1), "another source");
        assert_eq!(
            hosts.failure(it, 59_999).map(|failed| (failed.count, &failed.reply)),
            Some((1, &NO))
        );
        assert_eq!(hosts.failure(it, 60_000), None);
        hosts.on_failed(it, None, &NO, 60_000);
        assert!(is_failed(&hosts, None, 179_999));
        for round in 1..20 {
            hosts.on_failed(it, None, &NO, round * 10_000_000);
        }
        assert!(!is_failed(&hosts, None, 190_600_000));
        hosts.on_failed(it, None, &NO, 300_000_000);
        hosts.sweep(300_000_000 + WAIT_MS_MAX);
        assert_eq!(hosts.count(), 1);
        hosts.sweep(300_000_000 + WAIT_MS_MAX + FORGOTTEN_MS);
        assert_eq!(hosts.count(), 0);
        hosts.on_failed(it, None, &NO, 300_000_000);
        hosts.on_used(it, None);
        assert!(!is_failed(&hosts, None, 300_000_000));
    }

    #[test]
    fn memory_has_a_bound() {
        let mut hosts = Hosts::default();
        for number in 0..HOST_FAILURES_MAX as u32 + 10 {
            hosts.on_failed(host(number), None, &NO, u64::from(number));
        }
        assert!(hosts.failed.len() <= HOST_FAILURES_MAX);
        let last = host(HOST_FAILURES_MAX as u32 + 9);
        assert!(hosts.failed_until_ms(last, None, 60_000).is_some());
    }
}
