//! DANE for SMTP (RFC 7672): whether a chain of certificates is what TLSA records say.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, OtherError, RootCertStore};

/// What one TLSA record says of a certificate (RFC 6698 §2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Association {
    pub usage: u8,
    pub selector: u8,
    pub matching: u8,
    pub data: Box<[u8]>,
}

/// TLSA records of a host that can be gone by, and for whom its certificate has to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Associations {
    /// Not empty, all of them usable.
    pub records: Vec<Association>,
    /// The TLSA base domain, by which the server is asked too, then other names of the host.
    pub names: Vec<ServerName<'static>>,
}

impl Association {
    /// Whether it is of a kind that is gone by: DANE-TA or DANE-EE, of a certificate or its key,
    /// as it is or as a hash of the right length (RFC 7672 §3.1).
    pub fn is_usable(&self) -> bool {
        let is_whole = match self.matching {
            0 => !self.data.is_empty(),
            1 => self.data.len() == 32,
            2 => self.data.len() == 64,
            _ => false,
        };
        matches!(self.usage, DANE_TA | DANE_EE) && self.selector <= 1 && is_whole
    }

    /// The record by which most servers are named: `3 1 1`, their own key. `None` for what is no
    /// certificate.
    pub fn of_key(certificate: &CertificateDer<'_>) -> Option<Association> {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        let data = digest(&SHA256, &parsed.subject_public_key_info()).as_ref().into();
        Some(Association { usage: DANE_EE, selector: 1, matching: 1, data })
    }

    /// Whether it is of this certificate.
    fn is_of(&self, certificate: &CertificateDer<'_>) -> bool {
        if self.selector == 0 {
            return self.is_of_octets(certificate);
        }
        let parsed = ParsedCertificate::try_from(certificate);
        parsed.is_ok_and(|parsed| self.is_of_octets(&parsed.subject_public_key_info()))
    }

    fn is_of_octets(&self, octets: &[u8]) -> bool {
        match self.matching {
            0 => *self.data == *octets,
            1 => *self.data == *digest(&SHA256, octets).as_ref(),
            _ => *self.data == *digest(&SHA512, octets).as_ref(),
        }
    }
}

impl fmt::Display for Association {
    /// As the record is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.usage, self.selector, self.matching)?;
        self.data.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl Associations {
    /// Whether a chain is right: its first certificate by itself, whatever it says of names and
    /// time (DANE-EE, RFC 7672 §3.1.1), or for one of the names by a CA that a record is of
    /// (DANE-TA, §3.1.2).
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let of_usage = |usage| self.records.iter().filter(move |it| it.usage == usage);
        if of_usage(DANE_EE).any(|record| record.is_of(leaf)) {
            return Ok(());
        }
        let mut anchors = RootCertStore::empty();
        for record in of_usage(DANE_TA) {
            for certificate in intermediates.iter().filter(|it| record.is_of(it)) {
                // What cannot be an anchor vouches for nobody.
                let _ = anchors.add(certificate.clone().into_owned());
            }
            if record.selector == 0 && record.matching == 0 {
                // The record holds the CA's certificate: servers may leave it out.
                let _ = anchors.add(CertificateDer::from(record.data.to_vec()));
            }
        }
        if anchors.is_empty() {
            return Err(CertificateError::Other(OtherError(Arc::new(NoMatch))).into());
        }
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = super::provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &anchors, intermediates, now, algorithms)?;
        match self.names.iter().any(|name| verify_server_name(&leaf, name).is_ok()) {
            true => Ok(()),
            false => Err(CertificateError::NotValidForName.into()),
        }
    }
}

/// No certificate of the chain is one of which a record is.
#[derive(Debug)]
pub struct NoMatch;

impl fmt::Display for NoMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no TLSA record is of this certificate")
    }
}

impl std::error::Error for NoMatch {}

