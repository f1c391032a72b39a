//! A zone of mail domains of every kind, and the name server that answers for it.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::failure::Failure;
use crate::relay::child::{self, Process};

/// Where hosts of the zone listen, all at one port: `hN` is at the address with index N.
pub const HOSTS: [&str; 4] = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "::1"];

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It arrives at one of these hosts.
    At(&'static [usize]),
    /// Failed, with this reply code and enhanced status code.
    Failed(&'static str),
    /// Delayed, and still queued.
    Delayed(&'static str),
}

/// A kind of domain.
pub struct DomainKind {
    pub name: &'static str,
    /// Records of the domain; `@` is its name in the zone.
    records: &'static str,
    pub end: End,
}

/// Every kind that RFC 5321 §5 and RFC 7505 tell apart. `h9` has an address at which nobody
/// listens, `us` is the server under test.
pub const KINDS: &[DomainKind] = &[
    DomainKind { name: "unequal", records: "@ MX 10 h0\n@ MX 20 h1\n", end: End::At(&[0]) },
    DomainKind {
        name: "equal",
        records: "@ MX 10 h0\n@ MX 10 h1\n@ MX 10 h2\n",
        end: End::At(&[0, 1, 2]),
    },
    DomainKind { name: "dead-first", records: "@ MX 10 h9\n@ MX 20 h2\n", end: End::At(&[2]) },
    DomainKind { name: "null", records: "@ MX 0 .\n", end: End::Failed("556 5.1.10") },
    DomainKind { name: "alias", records: "@ CNAME real\n", end: End::At(&[1]) },
    DomainKind { name: "mx-alias", records: "@ MX 10 toh1\n", end: End::At(&[1]) },
    DomainKind { name: "only-aaaa", records: "@ AAAA ::1\n", end: End::At(&[3]) },
    DomainKind { name: "only-a", records: "@ A 127.0.0.4\n", end: End::At(&[2]) },
    DomainKind { name: "both", records: "@ MX 10 h3\n@ MX 20 h0\n", end: End::At(&[3]) },
    // The A-label of a domain in an international script stands in front of it.
    DomainKind { name: "xn--bcher-kva", records: "@ MX 10 h1\n", end: End::At(&[1]) },
    DomainKind { name: "nxdomain", records: "", end: End::Failed("550 5.1.2") },
    DomainKind { name: "nothing", records: "@ TXT x\n", end: End::Failed("550 5.4.4") },
    DomainKind { name: "no-address", records: "@ MX 10 gone\n", end: End::Failed("550 5.4.4") },
    DomainKind { name: "truncated", records: "@ MX 10 large\n", end: End::At(&[2]) },
    DomainKind {
        name: "ourselves",
        records: "@ MX 10 us\n@ MX 20 h0\n",
        end: End::Failed("554 5.4.6"),
    },
    DomainKind { name: "backup", records: "@ MX 10 h0\n@ MX 20 us\n", end: End::At(&[0]) },
    DomainKind { name: "servfail", records: "", end: End::Delayed("451 4.4.3") },
    DomainKind { name: "lame", records: "", end: End::Delayed("451 4.4.3") },
];

impl DomainKind {
    /// The domain with a number: below a zone that answers, that is broken, or that nobody has.
    pub fn domain(&self, number: usize) -> String {
        let zone = match self.name {
            "servfail" => BROKEN,
            "lame" => "elsewhere.test",
            _ => ZONE,
        };
        format!("{}.d{number}.{zone}", self.name)
    }
}

/// A name server that ends with this value.
pub struct NameServer {
    pub address: SocketAddr,
    _process: Process,
}

impl NameServer {
    /// Starts Knot with a zone of so many domains in which `us` is 127.0.0.1.
    pub fn start(directory: &Path, domain_count: usize) -> Result<Self, Failure> {
        let program = find("knotd")
            .ok_or_else(|| Failure::unavailable("no knotd: install the package `knot`"))?;
        let address = child::free_address()?;
        let unusable = |error: std::io::Error| {
            Failure::cannot_create(format!("cannot write to {}: {error}", directory.display()))
        };
        fs::create_dir_all(directory).map_err(unusable)?;
        let directory = directory.canonicalize().map_err(unusable)?;
        let zone_file = directory.join("zone");
        fs::write(&zone_file, zone(domain_count)).map_err(unusable)?;
        let conf = directory.join("knot.conf");
        let port = address.port();
        let text = format!(
            "server:\n    rundir: {directory:?}\n    listen: \"127.0.0.1@{port}\"\n\
             log:\n  - target: stderr\n    any: warning\ndatabase:\n    storage: {directory:?}\n\
             zone:\n  - domain: {ZONE}\n    file: {zone_file:?}\n    zonefile-sync: -1\n  \
             - domain: {BROKEN}\n    file: {:?}\n    zonefile-sync: -1\n",
            directory.join("missing")
        );
        fs::write(&conf, text).map_err(unusable)?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&conf);
        let mut process = Process::start("knotd", command, &directory.join("knot.log"))?;
        process.wait_until("does not answer", START_TIME_MAX, || answers(address))?;
        Ok(Self { address, _process: process })
    }
}

/// The text of the zone.
fn zone(domain_count: usize) -> String {
    let mut text = format!(
        "$ORIGIN {ZONE}.\n$TTL 300\n@ SOA ns root 1 3600 900 604800 60\n@ NS ns\nns A 127.0.0.1\n\
         h9 A 127.0.0.9\ntoh1 CNAME h1\nreal MX 10 h1\nus A 127.0.0.1\n"
    );
    // Writing into memory does not fail, here and below.
    for (index, host) in HOSTS.iter().enumerate() {
        let kind = if host.contains(':') { "AAAA" } else { "A" };
        let _ = writeln!(text, "h{index} {kind} {host}");
    }
    // More than a datagram holds, and one of them is there.
    let _ = writeln!(text, "large A {}", HOSTS[2]);
    for number in 0..100 {
        let _ = writeln!(text, "large AAAA 100::{number:x}");
    }
    for number in 0..domain_count {
        let kind = &KINDS[number % KINDS.len()];
        if let Some(name) = kind.domain(number).strip_suffix(&format!(".{ZONE}")) {
            text += &kind.records.replace('@', name);
        }
        // What is the same for every message: two hosts, the first of which takes it.
        let _ = writeln!(text, "w{number} MX 10 h{}\nw{number} MX 20 h9", number % WARM_HOSTS);
    }
    text
}

/// A domain whose mail goes to the host with this index.
pub fn warm_domain(number: usize) -> (String, usize) {
    (format!("w{number}.{ZONE}"), number % WARM_HOSTS)
}

/// Where a server program is.
fn find(program: &str) -> Option<PathBuf> {
    let places = ["/usr/sbin", "/usr/local/sbin", "/usr/bin"];
    places.iter().map(|place| Path::new(place).join(program)).find(|path| path.exists())
}

/// Whether the name server says that the zone is its own.
fn answers(address: SocketAddr) -> bool {
    let ask = || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
        for label in ZONE.split('.') {
            query.push(label.len() as u8);
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(b"\0\0\x06\0\x01");
        socket.send_to(&query, address)?;
        let mut answer = [0; 512];
        let bytes = socket.recv(&mut answer)?;
        std::io::Result::Ok(bytes > 12 && answer[3] & 15 == 0)
    };
    ask().unwrap_or(false)
}

/// Domains of the zone lie below this.
pub const ZONE: &str = "mx.test";
/// A zone that the name server has and cannot answer for.
pub const BROKEN: &str = "broken.test";
/// Hosts that the domains without surprises go to.
const WARM_HOSTS: usize = 3;
const START_TIME_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_domains_hold_every_kind() {
        let text = zone(100);
        for number in 0..100 {
            let kind = &KINDS[number % KINDS.len()];
            let domain = kind.domain(number);
            let name = domain.strip_suffix(&format!(".{ZONE}"));
            let is_there = name.is_some_and(|name| text.contains(&format!("{name} ")));
            assert_eq!(is_there, !kind.records.is_empty(), "{domain}");
        }
        assert!(100 >= 2 * KINDS.len());
        assert_eq!(warm_domain(4), ("w4.mx.test".to_owned(), 1));
    }
}
