//! Texts in which words are looked for as they stream by, whatever they are encoded in.

use memchr::memchr3;
use memchr::memmem::Finder;

use super::address::{Entry, for_each_entry};
use super::casemap::Folder;
use super::charset::CharsetDecoder;
use super::encoded_word::decode_field;
use super::field::{FieldName, Fields};
use super::media_type::first_word;
use super::structure::{PartKind, Structure};
use super::transfer::Decoder;

/// What is looked for, folded as `Folder` folds.
pub struct Needles {
    needles: Vec<Needle>,
    longest_bytes: usize,
}

struct Needle {
    finder: Finder<'static>,
    /// It is in no text of one line.
    has_line_end: bool,
}

impl Needles {
    /// Of UTF-8 texts; an empty one is in every text.
    pub fn new(texts: &[Vec<u8>]) -> Self {
        let mut folder = Folder::default();
        let folded: Vec<Vec<u8>> = texts.iter().map(|text| folder.folded(text)).collect();
        Self {
            longest_bytes: folded.iter().map(Vec::len).max().unwrap_or(0),
            needles: folded.iter().map(|text| Needle::new(text)).collect(),
        }
    }

    pub fn count(&self) -> usize {
        self.needles.len()
    }
}

impl Needle {
    fn new(folded: &[u8]) -> Self {
        Self { finder: Finder::new(folded).into_owned(), has_line_end: folded.contains(&b'\n') }
    }

    fn is_in(&self, folded: &[u8]) -> bool {
        self.finder.find(folded).is_some()
    }
}

/// Looks for needles in one text after the other. Memory is that of a few pieces.
pub struct Haystack<'n> {
    needles: &'n Needles,
    /// By the index of the needle.
    found: Vec<bool>,
    folder: Folder,
    /// Folded text that has been looked at, as far as a needle may begin in it, and what follows.
    window: Vec<u8>,
    octets: Vec<u8>,
    text: Vec<u8>,
}

impl<'n> Haystack<'n> {
    pub fn new(needles: &'n Needles) -> Self {
        Self {
            needles,
            found: vec![false; needles.count()],
            folder: Folder::default(),
            window: Vec::new(),
            octets: Vec::new(),
            text: Vec::new(),
        }
    }

    /// Nothing has been found yet.
    pub fn begin(&mut self) {
        self.found.fill(false);
        self.window.clear();
    }

    /// Which needles were found since `begin`.
    pub fn found(&self) -> &[bool] {
        &self.found
    }

    /// Nothing more can be found.
    pub fn is_done(&self) -> bool {
        self.found.iter().all(|found| *found)
    }

    /// Whether one needle is in the decoded body of a field.
    pub fn field_has(&mut self, needle: usize, body: &[u8]) -> bool {
        self.text.clear();
        self.window.clear();
        decode_field(body, &mut self.text);
        self.folder.fold(&self.text, &mut self.window);
        let is_there = self.needles.needles[needle].is_in(&self.window);
        self.window.clear();
        is_there
    }

    /// Whether one needle is in the decoded body of a field, or in an address of it without what
    /// may stand between its words.
    pub fn addresses_have(&mut self, needle: usize, body: &[u8]) -> bool {
        if self.field_has(needle, body) {
            return true;
        }
        let is_loose =
            |pair: &[u8]| matches!(pair, [b'@' | b'.', b' ' | b'\t'] | [b' ' | b'\t', b'@' | b'.']);
        if memchr3(b'(', b'"', b'\n', body).is_none() && !body.windows(2).any(is_loose) {
            return false;
        }
        self.text.clear();
        for_each_entry(body, |entry| {
            if let Entry::Mailbox { local_part, domain, .. } = entry {
                self.text.extend_from_slice(&local_part);
                self.text.push(b'@');
                self.text.extend_from_slice(&domain.unwrap_or_default());
                self.text.push(b'\n');
            }
        });
        self.folder.fold(&self.text, &mut self.window);
        let is_there = self.needles.needles[needle].is_in(&self.window);
        self.window.clear();
        is_there
    }

