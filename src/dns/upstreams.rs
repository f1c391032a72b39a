//! Whom to ask first: upstreams by how fast and how reliably they answer. Pure.

use std::net::SocketAddr;
use std::time::Duration;

/// The upstreams of one resolver. An index is the position in the configuration.
pub struct Upstreams(Vec<Upstream>);

struct Upstream {
    address: SocketAddr,
    /// Smoothed time of an answer. One that was never measured comes first, in the order of the
    /// configuration.
    smoothed_us: u64,
    /// Failures since the last answer.
    failure_count: u32,
    /// Until then it is asked after the others.
    suspect_until_ms: u64,
    /// Until then it is asked without EDNS.
    plain_until_ms: u64,
}

impl Upstreams {
    pub fn new(addresses: &[SocketAddr]) -> Self {
        let upstreams = addresses.iter().enumerate().map(|(index, address)| Upstream {
            address: *address,
            smoothed_us: index as u64,
            failure_count: 0,
            suspect_until_ms: 0,
            plain_until_ms: 0,
        });
        Self(upstreams.collect())
    }

    pub fn address(&self, index: usize) -> SocketAddr {
        self.0[index].address
    }

    /// In which order to ask for the next question: the fastest first, those that failed lately
    /// last.
    ///
    /// An upstream that was not first comes a little closer each time, so one that was slow once is
    /// measured again; one that failed is asked first again when its pause is over.
    pub fn order(&mut self, now_ms: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        order.sort_by_key(|index| {
            let it = &self.0[*index];
            let suspect = it.suspect_until_ms > now_ms;
            (suspect, if suspect { it.suspect_until_ms } else { it.smoothed_us }, *index)
        });
        for index in order.iter().skip(1) {
            let it = &mut self.0[*index];
            it.smoothed_us -= it.smoothed_us.div_ceil(DECAY);
        }
        order
    }

    /// It answered, whatever it said, `elapsed` after the question.
    pub fn on_answer(&mut self, index: usize, elapsed: Duration) {
        let it = &mut self.0[index];
        let us = elapsed.as_micros() as u64;
        it.smoothed_us = match it.smoothed_us {
            unmeasured if unmeasured < UNMEASURED_US => us.max(UNMEASURED_US),
            smoothed => (smoothed * 7 + us) / 8,
        };
        it.failure_count = 0;
        it.suspect_until_ms = 0;
    }

    /// It did not answer, or nothing that helps. One loss is no reason to leave it, a second one
    /// is.
    pub fn on_failure(&mut self, index: usize, now_ms: u64) {
        let it = &mut self.0[index];
        it.failure_count += 1;
        if let Some(doublings) = it.failure_count.checked_sub(2) {
            let pause_ms = (PAUSE_MS_MIN << doublings.min(10)).min(PAUSE_MS_MAX);
            it.suspect_until_ms = now_ms + pause_ms;
        }
    }

    /// It did not understand EDNS.
    pub fn on_edns_refused(&mut self, index: usize, now_ms: u64) {
        self.0[index].plain_until_ms = now_ms + PLAIN_MS;
    }

    pub fn takes_edns(&self, index: usize, now_ms: u64) -> bool {
        self.0[index].plain_until_ms <= now_ms
    }
}

/// Share of its time by which an upstream comes closer that was not asked first.
const DECAY: u64 = 64;
/// Below this a time is no measurement.
const UNMEASURED_US: u64 = 16;
/// Pause of an upstream after its second failure, and the longest one.
const PAUSE_MS_MIN: u64 = 2_000;
const PAUSE_MS_MAX: u64 = 60_000;
/// How long an upstream that refused EDNS is asked without.
const PLAIN_MS: u64 = 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn upstreams(count: u8) -> Upstreams {
        let addresses: Vec<_> = (0..count).map(|it| ([192, 0, 2, it], 53).into()).collect();
        Upstreams::new(&addresses)
    }

    #[test]
    fn the_fastest_is_first_and_each_is_measured() {
        let mut it = upstreams(3);
        assert_eq!(it.order(0), [0, 1, 2]);
        it.on_answer(0, Duration::from_millis(5));
        assert_eq!(it.order(0)[0], 1);
        it.on_answer(1, Duration::from_millis(50));
        assert_eq!(it.order(0)[0], 2);
        it.on_answer(2, Duration::from_millis(20));
        assert_eq!(it.order(0), [0, 2, 1]);
        let rounds = (0..1000).take_while(|_| it.order(0)[0] == 0).count();
        assert!((50..500).contains(&rounds), "a slow one is tried again after {rounds} questions");
    }

    #[test]
    fn one_that_fails_twice_comes_last_until_its_pause_is_over() {
        let mut it = upstreams(2);
        it.on_answer(0, Duration::from_millis(1));
        it.on_answer(1, Duration::from_millis(9));
        it.on_failure(0, 1000);
        assert_eq!(it.order(1000), [0, 1], "one loss");
        it.on_failure(0, 1000);
        assert_eq!(it.order(2999), [1, 0]);
        assert_eq!(it.order(3000), [0, 1], "tried again");
        it.on_failure(0, 3000);
        assert_eq!(it.order(6999), [1, 0], "twice as long");
        for _ in 0..100 {
            it.on_failure(0, 7000);
        }
        assert_eq!(it.order(66_999), [1, 0]);
        assert_eq!(it.order(67_000), [0, 1], "a minute at most");
        it.on_answer(0, Duration::from_millis(1));
        it.on_failure(0, 70_000);
        assert_eq!(it.order(70_000), [0, 1], "an answer clears it");
        it.on_failure(1, 70_000);
        it.on_failure(1, 70_000);
        it.on_failure(0, 71_000);
        assert_eq!(it.order(71_500), [1, 0], "all suspect: the one whose pause ends first");
    }

    #[test]
    fn edns_is_left_out_for_a_while_after_a_refusal() {
        let mut it = upstreams(1);
        assert!(it.takes_edns(0, 0));
        it.on_edns_refused(0, 0);
        assert!(!it.takes_edns(0, PLAIN_MS - 1));
        assert!(it.takes_edns(0, PLAIN_MS));
    }
}
