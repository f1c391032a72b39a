//! The envelope: what travels beside the content (RFC 5321 §2.3.1).

use std::net::IpAddr;

use super::class::Stream;

/// One accepted message without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Mailbox text, empty for the null reverse-path.
    pub reverse_path: Box<str>,
    /// Not empty.
    pub recipients: Vec<Recipient>,
    pub flags: EnvelopeFlags,
    /// Unix milliseconds at which responsibility was taken.
    pub accepted_ms: u64,
    /// Unix milliseconds before which no attempt is made (RFC 4865); 0 for at once.
    pub release_ms: u64,
    pub stream: Stream,
    /// ENVID of RFC 3461 §4.4, still in xtext.
    pub envelope_id: Option<Box<str>>,
    /// Where it came from; `None` for messages made here.
    pub client: Option<IpAddr>,
    /// Header fields added in front of the content: Received and what follows from it. CRLF lines.
    pub header_prefix: Vec<u8>,
    pub content_bytes: u64,
    /// XXH3-128 of the content.
    pub content_hash: u128,
}

/// One forward-path of an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Mailbox text. Without a domain only for `Postmaster`.
    pub address: Box<str>,
    /// ORCPT of RFC 3461 §4.2, `type;xtext`.
    pub original_recipient: Option<Box<str>>,
    pub notify: Notify,
}

impl Recipient {
    /// A recipient of whom nothing more was said.
    pub fn new(address: &str) -> Self {
        let notify = Notify::DEFAULT;
        Self { address: address.into(), original_recipient: None, notify }
    }

    /// The domain, empty for a bare `Postmaster`. Quoted local-parts may hold an `@`.
    pub fn domain(&self) -> &str {
        self.address.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

/// NOTIFY of RFC 3461 §4.1. `DEFAULT` when the client did not say: failures, and delays by policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Notify(pub u8);

impl Notify {
    pub const DEFAULT: Notify = Notify(0);
    pub const NEVER: u8 = 1;
    pub const SUCCESS: u8 = 2;
    pub const FAILURE: u8 = 4;
    pub const DELAY: u8 = 8;

    /// Whether a failure is to be reported to the reverse-path.
    pub fn wants_failure(self) -> bool {
        self == Notify::DEFAULT || self.0 & Self::FAILURE != 0
    }

    /// Whether a delay is to be reported, where the server does that for those who said nothing
    /// (`unasked`) or only for those who asked.
    pub fn wants_delay(self, unasked: bool) -> bool {
        self.0 & Self::DELAY != 0 || (unasked && self == Notify::DEFAULT)
    }

    /// Whether it is to be reported that the recipient was Delivered, or Relayed to where nobody
    /// will report on it.
    pub fn wants_success(self) -> bool {
        self.0 & Self::SUCCESS != 0
    }
}

/// What the client said of the message, and what was seen in its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EnvelopeFlags(pub u16);

impl EnvelopeFlags {
    /// BODY=8BITMIME (RFC 6152).
    pub const EIGHT_BIT_MIME: u16 = 1;
    /// SMTPUTF8 (RFC 6531).
    pub const SMTPUTF8: u16 = 2;
    /// RET=FULL (RFC 3461 §4.3).
    pub const RETURN_FULL: u16 = 4;
    /// RET=HDRS.
    pub const RETURN_HEADERS: u16 = 8;
    /// No line of prefix and content begins with a dot: DATA sends the stored bytes as they are.
    pub const NO_LEADING_DOT: u16 = 16;
    /// The content holds an octet above 127.
    pub const EIGHT_BIT_CONTENT: u16 = 32;
    /// Made here to report on another message: its failure is reported to the postmaster at most.
    pub const NOTIFICATION: u16 = 64;
    /// Made here to report that a report Failed: its own failure is never reported.
    pub const DOUBLE_BOUNCE: u16 = 128;

    pub fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }

    pub fn set(&mut self, flag: u16) {
        self.0 |= flag;
    }

    pub fn clear(&mut self, flag: u16) {
        self.0 &= !flag;
    }
}
