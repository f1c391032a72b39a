//! Typed values: durations, sizes, core sets, networks, next hops. Each reads back what it writes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::{Network, NextHop, NextHopProtocol};
use crate::mail::address::is_domain;

/// `250ms`, `30s`, `5m`, `2h`, `5d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

pub fn write_duration(duration: Duration) -> String {
    let ms = duration.as_millis() as u64;
    for (unit, length_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms > 0 && ms.is_multiple_of(length_ms) {
            return format!("{}{unit}", ms / length_ms);
        }
    }
    format!("{ms}ms")
}

/// `512B`, `64KiB`, `25MiB`, `16GiB`, `2TiB`.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(bytes)
}

pub fn write_size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// Conditions as an operator finds them: `domain=*.a.test class=bulk`, those that are given.
pub fn write_conditions<T: fmt::Display>(
    conditions: impl IntoIterator<Item = (&'static str, Option<T>)>,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let mut separator = "";
    for (name, value) in conditions {
        if let Some(value) = value {
            write!(f, "{separator}{name}={value}")?;
            separator = " ";
        }
    }
    Ok(())
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// `0-3,8`: ascending ranges and single cores, each core once.
pub fn parse_core_set(text: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > CORE_MAX {
            return None;
        }
        cores.extend(first..=last);
    }
    let distinct: std::collections::HashSet<_> = cores.iter().collect();
    (distinct.len() == cores.len()).then_some(cores)
}

/// `10.0.0.0/8`, `2001:db8::/32`, or one address.
pub fn parse_network(text: &str) -> Option<Network> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    let prefix_bits = match bits {
        Some(bits) => bits.parse().ok().filter(|bits| *bits <= bits_max)?,
        None => bits_max,
    };
    Some(Network { address, prefix_bits })
}

impl Network {
    /// Whether `client` is in the network. An IPv4 client on an IPv6 socket counts as IPv4.
    pub fn contains(&self, client: IpAddr) -> bool {
        match (self.address, client.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(client)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_bits)).unwrap_or(0);
                network.to_bits() & mask == client.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(client)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_bits)).unwrap_or(0);
                network.to_bits() & mask == client.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// `smtp://127.0.0.1:25`, `lmtp://[::1]:24`, `smtp://mail.example:587`, `mx`, `mx://example.net`.
/// `localhost` is 127.0.0.1 without a question. `lmtp+unix:///run/lmtp` is a socket.
pub fn parse_next_hop(text: &str) -> Option<NextHop> {
    if text == "mx" {
        return Some(NextHop::Mx(None));
    }
    let (scheme, rest) = text.split_once("://")?;
    let protocol = match scheme {
        "smtp" => NextHopProtocol::Smtp,
        "lmtp" => NextHopProtocol::Lmtp,
        "lmtp+unix" => return is_socket(rest).then(|| NextHop::Socket(rest.into())),
        "mx" => return parse_host(rest).map(|domain| NextHop::Mx(Some(domain))),
        "maildir" => return is_maildir(rest).then(|| NextHop::Maildir(rest.into())),
        _ => return None,
    };
    let address = match rest.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.parse().ok()?)),
        None => rest.parse().ok(),
    };
    if let Some(address) = address {
        return (address.port() != 0).then_some(NextHop::Address { protocol, address });
    }
    let (host, port) = rest.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    parse_host(host).map(|host| NextHop::Host { protocol, host, port })
}

/// Permissions of a file as `chmod` takes them: three octal digits, perhaps with a 0 before them.
pub(super) fn parse_mode(text: &str) -> Option<u32> {
    let digits = if text.len() == 4 { text.strip_prefix('0')? } else { text };
    let is_octal = digits.len() == 3 && digits.bytes().all(|it| (b'0'..=b'7').contains(&it));
    is_octal.then(|| u32::from_str_radix(digits, 8).ok())?
}

/// A path that a socket can have (`sun_path`).
pub(super) fn is_socket(path: &str) -> bool {
    is_plain_path(path) && path.len() <= SOCKET_PATH_BYTES_MAX
}

/// A path in which names stand for parts of an address.
fn is_maildir(path: &str) -> bool {
    let filled_in = path.replace("{domain}", "").replace("{local_part}", "");
    let has_steps_up = path.split('/').any(|step| step == "..");
    is_plain_path(path)
        && path.len() <= MAILDIR_PATH_BYTES_MAX
        && !filled_in.contains(['{', '}'])
        && !has_steps_up
}

/// Absolute, and told from what stands behind it in the name of a site.
fn is_plain_path(path: &str) -> bool {
    let is_plain = |octet: u8| octet.is_ascii_graphic() && !b"#,*".contains(&octet);
    path.starts_with('/') && path.bytes().all(is_plain)
}

/// A name that the DNS may be asked for, as it compares: no address, no U-labels.
fn parse_host(text: &str) -> Option<Arc<str>> {
    let is_name = is_domain(text) && text.is_ascii() && !text.starts_with('[');
    let may_be_address = text.rsplit('.').next()?.bytes().all(|octet| octet.is_ascii_digit());
    (is_name && !may_be_address).then(|| text.to_ascii_lowercase().into())
}

