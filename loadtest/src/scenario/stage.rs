//! What every scenario stands on: a directory, sinks, a server, messages sent, the audit.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringpost::proto::smtp::server::Dialect;
use ringpost::runtime::{clock, thread};
use ringpost::tls::server::Context;
use serde::Serialize;

use super::config::Plan;
use super::server::Server;
use crate::audit::{self, Audit};
use crate::failure::Failure;
use crate::ids::{self, RunId};
use crate::relay::child;
use crate::relay::files::{check_stop, read_ids, server_program};
use crate::sink::limited::Limited;
use crate::sink::mode::{Mode, Switch};
use crate::sink::{Arrivals, Rules, Sink, Sinks};
use crate::source;
use crate::units::{self, SizeMix};

/// What all scenarios are told.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Queue, logs and records of the run, in a directory of its own below this one: on the disk
    /// that is to be measured.
    #[arg(long, value_name = "DIR", default_value = "ringpost-loadtest-work")]
    pub data: PathBuf,
    /// Message size, or a mix with weights: 2KiB:50,4KiB:30,100KiB:20.
    #[arg(long, default_value = "4KiB")]
    pub size: SizeMix,
    /// Connections of the source.
    #[arg(long, default_value_t = 20)]
    pub source_connections: usize,
    /// What has not come to the sinks when nothing came for this long is lost.
    #[arg(long, value_parser = units::duration, default_value = "30s")]
    pub settle: Duration,
    /// The ringpost to run; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    pub server: Option<PathBuf>,
    /// Leaves the directory for looking into it; it stays after a failure as well.
    #[arg(long)]
    pub keep: bool,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// A sink of a scenario.
#[derive(Default)]
pub struct SinkPlan {
    /// A free one on 127.0.0.1 by default.
    pub address: Option<SocketAddr>,
    pub mode: Mode,
    pub limited: Option<Arc<Limited>>,
    pub arrivals: Option<Arc<Arrivals>>,
    /// Offers STARTTLS.
    pub tls: Option<Context>,
}

/// Messages to send.
#[derive(Clone, Default)]
pub struct Injection {
    /// Names the record; each is used once.
    pub name: String,
    pub messages: u64,
    pub first_sequence: u64,
    pub domains: Vec<String>,
    /// Instead of each domain that many below it.
    pub domain_count: usize,
    /// Messages a second; as fast as the server takes them by default.
    pub rate: Option<f64>,
    pub fields: Vec<String>,
    /// Over connections with STARTTLS.
    pub tls: bool,
    /// Empty for the null reverse-path.
    pub reverse_path: Option<String>,
    /// Goes to a server that is thrown away with its queue: nobody is owed anything.
    pub is_thrown_away: bool,
}

/// A scenario under way.
pub struct Stage {
    pub options: Options,
    pub sinks: Sinks,
    directory: PathBuf,
    run: RunId,
    addresses: Vec<SocketAddr>,
    received: PathBuf,
    accepted: Vec<PathBuf>,
    /// Messages of rounds that measure CPU.
    sent: u64,
}

impl Stage {
    /// Makes the directory and starts the sinks.
    pub fn new(options: &Options, name: &str, plans: Vec<SinkPlan>) -> Result<Self, Failure> {
        let directory = options.data.join(format!("{name}-{}", std::process::id()));
        let unusable = |error: std::io::Error| {
            Failure::cannot_create(format!("cannot use {}: {error}", directory.display()))
        };
        fs::create_dir_all(&directory).map_err(unusable)?;
        let directory = directory.canonicalize().map_err(unusable)?;
        let run = RunId::random();
        let received = directory.join("received.ids");
        ids::create(&received, run).map_err(|error| {
            Failure::cannot_create(format!("cannot write {}: {error}", received.display()))
        })?;
        let mut sinks = Vec::new();
        for plan in plans {
            let rules = Arc::new(Rules {
                mode: Switch::new(plan.mode),
                limited: plan.limited,
                arrivals: plan.arrivals,
                tls: plan.tls,
                run: Some(run),
                ..Rules::default()
            });
            let address = match plan.address {
                Some(address) => address,
                None => SocketAddr::new(LOOPBACK, free_sink_port(&["127.0.0.1"])?),
            };
            sinks.push(Sink { address, dialect: Dialect::Smtp, rules });
        }
        let addresses = sinks.iter().map(|sink| sink.address).collect();
        let cores = thread::allowed_cores().map_err(|error| Failure::system(error.to_string()))?;
        let sinks = Sinks::start(sinks, &cores, Some(&received))?;
        let (options, accepted) = (options.clone(), Vec::new());
        Ok(Self { options, sinks, directory, run, addresses, received, accepted, sent: 0 })
    }

