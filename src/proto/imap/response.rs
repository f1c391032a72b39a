//! Status responses and their codes (RFC 9051 §7.1, RFC 5530 and what the extensions add).

use std::io::Write;

use super::command::Tag;
use super::set::NumberSet;

/// OK, NO, BAD and the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Ok,
    No,
    Bad,
    PreAuth,
    Bye,
}

/// What a program is to understand of a status response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code<'c> {
    /// A code without arguments.
    Plain(PlainCode),
    /// Capabilities with spaces between them.
    Capability(&'c str),
    UidNext(u32),
    UidValidity(u32),
    /// Sequence number of the first unseen message; IMAP4rev1 only.
    Unseen(u32),
    HighestModSeq(u64),
    /// Flags in parentheses.
    PermanentFlags(&'c str),
    /// RFC 4315: the UIDs that were given, in the order of the messages.
    AppendUid {
        uid_validity: u32,
        uids: &'c NumberSet,
    },
    /// RFC 4315: both sets have as many numbers, in the same order.
    CopyUid {
        uid_validity: u32,
        source: &'c NumberSet,
        target: &'c NumberSet,
    },
    /// RFC 7162: messages that STORE left alone.
    Modified(&'c NumberSet),
    /// RFC 8474.
    MailboxId(&'c str),
    /// Charsets that are known, with spaces between them.
    BadCharset(&'c str),
}

macro_rules! plain_codes {
    ($($name:ident $text:literal)*) => {
        /// Codes without arguments.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum PlainCode { $($name),* }

        impl PlainCode {
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

plain_codes! {
    Alert "ALERT"
    AlreadyExists "ALREADYEXISTS"
    AuthenticationFailed "AUTHENTICATIONFAILED"
    AuthorizationFailed "AUTHORIZATIONFAILED"
    Cannot "CANNOT"
    ClientBug "CLIENTBUG"
    Closed "CLOSED"
    CompressionActive "COMPRESSIONACTIVE"
    Corruption "CORRUPTION"
    ExpungeIssued "EXPUNGEISSUED"
    HasChildren "HASCHILDREN"
    InUse "INUSE"
    Limit "LIMIT"
    NoModSeq "NOMODSEQ"
    NonExistent "NONEXISTENT"
    NoPerm "NOPERM"
    NotSaved "NOTSAVED"
    OverQuota "OVERQUOTA"
    PrivacyRequired "PRIVACYREQUIRED"
    ReadOnly "READ-ONLY"
    ReadWrite "READ-WRITE"
    ServerBug "SERVERBUG"
    TooBig "TOOBIG"
    TryCreate "TRYCREATE"
    UidNotSticky "UIDNOTSTICKY"
    Unavailable "UNAVAILABLE"
    UnknownCte "UNKNOWN-CTE"
    UseAttr "USEATTR"
}

/// Appends a tagged status response.
pub fn write_tagged(
    tag: &Tag,
    condition: Condition,
    code: Option<&Code>,
    text: &str,
    out: &mut Vec<u8>,
) {
    write_status(tag.as_str(), condition, code, text, out);
}

/// Appends an untagged status response.
pub fn write_untagged(condition: Condition, code: Option<&Code>, text: &str, out: &mut Vec<u8>) {
    write_status("*", condition, code, text, out);
}

/// Appends a continuation request; `text` is base64 in AUTHENTICATE, words elsewhere.
pub fn write_continuation(text: &str, out: &mut Vec<u8>) {
    for part in ["+ ", text, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn write_status(
    tag: &str,
    condition: Condition,
    code: Option<&Code>,
    text: &str,
    out: &mut Vec<u8>,
) {
    assert!(!text.is_empty() && !text.contains(['\r', '\n']), "a line of text");
    let condition = match condition {
        Condition::Ok => " OK ",
        Condition::No => " NO ",
        Condition::Bad => " BAD ",
        Condition::PreAuth => " PREAUTH ",
        Condition::Bye => " BYE ",
    };
    out.extend_from_slice(tag.as_bytes());
    out.extend_from_slice(condition.as_bytes());
    if let Some(code) = code {
        out.push(b'[');
        code.write(out);
        out.extend_from_slice(b"] ");
    }
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

impl Code<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        // Writing into memory does not fail.
        let _ = match self {
            Self::Plain(code) => write!(out, "{}", code.as_str()),
            Self::Capability(capabilities) => write!(out, "CAPABILITY {capabilities}"),
            Self::UidNext(uid) => write!(out, "UIDNEXT {uid}"),
            Self::UidValidity(value) => write!(out, "UIDVALIDITY {value}"),
            Self::Unseen(number) => write!(out, "UNSEEN {number}"),
            Self::HighestModSeq(value) => write!(out, "HIGHESTMODSEQ {value}"),
            Self::PermanentFlags(flags) => write!(out, "PERMANENTFLAGS {flags}"),
            Self::MailboxId(id) => write!(out, "MAILBOXID ({id})"),
            Self::BadCharset(known) => write!(out, "BADCHARSET ({known})"),
            Self::AppendUid { uid_validity, uids } => {
                let _ = write!(out, "APPENDUID {uid_validity} ");
                uids.write(out);
                Ok(())
            }
            Self::CopyUid { uid_validity, source, target } => {
                assert_eq!(source.count(), target.count());
                let _ = write!(out, "COPYUID {uid_validity} ");
                source.write(out);
                out.push(b' ');
                target.write(out);
                Ok(())
            }
            Self::Modified(numbers) => {
                out.extend_from_slice(b"MODIFIED ");
                numbers.write(out);
                Ok(())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_responses_carry_their_code() {
        let check = |code: Option<Code>, expected: &str| {
            let mut out = Vec::new();
            write_untagged(Condition::Ok, code.as_ref(), "Done", &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        };
        let source: NumberSet = [(3, 4), (9, 9)].into_iter().collect();
        let target: NumberSet = [(1, 3)].into_iter().collect();
        check(None, "* OK Done\r\n");
        check(Some(Code::Plain(PlainCode::ReadOnly)), "* OK [READ-ONLY] Done\r\n");
        check(Some(Code::UidNext(7)), "* OK [UIDNEXT 7] Done\r\n");
        check(
            Some(Code::AppendUid { uid_validity: 5, uids: &target }),
            "* OK [APPENDUID 5 1:3] Done\r\n",
        );
        check(
            Some(Code::CopyUid { uid_validity: 5, source: &source, target: &target }),
            "* OK [COPYUID 5 3:4,9 1:3] Done\r\n",
        );
        check(Some(Code::Modified(&source)), "* OK [MODIFIED 3:4,9] Done\r\n");
        let mut out = Vec::new();
        write_continuation("", &mut out);
        assert_eq!(out, b"+ \r\n");
    }
}
