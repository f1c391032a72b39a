//! SMTP (RFC 5321) and LMTP (RFC 2033).

pub mod client;
pub mod command;
pub mod data;
pub mod prober;
pub mod reply_reader;
pub mod server;