    pub fn sink_address(&self, sink_index: usize) -> SocketAddr {
        self.addresses[sink_index]
    }

    pub fn switch(&self, sink_index: usize, mode: Mode) {
        self.sinks.rules(sink_index).mode.set(mode);
    }

    /// A server whose mail for the domains goes to the sinks with these indexes. `more` completes
    /// the plan.
    pub fn server(
        &self,
        routes: &[(&str, usize)],
        retry_wait: Duration,
        more: impl FnOnce(&mut Plan<'_>),
    ) -> Result<Server, Failure> {
        self.server_in("scenario", &self.directory, routes, retry_wait, more)
    }

    /// Another server, with a queue of its own. `remove_other` throws it away.
    pub fn other_server(
        &self,
        routes: &[(&str, usize)],
        retry_wait: Duration,
    ) -> Result<Server, Failure> {
        let directory = self.other_directory();
        fs::create_dir_all(&directory).map_err(|error| {
            Failure::cannot_create(format!("cannot make {}: {error}", directory.display()))
        })?;
        self.server_in("other", &directory, routes, retry_wait, |_| {})
    }

    /// Removes the queue of the other server, which was stopped.
    pub fn remove_other(&self) -> Result<(), Failure> {
        let directory = self.other_directory();
        fs::remove_dir_all(&directory).map_err(|error| {
            Failure::system(format!("cannot remove {}: {error}", directory.display()))
        })
    }

    fn other_directory(&self) -> PathBuf {
        self.directory.join("other")
    }

    fn server_in(
        &self,
        group: &str,
        directory: &Path,
        routes: &[(&str, usize)],
        retry_wait: Duration,
        more: impl FnOnce(&mut Plan<'_>),
    ) -> Result<Server, Failure> {
        let program = server_program(self.options.server.as_deref())?;
        let (address, metrics) = (child::free_address()?, child::free_address()?);
        let text = directory.display().to_string();
        let routes = routes.iter().map(|(domain, sink)| (*domain, self.addresses[*sink])).collect();
        let mut plan = Plan {
            directory: &text,
            address,
            metrics,
            routes,
            shard_count: None,
            retry_wait,
            limit: None,
            stream_fields: false,
            mx: None,
            tls: None,
            more_listeners: Vec::new(),
        };
        more(&mut plan);
        Server::new(program, directory, address, metrics, group, &plan.write())
    }

    /// Sends messages until the last one is answered; what was accepted is owed from then on.
    pub fn inject(
        &mut self,
        server: &Server,
        injection: &Injection,
    ) -> Result<source::Report, Failure> {
        let defaults = source::Options::to(server.address);
        let record = self.directory.join(format!("{}.accepted.ids", injection.name));
        assert!(!self.accepted.contains(&record));
        let options = source::Options {
            connections: self.options.source_connections,
            messages: Some(injection.messages),
            size: self.options.size.clone(),
            domains: injection.domains.clone(),
            domain_count: injection.domain_count.max(1),
            tls: injection.tls,
            rate: injection.rate,
            field: injection.fields.clone(),
            // What arrives of mail that nobody is owed is foreign, not twice there.
            run: Some(if injection.is_thrown_away { RunId::random() } else { self.run }),
            first_sequence: injection.first_sequence,
            record: Some(record.clone()),
            record_times: injection.rate.map(|_| self.times_path(&injection.name)),
            reverse_path: injection.reverse_path.clone().unwrap_or(defaults.reverse_path.clone()),
            ..defaults
        };
        let report = source::send_all(&options)?;
        if !injection.is_thrown_away {
            self.accepted.push(record);
        }
        check_stop()?;
        if report.totals.accepted < injection.messages {
            let refusal = report.refusals.values().map(|refusal| refusal.first.clone()).next();
            let error = report.errors.keys().next().cloned();
            return Err(Failure::unavailable(format!(
                "the server accepted {} of {} messages: {}",
                report.totals.accepted,
                injection.messages,
                refusal.or(error).unwrap_or_default()
            )));
        }
        Ok(report)
    }

    /// Where an injection at a rate leaves the times of its acceptances.
    pub fn times_path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.times"))
    }

    /// What the log says of outcomes until now.
    pub fn outcomes(&self) -> String {
        fs::read_to_string(self.directory.join("outcomes.log")).unwrap_or_default()
    }

    /// Recipients for which the server has taken responsibility.
    pub fn accepted_count(&self) -> Result<u64, Failure> {
        let mut count = 0;
        for path in &self.accepted {
            count += crate::relay::files::count_ids(path)?;
        }
        Ok(count)
    }

    /// Compares what was accepted with what has come until now.
    pub fn audit(&self) -> Result<Audit, Failure> {
        let mut accepted = Vec::new();
        for path in &self.accepted {
            accepted.extend(read_ids(path)?);
        }
        Ok(audit::compare(accepted, read_ids(&self.received)?))
    }

    /// Stops the server, and says what became of every message.
    pub fn ending(&self, server: &mut Server) -> Result<Ending, Failure> {
        let queued_at_end = server.queued();
        server.stop()?;
        let Audit { accepted, relayed, lost, duplicated, in_doubt, lost_examples } =
            self.audit()?;
        let counts =
            Ending { accepted, relayed, lost, queued_at_end, duplicated, in_doubt, lost_examples };
        Ok(counts)
    }

    /// Where a drain begins: call before anything is let go.
    pub fn mark(&self) -> Mark {
        Mark { started: Instant::now(), count: self.sinks.all_totals().recipients }
    }

    /// Until the sinks have everything that was accepted, or nothing has come for the time of
    /// settling, or `patience` is over.
    pub fn drain(
        &self,
        server: &mut Server,
        mark: Mark,
        settle: Duration,
        patience: Duration,
    ) -> Result<Drain, Failure> {
        let Mark { started, count: first } = mark;
        let expected = self.accepted_count()?;
        let mut drain = Drain { samples: vec![(Duration::ZERO, first)] };
        let (mut last, mut last_change) = (first, Instant::now());
        let mut next_line = PROGRESS_PERIOD;
        let mut next_audit = Duration::ZERO;
        loop {
            std::thread::sleep(SAMPLE_PERIOD);
            let (elapsed, count) = (started.elapsed(), self.sinks.all_totals().recipients);
            drain.samples.push((elapsed, count));
            if count != last {
                (last, last_change) = (count, Instant::now());
            }
            if elapsed >= next_line {
                eprintln!("drain  {:4} s  {count:9} of {expected} relayed", elapsed.as_secs());
                next_line = elapsed + PROGRESS_PERIOD;
            }
            if count >= expected && elapsed >= next_audit {
                // Duplicates count as well, so the count alone says too little.
                if self.audit()?.lost == 0 {
                    return Ok(drain);
                }
                next_audit = started.elapsed() + AUDIT_PERIOD;
            }
            if last_change.elapsed() >= settle || elapsed >= patience {
                return Ok(drain);
            }
            check_stop()?;
            server.check_alive()?;
        }
    }

    /// CPU of a message, in microseconds, from its acceptance to its end. Name and sequence of the
    /// injection are chosen here.
    pub fn cpu_us_per_message(
        &mut self,
        server: &mut Server,
        injection: Injection,
    ) -> Result<f64, Failure> {
        let (name, first_sequence) = (format!("from-{}", self.sent), self.sent);
        let injection = Injection { name, first_sequence, ..injection };
        self.sent += injection.messages;
        let mark = self.mark();
        let cpu = server.group.cpu();
        self.inject(server, &injection)?;
        self.drain(server, mark, self.options.settle, DRAIN_TIME_MAX)?;
        std::thread::sleep(TRAILING_WORK);
        let cpu = server.group.cpu() - cpu;
        Ok(cpu.as_micros() as f64 / injection.messages as f64)
    }

    /// Ends the sinks, and removes the directory unless it is to be kept or worth a look because
    /// something `is_broken`.
    pub fn end(self, is_broken: bool) -> Result<(), Failure> {
        self.sinks.stop()?;
        if self.options.keep || is_broken {
            eprintln!("queue, records and logs of this run: {}", self.directory.display());
        } else {
            // What cannot be removed is in a directory that the user named.
            let _ = fs::remove_dir_all(&self.directory);
            let _ = fs::remove_dir(&self.options.data);
        }
        Ok(())
    }
}

/// What became of the messages of a scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ending {
    pub accepted: u64,
    pub relayed: u64,
    /// Accepted and not at a sink when nothing came any more.
    pub lost: u64,
    /// What of it the server still had.
    pub queued_at_end: Option<u64>,
    pub duplicated: u64,
    pub in_doubt: u64,
    /// A few of the lost.
    #[serde(skip)]
    pub lost_examples: Vec<u64>,
}

