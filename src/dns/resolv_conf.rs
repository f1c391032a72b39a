//! `/etc/resolv.conf`: whom to ask where the configuration does not say. Pure.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use crate::limits::DNS_UPSTREAMS_MAX;

/// What the file says that concerns us. `search` and `ndots` do not: every name we ask for is
/// absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// In order, at most `limits::DNS_UPSTREAMS_MAX`; the C library looks at three only.
    pub upstreams: Vec<SocketAddr>,
    /// `options timeout:N`, seconds.
    pub timeout: Option<Duration>,
    /// `options attempts:N`.
    pub attempts: Option<u32>,
}

impl ResolvConf {
    /// Reads the text as resolv.conf(5) says: what is not understood is skipped, of an option that
    /// comes twice the last one counts. `interface_index` finds the number of an interface that
    /// the scope of an IPv6 address names.
    pub fn parse(text: &str, interface_index: impl Fn(&str) -> Option<u32>) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or("");
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|it| parse_address(it, &interface_index));
                    let address = address.filter(|it| !conf.upstreams.contains(it));
                    if conf.upstreams.len() < DNS_UPSTREAMS_MAX {
                        conf.upstreams.extend(address);
                    }
                }
                Some("options") => words.for_each(|option| conf.read_option(option)),
                _ => {}
            }
        }
        conf
    }

    fn read_option(&mut self, option: &str) {
        let Some((name, value)) = option.split_once(':') else { return };
        let Ok(value) = value.parse::<u32>() else { return };
        match name {
            "timeout" => {
                let seconds = value.clamp(1, TIMEOUT_SECONDS_MAX);
                self.timeout = Some(Duration::from_secs(seconds.into()));
            }
            "attempts" => self.attempts = Some(value.clamp(1, ATTEMPTS_MAX)),
            _ => {}
        }
    }
}

/// An address without port; of a link-local one the scope may follow: `fe80::1%eth0`.
fn parse_address(text: &str, interface_index: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let Some((address, scope)) = text.split_once('%') else {
        return text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, PORT));
    };
    let scope = scope.parse().ok().or_else(|| interface_index(scope))?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
}

/// What the C library allows.
const TIMEOUT_SECONDS_MAX: u32 = 30;
const ATTEMPTS_MAX: u32 = 5;
/// Where a name server listens.
const PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_us_is_read_and_the_rest_is_skipped() {
        let text = "# by hand\n\
                    domain example.test\n\
                    search a.test b.test\n\
                    nameserver 192.0.2.1\n\
                    nameserver 192.0.2.1\n\
                    \tnameserver  2001:db8::53  ; the second\n\
                    nameserver fe80::1%eth0\n\
                    nameserver fe80::2%7\n\
                    nameserver fe80::3%none\n\
                    nameserver mx.example.test\n\
                    nameserver\n\
                    options ndots:3 timeout:9 rotate timeout:1 attempts:99\n\
                    options edns0 attempts:x\n\
                    sortlist 130.155.160.0\r\n";
        let conf = ResolvConf::parse(text, |name| (name == "eth0").then_some(3));
        let expected: Vec<SocketAddr> =
            ["192.0.2.1:53", "[2001:db8::53]:53", "[fe80::1%3]:53", "[fe80::2%7]:53"]
                .iter()
                .map(|it| it.parse().expect("an address"))
                .collect();
        assert_eq!(conf.upstreams, expected);
        assert_eq!(conf.timeout, Some(Duration::from_secs(1)));
        assert_eq!(conf.attempts, Some(5));
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            let cut = ResolvConf::parse(&text[..end], |_| None);
            assert!(cut.upstreams.len() <= 4);
        }
    }

    #[test]
    fn an_empty_file_says_nothing_and_a_long_one_is_cut() {
        assert_eq!(ResolvConf::parse("", |_| None), ResolvConf::default());
        let text: String = (0..100).map(|it| format!("nameserver 192.0.2.{it}\n")).collect();
        assert_eq!(ResolvConf::parse(&text, |_| None).upstreams.len(), DNS_UPSTREAMS_MAX);
    }
}
