//! One record for each step of a message's life that an operator wants to find again, for each
//! order of an operator, and for a login that was refused; and lines of standard error.
//!
//! **Owns** the form of a record, and the way from a shard to the log file.
//! **Uses** `mail`.
//! **Holds** that text from strangers cannot forge a line, and that a slow log never holds up
//! mail, nor does whoever reads standard error: what does not fit is dropped and counted.
//! **Start reading** at `OutcomeRecord`.

mod login;
pub mod notice;
mod order;
mod outcome;
mod sink;

pub use login::RefusedLogin;
pub(crate) use notice::notice;
pub use order::OrderRecord;
pub use outcome::{Format, OutcomeRecord};
pub use sink::{LogSink, LogWriter};
