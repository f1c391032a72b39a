//! `ringpost-loadtest mixed`: how long mail that somebody waits for takes while a million wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::config::{CAMPAIGN_FIELD, CLASS_FIELD, TENANT_FIELD};
use super::server::Server;
use super::stage::{self, Ending, Injection, SinkPlan, Stage};
use super::{judge, print};
use crate::audit::{DeliveryId, SEQUENCE_END};
use crate::failure::Failure;
use crate::ids;
use crate::latency::{Latencies, LatencySummary, Schedule};
use crate::relay::files::check_stop;
use crate::sink::Arrivals;
use crate::sink::mode::Mode;
use crate::{stop, usage};

/// Injects transactional mail at a steady rate while bulk mail waits for a slow sink.
///
/// Bulk mail of several tenants, each with half as much as the one before, fills the queue until
/// --messages wait for a sink that hardly takes any; then it takes them at --pace. A small job of
/// the tenant with the most mail is queued behind all of it, and transactional mail comes at
/// --rate, an open loop, half of it for the sink of the bulk mail and half for a sink of its own.
/// Tenant, campaign and class are said by header fields; where the server cannot read them nothing
/// tells the mail apart (class_from_header). At last the sink takes what it gets, and the queue
/// drains.
///
/// transactional_p99_ms: from the 250 to the arrival at the sink, over all transactional mail;
/// _shared_ for the bulk's sink, _own_ for the other. transactional_total_p99_ms: from the time the
/// message was due, so what the server was slow to accept counts as well. bulk_rate: bulk mail a
/// second at the sink meanwhile. bulk_share_least: of the bulk mail that arrived while every tenant
/// had some waiting, the part of the tenant that got least, over an equal part: 1 is fair.
/// small_job_s: from the injection of the small job to its last arrival.
///
/// Must hold: transactional_p99_ms below 500; --messages wait when it begins; bulk mail goes on;
/// nothing is lost.
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Bulk messages that wait when the transactional mail begins.
    #[arg(long, default_value_t = 1_000_000)]
    pub messages: u64,
    /// Tenants that they are from.
    #[arg(long, default_value_t = 4)]
    pub tenants: usize,
    /// Transactional messages a second.
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
    /// Time for which they come.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// What the bulk's sink does to everybody while the transactional mail comes.
    #[arg(long, default_value = "slow:50ms")]
    pub pace: Mode,
    #[command(flatten)]
    pub stage: stage::Options,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    messages: u64,
    tenants: usize,
    rate: f64,
    seconds: u64,
    class_from_header: bool,
    fill_accept_rate: f64,
    bulk_waiting_at_start: u64,
    bulk_waiting_at_end: u64,
    bulk_rate: f64,
    bulk_share_least: Option<f64>,
    bulk_arrived_of_tenants: Vec<u64>,
    small_job_s: Option<f64>,
    transactional: u64,
    transactional_p50_ms: f64,
    transactional_p90_ms: f64,
    transactional_p99_ms: f64,
    transactional_p999_ms: f64,
    transactional_max_ms: f64,
    transactional_own_p99_ms: f64,
    transactional_shared_p99_ms: f64,
    transactional_accept_p99_ms: f64,
    transactional_total_p99_ms: f64,
    #[serde(flatten)]
    ending: Ending,
    broken: Vec<String>,
}

