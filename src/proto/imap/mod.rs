//! IMAP (RFC 9051, RFC 3501) on the server's side.
//!
//! Start reading at `reader::Reader::next`: octets of a client in, typed commands out. What a
//! server says is written by `response`, `envelope`, `structure`, and the types themselves.

pub mod append;
pub mod base_subject;
pub mod command;
pub mod cursor;
pub mod date;
pub mod envelope;
pub mod fetch;
pub mod flag;
pub mod list;
pub mod mailbox;
pub mod reader;
pub mod response;
pub mod search;
pub mod section;
pub mod select;
pub mod set;
pub mod store;
pub mod string;
pub mod structure;
pub mod summary;
pub mod threading;
pub mod utf7;
