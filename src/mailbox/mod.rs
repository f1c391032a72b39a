//! Mailboxes: accounts, their mailboxes, the messages in them, and the journal that holds them.
//!
//! **Owns** what the records ACCOUNT, MAILBOX, BODY, APPEND, FLAGS, EXPUNGE, COPY and KEYWORD mean
//! (docs/MAILBOX.md), the index over the messages of a partition, and their summaries.
//! **Uses** `journal`, `runtime`, `config`, and of `proto` the words of IMAP and MIME. Never
//! `queue`.
//! **Holds** that UIDs of a mailbox increase and are never used again, that state moves by
//! `Partition::apply` alone, in operation and in replay, and that nothing is told of before it is
//! durable.
//! **Start reading** at `codec::Operation`, then `partition`; at `store::Store` for what sessions
//! and deliveries call.

mod bodies;
mod checkpoint;
pub mod codec;
mod compaction;
mod content;
mod date;
mod draft;
mod index;
pub mod items;
mod mend;
mod opening;
pub mod partition;
pub mod plan;
mod post;
mod recovery;
mod replies;
mod store;
mod stores;
mod summaries;
pub mod summary_blocks;
mod summary_files;

pub use content::{Content, ContentError, Piece};
pub use date::InternalDate;
pub use draft::Draft;
pub use index::{Entry, Mailbox, Status};
pub use mend::Mend;
pub use opening::{OpenedPartition, PartitionError, count_partitions, open_partition};
pub use partition::{Account, Change, Deleted, Kept, Partition, Usage};
pub use plan::{Delivered, Delivery, Expunging, Planned, Refusal, Target};
pub use post::{Committed, MailboxMemo, Post, PostDraft};
pub use recovery::Recovered;
pub use store::{Author, Changes, Copied, StartError, Store, Stored, Watch};
pub use stores::Stores;
pub use summaries::KeptSummary;