/// Runs the subcommand.
pub fn run(options: Options) -> Result<(), Failure> {
    if options.messages < MESSAGES_MIN || !(1..=TENANTS_MAX).contains(&options.tenants) {
        return Err(Failure::usage("--messages is at least 1000 and --tenants is 1 to 16"));
    }
    if !(0.1..=10_000.0).contains(&options.rate) || !(2..=3600).contains(&options.seconds) {
        return Err(Failure::usage("--rate is 0.1 to 10000 and --seconds is 2 to 3600"));
    }
    if !matches!(options.pace, Mode::Normal | Mode::Slow(_)) {
        return Err(Failure::usage("--pace is normal or slow:TIME"));
    }
    stop::catch_signals();
    let arrivals = Arc::new(Arrivals::from(0));
    let plans = [Mode::Slow(FILL_DELAY), Mode::Normal].map(|mode| SinkPlan {
        mode,
        arrivals: Some(arrivals.clone()),
        ..SinkPlan::default()
    });
    let stage = Stage::new(&options.stage, "mixed", plans.into())?;
    let routes = [("bulk.test", BULK), ("own.test", OWN)];
    let mut server = stage.server(&routes, RETRY_WAIT, |plan| plan.stream_fields = true)?;
    let class_from_header = server.takes_its_config()?;
    if !class_from_header {
        eprintln!("this server reads no tenant, campaign and class from header fields");
        server = stage.server(&routes, RETRY_WAIT, |_| {})?;
    }
    let report = Report {
        messages: options.messages,
        tenants: options.tenants,
        rate: options.rate,
        seconds: options.seconds,
        class_from_header,
        ..Report::default()
    };
    let mut run = Run { options, stage, server, arrivals, accepted_of_tenants: Vec::new(), report };
    run.server.start()?;
    run.fill()?;
    let window = run.inject_transactional()?;
    run.drain()?;
    run.evaluate(&window)?;
    run.report.ending = run.stage.ending(&mut run.server)?;
    run.report.judge();
    print(&run.report, run.options.stage.json);
    run.stage.end(!run.report.broken.is_empty())?;
    judge(&run.report.broken)
}

struct Run {
    options: Options,
    stage: Stage,
    server: Server,
    arrivals: Arc<Arrivals>,
    accepted_of_tenants: Vec<u64>,
    report: Report,
}

/// The time of the transactional mail, in microseconds since 1970.
struct Window {
    start_us: u64,
    end_us: u64,
    /// When the first transactional message was due.
    due_us: u64,
    small_job_us: u64,
}

impl Run {
    /// Queues until enough waits: the largest tenant first, so that the others are behind it.
    fn fill(&mut self) -> Result<(), Failure> {
        let messages = self.options.messages;
        eprintln!("queueing {messages} bulk messages of {} tenants", self.options.tenants);
        let shares = shares(messages, self.options.tenants);
        let (mut sent, mut seconds) = (0, 0.0);
        for (tenant, count) in shares.into_iter().enumerate() {
            seconds += self.inject_bulk(tenant, count)?;
            sent += count;
        }
        // What the sink has taken meanwhile is made up for.
        while self.waiting(sent) < messages && sent < 2 * messages {
            let count = (messages - self.waiting(sent)).max(messages / TOP_UPS_MAX);
            seconds += self.inject_bulk(0, count)?;
            sent += count;
        }
        self.report.fill_accept_rate = sent as f64 / f64::max(seconds, 1e-6);
        self.report.bulk_waiting_at_start = self.waiting(sent);
        Ok(())
    }

    /// What is queued, by the server's count or by ours.
    fn waiting(&self, sent: u64) -> u64 {
        let arrived = self.stage.sinks.all_totals().recipients;
        self.server.queued().unwrap_or(sent.saturating_sub(arrived))
    }

    /// Returns how long it took, in seconds.
    fn inject_bulk(&mut self, tenant: usize, count: u64) -> Result<f64, Failure> {
        self.accepted_of_tenants.resize(self.options.tenants, 0);
        let first = self.accepted_of_tenants[tenant];
        let source = self.stage.inject(
            &self.server,
            &Injection {
                name: format!("tenant-{tenant}-{first}"),
                messages: count,
                first_sequence: bulk_sequence(tenant) + first,
                domains: vec!["bulk.test".to_owned()],
                domain_count: DOMAINS,
                fields: fields(&format!("tenant-{tenant}"), "large", "bulk"),
                ..Injection::default()
            },
        )?;
        self.accepted_of_tenants[tenant] += count;
        Ok(source.seconds)
    }

