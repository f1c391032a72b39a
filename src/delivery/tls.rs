//! TLS towards next hops: the handshake, and those with which it does not work. `Pure` but for
//! `start`.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use rustls::CertificateError;
use rustls::pki_types::ServerName;

use super::Inner;
use super::site::Site;
use super::sts::StsFailure;
use super::wanted::{Check, Excluded, Wanted};
use crate::limits::TLS_BROKEN_HOSTS_MAX;
use crate::mail::{
    Protection, Reply, TlsFailure, TlsOutcome, TlsPolicyKind, TlsTag, VerifiedBy, status,
};
use crate::routing::Place;
use crate::routing::dane::Dane;
use crate::runtime::stream::Stream;
use crate::tls;
use crate::tls::client::{Demand, Level, Seen};
use crate::tls::dane::Associations;

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
    pub wanted: &'p Wanted,
    pub check: Check,
    pub address: SocketAddr,
    /// Its name, where it has one.
    pub host: Option<&'p str>,
}

impl<'p> Peer<'p> {
    /// A host with what is asked of it, or why nothing is to go there.
    pub fn new(
        wanted: &'p Wanted,
        address: SocketAddr,
        host: Option<&'p str>,
        dane: &Dane,
    ) -> Result<Self, Excluded> {
        let check = match host {
            Some(host) => wanted.check(host, dane)?,
            None => Check::Configured(wanted.demand.clone()),
        };
        Ok(Peer { wanted, check, address, host })
    }

    /// What the server is told, and its certificate has to be for, where nothing else is named.
    fn name(&self) -> ServerName<'static> {
        if let Check::Dane(_, associations) = &self.check {
            // Usable records come with a name: the TLSA base domain (RFC 7672 §2.2).
            return associations.names[0].clone();
        }
        let host = self.host.map(|host| host.trim_end_matches('.').to_owned());
        let host = host.and_then(|host| ServerName::try_from(host).ok());
        let named = host.or_else(|| self.wanted.demand.names.first().cloned());
        named.unwrap_or_else(|| ServerName::IpAddress(self.address.ip().into()))
    }

    /// Whether a policy that is only tested does not name it.
    fn is_amiss(&self) -> Option<String> {
        match (&self.check, self.host) {
            (Check::Testing(_, sts), Some(host)) if !sts.policy.allows(host) => {
                Some(sts.exclusion(host))
            }
            _ => None,
        }
    }
}

/// What came of a handshake.
pub(super) struct Protected {
    pub protection: Protection,
    /// What a policy that is only tested would not have let pass.
    pub amiss: Option<Amiss>,
}

/// Why a session does not do under a policy that is only tested.
pub(super) struct Amiss {
    failure: TlsFailure,
    reason: String,
}

/// Does the client's half of the handshake, within the deadline of the stream.
pub(super) async fn start(
    inner: &Inner,
    stream: &mut Stream,
    peer: &Peer<'_>,
) -> io::Result<Protected> {
    let numbers = &inner.metrics.delivery;
    let seen = Seen::default();
    let (context, verified_by) = {
        let contexts = &inner.config.borrow().delivery.tls.contexts;
        let configured = |demand: &Demand| {
            let by = (demand.level == Level::Verify).then_some(VerifiedBy::Ca);
            (contexts.context(demand), by)
        };
        match &peer.check {
            Check::Configured(demand) => configured(demand),
            Check::Encrypted(demand) => configured(&demand.raised(Level::Required)),
            Check::Testing(demand, _) if demand.level == Level::Verify => configured(demand),
            Check::Testing(demand, _) => (contexts.observing(&seen, demand.version_min), None),
            Check::Sts(demand, _) => {
                (contexts.context(&demand.raised(Level::Verify)), Some(VerifiedBy::MtaSts))
            }
            Check::Dane(demand, associations) => {
                (contexts.dane(associations, demand.version_min), Some(VerifiedBy::Dane))
            }
        }
    };
    let connection = rustls::ClientConnection::new(context, peer.name());
    let connection = connection.map_err(io::Error::other)?;
    if let Err(error) = stream.start_tls(connection).await {
        numbers.tls_failures.add(1);
        return Err(error);
    }
    let session = stream.tls().expect("the handshake is done");
    let protection = tls::protection(session, verified_by);
    match protection.version {
        tls::TLS13 => numbers.tls13_connections.add(1),
        _ => numbers.tls12_connections.add(1),
    }
    numbers.tls_resumed.add(u64::from(tls::is_resumed(session)));
    let by_name = peer.is_amiss().map(|reason| {
        let failure = TlsFailure::ValidationFailure;
        Amiss { failure, reason }
    });
    let by_certificate = seen.error().map(|error| {
        let failure = failure_of(&error);
        Amiss { failure, reason: error.to_string() }
    });
    Ok(Protected { protection, amiss: by_name.or(by_certificate) })
}

/// What becomes of mail that must have TLS.
pub(super) fn refusal(why: &NoTls, check: &Check) -> Reply {
    let by = check.demanded_by();
    match why {
        NoTls::NotOffered => {
            let text = format!("{by}, and the next hop does not offer it");
            Reply::with_text(451, status::TLS_REQUIRED, text)
        }
        NoTls::Refused(reply) => {
            let text = format!("{by}, and STARTTLS was answered with: {reply}");
            Reply::with_text(451, status::TLS_REQUIRED, text)
        }
        NoTls::Failed(error) => {
            let text = match check {
                Check::Configured(_) | Check::Testing(..) => {
                    format!("The TLS handshake failed: {error}")
                }
                _ => format!("{by}, and the handshake failed: {}", in_words(error)),
            };
            Reply::with_text(451, status::TLS_FAILED, text)
        }
    }
}

