//! Asking shards from a thread that may wait.

use std::fmt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::runtime::inbox::InboxSender;
use crate::shard::ask::Ask;
use crate::shard::{self, Memo};

/// The way to the shards.
pub trait Shards: Send + Sync {
    fn count(&self) -> usize;

    /// Never waits; gives the question back when the inbox of `shard` (0-based) is full.
    fn ask(&self, shard: usize, ask: Ask) -> Result<(), Ask>;
}

impl Shards for Vec<InboxSender<Memo>> {
    fn count(&self) -> usize {
        self.len()
    }

    fn ask(&self, shard: usize, ask: Ask) -> Result<(), Ask> {
        shard::ask_through(&self[shard], ask)
    }
}

/// A shard did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskError {
    /// Its inbox stayed full for as long as we waited.
    Full { shard: usize },
    /// It took the question and said nothing in time.
    Silent { shard: usize, waited: Duration },
    /// It is stopping, or gone.
    Gone { shard: usize },
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::Full { shard } => write!(f, "shard {shard}: inbox full, overloaded or hung"),
            AskError::Silent { shard, waited } => {
                write!(f, "shard {shard}: no answer within {waited:?}, overloaded or hung")
            }
            AskError::Gone { shard } => write!(f, "shard {shard}: stopping"),
        }
    }
}

/// Puts `ask` into the inbox of one shard, waiting at most `time_max` for room.
pub fn tell(
    shards: &dyn Shards,
    shard: usize,
    mut ask: Ask,
    time_max: Duration,
) -> Result<(), AskError> {
    let start = Instant::now();
    loop {
        match shards.ask(shard, ask) {
            Ok(()) => return Ok(()),
            Err(_) if start.elapsed() >= time_max => return Err(AskError::Full { shard }),
            Err(returned) => ask = returned,
        }
        std::thread::sleep(ROOM_POLL);
    }
}

/// Asks one shard, and waits at most `time_max` for room and answer each.
pub fn ask_one<T>(
    shards: &dyn Shards,
    shard: usize,
    time_max: Duration,
    make: impl FnOnce(Sender<T>) -> Ask,
) -> Result<T, AskError> {
    let (reply, answer) = mpsc::channel();
    tell(shards, shard, make(reply), time_max)?;
    wait(&answer, shard, time_max)
}

/// Asks all shards at once; the answers are in shard order.
pub fn ask_all<T>(
    shards: &dyn Shards,
    time_max: Duration,
    make: impl Fn(Sender<T>) -> Ask,
) -> Vec<Result<T, AskError>> {
    let start = Instant::now();
    let asked: Vec<_> = (0..shards.count())
        .map(|shard| {
            let (reply, answer) = mpsc::channel();
            let left = time_max.saturating_sub(start.elapsed());
            tell(shards, shard, make(reply), left).map(|()| answer)
        })
        .collect();
    let answers = asked.into_iter().enumerate().map(|(shard, asked)| {
        let left = time_max.saturating_sub(start.elapsed());
        wait(&asked?, shard, left).map_err(|error| match error {
            AskError::Silent { .. } => AskError::Silent { shard, waited: time_max },
            error => error,
        })
    });
    answers.collect()
}

fn wait<T>(answer: &Receiver<T>, shard: usize, time_max: Duration) -> Result<T, AskError> {
    answer.recv_timeout(time_max).map_err(|error| match error {
        RecvTimeoutError::Timeout => AskError::Silent { shard, waited: time_max },
        RecvTimeoutError::Disconnected => AskError::Gone { shard },
    })
}

/// How often a full inbox is tried again.
const ROOM_POLL: Duration = Duration::from_millis(5);

#[cfg(test)]
pub mod fake {
    use super::*;

    /// Inboxes of one question each, with nobody behind them.
    pub struct FakeShards(Vec<mpsc::SyncSender<Ask>>);

    pub fn shards(count: usize) -> (FakeShards, Vec<Receiver<Ask>>) {
        let (senders, inboxes) = (0..count).map(|_| mpsc::sync_channel(1)).unzip();
        (FakeShards(senders), inboxes)
    }

    impl Shards for FakeShards {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn ask(&self, shard: usize, ask: Ask) -> Result<(), Ask> {
            self.0[shard].try_send(ask).map_err(|error| match error {
                mpsc::TrySendError::Full(ask) | mpsc::TrySendError::Disconnected(ask) => ask,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ask::QueueStats;

    #[test]
    fn a_shard_that_does_not_answer_is_named_and_the_others_are_heard() {
        let (shards, inboxes) = fake::shards(3);
        // Shard 0 answers, shard 1 has gone after taking it, shard 2 is full.
        shards.ask(2, Ask::Drain { time_max: Duration::ZERO }).ok().expect("room");
        let mut inboxes = inboxes.into_iter();
        let (first, second) = (inboxes.next().expect("one"), inboxes.next().expect("two"));
        let answering = std::thread::spawn(move || {
            let Ok(Ask::QueueStats(reply)) = first.recv() else { panic!("a question") };
            reply.send(QueueStats { messages: 5, ..QueueStats::default() }).expect("asked");
            drop(second.recv());
        });
        let answers = ask_all(&shards, Duration::from_millis(200), Ask::QueueStats);
        answering.join().expect("no panic");
        assert_eq!(answers[0].as_ref().map(|it| it.messages), Ok(5));
        assert_eq!(answers[1], Err(AskError::Gone { shard: 1 }));
        assert_eq!(answers[2], Err(AskError::Full { shard: 2 }));
    }
}
