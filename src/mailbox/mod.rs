//! Mailboxes: accounts, their mailboxes, the messages in them, and the journal that holds them.
//!
//! **Owns** what the records ACCOUNT, MAILBOX, BODY, APPEND, FLAGS, EXPUNGE, COPY and KEYWORD mean
//! (docs/MAILBOX.md), and the index over the messages of a partition.
//! **Uses** `journal`, and of `proto` the words of IMAP. Never `queue`.
//! **Holds** that UIDs of a mailbox increase and are never used again, and that state moves by
//! `Partition::apply` alone, in operation and in replay.
//! **Start reading** at `codec::Operation`, then `partition`.

mod bodies;
pub mod codec;
mod index;
pub mod items;
pub mod partition;
pub mod plan;

pub use index::{Entry, Mailbox, Status};
pub use partition::{Account, Change, Partition};
pub use plan::{Delivered, Delivery, Expunging, Planned, Refusal};
