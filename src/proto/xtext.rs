//! ENVID and ORCPT as MAIL and RCPT carry them, and as reports show them (RFC 3461, RFC 6533).

use crate::mail::Utf8;

/// Reads a value of ENVID: xtext of printable ASCII, at most 100 characters (RFC 3461 §4.4).
pub fn parse_envelope_id(value: &[u8]) -> Option<&str> {
    if value.is_empty() || value.len() > ENVELOPE_ID_BYTES_MAX || !is_printable_xtext(value) {
        return None;
    }
    std::str::from_utf8(value).ok()
}

/// Reads a value of ORCPT: `type;xtext`, at most 500 octets (RFC 3461 §4.2). An address of the type
/// utf-8 has an encoding of its own, and is in UTF-8 itself only where SMTPUTF8 holds.
pub fn parse_original_recipient(value: &[u8], utf8: Utf8) -> Option<&str> {
    let (kind, address) = value.split_at(memchr::memchr(b';', value)?);
    let address = &address[1..];
    let is_atom =
        |octet: &u8| octet.is_ascii_alphanumeric() || b"!#$%&'*-/?^_`{|}~.".contains(octet);
    if value.len() > ORIGINAL_RECIPIENT_BYTES_MAX
        || kind.is_empty()
        || address.is_empty()
        || !kind.iter().all(is_atom)
    {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?;
    let is_valid = match kind.eq_ignore_ascii_case(b"utf-8") {
        true => is_utf8_address(&text[kind.len() + 1..], utf8),
        false => is_printable_xtext(address),
    };
    is_valid.then_some(text)
}

/// What xtext stands for; an octet that is no xtext stands for itself.
pub fn decode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('+') {
        out.push_str(&rest[..at]);
        let octet = rest.as_bytes().get(at + 1..at + 3).and_then(hexchar);
        match octet.filter(u8::is_ascii) {
            Some(octet) => {
                out.push(char::from(octet));
                rest = &rest[at + 3..];
            }
            None => {
                out.push('+');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The ORCPT of a mailbox (RFC 3461 §4.2, RFC 6533 §3); `None` where it would be too long.
pub fn original_recipient(mailbox: &str) -> Option<Box<str>> {
    use std::fmt::Write;
    let is_ascii = mailbox.is_ascii();
    let mut out = String::from(if is_ascii { "rfc822;" } else { "utf-8;" });
    for c in mailbox.chars() {
        let code = u32::from(c);
        // Writing into memory does not fail.
        let _ = match c {
            '+' | '=' | ' ' if is_ascii => write!(out, "+{code:02X}"),
            c if is_ascii => write!(out, "{c}"),
            '!'..='~' if !matches!(c, '+' | '=' | '\\') => write!(out, "{c}"),
            _ => write!(out, "\\x{{{code:02X}}}"),
        };
    }
    (out.len() <= ORIGINAL_RECIPIENT_BYTES_MAX).then(|| out.into())
}

/// The mailbox that an ORCPT is about, if it is about one.
pub fn mailbox_of(original_recipient: &str) -> Option<String> {
    let (kind, address) = original_recipient.split_once(';')?;
    let mailbox = match kind.to_ascii_lowercase().as_str() {
        "rfc822" => decode(address),
        "utf-8" => decode_points(address)?,
        _ => return None,
    };
    (!mailbox.contains(char::is_control)).then_some(mailbox)
}

/// What `utf-8-addr-xtext` stands for; `None` where it is none.
fn decode_points(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("\\x{") {
        let (digits, behind) = behind.split_once('}')?;
        out.push_str(before);
        out.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
        rest = behind;
    }
    out.push_str(rest);
    Some(out)
}

/// `+` and two hexadecimal digits in upper case for an octet, other printable ASCII for itself;
/// what it stands for is printable too, so that it can neither end nor fold a header field.
fn is_printable_xtext(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some((octet, behind)) = rest.split_first() {
        match octet {
            b'+' => {
                let encoded = behind.get(..2).and_then(hexchar);
                if !encoded.is_some_and(|octet| (b' '..=b'~').contains(&octet)) {
                    return false;
                }
                rest = &behind[2..];
            }
            b'=' => return false,
            b'!'..=b'~' => rest = behind,
            _ => return false,
        }
    }
    true
}

fn hexchar(digits: &[u8]) -> Option<u8> {
    let digit = |octet: u8| match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'A'..=b'F' => Some(octet - b'A' + 10),
        _ => None,
    };
    let [high, low] = digits else { return None };
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// `utf-8-addr-xtext`, or where SMTPUTF8 holds `utf-8-addr-unitext` (RFC 6533 §3): `\x{HEX}` for a
/// character, other printable ones for themselves.
fn is_utf8_address(address: &str, utf8: Utf8) -> bool {
    let mut rest = address;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let inside = rest.strip_prefix("x{").and_then(|rest| rest.split_once('}'));
                let Some((digits, behind)) = inside else { return false };
                let is_digit = |octet: u8| matches!(octet, b'0'..=b'9' | b'A'..=b'F');
                if !(2..=6).contains(&digits.len()) || !digits.bytes().all(is_digit) {
                    return false;
                }
                let point = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
                if point.is_none_or(char::is_control) {
                    return false;
                }
                rest = behind;
            }
            // Only the form in ASCII has to be xtext as well.
            '+' | '=' if utf8 == Utf8::Refused => return false,
            '!'..='~' => {}
            c if !c.is_ascii() && !c.is_control() && utf8 == Utf8::Allowed => {}
            _ => return false,
        }
    }
    true
}

/// Longest ENVID (RFC 3461 §5.4).
const ENVELOPE_ID_BYTES_MAX: usize = 100;
/// Longest ORCPT (RFC 3461 §5.4).
const ORIGINAL_RECIPIENT_BYTES_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_id_is_printable_xtext_of_at_most_100_characters() {
        let is_valid = |text: &str| parse_envelope_id(text.as_bytes()).is_some();
        for text in ["QQ314159", "a+20b", "+2B+3D", "~!/\\"] {
            assert!(is_valid(text), "{text}");
        }
        for text in ["", "a=b", "a+2", "a+2b", "a+0D+0A", "+7F", "+", "a b", "ü", "+E4"] {
            assert!(!is_valid(text), "{text}");
        }
        assert!(is_valid(&"x".repeat(100)) && !is_valid(&"x".repeat(101)));
    }

    #[test]
    fn a_mailbox_comes_back_from_its_original_recipient() {
        let check = |mailbox: &str, expected: &str, utf8| {
            let text = original_recipient(mailbox).expect("short enough");
            assert_eq!(&*text, expected);
            assert!(parse_original_recipient(text.as_bytes(), utf8).is_some(), "{text}");
            assert_eq!(mailbox_of(&text).as_deref(), Some(mailbox));
        };
        check("a+x@b.test", "rfc822;a+2Bx@b.test", Utf8::Refused);
        check("\"a =\\b\"@b.test", "rfc822;\"a+20+3D\\b\"@b.test", Utf8::Refused);
        let text = "utf-8;g\\x{FC}\\x{2B}\\x{1F600}@b.test";
        check("g\u{fc}+\u{1f600}@b.test", text, Utf8::Refused);
        assert_eq!(original_recipient(&"\u{fc}".repeat(100)), None);
        for text in ["x400;/c=de", "a@b.test", "utf-8;\\x{110000}", "utf-8;\\x{", "rfc822;+0A"] {
            assert_eq!(mailbox_of(text), None, "{text}");
        }
    }

    #[test]
    fn an_original_recipient_has_a_type_and_an_address_in_its_encoding() {
        let parse = |text: &str, utf8| parse_original_recipient(text.as_bytes(), utf8).is_some();
        for text in ["rfc822;a@b.test", "RFC822;a+2Bb@c", "x400;/C+3DDE", "utf-8;\\x{E4}@b"] {
            assert!(parse(text, Utf8::Refused), "{text}");
        }
        let bad =
            ["", "rfc822", ";a@b", "rfc822;", "rfc822;a b", "rfc822;a+0A", "r c;a", "rfc822;ü@b"];
        for text in bad {
            assert!(!parse(text, Utf8::Allowed), "{text}");
        }
        for text in ["utf-8;ü@b", "utf-8;a+b@c", "UTF-8;a=b@c"] {
            assert!(parse(text, Utf8::Allowed) && !parse(text, Utf8::Refused), "{text}");
        }
        for text in
            ["utf-8;\\x{}@b", "utf-8;\\x{0A}", "utf-8;\\x{D800}", "utf-8;\\", "utf-8;\\x{E4"]
        {
            assert!(!parse(text, Utf8::Allowed), "{text}");
        }
        let long = format!("rfc822;{}", "x".repeat(493));
        assert!(parse(&long, Utf8::Refused) && !parse(&format!("{long}x"), Utf8::Refused));
    }

    #[test]
    fn decoding_gives_what_was_meant_and_never_fails() {
        assert_eq!(decode("a+20b+2Bc+3Dd"), "a b+c=d");
        for text in ["+", "+2", "+2b", "+E4", "a+", "ü+ü"] {
            assert_eq!(decode(text), text);
        }
    }
}
