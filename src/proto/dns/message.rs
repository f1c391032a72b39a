//! One question to a recursive resolver, and whatever comes back.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{self, DNSClass, RData};

use super::name::Name;
use super::record::{Kind, Record, read_name};
use crate::limits::{DNS_ALIASES_MAX, DNS_DATAGRAM_BYTES};

/// A question as it goes over the wire.
pub struct Query {
    bytes: Vec<u8>,
    name: rr::Name,
    kind: Kind,
    with_edns: bool,
}

/// What came back from the upstream, as far as the question goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It answers something else: another id, another question. Over UDP somebody may be guessing;
    /// the answer may still come.
    Foreign,
    /// Ours, but the letters of the question have lost their case, which told it from a guess: to
    /// be asked over TCP.
    CaseLost,
    /// Too long for a datagram: to be asked over TCP.
    Truncated,
    /// Not understood as it was asked, with EDNS: to be asked without.
    EdnsRefused,
    /// Ours, and not to be understood.
    Malformed,
    /// The upstream does not resolve for us: it refers to other servers.
    Lame,
    /// A response code other than no error and NXDOMAIN.
    Failed(u16),
    Answered(Response),
}

/// An answer to the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub answered: Answered,
    /// Seconds for which it holds: the least of what the answer rests on, for a denial as RFC 2308
    /// §5 says; 0 for a denial without SOA, which holds for nobody else.
    pub ttl: u32,
    /// Aliases followed inside the message.
    pub alias_count: usize,
    /// The AD bit: worth what the upstream and the way to it are worth.
    pub authenticated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// At least one, in the order of the message; `canonical` is their owner where that is not the
    /// name that was asked for.
    Records { records: Vec<Record>, canonical: Option<Name> },
    /// The name is an alias; what it stands for has to be asked next.
    Alias(Name),
    /// The name exists, without records of this type (NODATA, RFC 2308 §2.2).
    NoData,
    /// The name, or what it stands for, does not exist (NXDOMAIN, RFC 2308 §2.1).
    NoDomain,
}

