//! Where the mail of a domain goes by its MX and address records (RFC 5321 §5). Pure: answers and
//! randomness are handed in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use super::dane::Dane;
use crate::config::{Config, Families};
use crate::limits::{MX_ADDRESSES_MAX, MX_HOST_ADDRESSES_MAX, MX_HOSTS_MAX};
use crate::mail::{Reply, status};
use crate::proto::dns::{Answer, Kind, LookupError, Name, Record};

/// A domain of a forward-path, in the form the DNS knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// `[192.0.2.1]`, `[IPv6:2001:db8::1]`: no question to ask.
    Literal(IpAddr),
    Domain(Name),
}

/// What we ask for and how we choose.
#[derive(Clone, Debug)]
pub struct Policy {
    pub families: Families,
    /// Where MX hosts listen; 25 but in tests.
    pub port: u16,
    /// Names by which others know this server; lower case.
    pub own_names: Vec<String>,
    /// Where this server listens, unspecified addresses and what they stand for.
    pub own_addresses: Vec<SocketAddr>,
    /// Whether TLSA records of hosts are asked for.
    pub asks_tlsa: bool,
}

/// The MX hosts of a domain, before their addresses are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchanges {
    domain: Name,
    /// In the order in which to try, at most `limits::MX_HOSTS_MAX`.
    pub hosts: Vec<Exchange>,
    /// The domain itself stands in for an MX host.
    pub is_implicit: bool,
    /// Whether the MX records were authenticated (RFC 7672 §2.2.1).
    pub authenticated: bool,
    roll_up_key: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    pub preference: u16,
    pub host: Name,
}

/// What the DNS says of the addresses of one host: an answer for each of `Policy::kinds`.
pub type AddressAnswers = Vec<Result<Rc<Answer>, LookupError>>;

/// Where to connect, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// At least one; each has an address.
    pub hosts: Vec<Host>,
    /// Equal for all domains whose mail goes to the same hosts: their names in lower case, sorted.
    pub roll_up_key: String,
    /// Whether the hosts are those that the domain, or the configuration, named: TLSA records of
    /// theirs count (RFC 7672 §2.2.1).
    pub authenticated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Name of the MX host, or the address literal.
    pub name: String,
    pub preference: u16,
    /// At least one, at most `limits::MX_HOST_ADDRESSES_MAX`.
    pub addresses: Vec<SocketAddr>,
    /// What the name is an alias for (RFC 7672 §2.2.2): RFC 5321 §5.1 forbids it, and the world
    /// does it.
    pub canonical: Option<Name>,
    /// Whether each address was authenticated.
    pub authenticated: bool,
    /// What its TLSA records say, once they were asked for.
    pub dane: Dane,
}

impl Destination {
    /// Reads the domain of a valid forward-path. A domain with U-labels becomes one of A-labels
    /// (RFC 5891 §5); where that is impossible the reply says so.
    pub fn parse(domain: &str) -> Result<Self, Reply> {
        if let Some(literal) = domain.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            let address = match literal.get(..5) {
                Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => {
                    literal[5..].parse::<Ipv6Addr>().map(IpAddr::from)
                }
                _ => literal.parse::<Ipv4Addr>().map(IpAddr::from),
            };
            return address.map(Self::Literal).map_err(|_| NO_SUCH_DOMAIN);
        }
        let ascii = if domain.is_ascii() {
            domain.into()
        } else {
            idna::uts46::Uts46::new()
                .to_ascii(
                    domain.as_bytes(),
                    idna::AsciiDenyList::STD3,
                    idna::uts46::Hyphens::Check,
                    idna::uts46::DnsLength::Verify,
                )
                .map_err(|_| NO_SUCH_DOMAIN)?
        };
        Name::parse(&ascii).map(Self::Domain).ok_or(NO_SUCH_DOMAIN)
    }
}

