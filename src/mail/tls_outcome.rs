//! What came of the wish to protect a session with a next hop, as RFC 8460 tells it apart.

use std::net::IpAddr;
use std::sync::Arc;

/// One session with a next hop, or the reason why mail did not get one as its policy asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOutcome {
    pub policy: Arc<TlsPolicyFound>,
    /// The MX host, in lower case and without a dot at its end; empty where the policy could not be
    /// had at all.
    pub host: Box<str>,
    /// `None` where the kernel chose it, or nothing was sent.
    pub sending_address: Option<IpAddr>,
    pub receiving_address: Option<IpAddr>,
    pub result: Result<(), TlsFailure>,
    /// What went wrong, in words; empty after a success.
    pub reason: Box<str>,
}

/// The policy that was in force (RFC 8460 §4.4, `policy`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsPolicyFound {
    pub kind: TlsPolicyKind,
    /// Domain of the recipients, A-labels in lower case.
    pub domain: Box<str>,
    /// The TLSA records, or the lines of the MTA-STS policy.
    pub strings: Vec<Box<str>>,
    /// Patterns of MX hosts of an MTA-STS policy.
    pub mx_patterns: Vec<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsPolicyKind {
    Tlsa,
    Sts,
    NoPolicyFound,
}

impl TlsPolicyKind {
    /// As RFC 8460 §4.4 spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            TlsPolicyKind::Tlsa => "tlsa",
            TlsPolicyKind::Sts => "sts",
            TlsPolicyKind::NoPolicyFound => "no-policy-found",
        }
    }
}

/// What was wrong (RFC 8460 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsFailure {
    StartTlsNotSupported,
    CertificateHostMismatch,
    CertificateExpired,
    CertificateNotTrusted,
    /// The handshake failed otherwise.
    ValidationFailure,
    TlsaInvalid,
    DnssecInvalid,
    DaneRequired,
    StsPolicyFetchError,
    StsPolicyInvalid,
    StsWebpkiInvalid,
}

impl TlsFailure {
    /// As RFC 8460 §4.3 spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            TlsFailure::StartTlsNotSupported => "starttls-not-supported",
            TlsFailure::CertificateHostMismatch => "certificate-host-mismatch",
            TlsFailure::CertificateExpired => "certificate-expired",
            TlsFailure::CertificateNotTrusted => "certificate-not-trusted",
            TlsFailure::ValidationFailure => "validation-failure",
            TlsFailure::TlsaInvalid => "tlsa-invalid",
            TlsFailure::DnssecInvalid => "dnssec-invalid",
            TlsFailure::DaneRequired => "dane-required",
            TlsFailure::StsPolicyFetchError => "sts-policy-fetch-error",
            TlsFailure::StsPolicyInvalid => "sts-policy-invalid",
            TlsFailure::StsWebpkiInvalid => "sts-webpki-invalid",
        }
    }
}
