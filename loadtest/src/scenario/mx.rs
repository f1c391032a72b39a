//! `ringpost-loadtest mx`: whether mail goes where the DNS says, and what that costs.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::config::MxPlan;
use super::server::Server;
use super::stage::{
    self, Injection, JUDGED_MESSAGES_MIN, RETRY_WAIT, SinkPlan, Stage, WARM_UP_MESSAGES,
};
use super::zone::{self, DomainKind, End, HOSTS, KINDS, NameServer};
use super::{judge, median, print};
use crate::failure::Failure;
use crate::relay::files::check_stop;
use crate::sink::Arrivals;
use crate::stop;

/// Sends to domains of every kind, and compares CPU with and without the DNS.
///
/// (a) A name server (knotd) has a zone of --domains domains: equal and unequal MX, a dead first
/// MX, null MX, CNAME, only AAAA, only A, IDN, NXDOMAIN, no records, MX hosts without an address,
/// answers that need TCP, the server itself as the best and as the second MX, SERVFAIL and a zone
/// that the name server does not have. --messages go to them in turn. wrong: those that arrived at
/// another host than the DNS says, or ended with another code; wrong_of_kind says of which kind.
///
/// (b) In --rounds rounds the same number of messages goes through two servers that run all the
/// time, to the same sinks: one follows MX records, the other has a route for each domain. Who goes
/// first changes with each round. dns_cpu_ratio: CPU a message of the one over that of the other,
/// the median of the rounds, which dns_cpu_ratios shows. dns_lookups_per_message: questions to the
/// resolver, its cache included, in these rounds.
///
/// Must hold: nothing is wrong, lost or duplicated; dns_cpu_ratio is below 1.05 where a round has
/// at least 10000 messages. What was not judged is named in not_judged.
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Domains of the zone, at least one of each kind.
    #[arg(long, default_value_t = 100)]
    pub domains: usize,
    /// Messages to these domains.
    #[arg(long, default_value_t = 5_000)]
    pub messages: u64,
    /// Rounds that compare; 0 leaves them out.
    #[arg(long, default_value_t = 10)]
    pub rounds: usize,
    /// Messages of a round to each of the two servers.
    #[arg(long, default_value_t = 20_000)]
    pub round_messages: u64,
    #[command(flatten)]
    pub stage: stage::Options,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    domains: usize,
    messages: u64,
    wrong: u64,
    wrong_of_kind: HashMap<String, u64>,
    wrong_examples: Vec<String>,
    arrived: u64,
    failed: u64,
    delayed_domains: usize,
    lost: u64,
    duplicated: u64,
    rounds: usize,
    round_messages: u64,
    dns_cpu_ratio: Option<f64>,
    dns_cpu_ratios: Vec<f64>,
    cpu_us_by_mx: Vec<f64>,
    cpu_us_by_route: Vec<f64>,
    dns_lookups_per_message: Option<f64>,
    not_judged: Vec<String>,
    broken: Vec<String>,
}

/// Runs the subcommand.
pub fn run(options: Options) -> Result<(), Failure> {
    if options.domains < KINDS.len() || options.domains > DOMAINS_MAX {
        let text = format!("--domains is {} to {DOMAINS_MAX}", KINDS.len());
        return Err(Failure::usage(&text));
    }
    if options.messages < options.domains as u64 {
        return Err(Failure::usage("--messages is at least --domains"));
    }
    stop::catch_signals();
    let mut report = Report {
        domains: options.domains,
        messages: options.messages,
        rounds: options.rounds,
        round_messages: options.round_messages,
        ..Report::default()
    };
    let directory = options.stage.data.join(format!("mx-zone-{}", std::process::id()));
    let dns = NameServer::start(&directory, options.domains)?;
    every_kind(&options, dns.address, &mut report)?;
    if options.rounds > 0 {
        compare(&options, dns.address, &mut report)?;
    }
    drop(dns);
    // What cannot be removed is in a directory that the user named.
    let _ = fs::remove_dir_all(&directory);
    report.judge();
    print(&report, options.stage.json);
    judge(&report.broken)
}