const DANE_TA: u8 = 2;
const DANE_EE: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    struct Chain {
        leaf: CertificateDer<'static>,
        ca: CertificateDer<'static>,
        leaf_key: Vec<u8>,
        ca_key: Vec<u8>,
    }

    fn chain(name: &str, is_expired: bool) -> Chain {
        let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let signed = ca.self_signed(&ca_key).expect("signed").der().clone();
        let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
        let mut leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        if is_expired {
            leaf.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let key = rcgen::KeyPair::generate().expect("a key");
        let leaf = leaf.signed_by(&key, &issuer).expect("signed").der().clone();
        let spki = |certificate: &CertificateDer<'_>| {
            let parsed = ParsedCertificate::try_from(certificate).expect("a certificate");
            parsed.subject_public_key_info().to_vec()
        };
        Chain { leaf_key: spki(&leaf), ca_key: spki(&signed), leaf, ca: signed }
    }

    fn record(usage: u8, selector: u8, matching: u8, of: &[u8]) -> Association {
        let data = match matching {
            1 => digest(&SHA256, of).as_ref().into(),
            2 => digest(&SHA512, of).as_ref().into(),
            _ => of.into(),
        };
        Association { usage, selector, matching, data }
    }

    fn verify(chain: &Chain, record: &Association, shows_ca: bool, name: &str) -> bool {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let other = record_of_nobody(record.usage);
        let associations = Associations { records: vec![other, record.clone()], names: vec![name] };
        let intermediates = [chain.ca.clone()];
        let shown = if shows_ca { &intermediates[..] } else { &[] };
        associations.verify(&chain.leaf, shown, UnixTime::now()).is_ok()
    }

    fn record_of_nobody(usage: u8) -> Association {
        record(usage, 1, 1, b"nobody")
    }

    #[test]
    fn a_certificate_of_its_own_counts_whatever_it_says() {
        for is_expired in [false, true] {
            let chain = chain("other.test", is_expired);
            for matching in 0..3 {
                for (selector, of) in [(0, &chain.leaf[..]), (1, &chain.leaf_key[..])] {
                    let right = record(3, selector, matching, of);
                    assert!(right.is_usable());
                    let is_usual = (selector, matching) == (1, 1);
                    assert_eq!(Association::of_key(&chain.leaf).as_ref() == Some(&right), is_usual);
                    assert!(verify(&chain, &right, false, "mx.test"), "{right}");
                }
                let wrong = record(3, 1, matching, &chain.ca_key);
                assert!(!verify(&chain, &wrong, true, "mx.test"), "the CA is not the server");
            }
        }
    }

    #[test]
    fn a_ca_vouches_for_the_name_and_while_the_certificate_is_valid() {
        let (good, expired) = (chain("mx.test", false), chain("mx.test", true));
        for matching in 0..3 {
            for selector in 0..2 {
                let of = |chain: &Chain| {
                    let of = if selector == 0 { &chain.ca[..] } else { &chain.ca_key[..] };
                    record(2, selector, matching, of)
                };
                let right = of(&good);
                assert!(verify(&good, &right, true, "mx.test"), "{right}");
                assert!(!verify(&good, &right, true, "other.test"), "{right}");
                assert!(!verify(&expired, &of(&expired), true, "mx.test"), "{right}");
                let holds_it = selector == 0 && matching == 0;
                assert_eq!(verify(&good, &right, false, "mx.test"), holds_it, "{right}");
                assert!(!verify(&expired, &right, true, "mx.test"), "another CA");
            }
            let of_leaf = record(2, 1, matching, &good.leaf_key);
            assert!(!verify(&good, &of_leaf, true, "mx.test"), "the server is no CA");
        }
    }

    #[test]
    fn records_of_other_kinds_are_not_gone_by() {
        let of = |usage, selector, matching, bytes| {
            let data = vec![0; bytes].into();
            Association { usage, selector, matching, data }.is_usable()
        };
        assert!(of(3, 1, 1, 32) && of(2, 0, 2, 64) && of(3, 0, 0, 1));
        assert!(!of(0, 1, 1, 32) && !of(1, 1, 1, 32) && !of(4, 1, 1, 32));
        assert!(!of(3, 2, 1, 32) && !of(3, 1, 3, 32));
        assert!(!of(3, 1, 1, 31) && !of(3, 1, 2, 32) && !of(3, 0, 0, 0));
    }
}
