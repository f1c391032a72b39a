//! Orders on queued mail: which mail is meant, and what came of it.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use clap::Args;

use super::client::{Place, age, ask, json_line, print, printable, unix_ms};
use super::exit::{Exit, Failure};
use crate::config::parse_duration;
use crate::control::wire::{Line, Request, SteerOrder, Which};
use crate::delivery::view::RuleSuspension;
use crate::queue::{Conditions, StandingOrder};

/// Which messages an order is for. Conditions that are given all hold.
#[derive(Args, Clone, Debug)]
pub struct Steering {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    which: Messages,
    /// Counts and changes nothing.
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true, args = MAIL)]
#[group(args = ["id", "reverse_path", "older_than", "younger_than", "all"])]
struct Messages {
    /// One message.
    #[arg(long, value_name = "QUEUE-ID")]
    id: Option<String>,
    #[command(flatten)]
    mail: Mail,
    /// Mail with this reverse-path: an address with at most one `*`, or `<>`.
    #[arg(long, visible_alias = "sender", value_name = "ADDRESS")]
    reverse_path: Option<String>,
    /// Accepted, or released where that is later, longer ago than this: `30m`, `2h`, `1d`.
    #[arg(long, value_name = "TIME")]
    older_than: Option<String>,
    /// Accepted, or released where that is later, within this time.
    #[arg(long, value_name = "TIME")]
    younger_than: Option<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
}

/// The arguments of `Mail`.
const MAIL: [&str; 5] = ["domain", "site", "tenant", "campaign", "class"];

/// Conditions on mail. Each may hold one `*`.
#[derive(Args, Clone, Debug, Default)]
#[group(skip)]
struct Mail {
    /// Recipients at this domain; `*.example.test` for those below it.
    #[arg(long)]
    domain: Option<String>,
    /// Mail for this next hop: `192.0.2.1:25`, `lmtp://*`.
    #[arg(long, value_name = "NEXT-HOP")]
    site: Option<String>,
    #[arg(long)]
    tenant: Option<String>,
    #[arg(long)]
    campaign: Option<String>,
    /// `transactional` or `bulk`.
    #[arg(long)]
    class: Option<String>,
}

impl From<Mail> for Conditions {
    fn from(mail: Mail) -> Self {
        let Mail { domain, site, tenant, campaign, class } = mail;
        Self { domain, site, tenant, campaign, class }
    }
}

