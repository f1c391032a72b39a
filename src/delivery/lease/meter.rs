//! Tokens that a peer's limits leave us: granted, in use, cooling off, free. `Pure.`
//!
//! A token is in use from its grant until it is reported used or unused. What was used at a time
//! is free again one window later, what was not used at once. So two uses of one token are a
//! window apart wherever the peer looks, at their beginning or at their end, and no window of the
//! peer's clock holds more uses than there are tokens.

use std::collections::VecDeque;

/// A bound on uses within every window of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// 0 where only what is in use at once counts.
    pub window_ms: u64,
    pub count_max: u32,
}

impl Bound {
    /// Whether what was used must outlive this process: it is longer than a restart takes.
    fn is_recorded(&self) -> bool {
        self.window_ms >= RECORDED_WINDOW_MS_MIN
    }
}

/// Uses that will be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cooling {
    /// Monotonic milliseconds at which the tokens are free.
    pub free_ms: u64,
    pub count: u32,
}

/// What of a meter must outlive the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Uses that may have happened and stand in no window: those under way, and those to come
    /// before the next record.
    pub reserve: u32,
    /// By length in milliseconds.
    pub windows: Vec<(u64, Vec<Cooling>)>,
}

/// The tokens of one kind for one site.
#[derive(Debug)]
pub struct Meter {
    windows: Vec<Window>,
    /// Granted and not reported: counts in every window.
    in_use: u32,
    /// Nothing is granted before: what a predecessor of this process sent may still arrive.
    quiet_until_ms: u64,
    /// Of each bound one in so many.
    divisor: u32,
    record: RecordState,
}

#[derive(Debug)]
struct Window {
    bound: Bound,
    /// Ordered by time.
    cooling: VecDeque<Cooling>,
    cooling_count: u32,
}

/// Grants that a durable record covers. Counted are grants less what came back unused.
#[derive(Debug, Default)]
struct RecordState {
    granted: u64,
    covered: u64,
    /// What will be covered once the record being written is durable.
    being_written: Option<u64>,
}

impl Meter {
    /// `restored` is what an earlier process recorded, with its reserve as uses of now.
    pub fn new(bounds: &[Bound], quiet_until_ms: u64, restored: &[(u64, Vec<Cooling>)]) -> Self {
        let mut meter = Self {
            windows: Vec::new(),
            in_use: 0,
            quiet_until_ms,
            divisor: 1,
            record: RecordState::default(),
        };
        meter.set_bounds(bounds);
        for window in &mut meter.windows {
            let window_ms = window.bound.window_ms;
            let of_window = restored.iter().filter(|(ms, _)| *ms == window_ms);
            for cooling in of_window.flat_map(|(_, cooling)| cooling) {
                window.cool(*cooling);
            }
        }
        meter
    }

    /// Other bounds from now on. What was used within a window that stays is not forgotten.
    pub fn set_bounds(&mut self, bounds: &[Bound]) {
        let mut old = std::mem::take(&mut self.windows);
        for bound in bounds {
            let kept = old.iter().position(|it| it.bound.window_ms == bound.window_ms);
            let window = match kept {
                Some(index) => Window { bound: *bound, ..old.swap_remove(index) },
                None => Window { bound: *bound, cooling: VecDeque::new(), cooling_count: 0 },
            };
            self.windows.push(window);
        }
    }

    /// Nothing is granted before.
    pub fn stay_quiet_until(&mut self, quiet_until_ms: u64) {
        self.quiet_until_ms = self.quiet_until_ms.max(quiet_until_ms);
    }

    /// Of each bound one in `divisor`, at least one.
    pub fn set_divisor(&mut self, divisor: u32) {
        assert!(divisor > 0);
        self.divisor = divisor;
    }

    /// Tokens that will be free without anybody's doing.
    pub fn cooling(&self) -> u32 {
        self.windows.iter().map(|window| window.cooling_count).max().unwrap_or(0)
    }

