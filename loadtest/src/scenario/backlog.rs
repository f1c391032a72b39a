//! `ringpost-loadtest backlog`: what a queue of a million costs, and whether it comes through.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::server::Server;
use super::stage::{self, Drain, Ending, Injection, SinkPlan, Stage};
use super::{judge, median, print};
use crate::audit::SEQUENCE_END;
use crate::failure::Failure;
use crate::sink::mode::Mode;
use crate::units;
use crate::{source, stop};

/// Fills a queue that cannot be delivered, restarts the server on it, and lets it go.
///
/// (a) Messages are relayed to a sink that is up. (b) The queue fills with messages for dead and
/// slow sinks, in slices by the same source. Between them, every now and then, it is paused
/// (SIGSTOP) while another server with an empty queue takes as many for the same sinks and is
/// thrown away. (c) The server is stopped and started, then killed and started. (d) The sinks
/// recover, the operator has everything retried at once, and the queue drains.
///
/// accept_rate_ratio: acceptances a second of the slices right before and after an empty server's
/// over its own, the median of all such pairs; accept_rate_ratios shows them in the order in which
/// the queue grows. accept_cpu_ratio: the same of CPU a message.
/// index_bytes_per_message: the server's own count, if it has one.
/// rss_bytes_per_message: growth of resident memory while the queue fills, caches included;
/// rss_bytes_per_message_restarted: after a restart, over a server without a queue.
/// restart_s: from exec to the greeting. drain_rate_ratio: of the whole drain over the direct relay
/// of the same messages, which accepts at the same time; drain_rate_peak: in the best two seconds.
///
/// Must hold: nothing is lost, and a restarted server has every message that was queued. Both
/// restarts take at most 2 s, for more than a million messages that much for each million. From
/// 100000 messages on, below which start-up costs and noise are too much of it: accept_rate_ratio
/// and drain_rate_ratio are at least 0.8, index_bytes_per_message is at most 128. What was not
/// judged is named in not_judged.
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Messages to queue.
    #[arg(long, default_value_t = 1_000_000)]
    pub messages: u64,
    /// Domains that they go to, half of them dead, half of them slow.
    #[arg(long, default_value_t = 100)]
    pub domains: usize,
    /// Messages of the direct relay; a fifth of --messages by default, at least 10000.
    #[arg(long)]
    pub direct_messages: Option<u64>,
    /// How the dead sinks are dead: closed, hang-up, unavailable.
    #[arg(long, default_value = "closed")]
    pub dead: Mode,
    /// What the slow sinks wait before each reply.
    #[arg(long, value_parser = units::duration, default_value = "30s")]
    pub slow_delay: Duration,
    /// The server's shortest wait before it tries again; the longest is twice that.
    #[arg(long, value_parser = units::duration, default_value = "60s")]
    pub retry_wait: Duration,
    #[command(flatten)]
    pub stage: stage::Options,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    messages: u64,
    domains: usize,
    direct_accept_rate: f64,
    direct_relay_rate: f64,
    direct_cpu_us_per_message: f64,
    accept_rate_empty: f64,
    accept_rate_backlog: f64,
    accept_rate_ratio: Option<f64>,
    accept_rate_ratios: Vec<f64>,
    accept_rate_of_slices: Vec<u64>,
    accept_rate_of_empty: Vec<u64>,
    accept_cpu_us_empty: f64,
    accept_cpu_us_backlog: f64,
    accept_cpu_ratio: Option<f64>,
    accept_p99_us_empty: u64,
    accept_p99_us_backlog: u64,
    relayed_while_queueing: u64,
    index_bytes_per_message: Option<f64>,
    rss_bytes_per_message: f64,
    rss_bytes_per_message_restarted: f64,
    start_empty_s: f64,
    stop_s: f64,
    restart_s: f64,
    queued_after_restart: Option<u64>,
    restart_after_kill_s: f64,
    queued_after_kill: Option<u64>,
    retry_all: bool,
    retry_all_s: f64,
    drain_rate: f64,
    drain_rate_peak: f64,
    drain_rate_ratio: f64,
    drain_cpu_us_per_message: f64,
    drain_s: f64,
    #[serde(flatten)]
    ending: Ending,
    not_judged: Vec<String>,
    broken: Vec<String>,
}

