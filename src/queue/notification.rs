//! The DSN that reports on the recipients of an attempt (RFC 3464).

use std::rc::Rc;

use xxhash_rust::xxh3::xxh3_128;

use super::outcome::{Attempt, Reports};
use super::retry::DelayNotice;
use super::store::{Content, Kept, Message, Octets};
use crate::config::Config;
use crate::mail::envelope::Notify;
use crate::mail::{Envelope, EnvelopeFlags, Outcome, Recipient, RecipientOutcome, Stream, TlsTag};
use crate::proto::dsn::{self, Reader};

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

impl Message {
    /// A report made here that has 8-bit content, in 7 bits. `None` for everything else, and for
    /// an international report: what cannot take one is not to get its addresses.
    pub fn in_seven_bits(&self) -> Option<Message> {
        let flags = self.envelope.flags;
        let Content::Whole(content) = &self.content else { return None };
        let is_eight_bit = flags.has(EnvelopeFlags::EIGHT_BIT_CONTENT);
        if !flags.has(EnvelopeFlags::NOTIFICATION)
            || !is_eight_bit
            || flags.has(EnvelopeFlags::SMTPUTF8)
        {
            return None;
        }
        let content = dsn::seven_bit(content)?;
        let mut envelope = Envelope::clone(&self.envelope);
        let eight_bit = EnvelopeFlags::EIGHT_BIT_CONTENT | EnvelopeFlags::EIGHT_BIT_MIME;
        // A line that was broken may begin with a dot.
        envelope.flags.clear(eight_bit | EnvelopeFlags::NO_LEADING_DOT);
        envelope.content_bytes = content.len() as u64;
        envelope.content_hash = xxh3_128(&content);
        Some(Message {
            id: self.id,
            envelope: Rc::new(envelope),
            recipient_indexes: self.recipient_indexes.clone(),
            attempts: self.attempts,
            content: Content::Whole(Octets::Fresh(Rc::new(content))),
            settled: self.settled.clone(),
        })
    }
}

/// What a report is to say, and to whom.
pub(super) struct Plan {
    pub reader: Reader,
    /// Where it goes.
    pub address: Box<str>,
    /// Positions in the outcomes of the attempt. Not empty.
    pub outcome_indexes: Vec<usize>,
}

/// Whether somebody is to be told of an attempt. `None` for nobody.
///
/// The null reverse-path gets no report (RFC 5321 §4.5.5). What is made here and Fails goes to the
/// postmaster where one is configured; what goes there and Fails is told to nobody.
pub(super) fn plan(
    config: &Config,
    envelope: &Envelope,
    outcomes: &[RecipientOutcome],
    attempt: &Attempt,
    delay_notice: DelayNotice,
) -> Option<Plan> {
    if attempt.reports == Reports::Suppressed {
        return None;
    }
    let of_ours = envelope.flags.has(EnvelopeFlags::NOTIFICATION);
    let (reader, address) = if of_ours {
        if envelope.flags.has(EnvelopeFlags::DOUBLE_BOUNCE) {
            return None;
        }
        (Reader::Postmaster, config.queue.double_bounce.as_deref()?)
    } else {
        (Reader::Sender, &*envelope.reverse_path)
    };
    if address.is_empty() {
        return None;
    }
    let wants = |outcome: &RecipientOutcome| {
        let notify = envelope.recipients[usize::from(outcome.recipient_index)].notify;
        match outcome.outcome {
            Outcome::Failed => of_ours || notify.wants_failure(),
            Outcome::Delayed => !of_ours && delay_notice.is_for(notify),
            // A next hop that offers DSN reports itself (RFC 3461 §5.2).
            Outcome::Delivered | Outcome::Relayed => {
                notify.wants_success()
                    && !attempt.remote.as_ref().is_some_and(|remote| remote.offers_dsn)
            }
        }
    };
    let indexes = (0..outcomes.len()).filter(|index| wants(&outcomes[*index]));
    let outcome_indexes: Vec<usize> = indexes.collect();
    let address = address.into();
    (!outcome_indexes.is_empty()).then_some(Plan { reader, address, outcome_indexes })
}

impl Plan {
    /// Whether it tells of a delay.
    pub fn tells_of_delay(&self, outcomes: &[RecipientOutcome]) -> bool {
        self.outcome_indexes.iter().any(|index| outcomes[*index].outcome == Outcome::Delayed)
    }
}

