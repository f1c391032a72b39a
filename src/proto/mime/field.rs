//! Header fields in order (RFC 5322 §2.2), and the ones that are kept.

use std::borrow::Cow;

/// A field as it stands in a header section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'h> {
    /// Without white space before the colon. Empty for lines that are no field.
    pub name: &'h [u8],
    /// All behind the colon, still folded, without its last line end.
    pub body: &'h [u8],
    /// The lines of the field with their ends.
    pub whole: &'h [u8],
}

impl Field<'_> {
    pub fn is_named(&self, name: &[u8]) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// The fields of a header section, up to its empty line.
#[derive(Clone, Debug)]
pub struct Fields<'h> {
    rest: &'h [u8],
}

impl<'h> Fields<'h> {
    pub fn new(header: &'h [u8]) -> Self {
        Self { rest: header }
    }
}

impl<'h> Iterator for Fields<'h> {
    type Item = Field<'h>;

    fn next(&mut self) -> Option<Field<'h>> {
        if self.rest.is_empty() || without_line_end(first_line(self.rest)).is_empty() {
            return None;
        }
        let mut end = first_line(self.rest).len();
        while matches!(self.rest.get(end), Some(b' ' | b'\t')) {
            end += first_line(&self.rest[end..]).len();
        }
        let (whole, rest) = self.rest.split_at(end);
        self.rest = rest;
        let (name, body) = match memchr::memchr(b':', whole) {
            Some(colon) if colon < first_line(whole).len() => {
                (whole[..colon].trim_ascii_end(), without_line_end(&whole[colon + 1..]))
            }
            _ => (&whole[..0], without_line_end(whole)),
        };
        Some(Field { name, body, whole })
    }
}

fn first_line(octets: &[u8]) -> &[u8] {
    match memchr::memchr(b'\n', octets) {
        Some(end) => &octets[..=end],
        None => octets,
    }
}

pub(super) fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// A field body on one line, without white space around it (RFC 5322 §2.2.3).
pub fn unfold(body: &[u8]) -> Cow<'_, [u8]> {
    let body = body.trim_ascii();
    if memchr::memchr2(b'\r', b'\n', body).is_none() {
        return Cow::Borrowed(body);
    }
    Cow::Owned(body.iter().copied().filter(|octet| !matches!(octet, b'\r' | b'\n')).collect())
}

macro_rules! field_names {
    ($($name:ident $text:literal $scope:ident)*) => {
        /// Fields that are kept while a message is scanned.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FieldName { $($name),* }

        impl FieldName {
            /// All of them, each at the position that is its number.
            pub(super) const ALL: &[Self] = &[$(Self::$name),*];

            /// The field of this name, in any case.
            pub fn from_octets(name: &[u8]) -> Option<Self> {
                $(if name.eq_ignore_ascii_case($text.as_bytes()) { return Some(Self::$name); })*
                None
            }

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// Whose fields of this name are kept.
            pub fn scope(self) -> Scope {
                match self { $(Self::$name => Scope::$scope),* }
            }
        }
    };
}

/// Whose fields are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Those of every part.
    Part,
    /// Those of every message, be it inside another one: what an ENVELOPE shows.
    Message,
    /// Those of the outermost message: what readers list and sort by.
    Root,
}

field_names! {
    ContentType "Content-Type" Part
    ContentTransferEncoding "Content-Transfer-Encoding" Part
    ContentId "Content-ID" Part
    ContentDescription "Content-Description" Part
    ContentDisposition "Content-Disposition" Part
    ContentLanguage "Content-Language" Part
    ContentLocation "Content-Location" Part
    ContentMd5 "Content-MD5" Part
    Date "Date" Message
    Subject "Subject" Message
    From "From" Message
    Sender "Sender" Message
    ReplyTo "Reply-To" Message
    To "To" Message
    Cc "Cc" Message
    Bcc "Bcc" Message
    InReplyTo "In-Reply-To" Message
    MessageId "Message-ID" Message
    References "References" Root
    Newsgroups "Newsgroups" Root
    Priority "Priority" Root
    XPriority "X-Priority" Root
    Importance "Importance" Root
    ListId "List-Id" Root
    ListPost "List-Post" Root
    ListUnsubscribe "List-Unsubscribe" Root
    AutoSubmitted "Auto-Submitted" Root
    DispositionNotificationTo "Disposition-Notification-To" Root
    XUniformTypeIdentifier "X-Uniform-Type-Identifier" Root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_order_and_folded() {
        let header =
            b"From: a@b\r\nno field\r\nSUBJECT :\r\n two\r\n\tthree \r\nTo:\r\n\r\nnot: here";
        let fields: Vec<Field> = Fields::new(header).collect();
        let names: Vec<&[u8]> = fields.iter().map(|field| field.name).collect();
        assert_eq!(names, [&b"From"[..], b"", b"SUBJECT", b"To"]);
        assert!(fields[2].is_named(b"Subject"));
        assert_eq!(fields[2].body, b"\r\n two\r\n\tthree ");
        assert_eq!(&*unfold(fields[2].body), b"two\tthree");
        assert_eq!(fields[1].body, b"no field");
        assert_eq!(fields[3].body, b"");
        let whole: Vec<u8> = fields.iter().flat_map(|field| field.whole.to_vec()).collect();
        assert_eq!(whole, header[..header.len() - 11]);
    }

    #[test]
    fn a_colon_in_a_folded_line_makes_no_field() {
        let fields: Vec<Field> = Fields::new(b"odd\n line: x\n").collect();
        assert_eq!((fields[0].name, fields[0].body), (&b""[..], &b"odd\n line: x"[..]));
    }

    #[test]
    fn names_are_known_in_any_case() {
        assert_eq!(FieldName::from_octets(b"reply-TO"), Some(FieldName::ReplyTo));
        assert_eq!(FieldName::from_octets(b"Received"), None);
        assert_eq!(FieldName::MessageId.as_str(), "Message-ID");
        assert_eq!(FieldName::MessageId.scope(), Scope::Message);
    }
}
