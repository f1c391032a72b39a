//! IMAP sessions (RFC 9051, RFC 3501) over `proto::imap` and `mailbox::Store`.
//!
//! Start reading at `view`: which messages a client knows, by their sequence numbers.

pub mod view;
