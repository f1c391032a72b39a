//! `ringpost explain`: the way of mail to a domain, and where the time of a message went.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use super::Source;
use super::client::{Place, age, ask, json_line, print, printable, unix_ms};
use super::exit::{Exit, Failure};
use super::orders::{in_words, rule_in_words};
use super::queue::show_page;
use crate::config::write_duration;
use crate::control::explain::{LoginWay, OnShard, SiteWay, Subject, TlsWay, Way, way};
use crate::control::wire::{Line, Request};
use crate::delivery::view::{AddressView, DnsView, HostView, SiteState, StsView};
use crate::mail::{QueueId, Stream};
use crate::queue::StandingOrders;
use crate::shard::ask::{QueuedMessage, QueuedTask};

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A domain, or the queue id of a message.
    #[arg(value_name = "DOMAIN|QUEUE-ID")]
    subject: String,
    #[command(flatten)]
    place: Place,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let Options { subject, place, json } = options;
    let request = Request::Explain { subject: subject.clone() };
    let answered = ask(place, &request, &mut |line| match line {
        Line::Message(message) if *json => print(&json_line(&message)),
        Line::Message(message) => print(&message_page(&message, unix_ms())),
        Line::Way(way) if *json => print(&json_line(&*way)),
        Line::Way(way) => print(&way_page(&way, unix_ms())),
        _ => Ok(()),
    });
    match answered {
        // A domain is explained by the configuration alone, where there is one to read.
        Err(failure) if failure.exit == Exit::Unavailable => match place.source() {
            Some(source) => offline(subject, source, *json, failure),
            None => Err(failure),
        },
        answered => answered,
    }
}

fn offline(domain: &str, source: &Source, json: bool, failure: Failure) -> Result<(), Failure> {
    let config = source.load()?;
    if domain.parse().is_ok_and(|id: QueueId| id.node == config.node) {
        return Err(failure);
    }
    let (domain, now_ms) = (domain.to_ascii_lowercase(), unix_ms());
    let subject = Subject { domain: &domain, stream: &Stream::default(), next_hop: None };
    let way = way(&subject, &config, &StandingOrders::default(), now_ms);
    if json {
        return print(&json_line(&way));
    }
    print(&way_page(&way, now_ms))?;
    print(&format!("from the configuration alone: {}\n", failure.text))
}

fn message_page(message: &QueuedMessage, now_ms: u64) -> String {
    let mut text = show_page(message, now_ms);
    // Writing into memory does not fail, here and below.
    for task in &message.tasks {
        text.push_str(&ledger_table(task, message.accepted_ms));
        let left = |at_ms: u64| age(at_ms.saturating_sub(now_ms));
        let _ = writeln!(text, "  expires in {}", left(task.expires_ms));
        if let Some(at_ms) = task.delay_notice_ms {
            let _ = writeln!(text, "  a delay is told of in {}", left(at_ms));
        }
    }
    text
}

fn ledger_table(task: &QueuedTask, accepted_ms: u64) -> String {
    let all_ms = task.as_of_ms.saturating_sub(accepted_ms);
    let mut text = format!("{}: {} since acceptance", printable(&task.destination), age(all_ms));
    let _ = writeln!(text, ", of it");
    for waited in &task.waited {
        let share = waited.ms as f64 * 100.0 / all_ms.max(1) as f64;
        let seconds = waited.ms as f64 / 1000.0;
        let _ = writeln!(text, "  {:<22} {seconds:>12.3}s {share:>5.1}%", waited.cause);
    }
    text
}

fn way_page(way: &Way, now_ms: u64) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "domain        {}", printable(&way.domain));
    let next_hop = way.next_hop.as_deref().unwrap_or("none");
    let _ = writeln!(text, "next hop      {next_hop}, by {}", printable(&way.route));
    if let Some(pool) = &way.pool {
        let _ = writeln!(text, "pool          {pool}");
    }
    let TlsWay { said_by, level, version_min, names } = &way.tls;
    let names = match names.as_slice() {
        [] => String::new(),
        names => format!(", certificate for {}", names.join(" or ")),
    };
    let said_by = printable(said_by);
    let _ = writeln!(text, "tls           {level}, {version_min} or later{names}, by {said_by}");
    if let Some(LoginWay { username, said_by }) = &way.login {
        let (username, said_by) = (printable(username), printable(said_by));
        let _ = writeln!(text, "login         {username}, by {said_by}");
    }
    match &way.dns {
        Some(dns) => text.push_str(&dns_part(dns)),
        None if way.next_hop.is_some() && way.sites.is_empty() => {
            text.push_str("site          not known: a server that runs asks the DNS\n");
        }
        None => {}
    }
    let weights = way.sites.iter().map(|site| site.weight).sum();
    for site in &way.sites {
        text.push_str(&site_part(site, weights, now_ms));
    }
    let retry = &way.retry;
    let (min, max) = (duration(retry.wait_min_ms), duration(retry.wait_max_ms));
    let (factor, jitter, lifetime) = (retry.factor, retry.jitter, duration(retry.lifetime_ms));
    let _ = writeln!(text, "retries       by {}", printable(&retry.said_by));
    let _ = writeln!(text, "              after {min} to {max}, each wait {factor} times the last");
    let _ = writeln!(text, "              spread by {jitter} either way, until {lifetime} old");
    let whom = if retry.delay_notice_to_all { "" } else { " to whoever asked for it" };
    let notice = duration(retry.delay_notice_ms);
    let _ = writeln!(text, "              a delay is told of at {notice} of age{whom}");
    let _ = writeln!(text, "replies       judged by {}", printable(&way.rules));
    for suspension in &way.suspensions {
        let _ = writeln!(text, "suspended     {}", in_words(suspension, now_ms));
    }
    for suspension in &way.suspensions_by_rule {
        let _ = writeln!(text, "suspended     {}", rule_in_words(suspension, now_ms));
    }
    text
}