/// What a report is about.
pub(super) struct Occasion<'a> {
    pub message: &'a Message,
    pub outcomes: &'a [RecipientOutcome],
    pub attempt: &'a Attempt,
    /// What is at hand of the original: all of it, its first chunk, or nothing.
    pub content: &'a [u8],
    pub now_ms: u64,
    /// Unix milliseconds at which the report may go.
    pub release_ms: u64,
    /// Unix milliseconds until which Delayed recipients are tried.
    pub retry_until_ms: u64,
}

/// Composes the planned report.
pub(super) fn compose(
    id: u64,
    config: &Config,
    plan: &Plan,
    occasion: &Occasion<'_>,
) -> Notification {
    let Occasion { message, now_ms, release_ms, .. } = *occasion;
    let envelope = &message.envelope;
    let outcomes = plan.outcome_indexes.iter().map(|index| &occasion.outcomes[*index]);
    let recipients = outcomes.map(|outcome| {
        let recipient = &envelope.recipients[usize::from(outcome.recipient_index)];
        dsn::ReportedRecipient {
            address: &recipient.address,
            original_recipient: recipient.original_recipient.as_deref(),
            outcome: outcome.outcome,
            reply: &outcome.reply,
        }
    });
    let recipients: Vec<_> = recipients.collect();
    let report = dsn::Report {
        reporting_mta: &config.hostname,
        queue_id: message.id,
        reader: plan.reader,
        address: &plan.address,
        envelope_id: envelope.envelope_id.as_deref(),
        arrival_ms: envelope.accepted_ms,
        now_ms,
        retry_until_ms: occasion.retry_until_ms,
        remote_mta: occasion
            .attempt
            .remote
            .as_ref()
            .and_then(|remote| Some((remote, remote.address?)))
            .map(|(remote, address)| dsn::RemoteMta { host: remote.host.as_deref(), address }),
        recipients: &recipients,
        header_prefix: &envelope.header_prefix,
        content: occasion.content,
        content_is_whole: matches!(message.content, Content::Whole(_)),
        flags: returned(envelope),
    };
    let mut content = Vec::new();
    let mut flags = dsn::compose(&report, &mut content);
    flags.set(EnvelopeFlags::NOTIFICATION);
    if plan.reader == Reader::Postmaster {
        flags.set(EnvelopeFlags::DOUBLE_BOUNCE);
    }
    Notification {
        id,
        envelope: Envelope {
            reverse_path: Box::default(),
            recipients: vec![Recipient {
                address: plan.address.clone(),
                original_recipient: None,
                notify: Notify(Notify::NEVER),
            }],
            flags,
            accepted_ms: now_ms,
            release_ms: if release_ms > now_ms { release_ms } else { 0 },
            stream: Stream { tls: envelope.stream.tls.of_report(), ..Stream::default() },
            envelope_id: None,
            client: None,
            header_prefix: Vec::new(),
            content_bytes: content.len() as u64,
            content_hash: xxh3_128(&content),
        },
        content,
    }
}