/// (a)
fn every_kind(options: &Options, dns: SocketAddr, report: &mut Report) -> Result<(), Failure> {
    // The server under test is the MX host `us` at the same port.
    let port = stage::free_sink_port(&[&HOSTS[..], &["127.0.0.1"]].concat())?;
    let arrivals: Vec<Arc<Arrivals>> = HOSTS.iter().map(|_| Arc::new(Arrivals::from(0))).collect();
    let plans = HOSTS.iter().zip(&arrivals).map(|(host, arrivals)| SinkPlan {
        address: Some(at(host, port)),
        arrivals: Some(arrivals.clone()),
        ..SinkPlan::default()
    });
    let mut stage = Stage::new(&options.stage, "mx", plans.collect())?;
    let mut server = stage.server(&[], RETRY_WAIT, |plan| {
        plan.mx = Some(MxPlan { dns, port });
        plan.more_listeners.push(at("127.0.0.1", port));
    })?;
    server.start()?;
    let domains: Vec<(String, &DomainKind)> = (0..options.domains)
        .map(|number| {
            let kind = &KINDS[number % KINDS.len()];
            (kind.domain(number), kind)
        })
        .collect();
    let injection = Injection {
        name: "every-kind".to_owned(),
        messages: options.messages,
        domains: domains.iter().map(|(domain, _)| domain.clone()).collect(),
        // Nobody has to be told what ended as it should.
        reverse_path: Some(String::new()),
        ..Injection::default()
    };
    eprintln!("{} messages to {} domains of every kind", options.messages, options.domains);
    stage.inject(&server, &injection)?;
    let mut seen = Seen::new(&domains, options.messages);
    let look = |seen: &mut Seen| {
        for (host, arrivals) in arrivals.iter().enumerate() {
            arrivals.take().iter().for_each(|(id, _)| seen.on_arrival(id.sequence(), host));
        }
        seen.read_outcomes(&stage.outcomes());
    };
    let mut last_news = Instant::now();
    while !seen.is_complete() && last_news.elapsed() < options.stage.settle {
        std::thread::sleep(POLL);
        check_stop()?;
        server.check_alive()?;
        let before = seen.count;
        look(&mut seen);
        if seen.count > before {
            last_news = Instant::now();
        }
    }
    // What should not come may still come.
    std::thread::sleep(RETRY_WAIT * 2);
    let queued = server.queued().unwrap_or(0);
    server.stop()?;
    look(&mut seen);
    seen.finish(queued, report);
    stage.end(report.wrong + report.lost + report.duplicated > 0)
}

/// What became of messages to domains of every kind.
struct Seen<'a> {
    domains: &'a [(String, &'a DomainKind)],
    by_name: HashMap<&'a str, usize>,
    /// Hosts at which each message arrived.
    arrived: Vec<Vec<usize>>,
    /// Failed recipients of each domain as they should, and whether some were Delayed so.
    failed: Vec<u64>,
    delayed: Vec<bool>,
    /// Outcomes that should not be, each once.
    wrong: Vec<(usize, String)>,
    /// Lines of the log that were read.
    lines: usize,
    /// What was seen, for telling whether something happens.
    count: usize,
}

