//! Mailboxes as RFC 5321 §4.1.2 writes them, with RFC 6531 internationalised addresses.

/// A valid mailbox over borrowed text: `local-part@domain`, or a bare `Postmaster`.
///
/// The text keeps its form; source routes and angle brackets are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRef<'a> {
    text: &'a str,
    local_part_bytes: usize,
}

/// Whether octets above 127 may stand in an address: only after SMTPUTF8 (RFC 6531 §3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Utf8 {
    Allowed,
    Refused,
}

/// Why a text is no mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    Syntax,
    LocalPartTooLong,
    DomainTooLong,
    /// It would be one with SMTPUTF8.
    NonAscii,
}

impl<'a> AddressRef<'a> {
    pub fn as_str(self) -> &'a str {
        self.text
    }

    pub fn local_part(self) -> &'a str {
        &self.text[..self.local_part_bytes]
    }

    /// The domain or address literal; empty for a bare `Postmaster`.
    pub fn domain(self) -> &'a str {
        self.text.get(self.local_part_bytes + 1..).unwrap_or("")
    }
}
