//! Deadlines and sleeps from one coarse wheel an executor, at `limits::TIMER_TICK_MS`.
//!
//! A deadline that is moved later costs one store: its entry stays where it is in the wheel and is
//! put further back when the wheel reaches it.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::clock;
use crate::limits::TIMER_TICK_MS;

/// The wait is over without a result.
#[derive(Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Suspends for `duration`, rounded up to the next tick.
pub async fn sleep(duration: Duration) {
    let deadline = Deadline::default();
    deadline.set(Some(duration));
    std::future::poll_fn(|context| {
        if deadline.is_over() {
            return Poll::Ready(());
        }
        deadline.arm(context.waker());
        Poll::Pending
    })
    .await;
}

/// Suspends until `is_so`, or until `end`; returns whether it is so. Looks from time to time: for
/// what happens once, such as the end of a process.
pub async fn until(end: Instant, is_so: impl Fn() -> bool) -> bool {
    while !is_so() {
        if clock::now() >= end {
            return false;
        }
        sleep(LOOK_PERIOD).await;
    }
    true
}

/// Suspends for `duration` without the wheel's rounding. For a few tasks a shard: each call is a
/// timer of its own in the ring.
pub async fn sleep_exactly(duration: Duration) {
    glommio::timer::sleep(duration).await;
}

/// Runs `future` for at most `duration`; dropping it midway is then what its own doc says.
///
/// Whoever waits often keeps a `deadline`: it has one place in the wheel, however often it moves.
pub async fn timeout<T>(
    deadline: &Deadline,
    duration: Duration,
    future: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    deadline.set(Some(duration));
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            deadline.set(None);
            return Poll::Ready(Ok(value));
        }
        if deadline.is_over() {
            return Poll::Ready(Err(Elapsed));
        }
        deadline.arm(context.waker());
        Poll::Pending
    })
    .await
}

/// A point in time that a wait may not pass. Belongs to one executor.
#[derive(Default)]
pub struct Deadline {
    /// 0 when nothing is awaited.
    due_ms: Cell<u64>,
    /// Made at the first wait: a session that never waits costs no entry.
    entry: OnceCell<Rc<Entry>>,
}

impl Deadline {
    /// From now; `None` waits for ever.
    pub fn set(&self, duration: Option<Duration>) {
        let due_ms = match duration {
            Some(duration) => clock::coarse_ms().saturating_add(duration.as_millis() as u64).max(1),
            None => 0,
        };
        self.due_ms.set(due_ms);
        if let Some(entry) = self.entry.get() {
            entry.due_ms.set(due_ms);
        }
    }

    pub fn is_over(&self) -> bool {
        let due_ms = self.due_ms.get();
        due_ms != 0 && clock::coarse_ms() >= due_ms
    }

    /// Has `waker` woken once the deadline is over.
    pub fn arm(&self, waker: &Waker) {
        let due_ms = self.due_ms.get();
        if due_ms == 0 {
            return;
        }
        let entry = self.entry.get_or_init(Rc::default);
        entry.due_ms.set(due_ms);
        let mut kept = entry.waker.borrow_mut();
        match kept.as_ref() {
            Some(kept) if kept.will_wake(waker) => {}
            _ => *kept = Some(waker.clone()),
        }
        let due_tick = tick_of(due_ms);
        let queued_tick = entry.queued_tick.get();
        if queued_tick == 0 || queued_tick > due_tick {
            WHEEL.with(|wheel| wheel.borrow_mut().insert(entry.clone(), due_tick));
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.get() {
            entry.due_ms.set(0);
            entry.waker.borrow_mut().take();
        }
    }
}

#[derive(Default)]
struct Entry {
    due_ms: Cell<u64>,
    /// Tick of the bucket that holds the valid reference to this entry; 0 when none does.
    queued_tick: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

/// Buckets of one tick each. An entry due beyond the last bucket waits there for its next round.
struct Wheel {
    now_tick: u64,
    buckets: Box<[Vec<Rc<Entry>>]>,
}

impl Wheel {
    fn new(now_ms: u64) -> Self {
        let buckets = (0..BUCKET_COUNT).map(|_| Vec::new()).collect();
        Self { now_tick: now_ms / TIMER_TICK_MS, buckets }
    }

