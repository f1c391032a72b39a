//! A structure as octets, to be kept beside a message and read back (docs/MAILBOX.md).
//!
//! What is read back is foreign: whatever the octets are, a structure that comes of them is one
//! that `imap` can show.

use super::field::FieldName;
use super::media_type::MediaType;
use super::structure::{KeptField, Part, PartKind, Structure};
use crate::limits::{MIME_DEPTH_MAX, MIME_KEPT_BYTES_MAX, MIME_PARTS_MAX};

impl Structure {
    /// Appends the structure of content of at most `u32::MAX` octets.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(self.is_truncated.into());
        for count in [self.parts.len(), self.fields.len(), self.text.len()] {
            out.extend_from_slice(&(count as u32).to_le_bytes());
        }
        for field in &self.fields {
            out.push(field.name as u8);
            for offset in [field.body.start - field.whole.start, field.body.len()] {
                out.extend_from_slice(&(offset as u32).to_le_bytes());
            }
            out.extend_from_slice(&(field.whole.len() as u32).to_le_bytes());
        }
        out.extend_from_slice(&self.text);
        for part in &self.parts {
            let kind = match part.kind {
                PartKind::Leaf => 0,
                PartKind::Multipart => 1,
                PartKind::Message => 2,
            };
            out.push(kind | u8::from(part.is_in_digest) << 2);
            for index in [part.parent.unwrap_or(NO_PARENT), part.subtree_end] {
                out.extend_from_slice(&(index as u16).to_le_bytes());
            }
            let octets = [part.header_offset, part.header_bytes, part.body_bytes, part.body_lines];
            for value in octets {
                out.extend_from_slice(&(value as u32).to_le_bytes());
            }
            out.extend_from_slice(&(part.fields.end as u32).to_le_bytes());
        }
    }

    /// The structure that was written, and nothing but it; `None` for anything else.
    pub fn read(octets: &[u8]) -> Option<Self> {
        let mut reader = Reader { rest: octets };
        let stored = Stored::read(&mut reader)?;
        let mut structure = Self {
            parts: Vec::with_capacity(stored.part_count),
            is_truncated: stored.is_truncated,
            fields: Vec::with_capacity(stored.field_count),
            text: stored.text.to_vec(),
        };
        let mut fields = Reader { rest: stored.fields };
        let mut start = 0;
        while let Some((name, body_at, body_bytes, whole_bytes)) = fields.field() {
            let body = start + body_at..start + body_at + body_bytes;
            structure.fields.push(KeptField { name, whole: start..start + whole_bytes, body });
            start += whole_bytes;
        }
        if structure.fields.len() != stored.field_count || start != stored.text.len() {
            return None;
        }
        for _ in 0..stored.part_count {
            let part = read_part(&mut reader, &structure)?;
            structure.parts.push(part);
        }
        (reader.rest.is_empty() && structure.is_shapely()).then_some(structure)
    }

    /// Whether parts lie within each other as a scanner leaves them.
    fn is_shapely(&self) -> bool {
        let part_count = self.parts.len();
        let ends_behind =
            |(index, part): (usize, &Part)| (index + 1..=part_count).contains(&part.subtree_end);
        if !self.parts.iter().enumerate().all(ends_behind) {
            return false;
        }
        let mut open: Vec<usize> = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            while open.last().is_some_and(|outer| self.parts[*outer].subtree_end <= index) {
                open.pop();
            }
            let outer = open.last().map(|outer| &self.parts[*outer]);
            let is_inside = part.parent == open.last().copied()
                && part.parent.is_none() == (index == 0)
                && open.len() < MIME_DEPTH_MAX
                && outer.is_none_or(|outer| {
                    part.subtree_end <= outer.subtree_end
                        && outer.body_offset <= part.header_offset
                        && part.end() <= outer.end()
                });
            let holds = match part.kind {
                PartKind::Leaf => part.subtree_end == index + 1,
                PartKind::Multipart => self.media_type(index).as_ref().is_some_and(is_multipart),
                PartKind::Message => self.children(index).count() == 1,
            };
            if !is_inside || !holds {
                return false;
            }
            open.push(index);
        }
        true
    }
}

