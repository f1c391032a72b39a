//! `ringpost-loadtest sink`: receives mail as the rest of the world would, and remembers it.
//!
//! **Owns** the receiving end of a run and its record.
//! **Uses** `ringpost::proto::smtp::server`, `ringpost::runtime`, `ids`, `message`.
//! **Holds** that an id is recorded before the 250 is sent, and only if it is sent or was lost
//! with the connection.
//! **Start reading** at `run`, then `sinks::Sinks`, then `session::serve`.

pub mod behaviour;
pub mod limited;
pub mod mode;
mod session;
mod sinks;
mod tally;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ringpost::proto::smtp::server::Dialect;
use ringpost::runtime::thread;
use ringpost::tls::Version;
use ringpost::tls::identity::Identity;
use ringpost::tls::server::Context;
use serde::{Deserialize, Serialize};

use crate::audit::DeliveryId;
use crate::failure::Failure;
use crate::ids::{self, RunId};
use crate::units::{self, Cores};
use crate::{stop, usage};
use behaviour::{Behaviour, LatencyRule, ReplyRule};
use limited::{Limited, Limits, Seen};
use mode::{Mode, Switch};
pub use sinks::{Sink, Sinks};
pub use tally::Totals;

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
    /// How the sink is to everybody: normal, closed, hang-up, unavailable (421), slow:2s (before
    /// each reply), tempfail (451 to RCPT).
    #[arg(long, default_value = "normal")]
    pub mode: Mode,
    /// Counts connections and answers 421 to those beyond this many at once.
    #[arg(long)]
    pub connections_max: Option<usize>,
    /// Counts messages and answers 451 to those beyond this many in any second.
    #[arg(long)]
    pub messages_per_second_max: Option<usize>,
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
    /// Offers STARTTLS with this certificate, leaf first, in PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// The key of the certificate.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
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
#[derive(Default)]
pub struct Rules {
    pub behaviour: Behaviour,
    pub mode: Switch,
    pub limited: Option<Arc<Limited>>,
    pub run: Option<RunId>,
    pub arrivals: Option<Arc<Arrivals>>,
    pub store: Option<PathBuf>,
    pub stored_count: AtomicU64,
    /// STARTTLS is offered.
    pub tls: Option<Context>,
}

/// What a sink needs to offer STARTTLS.
pub fn load_tls(certificate: &Path, key: &Path) -> Result<Context, Failure> {
    let read = |path: &Path| {
        fs::read(path)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
    };
    let identity = Identity::from_pem(&read(certificate)?, &read(key)?).map_err(|error| {
        Failure::usage(format!("{} and {}: {error}", certificate.display(), key.display()))
    })?;
    let context = Context::new(vec![identity], Version::default(), None);
    context.map_err(|error| Failure::system(format!("TLS: {error}")))
}

/// When the messages from a sequence number on arrived.
#[derive(Default)]
pub struct Arrivals {
    pub first_sequence: u64,
    times: Mutex<Vec<(DeliveryId, u64)>>,
}

impl Arrivals {
    /// Collects from `first_sequence` on.
    pub fn from(first_sequence: u64) -> Self {
        Self { first_sequence, times: Mutex::default() }
    }

    /// `now_us` in microseconds since 1970.
    fn note(&self, id: DeliveryId, now_us: u64) {
        if id.sequence() >= self.first_sequence {
            self.times.lock().unwrap_or_else(PoisonError::into_inner).push((id, now_us));
        }
    }

    /// Ids with their times, and forgets them.
    pub fn take(&self) -> Vec<(DeliveryId, u64)> {
        std::mem::take(&mut self.times.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
    /// With limits only.
    pub limits: Option<Seen>,
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
    let limited = (options.connections_max.is_some() || options.messages_per_second_max.is_some())
        .then(|| {
            Arc::new(Limited::new(Limits {
                connections: options.connections_max.unwrap_or(usize::MAX),
                messages_per_second: options.messages_per_second_max.unwrap_or(usize::MAX),
            }))
        });
    let tls = options.certificate.as_ref().zip(options.key.as_ref());
    let tls = tls.map(|(certificate, key)| load_tls(certificate, key)).transpose()?;
    let rules = Arc::new(Rules {
        tls,
        behaviour,
        mode: Switch::new(options.mode),
        limited: limited.clone(),
        run: options.run,
        store: options.store.clone(),
        ..Rules::default()
    });
    let dialect = if options.lmtp { Dialect::Lmtp } else { Dialect::Smtp };
    let cpu_before = usage::own_cpu();
    let sink = Sink { address: options.listen, dialect, rules };
    let sinks = Sinks::start(vec![sink], &cores, options.record.as_deref())?;
    if !options.quiet {
        eprintln!("sink listens on {}", options.listen);
    }
    watch(options, &sinks);
    let totals = sinks.all_totals();
    let tally = sinks.stop()?;
    let own_cpu_us = (usage::own_cpu() - cpu_before).as_micros() as f64;
    Ok(Report {
        totals,
        first_us: tally.first_us(),
        last_us: tally.last_us(),
        refusals: tally.refusals(),
        limits: limited.map(|limited| limited.seen()),
        own_cpu_us_per_message: own_cpu_us / totals.messages.max(1) as f64,
    })
}

/// Prints progress until something says that the run is over.
fn watch(options: &Options, sinks: &Sinks) {
    let started = Instant::now();
    let (mut last_messages, mut last_change) = (0, Instant::now());
    let (mut printed_messages, mut printed_second) = (0, 0);
    loop {
        std::thread::sleep(TICK);
        let totals = sinks.all_totals();
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
    if let Some(seen) = &report.limits {
        println!("at once     {:>12} connections, most", seen.max_connections);
        println!("in a second {:>12} messages, most", seen.max_messages_in_any_second());
        println!("violations  {:>12}", seen.violations());
    }
    for (kind, count) in &report.refusals {
        println!("refusal {kind}: {count} times");
    }
}

const TICK: Duration = Duration::from_millis(10);
