//! IMAP sessions (RFC 9051, RFC 3501) over `proto::imap` and `mailbox::Store`.
//!
//! Start reading at `login`, then at `session`: an authenticated client from command to command.
//! Commands are carried out in `select` (SELECT and what ends it), `mailboxes` (CREATE to STATUS),
//! `messages` (STORE, COPY, MOVE, EXPUNGE), `append`, `quota` and `reading` (FETCH, SEARCH, SORT,
//! THREAD), which goes over stored messages by `fetch`, `search`, `sort` and `thread`. What a
//! client knows of a mailbox is `view`, what it was told of it `selected`.

mod answer;
mod append;
mod binary;
mod criteria;
pub mod deflate;
pub mod fetch;
mod listing;
mod login;
mod mailboxes;
mod messages;
mod octets;
pub mod pattern;
mod quota;
mod reading;
pub mod search;
mod select;
pub mod selected;
mod session;
pub mod sink;
pub mod sort;
pub mod thread;
pub mod view;
mod wire;

pub(super) use login::greet;
pub(super) use session::serve;

use crate::config::Config;

/// What sessions have in common.
pub struct Shared {
    /// Longest message of APPEND.
    message_bytes_max: u64,
    /// What a client that has logged in may use.
    capabilities: String,
}

impl Shared {
    pub fn new(config: &Config) -> Shared {
        let message_bytes_max = config.reception.message_bytes_max;
        Shared { message_bytes_max, capabilities: answer::capabilities(message_bytes_max) }
    }
}
