//! Mailboxes as RFC 5321 §4.1.2 writes them, with the internationalised ones of RFC 6531.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::limits::{DOMAIN_BYTES_MAX, LOCAL_PART_BYTES_MAX, PATH_BYTES_MAX};

/// A valid mailbox over borrowed text: `local-part@domain`, or a bare `Postmaster`.
///
/// The text keeps its form; source routes and angle brackets are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRef<'a> {
    text: &'a str,
    local_part_bytes: usize,
}

/// Whether octets above 127 may stand in an address: only after SMTPUTF8 (RFC 6531 §3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Utf8 {
    Allowed,
    Refused,
}

/// Why a text is no mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    Syntax,
    LocalPartTooLong,
    DomainTooLong,
    /// It would be one with SMTPUTF8.
    NonAscii,
}

impl<'a> AddressRef<'a> {
    /// Reads all of `text` as a mailbox, or as `Postmaster` in any case.
    pub fn parse(text: &'a [u8], utf8: Utf8) -> Result<Self, AddressError> {
        if utf8 == Utf8::Refused && !text.is_ascii() {
            return Err(AddressError::NonAscii);
        }
        let text = std::str::from_utf8(text).map_err(|_| AddressError::Syntax)?;
        if text.eq_ignore_ascii_case("postmaster") {
            return Ok(Self { text, local_part_bytes: text.len() });
        }
        let local_part_bytes = local_part_end(text.as_bytes()).ok_or(AddressError::Syntax)?;
        let domain = text[local_part_bytes..].strip_prefix('@').ok_or(AddressError::Syntax)?;
        check_domain(domain)?;
        if local_part_bytes > LOCAL_PART_BYTES_MAX {
            return Err(AddressError::LocalPartTooLong);
        }
        if domain.len() > DOMAIN_BYTES_MAX || text.len() > PATH_BYTES_MAX {
            return Err(AddressError::DomainTooLong);
        }
        Ok(Self { text, local_part_bytes })
    }

    pub fn as_str(self) -> &'a str {
        self.text
    }

    pub fn local_part(self) -> &'a str {
        &self.text[..self.local_part_bytes]
    }

    /// The domain or address literal; empty for a bare `Postmaster`.
    pub fn domain(self) -> &'a str {
        self.text.get(self.local_part_bytes + 1..).unwrap_or("")
    }
}

/// Whether `text` is a domain or address literal, as EHLO and routes name them.
pub fn is_domain(text: &str) -> bool {
    text.len() <= DOMAIN_BYTES_MAX && check_domain(text).is_ok()
}

/// Length of the dot-string or quoted-string at the front.
fn local_part_end(text: &[u8]) -> Option<usize> {
    if text.first() == Some(&b'"') {
        let mut at = 1;
        loop {
            match *text.get(at)? {
                b'"' => return Some(at + 1),
                b'\\' => {
                    // quoted-pairSMTP: any printable octet or a space.
                    if !(b' '..=b'~').contains(text.get(at + 1)?) {
                        return None;
                    }
                    at += 2;
                }
                b' '..=b'~' | 0x80.. => at += 1,
                _ => return None,
            }
        }
    }
    let end = text.iter().position(|octet| !is_atext(*octet) && *octet != b'.')?;
    let dot_string = &text[..end];
    let well_formed = end > 0
        && dot_string[0] != b'.'
        && dot_string[end - 1] != b'.'
        && !dot_string.windows(2).any(|pair| pair == b"..");
    well_formed.then_some(end)
}

fn check_domain(domain: &str) -> Result<(), AddressError> {
    let valid = match domain.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(is_address_literal),
        None => {
            if domain.split('.').any(|label| label.len() > LABEL_BYTES_MAX) {
                return Err(AddressError::DomainTooLong);
            }
            domain.split('.').all(is_label)
        }
    };
    if valid { Ok(()) } else { Err(AddressError::Syntax) }
}

/// `sub-domain` of RFC 5321, with U-labels.
fn is_label(label: &str) -> bool {
    let inner = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet >= 0x80;
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(inner)
}

/// The inside of `[...]` (RFC 5321 §4.1.3). A tag other than `IPv6` is not standardised.
fn is_address_literal(text: &str) -> bool {
    match text.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => text[5..].parse::<Ipv6Addr>().is_ok(),
        _ => text.parse::<Ipv4Addr>().is_ok(),
    }
}

