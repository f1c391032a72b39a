//! The context that answers a CA's question for our names: TLS-ALPN-01 (RFC 8737).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, ServerConfig};

/// The names that a CA is asking for. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Challenges {
    pending: Arc<Mutex<HashMap<String, Arc<CertifiedKey>>>>,
}

/// A name is answered for until this goes.
pub struct Answer {
    challenges: Challenges,
    name: String,
}

impl Challenges {
    /// Answers for a name with the SHA-256 of the key authorization (RFC 8737 §3).
    pub fn answer(&self, name: &str, digest: &[u8]) -> Result<Answer, rcgen::Error> {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()])?;
        params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
        let key = rcgen::KeyPair::generate()?;
        let chain = vec![params.self_signed(&key)?.der().clone()];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = super::provider().key_provider.load_private_key(key).expect("just made");
        let name = name.to_ascii_lowercase();
        self.lock().insert(name.clone(), Arc::new(CertifiedKey::new(chain, key)));
        Ok(Answer { challenges: self.clone(), name })
    }

    /// Whether no CA has anything to ask.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// For sessions of whoever offers the protocol `acme-tls/1`; others fail in the handshake.
    /// Fails only where the system has no randomness.
    pub fn context(&self) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::builder_with_provider(super::provider())
            .with_protocol_versions(super::Version::Tls12.and_later())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![ACME_TLS.to_vec()];
        Ok(Arc::new(config))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<CertifiedKey>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.challenges.lock().remove(&self.name);
    }
}

impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_question = hello.alpn()?.eq([ACME_TLS]);
        let name = hello.server_name().filter(|_| is_question)?;
        self.lock().get(&name.to_ascii_lowercase()).cloned()
    }
}

const ACME_TLS: &[u8] = b"acme-tls/1";

#[cfg(test)]
mod tests {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{
        ClientConfig, ClientConnection, DigitallySignedStruct, ServerConnection, SignatureScheme,
    };

    use super::*;

    /// Believes everything, as CAs look at the certificate in their own way.
    #[derive(Debug)]
    struct Ca;

    impl ServerCertVerifier for Ca {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.verify_tls12_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }

    /// The certificate that a client is shown.
    fn ask(challenges: &Challenges, name: &str, protocols: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let mut config = ClientConfig::builder_with_provider(super::super::provider())
            .with_protocol_versions(super::super::Version::Tls12.and_later())
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Ca))
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a session");
        let mut server = ServerConnection::new(challenges.context()?).expect("a session");
        while client.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).expect("into memory");
            server.read_tls(&mut &wire[..]).expect("from memory");
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).expect("into memory");
            client.read_tls(&mut &wire[..]).expect("from memory");
            client.process_new_packets()?;
        }
        Ok(client.peer_certificates().expect("a chain")[0].to_vec())
    }

    #[test]
    fn only_the_question_for_a_name_that_is_asked_for_is_answered() {
        let challenges = Challenges::default();
        let answer = challenges.answer("MX.test", &[7; 32]).expect("a name");
        let shown = ask(&challenges, "mx.test", &[ACME_TLS]).expect("answered");
        // The digest stands in the certificate, as an OCTET STRING of 32 octets.
        let digest = [&[4, 32][..], &[7; 32]].concat();
        assert!(shown.windows(digest.len()).any(|it| it == digest));
        assert!(ask(&challenges, "other.test", &[ACME_TLS]).is_err());
        assert!(ask(&challenges, "mx.test", &[b"http/1.1"]).is_err());
        assert!(ask(&challenges, "mx.test", &[]).is_err());
        assert!(ask(&challenges, "mx.test", &[b"http/1.1", ACME_TLS]).is_err());
        assert!(!challenges.is_empty());
        drop(answer);
        assert!(challenges.is_empty());
        assert!(ask(&challenges, "mx.test", &[ACME_TLS]).is_err());
    }
}
