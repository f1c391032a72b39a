//! `ringpost fsck`: reads the journals of a server that does not run, and says what is in them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::Source;
use super::client::{json_line, print};
use super::exit::{Exit, Failure};
use crate::fsck::{self, Mailbox, Message, Report, Slots};
use crate::mail::QueueId;
use crate::runtime::segment_file;

/// Which data directory, and what to show of it.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The data directory, instead of that of the configuration.
    #[arg(value_name = "DIR", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
    /// Shows every queued message and every mailbox too.
    #[arg(long)]
    list: bool,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// Reads everything, changes nothing. Fails with `Exit::Found` where something is wrong.
pub fn run(options: &Options) -> Result<(), Failure> {
    let (data_dir, node) = match &options.data_dir {
        Some(data_dir) => (data_dir.clone(), 0),
        None => {
            let config = options.source.load()?;
            (config.data_dir.clone(), config.node)
        }
    };
    let mut found = Found::default();
    for (shard, directory) in shard_directories(&data_dir)? {
        let (store, mut files) = open(&directory, "shard", shard)?;
        let report = fsck::check(&store, shard, &mut files);
        found.shards.push((shard, report.map_err(|error| unreadable(&directory, &error))?));
    }
    for (partition, directory) in journals(&data_dir.join("mail"), "p")? {
        let (store, mut files) = open(&directory, "partition", partition)?;
        let report = fsck::check_mail(&store, partition, &mut files);
        found.partitions.push((partition, report.map_err(|error| unreadable(&directory, &error))?));
    }
    let name = |shard, message| QueueId { node, shard, message };
    if options.json {
        print(&json_line(&found.in_json(options.list, name)))?;
    } else {
        print(&found.in_words(options.list, name))?;
    }
    match found.problem_count() {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Found, "1 problem found; keep a copy of the disk")),
        count => {
            let text = format!("{count} problems found; keep a copy of the disk");
            Err(Failure::new(Exit::Found, text))
        }
    }
}

/// The journals of queues below a data directory, by shard.
fn shard_directories(data_dir: &Path) -> Result<Vec<(u16, PathBuf)>, Failure> {
    fs::read_dir(data_dir).map_err(|error| unreadable(data_dir, &error))?;
    let shards = journals(data_dir, "shard-")?;
    if shards.is_empty() {
        let text = format!("{}: no shard-NN in it; not a data directory", data_dir.display());
        return Err(Failure::new(Exit::Data, text));
    }
    Ok(shards)
}

/// Directories in `directory` that are called `prefix` and a number, by that; none where it is not
/// there.
fn journals(directory: &Path, prefix: &str) -> Result<Vec<(u16, PathBuf)>, Failure> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| unreadable(directory, &error))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(directory, &error))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(Ok(number)) = name.and_then(|name| name.strip_prefix(prefix)).map(str::parse) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The store and the segments of a journal of this kind and number.
fn open(directory: &Path, kind: &str, number: u16) -> Result<([u8; 16], Files), Failure> {
    eprintln!("ringpost: reading {}", directory.display());
    let files = Files::open(directory, kind, number)?;
    Ok((files.store, files))
}

/// The segments of one journal, locked for as long as they are read.
struct Files {
    store: [u8; 16],
    segments: Vec<(File, u64)>,
    _lock: File,
}

impl Files {
    fn open(directory: &Path, kind: &str, number: u16) -> Result<Files, Failure> {
        let path = directory.join("LOCK");
        let lock = OpenOptions::new().read(true).open(&path);
        let lock = lock.map_err(|error| unreadable(&path, &error))?;
        match segment_file::lock(&lock) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let text = format!("{}: a server has it open; stop it first", path.display());
                return Err(Failure::new(Exit::Temporary, text));
            }
            locked => locked.map_err(|error| unreadable(&path, &error))?,
        }
        let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
        let store = read_lock(&text, kind, number).ok_or_else(|| {
            let text = format!("{}: not the lock of this {kind}'s journal", path.display());
            Failure::new(Exit::Data, text)
        })?;
        let mut segments = Vec::new();
        loop {
            let path = directory.join(format!("seg.{:06}", segments.len()));
            match File::open(&path) {
                Ok(file) => {
                    let bytes = file.metadata().map_err(|error| unreadable(&path, &error))?.len();
                    segments.push((file, bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(unreadable(&path, &error)),
            }
        }
        Ok(Files { store, segments, _lock: lock })
    }
}

impl Slots for Files {
    fn count(&self) -> usize {
        self.segments.len()
    }

    fn bytes(&self, slot: usize) -> u64 {
        self.segments.get(slot).map_or(0, |(_, bytes)| *bytes)
    }

    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let (file, _) = self.segments.get(slot).ok_or(io::ErrorKind::NotFound)?;
        file.read_exact_at(buffer, offset)
    }
}

/// The store's name in `ringpost store <32 hex digits> shard <N>`, or `partition <N>`.
fn read_lock(text: &str, kind: &str, number: u16) -> Option<[u8; 16]> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let ["ringpost", "store", hex, of_kind, of_number] = words[..] else { return None };
    if hex.len() != 32 || of_kind != kind || of_number.parse() != Ok(number) {
        return None;
    }
    Some(u128::from_str_radix(hex, 16).ok()?.to_be_bytes())
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::Permission,
        io::ErrorKind::NotFound => Exit::Data,
        _ => Exit::InputOutput,
    };
    Failure::new(exit, format!("{}: {error}", path.display()))
}

