//! Protocols as pure machines: octets and `now` in, events and octets out.
//!
//! **Owns** the grammar and the state of SMTP and LMTP on both ends, and of a server's IMAP and
//! POP3; trace fields, DSNs, what a next hop's reply means, DNS messages, MTA-STS policies, the
//! parts of a message, what a proxy says of its client, and what is said to proxies of ours.
//! **Uses** `mail`, `limits`. Never a socket, a file, a clock or a task.
//! **Holds** that no input, cut anywhere, makes it panic, allocate without bound, or answer
//! otherwise than the same input in one piece.
//! **Start reading** at `smtp::server::Server::next`, then `smtp::client::Client`.

pub mod classify;
pub mod dns;
pub mod dsn;
pub mod imap;
pub mod message;
pub mod mime;
pub mod mta_sts;
pub mod pop3;
pub mod proxy;
pub mod sasl;
pub mod smtp;
pub mod socks5;
pub mod tlsrpt;
pub mod xtext;
