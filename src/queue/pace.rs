//! How many reports one address gets in a time. `Pure.`

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Spaces out the reports to each address: at most so many within any minute, none dropped.
///
/// Half of them may go at once, the others follow evenly; the two together make up the minute.
/// Addresses are told apart by a hash with few values, so memory is fixed: two that share one share
/// their minute. It starts anew with the process.
pub(super) struct Pace {
    seed: u64,
    /// For each hash the Unix milliseconds up to which its minute is spoken for.
    spoken_for: Box<[u64]>,
}

impl Pace {
    /// `seed` is random: nobody can choose an address that shares with another one.
    pub fn new(seed: u64) -> Self {
        Self { seed, spoken_for: vec![0; ADDRESSES].into() }
    }

    /// Unix milliseconds at which a report to `address` may go: `now_ms`, or later.
    pub fn next(&mut self, address: &str, per_minute: u32, now_ms: u64) -> u64 {
        assert!(per_minute > 0);
        let at_once = (per_minute / 2).max(1);
        let interval_ms = MINUTE_MS / u64::from(per_minute - at_once + 1) + 1;
        let hash = xxh3_64_with_seed(address.to_ascii_lowercase().as_bytes(), self.seed);
        let spoken_for = &mut self.spoken_for[hash as usize % ADDRESSES];
        *spoken_for = (*spoken_for).max(now_ms) + interval_ms;
        spoken_for.saturating_sub(u64::from(at_once) * interval_ms).max(now_ms)
    }
}

const MINUTE_MS: u64 = Duration::from_secs(60).as_millis() as u64;
/// Hashes that are told apart.
const ADDRESSES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_minute_holds_more_than_it_may_and_none_is_lost() {
        for per_minute in [1, 2, 3, 7, 60, 1_000] {
            let mut pace = Pace::new(1);
            // A burst, a pause, one that comes and goes, and a burst again.
            let burst = 3 * u64::from(per_minute);
            let times = (0..burst).map(|_| 0).chain((0..burst).map(|index| 61_000 + index * 17));
            let releases: Vec<u64> = times
                .map(|now_ms| {
                    let release_ms = pace.next("a@b.test", per_minute, now_ms);
                    assert!(release_ms >= now_ms);
                    release_ms
                })
                .collect();
            assert!(releases.is_sorted(), "first come, first served");
            for window in releases.windows(per_minute as usize + 1) {
                assert!(window[window.len() - 1] - window[0] >= MINUTE_MS, "{per_minute}");
            }
            let first = releases.iter().filter(|release_ms| **release_ms == 0).count();
            assert_eq!(first, (per_minute as usize / 2).max(1));
            let last = releases[burst as usize - 1];
            assert!(last <= 7 * MINUTE_MS, "they go on steadily: {last}");
        }
    }

    #[test]
    fn addresses_do_not_wait_for_one_another_and_case_makes_no_other() {
        let mut pace = Pace::new(1);
        assert_eq!(pace.next("a@b.test", 1, 5), 5);
        assert!(pace.next("A@B.test", 1, 5) > 60_000);
        assert_eq!(pace.next("c@b.test", 1, 5), 5);
    }
}
