//! `ringpost-loadtest source`: sends messages as fast as a server takes them, or at a fixed rate.
//!
//! **Owns** connections, pace and latencies of a run.
//! **Uses** `ringpost::runtime`, `message`, `ids`, `latency`.
//! **Holds** that an id is recorded as accepted only after a 250 to its end of data was read, and
//! that a message whose content went out is never sent again.
//! **Start reading** at `run`, then `session::run`.

mod dispatch;
mod replies;
mod session;
mod tally;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use ringpost::runtime::{executor, task, thread, timer};
use serde::{Deserialize, Serialize};

use crate::audit::SEQUENCE_END;
use crate::failure::Failure;
use crate::ids::{self, IdWriter, RunId};
use crate::latency::LatencySummary;
use crate::message::{Corpus, Template};
use crate::units::{self, Cores, SizeMix};
use crate::{stop, usage};
use dispatch::{Dispatch, Turns};
use session::Shard;
use tally::{Counters, Tally};
pub use tally::{Refusal, Totals};

/// Sends messages to an SMTP server and measures it.
///
/// Closed loop: each connection sends its next message when the last one was answered. Open loop
/// (--rate): messages are due at fixed times whatever the server does, and the transaction latency
/// counts from the intended time, so a stalled server cannot hide what it kept waiting.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Address of the SMTP server.
    #[arg(long, default_value = "127.0.0.1:2525")]
    pub target: SocketAddr,
    /// Connections, held open through the run.
    #[arg(long, default_value_t = 20)]
    pub connections: usize,
    /// Messages to send; each is tried once, refused ones count. Default without --duration: 10000.
    #[arg(long)]
    pub messages: Option<u64>,
    /// Time after which no new message is begun.
    #[arg(long, value_parser = units::duration)]
    pub duration: Option<Duration>,
    /// Message size, or a mix with weights: 2KiB:50,4KiB:30,100KiB:20.
    #[arg(long, default_value = "4KiB")]
    pub size: SizeMix,
    /// Sends the .eml files of a directory, in turn, instead of generated messages.
    #[arg(long, value_name = "DIR")]
    pub eml: Option<PathBuf>,
    /// Messages on one connection before it is closed and opened again.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    pub messages_per_connection: u64,
    /// Waits for the reply to each command (no RFC 2920 pipelining).
    #[arg(long)]
    pub no_pipelining: bool,
    /// Sends content with BDAT (RFC 3030); with pipelining a message is one send, one round trip.
    #[arg(long)]
    pub bdat: bool,
    /// Open loop: messages a second over all connections.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Recipients of each message.
    #[arg(long, default_value_t = 1)]
    pub recipients: u16,
    /// Domains of the recipients, in turn.
    #[arg(long, value_delimiter = ',', default_value = "sink.test")]
    pub domains: Vec<String>,
    /// Instead of each domain D that many: d0.D, d1.D, and so on.
    #[arg(long, default_value_t = 1)]
    pub domain_count: usize,
    /// Reverse-path of each message.
    #[arg(long, default_value = "source@source.test")]
    pub reverse_path: String,
    /// Longest wait for a reply.
    #[arg(long, value_parser = units::duration, default_value = "60s")]
    pub reply_timeout: Duration,
    /// How long a connection tries to reach a server that does not answer.
    #[arg(long, value_parser = units::duration, default_value = "10s")]
    pub patience: Duration,
    /// Cores to run on, one thread each; all by default.
    #[arg(long)]
    pub cores: Option<Cores>,
    /// Identity of the run in X-Ringpost-Load; random by default.
    #[arg(long)]
    pub run: Option<RunId>,
    /// Sequence number of the first message.
    #[arg(long, default_value_t = 0)]
    pub first_sequence: u64,
    /// Records the accepted ids in this file, for an audit against the sink's.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// No line each second on standard error.
    #[arg(long)]
    pub quiet: bool,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// What all connections work through.
pub struct Work {
    target: SocketAddr,
    corpus: Corpus,
    recipient_lines: Vec<RecipientLines>,
    recipient_count: u16,
    pipelining: bool,
    bdat: bool,
    messages_per_connection: u64,
    reply_timeout: Duration,
    patience: Duration,
    run: RunId,
    first_sequence: u64,
}

/// The RCPT commands of a message, together and one by one.
struct RecipientLines {
    all: Vec<u8>,
    each: Vec<Vec<u8>>,
}

