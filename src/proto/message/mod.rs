//! The header section: what we add in front, and what we look at (RFC 5322).

pub mod date;
pub mod header;
pub mod received;
