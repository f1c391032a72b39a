//! Reports on how TLS towards a domain went (RFC 8460): who wants them, what they say, and how
//! they travel in a message.

mod mail;
mod record;
mod report;

pub use mail::{Mail, compose};
pub use record::{Receiver, receivers};
pub use report::{DateRange, FailureDetails, Policy, PolicyReport, Report, Summary};