    fn insert(&mut self, entry: Rc<Entry>, due_tick: u64) {
        let last_tick = self.now_tick + BUCKET_COUNT as u64 - 1;
        let tick = due_tick.clamp(self.now_tick + 1, last_tick);
        entry.queued_tick.set(tick);
        self.buckets[(tick % BUCKET_COUNT as u64) as usize].push(entry);
    }

    /// Moves on to the tick of `now_ms`; puts the wakers of what is over into `due`.
    fn advance(&mut self, now_ms: u64, due: &mut Vec<Waker>) {
        let target_tick = now_ms / TIMER_TICK_MS;
        while self.now_tick < target_tick {
            self.now_tick += 1;
            let bucket = (self.now_tick % BUCKET_COUNT as u64) as usize;
            for entry in std::mem::take(&mut self.buckets[bucket]) {
                if entry.queued_tick.get() != self.now_tick {
                    continue;
                }
                entry.queued_tick.set(0);
                let due_ms = entry.due_ms.get();
                if due_ms == 0 {
                    continue;
                }
                if due_ms <= now_ms {
                    due.extend(entry.waker.borrow_mut().take());
                } else {
                    self.insert(entry, tick_of(due_ms));
                }
            }
        }
    }
}

/// The first tick at which `due_ms` is over.
fn tick_of(due_ms: u64) -> u64 {
    due_ms.div_ceil(TIMER_TICK_MS)
}

/// Turns this executor's wheel to the current time and wakes what is over.
///
/// Called by the executor's heartbeat; a late call delays deadlines, it never loses one.
pub(super) fn advance() {
    let now_ms = clock::advance_coarse();
    let mut due = Vec::new();
    WHEEL.with(|wheel| wheel.borrow_mut().advance(now_ms, &mut due));
    for waker in due {
        waker.wake();
    }
}

/// Wakes everyone who waits under a deadline on this executor, to look around: for rare events
/// that concern all.
pub fn wake_all() {
    let wakers: Vec<Waker> = WHEEL.with(|wheel| {
        let wheel = wheel.borrow();
        let entries = wheel.buckets.iter().flatten();
        entries.filter_map(|entry| entry.waker.borrow().clone()).collect()
    });
    for waker in wakers {
        waker.wake();
    }
}

const BUCKET_COUNT: usize = 4096;
/// Between two looks of `until`.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

thread_local! {
    static WHEEL: RefCell<Wheel> = RefCell::new(Wheel::new(clock::coarse_ms()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_fires_once_at_its_last_deadline_however_it_moved() {
        let mut wheel = Wheel::new(0);
        let entry = Rc::new(Entry::default());
        let mut due = Vec::new();
        let fires = |wheel: &mut Wheel, now_ms: u64, due: &mut Vec<Waker>| {
            entry.waker.replace(Some(Waker::noop().clone()));
            wheel.advance(now_ms, due);
            std::mem::take(due).len()
        };
        entry.due_ms.set(100);
        wheel.insert(entry.clone(), tick_of(100));
        entry.due_ms.set(50_000_000);
        assert_eq!(fires(&mut wheel, 1_000, &mut due), 0, "moved later");
        entry.due_ms.set(2_000);
        wheel.insert(entry.clone(), tick_of(2_000));
        assert_eq!(fires(&mut wheel, 1_990, &mut due), 0);
        assert_eq!(fires(&mut wheel, 2_000, &mut due), 1, "moved earlier");
        assert_eq!(fires(&mut wheel, 60_000_000, &mut due), 0, "the older place is void");
    }

    #[test]
    fn a_deadline_beyond_the_last_bucket_is_kept() {
        let mut wheel = Wheel::new(0);
        let entry = Rc::new(Entry::default());
        let due_ms = BUCKET_COUNT as u64 * TIMER_TICK_MS * 3 + 5;
        entry.due_ms.set(due_ms);
        entry.waker.replace(Some(Waker::noop().clone()));
        wheel.insert(entry.clone(), tick_of(due_ms));
        let mut due = Vec::new();
        wheel.advance(due_ms - 10, &mut due);
        assert!(due.is_empty());
        wheel.advance(due_ms + 10, &mut due);
        assert_eq!(due.len(), 1);
    }
}
