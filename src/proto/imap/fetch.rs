//! FETCH (RFC 9051 §6.4.5; RFC 3516, RFC 7162, RFC 8474, RFC 8514, RFC 8970).

use std::io::Write;

use super::command::{Messages, Numbering, messages};
use super::cursor::{Cursor, Fault, Parsed};
use super::string::write_astring;

/// FETCH or UID FETCH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    pub numbering: Numbering,
    pub messages: Messages,
    /// At least one; macros are written out.
    pub items: Vec<FetchItem>,
    /// Only messages changed after this mod-sequence.
    pub changed_since: Option<u64>,
    /// With those that have vanished since.
    pub vanished: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchItem {
    Uid,
    Flags,
    InternalDate,
    Rfc822Size,
    Envelope,
    /// BODY without a section.
    Body,
    BodyStructure,
    ModSeq,
    SaveDate,
    EmailId,
    ThreadId,
    Preview(Preview),
    /// `BODY[...]` and `BODY.PEEK[...]`.
    Section {
        section: Section,
        partial: Option<Partial>,
        seen: SetsSeen,
    },
    /// `BINARY[...]` and `BINARY.PEEK[...]`.
    Binary {
        part: Vec<u32>,
        partial: Option<Partial>,
        seen: SetsSeen,
    },
    BinarySize {
        part: Vec<u32>,
    },
    /// As BODY[], under its old name.
    Rfc822,
    /// As BODY.PEEK[HEADER], under its old name.
    Rfc822Header,
    /// As BODY[TEXT], under its old name.
    Rfc822Text,
}

/// Whether what is not at hand may be left out (RFC 8970 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preview {
    Always,
    Lazy,
}

/// Whether reading sets \Seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetsSeen {
    Yes,
    /// PEEK.
    No,
}

/// `<offset.length>`, in octets; the length is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    pub offset: u64,
    pub bytes_max: u64,
}

/// What of a message is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Part numbers from the outermost in; empty for the message itself.
    pub part: Vec<u32>,
    pub text: SectionText,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SectionText {
    Whole,
    Header,
    /// The fields of these names only, or all but these.
    HeaderFields {
        names: Vec<Vec<u8>>,
        which: Which,
    },
    Text,
    Mime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    These,
    AllOthers,
}

impl Section {
    /// Appends what stands between the brackets of a response.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_part(&self.part, out);
        let text = match &self.text {
            SectionText::Whole => return,
            SectionText::Header => "HEADER",
            SectionText::HeaderFields { which: Which::These, .. } => "HEADER.FIELDS",
            SectionText::HeaderFields { which: Which::AllOthers, .. } => "HEADER.FIELDS.NOT",
            SectionText::Text => "TEXT",
            SectionText::Mime => "MIME",
        };
        if !self.part.is_empty() {
            out.push(b'.');
        }
        out.extend_from_slice(text.as_bytes());
        if let SectionText::HeaderFields { names, .. } = &self.text {
            out.extend_from_slice(b" (");
            for (index, name) in names.iter().enumerate() {
                if index > 0 {
                    out.push(b' ');
                }
                write_astring(name, out);
            }
            out.push(b')');
        }
    }
}

/// Appends `1.2`.
pub fn write_part(part: &[u32], out: &mut Vec<u8>) {
    for (index, number) in part.iter().enumerate() {
        let dot = if index > 0 { "." } else { "" };
        // Writing into memory does not fail.
        let _ = write!(out, "{dot}{number}");
    }
}

/// The arguments of FETCH.
pub(super) fn fetch(numbering: Numbering, cursor: &mut Cursor) -> Parsed<Fetch> {
    let messages = messages(cursor)?;
    cursor.space()?;
    let mut items = Vec::new();
    if cursor.peek() == Some(b'(') {
        cursor.list(|cursor| item(cursor, &mut items))?;
    } else if let Some(all) = macro_items(cursor) {
        items = all;
    } else {
        item(cursor, &mut items)?;
    }
    if items.is_empty() {
        return Err(Fault("Missing FETCH item"));
    }
    let mut fetch = Fetch { numbering, messages, items, changed_since: None, vanished: false };
    if cursor.more()? {
        cursor.list(|cursor| fetch.read_modifier(cursor))?;
    }
    if fetch.vanished && (fetch.changed_since.is_none() || numbering != Numbering::Uid) {
        return Err(Fault("VANISHED needs UID FETCH and CHANGEDSINCE"));
    }
    Ok(fetch)
}

impl Fetch {
    fn read_modifier(&mut self, cursor: &mut Cursor) -> Parsed<()> {
        match cursor.name()?.to_ascii_uppercase().as_str() {
            "CHANGEDSINCE" => {
                cursor.space()?;
                self.changed_since = Some(cursor.number()?);
            }
            "VANISHED" => self.vanished = true,
            _ => return Err(Fault("Unknown FETCH modifier")),
        }
        Ok(())
    }
}

/// ALL, FAST and FULL (RFC 9051 §6.4.5).
fn macro_items(cursor: &mut Cursor) -> Option<Vec<FetchItem>> {
    use FetchItem::{Body, Envelope, Flags, InternalDate, Rfc822Size};
    let mut ahead = *cursor;
    let items = match ahead.name().ok()?.to_ascii_uppercase().as_str() {
        "ALL" => vec![Flags, InternalDate, Rfc822Size, Envelope],
        "FAST" => vec![Flags, InternalDate, Rfc822Size],
        "FULL" => vec![Flags, InternalDate, Rfc822Size, Envelope, Body],
        _ => return None,
    };
    *cursor = ahead;
    Some(items)
}

