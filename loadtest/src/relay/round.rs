//! One round: sink, server, warm-up, the measured run, the drain, the audit.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ringpost::runtime::clock;
use serde_json::{Value, json};

use super::accounting::{FlushCounter, Group, Memory};
use super::child::{self, Process};
use super::figures::Figures;
use super::files::{
    self, check_stop, count_ids, last_json, own_program, read_ids, server_program, wait_for_file,
};
use super::options::Options;
use super::server::{Place, Server};
use crate::audit::{self, Audit, DeliveryId};
use crate::failure::Failure;
use crate::ids::RunId;
use crate::message::Corpus;
use crate::{sink, source, units};

/// Who relays in this round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Ringpost,
    Postfix,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ringpost => "ringpost",
            Self::Postfix => "postfix",
        }
    }
}

/// What came out of a round.
pub struct Outcome {
    pub figures: Figures,
    pub audit: Audit,
    pub cpu_method: &'static str,
    /// Everything else that was seen, for `--json`.
    pub details: Value,
}

/// A round in progress.
struct Round<'a> {
    options: &'a Options,
    side: Side,
    directory: PathBuf,
    run: RunId,
    server: Server,
    sink: Process,
    sink_group: Group,
    sink_log: PathBuf,
    received: PathBuf,
    kills_done: u32,
}

/// Runs one round in `directory`. It is removed afterwards, unless it is to be kept or the round
/// failed or lost something.
pub fn run(options: &Options, side: Side, directory: &Path) -> Result<Outcome, Failure> {
    fs::create_dir_all(directory).map_err(|error| {
        Failure::cannot_create(format!("cannot make {}: {error}", directory.display()))
    })?;
    let directory = directory.canonicalize().map_err(|error| {
        Failure::cannot_create(format!("cannot use {}: {error}", directory.display()))
    })?;
    let measured =
        Round::start(options, side, directory.clone()).and_then(|mut round| round.measure());
    match &measured {
        Ok(outcome) if outcome.audit.lost == 0 && !options.keep => {
            // What cannot be removed is in a directory that the user named.
            let _ = fs::remove_dir_all(&directory);
        }
        _ => eprintln!("queue, records and logs of this round: {}", directory.display()),
    }
    measured
}

impl<'a> Round<'a> {
    fn start(options: &'a Options, side: Side, directory: PathBuf) -> Result<Self, Failure> {
        let run = RunId::random();
        let sink_address = match options.sink_address {
            Some(address) => address,
            None => child::free_address()?,
        };
        let received = directory.join("received.ids");
        let sink_log = directory.join("sink.log");
        let mut sink_group = Group::new("sink");
        let mut command = sink_group.command(&own_program()?, None);
        command.args(options.sink_arguments());
        command.args(["--listen", &sink_address.to_string(), "--run", &run.to_string()]);
        command.arg("--record").arg(&received);
        if options.verify {
            command.arg("--store").arg(directory.join("stored"));
        }
        let mut sink = Process::start("sink", command, &sink_log)?;
        sink_group.add_root(sink.pid());
        wait_for_file(&mut sink, &received)?;
        let place = Place {
            directory: &directory,
            sink: sink_address,
            cores: options.server_cores.as_ref(),
            name: side.name(),
            retry_soon: options.is_sink_difficult(),
        };
        let server = match side {
            Side::Ringpost => {
                let own_config = options.server_config.as_deref().zip(options.server_address);
                Server::ringpost(&place, &server_program(options.server.as_deref())?, own_config)?
            }
            Side::Postfix => Server::postfix(&place)?,
        };
        let kills_done = 0;
        Ok(Self {
            options,
            side,
            directory,
            run,
            server,
            sink,
            sink_group,
            sink_log,
            received,
            kills_done,
        })
    }

