//! What a reply of the next hop means for a recipient.

use super::Inner;
use super::site::Site;
use crate::mail::{Outcome, Reply, ReplyClass, Stream};
use crate::proto::classify::ReplyContext;
use crate::queue::Attempt;

impl Inner {
    /// The outcome, and where the next hop did not take the message the class of its reply. A rule
    /// may say otherwise than the reply code, and what is to follow for later mail.
    pub(super) fn judge(
        &self,
        reply: &Reply,
        attempt: &Attempt,
        site: &Site,
        domain: &str,
        stream: &Stream,
    ) -> (Outcome, Option<ReplyClass>) {
        let outcome = outcome_of(reply, attempt);
        if matches!(outcome, Outcome::Delivered | Outcome::Relayed) {
            return (outcome, None);
        }
        let judgement = {
            let config = self.config.borrow();
            let source = site.key.source.and_then(|address| config.source_at(address));
            let source = source.map_or("", |source| source.name.as_str());
            let tenant = &stream.tenant;
            let context = ReplyContext { reply, site: &attempt.site, domain, source, tenant };
            config.delivery.rules.judge(&context)
        };
        self.metrics.replies.count(judgement.class);
        self.on_judgement(&judgement, reply, site, &stream.tenant);
        (judgement.outcome.unwrap_or(outcome), Some(judgement.class))
    }
}

/// What a reply code says (RFC 5321 §4.2.1).
fn outcome_of(reply: &Reply, attempt: &Attempt) -> Outcome {
    if reply.is_positive() && reply.code < 300 {
        match &attempt.remote {
            Some(remote) if remote.delivers => Outcome::Delivered,
            _ => Outcome::Relayed,
        }
    } else if reply.is_permanent() {
        Outcome::Failed
    } else {
        Outcome::Delayed
    }
}