impl Policy {
    /// What a configuration says. `addresses` are those of this machine, which stand in where it
    /// listens at an unspecified one.
    pub fn new(config: &Config, addresses: &[IpAddr]) -> Self {
        let of_sources = config.sources.iter().filter_map(|source| source.ehlo_name.as_ref());
        let names = of_sources.chain(&config.delivery.ehlo_name).chain([&config.hostname]);
        let mut own_addresses = Vec::new();
        for listener in config.listeners.iter().filter_map(|it| it.address.network()) {
            own_addresses.push(listener);
            if listener.ip().is_unspecified() {
                let of_family = addresses.iter().filter(|it| it.is_ipv4() == listener.is_ipv4());
                own_addresses.extend(of_family.map(|it| SocketAddr::new(*it, listener.port())));
            }
        }
        Self {
            families: config.delivery.address_families,
            port: config.delivery.mx_port,
            own_names: names.map(|name| name.to_ascii_lowercase()).collect(),
            own_addresses,
            asks_tlsa: config.dns.trust_ad && config.goes_by_tlsa(),
        }
    }

    /// Whether a connection to `address` would come to this server. An unspecified address leads
    /// to this machine, and whoever listens at one listens on all of loopback.
    fn is_ours(&self, address: &SocketAddr) -> bool {
        self.own_addresses.iter().any(|own| {
            let is_anywhere = own.is_ipv4() == address.is_ipv4() && own.port() == address.port();
            own == address
                || is_anywhere && address.ip().is_unspecified()
                || is_anywhere && own.ip().is_unspecified() && address.ip().is_loopback()
        })
    }
}

impl Families {
    /// The records to ask for.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Families::Ipv6First => &[Kind::Aaaa, Kind::A],
            Families::Ipv4First => &[Kind::A, Kind::Aaaa],
            Families::Ipv6Only => &[Kind::Aaaa],
            Families::Ipv4Only => &[Kind::A],
        }
    }
}

impl Exchanges {
    /// A host that was named for the mail, whatever its MX records.
    pub fn of_host(host: &Name, policy: &Policy) -> Result<Self, Reply> {
        let exchange = Exchange { preference: 0, host: host.clone() };
        Self::without_us(host, vec![exchange], true, false, policy)
    }

    /// Makes hosts of the answer to the question for MX records, or the reply that ends it.
    ///
    /// Hosts come by preference, equal ones in random order. An answer without records makes the
    /// domain its own host, a name that does not exist does not (RFC 5321 §5.1). Where we are one
    /// of the hosts, we and everything that is not better are left out, so mail never goes in a
    /// circle. `random` gives numbers that spread.
    pub fn read(
        domain: &Name,
        answer: &Result<Rc<Answer>, LookupError>,
        policy: &Policy,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<Self, Reply> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(LookupError::NoData) => {
                let host = Exchange { preference: 0, host: domain.clone() };
                return Self::without_us(domain, vec![host], true, false, policy);
            }
            Err(LookupError::NoDomain) => return Err(NO_SUCH_DOMAIN),
            Err(error) => return Err(dns_failure(*error)),
        };
        let mut hosts: Vec<Exchange> = Vec::new();
        for record in &answer.records {
            let Record::Mx(mx) = record else { continue };
            // An address is no name (RFC 5321 §5.1), though some write one there.
            if !mx.exchange.is_root() && mx.exchange.as_str().parse::<IpAddr>().is_err() {
                hosts.push(Exchange { preference: mx.preference, host: mx.exchange.clone() });
            }
        }
        if hosts.is_empty() {
            return Err(if is_null_mx(answer) { NULL_MX } else { NO_USABLE_HOST });
        }
        shuffle(&mut hosts, random);
        hosts.sort_by_key(|it| it.preference);
        // A host that comes twice counts where it is better.
        let mut seen = std::collections::HashSet::new();
        hosts.retain(|it| seen.insert(it.host.clone()));
        Self::without_us(domain, hosts, false, answer.authenticated, policy)
    }

    fn without_us(
        domain: &Name,
        mut hosts: Vec<Exchange>,
        is_implicit: bool,
        authenticated: bool,
        policy: &Policy,
    ) -> Result<Self, Reply> {
        let is_us = |it: &&Exchange| policy.own_names.iter().any(|own| own == it.host.as_str());
        if let Some(ours) = hosts.iter().find(is_us).map(|it| it.preference) {
            hosts.retain(|it| it.preference < ours);
        }
        if hosts.is_empty() {
            return Err(LOOP);
        }
        let mut names: Vec<&str> = hosts.iter().map(|it| it.host.as_str()).collect();
        names.sort_unstable();
        names.truncate(ROLL_UP_HOSTS_MAX);
        let roll_up_key = names.join(",");
        hosts.truncate(MX_HOSTS_MAX);
        Ok(Self { domain: domain.clone(), hosts, is_implicit, authenticated, roll_up_key })
    }
}

