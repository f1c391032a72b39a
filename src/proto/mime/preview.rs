//! The first words of a message, for lists of messages (RFC 8970).

use super::charset::decode_all;
use super::field::FieldName;
use super::media_type::{Disposition, MediaType, first_word};
use super::structure::{PartKind, Structure};
use super::transfer::Decoder;

/// The first words of the text of a message, at most `CHARS_MAX` characters on one line. `front` is
/// the beginning of its content: text behind its end is not seen.
pub fn preview(structure: &Structure, front: &[u8]) -> String {
    let plain = find(structure, |it| it.is_none_or(|it| it.is("text", "plain")));
    let html = || find(structure, |it| it.is_some_and(|it| it.is("text", "html")));
    let Some(index) = plain.or_else(html) else { return String::new() };
    let body = structure.parts[index].body();
    let end = body.end.min(body.start + ENCODED_BYTES_MAX).min(front.len() as u64);
    let body = &front[(body.start.min(end)) as usize..end as usize];
    let media_type = structure.media_type(index);
    let encoding = structure.field(index, FieldName::ContentTransferEncoding).map(first_word);
    let Some(mut decoder) = Decoder::from_name(encoding.as_deref().unwrap_or_default()) else {
        return String::new();
    };
    let mut octets = Vec::new();
    decoder.decode(body, &mut octets);
    decoder.finish(&mut octets);
    let charset = media_type.as_ref().and_then(|it| it.parameter("charset")).unwrap_or_default();
    let mut text = Vec::new();
    decode_all(charset, &octets, &mut text);
    let text = String::from_utf8_lossy(&text);
    let mut words = Words::default();
    if plain.is_some() {
        words.push(&text);
    } else {
        push_html(&text, &mut words);
    }
    words.line
}

/// The first part to be read that is of such a media type, outside attached files.
fn find(structure: &Structure, is_meant: impl Fn(Option<&MediaType>) -> bool) -> Option<usize> {
    (0..structure.parts.len().min(PARTS_LOOKED_AT_MAX)).find(|index| {
        let disposition = structure.field(*index, FieldName::ContentDisposition);
        let is_attached = disposition
            .and_then(Disposition::parse)
            .is_some_and(|it| it.kind.eq_ignore_ascii_case(b"attachment"));
        structure.parts[*index].kind == PartKind::Leaf
            && !is_attached
            && is_meant(structure.media_type(*index).as_ref())
    })
}

/// Words with one space between them.
#[derive(Default)]
struct Words {
    line: String,
    char_count: usize,
    is_behind_blank: bool,
}

impl Words {
    fn push(&mut self, text: &str) {
        for char in text.chars() {
            let is_blank = char.is_whitespace() || char.is_control() || is_invisible(char);
            if is_blank {
                self.is_behind_blank = !self.line.is_empty();
                continue;
            }
            let count = 1 + usize::from(self.is_behind_blank);
            if self.char_count + count > CHARS_MAX {
                self.char_count = CHARS_MAX;
                return;
            }
            if std::mem::take(&mut self.is_behind_blank) {
                self.line.push(' ');
            }
            self.line.push(char);
            self.char_count += count;
        }
    }

    fn is_full(&self) -> bool {
        self.char_count == CHARS_MAX
    }
}

/// Characters by which senders of circulars fill previews up.
fn is_invisible(char: char) -> bool {
    matches!(char, '\u{ad}' | '\u{34f}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
}

/// The text of HTML: no tags, nothing of the head, of styles and of scripts.
fn push_html(html: &str, words: &mut Words) {
    let mut rest = html;
    while !rest.is_empty() && !words.is_full() {
        let (text, from) = rest.split_at(rest.find(['<', '&']).unwrap_or(rest.len()));
        words.push(text);
        rest = if from.starts_with('&') {
            push_entity(from, words)
        } else if let Some(comment) = from.strip_prefix("<!--") {
            behind(comment, "-->")
        } else if from.is_empty() {
            from
        } else {
            words.push(" ");
            let hidden = HIDDEN.iter().find(|name| is_tag(from, name));
            let inside = behind(from, ">");
            hidden.map_or(inside, |name| behind_end(inside, name))
        };
    }
}

fn is_tag(text: &str, name: &str) -> bool {
    let tag = text.as_bytes();
    let has_name =
        tag.get(1..=name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name.as_bytes()));
    has_name && tag.get(name.len() + 1).is_none_or(|next| !next.is_ascii_alphanumeric())
}

