//! The header section: what we add in front, what we look at, what we take out (RFC 5322).

pub mod date;
pub mod delivered;
pub mod header;
pub mod received;
pub mod removal;
