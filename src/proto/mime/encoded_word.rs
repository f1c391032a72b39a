//! Encoded words (RFC 2047) of a field body, read forgivingly: anywhere between white space, and
//! also right beside other text.

use memchr::{memchr_iter, memchr2, memmem};

use super::charset::decode_all;
use super::transfer::Decoder;

/// Appends a field body on one line as UTF-8, without white space around it.
pub fn decode_field(body: &[u8], out: &mut Vec<u8>) {
    let body = body.trim_ascii();
    let mut rest = body;
    let may_have_words = memchr_iter(b'=', body).any(|at| body.get(at + 1) == Some(&b'?'));
    if !may_have_words && body.is_ascii() {
        while let Some(end) = memchr2(b'\r', b'\n', rest) {
            out.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
        }
        out.extend_from_slice(rest);
        return;
    }
    let mut run = Run::default();
    while !rest.is_empty() {
        let start = memmem::find(rest, b"=?").unwrap_or(rest.len());
        let (before, from) = rest.split_at(start);
        let Some((word, behind)) = Word::take(from) else {
            // Where nothing begins, the rest is text up to behind this mark.
            let end = rest.len().min(start + 2);
            run.push_text(&rest[..end], out);
            rest = &rest[end..];
            continue;
        };
        run.push_text(before, out);
        run.push_word(&word, out);
        rest = behind;
    }
    run.end(out);
}

/// `=?charset?encoding?text?=`.
struct Word<'b> {
    charset: &'b [u8],
    is_base64: bool,
    text: &'b [u8],
}

impl<'b> Word<'b> {
    /// The word at the front of `text`, and what is behind it.
    fn take(text: &'b [u8]) -> Option<(Self, &'b [u8])> {
        let rest = text.strip_prefix(b"=?")?;
        let (charset, rest) = rest.split_at(memchr::memchr(b'?', rest)?);
        // RFC 2231 §5: a language may follow.
        let charset = charset.split(|octet| *octet == b'*').next().unwrap_or(charset);
        let (encoding, rest) = rest[1..].split_first()?;
        let is_base64 = match encoding {
            b'b' | b'B' => true,
            b'q' | b'Q' => false,
            _ => return None,
        };
        let rest = rest.strip_prefix(b"?")?;
        let end = memmem::find(rest, b"?=")?;
        let (text, behind) = (&rest[..end], &rest[end + 2..]);
        let is_word = !charset.is_empty()
            && charset.len() <= CHARSET_BYTES_MAX
            && charset.iter().all(|octet| octet.is_ascii_graphic());
        is_word.then_some((Self { charset, is_base64, text }, behind))
    }

    fn decode(&self, out: &mut Vec<u8>) {
        if self.is_base64 {
            let mut decoder = Decoder::from_name(b"base64").expect("a known encoding");
            decoder.decode(self.text, out);
            decoder.finish(out);
            return;
        }
        let mut octets = self.text.iter();
        while let Some(octet) = octets.next() {
            let ahead = octets.as_slice();
            match (octet, ahead) {
                (b'_', _) => out.push(b' '),
                (b'=', [high, low, ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    let value = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
                    out.push(value(*high) << 4 | value(*low));
                    octets = ahead[2..].iter();
                }
                _ => out.push(*octet),
            }
        }
    }
}

/// Words that stand side by side: white space between them is not shown, and a character may begin
/// in one and end in the next.
#[derive(Default)]
struct Run {
    charset: Vec<u8>,
    octets: Vec<u8>,
    /// White space behind the last word.
    blank: Vec<u8>,
    is_open: bool,
}

impl Run {
    fn push_text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        if self.is_open && text.iter().all(u8::is_ascii_whitespace) {
            self.blank.extend_from_slice(text);
            return;
        }
        self.end(out);
        let one_line: Vec<u8> =
            text.iter().copied().filter(|octet| !matches!(octet, b'\r' | b'\n')).collect();
        match std::str::from_utf8(&one_line) {
            Ok(_) => out.extend_from_slice(&one_line),
            Err(_) => decode_all(b"windows-1252", &one_line, out),
        }
    }

    fn push_word(&mut self, word: &Word, out: &mut Vec<u8>) {
        if self.is_open && !self.charset.eq_ignore_ascii_case(word.charset) {
            self.blank.clear();
            self.end(out);
        }
        self.blank.clear();
        self.is_open = true;
        self.charset = word.charset.to_vec();
        word.decode(&mut self.octets);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.is_open) {
            let start = out.len();
            decode_all(&self.charset, &self.octets, out);
            // It is still one line, whatever was encoded.
            let decoded = &mut out[start..];
            decoded.iter_mut().filter(|it| matches!(it, b'\r' | b'\n')).for_each(|it| *it = b' ');
            self.octets.clear();
            let blank = self.blank.iter().filter(|octet| !matches!(octet, b'\r' | b'\n'));
            out.extend(blank);
            self.blank.clear();
        }
    }
}

/// Longer names are of no charset.
const CHARSET_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: &str) {
        for cut in 0..=body.len() {
            let mut out = Vec::new();
            decode_field(&body.as_bytes()[..cut], &mut out);
            assert!(std::str::from_utf8(&out).is_ok(), "{body:?} cut at {cut}");
            if cut == body.len() {
                assert_eq!(String::from_utf8_lossy(&out), expected, "{body:?}");
            }
        }
    }

    #[test]
    fn words_are_decoded_where_they_stand() {
        check(" plain\r\n text ", "plain text");
        check("=?utf-8?Q?gr=C3=BCn_?= x", "grün  x");
        check("=?ISO-8859-1?q?gr=FCn?= =?iso-8859-1*de?B?Z3L8bg==?=", "grüngrün");
        check("=?utf-8?b?w7w=?=\r\n\t=?us-ascii?q?a?=", "üa");
        check("a=?utf-8?q?b?=c", "abc");
        check("(=?utf-8?q?b?=)", "(b)");
        check("=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "ü");
        check("=?utf-8?q?a=0D=0Ab?=", "a  b");
    }

    #[test]
    fn what_is_no_word_stays() {
        check("=?utf-8?x?a?=", "=?utf-8?x?a?=");
        check("=?utf-8?q?open", "=?utf-8?q?open");
        check("=??q?a?= =?", "=??q?a?= =?");
        check("1 =? 2 =?utf-8?q?3?=", "1 =? 2 3");
        check("=?utf-8?q?a=zz=4?=", "a=zz=4");
    }

    #[test]
    fn octets_that_are_no_utf_8_are_taken_for_windows_1252() {
        let mut out = Vec::new();
        decode_field(b"gr\xfcn", &mut out);
        assert_eq!(out, "grün".as_bytes());
    }
}
