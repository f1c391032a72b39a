//! A site: one next hop as we limit it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::config::NextHop;
use crate::queue::{LineId, Queue, Task};
use crate::runtime::clock;
use crate::runtime::sync::Notify;

pub(super) struct Site {
    pub next_hop: NextHop,
    /// The next hop in words, for logs.
    pub name: Rc<str>,
    /// The ready tasks for the next hop.
    pub line: Cell<LineId>,
    /// Rung when an idle connection is to look for work.
    pub work: Notify,
    state: RefCell<State>,
}

/// What decides.
struct State {
    /// Open connections, those being opened and the idle ones included.
    connections: usize,
    opening: usize,
    idle: usize,
    /// Failures to open a connection since the last success.
    failures: u32,
    /// Monotonic milliseconds before which no connection is opened.
    suspended_until_ms: u64,
    /// Monotonic milliseconds before which no connection is opened beside those there are.
    enough_until_ms: u64,
    /// How long a message takes on a connection, smoothed.
    message_time: Duration,
    /// Monotonic milliseconds at which a message last ended, or a connection was opened.
    last_progress_ms: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            connections: 0,
            opening: 0,
            idle: 0,
            failures: 0,
            suspended_until_ms: 0,
            enough_until_ms: 0,
            message_time: MESSAGE_TIME_FIRST,
            last_progress_ms: 0,
        }
    }
}

impl Site {
    pub fn new(next_hop: NextHop, line: LineId) -> Self {
        Self {
            next_hop,
            name: next_hop.to_string().into(),
            line: Cell::new(line),
            work: Notify::default(),
            state: RefCell::default(),
        }
    }

    /// The ready task whose turn it is.
    pub fn take(&self, queue: &Queue) -> Option<Task> {
        queue.take(self.line.get())
    }

    /// Whether there is a task to take.
    pub fn has_work(&self, queue: &Queue) -> bool {
        queue.ready_count(self.line.get()) > 0
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
        if clock::coarse_ms() < state.enough_until_ms {
            return false;
        }
        // A site that has fallen silent is as slow as its silence is long.
        let silence_ms = clock::coarse_ms().saturating_sub(state.last_progress_ms);
        let message_time = state.message_time.max(Duration::from_millis(silence_ms));
        let ready = queue.ready_count(self.line.get());
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

    pub fn suspend_until(&self, until_ms: u64) {
        self.state.borrow_mut().suspended_until_ms = until_ms;
    }

    pub fn forget_failures(&self) {
        let mut state = self.state.borrow_mut();
        (state.failures, state.suspended_until_ms, state.enough_until_ms) = (0, 0, 0);
    }

    /// Whether a connection could not be opened beside others that work: the site is not down, it
    /// has enough for now.
    pub fn has_enough(&self) -> bool {
        let mut state = self.state.borrow_mut();
        if state.connections == 0 {
            return false;
        }
        state.enough_until_ms = clock::coarse_ms() + ENOUGH_FOR_MS;
        true
    }
}

/// A connection's place in the counts of its site: given back when dropped, however its task ends.
pub(super) struct Place {
    site: Rc<Site>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Busy,
    Idle,
}

impl Place {
    pub fn open(site: &Rc<Site>) -> Place {
        let mut state = site.state.borrow_mut();
        state.opening += 1;
        state.connections += 1;
        drop(state);
        Place { site: site.clone(), phase: Phase::Opening }
    }

    pub fn opened(&mut self) {
        self.leave();
        self.phase = Phase::Busy;
        let mut state = self.site.state.borrow_mut();
        state.last_progress_ms = clock::coarse_ms();
        state.failures = 0;
        state.suspended_until_ms = 0;
    }

    /// Gives the place back. Returns how many failures to open there have been in a row.
    pub fn failed(self) -> u32 {
        let site = self.site.clone();
        drop(self);
        let mut state = site.state.borrow_mut();
        state.failures = state.failures.saturating_add(1);
        state.failures
    }

    pub fn idle(&mut self) {
        self.phase = Phase::Idle;
        self.site.state.borrow_mut().idle += 1;
    }

    pub fn busy(&mut self) {
        self.leave();
        self.phase = Phase::Busy;
    }

    /// Takes the phase off its count.
    fn leave(&self) {
        let mut state = self.site.state.borrow_mut();
        match self.phase {
            Phase::Opening => state.opening -= 1,
            Phase::Idle => state.idle -= 1,
            Phase::Busy => {}
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
        self.site.state.borrow_mut().connections -= 1;
    }
}

/// How long no further connection is tried after one was refused beside others.
const ENOUGH_FOR_MS: u64 = 10_000;

/// What is assumed of a site before the first message.
const MESSAGE_TIME_FIRST: Duration = Duration::from_millis(20);
/// How long a ready message may wait for a connection before another one is opened.
const WAIT_ACCEPTABLE: Duration = Duration::from_millis(10);