/// How a response came: a TCP connection vouches for who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Query {
    /// A question for recursion (RFC 1035 §4.1.1). `randomness` gives id and case of the letters
    /// (0x20), which together with the port a forger has to guess; it comes from a generator that
    /// nobody can predict.
    pub fn new(name: &Name, kind: Kind, with_edns: bool, randomness: &[u8; 34]) -> Query {
        let (id, case) = randomness.split_at(2);
        let mut message =
            Message::new(u16::from_be_bytes([id[0], id[1]]), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        let name = wire_name(name, case);
        message.add_query(Question::query(name.clone(), kind.record_type()));
        if with_edns {
            // Says that we know the AD bit (RFC 6840 §5.7).
            message.metadata.authentic_data = true;
            let mut edns = Edns::new();
            edns.set_max_payload(DNS_DATAGRAM_BYTES);
            message.set_edns(edns);
        }
        let bytes = message.to_vec().expect("one question fits a message");
        Query { bytes, name, kind, with_edns }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What a message that came back says to this question.
    pub fn read(&self, bytes: &[u8], transport: Transport) -> Reading {
        if bytes.len() < HEADER_BYTES || bytes[..2] != self.bytes[..2] || !is_response(bytes) {
            return Reading::Foreign;
        }
        let code = bytes[3] & 15;
        if question_count(bytes) == 0 && is_refusal(code) {
            // Who does not understand the question may leave it out.
            return self.refused(code);
        }
        match self.question_in(bytes) {
            Echo::Same => {}
            Echo::OtherCase if transport == Transport::Tcp => {}
            Echo::OtherCase => return Reading::CaseLost,
            Echo::Other => return Reading::Foreign,
        }
        if is_refusal(code) {
            return self.refused(code);
        }
        if bytes[2] & TRUNCATED != 0 {
            // Over TCP there is nowhere left to go.
            return match transport {
                Transport::Udp => Reading::Truncated,
                Transport::Tcp => Reading::Malformed,
            };
        }
        match Message::from_vec(bytes) {
            Ok(message) => self.read_message(&message),
            Err(_) => Reading::Malformed,
        }
    }

    fn refused(&self, code: u8) -> Reading {
        if self.with_edns { Reading::EdnsRefused } else { Reading::Failed(code.into()) }
    }

    /// Whether the question of a message is ours. It comes first, so no name in it is compressed
    /// and the octets must be the same.
    fn question_in(&self, bytes: &[u8]) -> Echo {
        let end = HEADER_BYTES + wire_bytes(&self.name) + 4;
        let (Some(theirs), ours) = (bytes.get(HEADER_BYTES..end), &self.bytes[HEADER_BYTES..end])
        else {
            return Echo::Other;
        };
        let name_end = ours.len() - 4;
        if question_count(bytes) != 1 || theirs[name_end..] != ours[name_end..] {
            return Echo::Other;
        }
        if theirs == ours {
            Echo::Same
        } else if theirs.eq_ignore_ascii_case(ours) {
            Echo::OtherCase
        } else {
            Echo::Other
        }
    }

    fn read_message(&self, message: &Message) -> Reading {
        let code = message.metadata.response_code;
        if u16::from(code) == BADVERS && self.with_edns {
            return Reading::EdnsRefused;
        }
        if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return Reading::Failed(code.into());
        }
        let mut owner = &self.name;
        let (mut ttl, mut alias_count) = (u32::MAX, 0);
        let kind = self.kind.record_type();
        loop {
            let of_owner = || {
                let records = message.answers.iter();
                records.filter(|it| it.dns_class == DNSClass::IN && it.name == *owner)
            };
            let mut records = Vec::new();
            for record in of_owner().filter(|it| it.record_type() == kind) {
                let Some(data) = Record::read(&record.data) else { return Reading::Malformed };
                records.push(data);
                ttl = ttl.min(valid_ttl(record.ttl));
            }
            if !records.is_empty() && code == ResponseCode::NoError {
                let canonical = match alias_count {
                    0 => None,
                    _ => read_name(owner),
                };
                let answered = Answered::Records { records, canonical };
                return self.answered(message, answered, ttl, alias_count);
            }
            let alias = of_owner().find_map(|it| match &it.data {
                RData::CNAME(target) => Some((&target.0, it.ttl)),
                _ => None,
            });
            let Some((target, alias_ttl)) = alias else { break };
            alias_count += 1;
            if alias_count > DNS_ALIASES_MAX {
                return Reading::Malformed;
            }
            ttl = ttl.min(valid_ttl(alias_ttl));
            owner = target;
        }
        let denial_ttl = message.authorities.iter().find_map(|it| match &it.data {
            RData::SOA(soa) => Some(valid_ttl(it.ttl).min(soa.minimum)),
            _ => None,
        });
        if code == ResponseCode::NXDomain {
            let ttl = ttl.min(denial_ttl.unwrap_or(0));
            return self.answered(message, Answered::NoDomain, ttl, alias_count);
        }
        if let Some(denial_ttl) = denial_ttl {
            return self.answered(message, Answered::NoData, ttl.min(denial_ttl), alias_count);
        }
        if alias_count > 0 {
            return match read_name(owner) {
                Some(target) => self.answered(message, Answered::Alias(target), ttl, alias_count),
                None => Reading::Malformed,
            };
        }
        let refers = message.authorities.iter().any(|it| matches!(it.data, RData::NS(_)));
        if refers && !message.metadata.authoritative {
            return Reading::Lame;
        }
        self.answered(message, Answered::NoData, 0, alias_count)
    }

    fn answered(
        &self,
        message: &Message,
        answered: Answered,
        ttl: u32,
        alias_count: usize,
    ) -> Reading {
        let authenticated = message.metadata.authentic_data;
        Reading::Answered(Response { answered, ttl, alias_count, authenticated })
    }
}

/// How the question in a message compares to ours.
enum Echo {
    Same,
    OtherCase,
    Other,
}

/// The name as it is sent: `case` has a bit for each octet, set where a letter is a capital.
fn wire_name(name: &Name, case: &[u8]) -> rr::Name {
    let mut labels = name.labels();
    for (position, octet) in labels.iter_mut().flatten().enumerate() {
        if case[position / 8] >> (position % 8) & 1 == 1 {
            octet.make_ascii_uppercase();
        }
    }
    let name = rr::Name::from_labels(labels.iter().map(Vec::as_slice));
    name.expect("a Name is within the bounds of a name")
}

fn wire_bytes(name: &rr::Name) -> usize {
    name.iter().map(|label| label.len() + 1).sum::<usize>() + 1
}

fn is_response(bytes: &[u8]) -> bool {
    bytes[2] & RESPONSE != 0 && bytes[2] & OPERATION == 0
}

fn question_count(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[4], bytes[5]])
}

/// FORMERR or NOTIMP: what a server says that does not know EDNS (RFC 6891 §7).
fn is_refusal(code: u8) -> bool {
    code == 1 || code == 4
}

/// A TTL with the highest bit set is zero (RFC 2181 §8).
fn valid_ttl(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

const HEADER_BYTES: usize = 12;
/// An EDNS version the upstream does not know (RFC 6891 §6.1.3); the crate has another name for 16.
const BADVERS: u16 = 16;
/// Bits of the third octet of a header.
const RESPONSE: u8 = 0x80;
const OPERATION: u8 = 0x78;
const TRUNCATED: u8 = 0x02;

#[cfg(test)]
mod tests;
