//! Base64 as SASL exchanges carry it (RFC 4648 §4), strictly.

/// The octets of a text, or `None` when it is not base64: a letter of another alphabet, missing or
/// superfluous padding, or bits that stand for nothing.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let letters = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    for group in letters.chunks(4) {
        let mut bits = 0u32;
        for letter in group {
            bits = bits << 6 | u32::from(value(*letter)?);
        }
        let bit_count = 6 * group.len() as u32;
        let left_over = bit_count % 8;
        // A single letter is less than an octet.
        if group.len() == 1 || bits & ((1 << left_over) - 1) != 0 {
            return None;
        }
        let octets = (bits >> left_over).to_be_bytes();
        out.extend_from_slice(&octets[4 - group.len() * 6 / 8..]);
    }
    Some(out)
}

/// Appends octets as base64 with padding.
pub fn encode(octets: &[u8], out: &mut String) {
    for group in octets.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(bits);
        for index in 0..4 {
            let letter = match index <= group.len() {
                true => ALPHABET[(bits >> (18 - 6 * index) & 63) as usize],
                false => b'=',
            };
            out.push(char::from(letter));
        }
    }
}

fn value(letter: u8) -> Option<u8> {
    Some(match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_go_both_ways() {
        for (octets, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foobar", "Zm9vYmFy"),
            (b"\0\xff\xfe", "AP/+"),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(octets), "{text}");
            let mut out = String::new();
            encode(octets, &mut out);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for bad in ["Z", "Zg", "Zg=", "Zh==", "Zm9=", "Zg==Zg==", "====", "Z===", "Zm 8", "Zm9\n"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
