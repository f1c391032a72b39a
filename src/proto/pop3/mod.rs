//! POP3 (RFC 1939) on the server's side.
//!
//! Start reading at `server::Server::next`.

pub mod command;
pub mod content;
pub mod server;
