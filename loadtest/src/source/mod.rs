//! `ringpost-loadtest source`: sends messages as fast as a server takes them, or at a fixed rate.
//!
//! **Owns** connections, pace and latencies of a run.
//! **Uses** `ringpost::runtime`, `message`, `ids`, `latency`.
//! **Holds** that an id is recorded as accepted only after a 250 to its end of data was read, and
//! that a message whose content went out is never sent again.
//! **Start reading** at `run`, then `session::run`.

mod dispatch;
mod options;
pub mod replies;
mod session;
mod tally;
mod work;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use ringpost::runtime::{executor, task, thread, timer};
use serde::{Deserialize, Serialize};

use crate::failure::{self, Failure};
use crate::ids::{self, IdWriter, RunId};
use crate::latency::LatencySummary;
use crate::{stop, usage};
use dispatch::{Dispatch, Turns};
pub use options::Options;
use session::Shard;
use tally::{Counters, Tally};
pub use tally::{Refusal, Totals};
use work::Work;

/// The outcome of a run, as `--json` prints it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub run: String,
    pub loop_kind: String,
    #[serde(flatten)]
    pub totals: Totals,
    /// Wall clock, microseconds since 1970.
    pub started_us: u64,
    /// When the last 250 was read.
    pub last_accepted_us: u64,
    pub seconds: f64,
    pub accepted_per_s: f64,
    pub end_of_data: LatencySummary,
    pub transaction: LatencySummary,
    pub refusals: BTreeMap<String, Refusal>,
    pub errors: BTreeMap<String, u64>,
    pub own_cpu_us_per_accepted: f64,
}

/// Runs the subcommand.
pub fn run(options: Options) -> Result<(), Failure> {
    stop::catch_signals();
    let json = options.json;
    let report = send_all(&options)?;
    if json {
        println!("{}", serde_json::to_string(&report).expect("a report is plain values"));
    } else {
        print_table(&report);
    }
    if report.totals.accepted == 0 && report.totals.given_up > 0 {
        let reason = report.errors.keys().next().cloned().unwrap_or_default();
        return Err(Failure::unavailable(format!(
            "no SMTP server for us at {}: {reason}; start one, or name it with --target",
            options.target
        )));
    }
    Ok(())
}

/// Sends all messages of a run, in this process.
pub fn send_all(options: &Options) -> Result<Report, Failure> {
    options.check()?;
    let run = options.run.unwrap_or_else(RunId::random);
    let work = Arc::new(Work::new(options, run)?);
    if let Some(path) = &options.record {
        ids::create(path, run).map_err(|error| {
            Failure::cannot_create(format!("cannot write {}: {error}", path.display()))
        })?;
    }
    if let Some(path) = &options.record_times {
        ids::create(path, run).map_err(|error| {
            Failure::cannot_create(format!("cannot write {}: {error}", path.display()))
        })?;
    }
    let cores = match &options.cores {
        Some(cores) => cores.0.clone(),
        None => thread::allowed_cores().map_err(|error| Failure::system(error.to_string()))?,
    };
    let shard_count = cores.len().min(options.connections);
    let message_count = match (options.messages, options.duration) {
        (None, None) => Some(MESSAGES_DEFAULT),
        (messages, _) => messages,
    };
    let cpu_before = usage::own_cpu();
    let started_us = usage::unix_us();
    let started = Instant::now();
    let dispatch = Arc::new(Dispatch::new(message_count, options.duration, options.rate));
    let counters: Arc<[Counters]> = (0..shard_count).map(|_| Counters::default()).collect();
    let (tallies, tallied) = channel();
    let mut executors = Vec::new();
    for (index, core) in cores.iter().take(shard_count).enumerate() {
        let share = options.connections / shard_count;
        let extra = usize::from(index < options.connections % shard_count);
        let start = ShardStart {
            index,
            connection_count: share + extra,
            work: work.clone(),
            dispatch: dispatch.clone(),
            counters: counters.clone(),
            record: options.record.clone(),
            record_times: options.record_times.clone(),
            tallies: tallies.clone(),
        };
        let executor = executor::spawn(&format!("source-{index}"), Some(*core), || start.run());
        executors.push(executor.map_err(|error| Failure::system(error.to_string()))?);
    }
    drop(tallies);
    let done = Arc::new(AtomicBool::new(false));
    let progress = (!options.quiet).then(|| print_progress(counters.clone(), done.clone()));
    failure::join_all(executors)?;
    done.store(true, Ordering::Relaxed);
    if let Some(progress) = progress {
        progress.thread().unpark();
        // Its panic would have been printed; nothing depends on it.
        let _ = progress.join();
    }
    let mut tally = Tally::new();
    for shard_tally in tallied {
        tally.add(&shard_tally?);
    }
    let totals = Totals::of(counters.iter());
    let elapsed = tally.last_accepted_at.map_or(started.elapsed(), |at| at - started);
    let seconds = elapsed.as_secs_f64().max(1e-6);
    let (end_of_data, transaction) = tally.latencies();
    let own_cpu_us = (usage::own_cpu() - cpu_before).as_micros() as f64;
    Ok(Report {
        run: run.to_string(),
        loop_kind: if options.rate.is_some() { "open" } else { "closed" }.to_owned(),
        totals,
        started_us,
        last_accepted_us: started_us + elapsed.as_micros() as u64,
        seconds,
        accepted_per_s: totals.accepted as f64 / seconds,
        end_of_data,
        transaction,
        refusals: tally.refusals(),
        errors: tally.errors(),
        own_cpu_us_per_accepted: own_cpu_us / totals.accepted.max(1) as f64,
    })
}