/// Runs the subcommand.
pub fn run(options: Options) -> Result<(), Failure> {
    if options.messages < MESSAGES_MIN || options.domains < 2 {
        return Err(Failure::usage("--messages is at least 1000 and --domains at least 2"));
    }
    if !matches!(options.dead, Mode::Dead(_)) {
        return Err(Failure::usage("--dead is closed, hang-up or unavailable"));
    }
    stop::catch_signals();
    let plans = [Mode::Normal, options.dead, Mode::Slow(options.slow_delay)];
    let plans = plans.map(|mode| SinkPlan { mode, ..SinkPlan::default() });
    let stage = Stage::new(&options.stage, "backlog", plans.into())?;
    let server = stage.server(&ROUTES, options.retry_wait, |_| {})?;
    let mut run = Run { options, stage, server, report: Report::default() };
    run.report.messages = run.options.messages;
    run.report.domains = run.options.domains / 2 * 2;
    let start = run.server.start()?;
    run.report.start_empty_s = start.as_secs_f64();
    run.relay_directly()?;
    let empty_bytes = run.restart_empty()?;
    run.fill(empty_bytes)?;
    run.restart(empty_bytes)?;
    run.drain()?;
    run.audit()?;
    run.report.judge();
    print(&run.report, run.options.stage.json);
    run.stage.end(!run.report.broken.is_empty())?;
    judge(&run.report.broken)
}

struct Run {
    options: Options,
    stage: Stage,
    server: Server,
    report: Report,
}

impl Run {
    /// (a) The way of a message that nothing holds up.
    fn relay_directly(&mut self) -> Result<(), Failure> {
        let messages =
            self.options.direct_messages.unwrap_or((self.options.messages / 5).max(DIRECT_MIN));
        eprintln!("direct relay of {messages} messages");
        // What a first message costs is not the matter here.
        self.inject("warm-up", &["direct.test"], WARM_UP_MESSAGES, WARM_UP_SEQUENCE)?;
        self.wait_drained()?;
        let cpu = self.server.group.cpu();
        let source = self.inject("direct", &["direct.test"], messages, DIRECT_SEQUENCE)?;
        self.wait_drained()?;
        let cpu = self.server.group.cpu() - cpu;
        let arrived_us = self.stage.sinks.last_arrival_us();
        let seconds = arrived_us.saturating_sub(source.started_us).max(1) as f64 / 1e6;
        self.report.direct_accept_rate = source.accepted_per_s;
        self.report.direct_relay_rate = messages as f64 / seconds;
        self.report.direct_cpu_us_per_message = micros(cpu) / messages as f64;
        Ok(())
    }

    /// Caches of the direct relay go; returns the memory of a server without a queue.
    fn restart_empty(&mut self) -> Result<u64, Failure> {
        self.server.stop()?;
        self.server.start()?;
        std::thread::sleep(CALM);
        Ok(self.server.resident_bytes())
    }

    /// (b) Slice after slice into a queue that nothing leaves.
    fn fill(&mut self, empty_bytes: u64) -> Result<(), Failure> {
        let messages = self.options.messages;
        let slice = messages.div_ceil(SLICES);
        eprintln!("queueing {messages} messages for dead and slow sinks");
        let relayed_before = self.stage.sinks.all_totals().recipients;
        let mut sent = 0;
        let (mut slices, mut pairs) = (Vec::new(), Vec::new());
        while sent < messages {
            let count = slice.min(messages - sent);
            let first = self.slice(count, sent)?;
            sent += count;
            slices.push(first);
            if (slices.len() as u64).is_multiple_of(SLICES_A_PAIR) && sent < messages {
                let other = self.empty_server(slice)?;
                let count = slice.min(messages - sent);
                let second = self.slice(count, sent)?;
                sent += count;
                slices.push(second);
                pairs.push((first, other, second));
            }
        }
        self.report.accept(&slices, &pairs);
        std::thread::sleep(CALM);
        let relayed = self.stage.sinks.all_totals().recipients - relayed_before;
        self.report.relayed_while_queueing = relayed;
        let queued = self.server.queued().unwrap_or(messages - relayed).max(1) as f64;
        let index_bytes = self.server.metric("ringpost_queue_index_bytes");
        self.report.index_bytes_per_message = index_bytes.map(|bytes| bytes / queued);
        let grown = self.server.resident_bytes().saturating_sub(empty_bytes);
        self.report.rss_bytes_per_message = grown as f64 / queued;
        Ok(())
    }

