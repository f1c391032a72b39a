//! SMTP (RFC 5321) and LMTP (RFC 2033).

pub mod command;
pub mod data;
pub mod server;
