//! TLS: what certificates, keys, roots and names mean. Octets of files in, contexts out.
//!
//! **Owns** the crypto library and what is allowed of it, the choice of a certificate by name, and
//! what a server must show before mail goes to it: to a CA, or by TLSA records.
//! **Uses** `limits` and `mail`. No file, no socket: `config` reads, `runtime` speaks.
//! **Holds** that a context never changes: a reload makes others, and sessions keep theirs; that a
//! session is resumed only under the demands under which it began.
//! **Start reading** at `server::Context`, then `client::Demand`.

pub mod challenge;
pub mod client;
pub mod dane;
pub mod digest;
pub mod identity;
pub mod server;
pub mod validity;

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{
    CipherSuite, CommonState, HandshakeKind, ProtocolVersion, RootCertStore,
    SupportedProtocolVersion, version,
};

use crate::mail::{Protection, VerifiedBy};

/// The least that is spoken. What is older is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    #[default]
    Tls12,
    Tls13,
}

impl Version {
    /// As configurations say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Version::Tls12 => "1.2",
            Version::Tls13 => "1.3",
        }
    }

    /// It and what is above it.
    fn and_later(self) -> &'static [&'static SupportedProtocolVersion] {
        static ALL: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
        match self {
            Version::Tls12 => &ALL,
            Version::Tls13 => &ALL[..1],
        }
    }
}

/// CA certificates, in PEM. `Err` says what is wrong with the text.
pub fn roots_from_pem(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("holds no usable CA: {error}"))?;
    }
    if roots.is_empty() {
        return Err("holds no certificate (PEM, -----BEGIN CERTIFICATE-----)".to_owned());
    }
    Ok(roots)
}

/// What protects a session whose handshake is done.
pub fn protection(session: &CommonState, verified_by: Option<VerifiedBy>) -> Protection {
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => TLS13,
        _ => "TLSv1.2",
    };
    let suite = session.negotiated_cipher_suite().expect("the handshake is done");
    let cipher = match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        suite => suite.as_str().unwrap_or("unknown"),
    };
    Protection { version, cipher, verified_by }
}

/// Whether a session goes on where an earlier one left off.
pub fn is_resumed(session: &CommonState) -> bool {
    session.handshake_kind() == Some(HandshakeKind::Resumed)
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}

/// As `Protection` names it.
pub const TLS13: &str = "TLSv1.3";
