//! From a domain to the hosts that take its mail: the questions around `routing::mx`.

use std::time::Duration;

use crate::dns::{Found, Resolver};
use crate::mail::Reply;
use crate::proto::dns::Kind;
use crate::routing::mx::{AddressAnswers, Destination, Exchanges, Plan, Policy};
use crate::runtime::clock;
use crate::runtime::sync::join_all;

/// Where the mail of a domain goes, or the reply that its recipients get.
pub struct Discovery {
    pub result: Result<Plan, Reply>,
    /// How long that holds: the least of the answers behind it.
    pub ttl: Duration,
}

/// Finds the MX hosts of the domain of a valid forward-path, and their addresses.
///
/// Suspends while the DNS is asked: once for MX, then for all addresses at the same time. Dropped
/// midway, the questions on their way end in the resolver's cache.
pub async fn discover(resolver: &Resolver, domain: &str, policy: &Policy) -> Discovery {
    let name = match Destination::parse(domain) {
        Ok(Destination::Domain(name)) => name,
        Ok(Destination::Literal(address)) => {
            let result = Plan::of_literal(address, policy);
            return Discovery { result, ttl: Duration::MAX };
        }
        Err(reply) => return Discovery { result: Err(reply), ttl: Duration::MAX },
    };
    let found = resolver.lookup(&name, Kind::Mx).await;
    let ttl = found.ttl;
    match Exchanges::read(&name, &found.result, policy, &mut clock::random_u64) {
        Ok(exchanges) => addresses(resolver, exchanges, ttl, policy).await,
        Err(reply) => Discovery { result: Err(reply), ttl },
    }
}

/// Finds the addresses of a host that a next hop names; its MX records do not count.
pub async fn discover_host(resolver: &Resolver, host: &str, policy: &Policy) -> Discovery {
    let exchanges = match Destination::parse(host) {
        Ok(Destination::Domain(name)) => Exchanges::of_host(&name, policy),
        Ok(Destination::Literal(address)) => {
            let result = Plan::of_literal(address, policy);
            return Discovery { result, ttl: Duration::MAX };
        }
        Err(reply) => Err(reply),
    };
    match exchanges {
        Ok(exchanges) => addresses(resolver, exchanges, Duration::MAX, policy).await,
        Err(reply) => Discovery { result: Err(reply), ttl: Duration::MAX },
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
    let ttl = found.iter().map(|it| it.ttl).fold(ttl, Duration::min);
    let of_host = |found: &[Found]| found.iter().map(|it| it.result.clone()).collect();
    let answers: Vec<AddressAnswers> = found.chunks(kinds.len()).map(of_host).collect();
    let result = Plan::new(exchanges, &answers, policy, &mut clock::random_u64);
    Discovery { result, ttl }
}
