//! Lines for whoever watches standard error, without ever waiting for who reads it: a pipe that
//! nobody empties is full after 64 KiB, and would hold up a shard with all its sessions.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;

/// Says a line as `eprintln!` does, and never waits once `start` has been called.
macro_rules! notice {
    ($($argument:tt)*) => { $crate::event::notice::say(format!($($argument)*)) };
}
pub(crate) use notice;

static NOTICES: OnceLock<Notices> = OnceLock::new();

struct Notices {
    queue: Queue,
    writer: Thread,
}

struct Queue {
    lines: ArrayQueue<String>,
    /// Lines that found room; counted before they are there.
    said: AtomicU64,
    /// Lines of these that are written, or could not be.
    done: AtomicU64,
    dropped: AtomicU64,
}

impl Queue {
    fn new(lines_max: usize) -> Self {
        Self {
            lines: ArrayQueue::new(lines_max),
            said: AtomicU64::new(0),
            done: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn say(&self, line: String) {
        self.said.fetch_add(1, Ordering::SeqCst);
        if self.lines.push(line).is_err() {
            self.said.fetch_sub(1, Ordering::SeqCst);
            self.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Writes what there is, and says how many lines were dropped since `told`.
    fn write(&self, output: &mut impl Write, told: &mut u64) {
        while let Some(mut line) = self.lines.pop() {
            line.push('\n');
            // Whoever read it may be gone: nobody else can be told.
            let _ = output.write_all(line.as_bytes());
            self.done.fetch_add(1, Ordering::SeqCst);
        }
        let dropped = self.dropped.load(Ordering::SeqCst);
        if dropped > *told {
            let lost = dropped - *told;
            let _ = writeln!(output, "ringpost: {lost} lines were not said here: nobody read them");
            *told = dropped;
        }
    }
}

/// From now on a thread writes what is said. Call it once, before there are executors.
pub fn start() -> io::Result<()> {
    // Past the lock of the standard library, which a write that does not end would hold.
    let mut output = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let writer = std::thread::Builder::new().name("notices".into()).spawn(move || {
        let mut told = 0;
        loop {
            if let Some(notices) = NOTICES.get() {
                notices.queue.write(&mut output, &mut told);
            }
            std::thread::park();
        }
    })?;
    let notices = Notices { queue: Queue::new(LINES_MAX), writer: writer.thread().clone() };
    assert!(NOTICES.set(notices).is_ok(), "it is called once");
    writer.thread().unpark();
    Ok(())
}

/// Whether lines are written by a thread.
pub fn is_started() -> bool {
    NOTICES.get().is_some()
}

/// Hands over a line; where there is no room it is dropped and counted. Before `start` it is
/// written at once.
pub fn say(line: String) {
    match NOTICES.get() {
        Some(notices) => {
            notices.queue.say(line);
            notices.writer.unpark();
        }
        None => eprintln!("{line}"),
    }
}

/// Waits until what was said is written, half a second at most: the process is about to end.
pub fn finish() {
    let Some(notices) = NOTICES.get() else { return };
    let end = Instant::now() + FINISH_TIME_MAX;
    let said = notices.queue.said.load(Ordering::SeqCst);
    while notices.queue.done.load(Ordering::SeqCst) < said && Instant::now() < end {
        std::thread::sleep(FINISH_POLL);
    }
}

/// Lines lost since the start because nobody read them.
pub fn dropped_lines() -> u64 {
    NOTICES.get().map_or(0, |notices| notices.queue.dropped.load(Ordering::SeqCst))
}

/// Lines that wait for the writer.
const LINES_MAX: usize = 1024;
const FINISH_TIME_MAX: Duration = Duration::from_millis(500);
const FINISH_POLL: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_counted_and_told_of_once() {
        let queue = Queue::new(2);
        for line in ["one", "two", "three", "four"] {
            queue.say(line.to_owned());
        }
        let (mut written, mut told) = (Vec::new(), 0);
        queue.write(&mut written, &mut told);
        queue.say("five".to_owned());
        queue.write(&mut written, &mut told);
        let expected = "one\ntwo\nringpost: 2 lines were not said here: nobody read them\nfive\n";
        assert_eq!(String::from_utf8(written).expect("UTF-8"), expected);
        let count = |it: &AtomicU64| it.load(Ordering::SeqCst);
        assert_eq!((count(&queue.said), count(&queue.done), count(&queue.dropped)), (3, 3, 2));
    }
}
