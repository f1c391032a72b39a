//! A site: one next hop as we limit it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use crate::config::NextHop;
use crate::queue::{DestinationId, Queue, Task};
use crate::runtime::clock;
use crate::runtime::sync::Notify;

pub(super) struct Site {
    pub next_hop: NextHop,
    /// The next hop in words, for logs.
    pub name: Rc<str>,
    /// Rung when an idle connection is to look for work.
    pub work: Notify,
    state: RefCell<State>,
}

/// What decides.
struct State {
    /// Destinations with ready tasks, in turn.
    destinations: VecDeque<DestinationId>,
    /// Open connections, those being opened and the idle ones included.
    connections: usize,
    opening: usize,
    idle: usize,
    /// Failures to open a connection since the last success.
    failures: u32,
    /// Monotonic milliseconds before which no connection is opened.
    suspended_until_ms: u64,
    /// How long a message takes on a connection, smoothed.
    message_time: Duration,
    /// Monotonic milliseconds at which a message last ended, or a connection was opened.
    last_progress_ms: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            destinations: VecDeque::new(),
            connections: 0,
            opening: 0,
            idle: 0,
            failures: 0,
            suspended_until_ms: 0,
            message_time: MESSAGE_TIME_FIRST,
            last_progress_ms: 0,
        }
    }
}

impl Site {
    pub fn new(next_hop: NextHop) -> Self {
        Self {
            next_hop,
            name: next_hop.to_string().into(),
            work: Notify::default(),
            state: RefCell::default(),
        }
    }

    pub fn add(&self, destination: DestinationId) {
        self.state.borrow_mut().destinations.push_back(destination);
    }

    /// A ready task; destinations take turns.
    pub fn take(&self, queue: &Queue) -> Option<Task> {
        let mut state = self.state.borrow_mut();
        while let Some(destination) = state.destinations.pop_front() {
            if let Some(task) = queue.take(destination) {
                if queue.ready_count(destination) > 0 {
                    state.destinations.push_back(destination);
                } else {
                    // Found empty, it will be announced anew.
                    let none = queue.take(destination);
                    assert!(none.is_none());
                }
                return Some(task);
            }
        }
        None
    }

    /// Whether there may be a task to take.
    pub fn may_have_work(&self) -> bool {
        !self.state.borrow().destinations.is_empty()
    }

    pub fn connection_count(&self) -> usize {
        self.state.borrow().connections
    }

    pub fn has_idle(&self) -> bool {
        self.state.borrow().idle > 0
    }

    /// Whether another connection is to be opened now: when what is ready would wait too long for
    /// the ones there are. One at a time, so that a site that is down is asked once.
    pub fn should_open(&self, connections_max: usize, queue: &Queue) -> bool {
        let state = self.state.borrow();
        if state.opening > 0 || state.connections >= connections_max {
            return false;
        }
        if state.connections == 0 {
            return true;
        }
        // A site that has fallen silent is as slow as its silence is long.
        let silence_ms = clock::coarse_ms().saturating_sub(state.last_progress_ms);
        let message_time = state.message_time.max(Duration::from_millis(silence_ms));
        let ready = state.destinations.iter().map(|destination| queue.ready_count(*destination));
        let ready: usize = ready.take(DESTINATIONS_COUNTED).sum();
        message_time.saturating_mul(ready as u32) / state.connections as u32 > WAIT_ACCEPTABLE
    }

    /// A message took so long on a connection.
    pub fn on_round_trip(&self, message_time: Duration) {
        let mut state = self.state.borrow_mut();
        state.message_time = (state.message_time * 7 + message_time) / 8;
        state.last_progress_ms = clock::coarse_ms();
    }

    /// How long the site is left alone.
    pub fn suspended_for(&self, now_ms: u64) -> Option<Duration> {
        let until_ms = self.state.borrow().suspended_until_ms;
        (until_ms > now_ms).then(|| Duration::from_millis(until_ms - now_ms))
    }

    pub fn on_opening(&self) {
        let mut state = self.state.borrow_mut();
        state.opening += 1;
        state.connections += 1;
    }

    pub fn on_opened(&self) {
        let mut state = self.state.borrow_mut();
        state.opening -= 1;
        state.last_progress_ms = clock::coarse_ms();
        state.failures = 0;
        state.suspended_until_ms = 0;
    }

    /// Returns how many failures there have been in a row.
    pub fn on_open_failed(&self) -> u32 {
        let mut state = self.state.borrow_mut();
        state.opening -= 1;
        state.connections -= 1;
        state.failures = state.failures.saturating_add(1);
        state.failures
    }

    pub fn suspend_until(&self, until_ms: u64) {
        self.state.borrow_mut().suspended_until_ms = until_ms;
    }

    pub fn on_closed(&self) {
        self.state.borrow_mut().connections -= 1;
    }

    pub fn on_idle(&self) {
        self.state.borrow_mut().idle += 1;
    }

    pub fn on_busy(&self) {
        self.state.borrow_mut().idle -= 1;
    }
}

/// What is assumed of a site before the first message.
const MESSAGE_TIME_FIRST: Duration = Duration::from_millis(20);
/// How long a ready message may wait for a connection before another one is opened.
const WAIT_ACCEPTABLE: Duration = Duration::from_millis(10);
/// Destinations whose ready tasks are counted; more only mean that there is enough work.
const DESTINATIONS_COUNTED: usize = 64;
