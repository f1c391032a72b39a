//! What is said in words, in one place.

use crate::mailbox::Refusal;
use crate::proto::imap::response::{Condition, PlainCode};

/// What a client that has logged in may use.
pub fn capabilities(message_bytes_max: u64) -> String {
    format!("{CAPABILITIES} APPENDLIMIT={message_bytes_max}")
}

/// What a client may use before it has logged in, beside what depends on its connection.
pub const CAPABILITIES_EARLY: &str = "IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR ID ENABLE IDLE";
const CAPABILITIES: &str = "IMAP4rev1 IMAP4rev2 LITERAL+ ID ENABLE IDLE NAMESPACE UIDPLUS \
                            UNSELECT MOVE CHILDREN LIST-EXTENDED LIST-STATUS SPECIAL-USE \
                            CREATE-SPECIAL-USE CONDSTORE QRESYNC ESEARCH SEARCHRES WITHIN \
                            SORT SORT=DISPLAY ESORT THREAD=ORDEREDSUBJECT THREAD=REFERENCES \
                            STATUS=SIZE PREVIEW SAVEDATE QUOTA QUOTA=RES-STORAGE \
                            QUOTA=RES-MESSAGE OBJECTID COMPRESS=DEFLATE UTF8=ACCEPT \
                            MULTIAPPEND BINARY";

/// The response to ID (RFC 2971).
pub const ID: &[u8] = b"* ID (\"name\" \"ringpost\")\r\n";

/// What the client hears when the store does not do something.
pub fn of_refusal(refusal: Refusal) -> (Condition, Option<PlainCode>, &'static str) {
    let (code, text) = match refusal {
        Refusal::NoSuchAccount => (Some(PlainCode::NonExistent), "The account was removed"),
        Refusal::NoSuchMailbox => (Some(PlainCode::NonExistent), "There is no such mailbox"),
        Refusal::Exists => (Some(PlainCode::AlreadyExists), "There is such a mailbox already"),
        Refusal::IsInbox => (Some(PlainCode::Cannot), "INBOX stays"),
        // Nobody sets a password here.
        Refusal::BadSecret => (Some(PlainCode::ServerBug), "That is no password"),
        Refusal::Unavailable => (Some(PlainCode::Unavailable), "Not now; try again later"),
        Refusal::BadName => (Some(PlainCode::Cannot), "That is no name, or too long a one"),
        Refusal::TooManyMailboxes => (Some(PlainCode::Limit), "The account has too many mailboxes"),
        Refusal::TooManySubscriptions => (Some(PlainCode::Limit), "Too many subscriptions"),
        Refusal::TooManyKeywords => (Some(PlainCode::Limit), "The mailbox has too many keywords"),
        Refusal::OverQuota => (Some(PlainCode::OverQuota), "The account is full"),
        Refusal::UidsUsedUp => (Some(PlainCode::Limit), "The mailbox has no UIDs left"),
        Refusal::TooLarge => (Some(PlainCode::TooBig), "That is too large"),
        Refusal::NoSpace => (Some(PlainCode::Unavailable), "The disk is full; try again later"),
        Refusal::TooManyDrafts => {
            (Some(PlainCode::Unavailable), "Too many messages come at once; try again later")
        }
    };
    (Condition::No, code, text)
}
