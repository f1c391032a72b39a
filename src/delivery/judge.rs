//! What a reply of the next hop means for a recipient.

use super::Inner;
use super::site::Site;
use crate::mail::{Outcome, Reply, ReplyClass, Stream};
use crate::proto::classify::{Judgement, ReplyContext};
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
        let judgement = self.judgement(reply, &attempt.site, site, domain, &stream.tenant);
        self.metrics.replies.count(judgement.class);
        if site.key.hop.place.is_here() {
            // Rules are for what others say.
            return (outcome, Some(judgement.class));
        }
        self.on_judgement(&judgement, reply, site, &stream.tenant);
        (judgement.outcome.unwrap_or(outcome), Some(judgement.class))
    }

    /// Whether a reply says that the host `name` of a site cannot do its work, and nothing of the
    /// message or of us: another host may be better off.
    pub(super) fn is_fault_of_host(
        &self,
        reply: &Reply,
        name: &str,
        site: &Site,
        domain: &str,
        tenant: &str,
    ) -> bool {
        if !reply.is_remote || !reply.is_transient() {
            return false;
        }
        let judgement = self.judgement(reply, name, site, domain, tenant);
        let is_of_host = matches!(
            judgement.class,
            ReplyClass::System | ReplyClass::Network | ReplyClass::Routing
        );
        is_of_host && judgement.outcome.is_none() && judgement.effect.is_none()
    }

    fn judgement(
        &self,
        reply: &Reply,
        name: &str,
        site: &Site,
        domain: &str,
        tenant: &str,
    ) -> Judgement {
        let config = self.config.borrow();
        let source = site.key.source.and_then(|address| config.source_at(address));
        let source = source.map_or("", |source| source.name.as_str());
        let context = ReplyContext { reply, site: name, domain, source, tenant };
        config.delivery.rules.judge(&context)
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