/// What becomes of mail under REQUIRETLS where this host cannot have it: it Fails, unless the host
/// says that it is for now, or nobody knows (RFC 8689 §4.2.1).
pub(super) fn unfit(why: &NoTls, check: &Check) -> Reply {
    match why {
        NoTls::NotOffered => NO_ENCRYPTION,
        NoTls::Refused(reply) if reply.is_transient() => refusal(why, check),
        NoTls::Refused(reply) => {
            let text = format!("The message requires TLS, and STARTTLS was answered with: {reply}");
            Reply::with_text(550, status::ENCRYPTION_NEEDED, text)
        }
        NoTls::Failed(error) if error.kind() == io::ErrorKind::InvalidData => {
            let error = in_words(error);
            let text = format!("The message requires TLS, and the handshake failed: {error}");
            Reply::with_text(550, status::ENCRYPTION_NEEDED, text)
        }
        NoTls::Failed(_) => refusal(why, check),
    }
}

/// What the library has no words for is said by whoever found it.
fn in_words(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(found))) => {
            found.0.to_string()
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForName)) => {
            "the certificate is for another name".to_owned()
        }
        _ => error.to_string(),
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
                cause.map_or(TlsFailure::ValidationFailure, failure_of)
            }
        }
    }
}

/// As reports tell it.
fn failure_of(error: &rustls::Error) -> TlsFailure {
    let rustls::Error::InvalidCertificate(error) = error else {
        return TlsFailure::ValidationFailure;
    };
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
        self.count_for_report(outcome);
    }

    /// A session that was opened for the mail of `domain` is protected as is asked.
    pub(super) fn on_tls_success(&self, site: &Site, peer: &Reported<'_>, domain: &str) {
        if tells(site) {
            self.on_tls_outcome(&peer.outcome(site, domain, Ok(()), String::new()));
        }
    }

    /// A session is not protected as is asked, or there is none because it would not be.
    pub(super) fn on_tls_failure(
        &self,
        site: &Site,
        peer: &Reported<'_>,
        failure: TlsFailure,
        reason: String,
    ) {
        if !tells(site) {
            return;
        }
        // The session was for whatever is ready first.
        let Some(task) = site.take(&self.queue) else { return };
        let flow = self.queue.flow_of(task);
        self.queue.put_back(task);
        if flow.stream.tls == TlsTag::Optional {
            return;
        }
        self.on_tls_outcome(&peer.outcome(site, &flow.domain, Err(failure), reason));
    }

    /// There is no TLS with a host.
    pub(super) fn on_no_tls(&self, site: &Site, peer: &Peer<'_>, why: &NoTls) {
        let reason = refusal(why, &peer.check).text.into_owned();
        self.on_tls_failure(site, &Reported::from(peer), why.failure(), reason);
    }

    /// A policy is only tested, and a session does not do under it.
    pub(super) fn on_amiss(&self, site: &Site, peer: &Peer<'_>, amiss: Amiss) {
        self.on_tls_failure(site, &Reported::from(peer), amiss.failure, amiss.reason);
    }

    /// The policy that a domain has announced could not be had.
    pub(super) fn on_sts_failure(&self, domain: &str, why: &StsFailure) {
        let policy = Wanted::default().policy_found(TlsPolicyKind::Sts, domain, None);
        self.on_tls_outcome(&TlsOutcome {
            policy: policy.into(),
            host: Box::default(),
            sending_address: None,
            receiving_address: None,
            result: Err(why.failure),
            reason: why.reason.clone(),
        });
    }
}

/// Whom an outcome is told of.
pub(super) struct Reported<'p> {
    pub kind: TlsPolicyKind,
    pub associations: Option<&'p Associations>,
    pub address: IpAddr,
    pub host: &'p str,
}

impl<'p> From<&'p Peer<'_>> for Reported<'p> {
    fn from(peer: &'p Peer<'_>) -> Self {
        Reported {
            kind: peer.check.kind(),
            associations: peer.check.associations(),
            address: peer.address.ip(),
            host: peer.host.unwrap_or_default(),
        }
    }
}

impl Reported<'_> {
    fn outcome(
        &self,
        site: &Site,
        domain: &str,
        result: Result<(), TlsFailure>,
        reason: String,
    ) -> TlsOutcome {
        TlsOutcome {
            policy: site.wanted.policy_found(self.kind, domain, self.associations).into(),
            host: self.host.trim_end_matches('.').into(),
            sending_address: site.key.source,
            receiving_address: Some(self.address),
            result,
            reason: reason.into(),
        }
    }
}

/// Whether others are to know how the TLS of a site goes: those whose domains lead there.
fn tells(site: &Site) -> bool {
    site.wanted.demand.level != Level::None && matches!(site.key.hop.place, Place::Exchanges(_))
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
        let named = Wanted { demand: named.into(), dane: true, sts: None };
        let unnamed = Wanted { dane: true, ..Wanted::default() };
        let address = SocketAddr::from(([192, 0, 2, 1], 25));
        let name_under = |wanted: &Wanted, host, dane: &Dane| {
            let peer = Peer::new(wanted, address, host, dane).expect("not excluded");
            peer.name().to_str().into_owned()
        };
        let name = |wanted: &Wanted, host| name_under(wanted, host, &Dane::None);
        assert_eq!(name(&named, Some("mx.b.test")), "mx.b.test");
        assert_eq!(name(&named, None), "mx.a.test");
        assert_eq!(name(&unnamed, None), "192.0.2.1");
        assert_eq!(name(&unnamed, Some("not a name")), "192.0.2.1");
        let names = vec![ServerName::try_from("base.test").expect("a name")];
        let usable = Dane::Usable(Associations { records: Vec::new(), names }.into());
        assert_eq!(name_under(&unnamed, Some("mx.b.test"), &usable), "base.test");
    }
}
