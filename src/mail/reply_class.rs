//! Why a next hop did not take a message, in the words of the trade.

use super::status::EnhancedStatusCode;

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What a reply other than 2xx means to whoever sent the message.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ReplyClass {
            $($(#[$doc])* $name,)*
        }

        impl ReplyClass {
            /// Every class, in the order of `index`.
            pub const ALL: &[ReplyClass] = &[$(ReplyClass::$name,)*];

            /// As it stands in rules, logs and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(ReplyClass::$name => $text,)*
                }
            }
        }
    };
}

classes! {
    /// No such mailbox.
    InvalidMailbox = "invalid-mailbox";
    /// The mailbox or its quota is full.
    MailboxFull = "mailbox-full";
    /// The mailbox exists and takes no mail: disabled, suspended, inactive, moved.
    MailboxDisabled = "mailbox-disabled";
    /// No such domain or host, or one that takes no mail (RFC 7505).
    BadDomain = "bad-domain";
    /// The next hop knows no way on, or a loop.
    Routing = "routing";
    /// The reverse-path is refused: its domain, its syntax, its standing.
    InvalidSender = "invalid-sender";
    /// A local rule that is none of the others.
    Policy = "policy";
    /// The address or domain we send from has a bad name: a blocklist, complaints.
    Reputation = "reputation";
    /// SPF, DKIM, DMARC, ARC or the reverse name of our address.
    Authentication = "authentication";
    /// We have to log in, or did so wrongly.
    Credentials = "credentials";
    /// The content is taken for spam or fraud.
    Spam = "spam";
    /// The form of the content: header section, attachment, line length, encoding.
    Content = "content";
    /// The content is taken for a virus.
    Virus = "virus";
    /// Too many messages or connections in a time, or at once.
    Rate = "rate";
    /// Too many recipients of one message.
    TooManyRecipients = "too-many-recipients";
    /// To be tried again by the same client later.
    Greylisted = "greylisted";
    /// The message is larger than it may be.
    TooLarge = "too-large";
    /// A command, its order, its arguments.
    Protocol = "protocol";
    /// Connections: refused, lost, timed out.
    Network = "network";
    /// The next hop has a problem of its own, and most likely for a while.
    System = "system";
    /// The lifetime of the message is over.
    Expired = "expired";
    /// The next hop does not relay for us.
    RelayDenied = "relay-denied";
    /// Not without TLS, or not with this one.
    Encryption = "encryption";
    /// Nothing that could be told.
    Other = "other";
}

impl ReplyClass {
    /// Position in `ALL`.
    pub const fn index(self) -> usize {
        self as usize
    }

    pub fn parse(text: &str) -> Option<ReplyClass> {
        Self::ALL.iter().copied().find(|class| class.as_str() == text)
    }

    /// What an enhanced status code says by itself; `None` where it says nothing.
    ///
    /// Knows every code of the IANA registry (RFC 3463, 3886, 4468, 4954, 5248, 6531, 6710, 7293,
    /// 7372, 7505, 8616, 8689) and, of a detail it does not know, the subject.
    pub const fn of_status(status: EnhancedStatusCode) -> Option<ReplyClass> {
        use ReplyClass::*;
        Some(match (status.subject, status.detail) {
            (1, 0) | (2, 0) => return None,
            (1, 2 | 10) => BadDomain,
            (1, 6) => MailboxDisabled,
            (1, 7 | 8) => InvalidSender,
            (1, _) => InvalidMailbox,
            (2, 1) => MailboxDisabled,
            (2, 2) => MailboxFull,
            (2, 3) => TooLarge,
            (2, _) => InvalidMailbox,
            (3, 3) => Protocol,
            (3, 4) => TooLarge,
            (3, _) => System,
            (4, 1..=3) => Network,
            (4, 4 | 6) => Routing,
            (4, 5) => Rate,
            (4, 7) => Expired,
            (4, _) => Network,
            (5, 3) => TooManyRecipients,
            (5, _) => Protocol,
            (6, _) => Content,
            (7, 5..=7 | 10 | 11 | 30) => Encryption,
            (7, 4 | 8 | 9 | 12 | 14) => Credentials,
            (7, 13) => MailboxDisabled,
            (7, 16) => TooLarge,
            (7, 17) => InvalidMailbox,
            (7, 18) => BadDomain,
            (7, 20..=26 | 29) => Authentication,
            (7, 27) => InvalidSender,
            (7, 28) => Rate,
            (7, _) => Policy,
            _ => return None,
        })
    }

    /// What a reply code says by itself (RFC 5321 §4.2.3, RFC 4954, RFC 7504, RFC 7505).
    pub const fn of_code(code: u16) -> ReplyClass {
        use ReplyClass::*;
        match code {
            421 => Network,
            432 | 454 => Credentials,
            451..=453 => System,
            455 | 500..=504 | 555 => Protocol,
            521 | 556 => BadDomain,
            523 => TooLarge,
            525 => MailboxDisabled,
            530 | 534 | 535 => Credentials,
            538 => Encryption,
            551 => MailboxDisabled,
            552 => MailboxFull,
            553 => InvalidMailbox,
            571 => Policy,
            _ => Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_reads_back_and_has_its_place() {
        for (index, class) in ReplyClass::ALL.iter().enumerate() {
            assert_eq!(class.index(), index);
            assert_eq!(ReplyClass::parse(class.as_str()), Some(*class));
        }
        assert_eq!(ReplyClass::parse("Spam"), None);
    }

    #[test]
    fn codes_say_what_the_registry_says() {
        let of = |subject, detail| {
            let status = EnhancedStatusCode::new(5, subject, detail);
            ReplyClass::of_status(status).map(ReplyClass::as_str)
        };
        assert_eq!(of(1, 1), Some("invalid-mailbox"));
        assert_eq!(of(1, 10), Some("bad-domain"));
        assert_eq!(of(2, 2), Some("mailbox-full"));
        assert_eq!(of(4, 7), Some("expired"));
        assert_eq!(of(7, 26), Some("authentication"));
        assert_eq!(of(7, 515), Some("policy"));
        assert_eq!(of(0, 0), None);
        assert_eq!(of(9, 9), None);
        assert_eq!(ReplyClass::of_code(552).as_str(), "mailbox-full");
        assert_eq!(ReplyClass::of_code(550), ReplyClass::Other);
    }
}
