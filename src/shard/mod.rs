//! A shard: one core, one executor, one complete mail system.
//!
//! **Owns** the life of a process: bind, open the journals, run, drain, stop; and `Memo`, the only
//! speech between shards and with the control thread.
//! **Uses** every room below; is known to `control` and `admin` only.
//! **Holds** that all listeners are bound before privileges are dropped, that no shard accepts
//! before every shard has recovered, and that a dead shard ends the process.
//! **Start reading** at `Bound::start`, then `run`.

pub mod ask;
pub mod mail_order;
mod memo;
mod run;
mod start;

pub use memo::Memo;
pub use start::{Bound, Shards, StartError, ask_through, bind};