impl Plan {
    /// The plan for an address literal.
    pub fn of_literal(address: IpAddr, policy: &Policy) -> Result<Self, Reply> {
        let target = SocketAddr::new(address, policy.port);
        if policy.is_ours(&target) {
            return Err(LOOP);
        }
        let name = match address {
            IpAddr::V4(address) => format!("[{address}]"),
            IpAddr::V6(address) => format!("[IPv6:{address}]"),
        };
        let host = Host {
            name: name.clone(),
            preference: 0,
            addresses: vec![target],
            canonical: None,
            authenticated: false,
            dane: Dane::None,
        };
        Ok(Self { hosts: vec![host], roll_up_key: name, authenticated: false })
    }

    /// Joins hosts and their addresses (`answers` in the order of `exchanges.hosts`), or gives the
    /// reply that ends it.
    ///
    /// A host without addresses is left out. Where the DNS failed for a host and no other has an
    /// address, the reply is transient. As with names, a host that has an address of ours ends the
    /// list for it and everything that is not better.
    pub fn new(
        exchanges: Exchanges,
        answers: &[AddressAnswers],
        policy: &Policy,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<Self, Reply> {
        assert_eq!(exchanges.hosts.len(), answers.len());
        let mut failure = None;
        let mut hosts: Vec<Host> = Vec::new();
        let mut our_preference = None;
        for (exchange, answers) in exchanges.hosts.iter().zip(answers) {
            if our_preference.is_some_and(|ours| exchange.preference >= ours) {
                break;
            }
            let mut families = Vec::new();
            let (mut canonical, mut authenticated) = (None, true);
            for answer in answers {
                match answer {
                    Ok(answer) => {
                        authenticated &= answer.authenticated;
                        canonical = canonical.or_else(|| answer.canonical.clone());
                        families.push(addresses(answer, policy.port, random));
                    }
                    Err(error) if error.is_denial() => {}
                    Err(error) => failure = Some(*error),
                }
            }
            let addresses = interleave(families);
            if addresses.iter().any(|it| policy.is_ours(it)) {
                our_preference = Some(exchange.preference);
                hosts.retain(|it| it.preference < exchange.preference);
            } else if !addresses.is_empty() {
                hosts.push(Host {
                    name: exchange.host.as_str().to_owned(),
                    preference: exchange.preference,
                    addresses,
                    canonical,
                    authenticated,
                    dane: Dane::None,
                });
            }
        }
        let mut address_count = 0;
        hosts.retain_mut(|host| {
            host.addresses.truncate(MX_HOST_ADDRESSES_MAX.min(MX_ADDRESSES_MAX - address_count));
            address_count += host.addresses.len();
            !host.addresses.is_empty()
        });
        if hosts.is_empty() {
            return Err(match (failure, our_preference) {
                (Some(error), _) => dns_failure(error),
                (None, Some(_)) => LOOP,
                (None, None) => no_address(&exchanges),
            });
        }
        let Exchanges { authenticated, is_implicit, roll_up_key, .. } = exchanges;
        // Where the name itself is the host, no answer could have put another there.
        let authenticated = authenticated || is_implicit;
        Ok(Self { hosts, roll_up_key, authenticated })
    }
}

impl Plan {
    /// The addresses in the order in which to try them, each with its host. Equal hosts, and the
    /// addresses of a host, come in an order that is random each time (RFC 5321 §5.1).
    pub fn targets(&self, random: &mut dyn FnMut() -> u64) -> Vec<(&Host, SocketAddr)> {
        let mut hosts: Vec<&Host> = self.hosts.iter().collect();
        for equal in hosts.chunk_by_mut(|a, b| a.preference == b.preference) {
            shuffle(equal, random);
        }
        let mut targets = Vec::new();
        for host in hosts {
            let is_first = |it: &SocketAddr| it.is_ipv4() == host.addresses[0].is_ipv4();
            let (mut first, mut second): (Vec<_>, Vec<_>) =
                host.addresses.iter().copied().partition(is_first);
            shuffle(&mut first, random);
            shuffle(&mut second, random);
            targets.extend(interleave(vec![first, second]).into_iter().map(|it| (host, it)));
        }
        targets
    }
}

fn addresses(answer: &Answer, port: u16, random: &mut dyn FnMut() -> u64) -> Vec<SocketAddr> {
    let addresses = answer.records.iter().filter_map(|record| match record {
        Record::Address(address) => Some(SocketAddr::new(*address, port)),
        _ => None,
    });
    let mut addresses: Vec<SocketAddr> = addresses.collect();
    shuffle(&mut addresses, random);
    addresses
}

/// One of each list in turn, so that a family without a way to the world costs one attempt before
/// the other is tried.
fn interleave(lists: Vec<Vec<SocketAddr>>) -> Vec<SocketAddr> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    let turns = (0..longest).flat_map(|turn| lists.iter().filter_map(move |list| list.get(turn)));
    turns.copied().collect()
}