    /// The same for a server whose queue is empty and which has the machine to itself.
    fn empty_server(&mut self, messages: u64) -> Result<Slice, Failure> {
        let mut other = self.stage.other_server(&ROUTES, self.options.retry_wait)?;
        let mut injection = self.injection("other", &UNDELIVERABLE, messages, OTHER_SEQUENCE);
        injection.is_thrown_away = true;
        // What first messages and a small pool of segments cost is not the matter here.
        let warm_up = Injection { messages: WARM_UP_OTHER, ..injection.clone() };
        let stage = &mut self.stage;
        let slice = self.server.paused(|| {
            other.start()?;
            stage.inject(&other, &warm_up)?;
            let slice = Slice::measure(stage, &other, &injection)?;
            other.kill()?;
            Ok(slice)
        })?;
        self.stage.remove_other()?;
        // What fell due in the pause is tried meanwhile.
        std::thread::sleep(CALM);
        Ok(slice)
    }

    /// Messages for sinks that take none.
    fn slice(&mut self, count: u64, first: u64) -> Result<Slice, Failure> {
        let injection = self.injection(&format!("slice-{first}"), &UNDELIVERABLE, count, first);
        Slice::measure(&mut self.stage, &self.server, &injection)
    }

    /// (c) In order, and as after a crash.
    fn restart(&mut self, empty_bytes: u64) -> Result<(), Failure> {
        self.report.stop_s = self.server.stop()?.as_secs_f64();
        eprintln!("stopped; starting on the queue");
        self.report.restart_s = self.server.start()?.as_secs_f64();
        std::thread::sleep(CALM);
        self.report.queued_after_restart = self.check_queued("a restart")?;
        let queued = self.report.queued_after_restart.unwrap_or(self.options.messages).max(1);
        let grown = self.server.resident_bytes().saturating_sub(empty_bytes);
        self.report.rss_bytes_per_message_restarted = grown as f64 / queued as f64;
        self.server.kill()?;
        eprintln!("killed; starting on the queue");
        self.report.restart_after_kill_s = self.server.start()?.as_secs_f64();
        std::thread::sleep(CALM);
        self.report.queued_after_kill = self.check_queued("a kill")?;
        Ok(())
    }

    /// What is not at a sink must be queued: the count may be above that (a kill makes duplicates),
    /// never below.
    fn check_queued(&mut self, after: &str) -> Result<Option<u64>, Failure> {
        let queued = self.server.queued();
        let owed = self.stage.audit()?.lost;
        if let Some(queued) = queued
            && queued < owed
        {
            let text = format!("after {after} {queued} of {owed} messages are queued");
            self.report.broken.push(text);
        }
        Ok(queued)
    }

    /// (d) Everything is well again.
    fn drain(&mut self) -> Result<(), Failure> {
        let mark = self.stage.mark();
        for sink in [DEAD, SLOW] {
            self.stage.switch(sink, Mode::Normal);
        }
        let cpu = self.server.group.cpu();
        let before = Instant::now();
        self.report.retry_all = self.server.retry_all()?;
        self.report.retry_all_s = before.elapsed().as_secs_f64();
        let mut settle = self.options.stage.settle;
        if !self.report.retry_all {
            eprintln!("no `ringpost queue retry --all` here: waiting for the retries as they come");
            // The server may have doubled its wait up to the longest one, and spreads it.
            settle += self.options.retry_wait * 3;
        }
        let drain = self.stage.drain(&mut self.server, mark, settle, DRAIN_TIME_MAX)?;
        let cpu = self.server.group.cpu() - cpu;
        let report = &mut self.report;
        report.drain_cpu_us_per_message = micros(cpu) / drain.count().max(1) as f64;
        report.drain_s = drain.duration().as_secs_f64();
        report.drain_rate = drain.rate();
        report.drain_rate_peak = drain.peak_rate(PEAK_STRETCH);
        report.drain_rate_ratio = report.drain_rate / report.direct_relay_rate.max(1e-6);
        Ok(())
    }

    fn audit(&mut self) -> Result<(), Failure> {
        let ending = self.stage.ending(&mut self.server)?;
        self.report.broken.extend(ending.broken());
        self.report.ending = ending;
        Ok(())
    }

