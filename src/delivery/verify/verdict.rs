//! What the answers of a host mean for a mailbox. `Pure.`

use serde::{Deserialize, Serialize};

use crate::mail::{Reply, ReplyClass};

/// Whether mail to an address would arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Deliverable,
    Undeliverable,
    /// The host takes mail for any local part: it does not say which mailboxes there are.
    CatchAll,
    Unknown,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Deliverable => "deliverable",
            Verdict::Undeliverable => "undeliverable",
            Verdict::CatchAll => "catch-all",
            Verdict::Unknown => "unknown",
        }
    }
}

/// A verdict, how sure it is, and why in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    pub verdict: Verdict,
    /// Percent.
    pub confidence: u8,
    pub reason: &'static str,
}

impl Judged {
    pub const fn new(verdict: Verdict, confidence: u8, reason: &'static str) -> Self {
        Self { verdict, confidence, reason }
    }
}

/// The reply to RCPT for one mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub reply: Reply,
    /// What the rules for replies say of one that is not 2xx.
    pub class: Option<ReplyClass>,
}

impl Answer {
    fn accepts(&self) -> bool {
        self.reply.is_positive()
    }
}

/// Whom to ask for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A local part that nobody has: who takes that takes anything.
    Random,
    /// Postmaster, which every host takes (RFC 5321 §4.5.1) that takes anything from us.
    Postmaster,
    Nobody,
}

/// What there is to learn after the answer for the mailbox itself.
pub fn next_after(mailbox: &Answer) -> Next {
    match mailbox {
        mailbox if mailbox.accepts() => Next::Random,
        mailbox if mailbox.reply.is_permanent() => Next::Postmaster,
        _ => Next::Nobody,
    }
}

/// The verdict on a mailbox by the host's answers: for it, and for whom `next_after` names; `None`
/// where the session broke off before.
pub fn judge(mailbox: &Answer, other: Option<&Answer>) -> Judged {
    use Verdict::{CatchAll, Deliverable, Undeliverable, Unknown};
    if mailbox.accepts() {
        return match other {
            Some(random) if random.accepts() => Judged::new(CatchAll, 90, "accepts-any-mailbox"),
            Some(random) if random.reply.is_permanent() => {
                Judged::new(Deliverable, 95, "mailbox-accepted")
            }
            _ => Judged::new(Deliverable, 60, "mailbox-accepted-catch-all-not-told"),
        };
    }
    if !mailbox.reply.is_permanent() {
        let reason = match mailbox.class {
            Some(ReplyClass::Greylisted) => "greylisted",
            Some(ReplyClass::MailboxFull) => "mailbox-full",
            Some(ReplyClass::Rate | ReplyClass::TooManyRecipients) => "rate",
            Some(class) if is_about_us(class) => about_us(class),
            _ => "temporary",
        };
        return Judged::new(Unknown, 0, reason);
    }
    let class = mailbox.class.unwrap_or(ReplyClass::Other);
    if class == ReplyClass::MailboxFull {
        return Judged::new(Unknown, 0, "mailbox-full");
    }
    if is_about_us(class) {
        return Judged::new(Unknown, 0, about_us(class));
    }
    match other {
        // Nobody at all: that says nothing of this mailbox.
        Some(postmaster) if postmaster.reply.is_permanent() => {
            Judged::new(Unknown, 0, "refuses-everyone")
        }
        Some(postmaster) if postmaster.accepts() => {
            Judged::new(Undeliverable, if is_about_mailbox(class) { 98 } else { 85 }, "no-mailbox")
        }
        _ if is_about_mailbox(class) => Judged::new(Undeliverable, 80, "no-mailbox"),
        _ => Judged::new(Unknown, 0, "refused-without-reason"),
    }
}

/// The verdict where a host, or the way to it, refused before any mailbox was asked for. `command`
/// is what was refused.
pub fn judge_refusal(command: &str, reply: &Reply, class: ReplyClass) -> Judged {
    let reason = match () {
        () if reply.is_transient() && class == ReplyClass::Greylisted => "greylisted",
        () if reply.is_transient() => "temporary",
        () if class == ReplyClass::Encryption => about_us(class),
        () if command == "MAIL" || is_about_us(class) => "source-blocked",
        () => "host-refuses",
    };
    Judged::new(Verdict::Unknown, 0, reason)
}