    fn measure(&mut self) -> Result<Outcome, Failure> {
        let warmup = self.warm_up()?;
        let flushes = FlushCounter::of(&self.directory);
        let flushes_before = flushes.read();
        let journal_before = self.server.journal_flushes();
        let cpu_before = self.server.group.cpu();
        let sink_cpu_before = self.sink_group.cpu();

        let accepted_path = self.directory.join("accepted.ids");
        let source_group = Group::new("source");
        let mut source = self.start_source(&source_group, &accepted_path, 0, self.count())?;
        let mut peak = self.attend(&mut source, &accepted_path)?;
        let cpu_at_last_accepted = self.server.group.cpu();
        let report: source::Report = last_json(&self.directory.join("source.log"), "the source")?;
        let source_cpu = source_group.cpu();
        if report.totals.accepted == 0 {
            let reason = report.refusals.values().map(|refusal| &refusal.first).next();
            return Err(Failure::unavailable(format!(
                "{} accepted nothing: {}",
                self.side.name(),
                reason.map_or("see --keep and the logs", String::as_str)
            )));
        }
        peak = peak.peak(self.server.group.memory());
        let accepted = read_ids(&accepted_path)?;
        self.wait_relayed(accepted.len() as u64 + warmup)?;
        std::thread::sleep(TRAILING_WORK);
        let cpu = self.server.group.cpu() - cpu_before;
        let flushed = flushes.read().zip(flushes_before).map(|(after, before)| after - before);
        let journal = self.server.journal_flushes().zip(journal_before);
        let journal = journal.map(|(after, before)| after.saturating_sub(before));
        let sink_cpu = self.sink_group.cpu() - sink_cpu_before;
        let audit = self.audit(accepted)?;

        self.server.check_alive()?;
        self.server.stop();
        self.sink.stop(STOP_PATIENCE);
        let sink_report: sink::Report = last_json(&self.sink_log, "the sink")?;
        let mismatched = if self.options.verify { Some(self.verify()?) } else { None };

        let messages = report.totals.accepted as f64;
        let relayed = (audit.relayed as f64).max(1.0);
        let relay_seconds = sink_report.last_us.saturating_sub(report.started_us) as f64 / 1e6;
        let latency = match self.options.rate {
            Some(_) => &report.transaction,
            None => &report.end_of_data,
        };
        let micros = |cpu: Duration| cpu.as_micros() as f64;
        // A disk that never flushes says nothing about syncing.
        let flushed = flushed.filter(|count| *count > 0);
        let figures = Figures {
            accepted_per_s: report.accepted_per_s,
            relayed_per_s: audit.relayed as f64 / relay_seconds.max(1e-6),
            cpu_us_per_accepted: micros(cpu_at_last_accepted - cpu_before) / messages,
            cpu_us_per_relayed: micros(cpu) / relayed,
            p50_us: latency.p50_us as f64,
            p90_us: latency.p90_us as f64,
            p99_us: latency.p99_us as f64,
            p999_us: latency.p999_us as f64,
            max_us: latency.max_us as f64,
            flushes_per_message: flushed.map(|count| count as f64 / messages),
            rss_bytes: peak.proportional_bytes as f64,
            rss_sum_bytes: peak.resident_bytes as f64,
            process_count: peak.process_count as f64,
            accepted: messages,
            lost: audit.lost as f64,
            duplicated: audit.duplicated as f64,
        };
        let details = json!({
            "server": self.side.name(),
            "figures": figures.to_json(),
            "audit": audit,
            "mismatched": mismatched,
            "kills": self.kills_done,
            "journal_flushes_per_message": journal.map(|count| count as f64 / messages),
            "source_cpu_us_per_message": micros(source_cpu) / messages,
            "sink_cpu_us_per_message": micros(sink_cpu) / relayed,
            "source": report,
            "sink": sink_report,
        });
        if let Some(count @ 1..) = mismatched {
            return Err(Failure::broken_promise(format!(
                "{count} messages did not arrive as they were sent"
            )));
        }
        Ok(Outcome { figures, audit, cpu_method: self.server.group.method(), details })
    }

    fn count(&self) -> Option<u64> {
        match self.side {
            Side::Ringpost => self.options.messages,
            Side::Postfix => self.options.peer_messages.or(self.options.messages),
        }
    }

    /// Opens the connections, processes and files that a running server has. Returns the ids that
    /// the sink holds of it.
    fn warm_up(&mut self) -> Result<u64, Failure> {
        let count = self.options.warmup_count();
        if count == 0 {
            return Ok(0);
        }
        let group = Group::new("warmup");
        let accepted = self.directory.join("warmup.ids");
        let mut source = self.start_source(&group, &accepted, WARMUP_SEQUENCE, Some(count))?;
        let status = loop {
            check_stop()?;
            self.server.check_alive()?;
            match source.ended() {
                Some(status) => break status,
                None => std::thread::sleep(POLL),
            }
        };
        if !status.success() {
            let words = source.last_words();
            return Err(Failure::unavailable(format!("the source failed: {words}")));
        }
        let accepted = read_ids(&accepted)?;
        self.wait_relayed(accepted.len() as u64)?;
        std::thread::sleep(TRAILING_WORK);
        count_ids(&self.received)
    }

    fn start_source(
        &self,
        group: &Group,
        accepted: &Path,
        first_sequence: u64,
        count: Option<u64>,
    ) -> Result<Process, Failure> {
        let measured = first_sequence != WARMUP_SEQUENCE;
        let mut command = group.command(&own_program()?, None);
        command.args(self.options.source_arguments());
        command.args(["--target", &self.server.address.to_string()]);
        command.args(["--run", &self.run.to_string()]);
        command.args(["--first-sequence", &first_sequence.to_string()]);
        command.arg("--record").arg(accepted);
        if let Some(count) = count
            && !(measured && self.options.kill > 0)
        {
            command.args(["--messages", &count.to_string()]);
        }
        if measured {
            if let Some(duration) = self.options.run_duration() {
                command.args(["--duration", &format!("{}us", duration.as_micros())]);
            }
            if let Some(rate) = self.options.rate {
                command.args(["--rate", &rate.to_string()]);
            }
        }
        let log = if measured { "source.log" } else { "warmup.log" };
        Process::start("source", command, &self.directory.join(log))
    }

