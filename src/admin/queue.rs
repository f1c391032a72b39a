//! `ringpost queue`: looks into the queue of a running server, and steers it.

use std::fmt::Write as _;

use clap::{Subcommand, ValueEnum};

use super::client::{Place, age, ask, json_line, print, printable, size, unix_ms};
use super::exit::Failure;
use super::orders::{self, Resume, Steering, Suspend};
use super::survey;
use crate::control::wire::{Line, Request, SteerOrder};
use crate::queue::survey::SurveyBy;
use crate::shard::ask::{QueueStats, QueuedMessage};

#[derive(Subcommand)]
pub enum Command {
    /// Lists queued messages, oldest of each shard first.
    List {
        #[command(flatten)]
        place: Place,
        /// Most messages to list.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Goes on behind this queue id.
        #[arg(long, value_name = "QUEUE-ID")]
        after: Option<String>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Shows one message: its recipients, their state and last reply.
    Show {
        #[command(flatten)]
        place: Place,
        #[arg(value_name = "QUEUE-ID")]
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Tries delayed messages now; next hops that could not be reached are asked at once.
    Retry {
        /// Lifts what rules for replies hold back or slow down on the way of these messages.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        steering: Steering,
    },
    /// Lets messages wait until they are released; a restart does not release them.
    Hold(Steering),
    /// Lets held messages go.
    Release(Steering),
    /// Gives messages up: their senders get a report.
    Bounce {
        /// Nobody gets a report.
        #[arg(long)]
        quiet: bool,
        #[command(flatten)]
        steering: Steering,
    },
    /// Sends messages to another next hop than routes lead to.
    Reroute {
        /// `smtp://ADDRESS:PORT`, `lmtp://ADDRESS:PORT`; `default` takes an earlier order back.
        #[arg(long, value_name = "NEXT-HOP")]
        to: String,
        #[command(flatten)]
        steering: Steering,
    },
    /// Makes messages transactional or bulk.
    Class {
        /// `transactional`, which goes ahead, or `bulk`.
        #[arg(value_name = "CLASS")]
        to: String,
        #[command(flatten)]
        steering: Steering,
    },
    /// Lets mail wait until it is resumed, what comes later included; restarts do not end it.
    Suspend(Suspend),
    /// Lets suspended mail go on.
    Resume(Resume),
    /// Lists the suspensions that stand, by order of operators and by rules for replies: who gave
    /// them, when and why.
    Suspensions {
        #[command(flatten)]
        place: Place,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Counts what is queued by age, the most first.
    Top {
        #[command(flatten)]
        place: Place,
        /// What the rows are.
        #[arg(long, value_enum, default_value_t = By::Domain)]
        by: By,
        /// Most rows.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Counts what is queued, by shard and by age.
    Stats {
        #[command(flatten)]
        place: Place,
        /// One JSON object: the shards in order, and all together.
        #[arg(long)]
        json: bool,
    },
}

/// What the rows of a survey are.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum By {
    Domain,
    Site,
    Tenant,
    Campaign,
}

impl By {
    fn as_str(self) -> &'static str {
        match self {
            By::Domain => "domain",
            By::Site => "site",
            By::Tenant => "tenant",
            By::Campaign => "campaign",
        }
    }
}

impl From<By> for SurveyBy {
    fn from(by: By) -> Self {
        match by {
            By::Domain => SurveyBy::Domain,
            By::Site => SurveyBy::Site,
            By::Tenant => SurveyBy::Tenant,
            By::Campaign => SurveyBy::Campaign,
        }
    }
}

pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { place, limit, after, json } => {
            let request = Request::QueueList { after: after.clone(), count_max: *limit };
            let mut header = list_header();
            ask(place, &request, &mut |line| match line {
                Line::Message(message) if *json => print(&json_line(&message)),
                Line::Message(message) => {
                    // Above the first row only.
                    print(&std::mem::take(&mut header))?;
                    print(&list_row(&message, unix_ms()))
                }
                _ => Ok(()),
            })
        }
        Command::Show { place, id, json } => {
            let request = Request::QueueShow { id: id.clone() };
            ask(place, &request, &mut |line| match line {
                Line::Message(message) if *json => print(&json_line(&message)),
                Line::Message(message) => print(&show_page(&message, unix_ms())),
                _ => Ok(()),
            })
        }
        Command::Retry { force, steering } => {
            orders::steer(SteerOrder::Retry { force: *force }, steering)
        }
        Command::Hold(steering) => orders::steer(SteerOrder::Hold, steering),
        Command::Release(steering) => orders::steer(SteerOrder::Release, steering),
        Command::Bounce { quiet, steering } => {
            orders::steer(SteerOrder::Bounce { quiet: *quiet }, steering)
        }
        Command::Reroute { to, steering } => {
            let to = Some(to.clone()).filter(|to| to != "default");
            orders::steer(SteerOrder::Reroute { to }, steering)
        }
        Command::Class { to, steering } => {
            orders::steer(SteerOrder::Class { to: to.clone() }, steering)
        }
        Command::Suspend(suspend) => orders::suspend(suspend),
        Command::Resume(resume) => orders::resume(resume),
        Command::Suspensions { place, json } => orders::list(place, *json),
        Command::Top { place, by, limit, json } => {
            let request = Request::QueueSurvey { by: (*by).into(), count_max: *limit };
            let mut header = survey::header(by.as_str());
            ask(place, &request, &mut |line| match line {
                Line::Row { name, ages } if *json => print(&survey::json(by.as_str(), &name, ages)),
                Line::Row { name, ages } => {
                    // Above the first row only.
                    print(&std::mem::take(&mut header))?;
                    print(&survey::row(&name, &ages))
                }
                _ => Ok(()),
            })
        }
        Command::Stats { place, json } => {
            let mut shards = Vec::new();
            ask(place, &Request::QueueStats, &mut |line| {
                if let Line::Stats { shard, stats } = line {
                    shards.push(OfShard { shard, stats });
                }
                Ok(())
            })?;
            let total = add_up(&shards);
            let (mut ages, mut table) = (serde_json::Map::new(), survey::header("state"));
            let request = Request::QueueSurvey { by: SurveyBy::State, count_max: usize::MAX };
            ask(place, &request, &mut |line| {
                if let Line::Row { name, ages: row } = line {
                    table.push_str(&survey::row(&name, &row));
                    ages.insert(name, survey::by_bound(row));
                }
                Ok(())
            })?;
            if *json {
                let answer = serde_json::json!({ "shards": shards, "all": total, "ages": ages });
                return print(&json_line(&answer));
            }
            print(&stats_table(&shards, &total, unix_ms()))?;
            if ages.is_empty() { Ok(()) } else { print(&format!("\n{table}")) }
        }
    }
}

