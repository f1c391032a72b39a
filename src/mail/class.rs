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

/// What a message itself says of the protection on its way (RFC 8689), whatever policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TlsTag {
    /// Nothing.
    #[default]
    None,
    /// REQUIRETLS: verified TLS, to next hops that promise the same for what follows; or a report
    /// that it Failed.
    Required,
    /// REQUIRETLS with the null reverse-path, as reports on such mail have it: where the next hop
    /// offers it, because nobody is told of their failure (RFC 8689 §5).
    RequiredWhereOffered,
    /// `TLS-Required: No`: what the recipient's domain asks for is not insisted on.
    Optional,
}

impl TlsTag {
    pub const ALL: [TlsTag; 4] =
        [TlsTag::None, TlsTag::Required, TlsTag::RequiredWhereOffered, TlsTag::Optional];

    /// As operators see it; empty for nothing.
    pub fn as_str(self) -> &'static str {
        match self {
            TlsTag::None => "",
            TlsTag::Required => "required",
            TlsTag::RequiredWhereOffered => "required-where-offered",
            TlsTag::Optional => "optional",
        }
    }

    pub fn parse(text: &str) -> Option<TlsTag> {
        TlsTag::ALL.into_iter().find(|tag| tag.as_str() == text)
    }

    /// As records on disk have it: 0 for nothing, at most 3.
    pub fn number(self) -> u8 {
        self as u8
    }

    pub fn of_number(number: u8) -> Option<TlsTag> {
        TlsTag::ALL.get(usize::from(number)).copied()
    }

    /// Of a report on a message with this tag (RFC 8689 §5).
    pub fn of_report(self) -> TlsTag {
        match self {
            TlsTag::Required | TlsTag::RequiredWhereOffered => TlsTag::RequiredWhereOffered,
            TlsTag::None | TlsTag::Optional => TlsTag::None,
        }
    }
}

/// Who a message is sent for, in which class, and under which protection of its own asking.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Stream {
    /// Empty where nobody said.
    pub tenant: Box<str>,
    /// Empty where nobody said.
    pub campaign: Box<str>,
    pub class: Class,
    pub tls: TlsTag,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_reads_back() {
        for tag in TlsTag::ALL {
            assert_eq!(TlsTag::of_number(tag.number()), Some(tag));
            assert_eq!(TlsTag::parse(tag.as_str()), Some(tag));
        }
        assert_eq!(TlsTag::of_number(4), None);
    }
}
