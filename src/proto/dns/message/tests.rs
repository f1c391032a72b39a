use super::*;
use hickory_proto::rr::rdata::{A, CNAME, MX, NS, SOA, TXT};
use hickory_proto::rr::{Record as WireRecord, RecordType};

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn wire(text: &str) -> rr::Name {
    rr::Name::from_ascii(format!("{text}.")).expect("a name")
}

fn query(text: &str, kind: Kind) -> Query {
    // Every other letter is a capital.
    let mut randomness = [0xaa; 34];
    randomness[0] = 0x12;
    randomness[1] = 0x34;
    Query::new(&name(text), kind, true, &randomness)
}

/// A response to `query` with whatever `fill` puts into it.
fn respond(query: &Query, fill: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::from_vec(query.bytes()).expect("what we wrote").into_response();
    message.edns = None;
    message.metadata.authentic_data = false;
    fill(&mut message);
    message.to_vec().expect("fits")
}

fn record(owner: &str, ttl: u32, data: RData) -> WireRecord {
    WireRecord::from_rdata(wire(owner), ttl, data)
}

fn soa(owner: &str, ttl: u32, minimum: u32) -> WireRecord {
    record(
        owner,
        ttl,
        RData::SOA(SOA::new(wire("ns.test"), wire("root.test"), 1, 2, 3, 4, minimum)),
    )
}

fn check(kind: Kind, fill: impl FnOnce(&mut Message), expected: Result<(Answered, u32), Reading>) {
    let query = query("mail.a.test", kind);
    let bytes = respond(&query, fill);
    let reading = query.read(&bytes, Transport::Udp);
    let found = match reading.clone() {
        Reading::Answered(response) => Ok((response.answered, response.ttl)),
        other => Err(other),
    };
    assert_eq!(found, expected);
    // A cut message is never an answer, and never a panic.
    for end in 0..bytes.len() {
        let cut = query.read(&bytes[..end], Transport::Tcp);
        assert!(!matches!(cut, Reading::Answered(_)), "{end} of {}: {cut:?}", bytes.len());
    }
    // Nor does a changed octet make it panic.
    for index in 0..bytes.len() {
        for value in [0, 0xc0, 0xff, bytes[index] ^ 0x20] {
            let mut changed = bytes.clone();
            changed[index] = value;
            query.read(&changed, Transport::Udp);
        }
    }
}

#[test]
fn a_question_has_a_random_id_random_case_and_edns() {
    let query = query("mail.a.test", Kind::Mx);
    let bytes = query.bytes();
    assert_eq!(bytes[..4], [0x12, 0x34, 0x01, 0x20]);
    assert_eq!(&bytes[12..29], b"\x04mAiL\x01a\x04TeSt\0\0\x0f\0\x01");
    let message = Message::from_vec(bytes).expect("reads back");
    assert_eq!(message.edns.expect("EDNS").max_payload(), 1232);
    let plain = Query::new(&name("."), Kind::Ns, false, &[0; 34]);
    assert_eq!(plain.bytes(), b"\0\0\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01");
}

#[test]
fn records_of_the_name_are_the_answer() {
    let mx = |preference, host: &str| RData::MX(MX::new(preference, wire(host)));
    let records = vec![
        Record::Mx(super::super::Mx { preference: 10, exchange: name("mx1.a.test") }),
        Record::Mx(super::super::Mx { preference: 5, exchange: name("mx2.a.test") }),
    ];
    check(
        Kind::Mx,
        |message| {
            message.add_answer(record("MAIL.A.test", 300, mx(10, "MX1.a.test")));
            message.add_answer(record("other.test", 1, mx(0, "evil.test")));
            message.add_answer(record("mail.a.test", 200, mx(5, "mx2.a.test")));
            message.add_authority(record("a.test", 1, RData::NS(NS(wire("ns.a.test")))));
            message.add_additional(record("mx1.a.test", 1, RData::A(A::new(192, 0, 2, 1))));
        },
        Ok((Answered::Records { records, canonical: None }, 200)),
    );
    check(
        Kind::Txt,
        |message| {
            let strings = RData::TXT(TXT::new(vec!["v=spf1 ".into(), "-all".into()]));
            message.add_answer(record("mail.a.test", 1 << 31, strings));
        },
        Ok((
            Answered::Records {
                records: vec![Record::Txt(b"v=spf1 -all"[..].into())],
                canonical: None,
            },
            0,
        )),
    );
}

#[test]
fn aliases_are_followed_inside_a_message() {
    let alias =
        |owner: &str, target: &str, ttl| record(owner, ttl, RData::CNAME(CNAME(wire(target))));
    check(
        Kind::A,
        |message| {
            // Out of order, with a shorter TTL on the way.
            message.add_answer(record("c.test", 300, RData::A(A::new(192, 0, 2, 1))));
            message.add_answer(alias("b.test", "c.test", 20));
            message.add_answer(alias("mail.a.test", "b.test", 100));
        },
        Ok((
            Answered::Records {
                records: vec![Record::Address([192, 0, 2, 1].into())],
                canonical: Some(name("c.test")),
            },
            20,
        )),
    );
    check(
        Kind::A,
        |message| {
            message.add_answer(alias("mail.a.test", "b.test", 100));
        },
        Ok((Answered::Alias(name("b.test")), 100)),
    );
    check(
        Kind::Cname,
        |message| {
            message.add_answer(alias("mail.a.test", "b.test", 100));
        },
        Ok((
            Answered::Records { records: vec![Record::Name(name("b.test"))], canonical: None },
            100,
        )),
    );
    check(
        Kind::A,
        |message| {
            message.add_answer(alias("mail.a.test", "b.test", 100));
            message.add_answer(alias("b.test", "mail.a.test", 100));
        },
        Err(Reading::Malformed),
    );
}

