//! A few threads for calls that block, and their results back on the executor that asked.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::inbox::inbox;
use super::thread;
use super::timer::{self, Deadline};

/// Threads that do what they are given. Clones are the same; the last one dropped ends them.
#[derive(Clone)]
pub struct Pool {
    jobs: SyncSender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

/// Why something has not been done, or nobody knows what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDone {
    /// Too much waits already.
    Busy,
    /// It ended in a panic.
    Panicked,
    /// It takes longer than whoever asked would wait; it is done all the same.
    TooSlow,
}

impl Pool {
    /// Starts `thread_count` threads, for which at most `waiting_max` jobs wait.
    pub fn start(name: &str, thread_count: usize, waiting_max: usize) -> io::Result<Pool> {
        let (jobs, receiver) = sync_channel::<Job>(waiting_max);
        let receiver = Arc::new(Mutex::new(receiver));
        for index in 0..thread_count {
            let receiver = receiver.clone();
            thread::spawn(&format!("{name}-{index}"), None, move || work(&receiver))?;
        }
        Ok(Pool { jobs })
    }

    /// As `run`, and waits for at most `time_max`.
    pub async fn run_for<T: Send + 'static>(
        &self,
        time_max: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        let done = timer::timeout(&Deadline::default(), time_max, self.run(job)).await;
        done.unwrap_or(Err(NotDone::TooSlow))
    }

    /// Has `job` done by a thread. Dropped midway, it is done all the same.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        let (result, mut done) = inbox(1);
        let job = move || {
            let outcome = catch_unwind(AssertUnwindSafe(job)).map_err(|_| NotDone::Panicked);
            // Whoever has given up needs no answer; for one there is always room.
            let _ = result.try_send(outcome);
        };
        self.jobs.try_send(Box::new(job)).map_err(|_| NotDone::Busy)?;
        done.recv().await
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::executor;
    use super::*;

    #[test]
    fn jobs_are_done_beside_the_executor_and_a_panic_is_told_of() {
        let body = || async {
            let pool = Pool::start("test", 2, 8).expect("threads");
            let here = std::thread::current().id();
            let there = pool.run(|| std::thread::current().id()).await.expect("done");
            assert_ne!(here, there);
            let panicked: Result<(), NotDone> = pool.run(|| panic!("as planned")).await;
            assert_eq!(panicked, Err(NotDone::Panicked));
            assert_eq!(pool.run(|| 7).await, Ok(7));
            let (sender, receiver) = std::sync::mpsc::channel::<()>();
            let moment = Duration::from_millis(10);
            let slow = pool.run_for(moment, move || receiver.recv().is_err()).await;
            assert_eq!(slow, Err(NotDone::TooSlow));
            drop(sender);
            let none = Pool::start("none", 0, 1).expect("no threads");
            drop(none.jobs.try_send(Box::new(|| ())));
            assert_eq!(none.run(|| 7).await, Err(NotDone::Busy));
        };
        let thread = executor::spawn("blocking-test", None, body).expect("a thread");
        thread.join().expect("no panic").expect("no error");
    }
}
