//! `ringpost queue` and `ringpost reload`: speak to a running server over its control socket.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};

use super::Source;
use super::exit::{Exit, Failure};
use crate::control::wire::{Line, Request, SteerOrder};
use crate::control::{self, Deadlined};
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
    /// Tries delayed messages now.
    Retry(Steering),
    /// Lets messages wait until they are released; a restart does not release them.
    Hold(Steering),
    /// Lets held messages go.
    Release(Steering),
    /// Gives messages up: their senders get a report.
    Bounce(Steering),
    /// Counts what is queued, by shard.
    Stats {
        #[command(flatten)]
        place: Place,
        /// One JSON object: the shards in order, and all together.
        #[arg(long)]
        json: bool,
    },
}

/// Which messages an order is for. Conditions that are given all hold.
#[derive(Args, Clone, Debug)]
pub struct Steering {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    which: Which,
    /// Counts and changes nothing.
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
struct Which {
    /// One message.
    #[arg(long, value_name = "QUEUE-ID")]
    id: Option<String>,
    /// Recipients at this domain; `*.example.test` for those below it.
    #[arg(long)]
    domain: Option<String>,
    /// Everything.
    #[arg(long, conflicts_with_all = ["id", "domain"])]
    all: bool,
}

/// Which server: by its configuration, or by its data directory.
#[derive(Args, Clone, Debug)]
pub struct Place {
    #[command(flatten)]
    source: Source,
    /// The server's data directory, instead of its configuration.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
}

impl Place {
    fn data_dir(&self) -> Result<PathBuf, Failure> {
        match &self.data_dir {
            Some(data_dir) => Ok(data_dir.clone()),
            None => Ok(self.source.load()?.data_dir.clone()),
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
        Command::Retry(steering) => steer(SteerOrder::Retry, steering),
        Command::Hold(steering) => steer(SteerOrder::Hold, steering),
        Command::Release(steering) => steer(SteerOrder::Release, steering),
        Command::Bounce(steering) => steer(SteerOrder::Bounce, steering),
        Command::Stats { place, json } => {
            let mut shards = Vec::new();
            ask(place, &Request::QueueStats, &mut |line| {
                if let Line::Stats { stats, .. } = line {
                    shards.push(stats);
                }
                Ok(())
            })?;
            let total = add_up(&shards);
            if *json {
                print(&json_line(&serde_json::json!({ "shards": shards, "all": total })))
            } else {
                print(&stats_table(&shards, &total, unix_ms()))
            }
        }
    }
}

fn steer(order: SteerOrder, steering: &Steering) -> Result<(), Failure> {
    let Steering { place, which, dry_run, json } = steering;
    let Which { id, domain, all } = which.clone();
    let request = Request::QueueSteer { order, id, domain, all, dry_run: *dry_run };
    let (mut matched, mut done) = (0, 0);
    ask(place, &request, &mut |line| {
        if let Line::Steered { matched: of_shard, done: of_these, .. } = line {
            matched += of_shard;
            done += of_these;
        }
        Ok(())
    })?;
    if *json {
        print(&json_line(&serde_json::json!({ "matched": matched, "done": done })))
    } else if *dry_run {
        print(&format!("{matched} tasks would be changed\n"))
    } else {
        print(&format!("{done} of {matched} tasks changed\n"))
    }
}

pub fn reload(place: &Place) -> Result<(), Failure> {
    ask(place, &Request::Reload, &mut |line| match line {
        Line::Note(text) => print(&format!("{text}\n")),
        _ => Ok(()),
    })
}

/// Sends one request and gives each line of the answer to `on_line`, up to the last.
fn ask(
    place: &Place,
    request: &Request,
    on_line: &mut dyn FnMut(Line) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let data_dir = place.data_dir()?;
    let path = control::socket_path(&data_dir);
    let stream = UnixStream::connect(&path).map_err(|error| no_server(&path, &error))?;
    let mut stream = Deadlined::new(stream, ANSWER_TIME_MAX);
    let mut line = serde_json::to_vec(request).expect("strings and numbers have a JSON form");
    line.push(b'\n');
    let lost = |error: io::Error| {
        Failure::new(Exit::Temporary, format!("{}: {error}; is it overloaded?", path.display()))
    };
    stream.write_all(&line).map_err(lost)?;
    let mut answer = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        answer.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(lost)?;
        match serde_json::from_slice(&line) {
            Ok(Line::End) => return Ok(()),
            Ok(Line::Error(text)) => return Err(Failure::new(Exit::Unavailable, printable(&text))),
            Ok(line) => on_line(line)?,
            Err(_) => {
                let text = format!("{}: the answer was cut off", path.display());
                return Err(Failure::new(Exit::Temporary, text));
            }
        }
    }
}

fn no_server(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::Unavailable,
            format!("no server answers at {path}; start it, or name its --config or --data-dir"),
        ),
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::Permission,
            format!("{path}: {error}; run this as the server's user or as root"),
        ),
        _ => Failure::new(Exit::Unavailable, format!("{path}: {error}")),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::new(Exit::InputOutput, error))
}

fn json_line(value: &impl serde::Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("strings and numbers have a JSON form");
    text.push('\n');
    text
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

fn show_page(message: &QueuedMessage, now_ms: u64) -> String {
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

fn add_up(shards: &[QueueStats]) -> QueueStats {
    let mut total = QueueStats::default();
    for it in shards {
        total.messages += it.messages;
        total.tasks += it.tasks;
        total.ready += it.ready;
        total.in_flight += it.in_flight;
        total.delayed += it.delayed;
        total.held += it.held;
        total.kept_bytes += it.kept_bytes;
    }
    total.oldest_ms = shards.iter().filter_map(|it| it.oldest_ms).min();
    total
}

fn stats_table(shards: &[QueueStats], total: &QueueStats, now_ms: u64) -> String {
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
    for (shard, it) in shards.iter().enumerate() {
        row(&shard.to_string(), it);
    }
    row("all", total);
    text
}

/// Text from strangers on a terminal: control characters are shown, not obeyed.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// The largest unit that leaves a number above zero.
fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    for (length, unit) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
        if seconds >= 2 * length {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{seconds}s")
}

fn size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 10 << shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// A message with the most recipients is far shorter.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// The server itself gives up after less.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(90);

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
        assert!(page.contains("  <y@b.test> delayed 451 4.3.0 \\u{1b}[2Jlater\n"), "{page}");
    }

    #[test]
    fn shards_add_up() {
        let one = QueueStats { messages: 2, oldest_ms: Some(5_000), ..QueueStats::default() };
        let two = QueueStats { messages: 3, kept_bytes: 20 << 10, ..QueueStats::default() };
        let shards = [one, two];
        let table = stats_table(&shards, &add_up(&shards), 65_000);
        let last: Vec<&str> = table.lines().last().expect("rows").split_whitespace().collect();
        assert_eq!(last, ["all", "5", "0", "0", "0", "0", "0", "20KiB", "60s"]);
    }

    #[test]
    fn a_missing_server_is_said_plainly() {
        let directory = tempfile::tempdir().expect("a directory");
        let place =
            Place { source: Source::default(), data_dir: Some(directory.path().to_owned()) };
        let failure = reload(&place).expect_err("nobody there");
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.text.starts_with("no server answers at "), "{}", failure.text);
    }
}