impl NextHop {
    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<NextHop> {
        parse_next_hop(text)
    }

    /// Whether mail does not leave this machine on its way there.
    pub fn stays_here(&self) -> bool {
        matches!(self, NextHop::Socket(_) | NextHop::Maildir(_) | NextHop::Mailboxes)
    }

    /// Whether the DNS has to be asked where it is.
    pub fn needs_dns(&self) -> bool {
        matches!(self, NextHop::Host { .. } | NextHop::Mx(_))
    }
}

impl std::fmt::Display for NextHop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NextHop::Address { protocol, address } => write!(f, "{protocol}://{address}"),
            NextHop::Host { protocol, host, port } => write!(f, "{protocol}://{host}:{port}"),
            NextHop::Socket(path) => write!(f, "lmtp+unix://{path}"),
            NextHop::Mx(None) => f.write_str("mx"),
            NextHop::Mx(Some(domain)) => write!(f, "mx://{domain}"),
            NextHop::Maildir(path) => write!(f, "maildir://{path}"),
            NextHop::Mailboxes => f.write_str("mailboxes"),
        }
    }
}

impl std::fmt::Display for NextHopProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NextHopProtocol::Smtp => "smtp",
            NextHopProtocol::Lmtp => "lmtp",
        })
    }
}

/// What an operator may write for a next hop.
pub(super) const NEXT_HOP_FORMS: &str = concat!(
    "\"smtp://ADDRESS:PORT\", \"smtp://HOST:PORT\", \"lmtp://...\", \"lmtp+unix:///PATH\", ",
    "\"mx\", \"mx://DOMAIN\" or \"maildir:///PATH/{domain}/{local_part}\"",
);
/// Longest path of a socket: `sun_path` with its NUL has 108 octets.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Longest path of a Maildir before an address is filled in.
const MAILDIR_PATH_BYTES_MAX: usize = 255;
/// Highest core number that can be pinned to.
const CORE_MAX: usize = 1023;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_a_unit_and_read_back() {
        for text in ["250ms", "30s", "5m", "2h", "5d", "0ms", "90s"] {
            assert_eq!(parse_duration(text).map(write_duration).as_deref(), Some(text));
        }
        for text in ["", "5", "s", "5 s", "-5s", "1.5s", "5w", "99999999999999999999d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for text in ["512B", "64KiB", "25MiB", "16GiB", "2TiB", "0B"] {
            assert_eq!(parse_size(text).map(write_size).as_deref(), Some(text));
        }
        for text in ["", "5", "5KB", "5mib", "99999999TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn core_sets_name_each_core_once() {
        assert_eq!(parse_core_set("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_core_set("5"), Some(vec![5]));
        for text in ["", "a", "3-1", "0,0", "0-", "0-2000", "1,,2"] {
            assert_eq!(parse_core_set(text), None, "{text}");
        }
    }

    #[test]
    fn networks_contain_their_clients_only() {
        let contains = |network: &str, client: &str| {
            let network = parse_network(network).expect("a network");
            network.contains(client.parse().expect("an address"))
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "203.0.113.5"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(contains("::1", "::1"));
        assert!(!contains("::1", "::2"));
        for text in ["10.0.0.0/33", "::/129", "x", "10.0.0.0/", "/8"] {
            assert_eq!(parse_network(text), None, "{text}");
        }
    }

    #[test]
    fn next_hops_read_back() {
        for text in [
            "smtp://127.0.0.1:25",
            "lmtp://[::1]:24",
            "smtp://mail.example:587",
            "lmtp://h:24",
            "lmtp+unix:///run/dovecot/lmtp",
            "mx",
            "mx://a.test",
            "maildir:///var/mail/{domain}/{local_part}/Maildir",
        ] {
            assert_eq!(parse_next_hop(text).map(|hop| hop.to_string()).as_deref(), Some(text));
        }
        let local = parse_next_hop("smtp://localhost:25").expect("a next hop");
        assert_eq!(local.to_string(), "smtp://127.0.0.1:25");
        assert_eq!(
            parse_next_hop("smtp://Mail.Example:25"),
            parse_next_hop("smtp://mail.example:25")
        );
        for text in [
            "127.0.0.1:25",
            "smtp://127.0.0.1",
            "http://127.0.0.1:25",
            "smtp://h",
            "smtp://h:0",
            "smtp://127.0.0.1.5:25",
            "smtp://[h]:25",
            "lmtp+unix://run/lmtp",
            "lmtp+unix://",
            "lmtp+unix:///a b",
            "lmtp+unix:///a#b",
            "smtp+unix:///run/smtp",
            "mx://",
            "mx://a.test:25",
            "mx://127.0.0.1",
            "mx://b\u{fc}cher.test",
            "MX",
            "mailboxes",
            "maildir://var/mail",
            "maildir:///var/{user}",
            "maildir:///var/{domain",
            "maildir:///var/../{domain}",
        ] {
            assert_eq!(parse_next_hop(text), None, "{text}");
        }
    }
}
