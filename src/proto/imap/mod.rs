//! IMAP (RFC 9051, RFC 3501) on the server's side.

pub mod append;
pub mod command;
pub mod cursor;
pub mod date;
pub mod envelope;
pub mod fetch;
pub mod flag;
pub mod list;
pub mod mailbox;
pub mod search;
pub mod select;
pub mod set;
pub mod store;
pub mod string;
pub mod structure;
pub mod utf7;
