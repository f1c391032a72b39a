use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{self, RData};

use super::*;

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn lookup(upstreams: &[usize], attempts: u32) -> Lookup {
    Lookup::new(name("a.test"), Kind::A, upstreams.to_vec(), attempts)
}

fn next(lookup: &mut Lookup) -> Step {
    lookup.next(|_| true, &[0x5a; 34])
}

fn expect_ask(lookup: &mut Lookup, upstream: usize, transport: Transport) {
    match next(lookup) {
        Step::Ask { upstream: asked, transport: over } => {
            assert_eq!((asked, over), (upstream, transport));
        }
        Step::Done(outcome) => panic!("done: {outcome:?}"),
    }
}

fn expect_end(lookup: &mut Lookup) -> Outcome {
    match next(lookup) {
        Step::Done(outcome) => outcome,
        Step::Ask { upstream, .. } => panic!("asks {upstream}"),
    }
}

/// What an upstream makes of the query under way.
fn respond(lookup: &Lookup, fill: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::from_vec(lookup.query()).expect("a query").into_response();
    message.edns = None;
    fill(&mut message);
    message.to_vec().expect("fits")
}

fn address(message: &mut Message) {
    let owner = message.queries[0].name().clone();
    message.add_answer(rr::Record::from_rdata(owner, 60, RData::A(A::new(192, 0, 2, 1))));
}

fn alias(target: &'static str) -> impl FnOnce(&mut Message) {
    move |message| {
        let owner = message.queries[0].name().clone();
        let target = RData::CNAME(CNAME(rr::Name::from_ascii(target).expect("a name")));
        message.add_answer(rr::Record::from_rdata(owner, 30, target));
    }
}

fn code(code: ResponseCode) -> impl FnOnce(&mut Message) {
    move |message| message.metadata.response_code = code
}

/// Hands the answer of an upstream in.
fn hear(lookup: &mut Lookup, fill: impl FnOnce(&mut Message)) -> Heard {
    let message = respond(lookup, fill);
    lookup.handle(&message, false)
}

#[test]
fn silence_leads_to_the_next_upstream_and_to_another_round() {
    let mut it = lookup(&[1, 0], 2);
    for upstream in [1, 0, 1, 0] {
        expect_ask(&mut it, upstream, Transport::Udp);
        it.handle_no_answer();
    }
    assert_eq!(expect_end(&mut it).result, Err(LookupError::NoAnswer));
    let mut it = lookup(&[], 2);
    assert_eq!(expect_end(&mut it).result, Err(LookupError::NoAnswer));
    let mut it = lookup(&[0], 1);
    expect_ask(&mut it, 0, Transport::Udp);
    assert_eq!(hear(&mut it, address), Heard::Answer);
    let outcome = expect_end(&mut it);
    assert_eq!(outcome.ttl, 60);
    assert_eq!(outcome.result.map(|it| it.records.len()), Ok(1));
}

#[test]
fn an_upstream_that_fails_is_not_asked_again() {
    let mut it = lookup(&[0, 1, 2], 2);
    expect_ask(&mut it, 0, Transport::Udp);
    assert_eq!(hear(&mut it, code(ResponseCode::ServFail)), Heard::Answer);
    expect_ask(&mut it, 1, Transport::Udp);
    it.handle_no_answer();
    expect_ask(&mut it, 2, Transport::Udp);
    assert_eq!(hear(&mut it, code(ResponseCode::Refused)), Heard::Unfit);
    expect_ask(&mut it, 1, Transport::Udp);
    it.handle_no_answer();
    let outcome = expect_end(&mut it);
    assert_eq!(outcome.result, Err(LookupError::ServerFailure), "the weightiest of what was said");
    let mut it = lookup(&[0], 3);
    expect_ask(&mut it, 0, Transport::Udp);
    hear(&mut it, code(ResponseCode::Refused));
    assert_eq!(expect_end(&mut it).result, Err(LookupError::Refused));
}

#[test]
fn what_does_not_fit_or_may_be_forged_is_asked_over_tcp() {
    let mut it = lookup(&[0, 1], 1);
    expect_ask(&mut it, 0, Transport::Udp);
    hear(&mut it, |message| message.metadata.truncation = true);
    expect_ask(&mut it, 0, Transport::Tcp);
    assert_eq!(hear(&mut it, address), Heard::Answer);
    assert!(expect_end(&mut it).result.is_ok());
    let mut it = lookup(&[0, 1], 1);
    expect_ask(&mut it, 0, Transport::Udp);
    let mut message = respond(&it, address);
    message[13] ^= 0x20;
    assert_eq!(it.handle(&message, false), Heard::Answer, "the case of a letter is lost");
    expect_ask(&mut it, 0, Transport::Tcp);
    it.handle_no_answer();
    expect_ask(&mut it, 1, Transport::Udp);
    for count in 1..=FOREIGN_MAX {
        let mut guess = respond(&it, address);
        guess[1] ^= 1;
        let heard = it.handle(&guess, false);
        assert_eq!(heard == Heard::Nothing, count < FOREIGN_MAX);
    }
    expect_ask(&mut it, 1, Transport::Tcp);
    let mut other = respond(&it, address);
    other[1] ^= 1;
    assert_eq!(it.handle(&other, false), Heard::Unfit, "no answer to us over our own connection");
    assert_eq!(expect_end(&mut it).result, Err(LookupError::Malformed));
}

