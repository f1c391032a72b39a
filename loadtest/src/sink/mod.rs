//! `ringpost-loadtest sink`: receives mail as the rest of the world would, and remembers it.
//!
//! **Owns** the receiving end of a run and its record.
//! **Uses** `ringpost::proto::smtp::server`, `ringpost::runtime`, `ids`, `message`.
//! **Holds** that an id is recorded before the 250 is sent, and only if it is sent or was lost
//! with the connection.
//! **Start reading** at `run`, then `session::serve`.

pub mod behaviour;
mod session;
mod tally;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use ringpost::proto::smtp::data::BareNewline;
use ringpost::proto::smtp::server::{Dialect, ServerConfig};
use ringpost::runtime::net::BoundListener;
use ringpost::runtime::{executor, task, thread, timer};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::ids::{self, IdWriter, RunId};
use crate::units::{self, Cores};
use crate::{stop, usage};
use behaviour::{Behaviour, LatencyRule, ReplyRule};
use session::Shard;
pub use tally::Totals;
use tally::{Counters, Tally};

/// Receives messages over SMTP or LMTP, and can be as difficult as real destinations.
///
/// Ends by SIGTERM or SIGINT, or by --messages or --idle-exit, and then prints what it received.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:2526")]
    pub listen: SocketAddr,
    /// Speaks LMTP (RFC 2033).
    #[arg(long)]
    pub lmtp: bool,
    /// Before the reply to end of data: 20ms, uniform:1ms-20ms, exponential:5ms; for one domain
    /// slow.test=1s. Rounded up to 10 ms. Repeatable.
    #[arg(long)]
    pub latency: Vec<LatencyRule>,
    /// Refuses by probability: rcpt:450:5%, end:451:1%; for one domain rcpt@full.test:452:100%.
    /// Phases: connect, mail, rcpt, data, end. A domain with rules for a phase does not follow the
    /// general ones. Repeatable.
    #[arg(long)]
    pub reply: Vec<ReplyRule>,
    /// Share of messages at whose first content the connection is reset.
    #[arg(long, value_parser = units::share, default_value = "0%")]
    pub drop_before_dot: f64,
    /// Share of messages that are read whole, and then the connection is reset without a reply;
    /// they do not count as received.
    #[arg(long, value_parser = units::share, default_value = "0%")]
    pub drop_after_dot: f64,
    /// Records the received ids in this file, for an audit against the source's.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Counts messages of this run only; others are foreign.
    #[arg(long)]
    pub run: Option<RunId>,
    /// Writes each message to NUMBER.eml and its envelope to NUMBER.envelope.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Cores to run on, one thread each; all by default.
    #[arg(long)]
    pub cores: Option<Cores>,
    /// Ends after that many messages.
    #[arg(long)]
    pub max_messages: Option<u64>,
    /// Ends when nothing came for this long after the first message.
    #[arg(long, value_parser = units::duration)]
    pub idle_exit: Option<Duration>,
    /// No line each second on standard error.
    #[arg(long)]
    pub quiet: bool,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// What all connections follow.
pub struct Rules {
    behaviour: Behaviour,
    run: Option<RunId>,
    store: Option<PathBuf>,
    stored_count: AtomicU64,
}

impl Rules {
    fn next_stored(&self) -> u64 {
        self.stored_count.fetch_add(1, Ordering::Relaxed)
    }
}

/// What a sink received, as `--json` prints it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    #[serde(flatten)]
    pub totals: Totals,
    /// Wall clock of the first and last message, microseconds since 1970; 0 without one.
    pub first_us: u64,
    pub last_us: u64,
    pub refusals: BTreeMap<String, u64>,
    pub own_cpu_us_per_message: f64,
}

/// Runs the subcommand.
pub fn run(options: Options) -> Result<(), Failure> {
    stop::catch_signals();
    let json = options.json;
    let report = receive(&options)?;
    if json {
        println!("{}", serde_json::to_string(&report).expect("a report is plain values"));
    } else {
        print_table(&report);
    }
    Ok(())
}

