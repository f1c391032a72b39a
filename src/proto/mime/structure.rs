//! The parts of a message: where each lies, and what its header section says.

use std::ops::Range;

use super::field::FieldName;
use super::media_type::MediaType;

/// Every part of one message, outermost first, each before the parts inside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    pub parts: Vec<Part>,
    /// A limit was met: parts are missing, or fields of some.
    pub is_truncated: bool,
    pub(super) fields: Vec<KeptField>,
    /// The kept fields as they stand, one behind the other.
    pub(super) text: Vec<u8>,
}

/// One part. Offsets count octets from the beginning of the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub kind: PartKind,
    /// The part it stands in.
    pub parent: Option<usize>,
    pub header_offset: u64,
    /// Octets of the header section with its empty line.
    pub header_bytes: u64,
    pub body_offset: u64,
    /// Octets of the body, without the line end that belongs to the boundary behind it.
    pub body_bytes: u64,
    /// Line ends in the body.
    pub body_lines: u64,
    /// Index behind the last part inside this one.
    pub subtree_end: usize,
    /// Stands in a multipart/digest: without a Content-Type it is a message (RFC 2046 §5.1.5).
    pub is_in_digest: bool,
    pub(super) fields: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// Has no parts inside, as far as was looked.
    Leaf,
    /// Its body is parts between boundaries.
    Multipart,
    /// Its body is a message: the one part inside.
    Message,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeptField {
    pub name: FieldName,
    /// With its name and its line ends.
    pub whole: Range<usize>,
    /// Behind the colon, without the last line end.
    pub body: Range<usize>,
}

/// What of a part is asked for (RFC 9051 §6.4.5, `section-text`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartText {
    /// The whole of a message, the body of a part.
    Whole,
    /// The header section of a message.
    Header,
    /// The body of a message.
    Text,
    /// The header section of a part.
    Mime,
}

impl Structure {
    /// Indices of the parts directly inside a part.
    pub fn children(&self, index: usize) -> impl Iterator<Item = usize> {
        let end = self.parts[index].subtree_end;
        let mut next = index + 1;
        std::iter::from_fn(move || {
            let child = next;
            (child < end).then(|| {
                next = self.parts[child].subtree_end;
                child
            })
        })
    }

    /// Whether a part is a whole message: the outermost one, or the inside of a message/rfc822.
    pub fn is_message(&self, index: usize) -> bool {
        match self.parts[index].parent {
            None => true,
            Some(parent) => self.parts[parent].kind == PartKind::Message,
        }
    }

    /// Bodies of the kept fields of this name in order, still folded.
    pub fn fields(&self, index: usize, name: FieldName) -> impl Iterator<Item = &[u8]> {
        let fields = self.fields[self.parts[index].fields.clone()].iter();
        fields.filter(move |field| field.name == name).map(|field| &self.text[field.body.clone()])
    }

    /// The kept fields of a part in order, each with its name and its line ends.
    pub fn whole_fields(&self, index: usize) -> impl Iterator<Item = (FieldName, &[u8])> {
        let fields = self.fields[self.parts[index].fields.clone()].iter();
        fields.map(|field| (field.name, &self.text[field.whole.clone()]))
    }

    /// The structure of the same content with trace fields of `bytes` octets in front, none of them
    /// a field that is kept.
    pub fn behind(mut self, bytes: u64) -> Self {
        for (index, part) in self.parts.iter_mut().enumerate() {
            if index == 0 {
                part.header_bytes += bytes;
            } else {
                part.header_offset += bytes;
            }
            part.body_offset += bytes;
        }
        self
    }

    /// Body of the first kept field of this name, still folded.
    pub fn field(&self, index: usize, name: FieldName) -> Option<&[u8]> {
        self.fields(index, name).next()
    }

    /// The media type that a part declares, if it declares one that can be read.
    pub fn media_type(&self, index: usize) -> Option<MediaType> {
        self.field(index, FieldName::ContentType).and_then(MediaType::parse)
    }

    /// Whether a part is shown as parts: a multipart in which none begins is text.
    pub fn has_parts(&self, index: usize) -> bool {
        let is_multipart = self.parts[index].kind == PartKind::Multipart;
        is_multipart && self.parts[index].subtree_end > index + 1
    }

    /// The part of a section number, `2.1` as `[2, 1]`; the outermost message for none.
    ///
    /// A message that is no multipart has its body as part 1 (RFC 3501 §6.4.5).
    pub fn find(&self, numbers: &[u32]) -> Option<usize> {
        let mut found = 0;
        let mut scope = 0;
        for number in numbers {
            let index = (*number as usize).checked_sub(1)?;
            self.parts.get(scope)?;
            found = match self.has_parts(scope) {
                true => self.children(scope).nth(index)?,
                false if index == 0 && self.is_message(scope) => scope,
                false => return None,
            };
            scope = match self.parts[found].kind {
                PartKind::Message => found + 1,
                PartKind::Multipart if self.has_parts(found) => found,
                // Nothing is inside it: the next number leads nowhere.
                _ => self.parts.len(),
            };
        }
        Some(found)
    }