impl<'a> Seen<'a> {
    fn new(domains: &'a [(String, &'a DomainKind)], messages: u64) -> Self {
        let by_name = domains.iter().enumerate().map(|(index, (name, _))| (name.as_str(), index));
        Self {
            domains,
            by_name: by_name.collect(),
            arrived: vec![Vec::new(); messages as usize],
            failed: vec![0; domains.len()],
            delayed: vec![false; domains.len()],
            wrong: Vec::new(),
            lines: 0,
            count: 0,
        }
    }

    fn domain_of(&self, sequence: u64) -> usize {
        (sequence % self.domains.len() as u64) as usize
    }

    /// Messages to the domain with this index.
    fn sent_to(&self, domain: usize) -> u64 {
        let (messages, domains) = (self.arrived.len(), self.domains.len());
        (messages / domains + usize::from(domain < messages % domains)) as u64
    }

    fn on_arrival(&mut self, sequence: u64, host: usize) {
        self.count += 1;
        let domain = self.domain_of(sequence);
        if !matches!(self.domains[domain].1.end, End::At(hosts) if hosts.contains(&host)) {
            self.wrong.push((domain, format!("arrived at {}", HOSTS[host])));
        }
        self.arrived[sequence as usize].push(host);
    }

    /// Reads what is there of the log beyond what was read before.
    fn read_outcomes(&mut self, log: &str) {
        // The last line may still be under way.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let lines: Vec<&str> = whole.lines().skip(self.lines).collect();
        self.lines += lines.len();
        for line in lines {
            let word = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key));
            let recipient = word("recipient=<").and_then(|it| it.strip_suffix('>'));
            let Some((_, domain)) = recipient.and_then(|it| it.rsplit_once('@')) else { continue };
            let Some(domain) = self.by_name.get(domain).copied() else { continue };
            let reply = [word("code=").unwrap_or("-"), word("status=").unwrap_or("-")].join(" ");
            let outcome = word("outcome=").unwrap_or("-");
            match (self.domains[domain].1.end, outcome) {
                (End::At(_), "relayed") => continue,
                (End::Failed(expected), "failed") if expected == reply => self.failed[domain] += 1,
                (End::Delayed(expected), "delayed") if expected == reply => {
                    self.delayed[domain] = true;
                }
                _ => self.wrong.push((domain, format!("{outcome} {reply}"))),
            }
            self.count += 1;
        }
    }

    fn is_complete(&self) -> bool {
        let arrived = |(sequence, hosts): (usize, &Vec<usize>)| {
            let domain = self.domain_of(sequence as u64);
            !hosts.is_empty() || !matches!(self.domains[domain].1.end, End::At(_))
        };
        let ended = |domain: usize| match self.domains[domain].1.end {
            End::At(_) => true,
            End::Failed(_) => self.failed[domain] >= self.sent_to(domain),
            End::Delayed(_) => self.delayed[domain],
        };
        self.arrived.iter().enumerate().all(arrived) && (0..self.domains.len()).all(ended)
    }

    /// `queued` messages are still in the server.
    fn finish(self, queued: u64, report: &mut Report) {
        let mut to_be_queued = 0;
        for (domain, (_, kind)) in self.domains.iter().enumerate() {
            match kind.end {
                End::At(_) => {}
                End::Failed(_) => {
                    report.failed += self.failed[domain];
                    report.lost += self.sent_to(domain).saturating_sub(self.failed[domain]);
                }
                End::Delayed(_) => {
                    report.delayed_domains += usize::from(self.delayed[domain]);
                    report.wrong += u64::from(!self.delayed[domain]);
                    to_be_queued += self.sent_to(domain);
                }
            }
        }
        for (sequence, hosts) in self.arrived.iter().enumerate() {
            let domain = self.domain_of(sequence as u64);
            let should = matches!(self.domains[domain].1.end, End::At(_));
            report.arrived += u64::from(!hosts.is_empty());
            report.lost += u64::from(should && hosts.is_empty());
            report.duplicated += (hosts.len() as u64).saturating_sub(1);
        }
        report.lost += to_be_queued.saturating_sub(queued);
        report.wrong += self.wrong.len() as u64;
        for (domain, what) in self.wrong {
            let (name, kind) = &self.domains[domain];
            *report.wrong_of_kind.entry(kind.name.to_owned()).or_default() += 1;
            if report.wrong_examples.len() < EXAMPLES_MAX {
                report.wrong_examples.push(format!("{name}: {what}"));
            }
        }
    }
}

