//! A site: one place that mail goes to as it is seen from one source, by mail that asks the same of
//! its servers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::concurrency::{Concurrency, Verdict};
use super::lease::{SiteKey, SiteLease};
use super::line::Line;
use super::view::{SiteState, SiteVerdict};
use super::wanted::Wanted;
use crate::config;
use crate::mail::WaitCause;
use crate::queue::{Queue, Task};
use crate::runtime::clock;
use crate::runtime::sync::Notify;

pub(super) struct Site {
    pub key: SiteKey,
    /// What its hosts must show: mail that wants otherwise never shares a connection.
    pub wanted: Wanted,
    /// The place in words, for logs.
    pub name: Rc<str>,
    /// Shared with the sites of the same key: limits are for all mail to a place.
    pub lease: Rc<SiteLease>,
    /// Rung when an idle connection is to look for work.
    pub work: Notify,
    /// The lines that it pulls from.
    lines: RefCell<Vec<Rc<Line>>>,
    /// Which of them is asked first.
    turn: Cell<usize>,
    /// Of the connections allowed one in so many.
    divisor: Cell<u32>,
    /// Monotonic milliseconds before which a rule or its source keeps it from sending.
    blocked_until_ms: Cell<u64>,
    state: RefCell<State>,
}

/// What decides.
struct State {
    /// Open connections, those being opened and the idle ones included.
    connections: usize,
    opening: usize,
    idle: usize,
    concurrency: Concurrency,
    /// Monotonic milliseconds before which no connection is opened.
    suspended_until_ms: u64,
    /// Monotonic milliseconds before which no connection is opened beside those there are.
    enough_until_ms: u64,
    /// There was work and no lease for it.
    starved: bool,
    /// A connection was wanted and there was no lease for it.
    /// Since this moment, in monotonic milliseconds.
    denied_since_ms: Option<u64>,
    /// How long a message takes on a connection, smoothed.
    message_time: Duration,
    /// Monotonic milliseconds at which a message last ended, or a connection was opened.
    last_progress_ms: u64,
}

impl Site {
    pub fn new(
        key: SiteKey,
        wanted: Wanted,
        lease: Rc<SiteLease>,
        config: &config::Delivery,
    ) -> Self {
        Self {
            name: key.hop.to_string().into(),
            key,
            wanted,
            lease,
            work: Notify::default(),
            lines: RefCell::default(),
            turn: Cell::new(0),
            divisor: Cell::new(1),
            blocked_until_ms: Cell::new(0),
            state: RefCell::new(State {
                connections: 0,
                opening: 0,
                idle: 0,
                concurrency: Concurrency::new(config),
                suspended_until_ms: 0,
                enough_until_ms: 0,
                starved: false,
                denied_since_ms: None,
                message_time: MESSAGE_TIME_FIRST,
                last_progress_ms: 0,
            }),
        }
    }

    /// Whether no line pulls from it, and it may be forgotten.
    pub fn is_unused(&self, now_ms: u64) -> bool {
        let is_free = self.state.borrow().connections == 0;
        is_free && self.lines.borrow().is_empty() && self.suspended_until(now_ms).is_none()
    }

    pub fn join(&self, line: Rc<Line>) {
        self.lines.borrow_mut().push(line);
    }

    pub fn leave(&self, line: &Rc<Line>) {
        self.lines.borrow_mut().retain(|it| !Rc::ptr_eq(it, line));
    }

    pub fn line(&self, index: usize) -> Option<Rc<Line>> {
        self.lines.borrow().get(index).cloned()
    }

    /// A ready task; lines take turns.
    pub fn take(&self, queue: &Queue) -> Option<Task> {
        let lines = self.lines.borrow();
        if let [line] = lines.as_slice() {
            return line.take(self, queue);
        }
        let start = self.turn.get();
        self.turn.set(start.wrapping_add(1));
        let order = (0..lines.len()).map(|index| (start.wrapping_add(index)) % lines.len());
        order.map(|index| &lines[index]).find_map(|line| line.take(self, queue))
    }