#[test]
fn edns_is_left_out_where_it_is_refused() {
    let edns = |it: &Lookup| Message::from_vec(it.query()).expect("a query").edns.is_some();
    let mut it = lookup(&[0], 1);
    expect_ask(&mut it, 0, Transport::Udp);
    assert!(edns(&it));
    assert_eq!(hear(&mut it, code(ResponseCode::FormErr)), Heard::EdnsRefused);
    expect_ask(&mut it, 0, Transport::Udp);
    assert!(!edns(&it));
    hear(&mut it, code(ResponseCode::FormErr));
    assert_eq!(expect_end(&mut it).result, Err(LookupError::Refused));
    let mut it = lookup(&[0], 1);
    expect_ask(&mut it, 0, Transport::Udp);
    let heard = hear(&mut it, |message| {
        message.metadata.response_code = ResponseCode::BADVERS;
        let mut edns = Edns::new();
        edns.set_rcode_high(1);
        message.set_edns(edns);
    });
    assert_eq!(heard, Heard::EdnsRefused);
    let mut it = lookup(&[0], 1);
    assert!(matches!(it.next(|_| false, &[0; 34]), Step::Ask { .. }));
    assert!(!edns(&it), "the upstream is known to refuse it");
}

#[test]
fn aliases_are_asked_for_in_turn_and_bounded() {
    let mut it = lookup(&[0], 1);
    for target in ["b.test.", "c.test."] {
        expect_ask(&mut it, 0, Transport::Udp);
        hear(&mut it, alias(target));
    }
    expect_ask(&mut it, 0, Transport::Udp);
    hear(&mut it, address);
    let outcome = expect_end(&mut it);
    assert_eq!(outcome.ttl, 30, "the least on the way");
    assert_eq!(outcome.result.map(|it| it.canonical), Ok(Some(name("c.test"))));
    let mut it = lookup(&[0], 1);
    let mut ask_count = 0;
    while let Step::Ask { .. } = next(&mut it) {
        hear(&mut it, alias("a.test."));
        ask_count += 1;
        assert!(ask_count <= DNS_ALIASES_MAX + 1);
    }
    // A loop in one message is seen at once; one name for another, for ever, by its length.
    let mut it = lookup(&[0], 1);
    let mut ask_count = 0;
    let outcome = loop {
        match next(&mut it) {
            Step::Ask { .. } => {
                hear(&mut it, alias(if ask_count % 2 == 0 { "b.test." } else { "a.test." }));
                ask_count += 1;
            }
            Step::Done(outcome) => break outcome,
        }
    };
    assert_eq!(outcome.result, Err(LookupError::Malformed));
    assert_eq!(ask_count, DNS_ALIASES_MAX + 1);
}

#[test]
fn denials_are_final() {
    let mut it = lookup(&[0, 1], 3);
    expect_ask(&mut it, 0, Transport::Udp);
    hear(&mut it, code(ResponseCode::NXDomain));
    assert_eq!(expect_end(&mut it).result, Err(LookupError::NoDomain));
    let mut it = lookup(&[0, 1], 3);
    expect_ask(&mut it, 0, Transport::Udp);
    hear(&mut it, |_| {});
    assert_eq!(expect_end(&mut it).result, Err(LookupError::NoData));
}

#[test]
fn authenticated_means_every_step_was_by_someone_trusted() {
    let check = |steps: &[(bool, bool)], expected: bool| {
        let mut it = lookup(&[0], 1);
        for (index, (trusted, bit)) in steps.iter().enumerate() {
            expect_ask(&mut it, 0, Transport::Udp);
            let message = respond(&it, |message| {
                if index + 1 < steps.len() {
                    alias("b.test.")(message);
                } else {
                    address(message);
                }
                message.metadata.authentic_data = *bit;
            });
            it.handle(&message, *trusted);
        }
        let answer = expect_end(&mut it).result.expect("records");
        assert_eq!(answer.authenticated, expected, "{steps:?}");
    };
    check(&[(true, true)], true);
    check(&[(false, true)], false);
    check(&[(true, false)], false);
    check(&[(true, true), (true, true)], true);
    check(&[(true, false), (true, true)], false);
}

#[test]
fn the_number_of_queries_has_a_bound() {
    let mut it = lookup(&[0, 1, 2, 3, 4, 5, 6, 7], 100);
    let mut ask_count = 0;
    while let Step::Ask { .. } = next(&mut it) {
        it.handle_no_answer();
        ask_count += 1;
    }
    assert_eq!(ask_count, DNS_TRIES_MAX);
}
