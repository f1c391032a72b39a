//! Names of mailboxes, and their special uses.

use super::utf7;

/// The name of a mailbox as people read it: UTF-8, INBOX in capitals.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MailboxName(Box<str>);

impl MailboxName {
    /// The name a client means: modified UTF-7, or UTF-8 from a client that has enabled it or does
    /// not care. `None` when it is neither, or has control characters.
    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::parse_as(text, NameForm::ModifiedUtf7)
    }

    /// The name a client means that writes names in this form.
    pub fn parse_as(text: &[u8], form: NameForm) -> Option<Self> {
        let name = decode_name(text, form)?;
        if name.chars().any(char::is_control) {
            return None;
        }
        Some(Self::of(name))
    }

    /// INBOX is that in any case, alone and where other names are below it.
    fn of(mut name: String) -> Self {
        let level_end = name.find(HIERARCHY_SEPARATOR).unwrap_or(name.len());
        if name[..level_end].eq_ignore_ascii_case("INBOX") {
            name[..level_end].make_ascii_uppercase();
        }
        Self(name.into())
    }

    /// The name without the separator that some clients put at its end.
    pub fn without_last_separator(&self) -> Self {
        match self.0.strip_suffix(HIERARCHY_SEPARATOR) {
            Some(name) if !name.is_empty() => Self::of(name.to_owned()),
            _ => self.clone(),
        }
    }

    /// The name as people read it; `None` where it is empty or has control characters.
    pub fn from_text(text: &str) -> Option<Self> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return None;
        }
        let is_inbox = text.eq_ignore_ascii_case("INBOX");
        Some(Self(if is_inbox { "INBOX".into() } else { text.into() }))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_inbox(&self) -> bool {
        &*self.0 == "INBOX"
    }
}

/// A name or a pattern of names in either encoding.
pub(super) fn decode_name(text: &[u8], form: NameForm) -> Option<String> {
    match form == NameForm::ModifiedUtf7 && text.is_ascii() {
        true => utf7::decode(text),
        false => std::str::from_utf8(text).ok().map(str::to_owned),
    }
}

/// How names are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameForm {
    #[default]
    ModifiedUtf7,
    /// After ENABLE UTF8=ACCEPT (RFC 6855 §3).
    Utf8,
}

/// Between the names of a mailbox and its inferior.
pub const HIERARCHY_SEPARATOR: char = '/';

/// What a mailbox is for (RFC 6154).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpecialUse {
    All,
    Archive,
    Drafts,
    Flagged,
    Important,
    Junk,
    Sent,
    Trash,
}

impl SpecialUse {
    pub const ALL: [SpecialUse; 8] = [
        Self::All,
        Self::Archive,
        Self::Drafts,
        Self::Flagged,
        Self::Important,
        Self::Junk,
        Self::Sent,
        Self::Trash,
    ];

    /// The use of an attribute like `\Sent`, in any case.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|it| name.eq_ignore_ascii_case(it.as_str().as_bytes()))
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "\\All",
            Self::Archive => "\\Archive",
            Self::Drafts => "\\Drafts",
            Self::Flagged => "\\Flagged",
            Self::Important => "\\Important",
            Self::Junk => "\\Junk",
            Self::Sent => "\\Sent",
            Self::Trash => "\\Trash",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_both_encodings() {
        let check = |text: &[u8], expected: Option<&str>| {
            assert_eq!(MailboxName::parse(text).as_ref().map(MailboxName::as_str), expected);
        };
        check(b"inBox", Some("INBOX"));
        check(b"Inbox/Inbox", Some("INBOX/Inbox"));
        check(b"inboxes", Some("inboxes"));
        check(b"Entw&APw-rfe", Some("Entwürfe"));
        check("Entwürfe".as_bytes(), Some("Entwürfe"));
        check(b"a&b", None);
        let plain = MailboxName::parse_as(b"a&AOQ-b", NameForm::Utf8);
        assert_eq!(plain.as_ref().map(MailboxName::as_str), Some("a&AOQ-b"));
        check(b"&AAk-", None);
        check(b"\xff", None);
    }

    #[test]
    fn special_uses_go_both_ways() {
        for special_use in SpecialUse::ALL {
            assert_eq!(SpecialUse::from_name(special_use.as_str().as_bytes()), Some(special_use));
        }
        assert_eq!(SpecialUse::from_name(b"Sent"), None);
    }
}