fn receive(options: &Options) -> Result<Report, Failure> {
    if let Some(directory) = &options.store {
        std::fs::create_dir_all(directory).map_err(|error| {
            Failure::cannot_create(format!("cannot make {}: {error}", directory.display()))
        })?;
    }
    if let Some(path) = &options.record {
        ids::create(path, options.run.unwrap_or(RunId(0))).map_err(|error| {
            Failure::cannot_create(format!("cannot write {}: {error}", path.display()))
        })?;
    }
    let cores = match &options.cores {
        Some(cores) => cores.0.clone(),
        None => thread::allowed_cores().map_err(|error| Failure::system(error.to_string()))?,
    };
    let mut behaviour = Behaviour::new(&options.reply, &options.latency);
    behaviour.drop_before_dot = options.drop_before_dot;
    behaviour.drop_after_dot = options.drop_after_dot;
    let rules = Arc::new(Rules {
        behaviour,
        run: options.run,
        store: options.store.clone(),
        stored_count: AtomicU64::new(0),
    });
    let cpu_before = usage::own_cpu();
    let counters: Arc<[Counters]> = cores.iter().map(|_| Counters::default()).collect();
    let ended = Arc::new(AtomicBool::new(false));
    let (tallies, tallied) = channel();
    let mut executors = Vec::new();
    for (index, core) in cores.iter().enumerate() {
        let listener = BoundListener::bind(options.listen).map_err(|error| {
            Failure::unavailable(format!(
                "cannot listen on {}: {error}; choose another address with --listen",
                options.listen
            ))
        })?;
        let start = ShardStart {
            index,
            listener,
            rules: rules.clone(),
            dialect: if options.lmtp { Dialect::Lmtp } else { Dialect::Smtp },
            counters: counters.clone(),
            record: options.record.clone(),
            ended: ended.clone(),
            tallies: tallies.clone(),
        };
        let executor = executor::spawn(&format!("sink-{index}"), Some(*core), || start.run());
        executors.push(executor.map_err(|error| Failure::system(error.to_string()))?);
    }
    drop(tallies);
    if !options.quiet {
        eprintln!("sink listens on {}", options.listen);
    }
    watch(options, &counters);
    ended.store(true, Ordering::Relaxed);
    for executor in executors {
        match executor.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(Failure::system(format!("an executor did not start: {error}")));
            }
            Err(_) => return Err(Failure::broken_promise("an executor ended in a panic")),
        }
    }
    let mut tally = Tally::default();
    for shard_tally in tallied {
        tally.add(&shard_tally?);
    }
    let totals = Totals::of(counters.iter());
    let own_cpu_us = (usage::own_cpu() - cpu_before).as_micros() as f64;
    Ok(Report {
        totals,
        first_us: tally.first_us(),
        last_us: tally.last_us(),
        refusals: tally.refusals(),
        own_cpu_us_per_message: own_cpu_us / totals.messages.max(1) as f64,
    })
}

/// Prints progress until something says that the run is over.
fn watch(options: &Options, counters: &[Counters]) {
    let started = Instant::now();
    let (mut last_messages, mut last_change) = (0, Instant::now());
    let (mut printed_messages, mut printed_second) = (0, 0);
    loop {
        std::thread::sleep(TICK);
        let totals = Totals::of(counters.iter());
        if totals.messages != last_messages {
            (last_messages, last_change) = (totals.messages, Instant::now());
        }
        let idle = totals.messages > 0
            && options.idle_exit.is_some_and(|idle_exit| last_change.elapsed() >= idle_exit);
        let enough = options.max_messages.is_some_and(|count| totals.messages >= count);
        if idle || enough || stop::requested() {
            return;
        }
        let second = started.elapsed().as_secs();
        if second > printed_second && totals.messages != printed_messages && !options.quiet {
            eprintln!(
                "sink   {second:4} s  {:9} received  {:7}/s  {} dropped  {} foreign",
                totals.messages,
                (totals.messages - printed_messages) / (second - printed_second),
                totals.dropped,
                totals.foreign,
            );
            (printed_messages, printed_second) = (totals.messages, second);
        }
    }
}

struct ShardStart {
    index: usize,
    listener: BoundListener,
    rules: Arc<Rules>,
    dialect: Dialect,
    counters: Arc<[Counters]>,
    record: Option<PathBuf>,
    ended: Arc<AtomicBool>,
    tallies: Sender<Result<Tally, Failure>>,
}

impl ShardStart {
    /// One shard of the sink, until the run is over.
    async fn run(self) {
        let tallies = self.tallies.clone();
        let result = self.receive().await;
        // The receiver is gone only when the program is ending already.
        let _ = tallies.send(result);
    }

    async fn receive(self) -> Result<Tally, Failure> {
        let system = |error: std::io::Error| Failure::system(error.to_string());
        let shard = Rc::new(Shard {
            rules: self.rules,
            config: Rc::new(server_config(self.dialect)),
            counters: self.counters,
            index: self.index,
            tally: RefCell::default(),
            received: RefCell::new(IdWriter::open(self.record.as_deref()).map_err(system)?),
        });
        let listener = self.listener.attach();
        let accepting = shard.clone();
        task::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await;
                task::spawn(session::serve(accepting.clone(), stream));
            }
        });
        while !self.ended.load(Ordering::Relaxed) {
            timer::sleep(TICK).await;
            shard.received.borrow_mut().flush().map_err(system)?;
        }
        shard.received.borrow_mut().flush().map_err(system)?;
        Ok(shard.tally.take())
    }
}

/// A server that takes whatever it is given.
fn server_config(dialect: Dialect) -> ServerConfig {
    ServerConfig {
        hostname: "sink.test".to_owned(),
        dialect,
        message_bytes_max: 1 << 30,
        recipients_max: ringpost::limits::RECIPIENTS_MAX,
        errors_max: u32::MAX,
        received_fields_max: u32::MAX,
        bare_newline: BareNewline::Refuse,
        messages_max: u32::MAX,
    }
}

fn print_table(report: &Report) {
    let totals = &report.totals;
    let seconds = (report.last_us - report.first_us).max(1) as f64 / 1e6;
    println!("received    {:>12}  {:.0}/s", totals.messages, totals.messages as f64 / seconds);
    println!("recipients  {:>12}", totals.recipients);
    println!("bytes       {:>12}", totals.bytes);
    println!("foreign     {:>12}", totals.foreign);
    println!("dropped     {:>12}", totals.dropped);
    println!("connections {:>12}", totals.connections);
    println!("own CPU     {:>12.1} us a message", report.own_cpu_us_per_message);
    for (kind, count) in &report.refusals {
        println!("refusal {kind}: {count} times");
    }
}

const TICK: Duration = Duration::from_millis(10);