fn shuffle<T>(items: &mut [T], random: &mut dyn FnMut() -> u64) {
    for last in (1..items.len()).rev() {
        items.swap(last, (random() % (last as u64 + 1)) as usize);
    }
}

/// Whether MX records say that a domain takes no mail. Beside others a null MX says nothing (RFC
/// 7505 §3).
pub fn is_null_mx(answer: &Answer) -> bool {
    let mut hosts = answer.records.iter().filter_map(|record| match record {
        Record::Mx(mx) => Some(mx.exchange.is_root()),
        _ => None,
    });
    hosts.next().is_some_and(|is_root| is_root && hosts.all(|is_root| is_root))
}

fn dns_failure(error: LookupError) -> Reply {
    Reply::with_text(451, status::DIRECTORY_FAILURE, error.to_string())
}

fn no_address(exchanges: &Exchanges) -> Reply {
    let text = match exchanges.is_implicit {
        true => format!("{} has neither MX nor address records", exchanges.domain),
        false => format!("No MX host of {} has an address", exchanges.domain),
    };
    Reply::with_text(550, status::UNABLE_TO_ROUTE, text)
}

/// The domain of a reverse-path that takes no mail cannot get a DSN either (RFC 7505 §4.2).
pub const NULL_MX_REVERSE_PATH: Reply =
    Reply::new(550, status::NULL_MX_REVERSE_PATH, "Domain of the reverse-path takes no mail");
const NULL_MX: Reply = Reply::new(556, status::NULL_MX, "Domain takes no mail (null MX)");
const NO_SUCH_DOMAIN: Reply = Reply::new(550, status::BAD_DESTINATION_SYSTEM, "No such domain");
const NO_USABLE_HOST: Reply =
    Reply::new(550, status::UNABLE_TO_ROUTE, "Domain has no usable MX host");
const LOOP: Reply = Reply::new(554, status::ROUTING_LOOP, "MX records lead back to this server");
/// Hosts that make the roll-up key.
const ROLL_UP_HOSTS_MAX: usize = 32;

#[cfg(test)]
mod tests;
