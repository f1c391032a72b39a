//! IMAP (RFC 9051, RFC 3501) on the server's side.

pub mod envelope;
pub mod string;
pub mod structure;
