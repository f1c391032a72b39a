//! Latency histograms and the schedule of an open loop.
//!
//! Pure.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A histogram of durations in microseconds, 1 µs to one hour, three significant digits.
#[derive(Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Latencies {
    pub fn new() -> Self {
        let histogram =
            Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are valid");
        Self { histogram }
    }

    pub fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record((latency.as_micros() as u64).max(1));
    }

    pub fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("all histograms have the same bounds");
    }

    pub fn summary(&self) -> LatencySummary {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        LatencySummary {
            count: self.histogram.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.histogram.max(),
        }
    }
}

/// What is printed of a histogram; zeroes where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencySummary {
    pub count: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

/// When the messages of an open loop are due, whatever the server does.
///
/// The intended time of a message is rounded up to the pace of the clock that starts it, so a late
/// start is always latency: a stalled server cannot hide the messages it kept waiting (coordinated
/// omission).
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    interval_ns: f64,
}

impl Schedule {
    /// `rate` in messages a second, above 0.
    pub fn new(rate: f64) -> Self {
        assert!(rate > 0.0);
        Self { interval_ns: 1e9 / rate }
    }

    /// Intended start of message `index`, from the start of the run.
    pub fn intended(&self, index: u64) -> Duration {
        let exact_ns = (index as f64 * self.interval_ns) as u64;
        Duration::from_nanos(exact_ns.div_ceil(PACE_NS) * PACE_NS)
    }

    /// Messages that are due when `elapsed` has passed.
    pub fn due(&self, elapsed: Duration) -> u64 {
        let pace_ns = elapsed.as_nanos() as u64 / PACE_NS * PACE_NS;
        (pace_ns as f64 / self.interval_ns) as u64 + 1
    }
}

/// Period of the clock that starts the messages of an open loop.
pub const PACE_NS: u64 = 500_000;
const LATENCY_US_MAX: u64 = 3_600_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_come_from_all_merged_histograms() {
        let (mut fast, mut slow) = (Latencies::new(), Latencies::new());
        for _ in 0..99 {
            fast.record(Duration::from_micros(100));
        }
        slow.record(Duration::from_micros(50_000));
        fast.add(&slow);
        let summary = fast.summary();
        assert_eq!((summary.count, summary.p50_us), (100, 100));
        assert!((50_000..50_100).contains(&summary.max_us));
        assert!(summary.p999_us >= 50_000);
    }

    #[test]
    fn an_open_loop_charges_a_stall_to_every_message_that_was_due_in_it() {
        // 1,000 a second; the server stands still from the start for a second, then is instant.
        let schedule = Schedule::new(1_000.0);
        let mut latencies = Latencies::new();
        let stall = Duration::from_secs(1);
        for index in 0..schedule.due(stall) {
            latencies.record(stall.saturating_sub(schedule.intended(index)));
        }
        let summary = latencies.summary();
        assert_eq!(summary.count, 1_001);
        assert!((495_000..505_000).contains(&summary.p50_us), "{summary:?}");
    }

    #[test]
    fn no_message_is_due_before_its_intended_time() {
        let schedule = Schedule::new(3_333.0);
        for elapsed_us in (0..20_000).step_by(37) {
            let elapsed = Duration::from_micros(elapsed_us);
            let due = schedule.due(elapsed);
            assert!(schedule.intended(due - 1) <= elapsed);
        }
    }
}