fn item(cursor: &mut Cursor, items: &mut Vec<FetchItem>) -> Parsed<()> {
    let name = cursor.name()?.to_ascii_uppercase();
    let has_section = cursor.peek() == Some(b'[');
    let item = match (name.as_str(), has_section) {
        ("BODY", true) => section_item(cursor, SetsSeen::Yes)?,
        ("BODY.PEEK", true) => section_item(cursor, SetsSeen::No)?,
        ("BINARY", true) => binary_item(cursor, SetsSeen::Yes)?,
        ("BINARY.PEEK", true) => binary_item(cursor, SetsSeen::No)?,
        ("BINARY.SIZE", true) => FetchItem::BinarySize { part: bracketed_part(cursor)? },
        ("UID", _) => FetchItem::Uid,
        ("FLAGS", _) => FetchItem::Flags,
        ("INTERNALDATE", _) => FetchItem::InternalDate,
        ("RFC822.SIZE", _) => FetchItem::Rfc822Size,
        ("ENVELOPE", _) => FetchItem::Envelope,
        ("BODY", _) => FetchItem::Body,
        ("BODYSTRUCTURE", _) => FetchItem::BodyStructure,
        ("MODSEQ", _) => FetchItem::ModSeq,
        ("SAVEDATE", _) => FetchItem::SaveDate,
        ("EMAILID", _) => FetchItem::EmailId,
        ("THREADID", _) => FetchItem::ThreadId,
        ("RFC822", _) => FetchItem::Rfc822,
        ("RFC822.HEADER", _) => FetchItem::Rfc822Header,
        ("RFC822.TEXT", _) => FetchItem::Rfc822Text,
        ("PREVIEW", _) => FetchItem::Preview(preview(cursor)?),
        _ => return Err(Fault("Unknown FETCH item")),
    };
    if !items.contains(&item) {
        items.push(item);
    }
    Ok(())
}

fn preview(cursor: &mut Cursor) -> Parsed<Preview> {
    let mut ahead = *cursor;
    if !ahead.eat(b' ') || !ahead.eat(b'(') {
        return Ok(Preview::Always);
    }
    *cursor = ahead;
    if !cursor.eat_text("LAZY") {
        return Err(Fault("Unknown PREVIEW modifier"));
    }
    cursor.expect(b')', "Expected )")?;
    Ok(Preview::Lazy)
}

fn section_item(cursor: &mut Cursor, seen: SetsSeen) -> Parsed<FetchItem> {
    cursor.expect(b'[', "Expected [")?;
    let section = section(cursor)?;
    cursor.expect(b']', "Expected ]")?;
    Ok(FetchItem::Section { section, partial: partial(cursor)?, seen })
}

fn binary_item(cursor: &mut Cursor, seen: SetsSeen) -> Parsed<FetchItem> {
    let part = bracketed_part(cursor)?;
    Ok(FetchItem::Binary { part, partial: partial(cursor)?, seen })
}

fn bracketed_part(cursor: &mut Cursor) -> Parsed<Vec<u32>> {
    cursor.expect(b'[', "Expected [")?;
    let mut part = Vec::new();
    while cursor.peek() != Some(b']') {
        if !part.is_empty() {
            cursor.expect(b'.', BAD_SECTION.0)?;
        }
        part.push(cursor.nz_number()?);
    }
    cursor.expect(b']', "Expected ]")?;
    Ok(part)
}

fn section(cursor: &mut Cursor) -> Parsed<Section> {
    let mut part = Vec::new();
    while cursor.peek().is_some_and(|octet| octet.is_ascii_digit()) {
        part.push(cursor.nz_number()?);
        if !cursor.eat(b'.') {
            return Ok(Section { part, text: SectionText::Whole });
        }
    }
    if part.is_empty() && cursor.peek() == Some(b']') {
        return Ok(Section { part, text: SectionText::Whole });
    }
    let text = match cursor.name()?.to_ascii_uppercase().as_str() {
        "HEADER" => SectionText::Header,
        "HEADER.FIELDS" => header_fields(cursor, Which::These)?,
        "HEADER.FIELDS.NOT" => header_fields(cursor, Which::AllOthers)?,
        "TEXT" => SectionText::Text,
        "MIME" if !part.is_empty() => SectionText::Mime,
        _ => return Err(BAD_SECTION),
    };
    Ok(Section { part, text })
}

fn header_fields(cursor: &mut Cursor, which: Which) -> Parsed<SectionText> {
    cursor.space()?;
    let names = cursor.list(|cursor| Ok(cursor.astring()?.into_owned()))?;
    if names.is_empty() {
        return Err(Fault("Missing field name"));
    }
    Ok(SectionText::HeaderFields { names, which })
}

fn partial(cursor: &mut Cursor) -> Parsed<Option<Partial>> {
    if !cursor.eat(b'<') {
        return Ok(None);
    }
    let offset = cursor.number()?;
    cursor.expect(b'.', BAD_PARTIAL.0)?;
    let bytes_max = cursor.number()?;
    cursor.expect(b'>', BAD_PARTIAL.0)?;
    if bytes_max == 0 { Err(BAD_PARTIAL) } else { Ok(Some(Partial { offset, bytes_max })) }
}

const BAD_SECTION: Fault = Fault("Bad section");
const BAD_PARTIAL: Fault = Fault("Bad partial range");
