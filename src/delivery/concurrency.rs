//! How many connections a site bears, and when it counts as dead. `Pure.`

use crate::config;

/// The window of one site on one shard.
///
/// It rises by one for each window of messages that went well, and falls back to the start at the
/// first failure of a run; the run ends once a window of messages went well again.
#[derive(Debug)]
pub struct Concurrency {
    /// Connections; a fraction is on the way to the next one.
    size: f64,
    /// Messages that are still to go well before another failure counts; 0 outside a run.
    run_left: u32,
    /// Connections that failed in a row, none being open.
    failures: u32,
    /// Times that it was found dead in a row.
    probes: u32,
}

/// What follows from a connection that failed while none was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after a moment.
    Failing,
    /// Nothing gets through: ask again after a wait that grows with the count of such verdicts.
    Dead { probes: u32 },
}

impl Concurrency {
    pub fn new(config: &config::Delivery) -> Self {
        let start = config.connections_start.min(config.connections_max);
        Self { size: start as f64, run_left: 0, failures: 0, probes: 0 }
    }

    /// Connections allowed, at least one.
    pub fn size(&self, config: &config::Delivery) -> usize {
        (self.size as usize).clamp(1, config.connections_max)
    }

    /// Whether so many connections failed in a row that nothing is sent but a probe.
    pub fn is_dead(&self) -> bool {
        self.probes > 0
    }

    /// Whether the last connection could not be opened and there was no other.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Messages went well.
    pub fn on_success(&mut self, count: u32, config: &config::Delivery) {
        let max = config.connections_max as f64;
        if self.size < max {
            self.size = (self.size + f64::from(count) / self.size).min(max);
        }
        self.run_left = self.run_left.saturating_sub(count);
    }

    /// A connection was refused, or lost with what was under way.
    pub fn on_failure(&mut self, config: &config::Delivery) {
        if self.run_left == 0 {
            let start = config.connections_start as f64;
            // At the start already, half of it.
            self.size = if self.size > start { start } else { (self.size / 2.0).max(1.0) };
        }
        self.run_left = self.size as u32;
    }

    /// A connection was opened.
    pub fn on_opened(&mut self) {
        (self.failures, self.probes) = (0, 0);
    }

    /// A connection could not be opened and there is no other.
    pub fn on_unreachable(&mut self, config: &config::Delivery) -> Verdict {
        self.on_failure(config);
        self.failures = self.failures.saturating_add(1);
        if self.failures < config.failures_dead {
            return Verdict::Failing;
        }
        self.probes = self.probes.saturating_add(1);
        Verdict::Dead { probes: self.probes }
    }

    /// Failures are a thing of the past.
    pub fn forget_failures(&mut self) {
        (self.failures, self.probes, self.run_left) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config() -> config::Delivery {
        let mut config = Config::embedded().delivery;
        (config.connections_start, config.connections_max, config.failures_dead) = (4, 10, 3);
        config
    }

    #[test]
    fn it_rises_by_one_a_window_and_falls_back_once_a_run() {
        let config = config();
        let mut it = Concurrency::new(&config);
        (0..4).for_each(|_| it.on_success(1, &config));
        assert_eq!(it.size(&config), 4, "almost five");
        it.on_success(1, &config);
        assert_eq!(it.size(&config), 5);
        it.on_success(1000, &config);
        assert_eq!(it.size(&config), 10, "the ceiling");
        it.on_failure(&config);
        assert_eq!(it.size(&config), 4);
        it.on_failure(&config);
        assert_eq!(it.size(&config), 4, "the same run");
        it.on_success(4, &config);
        it.on_failure(&config);
        assert_eq!(it.size(&config), 4, "the next one, from above the start");
        it.on_success(4, &config);
        (0..9).for_each(|_| it.on_failure(&config));
        assert!(it.size(&config) >= 1);
    }

    #[test]
    fn a_run_of_unreachable_connections_makes_a_dead_site() {
        let config = config();
        let mut it = Concurrency::new(&config);
        let mut verdict = || it.on_unreachable(&config);
        assert_eq!([verdict(), verdict()], [Verdict::Failing; 2]);
        assert_eq!(verdict(), Verdict::Dead { probes: 1 });
        assert_eq!(verdict(), Verdict::Dead { probes: 2 }, "the probe failed");
        assert!(it.is_dead() && it.is_failing());
        it.on_opened();
        assert!(!it.is_dead() && !it.is_failing());
        assert_eq!(it.on_unreachable(&config), Verdict::Failing);
    }
}
