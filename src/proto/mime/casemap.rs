//! Text as it is compared: i;unicode-casemap (RFC 5051).
//!
//! Each character by itself: its capital, then what that is composed of, then the capitals of
//! these. The RFC has titlecase instead of capitals and no third step, so a few digraphs and
//! ligatures match here that do not match there.

use std::sync::LazyLock;

use icu_normalizer::DecomposingNormalizerBorrowed;

/// Folds text, and remembers characters that it has met.
pub struct Folder {
    known: Vec<Known>,
}

/// A character beyond ASCII, and what it becomes.
#[derive(Clone, Copy)]
struct Known {
    of: char,
    bytes: u8,
    folded: [u8; FOLDED_BYTES_MAX],
}

impl Default for Folder {
    fn default() -> Self {
        Self { known: vec![Known { of: '\0', bytes: 1, folded: [0; FOLDED_BYTES_MAX] }; KNOWN_MAX] }
    }
}

impl Folder {
    /// Appends `text` folded. What is no UTF-8 stays as it is.
    pub fn fold(&mut self, mut text: &[u8], out: &mut Vec<u8>) {
        while !text.is_empty() {
            let (plain, rest) = text.split_at(encoding_rs::Encoding::ascii_valid_up_to(text));
            let start = out.len();
            out.extend_from_slice(plain);
            out[start..].make_ascii_uppercase();
            text = self.fold_beyond(rest, out);
        }
    }

    /// Folds what is not ASCII, or little of it is; returns what is left.
    fn fold_beyond<'t>(&mut self, mut text: &'t [u8], out: &mut Vec<u8>) -> &'t [u8] {
        // A vector that grows by a few octets at a time takes most of the time otherwise.
        let mut gathered = [0; GATHERED_BYTES + 3];
        let mut count = 0;
        loop {
            let fits = count < GATHERED_BYTES;
            match text {
                [0xc2..=0xdf, 0x80..=0xbf, rest @ ..] if fits => {
                    let char = usize::from(text[0] & 0x1f) << 6 | usize::from(text[1] & 0x3f);
                    let [len, octets @ ..] = TWO_OCTETS[char];
                    if len > 0 {
                        gathered[count..count + 3].copy_from_slice(&octets);
                        count += usize::from(len);
                        text = rest;
                        continue;
                    }
                }
                // Ideographs are what they are.
                [0xe5..=0xe9, 0x80..=0xbf, 0x80..=0xbf, rest @ ..]
                | [0xe4, 0xb8..=0xbf, 0x80..=0xbf, rest @ ..]
                    if fits =>
                {
                    gathered[count..count + 3].copy_from_slice(&text[..3]);
                    count += 3;
                    text = rest;
                    continue;
                }
                [octet @ ..0x80, rest @ ..] if fits => {
                    let is_much = text.first_chunk::<16>().is_some_and(|it| it.is_ascii());
                    if !is_much {
                        gathered[count] = octet.to_ascii_uppercase();
                        count += 1;
                        text = rest;
                        continue;
                    }
                }
                _ => {}
            }
            out.extend_from_slice(&gathered[..count]);
            count = 0;
            match text {
                [] | [..0x80, ..] => return text,
                _ if fits => text = self.fold_next(text, out),
                _ => {}
            }
        }
    }

    /// Folds the character at the front; returns what is behind it.
    fn fold_next<'t>(&mut self, text: &'t [u8], out: &mut Vec<u8>) -> &'t [u8] {
        let window = &text[..text.len().min(4)];
        let chunk = window.utf8_chunks().next().expect("not empty");
        let bytes = match chunk.valid().chars().next() {
            Some(char) => {
                self.fold_char(char, out);
                char.len_utf8()
            }
            None => {
                out.extend_from_slice(chunk.invalid());
                chunk.invalid().len()
            }
        };
        &text[bytes..]
    }

    /// `text` folded.
    pub fn folded(&mut self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        self.fold(text, &mut out);
        out
    }

    fn fold_char(&mut self, char: char, out: &mut Vec<u8>) {
        let known = &mut self.known[char as usize % KNOWN_MAX];
        if known.of != char {
            let mut folded = Vec::new();
            fold_afresh(char, &mut folded);
            if folded.len() > FOLDED_BYTES_MAX {
                out.extend_from_slice(&folded);
                return;
            }
            known.of = char;
            known.bytes = folded.len() as u8;
            known.folded[..folded.len()].copy_from_slice(&folded);
        }
        out.extend_from_slice(&known.folded[..known.bytes.into()]);
    }
}

fn fold_afresh(char: char, out: &mut Vec<u8>) {
    let decomposer = const { DecomposingNormalizerBorrowed::new_nfkd() };
    for part in decomposer.normalize_iter(std::iter::once(capital(char))) {
        out.extend_from_slice(capital(part).encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// The capital of a character that has one of its own.
fn capital(char: char) -> char {
    let mut capitals = char.to_uppercase();
    match (capitals.next(), capitals.next()) {
        (Some(capital), None) => capital,
        _ => char,
    }
}

/// Characters of two octets: how many octets each becomes and which; 0 for more than three.
static TWO_OCTETS: LazyLock<Box<[[u8; 4]; 0x800]>> = LazyLock::new(|| {
    let mut table = Box::new([[0; 4]; 0x800]);
    for (char, entry) in table.iter_mut().enumerate().skip(0x80) {
        let mut folded = Vec::new();
        fold_afresh(char::from_u32(char as u32).expect("below 0x800"), &mut folded);
        if folded.len() <= 3 {
            entry[0] = folded.len() as u8;
            entry[1..=folded.len()].copy_from_slice(&folded);
        }
    }
    table
});
/// Octets that are gathered before they are appended.
const GATHERED_BYTES: usize = 256;
/// Characters that are remembered: a power of two, more than an alphabet has.
const KNOWN_MAX: usize = 512;
const FOLDED_BYTES_MAX: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_in_case_or_composition_is_the_same() {
        let mut folder = Folder::default();
        for (one, other) in [
            ("Grün", "gRÜN"),
            ("é", "e\u{301}"),
            ("É", "e\u{301}"),
            ("ﬁn", "FIN"),
            ("Привет", "ПРИВЕТ"),
            ("ǆ", "Ǆ"),
            ("Å", "\u{212b}"),
            ("한", "\u{1112}\u{1161}\u{11ab}"),
            ("①", "1"),
        ] {
            assert_eq!(folder.folded(one.as_bytes()), folder.folded(other.as_bytes()), "{one}");
        }
        for (one, other) in [("a", "ä"), ("ß", "ss"), ("中", "国")] {
            assert_ne!(folder.folded(one.as_bytes()), folder.folded(other.as_bytes()), "{one}");
        }
        assert_eq!(folder.folded(b"a\xffb"), b"A\xffB");
        let mixed = "Съешь a few ёщё words 中国 ﬁn, and a long run of them; é!".repeat(40);
        let one_by_one = mixed
            .chars()
            .flat_map(|it| Folder::default().folded(it.encode_utf8(&mut [0; 4]).as_bytes()));
        assert!(one_by_one.eq(folder.folded(mixed.as_bytes())));
        // One that takes more room than is kept for what is remembered.
        let long = folder.folded("\u{fdfa}".as_bytes());
        assert!(long.len() > FOLDED_BYTES_MAX && long == folder.folded("\u{fdfa}".as_bytes()));
    }
}
