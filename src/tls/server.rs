//! The context of our servers: certificates by name, versions, tickets, clients' certificates.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use super::Version;
use super::identity::Identity;

/// What every session of our servers shares, on all shards: whoever comes back to another shard
/// resumes its session there. Clones are the same.
#[derive(Clone)]
pub struct Context {
    config: Arc<ServerConfig>,
    /// Who vouches for clients, where they are asked.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Context {
    /// `identities` is not empty; the first is for clients that name no server, or an unknown one.
    /// With `client_roots` clients are asked for a certificate, and may come without.
    ///
    /// Fails only where the system has no randomness.
    pub fn new(
        identities: Vec<Identity>,
        version_min: Version,
        client_roots: Option<RootCertStore>,
    ) -> Result<Context, Error> {
        assert!(!identities.is_empty());
        let provider = super::provider();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(version_min.and_later())?;
        let mut clients = None;
        let builder = match client_roots {
            Some(roots) => {
                let strict = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                let strict = strict.build().map_err(|error| Error::General(error.to_string()))?;
                clients = Some(strict.clone());
                builder.with_client_cert_verifier(Arc::new(AnyClient { strict }))
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName { identities }));
        config.ticketer = Ticketer::new()?;
        Ok(Context { config: Arc::new(config), clients })
    }

    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Whether one of the configured CAs vouches for a client that showed this chain.
    pub fn is_client_verified(&self, chain: Option<&[CertificateDer<'static>]>) -> bool {
        match (&self.clients, chain) {
            (Some(clients), Some([leaf, rest @ ..])) => {
                clients.verify_client_cert(leaf, rest, UnixTime::now()).is_ok()
            }
            _ => false,
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tls::server::Context")
    }
}

impl PartialEq for Context {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }
}

/// The first certificate that is valid for the name asked for, of a kind that the client knows.
#[derive(Debug)]
struct ByName {
    identities: Vec<Identity>,
}

impl ByName {
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> &Identity {
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let known = || self.identities.iter().filter(|it| it.signs_by(schemes));
        let named = name.and_then(|name| known().find(|it| it.is_for(&name)));
        named.or_else(|| known().next()).unwrap_or(&self.identities[0])
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(hello.server_name(), hello.signature_schemes()).certified_key())
    }
}

/// Lets every client in that can prove to have the key of its certificate. Mail servers show all
/// kinds of certificates when they are asked: none of them is a reason to refuse mail.
#[derive(Debug)]
struct AnyClient {
    strict: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.strict.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::identity::tests::certificate;

    #[test]
    fn the_certificate_follows_the_name_and_the_first_one_stands_in() {
        let identity = |names: &[&str]| {
            let (chain, key, _) = certificate(names);
            Identity::from_pem(chain.as_bytes(), key.as_bytes()).expect("usable")
        };
        let identities = vec![identity(&["mx.a.test"]), identity(&["*.b.test", "b.test"])];
        let by_name = ByName { identities };
        let index = |name: Option<&str>, scheme| {
            let chosen = by_name.choose(name, &[scheme]).certified_key();
            let position = |it: &Identity| Arc::ptr_eq(&it.certified_key(), &chosen);
            by_name.identities.iter().position(position)
        };
        let known = SignatureScheme::ECDSA_NISTP256_SHA256;
        assert_eq!(index(Some("mx.a.test"), known), Some(0));
        assert_eq!(index(Some("X.b.test"), known), Some(1));
        assert_eq!(index(Some("elsewhere.test"), known), Some(0));
        assert_eq!(index(Some("not a name"), known), Some(0));
        assert_eq!(index(None, known), Some(0));
        assert_eq!(index(Some("b.test"), SignatureScheme::RSA_PSS_SHA256), Some(0));
    }
}
