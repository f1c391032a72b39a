use std::net::SocketAddr;

use super::*;
use crate::mail::status;
use crate::routing::dane::Dane;
use crate::routing::mx::Host;

fn plan(host: &str) -> Plan {
    let host = Host {
        name: host.to_owned(),
        preference: 10,
        addresses: vec![SocketAddr::from(([192, 0, 2, 1], 25))],
        canonical: None,
        authenticated: false,
        dane: Dane::None,
    };
    Plan { roll_up_key: host.name.clone(), hosts: vec![host], authenticated: false }
}

fn found(host: &str, ttl_s: u64) -> Discovery {
    let (ttl, published) = (Duration::from_secs(ttl_s), Published::default());
    Discovery { result: Ok(plan(host)), published, ttl }
}

fn failed(code: u16, status: crate::mail::EnhancedStatusCode) -> Discovery {
    let result = Err(Reply::new(code, status, "no"));
    Discovery { result, published: Published::default(), ttl: Duration::ZERO }
}

fn mx(domain: &str) -> Question {
    Question::Mx(domain.into())
}

const WAIT: Duration = Duration::from_secs(20);

/// The place that an answer leads to.
fn to(answer: Answer) -> Option<String> {
    match answer {
        Answer::To { place: Place::Exchanges(hosts), .. } => Some(hosts.to_string()),
        _ => None,
    }
}

#[test]
fn a_domain_is_asked_for_once_and_believed_for_its_time() {
    let mut directory = Directory::default();
    let question = mx("a.test");
    assert_eq!(directory.find(&question, None, 0), Answer::Asked);
    assert_eq!(directory.find(&question, None, 1), Answer::Asked);
    let asking = directory.poll_asking().expect("a question");
    assert_eq!((&asking.question, directory.poll_asking()), (&question, None));
    directory.answer(&asking, found("mx.a.test", 300), WAIT, 100);
    let place = Place::Exchanges("mx.a.test".into());
    let answer = directory.find(&question, None, 200);
    let to = |place: &Place, until_ms| {
        let (place, published) = (place.clone(), Published::default());
        Answer::To { place, published, until_ms }
    };
    assert_eq!(answer, to(&place, 300_100));
    let known = directory.place(&question).map(|(place, _)| place);
    assert_eq!((directory.poll_asking(), known), (None, Some(place.clone())));
    assert_eq!(directory.plan(&place).map(|known| known.plan.hosts.len()), Some(1));
    // Past its time it is asked anew, and holds meanwhile.
    let answer = directory.find(&question, None, 300_100);
    assert_eq!(answer, to(&place, 305_100));
    let asking = directory.poll_asking().expect("a question");
    directory.answer(&asking, found("mx2.a.test", 0), WAIT, 300_200);
    let answer = directory.find(&question, None, 300_300);
    // However short the DNS says.
    assert_eq!(answer, to(&Place::Exchanges("mx2.a.test".into()), 330_200));
    // Long past its time nothing is known.
    assert_eq!(directory.find(&question, None, 330_200 + GRACE_MS), Answer::Asked);
}

#[test]
fn a_failure_of_the_dns_does_not_undo_what_was_found() {
    let mut directory = Directory::default();
    let question = mx("a.test");
    let mut ask = |discovery: Discovery, now_ms: u64| {
        let first = directory.find(&question, None, now_ms);
        if let Some(asking) = directory.poll_asking() {
            directory.answer(&asking, discovery, WAIT, now_ms);
        }
        (to(first), to(directory.find(&question, None, now_ms)))
    };
    let host = || Some("mx.a.test".to_owned());
    let servfail = || failed(451, status::DIRECTORY_FAILURE);
    assert_eq!(ask(servfail(), 0), (None, None));
    assert_eq!(ask(found("mx.a.test", 60), 20_000), (None, host()));
    assert_eq!(ask(servfail(), 80_000), (host(), host()));
    // Not asked again for a moment.
    assert_eq!(ask(failed(550, status::BAD_DESTINATION_SYSTEM), 81_000), (host(), host()));
    assert_eq!(ask(servfail(), 90_000), (host(), host()));
    assert_eq!(ask(servfail(), 80_000 + GRACE_MS), (None, None));
    // What is for good counts at once.
    assert_eq!(ask(found("mx.a.test", 60), 200_000), (None, host()));
    assert_eq!(ask(failed(556, status::NULL_MX), 260_000), (host(), None));
}