impl Ending {
    /// That something is lost, where it is.
    pub fn broken(&self) -> Option<String> {
        let Ending { lost, lost_examples, .. } = self;
        let queued = self.queued_at_end.unwrap_or(0);
        (*lost > 0).then(|| {
            format!(
                "{lost} accepted did not arrive ({queued} are still queued), such as \
                 {lost_examples:?}"
            )
        })
    }
}

/// A moment, and what had come by then.
#[derive(Clone, Copy)]
pub struct Mark {
    started: Instant,
    count: u64,
}

/// How much had come when.
pub struct Drain {
    samples: Vec<(Duration, u64)>,
}

impl Drain {
    /// What came.
    pub fn count(&self) -> u64 {
        self.samples[self.samples.len() - 1].1 - self.samples[0].1
    }

    /// From the start until the last arrival.
    pub fn duration(&self) -> Duration {
        let last = self.samples[self.samples.len() - 1].1;
        let end = self.samples.iter().find(|(_, count)| *count == last);
        end.map_or(Duration::ZERO, |(elapsed, _)| *elapsed)
    }

    /// Arrivals a second over the whole of it.
    pub fn rate(&self) -> f64 {
        self.count() as f64 / self.duration().as_secs_f64().max(1e-3)
    }

    /// Most arrivals a second over any stretch of this length.
    pub fn peak_rate(&self, stretch: Duration) -> f64 {
        let mut peak: f64 = 0.0;
        let mut from = 0;
        for (elapsed, count) in &self.samples {
            while elapsed.saturating_sub(self.samples[from + 1].0) >= stretch {
                from += 1;
            }
            let (since, before) = self.samples[from];
            if *elapsed - since >= stretch {
                peak = peak.max((count - before) as f64 / (*elapsed - since).as_secs_f64());
            }
        }
        if peak > 0.0 { peak } else { self.rate() }
    }
}

