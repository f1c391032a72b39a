//! IMAP (RFC 9051, RFC 3501) on the server's side.

pub mod envelope;
pub mod flag;
pub mod mailbox;
pub mod set;
pub mod string;
pub mod structure;
pub mod utf7;
