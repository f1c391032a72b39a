//! What became of a recipient (RFC 3464 §2.3.3).

use super::reply::Reply;
use super::reply_class::ReplyClass;

/// The action a delivery attempt ended in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Final delivery into a mailbox here.
    Delivered,
    /// The next hop took responsibility.
    Relayed,
    /// To be tried again.
    Delayed,
    /// Given up: the reverse-path gets a DSN.
    Failed,
}

impl Outcome {
    /// Whether the recipient is settled: no attempt follows.
    pub fn is_final(self) -> bool {
        self != Outcome::Delayed
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::Relayed => "relayed",
            Outcome::Delayed => "delayed",
            Outcome::Failed => "failed",
        }
    }
}

/// The outcome of one recipient of a delivery attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientOutcome {
    /// Position in the envelope's recipients, 0-based.
    pub recipient_index: u16,
    pub outcome: Outcome,
    /// The reply that decided it; ours where no remote one exists.
    pub reply: Reply,
    /// Why; for Delayed and Failed.
    pub class: Option<ReplyClass>,
}