    /// Why the ready mail of its lines waits.
    pub fn note(&self, cause: WaitCause, queue: &Queue) {
        let lines = self.lines.borrow();
        lines.iter().filter(|line| line.has_work(queue)).for_each(|line| line.note(cause));
    }

    /// Ready tasks that it may take.
    pub fn ready_count(&self, queue: &Queue) -> usize {
        self.lines.borrow().iter().map(|line| queue.ready_count(line.id)).sum()
    }

    pub fn connection_count(&self) -> usize {
        self.state.borrow().connections
    }

    pub fn has_idle(&self) -> bool {
        self.state.borrow().idle > 0
    }

    /// Whether it would take a task soon that is left to it: else it gives its share to others.
    pub fn is_able(&self, now_ms: u64, taken_ms: u64) -> bool {
        let state = self.state.borrow();
        let until_ms = state.suspended_until_ms.max(self.blocked_until_ms.get());
        if until_ms > now_ms || state.starved {
            return false;
        }
        let is_moving = state.connections > state.opening && now_ms < taken_ms + MOVING_MS;
        let may_open = state.connections == 0 && state.denied_since_ms.is_none();
        state.idle > 0 || is_moving || may_open
    }

    /// Whether another connection is to be opened now: when what is ready would wait too long for
    /// the ones there are. One at a time, so that a site that is down is asked once.
    pub fn should_open(&self, config: &config::Delivery, queue: &Queue) -> bool {
        let state = self.state.borrow();
        let allowed = (state.concurrency.size(config) / self.divisor.get() as usize).max(1);
        if state.opening > 0 || state.connections >= allowed {
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
        let ready = self.ready_count(queue) as u32;
        message_time.saturating_mul(ready) / state.connections as u32 > WAIT_ACCEPTABLE
    }

    /// Messages took so long on a connection, each.
    pub fn on_round_trip(&self, message_time: Duration) {
        let mut state = self.state.borrow_mut();
        state.message_time = (state.message_time * 7 + message_time) / 8;
        state.last_progress_ms = clock::coarse_ms();
    }

    /// Messages were answered.
    pub fn on_success(&self, count: u32, config: &config::Delivery) {
        self.state.borrow_mut().concurrency.on_success(count, config);
    }

    /// A connection was lost with what was under way.
    pub fn on_failure(&self, config: &config::Delivery) {
        self.state.borrow_mut().concurrency.on_failure(config);
    }

    /// A connection could not be opened, and there is no other: the site is left alone for a while.
    pub fn on_unreachable(&self, config: &config::Config) {
        let mut state = self.state.borrow_mut();
        let wait = match state.concurrency.on_unreachable(&config.delivery) {
            Verdict::Failing => FAILING_WAIT,
            Verdict::Dead { probes } => probe_wait(probes, clock::random_u64(), config),
        };
        state.suspended_until_ms = clock::coarse_ms() + wait.as_millis() as u64;
    }

    /// Monotonic milliseconds until which the site is left alone after failures, if it is.
    pub fn suspended_until(&self, now_ms: u64) -> Option<u64> {
        let until_ms = self.state.borrow().suspended_until_ms;
        (until_ms > now_ms).then_some(until_ms)
    }

    pub fn forget_failures(&self) {
        let mut state = self.state.borrow_mut();
        state.concurrency.forget_failures();
        (state.suspended_until_ms, state.enough_until_ms) = (0, 0);
    }

    /// Whether a connection could not be opened beside others that work: the site is not down, it
    /// has enough for now.
    pub fn has_enough(&self, config: &config::Delivery) -> bool {
        let mut state = self.state.borrow_mut();
        if state.connections == 0 {
            return false;
        }
        state.enough_until_ms = clock::coarse_ms() + ENOUGH_FOR_MS;
        state.concurrency.on_failure(config);
        true
    }

    /// How it stands on this shard.
    pub fn view(&self, config: &config::Delivery, now_ms: u64) -> SiteState {
        let state = self.state.borrow();
        let divisor = self.divisor.get() as usize;
        let is_open = state.connections > state.opening;
        let verdict = match &state.concurrency {
            it if it.is_dead() && state.opening > 0 => SiteVerdict::HalfOpen,
            it if it.is_dead() => SiteVerdict::Dead,
            it if it.is_failing() && !is_open => SiteVerdict::Failing,
            _ => SiteVerdict::Working,
        };
        SiteState {
            connections: state.connections,
            window: (state.concurrency.size(config) / divisor).max(1),
            window_max: (config.connections_max / divisor).max(1),
            verdict,
            asked_in_ms: state.suspended_until_ms.saturating_sub(now_ms),
        }
    }

    /// Of the connections allowed one in so many.
    pub fn set_divisor(&self, divisor: u32) {
        self.divisor.set(divisor);
    }

    /// A rule or its source keeps it from sending for a while; 0 for no longer.
    pub fn block_until(&self, until_ms: u64) {
        self.blocked_until_ms.set(until_ms);
    }

    pub fn is_blocked(&self, now_ms: u64) -> bool {
        self.blocked_until_ms.get() > now_ms
    }

    /// Whether more connections are open than a slowed site is to have.
    pub fn has_too_many(&self, config: &config::Delivery) -> bool {
        let divisor = self.divisor.get() as usize;
        if divisor == 1 {
            return false;
        }
        let state = self.state.borrow();
        state.connections > (state.concurrency.size(config) / divisor).max(1)
    }

    pub fn set_starved(&self, starved: bool) {
        self.state.borrow_mut().starved = starved;
    }

    /// A connection is wanted, and there is no lease for it or there is.
    pub fn set_denied(&self, denied: bool) {
        let mut state = self.state.borrow_mut();
        let since_ms = state.denied_since_ms.unwrap_or_else(clock::coarse_ms);
        state.denied_since_ms = denied.then_some(since_ms);
    }

    /// Monotonic milliseconds since which a connection is wanted for which there is no lease.
    pub fn denied_since(&self) -> Option<u64> {
        self.state.borrow().denied_since_ms
    }

    pub fn is_starved(&self) -> bool {
        self.state.borrow().starved
    }

    /// Whether a connection is open, not just being opened.
    pub fn is_connected(&self) -> bool {
        let state = self.state.borrow();
        state.connections > state.opening
    }
}

/// Wait before a dead site is asked again: doubles with each time it was, spread by up to a fifth
/// either way. Mail does not wait longer than it would by its own clock.
fn probe_wait(probes: u32, random: u64, config: &config::Config) -> Duration {
    let min = config.delivery.probe_wait_min.min(config.queue.retry_wait_min);
    let max = config.delivery.probe_wait_max.min(config.queue.retry_wait_max);
    let wait = min.saturating_mul(1 << (probes - 1).min(16)).min(max);
    wait * (800 + (random % 401) as u32) / 1000
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
        state.concurrency.on_opened();
        state.suspended_until_ms = 0;
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
/// A site that took nothing for so long does not hold the others of its pool back.
const MOVING_MS: u64 = 1_000;
/// Wait after a connection failed that does not yet make a dead site.
const FAILING_WAIT: Duration = Duration::from_millis(500);

/// What is assumed of a site before the first message.
const MESSAGE_TIME_FIRST: Duration = Duration::from_millis(20);
/// How long a ready message may wait for a connection before another one is opened.
const WAIT_ACCEPTABLE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_wait_for_a_dead_site_grows_and_is_never_longer_than_that_of_its_mail() {
        let mut config = Config::embedded();
        let ms = Duration::from_millis;
        (config.delivery.probe_wait_min, config.delivery.probe_wait_max) = (ms(1000), ms(8000));
        (config.queue.retry_wait_min, config.queue.retry_wait_max) = (ms(2000), ms(60_000));
        let wait = |probes, config: &Config| probe_wait(probes, 200, config).as_millis();
        let waits: Vec<u128> = (1..=5).map(|probes| wait(probes, &config)).collect();
        assert_eq!(waits, [1000, 2000, 4000, 8000, 8000]);
        assert_eq!(probe_wait(1, 0, &config), ms(800));
        (config.queue.retry_wait_min, config.queue.retry_wait_max) = (ms(100), ms(200));
        assert_eq!((wait(1, &config), wait(9, &config)), (100, 200));
    }
}
