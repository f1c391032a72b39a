//! What a server must show before mail goes to it, and the contexts that see to it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::Version;
use super::dane::Associations;
use super::identity::Identity;
use crate::limits::TLS_SESSIONS_KEPT_MAX;

/// How much protection mail must have on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// TLS is not used.
    None,
    /// TLS where it is offered and works; whoever the server is.
    #[default]
    Opportunistic,
    /// TLS or nothing; whoever the server is.
    Required,
    /// TLS or nothing, and a certificate that a known CA gave for the right name.
    Verify,
}

impl Level {
    /// As configurations say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Opportunistic => "opportunistic",
            Level::Required => "required",
            Level::Verify => "verify",
        }
    }
}

/// What is asked of a server. Mail of different demands never shares a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Demand {
    pub level: Level,
    pub version_min: Version,
    /// Names of which the certificate has to be for one; the name of the host where empty.
    pub names: Vec<ServerName<'static>>,
    /// The server has to offer REQUIRETLS (RFC 8689).
    pub require_tls: bool,
}

impl Demand {
    /// The same with at least this level.
    pub fn raised(&self, level: Level) -> Demand {
        Demand { level: self.level.max(level), ..self.clone() }
    }

    /// Whether mail may go without TLS.
    pub fn allows_plain(&self) -> bool {
        self.level <= Level::Opportunistic
    }

    /// The same for mail under REQUIRETLS: a verified certificate in any case.
    pub fn with_require_tls(&self) -> Demand {
        Demand { level: Level::Verify, require_tls: true, ..self.clone() }
    }
}

/// The contexts of our clients, on all shards. Clones are the same.
#[derive(Clone)]
pub struct Contexts {
    inner: Arc<Inner>,
}

struct Inner {
    roots: Arc<RootCertStore>,
    web: OnceLock<Arc<ClientConfig>>,
    identity: Option<Identity>,
    by_demand: HashMap<Demand, Arc<ClientConfig>>,
}

impl Contexts {
    /// `roots` vouch for servers under `Level::Verify`. `identity` is shown to servers that ask.
    /// For `demands` contexts are ready, and keep sessions to resume.
    pub fn new<'d>(
        roots: RootCertStore,
        identity: Option<Identity>,
        demands: impl IntoIterator<Item = &'d Demand>,
    ) -> Contexts {
        let (roots, web, by_demand) = (roots.into(), OnceLock::new(), HashMap::new());
        let mut inner = Inner { roots, web, identity, by_demand };
        for demand in demands {
            let context = inner.make(demand);
            inner.by_demand.insert(demand.clone(), context);
        }
        Contexts { inner: Arc::new(inner) }
    }

    /// The context for a demand.
    pub fn context(&self, demand: &Demand) -> Arc<ClientConfig> {
        let ready = self.inner.by_demand.get(demand).cloned();
        ready.unwrap_or_else(|| self.inner.make(demand))
    }

    /// The context for a server with TLSA records. No session is resumed under it: each handshake
    /// goes by the records.
    pub fn dane(
        &self,
        associations: &Arc<Associations>,
        version_min: Version,
    ) -> Arc<ClientConfig> {
        self.inner.make_for(Trust::Dane(associations.clone()), version_min, Resumption::disabled())
    }

    /// The context for a server that may be anybody, and is looked at as `Level::Verify` does:
    /// what was wrong is in `seen` after the handshake.
    pub fn observing(&self, seen: &Seen, version_min: Version) -> Arc<ClientConfig> {
        let (roots, seen) = (self.inner.roots.clone(), seen.clone());
        let trust = Trust::Observed { roots, seen };
        self.inner.make_for(trust, version_min, Resumption::disabled())
    }

    /// Whether there is any CA to go by.
    pub fn knows_a_ca(&self) -> bool {
        !self.inner.roots.is_empty()
    }

    /// The context for web servers: known by their names to a CA. We stay unknown to them.
    pub fn web(&self) -> Arc<ClientConfig> {
        let make = || {
            let mut config = ClientConfig::builder_with_provider(super::provider())
                .with_protocol_versions(Version::Tls12.and_later())
                .expect("the library has cipher suites for these versions")
                .with_root_certificates(self.inner.roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(config)
        };
        self.inner.web.get_or_init(make).clone()
    }
}

impl Default for Contexts {
    /// Without CAs: nobody can be verified.
    fn default() -> Self {
        static CONTEXTS: OnceLock<Contexts> = OnceLock::new();
        let new = || Contexts::new(RootCertStore::empty(), None, &[Demand::default()]);
        CONTEXTS.get_or_init(new).clone()
    }
}

impl fmt::Debug for Contexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tls::client::Contexts")
    }
}

