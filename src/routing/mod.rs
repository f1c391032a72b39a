//! From a forward-path to where its mail goes.
//!
//! **Owns** the table of routes, who gets the mail of local domains, what MX, address and TLSA
//! records mean for mail, and the names of sites.
//! **Uses** `config`, `mail`, `proto::dns`, `tls`. Asks nobody: answers of the DNS are handed in.
//! **Holds** that a domain resolves to one next hop, or to the reply that refuses it.
//! **Start reading** at `Routes::resolve`, then `local::Local::resolve`, `mx::Exchanges::read`.

pub mod dane;
mod hop;
pub mod local;
pub mod maildir;
pub mod mx;

use std::collections::{HashMap, HashSet};

use crate::config::{Config, NextHop};
use crate::mail::{EnhancedStatusCode, Reply};

pub use hop::{Hop, Place};

/// The routes of one configuration.
pub struct Routes {
    exact: HashMap<String, NextHop>,
    /// By the suffix behind `*.`.
    wildcard: HashMap<String, NextHop>,
    smarthost: Option<NextHop>,
    /// Domains whose mail stays here, as they compare.
    local: HashSet<Box<str>>,
    /// The domain of what has none.
    own_domain: String,
}

/// What led to a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched {
    /// The route of the domain itself.
    Route,
    /// The route of what is below the last so many octets of the domain.
    Below(usize),
    /// The domain is one of `[mailboxes]`.
    Local,
    Smarthost,
}

impl Routes {
    pub fn new(config: &Config) -> Self {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for route in &config.routes {
            match route.domain.strip_prefix("*.") {
                Some(suffix) => wildcard.insert(suffix.to_owned(), route.next_hop.clone()),
                None => exact.insert(route.domain.clone(), route.next_hop.clone()),
            };
        }
        let domains = &config.mailboxes.domains;
        let own_domain = domains.first().unwrap_or(&config.hostname).to_ascii_lowercase();
        let local = domains.iter().map(|domain| local::comparable(domain)).collect();
        Self { exact, wildcard, smarthost: config.smarthost.clone(), local, own_domain }
    }

    /// The next hop for a domain in any case; empty is this host (a bare `Postmaster`).
    ///
    /// The exact domain wins, then that it is local, then the longest wildcard, then the smarthost.
    pub fn resolve(&self, domain: &str) -> Result<NextHop, Reply> {
        self.explain(domain).map(|(_, next_hop)| next_hop)
    }

    /// As `resolve`, with what led there.
    pub fn explain(&self, domain: &str) -> Result<(Matched, NextHop), Reply> {
        let domain = domain.to_ascii_lowercase();
        let domain = if domain.is_empty() { &self.own_domain } else { &domain };
        if let Some(next_hop) = self.exact.get(domain) {
            return Ok((Matched::Route, next_hop.clone()));
        }
        if !self.local.is_empty() && self.local.contains(&local::comparable(domain)) {
            return Ok((Matched::Local, NextHop::Mailboxes));
        }
        let mut rest = domain.as_str();
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(next_hop) = self.wildcard.get(suffix) {
                return Ok((Matched::Below(suffix.len()), next_hop.clone()));
            }
            rest = suffix;
        }
        let smarthost = self.smarthost.clone();
        smarthost.map(|next_hop| (Matched::Smarthost, next_hop)).ok_or(NO_ROUTE)
    }
}

const NO_ROUTE: Reply =
    Reply::new(550, EnhancedStatusCode::new(5, 4, 4), "No route to this domain");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NextHopProtocol, Route};

    #[test]
    fn the_exact_domain_wins_then_the_longest_wildcard_then_the_smarthost() {
        let hop = |port: u16| NextHop::Address {
            protocol: NextHopProtocol::Smtp,
            address: ([127, 0, 0, 1], port).into(),
        };
        let route = |domain: &str, port| Route { domain: domain.into(), next_hop: hop(port) };
        let mut config = Config::embedded();
        config.hostname = "MX.test".into();
        config.smarthost = None;
        config.mailboxes.domains.clear();
        config.routes = vec![
            route("a.test", 1),
            route("*.a.test", 2),
            route("*.b.a.test", 3),
            route("mx.test", 4),
        ];
        let routes = Routes::new(&config);
        for (domain, port) in
            [("A.Test", 1), ("x.a.test", 2), ("x.y.a.test", 2), ("x.b.a.test", 3), ("", 4)]
        {
            assert_eq!(routes.resolve(domain), Ok(hop(port)), "{domain}");
        }
        assert_eq!(routes.resolve("test"), Err(NO_ROUTE));
        config.mailboxes.domains =
            ["x.a.test", "b\u{fc}cher.test", "a.test"].map(String::from).into();
        let routes = Routes::new(&config);
        for domain in ["X.a.test", "xn--bcher-kva.test", "B\u{dc}cher.test", ""] {
            let expected = Ok((Matched::Local, NextHop::Mailboxes));
            assert_eq!(routes.explain(domain), expected, "{domain}");
        }
        assert_eq!(routes.resolve("a.test"), Ok(hop(1)));
        config.mailboxes.domains.clear();
        config.smarthost = Some(hop(9));
        assert_eq!(Routes::new(&config).resolve("test"), Ok(hop(9)));
    }
}