    fn inject(
        &mut self,
        name: &str,
        domains: &[&str],
        messages: u64,
        first_sequence: u64,
    ) -> Result<source::Report, Failure> {
        let injection = self.injection(name, domains, messages, first_sequence);
        self.stage.inject(&self.server, &injection)
    }

    fn injection(
        &self,
        name: &str,
        domains: &[&str],
        messages: u64,
        first_sequence: u64,
    ) -> Injection {
        Injection {
            name: name.to_owned(),
            messages,
            first_sequence,
            domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
            domain_count: (self.options.domains / 2).max(1),
            ..Injection::default()
        }
    }

    fn wait_drained(&mut self) -> Result<Drain, Failure> {
        let mark = self.stage.mark();
        self.stage.drain(&mut self.server, mark, self.options.stage.settle, DRAIN_TIME_MAX)
    }
}

/// How a slice of messages was accepted.
#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    /// Acceptances a second.
    rate: f64,
    /// The server's CPU a message.
    cpu_us: f64,
    p99_us: u64,
}

impl Slice {
    fn measure(stage: &mut Stage, server: &Server, injection: &Injection) -> Result<Self, Failure> {
        let cpu = server.group.cpu();
        let source = stage.inject(server, injection)?;
        let cpu = server.group.cpu() - cpu;
        Ok(Self {
            rate: source.accepted_per_s,
            cpu_us: micros(cpu) / injection.messages as f64,
            p99_us: source.end_of_data.p99_us,
        })
    }
}

impl Report {
    /// How messages were accepted: each of `pairs` is a slice, an empty server's, and a slice.
    fn accept(&mut self, slices: &[Slice], pairs: &[(Slice, Slice, Slice)]) {
        self.accept_rate_of_slices = slices.iter().map(|slice| slice.rate as u64).collect();
        self.accept_rate_of_empty = pairs.iter().map(|(_, empty, _)| empty.rate as u64).collect();
        let beside = |of: fn(&Slice) -> f64| {
            let full = pairs.iter().map(|(one, _, two)| (of(one) + of(two)) / 2.0);
            let empty = pairs.iter().map(|(_, empty, _)| of(empty));
            let (full, empty): (Vec<f64>, Vec<f64>) = full.zip(empty).unzip();
            let ratios = full.iter().zip(&empty).map(|(full, empty)| full / empty.max(1e-6));
            let medians = (median(&full).unwrap_or(0.0), median(&empty).unwrap_or(0.0));
            (ratios.collect::<Vec<f64>>(), medians)
        };
        let (ratios, (backlog, empty)) = beside(|slice| slice.rate);
        self.accept_rate_ratio = median(&ratios);
        self.accept_rate_ratios = ratios;
        (self.accept_rate_backlog, self.accept_rate_empty) = (backlog, empty);
        let (ratios, (backlog, empty)) = beside(|slice| slice.cpu_us);
        self.accept_cpu_ratio = median(&ratios);
        (self.accept_cpu_us_backlog, self.accept_cpu_us_empty) = (backlog, empty);
        let (_, (backlog, empty)) = beside(|slice| slice.p99_us as f64);
        (self.accept_p99_us_backlog, self.accept_p99_us_empty) = (backlog as u64, empty as u64);
    }

