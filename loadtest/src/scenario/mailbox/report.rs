//! What was measured, as it is printed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::crew::{Tally, Work};
use super::{Options, Part, Peer};
use crate::latency::LatencySummary;
use crate::scenario::median;

#[derive(Debug, Default, Serialize)]
pub struct Report {
    rounds: usize,
    round_seconds: f64,
    connections: usize,
    readers: usize,
    mailbox_messages: u64,
    peer_name: Option<&'static str>,
    peer_version: Option<String>,
    peer_storage: Option<String>,
    peer_durability: Option<&'static str>,
    peer_hibernates: bool,
    pub ours: Side,
    pub peer: Side,
    pub ratio: Ratio,
    not_judged: Vec<String>,
    pub broken: Vec<String>,
}

/// What one server did.
#[derive(Debug, Default, Serialize)]
pub struct Side {
    /// By part, and in the mixed load by `mixed_` and part.
    pub parts: BTreeMap<String, Rates>,
    /// By kind of command, over all rounds.
    pub latency: BTreeMap<&'static str, Spread>,
    pub mixed_latency: BTreeMap<&'static str, Spread>,
    pub idle_bytes: Option<f64>,
    pub idle_sessions: usize,
    pub accepted: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub foreign: u64,
    pub large: Option<Large>,
}

/// How long something took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

impl Spread {
    fn p50_ms(&self) -> f64 {
        self.p50_us as f64 / 1e3
    }
}

impl From<LatencySummary> for Spread {
    fn from(summary: LatencySummary) -> Self {
        let LatencySummary { count, p50_us, p99_us, max_us, .. } = summary;
        Self { count, p50_us, p99_us, max_us }
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Rates {
    pub per_s: Option<f64>,
    /// CPU of all processes of the server for each; not in the mixed load, where it is that of all.
    pub cpu_us: Option<f64>,
    pub per_s_of_rounds: Vec<f64>,
    pub cpu_us_of_rounds: Vec<f64>,
    /// Flushes of the disk for each message, where they can be counted.
    pub flushes: Vec<f64>,
}

/// Ours over theirs, above 1 where ours is better.
#[derive(Debug, Default, Serialize)]
pub struct Ratio {
    pub lmtp_per_s: Option<f64>,
    pub fetch_per_s: Option<f64>,
    pub search_per_s: Option<f64>,
    pub pop3_per_s: Option<f64>,
    pub idle_bytes: Option<f64>,
    pub push_p99: Option<f64>,
    /// Of the rounds, by part.
    pub of_rounds: BTreeMap<String, Vec<f64>>,
    pub cpu: BTreeMap<String, f64>,
    /// Of median latencies, by kind of command.
    pub latency_p50: BTreeMap<&'static str, f64>,
}

/// One large mailbox.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Large {
    pub messages: u64,
    pub fill_per_s: f64,
    pub select_warm: Spread,
    /// From the exec of the server to its greeting, with nothing in the page cache.
    pub restart: Spread,
    /// The first SELECT of the mailbox after each of them.
    pub select_cold: Spread,
    /// Listings of a thousand messages at random places, none of them read before; the page cache
    /// is dropped before each.
    pub list_1000_cold: Spread,
    /// The first one after each restart, which are among them.
    pub list_1000_first_ms: Vec<f64>,
    /// The same without a restart.
    pub list_1000_warm: Spread,
    pub flags_ms: f64,
    pub flags_per_s: f64,
    /// What FETCH 1:* FLAGS added to the server's proportional memory, at most.
    pub flags_memory_bytes: u64,
    pub memory_bytes: u64,
    pub page_cache_dropped: bool,
}

impl Report {
    pub fn new(options: &Options) -> Self {
        let has_peer = options.peer == Some(Peer::Dovecot);
        Self {
            rounds: options.rounds,
            round_seconds: options.round_time.as_secs_f64(),
            connections: options.connections,
            readers: options.readers,
            mailbox_messages: options.mailbox_messages,
            peer_name: has_peer.then_some("dovecot"),
            peer_version: has_peer.then(super::host::dovecot_version).flatten(),
            peer_storage: has_peer.then(|| options.peer_storage.clone()),
            peer_durability: has_peer.then_some("mail_fsync = optimized, as shipped"),
            peer_hibernates: options.peer_hibernates,
            ..Self::default()
        }
    }

