//! The file in which long windows outlive the process: who writes it, and when.
//!
//! One thread for all shards: what they hand in while a file is written goes into the next.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, sync_channel};

use super::SiteKey;
use super::meter::Record;
use super::record::{self, Clocks, Records};
use crate::event::notice;
use crate::limits::LEASE_RECORDS_WAITING_MAX;
use crate::runtime::{clock, thread, whole_file};

/// The way to the file, for each shard. Clones are the same.
#[derive(Clone)]
pub struct RecordStore {
    jobs: SyncSender<Job>,
    restored: Arc<Restored>,
}

/// What a predecessor of this process left.
pub enum Restored {
    Records(Records),
    /// There is a file and it says nothing: whatever is recorded counts as used up.
    Unknown,
}

struct Job {
    site: SiteKey,
    record: Record,
    done: Sender<Recorded>,
}

/// A record is durable, or could not be made so.
pub struct Recorded {
    pub site: SiteKey,
    pub durable: bool,
}

impl RecordStore {
    /// Reads the file in `data_dir` and starts the thread that writes it. A file that cannot be
    /// read is reported on standard error.
    pub fn start(data_dir: &Path) -> io::Result<RecordStore> {
        let path = data_dir.join(FILE_NAME);
        let restored = Arc::new(restore(&path));
        let records = match &*restored {
            Restored::Records(records) => records.clone(),
            Restored::Unknown => Records::new(),
        };
        let (jobs, receiver) = sync_channel(LEASE_RECORDS_WAITING_MAX);
        thread::spawn("leases", None, move || run(&path, records, &receiver))?;
        Ok(RecordStore { jobs, restored })
    }

    pub fn restored(&self) -> &Restored {
        &self.restored
    }

    /// Has `record` written; `done` hears of it. False when too many wait: try again later.
    pub fn write(&self, site: SiteKey, record: Record, done: Sender<Recorded>) -> bool {
        match self.jobs.try_send(Job { site, record, done }) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

fn restore(path: &Path) -> Restored {
    let problem = match fs::read_to_string(path) {
        Ok(text) => match record::read(&text, &clocks()) {
            Ok(records) => return Restored::Records(records),
            Err(damaged) => format!("damaged at line {}", damaged.line),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Restored::Records(Records::new());
        }
        Err(error) => error.to_string(),
    };
    notice!(
        "ringpost: {}: {problem}: every limit a minute, an hour or a day counts as used up from \
         now on; remove the file and start again to begin afresh",
        path.display()
    );
    Restored::Unknown
}

/// Until every shard is gone.
fn run(path: &Path, mut records: Records, jobs: &Receiver<Job>) {
    let mut is_failing = false;
    while let Ok(first) = jobs.recv() {
        let mut batch = vec![first];
        batch.extend(jobs.try_iter());
        for job in &batch {
            records.insert(job.site.clone(), job.record.clone());
        }
        let written = write(path, &records);
        if let Err(error) = &written
            && !is_failing
        {
            notice!("ringpost: cannot write {}: {error}: mail under limits waits", path.display());
        }
        is_failing = written.is_err();
        for job in batch {
            // A shard that has ended needs no answer.
            let _ = job.done.send(Recorded { site: job.site, durable: !is_failing });
        }
    }
}

/// The whole file or nothing of it.
fn write(path: &Path, records: &Records) -> io::Result<()> {
    whole_file::replace(path, record::write(records, &clocks()).as_bytes())
}

/// Where the system does not say, the wall clock stands in for the one since boot.
fn clocks() -> Clocks {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let uptime = read("/proc/uptime");
    let seconds: Option<f64> = uptime.split(' ').next().and_then(|text| text.parse().ok());
    let boot_id = read("/proc/sys/kernel/random/boot_id");
    Clocks {
        boot_id: if seconds.is_some() { boot_id.trim().to_owned() } else { String::new() },
        boot_ms: (seconds.unwrap_or(0.0) * 1000.0) as u64,
        unix_ms: clock::unix_ms(),
        monotonic_ms: clock::monotonic_ms(),
    }
}

const FILE_NAME: &str = "leases";

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::super::meter::Cooling;
    use super::*;
    use crate::routing::Hop;

    #[test]
    fn what_was_written_is_restored_and_damage_is_not_taken_for_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let start = || RecordStore::start(directory.path()).expect("started");
        let hop = Hop::parse("smtp://192.0.2.1:25").expect("a hop");
        let site = SiteKey { hop, source: None };
        let store = start();
        assert!(matches!(store.restored(), Restored::Records(records) if records.is_empty()));
        let cooling = Cooling { free_ms: clock::monotonic_ms() + 3_000_000, count: 4 };
        let record = Record { reserve: 3, windows: vec![(3_600_000, vec![cooling])] };
        let (done, recorded) = channel();
        assert!(store.write(site.clone(), record, done));
        assert!(recorded.recv().expect("an answer").durable);
        match start().restored() {
            Restored::Records(records) => {
                let windows = &records[&site].windows;
                let counts: Vec<u32> = windows[0].1.iter().map(|it| it.count).collect();
                assert_eq!(counts, [4, 3]);
            }
            Restored::Unknown => panic!("it was readable"),
        }
        let path = directory.path().join(FILE_NAME);
        let text = fs::read_to_string(&path).expect("a text");
        fs::write(&path, &text[..text.len() - 3]).expect("cut");
        assert!(matches!(start().restored(), Restored::Unknown));
    }
}