    /// What had to hold and did not, in words; loss and what was missing after a restart are there.
    fn judge(&mut self) {
        let restart_s_max = RESTART_S_MAX * (self.messages as f64 / MILLION).max(1.0);
        let restarts =
            [("restart_s", self.restart_s), ("restart_after_kill_s", self.restart_after_kill_s)];
        for (name, found) in restarts {
            if found > restart_s_max {
                self.broken.push(format!("{name} is {found:.1}, above {restart_s_max:.1}"));
            }
        }
        let drain_rate_ratio = self.retry_all.then_some(self.drain_rate_ratio);
        for (name, found) in [
            ("accept_rate_ratio", self.accept_rate_ratio),
            ("drain_rate_ratio", drain_rate_ratio),
            ("index_bytes_per_message", self.index_bytes_per_message),
        ] {
            let Some(found) = found else {
                self.not_judged.push(format!("{name}: this server does not show it"));
                continue;
            };
            if self.messages < MESSAGES_JUDGED_MIN {
                self.not_judged.push(format!("{name}: below {MESSAGES_JUDGED_MIN} messages"));
            } else if name == "index_bytes_per_message" && found > INDEX_BYTES_MAX {
                self.broken.push(format!("{name} is {found:.1}, above {INDEX_BYTES_MAX}"));
            } else if name != "index_bytes_per_message" && found < RATIO_MIN {
                self.broken.push(format!("{name} is {found:.3}, below {RATIO_MIN}"));
            }
        }
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_micros() as f64
}

/// Sinks by index.
const DIRECT: usize = 0;
const DEAD: usize = 1;
const SLOW: usize = 2;
const ROUTES: [(&str, usize); 3] =
    [("direct.test", DIRECT), ("dead.test", DEAD), ("slow.test", SLOW)];
/// Domains of which no message gets through while the queue fills.
const UNDELIVERABLE: [&str; 2] = ["dead.test", "slow.test"];
/// The queue fills in that many steps; the rate of each is shown.
const SLICES: u64 = 20;
/// After so many slices comes an empty server, and then the slice that it is compared with too.
const SLICES_A_PAIR: u64 = 3;
const MESSAGES_MIN: u64 = 1_000;
const DIRECT_MIN: u64 = 10_000;
const WARM_UP_MESSAGES: u64 = 1_000;
const WARM_UP_SEQUENCE: u64 = 1 << 40;
const DIRECT_SEQUENCE: u64 = 1 << 41;
const OTHER_SEQUENCE: u64 = 3 << 40;
const WARM_UP_OTHER: u64 = 2_000;
const _: () = assert!(DIRECT_SEQUENCE < SEQUENCE_END / 2);
/// From exec to the greeting, for each million of messages.
const RESTART_S_MAX: f64 = 2.0;
const MILLION: f64 = 1e6;
const RATIO_MIN: f64 = 0.8;
const INDEX_BYTES_MAX: f64 = 128.0;
const MESSAGES_JUDGED_MIN: u64 = 100_000;
const CALM: Duration = Duration::from_millis(500);
const PEAK_STRETCH: Duration = Duration::from_secs(2);
const DRAIN_TIME_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        Report {
            messages: 1_000_000,
            accept_rate_ratio: Some(0.8),
            index_bytes_per_message: Some(128.0),
            restart_s: 2.0,
            restart_after_kill_s: 2.0,
            retry_all: true,
            drain_rate_ratio: 0.8,
            ..Report::default()
        }
    }

    fn check(mut report: Report, broken: &[&str], not_judged: &[&str]) {
        report.judge();
        for (found, expected) in [(&report.broken, broken), (&report.not_judged, not_judged)] {
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (text, start) in found.iter().zip(expected) {
                assert!(text.starts_with(start), "{text}");
            }
        }
    }

    #[test]
    fn every_promise_is_judged_by_itself() {
        check(good(), &[], &[]);
        check(Report { restart_s: 2.1, ..good() }, &["restart_s is 2.1"], &[]);
        let killed = Report { restart_after_kill_s: 2.1, ..good() };
        check(killed, &["restart_after_kill_s"], &[]);
        let slower = Report { accept_rate_ratio: Some(0.79), ..good() };
        check(slower, &["accept_rate_ratio is 0.790"], &[]);
        check(Report { drain_rate_ratio: 0.79, ..good() }, &["drain_rate_ratio"], &[]);
        let larger = Report { index_bytes_per_message: Some(128.1), ..good() };
        check(larger, &["index_bytes_per_message is 128.1"], &[]);
    }

    #[test]
    fn ten_million_may_take_ten_times_as_long_to_start() {
        check(Report { messages: 10_000_000, restart_s: 19.9, ..good() }, &[], &[]);
        let small = Report { messages: 99_999, restart_s: 2.1, drain_rate_ratio: 0.1, ..good() };
        let names = ["accept_rate_ratio", "drain_rate_ratio", "index_bytes_per_message"];
        check(small, &["restart_s"], &names);
    }

    #[test]
    fn what_the_server_does_not_show_is_not_judged() {
        let silent = Report { index_bytes_per_message: None, retry_all: false, ..good() };
        check(silent, &[], &["drain_rate_ratio", "index_bytes_per_message"]);
    }

    #[test]
    fn the_promised_keys_are_there() {
        let value = serde_json::to_value(Report::default()).expect("plain values");
        for key in [
            "index_bytes_per_message",
            "restart_s",
            "accept_rate_ratio",
            "drain_rate_ratio",
            "lost",
            "duplicated",
        ] {
            assert!(value.get(key).is_some(), "{key}");
        }
    }
}
