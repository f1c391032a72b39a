//! `ringpost-loadtest tls`: what TLS costs, on messages and by handshakes.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::config::TlsPlan;
use super::handshakes::{Certificate, Client, OpenSsl};
use super::server::Server;
use super::stage::{
    self, Injection, JUDGED_MESSAGES_MIN, RETRY_WAIT, SinkPlan, Stage, WARM_UP_MESSAGES,
};
use super::{judge, median, print};
use crate::failure::Failure;
use crate::relay::accounting::Group;
use crate::relay::child;
use crate::sink;
use crate::stop;
use crate::units;

/// Measures what TLS costs: on relayed messages, and by full handshakes beside OpenSSL.
///
/// (a) In --rounds rounds the same number of messages goes through two servers that run all the
/// time: one with STARTTLS from the source and to its sink, the other in the clear on both sides.
/// Connections are kept. Who goes first changes with each round. tls_cpu_us_per_message: CPU of a
/// message through the one less that through the other, the median of the rounds.
///
/// (b) In --handshake-rounds rounds of --handshake-time each, a client does full handshakes (TLS
/// 1.3, X25519, no resumption) with ringpost, then with `openssl s_server`, which have the same
/// P-256 certificate. handshakes_per_s: those in a second of CPU of the server's processes; the
/// client's CPU does not count. ratio.handshakes_per_s: ringpost over OpenSSL, the median of the
/// rounds. ringpost does more for each: it admits the client, greets, and says farewell.
///
/// Must hold: nothing is lost or duplicated; tls_cpu_us_per_message is at most 60 where a round has
/// at least 10000 messages of 4 KiB; ratio.handshakes_per_s is at least 0.85. What was not judged
/// is named in not_judged.
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Rounds that compare messages; 0 leaves them out.
    #[arg(long, default_value_t = 6)]
    pub rounds: usize,
    /// Messages of a round to each of the two servers.
    #[arg(long, default_value_t = 20_000)]
    pub round_messages: u64,
    /// Rounds of handshakes; 0 leaves them out.
    #[arg(long, default_value_t = 5)]
    pub handshake_rounds: usize,
    /// Time of a round with each server.
    #[arg(long, value_parser = units::duration, default_value = "3s")]
    pub handshake_time: Duration,
    #[command(flatten)]
    pub stage: stage::Options,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    rounds: usize,
    round_messages: u64,
    tls_cpu_us_per_message: Option<f64>,
    cpu_us_tls: Vec<f64>,
    cpu_us_plain: Vec<f64>,
    lost: u64,
    duplicated: u64,
    handshakes_per_s: Option<f64>,
    handshakes: Vec<f64>,
    peer_name: &'static str,
    peer: Peer,
    ratio: Ratio,
    not_judged: Vec<String>,
    broken: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct Peer {
    handshakes_per_s: Option<f64>,
    handshakes: Vec<f64>,
}

#[derive(Debug, Default, Serialize)]
struct Ratio {
    handshakes_per_s: Option<f64>,
    handshakes: Vec<f64>,
}

/// Runs the subcommand.
pub fn run(options: Options) -> Result<(), Failure> {
    stop::catch_signals();
    let directory = options.stage.data.join(format!("tls-certificate-{}", std::process::id()));
    let certificate = Certificate::make(&directory)?;
    let mut report = Report {
        rounds: options.rounds,
        round_messages: options.round_messages,
        peer_name: "openssl s_server",
        ..Report::default()
    };
    let measured = measure(&options, &certificate, &directory, &mut report);
    // What cannot be removed is in a directory that the user named.
    let _ = fs::remove_dir_all(&directory);
    let _ = fs::remove_dir(&options.stage.data);
    measured?;
    report.judge(&options);
    print(&report, options.stage.json);
    judge(&report.broken)
}

fn measure(
    options: &Options,
    certificate: &Certificate,
    directory: &Path,
    report: &mut Report,
) -> Result<(), Failure> {
    let implicit = child::free_address()?;
    let tls = sink::load_tls(&certificate.chain, &certificate.key)?;
    let plans = [Some(tls), None].map(|tls| SinkPlan { tls, ..SinkPlan::default() });
    let mut stage = Stage::new(&options.stage, "tls", plans.into())?;
    let mut by_tls = stage.server(&[(DOMAIN, 0)], RETRY_WAIT, |plan| {
        let (chain, key) = (certificate.chain.clone(), certificate.key.clone());
        plan.tls = Some(TlsPlan { chain, key, implicit });
    })?;
    let mut plain = stage.other_server(&[(DOMAIN, 1)], RETRY_WAIT)?;
    by_tls.start()?;
    plain.start()?;
    if options.rounds > 0 {
        compare(&mut stage, options, &mut by_tls, &mut plain, report)?;
    }
    if options.handshake_rounds > 0 {
        handshakes(options, certificate, directory, (implicit, &by_tls.group), report)?;
    }
    by_tls.stop()?;
    plain.stop()?;
    let audit = stage.audit()?;
    (report.lost, report.duplicated) = (audit.lost, audit.duplicated);
    stage.end(audit.lost + audit.duplicated > 0)
}

