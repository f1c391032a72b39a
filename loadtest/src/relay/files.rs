//! Programs and files of a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::child::Process;
use crate::audit::DeliveryId;
use crate::failure::Failure;
use crate::ids;
use crate::message::{self, Corpus};
use crate::stop;

/// The sink makes its record before it listens; it listens at once after.
pub fn wait_for_file(sink: &mut Process, path: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + START_PATIENCE;
    while !path.exists() {
        if let Some(status) = sink.ended() {
            let words = sink.last_words();
            return Err(Failure::unavailable(format!("the sink ended ({status}): {words}")));
        }
        if Instant::now() > deadline {
            return Err(Failure::unavailable("the sink does not start"));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// This program: source and sink are started from it.
pub fn own_program() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::system(format!("cannot find this program: {error}")))
}

/// The ringpost to test: what the user named, or the one beside this program.
pub fn server_program(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let program = match named {
        Some(program) => program.to_owned(),
        None => own_program()?.with_file_name("ringpost"),
    };
    if program.exists() {
        return Ok(program);
    }
    Err(Failure::no_input(format!(
        "there is no {}: build it (cargo build --release), or name it with --server",
        program.display()
    )))
}

/// The last line of a log: the report of a process that printed progress before.
pub fn last_json<T: DeserializeOwned>(log: &Path, who: &str) -> Result<T, Failure> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let line = text.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
    serde_json::from_str(line).map_err(|_| {
        let words: Vec<&str> = text.lines().rev().take(3).collect();
        Failure::unavailable(format!("{who} gave no report: {}", words.join("; ")))
    })
}

/// All ids of a record.
pub fn read_ids(path: &Path) -> Result<Vec<DeliveryId>, Failure> {
    ids::read(path)
        .map(|(_, ids)| ids)
        .map_err(|error| Failure::no_input(format!("{}: {error}", path.display())))
}

/// How many ids a record holds by now.
pub fn count_ids(path: &Path) -> Result<u64, Failure> {
    ids::count(path).map_err(|error| Failure::no_input(format!("{}: {error}", path.display())))
}

/// An error when the user wants the run to end.
pub fn check_stop() -> Result<(), Failure> {
    if stop::requested() { Err(Failure::unavailable("stopped by a signal")) } else { Ok(()) }
}

/// Messages stored by a sink that differ from what was sent. `index_of` gives the index in the run
/// for a sequence number.
pub fn mismatched(
    directory: &Path,
    corpus: &Corpus,
    index_of: impl Fn(u64) -> u64,
) -> Result<u64, Failure> {
    let unreadable =
        |error| Failure::no_input(format!("cannot read {}: {error}", directory.display()));
    let mut mismatched = 0;
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "eml") {
            let received = fs::read(&path).map_err(unreadable)?;
            mismatched += u64::from(!message::arrived_intact(&received, corpus, &index_of));
        }
    }
    Ok(mismatched)
}

const START_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
