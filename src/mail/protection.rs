//! What protected a session, as trace fields and logs say it.

/// By what a peer's certificate stood up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifiedBy {
    /// A CA that is configured, for the name that was asked for where there is one.
    Ca,
    /// TLSA records (RFC 7672).
    Dane,
    /// A CA for the name of the MX host, as the domain's policy demands (RFC 8461).
    MtaSts,
}

impl VerifiedBy {
    /// As logs say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            VerifiedBy::Ca => "ca",
            VerifiedBy::Dane => "dane",
            VerifiedBy::MtaSts => "mta-sts",
        }
    }
}

/// TLS of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// The name of the cipher suite as IANA lists it.
    pub cipher: &'static str,
    /// The peer showed a certificate that was asked for, and it stands up by this.
    pub verified_by: Option<VerifiedBy>,
}