impl Work {
    fn new(options: &Options, run: RunId) -> Result<Self, Failure> {
        let eml = options.eml.as_deref();
        let corpus = Corpus::new(&options.size, eml, &options.reverse_path)?;
        let mut domains = options.domains.clone();
        if options.domain_count > 1 {
            let numbered = |domain: &String| {
                let domain = domain.clone();
                (0..options.domain_count).map(move |index| format!("d{index}.{domain}"))
            };
            domains = options.domains.iter().flat_map(numbered).collect();
        }
        let lines = |first: usize| {
            let line = |index: u16| {
                let domain = &domains[(first + usize::from(index)) % domains.len()];
                format!("RCPT TO:<recipient-{index}@{domain}>\r\n").into_bytes()
            };
            let each: Vec<Vec<u8>> = (0..options.recipients).map(line).collect();
            RecipientLines { all: each.concat(), each }
        };
        Ok(Self {
            target: options.target,
            corpus,
            recipient_lines: (0..domains.len()).map(lines).collect(),
            recipient_count: options.recipients,
            pipelining: !options.no_pipelining,
            bdat: options.bdat,
            messages_per_connection: options.messages_per_connection,
            reply_timeout: options.reply_timeout,
            patience: options.patience,
            run,
            first_sequence: options.first_sequence,
        })
    }

    fn template(&self, index: u64) -> &Template {
        self.corpus.template(index)
    }

    fn recipients(&self, index: u64) -> &[u8] {
        &self.lines(index).all
    }

    fn recipient(&self, index: u64, recipient_index: u16) -> &[u8] {
        &self.lines(index).each[usize::from(recipient_index)]
    }

    fn lines(&self, index: u64) -> &RecipientLines {
        &self.recipient_lines[(index % self.recipient_lines.len() as u64) as usize]
    }
}

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

fn send_all(options: &Options) -> Result<Report, Failure> {
    check(options)?;
    let run = options.run.unwrap_or_else(RunId::random);
    let work = Arc::new(Work::new(options, run)?);
    if let Some(path) = &options.record {
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
            tallies: tallies.clone(),
        };
        let executor = executor::spawn(&format!("source-{index}"), Some(*core), || start.run());
        executors.push(executor.map_err(|error| Failure::system(error.to_string()))?);
    }
    drop(tallies);
    let done = Arc::new(AtomicBool::new(false));
    let progress = (!options.quiet).then(|| print_progress(counters.clone(), done.clone()));
    for executor in executors {
        match executor.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(Failure::system(format!("an executor did not start: {error}")));
            }
            Err(_) => return Err(Failure::broken_promise("an executor ended in a panic")),
        }
    }
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

fn check(options: &Options) -> Result<(), Failure> {
    let wrong = |text: &str| Err(Failure::usage(text));
    if options.connections == 0 || options.connections > CONNECTIONS_MAX {
        return wrong("--connections is 1 to 50000");
    }
    if options.recipients == 0 || options.recipients > RECIPIENTS_MAX {
        return wrong("--recipients is 1 to 5000");
    }
    if options.domains.is_empty() || options.domain_count == 0 {
        return wrong("--domains needs a domain and --domain-count is at least 1");
    }
    let line_count = options.domains.len() * options.domain_count * usize::from(options.recipients);
    if line_count > RECIPIENT_LINES_MAX {
        return wrong("domains times recipients is at most 1000000");
    }
    if options.messages_per_connection == 0 {
        return wrong("--messages-per-connection is at least 1");
    }
    if options.rate.is_some_and(|rate| !(0.001..=10_000_000.0).contains(&rate)) {
        return wrong("--rate is 0.001 to 10000000 messages a second");
    }
    let message_count = options.messages.unwrap_or(0);
    if options.first_sequence.checked_add(message_count).is_none_or(|end| end > SEQUENCE_END / 2) {
        return wrong("sequence numbers end at 2^47");
    }
    Ok(())
}

struct ShardStart {
    index: usize,
    connection_count: usize,
    work: Arc<Work>,
    dispatch: Arc<Dispatch>,
    counters: Arc<[Counters]>,
    record: Option<PathBuf>,
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
        });
        for _ in 0..self.connection_count {
            task::spawn(session::run(shard.clone()));
        }
        // One reference is ours; the connections hold the others.
        while Rc::strong_count(&shard) > 1 {
            timer::sleep(TICK).await;
            shard.accepted.borrow_mut().flush().map_err(system)?;
            if stop::requested() {
                self.dispatch.stop();
            }
            if self.dispatch.is_over() {
                shard.turns.wake_all();
            }
        }
        shard.accepted.borrow_mut().flush().map_err(system)?;
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
const CONNECTIONS_MAX: usize = 50_000;
const RECIPIENTS_MAX: u16 = 5_000;
const RECIPIENT_LINES_MAX: usize = 1_000_000;
const TICK: Duration = Duration::from_millis(10);