    /// The small job, then the transactional mail, while the sink keeps its pace.
    fn inject_transactional(&mut self) -> Result<Window, Failure> {
        self.stage.switch(BULK, self.options.pace);
        let small_job_us = usage::unix_us();
        let small_job = Injection {
            name: "small-job".to_owned(),
            messages: SMALL_JOB_MESSAGES,
            first_sequence: SMALL_JOB_SEQUENCE,
            domains: vec!["bulk.test".to_owned()],
            domain_count: DOMAINS,
            fields: fields("tenant-0", "small", "bulk"),
            ..Injection::default()
        };
        self.stage.inject(&self.server, &small_job)?;
        let count = (self.options.rate * self.options.seconds as f64).max(1.0) as u64;
        eprintln!("{count} transactional messages in {} s", self.options.seconds);
        let start_us = usage::unix_us();
        let source = self.stage.inject(
            &self.server,
            &Injection {
                name: "transactional".to_owned(),
                messages: count,
                first_sequence: TRANSACTIONAL_SEQUENCE,
                domains: ["bulk.test", "own.test"].map(str::to_owned).into(),
                rate: Some(self.options.rate),
                fields: fields("tenant-0", "mail", "transactional"),
                ..Injection::default()
            },
        )?;
        let end_us = usage::unix_us();
        self.report.bulk_waiting_at_end = self.server.queued().unwrap_or(0);
        self.report.transactional = count;
        self.report.transactional_accept_p99_ms = millis(source.transaction.p99_us);
        // What is late is late because of the bulk mail: it is not let go too soon.
        std::thread::sleep(LATE_TIME);
        check_stop()?;
        self.server.check_alive()?;
        Ok(Window { start_us, end_us, due_us: source.started_us, small_job_us })
    }

    /// Everything goes.
    fn drain(&mut self) -> Result<(), Failure> {
        let mark = self.stage.mark();
        self.stage.switch(BULK, Mode::Normal);
        let settle = self.options.stage.settle;
        self.stage.drain(&mut self.server, mark, settle, DRAIN_TIME_MAX)?;
        Ok(())
    }

    fn evaluate(&mut self, window: &Window) -> Result<(), Failure> {
        let mut arrivals = self.arrivals.take();
        arrivals.sort_unstable_by_key(|(_, at_us)| *at_us);
        let mut first_arrivals: HashMap<DeliveryId, u64> = HashMap::new();
        let mut small_job_last_us = 0;
        for (id, at_us) in &arrivals {
            if id.sequence() >= TRANSACTIONAL_SEQUENCE {
                first_arrivals.entry(*id).or_insert(*at_us);
            } else if id.sequence() >= SMALL_JOB_SEQUENCE {
                small_job_last_us = *at_us;
            }
        }
        let path = self.stage.times_path("transactional");
        let accepted = ids::read_times(&path).map_err(|error| {
            Failure::no_input(format!("cannot read {}: {error}", path.display()))
        })?;
        let schedule = Schedule::new(self.options.rate);
        let (mut own, mut shared, mut total) =
            (Latencies::new(), Latencies::new(), Latencies::new());
        for (id, accepted_us) in accepted {
            // What never arrived is lost, and told as such.
            let Some(arrived_us) = first_arrivals.get(&id) else { continue };
            let index = id.sequence() - TRANSACTIONAL_SEQUENCE;
            let due_us = window.due_us + schedule.intended(index).as_micros() as u64;
            let of_sink = if index.is_multiple_of(2) { &mut shared } else { &mut own };
            of_sink.record(Duration::from_micros(arrived_us.saturating_sub(accepted_us)));
            total.record(Duration::from_micros(arrived_us.saturating_sub(due_us)));
        }
        let mut all = own.clone();
        all.add(&shared);
        self.report.see(&all.summary());
        self.report.transactional_own_p99_ms = millis(own.summary().p99_us);
        self.report.transactional_shared_p99_ms = millis(shared.summary().p99_us);
        self.report.transactional_total_p99_ms = millis(total.summary().p99_us);
        if small_job_last_us > 0 {
            let micros = small_job_last_us.saturating_sub(window.small_job_us);
            self.report.small_job_s = Some(micros as f64 / 1e6);
        }
        let bulk = arrivals.iter().filter(|(id, _)| id.sequence() < SMALL_JOB_SEQUENCE);
        let bulk = bulk.map(|(id, at_us)| (tenant_of(id.sequence()), *at_us));
        let window_us = window.start_us..window.end_us;
        let count = bulk.clone().filter(|(_, at_us)| window_us.contains(at_us)).count();
        let seconds = (window.end_us - window.start_us).max(1) as f64 / 1e6;
        self.report.bulk_rate = count as f64 / seconds;
        let arrived = arrived_of_tenants(bulk, &self.accepted_of_tenants, window_us);
        self.report.bulk_share_least = least_share(&arrived);
        self.report.bulk_arrived_of_tenants = arrived;
        Ok(())
    }
}

