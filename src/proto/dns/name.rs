//! Names of the DNS, in the one form that compares and hashes as the DNS does.

use std::fmt;
use std::net::IpAddr;

/// A name: presentation form (RFC 1035 §5.1), lower case, without the dot at the end; the root is
/// `.`. At most 255 octets on the wire (RFC 1035 §3.1).
///
/// Octets that are not letters, digits, `-`, `_`, `*` or `/` stand as `\DDD`, so equal text is
/// equal name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

impl Name {
    /// Reads a name that is absolute, with or without its last dot; `None` for what is no name.
    pub fn parse(text: &str) -> Option<Name> {
        if text == "." {
            return Some(Self::root());
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        // A label may hold dots that are escaped: the split comes after unescaping.
        let mut labels = vec![Vec::new()];
        let mut octets = text.bytes();
        while let Some(octet) = octets.next() {
            let label = labels.last_mut().expect("never empty");
            match octet {
                b'.' => labels.push(Vec::new()),
                b'\\' => label.push(unescape(&mut octets)?),
                _ => label.push(octet),
            }
        }
        Self::from_labels(labels.iter().map(Vec::as_slice))
    }

    /// From the labels of a message, leftmost first; `None` where one is empty or too long, or all
    /// together are.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Name> {
        let mut text = String::new();
        let mut wire_bytes = 1;
        for label in labels {
            wire_bytes += 1 + label.len();
            if label.is_empty() || label.len() > LABEL_BYTES_MAX || wire_bytes > NAME_BYTES_MAX {
                return None;
            }
            if !text.is_empty() {
                text.push('.');
            }
            for octet in label {
                match octet {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'*' | b'/' => {
                        text.push(char::from(octet.to_ascii_lowercase()));
                    }
                    octet => text.push_str(&format!("\\{octet:03}")),
                }
            }
        }
        if text.is_empty() {
            return Some(Self::root());
        }
        Some(Self(text.into_boxed_str()))
    }

    pub fn root() -> Name {
        Self(".".into())
    }

    /// The name under which the PTR record of `address` stands (RFC 1035 §3.5, RFC 3596 §2.5).
    pub fn reverse(address: IpAddr) -> Name {
        use std::fmt::Write;
        let mut text = String::new();
        // Writing into memory does not fail.
        match address.to_canonical() {
            IpAddr::V4(address) => {
                for octet in address.octets().iter().rev() {
                    let _ = write!(text, "{octet}.");
                }
                text.push_str("in-addr.arpa");
            }
            IpAddr::V6(address) => {
                for octet in address.octets().iter().rev() {
                    let _ = write!(text, "{:x}.{:x}.", octet & 15, octet >> 4);
                }
                text.push_str("ip6.arpa");
            }
        }
        Self(text.into_boxed_str())
    }

    /// This name below `labels`: `_dmarc` of `a.test` is `_dmarc.a.test`. `None` when too long.
    pub fn prefixed(&self, labels: &str) -> Option<Name> {
        if self.is_root() { Self::parse(labels) } else { Self::parse(&format!("{labels}.{self}")) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        &*self.0 == "."
    }

    /// Its labels as they stand in a message, leftmost first.
    pub fn labels(&self) -> Vec<Vec<u8>> {
        if self.is_root() {
            return Vec::new();
        }
        let label = |text: &str| {
            let mut octets = text.bytes();
            let mut label = Vec::with_capacity(text.len());
            while let Some(octet) = octets.next() {
                label.push(match octet {
                    b'\\' => unescape(&mut octets).expect("written by from_labels"),
                    octet => octet,
                });
            }
            label
        };
        self.0.split('.').map(label).collect()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands behind a backslash: three digits, or the octet itself.
fn unescape(octets: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let first = octets.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    let digit = |octet: u8| octet.is_ascii_digit().then(|| u32::from(octet - b'0'));
    let (second, third) = (digit(octets.next()?)?, digit(octets.next()?)?);
    u8::try_from(digit(first)? * 100 + second * 10 + third).ok()
}

/// Longest label and longest name, on the wire (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;
const NAME_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_form() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(Name::parse(text).as_ref().map(Name::as_str), expected, "{text}");
        };
        check("Mail.Example.TEST.", Some("mail.example.test"));
        check("mail.example.test", Some("mail.example.test"));
        check(".", Some("."));
        check("_dmarc.a-b.test", Some("_dmarc.a-b.test"));
        check("a\\.b.test", Some("a\\046b.test"));
        check("a\\046b.test", Some("a\\046b.test"));
        check("bücher.test", Some("b\\195\\188cher.test"));
        check("\\065.test", Some("a.test"));
        for text in ["", "..", "a..b", ".a", "a\\", "a\\2", "a\\25", "a\\256", "a\\2x5"] {
            check(text, None);
        }
        check(&format!("{}.test", "l".repeat(63)), Some(&format!("{}.test", "l".repeat(63))));
        check(&format!("{}.test", "l".repeat(64)), None);
        let long = ["l".repeat(62).as_str(); 4].join(".");
        check(&format!("{long}.a"), Some(&format!("{long}.a")));
        check(&format!("{long}.ab"), None);
    }

    #[test]
    fn labels_read_back() {
        for text in ["mail.example.test", ".", "a\\046b.\\000\\255.test", "*.a.test"] {
            let name = Name::parse(text).expect(text);
            assert_eq!(name.as_str(), text);
            let labels = name.labels();
            assert_eq!(Name::from_labels(labels.iter().map(Vec::as_slice)), Some(name), "{text}");
        }
        assert_eq!(Name::from_labels([&b""[..]]), None);
    }

    #[test]
    fn addresses_stand_reversed() {
        let check = |address: &str, expected: &str| {
            let name = Name::reverse(address.parse().expect("an address"));
            assert_eq!(name.as_str(), expected);
            assert_eq!(Name::parse(name.as_str()), Some(name));
        };
        check("192.0.2.10", "10.2.0.192.in-addr.arpa");
        check("::ffff:192.0.2.10", "10.2.0.192.in-addr.arpa");
        check(
            "2001:db8::1",
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
        );
    }

    #[test]
    fn a_prefix_stands_in_front() {
        let name = Name::parse("a.test").expect("a name");
        assert_eq!(name.prefixed("_25._tcp").expect("fits").as_str(), "_25._tcp.a.test");
        assert_eq!(Name::root().prefixed("test").expect("fits").as_str(), "test");
        assert_eq!(name.prefixed(&"l".repeat(64)), None);
    }
}