#[test]
fn a_refusal_is_believed_and_flows_are_handed_back() {
    let mut directory = Directory::default();
    let question = mx("gone.test");
    assert_eq!(directory.find(&question, None, 0), Answer::Asked);
    let asking = directory.poll_asking().expect("a question");
    let nobody = failed(550, status::BAD_DESTINATION_SYSTEM);
    directory.answer(&asking, nobody, WAIT, 5_000);
    let Answer::Refused(reply) = directory.find(&question, None, 34_999) else {
        panic!("it is refused")
    };
    assert_eq!((reply.code, directory.poll_asking()), (550, None));
    assert_eq!(directory.find(&question, None, 35_000), Answer::Asked);
    let asking = directory.poll_asking().expect("a question");
    directory.answer(&asking, failed(451, status::DIRECTORY_FAILURE), WAIT, 35_000);
    assert!(matches!(directory.find(&question, None, 54_999), Answer::Refused(_)));
    // An operator may not want to wait for that.
    directory.forget_refusals();
    assert_eq!(directory.find(&question, None, 54_999), Answer::Asked);
}

#[test]
fn a_name_in_the_configuration_that_leads_nowhere_fails_no_mail() {
    let mut directory = Directory::default();
    let host =
        Question::Host { protocol: NextHopProtocol::Smtp, host: "relay.test".into(), port: 587 };
    for question in [host, Question::MxOf("relay.test".into())] {
        directory.find(&question, None, 0);
        let asking = directory.poll_asking().expect("a question");
        directory.answer(&asking, failed(550, status::BAD_DESTINATION_SYSTEM), WAIT, 0);
        let Answer::Refused(reply) = directory.find(&question, None, 1) else {
            panic!("it is refused")
        };
        assert_eq!(reply.to_string(), "451 4.3.5 next hop relay.test: no");
    }
}

#[test]
fn only_so_many_are_asked_at_once_and_a_reload_forgets_them() {
    let mut directory = Directory::default();
    for number in 0..DISCOVERIES_MAX + 2 {
        directory.find(&mx(&format!("d{number}.test")), None, 0);
    }
    let asked: Vec<Asking> = std::iter::from_fn(|| directory.poll_asking()).collect();
    assert_eq!(asked.len(), DISCOVERIES_MAX);
    directory.answer(&asked[0], found("mx.test", 60), WAIT, 0);
    assert!(directory.poll_asking().is_some() && directory.poll_asking().is_none());
    directory.clear();
    assert_eq!(directory.find(&mx("d1.test"), None, 1), Answer::Asked);
    // What was asked before says nothing.
    directory.answer(&asked[1], found("mx.test", 60), WAIT, 2);
    assert_eq!(directory.find(&mx("d1.test"), None, 3), Answer::Asked);
    let asking = directory.poll_asking().expect("asked anew");
    directory.answer(&asking, found("mx.test", 60), WAIT, 4);
    assert!(matches!(directory.find(&mx("d1.test"), None, 5), Answer::To { .. }));
}

#[test]
fn memory_has_a_bound_and_what_is_over_is_forgotten() {
    let mut directory = Directory::default();
    let domains = DOMAINS_KNOWN_MAX + 5;
    for number in 0..domains {
        directory.find(&mx(&format!("d{number}.test")), None, 0);
        let asking = directory.poll_asking().expect("a question");
        directory.answer(&asking, found("mx.test", 60), WAIT, 0);
    }
    assert!(directory.entries.len() <= DOMAINS_KNOWN_MAX);
    directory.sweep(60_000 + GRACE_MS, |_| true);
    assert_eq!((directory.entries.len(), directory.plans.len()), (0, 1));
    directory.sweep(60_000 + GRACE_MS, |_| false);
    assert_eq!(directory.plans.len(), 0);
}