    /// Looks through a header section, each field with its name, for the needles that are meant.
    pub fn look_in_header(&mut self, header: &[u8], is_meant: &[bool]) {
        let is_open = |(found, is_meant): (&bool, &bool)| *is_meant && !found;
        if !self.found.iter().zip(is_meant).any(is_open) {
            return;
        }
        self.text.clear();
        self.window.clear();
        for field in Fields::new(header) {
            self.text.extend_from_slice(field.name);
            self.text.extend_from_slice(b": ");
            decode_field(field.body, &mut self.text);
            // A field is one line: what has no line end is in one of them or in none.
            self.text.push(b'\n');
        }
        self.folder.fold(&self.text, &mut self.window);
        let needles = self.needles.needles.iter().zip(is_meant);
        for ((needle, is_meant), found) in needles.zip(&mut self.found) {
            let may_be_there = *is_meant && !*found && !needle.has_line_end;
            *found |= may_be_there && needle.is_in(&self.window);
        }
        self.window.clear();
    }

    /// Begins the body of a part.
    pub fn begin_body(&mut self) {
        self.window.clear();
    }

    /// Looks through the next piece of a body.
    pub fn look_in_body(&mut self, encoding: &mut BodyEncoding, piece: &[u8]) {
        for slice in piece.chunks(SLICE_BYTES) {
            self.text.clear();
            if encoding.transfer.is_identity() {
                encoding.charset.decode(slice, false, &mut self.text);
            } else {
                self.octets.clear();
                encoding.transfer.decode(slice, &mut self.octets);
                encoding.charset.decode(&self.octets, false, &mut self.text);
            }
            self.look_in_text();
            if self.is_done() {
                return;
            }
        }
    }

    /// Looks through what was held back of a body, which is over.
    pub fn end_body(&mut self, mut encoding: BodyEncoding) {
        self.octets.clear();
        self.text.clear();
        encoding.transfer.finish(&mut self.octets);
        encoding.charset.decode(&self.octets, true, &mut self.text);
        self.look_in_text();
        self.window.clear();
    }

    /// Looks at `text` behind what came before.
    fn look_in_text(&mut self) {
        self.folder.fold(&self.text, &mut self.window);
        for (needle, found) in self.needles.needles.iter().zip(&mut self.found) {
            *found = *found || needle.is_in(&self.window);
        }
        let kept = self.needles.longest_bytes.saturating_sub(1).min(self.window.len());
        self.window.drain(..self.window.len() - kept);
    }
}

/// How the body of a part becomes text.
pub struct BodyEncoding {
    transfer: Decoder,
    charset: CharsetDecoder,
}

impl BodyEncoding {
    /// `None` for a part that is no text, or is encoded in a way that is not known.
    pub fn of(structure: &Structure, index: usize) -> Option<Self> {
        let is_leaf =
            structure.parts[index].kind != PartKind::Message && !structure.has_parts(index);
        let media_type = structure.media_type(index);
        // What is said of a message in reports is text too.
        let is_text = media_type
            .as_ref()
            .is_none_or(|it| ["text", "message", "multipart"].iter().any(|kind| it.is_kind(kind)));
        if !is_leaf || !is_text {
            return None;
        }
        let encoding = structure.field(index, FieldName::ContentTransferEncoding).map(first_word);
        let charset = media_type.as_ref().and_then(|it| it.parameter("charset"));
        Some(Self {
            transfer: Decoder::from_name(encoding.as_deref().unwrap_or_default())?,
            charset: CharsetDecoder::new(charset.unwrap_or_default()),
        })
    }
}

