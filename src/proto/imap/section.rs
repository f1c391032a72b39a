//! From the section a client asks for to the octets of a message.

use std::ops::Range;

use super::fetch::{Partial, Section, SectionText, Which};
use crate::proto::mime::field::Fields;
use crate::proto::mime::structure::{PartText, Structure};

impl Section {
    /// Where the octets lie that the section is made from, `None` when there is no such part.
    ///
    /// For HEADER.FIELDS it is the whole header section; `write_header_fields` chooses from it.
    pub fn locate(&self, structure: &Structure) -> Option<Range<u64>> {
        let text = match self.text {
            SectionText::Whole => PartText::Whole,
            SectionText::Header | SectionText::HeaderFields { .. } => PartText::Header,
            SectionText::Text => PartText::Text,
            SectionText::Mime => PartText::Mime,
        };
        structure.section(&self.part, text)
    }
}

impl Partial {
    /// The part of `octets` that is asked for; empty behind their end.
    pub fn of(self, octets: Range<u64>) -> Range<u64> {
        let start = octets.start.saturating_add(self.offset).min(octets.end);
        start..start.saturating_add(self.bytes_max).min(octets.end)
    }
}

/// Appends the fields of these names, or all but these, as they stand, and the empty line, if the
/// header section ends with one (RFC 9051 §6.4.5.1).
pub fn write_header_fields(header: &[u8], names: &[Vec<u8>], which: Which, out: &mut Vec<u8>) {
    for field in Fields::new(header) {
        let is_named = names.iter().any(|name| field.is_named(name));
        if is_named == (which == Which::These) {
            out.extend_from_slice(field.whole);
        }
    }
    let lines = header.strip_suffix(b"\n").map(|it| it.strip_suffix(b"\r").unwrap_or(it));
    if lines.is_some_and(|lines| lines.is_empty() || lines.ends_with(b"\n")) {
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mime::scan::scan;

    #[test]
    fn fields_are_chosen_by_name() {
        let header = b"From: a\r\nTo: b\r\n c\r\nX: d\r\nfrom: e\r\n\r\n";
        let check = |names: &[&str], which, expected: &str| {
            let names: Vec<Vec<u8>> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
            let mut out = Vec::new();
            write_header_fields(header, &names, which, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        };
        check(&["FROM", "Y"], Which::These, "From: a\r\nfrom: e\r\n\r\n");
        check(&["from", "x"], Which::AllOthers, "To: b\r\n c\r\n\r\n");
        check(&["Y"], Which::These, "\r\n");
    }

    #[test]
    fn a_header_section_without_its_end_gets_none() {
        for (header, expected) in
            [("A: b\r\n", ""), ("A: b", ""), ("", ""), ("A: b\n\n", "\r\n"), ("\r\n", "\r\n")]
        {
            let mut out = Vec::new();
            write_header_fields(header.as_bytes(), &[], Which::These, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected, "{header:?}");
        }
    }

    #[test]
    fn sections_and_partials_are_located() {
        let structure = scan(b"A: b\r\n\r\nbody\r\n");
        let section = |part: &[u32], text| Section { part: part.to_vec(), text };
        assert_eq!(section(&[], SectionText::Header).locate(&structure), Some(0..8));
        assert_eq!(section(&[1], SectionText::Whole).locate(&structure), Some(8..14));
        assert_eq!(section(&[2], SectionText::Whole).locate(&structure), None);
        let partial = |offset, bytes_max| Partial { offset, bytes_max }.of(8..14);
        assert_eq!(partial(0, 4), 8..12);
        assert_eq!(partial(4, 100), 12..14);
        assert_eq!(partial(6, 1), 14..14);
        assert_eq!(partial(u64::MAX, u64::MAX), 14..14);
    }
}
