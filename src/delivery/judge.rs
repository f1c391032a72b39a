//! What a reply of the next hop means for a recipient.

use super::Inner;
use crate::mail::{Outcome, Reply, Stream};
use crate::proto::classify::{Judgement, ReplyContext};
use crate::queue::Attempt;

impl Inner {
    /// The outcome, and where the next hop did not take the message what its reply means. A rule
    /// may say otherwise than the reply code.
    pub(super) fn judge(
        &self,
        reply: &Reply,
        attempt: &Attempt,
        domain: &str,
        stream: &Stream,
    ) -> (Outcome, Option<Judgement>) {
        let outcome = outcome_of(reply, attempt);
        if matches!(outcome, Outcome::Delivered | Outcome::Relayed) {
            return (outcome, None);
        }
        // Nothing has a source of its own yet.
        let context =
            ReplyContext { reply, site: &attempt.site, domain, source: "", tenant: &stream.tenant };
        let judgement = self.config.borrow().delivery.rules.judge(&context);
        self.metrics.replies.count(judgement.class);
        (judgement.outcome.unwrap_or(outcome), Some(judgement))
    }
}

/// What a reply code says (RFC 5321 §4.2.1).
fn outcome_of(reply: &Reply, attempt: &Attempt) -> Outcome {
    if reply.is_positive() && reply.code < 300 {
        match attempt.remote {
            Some(remote) if remote.delivers => Outcome::Delivered,
            _ => Outcome::Relayed,
        }
    } else if reply.is_permanent() {
        Outcome::Failed
    } else {
        Outcome::Delayed
    }
}