    /// Tokens that could be granted now. `now_ms` may lag behind the truth, never run ahead.
    pub fn free(&mut self, now_ms: u64) -> u32 {
        if now_ms < self.quiet_until_ms {
            return 0;
        }
        let mut free = u32::MAX;
        for window in &mut self.windows {
            window.forget(now_ms);
            let count_max = (window.bound.count_max / self.divisor).max(1);
            free = free.min(count_max.saturating_sub(self.in_use + window.cooling_count));
        }
        if self.is_recorded() {
            let covered = self.record.covered.saturating_sub(self.record.granted);
            free = free.min(u32::try_from(covered).unwrap_or(u32::MAX));
        }
        free
    }

    /// Of each window its length, the uses in it with those under way, and how many it may hold.
    pub fn uses(&mut self, now_ms: u64) -> Vec<(u64, u32, u32)> {
        let (in_use, divisor) = (self.in_use, self.divisor);
        let uses = |window: &mut Window| {
            window.forget(now_ms);
            let Bound { window_ms, count_max } = window.bound;
            (window_ms, in_use + window.cooling_count, (count_max / divisor).max(1))
        };
        self.windows.iter_mut().map(uses).collect()
    }

    /// At most `free` of them.
    pub fn grant(&mut self, count: u32) {
        self.in_use += count;
        self.record.granted += u64::from(count);
    }

    /// So many were not used.
    pub fn give_back(&mut self, count: u32) {
        assert!(count <= self.in_use);
        self.in_use -= count;
        self.record.granted -= u64::from(count);
    }

    /// So many were used, the last of them over at `end_ms` at the latest.
    pub fn spend(&mut self, count: u32, end_ms: u64) {
        assert!(count <= self.in_use);
        self.in_use -= count;
        for window in &mut self.windows {
            let Bound { window_ms, .. } = window.bound;
            let grain = (window_ms / COOLING_ENTRIES_MAX).max(1);
            let free_ms = (end_ms + window_ms).next_multiple_of(grain);
            window.cool(Cooling { free_ms, count });
        }
    }

    fn is_recorded(&self) -> bool {
        self.windows.iter().any(|window| window.bound.is_recorded())
    }

    /// A record to be made durable, when the last one covers little more. `recorded` must be told
    /// before there is another.
    pub fn poll_record(&mut self, now_ms: u64) -> Option<Record> {
        let chunk = self.windows.iter().filter(|it| it.bound.is_recorded());
        let chunk = chunk.map(|it| (it.bound.count_max / RECORDS_PER_WINDOW).max(1)).min()?;
        let RecordState { granted, covered, being_written } = self.record;
        if being_written.is_some() || covered > granted + u64::from(chunk / 2) {
            return None;
        }
        self.record.being_written = Some(granted + u64::from(chunk));
        let mut windows = Vec::new();
        for window in self.windows.iter_mut().filter(|it| it.bound.is_recorded()) {
            window.forget(now_ms);
            windows.push((window.bound.window_ms, window.cooling.iter().copied().collect()));
        }
        Some(Record { reserve: self.in_use + chunk, windows })
    }

    /// The record of the last `poll_record` is durable, or could not be made so.
    pub fn on_recorded(&mut self, durable: bool) {
        // A meter made since then did not ask for it.
        if let Some(covered) = self.record.being_written.take()
            && durable
        {
            self.record.covered = covered;
        }
    }
}

impl Window {
    fn cool(&mut self, cooling: Cooling) {
        self.cooling_count += cooling.count;
        // Reports of several shards come almost in order.
        let at = self.cooling.iter().rposition(|it| it.free_ms <= cooling.free_ms);
        match at {
            Some(at) if self.cooling[at].free_ms == cooling.free_ms => {
                self.cooling[at].count += cooling.count;
            }
            Some(at) => self.cooling.insert(at + 1, cooling),
            None => self.cooling.push_front(cooling),
        }
    }

