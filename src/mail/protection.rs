//! What protected a session, as trace fields and logs say it.

/// TLS of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// The name of the cipher suite as IANA lists it.
    pub cipher: &'static str,
    /// The peer showed a certificate that was asked for, and it stands up.
    pub is_verified: bool,
}
