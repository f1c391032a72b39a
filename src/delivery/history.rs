//! Why a line waited, when: what `explain` answers from. `Pure.`
//!
//! A bounded list of spans of time. Where there are too many, two neighbours become one that knows
//! how long each cause held and no longer in which order: the older they are, the sooner.

use std::collections::VecDeque;

use crate::limits::WAIT_SPANS_MAX;
use crate::mail::WaitCause;
use crate::queue::ledger::CauseTimes;

/// The causes of one line from its opening on.
#[derive(Debug)]
pub struct History {
    /// Neighbours in time, oldest first; the last one has not ended.
    spans: VecDeque<Span>,
    cause: WaitCause,
    since_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start_ms: u64,
    end_ms: u64,
    times: CauseTimes,
}

impl Span {
    fn length_ms(&self) -> u64 {
        self.end_ms - self.start_ms
    }

    /// Adds the part of it within the interval; of a mixed span each cause its share.
    fn add_within(&self, from_ms: u64, to_ms: u64, sums: &mut CauseTimes) {
        let (start_ms, end_ms) = (self.start_ms.max(from_ms), self.end_ms.min(to_ms));
        if start_ms >= end_ms {
            return;
        }
        let (part, whole) = (u128::from(end_ms - start_ms), u128::from(self.length_ms()));
        // Running sums rounded down leave nothing over at the end.
        let (mut before, mut given) = (0, 0);
        for (sum, time) in sums.iter_mut().zip(self.times) {
            before += u128::from(time);
            let due = (before * part / whole) as u64;
            *sum += due - given;
            given = due;
        }
    }
}

impl History {
    pub fn new(now_ms: u64) -> Self {
        Self { spans: VecDeque::new(), cause: WaitCause::Turn, since_ms: now_ms }
    }

    pub fn cause(&self) -> WaitCause {
        self.cause
    }

    /// From `now_ms` on it is this cause.
    pub fn set(&mut self, cause: WaitCause, now_ms: u64) {
        if cause == self.cause {
            return;
        }
        if now_ms > self.since_ms {
            let mut times = CauseTimes::default();
            times[self.cause.index()] = now_ms - self.since_ms;
            self.spans.push_back(Span { start_ms: self.since_ms, end_ms: now_ms, times });
            if self.spans.len() > WAIT_SPANS_MAX {
                self.join_two(now_ms);
            }
            self.since_ms = now_ms;
        }
        self.cause = cause;
    }

    /// How long each cause held from one moment to another, in milliseconds: the sum is the time
    /// between them. What was before the line was opened counts as `Turn`.
    pub fn causes(&self, from_ms: u64, to_ms: u64) -> CauseTimes {
        let mut sums = CauseTimes::default();
        let Some(whole_ms) = to_ms.checked_sub(from_ms) else { return sums };
        for span in &self.spans {
            span.add_within(from_ms, to_ms, &mut sums);
        }
        sums[self.cause.index()] += to_ms.saturating_sub(self.since_ms.max(from_ms));
        let known_ms: u64 = sums.iter().sum();
        sums[WaitCause::Turn.index()] += whole_ms - known_ms;
        sums
    }

    /// Joins the neighbours that are shortest for their age.
    fn join_two(&mut self, now_ms: u64) {
        let cost = |index: &usize| {
            let (first, second) = (&self.spans[*index], &self.spans[index + 1]);
            let length_ms = u128::from(second.end_ms - first.start_ms);
            let age_ms = u128::from(now_ms - first.start_ms).max(1);
            length_ms * 1_000_000 / age_ms
        };
        let index = (0..self.spans.len() - 1).min_by_key(cost).expect("there are many");
        let second = self.spans.remove(index + 1).expect("it is there");
        let first = &mut self.spans[index];
        first.end_ms = second.end_ms;
        for (time, more) in first.times.iter_mut().zip(second.times) {
            *time += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use WaitCause::{Failures, MessageRate, Turn};

    fn of(times: CauseTimes, cause: WaitCause) -> u64 {
        times[cause.index()]
    }

    #[test]
    fn the_causes_of_an_interval_add_up_to_it() {
        let mut history = History::new(1_000);
        history.set(Failures, 2_000);
        history.set(MessageRate, 5_000);
        history.set(Turn, 6_000);
        let times = history.causes(0, 7_000);
        assert_eq!((of(times, Turn), of(times, Failures)), (3_000, 3_000));
        assert_eq!(of(times, MessageRate), 1_000);
        let times = history.causes(3_000, 5_500);
        assert_eq!((of(times, Failures), of(times, MessageRate)), (2_000, 500));
        assert_eq!(history.causes(7_000, 6_000), CauseTimes::default());
    }

    #[test]
    fn a_long_history_keeps_its_sums_and_its_bound() {
        let mut history = History::new(0);
        for step in 0..100_000 {
            history.set(if step % 2 == 0 { MessageRate } else { Turn }, step * 10);
        }
        assert_eq!(history.spans.len(), WAIT_SPANS_MAX);
        for (from_ms, to_ms) in [(0, 1_000_000), (3, 999_999), (400_000, 777_777), (0, 5)] {
            let times = history.causes(from_ms, to_ms);
            assert_eq!(times.iter().sum::<u64>(), to_ms - from_ms);
            if to_ms - from_ms > 100_000 {
                let half = (to_ms - from_ms) / 2;
                assert!(of(times, MessageRate).abs_diff(half) < 2_000, "{times:?}");
            }
        }
        // What is recent is told apart to the millisecond.
        let times = history.causes(999_985, 999_990);
        assert_eq!((of(times, MessageRate), of(times, Turn)), (5, 0));
    }
}