    /// Where the octets of a section lie, or `None` when the message has no such section.
    pub fn section(&self, numbers: &[u32], text: PartText) -> Option<Range<u64>> {
        let found = self.find(numbers)?;
        let part = self.parts.get(found)?;
        if numbers.is_empty() {
            return match text {
                PartText::Whole => Some(part.header_offset..part.end()),
                PartText::Header => Some(part.header()),
                PartText::Text => Some(part.body()),
                PartText::Mime => None,
            };
        }
        match text {
            PartText::Whole => Some(part.body()),
            PartText::Mime => Some(part.header()),
            PartText::Header | PartText::Text if part.kind != PartKind::Message => None,
            PartText::Header => Some(self.parts[found + 1].header()),
            PartText::Text => Some(self.parts[found + 1].body()),
        }
    }
}

impl Part {
    pub fn header(&self) -> Range<u64> {
        self.header_offset..self.header_offset + self.header_bytes
    }

    pub fn body(&self) -> Range<u64> {
        self.body_offset..self.end()
    }

    pub fn end(&self) -> u64 {
        self.body_offset + self.body_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mime::scan::scan;

    const CONTENT: &[u8] = b"Subject: outer\r\n\
        Content-Type: multipart/mixed; boundary=\"o\"\r\n\r\n\
        preamble\r\n\
        --o\r\n\r\nfirst\r\n\
        --o\r\nContent-Type: message/rfc822\r\n\r\n\
        Subject: inner\r\nContent-Type: multipart/alternative; boundary=i\r\n\r\n\
        --i\r\nX: 1\r\n\r\nplain\r\n\
        --i\r\nContent-Type: text/html\r\n\r\n<p>\r\n\
        --i--\r\n\
        --o\r\nContent-Type: message/rfc822\r\n\r\nSubject: single\r\n\r\nalone\r\n\
        --o--\r\n";

    fn check(numbers: &[u32], text: PartText, expected: Option<&str>) {
        let range = scan(CONTENT).section(numbers, text);
        let found = range.map(|it| &CONTENT[it.start as usize..it.end as usize]);
        let found = found.map(|octets| String::from_utf8_lossy(octets).into_owned());
        assert_eq!(found.as_deref(), expected, "{numbers:?} {text:?}");
    }

    #[test]
    fn sections_are_numbered_as_imap_counts() {
        use PartText::*;
        check(&[1], Whole, Some("first"));
        check(&[1], Mime, Some("\r\n"));
        check(&[1], Header, None);
        check(&[1, 1], Whole, None);
        check(&[2], Mime, Some("Content-Type: message/rfc822\r\n\r\n"));
        check(
            &[2],
            Header,
            Some("Subject: inner\r\nContent-Type: multipart/alternative; boundary=i\r\n\r\n"),
        );
        check(&[2, 1], Whole, Some("plain"));
        check(&[2, 1], Mime, Some("X: 1\r\n\r\n"));
        check(&[2, 2], Whole, Some("<p>"));
        check(&[2, 3], Whole, None);
        check(&[3], Whole, Some("Subject: single\r\n\r\nalone"));
        check(&[3], Text, Some("alone"));
        check(&[3, 1], Whole, Some("alone"));
        check(&[3, 1, 1], Whole, None);
        check(&[3, 2], Whole, None);
        check(&[0], Whole, None);
        check(&[4], Whole, None);
        check(
            &[],
            Header,
            Some("Subject: outer\r\nContent-Type: multipart/mixed; boundary=\"o\"\r\n\r\n"),
        );
        check(&[], Whole, Some(std::str::from_utf8(CONTENT).expect("ASCII")));
        check(&[], Mime, None);
    }

    #[test]
    fn a_message_of_one_part_has_its_body_as_part_1() {
        let structure = scan(b"A: b\r\n\r\nbody\r\n");
        assert_eq!(structure.section(&[1], PartText::Whole), Some(8..14));
        assert_eq!(structure.section(&[1], PartText::Mime), Some(0..8));
        assert_eq!(structure.section(&[1, 1], PartText::Whole), None);
        assert_eq!(structure.section(&[2], PartText::Whole), None);
    }

    #[test]
    fn a_multipart_without_parts_is_one_part() {
        let structure = scan(b"Content-Type: multipart/mixed; boundary=b\r\n\r\ntext\r\n");
        assert_eq!(structure.section(&[1], PartText::Whole), Some(45..51));
        assert_eq!(structure.section(&[1, 1], PartText::Whole), None);
        assert_eq!(structure.section(&[2], PartText::Whole), None);
    }
}