impl PartialEq for Contexts {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Inner {
    fn make(&self, demand: &Demand) -> Arc<ClientConfig> {
        let trust = match demand.level {
            Level::Verify => {
                Trust::Named { roots: self.roots.clone(), names: demand.names.clone() }
            }
            Level::None | Level::Opportunistic | Level::Required => Trust::Anybody,
        };
        let resumption = Resumption::in_memory_sessions(TLS_SESSIONS_KEPT_MAX);
        self.make_for(trust, demand.version_min, resumption)
    }

    fn make_for(
        &self,
        trust: Trust,
        version_min: Version,
        resumption: Resumption,
    ) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(super::provider())
            .with_protocol_versions(version_min.and_later())
            .expect("the library has cipher suites for these versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust));
        let mut config = match &self.identity {
            Some(identity) => {
                let key = identity.certified_key();
                let resolver = rustls::sign::SingleCertAndKey::from(key);
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = resumption;
        Arc::new(config)
    }
}

/// Whom a context believes to be the right server.
#[derive(Debug)]
enum Trust {
    /// Whoever has the key of its certificate.
    Anybody,
    /// Whom a CA vouches for, by one of the names; by that of the host where there is none.
    Named { roots: Arc<RootCertStore>, names: Vec<ServerName<'static>> },
    /// Whose certificate is what its TLSA records say.
    Dane(Arc<Associations>),
    /// Whoever has the key of its certificate, of which it is noted what `Named` would say.
    Observed { roots: Arc<RootCertStore>, seen: Seen },
}

/// What was wrong with a certificate that was taken all the same. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    error: Arc<Mutex<Option<Error>>>,
}

impl Seen {
    /// What was wrong, if a handshake was done and anything was.
    pub fn error(&self) -> Option<Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self {
            Trust::Anybody => {}
            Trust::Named { roots, names } => {
                verify_by_ca(leaf, intermediates, (roots, names), host, now)?;
            }
            Trust::Dane(associations) => associations.verify(leaf, intermediates, now)?,
            Trust::Observed { roots, seen } => {
                let verified = verify_by_ca(leaf, intermediates, (roots, &[]), host, now);
                *seen.error.lock().unwrap_or_else(PoisonError::into_inner) = verified.err();
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = super::provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = super::provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        super::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a CA vouches for a certificate by one of the names, or by that of the host where there
/// is none.
fn verify_by_ca(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    (roots, names): (&RootCertStore, &[ServerName<'static>]),
    host: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), Error> {
    let leaf = ParsedCertificate::try_from(leaf)?;
    let algorithms = super::provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)?;
    if names.is_empty() {
        return verify_server_name(&leaf, host);
    }
    match names.iter().any(|name| verify_server_name(&leaf, name).is_ok()) {
        true => Ok(()),
        false => Err(CertificateError::NotValidForName.into()),
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::tls::identity::tests::certificate;
    use crate::tls::roots_from_pem;

    #[test]
    fn a_certificate_is_verified_by_its_ca_and_one_of_the_names() {
        let (chain, _, ca) = certificate(&["mx.a.test", "192.0.2.1"]);
        let (_, _, other_ca) = certificate(&["mx.a.test"]);
        let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).expect("a certificate");
        let name = |name: &str| ServerName::try_from(name.to_owned()).expect("a name");
        let verify = |ca: &str, names: &[&str], host: &str| {
            let roots = Arc::new(roots_from_pem(ca.as_bytes()).expect("a CA"));
            let names = names.iter().map(|it| name(it)).collect();
            let trust = Trust::Named { roots, names };
            trust.verify_server_cert(&leaf, &[], &name(host), &[], UnixTime::now()).is_ok()
        };
        assert!(verify(&ca, &[], "mx.a.test"));
        assert!(verify(&ca, &[], "192.0.2.1"));
        assert!(!verify(&ca, &[], "mx.b.test"));
        assert!(!verify(&ca, &[], "192.0.2.2"));
        assert!(verify(&ca, &["mx.b.test", "mx.a.test"], "192.0.2.2"));
        assert!(!verify(&ca, &["mx.b.test"], "mx.a.test"), "the names count, not the host");
        assert!(!verify(&other_ca, &[], "mx.a.test"));
        let observe = |ca: &str, host: &str| {
            let roots = Arc::new(roots_from_pem(ca.as_bytes()).expect("a CA"));
            let seen = Seen::default();
            let trust = Trust::Observed { roots, seen: seen.clone() };
            let taken = trust.verify_server_cert(&leaf, &[], &name(host), &[], UnixTime::now());
            assert!(taken.is_ok());
            seen.error()
        };
        assert_eq!(observe(&ca, "mx.a.test"), None);
        assert!(observe(&ca, "mx.b.test").is_some() && observe(&other_ca, "mx.a.test").is_some());
        let anybody = Trust::Anybody;
        let host = name("mx.b.test");
        assert!(anybody.verify_server_cert(&leaf, &[], &host, &[], UnixTime::now()).is_ok());
    }
}
