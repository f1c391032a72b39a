//! What a message is part of: the names by which senders are told apart and served in turn.

/// How soon a message is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Class {
    /// Somebody waits for it: it goes before the others.
    Transactional,
    #[default]
    Bulk,
}

impl Class {
    pub const ALL: [Class; 2] = [Class::Transactional, Class::Bulk];

    pub fn as_str(self) -> &'static str {
        match self {
            Class::Transactional => "transactional",
            Class::Bulk => "bulk",
        }
    }

    pub fn parse(text: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

/// Whether a text can name a tenant or a campaign: 1 to 255 octets of printable ASCII, without
/// spaces at the ends.
pub fn is_stream_name(text: &str) -> bool {
    let is_printable = text.bytes().all(|octet| (b' '..=b'~').contains(&octet));
    !text.is_empty() && text.len() <= 255 && is_printable && text.trim() == text
}

/// Who a message is sent for, and in which class.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Stream {
    /// Empty where nobody said.
    pub tenant: Box<str>,
    /// Empty where nobody said.
    pub campaign: Box<str>,
    pub class: Class,
}