impl Report {
    fn see(&mut self, latency: &LatencySummary) {
        self.transactional_p50_ms = millis(latency.p50_us);
        self.transactional_p90_ms = millis(latency.p90_us);
        self.transactional_p99_ms = millis(latency.p99_us);
        self.transactional_p999_ms = millis(latency.p999_us);
        self.transactional_max_ms = millis(latency.max_us);
    }

    /// What had to hold and did not, in words.
    fn judge(&mut self) {
        let broken = &mut self.broken;
        if self.transactional_p99_ms >= TRANSACTIONAL_P99_MS_MAX {
            let p99 = self.transactional_p99_ms;
            let why = if self.class_from_header { "" } else { "; nothing told it apart" };
            broken.push(format!("transactional mail took {p99:.0} ms at the p99{why}"));
        }
        if self.bulk_waiting_at_start < self.messages {
            let (waiting, messages) = (self.bulk_waiting_at_start, self.messages);
            broken.push(format!("only {waiting} of {messages} messages waited"));
        }
        if self.bulk_rate <= 0.0 {
            broken.push("bulk mail stood still".to_owned());
        }
        broken.extend(self.ending.broken());
    }
}

/// Messages of each tenant, half as many as of the one before, and all of them together.
fn shares(messages: u64, tenants: usize) -> Vec<u64> {
    let parts = (1_u64 << tenants) - 1;
    let mut shares: Vec<u64> =
        (0..tenants).map(|tenant| messages * (1 << (tenants - 1 - tenant)) / parts).collect();
    shares[0] += messages - shares.iter().sum::<u64>();
    shares
}

/// Of the bulk mail in the order of its arrival (tenant, time), what came for each tenant from the
/// start of the window until its end, or until one of them had nothing left.
fn arrived_of_tenants(
    arrivals: impl Iterator<Item = (usize, u64)>,
    accepted: &[u64],
    window_us: std::ops::Range<u64>,
) -> Vec<u64> {
    let mut left = accepted.to_vec();
    let mut arrived = vec![0; accepted.len()];
    for (tenant, at_us) in arrivals {
        if at_us >= window_us.end {
            break;
        }
        left[tenant] = left[tenant].saturating_sub(1);
        if at_us >= window_us.start {
            arrived[tenant] += 1;
            if left[tenant] == 0 {
                break;
            }
        }
    }
    arrived
}

/// The least part over an equal part; `None` where nothing came.
fn least_share(arrived: &[u64]) -> Option<f64> {
    let sum: u64 = arrived.iter().sum();
    let least = arrived.iter().min()?;
    (sum > 0).then(|| *least as f64 * arrived.len() as f64 / sum as f64)
}