fn list_header() -> String {
    format!(
        "{:<16} {:>8} {:>9}  {:<9} {:>6}  REVERSE-PATH -> RECIPIENTS\n",
        "QUEUE-ID", "AGE", "SIZE", "STATE", "TRIES"
    )
}

fn list_row(message: &QueuedMessage, now_ms: u64) -> String {
    if let Some(reason) = &message.unreadable {
        return format!("{:<16}  UNREADABLE: {}\n", message.id, printable(reason));
    }
    let mut recipients = message.tasks.iter().flat_map(|task| &task.recipients);
    let first = recipients.next().map_or("", |recipient| recipient.address.as_str());
    let more = match recipients.count() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    // The state of the task that is furthest behind is what an operator looks for.
    let worst = message.tasks.iter().max_by_key(|task| task.attempts);
    let (state, attempts) = worst.map_or(("settled", 0), |task| (&task.state, task.attempts));
    format!(
        "{:<16} {:>8} {:>9}  {state:<9} {attempts:>6}  <{}> -> {}{more}\n",
        message.id,
        age(now_ms.saturating_sub(message.accepted_ms)),
        size(message.content_bytes),
        printable(&message.reverse_path),
        printable(first),
    )
}

pub fn show_page(message: &QueuedMessage, now_ms: u64) -> String {
    if message.unreadable.is_some() {
        return list_row(message, now_ms);
    }
    let mut text = String::new();
    // Writing into memory does not fail, here and below.
    let _ = writeln!(text, "queue id      {}", message.id);
    let _ = writeln!(text, "reverse-path  <{}>", printable(&message.reverse_path));
    let _ = writeln!(text, "content       {}", size(message.content_bytes));
    let queued = age(now_ms.saturating_sub(message.accepted_ms));
    let left = age(message.expires_ms.saturating_sub(now_ms));
    let _ = writeln!(text, "queued        for {queued}, expires in {left}");
    // That of the message, whatever becomes of its tasks.
    if let Some(tls) = message.tasks.first().map(|task| &task.tls).filter(|tls| !tls.is_empty()) {
        let _ = writeln!(text, "TLS           {tls} (RFC 8689)");
    }
    for task in &message.tasks {
        let next = match task.due_ms {
            0 => String::new(),
            due_ms => format!(", next attempt in {}", age(due_ms.saturating_sub(now_ms))),
        };
        let _ = writeln!(
            text,
            "{}: {}, {} attempts{next}",
            printable(&task.destination),
            task.state,
            task.attempts,
        );
        for recipient in &task.recipients {
            let address = printable(&recipient.address);
            let reply = printable(&recipient.reply);
            let _ = writeln!(text, "  <{address}> {} {reply}", recipient.state);
        }
    }
    text
}

