//! Who we are to a peer: a certificate chain and its key.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureScheme};

use super::validity;

/// A chain, leaf first, with the key of the leaf.
#[derive(Clone, Debug)]
pub struct Identity {
    key: Arc<CertifiedKey>,
}

/// Why a pair of files is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// The chain is at fault.
    Chain(String),
    /// The key is at fault.
    Key(String),
    /// The key is another certificate's.
    Mismatch,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentityError::Chain(text) | IdentityError::Key(text) => f.write_str(text),
            IdentityError::Mismatch => f.write_str("is not the key of the certificate"),
        }
    }
}

impl Identity {
    /// Reads PEM: certificates, leaf first, and one key (PKCS #8, SEC1 or PKCS #1).
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Identity, IdentityError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let certificates =
            certificates.map_err(|error| IdentityError::Chain(format!("not PEM: {error}")))?;
        let Some(leaf) = certificates.first() else {
            let text = "holds no certificate (PEM, -----BEGIN CERTIFICATE-----)";
            return Err(IdentityError::Chain(text.to_owned()));
        };
        ParsedCertificate::try_from(leaf).map_err(|error| {
            IdentityError::Chain(format!("its first certificate is not usable: {error}"))
        })?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            IdentityError::Key(match error {
                pem::Error::NoItemsFound => {
                    "holds no key without a passphrase (PEM, -----BEGIN PRIVATE KEY-----)".into()
                }
                error => format!("not PEM: {error}"),
            })
        })?;
        let provider = super::provider();
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| IdentityError::Key(format!("is not usable: {error}")))?;
        let key = CertifiedKey::new(certificates, key);
        match key.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(IdentityError::Mismatch),
        }
        Ok(Identity { key: Arc::new(key) })
    }

    /// A certificate for `names` that vouches for itself: for sessions that nobody verifies.
    /// The names are host names or IP addresses.
    pub fn self_signed(names: &[String]) -> Result<Identity, rcgen::Error> {
        let pem = self_signed_pem(names)?;
        Ok(Identity::from_pem(pem.as_bytes(), pem.as_bytes()).expect("just made"))
    }

    /// When the certificate begins and ends to be valid, in seconds since 1970; `None` where it
    /// says that in no way that is known here.
    pub fn validity(&self) -> Option<(i64, i64)> {
        validity::of(self.key.cert.first()?)
    }

    /// Whether the certificate is valid for `name`; its time and its issuer are not looked at.
    pub fn is_for(&self, name: &ServerName<'_>) -> bool {
        let leaf = self.key.cert.first().map(ParsedCertificate::try_from);
        matches!(leaf, Some(Ok(leaf)) if rustls::client::verify_server_name(&leaf, name).is_ok())
    }

    /// Whether a peer that knows `schemes` can check our signatures.
    pub(super) fn signs_by(&self, schemes: &[SignatureScheme]) -> bool {
        self.key.key.choose_scheme(schemes).is_some()
    }

    pub(super) fn certified_key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }
}

/// What `Identity::self_signed` is made of, to be kept: key and certificate in one text. Names may
/// be IP addresses.
pub fn self_signed_pem(names: &[String]) -> Result<String, rcgen::Error> {
    let certified = rcgen::generate_simple_self_signed(names)?;
    Ok(certified.signing_key.serialize_pem() + &certified.cert.pem())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A certificate of its own CA for `names`: chain, key and CA, in PEM.
    pub fn certificate(names: &[&str]) -> (String, String, String) {
        let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let ca_pem = ca.self_signed(&ca_key).expect("signed").pem();
        let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = rcgen::CertificateParams::new(names).expect("names");
        let key = rcgen::KeyPair::generate().expect("a key");
        let chain = leaf.signed_by(&key, &issuer).expect("signed").pem();
        (chain, key.serialize_pem(), ca_pem)
    }

    #[test]
    fn a_certificate_of_our_own_is_for_its_names() {
        let names = ["mx.a.test".to_owned(), "127.0.0.1".to_owned()];
        let identity = Identity::self_signed(&names).expect("host names");
        assert!(names.iter().all(|it| identity.is_for(&ServerName::try_from(&**it).expect("one"))));
        let (begin, end) = identity.validity().expect("dates");
        assert!(begin < end && begin < 1_700_000_000, "{begin} {end}");
    }

    #[test]
    fn a_chain_is_for_its_names_and_goes_with_its_key_only() {
        let (chain, key, _) = certificate(&["mx.a.test", "*.b.test"]);
        let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes()).expect("usable");
        let is_for = |name: &str| identity.is_for(&ServerName::try_from(name).expect("a name"));
        for (name, expected) in [
            ("mx.a.test", true),
            ("MX.A.test", true),
            ("x.b.test", true),
            ("x.y.b.test", false),
            ("a.test", false),
        ] {
            assert_eq!(is_for(name), expected, "{name}");
        }
        let (other, other_key, _) = certificate(&["mx.a.test"]);
        let read =
            |chain: &str, key: &str| Identity::from_pem(chain.as_bytes(), key.as_bytes()).map(drop);
        assert_eq!(read(&chain, &other_key), Err(IdentityError::Mismatch));
        assert_eq!(read(&[other, chain.clone()].concat(), &other_key), Ok(()));
        assert!(matches!(read(&key, &key), Err(IdentityError::Chain(_))));
        assert!(matches!(read(&chain, &chain), Err(IdentityError::Key(_))));
        for end in 0..chain.len() - 1 {
            assert!(read(&chain[..end], &key).is_err(), "a chain cut at {end}");
        }
        for end in 0..key.len() - 2 {
            assert!(read(&chain, &key[..end]).is_err(), "a key cut at {end}");
        }
    }
}