    pub fn side(&mut self, is_peer: bool) -> &mut Side {
        if is_peer { &mut self.peer } else { &mut self.ours }
    }

    /// Works out the ratios from both sides.
    pub fn compare(&mut self) {
        for (part, ours) in &self.ours.parts {
            let Some(peers) = self.peer.parts.get(part) else { continue };
            let pairs = ours.per_s_of_rounds.iter().zip(&peers.per_s_of_rounds);
            let ratios: Vec<f64> = pairs.map(|(ours, peers)| ours / peers.max(1e-9)).collect();
            let slot = match part.as_str() {
                "lmtp" => Some(&mut self.ratio.lmtp_per_s),
                "fetch" => Some(&mut self.ratio.fetch_per_s),
                "search" => Some(&mut self.ratio.search_per_s),
                "pop3" => Some(&mut self.ratio.pop3_per_s),
                _ => None,
            };
            if let Some(slot) = slot {
                *slot = median(&ratios);
            }
            self.ratio.of_rounds.insert(part.clone(), ratios);
            if let (Some(ours), Some(peers)) = (ours.cpu_us, peers.cpu_us) {
                self.ratio.cpu.insert(part.clone(), peers / ours.max(1e-9));
            }
        }
        for (kind, ours) in &self.ours.latency {
            let Some(peers) = self.peer.latency.get(kind) else { continue };
            let ratio = peers.p50_us as f64 / ours.p50_us.max(1) as f64;
            self.ratio.latency_p50.insert(kind, ratio);
            if *kind == "push_after_answer" {
                self.ratio.push_p99 = Some(peers.p99_us as f64 / ours.p99_us.max(1) as f64);
            }
        }
        if let (Some(ours), Some(peers)) = (self.ours.idle_bytes, self.peer.idle_bytes) {
            self.ratio.idle_bytes = Some(peers / ours.max(1.0));
        }
    }
}

/// What has to be at least, or at most, so much.
struct Promise {
    name: &'static str,
    value: Option<f64>,
    is_judged: bool,
    least: f64,
    most: f64,
}

impl Report {
    /// Compares what was measured of ringpost with what has to hold.
    pub fn judge(&mut self, options: &Options) {
        let is_long = options.rounds >= JUDGED_ROUNDS && options.round_time >= JUDGED_ROUND;
        let large = self.ours.large.clone();
        let of_large = |value: fn(&Large) -> f64| large.as_ref().map(value);
        let is_million = options.messages.is_some_and(|count| count >= JUDGED_MESSAGES);
        let is_cold = is_million && large.as_ref().is_some_and(|large| large.page_cache_dropped);
        let push = self.ours.latency.get("push_after_answer").map(|it| it.p99_us as f64 / 1e3);
        let warm = of_large(|it| it.select_warm.p50_ms());
        let most =
            |name, value, is_judged, most| Promise { name, value, is_judged, least: 0.0, most };
        let least = |name, value, least| {
            let (is_judged, most) = (is_long, f64::INFINITY);
            Promise { name, value, is_judged, least, most }
        };
        let promises = [
            least("ratio.lmtp_per_s", self.ratio.lmtp_per_s, 5.0),
            least("ratio.fetch_per_s", self.ratio.fetch_per_s, 2.0),
            least("ratio.search_per_s", self.ratio.search_per_s, 2.0),
            least("ratio.idle_bytes", self.ratio.idle_bytes, 10.0),
            most("idle_bytes", self.ours.idle_bytes, true, 25_000.0),
            most("push_after_answer.p99_ms", push, is_long, 5.0),
            most("select_warm.p50_ms", warm, is_million, 1.0),
            most("select_cold.p50_ms", of_large(|it| it.select_cold.p50_ms()), is_cold, 20.0),
            most("list_1000_cold.p50_ms", of_large(|it| it.list_1000_cold.p50_ms()), is_cold, 20.0),
        ];
        for Promise { name, value, is_judged, least, most } in promises {
            match value {
                Some(value) if is_judged => {
                    if value < least {
                        self.broken.push(format!("{name} is {value:.2}, below {least}"));
                    } else if value > most {
                        self.broken.push(format!("{name} is {value:.2}, above {most}"));
                    }
                }
                _ => self.not_judged.push(name.to_owned()),
            }
        }
    }
}

impl Rates {
    /// Adds a round in which `count` were done, which cost `cpu` and `flushes` where that is known.
    pub fn add(&mut self, count: u64, work: &Work, cpu: Option<Duration>, flushes: Option<u64>) {
        self.per_s_of_rounds.push(count as f64 / work.seconds.max(1e-6));
        let of_each = |all: f64| all / count.max(1) as f64;
        self.cpu_us_of_rounds.extend(cpu.map(|cpu| of_each(cpu.as_micros() as f64)));
        self.flushes.extend(flushes.map(|flushes| of_each(flushes as f64)));
        self.per_s = median(&self.per_s_of_rounds);
        self.cpu_us = median(&self.cpu_us_of_rounds);
    }
}

/// Shorter runs tell too little.
const JUDGED_ROUNDS: usize = 3;
const JUDGED_ROUND: Duration = Duration::from_secs(3);
const JUDGED_MESSAGES: u64 = 1_000_000;

/// How a part's operations are named in a tally: by their first letters.
pub fn counted_as(part: Part) -> &'static str {
    match part {
        Part::Lmtp => "lmtp",
        Part::Fetch => "fetch_",
        Part::Search => "search_",
        Part::Pop3 => "pop3_retr",
        Part::Push => "push_after",
        Part::Mixed | Part::Idle => "",
    }
}

