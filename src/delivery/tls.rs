//! TLS towards next hops: the handshake, and those with which it does not work. `Pure` but for
//! `start`.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use rustls::CertificateError;
use rustls::pki_types::ServerName;

use super::Inner;
use super::site::Site;
use crate::limits::TLS_BROKEN_HOSTS_MAX;
use crate::mail::{
    Protection, Reply, TlsFailure, TlsOutcome, TlsPolicyFound, TlsPolicyKind, status,
};
use crate::routing::Place;
use crate::runtime::stream::Stream;
use crate::tls;
use crate::tls::client::{Demand, Level};

/// Next hops that offer TLS with which no session came about: where TLS is not demanded they get
/// their mail without it for a while.
#[derive(Default)]
pub(super) struct BrokenTls {
    /// Monotonic milliseconds until which TLS is not tried.
    until_ms: HashMap<SocketAddr, u64>,
}

impl BrokenTls {
    pub fn is_broken(&self, host: SocketAddr, now_ms: u64) -> bool {
        self.until_ms.get(&host).is_some_and(|until_ms| *until_ms > now_ms)
    }

    pub fn on_failed(&mut self, host: SocketAddr, now_ms: u64) {
        if self.until_ms.len() >= TLS_BROKEN_HOSTS_MAX {
            self.until_ms.retain(|_, until_ms| *until_ms > now_ms);
        }
        if self.until_ms.len() >= TLS_BROKEN_HOSTS_MAX {
            let soonest = self.until_ms.iter().min_by_key(|(_, until_ms)| **until_ms);
            let soonest = soonest.map(|(host, _)| *host);
            soonest.and_then(|host| self.until_ms.remove(&host));
        }
        self.until_ms.insert(host, now_ms + BROKEN_MS);
    }

    /// All are tried anew.
    pub fn forget(&mut self) {
        self.until_ms.clear();
    }
}

/// What is asked of the server at the other end, and who that is.
pub(super) struct Peer<'p> {
    pub demand: &'p Demand,
    pub address: SocketAddr,
    /// Its name, where it has one.
    pub host: Option<&'p str>,
}

impl Peer<'_> {
    /// What the server is told, and its certificate has to be for, where the demand names nothing.
    fn name(&self) -> ServerName<'static> {
        let host = self.host.map(|host| host.trim_end_matches('.').to_owned());
        let host = host.and_then(|host| ServerName::try_from(host).ok());
        let named = host.or_else(|| self.demand.names.first().cloned());
        named.unwrap_or_else(|| ServerName::IpAddress(self.address.ip().into()))
    }
}

/// Does the client's half of the handshake, within the deadline of the stream.
pub(super) async fn start(
    inner: &Inner,
    stream: &mut Stream,
    peer: &Peer<'_>,
) -> io::Result<Protection> {
    let numbers = &inner.metrics.delivery;
    let context = inner.config.borrow().delivery.tls.contexts.context(peer.demand);
    let connection = rustls::ClientConnection::new(context, peer.name());
    let connection = connection.map_err(io::Error::other)?;
    if let Err(error) = stream.start_tls(connection).await {
        numbers.tls_failures.add(1);
        return Err(error);
    }
    let session = stream.tls().expect("the handshake is done");
    let protection = tls::protection(session, peer.demand.level == Level::Verify);
    match protection.version {
        tls::TLS13 => numbers.tls13_connections.add(1),
        _ => numbers.tls12_connections.add(1),
    }
    numbers.tls_resumed.add(u64::from(tls::is_resumed(session)));
    Ok(protection)
}

/// What becomes of mail that must have TLS.
pub(super) fn refusal(why: &NoTls) -> Reply {
    match why {
        NoTls::NotOffered => NOT_OFFERED,
        NoTls::Refused(reply) => {
            let text = format!("TLS is demanded, and STARTTLS was answered with: {reply}");
            Reply::with_text(451, status::TLS_REQUIRED, text)
        }
        NoTls::Failed(error) => {
            let text = format!("The TLS handshake failed: {error}");
            Reply::with_text(451, status::TLS_FAILED, text)
        }
    }
}

/// What becomes of mail under REQUIRETLS where this host cannot have it: it Fails, unless the host
/// says that it is for now, or nobody knows (RFC 8689 §4.2.1).
pub(super) fn unfit(why: &NoTls) -> Reply {
    match why {
        NoTls::NotOffered => NO_ENCRYPTION,
        NoTls::Refused(reply) if reply.is_transient() => refusal(why),
        NoTls::Refused(reply) => {
            let text = format!("The message requires TLS, and STARTTLS was answered with: {reply}");
            Reply::with_text(550, status::ENCRYPTION_NEEDED, text)
        }
        NoTls::Failed(error) if error.kind() == io::ErrorKind::InvalidData => {
            let text = format!("The message requires TLS, and the handshake failed: {error}");
            Reply::with_text(550, status::ENCRYPTION_NEEDED, text)
        }
        NoTls::Failed(_) => refusal(why),
    }
}

/// Why there is no TLS.
pub(super) enum NoTls {
    NotOffered,
    Refused(Reply),
    Failed(io::Error),
}