/// (a)
fn compare(
    stage: &mut Stage,
    options: &Options,
    by_tls: &mut Server,
    plain: &mut Server,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut round = |server: &mut Server, tls: bool, messages: u64| {
        let domains = vec![DOMAIN.to_owned()];
        let injection = Injection { messages, domains, tls, ..Injection::default() };
        stage.cpu_us_per_message(server, injection)
    };
    round(by_tls, true, WARM_UP_MESSAGES)?;
    round(plain, false, WARM_UP_MESSAGES)?;
    for number in 0..options.rounds {
        let messages = options.round_messages;
        let (tls_us, plain_us) = if number % 2 == 0 {
            let tls_us = round(by_tls, true, messages)?;
            (tls_us, round(plain, false, messages)?)
        } else {
            let plain_us = round(plain, false, messages)?;
            (round(by_tls, true, messages)?, plain_us)
        };
        eprintln!("round {:2}  {tls_us:6.2} us by TLS, {plain_us:6.2} us plain", number + 1);
        report.cpu_us_tls.push(tls_us);
        report.cpu_us_plain.push(plain_us);
    }
    // After a failed handshake mail goes in the clear for a while, which is cheaper.
    if by_tls.metric(PROTECTED).is_none_or(|count| count == 0.0)
        || by_tls.metric(UNPROTECTED) != Some(0.0)
    {
        return Err(Failure::broken_promise("not all connections of the server had TLS"));
    }
    let pairs = report.cpu_us_tls.iter().zip(&report.cpu_us_plain);
    let added: Vec<f64> = pairs.map(|(tls, plain)| tls - plain).collect();
    report.tls_cpu_us_per_message = median(&added);
    Ok(())
}

/// (b)
fn handshakes(
    options: &Options,
    certificate: &Certificate,
    directory: &Path,
    (address, group): (SocketAddr, &Group),
    report: &mut Report,
) -> Result<(), Failure> {
    let client = Client::new(certificate)?;
    let openssl = OpenSsl::start(certificate, &directory.join("openssl.log"))?;
    let per_cpu_second = |address: SocketAddr, group: &Group| -> Result<f64, Failure> {
        let before = group.cpu();
        let count = client.run(address, options.handshake_time)?;
        let cpu = group.cpu() - before;
        Ok(count as f64 / cpu.as_secs_f64().max(f64::MIN_POSITIVE))
    };
    for round in 0..options.handshake_rounds {
        let ours = per_cpu_second(address, group)?;
        let peers = per_cpu_second(openssl.address, &openssl.group)?;
        eprintln!("round {:2}  {ours:6.0} handshakes a second, openssl {peers:6.0}", round + 1);
        report.handshakes.push(ours);
        report.peer.handshakes.push(peers);
        report.ratio.handshakes.push(ours / peers);
    }
    openssl.stop();
    report.handshakes_per_s = median(&report.handshakes);
    report.peer.handshakes_per_s = median(&report.peer.handshakes);
    report.ratio.handshakes_per_s = median(&report.ratio.handshakes);
    Ok(())
}

impl Report {
    fn judge(&mut self, options: &Options) {
        let Self { lost, duplicated, .. } = *self;
        let mut say = |is_broken: bool, text: String| {
            if is_broken {
                self.broken.push(text);
            }
        };
        say(lost > 0, format!("{lost} accepted messages did not arrive"));
        say(duplicated > 0, format!("{duplicated} arrived twice"));
        let is_usual = options.stage.size.entries == [(4096, 1)];
        match self.tls_cpu_us_per_message {
            Some(us) if is_usual && self.round_messages >= JUDGED_MESSAGES_MIN => {
                say(us > CPU_US_MAX, format!("TLS adds {us:.1} us of CPU a message"));
            }
            _ => self.not_judged.push("tls_cpu_us_per_message".to_owned()),
        }
        match self.ratio.handshakes_per_s {
            Some(ratio) => {
                say(ratio < HANDSHAKE_RATIO_MIN, format!("{ratio:.3} of openssl's handshakes"));
            }
            None => self.not_judged.push("ratio.handshakes_per_s".to_owned()),
        }
    }
}

const DOMAIN: &str = "sink.test";
const CPU_US_MAX: f64 = 60.0;
const HANDSHAKE_RATIO_MIN: f64 = 0.85;
const PROTECTED: &str = "ringpost_delivery_tls13_connections_total";
const UNPROTECTED: &str = "ringpost_delivery_tls_failures_total";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn what_has_to_hold_is_judged_where_it_was_measured() {
        let judged = |arguments: &[&str], added_us: Option<f64>, ratio: Option<f64>| {
            let line = [&["tls"], arguments].concat();
            let options = Line::try_parse_from(line).expect("valid").options;
            let mut report = Report {
                round_messages: options.round_messages,
                tls_cpu_us_per_message: added_us,
                ratio: Ratio { handshakes_per_s: ratio, handshakes: Vec::new() },
                ..Report::default()
            };
            report.judge(&options);
            (report.broken.len(), report.not_judged.len())
        };
        assert_eq!(judged(&[], Some(60.0), Some(0.85)), (0, 0));
        assert_eq!(judged(&[], Some(60.1), Some(0.84)), (2, 0));
        assert_eq!(judged(&["--round-messages", "100"], Some(90.0), None), (0, 2));
        assert_eq!(judged(&["--size", "100KiB"], Some(90.0), Some(1.0)), (0, 1));
    }
}