fn is_multipart(media_type: &MediaType) -> bool {
    media_type.is_kind("multipart")
}

/// The fields of the outermost message in a stored structure, in order, each as it stands; nothing
/// is taken apart but them. Empty where the octets are no structure.
pub fn stored_fields(octets: &[u8]) -> impl Iterator<Item = StoredField<'_>> {
    let mut reader = Reader { rest: octets };
    let stored = Stored::read(&mut reader);
    // The parts follow: the fields of the first end where it says.
    let first_part = reader.rest.get(FIELDS_END_AT..PART_BYTES);
    let field_count = first_part.and_then(|it| Some(u32::from_le_bytes(it.try_into().ok()?)));
    let (fields, mut text) = stored.map_or((&b""[..], &b""[..]), |it| (it.fields, it.text));
    let mut fields = Reader { rest: fields };
    let mut left = field_count.unwrap_or(0);
    std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let (name, body_at, body_bytes, whole_bytes) = fields.field()?;
        let (whole, rest) = text.split_at_checked(whole_bytes)?;
        text = rest;
        Some(StoredField { name, whole, body: &whole[body_at..body_at + body_bytes] })
    })
}

/// Octets of the body of a stored structure; 0 where it is none.
pub fn stored_body_bytes(octets: &[u8]) -> u32 {
    let mut reader = Reader { rest: octets };
    let body_bytes = Stored::read(&mut reader).and_then(|_| {
        let octets = reader.rest.get(BODY_BYTES_AT..BODY_BYTES_AT + 4)?;
        Some(u32::from_le_bytes(octets.try_into().ok()?))
    });
    body_bytes.unwrap_or(0)
}

/// Whether a stored structure lacks parts or fields; so does what is none.
pub fn stored_is_truncated(octets: &[u8]) -> bool {
    octets.first() != Some(&0)
}

/// A field of `stored_fields`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredField<'s> {
    pub name: FieldName,
    /// With its name and its line ends.
    pub whole: &'s [u8],
    /// Behind the colon, still folded, without the last line end.
    pub body: &'s [u8],
}

/// What stands before the parts.
struct Stored<'s> {
    is_truncated: bool,
    part_count: usize,
    field_count: usize,
    fields: &'s [u8],
    text: &'s [u8],
}

impl<'s> Stored<'s> {
    fn read(reader: &mut Reader<'s>) -> Option<Self> {
        let is_truncated = match reader.take(1)? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let part_count = reader.number()?;
        let field_count = reader.number()?;
        let text_bytes = reader.number()?;
        if part_count == 0 || part_count > MIME_PARTS_MAX || text_bytes > MIME_KEPT_BYTES_MAX {
            return None;
        }
        let fields = reader.take(field_count.checked_mul(FIELD_BYTES)?)?;
        let text = reader.take(text_bytes)?;
        Some(Self { is_truncated, part_count, field_count, fields, text })
    }
}

struct Reader<'s> {
    rest: &'s [u8],
}

impl<'s> Reader<'s> {
    fn take(&mut self, bytes: usize) -> Option<&'s [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<usize> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?) as usize)
    }

    fn index(&mut self) -> Option<usize> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?).into())
    }

    /// Name, where the body begins, its octets, and those of the whole.
    fn field(&mut self) -> Option<(FieldName, usize, usize, usize)> {
        let name = *FieldName::ALL.get(usize::from(self.take(1)?[0]))?;
        let (body_at, body_bytes, whole_bytes) = (self.number()?, self.number()?, self.number()?);
        let is_within = body_at.checked_add(body_bytes)? <= whole_bytes;
        is_within.then_some((name, body_at, body_bytes, whole_bytes))
    }
}

