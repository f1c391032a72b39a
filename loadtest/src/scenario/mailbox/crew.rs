//! Clients at work together: started, let go at one moment, counted until another.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ringpost::runtime::{executor, task, thread, timer};

use crate::failure::{self, Failure};
use crate::latency::Latencies;
use crate::relay::accounting::Group;
use crate::relay::files::check_stop;

/// One client of a crew.
pub struct Member {
    pub index: usize,
    gate: Arc<Gate>,
    tally: Rc<RefCell<Tally>>,
}

impl Member {
    /// Ready to work: waits until all are, and returns when work ends.
    pub async fn ready(&self) -> Instant {
        self.gate.arrived.fetch_add(1, Ordering::SeqCst);
        loop {
            if let Some(end) = self.gate.end.get() {
                return *end;
            }
            timer::sleep(TICK).await;
        }
    }

    /// Books what was begun at `since` and is done; false, and nothing, once work has ended.
    pub fn did(&self, kind: &'static str, since: Instant) -> bool {
        let now = Instant::now();
        if self.gate.end.get().is_some_and(|end| now >= *end) {
            return false;
        }
        self.tally.borrow_mut().record(kind, now - since);
        true
    }

    /// Books a latency whenever it comes.
    pub fn took(&self, kind: &'static str, latency: Duration) {
        self.tally.borrow_mut().record(kind, latency);
    }
}

/// What was done: latencies by kind.
#[derive(Default)]
pub struct Tally {
    kinds: BTreeMap<&'static str, Latencies>,
}

impl Tally {
    fn record(&mut self, kind: &'static str, latency: Duration) {
        self.kinds.entry(kind).or_insert_with(Latencies::new).record(latency);
    }

    pub fn add(&mut self, other: &Self) {
        for (kind, latencies) in &other.kinds {
            self.kinds.entry(kind).or_insert_with(Latencies::new).add(latencies);
        }
    }

    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &Latencies)> {
        self.kinds.iter().map(|(kind, latencies)| (*kind, latencies))
    }

    /// How often anything whose kind begins so was done.
    pub fn count(&self, start: &str) -> u64 {
        let kinds = self.kinds.iter().filter(|(kind, _)| kind.starts_with(start));
        kinds.map(|(_, latencies)| latencies.summary().count).sum()
    }
}

/// What a crew did, and what it cost the server.
pub struct Work {
    pub tally: Tally,
    pub seconds: f64,
    pub cpu: Duration,
}

struct Gate {
    arrived: AtomicUsize,
    end: OnceLock<Instant>,
    error: Mutex<Option<io::Error>>,
}

type Task = Pin<Box<dyn Future<Output = io::Result<()>>>>;

/// Runs so many clients on all cores, and lets them work for `duration` once all are ready, or
/// until all have ended. Once all are ready `between` is called, before they work. Fails with the
/// error of any client.
pub fn run<F>(
    count: usize,
    duration: Duration,
    group: &Group,
    between: impl FnOnce() -> Result<(), Failure>,
    client: impl Fn(Member) -> F + Send + Sync + 'static,
) -> Result<Work, Failure>
where
    F: Future<Output = io::Result<()>> + 'static,
{
    let client = Arc::new(move |member| Box::pin(client(member)) as Task);
    let gate = Arc::new(Gate {
        arrived: AtomicUsize::new(0),
        end: OnceLock::new(),
        error: Mutex::new(None),
    });
    let cores = thread::allowed_cores().map_err(|error| Failure::system(error.to_string()))?;
    let (tallies, tallied) = channel();
    let mut executors = Vec::new();
    let shards = cores.len().min(count);
    for (shard, core) in cores.into_iter().take(shards).enumerate() {
        let (client, gate, tallies) = (client.clone(), gate.clone(), tallies.clone());
        let body = move || async move {
            let tally = Rc::new(RefCell::new(Tally::default()));
            let left = Rc::new(());
            for index in (shard..count).step_by(shards) {
                let member = Member { index, gate: gate.clone(), tally: tally.clone() };
                let (client, gate, left) = (client.clone(), gate.clone(), left.clone());
                task::spawn(async move {
                    if let Err(error) = client(member).await {
                        gate.error.lock().unwrap_or_else(PoisonError::into_inner).replace(error);
                    }
                    drop(left);
                });
            }
            while Rc::strong_count(&left) > 1 {
                timer::sleep(TICK).await;
            }
            // The receiver is gone only when the program is ending already.
            let _ = tallies.send(tally.take());
        };
        let executor = executor::spawn(&format!("clients-{shard}"), Some(core), body);
        executors.push(executor.map_err(|error| Failure::system(error.to_string()))?);
    }
    drop(tallies);
    let failed = || {
        let error = gate.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        error.map(|error| Failure::unavailable(format!("a client: {error}")))
    };
    let mut failure = None;
    while failure.is_none() && gate.arrived.load(Ordering::SeqCst) < count {
        std::thread::sleep(POLL);
        failure = failed().or_else(|| check_stop().err());
    }
    if failure.is_none() {
        failure = between().err();
    }
    let cpu_before = group.cpu();
    let started = Instant::now();
    let duration = if failure.is_some() { Duration::ZERO } else { duration };
    gate.end.get_or_init(|| started + duration);
    while failure.is_none()
        && started.elapsed() < duration
        && !executors.iter().all(|executor| executor.is_finished())
    {
        std::thread::sleep(POLL.min(duration.saturating_sub(started.elapsed())));
        failure = failed().or_else(|| check_stop().err());
    }
    let (cpu, seconds) = (group.cpu() - cpu_before, started.elapsed().as_secs_f64());
    if let Some(failure) = failure {
        // The clients end with the process.
        return Err(failure);
    }
    failure::join_all(executors)?;
    if let Some(failure) = failed() {
        return Err(failure);
    }
    let mut tally = Tally::default();
    tallied.iter().for_each(|other: Tally| tally.add(&other));
    Ok(Work { tally, seconds, cpu })
}

const TICK: Duration = Duration::from_millis(10);
const POLL: Duration = Duration::from_millis(20);
