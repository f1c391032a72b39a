//! `ringpost-loadtest limits`: whether a site ever sees more than it allows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::server::Server;
use super::stage::{self, Ending, Injection, SinkPlan, Stage};
use super::{judge, print};
use crate::failure::Failure;
use crate::relay::files::check_stop;
use crate::sink::limited::{Limited, Limits, Seen};
use crate::stop;

/// Lets shards share the limits of one site, and counts at the site what comes.
///
/// For each number of shards: a queue that is full of messages for one site, --seconds of load, a
/// restart in order, a SIGKILL and a restart, and then the rest of the queue. Connections count
/// from the sink's accept until its kernel has seen the FIN or RST; messages count in every second,
/// wherever it begins, at MAIL and again at the end of content, and the larger of both is shown.
/// What the sink refuses as too much counts as a violation. sink_stall_max_ms: a sink that stood
/// still (a busy machine) sees what came meanwhile at once; look at it before you blame the server.
///
/// Above the runs stand the worst of them (the least of rate_achieved) and sums of the counts.
///
/// Must hold, for each number of shards: never more connections or messages than allowed; while
/// under load at least 70 % of the allowed rate; nothing lost.
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Numbers of shards, one run each.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    pub shards: Vec<usize>,
    /// Connections that the site allows at once.
    #[arg(long, default_value_t = 3)]
    pub connections: usize,
    /// Messages that the site allows in any second.
    #[arg(long, default_value_t = 50)]
    pub rate: usize,
    /// Time under load, before the restarts.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// Leaves the limits out of the server's configuration: shows that the sink notices.
    #[arg(long)]
    pub unlimited: bool,
    #[command(flatten)]
    pub stage: stage::Options,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    connections: usize,
    rate: usize,
    seconds: u64,
    /// From here on the worst of the runs, and sums of what was counted.
    max_connections_seen: usize,
    max_messages_in_any_second: usize,
    violations: u64,
    rate_achieved: f64,
    restart_s: f64,
    restart_after_kill_s: f64,
    sink_stall_max_ms: u64,
    accepted: u64,
    lost: u64,
    duplicated: u64,
    runs: Vec<Run>,
    broken: Vec<String>,
}

/// The same for one number of shards.
#[derive(Debug, Default, Serialize)]
struct Run {
    shards: usize,
    max_connections_seen: usize,
    max_messages_in_any_second: usize,
    max_mail_in_any_second: usize,
    max_ended_in_any_second: usize,
    violations: u64,
    violations_connections: u64,
    violations_messages: u64,
    rate_achieved: f64,
    /// From the first arrival to the last, restarts and all.
    rate_over_all: f64,
    restart_s: f64,
    restart_after_kill_s: f64,
    sink_stall_max_ms: u64,
    #[serde(flatten)]
    ending: Ending,
}

/// Runs the subcommand.
pub fn run(options: Options) -> Result<(), Failure> {
    if options.shards.is_empty() || options.shards.contains(&0) {
        return Err(Failure::usage("--shards is a list such as 1,2,4"));
    }
    if options.connections == 0 || options.rate == 0 || !(2..=3600).contains(&options.seconds) {
        return Err(Failure::usage(
            "--connections and --rate are at least 1, --seconds is 2 to 3600",
        ));
    }
    stop::catch_signals();
    let Options { connections, rate, seconds, .. } = options;
    let mut report = Report { connections, rate, seconds, ..Report::default() };
    for shards in &options.shards {
        let (run, broken) = run_shards(&options, *shards)?;
        report.add(run);
        report.broken.extend(broken);
    }
    print(&report, options.stage.json);
    judge(&report.broken)
}

fn run_shards(options: &Options, shards: usize) -> Result<(Run, Vec<String>), Failure> {
    eprintln!("{shards} shards");
    let limits = Limits { connections: options.connections, messages_per_second: options.rate };
    let limited = Arc::new(Limited::new(limits));
    let plan = SinkPlan { limited: Some(limited.clone()), ..SinkPlan::default() };
    let mut stage = Stage::new(&options.stage, &format!("limits-{shards}"), vec![plan])?;
    let site = stage.sink_address(0);
    let mut server = stage.server(&[("sink.test", 0)], RETRY_WAIT, |plan| {
        plan.shard_count = Some(shards);
        plan.limit = (!options.unlimited).then_some((site, limits));
    })?;
    server.start()?;
    let mut run = Run { shards, ..Run::default() };
    // Enough for the load, for a while after each restart, and for what goes faster than it may.
    let seconds = options.seconds + 2 * RESTART_LOAD.as_secs() + SPARE_SECONDS;
    let injection = Injection {
        name: "load".to_owned(),
        messages: options.rate as u64 * seconds,
        domains: vec!["sink.test".to_owned()],
        domain_count: DOMAINS,
        ..Injection::default()
    };
    let mark = stage.mark();
    stage.inject(&server, &injection)?;

    let before = (Instant::now(), limited.seen().messages);
    load(&mut server, &limited, Duration::from_secs(options.seconds))?;
    let relayed = limited.seen().messages - before.1;
    run.rate_achieved = relayed as f64 / before.0.elapsed().as_secs_f64();
    server.stop()?;
    run.restart_s = server.start()?.as_secs_f64();
    load(&mut server, &limited, RESTART_LOAD)?;
    server.kill()?;
    run.restart_after_kill_s = server.start()?.as_secs_f64();
    load(&mut server, &limited, RESTART_LOAD)?;
    let patience = 3 * Duration::from_secs(seconds) + DRAIN_SPARE;
    let drain = stage.drain(&mut server, mark, options.stage.settle, patience)?;
    run.rate_over_all = drain.rate();
    run.ending = stage.ending(&mut server)?;
    run.see(&limited.seen());
    let broken = run.broken(options);
    stage.end(!broken.is_empty())?;
    Ok((run, broken))
}

