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
use crate::fsck::{self, Report, Slots};
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
    /// Shows every queued message too.
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
    let mut shards = Vec::new();
    for (shard, directory) in shard_directories(&data_dir)? {
        eprintln!("ringpost: reading {}", directory.display());
        let mut files = Files::open(&directory, shard)?;
        let store = files.store;
        let report = fsck::check(&store, shard, &mut files)
            .map_err(|error| unreadable(&directory, &error))?;
        shards.push((shard, report));
    }
    let name = |shard, message| QueueId { node, shard, message };
    if options.json {
        print(&json_line(&in_json(&shards, options.list, name)))?;
    } else {
        print(&in_words(&shards, options.list, name))?;
    }
    match shards.iter().map(|(_, report)| report.problems.len()).sum() {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Found, "1 problem found; keep a copy of the disk")),
        count => {
            let text = format!("{count} problems found; keep a copy of the disk");
            Err(Failure::new(Exit::Found, text))
        }
    }
}

/// The journals below a data directory, by shard.
fn shard_directories(data_dir: &Path) -> Result<Vec<(u16, PathBuf)>, Failure> {
    let entries = fs::read_dir(data_dir).map_err(|error| unreadable(data_dir, &error))?;
    let mut shards = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(data_dir, &error))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let shard = name.and_then(|name| name.strip_prefix("shard-")).map(str::parse);
        if let Some(Ok(shard)) = shard {
            shards.push((shard, path));
        }
    }
    shards.sort();
    if shards.is_empty() {
        let text = format!("{}: no shard-NN in it; not a data directory", data_dir.display());
        return Err(Failure::new(Exit::Data, text));
    }
    Ok(shards)
}

/// The segments of one journal, locked for as long as they are read.
struct Files {
    store: [u8; 16],
    segments: Vec<(File, u64)>,
    _lock: File,
}

impl Files {
    fn open(directory: &Path, shard: u16) -> Result<Files, Failure> {
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
        let store = read_lock(&text, shard).ok_or_else(|| {
            let text = format!("{}: not the lock of this shard's journal", path.display());
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

/// The store's name in `ringpost store <32 hex digits> shard <N>`.
fn read_lock(text: &str, shard: u16) -> Option<[u8; 16]> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let ["ringpost", "store", hex, "shard", number] = words[..] else { return None };
    if hex.len() != 32 || number.parse() != Ok(shard) {
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

fn in_json(
    shards: &[(u16, Report)],
    lists: bool,
    name: impl Fn(u16, u64) -> QueueId,
) -> serde_json::Value {
    let shards = shards.iter().map(|(shard, report)| {
        let messages = report.messages.iter().map(|message| {
            json!({
                "id": name(*shard, message.id).to_string(),
                "accepted_ms": message.accepted_ms,
                "content_bytes": message.content_bytes,
                "open_recipients": message.open_recipients,
                "is_whole": message.is_whole,
            })
        });
        let problems: Vec<String> = report.problems.iter().map(|it| it.to_string()).collect();
        let mut shown = json!({
            "shard": shard,
            "segments": report.segments,
            "frames": report.frames,
            "dropped_frames": report.dropped_frames,
            "has_checkpoint": report.has_checkpoint,
            "messages": report.messages.len(),
            "open_recipients": open_recipients(report),
            "problems": problems,
        });
        if lists {
            shown["queued"] = messages.collect();
        }
        shown
    });
    json!({ "shards": shards.collect::<Vec<_>>() })
}

fn in_words(shards: &[(u16, Report)], lists: bool, name: impl Fn(u16, u64) -> QueueId) -> String {
    let mut text = format!(
        "{:>5} {:>8} {:>9} {:>8} {:>10} {:>9} {:>10} {:>8}\n",
        "SHARD",
        "SEGMENTS",
        "FRAMES",
        "DROPPED",
        "CHECKPOINT",
        "MESSAGES",
        "RECIPIENTS",
        "PROBLEMS"
    );
    for (shard, report) in shards {
        text.push_str(&format!(
            "{shard:>5} {:>8} {:>9} {:>8} {:>10} {:>9} {:>10} {:>8}\n",
            report.segments,
            report.frames,
            report.dropped_frames,
            if report.has_checkpoint { "yes" } else { "no" },
            report.messages.len(),
            open_recipients(report),
            report.problems.len(),
        ));
    }
    for (shard, report) in shards {
        for problem in &report.problems {
            text.push_str(&format!("shard {shard}: {problem}\n"));
        }
        for message in report.messages.iter().filter(|_| lists) {
            text.push_str(&format!("{}\n", name(*shard, message.id)));
        }
    }
    text
}

fn open_recipients(report: &Report) -> usize {
    report.messages.iter().map(|message| message.open_recipients).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_its_store_and_shard() {
        let text = "ringpost store 000102030405060708090a0b0c0d0e0f shard 3\n";
        let store: [u8; 16] = std::array::from_fn(|index| index as u8);
        assert_eq!(read_lock(text, 3), Some(store));
        assert_eq!(read_lock(text, 4), None, "another shard's");
        for end in 0..text.len() - 1 {
            assert_eq!(read_lock(&text[..end], 3), None, "cut at {end}");
        }
    }
}
