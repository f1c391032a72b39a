//! Asking shards from a thread that may wait.

use std::collections::HashMap;
use std::fmt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::queue::Steered;
use crate::runtime::inbox::InboxSender;
use crate::shard::ask::{Ask, Progress};
use crate::shard::{self, Memo};

/// The way to the shards.
pub trait Shards: Send + Sync {
    /// Their numbers, which queue ids name too, in ascending order. Some may be missing.
    fn numbers(&self) -> Vec<usize>;

    /// Never waits; gives the question back when the inbox of the shard with this number is full,
    /// or when there is none.
    fn ask(&self, shard: usize, ask: Ask) -> Result<(), Ask>;
}

impl Shards for Vec<(usize, InboxSender<Memo>)> {
    fn numbers(&self) -> Vec<usize> {
        self.iter().map(|(number, _)| *number).collect()
    }

    fn ask(&self, shard: usize, ask: Ask) -> Result<(), Ask> {
        match self.iter().find(|(number, _)| *number == shard) {
            Some((_, sender)) => shard::ask_through(sender, ask),
            None => Err(ask),
        }
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

/// Asks all shards at once; the answers are in shard order, each with the shard's number.
pub fn ask_all<T>(
    shards: &dyn Shards,
    time_max: Duration,
    make: impl Fn(Sender<T>) -> Ask,
) -> Vec<(usize, Result<T, AskError>)> {
    let start = Instant::now();
    let asked = shards.numbers().into_iter().map(|shard| {
        let (reply, answer) = mpsc::channel();
        let left = time_max.saturating_sub(start.elapsed());
        (shard, tell(shards, shard, make(reply), left).map(|()| answer))
    });
    // All are asked before the first is waited for.
    let asked: Vec<_> = asked.collect();
    let answers = asked.into_iter().map(|(shard, asked)| {
        let left = time_max.saturating_sub(start.elapsed());
        let answer = asked.and_then(|asked| {
            wait(&asked, shard, left).map_err(|error| match error {
                AskError::Silent { .. } => AskError::Silent { shard, waited: time_max },
                error => error,
            })
        });
        (shard, answer)
    });
    answers.collect()
}

/// Gives each shard of `numbers` an order whose progress comes over one channel, and calls
/// `on_progress` with the sums as they grow. Each must be heard of within `silence_max` again and
/// again; an error of `on_progress` ends the order.
pub fn follow<E: From<AskError>>(
    shards: &dyn Shards,
    numbers: &[usize],
    silence_max: Duration,
    make: impl Fn(Sender<Progress>) -> Ask,
    mut on_progress: impl FnMut(Steered) -> Result<(), E>,
) -> Result<Steered, E> {
    let (reply, answers) = mpsc::channel();
    for shard in numbers {
        tell(shards, *shard, make(reply.clone()), silence_max)?;
    }
    drop(reply);
    let mut last: HashMap<usize, Progress> = HashMap::new();
    loop {
        let is_open = |shard: &usize| !last.get(shard).is_some_and(|last| last.finished);
        let sum = |part: fn(&Steered) -> usize| last.values().map(|it| part(&it.steered)).sum();
        let all = Steered { matched: sum(|it| it.matched), done: sum(|it| it.done) };
        let Some(shard) = numbers.iter().copied().find(is_open) else { return Ok(all) };
        on_progress(all)?;
        let progress = wait(&answers, shard, silence_max)?;
        last.insert(progress.shard, progress);
    }
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
        fn numbers(&self) -> Vec<usize> {
            (0..self.0.len()).collect()
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
    use std::sync::Arc;

    use super::*;
    use crate::queue::{Mode, Obstacles, Order};
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
        assert_eq!(answers[0].1.as_ref().map(|it| it.messages), Ok(5));
        assert_eq!(answers[1].1, Err(AskError::Gone { shard: 1 }));
        assert_eq!(answers[2].1, Err(AskError::Full { shard: 2 }));
    }

    #[test]
    fn progress_adds_up_and_a_shard_that_falls_silent_is_named() {
        let order = |reply| Ask::QueueSteer {
            selection: Arc::default(),
            order: Order::Retry(Obstacles::Respected),
            mode: Mode::Count,
            reply,
        };
        let check = |second_finishes: bool| {
            let (shards, inboxes) = fake::shards(2);
            let answering = inboxes.into_iter().enumerate().map(|(shard, inbox)| {
                std::thread::spawn(move || {
                    let Ok(Ask::QueueSteer { reply, .. }) = inbox.recv() else { panic!("asked") };
                    for (matched, finished) in [(1, false), (2, shard == 0 || second_finishes)] {
                        let steered = Steered { matched, done: shard };
                        reply.send(Progress { shard, steered, finished }).expect("heard");
                    }
                    reply
                })
            });
            // Their ends of the channel stay until all are done.
            let answering: Vec<_> = answering.collect();
            let mut heard = Vec::new();
            let followed = follow(&shards, &[0, 1], Duration::from_millis(300), order, |it| {
                heard.push(it.matched);
                Ok(())
            });
            answering.into_iter().for_each(|thread| drop(thread.join().expect("no panic")));
            assert!(heard.is_sorted() && heard.first() == Some(&0), "{heard:?}");
            followed
        };
        let waited = Duration::from_millis(300);
        assert_eq!(check(true), Ok(Steered { matched: 4, done: 1 }));
        assert_eq!(check(false), Err(AskError::Silent { shard: 1, waited }));
    }
}