fn fields(tenant: &str, campaign: &str, class: &str) -> Vec<String> {
    [(TENANT_FIELD, tenant), (CAMPAIGN_FIELD, campaign), (CLASS_FIELD, class)]
        .map(|(name, value)| format!("{name}: {value}"))
        .into()
}

fn bulk_sequence(tenant: usize) -> u64 {
    (tenant as u64) << TENANT_SHIFT
}

fn tenant_of(sequence: u64) -> usize {
    (sequence >> TENANT_SHIFT) as usize
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1e3
}

/// Sinks by index.
const BULK: usize = 0;
const OWN: usize = 1;
const TRANSACTIONAL_P99_MS_MAX: f64 = 500.0;
const MESSAGES_MIN: u64 = 1_000;
const TENANTS_MAX: usize = 16;
const SMALL_JOB_MESSAGES: u64 = 1_000;
/// What the sink has taken while the queue filled is made up for in steps of at least that part.
const TOP_UPS_MAX: u64 = 100;
/// Destinations of the bulk mail, all at one site.
const DOMAINS: usize = 50;
const TENANT_SHIFT: u32 = 36;
const SMALL_JOB_SEQUENCE: u64 = 1 << 44;
const TRANSACTIONAL_SEQUENCE: u64 = 1 << 45;
const _: () = assert!((TENANTS_MAX as u64) << TENANT_SHIFT <= SMALL_JOB_SEQUENCE);
const _: () = assert!(TRANSACTIONAL_SEQUENCE < SEQUENCE_END / 4);
/// The sink keeps its pace for so long behind the last transactional message.
const LATE_TIME: Duration = Duration::from_secs(5);
/// What the sink waits before each reply while the queue fills.
const FILL_DELAY: Duration = Duration::from_secs(30);
const RETRY_WAIT: Duration = Duration::from_secs(5);
const DRAIN_TIME_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_has_half_of_the_one_before() {
        assert_eq!(shares(1_000_000, 4), [533_335, 266_666, 133_333, 66_666]);
    }

    #[test]
    fn a_share_counts_while_every_tenant_has_something_waiting() {
        let arrivals = [(0, 5), (0, 10), (1, 11), (0, 12), (1, 13), (0, 14), (0, 30)];
        let check = |accepted: &[u64], expected: &[u64]| {
            let arrived = arrived_of_tenants(arrivals.into_iter(), accepted, 10..20);
            assert_eq!(arrived, expected, "{accepted:?}");
        };
        check(&[100, 100], &[3, 2]);
        check(&[100, 2], &[2, 2]);
        check(&[2, 100], &[1, 0]);
        assert_eq!(least_share(&[3, 1]), Some(0.5));
        assert_eq!(least_share(&[0, 0]), None);
    }

    #[test]
    fn every_promise_is_judged_by_itself() {
        let check = |report: &dyn Fn(&mut Report), words: &[&str]| {
            let mut good = Report {
                messages: 10,
                bulk_waiting_at_start: 10,
                bulk_rate: 1.0,
                transactional_p99_ms: 499.9,
                class_from_header: true,
                ..Report::default()
            };
            report(&mut good);
            good.judge();
            assert_eq!(good.broken.len(), words.len(), "{:?}", good.broken);
            for (text, word) in good.broken.iter().zip(words) {
                assert!(text.contains(word), "{text}");
            }
        };
        check(&|_| {}, &[]);
        check(&|report| report.transactional_p99_ms = 500.0, &["500 ms at the p99"]);
        check(&|report| report.bulk_waiting_at_start = 9, &["only 9 of 10"]);
        check(&|report| report.bulk_rate = 0.0, &["stood still"]);
        check(&|report| report.ending.lost = 2, &["2 accepted did not arrive"]);
    }

    #[test]
    fn the_promised_keys_are_there() {
        let value = serde_json::to_value(Report::default()).expect("plain values");
        for key in ["transactional_p99_ms", "lost", "duplicated"] {
            assert!(value.get(key).is_some(), "{key}");
        }
    }
}
