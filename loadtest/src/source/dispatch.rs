//! Which message is next, over all connections of a run: closed loop or open loop.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringpost::runtime::inbox::{Inbox, inbox};
use ringpost::runtime::sync::Notify;
use ringpost::runtime::{task, thread};

use crate::latency::{PACE_NS, Schedule};

/// A message to send.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Counts from 0 in a run.
    pub index: u64,
    /// When it was due (open loop); a closed loop sends when it can.
    pub intended: Option<Instant>,
}

/// Hands out the messages of a run, to every shard.
pub struct Dispatch {
    next_index: AtomicU64,
    message_count: Option<u64>,
    started: Instant,
    duration: Option<Duration>,
    schedule: Option<Schedule>,
    stopped: AtomicBool,
}

/// What a connection may do now.
pub enum Next {
    Send(Turn),
    /// Nothing is due yet.
    Wait,
    /// The run is over.
    End,
}

impl Dispatch {
    /// Starts the clock. `rate` (messages a second) makes it an open loop.
    pub fn new(message_count: Option<u64>, duration: Option<Duration>, rate: Option<f64>) -> Self {
        Self {
            next_index: AtomicU64::new(0),
            message_count,
            started: Instant::now(),
            duration,
            schedule: rate.map(Schedule::new),
            stopped: AtomicBool::new(false),
        }
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        let sent_all = self
            .message_count
            .is_some_and(|count| self.next_index.load(Ordering::Relaxed) >= count);
        let time_is_up = self.duration.is_some_and(|duration| self.started.elapsed() >= duration);
        sent_all || time_is_up || self.stopped.load(Ordering::Relaxed)
    }

    /// Takes the next message. Never waits.
    pub fn next(&self) -> Next {
        if self.is_over() {
            return Next::End;
        }
        let Some(schedule) = &self.schedule else {
            let index = self.next_index.fetch_add(1, Ordering::Relaxed);
            let over = self.message_count.is_some_and(|count| index >= count);
            return if over { Next::End } else { Next::Send(Turn { index, intended: None }) };
        };
        let due = schedule.due(self.started.elapsed());
        let due = self.message_count.map_or(due, |count| due.min(count));
        let taken = self.next_index.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |index| {
            (index < due).then_some(index + 1)
        });
        match taken {
            Ok(index) => {
                let intended = Some(self.started + schedule.intended(index));
                Next::Send(Turn { index, intended })
            }
            Err(_) => Next::Wait,
        }
    }

    /// Time until another message is due, at least a step of the pace, at most `PACE_WAIT_MAX`.
    fn until_due(&self) -> Duration {
        let elapsed = self.started.elapsed();
        let step = Duration::from_nanos(PACE_NS - elapsed.as_nanos() as u64 % PACE_NS);
        let next_index = self.next_index.load(Ordering::Relaxed);
        let due = self.schedule.map_or(elapsed, |schedule| schedule.intended(next_index));
        due.saturating_sub(elapsed).clamp(step, PACE_WAIT_MAX)
    }

    fn overdue(&self) -> u64 {
        let due = self.schedule.map_or(0, |schedule| schedule.due(self.started.elapsed()));
        due.saturating_sub(self.next_index.load(Ordering::Relaxed))
    }
}

/// One shard's view: lets its connections wait for what is due.
pub struct Turns {
    dispatch: Arc<Dispatch>,
    /// Taken by a connection that broke before any content went out.
    returned: RefCell<Vec<Turn>>,
    due: Notify,
}

impl Turns {
    /// On the shard's executor. For an open loop starts the thread that keeps the pace: the
    /// runtime's timers are too coarse for it.
    pub fn new(dispatch: Arc<Dispatch>) -> std::io::Result<Rc<Self>> {
        let paced = dispatch.schedule.is_some();
        let turns = Rc::new(Self {
            dispatch: dispatch.clone(),
            returned: RefCell::default(),
            due: Notify::default(),
        });
        if paced {
            let (ticks, ticked) = inbox(1);
            thread::spawn("pace", None, move || {
                while !dispatch.is_over() {
                    std::thread::sleep(dispatch.until_due());
                    // A tick that was not taken yet says the same.
                    let _ = ticks.try_send(());
                }
            })?;
            task::spawn(turns.clone().wake_when_due(ticked));
        }
        Ok(turns)
    }

    /// A message that may go out at once.
    pub fn now(&self) -> Option<Turn> {
        match self.dispatch.next() {
            Next::Send(turn) => Some(turn),
            Next::Wait | Next::End => None,
        }
    }

    /// Suspends until a message is due; `None` when the run is over.
    pub async fn next(&self) -> Option<Turn> {
        loop {
            if let Some(turn) = self.returned.borrow_mut().pop() {
                return Some(turn);
            }
            match self.dispatch.next() {
                Next::Send(turn) => return Some(turn),
                Next::Wait => self.due.notified().await,
                Next::End => return None,
            }
        }
    }

    pub fn give_back(&self, turn: Turn) {
        self.returned.borrow_mut().push(turn);
    }

    /// Lets every waiting connection see that the run is over.
    pub fn wake_all(&self) {
        self.due.notify_all();
    }

    async fn wake_when_due(self: Rc<Self>, mut ticked: Inbox<()>) {
        loop {
            ticked.recv().await;
            for _ in 0..self.dispatch.overdue().min(WAKES_MAX) {
                self.due.notify_one();
            }
        }
    }
}

/// The end of a run is noticed within this.
const PACE_WAIT_MAX: Duration = Duration::from_millis(50);
/// Connections woken in one tick.
const WAKES_MAX: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(dispatch: &Dispatch) -> Vec<u64> {
        std::iter::from_fn(|| match dispatch.next() {
            Next::Send(turn) => Some(turn.index),
            Next::Wait | Next::End => None,
        })
        .collect()
    }

    #[test]
    fn a_closed_loop_hands_out_each_message_once() {
        let dispatch = Dispatch::new(Some(3), None, None);
        assert_eq!(drain(&dispatch), [0, 1, 2]);
        assert!(dispatch.is_over());
        assert!(matches!(dispatch.next(), Next::End));
    }

    #[test]
    fn an_open_loop_hands_out_what_is_due_with_its_intended_time() {
        let mut dispatch = Dispatch::new(Some(1_000_000), None, Some(1_000.0));
        dispatch.started -= Duration::from_millis(100);
        let Next::Send(first) = dispatch.next() else { panic!("overdue since 100 ms") };
        assert_eq!(first.intended, Some(dispatch.started));
        assert!(drain(&dispatch).len() >= 100);
        assert!(matches!(dispatch.next(), Next::Wait | Next::Send(_)));
    }

    #[test]
    fn a_stopped_run_hands_out_nothing() {
        let dispatch = Dispatch::new(None, None, None);
        dispatch.stop();
        assert!(matches!(dispatch.next(), Next::End));
    }
}
