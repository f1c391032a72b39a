//! The DSN that reports Failed recipients to the reverse-path (RFC 3464).

use std::rc::Rc;

use xxhash_rust::xxh3::xxh3_128;

use super::store::{Content, Kept, Message, Octets};
use crate::config::Config;
use crate::mail::envelope::Notify;
use crate::mail::{Envelope, EnvelopeFlags, Outcome, Recipient, RecipientOutcome, Stream};
use crate::proto::dsn;

/// A message made here, before it has a place in the journal.
pub(super) struct Notification {
    pub id: u64,
    pub envelope: Envelope,
    pub content: Vec<u8>,
}

impl Notification {
    pub fn into_kept(self) -> Kept {
        let content = Content::Whole(Octets::Fresh(Rc::new(self.content)));
        Kept { envelope: Rc::new(self.envelope), content }
    }
}

/// Composes the report on the Failed recipients that want one.
///
/// `content` is what is at hand of the original: all of it, its first chunk, or nothing.
pub(super) fn compose(
    id: u64,
    config: &Config,
    message: &Message,
    outcomes: &[RecipientOutcome],
    content: &[u8],
    now_ms: u64,
) -> Notification {
    let envelope = &message.envelope;
    let failed = outcomes.iter().filter(|outcome| outcome.outcome == Outcome::Failed);
    let recipients: Vec<dsn::FailedRecipient<'_>> = failed
        .map(|outcome| (outcome, &envelope.recipients[usize::from(outcome.recipient_index)]))
        .filter(|(_, recipient)| recipient.notify.wants_failure())
        .map(|(outcome, recipient)| dsn::FailedRecipient {
            address: &recipient.address,
            original_recipient: recipient.original_recipient.as_deref(),
            reply: &outcome.reply,
        })
        .collect();
    let report = dsn::Report {
        reporting_mta: &config.hostname,
        queue_id: message.id,
        reverse_path: &envelope.reverse_path,
        envelope_id: envelope.envelope_id.as_deref(),
        arrival_ms: envelope.accepted_ms,
        now_ms,
        recipients: &recipients,
        header_prefix: &envelope.header_prefix,
        content,
        content_is_whole: matches!(message.content, Content::Whole(_)),
        flags: envelope.flags,
    };
    let mut content = Vec::new();
    let mut flags = dsn::compose(&report, &mut content);
    flags.set(EnvelopeFlags::NOTIFICATION);
    Notification {
        id,
        envelope: Envelope {
            reverse_path: Box::default(),
            recipients: vec![Recipient {
                address: envelope.reverse_path.clone(),
                original_recipient: None,
                notify: Notify(Notify::NEVER),
            }],
            flags,
            accepted_ms: now_ms,
            expires_ms: now_ms + config.queue.lifetime.as_millis() as u64,
            release_ms: 0,
            stream: Stream::default(),
            envelope_id: None,
            client: None,
            header_prefix: Vec::new(),
            content_bytes: content.len() as u64,
            content_hash: xxh3_128(&content),
        },
        content,
    }
}
