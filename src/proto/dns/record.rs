//! What a record holds, as far as mail needs it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{self, RData, RecordType};

use super::name::Name;

/// The type of a record or a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    A,
    Aaaa,
    Cname,
    Mx,
    Ns,
    Ptr,
    Soa,
    Tlsa,
    Txt,
    /// By number, for instance 33 for SRV.
    Other(u16),
}

impl Kind {
    /// `MX`, `txt`, or `TYPE33` (RFC 3597 §5).
    pub fn parse(text: &str) -> Option<Kind> {
        if let Some((_, kind)) = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            return Some(*kind);
        }
        let number = text.get(..4).filter(|tag| tag.eq_ignore_ascii_case("TYPE"))?;
        let number: u16 = text[number.len()..].parse().ok()?;
        Some(Self::from(RecordType::from(number)))
    }

    pub(super) fn record_type(self) -> RecordType {
        match self {
            Kind::A => RecordType::A,
            Kind::Aaaa => RecordType::AAAA,
            Kind::Cname => RecordType::CNAME,
            Kind::Mx => RecordType::MX,
            Kind::Ns => RecordType::NS,
            Kind::Ptr => RecordType::PTR,
            Kind::Soa => RecordType::SOA,
            Kind::Tlsa => RecordType::TLSA,
            Kind::Txt => RecordType::TXT,
            Kind::Other(number) => RecordType::from(number),
        }
    }
}

impl From<RecordType> for Kind {
    fn from(record_type: RecordType) -> Self {
        match record_type {
            RecordType::A => Kind::A,
            RecordType::AAAA => Kind::Aaaa,
            RecordType::CNAME => Kind::Cname,
            RecordType::MX => Kind::Mx,
            RecordType::NS => Kind::Ns,
            RecordType::PTR => Kind::Ptr,
            RecordType::SOA => Kind::Soa,
            RecordType::TLSA => Kind::Tlsa,
            RecordType::TXT => Kind::Txt,
            other => Kind::Other(other.into()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, NAMES.iter().find(|(_, kind)| kind == self)) {
            (Kind::Other(number), _) => write!(f, "TYPE{number}"),
            (_, named) => f.write_str(named.expect("every other kind has a name").0),
        }
    }
}

/// The data of one record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    Address(IpAddr),
    Mx(Mx),
    /// The strings of a TXT record, joined (RFC 7208 §3.3, RFC 6376 §3.6.2.2).
    Txt(Box<[u8]>),
    Tlsa(Tlsa),
    /// The target of a CNAME, NS or PTR.
    Name(Name),
    /// Any other type, in its presentation form.
    Other(Box<str>),
}

/// A mail exchanger: the lowest preference is tried first. The root stands for "no mail here"
/// (RFC 7505).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mx {
    pub preference: u16,
    pub exchange: Name,
}

/// What a certificate must match (RFC 6698 §2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tlsa {
    pub usage: u8,
    pub selector: u8,
    pub matching: u8,
    pub association: Box<[u8]>,
}

impl Record {
    /// `None` where the name inside cannot be a name.
    pub(super) fn read(data: &RData) -> Option<Record> {
        Some(match data {
            RData::A(address) => Record::Address(Ipv4Addr::from(*address).into()),
            RData::AAAA(address) => Record::Address(Ipv6Addr::from(*address).into()),
            RData::MX(mx) => {
                Record::Mx(Mx { preference: mx.preference, exchange: read_name(&mx.exchange)? })
            }
            RData::TXT(txt) => Record::Txt(txt.txt_data.concat().into_boxed_slice()),
            RData::TLSA(tlsa) => Record::Tlsa(Tlsa {
                usage: tlsa.cert_usage.into(),
                selector: tlsa.selector.into(),
                matching: tlsa.matching.into(),
                association: tlsa.cert_data.clone().into_boxed_slice(),
            }),
            RData::CNAME(target) => Record::Name(read_name(target)?),
            RData::NS(target) => Record::Name(read_name(target)?),
            RData::PTR(target) => Record::Name(read_name(target)?),
            other => Record::Other(other.to_string().into_boxed_str()),
        })
    }

    /// Octets it takes beside itself.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Record::Address(_) => 0,
            Record::Mx(mx) => mx.exchange.as_str().len(),
            Record::Txt(text) => text.len(),
            Record::Tlsa(tlsa) => tlsa.association.len(),
            Record::Name(name) => name.as_str().len(),
            Record::Other(text) => text.len(),
        }
    }
}

impl fmt::Display for Record {
    /// Presentation form; a TXT record as text, with `\DDD` for what is not printable.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::Address(address) => write!(f, "{address}"),
            Record::Mx(mx) => write!(f, "{} {}", mx.preference, mx.exchange),
            Record::Txt(text) => text.iter().try_for_each(|octet| match octet {
                b' '..=b'~' if *octet != b'\\' => write!(f, "{}", char::from(*octet)),
                octet => write!(f, "\\{octet:03}"),
            }),
            Record::Tlsa(tlsa) => {
                write!(f, "{} {} {} ", tlsa.usage, tlsa.selector, tlsa.matching)?;
                tlsa.association.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
            Record::Name(name) => write!(f, "{name}"),
            Record::Other(text) => f.write_str(text),
        }
    }
}

pub(super) fn read_name(name: &rr::Name) -> Option<Name> {
    Name::from_labels(name.iter())
}

const NAMES: &[(&str, Kind)] = &[
    ("A", Kind::A),
    ("AAAA", Kind::Aaaa),
    ("CNAME", Kind::Cname),
    ("MX", Kind::Mx),
    ("NS", Kind::Ns),
    ("PTR", Kind::Ptr),
    ("SOA", Kind::Soa),
    ("TLSA", Kind::Tlsa),
    ("TXT", Kind::Txt),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_read_back() {
        for text in ["A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "TLSA", "TXT", "TYPE33"] {
            assert_eq!(Kind::parse(text).map(|kind| kind.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Kind::parse("mx"), Some(Kind::Mx));
        assert_eq!(Kind::parse("TYPE15"), Some(Kind::Mx));
        for text in ["", "X", "TYPE", "TYPE65536", "TYPE-1", "é"] {
            assert_eq!(Kind::parse(text), None, "{text}");
        }
        for (_, kind) in NAMES {
            assert_eq!(Kind::from(kind.record_type()), *kind);
        }
    }
}
