//! `[dns]`: whom the resolver asks, and how long it believes the answers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::table::{Checked, Table, Wrong};
use crate::limits::DNS_UPSTREAMS_MAX;

/// `[dns]`
#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// Recursive resolvers; empty for those of `/etc/resolv.conf`.
    pub upstreams: Vec<SocketAddr>,
    /// Longest wait for the answer to one query; where absent, `/etc/resolv.conf` says it, or two
    /// seconds.
    pub timeout: Option<Duration>,
    /// Queries to one upstream before it is given up for a question; where absent,
    /// `/etc/resolv.conf` says it, or three.
    pub attempts: Option<u32>,
    /// Answers that one shard keeps, and the memory they may take.
    pub cache_entries_max: usize,
    pub cache_bytes_max: usize,
    /// Bounds of the time for which an answer is believed.
    pub ttl_min: Duration,
    pub ttl_max: Duration,
    /// How long after its time an answer may stand in for a failure (RFC 8767); zero for never.
    pub stale_max: Duration,
    /// Whether "authenticated" is believed of an upstream on loopback: only of a validating
    /// resolver (RFC 4035 §4.9.3).
    pub trust_ad: bool,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            timeout: None,
            attempts: None,
            cache_entries_max: 50_000,
            cache_bytes_max: 16 << 20,
            ttl_min: Duration::from_secs(5),
            ttl_max: Duration::from_secs(86_400),
            stale_max: Duration::from_secs(86_400),
            trust_ad: false,
        }
    }
}

pub(super) fn read(table: &Table<'_, '_>, dns: &mut Dns) -> Checked<()> {
    table.list("upstreams", &mut dns.upstreams, "\"127.0.0.1\", \"[::1]:5353\"", parse_upstream)?;
    table.optional_duration("timeout", &mut dns.timeout, Duration::from_millis(50))?;
    table.optional_number("attempts", &mut dns.attempts, 1, 10)?;
    table.number("cache_entries_max", &mut dns.cache_entries_max, 0, 100_000_000)?;
    let mut cache_bytes_max = dns.cache_bytes_max as u64;
    table.size("cache_bytes_max", &mut cache_bytes_max, 0, 1 << 40)?;
    dns.cache_bytes_max = cache_bytes_max as usize;
    table.duration("ttl_min", &mut dns.ttl_min, Duration::ZERO)?;
    table.duration("ttl_max", &mut dns.ttl_max, Duration::from_secs(1))?;
    table.duration("stale_max", &mut dns.stale_max, Duration::ZERO)?;
    table.boolean("trust_ad", &mut dns.trust_ad)?;
    check(table, dns)
}

/// What single values cannot tell.
fn check(table: &Table<'_, '_>, dns: &Dns) -> Checked<()> {
    let wrong = |key: &str, message: &str| -> Wrong {
        table.wrong_at(&[&[key]], format!("dns.{key}: {message}"))
    };
    if dns.upstreams.len() > DNS_UPSTREAMS_MAX {
        return Err(wrong("upstreams", &format!("more than {DNS_UPSTREAMS_MAX}; remove some")));
    }
    if dns.ttl_min > dns.ttl_max {
        return Err(wrong("ttl_min", "above ttl_max; make it at most that"));
    }
    if dns.trust_ad && dns.upstreams.iter().any(|it| !it.ip().is_loopback()) {
        let message = "an upstream is not on loopback, so anybody on the way could say \
                       \"authenticated\"; run a validating resolver on this machine";
        return Err(wrong("trust_ad", message));
    }
    Ok(())
}

/// `192.0.2.1`, `::1`, `127.0.0.1:5353`, `[fe80::1%2]:53`.
fn parse_upstream(text: &str) -> Option<SocketAddr> {
    let address = text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 53));
    address.or_else(|| text.parse().ok()).filter(|address| address.port() != 0)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn parse(text: &str) -> Result<Dns, String> {
        let text = format!("[[listener]]\naddress = \"127.0.0.1:25\"\n[dns]\n{text}");
        let config = Config::parse(&text, "f").map_err(|error| error.to_string())?;
        assert_eq!(Config::parse(&config.explain(), "f"), Ok(config.clone()));
        Ok(config.dns)
    }

    #[test]
    fn the_table_is_read_and_written_back() {
        assert_eq!(parse(""), Ok(Dns::default()));
        let dns = parse(
            "upstreams = [\"127.0.0.1\", \"[::1]:5353\", \"127.0.0.53:54\"]\ntimeout = \"500ms\"\n\
             attempts = 2\ncache_entries_max = 10\ncache_bytes_max = \"1MiB\"\nttl_min = \"0s\"\n\
             ttl_max = \"1h\"\nstale_max = \"0s\"\ntrust_ad = true",
        );
        let expected = Dns {
            upstreams: vec![
                ([127, 0, 0, 1], 53).into(),
                "[::1]:5353".parse().expect("an address"),
                ([127, 0, 0, 53], 54).into(),
            ],
            timeout: Some(Duration::from_millis(500)),
            attempts: Some(2),
            cache_entries_max: 10,
            cache_bytes_max: 1 << 20,
            ttl_min: Duration::ZERO,
            ttl_max: Duration::from_secs(3600),
            stale_max: Duration::ZERO,
            trust_ad: true,
        };
        assert_eq!(dns, Ok(expected));
        assert_eq!(parse("upstreams = [\"192.0.2.1\"]").expect("valid").upstreams[0].port(), 53);
    }

    #[test]
    fn errors_name_line_and_key() {
        let check = |text: &str, line: usize, expected: &str| {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with(&format!("f:{line}: ")), "{error}");
            assert!(error.contains(expected), "{error}");
        };
        check("upstreams = [\"resolver.test\"]", 4, "dns.upstreams: found \"resolver.test\"");
        check("upstreams = [\"192.0.2.1:0\"]", 4, "dns.upstreams: found \"192.0.2.1:0\"");
        check("timeout = \"1ms\"", 4, "dns.timeout: found \"1ms\"; expected a duration");
        check("attempts = 0", 4, "dns.attempts: found 0; expected a whole number from 1 to 10");
        check("ttl_max = \"1m\"\nttl_min = \"2m\"", 5, "dns.ttl_min: above ttl_max");
        check("trust_ad = 1", 4, "dns.trust_ad: found 1; expected true or false");
        check("trust_ad = true\nupstreams = [\"192.0.2.1\"]", 4, "not on loopback");
        check("cache = 1", 4, "dns.cache: unknown key");
        let many = ["\"127.0.0.1\""; DNS_UPSTREAMS_MAX + 1].join(", ");
        check(&format!("upstreams = [{many}]"), 4, "dns.upstreams: more than 8");
    }
}