/// A port that is free at each of these addresses, and that no outgoing connection gets by itself:
/// a client of a sink that does not listen must not find itself there.
pub fn free_sink_port(hosts: &[&str]) -> Result<u16, Failure> {
    for _ in 0..PORT_TRIES {
        let port = SINK_PORTS.start + (clock::random_u64() % SINK_PORTS.len() as u64) as u16;
        if hosts.iter().all(|host| TcpListener::bind((*host, port)).is_ok()) {
            return Ok(port);
        }
    }
    Err(Failure::system("no free port on loopback between 10000 and 32000"))
}

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
/// Below the ports that Linux gives to outgoing connections.
const SINK_PORTS: std::ops::Range<u16> = 10_000..32_000;
const PORT_TRIES: u32 = 100;
const SAMPLE_PERIOD: Duration = Duration::from_millis(20);
const PROGRESS_PERIOD: Duration = Duration::from_secs(2);
const AUDIT_PERIOD: Duration = Duration::from_secs(1);
/// After the last arrival: outcomes are still written.
const TRAILING_WORK: Duration = Duration::from_millis(300);
/// Of a round that measures CPU.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(600);
/// What a first message costs is left out of rounds that measure CPU.
pub const WARM_UP_MESSAGES: u64 = 2_000;
/// Rounds of fewer messages are not judged by their CPU.
pub const JUDGED_MESSAGES_MIN: u64 = 10_000;
/// Of servers that have next to nothing to retry.
pub const RETRY_WAIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_ends_with_its_last_arrival_and_peaks_where_most_came() {
        let at = Duration::from_secs;
        let samples = vec![(at(0), 5), (at(1), 5), (at(2), 25), (at(3), 35), (at(9), 35)];
        let drain = Drain { samples };
        assert_eq!((drain.count(), drain.duration()), (30, at(3)));
        assert_eq!((drain.rate(), drain.peak_rate(at(1))), (10.0, 20.0));
        assert_eq!(drain.peak_rate(at(60)), 10.0);
    }
}
