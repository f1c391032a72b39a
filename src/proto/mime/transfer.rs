//! Content-Transfer-Encoding undone as content streams by (RFC 2045 §6.7 and §6.8). Forgiving: what
//! is no encoding of anything is passed over in base64 and kept in quoted-printable.

use memchr::memchr2;

/// A decoder for one body.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Identity,
    Base64 { bits: u32, bit_count: u32 },
    QuotedPrintable { pending: Vec<u8> },
}

impl Decoder {
    /// The decoder of an encoding in any case, or `None` for one that is not known. An empty name
    /// is no encoding.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        let state = match name.to_ascii_lowercase().as_slice() {
            b"" | b"7bit" | b"8bit" | b"binary" => State::Identity,
            b"base64" => State::Base64 { bits: 0, bit_count: 0 },
            b"quoted-printable" => State::QuotedPrintable { pending: Vec::new() },
            _ => return None,
        };
        Some(Self { state })
    }

    /// Whether octets go through as they are.
    pub fn is_identity(&self) -> bool {
        matches!(self.state, State::Identity)
    }

    /// Appends what the next piece decodes to.
    pub fn decode(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        match &mut self.state {
            State::Identity => out.extend_from_slice(piece),
            State::Base64 { bits, bit_count } => {
                out.reserve(piece.len() / 4 * 3 + 3);
                let mut rest = piece;
                while let Some((letter, behind)) = rest.split_first() {
                    if *bit_count == 0
                        && let Some((quantum, behind)) = rest.split_first_chunk()
                        && let Some(octets) = base64_quantum(quantum)
                    {
                        out.extend_from_slice(&octets);
                        rest = behind;
                        continue;
                    }
                    rest = behind;
                    if *letter == b'=' {
                        // Padding ends a run; another may follow.
                        (*bits, *bit_count) = (0, 0);
                    }
                    let value = BASE64_VALUES[usize::from(*letter)];
                    if value == NO_VALUE {
                        continue;
                    }
                    *bits = *bits << 6 | u32::from(value);
                    *bit_count += 6;
                    if *bit_count >= 8 {
                        *bit_count -= 8;
                        out.push((*bits >> *bit_count) as u8);
                        *bits &= (1 << *bit_count) - 1;
                    }
                }
            }
            State::QuotedPrintable { pending } => {
                let mut rest = piece;
                while !rest.is_empty() {
                    if pending.is_empty() {
                        rest = take_plain(rest, out);
                    }
                    let Some((octet, behind)) = rest.split_first() else { break };
                    quoted_printable(*octet, pending, out);
                    rest = behind;
                }
            }
        }
    }

    /// Appends what was held back, once all has passed.
    pub fn finish(self, out: &mut Vec<u8>) {
        if let State::QuotedPrintable { pending } = self.state {
            // White space at the end of a line is not meant, a lone `=` is a soft line break.
            if !pending.first().is_none_or(|first| is_blank(*first)) && pending.len() > 1 {
                out.extend_from_slice(&pending);
            }
        }
    }
}

/// Copies what stands for itself: up to an escape or a line end, without the blanks before that.
fn take_plain<'p>(piece: &'p [u8], out: &mut Vec<u8>) -> &'p [u8] {
    let end = memchr2(b'=', b'\n', piece).unwrap_or(piece.len());
    let line = &piece[..end];
    let last = line.iter().rposition(|octet| !is_blank(*octet) && *octet != b'\r');
    let (plain, rest) = piece.split_at(last.map_or(0, |last| last + 1));
    out.extend_from_slice(plain);
    rest
}

/// Takes one octet. `pending` holds white space that may end the line, or `=` with what followed.
fn quoted_printable(octet: u8, pending: &mut Vec<u8>, out: &mut Vec<u8>) {
    if pending.first() == Some(&b'=') {
        return escaped(octet, pending, out);
    }
    match octet {
        b' ' | b'\t' => {
            pending.push(octet);
            if pending.len() > BLANKS_MAX {
                out.append(pending);
            }
        }
        b'\r' if pending.last() != Some(&b'\r') => pending.push(octet),
        b'\n' => {
            // Blanks before a line end were added on the way (RFC 2045 §6.7, rule 3).
            let is_crlf = pending.last() == Some(&b'\r');
            pending.clear();
            out.extend_from_slice(if is_crlf { b"\r\n" } else { b"\n" });
        }
        b'=' => {
            out.append(pending);
            pending.push(b'=');
        }
        octet => {
            out.append(pending);
            out.push(octet);
        }
    }
}

