//! Sources that cannot be used now: an address that this host does not have. `Pure.`

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
}

impl Sources {
    /// Monotonic milliseconds until which the source is not tried, if it is not.
    pub fn unusable_until(&self, source: Option<IpAddr>, now_ms: u64) -> Option<u64> {
        let until_ms = self.failed.get(&source?)?.until_ms;
        (until_ms > now_ms).then_some(until_ms)
    }

    /// Returns for how many milliseconds it is left alone, unless it is already.
    pub fn on_failed(&mut self, source: IpAddr, now_ms: u64) -> Option<u64> {
        let failed = self.failed.entry(source).or_insert(Failed { count: 0, until_ms: 0 });
        if failed.until_ms > now_ms {
            return None;
        }
        let wait_ms = (WAIT_MS_MIN << failed.count.min(16)).min(WAIT_MS_MAX);
        failed.count += 1;
        failed.until_ms = now_ms + wait_ms;
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
}
