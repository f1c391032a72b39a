//! MIME (RFC 2045 to 2049) as a mailbox needs it: where each part of a message lies, and what its
//! header section says.
//!
//! Start reading at `scan::Scanner`, which looks at content as it streams by and leaves a
//! `structure::Structure` behind.

pub mod address;
pub mod casemap;
pub mod charset;
pub mod date;
pub mod encoded_word;
pub mod field;
pub mod haystack;
mod lexer;
pub mod media_type;
pub mod preview;
pub mod scan;
pub mod stored;
pub mod structure;
pub mod transfer;

#[cfg(test)]
mod tests;
