//! Threads that hash passwords, so that no executor does: each takes milliseconds and megabytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::secret::PasswordHash;
use crate::limits::AUTH_WAITING_MAX;
use crate::runtime::inbox::{InboxSender, inbox};
use crate::runtime::thread;
use crate::runtime::timer::{self, Deadline};

/// Too many passwords wait, or this one did for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// The way to the threads. Clones are the same.
#[derive(Clone)]
pub struct Hashing {
    state: Arc<Mutex<State>>,
    thread_max: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Threads that take what waits; each ends when nothing does.
    thread_count: usize,
    /// Passwords that threads took.
    taken_count: u64,
}

struct Job {
    hash: PasswordHash,
    password: Box<[u8]>,
    answer: InboxSender<bool>,
}

impl Hashing {
    pub fn new(thread_max: usize) -> Self {
        Self { state: Arc::default(), thread_max: thread_max.max(1) }
    }

    /// Whether a password has this hash. Suspends until a thread has found out; dropped midway,
    /// nobody hears of it.
    pub async fn verify(&self, hash: PasswordHash, password: &[u8]) -> Result<bool, Busy> {
        let (sender, mut answer) = inbox(1);
        self.submit(Job { hash, password: password.into(), answer: sender })?;
        let deadline = Deadline::default();
        timer::timeout(&deadline, TIME_MAX, answer.recv()).await.map_err(|_| Busy)
    }

    /// Passwords hashed so far.
    pub fn count(&self) -> u64 {
        lock(&self.state).taken_count
    }

    fn submit(&self, job: Job) -> Result<(), Busy> {
        let mut state = lock(&self.state);
        if state.waiting.len() >= AUTH_WAITING_MAX {
            return Err(Busy);
        }
        state.waiting.push_back(job);
        if state.thread_count >= self.thread_max {
            return Ok(());
        }
        let of_thread = self.state.clone();
        match thread::spawn("auth", None, move || work(&of_thread)) {
            Ok(_) => state.thread_count += 1,
            Err(_) if state.thread_count == 0 => {
                state.waiting.pop_back();
                return Err(Busy);
            }
            Err(_) => {}
        }
        Ok(())
    }
}

/// Until nothing waits.
fn work(state: &Mutex<State>) {
    // Mail goes before logins.
    thread::lower_priority();
    loop {
        let Some(job) = next(state) else { return };
        // Whoever asked may have gone.
        let _ = job.answer.try_send(job.hash.is_of(&job.password));
    }
}

fn next(state: &Mutex<State>) -> Option<Job> {
    let mut state = lock(state);
    let job = state.waiting.pop_front();
    match &job {
        Some(_) => state.taken_count += 1,
        None => state.thread_count -= 1,
    }
    job
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Longest time for which a client waits to hear whether its password is right.
const TIME_MAX: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::super::secret::Secret;
    use super::*;

    #[test]
    fn more_passwords_than_may_wait_are_refused() {
        let hashing = Hashing::new(1);
        // The one thread is at work elsewhere.
        lock(&hashing.state).thread_count = 1;
        let submit = || {
            let (answer, _) = inbox(1);
            let hash = Secret::of_nobody().password;
            hashing.submit(Job { hash, password: Box::from(*b"x"), answer })
        };
        for _ in 0..AUTH_WAITING_MAX {
            assert_eq!(submit(), Ok(()));
        }
        assert_eq!(submit(), Err(Busy));
        assert!(next(&hashing.state).is_some());
        assert_eq!((submit(), submit()), (Ok(()), Err(Busy)));
        assert_eq!(hashing.count(), 1);
    }
}
