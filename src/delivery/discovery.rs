//! From a domain to the hosts that take its mail: the questions around `routing::mx`.

use std::time::Duration;

use super::wanted::Published;
use crate::dns::{Found, Resolver};
use crate::mail::Reply;
use crate::proto::dns::{Kind, Name};
use crate::routing::dane::{self, Dane};
use crate::routing::mx::{AddressAnswers, Destination, Exchanges, Host, Plan, Policy};
use crate::runtime::clock;
use crate::runtime::sync::join_all;

/// Where the mail of a domain goes, or the reply that its recipients get.
pub struct Discovery {
    pub result: Result<Plan, Reply>,
    pub(super) published: Published,
    /// How long that holds: the least of the answers behind it.
    pub ttl: Duration,
}

impl Discovery {
    /// Nothing that changes by itself.
    fn settled(result: Result<Plan, Reply>) -> Self {
        Self { result, published: Published::default(), ttl: Duration::MAX }
    }
}

/// Finds the MX hosts of the domain of a valid forward-path, and their addresses.
///
/// Suspends while the DNS is asked: once for MX, then for all addresses at the same time, then for
/// TLSA records where they can count. Dropped midway, the questions on their way end in the
/// resolver's cache.
pub async fn discover(resolver: &Resolver, domain: &str, policy: &Policy) -> Discovery {
    let name = match Destination::parse(domain) {
        Ok(Destination::Domain(name)) => name,
        Ok(Destination::Literal(address)) => {
            return Discovery::settled(Plan::of_literal(address, policy));
        }
        Err(reply) => return Discovery::settled(Err(reply)),
    };
    let found = resolver.lookup(&name, Kind::Mx).await;
    let ttl = found.ttl;
    match Exchanges::read(&name, &found.result, policy, &mut clock::random_u64) {
        Ok(exchanges) => addresses(resolver, exchanges, ttl, policy).await,
        Err(reply) => Discovery { result: Err(reply), published: Published::default(), ttl },
    }
}

/// Finds the addresses of a host that a next hop names; its MX records do not count.
pub async fn discover_host(resolver: &Resolver, host: &str, policy: &Policy) -> Discovery {
    let exchanges = match Destination::parse(host) {
        Ok(Destination::Domain(name)) => Exchanges::of_host(&name, policy),
        Ok(Destination::Literal(address)) => {
            return Discovery::settled(Plan::of_literal(address, policy));
        }
        Err(reply) => Err(reply),
    };
    match exchanges {
        Ok(exchanges) => addresses(resolver, exchanges, Duration::MAX, policy).await,
        Err(reply) => Discovery::settled(Err(reply)),
    }
}

/// Joins hosts, found out with a time to live of `ttl`, and their addresses.
async fn addresses(
    resolver: &Resolver,
    exchanges: Exchanges,
    ttl: Duration,
    policy: &Policy,
) -> Discovery {
    let kinds = policy.families.kinds();
    let questions = exchanges
        .hosts
        .iter()
        .flat_map(|exchange| kinds.iter().map(|kind| resolver.lookup(&exchange.host, *kind)));
    let found = join_all(questions.collect()).await;
    let mut ttl = found.iter().map(|it| it.ttl).fold(ttl, Duration::min);
    let of_host = |found: &[Found]| found.iter().map(|it| it.result.clone()).collect();
    let answers: Vec<AddressAnswers> = found.chunks(kinds.len()).map(of_host).collect();
    let mut result = Plan::new(exchanges, &answers, policy, &mut clock::random_u64);
    if let Ok(plan) = &mut result
        && policy.asks_tlsa
    {
        let questions = plan.hosts.iter().map(|host| find_dane(resolver, host, policy.port));
        let found = join_all(questions.collect()).await;
        for (host, (dane, of_dane)) in plan.hosts.iter_mut().zip(found) {
            host.dane = dane;
            ttl = ttl.min(of_dane);
        }
    }
    let is_secure =
        |plan: &Plan| plan.authenticated && plan.hosts.iter().any(|host| host.dane != Dane::None);
    let dane = result.as_ref().is_ok_and(is_secure);
    Discovery { result, published: Published { dane, ..Published::default() }, ttl }
}

/// What the TLSA records of a host say, and how long that holds.
async fn find_dane(resolver: &Resolver, host: &Host, port: u16) -> (Dane, Duration) {
    let mut ttl = Duration::MAX;
    let mut is_name_authentic = false;
    if let (Some(_), false, Some(name)) =
        (&host.canonical, host.authenticated, Name::parse(&host.name))
    {
        let alias = resolver.lookup(&name, Kind::Cname).await;
        is_name_authentic = alias.result.is_ok_and(|answer| answer.authenticated);
        ttl = alias.ttl;
    }
    let bases = dane::base_domains(host, is_name_authentic);
    for base in &bases {
        let Some(name) = dane::tlsa_name(base, port) else { continue };
        let found = resolver.lookup(&name, Kind::Tlsa).await;
        ttl = ttl.min(found.ttl);
        if let Some(dane) = dane::read(base, &found.result, &bases) {
            return (dane, ttl);
        }
    }
    (Dane::None, ttl)
}