/// A row of the table.
#[derive(serde::Serialize)]
struct OfShard {
    shard: usize,
    #[serde(flatten)]
    stats: QueueStats,
}

fn add_up(shards: &[OfShard]) -> QueueStats {
    let mut total = QueueStats::default();
    for it in shards.iter().map(|it| &it.stats) {
        total.messages += it.messages;
        total.tasks += it.tasks;
        total.ready += it.ready;
        total.in_flight += it.in_flight;
        total.delayed += it.delayed;
        total.held += it.held;
        total.kept_bytes += it.kept_bytes;
    }
    total.oldest_ms = shards.iter().filter_map(|it| it.stats.oldest_ms).min();
    total
}

fn stats_table(shards: &[OfShard], total: &QueueStats, now_ms: u64) -> String {
    let mut text = format!(
        "{:<6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>6} {:>9} {:>9}\n",
        "SHARD", "MESSAGES", "TASKS", "READY", "IN FLIGHT", "DELAYED", "HELD", "CACHED", "OLDEST"
    );
    let mut row = |name: &str, it: &QueueStats| {
        let oldest = it.oldest_ms.map_or("-".to_owned(), |ms| age(now_ms.saturating_sub(ms)));
        let _ = writeln!(
            text,
            "{name:<6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>6} {:>9} {oldest:>9}",
            it.messages,
            it.tasks,
            it.ready,
            it.in_flight,
            it.delayed,
            it.held,
            size(it.kept_bytes as u64),
        );
    };
    for it in shards {
        row(&it.shard.to_string(), &it.stats);
    }
    row("all", total);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ask::{QueuedRecipient, QueuedTask};

    fn message() -> QueuedMessage {
        QueuedMessage {
            id: "0.1.3K7".into(),
            reverse_path: "a@example.test".into(),
            content_bytes: 4096,
            accepted_ms: 1_000,
            expires_ms: 432_001_000,
            tasks: vec![QueuedTask {
                destination: "b.test".into(),
                state: "delayed".into(),
                attempts: 2,
                due_ms: 301_000,
                recipients: ["x@b.test", "y@b.test"]
                    .map(|address| QueuedRecipient {
                        address: address.into(),
                        state: "delayed".into(),
                        reply: "451 4.3.0 \u{1b}[2Jlater".into(),
                    })
                    .into(),
                site: Some("smtp://192.0.2.1:25".into()),
                expires_ms: 432_001_000,
                delay_notice_ms: None,
                rerouted_to: None,
                tenant: String::new(),
                campaign: String::new(),
                class: "bulk".into(),
                tls: "required".into(),
                waited: Vec::new(),
                as_of_ms: 181_000,
            }],
            unreadable: None,
        }
    }

    #[test]
    fn a_message_is_one_row_and_one_page() {
        let row = list_row(&message(), 181_000);
        assert_eq!(
            row,
            "0.1.3K7                3m     4096B  delayed        2  <a@example.test> -> x@b.test \
             and 1 more\n"
        );
        let page = show_page(&message(), 181_000);
        assert!(page.contains("b.test: delayed, 2 attempts, next attempt in 2m\n"), "{page}");
        assert!(page.contains("queued        for 3m, expires in 4d\n"), "{page}");
        assert!(page.contains("TLS           required (RFC 8689)\n"), "{page}");
        assert!(page.contains("  <y@b.test> delayed 451 4.3.0 \\u{1b}[2Jlater\n"), "{page}");
    }

    #[test]
    fn shards_add_up() {
        let one = QueueStats { messages: 2, oldest_ms: Some(5_000), ..QueueStats::default() };
        let two = QueueStats { messages: 3, kept_bytes: 20 << 10, ..QueueStats::default() };
        let shards = [OfShard { shard: 0, stats: one }, OfShard { shard: 3, stats: two }];
        let table = stats_table(&shards, &add_up(&shards), 65_000);
        let last: Vec<&str> = table.lines().last().expect("rows").split_whitespace().collect();
        assert_eq!(last, ["all", "5", "0", "0", "0", "0", "0", "20KiB", "60s"]);
    }
}
