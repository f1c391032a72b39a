//! What whoever brings a message is told when a mailbox does not take it. `Pure.`

use super::plan::{Delivered, Refusal};
use crate::config::OverQuota;
use crate::mail::{Reply, status};

impl Refusal {
    /// The reply to a delivery: for good where another attempt would end the same way.
    pub fn reply(self, over_quota: OverQuota) -> Reply {
        match (self, over_quota) {
            (Refusal::NoSuchAccount | Refusal::NoSuchMailbox, _) => NO_MAILBOX,
            (Refusal::OverQuota, OverQuota::Defer) => OVER_QUOTA_FOR_NOW,
            (Refusal::OverQuota, OverQuota::Refuse) => OVER_QUOTA,
            (Refusal::TooLarge, _) => TOO_LARGE,
            (Refusal::UidsUsedUp, _) => NUMBERS_USED_UP,
            (Refusal::NoSpace | Refusal::TooManyDrafts, _) => NO_SPACE,
            (Refusal::Unavailable, _) => UNAVAILABLE,
            (
                Refusal::Exists
                | Refusal::IsInbox
                | Refusal::BadName
                | Refusal::BadSecret
                | Refusal::TooManyMailboxes
                | Refusal::TooManySubscriptions
                | Refusal::TooManyKeywords,
                _,
            ) => UNAVAILABLE,
        }
    }
}

impl Delivered {
    /// The reply to a delivery.
    pub fn reply(self) -> Reply {
        match self {
            Delivered::As { uid_validity, uid } => {
                let text = format!("Saved as {uid} of {uid_validity}");
                Reply::with_text(250, status::OK, text)
            }
            Delivered::Before => SAVED_BEFORE,
        }
    }
}

const SAVED_BEFORE: Reply = Reply::new(250, status::OK, "Saved before");
const NO_MAILBOX: Reply = Reply::new(550, status::BAD_MAILBOX, "No such mailbox here");
const OVER_QUOTA_FOR_NOW: Reply = Reply::new(452, status::MAILBOX_FULL, "Mailbox is full");
const OVER_QUOTA: Reply = Reply::new(552, status::MAILBOX_FULL_FOR_GOOD, "Mailbox is full");
const NUMBERS_USED_UP: Reply =
    Reply::new(452, status::MAILBOX_FULL, "Mailbox has given out all its numbers");
const TOO_LARGE: Reply = Reply::new(552, status::MESSAGE_TOO_BIG, "Message exceeds the size limit");
const NO_SPACE: Reply = Reply::new(452, status::MAIL_SYSTEM_FULL, "Storage full; try again later");
const UNAVAILABLE: Reply =
    Reply::new(451, status::OTHER_MAIL_SYSTEM, "Mailbox cannot be had now; try again later");