#[test]
fn the_two_denials_are_told_apart() {
    check(
        Kind::A,
        |message| {
            message.metadata.response_code = ResponseCode::NXDomain;
            message.add_authority(soa("test", 900, 60));
        },
        Ok((Answered::NoDomain, 60)),
    );
    check(
        Kind::A,
        |message| {
            message.add_authority(soa("test", 30, 60));
        },
        Ok((Answered::NoData, 30)),
    );
    check(
        Kind::A,
        |message| {
            message.add_answer(record("mail.a.test", 7, RData::CNAME(CNAME(wire("b.test")))));
            message.metadata.response_code = ResponseCode::NXDomain;
            message.add_authority(soa("test", 900, 60));
        },
        Ok((Answered::NoDomain, 7)),
    );
    check(Kind::A, |_| {}, Ok((Answered::NoData, 0)));
    check(
        Kind::A,
        |message| message.metadata.response_code = ResponseCode::NXDomain,
        Ok((Answered::NoDomain, 0)),
    );
}

#[test]
fn failures_are_told_apart() {
    let code = |code| move |message: &mut Message| message.metadata.response_code = code;
    check(Kind::A, code(ResponseCode::ServFail), Err(Reading::Failed(2)));
    check(Kind::A, code(ResponseCode::Refused), Err(Reading::Failed(5)));
    check(Kind::A, code(ResponseCode::FormErr), Err(Reading::EdnsRefused));
    check(Kind::A, code(ResponseCode::NotImp), Err(Reading::EdnsRefused));
    check(Kind::A, |message| message.metadata.truncation = true, Err(Reading::Truncated));
    check(
        Kind::A,
        |message| {
            message.add_authority(record("test", 1, RData::NS(NS(wire("ns.test")))));
        },
        Err(Reading::Lame),
    );
    check(
        Kind::A,
        |message| {
            // BADVERS needs EDNS to be said.
            message.metadata.response_code = ResponseCode::BADVERS;
            let mut edns = Edns::new();
            edns.set_rcode_high(1);
            message.set_edns(edns);
        },
        Err(Reading::EdnsRefused),
    );
    let plain = Query::new(&name("a.test"), Kind::A, false, &[7; 34]);
    let bytes = respond(&plain, code(ResponseCode::FormErr));
    assert_eq!(plain.read(&bytes, Transport::Udp), Reading::Failed(1));
    let mut header_only = bytes[..12].to_vec();
    header_only[5] = 0;
    assert_eq!(plain.read(&header_only, Transport::Udp), Reading::Failed(1));
}

#[test]
fn what_answers_another_question_is_foreign() {
    let query = query("mail.a.test", Kind::A);
    let bytes = respond(&query, |message| {
        message.add_answer(record("mail.a.test", 300, RData::A(A::new(192, 0, 2, 1))));
    });
    let changed = |index: usize, value: u8| {
        let mut changed = bytes.clone();
        changed[index] = value;
        changed
    };
    let read = |bytes: &[u8]| query.read(bytes, Transport::Udp);
    assert!(matches!(read(&bytes), Reading::Answered(_)));
    assert_eq!(read(&changed(0, 0x13)), Reading::Foreign, "another id");
    assert_eq!(read(&changed(2, 0x01)), Reading::Foreign, "a query");
    assert_eq!(read(&changed(13, b'x')), Reading::Foreign, "another name");
    assert_eq!(read(&changed(26, 28)), Reading::Foreign, "another type");
    assert_eq!(read(&changed(28, 3)), Reading::Foreign, "another class");
    assert_eq!(read(&changed(5, 2)), Reading::Foreign, "two questions");
    assert_eq!(read(&changed(5, 0)), Reading::Foreign, "no question");
    let other_case = changed(13, b'M');
    assert_eq!(read(&other_case), Reading::CaseLost);
    assert!(matches!(query.read(&other_case, Transport::Tcp), Reading::Answered(_)));
    assert_eq!(read(&[]), Reading::Foreign);
    // A type that differs by the bit of the case is another type.
    let other = Query::new(&name("a.test"), Kind::Other(0x41), true, &[0; 34]);
    let mut bytes = respond(&other, |_| {});
    bytes[12 + 8 + 1] ^= 0x20;
    assert_eq!(other.read(&bytes, Transport::Udp), Reading::Foreign);
    assert_eq!(RecordType::from(0x41), Kind::Other(0x41).record_type());
}

#[test]
fn the_ad_bit_is_passed_on() {
    let query = query("mail.a.test", Kind::A);
    for authenticated in [false, true] {
        let bytes = respond(&query, |message| {
            message.add_answer(record("mail.a.test", 300, RData::A(A::new(192, 0, 2, 1))));
            message.metadata.authentic_data = authenticated;
        });
        match query.read(&bytes, Transport::Udp) {
            Reading::Answered(response) => assert_eq!(response.authenticated, authenticated),
            other => panic!("{other:?}"),
        }
    }
}