/// What was read, by number.
#[derive(Default)]
struct Found {
    shards: Vec<(u16, Report<Message>)>,
    partitions: Vec<(u16, Report<Mailbox>)>,
}

impl Found {
    fn problem_count(&self) -> usize {
        let of_shards = self.shards.iter().map(|(_, report)| report.problems.len());
        let of_partitions = self.partitions.iter().map(|(_, report)| report.problems.len());
        of_shards.chain(of_partitions).sum()
    }

    fn in_json(&self, lists: bool, name: impl Fn(u16, u64) -> QueueId) -> serde_json::Value {
        let shards = self.shards.iter().map(|(shard, report)| {
            let messages = report.entries.iter().map(|message| {
                json!({
                    "id": name(*shard, message.id).to_string(),
                    "accepted_ms": message.accepted_ms,
                    "content_bytes": message.content_bytes,
                    "open_recipients": message.open_recipients,
                    "is_whole": message.is_whole,
                })
            });
            let mut shown = journal_json(report);
            shown["shard"] = json!(shard);
            shown["messages"] = json!(report.entries.len());
            shown["open_recipients"] = json!(open_recipients(report));
            if lists {
                shown["queued"] = messages.collect();
            }
            shown
        });
        let partitions = self.partitions.iter().map(|(partition, report)| {
            let mailboxes = report.entries.iter().map(|mailbox| {
                json!({
                    "account": mailbox.account,
                    "mailbox": mailbox.name,
                    "uid_validity": mailbox.uid_validity,
                    "uid_next": mailbox.uid_next,
                    "highest_modseq": mailbox.highest_modseq,
                    "messages": mailbox.messages.len(),
                    "bytes": mailbox.bytes(),
                    "unreadable": mailbox.unreadable(),
                })
            });
            let mut shown = journal_json(report);
            shown["partition"] = json!(partition);
            shown["mailboxes"] = json!(report.entries.len());
            shown["messages"] = json!(sum(report, |mailbox| mailbox.messages.len()));
            shown["unreadable"] = json!(sum(report, Mailbox::unreadable));
            if lists {
                shown["kept"] = mailboxes.collect();
            }
            shown
        });
        let shards: Vec<serde_json::Value> = shards.collect();
        json!({ "shards": shards, "partitions": partitions.collect::<Vec<_>>() })
    }

    fn in_words(&self, lists: bool, name: impl Fn(u16, u64) -> QueueId) -> String {
        let mut text = head("SHARD", "MESSAGES", "RECIPIENTS");
        for (shard, report) in &self.shards {
            let (messages, recipients) = (report.entries.len(), open_recipients(report));
            text.push_str(&row(*shard, report, messages, recipients));
        }
        if !self.partitions.is_empty() {
            text.push_str(&head("PART", "MAILBOXES", "MESSAGES"));
        }
        for (partition, report) in &self.partitions {
            let messages = sum(report, |mailbox| mailbox.messages.len());
            text.push_str(&row(*partition, report, report.entries.len(), messages));
        }
        for (shard, report) in &self.shards {
            for problem in &report.problems {
                text.push_str(&format!("shard {shard}: {problem}\n"));
            }
            for message in report.entries.iter().filter(|_| lists) {
                text.push_str(&format!("{}\n", name(*shard, message.id)));
            }
        }
        for (partition, report) in &self.partitions {
            for problem in &report.problems {
                text.push_str(&format!("partition {partition}: {problem}\n"));
            }
            for mailbox in report.entries.iter().filter(|_| lists) {
                let Mailbox { account, name, messages, .. } = mailbox;
                let name = name.escape_debug();
                text.push_str(&format!("{account} {name}: {} messages\n", messages.len()));
            }
        }
        text
    }
}

/// What every journal has.
fn journal_json<T>(report: &Report<T>) -> serde_json::Value {
    let problems: Vec<String> = report.problems.iter().map(|it| it.to_string()).collect();
    json!({
        "segments": report.segments,
        "frames": report.frames,
        "dropped_frames": report.dropped_frames,
        "has_checkpoint": report.has_checkpoint,
        "problems": problems,
    })
}

fn head(of: &str, entries: &str, parts: &str) -> String {
    format!(
        "{of:>5} {:>8} {:>9} {:>8} {:>10} {entries:>9} {parts:>10} {:>8}\n",
        "SEGMENTS", "FRAMES", "DROPPED", "CHECKPOINT", "PROBLEMS"
    )
}

fn row<T>(number: u16, report: &Report<T>, entries: usize, parts: usize) -> String {
    format!(
        "{number:>5} {:>8} {:>9} {:>8} {:>10} {entries:>9} {parts:>10} {:>8}\n",
        report.segments,
        report.frames,
        report.dropped_frames,
        if report.has_checkpoint { "yes" } else { "no" },
        report.problems.len(),
    )
}

fn open_recipients(report: &Report<Message>) -> usize {
    report.entries.iter().map(|message| message.open_recipients).sum()
}

fn sum(report: &Report<Mailbox>, of: impl Fn(&Mailbox) -> usize) -> usize {
    report.entries.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_its_store_and_shard() {
        let text = "ringpost store 000102030405060708090a0b0c0d0e0f shard 3\n";
        let store: [u8; 16] = std::array::from_fn(|index| index as u8);
        assert_eq!(read_lock(text, "shard", 3), Some(store));
        assert_eq!(read_lock(text, "shard", 4), None, "another shard's");
        assert_eq!(read_lock(text, "partition", 3), None, "that of a queue");
        for end in 0..text.len() - 1 {
            assert_eq!(read_lock(&text[..end], "shard", 3), None, "cut at {end}");
        }
    }
}
