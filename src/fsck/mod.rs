//! A second opinion on a journal: reads it by docs/QUEUE.md alone, slowly and in full.
//!
//! **Owns** a reader of its own for every byte of a journal, and what is wrong in words.
//! **Uses** nothing of `journal` or `queue`: where these two and this room disagree, one is wrong.
//! **Holds** that it writes nothing, and that it reads what no crash can leave behind as damage.
//! **Start reading** at `check`.

mod bytes;
mod frames;
mod messages;
mod payload;

use std::fmt;
use std::io;

pub use messages::{Message, Report};

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
pub fn check(store: &[u8; 16], shard: u16, slots: &mut dyn Slots) -> io::Result<Report> {
    let found = frames::find(store, shard, slots)?;
    messages::read(found, slots)
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

/// What is wrong in a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A segment of another version of the format.
    Version { slot: usize, version: u64 },
    /// A segment of another shard's journal.
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
    /// Something about a message, in words.
    Message { id: u64, what: &'static str },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Version { slot, version } => {
                write!(f, "seg.{slot:06}: version {version} of the format; this one reads 2")
            }
            Problem::Foreign { slot, shard } => {
                write!(f, "seg.{slot:06}: belongs to shard {shard}; was a file copied?")
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
            Problem::Message { id, what } => write!(f, "message {id}: {what}"),
        }
    }
}
