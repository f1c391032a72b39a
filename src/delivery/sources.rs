//! Sources that cannot be used now: an address that this host does not have, a proxy that is down.
//! `Pure.`

use std::collections::HashMap;
use std::net::IpAddr;

/// By address, those that failed.
#[derive(Default)]
pub(super) struct Sources {
    failed: HashMap<IpAddr, Failed>,
}

struct Failed {
    /// In a row.
    count: u32,
    until_ms: u64,
    /// One connection asks whether it works again; others wait until then at the longest.
    probed_until_ms: u64,
}

impl Sources {
    /// Monotonic milliseconds until which the source is not tried, if it is not.
    pub fn unusable_until(&self, source: Option<IpAddr>, now_ms: u64) -> Option<u64> {
        let until_ms = self.failed.get(&source?)?.until_ms;
        (until_ms > now_ms).then_some(until_ms)
    }

    /// Where a connection asks just now whether the source works again: monotonic milliseconds at
    /// which others look how that has ended.
    pub fn probed_until(&self, source: Option<IpAddr>, now_ms: u64) -> Option<u64> {
        let until_ms = self.failed.get(&source?)?.probed_until_ms;
        // It is known soon, as a rule.
        (until_ms > now_ms).then_some((now_ms + PROBE_LOOK_MS).min(until_ms))
    }

    /// A connection from it is about to be opened, which takes at most `patience_ms`.
    pub fn on_try(&mut self, source: Option<IpAddr>, patience_ms: u64, now_ms: u64) {
        let failed = source.and_then(|source| self.failed.get_mut(&source));
        if let Some(failed) = failed {
            failed.probed_until_ms = now_ms + patience_ms;
        }
    }

    /// Returns for how many milliseconds it is left alone, unless it is already.
    pub fn on_failed(&mut self, source: IpAddr, now_ms: u64) -> Option<u64> {
        let new = Failed { count: 0, until_ms: 0, probed_until_ms: 0 };
        let failed = self.failed.entry(source).or_insert(new);
        if failed.until_ms > now_ms {
            return None;
        }
        let wait_ms = (WAIT_MS_MIN << failed.count.min(16)).min(WAIT_MS_MAX);
        failed.count += 1;
        failed.until_ms = now_ms + wait_ms;
        failed.probed_until_ms = 0;
        Some(wait_ms)
    }

    pub fn on_used(&mut self, source: Option<IpAddr>) {
        if !self.failed.is_empty()
            && let Some(source) = source
        {
            self.failed.remove(&source);
        }
    }

    /// All of them may be tried at once.
    pub fn forget(&mut self) {
        self.failed.clear();
    }
}

const WAIT_MS_MIN: u64 = 1_000;
const WAIT_MS_MAX: u64 = 300_000;
/// How soon it is looked again whether a source that is being asked works: mail stays ready.
const PROBE_LOOK_MS: u64 = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_fails_is_left_alone_for_a_growing_time() {
        let mut sources = Sources::default();
        let source: IpAddr = [192, 0, 2, 1].into();
        assert_eq!(sources.unusable_until(Some(source), 0), None);
        assert_eq!(sources.on_failed(source, 0), Some(1_000));
        assert_eq!(sources.on_failed(source, 999), None, "the same failure");
        assert_eq!(sources.unusable_until(Some(source), 999), Some(1_000));
        assert_eq!(sources.on_failed(source, 1_000), Some(2_000));
        let waits = (0..20).filter_map(|round| sources.on_failed(source, 1_000_000 * (round + 1)));
        assert_eq!(waits.last(), Some(300_000));
        sources.on_used(Some(source));
        assert_eq!(sources.on_failed(source, 30_000_000), Some(1_000));
    }

    #[test]
    fn one_connection_asks_whether_a_source_works_again_and_the_others_wait_for_it() {
        let mut sources = Sources::default();
        let source: IpAddr = [192, 0, 2, 1].into();
        let until = |sources: &Sources, now_ms| {
            let failed_until_ms = sources.unusable_until(Some(source), now_ms);
            failed_until_ms.or(sources.probed_until(Some(source), now_ms))
        };
        sources.on_try(Some(source), 30_000, 0);
        assert_eq!(until(&sources, 0), None, "nothing holds against it");
        sources.on_failed(source, 0);
        assert_eq!(until(&sources, 1_000), None);
        sources.on_try(Some(source), 30_000, 1_000);
        assert_eq!(until(&sources, 1_001), Some(1_201));
        assert_eq!(until(&sources, 30_900), Some(31_000));
        assert_eq!(until(&sources, 31_000), None, "whoever asked has gone");
        sources.on_try(Some(source), 30_000, 31_000);
        sources.on_used(Some(source));
        assert_eq!(until(&sources, 31_001), None);
        sources.on_failed(source, 40_000);
        sources.on_try(Some(source), 30_000, 41_000);
        assert_eq!(sources.on_failed(source, 41_500), Some(2_000));
        assert_eq!(until(&sources, 42_000), Some(43_500));
        assert_eq!(until(&sources, 43_500), None);
    }
}
