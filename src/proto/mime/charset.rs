//! Text of any charset as UTF-8, as it streams by.

use encoding_rs::{CoderResult, Decoder, Encoding, UTF_8};

/// Turns text of one charset into UTF-8. Nothing is refused: what stands for no character becomes
/// U+FFFD.
pub struct CharsetDecoder {
    state: State,
}

enum State {
    /// With the beginning of a character.
    Utf8(Vec<u8>),
    Other(Decoder),
}

impl CharsetDecoder {
    /// By the name in a Content-Type or an encoded word. No name, one that is not known and
    /// US-ASCII are read as UTF-8: of what is found unlabelled in mail, most is that.
    pub fn new(name: &[u8]) -> Self {
        let is_ascii = name.eq_ignore_ascii_case(b"us-ascii");
        let encoding = if is_ascii { None } else { Encoding::for_label(name) };
        let state = match encoding.filter(|encoding| *encoding != UTF_8) {
            Some(encoding) => State::Other(encoding.new_decoder_without_bom_handling()),
            None => State::Utf8(Vec::new()),
        };
        Self { state }
    }

    /// Appends whole characters; half a one at the end waits for the next piece, of which there is
    /// none after the last.
    pub fn decode(&mut self, piece: &[u8], is_last: bool, out: &mut Vec<u8>) {
        match &mut self.state {
            State::Utf8(half) if half.is_empty() => take_utf8(piece, is_last, half, out),
            State::Utf8(half) => {
                // At most three octets are missing, and what is behind them stands by itself.
                let (next, rest) = piece.split_at(piece.len().min(3));
                let joined = [std::mem::take(half).as_slice(), next].concat();
                take_utf8(&joined, is_last && rest.is_empty(), half, out);
                if !rest.is_empty() {
                    self.decode_behind(rest, is_last, out);
                }
            }
            State::Other(decoder) => take_other(decoder, piece, is_last, out),
        }
    }

    fn decode_behind(&mut self, rest: &[u8], is_last: bool, out: &mut Vec<u8>) {
        let State::Utf8(half) = &mut self.state else { return };
        let joined = [std::mem::take(half).as_slice(), rest].concat();
        take_utf8(&joined, is_last, half, out);
    }
}

fn take_utf8(piece: &[u8], is_last: bool, half: &mut Vec<u8>, out: &mut Vec<u8>) {
    let mut rest = piece;
    loop {
        let error = match std::str::from_utf8(rest) {
            Ok(_) => return out.extend_from_slice(rest),
            Err(error) => error,
        };
        let (valid, behind) = rest.split_at(error.valid_up_to());
        out.extend_from_slice(valid);
        match error.error_len() {
            None if !is_last => return half.extend_from_slice(behind),
            None => return out.extend_from_slice(REPLACEMENT),
            Some(bytes) => {
                out.extend_from_slice(REPLACEMENT);
                rest = &behind[bytes..];
            }
        }
    }
}

fn take_other(decoder: &mut Decoder, mut piece: &[u8], is_last: bool, out: &mut Vec<u8>) {
    loop {
        let start = out.len();
        let room = decoder.max_utf8_buffer_length_without_replacement(piece.len());
        // A piece is at most what stands together of a message: this stays far below a limit.
        out.resize(start + room.unwrap_or(piece.len()).max(ROOM_BYTES_MIN), 0);
        let (result, read, written, _) = decoder.decode_to_utf8(piece, &mut out[start..], is_last);
        out.truncate(start + written);
        piece = &piece[read..];
        if result == CoderResult::InputEmpty {
            return;
        }
    }
}

/// `text` as UTF-8.
pub fn decode_all(charset: &[u8], text: &[u8], out: &mut Vec<u8>) {
    CharsetDecoder::new(charset).decode(text, true, out);
}

const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
/// Room that any decoder can make progress in.
const ROOM_BYTES_MIN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(charset: &str, text: &[u8], expected: &str) {
        for cut in 0..=text.len() {
            let mut decoder = CharsetDecoder::new(charset.as_bytes());
            let mut out = Vec::new();
            decoder.decode(&text[..cut], false, &mut out);
            assert!(std::str::from_utf8(&out).is_ok(), "whole characters");
            decoder.decode(&text[cut..], true, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected, "{charset} cut at {cut}");
        }
    }

    #[test]
    fn charsets_become_utf_8() {
        check("UTF-8", "grün €".as_bytes(), "grün €");
        check("iso-8859-1", b"gr\xfcn", "grün");
        check("Windows-1252", b"\x80 5", "€ 5");
        check("windows-1251", b"\xcf\xf0", "Пр");
        check("iso-2022-jp", b"\x1b$B$\"\x1b(Ba", "あa");
        check("us-ascii", "é".as_bytes(), "é");
        check("no-such", b"a\xff", "a\u{fffd}");
        check("", b"\xc3", "\u{fffd}");
    }
}