/// Octets that go through all steps at a time: they stay in the cache.
const SLICE_BYTES: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mime::scan::scan;

    /// Which of `needles` are in the body of a message that is one part, cut anywhere.
    fn check(content: &str, needles: &[&str], expected: &[bool]) {
        let texts: Vec<Vec<u8>> = needles.iter().map(|it| it.as_bytes().to_vec()).collect();
        let needles = Needles::new(&texts);
        let structure = scan(content.as_bytes());
        let body = &content.as_bytes()[structure.parts[0].body_offset as usize..];
        let mut haystack = Haystack::new(&needles);
        for cut in 0..=body.len() {
            let mut encoding = BodyEncoding::of(&structure, 0).expect("text");
            haystack.begin();
            haystack.begin_body();
            haystack.look_in_body(&mut encoding, &body[..cut]);
            haystack.look_in_body(&mut encoding, &body[cut..]);
            haystack.end_body(encoding);
            assert_eq!(haystack.found(), expected, "{content:?} cut at {cut}");
        }
    }

    #[test]
    fn words_are_found_in_any_encoding() {
        check("\r\nSome Text\r\n", &["some", "ME TE", "", "txet"], &[true, true, true, false]);
        check(
            "Content-Transfer-Encoding: quoted-printable\r\n\
             Content-Type: text/plain; charset=iso-8859-1\r\n\r\ngr=\r\n=FCn",
            &["grün", "GRÜN", "gru\u{308}n", "gr=FCn"],
            &[true, true, true, false],
        );
        check(
            "Content-Transfer-Encoding: base64\r\n\
             Content-Type: text/html; charset=utf-8\r\n\r\n0J/RgNC4\r\n0LLQtdGC\r\n",
            &["ПРИВЕТ", "привет!"],
            &[true, false],
        );
    }

    #[test]
    fn headers_are_looked_through_decoded() {
        let needles = Needles::new(&[b"g.run".to_vec(), "GRÜN".into(), b"to: x".to_vec()]);
        let all = [true; 3];
        let mut haystack = Haystack::new(&needles);
        let header = b"Subject: =?utf-8?q?gr=C3=BCn?=\r\nTo:\r\n x\r\n\r\n";
        haystack.look_in_header(header, &[true, false, true]);
        assert_eq!(haystack.found(), [false, false, true], "one was not meant");
        haystack.look_in_header(header, &all);
        assert_eq!(haystack.found(), [false, true, true]);
        assert!(haystack.field_has(1, b"=?iso-8859-1?q?gr=FCn?="));
        assert!(!haystack.field_has(0, b"g.\r\n run"));
        assert!(haystack.addresses_have(0, b"a@b, x <g (c) . run@y>"));
        assert!(haystack.addresses_have(0, b"g . run@x"));
        assert!(!haystack.addresses_have(0, b"g run@x"));
        assert_eq!(haystack.found(), [false, true, true], "as before");
        haystack.begin();
        assert_eq!(haystack.found(), [false; 3]);
    }

    #[test]
    fn a_word_is_in_one_field_and_not_across_two() {
        let words = ["a", "b", "a\nb", "a\r\nb", "\n", "a b", "1x: a", "y: b"];
        let needles = Needles::new(&words.map(|word| word.as_bytes().to_vec()));
        let mut haystack = Haystack::new(&needles);
        haystack.look_in_header(b"1x: a\r\ny: b\r\n\r\n", &[true; 8]);
        let found = [true, true, false, false, false, false, true, true];
        assert_eq!(haystack.found(), found);
        // Encoded line ends are none, and neither are those that fold a field.
        haystack.begin();
        haystack.look_in_header(b"1x: =?utf-8?q?a=0Ab?=\r\ny:\r\n b\r\n\r\n", &[true; 8]);
        let found = [true, true, false, false, false, true, true, true];
        assert_eq!(haystack.found(), found);
    }

    #[test]
    fn what_is_no_text_is_not_looked_through() {
        for (header, is_text) in [
            ("", true),
            ("Content-Type: text/x\r\n", true),
            ("Content-Type: message/delivery-status\r\n", true),
            ("Content-Type: image/png\r\n", false),
            ("Content-Transfer-Encoding: x-odd\r\n", false),
            ("Content-Type: message/rfc822\r\n", false),
        ] {
            let structure = scan(format!("{header}\r\nx").as_bytes());
            assert_eq!(BodyEncoding::of(&structure, 0).is_some(), is_text, "{header}");
        }
    }
}