/// Takes one octet behind `=`: two digits, or a soft line break with blanks before its end.
fn escaped(octet: u8, pending: &mut Vec<u8>, out: &mut Vec<u8>) {
    let is_break = pending[1..].iter().all(|octet| is_blank(*octet) || *octet == b'\r');
    match (pending.as_slice(), octet) {
        (_, b'\n') if is_break => pending.clear(),
        (_, b' ' | b'\t' | b'\r') if is_break && pending.len() <= BLANKS_MAX => pending.push(octet),
        ([_], octet) if octet.is_ascii_hexdigit() => pending.push(octet),
        ([_, high], low) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            out.push(hex_value(*high) << 4 | hex_value(low));
            pending.clear();
        }
        _ => {
            // It stood for itself.
            out.append(pending);
            quoted_printable(octet, pending, out);
        }
    }
}

fn is_blank(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.to_ascii_lowercase() - b'a' + 10,
    }
}

/// Four letters at once, if each is one.
fn base64_quantum(letters: &[u8; 4]) -> Option<[u8; 3]> {
    let values = letters.map(|letter| BASE64_VALUES[usize::from(letter)]);
    let [a, b, c, d] = values.map(u32::from);
    if values.contains(&NO_VALUE) {
        return None;
    }
    let [_, octets @ ..] = (a << 18 | b << 12 | c << 6 | d).to_be_bytes();
    Some(octets)
}

const fn base64_value(letter: u8) -> u8 {
    match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => NO_VALUE,
    }
}

/// Of what is no letter of base64.
const NO_VALUE: u8 = 0xff;
const BASE64_VALUES: [u8; 256] = {
    let mut values = [NO_VALUE; 256];
    let mut letter = 0;
    while letter < 256 {
        values[letter] = base64_value(letter as u8);
        letter += 1;
    }
    values
};
/// Blanks that are held back at most; longer runs are kept.
const BLANKS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, body: &str, expected: &str) {
        let body = body.as_bytes();
        for cut in 0..=body.len() {
            let mut decoder = Decoder::from_name(name.as_bytes()).expect("an encoding");
            let mut out = Vec::new();
            decoder.decode(&body[..cut], &mut out);
            decoder.decode(&body[cut..], &mut out);
            decoder.finish(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected, "{body:?} cut at {cut}");
        }
    }

    #[test]
    fn base64_passes_over_what_is_none() {
        check("BASE64", "Zm9v\r\nYmFy\r\n", "foobar");
        check("base64", "Zg==Zg==", "ff");
        check("base64", "Z m*9v-Yg", "foob");
        check("base64", "", "");
    }

    #[test]
    fn quoted_printable_keeps_what_is_none() {
        check("quoted-printable", "a=3Db=c3=bc\r\n", "a=bü\r\n");
        check("quoted-printable", "soft=\r\nline= \t\r\nend=", "softlineend");
        check("quoted-printable", "blanks \t\r\n x  ", "blanks\r\n x");
        check("quoted-printable", "bad=zz =4x =\r4", "bad=zz =4x =\r4");
        check("quoted-printable", "a==3D\n \nb\rc\r\r\n", "a==\n\nb\rc\r\r\n");
        let blanks = " ".repeat(1000);
        check("quoted-printable", &format!("a{blanks}b"), &format!("a{blanks}b"));
    }

    #[test]
    fn unknown_encodings_are_not_decoded() {
        assert!(Decoder::from_name(b"x-uuencode").is_none());
        assert!(Decoder::from_name(b"8BIT").is_some_and(|decoder| decoder.is_identity()));
        check("", "as it is\r\n", "as it is\r\n");
    }
}