/// The server works for this long.
fn load(server: &mut Server, limited: &Limited, duration: Duration) -> Result<(), Failure> {
    let started = Instant::now();
    let mut next_line = PROGRESS_PERIOD;
    while started.elapsed() < duration {
        std::thread::sleep(POLL);
        check_stop()?;
        server.check_alive()?;
        if started.elapsed() >= next_line {
            let seen = limited.seen();
            eprintln!(
                "limits {:4} s  {:6} messages  most at once {}, most in a second {}, {} violations",
                started.elapsed().as_secs(),
                seen.messages,
                seen.max_connections,
                seen.max_messages_in_any_second(),
                seen.violations()
            );
            next_line += PROGRESS_PERIOD;
        }
    }
    Ok(())
}

impl Report {
    fn add(&mut self, run: Run) {
        self.max_connections_seen = self.max_connections_seen.max(run.max_connections_seen);
        self.max_messages_in_any_second =
            self.max_messages_in_any_second.max(run.max_messages_in_any_second);
        self.violations += run.violations;
        let is_first = self.runs.is_empty();
        self.rate_achieved =
            if is_first { run.rate_achieved } else { self.rate_achieved.min(run.rate_achieved) };
        self.restart_s = self.restart_s.max(run.restart_s);
        self.restart_after_kill_s = self.restart_after_kill_s.max(run.restart_after_kill_s);
        self.sink_stall_max_ms = self.sink_stall_max_ms.max(run.sink_stall_max_ms);
        self.accepted += run.ending.accepted;
        self.lost += run.ending.lost;
        self.duplicated += run.ending.duplicated;
        self.runs.push(run);
    }
}

impl Run {
    fn see(&mut self, seen: &Seen) {
        self.max_connections_seen = seen.max_connections;
        self.max_messages_in_any_second = seen.max_messages_in_any_second();
        self.max_mail_in_any_second = seen.max_mail_in_any_second;
        self.max_ended_in_any_second = seen.max_ended_in_any_second;
        self.violations = seen.violations();
        self.violations_connections = seen.connection_violations;
        self.violations_messages = seen.message_violations;
        self.sink_stall_max_ms = seen.stall_max_ms;
    }

    /// What had to hold and did not, in words.
    fn broken(&self, options: &Options) -> Vec<String> {
        let mut broken = Vec::new();
        let mut say = |text: String| broken.push(format!("{} shards: {text}", self.shards));
        if self.max_connections_seen > options.connections {
            let (seen, allowed) = (self.max_connections_seen, options.connections);
            say(format!("{seen} connections at once, {allowed} are allowed"));
        }
        if self.max_messages_in_any_second > options.rate {
            say(format!(
                "{} messages in a second, {} are allowed (the sink stood still for {} ms at most)",
                self.max_messages_in_any_second, options.rate, self.sink_stall_max_ms
            ));
        }
        if self.rate_achieved < RATE_SHARE_MIN * options.rate as f64 {
            let rate = self.rate_achieved;
            say(format!("only {rate:.1} messages a second of the {} allowed", options.rate));
        }
        self.ending.broken().into_iter().for_each(&mut say);
        broken
    }
}

const RATE_SHARE_MIN: f64 = 0.7;
/// Destinations of the one site.
const DOMAINS: usize = 10;
const RETRY_WAIT: Duration = Duration::from_secs(1);
const RESTART_LOAD: Duration = Duration::from_secs(5);
const SPARE_SECONDS: u64 = 6;
/// A server that is slower than a third of what it may does not get through.
const DRAIN_SPARE: Duration = Duration::from_secs(20);
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn check(run: Run, words: &[&str]) {
        let options = Line::parse_from(["limits"]).options;
        let broken = run.broken(&options);
        assert_eq!(broken.len(), words.len(), "{broken:?}");
        for (text, word) in broken.iter().zip(words) {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn the_worst_of_the_runs_stands_above_them() {
        let run = |max_connections_seen, rate_achieved, lost| Run {
            max_connections_seen,
            max_messages_in_any_second: 10 * max_connections_seen,
            rate_achieved,
            ending: Ending { lost, ..Ending::default() },
            ..Run::default()
        };
        let mut report = Report::default();
        for run in [run(2, 40.0, 1), run(3, 30.0, 0), run(1, 50.0, 2)] {
            report.add(run);
        }
        let value = serde_json::to_value(&report).expect("plain values");
        assert_eq!(value["max_connections_seen"], 3);
        assert_eq!(value["max_messages_in_any_second"], 30);
        assert_eq!(value["rate_achieved"], 30.0);
        assert_eq!((&value["lost"], &value["duplicated"]), (&3.into(), &0.into()));
    }

    #[test]
    fn every_promise_is_judged_by_itself() {
        let good = || Run {
            max_connections_seen: 3,
            max_messages_in_any_second: 50,
            rate_achieved: 35.0,
            ..Run::default()
        };
        check(good(), &[]);
        check(Run { max_connections_seen: 4, ..good() }, &["4 connections at once"]);
        check(Run { max_messages_in_any_second: 51, ..good() }, &["51 messages in a second"]);
        check(Run { rate_achieved: 34.9, ..good() }, &["only 34.9"]);
        let ending = Ending { lost: 1, ..Ending::default() };
        check(Run { ending, rate_achieved: 0.0, ..good() }, &["only 0.0", "1 accepted"]);
    }
}