/// The flags of a message for a report on it: of one under REQUIRETLS only the header section is
/// returned, because the report may have to go without (RFC 8689 §5).
fn returned(envelope: &Envelope) -> EnvelopeFlags {
    let mut flags = envelope.flags;
    if matches!(envelope.stream.tls, TlsTag::Required | TlsTag::RequiredWhereOffered) {
        flags.clear(EnvelopeFlags::RETURN_FULL);
        flags.set(EnvelopeFlags::RETURN_HEADERS);
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Reply, status};
    use crate::queue::Remote;

    fn check(notify: u8, outcome: Outcome, offers_dsn: bool, expected: bool) {
        let envelope = envelope("a@b.test", notify, 0);
        let attempt =
            Attempt { remote: remote(offers_dsn), ..Attempt::without_session("x".into()) };
        let plan =
            plan(&Config::embedded(), &envelope, &[outcome_of(outcome)], &attempt, DelayNotice::No);
        assert_eq!(plan.is_some(), expected, "{notify} {outcome:?} {offers_dsn}");
        if let Some(plan) = plan {
            assert_eq!((plan.reader, &*plan.address), (Reader::Sender, "a@b.test"));
        }
    }

    fn remote(offers_dsn: bool) -> Option<Remote> {
        let address = Some([192, 0, 2, 1].into());
        Some(Remote { address, host: None, delivers: false, offers_dsn })
    }

    fn outcome_of(outcome: Outcome) -> RecipientOutcome {
        let reply = Reply::new(250, status::OK, "");
        RecipientOutcome { recipient_index: 0, outcome, reply, class: None }
    }

    fn envelope(reverse_path: &str, notify: u8, flags: u16) -> Envelope {
        let recipient = Recipient { notify: Notify(notify), ..Recipient::new("c@d.test") };
        Envelope {
            reverse_path: reverse_path.into(),
            recipients: vec![recipient],
            flags: EnvelopeFlags(flags),
            accepted_ms: 0,
            release_ms: 0,
            stream: Stream::default(),
            envelope_id: None,
            client: None,
            header_prefix: Vec::new(),
            content_bytes: 0,
            content_hash: 0,
        }
    }

    #[test]
    fn what_is_reported_follows_from_notify_and_the_next_hop() {
        for offers_dsn in [false, true] {
            check(0, Outcome::Failed, offers_dsn, true);
            check(Notify::FAILURE, Outcome::Failed, offers_dsn, true);
            check(Notify::NEVER, Outcome::Failed, offers_dsn, false);
            check(Notify::SUCCESS | Notify::DELAY, Outcome::Failed, offers_dsn, false);
            for success in [Outcome::Relayed, Outcome::Delivered] {
                check(Notify::SUCCESS, success, offers_dsn, !offers_dsn);
                check(0, success, offers_dsn, false);
                check(Notify::NEVER, success, offers_dsn, false);
                check(Notify::FAILURE | Notify::DELAY, success, offers_dsn, false);
            }
        }
    }

    #[test]
    fn a_report_is_never_reported_on_but_once_to_the_postmaster() {
        let mut config = Config::embedded();
        let attempt = Attempt::without_session("x".into());
        let failed = [outcome_of(Outcome::Failed)];
        let of_ours = envelope("", Notify::NEVER, EnvelopeFlags::NOTIFICATION);
        let foreign = envelope("", 0, 0);
        assert!(plan(&config, &of_ours, &failed, &attempt, DelayNotice::No).is_none());
        config.queue.double_bounce = Some("postmaster@here.test".into());
        let told =
            plan(&config, &of_ours, &failed, &attempt, DelayNotice::No).expect("the postmaster");
        assert_eq!((told.reader, &*told.address), (Reader::Postmaster, "postmaster@here.test"));
        assert!(plan(&config, &foreign, &failed, &attempt, DelayNotice::No).is_none());
        let flags = EnvelopeFlags::NOTIFICATION | EnvelopeFlags::DOUBLE_BOUNCE;
        let triple = envelope("", Notify::NEVER, flags);
        assert!(plan(&config, &triple, &failed, &attempt, DelayNotice::No).is_none());
    }

    #[test]
    fn a_delay_is_reported_when_it_is_time_to_whoever_wants_it() {
        let config = Config::embedded();
        let attempt = Attempt { remote: remote(true), ..Attempt::without_session("x".into()) };
        let delayed = [outcome_of(Outcome::Delayed)];
        let asked_for = Notify::DELAY | Notify::FAILURE;
        for (notify, delay_notice, expected) in [
            (0, DelayNotice::No, false),
            (0, DelayNotice::AskedFor, false),
            (0, DelayNotice::All, true),
            (asked_for, DelayNotice::No, false),
            (asked_for, DelayNotice::AskedFor, true),
            (asked_for, DelayNotice::All, true),
            (Notify::NEVER, DelayNotice::All, false),
            (Notify::FAILURE, DelayNotice::All, false),
        ] {
            let envelope = envelope("a@b.test", notify, 0);
            let plan = plan(&config, &envelope, &delayed, &attempt, delay_notice);
            assert_eq!(plan.is_some(), expected, "{notify} {delay_notice:?}");
            assert!(plan.is_none_or(|plan| plan.tells_of_delay(&delayed)));
        }
        let of_ours = envelope("", asked_for, EnvelopeFlags::NOTIFICATION);
        assert!(plan(&config, &of_ours, &delayed, &attempt, DelayNotice::All).is_none());
    }

    #[test]
    fn a_quiet_end_is_reported_to_nobody() {
        let reports = Reports::Suppressed;
        let attempt = Attempt { reports, ..Attempt::without_session("operator".into()) };
        let envelope = envelope("a@b.test", 0, 0);
        let failed = [outcome_of(Outcome::Failed)];
        assert!(plan(&Config::embedded(), &envelope, &failed, &attempt, DelayNotice::No).is_none());
    }
}
