//! IMAP sessions (RFC 9051, RFC 3501) over `proto::imap` and `mailbox::Store`.
//!
//! Start reading at `view`: which messages a client knows, by their sequence numbers; at
//! `fetch::Fetcher::run` for what is told of stored messages.

mod binary;
mod criteria;
pub mod fetch;
mod octets;
pub mod search;
pub mod sink;
pub mod sort;
pub mod thread;
pub mod view;
