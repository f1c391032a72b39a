//! `ringpost explain`: the way of mail to a domain, and where the time of a message went.

use std::fmt::Write as _;

use clap::Args;

use super::Source;
use super::client::{Place, age, ask, json_line, print, printable, unix_ms};
use super::exit::{Exit, Failure};
use super::orders::in_words;
use super::queue::show_page;
use crate::config::write_duration;
use crate::control::explain::{Subject, Way, way};
use crate::control::wire::{Line, Request};
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
        Line::Way(way) if *json => print(&json_line(&way)),
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
    for task in &message.tasks {
        text.push_str(&ledger_table(task, message.accepted_ms));
    }
    text
}

fn ledger_table(task: &QueuedTask, accepted_ms: u64) -> String {
    let all_ms = task.as_of_ms.saturating_sub(accepted_ms);
    let mut text = format!("{}: {} since acceptance", printable(&task.destination), age(all_ms));
    // Writing into memory does not fail, here and below.
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
    let duration = |ms| write_duration(std::time::Duration::from_millis(ms));
    let _ = writeln!(text, "domain        {}", printable(&way.domain));
    let next_hop = way.next_hop.as_deref().unwrap_or("none");
    let _ = writeln!(text, "next hop      {next_hop}, by {}", printable(&way.route));
    let (min, max) = (duration(way.retry_wait_min_ms), duration(way.retry_wait_max_ms));
    let lifetime = duration(way.lifetime_ms);
    let _ = writeln!(text, "retries       after {min} to {max}, until {lifetime} old");
    let _ = writeln!(text, "replies       judged by {}", printable(&way.rules));
    for suspension in &way.suspensions {
        let _ = writeln!(text, "suspended     {}", in_words(suspension, now_ms));
    }
    text
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
            is_rerouted: false,
            tenant: String::new(),
            campaign: String::new(),
            class: "bulk".into(),
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
