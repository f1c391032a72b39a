//! BODY and BODYSTRUCTURE (RFC 9051 §7.5.2).

use std::io::Write;

use super::envelope::write_envelope;
use super::string::{NIL, write_nstring, write_separator, write_string};
use crate::proto::mime::field::{FieldName, unfold};
use crate::proto::mime::media_type::{Disposition, MediaType, Parameter, first_word, words};
use crate::proto::mime::structure::{PartKind, Structure};

/// Which of the two is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// BODY: without extension data.
    Without,
    /// BODYSTRUCTURE: with all of it.
    With,
}

/// Appends BODY or BODYSTRUCTURE of a whole message.
pub fn write_body(structure: &Structure, extension: Extension, out: &mut Vec<u8>) {
    write_part(structure, 0, extension, out);
}

fn write_part(structure: &Structure, index: usize, extension: Extension, out: &mut Vec<u8>) {
    if structure.has_parts(index) {
        write_multipart(structure, index, extension, out);
    } else {
        write_single(structure, index, extension, out);
    }
}

fn write_multipart(structure: &Structure, index: usize, extension: Extension, out: &mut Vec<u8>) {
    let media_type = structure.media_type(index);
    let media_type = media_type.expect("a multipart has a media type");
    out.push(b'(');
    for child in structure.children(index) {
        write_part(structure, child, extension, out);
    }
    out.push(b' ');
    write_string(&media_type.subtype, out);
    if extension == Extension::With {
        out.push(b' ');
        write_parameters(&media_type.parameters, out);
        write_last_extensions(structure, index, out);
    }
    out.push(b')');
}

fn write_single(structure: &Structure, index: usize, extension: Extension, out: &mut Vec<u8>) {
    let part = &structure.parts[index];
    let media_type = shown_media_type(structure, index);
    write_separator(true, out);
    write_string(&media_type.kind, out);
    out.push(b' ');
    write_string(&media_type.subtype, out);
    out.push(b' ');
    write_parameters(&media_type.parameters, out);
    for name in [FieldName::ContentId, FieldName::ContentDescription] {
        out.push(b' ');
        write_nstring(structure.field(index, name).map(unfold).as_deref(), out);
    }
    out.push(b' ');
    let encoding = structure.field(index, FieldName::ContentTransferEncoding).map(first_word);
    let encoding = encoding.filter(|encoding| !encoding.is_empty());
    write_string(encoding.as_deref().unwrap_or(b"7BIT"), out);
    // Writing into memory does not fail.
    let _ = write!(out, " {}", part.body_bytes);
    if part.kind == PartKind::Message {
        out.push(b' ');
        write_envelope(structure, index + 1, out);
        out.push(b' ');
        write_part(structure, index + 1, extension, out);
    }
    if part.kind == PartKind::Message || media_type.is_kind("text") {
        let _ = write!(out, " {}", part.body_lines);
    }
    if extension == Extension::With {
        out.push(b' ');
        let md5 = structure.field(index, FieldName::ContentMd5).map(unfold);
        write_nstring(md5.as_deref(), out);
        write_last_extensions(structure, index, out);
    }
    out.push(b')');
}

/// The media type by which a part without parts inside is shown.
///
/// A multipart in which nothing begins is read as text, as RFC 2045 §5.2 reads a Content-Type that
/// cannot be used; a message that was not looked into is some octets.
fn shown_media_type(structure: &Structure, index: usize) -> MediaType {
    let part = &structure.parts[index];
    match structure.media_type(index) {
        None if part.kind == PartKind::Message => plain("message", "rfc822"),
        None if part.is_in_digest => plain("application", "octet-stream"),
        Some(declared) if declared.is_message() && part.kind != PartKind::Message => {
            plain("application", "octet-stream")
        }
        Some(declared) if !declared.is_kind("multipart") => declared,
        _ => {
            let charset = Parameter { name: b"charset".into(), value: b"us-ascii".into() };
            MediaType { parameters: vec![charset], ..plain("text", "plain") }
        }
    }
}

fn plain(kind: &str, subtype: &str) -> MediaType {
    MediaType { kind: kind.into(), subtype: subtype.into(), parameters: Vec::new() }
}