struct ShardStart {
    index: usize,
    connection_count: usize,
    work: Arc<Work>,
    dispatch: Arc<Dispatch>,
    counters: Arc<[Counters]>,
    record: Option<PathBuf>,
    record_times: Option<PathBuf>,
    tallies: Sender<Result<Tally, Failure>>,
}

impl ShardStart {
    /// One shard of the source, until its last connection has ended.
    async fn run(self) {
        let result = self.send().await;
        // The receiver is gone only when the program is ending already.
        let _ = self.tallies.send(result);
    }

    async fn send(&self) -> Result<Tally, Failure> {
        let system = |error: std::io::Error| Failure::system(error.to_string());
        let shard = Rc::new(Shard {
            work: self.work.clone(),
            turns: Turns::new(self.dispatch.clone()).map_err(system)?,
            counters: self.counters.clone(),
            index: self.index,
            tally: RefCell::new(Tally::new()),
            accepted: RefCell::new(IdWriter::open(self.record.as_deref()).map_err(system)?),
            times: RefCell::new(IdWriter::open(self.record_times.as_deref()).map_err(system)?),
        });
        for _ in 0..self.connection_count {
            task::spawn(session::run(shard.clone()));
        }
        // One reference is ours; the connections hold the others.
        while Rc::strong_count(&shard) > 1 {
            timer::sleep(TICK).await;
            shard.accepted.borrow_mut().flush().map_err(system)?;
            shard.times.borrow_mut().flush().map_err(system)?;
            if stop::requested() {
                self.dispatch.stop();
            }
            if self.dispatch.is_over() {
                shard.turns.wake_all();
            }
        }
        shard.accepted.borrow_mut().flush().map_err(system)?;
        shard.times.borrow_mut().flush().map_err(system)?;
        Ok(shard.tally.replace(Tally::new()))
    }
}

fn print_progress(counters: Arc<[Counters]>, done: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let started = Instant::now();
        let mut accepted_before = 0;
        for second in 1.. {
            let due = Duration::from_secs(second);
            while started.elapsed() < due {
                std::thread::park_timeout(due.saturating_sub(started.elapsed()));
                if done.load(Ordering::Relaxed) {
                    return;
                }
            }
            let totals = Totals::of(counters.iter());
            eprintln!(
                "source {second:4} s  {:9} accepted  {:7}/s  {} refused  {} in doubt  {} errors",
                totals.accepted,
                totals.accepted - accepted_before,
                totals.refused,
                totals.in_doubt,
                totals.connection_errors,
            );
            accepted_before = totals.accepted;
        }
    })
}

fn print_table(report: &Report) {
    let totals = &report.totals;
    println!("run {} ({} loop)", report.run, report.loop_kind);
    println!("accepted       {:>12}  {:.0}/s", totals.accepted, report.accepted_per_s);
    println!("refused        {:>12}", totals.refused);
    println!("in doubt       {:>12}", totals.in_doubt);
    println!("connections    {:>12}  {} errors", totals.connections, totals.connection_errors);
    println!("own CPU        {:>12.1} us a message", report.own_cpu_us_per_accepted);
    println!("latency, us           p50       p90       p99     p99.9       max");
    for (name, latency) in
        [("end of data", &report.end_of_data), ("transaction", &report.transaction)]
    {
        println!(
            "  {name:<12}{:>11}{:>10}{:>10}{:>10}{:>10}",
            latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us
        );
    }
    for (kind, refusal) in &report.refusals {
        println!("refusal {kind}: {} times, first: {}", refusal.count, refusal.first);
    }
    for (error, count) in &report.errors {
        println!("connection error: {count} times: {error}");
    }
}

const MESSAGES_DEFAULT: u64 = 10_000;
const TICK: Duration = Duration::from_millis(10);