impl NoTls {
    /// As reports tell it.
    fn failure(&self) -> TlsFailure {
        match self {
            NoTls::NotOffered | NoTls::Refused(_) => TlsFailure::StartTlsNotSupported,
            NoTls::Failed(error) => {
                let cause = error.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>());
                match cause {
                    Some(rustls::Error::InvalidCertificate(error)) => failure_of(error),
                    _ => TlsFailure::ValidationFailure,
                }
            }
        }
    }
}

/// What was wrong with a certificate.
fn failure_of(error: &CertificateError) -> TlsFailure {
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => TlsFailure::CertificateExpired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsFailure::CertificateHostMismatch
        }
        _ => TlsFailure::CertificateNotTrusted,
    }
}

impl Inner {
    /// Takes what came of a session's TLS. Whoever reports on it (RFC 8460) hears of it here.
    fn on_tls_outcome(&self, outcome: &TlsOutcome) {
        let numbers = &self.metrics.delivery;
        match outcome.result {
            Ok(()) => numbers.tls_policies_kept.add(1),
            Err(_) => numbers.tls_policies_broken.add(1),
        }
    }

    /// A session that was opened for the mail of `domain` is protected as is asked.
    pub(super) fn on_tls_success(&self, site: &Site, peer: &Peer<'_>, domain: &str) {
        if tells(site) {
            self.on_tls_outcome(&outcome(site, peer, domain, Ok(()), String::new()));
        }
    }

    /// A session is not protected, or there is none because it would not be.
    pub(super) fn on_tls_failure(&self, site: &Site, peer: &Peer<'_>, why: &NoTls) {
        if !tells(site) {
            return;
        }
        // The session was for whatever is ready first.
        let Some(task) = site.take(&self.queue) else { return };
        let domain = self.queue.flow_of(task).domain;
        self.queue.put_back(task);
        let reason = refusal(why).text.to_string();
        self.on_tls_outcome(&outcome(site, peer, &domain, Err(why.failure()), reason));
    }
}

/// Whether others are to know how the TLS of a site goes: those whose domains lead there.
fn tells(site: &Site) -> bool {
    site.demand.level != Level::None && matches!(site.key.hop.place, Place::Exchanges(_))
}

fn outcome(
    site: &Site,
    peer: &Peer<'_>,
    domain: &str,
    result: Result<(), TlsFailure>,
    reason: String,
) -> TlsOutcome {
    let policy = TlsPolicyFound {
        kind: TlsPolicyKind::NoPolicyFound,
        domain: domain.to_ascii_lowercase().into(),
        strings: Vec::new(),
        mx_patterns: Vec::new(),
    };
    TlsOutcome {
        policy: policy.into(),
        host: peer.host.unwrap_or_default().trim_end_matches('.').into(),
        sending_address: site.key.source,
        receiving_address: Some(peer.address.ip()),
        result,
        reason: reason.into(),
    }
}

/// How long a next hop with which TLS failed gets mail without it.
const BROKEN_MS: u64 = 3_600_000;
const NO_ENCRYPTION: Reply = Reply::new(
    550,
    status::ENCRYPTION_NEEDED,
    "The message requires TLS, and the next hop does not offer it",
);
/// The hosts were found by records that anybody may have made up.
pub(super) const NOT_VOUCHED_FOR: Reply = Reply::new(
    550,
    status::ENCRYPTION_NEEDED,
    "The message requires TLS, and nothing vouches for the MX records of the domain",
);
const NOT_OFFERED: Reply =
    Reply::new(451, status::TLS_REQUIRED, "TLS is demanded, and the next hop does not offer it");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_is_tried_again_in_time_and_the_memory_has_a_bound() {
        let mut broken = BrokenTls::default();
        let host = |index: usize| SocketAddr::from(([10, 0, (index >> 8) as u8, index as u8], 25));
        broken.on_failed(host(0), 1_000);
        assert!(broken.is_broken(host(0), 1_000 + BROKEN_MS - 1));
        assert!(!broken.is_broken(host(0), 1_000 + BROKEN_MS));
        assert!(!broken.is_broken(host(1), 1_000));
        for index in 0..TLS_BROKEN_HOSTS_MAX + 10 {
            broken.on_failed(host(index), 2_000 + index as u64);
        }
        assert_eq!(broken.until_ms.len(), TLS_BROKEN_HOSTS_MAX);
        assert!(!broken.is_broken(host(0), 2_000), "the one that ended first had to go");
        broken.on_failed(host(0), 2_000 + 2 * BROKEN_MS);
        assert_eq!(broken.until_ms.len(), 1, "what has ended goes first");
        broken.forget();
        assert!(!broken.is_broken(host(0), 2_000 + 2 * BROKEN_MS));
    }

    #[test]
    fn a_server_goes_by_its_host_then_by_the_demand_then_by_its_address() {
        let named = Demand {
            names: vec![ServerName::try_from("mx.a.test").expect("a name")],
            ..Demand::default()
        };
        let unnamed = Demand::default();
        let address = SocketAddr::from(([192, 0, 2, 1], 25));
        let name = |demand, host| Peer { demand, address, host }.name().to_str().into_owned();
        assert_eq!(name(&named, Some("mx.b.test")), "mx.b.test");
        assert_eq!(name(&named, None), "mx.a.test");
        assert_eq!(name(&unnamed, None), "192.0.2.1");
        assert_eq!(name(&unnamed, Some("not a name")), "192.0.2.1");
    }
}
