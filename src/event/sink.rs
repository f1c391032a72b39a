//! From a shard to the log file, without ever waiting for the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use super::notice::notice;

use crossbeam_queue::ArrayQueue;

/// Where a shard puts finished lines. Clones lead to the same log.
#[derive(Clone)]
pub struct LogSink {
    shared: Arc<Shared>,
    writer: Thread,
}

struct Shared {
    batches: ArrayQueue<Vec<u8>>,
    reopen: AtomicBool,
    stop: AtomicBool,
    dropped_batches: AtomicU64,
}

impl LogSink {
    /// Hands over whole lines. When the log is too slow they are dropped and counted.
    pub fn append(&self, lines: Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        if self.shared.batches.push(lines).is_err() {
            self.shared.dropped_batches.fetch_add(1, Ordering::Relaxed);
        }
        // The writer looks by itself; it is woken only when it cannot wait.
        if self.shared.batches.len() == BATCHES_MAX / 2 {
            self.writer.unpark();
        }
    }

    /// Batches lost to a slow or failing log since the start; a failed write loses all it gathered.
    pub fn dropped_batches(&self) -> u64 {
        self.shared.dropped_batches.load(Ordering::Relaxed)
    }

    /// Opens the file anew before the next line: it has been rotated.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::SeqCst);
        self.writer.unpark();
    }
}

/// The thread that writes the log.
pub struct LogWriter {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl LogWriter {
    /// Starts writing to the end of the file, or to standard output.
    pub fn start(path: Option<PathBuf>) -> io::Result<(LogWriter, LogSink)> {
        let shared = Arc::new(Shared {
            batches: ArrayQueue::new(BATCHES_MAX),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            dropped_batches: AtomicU64::new(0),
        });
        let mut output = open(path.as_ref())?;
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("log-file".into()).spawn(move || {
            let mut batch = Vec::new();
            let mut batch_count = 0;
            let mut is_failing = false;
            loop {
                // Read before the batches: what was appended before the stop is then among them.
                let stopping = of_thread.stop.load(Ordering::SeqCst);
                while batch.len() < WRITE_BYTES
                    && let Some(lines) = of_thread.batches.pop()
                {
                    batch.extend_from_slice(&lines);
                    batch_count += 1;
                }
                if of_thread.reopen.swap(false, Ordering::SeqCst) {
                    match open(path.as_ref()) {
                        Ok(file) => output = file,
                        Err(error) => notice!("ringpost: log not reopened: {error}"),
                    }
                }
                if !batch.is_empty() {
                    let written = output.write_all(&batch);
                    if let Err(error) = &written {
                        of_thread.dropped_batches.fetch_add(batch_count, Ordering::Relaxed);
                        // Once for a full disk, not once for each write.
                        if !is_failing {
                            notice!("ringpost: log not written: {error}");
                        }
                    }
                    is_failing = written.is_err();
                    batch.clear();
                    batch_count = 0;
                    continue;
                }
                if stopping {
                    return;
                }
                std::thread::park_timeout(LOOK_PERIOD);
            }
        })?;
        let sink = LogSink { shared: shared.clone(), writer: thread.thread().clone() };
        Ok((LogWriter { shared, thread }, sink))
    }

    /// Writes what is waiting, then ends.
    pub fn stop(self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
        // A writer that panicked has said so.
        let _ = self.thread.join();
    }
}

fn open(path: Option<&PathBuf>) -> io::Result<Box<dyn Write + Send>> {
    Ok(match path {
        Some(path) => {
            let file: File = OpenOptions::new().create(true).append(true).open(path)?;
            Box::new(file)
        }
        None => Box::new(io::stdout()),
    })
}

/// Batches waiting for the writer.
const BATCHES_MAX: usize = 16 * 1024;
/// How often the writer looks for lines: waking it for each would cost more than the line.
const LOOK_PERIOD: Duration = Duration::from_millis(50);
/// What one write gathers at most.
const WRITE_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_log_goes_on_in_a_new_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, rotated) = (directory.path().join("log"), directory.path().join("log.1"));
        let (writer, sink) = LogWriter::start(Some(path.clone())).expect("started");
        std::fs::rename(&path, &rotated).expect("rotated");
        sink.reopen();
        sink.append(b"one\n".to_vec());
        sink.append(b"two\n".to_vec());
        writer.stop();
        assert_eq!(std::fs::read(&rotated).expect("there"), b"");
        assert_eq!(std::fs::read(&path).expect("there"), b"one\ntwo\n");
        assert_eq!(sink.dropped_batches(), 0);
    }

    #[test]
    fn what_was_appended_before_the_stop_is_written() {
        let directory = tempfile::tempdir().expect("a directory");
        for round in 0..200 {
            let path = directory.path().join(round.to_string());
            let (writer, sink) = LogWriter::start(Some(path.clone())).expect("started");
            sink.append(b"line\n".to_vec());
            writer.stop();
            assert_eq!(std::fs::read(&path).expect("there"), b"line\n", "round {round}");
        }
    }

    #[test]
    fn what_a_full_disk_refuses_is_counted() {
        let (writer, sink) = LogWriter::start(Some("/dev/full".into())).expect("started");
        sink.append(b"one\n".to_vec());
        sink.append(b"two\n".to_vec());
        writer.stop();
        assert_eq!(sink.dropped_batches(), 2);
    }

    #[test]
    fn what_a_stuck_writer_leaves_no_room_for_is_dropped_and_counted() {
        let shared = Arc::new(Shared {
            batches: ArrayQueue::new(2),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            dropped_batches: AtomicU64::new(0),
        });
        // Nobody takes anything out.
        let sink = LogSink { shared, writer: std::thread::current() };
        for _ in 0..5 {
            sink.append(b"line\n".to_vec());
        }
        assert_eq!(sink.dropped_batches(), 3);
    }
}
