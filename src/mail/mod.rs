//! The nouns of mail: addresses, clients, envelopes, replies and their classes, enhanced status
//! codes, queue ids.
//!
//! **Owns** the types every other room speaks in. Values only: no state, no clock, no input and no
//! output.
//! **Uses** nothing but `limits`.
//! **Holds** that a value that exists is valid: what was parsed need not be checked again.
//! **Start reading** at `envelope::Envelope`.

pub mod account;
pub mod address;
pub mod class;
pub mod client;
pub mod envelope;
pub mod outcome;
pub mod protection;
pub mod queue_id;
pub mod reply;
pub mod reply_class;
pub mod status;
pub mod tls_outcome;
pub mod wait_cause;

pub use account::{Account, Accounts};
pub use address::{AddressError, AddressRef, Utf8};
pub use class::{Class, Stream, TlsTag};
pub use envelope::{Envelope, EnvelopeFlags, Recipient};
pub use outcome::{Outcome, RecipientOutcome};
pub use protection::{Protection, VerifiedBy};
pub use queue_id::QueueId;
pub use reply::Reply;
pub use reply_class::ReplyClass;
pub use status::EnhancedStatusCode;
pub use tls_outcome::{TlsFailure, TlsOutcome, TlsPolicyFound, TlsPolicyKind};
pub use wait_cause::WaitCause;