fn read_part(reader: &mut Reader<'_>, before: &Structure) -> Option<Part> {
    let flags = reader.take(1)?[0];
    let kind = match flags & 3 {
        0 => PartKind::Leaf,
        1 => PartKind::Multipart,
        2 => PartKind::Message,
        _ => return None,
    };
    let parent = Some(reader.index()?).filter(|parent| *parent != NO_PARENT);
    let subtree_end = reader.index()?;
    let (header_offset, header_bytes) = (reader.number()? as u64, reader.number()? as u64);
    let (body_bytes, body_lines) = (reader.number()? as u64, reader.number()? as u64);
    let fields_start = before.parts.last().map_or(0, |part| part.fields.end);
    let fields_end = reader.number()?;
    if flags > 7 || fields_end < fields_start || fields_end > before.fields.len() {
        return None;
    }
    Some(Part {
        kind,
        parent,
        header_offset,
        header_bytes,
        body_offset: header_offset + header_bytes,
        body_bytes,
        body_lines,
        subtree_end,
        is_in_digest: flags & 4 != 0,
        fields: fields_start..fields_end,
    })
}

/// Octets of a field, and of a part; where in a part the octets of its body stand, and the end of
/// its fields.
const FIELD_BYTES: usize = 13;
const PART_BYTES: usize = 25;
const BODY_BYTES_AT: usize = 13;
const FIELDS_END_AT: usize = 21;
/// Stands for no parent.
const NO_PARENT: usize = u16::MAX as usize;
const _: () = assert!(MIME_PARTS_MAX < NO_PARENT);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mime::scan::scan;

    const CONTENT: &[u8] = b"Subject: outer\r\nX: y\r\nfrom:a@b\r\n\
        Content-Type: multipart/mixed; boundary=\"o\"\r\n\r\n\
        --o\r\n\r\nfirst\r\n\
        --o\r\nContent-Type: message/rfc822\r\n\r\n\
        Subject: inner\r\nContent-Type: multipart/digest; boundary=i\r\n\r\n\
        --i\r\n\r\nSubject: x\r\n\r\nplain\r\n--i--\r\n\
        --o--\r\n";

    fn stored(content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        scan(content).write(&mut out);
        out
    }

    #[test]
    fn structures_come_back_as_they_were() {
        for content in [CONTENT, b"", b"\r\n", b"To: x", b"a\r\n\r\nb"] {
            assert_eq!(Structure::read(&stored(content)), Some(scan(content)));
        }
    }

    #[test]
    fn fields_of_the_outermost_message_are_found_without_the_rest() {
        let stored = stored(CONTENT);
        let fields: Vec<_> = stored_fields(&stored).map(|it| (it.name, it.whole)).collect();
        let structure = scan(CONTENT);
        assert_eq!(fields, structure.whole_fields(0).collect::<Vec<_>>());
        assert_eq!(fields.len(), 3);
        assert_eq!(u64::from(stored_body_bytes(&stored)), structure.parts[0].body_bytes);
        let from = stored_fields(&stored).find(|it| it.name == FieldName::From);
        assert_eq!(from.map(|it| it.body), Some(&b"a@b"[..]));
    }

    #[test]
    fn cut_or_changed_octets_are_no_structure_or_a_sound_one() {
        let whole = stored(CONTENT);
        for cut in 0..whole.len() {
            assert_eq!(Structure::read(&whole[..cut]), None, "cut at {cut}");
            stored_fields(&whole[..cut]).for_each(drop);
            stored_body_bytes(&whole[..cut]);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 2, 5, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                stored_fields(&changed).for_each(drop);
                let Some(structure) = Structure::read(&changed) else { continue };
                let mut out = Vec::new();
                crate::proto::imap::structure::write_body(
                    &structure,
                    crate::proto::imap::structure::Extension::With,
                    &mut out,
                );
                structure.find(&[2, 1, 1]);
            }
        }
    }
}
