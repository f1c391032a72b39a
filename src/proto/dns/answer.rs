//! How a question ends for whoever asked.

use std::fmt;

use super::name::Name;
use super::record::Record;

/// Records that answer a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// At least one; of the type that was asked for, in the order of the upstream.
    pub records: Vec<Record>,
    /// The owner of the records where the name that was asked for is an alias.
    pub canonical: Option<Name>,
    /// A validator that the configuration trusts vouches for it (RFC 4035 §3.2.3).
    pub authenticated: bool,
}

/// Why a question has no records for an answer. The first two are answers, and final; what follows
/// may be otherwise in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookupError {
    /// The name does not exist (NXDOMAIN).
    NoDomain,
    /// The name exists, without records of this type.
    NoData,
    /// The upstreams could not find out (SERVFAIL): lame or broken servers, bogus signatures.
    ServerFailure,
    /// The upstreams do not resolve for us: the operator has to look.
    Refused,
    /// No upstream answered in time.
    NoAnswer,
    /// What came cannot be understood, or its aliases lead nowhere.
    Malformed,
    /// Too many questions are on their way.
    Busy,
}

impl LookupError {
    /// Whether the DNS has said so, as opposed to having said nothing.
    pub fn is_denial(self) -> bool {
        matches!(self, LookupError::NoDomain | LookupError::NoData)
    }
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LookupError::NoDomain => "no such domain",
            LookupError::NoData => "no such records",
            LookupError::ServerFailure => "DNS server failure",
            LookupError::Refused => "DNS query refused",
            LookupError::NoAnswer => "DNS server does not answer",
            LookupError::Malformed => "malformed DNS answer",
            LookupError::Busy => "too many DNS queries",
        })
    }
}

impl std::error::Error for LookupError {}
