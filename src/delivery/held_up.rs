//! Mail that one cause held up at known times, and its line at all others.

use std::rc::Rc;

use crate::mail::WaitCause;
use crate::queue::ledger::{CauseTimes, Waiting};

pub(super) struct HeldUp {
    pub cause: WaitCause,
    /// Unix milliseconds; intervals in order, none of which reaches into another.
    pub times: Vec<(u64, u64)>,
    pub line: Option<Rc<dyn Waiting>>,
}

impl Waiting for HeldUp {
    fn causes(&self, from_ms: u64, to_ms: u64) -> CauseTimes {
        let mut times = CauseTimes::default();
        let mut add_line = |from_ms: u64, to_ms: u64| {
            if let Some(line) = self.line.as_ref().filter(|_| from_ms < to_ms) {
                let of_line = line.causes(from_ms, to_ms);
                times.iter_mut().zip(of_line).for_each(|(time, more)| *time += more);
            }
        };
        let (mut at_ms, mut held_ms) = (from_ms, 0);
        for (start_ms, end_ms) in &self.times {
            let (start_ms, end_ms) = ((*start_ms).max(at_ms), (*end_ms).min(to_ms));
            if start_ms < end_ms {
                add_line(at_ms, start_ms);
                held_ms += end_ms - start_ms;
                at_ms = end_ms;
            }
        }
        add_line(at_ms, to_ms);
        times[self.cause.index()] += held_ms;
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that failed all the time.
    struct Failing;

    impl Waiting for Failing {
        fn causes(&self, from_ms: u64, to_ms: u64) -> CauseTimes {
            let mut times = CauseTimes::default();
            times[WaitCause::Failures.index()] = to_ms - from_ms;
            times
        }
    }

    #[test]
    fn what_the_line_says_counts_outside_of_the_times() {
        for cause in [WaitCause::SuspendedByOperator, WaitCause::Dns] {
            let times = vec![(100, 200), (300, 400)];
            let with_line = HeldUp { cause, times: times.clone(), line: Some(Rc::new(Failing)) };
            let without = HeldUp { cause, times, line: None };
            for (from_ms, to_ms, by_cause) in
                [(0, 500, 200), (150, 350, 100), (210, 290, 0), (120, 130, 10), (390, 391, 1)]
            {
                let times = with_line.causes(from_ms, to_ms);
                assert_eq!(times[cause.index()], by_cause);
                assert_eq!(times[WaitCause::Failures.index()], to_ms - from_ms - by_cause);
                let times = without.causes(from_ms, to_ms);
                assert_eq!(times.iter().sum::<u64>(), by_cause);
            }
        }
    }
}
