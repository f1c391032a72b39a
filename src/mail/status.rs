//! Enhanced status codes (RFC 3463, registry of RFC 5248).

use std::fmt;

/// `class.subject.detail`, for instance `4.3.1`. Class is 2, 4 or 5; the others are 0..=999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnhancedStatusCode {
    pub class: u8,
    pub subject: u16,
    pub detail: u16,
}

impl EnhancedStatusCode {
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        assert!(class == 2 || class == 4 || class == 5);
        assert!(subject <= 999);
        assert!(detail <= 999);
        Self { class, subject, detail }
    }

    /// Appends the code as text. Every reply goes through here, so it does without formatting.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'0' + self.class);
        for number in [self.subject, self.detail] {
            out.push(b'.');
            let digit = |value: u16| b'0' + (value % 10) as u8;
            if number >= 100 {
                out.push(digit(number / 100));
            }
            if number >= 10 {
                out.push(digit(number / 10));
            }
            out.push(digit(number));
        }
    }

    /// Reads a code at the start of `text`; returns it and how many bytes it took.
    ///
    /// `None` when `text` does not begin with one followed by a space or the end (RFC 2034 §3).
    pub fn parse_prefix(text: &[u8]) -> Option<(Self, usize)> {
        let (class, rest) = match text {
            [class @ (b'2' | b'4' | b'5'), b'.', rest @ ..] => (class - b'0', rest),
            _ => return None,
        };
        let (subject, taken_subject) = digits(rest)?;
        let rest = rest.get(taken_subject..)?;
        let rest = rest.strip_prefix(b".")?;
        let (detail, taken_detail) = digits(rest)?;
        let rest = &rest[taken_detail..];
        if !rest.is_empty() && rest[0] != b' ' {
            return None;
        }
        Some((Self { class, subject, detail }, 2 + taken_subject + 1 + taken_detail))
    }
}

/// One to three digits without a superfluous zero in front.
fn digits(text: &[u8]) -> Option<(u16, usize)> {
    let count = text.iter().take(3).take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 || (count > 1 && text[0] == b'0') {
        return None;
    }
    let value = text[..count].iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'));
    Some((value, count))
}

impl fmt::Display for EnhancedStatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $class:literal . $subject:literal . $detail:literal;)*) => {
        $($(#[$doc])* pub const $name: EnhancedStatusCode =
            EnhancedStatusCode::new($class, $subject, $detail);)*
    };
}

codes! {
    /// Success without more to say.
    OK = 2 . 0 . 0;
    OK_REVERSE_PATH = 2 . 1 . 0;
    OK_RECIPIENT = 2 . 1 . 5;
    OK_CONTENT = 2 . 6 . 0;
    OTHER_TRANSIENT = 4 . 0 . 0;
    BAD_MAILBOX = 5 . 1 . 1;
    MAILBOX_FULL = 4 . 2 . 2;
    MAILBOX_FULL_FOR_GOOD = 5 . 2 . 2;
    BAD_DESTINATION_SYSTEM = 5 . 1 . 2;
    BAD_DESTINATION_SYNTAX = 5 . 1 . 3;
    BAD_REVERSE_PATH_SYNTAX = 5 . 1 . 7;
    /// The domain says that it takes no mail (RFC 7505 §4.1).
    NULL_MX = 5 . 1 . 10;
    /// A reply to VRFY that neither confirms nor denies.
    CANNOT_VERIFY = 2 . 5 . 2;
    OTHER_MAIL_SYSTEM = 4 . 3 . 0;
    MAIL_SYSTEM_FULL = 4 . 3 . 1;
    SYSTEM_NOT_ACCEPTING = 4 . 3 . 2;
    MESSAGE_TOO_BIG = 5 . 3 . 4;
    /// A name in our own configuration leads nowhere.
    BAD_CONFIGURATION = 4 . 3 . 5;
    /// The destination did not answer.
    NO_ANSWER = 4 . 4 . 1;
    /// The connection was lost or timed out.
    BAD_CONNECTION = 4 . 4 . 2;
    /// The DNS did not answer.
    DIRECTORY_FAILURE = 4 . 4 . 3;
    UNABLE_TO_ROUTE = 5 . 4 . 4;
    /// The destination cannot be reached from the addresses we send from.
    NO_ADDRESS_OF_FAMILY = 4 . 4 . 4;
    ROUTING_LOOP = 5 . 4 . 6;
    /// The message's lifetime in the queue is over.
    DELIVERY_TIME_EXPIRED = 4 . 4 . 7;
    TOO_MANY_CONNECTIONS = 4 . 7 . 0;
    /// The message requires TLS, which cannot be had (RFC 8689 §4.2.1).
    ENCRYPTION_NEEDED = 5 . 7 . 10;
    /// The message requires a next hop that offers REQUIRETLS (RFC 8689 §4.2.1).
    REQUIRETLS_NEEDED = 5 . 7 . 30;
    BAD_COMMAND_SEQUENCE = 5 . 5 . 1;
    SYNTAX_ERROR = 5 . 5 . 2;
    TOO_MANY_RECIPIENTS = 4 . 5 . 3;
    INVALID_ARGUMENTS = 5 . 5 . 4;
    /// A line of an exchange of AUTH (RFC 4954 §4).
    AUTH_LINE_TOO_LONG = 5 . 5 . 6;
    CONTENT_REFUSED = 5 . 6 . 0;
    /// The address needs SMTPUTF8, which was not asked for (RFC 6531 §3.5).
    NON_ASCII_ADDRESS = 5 . 6 . 7;
    /// The client is who it says (RFC 4954 §6).
    AUTHENTICATED = 2 . 7 . 0;
    /// It has to say who it is first.
    AUTHENTICATION_REQUIRED = 5 . 7 . 0;
    /// Whether it is cannot be found out now.
    AUTHENTICATION_FAILED_FOR_NOW = 4 . 7 . 0;
    WRONG_CREDENTIALS = 5 . 7 . 8;
    /// A password is not taken without TLS.
    ENCRYPTION_REQUIRED = 5 . 7 . 11;
    DELIVERY_NOT_AUTHORIZED = 5 . 7 . 1;
    /// TLS is demanded and is not to be had.
    TLS_REQUIRED = 4 . 7 . 4;
    /// The TLS handshake failed, or the certificate does not stand up.
    TLS_FAILED = 4 . 7 . 5;
    /// The next hop does not take us for who we say (RFC 4954 §6), for now.
    CREDENTIALS_REFUSED = 4 . 7 . 8;
    /// The domain of the reverse-path says that it takes no mail (RFC 7505 §4.2).
    NULL_MX_REVERSE_PATH = 5 . 7 . 27;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_only_where_a_whole_one_stands() {
        let code = |text: &str| EnhancedStatusCode::parse_prefix(text.as_bytes());
        assert_eq!(code("4.3.1 full"), Some((MAIL_SYSTEM_FULL, 5)));
        assert_eq!(code("5.7.515"), Some((EnhancedStatusCode::new(5, 7, 515), 7)));
        for code in [OK, EnhancedStatusCode::new(5, 70, 515), EnhancedStatusCode::new(4, 999, 0)] {
            let mut out = Vec::new();
            code.write(&mut out);
            assert_eq!(String::from_utf8(out).expect("ASCII"), code.to_string());
        }
        for text in ["", "4", "4.", "4.3", "4.3.", "3.0.0 x", "4.03.1", "4.3.1x", "4.3.1000 x"] {
            assert_eq!(code(text), None, "{text:?}");
        }
    }
}
