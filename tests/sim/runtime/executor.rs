//! One thread for all shards: tasks in an order by chance, timers, and the time.
//!
//! A run begins with `begin` and ends with `forget`. Whoever drives it lets tasks run with
//! `run_ready` and time pass with `advance`. `kill` is the end of the process: its tasks are
//! dropped where they stand.

use std::cell::{OnceCell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Instant;

use crate::rng::Rng;

type Job = Pin<Box<dyn Future<Output = ()>>>;

struct State {
    now_us: u64,
    monotonic_lag_ms: u64,
    rng: Rng,
    tasks: Vec<Option<Task>>,
    free: Vec<usize>,
    ready: VecDeque<Arc<Handle>>,
    timers: BinaryHeap<Reverse<Timer>>,
    timer_count: u64,
    is_stopped: bool,
}

struct Task {
    /// Gone while it runs.
    job: Option<Job>,
    handle: Arc<Handle>,
}

/// What wakes a task.
struct Handle {
    slot: usize,
    is_ready: AtomicBool,
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        if !self.is_ready.swap(true, Ordering::Relaxed) {
            with(|state| state.ready.push_back(self));
        }
    }
}

struct Timer {
    due_us: u64,
    number: u64,
    waker: Waker,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due_us, self.number).cmp(&(other.due_us, other.number))
    }
}

impl State {
    fn new(seed: u64) -> Self {
        Self {
            now_us: 0,
            monotonic_lag_ms: 0,
            rng: Rng::new(seed),
            tasks: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            timers: BinaryHeap::new(),
            timer_count: 0,
            is_stopped: false,
        }
    }
}

fn with<R>(with: impl FnOnce(&mut State) -> R) -> R {
    STATE.with(|state| with(&mut state.borrow_mut()))
}

/// Begins a run on this thread.
pub fn begin(seed: u64) {
    STATE.with(|state| state.replace(State::new(seed)));
}

/// Ends a run. Tasks that are left, after a violation or a panic, are leaked: whatever broke them
/// must not break them once more.
pub fn forget() {
    let before = STATE.with(|state| state.replace(State::new(0)));
    std::mem::forget(before);
}

pub fn spawn(job: Job) {
    with(|state| {
        let slot = state.free.pop().unwrap_or_else(|| {
            state.tasks.push(None);
            state.tasks.len() - 1
        });
        let handle = Arc::new(Handle { slot, is_ready: AtomicBool::new(true) });
        state.tasks[slot] = Some(Task { job: Some(job), handle: handle.clone() });
        state.ready.push_back(handle);
    });
}

pub fn wake_at(due_us: u64, waker: &Waker) {
    with(|state| {
        state.timer_count += 1;
        let (number, waker) = (state.timer_count, waker.clone());
        state.timers.push(Reverse(Timer { due_us, number, waker }));
    });
}

/// Lets tasks run until none is ready, or the process is to stop.
pub fn run_ready() {
    let mut steps = 0;
    while let Some((handle, mut job)) = with(next) {
        steps += 1;
        assert!(steps < STEPS_MAX, "tasks run in circles");
        let waker = Waker::from(handle.clone());
        let is_done = job.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let ended = with(|state| {
            let task = state.tasks[handle.slot].as_mut().expect("a task that runs is there");
            if is_done {
                state.free.push(handle.slot);
                state.tasks[handle.slot] = None;
                return Some(job);
            }
            task.job = Some(job);
            None
        });
        drop(ended);
    }
}

/// The next task that is to run. Mostly the first that was woken; not always, since nothing may
/// rely on that.
fn next(state: &mut State) -> Option<(Arc<Handle>, Job)> {
    while !state.is_stopped && !state.ready.is_empty() {
        let index = match state.rng.percent(25) {
            true => state.rng.below(state.ready.len()),
            false => 0,
        };
        let handle = state.ready.remove(index).expect("the index is in range");
        handle.is_ready.store(false, Ordering::Relaxed);
        let task = state.tasks.get_mut(handle.slot).and_then(Option::as_mut);
        if let Some(task) = task.filter(|task| Arc::ptr_eq(&task.handle, &handle)) {
            let job = task.job.take().expect("a task runs once at a time");
            return Some((handle, job));
        }
    }
    None
}

/// When the next timer ends.
pub fn next_timer_us() -> Option<u64> {
    with(|state| state.timers.peek().map(|Reverse(timer)| timer.due_us))
}

/// Moves the clock on and wakes whose time has come.
pub fn advance(to_us: u64) {
    let due = with(|state| {
        state.now_us = state.now_us.max(to_us);
        let mut due = Vec::new();
        while let Some(Reverse(timer)) = state.timers.peek()
            && timer.due_us <= state.now_us
        {
            due.extend(state.timers.pop().map(|Reverse(timer)| timer.waker));
        }
        due
    });
    due.into_iter().for_each(Waker::wake);
}

/// No task runs from now on, until `kill`.
pub fn stop() {
    with(|state| state.is_stopped = true);
}

pub fn is_stopped() -> bool {
    with(|state| state.is_stopped)
}

/// Ends the process: every task is dropped.
pub fn kill() {
    let tasks = with(|state| {
        state.ready.clear();
        state.timers.clear();
        state.free.clear();
        state.is_stopped = false;
        std::mem::take(&mut state.tasks)
    });
    drop(tasks);
    // Whatever these woke on their way out.
    with(|state| state.ready.clear());
}

pub fn now_us() -> u64 {
    with(|state| state.now_us)
}

pub fn random_u64() -> u64 {
    with(|state| state.rng.next_u64())
}

/// Chance of the run, for what wants more than a number.
pub fn with_rng<R>(use_rng: impl FnOnce(&mut Rng) -> R) -> R {
    with(|state| use_rng(&mut state.rng))
}

/// Whether something of this chance, in percent, happens.
pub fn percent(chance: usize) -> bool {
    with(|state| state.rng.percent(chance))
}

/// In `0..end`; `end` is not zero.
pub fn below(end: usize) -> usize {
    with(|state| state.rng.below(end))
}

/// How far the monotonic clock is behind.
pub fn monotonic_lag_ms() -> u64 {
    with(|state| state.monotonic_lag_ms)
}

pub fn set_monotonic_lag_ms(lag_ms: u64) {
    with(|state| state.monotonic_lag_ms = lag_ms);
}

/// What `Instant` the time 0 is; no more than a name.
pub fn instant_zero() -> Instant {
    INSTANT_ZERO.with(|zero| *zero.get_or_init(Instant::now))
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State::new(0));
    static INSTANT_ZERO: OnceCell<Instant> = const { OnceCell::new() };
}

/// Steps without any time passing after which something is wrong.
const STEPS_MAX: usize = 1_000_000;