fn behind<'t>(text: &'t str, mark: &str) -> &'t str {
    text.find(mark).map_or("", |at| &text[at + mark.len()..])
}

/// What is behind `</name>`.
fn behind_end<'t>(text: &'t str, name: &str) -> &'t str {
    let mut rest = text;
    while let Some(at) = rest.find("</") {
        rest = &rest[at + 1..];
        if is_tag(rest, name) {
            return behind(rest, ">");
        }
    }
    ""
}

/// A character reference at the front of `text`; returns what is behind it.
fn push_entity<'t>(text: &'t str, words: &mut Words) -> &'t str {
    let name = text[1..].split(|char: char| !char.is_ascii_alphanumeric() && char != '#').next();
    let name = name.unwrap_or_default();
    let known = ENTITIES.iter().find(|(known, _)| *known == name).map(|(_, char)| *char);
    let number = name.strip_prefix('#').and_then(|digits| match digits.strip_prefix(['x', 'X']) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => digits.parse().ok(),
    });
    match known.or_else(|| number.and_then(char::from_u32)) {
        Some(char) => {
            words.push(char.encode_utf8(&mut [0; 4]));
            let rest = &text[1 + name.len()..];
            rest.strip_prefix(';').unwrap_or(rest)
        }
        None => {
            words.push("&");
            &text[1..]
        }
    }
}

/// RFC 8970 §3.1 suggests no more.
const CHARS_MAX: usize = 200;
/// Octets of a body that are looked at: HTML often begins with its styles.
const ENCODED_BYTES_MAX: u64 = 32 * 1024;
/// The text stands in one of the first parts, or is not looked for.
const PARTS_LOOKED_AT_MAX: usize = 64;
const HIDDEN: [&str; 4] = ["head", "style", "script", "title"];
const ENTITIES: [(&str, char); 6] =
    [("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("nbsp", ' '), ("apos", '\'')];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mime::scan::scan;

    fn check(content: &str, expected: &str) {
        for cut in 0..=content.len() {
            let front = &content.as_bytes()[..cut];
            preview(&scan(content.as_bytes()), front);
            preview(&scan(front), front);
        }
        let content = content.as_bytes();
        assert_eq!(preview(&scan(content), content), expected);
    }

    #[test]
    fn the_first_words_of_a_text() {
        check("Subject: s\r\n\r\n Hello,\r\n\r\n  you\tthere \r\n", "Hello, you there");
        check(
            "Content-Type: text/plain; charset=iso-8859-1\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\ngr=FCn=\r\ne Welt",
            "grüne Welt",
        );
        check(
            "Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\
             Content-Type: text/html\r\n\r\n<p>html\r\n--b\r\nContent-Type: text/plain\r\n\
             Content-Transfer-Encoding: base64\r\n\r\ncGxhaW4=\r\n--b--\r\n",
            "plain",
        );
        check("Content-Type: image/png\r\n\r\nxxx", "");
        check("", "");
        let long = format!("\r\n{}", "word ".repeat(100));
        check(&long, "word ".repeat(40).trim_end());
    }

    #[test]
    fn html_without_what_is_not_shown() {
        check(
            "Content-Type: text/html\r\n\r\n<html><HEAD><title>t</title>x</HEAD>\
             <style>a { b }</style><body><!-- c --><p>One<br>two &amp; &lt;3&gt; &#x41;&#66 \
             &unknown; <script>no()</script>end",
            "One two & <3> AB &unknown; end",
        );
    }
}
