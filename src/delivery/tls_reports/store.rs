//! The files of reports: what outlives the process, and reports for the operator.
//!
//! One thread writes; what is handed in waits in a short line or is refused.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::ledger::Ledger;
use crate::event::notice;
use crate::limits::{TLS_REPORT_FILES_MAX, TLS_REPORT_FILES_WAITING_MAX};
use crate::runtime::{thread, whole_file};

/// The way to the files. Clones are the same.
#[derive(Clone)]
pub struct ReportStore {
    jobs: SyncSender<Job>,
    /// What a predecessor of this process left, until it is taken.
    restored: Arc<Mutex<Option<Ledger>>>,
}

enum Job {
    State(String),
    Report { directory: PathBuf, name: String, text: String },
    Synchronise(SyncSender<()>),
}

impl ReportStore {
    /// Reads the file in `data_dir` and starts the thread that writes it. One that makes no sense
    /// is set aside, and standard error told of it.
    pub fn start(data_dir: &Path) -> io::Result<ReportStore> {
        let path = data_dir.join(FILE_NAME);
        let restored = Arc::new(Mutex::new(Some(restore(&path))));
        let (jobs, receiver) = sync_channel(TLS_REPORT_FILES_WAITING_MAX);
        thread::spawn("tls-reports", None, move || run(&path, &receiver))?;
        Ok(ReportStore { jobs, restored })
    }

    /// What a predecessor left; nothing the second time.
    pub(super) fn take_restored(&self) -> Ledger {
        let restored = self.restored.lock().unwrap_or_else(PoisonError::into_inner).take();
        restored.unwrap_or_default()
    }

    /// Has the state written. False when too much waits.
    pub(super) fn save(&self, state: String) -> bool {
        self.jobs.try_send(Job::State(state)).is_ok()
    }

    /// Has a report written as a file of `directory`. False when too much waits.
    pub(super) fn write(&self, directory: PathBuf, name: String, text: String) -> bool {
        self.jobs.try_send(Job::Report { directory, name, text }).is_ok()
    }

    /// Tells once all that was handed in before is written. `None` when too much waits.
    pub(super) fn synchronise(&self) -> Option<Receiver<()>> {
        let (sender, done) = sync_channel(1);
        self.jobs.try_send(Job::Synchronise(sender)).is_ok().then_some(done)
    }
}

fn restore(path: &Path) -> Ledger {
    let problem = match fs::read_to_string(path) {
        Ok(text) => match Ledger::read(&text) {
            Ok(ledger) => return ledger,
            Err(_) => "damaged".to_owned(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ledger::default(),
        Err(error) => error.to_string(),
    };
    let aside = path.with_extension("damaged");
    let moved = match fs::rename(path, &aside) {
        Ok(()) => format!("set aside as {}", aside.display()),
        Err(error) => format!("cannot be set aside: {error}"),
    };
    let path = path.display();
    notice!("ringpost: {path}: {problem}, {moved}: TLS reports of its period are incomplete");
    Ledger::default()
}

/// Until every shard is gone.
fn run(path: &Path, jobs: &Receiver<Job>) {
    let mut is_failing = false;
    while let Ok(job) = jobs.recv() {
        let (path, written) = match job {
            Job::State(text) => (path.to_owned(), whole_file::replace(path, text.as_bytes())),
            Job::Report { directory, name, text } => {
                let path = directory.join(name);
                let written = fs::create_dir_all(&directory)
                    .and_then(|()| whole_file::replace(&path, text.as_bytes()));
                let written = written.and_then(|()| limit(&directory));
                (path, written)
            }
            Job::Synchronise(done) => {
                // Whoever asked may have gone.
                let _ = done.try_send(());
                continue;
            }
        };
        if let Err(error) = &written
            && !is_failing
        {
            notice!("ringpost: cannot write {}: {error}", path.display());
        }
        is_failing = written.is_err();
    }
}

/// Removes the oldest reports where there are more than a directory is to hold.
fn limit(directory: &Path) -> io::Result<()> {
    let mut reports = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "json") {
            reports.push(path);
        }
    }
    if reports.len() <= TLS_REPORT_FILES_MAX {
        return Ok(());
    }
    // The third part of a name is when its period began.
    let start = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        name.split('!').nth(2).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
    };
    reports.sort_by_key(start);
    let too_many = reports.len() - TLS_REPORT_FILES_MAX;
    reports.iter().take(too_many).try_for_each(fs::remove_file)
}

const FILE_NAME: &str = "tls-reports.state";

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(store: &ReportStore) {
        store.synchronise().expect("room").recv().expect("written");
    }

    #[test]
    fn what_was_saved_is_restored_and_what_was_damaged_is_set_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(FILE_NAME);
        let store = ReportStore::start(directory.path()).expect("a thread");
        let text = store.take_restored().write();
        assert!(store.save(text.clone()));
        wait(&store);
        assert_eq!(fs::read_to_string(&path).expect("a file"), text);
        fs::write(&path, "nonsense").expect("written");
        let mut ledger = ReportStore::start(directory.path()).expect("a thread").take_restored();
        assert_eq!(ledger.write(), text, "as if there were none");
        let aside = directory.path().join("tls-reports.damaged");
        assert_eq!(fs::read_to_string(aside).expect("a file"), "nonsense");
    }

    #[test]
    fn a_directory_holds_so_many_reports_and_the_oldest_go() {
        let directory = tempfile::tempdir().expect("a directory");
        let reports = directory.path().join("reports");
        fs::create_dir(&reports).expect("made");
        for number in 0..TLS_REPORT_FILES_MAX {
            let name = format!("mx!d{number}.test!{}!1.json", 1000 + number);
            fs::write(reports.join(name), "").expect("written");
        }
        let store = ReportStore::start(directory.path()).expect("a thread");
        assert!(store.write(reports.clone(), "mx!a.test!9999!1.json".into(), "x".into()));
        wait(&store);
        assert_eq!(fs::read_dir(&reports).expect("there").count(), TLS_REPORT_FILES_MAX);
        assert!(!reports.join("mx!d0.test!1000!1.json").exists());
        assert!(reports.join("mx!a.test!9999!1.json").exists());
    }
}