/// Latencies by kind.
pub fn summaries(tally: &Tally) -> BTreeMap<&'static str, Spread> {
    tally.kinds().map(|(kind, latencies)| (kind, latencies.summary().into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_to_hold_is_judged_where_it_was_measured() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        let options = |line: &str| Line::parse_from(line.split(' ')).options;
        let mut report = Report::default();
        report.ratio.lmtp_per_s = Some(4.9);
        report.ratio.fetch_per_s = Some(2.1);
        report.ours.idle_bytes = Some(26_000.0);
        report.judge(&options("x --rounds 3"));
        assert_eq!(
            report.broken,
            ["ratio.lmtp_per_s is 4.90, below 5", "idle_bytes is 26000.00, above 25000"]
        );
        assert!(report.not_judged.contains(&"ratio.search_per_s".to_owned()));
        assert!(!report.not_judged.contains(&"ratio.fetch_per_s".to_owned()));
        let mut report = Report::default();
        report.ratio.lmtp_per_s = Some(4.9);
        let slow = Spread { p50_us: 21_000, ..Spread::default() };
        report.ours.large = Some(Large { select_cold: slow, ..Large::default() });
        report.judge(&options("x --rounds 2 --messages 1000000"));
        assert!(report.broken.is_empty(), "{:?}", report.broken);
        let cold = Large { select_cold: slow, page_cache_dropped: true, ..Large::default() };
        report.ours.large = Some(cold);
        report.judge(&options("x --rounds 2 --messages 1000000"));
        assert_eq!(report.broken, ["select_cold.p50_ms is 21.00, above 20"]);
    }

    #[test]
    fn ratios_are_those_of_the_rounds_and_above_one_where_ours_is_better() {
        let mut report = Report::default();
        let rates = |per_s: &[f64], cpu_us| Rates {
            per_s_of_rounds: per_s.to_vec(),
            cpu_us: Some(cpu_us),
            ..Rates::default()
        };
        report.ours.parts.insert("lmtp".to_owned(), rates(&[100.0, 90.0, 400.0], 5.0));
        report.peer.parts.insert("lmtp".to_owned(), rates(&[10.0, 30.0, 100.0], 20.0));
        report.ours.parts.insert("fetch".to_owned(), rates(&[1.0], 1.0));
        (report.ours.idle_bytes, report.peer.idle_bytes) = (Some(10.0), Some(1000.0));
        report.compare();
        assert_eq!(report.ratio.lmtp_per_s, Some(4.0));
        assert_eq!(report.ratio.of_rounds["lmtp"], [10.0, 3.0, 4.0]);
        assert_eq!(report.ratio.cpu["lmtp"], 4.0);
        assert_eq!((report.ratio.fetch_per_s, report.ratio.idle_bytes), (None, Some(100.0)));
    }
}