fn dns_part(dns: &DnsView) -> String {
    let mut text = String::new();
    if let Some(StsView { id, mode, mx }) = &dns.mta_sts {
        let _ = writeln!(text, "mta-sts       {mode}, hosts {}, id {id}", mx.join(" or "));
    }
    if let Some(failure) = &dns.mta_sts_failure {
        let failure = printable(failure);
        let _ = writeln!(text, "mta-sts       the policy announced cannot be had: {failure}");
    }
    for HostView { name, preference, canonical, dane, addresses } in &dns.hosts {
        let _ = write!(text, "host          {preference} {name}");
        if let Some(canonical) = canonical {
            let _ = write!(text, ", an alias for {canonical}");
        }
        text.push('\n');
        if let Some(dane) = dane {
            let _ = writeln!(text, "  dane: {dane}");
        }
        for AddressView { address, failed_ms, failure } in addresses {
            let _ = write!(text, "  {address}");
            if let Some((count, reply)) = failure {
                let (left, reply) = (age(*failed_ms), printable(reply));
                let _ = write!(text, ": after the others for {left}, failed {count}: {reply}");
            }
            text.push('\n');
        }
    }
    match (&dns.refusal, dns.hosts.is_empty()) {
        (Some(refusal), _) => {
            let _ = writeln!(text, "host          none: {}", printable(refusal));
        }
        (None, true) => text.push_str("host          not known: the DNS is being asked\n"),
        (None, false) => {}
    }
    if dns.believed_ms > 0 {
        let _ = writeln!(text, "              believed for {}", age(dns.believed_ms));
    }
    text
}

fn site_part(site: &SiteWay, weights: u32, now_ms: u64) -> String {
    let mut text = format!("site          {}", site.site);
    if let Some(source) = &site.source {
        let _ = write!(text, " from {source}");
        if let Some(address) = site.address {
            let _ = write!(text, " ({address})");
        }
        if let Some(proxy) = &site.proxy {
            let _ = write!(text, " by {proxy}");
        }
        let _ = write!(text, ", weight {} of {weights}", site.weight);
    }
    if let Some(until_ms) = site.source_suspended_until_ms.filter(|ms| *ms > now_ms) {
        let left = age(until_ms - now_ms);
        let _ = write!(text, ", left alone for {left}: the source cannot be used");
    }
    text.push('\n');
    for limit in &site.limits {
        let value = match limit.key.strip_suffix("_ms") {
            Some(_) => duration(limit.value),
            None => limit.value.to_string(),
        };
        let key = limit.key.trim_end_matches("_ms");
        let used = limit.used.map_or(String::new(), |used| format!("{used} of "));
        let slowed = limit.slowed_to.map_or(String::new(), |to| format!(" (slowed to {to})"));
        let said_by = printable(&limit.said_by);
        let _ = writeln!(text, "  {key:<24} {used}{value}{slowed} by {said_by}");
    }
    for OnShard { shard, state } in &site.shards {
        let SiteState { connections, window, window_max, verdict, asked_in_ms } = state;
        let verdict = verdict.as_str();
        let open = format!("{connections} connections of {window}, {window_max} at most");
        let _ = write!(text, "  shard {shard:<18} {open}; {verdict}");
        if *asked_in_ms > 0 {
            let _ = write!(text, ", asked again in {}", age(*asked_in_ms));
        }
        text.push('\n');
    }
    text
}

fn duration(ms: u64) -> String {
    write_duration(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ask::Waited;

    #[test]
    fn the_rows_of_a_ledger_are_shares_of_the_time() {
        let waited = [("turn", 250), ("back-off", 750)];
        let waited = waited.map(|(cause, ms)| Waited { cause: cause.into(), ms });
        let task = QueuedTask {
            destination: "a.test".into(),
            state: "delayed".into(),
            attempts: 1,
            due_ms: 9_000,
            recipients: Vec::new(),
            site: None,
            expires_ms: 0,
            delay_notice_ms: None,
            rerouted_to: None,
            tenant: String::new(),
            campaign: String::new(),
            class: "bulk".into(),
            tls: String::new(),
            waited: waited.into(),
            as_of_ms: 6_000,
        };
        let table = ledger_table(&task, 5_000);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "a.test: 1s since acceptance, of it");
        assert!(
            lines[1].ends_with("0.250s  25.0%") && lines[2].ends_with("0.750s  75.0%"),
            "{table}"
        );
    }
}
