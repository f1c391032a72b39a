//! What a resolver works by: the configuration, and `/etc/resolv.conf` where that says nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::cache::Bounds;
use super::resolv_conf::ResolvConf;
use crate::config;

/// Everything a resolver has to know; one for each configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// At least one.
    pub upstreams: Vec<SocketAddr>,
    /// Longest wait for the answer to one query.
    pub timeout: Duration,
    /// Queries to one upstream before it is given up for a question.
    pub attempts: u32,
    /// Whether the AD bit of an upstream on loopback counts.
    pub trust_ad: bool,
    pub(super) bounds: Bounds,
}

impl Settings {
    /// `resolv_conf` stands in for what `config` does not say.
    pub fn new(config: &config::Dns, resolv_conf: &ResolvConf) -> Self {
        let mut upstreams = config.upstreams.clone();
        if upstreams.is_empty() {
            upstreams.clone_from(&resolv_conf.upstreams);
        }
        if upstreams.is_empty() {
            // resolv.conf(5): the name server on the local machine.
            upstreams.push((Ipv4Addr::LOCALHOST, 53).into());
        }
        Self {
            upstreams,
            timeout: config.timeout.or(resolv_conf.timeout).unwrap_or(TIMEOUT),
            attempts: config.attempts.or(resolv_conf.attempts).unwrap_or(ATTEMPTS),
            trust_ad: config.trust_ad,
            bounds: Bounds {
                entries_max: config.cache_entries_max,
                bytes_max: config.cache_bytes_max,
                ttl_min: config.ttl_min,
                ttl_max: config.ttl_max,
                stale_max: config.stale_max,
            },
        }
    }

    /// The settings for `config` on this machine: reads `/etc/resolv.conf` where it is needed. A
    /// file that cannot be read says nothing.
    pub fn of_machine(config: &config::Dns) -> Self {
        let text = match config.upstreams.is_empty() {
            true => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            false => String::new(),
        };
        Self::new(config, &ResolvConf::parse(&text, crate::runtime::udp::interface_index))
    }
}

/// Where neither the configuration nor the file says so.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_configuration_wins_over_the_file_and_the_file_over_the_default() {
        let mut config = Config::default().dns;
        let file = "nameserver 192.0.2.1\noptions timeout:4 attempts:2";
        let file = ResolvConf::parse(file, |_| None);
        let settings = Settings::new(&config, &ResolvConf::default());
        assert_eq!(settings.upstreams, [([127, 0, 0, 1], 53).into()]);
        assert_eq!((settings.timeout, settings.attempts), (TIMEOUT, ATTEMPTS));
        let settings = Settings::new(&config, &file);
        assert_eq!(settings.upstreams, [([192, 0, 2, 1], 53).into()]);
        assert_eq!((settings.timeout, settings.attempts), (Duration::from_secs(4), 2));
        config.upstreams = vec![([192, 0, 2, 2], 5353).into()];
        config.timeout = Some(Duration::from_secs(1));
        config.attempts = Some(1);
        let settings = Settings::new(&config, &file);
        assert_eq!(settings.upstreams, config.upstreams);
        assert_eq!((settings.timeout, settings.attempts), (Duration::from_secs(1), 1));
    }
}
