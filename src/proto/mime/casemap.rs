//! Text as it is compared: i;unicode-casemap (RFC 5051).
//!
//! Each character by itself: its capital, then what that is composed of, then the capitals of
//! these. The RFC has titlecase instead of capitals and no third step, so a few digraphs and
//! ligatures match here that do not match there.

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
            let end = rest.iter().position(u8::is_ascii).unwrap_or(rest.len());
            let (beyond, rest) = rest.split_at(end);
            for chunk in beyond.utf8_chunks() {
                chunk.valid().chars().for_each(|char| self.fold_char(char, out));
                out.extend_from_slice(chunk.invalid());
            }
            text = rest;
        }
    }

    /// `text` folded.
    pub fn folded(&mut self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        self.fold(text, &mut out);
        out
    }

    fn fold_char(&mut self, char: char, out: &mut Vec<u8>) {
        if ('\u{4e00}'..='\u{9fff}').contains(&char) {
            // Ideographs are what they are.
            out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            return;
        }
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
        // One that takes more room than is kept for what is remembered.
        let long = folder.folded("\u{fdfa}".as_bytes());
        assert!(long.len() > FOLDED_BYTES_MAX && long == folder.folded("\u{fdfa}".as_bytes()));
    }
}