/// (b)
fn compare(options: &Options, dns: SocketAddr, report: &mut Report) -> Result<(), Failure> {
    let port = stage::free_sink_port(&HOSTS)?;
    let plans =
        HOSTS.iter().map(|host| SinkPlan { address: Some(at(host, port)), ..SinkPlan::default() });
    let mut stage = Stage::new(&options.stage, "mx-compare", plans.collect())?;
    let domains: Vec<(String, usize)> = (0..options.domains).map(zone::warm_domain).collect();
    let mut by_mx = stage.server(&[], RETRY_WAIT, |plan| plan.mx = Some(MxPlan { dns, port }))?;
    let routes: Vec<(&str, usize)> =
        domains.iter().map(|(domain, host)| (domain.as_str(), *host)).collect();
    let mut by_route = stage.other_server(&routes, RETRY_WAIT)?;
    by_mx.start()?;
    by_route.start()?;
    let mut round = |server: &mut Server, messages: u64| {
        let domains = domains.iter().map(|(domain, _)| domain.clone()).collect();
        stage.cpu_us_per_message(server, Injection { messages, domains, ..Injection::default() })
    };
    for server in [&mut by_mx, &mut by_route] {
        round(server, WARM_UP_MESSAGES)?;
    }
    let lookups_before = by_mx.metric(LOOKUPS);
    for number in 0..options.rounds {
        let mut measure = |server: &mut Server| round(server, options.round_messages);
        let (mx, route) = if number % 2 == 0 {
            let mx = measure(&mut by_mx)?;
            (mx, measure(&mut by_route)?)
        } else {
            let route = measure(&mut by_route)?;
            (measure(&mut by_mx)?, route)
        };
        eprintln!("round {:2}  {mx:6.2} us by MX, {route:6.2} us by route", number + 1);
        report.cpu_us_by_mx.push(mx);
        report.cpu_us_by_route.push(route);
        report.dns_cpu_ratios.push(mx / route);
    }
    let lookups = by_mx.metric(LOOKUPS).zip(lookups_before);
    let messages = (options.round_messages * options.rounds as u64).max(1) as f64;
    report.dns_lookups_per_message = lookups.map(|(after, before)| (after - before) / messages);
    report.dns_cpu_ratio = median(&report.dns_cpu_ratios);
    by_mx.stop()?;
    by_route.stop()?;
    let audit = stage.audit()?;
    report.lost += audit.lost;
    report.duplicated += audit.duplicated;
    stage.end(audit.lost + audit.duplicated > 0)
}

impl Report {
    fn judge(&mut self) {
        let Self { wrong, lost, duplicated, .. } = *self;
        let mut say = |is_broken: bool, text: String| {
            if is_broken {
                self.broken.push(text);
            }
        };
        say(wrong > 0, format!("{wrong} ended otherwise than the DNS says"));
        say(lost > 0, format!("{lost} accepted neither arrived nor ended nor are queued"));
        say(duplicated > 0, format!("{duplicated} arrived twice"));
        match self.dns_cpu_ratio {
            Some(ratio) if self.round_messages >= JUDGED_MESSAGES_MIN => {
                say(ratio >= CPU_RATIO_MAX, format!("the DNS makes CPU {ratio:.3} times as much"));
            }
            _ => self.not_judged.push("dns_cpu_ratio".to_owned()),
        }
    }
}

fn at(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().expect("an address"), port)
}

const CPU_RATIO_MAX: f64 = 1.05;
const DOMAINS_MAX: usize = 10_000;
const LOOKUPS: &str = "ringpost_dns_lookups_total";
const POLL: Duration = Duration::from_millis(50);
const EXAMPLES_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> &'static DomainKind {
        KINDS.iter().find(|kind| kind.name == name).expect("a kind")
    }

    #[test]
    fn what_ends_otherwise_than_the_dns_says_is_counted() {
        let domains: Vec<(String, &DomainKind)> = ["unequal", "null", "servfail"]
            .iter()
            .enumerate()
            .map(|(number, name)| (kind(name).domain(number), kind(name)))
            .collect();
        let line = |domain: &str, outcome: &str, code: &str, status: &str| {
            format!(
                "time=1 outcome={outcome} recipient=<r@{domain}> code={code} status={status} x\n"
            )
        };
        let mut seen = Seen::new(&domains, 7);
        seen.on_arrival(0, 0);
        seen.on_arrival(3, 0);
        seen.on_arrival(6, 1);
        let log = line(&domains[1].0, "failed", "556", "5.1.10")
            + &line(&domains[1].0, "failed", "550", "5.1.2");
        seen.read_outcomes(&log);
        assert!(!seen.is_complete());
        seen.read_outcomes(&(log + &line(&domains[2].0, "delayed", "451", "4.4.3") + "time=2 id="));
        let mut report = Report::default();
        seen.finish(1, &mut report);
        assert_eq!((report.arrived, report.failed, report.delayed_domains), (3, 1, 1));
        // At another host, and with another code.
        assert_eq!((report.wrong, report.duplicated), (2, 0));
        // One of null without an end as it should, one of servfail that is not queued.
        assert_eq!(report.lost, 2);
        report.judge();
        assert_eq!((report.broken.len(), report.not_judged.len()), (2, 1));
    }

    #[test]
    fn the_median_stands_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
