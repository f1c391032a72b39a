//! A second opinion on a journal: reads it by docs/QUEUE.md and docs/MAILBOX.md alone, slowly and
//! in full.
//!
//! **Owns** a reader of its own for every byte of a journal, and what is wrong in words.
//! **Uses** nothing of `journal`, `queue` or `mailbox`: where these and this room disagree, one is
//! wrong.
//! **Holds** that it writes nothing, and that it reads what no crash can leave behind as damage.
//! **Start reading** at `check`, or `check_mail` for the journal of a partition of mailboxes.

mod bytes;
mod frames;
mod mail;
mod mail_payload;
mod messages;
mod payload;
mod places;

use std::fmt;
use std::io;

pub use mail::{Letter, Mailbox};
pub use messages::Message;

/// The slots of one journal, as they can be read.
pub trait Slots {
    fn count(&self) -> usize;
    /// Length of a slot.
    fn bytes(&self, slot: usize) -> u64;
    /// Fills `buffer` from `offset` on.
    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// A record that recovery must show, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    pub kind: u8,
    pub id: u64,
    pub number: u32,
    pub slot: usize,
    pub offset: u64,
}

/// Reads the journal of `shard` in the store `store` and says what is queued and what is wrong.
pub fn check(store: &[u8; 16], shard: u16, slots: &mut dyn Slots) -> io::Result<Report<Message>> {
    let found = frames::find(store, shard, slots)?;
    messages::read(found, slots)
}

/// Reads the journal of a partition of mailboxes and says what is in these and what is wrong.
pub fn check_mail(
    store: &[u8; 16],
    partition: u16,
    slots: &mut dyn Slots,
) -> io::Result<Report<Mailbox>> {
    let found = frames::find(store, partition, slots)?;
    mail::read(found, slots)
}

/// The records that count, in order, of which the journal itself shows all but BEGIN, END and SEAL.
pub fn counted(store: &[u8; 16], shard: u16, slots: &mut dyn Slots) -> io::Result<Vec<Counted>> {
    let found = frames::find(store, shard, slots)?;
    let mut counted = Vec::new();
    for frame in &found.counted {
        frames::records(frame, slots, &mut |record| {
            let own = [bytes::kind::BEGIN, bytes::kind::END, bytes::kind::SEAL];
            if !own.contains(&record.kind) {
                let frames::Record { kind, id, number, slot, offset, .. } = record;
                counted.push(Counted { kind, id, number, slot, offset });
            }
        })?;
    }
    Ok(counted)
}

/// What a journal comes to.
#[derive(Clone, Debug)]
pub struct Report<T> {
    /// Segments whose frames may count.
    pub segments: usize,
    /// Frames that count from the checkpoint on, or all of them.
    pub frames: usize,
    /// Frames that nobody was told of.
    pub dropped_frames: usize,
    /// Whether a checkpoint was there to begin with.
    pub has_checkpoint: bool,
    /// Messages of a queue or mailboxes of a partition, by id.
    pub entries: Vec<T>,
    pub problems: Vec<Problem>,
}

impl<T> Report<T> {
    fn new(found: frames::Frames, entries: Vec<T>, problems: Vec<Problem>) -> Self {
        let mut all = found.problems;
        all.extend(problems);
        Report {
            segments: found.segments.len(),
            frames: found.counted.len(),
            dropped_frames: found.dropped,
            has_checkpoint: found.checkpoint.is_some(),
            entries,
            problems: all,
        }
    }
}

/// What is wrong in a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A segment of another version of the format.
    Version { slot: usize, version: u64 },
    /// A segment of the journal of another shard or partition.
    Foreign { slot: usize, shard: u64 },
    /// One of the two copies of a header is unreadable.
    HeaderCopy { slot: usize },
    /// Two segments of one epoch.
    TwoSegments { epoch: u64, slots: [usize; 2] },
    /// Two frames with one seq count.
    TwoFrames { seq: u64 },
    /// A record contradicts the frame around it.
    Record { slot: usize, offset: u64 },
    /// A checkpoint that the newest header names is not whole.
    Checkpoint { seq: u64 },
    /// Frames that somebody was told of cannot be read.
    Missing { first_seq: u64, last_seq: u64 },
    /// A record about mailboxes makes no sense.
    Payload { slot: usize, offset: u64 },
    /// Something about a message of a queue, in words.
    Message { id: u64, what: &'static str },
    /// Something about an account, a mailbox, or a message in it, in words. Empty for a partition.
    Mail { mailbox: String, uid: Option<u32>, what: &'static str },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Version { slot, version } => {
                write!(f, "seg.{slot:06}: version {version} of the format; this one reads 2")
            }
            Problem::Foreign { slot, shard } => {
                write!(f, "seg.{slot:06}: belongs to journal {shard}; was a file copied?")
            }
            Problem::HeaderCopy { slot } => {
                write!(f, "seg.{slot:06}: one copy of its header is unreadable")
            }
            Problem::TwoSegments { epoch, slots: [one, other] } => {
                write!(f, "seg.{one:06} and seg.{other:06}: both of epoch {epoch}")
            }
            Problem::TwoFrames { seq } => write!(f, "frame {seq} is there twice"),
            Problem::Record { slot, offset } => {
                write!(f, "seg.{slot:06} at {offset}: a record contradicts the frame around it")
            }
            Problem::Checkpoint { seq } => {
                write!(f, "the checkpoint that begins with frame {seq} is not whole")
            }
            Problem::Missing { first_seq, last_seq } => {
                write!(f, "frames {first_seq} to {last_seq} were acknowledged and are not there")
            }
            Problem::Payload { slot, offset } => {
                write!(f, "seg.{slot:06} at {offset}: a record about mailboxes makes no sense")
            }
            Problem::Message { id, what } => write!(f, "message {id}: {what}"),
            Problem::Mail { mailbox, uid: Some(uid), what } => {
                write!(f, "{mailbox}, UID {uid}: {what}")
            }
            Problem::Mail { mailbox, uid: None, what } if mailbox.is_empty() => f.write_str(what),
            Problem::Mail { mailbox, uid: None, what } => write!(f, "{mailbox}: {what}"),
        }
    }
}
