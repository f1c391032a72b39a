//! The one log: frames, group commit, segments, recovery.
//!
//! **Owns** the bytes on disk (docs/QUEUE.md), the order in which they become durable, and the
//! life of segments. What records mean is their writer's business.
//! **Uses** `runtime` for the log thread and files, `config` for sizes.
//! **Holds** that a ticket is durable only after its frame and every earlier one are, that a frame
//! is recovered whole or not at all, that a commit never allocates file system space, and that a
//! failed write ends the process.
//! **Start reading** at `Journal`, then `core::Core` for the rules.

pub mod checkpoint;
pub mod core;
pub mod format;
mod log;
mod open;
pub mod payload;
pub mod recovery;
mod scan;
pub mod space;
pub mod upkeep;

pub use core::{Append, AppendError, Appended, Counters, Location, Ticket};
pub use format::{Record, flag, kind};
pub use log::{Journal, ReadError, RecordBuffer};
pub use open::{JournalConfig, OpenError, Owner, shards_from};
pub use recovery::{Recovery, Replay, Replayed};
pub use space::{Level, Space};