/// Which mail waits from now on. Conditions that are given all hold.
#[derive(Args, Clone, Debug)]
pub struct Suspend {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    which: Standing,
    /// Ends by itself after this time: `30m`, `2h`, `1d`.
    #[arg(long = "for", value_name = "TIME")]
    length: Option<String>,
    /// Why; shown to everybody who asks.
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// Counts the queued tasks it would make wait, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true, args = MAIL)]
#[group(args = ["all"])]
struct Standing {
    #[command(flatten)]
    mail: Mail,
    /// Everything.
    #[arg(long)]
    all: bool,
}

/// Which suspensions are lifted: those with just these conditions, or the one of this number.
#[derive(Args, Clone, Debug)]
pub struct Resume {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    which: Lifted,
    /// Shows which they are, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true, args = MAIL)]
#[group(args = ["number", "all"])]
struct Lifted {
    /// As `ringpost queue suspensions` shows it.
    #[arg(value_name = "NUMBER")]
    number: Option<u32>,
    #[command(flatten)]
    mail: Mail,
    /// All of them.
    #[arg(long)]
    all: bool,
}

pub fn steer(order: SteerOrder, steering: &Steering) -> Result<(), Failure> {
    let Steering { place, which, dry_run, json } = steering;
    let Messages { id, mail, reverse_path, older_than, younger_than, all } = which.clone();
    let seconds =
        |name: &str, text: Option<String>| text.map(|text| parse_length(name, &text)).transpose();
    let which = Which {
        id,
        mail: mail.into(),
        reverse_path,
        older_than_s: seconds("--older-than", older_than)?,
        younger_than_s: seconds("--younger-than", younger_than)?,
        all,
    };
    let request = Request::QueueSteer { order, which, dry_run: *dry_run };
    let (matched, done) = ask_for_count(place, &request)?;
    if *json {
        print(&json_line(&serde_json::json!({ "matched": matched, "done": done })))
    } else if *dry_run {
        print(&format!("{matched} tasks would be changed\n"))
    } else {
        print(&format!("{done} of {matched} tasks changed\n"))
    }
}

/// Tasks that an order was for, and those it was carried out on. How far it is goes to a terminal.
fn ask_for_count(place: &Place, request: &Request) -> Result<(usize, usize), Failure> {
    let is_seen = io::stderr().is_terminal();
    let (mut last, mut shown) = ((0, 0), false);
    let answered = ask(place, request, &mut |line| {
        if let Line::Steered { matched, done } = line {
            last = (matched, done);
            if is_seen {
                eprint!("\r{done} of {matched} so far ");
                shown = true;
            }
        }
        Ok(())
    });
    if shown {
        // The line is free again for what comes of it.
        eprint!("\r\x1b[K");
    }
    answered.map(|()| last)
}

pub fn suspend(suspend: &Suspend) -> Result<(), Failure> {
    let Suspend { place, which, length, note, dry_run, json } = suspend;
    let seconds = length.as_deref().map(|text| parse_length("--for", text)).transpose()?;
    let Standing { mail, all } = which.clone();
    let (mail, note, dry_run) = (mail.into(), note.clone(), *dry_run);
    let request = Request::Suspend { mail, all, seconds, note, dry_run };
    if dry_run {
        let (matched, _) = ask_for_count(place, &request)?;
        return match *json {
            true => print(&json_line(&serde_json::json!({ "matched": matched }))),
            false => print(&format!("{matched} tasks would wait\n")),
        };
    }
    ask(place, &request, &mut |line| match line {
        Line::Suspension(suspension) if *json => print(&json_line(&suspension)),
        Line::Suspension(suspension) => {
            print(&format!("suspended: {}\n", in_words(&suspension, unix_ms())))
        }
        _ => Ok(()),
    })
}

/// Seconds.
fn parse_length(name: &str, text: &str) -> Result<u64, Failure> {
    let seconds = parse_duration(text).map(|length| length.as_secs()).filter(|it| *it > 0);
    seconds.ok_or_else(|| {
        let text = format!("{name}: found {text:?}; expected a time such as 30m, 2h or 1d");
        Failure::new(Exit::Usage, text)
    })
}

pub fn resume(resume: &Resume) -> Result<(), Failure> {
    let Resume { place, which, dry_run, json } = resume;
    let Lifted { number, mail, all } = which.clone();
    let request = Request::Resume { number, mail: mail.into(), all, dry_run: *dry_run };
    let word = if *dry_run { "would be resumed" } else { "resumed" };
    ask(place, &request, &mut |line| match line {
        Line::Suspension(suspension) if *json => print(&json_line(&suspension)),
        Line::Suspension(suspension) => {
            print(&format!("{word}: {}\n", in_words(&suspension, unix_ms())))
        }
        _ => Ok(()),
    })
}

pub fn list(place: &Place, json: bool) -> Result<(), Failure> {
    ask(place, &Request::Suspensions, &mut |line| match line {
        Line::Suspension(suspension) if json => print(&json_line(&suspension)),
        Line::Suspension(suspension) => print(&format!("{}\n", in_words(&suspension, unix_ms()))),
        Line::RuleSuspension(suspension) if json => print(&json_line(&suspension)),
        Line::RuleSuspension(suspension) => {
            print(&format!("{}\n", rule_in_words(&suspension, unix_ms())))
        }
        _ => Ok(()),
    })
}

/// `3  tenant=acme  by root 5m ago, ends in 2h: why`
pub fn in_words(suspension: &StandingOrder, now_ms: u64) -> String {
    let StandingOrder { number, mail, since_ms, until_ms, by, note } = suspension;
    let since = age(now_ms.saturating_sub(*since_ms));
    let mail = printable(&mail.to_string());
    let mut text = format!("{number}  {mail}  by {} {since} ago", printable(by));
    // Writing into memory does not fail.
    let _ = match until_ms {
        Some(until_ms) => write!(text, ", ends in {}", age(until_ms.saturating_sub(now_ms))),
        None => write!(text, ", until it is resumed"),
    };
    if !note.is_empty() {
        let _ = write!(text, ": {}", printable(note));
    }
    text
}

/// `-  site=smtp://192.0.2.1:25 slow 4  by rule 3 of FILE, ends in 2h: 421 4.7.0 too many`
pub fn rule_in_words(suspension: &RuleSuspension, now_ms: u64) -> String {
    let RuleSuspension { site, source, tenant, effect, factor, until_ms, rule, file, .. } =
        suspension;
    let mut text = format!("-  site={site}");
    for (name, value) in [("source", source), ("tenant", tenant)] {
        if let Some(value) = value {
            let _ = write!(text, " {name}={}", printable(value));
        }
    }
    let factor = if *factor > 1 { format!(" {factor}") } else { String::new() };
    let left = age(until_ms.saturating_sub(now_ms));
    let (file, reply) = (printable(file), printable(&suspension.reply));
    let _ = write!(text, " {effect}{factor}  by rule {rule} of {file}, ends in {left}: {reply}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspension_is_one_line() {
        let mut suspension = StandingOrder {
            number: 3,
            mail: Conditions { tenant: Some("acme".into()), ..Conditions::default() },
            since_ms: 1_000,
            until_ms: Some(7_501_000),
            by: "root".into(),
            note: "why\nnot".into(),
        };
        let text = in_words(&suspension, 301_000);
        assert_eq!(text, "3  tenant=acme  by root 5m ago, ends in 2h: why\\nnot");
        suspension.until_ms = None;
        suspension.note.clear();
        let text = in_words(&suspension, 301_000);
        assert_eq!(text, "3  tenant=acme  by root 5m ago, until it is resumed");
    }

    #[test]
    fn a_suspension_by_rule_is_one_line() {
        let mut suspension = RuleSuspension {
            site: "smtp://192.0.2.1:25".into(),
            source: None,
            tenant: Some("acme".into()),
            effect: "suspend".into(),
            factor: 1,
            until_ms: 7_501_000,
            rule: 3,
            file: "rules.toml".into(),
            class: "rate".into(),
            reply: "421 4.7.0 too\nmany".into(),
        };
        let text = rule_in_words(&suspension, 301_000);
        let end = "by rule 3 of rules.toml, ends in 2h: 421 4.7.0 too\\nmany";
        assert_eq!(text, format!("-  site=smtp://192.0.2.1:25 tenant=acme suspend  {end}"));
        (suspension.effect, suspension.factor, suspension.tenant) = ("slow".into(), 4, None);
        let text = rule_in_words(&suspension, 301_000);
        assert_eq!(text, format!("-  site=smtp://192.0.2.1:25 slow 4  {end}"));
    }

    #[test]
    fn a_length_is_a_time_above_zero() {
        assert_eq!(parse_length("--for", "2h").expect("a time"), 7_200);
        for text in ["", "2", "0s", "1w", "10ms"] {
            assert_eq!(parse_length("--for", text).expect_err(text).exit, Exit::Usage);
        }
    }
}
