//! Where the time of a task went since its message was accepted, by cause. `Pure.`

use crate::mail::WaitCause;

/// What time goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The client asked for a later time.
    Scheduled,
    /// Held until an operator releases it.
    Held,
    /// Between two attempts.
    BackOff,
    /// Attempts themselves.
    Attempt,
    /// Ready, and its line waited.
    Waiting(WaitCause),
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Scheduled => "scheduled",
            Cause::Held => "held",
            Cause::BackOff => "back-off",
            Cause::Attempt => "attempt",
            Cause::Waiting(cause) => cause.as_str(),
        }
    }

    /// Every cause, in the order in which they are shown.
    pub fn all() -> impl Iterator<Item = Cause> {
        let waiting = WaitCause::ALL.iter().map(|cause| Cause::Waiting(*cause));
        let others = [Cause::Held, Cause::BackOff, Cause::Attempt];
        std::iter::once(Cause::Scheduled).chain(waiting).chain(others)
    }

    /// Its number on disk, which stays.
    pub fn number(self) -> u8 {
        match self {
            Cause::Scheduled => 0,
            Cause::Held => 1,
            Cause::BackOff => 2,
            Cause::Attempt => 3,
            Cause::Waiting(cause) => WAITING + cause.index() as u8,
        }
    }

    pub fn from_number(number: u8) -> Option<Cause> {
        Some(match number {
            0 => Cause::Scheduled,
            1 => Cause::Held,
            2 => Cause::BackOff,
            3 => Cause::Attempt,
            _ => Cause::Waiting(*WaitCause::ALL.get(usize::from(number.checked_sub(WAITING)?))?),
        })
    }
}

/// Numbers of what lines wait for begin here.
const WAITING: u8 = 16;
/// Causes by number.
const NUMBERS: usize = WAITING as usize + WaitCause::ALL.len();

/// How long each cause held up a line, in milliseconds, in the order of `WaitCause::ALL`.
pub type CauseTimes = [u64; WaitCause::ALL.len()];

/// Knows what held up the line that a task was ready in.
pub trait Waiting {
    /// How long each cause held from one moment to another, both in Unix milliseconds.
    fn causes(&self, from_ms: u64, to_ms: u64) -> CauseTimes;
}

/// No line: whatever time there was went to waiting for a turn.
pub struct NoLine;

impl Waiting for NoLine {
    fn causes(&self, _: u64, _: u64) -> CauseTimes {
        CauseTimes::default()
    }
}

/// Milliseconds by cause; they add up to the time from acceptance to `until_ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Unix milliseconds; all before is accounted for.
    until_ms: u64,
    spent_ms: [u64; NUMBERS],
}

impl Ledger {
    /// Of a message accepted at `accepted_ms`.
    pub fn new(accepted_ms: u64) -> Self {
        Self { until_ms: accepted_ms, spent_ms: [0; NUMBERS] }
    }

    pub fn from_parts(until_ms: u64, spent: impl IntoIterator<Item = (Cause, u64)>) -> Self {
        let mut ledger = Self::new(until_ms);
        for (cause, ms) in spent {
            ledger.spent_ms[usize::from(cause.number())] = ms;
        }
        ledger
    }

    pub fn until_ms(&self) -> u64 {
        self.until_ms
    }

    /// Each cause that took time, and how many milliseconds.
    pub fn spent(&self) -> impl Iterator<Item = (Cause, u64)> {
        let all = Cause::all().map(|cause| (cause, self.spent_ms[usize::from(cause.number())]));
        all.filter(|(_, ms)| *ms > 0)
    }

    /// The time up to `to_ms` went to `cause`. What lies before is accounted for already: a clock
    /// that was set back adds nothing.
    pub fn add(&mut self, cause: Cause, to_ms: u64) {
        self.give(cause, to_ms.saturating_sub(self.until_ms));
        self.until_ms = self.until_ms.max(to_ms);
    }

    /// Up to `to_ms` the task was ready. What its line says of more time than there was, or less,
    /// counts as waiting for its turn.
    pub fn add_waiting(&mut self, line: &dyn Waiting, to_ms: u64) {
        let mut left_ms = to_ms.saturating_sub(self.until_ms);
        if left_ms == 0 {
            return;
        }
        let times = line.causes(self.until_ms, to_ms);
        for (cause, ms) in WaitCause::ALL.iter().zip(times) {
            let ms = ms.min(left_ms);
            left_ms -= ms;
            self.give(Cause::Waiting(*cause), ms);
        }
        self.give(Cause::Waiting(WaitCause::Turn), left_ms);
        self.until_ms = to_ms;
    }

    fn give(&mut self, cause: Cause, ms: u64) {
        let spent_ms = &mut self.spent_ms[usize::from(cause.number())];
        *spent_ms = spent_ms.saturating_add(ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(ledger: &Ledger) -> u64 {
        ledger.spent().map(|(_, ms)| ms).sum()
    }

    #[test]
    fn numbers_of_causes_read_back() {
        let all: Vec<Cause> = Cause::all().collect();
        assert_eq!(all.len(), 4 + WaitCause::ALL.len());
        for cause in all {
            assert_eq!(Cause::from_number(cause.number()), Some(cause));
        }
        for number in [4, WAITING - 1, NUMBERS as u8, 255] {
            assert_eq!(Cause::from_number(number), None, "{number}");
        }
    }

    #[test]
    fn what_is_spent_adds_up_whatever_the_clock_does() {
        let mut ledger = Ledger::new(1_000);
        for (cause, to_ms) in [
            (Cause::Scheduled, 1_500),
            (Cause::Attempt, 1_600),
            (Cause::BackOff, 1_200),
            (Cause::BackOff, 2_600),
            (Cause::Held, 2_600),
        ] {
            ledger.add(cause, to_ms);
            assert_eq!(sum(&ledger), ledger.until_ms() - 1_000);
        }
        let expected = [(Cause::Scheduled, 500), (Cause::BackOff, 1_000), (Cause::Attempt, 100)];
        assert_eq!(ledger.spent().collect::<Vec<_>>(), expected);
        assert_eq!(Ledger::from_parts(2_600, expected), ledger);
    }

    /// A line that was held up for these times, whenever.
    struct Line(CauseTimes);

    impl Waiting for Line {
        fn causes(&self, _: u64, _: u64) -> CauseTimes {
            self.0
        }
    }

    #[test]
    fn waiting_is_split_by_what_held_up_the_line_and_adds_up() {
        let mut times = CauseTimes::default();
        times[WaitCause::MessageRate.index()] = 30;
        times[WaitCause::Failures.index()] = 50;
        let split = |line: &dyn Waiting, length_ms| {
            let mut ledger = Ledger::new(7);
            ledger.add_waiting(line, 7 + length_ms);
            assert_eq!((sum(&ledger), ledger.until_ms()), (length_ms, 7 + length_ms));
            ledger.spent().collect::<Vec<_>>()
        };
        let waiting = |cause, ms| (Cause::Waiting(cause), ms);
        let (rate, failures) = (WaitCause::MessageRate, WaitCause::Failures);
        let all = [waiting(WaitCause::Turn, 20), waiting(rate, 30), waiting(failures, 50)];
        assert_eq!(split(&Line(times), 100), all);
        assert_eq!(split(&Line(times), 40), [waiting(rate, 30), waiting(failures, 10)]);
        assert_eq!(split(&Line(times), 0), []);
        assert_eq!(split(&NoLine, 9), [waiting(WaitCause::Turn, 9)]);
    }
}
