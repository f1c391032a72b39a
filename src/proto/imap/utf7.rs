//! Mailbox names in modified UTF-7 (RFC 3501 §5.1.3).

/// The name a modified UTF-7 text stands for, or `None` when it is not one: a wrong shift, wrong
/// base64, surrogates without their other half, or an octet outside printable ASCII.
pub fn decode(text: &[u8]) -> Option<String> {
    let mut name = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((octet, behind)) = rest.split_first() {
        rest = behind;
        match octet {
            b'&' => {
                let end = memchr::memchr(b'-', rest)?;
                if end == 0 {
                    name.push('&');
                } else {
                    decode_shifted(&rest[..end], &mut name)?;
                }
                rest = &rest[end + 1..];
            }
            0x20..=0x7e => name.push(char::from(*octet)),
            _ => return None,
        }
    }
    Some(name)
}

/// Appends a name in modified UTF-7.
pub fn encode(name: &str, out: &mut Vec<u8>) {
    let mut shifted: Vec<u16> = Vec::new();
    for character in name.chars() {
        let is_plain = matches!(character, ' '..='~');
        if is_plain {
            encode_shifted(&shifted, out);
            shifted.clear();
        }
        match character {
            '&' => out.extend_from_slice(b"&-"),
            _ if is_plain => out.push(character as u8),
            _ => shifted.extend_from_slice(character.encode_utf16(&mut [0; 2])),
        }
    }
    encode_shifted(&shifted, out);
}

/// UTF-16 in base64 without padding, `,` in the place of `/`.
fn decode_shifted(text: &[u8], name: &mut String) -> Option<()> {
    let (mut bits, mut bit_count) = (0u32, 0);
    let mut units = Vec::with_capacity(text.len() * 6 / 16);
    for octet in text {
        let value = ALPHABET.iter().position(|letter| letter == octet)?;
        bits = bits << 6 | value as u32;
        bit_count += 6;
        if bit_count >= 16 {
            bit_count -= 16;
            units.push((bits >> bit_count) as u16);
            bits &= (1 << bit_count) - 1;
        }
    }
    // What is left is padding: less than a letter, and zero.
    if bit_count >= 6 || bits != 0 {
        return None;
    }
    for character in char::decode_utf16(units) {
        name.push(character.ok()?);
    }
    Some(())
}

fn encode_shifted(units: &[u16], out: &mut Vec<u8>) {
    if units.is_empty() {
        return;
    }
    out.push(b'&');
    let (mut bits, mut bit_count) = (0u32, 0);
    for unit in units {
        bits = bits << 16 | u32::from(*unit);
        bit_count += 16;
        while bit_count >= 6 {
            bit_count -= 6;
            out.push(ALPHABET[(bits >> bit_count & 63) as usize]);
        }
        bits &= (1 << bit_count) - 1;
    }
    if bit_count > 0 {
        out.push(ALPHABET[(bits << (6 - bit_count) & 63) as usize]);
    }
    out.push(b'-');
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        let names = [
            ("INBOX", "INBOX"),
            ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
            ("Entwürfe", "Entw&APw-rfe"),
            ("a&b", "a&-b"),
            ("&", "&-"),
            ("😀", "&2D3eAA-"),
            ("tab\there", "tab&AAk-here"),
            ("", ""),
        ];
        for (name, text) in names {
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(name), "{text}");
            let mut out = Vec::new();
            encode(name, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }

    #[test]
    fn what_is_no_modified_utf7_is_refused() {
        for bad in ["&", "&AOQ", "&A-", "&AO-", "&AOR-", "&2D0-", "&A/Q-", "ü", "a\r", "&AOQ=-"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
