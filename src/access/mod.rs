//! Access: how people and programs read the mailboxes of their account.
//!
//! **Owns** IMAP sessions.
//! **Uses** `mailbox`, `proto::imap`, `runtime`. Never `queue`, `reception` or `delivery`.
//! **Holds** that a session tells of nothing that is not durable, that the numbers a client was
//! told stay good until it is told otherwise, and that an idle session keeps no buffer.
//! **Start reading** at `imap`.

pub mod imap;