    /// Until the source ends: shows progress, kills the server when it is time, samples memory.
    fn attend(&mut self, source: &mut Process, accepted: &Path) -> Result<Memory, Failure> {
        let started = Instant::now();
        let mut next_kill = self.pause_before_kill();
        let mut ending = false;
        let mut peak = Memory::default();
        let mut next_sample = FIRST_SAMPLE;
        let mut next_line = Duration::from_secs(1);
        let mut received_before = count_ids(&self.received)?;
        loop {
            if let Some(status) = source.ended() {
                if !status.success() {
                    let words = source.last_words();
                    return Err(Failure::unavailable(format!("the source failed: {words}")));
                }
                break;
            }
            check_stop()?;
            if self.kills_done < self.options.kill && started.elapsed() >= next_kill {
                self.server.kill()?;
                self.server.run()?;
                self.kills_done += 1;
                next_kill = started.elapsed() + self.pause_before_kill();
            } else {
                self.server.check_alive()?;
            }
            if !ending && self.is_killed_enough(started.elapsed(), accepted)? {
                source.signal("TERM");
                ending = true;
            }
            let elapsed = started.elapsed();
            if elapsed >= next_sample {
                peak = peak.peak(self.server.group.memory());
                next_sample = started.elapsed() + SAMPLE_PERIOD;
            }
            if elapsed >= next_line {
                let received = count_ids(&self.received)?;
                eprintln!(
                    "{:<9} {:3} s  {:8} received/s  {} of {} kills",
                    self.side.name(),
                    elapsed.as_secs(),
                    received - received_before,
                    self.kills_done,
                    self.options.kill,
                );
                received_before = received;
                next_line = Duration::from_secs(elapsed.as_secs() + 1);
            }
            std::thread::sleep(POLL);
        }
        if self.kills_done < self.options.kill {
            return Err(Failure::unavailable(format!(
                "the run ended after {} of {} kills: the server takes too long to come back",
                self.kills_done, self.options.kill
            )));
        }
        Ok(peak)
    }

    /// Whether a run with kills has had them all, and the time and messages it was to have.
    fn is_killed_enough(&self, elapsed: Duration, accepted: &Path) -> Result<bool, Failure> {
        let options = self.options;
        if options.kill == 0 || self.kills_done < options.kill {
            return Ok(false);
        }
        let long_enough = options.duration.is_none_or(|duration| elapsed >= duration);
        // The source makes its record before it sends anything.
        let many_enough = options.messages.is_none()
            || options.messages <= Some(count_ids(accepted)? / u64::from(options.recipients));
        Ok(long_enough && many_enough)
    }

    /// A random time around the mean that the options give.
    fn pause_before_kill(&self) -> Duration {
        let share = (clock::random_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        self.options.kill_pause().mul_f64(2.0 * share)
    }

    /// Until the sink holds `expected` ids, or nothing new has come for the time of settling.
    fn wait_relayed(&mut self, expected: u64) -> Result<(), Failure> {
        let (mut last_count, mut last_change) = (count_ids(&self.received)?, Instant::now());
        // With crashes or a difficult sink some ids come twice, so the count says too little.
        let exact = self.options.kill == 0 && !self.options.is_sink_difficult();
        let accepted = self.directory.join("accepted.ids");
        loop {
            let count = count_ids(&self.received)?;
            if count != last_count {
                (last_count, last_change) = (count, Instant::now());
            }
            if count >= expected {
                let complete =
                    exact || !accepted.exists() || { self.audit(read_ids(&accepted)?)?.lost == 0 };
                if complete {
                    return Ok(());
                }
                std::thread::sleep(RECOUNT_PAUSE);
            }
            if last_change.elapsed() >= self.options.settle {
                return Ok(());
            }
            check_stop()?;
            self.server.check_alive()?;
            std::thread::sleep(POLL);
        }
    }

    fn audit(&self, accepted: Vec<DeliveryId>) -> Result<Audit, Failure> {
        let mut received = read_ids(&self.received)?;
        received.retain(|id| id.sequence() < WARMUP_SEQUENCE);
        Ok(audit::compare(accepted, received))
    }

    /// Stored messages that differ from what was sent.
    fn verify(&self) -> Result<u64, Failure> {
        let mix = self.options.size.parse::<units::SizeMix>().map_err(Failure::usage)?;
        let corpus = Corpus::new(&mix, self.options.eml.as_deref(), "source@source.test", &[])?;
        let index_of = |sequence| sequence % WARMUP_SEQUENCE;
        files::mismatched(&self.directory.join("stored"), &corpus, index_of)
    }
}

/// Sequence numbers of the warm-up begin here.
const WARMUP_SEQUENCE: u64 = 1 << 40;
/// What a server still does after the last delivery, such as forgetting the message, counts.
const TRAILING_WORK: Duration = Duration::from_millis(200);
/// Reading the memory of hundreds of processes costs CPU that the server would need.
const SAMPLE_PERIOD: Duration = Duration::from_secs(3);
const FIRST_SAMPLE: Duration = Duration::from_millis(1_500);
const RECOUNT_PAUSE: Duration = Duration::from_millis(200);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
