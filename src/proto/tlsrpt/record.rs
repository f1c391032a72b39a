//! The TXT record at `_smtp._tls.DOMAIN` (RFC 8460 §3).

use std::fmt;

use crate::limits::TLS_REPORT_RECEIVERS_MAX;
use crate::mail::{AddressRef, Utf8};

/// Where a domain wants its reports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Receiver {
    /// A mailbox in ASCII.
    Mailbox(Box<str>),
    /// `host` is a name or an address, in lower case; `path` begins with a slash.
    Https { host: Box<str>, port: u16, path: Box<str> },
}

/// The address as the record may say it.
impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Receiver::Mailbox(address) => write!(f, "mailto:{address}"),
            Receiver::Https { host, port, path } => write!(f, "https://{host}:{port}{path}"),
        }
    }
}

/// Reads the TXT records of the name: where reports go, in the order of the record and at most
/// `TLS_REPORT_RECEIVERS_MAX`. Empty where nobody asks for any, which is also what several records
/// or a malformed one mean. Addresses of other schemes are passed over.
pub fn receivers<'t>(texts: impl IntoIterator<Item = &'t [u8]>) -> Vec<Receiver> {
    let mut records = texts.into_iter().filter_map(fields);
    match (records.next(), records.next()) {
        (Some(fields), None) => read(fields).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// What stands behind the version; `None` for a record of another kind.
fn fields(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    let rest = text.strip_prefix("v=TLSRPTv1")?;
    // Another version does not end here.
    (rest.is_empty() || rest.starts_with([';', ' ', '\t'])).then_some(rest)
}

/// `None` for a malformed record.
fn read(fields: &str) -> Option<Vec<Receiver>> {
    let mut found = None;
    let mut fields = fields.split(';').map(|field| field.trim_matches([' ', '\t']));
    // Nothing stands between the version and its semicolon.
    fields.next().filter(|rest| rest.is_empty())?;
    for field in fields.filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=')?;
        let (name, value) = (name.trim_end_matches([' ', '\t']), value.trim_start());
        if !is_name(name) {
            return None;
        }
        if name == "rua" {
            let uris = value.split(',').filter_map(|uri| receiver(uri.trim_matches([' ', '\t'])));
            // Once.
            if found.replace(uris.take(TLS_REPORT_RECEIVERS_MAX).collect()).is_some() {
                return None;
            }
        }
    }
    found
}

fn is_name(name: &str) -> bool {
    let is_part = |octet: u8| octet.is_ascii_alphanumeric() || b"_-.".contains(&octet);
    !name.is_empty() && name.bytes().all(is_part)
}

fn receiver(uri: &str) -> Option<Receiver> {
    if !uri.bytes().all(|octet| octet.is_ascii_graphic()) {
        return None;
    }
    let (scheme, rest) = uri.split_once(':')?;
    if scheme.eq_ignore_ascii_case("mailto") {
        let address = rest.split_once('?').map_or(rest, |(address, _)| address);
        let address = percent_decoded(address)?;
        let parsed = AddressRef::parse(&address, Utf8::Refused).ok()?;
        let has_domain = !parsed.domain().is_empty();
        return has_domain.then(|| Receiver::Mailbox(parsed.as_str().into()));
    }
    if !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let rest = rest.strip_prefix("//")?;
    let (authority, path) = match rest.find(['/', '?', '#']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let path = path.split_once('#').map_or(path, |(path, _)| path);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (authority, 443),
    };
    let is_literal = host.starts_with('[') && host.ends_with(']');
    let is_part = |octet: u8| octet.is_ascii_alphanumeric() || b"-.".contains(&octet);
    let is_host = !host.is_empty() && (is_literal || host.bytes().all(is_part)) && port > 0;
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase().into();
    is_host.then(|| Receiver::Https { host, port, path: path.into() })
}

/// `None` where a `%` is not followed by two hexadecimal digits.
fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        octets.push(match first {
            b'%' => {
                let digits = more.get(..2).and_then(|digits| std::str::from_utf8(digits).ok())?;
                let are_digits = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                rest = &more[2..];
                are_digits.then(|| u8::from_str_radix(digits, 16).ok())??
            }
            octet => *octet,
        });
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(texts: &[&str], expected: &[&str]) {
        let shown = receivers(texts.iter().map(|text| text.as_bytes())).into_iter();
        let shown = shown.map(|receiver| match receiver {
            Receiver::Mailbox(address) => address.into_string(),
            Receiver::Https { host, port, path } => format!("{host} {port} {path}"),
        });
        assert_eq!(shown.collect::<Vec<String>>(), expected, "{texts:?}");
    }

    #[test]
    fn receivers_are_read_from_the_one_record_there_is() {
        // RFC 8460 §3.1.1 and §3.1.2.
        check(&["v=TLSRPTv1;rua=mailto:reports@example.com"], &["reports@example.com"]);
        check(
            &["v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt"],
            &["reporting.example.com 443 /v1/tlsrpt"],
        );
        check(
            &["spf", "v=TLSRPTv1 ; x=y; rua=mailto:a%2Bb@c.test?subject=x, HTTPS://D.test:8443 ; "],
            &["a+b@c.test", "d.test 8443 /"],
        );
        check(&["v=TLSRPTv1; rua=https://[2001:db8::1]/x?y=z#w"], &["2001:db8::1 443 /x?y=z"]);
        check(&["v=TLSRPTv1; rua=https://[2001:db8::1]:444"], &["2001:db8::1 444 /"]);
        let many = ["mailto:a@b.test"; TLS_REPORT_RECEIVERS_MAX + 1].join(",");
        let expected = ["a@b.test"; TLS_REPORT_RECEIVERS_MAX];
        check(&[&format!("v=TLSRPTv1;rua={many}")], &expected);
    }

    #[test]
    fn nobody_is_reported_to_by_what_is_no_record_or_not_the_only_one() {
        let good = "v=TLSRPTv1;rua=mailto:a@b.test";
        check(&[good, good], &[]);
        for bad in [
            "v=TLSRPTv1",
            "v=TLSRPTv12;rua=mailto:a@b.test",
            "v=TLSRPTv1 x;rua=mailto:a@b.test",
            "v=TLSRPTv1;rua=mailto:a@b.test;rua=mailto:a@b.test",
            "v=TLSRPTv1;rua",
            "v=TLSRPTv1;=x;rua=mailto:a@b.test",
            "V=TLSRPTv1;rua=mailto:a@b.test",
            "v=TLSRPTv1;rua=http://a.test/",
            "v=TLSRPTv1;rua=mailto:a",
            "v=TLSRPTv1;rua=mailto:a@b.test%0d%0aBcc:x@y.test",
            "v=TLSRPTv1;rua=mailto:a%4@b.test",
            "v=TLSRPTv1;rua=mailto:a%+1@b.test",
            "v=TLSRPTv1;rua=https://",
            "v=TLSRPTv1;rua=https://a.test:0/",
            "v=TLSRPTv1;rua=https://a.test:65536/",
            "v=TLSRPTv1;rua=https://a@b.test/",
            "v=TLSRPTv1;rua=https://a.test/\r\nx: y",
        ] {
            check(&[bad], &[]);
        }
    }

    #[test]
    fn a_record_cut_anywhere_does_no_harm() {
        let whole = "v=TLSRPTv1; rua=mailto:a%2Bb@c.test,https://[2001:db8::1]:84/x?y; ext=\u{fc}";
        for cut in 0..=whole.len() {
            let texts = [&whole.as_bytes()[..cut]];
            assert!(receivers(texts).len() <= 2, "cut at {cut}");
        }
        assert!(receivers([&b"v=TLSRPTv1;rua=mailto:\xff@a.test"[..]]).is_empty());
    }
}