/// `atext` of RFC 5322 §3.2.3 and UTF8-non-ascii of RFC 6531.
fn is_atext(octet: u8) -> bool {
    octet.is_ascii_alphanumeric()
        || octet >= 0x80
        || matches!(
            octet,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'/'
                | b'='
                | b'?'
                | b'^'
                | b'_'
                | b'`'
                | b'{'
                | b'|'
                | b'}'
                | b'~'
        )
}

/// Longest label of a domain (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, &str), AddressError>) {
        let parsed = AddressRef::parse(text.as_bytes(), Utf8::Refused);
        assert_eq!(parsed.map(|it| (it.local_part(), it.domain())), expected, "{text}");
    }

    #[test]
    fn mailboxes_of_every_form_are_read() {
        check("a@b", Ok(("a", "b")));
        check("first.last+tag@mx-1.example.test", Ok(("first.last+tag", "mx-1.example.test")));
        check(
            r#""with @ and \" in it"@example.test"#,
            Ok((r#""with @ and \" in it""#, "example.test")),
        );
        check("a@[192.0.2.1]", Ok(("a", "[192.0.2.1]")));
        check("a@[IPv6:2001:db8::1]", Ok(("a", "[IPv6:2001:db8::1]")));
        check("POSTmaster", Ok(("POSTmaster", "")));
    }

    #[test]
    fn what_is_no_mailbox_is_refused() {
        let local = "l".repeat(65);
        let label = "d".repeat(64);
        for text in [
            "",
            "@",
            "a",
            "a@",
            "@b",
            ".a@b",
            "a.@b",
            "a..b@c",
            "a b@c",
            "a@b.",
            "a@.b",
            "a@-b",
            "a@b-",
            "a@b_c",
            "a@[300.0.0.1]",
            "a@[IPv6:x]",
            "a@[x:y]",
            "a@[192.0.2.1",
            "\"a@b",
            "\"a\"b@c",
            "a@b c",
            "a@b@c",
            "a\0@b",
            "<a@b>",
        ] {
            check(text, Err(AddressError::Syntax));
        }
        check(&format!("{local}@b"), Err(AddressError::LocalPartTooLong));
        check(&format!("a@{label}"), Err(AddressError::DomainTooLong));
        check("ü@b", Err(AddressError::NonAscii));
    }

    #[test]
    fn internationalised_mailboxes_need_smtputf8() {
        let text = "grüße@bücher.example".as_bytes();
        assert!(AddressRef::parse(text, Utf8::Allowed).is_ok());
        assert_eq!(AddressRef::parse(b"\xff@b", Utf8::Allowed), Err(AddressError::Syntax));
    }

    /// The published address cases: what only the grammar of RFC 5322 allows is no mailbox here.
    #[test]
    fn published_cases_are_judged_as_their_category_says() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/testdata");
        let Ok(text) = std::fs::read_to_string(directory.join("address-isemail/tests.dev.xml"))
        else {
            println!("address-isemail: test data absent, 0 cases");
            return;
        };
        let mut case_count = 0;
        let mut wrong = Vec::new();
        for case in text.split("<test ").skip(1) {
            let address = unescape(element(case, "address"));
            let category = element(case, "category");
            let expected = match category {
                "ISEMAIL_VALID_CATEGORY" | "ISEMAIL_DNSWARN" | "ISEMAIL_RFC5321" => true,
                "ISEMAIL_CFWS" | "ISEMAIL_RFC5322" | "ISEMAIL_ERR" => false,
                // Valid in part only: whatever the answer, it may not be a panic.
                _ => AddressRef::parse(address.as_bytes(), Utf8::Refused).is_ok(),
            };
            if AddressRef::parse(address.as_bytes(), Utf8::Refused).is_ok() != expected {
                wrong.push(format!("{address:?} {category} {}", element(case, "diagnosis")));
            }
            case_count += 1;
        }
        println!("address-isemail: {case_count} cases, {} wrong", wrong.len());
        assert!(case_count > 0);
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    fn element<'a>(case: &'a str, name: &str) -> &'a str {
        let inner = case.split_once(&format!("<{name}>")).map(|(_, inner)| inner);
        inner.and_then(|inner| inner.split_once("</")).map_or("", |(inner, _)| inner)
    }

    fn unescape(text: &str) -> String {
        let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
        let text = text.replace("&#13;", "\r").replace("&#10;", "\n").replace("&amp;", "&");
        // The symbols U+2400 to U+241F stand for the control characters.
        let control = |symbol: char| match u32::from(symbol) {
            code @ 0x2400..=0x241f => char::from_u32(code - 0x2400).unwrap(),
            _ => symbol,
        };
        text.chars().map(control).collect()
    }
}