    fn forget(&mut self, now_ms: u64) {
        while let Some(first) = self.cooling.front().filter(|first| first.free_ms <= now_ms) {
            self.cooling_count -= first.count;
            self.cooling.pop_front();
        }
    }
}

/// Times of uses are rounded up so that a window holds no more entries.
const COOLING_ENTRIES_MAX: u64 = 250;
/// Windows from this length on are recorded; shorter ones are waited for after a start.
const RECORDED_WINDOW_MS_MIN: u64 = 60_000;
/// What one record reserves is this part of the bound, and lost at a restart.
const RECORDS_PER_WINDOW: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(window_ms: u64, count_max: u32) -> Bound {
        Bound { window_ms, count_max }
    }

    #[test]
    fn a_used_token_is_free_one_window_after_its_use_ended() {
        let mut meter = Meter::new(&[bound(1000, 2)], 500, &[]);
        assert_eq!((meter.free(499), meter.free(500)), (0, 2));
        meter.grant(2);
        assert_eq!(meter.free(10_000), 0, "in use, however long");
        meter.spend(1, 10_000);
        assert_eq!((meter.free(10_999), meter.free(11_000)), (0, 1));
        meter.give_back(1);
        assert_eq!(meter.free(11_000), 2, "unused ones at once");
    }

    #[test]
    fn the_strictest_window_decides_and_times_are_rounded_up() {
        let mut meter = Meter::new(&[bound(0, 10), bound(1000, 3)], 0, &[]);
        meter.grant(3);
        meter.spend(3, 1);
        assert_eq!((meter.free(1003), meter.free(1004)), (0, 3));
        meter.set_divisor(3);
        assert_eq!(meter.free(1004), 1);
        meter.set_divisor(100);
        assert_eq!(meter.free(1004), 1, "never none for ever");
        meter.set_bounds(&[bound(0, 10)]);
        assert_eq!(meter.free(1004), 1, "of ten one in a hundred");
    }

    #[test]
    fn what_is_used_of_a_window_is_under_way_or_not_yet_forgotten() {
        let mut meter = Meter::new(&[bound(1000, 10), bound(3_600_000, 100)], 0, &[]);
        meter.grant(4);
        meter.spend(3, 100);
        assert_eq!(meter.uses(100), [(1000, 4, 10), (3_600_000, 4, 100)]);
        meter.set_divisor(20);
        assert_eq!(meter.uses(1_104), [(1000, 1, 1), (3_600_000, 4, 5)]);
    }

    #[test]
    fn what_is_granted_is_covered_by_a_durable_record() {
        let mut meter = Meter::new(&[bound(60_000, 64)], 0, &[]);
        assert_eq!(meter.free(0), 0, "no record yet");
        let record = meter.poll_record(0).expect("one is needed");
        assert_eq!(record, Record { reserve: 2, windows: vec![(60_000, vec![])] });
        assert_eq!(meter.poll_record(0), None, "it is being written");
        meter.on_recorded(true);
        assert_eq!(meter.free(0), 2);
        meter.grant(2);
        meter.spend(1, 100);
        let record = meter.poll_record(100).expect("used up");
        assert_eq!((record.reserve, record.windows[0].1[0].count), (3, 1));
        meter.on_recorded(false);
        assert_eq!(meter.free(100), 0);
        assert!(meter.poll_record(100).is_some(), "tried again");
    }

    #[test]
    fn a_restored_window_goes_on() {
        let cooling = |free_ms, count| Cooling { free_ms, count };
        let restored = [(60_000, vec![cooling(5000, 60), cooling(100, 3)])];
        let mut meter = Meter::new(&[bound(60_000, 64)], 0, &restored);
        let record = meter.poll_record(0).expect("needed");
        assert_eq!(record.windows[0].1, [cooling(100, 3), cooling(5000, 60)]);
        meter.on_recorded(true);
        assert_eq!((meter.free(0), meter.free(100)), (1, 2));
    }
}