/// The verdict where no way leads to the domain.
pub fn judge_domain(reply: &Reply) -> Judged {
    match reply.is_permanent() {
        true => Judged::new(Verdict::Undeliverable, 100, "domain-takes-no-mail"),
        false => Judged::new(Verdict::Unknown, 0, "dns-failure"),
    }
}

fn is_about_mailbox(class: ReplyClass) -> bool {
    matches!(
        class,
        ReplyClass::InvalidMailbox | ReplyClass::MailboxDisabled | ReplyClass::BadDomain
    )
}

/// The refusal is for who asks, not for whom it is asked.
fn is_about_us(class: ReplyClass) -> bool {
    matches!(
        class,
        ReplyClass::Policy
            | ReplyClass::Reputation
            | ReplyClass::Authentication
            | ReplyClass::Credentials
            | ReplyClass::InvalidSender
            | ReplyClass::Spam
            | ReplyClass::Rate
            | ReplyClass::Encryption
    )
}

/// The reason in a word, where `is_about_us`.
fn about_us(class: ReplyClass) -> &'static str {
    match class {
        ReplyClass::Encryption => "encryption",
        _ => "source-blocked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::status;

    fn answer(code: u16, class: Option<ReplyClass>) -> Answer {
        Answer { reply: Reply::new(code, status::OK, "x"), class }
    }

    #[test]
    fn every_pair_of_answers_has_its_verdict() {
        let accepted = || answer(250, None);
        let no = |class| answer(550, Some(class));
        let later = |class| answer(450, Some(class));
        let (mailbox, policy) = (ReplyClass::InvalidMailbox, ReplyClass::Policy);
        let cases = [
            (accepted(), Some(no(mailbox)), Verdict::Deliverable, "mailbox-accepted"),
            (accepted(), Some(accepted()), Verdict::CatchAll, "accepts-any-mailbox"),
            (accepted(), None, Verdict::Deliverable, "mailbox-accepted-catch-all-not-told"),
            (
                accepted(),
                Some(later(ReplyClass::Greylisted)),
                Verdict::Deliverable,
                "mailbox-accepted-catch-all-not-told",
            ),
            (no(mailbox), Some(accepted()), Verdict::Undeliverable, "no-mailbox"),
            (no(mailbox), None, Verdict::Undeliverable, "no-mailbox"),
            (no(mailbox), Some(no(mailbox)), Verdict::Unknown, "refuses-everyone"),
            (no(policy), Some(accepted()), Verdict::Unknown, "source-blocked"),
            (no(ReplyClass::Encryption), None, Verdict::Unknown, "encryption"),
            (no(ReplyClass::Other), Some(accepted()), Verdict::Undeliverable, "no-mailbox"),
            (no(ReplyClass::Other), None, Verdict::Unknown, "refused-without-reason"),
            (no(ReplyClass::MailboxFull), None, Verdict::Unknown, "mailbox-full"),
            (later(ReplyClass::Greylisted), None, Verdict::Unknown, "greylisted"),
            (later(ReplyClass::Rate), None, Verdict::Unknown, "rate"),
            (later(policy), None, Verdict::Unknown, "source-blocked"),
            (later(ReplyClass::Encryption), None, Verdict::Unknown, "encryption"),
            (later(ReplyClass::System), None, Verdict::Unknown, "temporary"),
        ];
        for (mailbox, other, verdict, reason) in cases {
            let judged = judge(&mailbox, other.as_ref());
            assert_eq!((judged.verdict, judged.reason), (verdict, reason), "{mailbox:?} {other:?}");
            assert_eq!(judged.confidence == 0, verdict == Verdict::Unknown);
        }
    }

    #[test]
    fn a_random_mailbox_is_asked_for_behind_an_accepted_one_and_postmaster_behind_a_refused_one() {
        assert_eq!(next_after(&answer(250, None)), Next::Random);
        assert_eq!(next_after(&answer(550, Some(ReplyClass::Other))), Next::Postmaster);
        assert_eq!(next_after(&answer(450, Some(ReplyClass::Other))), Next::Nobody);
    }
}