/// Disposition, language and location, each behind a space.
fn write_last_extensions(structure: &Structure, index: usize, out: &mut Vec<u8>) {
    out.push(b' ');
    let disposition = structure.field(index, FieldName::ContentDisposition);
    match disposition.and_then(Disposition::parse) {
        None => out.extend_from_slice(NIL),
        Some(disposition) => {
            out.push(b'(');
            write_string(&disposition.kind, out);
            out.push(b' ');
            write_parameters(&disposition.parameters, out);
            out.push(b')');
        }
    }
    out.push(b' ');
    let languages = structure.field(index, FieldName::ContentLanguage).map(words);
    match languages.as_deref().unwrap_or_default() {
        [] => out.extend_from_slice(NIL),
        languages => {
            for (position, language) in languages.iter().enumerate() {
                write_separator(position == 0, out);
                write_string(language, out);
            }
            out.push(b')');
        }
    }
    out.push(b' ');
    let location = structure.field(index, FieldName::ContentLocation).map(unfold);
    write_nstring(location.as_deref(), out);
}

fn write_parameters(parameters: &[Parameter], out: &mut Vec<u8>) {
    if parameters.is_empty() {
        out.extend_from_slice(NIL);
        return;
    }
    for (position, parameter) in parameters.iter().enumerate() {
        write_separator(position == 0, out);
        write_string(&parameter.name, out);
        out.push(b' ');
        write_string(&parameter.value, out);
    }
    out.push(b')');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mime::scan::scan;

    fn check(content: &str, body: &str, body_structure: &str) {
        let structure = scan(content.as_bytes());
        for (extension, expected) in [(Extension::Without, body), (Extension::With, body_structure)]
        {
            let mut out = Vec::new();
            write_body(&structure, extension, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected, "{content:?}");
        }
    }

    #[test]
    fn a_message_without_fields_is_plain_text() {
        check(
            "\r\nhello\r\n",
            "(\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7BIT\" 7 1)",
            "(\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7BIT\" 7 1 NIL NIL NIL NIL)",
        );
    }

    #[test]
    fn all_fields_of_a_part() {
        check(
            "Content-Type: application/x; name=\"a \\\"b\"; y=z\r\nContent-ID: <i@d>\r\n\
             Content-Description: some\r\n thing\r\nContent-Transfer-Encoding: BASE64 (x)\r\n\
             Content-MD5: Q2hl==\r\nContent-Disposition: attachment; filename=f\r\n\
             Content-Language: en, de\r\nContent-Location: http://x/\r\n\r\nAAAA\r\n",
            "(\"application\" \"x\" (\"name\" \"a \\\"b\" \"y\" \"z\") \"<i@d>\" \"some thing\" \
             \"BASE64\" 6)",
            "(\"application\" \"x\" (\"name\" \"a \\\"b\" \"y\" \"z\") \"<i@d>\" \"some thing\" \
             \"BASE64\" 6 \"Q2hl==\" (\"attachment\" (\"filename\" \"f\")) (\"en\" \"de\") \
             \"http://x/\")",
        );
    }

    #[test]
    fn multiparts_hold_their_parts() {
        check(
            "Content-Type: multipart/mixed; boundary=\"foo\r\n bar\"\r\n\r\n--foo bar\r\n\
             Content-Type: text/x-myown; charset=us-ascii\r\n\r\nhello\r\n\r\n--foo bar--\r\n",
            "((\"text\" \"x-myown\" (\"charset\" \"us-ascii\") NIL NIL \"7BIT\" 7 1) \"mixed\")",
            "((\"text\" \"x-myown\" (\"charset\" \"us-ascii\") NIL NIL \"7BIT\" 7 1 NIL NIL NIL \
             NIL) \"mixed\" (\"boundary\" \"foo bar\") NIL NIL NIL)",
        );
    }

    #[test]
    fn a_message_in_a_message_shows_its_envelope() {
        check(
            "Content-Type: message/rfc822\r\n\r\nSubject: s\r\n\r\nb\r\n",
            "(\"message\" \"rfc822\" NIL NIL NIL \"7BIT\" 17 (NIL \"s\" NIL NIL NIL NIL NIL NIL \
             NIL NIL) (\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7BIT\" 3 1) 3)",
            "(\"message\" \"rfc822\" NIL NIL NIL \"7BIT\" 17 (NIL \"s\" NIL NIL NIL NIL NIL NIL \
             NIL NIL) (\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7BIT\" 3 1 NIL NIL \
             NIL NIL) 3 NIL NIL NIL NIL)",
        );
    }

    #[test]
    fn a_multipart_without_parts_is_text() {
        check(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\nno boundary\r\n",
            "(\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7BIT\" 13 1)",
            "(\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7BIT\" 13 1 NIL NIL NIL NIL)",
        );
    }

    #[test]
    fn a_message_that_was_not_looked_into_is_some_octets() {
        check(
            "Content-Type: message/rfc822\r\n",
            "(\"application\" \"octet-stream\" NIL NIL NIL \"7BIT\" 0)",
            "(\"application\" \"octet-stream\" NIL NIL NIL \"7BIT\" 0 NIL NIL NIL NIL)",
        );
    }
}
